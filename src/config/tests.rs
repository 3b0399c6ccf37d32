//! Whole configurations: what they mean, what is reported about wrong ones, and that nothing panics.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use super::*;
use crate::process;

/// Reads a text as the file `s.yml`.
fn load(text: &str) -> Result<(Config, Vec<Note>), Problems> {
    from(text, &Overrides::default())
}

fn from(text: &str, overrides: &Overrides) -> Result<(Config, Vec<Note>), Problems> {
    Config::from_yaml(text, Path::new("s.yml"), overrides)
}

/// Reads a text that has no problems.
fn config(text: &str) -> Config {
    load(text)
        .unwrap_or_else(|problems| panic!("{text}\n{problems}"))
        .0
}

/// Reads the keys of one entry.
fn site(keys: &str) -> SiteConfig {
    let text = format!(
        "cluster_port: 80\nmap:\n  - incoming: a.example\n    outgoing: 127.0.0.1:1\n    {keys}\n"
    );
    config(&text).sites.remove(0)
}

/// `problems.txt` and `problems_web.txt` have configurations, each followed by `>>>`, its report and `===`.
#[cfg(feature = "acme")]
#[test]
fn problems() {
    let files = [
        include_str!("problems.txt"),
        include_str!("problems_web.txt"),
    ];
    let cases: Vec<&str> = files.iter().flat_map(|file| file.split("===\n")).collect();
    assert!(cases.len() > 60, "{} cases", cases.len());
    for case in cases {
        let (text, expected) = case.split_once(">>>\n").expect("a case has two parts");
        let Err(problems) = load(text) else {
            panic!("no problem in\n{text}");
        };
        assert_eq!(format!("{problems}\n"), expected, "{text}");
    }
}

#[test]
fn problems_of_the_command_line() {
    let check = |text: &str, overrides: Overrides, expected: &str| {
        let result = match text {
            "" => Config::from_overrides(&overrides),
            text => from(text, &overrides),
        };
        let problems = result.expect_err("a problem");
        assert_eq!(problems.to_string(), expected);
    };
    let file =
        "cluster_port: 80\nmap:\n  - {incoming: a.example, outgoing: 127.0.0.1:1, default: true}\n";
    let base = Overrides {
        cluster_port: Some(80),
        ..Overrides::default()
    };
    check(
        file,
        Overrides {
            cluster_address: Some("a b".into()),
            ..base.clone()
        },
        "command line: cluster address \"a b\": not an address; write 0.0.0.0, :: or unix:/path",
    );
    check(
        file,
        Overrides {
            backend_port: Some(1),
            ..base.clone()
        },
        "command line: backend_port: already map[1] (a.example), line 3; write one default at most",
    );
    check(
        file,
        Overrides {
            backend_address: Some("::1".into()),
            ..base.clone()
        },
        "command line: backend address: no backend port",
    );
    check(
        "",
        Overrides {
            backend_address: Some("a b".into()),
            backend_port: Some(1),
            ..base.clone()
        },
        "command line: backend_address \"a b\": not an address; write 127.0.0.1 or ::1",
    );
    check(
        "",
        base,
        "command line: map: missing; write map: and a list of sites, - {incoming: example.com, outgoing: 127.0.0.1:30000}",
    );
    check(
        "",
        Overrides {
            backend_port: Some(1),
            ..Overrides::default()
        },
        "command line: cluster_port: missing; write cluster_port: 80",
    );
}

#[test]
fn files_that_cannot_be_read() {
    let directory = tempfile::tempdir().expect("a directory");
    let overrides = Overrides {
        directory: Some(directory.path().into()),
        ..Overrides::default()
    };
    let check = |bytes: &[u8], expected: &str| {
        fs::write(directory.path().join("s.yml"), bytes).expect("a file");
        let problems = Config::load(Path::new("s.yml"), &overrides).expect_err("a problem");
        assert_eq!(problems.to_string(), expected);
    };
    check(b"", "s.yml: empty; write at least cluster_port and map");
    check(b"a: 1\nb: \xff\n", "s.yml:2: not UTF-8");
    let load = |name: &str| {
        Config::load(Path::new(name), &overrides)
            .expect_err("a problem")
            .to_string()
    };
    assert_eq!(load("gone.yml"), "gone.yml: no such file or directory");
    assert_eq!(load("."), ".: a directory, not a file");
}

#[test]
fn references_to_files_and_to_the_environment() {
    let directory = tempfile::tempdir().expect("a directory");
    let overrides = Overrides {
        directory: Some(directory.path().into()),
        ..Overrides::default()
    };
    let write = |name: &str, text: &str| {
        fs::write(directory.path().join(name), text).expect("a file");
    };
    write("key", "very-secret\n");
    write("port", "8080");
    write(
        "a.yml",
        "incoming: b\noutgoing: ['127.0.0.1:2', '${UNSET_BY_ALL}']\n",
    );
    let text = "cluster_port: ${file:port}\nmap:\n  - incoming: a\n    outgoing: 127.0.0.1:1\n    key: ['${file:key}', 'x$${y}', 'a$$b$']\n    temporary: 1\n";
    let good = text.replace("    temporary: 1\n", "");
    let (config, _) = from(&good, &overrides).expect("no problem");
    assert_eq!(config.listen[0].to_string(), "0.0.0.0:8080");
    assert_eq!(config.sites[0].keys, ["very-secret", "x${y}", "a$$b$"]);
    let printed = config.to_yaml();
    assert!(!printed.contains("very-secret"), "{printed}");
    assert!(printed.contains("${file:key}"), "{printed}");
    let (again, _) = from(&printed, &overrides).expect("no problem");
    assert_eq!(format!("{:?}", again.sites), format!("{:?}", config.sites));
    let check = |text: &str, expected: &[&str]| {
        let problems = from(text, &overrides).expect_err("a problem").to_string();
        assert_eq!(problems.lines().collect::<Vec<_>>(), expected);
    };
    check(
        &format!(
            "{good}include: a.yml\nuser: ${{file:key}}\ndaemonize: x${{file:key}}\npidfile: ${{file:none}}\ngroup: ${{PATH\n"
        ),
        &[
            "s.yml:7: user \"${file:key}\": no such user",
            "s.yml:8: daemonize \"x${file:key}\": write true or false",
            "s.yml:9: pidfile \"${file:none}\": no such file or directory",
            "s.yml:10: group \"${PATH\": write ${NAME} or ${file:/path}, or $${ for a dollar and a brace",
            "s.yml:10: group \"${PATH\": no such group",
            "a.yml:2: site: outgoing \"${UNSET_BY_ALL}\": UNSET_BY_ALL is not set in the environment of the server",
            "a.yml:2: site (b): outgoing \"${UNSET_BY_ALL}\": no port; write ${UNSET_BY_ALL}:30000",
        ],
    );
}

#[test]
fn included_files() {
    let directory = tempfile::tempdir().expect("a directory");
    let overrides = Overrides {
        directory: Some(directory.path().into()),
        ..Overrides::default()
    };
    let write = |name: &str, text: &str| {
        let path = directory.path().join("etc").join(name);
        fs::create_dir_all(path.parent().expect("a directory")).expect("a directory");
        fs::write(path, text).expect("a file");
    };
    let load = || Config::load(Path::new("etc/s.yml"), &overrides);
    let reports = |expected: &[&str]| {
        let problems = load().expect_err("a problem").to_string();
        assert_eq!(problems.lines().collect::<Vec<_>>(), expected);
    };
    let main = "cluster_port: 80\ninclude: [conf.d/*.yml, none/*, more.yml]\ndefaults: {timeout: 7}\nmap:\n  - {incoming: a, outgoing: 127.0.0.1:1}\n";
    write("s.yml", main);
    reports(&["etc/s.yml:2: include \"more.yml\": no such file"]);
    write(
        "more.yml",
        "- {incoming: d, outgoing: 127.0.0.1:4}\n\n- {incoming: e, outgoing: 127.0.0.1:5}\n",
    );
    write(
        "conf.d/2.yml",
        "# A comment.\nincoming: c\noutgoing: 127.0.0.1:3\n",
    );
    write("conf.d/1.yml", "incoming: b\noutgoing: 127.0.0.1:2\n");
    for ignored in ["conf.d/1.yml~", "conf.d/.3.yml", "conf.d/x.yml/y"] {
        write(ignored, "a: [");
    }
    write("conf.d/empty.yml", "# Nothing.\n");
    let (config, notes) = load().expect("no problem");
    assert!(notes.is_empty(), "{notes:?}");
    let sites = config.sites.iter();
    let sites: Vec<_> = sites
        .map(|site| (site.name.as_str(), site.timeout.as_secs()))
        .collect();
    assert_eq!(sites, [("a", 7), ("b", 7), ("c", 7), ("d", 7), ("e", 7)]);
    write(
        "conf.d/1.yml",
        "incoming: [b, e, a]\noutgoin: 127.0.0.1:2\n",
    );
    write(
        "conf.d/2.yml",
        "# A comment.\nincoming: c\n\noutgoing: 127.0.0.1\n",
    );
    write("conf.d/3.yml", "x: 1\n  y: [\n");
    write("conf.d/4.yml", "only text");
    write(
        "more.yml",
        "- {incoming: d, outgoing: 127.0.0.1:4}\n\n- {incoming: e, outgoing: x}\n- 3\n",
    );
    let problems = load().expect_err("a problem").to_string();
    for expected in [
        "etc/conf.d/1.yml:1: site (b): incoming \"a\": also a name of map[1] (a), line 5; leave it out of one",
        "etc/conf.d/1.yml:1: site (b): no outgoing; write where backends dial in, outgoing: 127.0.0.1:30000",
        "etc/conf.d/1.yml:2: site (b): unknown key \"outgoin\"; did you mean \"outgoing\"?",
        "etc/conf.d/2.yml:4: site (c): outgoing \"127.0.0.1\": no port; write 127.0.0.1:30000",
        "etc/conf.d/4.yml: not a site; write {incoming: example.com, outgoing: 127.0.0.1:30000}",
        "etc/more.yml:3: site (e): incoming \"e\": also a name of site (b), etc/conf.d/1.yml:1; leave it out of one",
        "etc/more.yml:3: site (e): outgoing \"x\": no port; write x:30000",
        "etc/more.yml:4: site: 3: not a site; write {incoming: example.com, outgoing: 127.0.0.1:30000}",
    ] {
        assert!(
            problems.lines().any(|line| line == expected),
            "{expected}\n{problems}"
        );
    }
    assert!(
        problems.contains("etc/conf.d/3.yml:2: not YAML: "),
        "{problems}"
    );
    write(
        "s.yml",
        "cluster_port: 80\ninclude: [3, conf.*/x.yml, ..]\n",
    );
    reports(&[
        "etc/s.yml:2: include 3: no such file",
        "etc/s.yml:2: include \"conf.*/x.yml\": a pattern in the name of a directory; write it in the last part only",
        "etc/s.yml:2: include \"..\": not the name of a file; write for example conf.d/*.yml",
    ]);
}

