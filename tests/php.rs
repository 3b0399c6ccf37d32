//! Sites whose scripts a php-fpm runs.

use std::fs;
use std::io::Write as _;
use std::net::TcpStream;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::Arc;
use std::thread;

use crate::common::php::{PHP_FPM, Php};
use crate::common::{
    PATIENCE, Proxy, Server, Visitor, assert_contains, assert_lacks, bytes, needs, proxy, secure,
    wait_until,
};

/// Prints the variables of the request.
const SHOW: &str = "<?php header('Content-Type: text/plain'); foreach ($_SERVER as $k => $v) if (is_string($v)) echo \"$k=$v\\n\";";

fn start(php: &Php, keys: &str) -> Proxy {
    Proxy::start(&format!("map:\n{}", php.site("test", keys)))
}

/// The value of a variable that [`SHOW`] has printed.
fn value<'t>(text: &'t str, name: &str) -> Option<&'t str> {
    let lines = text.lines().filter_map(|line| line.split_once('='));
    lines
        .filter(|(known, _)| *known == name)
        .map(|(_, value)| value)
        .next()
}

fn get(target: &str, fields: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: test\r\n{fields}\r\n")
}

#[test]
fn variables_of_a_request() {
    needs!(PHP_FPM);
    let php = Php::start(2);
    php.write("show.php", SHOW);
    let keys = ", underscores: true, fastcgi_params: {APP_ENV: test}, request_id: false, queue_time: false";
    let proxy = start(&php, keys);
    let fields = "Proxy: bad\r\nX-A: 1\r\nx-a: 2\r\nX_A: 3\r\nX.A: 4\r\nCookie: a=1\r\nCookie: b=2\r\nContent_Length: 9\r\n\
        Connection: upgrade\r\nUpgrade: websocket\r\n";
    let mut visitor = proxy.visit();
    let text = visitor.ask(get("/show.php/a%20b/c?x=%20&y", fields)).text();
    let root = php.docroot();
    let root = root.to_str().unwrap();
    for (name, expected) in [
        ("SCRIPT_FILENAME", format!("{root}/show.php")),
        ("SCRIPT_NAME", "/show.php".into()),
        ("PATH_INFO", "/a b/c".into()),
        ("PATH_TRANSLATED", format!("{root}/a b/c")),
        ("PHP_SELF", "/show.php/a b/c".into()),
        ("DOCUMENT_ROOT", root.into()),
        ("DOCUMENT_URI", "/show.php/a b/c".into()),
        ("REQUEST_URI", "/show.php/a%20b/c?x=%20&y".into()),
        ("QUERY_STRING", "x=%20&y".into()),
        ("REQUEST_METHOD", "GET".into()),
        ("REQUEST_SCHEME", "http".into()),
        ("SERVER_PROTOCOL", "HTTP/1.1".into()),
        ("SERVER_NAME", "test".into()),
        ("SERVER_PORT", "80".into()),
        ("SERVER_ADDR", "127.0.0.1".into()),
        ("REMOTE_ADDR", "127.0.0.1".into()),
        ("GATEWAY_INTERFACE", "CGI/1.1".into()),
        ("REDIRECT_STATUS", "200".into()),
        ("APP_ENV", "test".into()),
        ("HTTP_HOST", "test".into()),
        ("HTTP_X_A", "1, 2".into()),
        ("HTTP_COOKIE", "a=1; b=2".into()),
        ("HTTP_X_FORWARDED_FOR", "127.0.0.1".into()),
    ] {
        assert_eq!(value(&text, name), Some(&*expected), "{name} in {text}");
    }
    for name in [
        "HTTP_PROXY",
        "HTTPS",
        "CONTENT_LENGTH",
        "HTTP_CONTENT_LENGTH",
        "HTTP_CONNECTION",
        "HTTP_UPGRADE",
    ] {
        assert_eq!(value(&text, name), None, "{name} in {text}");
    }
    let text = visitor
        .ask("GET http://test:8080/show.php HTTP/1.1\r\nHost: test:8080\r\n\r\n")
        .text();
    assert_eq!(value(&text, "REQUEST_URI"), Some("/show.php"));
    assert_eq!(value(&text, "SERVER_PORT"), Some("8080"));
    assert_eq!(value(&text, "PATH_INFO").unwrap_or_default(), "");
    drop(visitor);
    proxy.finish_without_leak_check();
}

