//! The checked configuration of `swiftiply-access`.

use std::env;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::unistd::{AccessFlags, access as may};

use super::address;
use super::defaults::DEFAULT_LOOKUP_INTERVAL;
use super::inspection::Inspection;
use super::keys::{self, KeyLevel};
use super::problem::{COMMAND_LINE, Findings, Location, Note, Problems};
use super::raw::{self, Map, Node};
use super::section::Section;
use super::site;
use super::types::{Address, Logger};
use super::value::{self, ValueError};
use crate::preamble::Name;

/// The checked configuration of the access proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct AccessConfig {
    /// The dial-in addresses of servers, at least one (`connect`).
    pub connect: Vec<Address>,
    /// The key to send to them (`key`, `key_file`); empty: none.
    pub key: String,
    /// How servers call this machine (`name`); `None`: by its host name or address.
    pub name: Option<String>,
    /// TLS for these connections (`ssl`).
    pub ssl: Option<Ssl>,
    /// The address of the application (`to`).
    pub to: Address,
    /// Most concurrent requests to the application (`places`).
    pub places: usize,
    /// Connections to each server (`connections`).
    pub connections: usize,
    /// How often names of servers are looked up again (`lookup_interval`).
    pub lookup_interval: Duration,
    /// Health checks of the application (`check`).
    pub check: ApplicationCheck,
    /// The application's program with its arguments (`command`); empty: the access proxy does not start it.
    pub command: Vec<String>,
    /// Signals to pass on to the application (`signals`), in the spelling of [`SIGNALS`].
    pub signals: Vec<&'static str>,
    /// Timeouts (`timeouts`).
    pub timeouts: AccessTimeouts,
    /// Longest time for draining (`grace`).
    pub grace: Duration,
    /// The destination of messages (`logger`).
    pub logger: Logger,
}

/// How a server proves its identity, and we ours (`ssl`).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Ssl {
    /// How a server is verified.
    pub trust: TrustConfig,
    /// Our certificate and its key, PEM files, absolute.
    pub own: Option<(PathBuf, PathBuf)>,
}

/// How a server is verified.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TrustConfig {
    /// By its name and the authorities in a PEM file, absolute.
    Authorities(PathBuf),
    /// By the SHA-256 of its certificate.
    Fingerprint([u8; 32]),
}

/// Health checks of the application (`check`).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ApplicationCheck {
    /// The path to which the response must have a status from 200 to 399; `None`: a connection is enough.
    pub uri: Option<String>,
    /// The interval between checks.
    pub interval: Duration,
}

/// Timeouts (`timeouts`).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct AccessTimeouts {
    /// For connecting to the application, and for a check.
    pub connect: Duration,
    /// For the first byte of a response.
    pub first_byte: Duration,
    /// For a response without progress after the first byte.
    pub backend: Duration,
}

/// Options of the command line. They override the file, also on reload.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct AccessOverrides {
    /// Addresses of servers; empty: those of the file.
    pub connect: Vec<String>,
    /// `--key-file`
    pub key_file: Option<String>,
    /// `--name`
    pub name: Option<String>,
    /// `--to`
    pub to: Option<String>,
    /// `--places`
    pub places: Option<String>,
    /// The command after `--`; empty: that of the file.
    pub command: Vec<String>,
    /// The base of relative paths; `None`: the working directory.
    pub directory: Option<PathBuf>,
}

/// Signals that may be passed on.
pub const SIGNALS: [&str; 5] = ["HUP", "USR1", "USR2", "TTIN", "TTOU"];

impl Ssl {
    /// Verifies servers in this way, and has no certificate of its own.
    pub const fn new(trust: TrustConfig) -> Self {
        Self { trust, own: None }
    }
}

/// A connection is enough, every five seconds.
impl Default for ApplicationCheck {
    fn default() -> Self {
        Self {
            uri: None,
            interval: Duration::from_secs(5),
        }
    }
}

impl Default for AccessTimeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            first_byte: Duration::from_secs(300),
            backend: Duration::from_secs(300),
        }
    }
}

