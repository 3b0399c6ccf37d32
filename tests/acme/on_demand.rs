//! Names that no site has: certificates on demand (`tls: on_demand`), if the operator's program allows them.

use std::io::{Read, Write};
use std::sync::Mutex;

use rcgen::{CertificateParams, KeyPair};

use super::*;

/// A program that allows some names.
struct AskServer {
    address: SocketAddr,
    state: Arc<AskState>,
    thread: Option<thread::JoinHandle<()>>,
}

#[derive(Default)]
struct AskState {
    allowed: Mutex<Vec<String>>,
    /// The targets of all requests.
    asked: Mutex<Vec<String>>,
    is_over: AtomicBool,
}

impl AskServer {
    fn start(allowed: &[&str]) -> Self {
        Self::start_at((Ipv4Addr::LOCALHOST, 0).into(), allowed)
    }

    fn start_at(address: SocketAddr, allowed: &[&str]) -> Self {
        let listener = TcpListener::bind(address).unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(AskState::default());
        state.allow(allowed);
        let thread = {
            let state = Arc::clone(&state);
            thread::spawn(move || {
                while let Ok((mut stream, _)) = listener.accept() {
                    if state.is_over.load(Ordering::Relaxed) {
                        break;
                    }
                    let _ = state.respond(&mut stream);
                }
            })
        };
        Self {
            address,
            state,
            thread: Some(thread),
        }
    }

    /// How often it was asked for a name.
    fn count(&self, name: &str) -> usize {
        let asked = self.state.asked.lock().unwrap();
        let target = format!("/allowed?key=1&domain={name}");
        asked.iter().filter(|one| **one == target).count()
    }

    /// How often it was asked.
    fn count_all(&self) -> usize {
        self.state.asked.lock().unwrap().len()
    }
}

impl AskState {
    fn allow(&self, names: &[&str]) {
        *self.allowed.lock().unwrap() = names.iter().map(ToString::to_string).collect();
    }

    fn respond(&self, stream: &mut TcpStream) -> std::io::Result<()> {
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte)?;
            head.extend(byte);
        }
        let head = String::from_utf8(head).unwrap();
        let target = head.split(' ').nth(1).unwrap().to_owned();
        assert!(head.starts_with("GET "), "{head}");
        let name = target.rsplit('=').next().unwrap();
        let is_allowed = self.allowed.lock().unwrap().iter().any(|one| one == name);
        // Another status of success is not enough.
        let status = if is_allowed { "200 OK" } else { "204 No" };
        self.asked.lock().unwrap().push(target);
        let fields = "Content-Length: 0\r\nConnection: close";
        write!(stream, "HTTP/1.1 {status}\r\n{fields}\r\n\r\n")
    }
}

impl Drop for AskServer {
    fn drop(&mut self) {
        self.state.is_over.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(self.address);
        let _ = self.thread.take().unwrap().join();
    }
}

/// Lines of a configuration that asks this address, with what is kept in a directory.
fn lines(pebble: &Pebble, ask: SocketAddr, kept: &Path) -> String {
    let kept = format!("state_directory: {}", kept.display());
    let lines = pebble.lines(&format!(", ask: 'http://{ask}/allowed?key=1'"));
    lines.replace("state_directory: state", &kept)
}

/// A site for names that are not known, and one without certificates.
const SITES: &str = "status: {at: 'unix:status.sock'}\nmap:\n\
                     - {default: true, outgoing: '127.0.0.1:0', tls: on_demand}\n\
                     - {incoming: [plain.test, '*.plain.test'], outgoing: 'unix:plain.sock'}\n";

#[test]
fn names_that_clients_ask_for() {
    needs_pebble!();
    let pebble = Pebble::start(LONG);
    let kept = tempfile::tempdir().unwrap();
    let mut ask = Some(AskServer::start(&["one.test", "x.plain.test"]));
    let address = ask.as_ref().unwrap().address;
    let lines = lines(&pebble, address, kept.path());
    let proxy = Proxy::start(&format!("{lines}{SITES}"));
    let echo = Echo::dial(proxy.dial_ins()[0], "00000000000e", "");
    // The handshake of the first client waits for the certificate.
    let one = shown(tls(&pebble), "one.test");
    assert!(is_issued(&one), "{}", proxy.log());
    assert_contains(
        &proxy.log(),
        "certificate one.test: allowed by acme.ask; ordering one from ",
    );
    let mut visitor = Visitor::connect_secure(tls(&pebble), "One.test");
    let answer = visitor.ask("GET /x HTTP/1.1\r\nHost: one.test\r\n\r\n");
    assert_eq!(answer.text(), "/x");
    let mut plain = proxy.visit();
    let answer = plain.ask("GET /x HTTP/1.1\r\nHost: one.test\r\n\r\n");
    assert_eq!(answer.status, 308);
    // A name that is refused is not ordered, nor asked for again.
    let asked = ask.as_ref().unwrap();
    for _ in 0..3 {
        assert!(!is_issued(&shown(tls(&pebble), "refused.test")));
    }
    assert_eq!(asked.count("refused.test"), 1);
    // Neither names of other sites nor what is no name of a host are asked for.
    for name in ["plain.test", "x.plain.test", "nodot", "a_b.test"] {
        assert!(!is_issued(&shown(tls(&pebble), name)), "{name}");
    }
    assert_eq!((asked.count("one.test"), asked.count_all()), (1, 2));
    // Operators see it.
    let list = certificates(&proxy, &[], false);
    let list = list["certificates"].as_array().unwrap();
    assert_eq!(list.len(), 1, "{list:?}");
    assert_eq!(list[0]["names"][0], "one.test");
    assert_eq!(list[0]["on_demand"], true);
    for (site, count) in [("default", 1), ("plain.test", 0)] {
        let list = certificates(&proxy, &[site], false);
        assert_eq!(list["certificates"].as_array().unwrap().len(), count);
    }
    // Without a response nothing is ordered, and clients do not wait.
    drop(ask.take());
    assert!(!is_issued(&shown(tls(&pebble), "two.test")));
    proxy.wait_for_log(&format!(
        "acme.ask: http://{address}/allowed: connection refused; no certificate is ordered for two.test, nor for "
    ));
    // It survives a reload and a restart.
    proxy.reload(&format!("{lines}{SITES}").replace("unix:plain", "unix:other"));
    assert_eq!(shown(tls(&pebble), "one.test"), one);
    // The query may have a secret.
    assert_lacks(&proxy.log(), "key=1");
    drop((echo, visitor, plain));
    proxy.finish_without_leak_check();
    let asked = AskServer::start_at(address, &["two.test"]);
    let proxy = Proxy::start(&format!("{lines}{SITES}"));
    assert_eq!(shown(tls(&pebble), "one.test"), one);
    proxy.wait_for_log("tls: on_demand: 1 certificates were obtained before");
    assert_eq!((asked.count_all(), pebble.issued()), (0, 1));
    assert!(is_issued(&shown(tls(&pebble), "two.test")));
    // Without such a site it is not used any more.
    let auto = "map: [{incoming: plain.test, outgoing: '127.0.0.1:0', tls: auto}]\n";
    proxy.reload(&format!("{lines}{auto}"));
    wait_for_certificate(tls(&pebble), "plain.test");
    assert_ne!(shown(tls(&pebble), "one.test"), one);
    proxy.finish_without_leak_check();
}