#[test]
fn a_problem_is_one_line_whatever_the_value() {
    let text = "cluster_port: 80\nmap: [{incoming: a, outgoing: \"b\\nc\\e\"}]\n";
    let problems = load(text).expect_err("a problem");
    assert_eq!(
        problems.to_string(),
        r#"s.yml:2: map[1] (a): outgoing "b\nc\u{1b}": no port; write b\nc\u{1b}:30000"#
    );
}

#[test]
fn reports_end_with_their_count() {
    let check = |text: &str, expected: &str| {
        assert_eq!(load(text).expect_err("a problem").closing(), expected);
    };
    check("cluster_port: 80", "1 problem");
    check("workers: 0", "3 problems");
}

#[cfg(feature = "acme")]
#[test]
fn notes() {
    let check = |text: &str, expected: &[&str]| {
        let (_, notes) = load(text).unwrap_or_else(|problems| panic!("{problems}"));
        let notes: Vec<String> = notes.iter().map(Note::to_string).collect();
        assert_eq!(notes, expected, "{text}");
    };
    let top = |line: &str| format!("cluster_port: 80\nmap: []\n{line}\n");
    let site =
        |line: &str| format!("cluster_port: 80\nmap:\n  - incoming: a.example\n    {line}\n");
    check(&top("epoll: true"), &["s.yml:3: epoll: has no effect here"]);
    check(&top("x-common: &common {updates: 3}"), &[]);
    #[cfg(feature = "acme")]
    check(
        &top("acme: {ask: 'http://a/b'}"),
        &["s.yml:3: acme.ask: has no effect without a site with tls: on_demand"],
    );
    #[cfg(feature = "acme")]
    check(
        "acme: {ask: 'http://a'}\nmap: [{incoming: a.example, outgoing: '127.0.0.1:1', tls: on_demand}]\n",
        &[
            "s.yml:2: map[1] (a.example): tls: all names of the site are known, so on_demand does the same as auto",
        ],
    );
    // Who may dial in from elsewhere should have to prove something.
    let open = |address: &str| {
        format!(
            "s.yml:4: map[1] (a.example): outgoing {address}: WARNING: every process that reaches this address can dial in and \
             answer the site's requests; write a key, outgoing_ssl with client_ca, or a loopback address"
        )
    };
    for address in [
        "0.0.0.0:30000",
        "10.0.0.1:30000",
        "[::]:30000",
        "db.example:30000",
    ] {
        check(&site(&format!("outgoing: '{address}'")), &[&open(address)]);
        let tls = format!("outgoing: '{address}'\noutgoing_ssl: {{at: '{address}', certfile: c}}");
        check(&site(&tls), &[&open(address)]);
        let proven = format!("{tls}\n").replace("certfile: c", "certfile: c, client_ca: d");
        check(&site(&proven), &[]);
        check(&site(&format!("outgoing: '{address}'\n    key: x")), &[]);
    }
    for address in [
        "127.0.0.9:30000",
        "[::1]:30000",
        "localhost:30000",
        "unix:/s",
    ] {
        check(&site(&format!("outgoing: '{address}'")), &[]);
    }
    let refused = |bytes: u64| {
        format!(
            "limits.body: with request_buffering bodies of more than {bytes} bytes are refused, since one client may use an \
             eighth of limits.spool; write a larger one"
        )
    };
    check(
        &top("limits: {body: 129m}"),
        &[&format!("s.yml:3: {}", refused(128 << 20))],
    );
    check(
        &site("outgoing: 127.0.0.1:1\n    limits: {body: 2m}\nlimits: {spool: 8m}"),
        &[&format!(
            "s.yml:5: map[1] (a.example): {}",
            refused(1 << 20)
        )],
    );
    check(
        &top("limits: {body: 2m, spool: 8m, body_memory: 1025k}"),
        &[&format!("s.yml:3: {}", refused(1025 << 10))],
    );
    check(&top("limits: {body: 128m}"), &[]);
    check(&top("limits: {body: 1m, spool: 8m}"), &[]);
    check(&top("limits: {spool: 0}"), &[]);
    check(
        &top("logger: {level: loud}"),
        &[
            "s.yml:3: logger.level \"loud\": taken as minimal; write disabled, minimal, normal or full",
        ],
    );
    check(
        &top("logger: {type: Analogger, host: a, port: 1, level: 0}"),
        &["s.yml:3: logger.type \"Analogger\": not available yet, standard error is used"],
    );
    check(
        &top("logger: {type: stderr, file: a}"),
        &["s.yml:3: logger.file: has no effect without type: file"],
    );
    check(
        &site("docroot: /nonexistent"),
        &["s.yml:4: map[1] (a.example): docroot \"/nonexistent\": no such directory now"],
    );
    check(&site("docroot: /\n    outgoing: []"), &[]);
    check(
        &site("outgoing: 127.0.0.1:1\n    cache_extensions: html\n    etag_cache: {timeslice: 1}"),
        &[
            "s.yml:5: map[1] (a.example): cache_extensions: has no effect without docroot",
            "s.yml:6: map[1] (a.example): etag_cache.timeslice: has no effect here",
        ],
    );
    check(
        &site(
            "outgoing: []\n    clean_urls: true\n    intercept_errors: true\n    expires: 3\n    hsts: true",
        ),
        &[
            "s.yml:4: map[1] (a.example): outgoing: an empty list, so all requests get 503",
            "s.yml:5: map[1] (a.example): clean_urls: has no effect without docroot",
            "s.yml:6: map[1] (a.example): intercept_errors: has no effect without error_pages",
            "s.yml:7: map[1] (a.example): expires: has no effect without docroot",
            "s.yml:8: map[1] (a.example): hsts: has no effect without HTTPS",
        ],
    );
    check(
        &site("docroot: /\n    fallback: /none/such"),
        &["s.yml:5: map[1] (a.example): fallback \"/none/such\": no such file below docroot now"],
    );
    check(
        &site("outgoing: []"),
        &["s.yml:4: map[1] (a.example): outgoing: an empty list, so all requests get 503"],
    );
    check(
        &site("proxy: traditional\n    outgoing: 127.0.0.1:1\n    servers: []"),
        &[
            "s.yml:5: map[1] (a.example): outgoing: has no effect with proxy: traditional",
            "s.yml:6: map[1] (a.example): servers: an empty list, so all requests get 503",
        ],
    );
    check(
        &site("outgoing: 127.0.0.1:1\n    directory: static\n    check: {uri: /up}"),
        &[
            "s.yml:5: map[1] (a.example): directory: has no effect without proxy: traditional",
            "s.yml:6: map[1] (a.example): check: has no effect without proxy: traditional",
        ],
    );
    check(
        "cluster_port: 80\nmap:\n  - {incoming: a, outgoing: [127.0.0.1:1, 127.0.0.1:2]}\n  - incoming: b\n    outgoing:\n      - 127.0.0.1:3\n      - {to: 127.0.0.1:2, prefix: /x}\n      - 127.0.0.1:1\n",
        &[
            "s.yml:7: map[2] (b): outgoing 127.0.0.1:2: also the address of map[1] (a); its backends serve both",
            "s.yml:8: map[2] (b): outgoing 127.0.0.1:1: also the address of map[1] (a); its backends serve both",
        ],
    );
    check(
        "cluster_port: 80\ndefaults: {timeslice: 1}\nmap:\n  - {incoming: a, outgoing: 127.0.0.1:1, url: c}\n",
        &[
            "s.yml:2: defaults: timeslice: has no effect here",
            "s.yml:4: map[1] (a): url: has no effect here",
        ],
    );
}