#[test]
fn settings_can_be_reloaded() {
    needs!(PHP_FPM);
    let php = Php::start(2);
    php.write("show.php", SHOW);
    let alias = php.docroot().with_file_name("alias");
    symlink(php.docroot(), &alias).unwrap();
    let config = |keys: &str, lines: &str| format!("{lines}map:\n{}", php.site("test", keys));
    let proxy = Proxy::start(&config(", fastcgi_params: {APP_ENV: one}", ""));
    let show = |fields: &str| proxy.visit().ask(get("/show.php", fields)).text();
    let forwarded = "X-Forwarded-For: 192.0.2.7\r\nX-Forwarded-Proto: https\r\n";
    let text = show(forwarded);
    assert_eq!(value(&text, "APP_ENV"), Some("one"));
    assert_eq!(value(&text, "REMOTE_ADDR"), Some("127.0.0.1"));
    assert!(value(&text, "REMOTE_PORT").is_some() && value(&text, "HTTPS").is_none());

    let keys = format!(", fastcgi_root: {}", alias.display());
    proxy.reload(&config(&keys, "trusted_proxies: 127.0.0.1\n"));
    let text = show(forwarded);
    assert_eq!(value(&text, "APP_ENV"), None);
    assert_eq!(value(&text, "DOCUMENT_ROOT"), alias.to_str());
    assert_eq!(value(&text, "REMOTE_ADDR"), Some("192.0.2.7"));
    assert_eq!(value(&text, "REMOTE_PORT"), None);
    assert_eq!(
        (value(&text, "HTTPS"), value(&text, "SERVER_PORT")),
        (Some("on"), Some("443"))
    );

    // A server that speaks HTTP instead, and back.
    let server = Server::start();
    let address = server.address();
    proxy.reload(&format!(
        "map:\n  - {{incoming: test, proxy: traditional, servers: '{address}', timeout: 60}}\n"
    ));
    let mut visitor = proxy.ask("/show.php");
    let mut backend = server.accept();
    assert_eq!(backend.request().target(), "/show.php");
    backend.reply_to(&mut visitor, "http");
    proxy.reload(&config("", ""));
    assert_eq!(value(&show(""), "SCRIPT_NAME"), Some("/show.php"));
    drop((visitor, backend));
    proxy.finish_without_leak_check();
}

