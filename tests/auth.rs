//! Paths that ask for a password (`basic_auth`), with the files of htpasswd(1) and openssl(1).

use std::fs;
use std::iter;
use std::path::Path;
use std::process::Command;

use nix::sys::signal::Signal;
use tempfile::TempDir;

use crate::common::{Backend, Echo, Proxy, Visitor, assert_lacks, needs, proxy, wait_until};

/// What a program prints.
fn output(program: &str, arguments: &[&str]) -> String {
    let run = Command::new(program).args(arguments).output();
    let run = run.unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(run.status.success(), "{run:?}");
    String::from_utf8(run.stdout).unwrap().trim().to_owned()
}

/// A line by htpasswd, with bcrypt of this cost.
fn bcrypt(name: &str, password: &str, cost: &str) -> String {
    output("htpasswd", &["-nbBC", cost, name, password])
}

/// A file with these users, all of whom have the password `secret`.
fn users(directory: &Path, names: &[&str]) -> String {
    let file = directory.join("users");
    let lines = names.iter().map(|name| bcrypt(name, "secret", "4") + "\n");
    fs::write(&file, lines.collect::<String>()).unwrap();
    file.display().to_string()
}

/// One site with this `basic_auth`.
fn site(basic_auth: &str) -> String {
    let site = proxy::site(&format!("basic_auth: {basic_auth}"));
    format!("{site}\naccess_log: {{file: access, format: json}}")
}

/// The folder with the file of bob, whose password is `secret`, hashed at this cost, and one site that asks for it.
fn for_bob(cost: &str, keys: &str) -> (TempDir, String) {
    let files = tempfile::tempdir().unwrap();
    let file = files.path().join("users");
    fs::write(&file, bcrypt("bob", "secret", cost)).unwrap();
    let yaml = site(&format!("{{users_file: {}{keys}}}", file.display()));
    (files, yaml)
}

/// A request with a name and a password.
fn request(target: &str, credentials: &str) -> String {
    // By another program than the one under test.
    let encoded = output(
        "sh",
        &["-c", "printf %s \"$0\" | openssl base64 -A", credentials],
    );
    format!("GET {target} HTTP/1.1\r\nHost: test\r\nAuthorization: Basic {encoded}\r\n\r\n")
}

fn status(visitor: &mut Visitor, target: &str, credentials: &str) -> u16 {
    visitor.ask(request(target, credentials)).status
}