#[test]
fn listening_addresses() {
    let check = |keys: &str, expected: &[&str]| {
        let config = config(&format!("{keys}\nmap: []\n"));
        let shown = |address: &Address| match address {
            Address::Tcp { implied: true, .. } => format!("({address})"),
            _ => address.to_string(),
        };
        assert_eq!(
            config.listen.iter().map(shown).collect::<Vec<_>>(),
            expected,
            "{keys}"
        );
    };
    check("cluster_port: 80", &["0.0.0.0:80", "([::]:80)"]);
    check("cluster_port: '80'", &["0.0.0.0:80", "([::]:80)"]);
    check(
        "cluster_port: 80
cluster_address: '*'",
        &["0.0.0.0:80", "([::]:80)"],
    );
    check(
        "cluster_port: [80, '81', 80]\ncluster_address: localhost",
        &["localhost:80", "localhost:81"],
    );
    check(
        "cluster_port: 80\ncluster_address: ['::', 127.0.0.1]",
        &["[::]:80", "127.0.0.1:80"],
    );
    check(
        "cluster_port: 80\ncluster_address: ['*', '::']",
        &["0.0.0.0:80", "[::]:80"],
    );
    check("cluster_address: 'unix:/s'", &["unix:/s"]);
    check(
        "cluster_port: 80\ncluster_address: ['unix:/s', a]",
        &["unix:/s", "a:80"],
    );
}

#[test]
fn site_of_the_command_line() {
    let site = |names: &[&str], servers: &[&str], files: Option<&str>| {
        let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        let overrides = Overrides {
            site: Some(CommandLineSite {
                names: texts(names),
                servers: texts(servers),
                files: files.map(str::to_owned),
            }),
            directory: Some("/srv".into()),
            ..Overrides::default()
        };
        Config::from_overrides(&overrides)
    };
    let (config, notes) = site(&["a.example", "b.example"], &["127.0.0.1:3000"], None).unwrap();
    assert!(notes.is_empty(), "{notes:?}");
    assert_eq!(config.listen[0].to_string(), "0.0.0.0:80");
    let one = &config.sites[0];
    assert_eq!(one.incoming, ["a.example", "b.example"]);
    let server = "127.0.0.1:3000".parse().unwrap();
    assert_eq!(one.directory, Some(DirectoryConfig::Static(vec![server])));
    let (config, _) = site(&[], &[], Some("public")).unwrap();
    assert_eq!(config.listen[0].to_string(), "0.0.0.0:8080");
    assert!(config.sites[0].default);
    assert_eq!(config.sites[0].docroot, Some("/srv/public".into()));
    let wrong = site(&["a b"], &["127.0.0.1:x"], None)
        .unwrap_err()
        .to_string();
    assert!(wrong.starts_with("command line: map[1]: "), "{wrong}");
    assert!(wrong.contains("servers \"127.0.0.1:x\": "), "{wrong}");
}

#[test]
fn the_command_line_goes_above_the_file() {
    let overrides = Overrides {
        cluster_address: Some("[::1]".into()),
        cluster_port: Some(81),
        backend_address: Some("::1".into()),
        backend_port: Some(0),
        site: None,
        daemonize: Some(true),
        timeout: Some(Duration::from_secs(7)),
        pidfile: Some("run/pid".into()),
        directory: Some("/srv".into()),
    };
    let text = "cluster_port: 80\ncluster_address: 127.0.0.1\ntimeout: 1\ndefaults: {key: secret}\nmap: [{incoming: a, outgoing: b:1}]\n";
    let (config, notes) = from(text, &overrides).expect("no problem");
    assert!(notes.is_empty(), "{notes:?}");
    assert_eq!(
        config.listen,
        [Address::Tcp {
            host: "::1".into(),
            port: 81,
            implied: false
        }]
    );
    assert!(config.daemonize);
    assert_eq!(config.pidfile, Some("/srv/run/pid".into()));
    assert_eq!(config.sites[0].timeout, Duration::from_secs(7));
    let last = &config.sites[1];
    assert_eq!(
        (last.name.as_str(), last.default, last.incoming.len()),
        ("default", true, 0)
    );
    assert_eq!(
        last.outgoing[0].to,
        Address::Tcp {
            host: "::1".into(),
            port: 0,
            implied: false
        }
    );
    assert_eq!(last.keys, ["secret"]);

    let alone = Overrides {
        cluster_port: Some(0),
        backend_port: Some(0),
        ..Overrides::default()
    };
    let (config, _) = Config::from_overrides(&alone).expect("no problem");
    assert_eq!(config.sites[0].outgoing[0].to.to_string(), "127.0.0.1:0");
    assert_eq!(config.sites[0].timeout, Duration::from_secs(10));
}

#[test]
fn defaults_are_copied_into_every_entry() {
    let config = config(
        "
cluster_port: 80
logger: {type: stderr, level: full}
timeouts: {idle: 10, write: 20, tunnel: 2m}
defaults:
  outgoing: 127.0.0.1:1
  keepalive: false
  logger: {type: file, file: /default.log}
  limits: {body: 1k, waiting: 1}
map:
  - {incoming: a, logger: {level: 2}, limits: {body: 2k}, timeouts: {idle: 11, tunnel: 7}, keepalive: true, max_tunnels: 9}
  - {incoming: b, outgoing: '[::1]:2', logger: ~}
",
    );
    let [a, b] = config.sites.as_slice() else {
        panic!("{config:?}")
    };
    let to = LogDestination::File("/default.log".into());
    assert_eq!(
        a.logger,
        Some(Logger {
            to,
            level: LogLevel::Normal
        })
    );
    assert_eq!(b.logger, None);
    assert_eq!((a.limits.body, a.limits.waiting), (2048, 1));
    assert_eq!((b.limits.body, b.limits.waiting), (1024, 1));
    assert_eq!(
        (a.timeouts.idle.as_secs(), a.timeouts.write.as_secs()),
        (11, 20)
    );
    assert_eq!((a.max_tunnels, b.max_tunnels), (9, 256));
    assert_eq!(
        (a.timeouts.tunnel.as_secs(), b.timeouts.tunnel.as_secs()),
        (7, 120)
    );
    assert_eq!(
        (a.keepalive, b.keepalive),
        (Some(Duration::from_secs(11)), None)
    );
    assert_eq!(a.outgoing[0].to.to_string(), "127.0.0.1:1");
    assert_eq!(b.outgoing[0].to.to_string(), "[::1]:2");
    assert_eq!(
        config.logger,
        Logger {
            to: LogDestination::Standard,
            level: LogLevel::Full
        }
    );
}

#[test]
fn aliases_and_merge_keys() {
    let config = config(
        "
cluster_port: 80
map:
  - &first {incoming: a, outgoing: 127.0.0.1:1, key: 007, timeout: 9}
  - &second {<<: *first, incoming: b}
  - {<<: *second, incoming: [c], timeout: 1}
",
    );
    let seen: Vec<_> = config
        .sites
        .iter()
        .map(|site| (site.name.as_str(), site.timeout.as_secs()))
        .collect();
    assert_eq!(seen, [("a", 9), ("b", 9), ("c", 1)]);
    assert!(config.sites.iter().all(|site| site.keys == ["007"]));
}

#[test]
fn keys_are_texts() {
    let check = |keys: &str, expected: &[&str]| assert_eq!(site(keys).keys, expected, "{keys}");
    check("via: true", &[]);
    check("key: secret", &["secret"]);
    check("key: 1234", &["1234"]);
    check("key: 0x1F", &["0x1F"]);
    check("key: 1234e56", &["1234e56"]);
    check(
        "key: [1.50, 'b', 99999999999999999999]",
        &["1.50", "b", "99999999999999999999"],
    );
    let longest = "k".repeat(255);
    check(&format!("key: {longest}"), &[&longest]);
    let text =
        format!("cluster_port: 80\nmap: [{{incoming: a, outgoing: b:1, key: {longest}k}}]\n");
    let problems = load(&text).expect_err("a problem").to_string();
    assert_eq!(problems, "s.yml:2: map[1] (a): key: longer than 255 bytes");
}

#[test]
fn a_byte_order_mark_is_no_part_of_the_text() {
    let text = "\u{feff}cluster_port: 80\nmap: [{incoming: a, outgoing: b:1}]\n";
    assert_eq!(config(text).sites[0].name, "a");
    // Only in front, and once.
    for wrong in [
        format!("\u{feff}{text}"),
        text.replace("map", "\u{feff}map"),
    ] {
        load(&wrong).expect_err("a key that does not exist");
    }
    let wrong = load(&text.replace("80", "x")).expect_err("no port");
    assert!(
        wrong.to_string().starts_with("s.yml:1: cluster_port"),
        "{wrong}"
    );
}

#[test]
fn keys_come_from_a_file() {
    let directory = tempfile::tempdir().expect("a directory");
    let overrides = Overrides {
        directory: Some(directory.path().into()),
        ..Overrides::default()
    };
    let check = |content: &str, expected: Result<&[&str], &str>| {
        fs::write(directory.path().join("keys"), content).expect("a file");
        let text = "cluster_port: 80\nmap: [{incoming: a, outgoing: b:1, key_file: keys}]\n";
        match (from(text, &overrides), expected) {
            (Ok((config, _)), Ok(keys)) => assert_eq!(config.sites[0].keys, keys),
            (Err(problems), Err(wrong)) => {
                assert_eq!(
                    problems.to_string(),
                    format!("s.yml:2: map[1] (a): key_file \"keys\": {wrong}")
                );
            }
            (result, _) => panic!("{content:?}: {result:?}"),
        }
    };
    check(" one \n\ntwo\r\n", Ok(&["one", "two"]));
    check("one", Ok(&["one"]));
    check("\u{feff}one\r\ntwo", Ok(&["one", "two"]));
    check("\u{feff}\n", Err("no key in it"));
    check("\n", Err("no key in it"));
    check(&"k".repeat(256), Err("a line is longer than 255 bytes"));
    check(&"k\n".repeat(1 << 20), Err("larger than 1m"));
}