#[test]
fn requests_with_bodies() {
    needs!(PHP_FPM);
    let php = Php::start(2);
    php.write(
        "in.php",
        "<?php $body = file_get_contents('php://input'); echo $_SERVER['REQUEST_METHOD'], ' ', $_SERVER['CONTENT_LENGTH'] ?? '-', ' ', \
         strlen($body), ' ', crc32($body);",
    );
    php.write(
        "file.php",
        "<?php $f = $_FILES['f']; echo $f['name'], ' ', $f['error'], ' ', $f['size'], ' ', crc32(file_get_contents($f['tmp_name'])), ' ', $_POST['a'];",
    );
    // In memory, in a file, and passed on as it arrives.
    for keys in [
        "",
        ", limits: {body_memory: 1k}",
        ", request_buffering: false",
    ] {
        let proxy = start(&php, keys);
        let mut visitor = proxy.visit();
        for size in [0, 1, 7, 16_384, 200_000] {
            let body = bytes(size);
            let sum = crc32(&body);
            visitor.send_post("/in.php", &body);
            visitor
                .answer()
                .assert_body(format!("POST {size} {size} {sum}"));
            visitor
                .send("PUT /in.php HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n");
            for piece in body.chunks(3001) {
                visitor
                    .send(format!("{:x}\r\n", piece.len()))
                    .send(piece)
                    .send("\r\n");
            }
            visitor.send("0\r\n\r\n");
            visitor
                .answer()
                .assert_body(format!("PUT {size} {size} {sum}"));
        }
        let content = bytes(100_000);
        let mut form = Vec::new();
        form.extend_from_slice(b"--x\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\nb\r\n");
        form.extend_from_slice(
            b"--x\r\nContent-Disposition: form-data; name=\"f\"; filename=\"n.jpg\"\r\n\r\n",
        );
        form.extend_from_slice(&content);
        form.extend_from_slice(b"\r\n--x--\r\n");
        let length = form.len();
        visitor.send(format!(
            "POST /file.php HTTP/1.1\r\nHost: test\r\nContent-Type: multipart/form-data; boundary=x\r\nContent-Length: {length}\r\n\r\n"
        ));
        visitor.send(&form);
        visitor
            .answer()
            .assert_body(format!("n.jpg 0 100000 {} b", crc32(&content)));
        drop(visitor);
        proxy.finish_without_leak_check();
    }
}

/// The checksum of PHP's function of this name.
fn crc32(bytes: &[u8]) -> u32 {
    let shift = |sum: u32, _| sum >> 1 ^ (0xedb8_8320 & (sum & 1).wrapping_neg());
    let add = |sum: u32, byte: &u8| (0..8).fold(sum ^ u32::from(*byte), shift);
    !bytes.iter().fold(!0, add)
}

#[test]
fn responses() {
    needs!(PHP_FPM);
    let php = Php::start(2);
    php.write("moved.php", "<?php header('Location: /there?a=b');");
    php.write(
        "status.php",
        "<?php http_response_code((int) $_GET['s']); echo 'body';",
    );
    php.write("cookies.php", "<?php setcookie('a', '1'); setcookie('b', '2'); header('Connection: close'); header('X-B: c'); echo 'x';");
    php.write(
        "length.php",
        "<?php header('Content-Length: 3'); echo 'abc';",
    );
    php.write(
        "short.php",
        "<?php header('Content-Length: 9'); echo 'abc';",
    );
    php.write("large.php", "<?php for ($i = 0; $i < 128; $i++) { echo str_repeat(chr(65 + $i % 26), 65536); flush(); }");
    php.write(
        "send.php",
        "<?php header('X-Sendfile: /secret.txt'); echo 'not this';",
    );
    php.write("secret.txt", "secret");
    let root = php.docroot();
    let keys = format!(
        ", sendfileroot: {}, error_pages: {{418: {}/secret.txt}}",
        root.display(),
        root.display()
    );
    let proxy = start(&php, &keys);
    let mut visitor = proxy.visit();
    let moved = visitor.get("/moved.php");
    assert_eq!(
        (moved.status, moved.field("Location")),
        (302, Some("/there?a=b"))
    );
    for status in [200, 404, 500] {
        let answer = visitor.get(&format!("/status.php?s={status}"));
        answer.assert_body("body");
        assert_eq!(answer.status, status);
    }
    for status in [204, 304] {
        let answer = visitor.get(&format!("/status.php?s={status}"));
        answer.assert_body("");
        assert_eq!(answer.status, status);
    }
    let cookies = visitor.get("/cookies.php");
    cookies.assert_body("x");
    assert_eq!(
        cookies.head.matches("Set-Cookie: ").count(),
        2,
        "{}",
        cookies.head
    );
    assert_eq!(
        (cookies.field("X-B"), cookies.field("Connection")),
        (Some("c"), None)
    );
    let length = visitor.get("/length.php");
    length.assert_body("abc");
    assert_eq!(length.field("Content-Length"), Some("3"));
    visitor.send("HEAD /length.php HTTP/1.1\r\nHost: test\r\n\r\n");
    let head = visitor.answer_to("HEAD");
    assert_eq!(
        (head.status, head.field("Content-Length")),
        (200, Some("3"))
    );
    let large = visitor.get("/large.php");
    large.assert_whole();
    assert_eq!(large.body.len(), 128 << 16);
    assert!((0..128).all(|n| large.body[n << 16] == b'A' + (n % 26) as u8));
    visitor.get("/send.php").assert_body("secret");
    // HTTP/1.0 has no chunks.
    let mut old = proxy.visit();
    old.send("GET /status.php?s=200 HTTP/1.0\r\nHost: test\r\n\r\n");
    assert!(old.rest().ends_with(b"\r\n\r\nbody"));
    // It cannot be taken for a complete one.
    visitor.send_get("/short.php");
    visitor.answer().assert_cut();
    drop((visitor, old));
    proxy.finish_without_leak_check();
}