impl AccessConfig {
    /// Dials these addresses on behalf of the application at `to`, which runs already; all else is as by default.
    pub fn new(connect: Vec<Address>, to: Address) -> Self {
        Self {
            connect,
            key: String::new(),
            name: None,
            ssl: None,
            to,
            places: DEFAULT_PLACES,
            connections: DEFAULT_PLACES,
            lookup_interval: DEFAULT_LOOKUP_INTERVAL,
            check: ApplicationCheck::default(),
            command: Vec::new(),
            signals: signals_by_default(),
            timeouts: AccessTimeouts::default(),
            grace: GRACE,
            logger: Logger::default(),
        }
    }

    /// Reads a file and applies the options of the command line. Messages name the file `path`, as given.
    ///
    /// # Errors
    /// The reason why the file cannot be read, or all problems in it.
    pub fn load(
        path: Option<&Path>,
        overrides: &AccessOverrides,
    ) -> Result<(Self, Vec<Note>), Problems> {
        Self::load_with(path, overrides, None)
    }

    /// Reads a file before a start, and also inspects what it names: certificates, the command, the directory of the
    /// log.
    ///
    /// # Errors
    /// Those of [`AccessConfig::load`], and everything that would keep the program from starting, except errors of the
    /// system.
    #[doc(hidden)]
    pub fn inspect(
        path: Option<&Path>,
        overrides: &AccessOverrides,
        inspection: &Inspection,
    ) -> Result<(Self, Vec<Note>), Problems> {
        Self::load_with(path, overrides, Some(inspection))
    }

    fn load_with(
        path: Option<&Path>,
        overrides: &AccessOverrides,
        inspection: Option<&Inspection>,
    ) -> Result<(Self, Vec<Note>), Problems> {
        match path {
            None => checked(
                Node::Map(Map::new()),
                "",
                Path::new(COMMAND_LINE),
                overrides,
                inspection,
            ),
            Some(path) => {
                let text = super::read(path, overrides.directory.as_deref())?;
                from_text(&text, path, overrides, inspection)
            }
        }
    }

    /// Reads the text of a file. Messages name it `file`.
    ///
    /// # Errors
    /// All problems in it.
    pub fn from_yaml(
        text: &str,
        file: &Path,
        overrides: &AccessOverrides,
    ) -> Result<(Self, Vec<Note>), Problems> {
        from_text(text, file, overrides, None)
    }
}

fn from_text(
    text: &str,
    file: &Path,
    overrides: &AccessOverrides,
    inspection: Option<&Inspection>,
) -> Result<(AccessConfig, Vec<Note>), Problems> {
    let text = value::without_mark(text);
    let root = raw::parse(text).map_err(|fault| Problems::one(file, fault.line, fault.message))?;
    // An empty file is valid: the command line may give all values.
    let root = match root {
        Node::Null => Node::Map(Map::new()),
        root => root,
    };
    checked(root, text, file, overrides, inspection)
}

fn checked(
    root: Node,
    text: &str,
    file: &Path,
    overrides: &AccessOverrides,
    inspection: Option<&Inspection>,
) -> Result<(AccessConfig, Vec<Note>), Problems> {
    let Node::Map(map) = &root else {
        let message = "not a configuration; write keys and values, connect: 127.0.0.1:30000";
        return Err(Problems::one(file, None, message));
    };
    let findings = Findings::new(file, text, &root, inspection);
    keys::check(
        &findings,
        KeyLevel::Access,
        map,
        &(Vec::new(), String::new()),
    );
    let top = Section::top(map, &findings, overrides.directory.as_deref());
    let access = access(&top, overrides);
    Ok((access, findings.finish()?))
}

