//! The recipes of README.md, run as they are printed, with real applications.
//!
//! A recipe begins with a comment in the text, `<!-- recipe: NAME -->`, and ends with the next one or the next heading. It
//! consists of fenced blocks, by the words behind the fence:
//!
//! - a language and a file name (`yaml swiftiply.yml`): the text of that file;
//! - `sh`: commands, which are run in one shell for all blocks of the recipe;
//! - `sh install`: the same, run once and kept, with the network, and only if nothing may be skipped ([`needs`]);
//! - `text`: what the block before has to print, where `…` stands for any text.
//!
//! `<!-- recipe: NAME, after OTHER -->` also has the files of another recipe, and its line that starts swiftiply.
//! Only the ports of [`PORTS`] are replaced, by free ones. Lines of `sudo apt-get install` are left to `tests/run --install`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::common::program::tell_end;
use crate::common::{
    PATIENCE, Running, Visitor, ended, free_port, needs, proxy, secure, wait_at_most, wait_until,
};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// Ports of the recipes. Clients come in on the first one.
const PORTS: [&str; 6] = ["8080", "8443", "30000", "30010", "3000", "8000"];

/// Packages may come slowly.
const INSTALLING: Duration = Duration::from_secs(300);

/// A fenced block.
#[derive(Clone, Debug)]
struct Block {
    /// The words behind the fence.
    kind: String,
    text: String,
}

impl Block {
    /// The file whose text it is.
    fn file(&self) -> Option<&str> {
        let (language, name) = self.kind.split_once(' ')?;
        (language != "sh").then_some(name)
    }
}

#[derive(Debug)]
struct Recipe {
    name: String,
    after: Option<String>,
    blocks: Vec<Block>,
}

fn readme() -> String {
    fs::read_to_string(Path::new(ROOT).join("README.md")).unwrap()
}

/// The recipes of the text, in its order, and the commands that belong to none.
fn parse(readme: &str) -> (Vec<Recipe>, Vec<Block>) {
    let (mut recipes, mut others): (Vec<Recipe>, _) = (Vec::new(), Vec::new());
    let mut within = false;
    let mut lines = readme.lines();
    while let Some(line) = lines.next() {
        if line.starts_with('#') {
            within = false;
        } else if let Some(marker) = line.strip_prefix("<!-- recipe: ") {
            let marker = marker.strip_suffix(" -->").unwrap();
            let (name, after) = match marker.split_once(", after ") {
                Some((name, after)) => (name, Some(after.to_owned())),
                None => (marker, None),
            };
            within = true;
            recipes.push(Recipe {
                name: name.to_owned(),
                after,
                blocks: Vec::new(),
            });
        } else if let Some(kind) = line.strip_prefix("```") {
            let text = lines.by_ref().take_while(|line| *line != "```");
            let block = Block {
                kind: kind.to_owned(),
                text: text.map(|line| line.to_owned() + "\n").collect(),
            };
            match recipes.last_mut() {
                Some(recipe) if within => recipe.blocks.push(block),
                _ => others.push(block),
            }
        }
    }
    (recipes, others)
}

/// Whether a text is as expected, where `…` stands for anything.
fn fits(text: &str, expected: &str) -> bool {
    let mut parts = expected.trim_end().split('…');
    let Some(mut rest) = text
        .trim_end()
        .strip_prefix(parts.next().unwrap_or_default())
    else {
        return false;
    };
    let mut open = false;
    for part in parts {
        open = true;
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.is_empty() || open && expected.trim_end().ends_with('…')
}

/// Replaces whole numbers that are ports of recipes.
fn with_ports(text: &str, ports: &BTreeMap<&str, u16>) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find(|letter: char| letter.is_ascii_digit()) {
        let digits = rest[at..].find(|letter: char| !letter.is_ascii_digit());
        let end = digits.map_or(rest.len(), |length| at + length);
        out += &rest[..at];
        match ports.get(&rest[at..end]) {
            Some(port) => write!(out, "{port}").unwrap(),
            None => out += &rest[at..end],
        }
        rest = &rest[end..];
    }
    out + rest
}