#[test]
fn which_script_runs() {
    needs!(PHP_FPM);
    let php = Php::start(2);
    let tell = "<?php echo basename(__FILE__), ' ', $_SERVER['SCRIPT_NAME'], ' ', $_SERVER['PATH_INFO'] ?? '';";
    for name in [
        "index.php",
        "x.php",
        "sub/index.php",
        "X.PHP",
        "old.php5",
        ".hidden.php",
        ".git/x.php",
        "x.php~",
        "x.php.bak",
    ] {
        php.write(name, tell);
    }
    for name in [
        "style.css",
        "image.jpg",
        ".htaccess",
        ".env",
        ".git/config",
        ".user.ini",
        "plain/a.txt",
    ] {
        php.write(name, format!("<?php echo 'run'; // {name}"));
    }
    symlink("/etc/passwd", php.docroot().join("passwd.php")).unwrap();
    let proxy = start(&php, ", hidden_files: true");
    let mut visitor = proxy.visit();
    let mut check = |target: &str, status: u16, expected: &str| {
        let answer = visitor.get(target);
        let text = answer.text();
        assert_eq!(answer.status, status, "{target}: {text}");
        match status {
            200 => assert_eq!(text.trim(), expected, "{target}"),
            _ => assert_contains(&text, expected),
        }
        // Nothing is served as source text, and php-fpm is not asked for what does not exist.
        assert!(
            target == "/style.css" || target == "/image.jpg" || !text.contains("<?php"),
            "{target}: {text}"
        );
        for answer in [
            "File not found.",
            "No input file",
            "Access denied",
            "Primary script",
        ] {
            assert_lacks(&text, answer);
        }
    };
    check("/style.css", 200, "<?php echo 'run'; // style.css");
    check("/image.jpg", 200, "<?php echo 'run'; // image.jpg");
    let front = "index.php /index.php";
    for target in [
        "/",
        "/index.php",
        "/any/path?a=b",
        "/any/path/",
        "/plain/",
        "/image.jpg/",
        "/%00",
        "/x.php%00.jpg",
        "/a/..%2fb",
        "/index.php?/x.php",
    ] {
        check(target, 200, front);
    }
    check("/x.php", 200, "x.php /x.php");
    check("//x.php", 200, "x.php /x.php");
    check("/x%2Ephp", 200, "x.php /x.php");
    check("/x.php/", 200, "x.php /x.php /");
    check("/x.php/a/b.php", 200, "x.php /x.php /a/b.php");
    check("/x.php%2fa", 200, "x.php /x.php /a");
    check("/sub/", 200, "index.php /sub/index.php");
    check("/sub", 301, "This is a directory.");
    let missing = "There is no such file here.";
    for target in [
        "/image.jpg/x.php",
        "/image.jpg/.php",
        "/style.css/x.php/y",
        "/missing.php",
        "/missing.php/x",
        "/sub/x.php",
        "/X.PHP",
        "/INDEX.PHP",
        "/INDEX.PHP/",
        "/old.php5",
        "/x.php%20",
        "/sub/../x.php",
        "/sub/%2e%2e/x.php",
        "/passwd.php",
    ] {
        check(target, 404, missing);
    }
    for target in [
        "/x.php~",
        "/x.php.bak",
        "/.htaccess",
        "/.env",
        "/.git/config",
        "/.user.ini",
        "/%2egit/config",
    ] {
        check(target, 200, front);
    }
    let answer = visitor.ask("OPTIONS * HTTP/1.1\r\nHost: test\r\n\r\n");
    assert_eq!(answer.status, 200);
    drop(visitor);
    // Another script for other paths, or none.
    proxy.reload(&format!("map:\n{}", php.site("test", ", fallback: false")));
    let mut visitor = proxy.visit();
    assert_eq!(visitor.get("/any/path").status, 404);
    assert_eq!(visitor.get("/.git/x.php").status, 404);
    drop(visitor);
    proxy.reload(&format!("map:\n{}", php.site("test", ", fallback: /x.php")));
    let mut visitor = proxy.visit();
    assert_eq!(visitor.get("/any/path").text().trim(), "x.php /x.php");
    drop(visitor);
    proxy.reload(&format!(
        "map:\n{}",
        php.site("test", ", fallback: /style.css")
    ));
    let mut visitor = proxy.visit();
    assert_contains(&visitor.get("/any/path").text(), "// style.css");
    assert_eq!(visitor.get("/missing.php").status, 404);
    drop(visitor);
    proxy.finish_without_leak_check();
}

