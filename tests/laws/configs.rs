//! Configurations.

use std::collections::HashSet;
use std::path::Path;

use swiftiply::config::{Address, Config, Filter, Overrides};

/// Configurations: any text is either one that keeps its promises and is printed as another with the same meaning, or
/// has problems, each with its place.
pub(super) fn config(input: &[u8]) {
    // Files are read as UTF-8 before they get here. Key files and included ones would be opened.
    let text = match str::from_utf8(input) {
        Ok(text)
            if !text.contains("key_file") && !text.contains("include") && !text.contains("${") =>
        {
            text
        }
        _ => return,
    };
    let mut overrides = Overrides::default();
    overrides.directory = Some("/srv".into());
    let file = Path::new("s.yml");
    // All that ends a line in YAML.
    let lines = text.split(['\n', '\r', '\u{85}', '\u{2028}', '\u{2029}']);
    let lines = lines.count();
    let judge = |place: &Path, line: Option<usize>, shown: String| {
        assert_eq!(place, file);
        // The end of a text that is cut short is the line behind its last one.
        assert!(
            line.is_none_or(|line| (1..=lines + 1).contains(&line)),
            "line {line:?} of {lines}"
        );
        assert!(!shown.contains('\n'), "{shown}");
        let known = ["missing", "empty", "not a configuration"];
        assert!(
            line.is_some() || known.iter().any(|known| shown.contains(known)),
            "no line: {shown}"
        );
    };
    match Config::from_yaml(text, file, &overrides) {
        Err(problems) => {
            assert!(!problems.0.is_empty(), "refused without a problem: {text}");
            for problem in &problems.0 {
                judge(&problem.file, problem.line, problem.to_string());
            }
        }
        Ok((mut config, notes)) => {
            for note in notes {
                judge(&note.file, note.line, note.to_string());
            }
            judge_config(&config);
            let printed = config.to_yaml();
            let again = Config::from_yaml(&printed, file, &overrides);
            let (mut again, _) = again.unwrap_or_else(|problems| panic!("{printed}\n{problems}"));
            assert_eq!(again.to_yaml(), printed);
            // All addresses of a port may have been written as one; in which order they are bound is no matter.
            config.listen.sort();
            again.listen.sort();
            assert_eq!(format!("{again:?}"), format!("{config:?}"), "{printed}");
        }
    }
}

/// The promises of `config`: what holds for every configuration that was loaded.
fn judge_config(config: &Config) {
    assert!(!config.listen.is_empty(), "no address for clients");
    let sites = &config.sites;
    assert!(
        sites.iter().filter(|site| site.default).count() <= 1,
        "two sites are the default"
    );
    let mut names = HashSet::new();
    assert!(
        sites
            .iter()
            .flat_map(|site| &site.incoming)
            .all(|name| names.insert(name)),
        "two sites have the same name: {sites:?}"
    );
    let logs = sites.iter().filter_map(|site| site.logger.as_ref());
    let logs = logs.chain([&config.logger]).filter_map(|log| log.to.file());
    let access = sites.iter().map(|site| &site.access_log);
    let access = access
        .chain([&config.access_log])
        .flatten()
        .filter_map(|log| log.output.to.file());
    let others = [
        config.pidfile.as_deref(),
        Some(&*config.temporary_directory),
    ];
    let paths = logs.chain(access).chain(others.into_iter().flatten());
    assert!(
        paths.into_iter().all(Path::is_absolute),
        "a relative path in {config:?}"
    );
    for outgoing in sites.iter().flat_map(|site| &site.outgoing) {
        let any_port = matches!(outgoing.to, Address::Tcp { port: 0, .. });
        assert!(
            any_port || !config.listen.contains(&outgoing.to),
            "{:?} is for clients and for backends",
            outgoing.to
        );
        if let Address::Unix(path) = &outgoing.to {
            assert!(path.is_absolute(), "{} is relative", path.display());
        }
        if let Filter::Prefix(prefix) = &outgoing.filter {
            assert!(prefix.starts_with('/'), "{prefix} is no prefix of paths");
        }
    }
    for site in sites {
        assert!(
            site.default || !site.incoming.is_empty(),
            "a site without a name: {site:?}"
        );
        let fits = |key: &String| (1..=255).contains(&key.len());
        assert!(
            site.keys.iter().all(fits),
            "a key is empty or too long: {:?}",
            site.keys
        );
        let times = &site.timeouts;
        let all = [
            times.head,
            times.idle,
            times.body,
            times.write,
            times.first_byte,
            times.backend,
            times.preamble,
            times.connect,
            site.unframed_gap,
        ];
        assert!(
            all.iter().all(|time| time.as_millis() >= 1),
            "a time below 1 ms: {all:?}"
        );
    }
}