/// Without what `tests/run --install` has done.
fn without_apt(text: &str) -> String {
    let lines = text
        .lines()
        .filter(|line| !line.starts_with("sudo apt-get install "));
    lines.map(|line| line.to_owned() + "\n").collect()
}

/// A shell in which one recipe runs.
struct Runner {
    shell: Running,
    commands: ChildStdin,
    directory: TempDir,
    ports: BTreeMap<&'static str, u16>,
    /// Blocks that were run.
    count: usize,
}

impl Runner {
    fn new(installed: Option<&Path>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        // The reader is in a clone.
        symlink(Path::new(ROOT).join("conf"), directory.path().join("conf")).unwrap();
        for entry in installed
            .into_iter()
            .flat_map(|kept| kept.read_dir().unwrap())
        {
            let entry = entry.unwrap();
            symlink(entry.path(), directory.path().join(entry.file_name())).unwrap();
        }
        fs::write(directory.path().join(".curlrc"), "silent\nshow-error\n").unwrap();
        let log = fs::File::create(directory.path().join("log")).unwrap();
        let mut shell = shell(directory.path());
        let mut child = shell
            .env("CURL_HOME", directory.path())
            .stdin(Stdio::piped())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        Self {
            commands: child.stdin.take().unwrap(),
            shell: Running(child),
            directory,
            ports: PORTS.map(|port| (port, free_port())).into(),
            count: 0,
        }
    }

    fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.ports[PORTS[0]]))
    }

    fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).unwrap()
    }

    fn write(&self, name: &str, text: &str) {
        let file = self.directory.path().join(name);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, with_ports(text, &self.ports)).unwrap();
    }

    /// Runs commands, and gives what they print.
    fn run(&mut self, commands: &str) -> String {
        self.count += 1;
        let [out, done] = ["out", "done"]
            .map(|kind| self.directory.path().join(format!("{}.{kind}", self.count)));
        let commands = with_ports(commands, &self.ports);
        let text = format!(
            "{{\n{commands}}} >'{}'\n: >'{}'\n",
            out.display(),
            done.display()
        );
        let sent = self.commands.write_all(text.as_bytes());
        wait_until(&format!("the end of:\n{commands}"), || {
            done.exists() || self.shell.0.try_wait().unwrap().is_some()
        });
        assert!(sent.is_ok() && done.exists(), "failed:\n{commands}");
        if commands.lines().any(starts_server) {
            wait_until("the server's port", || {
                TcpStream::connect(self.address()).is_ok()
            });
        }
        fs::read_to_string(out).unwrap()
    }

    /// Runs commands until they print what is expected: a busy machine may need longer to start the application than
    /// requests wait for it.
    fn run_until(&mut self, commands: &str, expected: &str) {
        let expected = with_ports(expected, &self.ports);
        let deadline = Instant::now() + PATIENCE;
        loop {
            let text = self.run(commands);
            if fits(&text, &expected) {
                return;
            }
            assert!(
                Instant::now() < deadline,
                "timed out after {} s waiting for {expected:?}; {commands}prints {text:?}",
                PATIENCE.as_secs()
            );
            thread::sleep(Duration::from_millis(100));
        }
    }

    /// Runs all blocks of a recipe; calls `before` before each block of commands.
    fn run_blocks(&mut self, blocks: &[Block], mut before: impl FnMut(&Self, &str)) {
        let mut blocks = blocks.iter().peekable();
        while let Some(block) = blocks.next() {
            if let Some(name) = block.file() {
                self.write(name, &block.text);
                continue;
            }
            if block.kind != "sh" {
                continue;
            }
            let commands = without_apt(&block.text);
            if commands.is_empty() {
                continue;
            }
            before(self, &commands);
            match blocks.next_if(|next| next.kind == "text") {
                Some(expected) => self.run_until(&commands, &expected.text),
                None => _ = self.run(&commands),
            }
        }
    }

    /// Ends what runs.
    fn finish(mut self) {
        let end = "kill $(jobs -p) || :\nwait\nexit 0\n";
        self.commands.write_all(end.as_bytes()).unwrap();
        assert_eq!(self.shell.wait().code(), Some(0));
        assert!(!self.log().contains("panicked"), "{}", self.log());
    }
}