#[test]
fn renewals_are_asked_for_again() {
    needs_pebble!();
    let pebble = Pebble::start(LONG);
    let kept = tempfile::tempdir().unwrap();
    let directory = kept.path().join(format!("acme/{}-14000-dir", pebble.ip()));
    fs::create_dir_all(&directory).unwrap();
    // Certificates that are to be renewed, one that has expired, and that of a site without certificates.
    let day = Duration::from_secs(86_400);
    let keep = |name: &str, from: Duration, left: Option<Duration>| {
        let now = std::time::SystemTime::now();
        let mut params = CertificateParams::new([name.to_owned()]).unwrap();
        params.not_before = (now - from).into();
        params.not_after = left.map_or(now - day, |left| now + left).into();
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        let text = format!("{}{}", key.serialize_pem(), certificate.pem());
        fs::write(directory.join(format!("{name}.pem")), text).unwrap();
        CertificateFacts::read(certificate.der()).unwrap()
    };
    keep("kept.test", 80 * day, Some(10 * day));
    let refused = keep("refused.test", 80 * day, Some(10 * day));
    keep("expired.test", 80 * day, None);
    keep("plain.test", 10 * day, Some(80 * day));
    let ask = AskServer::start(&["kept.test"]);
    let lines = lines(&pebble, ask.address, kept.path());
    let proxy = Proxy::start(&format!("{lines}{SITES}"));
    proxy.wait_for_log("tls: on_demand: 2 certificates were obtained before");
    wait_for_certificate(tls(&pebble), "kept.test");
    proxy.wait_for_log(
        "certificate refused.test: acme.ask does not allow it any more; not renewed, the present one is valid until ",
    );
    assert_eq!(shown(tls(&pebble), "refused.test"), refused);
    assert_eq!(ask.count_all(), 2);
    // An expired certificate counts as none.
    ask.state
        .allow(&["kept.test", "refused.test", "expired.test"]);
    assert!(is_issued(&shown(tls(&pebble), "expired.test")));
    // A reload asks at once.
    proxy.reload(&format!("{lines}{SITES}"));
    wait_for_certificate(tls(&pebble), "refused.test");
    proxy.finish_without_leak_check();
}

#[test]
fn on_demand_for_the_names_of_a_wildcard() {
    needs_pebble!();
    let mut pebble = Pebble::prepare(LONG);
    let kept = tempfile::tempdir().unwrap();
    let ask = AskServer::start(&["a.shops.test", "b.shops.test", "else.test"]);
    let lines = lines(&pebble, ask.address, kept.path());
    let site = "map: [{incoming: ['*.shops.test', shops.test], outgoing: '127.0.0.1:0', tls: on_demand}]\n";
    let proxy = Proxy::start(&format!("{lines}{site}"));
    // The authority is down, so the client gets a self-signed certificate in the end.
    assert!(!is_issued(&shown(tls(&pebble), "a.shops.test")));
    proxy.wait_for_log("certificate a.shops.test: not obtained: ");
    pebble.begin();
    wait_for_certificate(tls(&pebble), "a.shops.test");
    // A known name is not asked for, nor one that is not of the site. That gets the certificate of the known name.
    let first = wait_for_certificate(tls(&pebble), "shops.test");
    assert_eq!(shown(tls(&pebble), "else.test"), first);
    assert_eq!(shown(tls(&pebble), "x.b.shops.test"), first);
    assert_eq!(ask.count("else.test") + ask.count("shops.test"), 0);
    // A client that leaves meanwhile changes nothing.
    drop(TcpStream::connect(tls(&pebble)).unwrap());
    let mut leaving = TcpStream::connect(tls(&pebble)).unwrap();
    leaving.write_all(&[0x16, 0x03, 0x01]).unwrap();
    drop(leaving);
    assert!(is_issued(&shown(tls(&pebble), "b.shops.test")));
    proxy.finish_without_leak_check();
}