#[cfg(feature = "gzip")]
#[test]
fn compression() {
    let check = |text: &str, expected: Option<(&[&str], u64, u32)>| {
        let text = format!("cluster_port: 80\nmap: [{{incoming: a, outgoing: b:1, {text}}}]");
        let config = config(&text);
        for config in [&config, &self::config(&config.to_yaml())] {
            let expected = expected.map(|(types, minimum, level)| GzipConfig {
                types: types.iter().map(ToString::to_string).collect(),
                minimum,
                level,
            });
            assert_eq!(config.sites[0].gzip, expected, "{text}");
        }
    };
    check("gzip: ~", None);
    check("gzip: off", None);
    let all = GzipConfig::default().types;
    let all: Vec<_> = all.iter().map(String::as_str).collect();
    check("gzip: true", Some((&all, 1024, 5)));
    check("gzip: {}", Some((&all, 1024, 5)));
    check(
        "gzip: {types: Text/*, minimum: 2k, level: 9}",
        Some((&["text/*"], 2048, 9)),
    );
}

#[test]
fn pages_of_a_site() {
    let directory = tempfile::tempdir().expect("a directory");
    let overrides = Overrides {
        directory: Some(directory.path().into()),
        ..Overrides::default()
    };
    fs::write(directory.path().join("page"), "").expect("a file");
    let text = "
cluster_port: 80
defaults: {error_pages: {404: page, 502: page}, maintenance_flag: down}
map: [{incoming: a, outgoing: b:1, maintenance_page: page, error_pages: {404: ~, 503: page}}]
";
    let (config, _) = from(text, &overrides).expect("no problem");
    let page = directory.path().join("page");
    for config in [&config, &self::config(&config.to_yaml())] {
        let site = &config.sites[0];
        let pages = BTreeMap::from([(502, page.clone()), (503, page.clone())]);
        assert_eq!(site.error_pages, pages);
        assert_eq!(site.maintenance_page.as_ref(), Some(&page));
        assert_eq!(site.maintenance_flag, Some(directory.path().join("down")));
    }
    fs::write(&page, "x".repeat((1 << 20) + 1)).expect("a file");
    let problems = from(text, &overrides).expect_err("too large").to_string();
    assert!(
        problems.contains("s.yml:4: map[1] (a): maintenance_page \"page\": larger than 1m\n"),
        "{problems}"
    );
}

#[test]
fn paths_that_ask_for_a_password() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("users");
    fs::write(&file, "").expect("a file");
    let file = file.display();
    type ExpectedRule<'a> = (&'a str, &'a [&'a str], bool);
    let check = |text: &str, expected: Result<&[ExpectedRule<'_>], &str>| {
        let text = format!(
            "cluster_port: 80\nmap:\n  - incoming: a\n    outgoing: b:1\n    basic_auth: {}\n",
            text.replace("FILE", &file.to_string())
        );
        match (load(&text), expected) {
            (Ok((config, _)), Ok(expected)) => {
                let printed = config.to_yaml();
                for config in [&config, &self::config(&printed)] {
                    let found = config.sites[0].basic_auth.iter();
                    let found = found
                        .map(|entry| (entry.realm.clone(), entry.paths.clone(), entry.forward));
                    let expected = expected.iter().map(|(realm, paths, forward)| {
                        let paths = paths.iter().map(ToString::to_string).collect();
                        (realm.to_string(), paths, *forward)
                    });
                    assert!(found.eq(expected), "{text}");
                }
            }
            (Err(problems), Err(wrong)) => {
                let expected = format!("s.yml:5: map[1] (a): basic_auth{wrong}");
                assert_eq!(problems.to_string(), expected);
            }
            (result, _) => panic!("{text}: {result:?}"),
        }
    };
    check("false", Ok(&[]));
    check("{users_file: FILE}", Ok(&[("Restricted", &["/"], false)]));
    check(
        "[{users_file: FILE, paths: [/a/, //a, /b], realm: r}, {users_file: FILE, paths: /c, forward: yes}]",
        Ok(&[("r", &["/a", "/b"], false), ("Restricted", &["/c"], true)]),
    );
    check(
        "{users_file: FILE, paths: [/a, /A]}",
        Ok(&[("Restricted", &["/a"], false)]),
    );
    check("", Err(" ~: no value; write false for none"));
    check("[]", Err(" [...]: an empty list; write false for none"));
    check(
        "true",
        Err(" true: write {users_file: /etc/swiftiply/users}, or false"),
    );
    check(
        "{realm: a}",
        Err(
            " {...}: no users_file; write the file that htpasswd made, users_file: /etc/swiftiply/users",
        ),
    );
    check(
        "{users_file: /nowhere}",
        Err(" {...}: users_file \"/nowhere\": no such file or directory"),
    );
    check(
        "{users_file: FILE, paths: []}",
        Err(" {...}: paths: an empty list; leave it out for all of the site"),
    );
    check(
        "{users_file: FILE, paths: admin}",
        Err(" {...}: paths \"admin\": a path begins with /; write \"/admin\""),
    );
    check(
        "{users_file: FILE, paths: /a/../b}",
        Err(" {...}: paths \"/a/../b\": a . or .. in it; write the path itself"),
    );
    check(
        "{users_file: FILE, paths: /a%20b}",
        Err(" {...}: paths \"/a%20b\": percent-encoded; write /a b"),
    );
    check(
        "{users_file: FILE, realm: \"a\\nb\"}",
        Err(" {...}: realm \"a\\nb\": a control character; write a few words"),
    );
    check(
        "{users_file: FILE, forward: maybe}",
        Err(" {...}: forward \"maybe\": write true or false"),
    );
    check(
        "[{users_file: FILE, paths: /a}, {users_file: FILE, paths: [/b, /a/]}]",
        Err(" {...}: duplicate path \"/a\"; write it in one entry"),
    );
    check(
        "{users_file: FILE, path: /a}",
        Err(": unknown key \"path\"; did you mean \"paths\"?"),
    );
}

#[test]
fn values_of_a_site() {
    let check = |keys: &str, right: fn(&SiteConfig) -> bool| assert!(right(&site(keys)), "{keys}");
    check("via: true", |site| {
        let base = SiteConfig::default();
        let same = format!(
            "{:?}",
            SiteConfig {
                name: base.name,
                incoming: vec![],
                outgoing: vec![],
                ..site.clone()
            }
        );
        same == format!("{:?}", SiteConfig::default())
    });
    check("retries: 0", |site| site.retries == 0);
    check("redeployable: 'true'", |site| site.redeployable);
    check("redeployment_sizelimit: 64k", |site| {
        site.redeployment_sizelimit == 65536
    });
    check("xforwardedfor: no", |site| !site.xforwardedfor);
    check("request_id: off", |site| {
        site.request_id == RequestIds::None
    });
    check("request_id: response", |site| {
        site.request_id == RequestIds::Response
    });
    check("underscores: true", |site| site.underscores);
    check("order: oldest", |site| site.order == Order::Oldest);
    check("keepalive: 5", |site| {
        site.keepalive == Some(Duration::from_secs(5))
    });
    check("keepalive: 0", |site| site.keepalive.is_none());
    check("unframed_gap: 0.25", |site| {
        site.unframed_gap == Duration::from_millis(250)
    });
    check("timeout: 0", |site| site.timeout.is_zero());
    check("access_log: '-'", |site| {
        site.access_log
            .as_ref()
            .is_some_and(|log| log.output.to == LogDestination::Standard)
    });
    check("access_log: {file: /a, format: json}", |site| {
        site.access_log
            == Some(AccessLogConfig {
                output: AccessLogOutput {
                    to: LogDestination::File("/a".into()),
                    format: AccessFormat::Json,
                },
                exclude: ExcludedRequests::default(),
            })
    });
    fn syslog(socket: &str, facility: &str) -> LogDestination {
        LogDestination::Syslog(SyslogConfig {
            socket: socket.into(),
            facility: facility.into(),
        })
    }
    check("access_log: {type: syslog, format: json}", |site| {
        let log = site.access_log.as_ref();
        log.is_some_and(|log| {
            log.output.to == syslog("/dev/log", "daemon") && log.output.format == AccessFormat::Json
        })
    });
    check(
        "logger: {type: Syslog, file: /run/log, facility: LOCAL7}",
        |site| {
            let to = syslog("/run/log", "local7");
            let level = LogLevel::Normal;
            site.logger == Some(Logger { to, level })
        },
    );
    check(
        "access_log: {file: /a, exclude: {paths: [/up, /assets/], agents: kube-probe}}",
        |site| {
            let exclude = ExcludedRequests {
                paths: vec!["/up".into(), "/assets/".into()],
                agents: vec!["kube-probe".into()],
            };
            let log = site.access_log.as_ref();
            log.is_some_and(|log| log.exclude == exclude)
        },
    );
    check("logger: {level: full}", |site| {
        site.logger
            == Some(Logger {
                to: LogDestination::Standard,
                level: LogLevel::Full,
            })
    });
    check("docroot: /x", |site| site.docroot == Some("/x".into()));
    check("index: [a.html, b]", |site| site.index == ["a.html", "b"]);
    check("index: false", |site| site.index.is_empty());
    check("index: []", |site| site.index.is_empty());
    check("follow_symlinks: yes", |site| {
        site.follow_symlinks == Symlinks::All
    });
    check("follow_symlinks: false", |site| {
        site.follow_symlinks == Symlinks::None
    });
    check("cache_directory: ./a//b/", |site| {
        let pages = site.page_cache.as_ref().unwrap();
        pages.directory == "a/b" && pages.extensions == ["html"]
    });
    check("cache_extensions: [.xml, json]", |site| {
        let pages = site.page_cache.as_ref().unwrap();
        pages.directory == "public" && pages.extensions == ["xml", "json"]
    });
    check("file_cache: {size: 7, memory: 1m}", |site| {
        let FileCache {
            cache,
            memory,
            largest,
        } = site.file_cache;
        let window = Duration::from_secs(1);
        (cache, memory, largest) == (CacheConfig { size: 7, window }, 1 << 20, 102_400)
    });
    check("dynamic_request_cache: {window: 0}", |site| {
        site.dynamic_request_cache.size == 100 && site.dynamic_request_cache.window.is_zero()
    });
    check("logger: {type: stderror}", |site| {
        site.logger
            == Some(Logger {
                to: LogDestination::Standard,
                level: LogLevel::Normal,
            })
    });
}

