//! An authority to test with: pebble of Let's Encrypt, with its server of the domain name system.
//!
//! Each has an address of its own in 127.0.0.0/8, so that all ports can be the usual ones of pebble.

use std::fs;
use std::net::{Ipv4Addr, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU8, Ordering};

use tempfile::TempDir;

use super::{Running, wait_until};

/// What a test that uses it needs.
pub(crate) const PROGRAMS: [&str; 3] = ["pebble", "pebble-challtestsrv", "openssl"];

/// A running authority.
pub(crate) struct Pebble {
    ip: Ipv4Addr,
    files: TempDir,
    authority: Option<Running>,
    _names: Running,
    /// More members of its configuration.
    members: String,
    /// Variables of its environment.
    variables: Vec<(String, String)>,
}

impl Pebble {
    /// Starts one whose certificates are valid for so many seconds.
    pub(crate) fn start(seconds: u32) -> Self {
        let mut pebble = Self::prepare(seconds);
        pebble.begin();
        pebble
    }

    /// Everything but the authority itself.
    pub(crate) fn prepare(seconds: u32) -> Self {
        static COUNT: AtomicU8 = AtomicU8::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let [.., high, low] = std::process::id().to_be_bytes();
        let ip = Ipv4Addr::new(127, 100 + count, high, low);
        let files = tempfile::tempdir().unwrap();
        let made = Command::new("openssl")
            .args([
                "req",
                "-x509",
                "-nodes",
                "-days",
                "30",
                "-subj",
                "/CN=pebble",
            ])
            .args(["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"])
            .args(["-addext", &format!("subjectAltName=IP:{ip}")])
            .args(["-addext", "basicConstraints=critical,CA:FALSE"])
            .args(["-keyout", "key.pem", "-out", "cert.pem"])
            .current_dir(&files)
            .output()
            .unwrap();
        assert!(made.status.success(), "{made:?}");
        let names = Command::new("pebble-challtestsrv")
            .args(["-defaultIPv4", &ip.to_string(), "-defaultIPv6", ""])
            .args(["-http01", "", "-https01", "", "-tlsalpn01", ""])
            .args(["-dns01", &format!("{ip}:8053")])
            .args(["-management", &format!("{ip}:8055")])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let names = Running(names);
        wait_until("the domain name system", || {
            TcpStream::connect((ip, 8055)).is_ok() && TcpStream::connect((ip, 8053)).is_ok()
        });
        Self {
            ip,
            files,
            authority: None,
            _names: names,
            members: format!(r#""certificateValidityPeriod": {seconds}"#),
            variables: vec![
                ("PEBBLE_VA_NOSLEEP".into(), "1".into()),
                ("PEBBLE_WFE_NONCEREJECT".into(), "20".into()),
            ],
        }
    }

    /// Adds members to the configuration of the authority.
    pub(crate) fn with(mut self, members: &str) -> Self {
        self.members.push_str(&format!(", {members}"));
        self
    }

    /// Starts the authority, which knows nothing of the time before.
    pub(crate) fn begin(&mut self) {
        let ip = self.ip;
        let members = &self.members;
        let text = format!(
            r#"{{"pebble": {{"listenAddress": "{ip}:14000", "managementListenAddress": "{ip}:15000",
                "certificate": "cert.pem", "privateKey": "key.pem", "httpPort": 5002, "tlsPort": 5001, {members}}}}}"#
        );
        fs::write(self.files.path().join("pebble.json"), text).unwrap();
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(self.files.path().join("log"))
            .unwrap();
        let authority = Command::new("pebble")
            .args([
                "-config",
                "pebble.json",
                "-dnsserver",
                &format!("{ip}:8053"),
            ])
            .envs(self.variables.iter().cloned())
            .current_dir(&self.files)
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.authority = Some(Running(authority));
        wait_until("the authority", || TcpStream::connect((ip, 14000)).is_ok());
    }

    /// Ends the authority.
    pub(crate) fn end(&mut self) {
        self.authority = None;
    }

    /// The address at which it looks for the servers of all names.
    pub(crate) fn ip(&self) -> Ipv4Addr {
        self.ip
    }

    /// Lets the domain name system have another address for a name.
    pub(crate) fn name_is_at(&self, name: &str, ip: Ipv4Addr) {
        for path in ["clear-a", "add-a"] {
            let body = format!(r#"{{"host": "{name}", "addresses": ["{ip}"]}}"#);
            let mut visitor = super::Visitor::connect((self.ip, 8055).into());
            let length = body.len();
            visitor.send(format!(
                "POST /{path} HTTP/1.1\r\nHost: dns\r\nContent-Length: {length}\r\n\r\n{body}"
            ));
            assert_eq!(visitor.answer().status, 200);
        }
    }

    /// The lines of a configuration with which a proxy gets certificates from it, kept in `state`.
    pub(crate) fn lines(&self, more: &str) -> String {
        let (ip, ca) = (self.ip, self.files.path().join("cert.pem"));
        let ca = ca.display();
        format!(
            "cluster_address: {ip}\ncluster_port: 5002\nssl: {{at: '{ip}:5001'}}\nstate_directory: state\n\
             acme: {{email: me@example.com, directory: 'https://{ip}:14000/dir', ca: '{ca}'{more}}}\n"
        )
    }

    /// The same lines with a directory of its own for what is kept, which survives the proxy.
    pub(crate) fn lines_with_state(&self, state: &Path) -> String {
        let kept = format!("state_directory: {}", state.display());
        self.lines("").replace("state_directory: state", &kept)
    }

    /// How many certificates it has issued.
    pub(crate) fn issued(&self) -> usize {
        let log = fs::read_to_string(self.files.path().join("log")).unwrap();
        log.matches("Issued certificate serial").count()
    }
}