/// Waits for a file beside the script.
const SLOW: &str =
    "<?php while (!file_exists(__DIR__.'/go')) { usleep(2000); clearstatcache(); } echo 'done';";

#[test]
fn slow_scripts_hold_no_worker() {
    needs!(PHP_FPM);
    let php = Php::start(3);
    php.write("slow.php", SLOW);
    php.write("quick.php", "<?php echo 'quick';");
    php.write("a.txt", "file");
    let proxy = Proxy::start(&format!("workers: 2\nmap:\n{}", php.site("test", "")));
    // More than there are workers, and with the last ones more than there are processes.
    let mut slow: Vec<_> = (0..2).map(|_| proxy.ask("/slow.php")).collect();
    let mut visitor = proxy.visit();
    for _ in 0..3 {
        visitor.get("/quick.php").assert_body("quick");
    }
    slow.extend((0..6).map(|_| proxy.ask("/slow.php")));
    visitor.get("/a.txt").assert_body("file");
    let waiting = proxy.ask("/quick.php");
    fs::write(php.docroot().join("go"), "").unwrap();
    for visitor in slow.iter_mut() {
        visitor.answer().assert_body("done");
    }
    let mut waiting = waiting;
    waiting.answer().assert_body("quick");
    drop((slow, visitor, waiting));
    proxy.finish_without_leak_check();
}

#[test]
fn connections_are_used_again_but_not_kept_from_others() {
    needs!(PHP_FPM);
    // One request keeps the only process, and all others wait.
    let php = Php::start(1);
    php.write("a.php", "<?php echo 'a';");
    let sites = php.site("test", ", timeouts: {idle: 600}") + &php.site("other", "");
    let proxy = Proxy::start(&format!("map:\n{sites}"));
    let mut visitor = proxy.visit();
    let closed = || proxy.log().matches("a connection to fastcgi:unix:").count();
    wait_until("ten responses on fewer connections", || {
        let before = closed();
        for _ in 0..10 {
            visitor.get("/a.php").assert_body("a");
        }
        closed() < before + 10
    });
    visitor.send_post("/a.php", "x");
    visitor.answer().assert_body("a");
    visitor.get("/a.php").assert_body("a");
    let mut other = proxy.visit();
    other
        .ask("GET /a.php HTTP/1.1\r\nHost: other\r\n\r\n")
        .assert_body("a");
    // Several at once take turns.
    let mut many: Vec<_> = (0..5).map(|_| proxy.ask("/a.php")).collect();
    for visitor in &mut many {
        visitor.answer().assert_body("a");
    }
    drop((visitor, other, many));
    proxy.finish_without_leak_check();
}