#[test]
fn password_required() {
    needs!("htpasswd", "openssl");
    let files = tempfile::tempdir().unwrap();
    let path = users(files.path(), &["bob"]);
    let sha = format!("ann:{}", output("openssl", &["passwd", "-6", "secret"]));
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, format!("# users\n{text}{sha}\n")).unwrap();
    let proxy = Proxy::start(&site(&format!(
        "[{{users_file: {path}, realm: 'The \"staff\"', paths: /admin}}, {{users_file: {path}, paths: /api, forward: true}}]"
    )));
    let mut backend = Backend::dial(proxy.dial_in());
    let mut visitor = proxy.visit();
    let refused = visitor.get("/admin/x");
    assert_eq!(refused.status, 401);
    assert_eq!(
        refused.field("WWW-Authenticate"),
        Some(r#"Basic realm="The \"staff\"", charset="UTF-8""#)
    );
    // On the same connection, for the response was complete.
    for wrong in ["bob:Secret", "bob:", "ann:", "nobody:secret", ":", "bob"] {
        assert_eq!(status(&mut visitor, "/admin", wrong), 401, "{wrong}");
    }
    for (number, name) in ["bob", "ann", "bob", "ann"].into_iter().enumerate() {
        visitor.send(request(
            &format!("/admin/{number}"),
            &format!("{name}:secret"),
        ));
        let seen = backend.request();
        assert_eq!(seen.target(), format!("/admin/{number}"));
        assert_eq!(seen.field("Authorization"), None);
        backend.reply_to(&mut visitor, name);
    }
    // The field is removed where a password is required, and passed on elsewhere.
    for target in ["/api", "/other"] {
        visitor.send(request(target, "bob:secret"));
        assert_eq!(
            backend.request().field("Authorization"),
            Some("Basic Ym9iOnNlY3JldA==")
        );
        backend.reply("");
        assert_eq!(visitor.answer().status, 200);
    }
    // The health page needs no password.
    assert_eq!(visitor.get("/swiftiply_health").status, 200);
    proxy.signal(Signal::SIGUSR1);
    wait_until("the line of the access log", || {
        let log = proxy.read("access");
        log.contains(r#""user":"ann","method":"GET","target":"/admin/3""#)
            && log.contains(r#""user":"-","method":"GET","target":"/other""#)
            && log.contains(r#""user":"-","method":"GET","target":"/admin/x""#)
    });
    proxy.wait_for_log(": site test: GET /admin: wrong name or password, name \"nobody\"");
    assert_lacks(&proxy.log(), "Secret");
    drop((visitor, backend));
    proxy.finish();
}

#[test]
fn other_spellings() {
    needs!("htpasswd", "openssl");
    let (_files, yaml) = for_bob("4", ", paths: [/admin, /a b]");
    let proxy = Proxy::start(&yaml);
    let echo = Echo::dial(proxy.dial_in(), "00000000000e", "");
    let mut visitor = proxy.visit();
    for target in [
        "/admin",
        "/admin?x",
        "//admin",
        "/./admin",
        "/%61dmin",
        "/admin%2fx",
        "/%2Fadmin",
        "/%2e/admin",
        "/admin;x",
        "/admin;/x",
        "/;x/admin",
        "/%5cadmin",
        "/a%20b",
        "/Admin",
        "/ADMIN/x",
        "/admin.json",
        "/admin.html;x",
        "http://test/admin",
    ] {
        assert_eq!(visitor.get(target).status, 401, "{target}");
    }
    for target in [
        "/x/../admin",
        "/x/%2e%2E/admin",
        "/admin/..",
        "/x%2f..%2fy",
        "/x/..;/admin",
        "/x\\..\\admin",
    ] {
        assert_eq!(visitor.get(target).status, 400, "{target}");
    }
    for (method, expected) in [("HEAD", 401), ("OPTIONS", 401), ("DELETE", 401)] {
        visitor.send(format!("{method} /admin HTTP/1.1\r\nHost: test\r\n\r\n"));
        assert_eq!(visitor.answer_to(method).status, expected, "{method}");
    }
    assert_eq!(echo.answered(), 0);
    for target in ["/", "/administrator", "/x/admin"] {
        assert_eq!(visitor.get(target).text(), target);
    }
    // With two fields it is unclear which one counts.
    let twice = request("/admin", "bob:secret")
        .replace("\r\n\r\n", "\r\nAuthorization: Basic eDp5\r\n\r\n");
    assert_eq!(visitor.ask(twice).status, 401);
    drop((visitor, echo));
    proxy.finish();
}

#[test]
fn files_are_guarded_too() {
    needs!("htpasswd", "openssl");
    let files = tempfile::tempdir().unwrap();
    let path = users(files.path(), &["bob"]);
    let www = files.path().join("www/admin");
    fs::create_dir_all(&www).unwrap();
    for name in ["a.css", "a.css.gz", "index.html"] {
        fs::write(www.join(name), name).unwrap();
    }
    let root = files.path().join("www");
    let yaml = site(&format!(
        "{{users_file: {path}, paths: /admin}}, docroot: {}",
        root.display()
    ));
    let proxy = Proxy::start(&yaml);
    let mut visitor = proxy.visit();
    let mut statuses = |credentials: &str| {
        [
            "/admin",
            "/admin/",
            "/admin/a.css",
            "/admin//a.css",
            "/%61dmin/a.css.gz",
            "/admin/none",
        ]
        .map(|target| {
            // A request for which there is no file waits for a backend.
            match (target, credentials) {
                ("/admin/none", "bob:secret") => 404,
                _ => status(&mut visitor, target, credentials),
            }
        })
    };
    assert_eq!(statuses("bob:wrong"), [401; 6]);
    assert_eq!(statuses("bob:secret"), [301, 200, 200, 200, 200, 404]);
    assert_eq!(statuses("bob:wrong"), [401; 6]);
    drop(visitor);
    proxy.finish();
}

#[test]
fn names_of_files() {
    needs!("htpasswd", "openssl");
    let files = tempfile::tempdir().unwrap();
    let path = users(files.path(), &["bob"]);
    let root = files.path().join("www");
    fs::create_dir_all(root.join("public/admin")).unwrap();
    fs::create_dir_all(root.join("docs")).unwrap();
    for name in [
        "public/admin.html",
        "public/admin/7.html",
        "public/open.html",
        "secret.txt",
        "secret.txt.gz",
        "notes.txt",
        "notes.txt.br",
        "docs/index.html",
        "docs/open.html",
    ] {
        fs::write(root.join(name), "content").unwrap();
    }
    let yaml = site(&format!(
        "{{users_file: {path}, paths: [/admin, /secret.txt, /notes.txt.br, /docs/index.html]}}, cache_directory: public, docroot: {}",
        root.display()
    ));
    let proxy = Proxy::start(&yaml);
    let echo = Echo::dial(proxy.dial_in(), "00000000000e", "");
    let mut visitor = proxy.visit();
    for target in [
        "/admin",
        "/admin.html",
        "/admin/7",
        "/admin/7.html",
        "/secret.txt",
        "/secret.txt.gz",
        "/SECRET.TXT.gz",
        "/notes.txt",
        "/notes.txt.br",
        "/docs",
        "/docs/",
        "//docs/",
        "/docs/index",
        "/docs/index.html",
    ] {
        assert_eq!(visitor.get(target).status, 401, "{target}");
    }
    for target in ["/open", "/docs/open.html"] {
        assert_eq!(visitor.get(target).text(), "content", "{target}");
    }
    // Pages of the cache are protected as well.
    for target in [
        "/public/admin.html",
        "/public/admin/7.html",
        "/public/open.html",
    ] {
        assert_eq!(visitor.get(target).text(), target);
    }
    assert_eq!(status(&mut visitor, "/admin.html", "bob:secret"), 200);
    drop((visitor, echo));
    proxy.finish();
}

#[test]
fn body_after_password() {
    needs!("htpasswd", "openssl");
    let (_files, yaml) = for_bob("4", "");
    let proxy = Proxy::start(&yaml);
    let mut backend = Backend::dial(proxy.dial_in());
    let post = |credentials: &str| {
        let head = request("/", credentials).replace("GET", "POST");
        head.replace(
            "\r\n\r\n",
            "\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n",
        )
    };
    let mut visitor = proxy.visit();
    let refused = visitor.ask(post("bob:wrong"));
    assert_eq!(
        (refused.status, refused.field("Connection")),
        (401, Some("close"))
    );
    visitor.assert_closed();
    let mut visitor = proxy.visit();
    assert_eq!(visitor.ask(post("bob:secret")).status, 100);
    visitor.send("body");
    assert_eq!(backend.request().body, b"body");
    backend.reply_to(&mut visitor, "thanks");
    drop((visitor, backend));
    proxy.finish();
}

#[test]
fn changed_file() {
    needs!("htpasswd", "openssl");
    let (files, yaml) = for_bob("4", "");
    let path = files.path().join("users");
    let proxy = Proxy::start(&yaml);
    let echo = Echo::dial(proxy.dial_in(), "00000000000e", "");
    let mut visitor = proxy.visit();
    let mut is_in = |name: &str| match status(&mut visitor, "/", &format!("{name}:secret")) {
        200 => true,
        401 => false,
        other => panic!("{other}"),
    };
    assert!(is_in("bob") && !is_in("ann"), "only bob may be let in");
    // Remembered passwords are forgotten.
    users(files.path(), &["ann"]);
    wait_until("the new password file", || is_in("ann"));
    assert!(!is_in("bob"), "bob was let in after he was removed");
    fs::write(&path, "bob\n").unwrap();
    let expected = "users: line 1: no colon; write name:hash, as htpasswd -B does; keeping what was read before";
    wait_until("the message about the broken file", || {
        assert!(
            is_in("ann"),
            "ann was not let in, whose password was read before"
        );
        proxy.log().contains(expected)
    });
    // A reload finds the same broken file.
    proxy.signal(Signal::SIGHUP);
    proxy.wait_for_log("line 1: no colon; write name:hash, as htpasswd -B does\n");
    assert!(is_in("ann") && !is_in("bob"), "only ann may be let in");
    fs::remove_file(&path).unwrap();
    proxy.wait_for_log("no colon");
    assert!(
        is_in("ann"),
        "ann was not let in, whose password was read before"
    );
    users(files.path(), &["bob"]);
    proxy.reload(&yaml.replace("basic_auth: {", "basic_auth: {realm: other, "));
    assert!(is_in("bob") && !is_in("ann"), "only bob may be let in");
    let challenge = proxy.visit().get("/").head;
    assert!(challenge.contains("realm=\"other\""), "{challenge}");
    let open = yaml.replace(&format!("{{users_file: {}}}", path.display()), "false");
    proxy.reload(&open);
    assert_eq!(proxy.visit().get("/").status, 200);
    drop((visitor, echo));
    proxy.finish();
}

#[test]
fn flood_leaves_workers() {
    needs!("htpasswd", "openssl");
    let (_files, yaml) = for_bob("10", ", paths: /admin");
    let proxy = Proxy::start(&format!("{yaml}\nworkers: 3"));
    let echo = Echo::dial(proxy.dial_in(), "00000000000e", "");
    let mut known = proxy.visit();
    assert_eq!(status(&mut known, "/admin", "bob:secret"), 200);
    let wrong = request("/admin", "bob:wrong");
    let right = request("/admin", "bob:secret");
    let mut flood: Vec<_> = (0..50).map(|_| proxy.visit()).collect();
    // A busy machine may check them one after the other, so that none has to wait.
    wait_until("a refused check", || {
        for visitor in &mut flood {
            visitor.send(&wrong);
        }
        for _ in 0..10 {
            // Some leave, perhaps while they are in the queue.
            let mut gone = proxy.visit();
            gone.send(&wrong);
            gone.reset();
            assert_eq!(known.ask(&right).status, 200);
            assert_eq!(proxy.visit().get("/open").status, 200);
        }
        let answers = flood.iter_mut().map(Visitor::answer);
        let statuses: Vec<u16> = answers.map(|answer| answer.status).collect();
        let count = |status| statuses.iter().filter(|known| **known == status).count();
        assert_eq!(count(401) + count(429), 50, "{statuses:?}");
        count(401) >= 1 && count(429) >= 1
    });
    // Then checks are free again, as soon as the proxy has noticed that the others have left.
    wait_until("a free place for a check", || {
        let status = flood[0].ask(&wrong).status;
        assert!(matches!(status, 401 | 429), "{status}");
        status == 401
    });
    drop((flood, known, echo));
    proxy.finish();
}

#[test]
fn flood_from_other_addresses() {
    needs!("htpasswd", "openssl");
    // Enough to fill the queue: 20 addresses, each with as many requests as may wait.
    let (addresses, each, rounds) = (20, 8, 10);
    let files = tempfile::tempdir().unwrap();
    let file = files.path().join("users");
    let line = bcrypt("bob", "secret", "8");
    // A right password is remembered, so that each is checked once.
    let users = (0..2 * rounds).map(|number| line.replace("bob", &format!("bob{number}")) + "\n");
    fs::write(&file, users.collect::<String>()).unwrap();
    let proxy = Proxy::start(&site(&format!("{{users_file: {}}}", file.display())));
    let echo = Echo::dial(proxy.dial_in(), "00000000000e", "");
    let address = proxy.address();
    let wrong = request("/", "bob0:wrong");
    let from = (0..addresses).flat_map(|number| iter::repeat_n([127, 0, 1, number], each));
    let mut flood: Vec<_> = from
        .map(|from| Visitor::connect_from(from, address))
        .collect();
    for round in 0..rounds {
        for visitor in &mut flood {
            visitor.send(&wrong);
        }
        let right = |user| request("/", &format!("bob{user}:secret"));
        // A new address, and one that had a good password in the last round and now a wrong one.
        let (newcomer, known) = ([127, 0, 2, round], [127, 0, 3, 1]);
        for (from, request, expected) in [
            (newcomer, &right(2 * round), 200),
            (known, &wrong, 401),
            (known, &right(2 * round + 1), 200),
        ] {
            let answer = Visitor::connect_from(from, address).ask(request);
            assert_eq!(answer.status, expected, "{from:?} in round {round}");
        }
        let answers = flood.iter_mut().map(Visitor::answer);
        let statuses: Vec<u16> = answers.map(|answer| answer.status).collect();
        let count = |status| statuses.iter().filter(|known| **known == status).count();
        assert_eq!(
            count(401) + count(429) + count(503),
            flood.len(),
            "{statuses:?}"
        );
        // The queue is full when one of the flood is refused. A machine that is busy elsewhere may send too slowly for that.
        if count(503) >= 1 {
            break;
        }
    }
    drop((flood, echo));
    proxy.finish();
}

#[test]
fn check_timeout() {
    needs!("htpasswd", "openssl");
    let (_files, yaml) = for_bob("9", "");
    let proxy = Proxy::start(&yaml.replace("timeout: 60", "timeout: 0.001"));
    let mut visitors: Vec<_> = (0..8).map(|_| proxy.visit()).collect();
    let wrong = request("/", "bob:wrong");
    // As above: one after the other, none has to be given up.
    wait_until("a check that is given up", || {
        for visitor in &mut visitors {
            visitor.send(&wrong);
        }
        let answers = visitors.iter_mut().map(Visitor::answer);
        let statuses: Vec<u16> = answers.map(|answer| answer.status).collect();
        let count = |status| statuses.iter().filter(|known| **known == status).count();
        assert!(count(401) >= 1, "{statuses:?}");
        assert_eq!(count(401) + count(503), 8, "{statuses:?}");
        count(503) >= 1
    });
    proxy.wait_for_log(": site test: GET /: too many passwords to check");
    drop(visitors);
    proxy.finish();
}

#[test]
fn problems_of_file() {
    needs!("htpasswd");
    let files = tempfile::tempdir().unwrap();
    let file = files.path().join("users");
    let check = |text: &str, expected: &str| {
        fs::write(&file, text).unwrap();
        let yaml = "cluster_port: 0\nmap:\n  - incoming: a\n    outgoing: b:1\n    basic_auth: {users_file: users}\n";
        fs::write(files.path().join("swiftiply.yml"), yaml).unwrap();
        let ended = proxy::check(files.path());
        let expected = format!(
            "swiftiply.yml:5: map[1] (a): basic_auth {{...}}: users_file \"users\": {expected}\n"
        );
        assert!(ended.err.starts_with(&expected), "{ended:?}");
        assert_eq!(ended.code, Some(2));
    };
    let md5 = output("htpasswd", &["-nbm", "bob", "secret"]);
    check(
        &format!("# all\n{md5}\n"),
        "line 2: user \"bob\": MD5 (apr1) is not accepted, since it is cracked quickly; create it again with htpasswd -B",
    );
    let des = output("htpasswd", &["-nbd", "bob", "secret"]);
    check(
        &des,
        "line 1: user \"bob\": not a hash of bcrypt or SHA-crypt; write it with htpasswd -B",
    );
    fs::remove_file(&file).unwrap();
    fs::create_dir(&file).unwrap();
    let ended = proxy::check(files.path());
    let expected = "users_file \"users\": a directory, not a file\n";
    assert!(ended.err.contains(expected), "{ended:?}");
}