#[test]
fn defaults_of_the_machine() {
    let config = config("cluster_port: 80\nmap: []\n");
    assert_eq!(config.workers, defaults::default_workers());
    assert!((4..=4096).contains(&config.workers));
    let all = process::memory().expect("a system that says how much it has");
    assert_eq!(config.memory, (all / 4).max(1 << 20));
    let small = self::config("cluster_port: 80\nlimits: {memory: 3m}\nmap: []\n");
    assert_eq!(small.memory, 3 << 20);
}

#[test]
fn addresses_of_a_site() {
    let text = "cluster_port: 80
map:
  - incoming: a
    outgoing:
      - {to: 127.0.0.1:1, match: '^/x\\d+$'}
      - {to: 'unix:/s', prefix: /y}
      - 127.0.0.1:1
      - {to: 127.0.0.1:1}
";
    let config = config(text);
    let [one, two, three] = config.sites[0].outgoing.as_slice() else {
        panic!("{config:?}")
    };
    assert!(matches!(&one.filter, Filter::Match(expression) if expression.is_match(b"/x12")));
    assert!(matches!(&two.filter, Filter::Prefix(prefix) if prefix == "/y"));
    assert!(matches!(three.filter, Filter::Any));
    assert_eq!(two.to, Address::Unix("/s".into()));
}

#[test]
#[cfg(feature = "acme")]
fn certificates_on_demand() {
    // Names that are known, of a site that has it by default, are those of `auto`.
    let text = "acme: {ask: 'https://a/b?c=d', email: me@example.com}\ndefaults: {tls: on_demand}\nmap:\n\
                - {default: true, outgoing: 127.0.0.1:1}\n\
                - {incoming: ['*.a.example', b.example], outgoing: 127.0.0.1:2}\n\
                - {incoming: c.example, outgoing: 127.0.0.1:3}\n\
                - {incoming: d.example, outgoing: 127.0.0.1:4, tls: false}\n";
    let config = config(text);
    assert_eq!(config.acme.ask.as_deref(), Some("https://a/b?c=d"));
    for site in &config.sites[..3] {
        assert_eq!(site.tls, Some(SiteTls::OnDemand));
        assert!(site.redirect_to_https);
    }
    assert_eq!(config.sites[3].tls, None);
    let printed = config.to_yaml();
    let (again, _) = load(&printed).unwrap_or_else(|problems| panic!("{printed}\n{problems}"));
    assert_eq!(again.to_yaml(), printed);
    assert_eq!(again.acme, config.acme);
    // The authority issues no certificate for a name that is not public.
    let problems = load(&text.replace("c.example", "c.internal")).expect_err("a problem");
    assert!(
        problems.to_string().contains("write tls: internal"),
        "{problems}"
    );
}

#[cfg(feature = "tls")]
#[test]
fn sites_with_certificates_imply_ports() {
    let check = |lines: &str, listen: &[&str], secure: &[&str]| {
        let site = "map: [{incoming: a.example, outgoing: '127.0.0.1:30000', tls: auto}]";
        let text = format!("{lines}\n{site}\n");
        let (config, _) = load(&text).unwrap_or_else(|problems| panic!("{text}\n{problems}"));
        let shown = |all: &[Address]| all.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(shown(&config.listen), listen, "{text}");
        assert_eq!(shown(&config.secure), secure, "{text}");
        assert_eq!(config.sites[0].tls, Some(SiteTls::Auto));
        let printed = config.to_yaml();
        let (again, _) = load(&printed).unwrap_or_else(|problems| panic!("{printed}\n{problems}"));
        assert_eq!(again.to_yaml(), printed, "{text}");
        assert_eq!(again.listen, config.listen, "{printed}");
        assert_eq!(again.secure, config.secure, "{printed}");
        assert_eq!(again.acme, config.acme, "{printed}");
    };
    check(
        "acme: {email: me@example.com, eab: {kid: a, key: c2VjcmV0}, challenges: tls-alpn-01}",
        &["0.0.0.0:80", "[::]:80", "0.0.0.0:443", "[::]:443"],
        &["0.0.0.0:443", "[::]:443"],
    );
    check(
        "cluster_address: 127.0.0.1\ncluster_port: 8080",
        &["127.0.0.1:8080", "127.0.0.1:443"],
        &["127.0.0.1:443"],
    );
    check(
        "cluster_port: [80, 443]\ndefaults: {tls: internal}",
        &["0.0.0.0:80", "[::]:80", "0.0.0.0:443", "[::]:443"],
        &["0.0.0.0:443", "[::]:443"],
    );
    check(
        "ssl: {at: '127.0.0.1:8443'}",
        &["127.0.0.1:8443"],
        &["127.0.0.1:8443"],
    );
    check(
        "cluster_address: 127.0.0.1\ncluster_port: 80\nssl: {at: '127.0.0.1:81'}",
        &["127.0.0.1:80", "127.0.0.1:81"],
        &["127.0.0.1:81"],
    );
}

#[cfg(all(feature = "acme", feature = "redis"))]
#[test]
fn challenges_are_shared_where_the_directory_is() {
    let check = |acme: &str, sites: &str, expected: Option<&str>| {
        let site = "{incoming: a.example, outgoing: '127.0.0.1:30000', tls: auto}";
        let text = format!("acme: {acme}\nmap: [{site}, {sites}]\n");
        let check = |text: &str| {
            let (config, _) = load(text).unwrap_or_else(|problems| panic!("{text}\n{problems}"));
            let redis = config.challenge_redis();
            let at = redis.map(|redis| format!("{} {}", redis.hosts[0], redis.db));
            assert_eq!(at.as_deref(), expected, "{text}");
            config.to_yaml()
        };
        let printed = check(&text);
        assert_eq!(check(&printed), printed);
    };
    let list = |name: &str, keys: &str| {
        format!("{{incoming: {name}, proxy: traditional, directory: redis, servers: {{{keys}}}}}")
    };
    let one = list("b", "db: 3, lease: 5");
    let same = format!("{one}, {}", list("c", "db: 3, lease: 6"));
    let two = format!("{one}, {}", list("c", "db: 4"));
    let own = "{redis: {host: 10.0.0.5, password: 'x'}}";
    check("~", "", None);
    check("~", &one, Some("127.0.0.1:6379 3"));
    check("~", &same, Some("127.0.0.1:6379 3"));
    check("~", &two, None);
    check("{redis: false}", &one, None);
    check(own, "", Some("10.0.0.5:6379 0"));
    check(own, &two, Some("10.0.0.5:6379 0"));
    let (config, _) = load(&format!("acme: {own}\ncluster_port: 80\nmap: [{one}]\n")).unwrap();
    assert_eq!(
        config.challenge_redis(),
        None,
        "there is nothing to validate"
    );
}