#[test]
fn faults() {
    needs!(PHP_FPM);
    let mut php = Php::start(2);
    php.write("log.php", "<?php error_log(\"first\\x1b[31m\\nsecond\"); trigger_error('third', E_USER_WARNING); echo 'ok';");
    php.write(
        "dies.php",
        "<?php echo str_repeat('x', 100000); flush(); exec('kill -9 '.getmypid()); sleep(9);",
    );
    php.write("once.php", "<?php $f = __DIR__.'/died'; if (!file_exists($f)) { touch($f); exec('kill -9 '.getmypid()); sleep(9); } echo 'again';");
    php.write("ok.php", "<?php echo 'ok';");
    let proxy = start(&php, "");
    let mut visitor = proxy.visit();
    visitor.get("/log.php").assert_whole();
    proxy.wait_for_log("PHP message: PHP Warning:  third in ");
    let log = proxy.log();
    let line = log.lines().find(|line| line.contains("first")).unwrap();
    assert_contains(line, "[WARN] site test: server fastcgi:unix:");
    assert_lacks(&log, "\u{1b}");
    // Nothing of the response was passed on, so another process can send it.
    visitor.get("/once.php").assert_body("again");
    visitor.send_get("/dies.php");
    let answer = visitor.answer();
    assert_eq!(answer.status, 200);
    answer.assert_cut();
    // A request waits for a php-fpm that is started again.
    let mut visitor = proxy.visit();
    visitor.get("/ok.php").assert_body("ok");
    php.stop();
    visitor.send_get("/ok.php");
    proxy.wait_for_log("is set aside");
    php.run();
    visitor.answer().assert_body("ok");
    drop(visitor);
    proxy.finish_without_leak_check();
}

#[test]
fn a_missing_socket_is_noted() {
    let directory = tempfile::tempdir().unwrap();
    let check = |address: &str| {
        let text = format!(
            "cluster_port: 80\nmap:\n  - incoming: test\n    docroot: .\n    outgoing: '{address}'\n"
        );
        fs::write(directory.path().join("swiftiply.yml"), text).unwrap();
        let checked = proxy::check(directory.path());
        assert_eq!(checked.code, Some(0), "{checked:?}");
        checked.out + &checked.err
    };
    let note = "swiftiply.yml:5: map[1] (test): outgoing \"fastcgi:unix:socket\": ";
    let missing = check("fastcgi:unix:socket");
    assert_contains(
        &missing,
        &format!("{note}no server listens there now: no such file or directory"),
    );
    fs::write(directory.path().join("socket"), "").unwrap();
    assert_contains(
        &check("fastcgi:unix:socket"),
        &format!("{note}not a socket"),
    );
    fs::remove_file(directory.path().join("socket")).unwrap();
    let _listener = UnixListener::bind(directory.path().join("socket")).unwrap();
    assert_lacks(&check("fastcgi:unix:socket"), "outgoing");
    assert_lacks(&check("fastcgi://127.0.0.1:1"), "outgoing");
}