/// Reads the configuration; uses defaults where something is wrong.
fn access(top: &Section, overrides: &AccessOverrides) -> AccessConfig {
    let section = top.section("timeouts");
    let time = |key: &str, default| section.take(key, value::deadline).unwrap_or(default);
    let base = AccessTimeouts::default();
    let timeouts = AccessTimeouts {
        connect: time("connect", base.connect),
        first_byte: time("first_byte", base.first_byte),
        backend: time("backend", base.backend),
    };
    let count = value::count(1..=MOST_CONNECTIONS);
    let places = match &overrides.places {
        None => top.take("places", &count),
        Some(text) => commanded(top, "places", text, &count),
    };
    let connections = top.take("connections", &count);
    let number = |wanted: Option<u64>, other: Option<u64>| {
        let count = wanted.or(other);
        count.map_or(DEFAULT_PLACES, |count| count as usize)
    };
    AccessConfig {
        connect: connect(top, overrides),
        key: key(top, overrides),
        name: name(top, overrides),
        ssl: ssl(top),
        to: to(top, overrides),
        places: number(places, connections),
        connections: number(connections, places),
        lookup_interval: top
            .take("lookup_interval", value::deadline)
            .unwrap_or(DEFAULT_LOOKUP_INTERVAL),
        check: check(top),
        command: match overrides.command.is_empty() {
            true => command(top),
            false => {
                if let Err(wrong) = program(top, &overrides.command[0]) {
                    let shown = value::shown(&Node::Text(overrides.command[0].clone()));
                    top.findings
                        .problem(Location::CommandLine, format!("command {shown}: {wrong}"));
                }
                overrides.command.clone()
            }
        },
        signals: signals(top),
        timeouts,
        grace: top.take("grace", value::time).unwrap_or(GRACE),
        logger: top.logger().unwrap_or_default(),
    }
}

/// Reads a value of the command line.
fn commanded<T>(
    top: &Section,
    key: &str,
    text: &str,
    read: impl Fn(&Node) -> Result<T, ValueError>,
) -> Option<T> {
    let node = Node::Text(text.to_owned());
    let wrong = |wrong| {
        let message = format!("{key} {}: {wrong}", value::shown(&node));
        top.findings.problem(Location::CommandLine, message);
    };
    read(&node).map_err(wrong).ok()
}

fn connect(top: &Section, overrides: &AccessOverrides) -> Vec<Address> {
    let read = |node: &Node| match address(top, node)? {
        Address::Tcp { port: 0, .. } => Err("port 0; write the port of the server".into()),
        address => Ok(address),
    };
    let typed = top.take_many("connect", read);
    let addresses: Vec<Address> = match &*overrides.connect {
        [] => typed.unwrap_or_default(),
        list => {
            let read = |text: &String| commanded(top, "connect", text, read);
            list.iter().filter_map(read).collect()
        }
    };
    let none = top.many("connect").is_none_or(|list| list.is_empty());
    if none && overrides.connect.is_empty() {
        top.problem("connect: missing; write where the server is, connect: 127.0.0.1:30000");
    }
    let mut once: Vec<Address> = Vec::new();
    for address in addresses {
        if !once.contains(&address) {
            once.push(address);
        }
    }
    once
}

fn address(top: &Section, node: &Node) -> Result<Address, ValueError> {
    let text = value::text(node).map_err(|_| "write an address, 127.0.0.1:30000".to_string())?;
    address::dial_in(top.directory, &text)
}

fn to(top: &Section, overrides: &AccessOverrides) -> Address {
    let read = |node: &Node| address(top, node);
    let typed = top.take("to", read);
    let address = match &overrides.to {
        None => typed,
        Some(text) => commanded(top, "to", text, read),
    };
    if overrides.to.is_none() && raw::get(&top.map, "to").is_none() {
        top.problem("to: missing; write where the application is, to: 127.0.0.1:3000");
    }
    address.unwrap_or(Address::Unix(PathBuf::new()))
}

fn key(top: &Section, overrides: &AccessOverrides) -> String {
    if let Some(file) = &overrides.key_file {
        let read = |node: &Node| {
            let path = value::path(top.directory)(node)?;
            site::key_file(&path)
        };
        let keys = commanded(top, "key file", file, read);
        return keys
            .and_then(|keys| keys.into_iter().next())
            .unwrap_or_default();
    }
    let keys = site::keys(top);
    if raw::get(&top.map, "key").is_some()
        && (raw::get(&top.map, "key_file").is_some() || keys.len() > 1)
    {
        top.wrong(
            "key",
            None,
            &Node::Null,
            "more than one key; a server is sent one only",
        );
    }
    // The first line of a key file is the newest key.
    keys.into_iter().next().unwrap_or_default()
}