#[cfg(feature = "tls")]
#[test]
fn certificates() {
    let check = |lines: &str, listen: &[&str], ssl: &[&str]| {
        let text = format!("{lines}\nmap: []\n");
        let (config, _) = load(&text).unwrap_or_else(|problems| panic!("{text}\n{problems}"));
        let shown = |address: &Address| match address {
            Address::Tcp { implied: true, .. } => format!("({address})"),
            _ => address.to_string(),
        };
        let listens: Vec<_> = config.listen.iter().map(shown).collect();
        assert_eq!(listens, listen, "{text}");
        let certificates = config.ssl.iter().map(|tls| {
            let file = |path: &Path| path.file_name().unwrap().to_string_lossy().into_owned();
            format!(
                "{} {} {}",
                shown(&tls.at),
                file(&tls.certfile),
                file(&tls.keyfile)
            )
        });
        assert_eq!(certificates.collect::<Vec<_>>(), ssl, "{text}");
        let printed = config.to_yaml();
        let (again, _) = load(&printed).unwrap_or_else(|problems| panic!("{printed}\n{problems}"));
        assert_eq!(again.to_yaml(), printed, "{text}");
        assert_eq!(again.ssl, config.ssl, "{printed}");
    };
    check(
        "ssl: {at: 'a:443', certfile: c, keyfile: k}",
        &["a:443"],
        &["a:443 c k"],
    );
    check(
        "ssl: [{at: '[::1]:443', certfile: c}]",
        &["[::1]:443"],
        &["[::1]:443 c c"],
    );
    check(
        "cluster_port: [80, 443]\nssl: {at: '0.0.0.0:443', certfile: c}",
        &["0.0.0.0:80", "([::]:80)", "0.0.0.0:443", "([::]:443)"],
        &["0.0.0.0:443 c c", "([::]:443) c c"],
    );
    check(
        "cluster_port: 80\nssl:\n  - {at: '*:443', certfile: c}\n  - {at: '*:443', certfile: d}",
        &["0.0.0.0:80", "([::]:80)", "0.0.0.0:443", "([::]:443)"],
        &[
            "0.0.0.0:443 c c",
            "([::]:443) c c",
            "0.0.0.0:443 d d",
            "([::]:443) d d",
        ],
    );
    check(
        "cluster_address: [127.0.0.1, 127.0.0.2]\ncluster_port: 80\nssl: {at: '127.0.0.2:80', certfile: c}",
        &["127.0.0.1:80", "127.0.0.2:80"],
        &["127.0.0.2:80 c c"],
    );
}

#[test]
fn printing_and_loading_is_stable() {
    let check = |text: &str| {
        let config = config(text);
        let printed = config.to_yaml();
        let (again, _) = load(&printed).unwrap_or_else(|problems| panic!("{printed}\n{problems}"));
        assert_eq!(again.to_yaml(), printed, "{text}");
        // A path's text is all that Debug has of a regular expression, so this compares every field.
        assert_eq!(format!("{again:?}"), format!("{config:?}"), "{text}");
    };
    check(&conf("swiftiply.yml"));
    check(&conf("minimal.yml"));
    check("cluster_port: 80\nmap: []\naccess_log: '-'\nhealth_check_uri: false\n");
    check(
        "cluster_port: 80\ntrusted_proxies: 10.0.0.1\ndefaults: {hsts: true, redirect: /x}\nmap:\n  - {incoming: a, redirect: {from: '/ä*', host: a, to: 'https://b/', status: 307}, outgoing: []}\n  - {incoming: b, redirect_to_https: true, hsts: {max_age: 300, subdomains: true}, redirect: 'https://a'}\n",
    );
    check(
        "cluster_port: 80\nmap:\n  - {incoming: a, docroot: /, outgoing: [], response_headers: [secure, {paths: [/a, /b], set: {A: 'b: ''c', X: 1}, add: {B: c, C: [d, e]}, remove: F}], expires: [hashed, 3m, {time: 0, types: [text/*], paths: /x, hashed: true, immutable: false}], cors: ['https://a:1', 'http://b']}\n  - {incoming: b, docroot: /, cors: {origins: '*', paths: /x, methods: GET, headers: [A, B], expose: C, max_age: 7}}\n",
    );
    check(
        "cluster_port: 80\nmap: [{incoming: a, docroot: /, fallback: /etc/passwd, clean_urls: true, autoindex: true, error_pages: {404: /etc/passwd}, intercept_errors: true}]\n",
    );
    check(
        "cluster_address: ['unix:/s', '::1']\ncluster_port: [0, 1]\nbackend_port: 2\nbackend_address: ::1\n",
    );
    check("cluster_address: [127.0.0.1, '*']\ncluster_port: [80, 81]\nmap: []\n");
    check(
        "cluster_port: 80\ncache_threshold: 5k\nmap: [{incoming: a, docroot: x, request_id: response, sendfileroot: y, enable_sendfile_404: true, cache_directory: p, staticmask: 'a: \"#', index: [], follow_symlinks: true, hidden_files: true, file_cache: {size: 1, window: 2, memory: 3}, etag_cache: {size: 0}, dynamic_request_cache: {window: 0.5}}]\n",
    );
    check(
        "cluster_port: 80\nlogger: {type: syslog, facility: user}\naccess_log: {type: syslog, format: json, exclude: {paths: /a, agents: [b, c]}}\nmap: [{incoming: b, outgoing: c:1, logger: {type: syslog, file: /x}, access_log: {file: '-', exclude: {agents: d}}}]\n",
    );
    check(
        "cluster_port: 80\naccess_log: /a\nmap: [{incoming: [a, '::1'], outgoing: [{to: b:1, match: 'a: \"#'}, {to: b:2, prefix: /é}], access_log: off}]\n",
    );
    check(
        "cluster_port: 80\nmap: [{incoming: [a, b], proxy: traditional, servers: [c, 'd:3000', 'http://[::1]:81/', 'unix:/s'], check: {uri: '/up?x'}, send_proxy: v2, backup: d, queue_time: false, request_id: false, underscores: true}, {incoming: [c, d], proxy: traditional, server_connections: 3, servers: e, lookup_interval: 5, timeouts: {connect: 1}}]\n",
    );
    check(
        "cluster_port: 80\nmap: [{incoming: a, docroot: /w, outgoing: ['fastcgi:unix:/s', 'fastcgi://h:9'], lookup_interval: 500ms, fastcgi_root: /x, fastcgi_params: {A: 'b'}, server_connections: 3}, {incoming: b, docroot: /w, fallback: false, outgoing: 'fastcgi:h:9'}, {incoming: c, docroot: /w, fallback: /i.html, index: a.php, outgoing: 'fastcgi:h:9'}]\n",
    );
    check(
        "cluster_port: 80\ndefaults: {order: newest, routes: {match: /, outgoing: z:1}}\nmap: [{incoming: [a, b], timeout: 3, timeouts: {connect: 2}, limits: {waiting: 4}, routes: [{match: /api/, outgoing: [x:1, {to: x:2, prefix: /api/v}], key: k, strip: true, order: oldest}, {match: /ä, outgoing: 'http://y:1', rewrite: /b/, timeout: 5, timeouts: {backend: 7}, limits: {waiting: 8}, server_connections: 9, check: {uri: /up}}]}, {default: true, docroot: /}]\n",
    );
    #[cfg(feature = "tls")]
    check(
        "cluster_port: 80\nmap: [{incoming: a, outgoing: ['https://x', 'http://y:1'], server_tls: {ca: /c, server_name: '::1', certfile: /d}}, {incoming: b, outgoing: 'https://x', server_tls: {insecure_skip_verify: true}}, {incoming: d, outgoing: 'https://x', server_tls: {fingerprint: '0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef'}}, {incoming: c, outgoing: 'https://x'}]\n",
    );
    #[cfg(feature = "redis")]
    check(
        "cluster_port: 80\nmap: [{incoming: a, proxy: traditional, directory: redis, servers: {host: '::1', db: 3, password: '1', lease: 500s}}, {incoming: b, proxy: traditional, directory: redis}, {incoming: c, proxy: traditional, directory: redis, servers: {host: [a, '[::1]:7'], sentinel: m}}]\n",
    );
    check("cluster_port: 80\nstatus: {at: '0.0.0.0:8081', key: 0123}\nmap: []\n");
    check("cluster_port: 80\nstatus: {at: 'unix:/s'}\nmap: []\n");
    check("cluster_port: 80\nmap: [{incoming: a, outgoing: [], key: [0123, yes, '~', '', ' x', \"a\\nb\"]}]\n".replace("'', ", "").as_str());
    check(
        "cluster_port: [80, 81]\nrate_limit: {rate: 30/m}\nproxy_protocol: [10.0.0.0/8, {from: ['::1', 'unix:'], at: ['*:80']}]\nallow: [10.1.2.3/8, '::ffff:10.0.0.0/104', 'unix:']\ndeny: 10.9.9.9\nmap: [{incoming: a, docroot: /, allow: [all, {networks: ['::1', all], paths: [/a, /b]}, 1.2.3.4], deny: {networks: 10.0.0.0/8, paths: /a/c}}, {incoming: b, docroot: /, deny: false, rate_limit: {rate: 100, burst: 7}}]\n",
    );
    check(
        "cluster_port: 80\ntrusted_proxies: [10.1.2.3/8, '::1']\nclient_address_field: CF-Connecting-IP\ntimeouts: {head: 0.5, idle: 1.5m}\nlimits: {body: 3k, memory: 5m}\nlogger: {type: file, file: a}\nuser: 1000\nmap: []\n",
    );
}

#[test]
fn servers_that_are_connected_to() {
    let servers = |keys: &str| {
        let text = format!(
            "cluster_port: 8080\nmap: [{{incoming: a, proxy: traditional, servers: {keys}}}]\n"
        );
        match config(&text).sites.remove(0).directory {
            Some(DirectoryConfig::Static(servers)) => {
                let shown: Vec<_> = servers.iter().map(ToString::to_string).collect();
                shown.join(" ")
            }
            other => panic!("{other:?}"),
        }
    };
    let check = |typed: &str, expected: &str| assert_eq!(servers(typed), expected, "{typed}");
    check("127.0.0.1:3000", "127.0.0.1:3000");
    check("'http://127.0.0.1:3000'", "127.0.0.1:3000");
    check("'http://App.example/'", "app.example:80");
    check("[app, 'app:80', '10.0.0.1']", "app:80 10.0.0.1:80");
    check("['[::1]', '[0::1]:81']", "[::1]:80 [::1]:81");
    check("unix:/run/app.sock", "unix:/run/app.sock");
    #[cfg(feature = "tls")]
    check(
        "['https://A', 'https://[::1]/', 'https://b:8443']",
        "https://a:443 https://[::1]:443 https://b:8443",
    );
    check("[]", "");
}

