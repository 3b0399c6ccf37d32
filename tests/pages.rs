//! Pages of a site's own (`error_pages`, `maintenance_page`), and maintenance (`maintenance_flag`).

use std::fs;

use nix::sys::signal::Signal;

use crate::common::{Backend, Echo, Proxy, assert_contains, wait_until};

/// One site that waits for no backend, with these lines.
fn site(lines: &str) -> String {
    format!(
        "map:\n  - incoming: test\n    default: true\n    outgoing: 127.0.0.1:0\n    timeout: 0.05\n    {}\n",
        lines.replace('\n', "\n    ")
    )
}

#[test]
fn own_pages() {
    let files = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        fs::write(files.path().join(name), text).unwrap();
        files.path().join(name).display().to_string()
    };
    let proxy = Proxy::start(&site(&format!(
        "error_pages: {{502: {}, 413: {}}}\nmaintenance_page: {}\nlimits: {{body: 1}}",
        file("bad", "<p>bad</p>"),
        file("large.json", "{}"),
        file("gone.TXT", "gone"),
    )));
    let mut visitor = proxy.visit();
    let gone = visitor.get("/");
    assert_eq!((gone.status, gone.text().as_str()), (503, "gone"));
    assert_eq!(
        gone.field("Content-Type"),
        Some("text/plain; charset=utf-8")
    );
    assert_eq!(gone.field("Retry-After"), Some("5"));
    assert_eq!(gone.field("Cache-Control"), Some("no-store"));
    let head = visitor
        .send("HEAD / HTTP/1.1\r\nHost: test\r\n\r\n")
        .answer_to("HEAD");
    assert_eq!(
        (head.status, head.field("Content-Length")),
        (503, Some("4"))
    );
    let mut backend = Backend::dial(proxy.dial_in());
    visitor.send_get("/");
    backend.request();
    backend.send("HTTP/1.1 404 Not Found\r\nContent-Length: 3\r\n\r\nown");
    assert_eq!(visitor.answer().text(), "own");
    visitor.send_get("/");
    backend.request();
    backend.send("HTTP/1.1 502 Bad Gateway\r\nContent-Length: 3\r\n\r\nown");
    assert_eq!(visitor.answer().text(), "own");
    visitor.send_get("/");
    backend.request();
    backend.send("no answer\r\n\r\n");
    let bad = visitor.answer();
    assert_eq!((bad.status, bad.text().as_str()), (502, "<p>bad</p>"));
    assert_eq!(bad.field("Content-Type"), Some("text/html; charset=utf-8"));
    let large = visitor.ask("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 2\r\n\r\nab");
    assert_eq!((large.status, large.text().as_str()), (413, "{}"));
    assert_eq!(large.field("Content-Type"), Some("application/json"));
    // Read again when it has changed, and kept when it cannot be read any more.
    file("gone.TXT", "still gone");
    wait_until("the new page", || {
        proxy.visit().get("/").text() == "still gone"
    });
    file("gone.TXT", &"x".repeat((1 << 20) + 1));
    wait_until("the message about a page that is too large", || {
        assert_eq!(proxy.visit().get("/").text(), "still gone");
        proxy
            .log()
            .contains("gone.TXT: larger than 1m; keeping what was read before")
    });
    // Nor does a reload take one that is not there.
    fs::remove_file(files.path().join("bad")).unwrap();
    proxy.signal(Signal::SIGHUP);
    proxy.wait_for_log("bad\": no such file or directory");
    assert_eq!(proxy.visit().get("/").text(), "still gone");
    proxy.reload(&site(&format!(
        "error_pages: {{503: {}}}",
        file("new", "new")
    )));
    assert_eq!(proxy.visit().get("/").text(), "new");
    drop((visitor, backend));
    proxy.finish();
}

#[test]
fn maintenance() {
    let files = tempfile::tempdir().unwrap();
    let page = files.path().join("page.html");
    let flag = files.path().join("down");
    fs::write(&page, "<p>down</p>").unwrap();
    let yaml = site(&format!(
        "maintenance_flag: {}\nmaintenance_page: {}",
        flag.display(),
        page.display()
    ));
    let proxy = Proxy::start(&yaml);
    let echo = Echo::dial(proxy.dial_in(), "00000000000e", "");
    let mut visitor = proxy.visit();
    assert_eq!(visitor.get("/up").text(), "/up");
    fs::write(&flag, "").unwrap();
    wait_until("maintenance", || visitor.get("/").status == 503);
    let answered = echo.answered();
    let down = visitor.get("/");
    assert_eq!((down.status, down.text().as_str()), (503, "<p>down</p>"));
    assert_eq!(down.field("Retry-After"), Some("60"));
    assert_eq!(visitor.get("/swiftiply_health").status, 200);
    let post = "POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 4\r\n\r\nbody";
    assert_eq!(proxy.visit().ask(post).status, 503);
    // It stays so over a reload, also without a page.
    proxy.reload(
        &yaml
            .lines()
            .filter(|line| !line.contains("_page"))
            .collect::<Vec<_>>()
            .join("\n"),
    );
    assert_contains(&visitor.get("/").text(), "down for maintenance");
    assert_eq!(echo.answered(), answered);
    fs::remove_file(&flag).unwrap();
    wait_until("the end of maintenance", || {
        visitor.get("/up").status == 200
    });
    drop((visitor, echo));
    proxy.finish();
}

#[test]
fn client_leaves() {
    let files = tempfile::tempdir().unwrap();
    let page = files.path().join("page.html");
    fs::write(&page, "x".repeat(1 << 20)).unwrap();
    let proxy = Proxy::start(&site(&format!("maintenance_page: {}", page.display())));
    let mut visitors: Vec<_> = (0..20).map(|_| proxy.visit()).collect();
    for visitor in &mut visitors {
        visitor.send_get("/").send_get("/").send_get("/");
        visitor.at_least(1000);
    }
    let mut last = visitors.pop().unwrap();
    visitors.into_iter().for_each(crate::common::Visitor::reset);
    for _ in 0..3 {
        assert_eq!(last.answer().body.len(), 1 << 20);
    }
    drop(last);
    proxy.finish();
}