fn name(top: &Section, overrides: &AccessOverrides) -> Option<String> {
    let read = |node: &Node| {
        let text = value::text(node)?;
        Name::new(&text)
            .map(|_| text)
            .map_err(|error| error.to_string())
    };
    match &overrides.name {
        None => top.take("name", read),
        Some(text) => commanded(top, "name", text, read),
    }
}

fn ssl(top: &Section) -> Option<Ssl> {
    let node = raw::get(&top.map, "ssl")?;
    let has_tls = top.needs_tls("ssl", None, node);
    let section = top.section("ssl");
    let problem = |message: &str| {
        let message = format!("ssl: {message}");
        top.findings.problem(top.place("ssl", None), message);
    };
    let path = |key: &str| section.take(key, value::path(top.directory));
    let fingerprint = section.take("fingerprint", value::fingerprint);
    let ca = path("ca");
    let has = |key: &str| raw::get(&section.map, key).is_some();
    let trust = match (ca, fingerprint) {
        _ if has("ca") && has("fingerprint") => {
            problem("ca and fingerprint; write one of them");
            return None;
        }
        (Some(ca), _) => TrustConfig::Authorities(ca),
        (_, Some(fingerprint)) => TrustConfig::Fingerprint(fingerprint),
        _ if has("ca") || has("fingerprint") => return None,
        _ => {
            problem("neither ca nor fingerprint; write how to verify the server, ca: ca.pem");
            return None;
        }
    };
    let certfile = path("certfile");
    let keyfile = path("keyfile");
    if let Some(inspection) = top.findings.inspection.filter(|_| has_tls) {
        if let TrustConfig::Authorities(file) = &trust
            && let Err(wrong) = (inspection.authorities)(file)
        {
            section.take("ca", |_| Err::<(), _>(wrong.clone()));
        }
        if let Some(certfile) = &certfile {
            let keyfile = keyfile.as_ref().unwrap_or(certfile);
            if let Err((file, wrong)) = (inspection.certificate)(certfile, keyfile) {
                let key = if file == *certfile {
                    "certfile"
                } else {
                    "keyfile"
                };
                section.take(key, |_| Err::<(), _>(wrong.clone()));
            }
        }
    }
    if has("keyfile") && !has("certfile") {
        problem("keyfile without certfile; write both");
    }
    let own = certfile.map(|certfile| {
        let keyfile = keyfile.unwrap_or_else(|| certfile.clone());
        (certfile, keyfile)
    });
    Some(Ssl { trust, own })
}

fn check(top: &Section) -> ApplicationCheck {
    let section = top.section("check");
    ApplicationCheck {
        uri: section.take("uri", value::target),
        interval: section
            .take("interval", value::deadline)
            .unwrap_or(ApplicationCheck::default().interval),
    }
}

fn command(top: &Section) -> Vec<String> {
    let words = top.take_many("command", |node| match value::text(node) {
        Ok(word) if word.contains('\0') => Err("a NUL in it".into()),
        Err(_) if *node == Node::Text(String::new()) => Ok(String::new()),
        other => other,
    });
    let words = words.unwrap_or_default();
    if let [word] = &*words
        && word.contains(' ')
    {
        let node = Node::Text(word.clone());
        let wrong =
            "a command with blanks; write its words as a list, [puma, -b, \"unix:app.sock\"]";
        top.wrong("command", None, &node, wrong);
    } else if let Some(first) = words.first()
        && let Err(wrong) = program(top, first)
    {
        let item = matches!(raw::get(&top.map, "command"), Some(Node::List(_))).then_some(0);
        top.wrong("command", item, &Node::Text(first.clone()), &wrong);
    }
    words
}