impl Drop for Runner {
    fn drop(&mut self) {
        tell_end(&self.log());
        // What a failed recipe leaves. TERM first, so that access proxies end their applications.
        if thread::panicking() {
            let group = Pid::from_raw(self.shell.pid().try_into().unwrap());
            let _ = killpg(group, Signal::SIGTERM);
            thread::sleep(Duration::from_secs(2));
            let _ = killpg(group, Signal::SIGKILL);
        }
    }
}

/// Whether a line of a recipe starts the server.
fn starts_server(line: &str) -> bool {
    line.starts_with("swiftiply ") && line.ends_with('&')
}

/// A shell that ends at the first failure, in a process group of its own, with the programs under test.
fn shell(directory: &Path) -> Command {
    let programs = Path::new(env!("CARGO_BIN_EXE_swiftiply")).parent().unwrap();
    let path = std::env::var("PATH").unwrap();
    let mut shell = Command::new("bash");
    shell
        .args(["-eu", "-s"])
        .current_dir(directory)
        .env("PATH", format!("{}:{path}", programs.display()))
        .process_group(0);
    shell
}

/// Runs the blocks that install something, once; gives the folder with what they have made. `Err` if they may not run.
fn install(recipe: &Recipe) -> Result<Option<PathBuf>, ()> {
    let blocks = recipe
        .blocks
        .iter()
        .filter(|block| block.kind == "sh install");
    let commands: String = blocks.map(|block| without_apt(&block.text)).collect();
    if commands.is_empty() {
        return Ok(None);
    }
    let mut hasher = DefaultHasher::new();
    commands.hash(&mut hasher);
    let name = format!("readme-{}-{:016x}", recipe.name, hasher.finish());
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let done = folder.with_extension("done");
    if !done.exists() {
        if !needs::required() {
            return Err(());
        }
        // One that was broken off.
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).unwrap();
        let mut shell = shell(&folder);
        shell
            .args(["-c", &commands])
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        let mut shell = Running(shell.spawn().unwrap());
        let mut status = None;
        wait_at_most(INSTALLING, &commands, || {
            status = shell.0.try_wait().unwrap();
            status.is_some()
        });
        assert!(status.unwrap().success(), "failed:\n{commands}");
        fs::write(done, "").unwrap();
    }
    Ok(Some(folder))
}

/// Runs a recipe as a test that is called so.
fn run(test: &str, name: &str, before: impl FnMut(&Runner, &str)) {
    let (recipes, _) = parse(&readme());
    let find = |name: &str| recipes.iter().find(|recipe| recipe.name == name).unwrap();
    let recipe = find(name);
    let Ok(installed) = install(recipe) else {
        needs::skip(test, "packages that its recipe installs");
        return;
    };
    let mut runner = Runner::new(installed.as_deref());
    if let Some(after) = &recipe.after {
        let common = &find(after).blocks;
        let files = common.iter().filter(|block| block.file().is_some());
        let lines = common.iter().flat_map(|block| block.text.lines());
        let server = Block {
            kind: "sh".to_owned(),
            text: lines.filter(|line| starts_server(line)).collect::<String>() + "\n",
        };
        let blocks: Vec<_> = files.cloned().chain([server]).collect();
        runner.run_blocks(&blocks, |_, _| {});
    }
    runner.run_blocks(&recipe.blocks, before);
    runner.finish();
}