#[test]
fn servers_that_break_the_protocol() {
    // As if a web server listened there.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let docroot = tempfile::tempdir().unwrap();
    fs::write(docroot.path().join("index.php"), "").unwrap();
    let proxy = Proxy::start(&format!(
        "map:\n  - {{incoming: test, docroot: {}, outgoing: 'fastcgi://{address}', retries: 0}}\n",
        docroot.path().display()
    ));
    let serve = thread::spawn(move || {
        let header = |kind: u8, length: u8| [1, kind, 0, 1, 0, length, 0, 0];
        let text = b"Status: 200\n\nhello";
        let begun = [&header(6, text.len() as u8)[..], text].concat();
        let overloaded = [&header(3, 8)[..], &[0, 0, 0, 0, 2, 0, 0, 0]].concat();
        for bytes in [
            b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(),
            overloaded,
            begun,
        ] {
            let (mut stream, _) = listener.accept().unwrap();
            stream.write_all(&bytes).unwrap();
            stream.shutdown(std::net::Shutdown::Write).unwrap();
            // Until the other side has ended.
            let _ = std::io::copy(&mut stream, &mut std::io::sink());
        }
    });
    for reason in [
        "the server does not speak FastCGI",
        "the server is overloaded",
    ] {
        assert_eq!(Visitor::asking(proxy.address(), "/").answer().status, 502);
        proxy.wait_for_log(&format!("bad response: {reason}"));
    }
    Visitor::asking(proxy.address(), "/").answer().assert_cut();
    serve.join().unwrap();
    proxy.finish_without_leak_check();
}

#[test]
fn client_certificates() {
    needs!(PHP_FPM, "openssl");
    let php = Php::start(2);
    php.write("show.php", SHOW);
    let files = tempfile::tempdir().unwrap();
    let (ca, certfile, keyfile) = secure::authority(files.path(), "client.test");
    let (own, own_key) = secure::certificate(files.path(), "server", &["test"]);
    let keys = format!(
        ", underscores: true, client_ca: {}, client_certificate: optional",
        ca.display()
    );
    let proxy = Proxy::start(&format!(
        "cluster_port: 0\ncluster_address: 127.0.0.1\nssl: {{at: '127.0.0.2:0', {}}}\nmap:\n{}",
        secure::pair(&own, &own_key),
        php.site("test", &keys)
    ));
    let forged = get(
        "/show.php",
        "X-SSL-Client-Verify: FORGED\r\nx_ssl_client_s_dn: FORGED\r\nX-SSL-Client-S-DN: FORGED\r\n\
         X.SSL.Client.Serial: FORGED\r\n",
    );
    let ask = |own: Option<(&Path, &Path)>| {
        let config = Arc::new(secure::config_as(rustls::DEFAULT_VERSIONS, own));
        let socket = TcpStream::connect(proxy.addresses()[1]).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut visitor = Visitor::with(secure::connect_with(config, socket, "test"));
        visitor.ask(&forged).text()
    };
    let text = ask(Some((&*certfile, &*keyfile)));
    let fingerprint = secure::fingerprint(&certfile)
        .replace(':', "")
        .to_lowercase();
    for (name, expected) in [
        ("HTTPS", "on"),
        ("HTTP_X_SSL_CLIENT_VERIFY", "SUCCESS"),
        ("HTTP_X_SSL_CLIENT_S_DN", "CN=leaf"),
        ("HTTP_X_SSL_CLIENT_I_DN", "CN=authority of client.test"),
        ("HTTP_X_SSL_CLIENT_FINGERPRINT", &*fingerprint),
    ] {
        assert_eq!(value(&text, name), Some(expected), "{name} in {text}");
    }
    assert!(value(&text, "HTTP_X_SSL_CLIENT_SERIAL").is_some(), "{text}");
    assert_lacks(&text, "FORGED");
    // Without a certificate, with TLS and without.
    let text = ask(None);
    assert_eq!(value(&text, "HTTP_X_SSL_CLIENT_VERIFY"), Some("NONE"));
    assert_eq!(value(&text, "HTTP_X_SSL_CLIENT_S_DN"), None);
    assert_lacks(&text, "FORGED");
    let text = proxy.visit().ask(&forged).text();
    assert_eq!(value(&text, "HTTPS"), None);
    assert_eq!(value(&text, "HTTP_X_SSL_CLIENT_VERIFY"), Some("NONE"));
    assert_lacks(&text, "FORGED");
    proxy.finish_without_leak_check();
}