#[test]
fn clients_by_network() {
    let shown = |rules: &[ClientRule]| {
        let rules = rules.iter().map(|rule| {
            let networks: Vec<_> = rule.networks.iter().map(ToString::to_string).collect();
            format!("{} at {}", networks.join(","), rule.paths.join(","))
        });
        rules.collect::<Vec<_>>().join("; ")
    };
    let text = "cluster_port: 80\nallow: 10.1.2.3\ndefaults: {deny: all}\nmap:\n  - incoming: a\n    docroot: /\n    \
        allow: ['::ffff:10.0.0.0/104', {networks: all, paths: [/b/, //c/]}, 'unix:', {networks: '::1', paths: [/b, /c]}]\n  \
        - {incoming: b, docroot: /, deny: no}\n";
    let config = config(text);
    assert_eq!(shown(&config.allow), "10.1.2.3/32 at /");
    let [first, second] = &*config.sites else {
        panic!("two sites");
    };
    let expected = "10.0.0.0/8,unix: at /; all,::1/128 at /b,/c";
    assert_eq!(shown(&first.allow), expected);
    assert_eq!(shown(&first.deny), "all at /");
    assert_eq!(shown(&second.deny), "");
}

#[test]
fn rates() {
    let rate = |typed: &str| {
        let site = site(&format!("rate_limit: {typed}"));
        site.rate_limit
            .map(|limit| (limit.requests, limit.seconds, limit.burst))
    };
    assert_eq!(rate("{rate: 10}"), Some((10, 1, 10)));
    assert_eq!(rate("{rate: 10/s, burst: 3}"), Some((10, 1, 3)));
    assert_eq!(rate("{rate: 90/m}"), Some((90, 60, 2)));
    assert_eq!(rate("{rate: 5/h, burst: 5}"), Some((5, 3600, 5)));
    assert_eq!(rate("{rate: 1/h}"), Some((1, 3600, 1)));
    assert_eq!(rate("false"), None);
}

#[test]
fn fastcgi_servers() {
    let unix = ServerConfig::fastcgi(Address::Unix("/s.sock".into()));
    let tcp = |host: &str| {
        ServerConfig::fastcgi(Address::Tcp {
            host: host.into(),
            port: 9000,
            implied: false,
        })
    };
    let check = |keys: &str, expected: &[ServerConfig]| {
        let text = format!("cluster_port: 80\nmap: [{{incoming: a, docroot: /, {keys}}}]\n");
        let site = config(&text).sites.remove(0);
        let servers = DirectoryConfig::Static(expected.to_vec());
        assert_eq!(site.directory, Some(servers), "{keys}");
        assert!(site.fastcgi.is_some() && site.outgoing.is_empty());
        assert_eq!(site.index, ["index.php", "index.html"]);
        assert_eq!(site.fallback.as_deref(), Some("/index.php"));
    };
    check(
        "outgoing: 'fastcgi:unix:/s.sock'",
        std::slice::from_ref(&unix),
    );
    check("outgoing: fastcgi:php:9000", &[tcp("php")]);
    check("outgoing: 'fastcgi://[::1]:9000/'", &[tcp("::1")]);
    let both = &[unix, tcp("127.0.0.1")];
    check(
        "outgoing: ['fastcgi:unix:/s.sock', 'fastcgi://127.0.0.1:9000', 'fastcgi:unix:/s.sock']",
        both,
    );
    check(
        "proxy: traditional, servers: ['fastcgi:unix:/s.sock', 'fastcgi://127.0.0.1:9000']",
        both,
    );
    let has_servers = |keys: &str| site(keys).fastcgi.is_some();
    assert!(!has_servers("server_connections: 3"));
    assert!(!has_servers(
        "proxy: traditional\n    servers: unix:/s.sock"
    ));
}

#[test]
fn backups() {
    let text = "cluster_port: 80\nmap: [{incoming: [a, b], outgoing: x:1, backup: D}, {incoming: [c, d], outgoing: x:2}]\n";
    let sites = config(text).sites;
    assert_eq!(sites[0].backup.as_deref(), Some("c"));
    assert_eq!(sites[1].backup, None);
}

#[test]
fn routes_are_sites_behind_those_of_the_file() {
    let text = "cluster_port: 80\nmap: [{incoming: a, outgoing: x:1, timeout: 3, key: k, basic_auth: false, order: oldest, timeouts: {backend: 5}, routes: [{match: /api/, outgoing: x:2, strip: true}, {match: /b, outgoing: 'http://y', rewrite: /c/, timeout: 4, server_connections: 2}]}, {incoming: b, routes: {match: /, outgoing: x:3}}]\n";
    let sites = config(text).sites;
    let names: Vec<_> = sites.iter().map(|site| site.name.as_str()).collect();
    assert_eq!(names, ["a", "b", "a/api", "a/b", "b/"]);
    let route = |index: usize| {
        let route = sites[index].route.as_ref().expect("a route");
        (
            route.site.as_str(),
            route.prefix.as_str(),
            route.rewrite.as_deref(),
        )
    };
    assert_eq!(route(2), ("a", "/api", Some("/")));
    assert_eq!(route(3), ("a", "/b", Some("/c")));
    assert_eq!(route(4), ("b", "/", None));
    let api = &sites[2];
    assert!(api.incoming.is_empty() && api.keys.is_empty() && !api.default);
    assert_eq!(api.outgoing[0].to.to_string(), "x:2");
    assert_eq!(
        (api.timeout.as_secs(), api.timeouts.backend.as_secs()),
        (3, 5)
    );
    assert_eq!((api.order, sites[4].order), (Order::Oldest, Order::Least));
    assert_eq!(
        (sites[3].timeout.as_secs(), sites[3].server_connections),
        (4, 2)
    );
    // A site with routes needs no backends of its own.
    assert!(sites[1].outgoing.is_empty());
    // What the site says of servers is for those of its routes, although its own backends dial in.
    let text = "cluster_port: 80\nmap: [{incoming: a, outgoing: x:1, server_connections: 7, lookup_interval: 9, routes: [{match: /b, outgoing: 'http://y'}, {match: /c, outgoing: 'http://y', server_connections: 2, lookup_interval: 3}, {match: /d, outgoing: x:2}]}]\n";
    let sites = config(text).sites;
    let of_servers = |site: &SiteConfig| (site.server_connections, site.lookup_interval.as_secs());
    let own: Vec<_> = sites.iter().map(of_servers).collect();
    assert_eq!(own, [(64, 30), (7, 9), (2, 3), (64, 30)]);
    // A value that is wrong is reported once.
    let wrong = "cluster_port: 80\nmap:\n - incoming: a\n   lookup_interval: 0\n   routes: [{match: /b, outgoing: 'http://y'}]\n";
    let problems = load(wrong).expect_err("a problem");
    assert_eq!(
        problems.to_string(),
        "s.yml:4: map[1] (a): lookup_interval 0: write at least 1ms"
    );
}

#[test]
fn samples_load_without_notes() {
    let files = fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/conf")).expect("conf");
    let mut count = 0;
    for file in files {
        let path = file.expect("a name").path();
        if path.extension().is_none_or(|extension| extension != "yml") {
            continue;
        }
        let notes = match path.ends_with("swiftiply-access.yml") {
            true => access::AccessConfig::load(Some(&path), &access::AccessOverrides::default())
                .map(|(_, notes)| notes),
            false => Config::load(&path, &Overrides::default()).map(|(_, notes)| notes),
        };
        let notes = notes.unwrap_or_else(|problems| panic!("{problems}"));
        assert!(notes.is_empty(), "{notes:?}");
        count += 1;
    }
    assert!(count >= 3);
}

#[cfg(feature = "acme")]
#[test]
fn examples_of_the_manual_load_without_notes() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/man/swiftiply.yml.5");
    let manual = fs::read_to_string(file).expect("the manual page");
    let mut count = 0;
    for block in manual.split(".Bd -literal -offset indent\n").skip(1) {
        let text = block.split(".Ed\n").next().unwrap_or_default();
        // The others show a part.
        if !text.contains("\nmap:") {
            continue;
        }
        let (_, mut notes) = load(text).unwrap_or_else(|problems| panic!("{text}\n{problems}"));
        // Not on every machine.
        notes.retain(|note| !note.message.ends_with("no such directory now"));
        assert!(notes.is_empty(), "{text}\n{notes:?}");
        count += 1;
    }
    assert_eq!(count, 12);
}