/// A test for each recipe, with the programs that it needs.
macro_rules! recipes {
    ($($name:ident: $($program:literal),+;)+) => {
        /// The recipes with tests of the usual kind.
        const USUAL: &[&str] = &[$(stringify!($name)),+];

        $(#[test]
        fn $name() {
            needs!("bash", "curl", $($program),+);
            run(&format!("readme::{}", stringify!($name)), stringify!($name), |_, _| {});
        })+
    };
}

recipes! {
    site: "python3";
    puma: "puma";
    flask: "python3";
    django: "python3";
    node: "node";
    thin: "thin";
    traditional: "node";
    files: "python3";
    sites: "python3", "node";
    https: "python3", "curl";
    service: "puma";
}

/// A new version takes over while clients send requests, and none of them fails.
#[test]
fn deploy() {
    needs!("bash", "curl", "puma");
    let stop = AtomicBool::new(false);
    let answered = AtomicUsize::new(0);
    let client = |address| {
        let mut visitor = Visitor::connect(address);
        while !stop.load(Ordering::SeqCst) {
            let answer = visitor.ask("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n");
            let text = answer.text();
            let right = text == "version 1\n" || text == "version 2\n";
            assert!(answer.status == 200 && right && !answer.cut, "{answer:?}");
            answered.fetch_add(1, Ordering::SeqCst);
        }
    };
    let more = || {
        let before = answered.load(Ordering::SeqCst);
        wait_until("the requests of the load", || {
            answered.load(Ordering::SeqCst) > before + 100
        });
    };
    let mut replaced = false;
    thread::scope(|scope| {
        // Also where the recipe fails.
        let _stop = Stop(&stop);
        run("readme::deploy", "deploy", |runner, commands| {
            if commands.contains("kill $old") {
                let address = runner.address();
                for _ in 0..4 {
                    let client = &client;
                    scope.spawn(move || client(address));
                }
                more();
                replaced = true;
            } else if replaced {
                more();
                stop.store(true, Ordering::SeqCst);
            }
        });
    });
    assert!(replaced, "no version was replaced");
}

/// Stops clients.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// The hook of certbot puts a renewed certificate where the server reads it, and has that done.
#[test]
fn certificate() {
    needs!("sh", "openssl");
    let (recipes, _) = parse(&readme());
    let recipe = recipes.iter().find(|recipe| recipe.name == "certificate");
    let [hook] = recipe.unwrap().blocks.as_slice() else {
        panic!("{recipe:?}");
    };
    // This machine has no such group and directory.
    let directory = tempfile::tempdir().unwrap();
    let tls = directory.path().join("tls");
    let hook = hook.text.replace("-g swiftiply ", "");
    let hook = hook.replace("/etc/swiftiply/tls", &tls.display().to_string());
    let write = |name: &str, text: &str| {
        let file = directory.path().join(name);
        fs::write(&file, text).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
        file
    };
    write("systemctl", "#!/bin/sh\necho systemctl \"$@\"\n");
    let hook = write("hook", &hook);
    // As certbot lays them out.
    let lineage = directory.path().join("live/example.com");
    fs::create_dir_all(&lineage).unwrap();
    let (certfile, keyfile) = secure::certificate(directory.path(), "new", &["example.com"]);
    fs::rename(certfile, lineage.join("fullchain.pem")).unwrap();
    fs::rename(keyfile, lineage.join("privkey.pem")).unwrap();
    let path = std::env::var("PATH").unwrap();
    let run = ended(
        Command::new(hook)
            .env("RENEWED_LINEAGE", &lineage)
            .env("PATH", format!("{}:{path}", directory.path().display())),
    );
    assert_eq!(
        (run.code, run.out.as_str()),
        (Some(0), "systemctl reload swiftiply\n"),
        "{run:?}"
    );
    for kind in ["pem", "key"] {
        let about = fs::metadata(tls.join(format!("example.com.{kind}"))).unwrap();
        assert_eq!(about.permissions().mode() & 0o777, 0o640);
    }
    let (pem, key) = (tls.join("example.com.pem"), tls.join("example.com.key"));
    let yaml = format!(
        "cluster_port: 0\nssl: {{at: '*:0', {}}}\nmap: []\n",
        secure::pair(&pem, &key)
    );
    fs::write(directory.path().join("swiftiply.yml"), yaml).unwrap();
    let checked = proxy::check(directory.path());
    assert_eq!(checked.code, Some(0), "{checked:?}");
}