/// Whether the program of a command is executable, checked before a start: if its name has a slash, that file,
/// otherwise a file in a directory of PATH.
fn program(top: &Section, name: &str) -> Result<(), ValueError> {
    if top.findings.inspection.is_none() {
        return Ok(());
    }
    let can_run = |path: &Path| path.is_file() && may(path, AccessFlags::X_OK).is_ok();
    if name.contains('/') {
        let path = value::absolute(top.directory, Path::new(name));
        return match can_run(&path) {
            true => Ok(()),
            false if path.is_file() => Err("not executable; see chmod(1)".into()),
            false if path.is_dir() => Err("a directory, not a program".into()),
            false => Err("no such program".into()),
        };
    }
    let path = env::var_os("PATH").unwrap_or_else(|| DEFAULT_PATH.into());
    match env::split_paths(&path).any(|folder| can_run(&folder.join(name))) {
        true => Ok(()),
        false => Err("no such program in PATH".into()),
    }
}

fn signals(top: &Section) -> Vec<&'static str> {
    let signal = |node: &Node| {
        let text = value::text(node)?.to_ascii_uppercase();
        let name = text.strip_prefix("SIG").unwrap_or(&text);
        let known = SIGNALS.into_iter().find(|known| *known == name);
        known.ok_or_else(|| format!("write some of {}", SIGNALS.join(", ")))
    };
    top.take_many("signals", signal)
        .unwrap_or_else(signals_by_default)
}

/// All but HUP, which reloads the access proxy itself.
fn signals_by_default() -> Vec<&'static str> {
    let all = SIGNALS.into_iter();
    all.filter(|name| *name != "HUP").collect()
}

/// Where execvp(3) searches without PATH.
const DEFAULT_PATH: &str = "/bin:/usr/bin";