#[test]
fn no_text_makes_it_panic() {
    let check = |text: &str| {
        if let Err(problems) = load(text) {
            assert!(!problems.0.is_empty(), "{text}");
        }
    };
    let full = format!("{}{}", conf("swiftiply.yml"), MORE);
    config(&full);
    // Every beginning, without comments to keep it short.
    let lines = || {
        full.lines()
            .filter(|line| !line.is_empty() && !line.starts_with('#'))
    };
    let short: String = lines().map(|line| format!("{line}\n")).collect();
    for (end, _) in short.char_indices() {
        check(&short[..end]);
    }
    let lines: Vec<&str> = lines().collect();
    for (index, line) in lines.iter().enumerate() {
        let with = |replaced: &str| {
            let mut lines = lines.clone();
            lines[index] = replaced;
            lines.join("\n")
        };
        check(&with(""));
        check(&with(line.trim_start()));
        for (at, _) in line.match_indices([':', ',', '[', '{', ' ']) {
            for value in VALUES {
                check(&with(&format!("{} {value}", &line[..=at])));
            }
        }
    }
    // Every byte of a short one replaced by every sign with a meaning.
    let minimal = conf("minimal.yml");
    for (at, letter) in minimal.char_indices() {
        for sign in "\t\n\0-?:,[]{}#&*!|>'\"%@`<~é\u{2028}".chars() {
            check(&format!(
                "{}{sign}{}",
                &minimal[..at],
                &minimal[at + letter.len_utf8()..]
            ));
        }
    }
    check(&"[".repeat(10_000));
    check(&format!("map: {}", "- ".repeat(10_000)));
    check(&format!("a: &a [x]\n{}", "b: [*a, *a, *a]\n".repeat(100)));
    let mut bomb = String::from("a0: &a0 {x: y}\n");
    for level in 1..40 {
        let below = level - 1;
        bomb.push_str(&format!(
            "a{level}: &a{level} [*a{below}, *a{below}, *a{below}]\n"
        ));
    }
    check(&bomb);
}

fn conf(name: &str) -> String {
    let file = format!("{}/conf/{name}", env!("CARGO_MANIFEST_DIR"));
    fs::read_to_string(file).expect("a sample")
}

#[cfg(feature = "acme")]
#[test]
fn sample_is_valid() {
    let directory = tempfile::tempdir().expect("a directory");
    for name in ["users", "down.html", "502.html"] {
        fs::write(directory.path().join(name), "").expect("a file");
    }
    let sample = conf("swiftiply.yml");
    // Every line that shows a key, or the values below one.
    let shown = sample.lines().map(|line| {
        let (blank, rest) = line.split_at(line.len() - line.trim_start().len());
        match rest.strip_prefix('#') {
            Some(key) if !key.starts_with(' ') || key.starts_with("  ") => {
                format!("{blank}{key}\n")
            }
            _ => format!("{line}\n"),
        }
    });
    let text: String = shown.collect();
    let text = text.replace("/etc/swiftiply", &directory.path().display().to_string());
    let (config, notes) = load(&text).unwrap_or_else(|problems| panic!("{problems}\n{text}"));
    for note in &notes {
        assert!(note.message.contains("no such directory now"), "{note}");
    }
    assert_eq!(config.user.as_deref(), Some("www-data"));
    let site = &config.sites[0];
    assert!(site.docroot.is_some() && site.maintenance_flag.is_some());
    assert_eq!((site.basic_auth.len(), site.error_pages.len()), (1, 1));
    // What shows a default is one, and what is not a comment works with the unit.
    let (plain, _) = load(&sample).unwrap_or_else(|problems| panic!("{problems}"));
    assert_eq!(plain.limits, config.limits);
    assert_eq!(plain.sites[0].timeout, site.timeout);
    assert_eq!((plain.user, plain.group, plain.pidfile), (None, None, None));
}

#[cfg(feature = "acme")]
#[test]
fn documented_examples_are_valid() {
    let read = |name: &str| {
        let file = format!("{}/{name}", env!("CARGO_MANIFEST_DIR"));
        fs::read_to_string(file).expect("a text")
    };
    let directory = tempfile::tempdir().expect("a directory");
    for name in ["users", "down.html", "502.html"] {
        fs::write(directory.path().join(name), "").expect("a file");
    }
    let directory = directory.path().display().to_string();
    let readme = read("README.md").replace("/etc/swiftiply", &directory);
    let blocks = readme.split("\n```yaml").skip(1).filter_map(|block| {
        let (_, text) = block.split_once('\n')?;
        Some(text.split_once("```")?.0.to_owned())
    });
    let page = read("man/swiftiply.yml.5");
    let displays = page.split(".Bd ").skip(1);
    let displays = displays.filter_map(|display| {
        let (_, text) = display.split_once('\n')?;
        Some(text.split_once(".Ed")?.0.to_owned())
    });
    let all = blocks.chain(displays);
    let mut count = 0;
    for text in all.filter(|text| text.starts_with("cluster_")) {
        load(&text).unwrap_or_else(|problems| panic!("{problems}\n{text}"));
        count += 1;
    }
    assert!(count >= 7, "{count}");
}

/// Goes behind the sample, for what the sample does not have.
const MORE: &str = "
  - &one {incoming: one.example, outgoing: {to: 127.0.0.1:1, match: a}, keepalive: 3, proxy: keepalive}
  - {<<: *one, incoming: two.example, logger: {level: 1}, access_log: off, order: oldest, via: y, allow: {networks: [10.1.2.3, 'unix:'], paths: [/a]}}
workers: 3
scheduling: batch
cluster_address: ['::', 'unix:/s']
trusted_proxies: ['::1']
allow: [10.0.0.0/8, '::1', all]
deny: {networks: 10.0.0.1}
proxy_protocol: [10.0.0.0/8, {from: all, at: 'unix:/s'}]
rate_limit: {rate: 10/s, burst: 100}
timeouts: {head: 3s}
";

/// What values are replaced by.
const VALUES: [&str; 24] = [
    "[]",
    "{}",
    "~",
    "-1",
    "\"\"",
    "0",
    "1e999",
    "-0.0",
    ".nan",
    ".inf",
    "-.inf",
    "true",
    "18446744073709551616",
    "340282366920938463463374607431768211456",
    "9223372036854775807",
    "99999999999999999999g",
    "[[]]",
    "[{}]",
    "{a: b}",
    "*one",
    "&x y",
    "!t 1",
    "'é: [\\'",
    "|",
];

#[cfg(feature = "tls")]
#[test]
fn dial_in_addresses_with_tls_and_files() {
    let text = "cluster_port: 80\n\
        outgoing_ssl:\n\
        - {at: '0.0.0.0:30000', certfile: /c, keyfile: /k, client_ca: /a, client_crl: /r}\n\
        - {at: '[::1]:30000', certfile: /c}\n\
        map:\n\
        - incoming: a.example\n\
        \x20 outgoing: ['0.0.0.0:30000', '[::1]:30000']\n\
        - incoming: b.example\n\
        \x20 outgoing: [{to: 'unix:/s', mode: 0660, owner: root, group: 0}, {to: 'unix:/t', prefix: /t, mode: '600'}]\n";
    let (config, notes) = load(text).expect("a configuration");
    assert_eq!(notes, []);
    let lists: Vec<_> = config
        .outgoing_ssl
        .iter()
        .map(|tls| tls.client_crl.clone())
        .collect();
    assert_eq!(lists, [Some("/r".into()), None]);
    let seen: Vec<_> = config
        .outgoing_ssl
        .iter()
        .map(|tls| {
            let ca = tls.client_ca.as_deref().and_then(Path::to_str);
            (tls.at.to_string(), tls.keyfile.to_str().expect("text"), ca)
        })
        .collect();
    let expected = [
        ("0.0.0.0:30000".to_string(), "/k", Some("/a")),
        ("[::1]:30000".to_string(), "/c", None),
    ];
    assert_eq!(seen, expected);
    let files: Vec<_> = config.sites[1]
        .outgoing
        .iter()
        .map(|o| o.file.clone())
        .collect();
    let file = |mode, owner: Option<&str>, group: Option<&str>| SocketFileConfig {
        mode: Some(mode),
        owner: owner.map(String::from),
        group: group.map(String::from),
    };
    let expected = [
        file(0o660, Some("root"), Some("0")),
        file(0o600, None, None),
    ];
    assert_eq!(files, expected);
    // What is printed means the same.
    let printed = config.to_yaml();
    let (again, _) = load(&printed).unwrap_or_else(|problems| panic!("{problems}\n{printed}"));
    assert_eq!(again.to_yaml(), printed);
    assert_eq!(again.outgoing_ssl, config.outgoing_ssl);
    assert_eq!(again.sites[1].outgoing[0].file, files[0]);
}

#[cfg(not(feature = "tls"))]
#[test]
fn a_build_without_tls_refuses_it_with_all_other_problems() {
    let text = "\
cluster_port: 80
workers: none
ssl: {at: '*:443', certfile: /c.pem, keyfile: /k.pem}
outgoing_ssl:
  - {at: '127.0.0.1:1', certfile: /c.pem, keyfile: /k.pem}
map:
  - incoming: a
    outgoing: 127.0.0.1:1
    client_ca: /ca.pem
  - incoming: b
    proxy: traditional
    servers: 'https://c'
    tls: {certfile: /c.pem}
";
    let problems = from(text, &Overrides::default()).unwrap_err().to_string();
    let problems: Vec<_> = problems.lines().collect();
    for (line, key) in [
        (2, "workers"),
        (3, "ssl"),
        (5, "outgoing_ssl"),
        (9, "client_ca"),
        (12, "servers"),
        (13, "tls"),
    ] {
        let is_there = |problem: &&&str| {
            problem.starts_with(&format!("s.yml:{line}:")) && problem.contains(key)
        };
        let found: Vec<_> = problems.iter().filter(is_there).collect();
        assert_eq!(found.len(), 1, "{line} {key}: {problems:#?}");
        let is_feature = found[0].ends_with(value::WITHOUT_TLS);
        assert_eq!(is_feature, key != "workers", "{found:?}");
    }
    assert_eq!(problems.len(), 6, "{problems:#?}");
}