#[test]
fn every_recipe_has_a_test() {
    let (recipes, others) = parse(&readme());
    assert!(
        !others.iter().any(|block| block.kind.starts_with("sh")),
        "{others:?}"
    );
    let names: Vec<_> = recipes.iter().map(|recipe| recipe.name.as_str()).collect();
    let mut tested = [USUAL, &["deploy", "certificate"]].concat();
    let mut named = names.clone();
    tested.sort_unstable();
    named.sort_unstable();
    assert_eq!(named, tested);
    for recipe in recipes.iter().filter(|recipe| recipe.name != "certificate") {
        let expectations = recipe.blocks.iter().filter(|block| block.kind == "text");
        assert!(expectations.count() > 0, "{} expects nothing", recipe.name);
    }
}

#[test]
fn paths_and_links() {
    for page in ["README.md", "tests/bench/README.md"] {
        let file = Path::new(ROOT).join(page);
        let text = fs::read_to_string(&file).unwrap();
        let headings = text.lines().filter(|line| line.starts_with('#'));
        let anchors: Vec<_> = headings.map(anchor).collect();
        let links = text.split("](").skip(1);
        let links = links.map(|rest| rest.split(')').next().unwrap());
        let mut count = 0;
        for link in links.filter(|link| !link.contains("://")) {
            count += 1;
            match link.strip_prefix('#') {
                Some(name) => assert!(
                    anchors.iter().any(|anchor| anchor == name),
                    "{page}: {link}"
                ),
                None => assert!(file.parent().unwrap().join(link).exists(), "{page}: {link}"),
            }
        }
        assert!(page != "README.md" || count > 10, "{page}: {count} links");
        // Paths in commands and prose, as conf/swiftiply.yml.
        let words = text
            .split(|letter: char| !(letter.is_ascii_alphanumeric() || "/._@-".contains(letter)));
        let paths = words.filter(|word| {
            ["conf/", "man/", "src/", "tests/"]
                .iter()
                .any(|folder| word.starts_with(folder))
        });
        for path in paths {
            let path = path.trim_end_matches(['.', '/']);
            assert!(Path::new(ROOT).join(path).exists(), "{page}: {path}");
        }
    }
}

/// The anchor that GitHub gives a heading.
fn anchor(heading: &str) -> String {
    let text = heading.trim_start_matches('#').trim().to_lowercase();
    let kept = text
        .chars()
        .filter(|letter| letter.is_alphanumeric() || " -_".contains(*letter));
    kept.map(|letter| if letter == ' ' { '-' } else { letter })
        .collect()
}

#[test]
fn text_fits_with_and_without_gaps() {
    for (text, shown, expected) in [
        ("hello\n", "hello\n", true),
        ("hello 12 you\n", "hello … you\n", true),
        ("hello 12\n", "hello …\n", true),
        ("hello 12\n", "hello\n", false),
        ("hello 12\n", "hello … you\n", false),
        ("say hello\n", "hello\n", false),
    ] {
        assert_eq!(fits(text, shown), expected, "{text:?} and {shown:?}");
    }
    let ports = BTreeMap::from([("3000", 1)]);
    assert_eq!(with_ports("3000 30000:3000", &ports), "1 30000:1");
}