/// Places, if neither they nor the connections are configured.
const DEFAULT_PLACES: usize = 8;
/// The default of `grace`.
const GRACE: Duration = Duration::from_secs(30);
/// Most connections; far more than any one application accepts.
const MOST_CONNECTIONS: u64 = 1000;

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str, overrides: &AccessOverrides) -> Result<AccessConfig, String> {
        let read = AccessConfig::from_yaml(text, Path::new("a.yml"), overrides);
        read.map(|(access, _)| access)
            .map_err(|problems| problems.to_string())
    }

    #[test]
    fn a_file_is_read() {
        let access = read(
            "connect: [proxy.example.com:30000, 'unix:/run/in.sock']\n\
             key: 0123\n\
             name: web3.example.com\n\
             to: 127.0.0.1:3000\n\
             connections: 3\n\
             lookup_interval: 10\n\
             command: [puma, -b, 'tcp://127.0.0.1:3000']\n\
             signals: [hup, SIGUSR2]\n\
             check: {uri: '/up?quick', interval: 500ms}\n\
             timeouts: {first_byte: 1m}\n\
             ssl: {ca: /etc/ca.pem, certfile: /etc/own.pem}",
            &AccessOverrides::default(),
        )
        .unwrap();
        let tcp = |host: &str, port| Address::Tcp {
            host: host.into(),
            port,
            implied: false,
        };
        let expected = AccessConfig {
            connect: vec![
                tcp("proxy.example.com", 30000),
                Address::Unix("/run/in.sock".into()),
            ],
            key: "0123".into(),
            name: Some("web3.example.com".into()),
            ssl: Some(Ssl {
                trust: TrustConfig::Authorities("/etc/ca.pem".into()),
                own: Some(("/etc/own.pem".into(), "/etc/own.pem".into())),
            }),
            to: tcp("127.0.0.1", 3000),
            places: 3,
            connections: 3,
            lookup_interval: Duration::from_secs(10),
            check: ApplicationCheck {
                uri: Some("/up?quick".into()),
                interval: Duration::from_millis(500),
            },
            command: ["puma", "-b", "tcp://127.0.0.1:3000"]
                .map(String::from)
                .into(),
            signals: vec!["HUP", "USR2"],
            timeouts: AccessTimeouts {
                connect: Duration::from_secs(5),
                first_byte: Duration::from_secs(60),
                backend: Duration::from_secs(300),
            },
            grace: Duration::from_secs(30),
            logger: Logger::default(),
        };
        assert_eq!(access, expected);
    }

    #[test]
    fn the_command_line_goes_above_the_file() {
        let overrides = AccessOverrides {
            connect: vec!["[::1]:30001".into()],
            to: Some("unix:/app.sock".into()),
            places: Some("2".into()),
            command: vec!["./app".into()],
            ..AccessOverrides::default()
        };
        for (file, connections) in [
            ("", 2),
            (
                "{connect: 'a:1', to: 'b:2', places: 7, connections: 9, command: x}",
                9,
            ),
        ] {
            let access = read(file, &overrides).unwrap();
            assert_eq!(access.connect[0].to_string(), "[::1]:30001");
            assert_eq!(access.to.to_string(), "unix:/app.sock");
            assert_eq!(
                (access.places, access.connections, access.command),
                (2, connections, vec!["./app".to_string()])
            );
        }
    }

    #[test]
    fn what_is_wrong_has_its_line() {
        let check = |text: &str, expected: &str| {
            let problems = read(text, &AccessOverrides::default()).unwrap_err();
            let found = problems.lines().any(|line| line == expected);
            assert!(found, "{text}\n{problems}");
        };
        check(
            "to: 'a:1'",
            "a.yml: connect: missing; write where the server is, connect: 127.0.0.1:30000",
        );
        check(
            "connect: 'a:1'",
            "a.yml: to: missing; write where the application is, to: 127.0.0.1:3000",
        );
        check(
            "\nconnect: a",
            "a.yml:2: connect \"a\": no port; write a:30000",
        );
        check(
            "connect: 'a:0'",
            "a.yml:1: connect \"a:0\": port 0; write the port of the server",
        );
        check(
            "conect: 'a:1'",
            "a.yml:1: unknown key \"conect\"; did you mean \"connect\"?",
        );
        check("docroot: /", "a.yml:1: unknown key \"docroot\"");
        check(
            "to: 'a:1'\nconnections: 0",
            "a.yml:2: connections 0: write a number from 1 to 1000",
        );
        check(
            "lookup_interval: 0",
            "a.yml:1: lookup_interval 0: write at least 1ms",
        );
        check(
            "lookup_interval: often",
            "a.yml:1: lookup_interval \"often\": write seconds, or 500ms, 30s, 5m",
        );
        check(
            "check: {intervall: 5}",
            "a.yml:1: check: unknown key \"intervall\"; did you mean \"interval\"?",
        );
        check(
            "check: {uri: up}",
            "a.yml:1: check.uri \"up\": not a path; write for example /up",
        );
        check(
            "ssl: {certfile: a}",
            "a.yml:1: ssl: neither ca nor fingerprint; write how to verify the server, ca: ca.pem",
        );
        check(
            "ssl: {fingerprint: 12ab}",
            "a.yml:1: ssl.fingerprint \"12ab\": write the SHA-256 of the certificate, 64 hexadecimal digits",
        );
        check(
            "signals: TERM",
            "a.yml:1: signals \"TERM\": write some of HUP, USR1, USR2, TTIN, TTOU",
        );
        check(
            "command: puma -p 3000",
            "a.yml:1: command \"puma -p 3000\": a command with blanks; write its words as a list, [puma, -b, \"unix:app.sock\"]",
        );
        check(
            "name: web 3",
            "a.yml:1: name \"web 3\": not a name; write up to 253 letters, digits and .-_:@, a letter or digit first",
        );
        check(
            "key: [a, b]",
            "a.yml:1: key: more than one key; a server is sent one only",
        );
        check(
            "[]",
            "a.yml: not a configuration; write keys and values, connect: 127.0.0.1:30000",
        );
        let overrides = AccessOverrides {
            places: Some("many".into()),
            ..AccessOverrides::default()
        };
        let problems = read("{connect: 'a:1', to: 'b:1'}", &overrides).unwrap_err();
        assert_eq!(
            problems,
            "command line: places \"many\": write a number from 1 to 1000"
        );
    }
}
