//! What an operator has switched or changed is the same after an upgrade.

use std::fs;

use super::commands::{MAP, STATUS, done, json, refused};
use crate::common::{
    Backend, Echo, Proxy, Server, Visitor, assert_contains, assert_lacks, wait_until,
};
use crate::upgrade::replaceable::{BUILT, DeafManager, Replaceable};

#[test]
fn upgrade_reports_its_outcome() {
    let mut proxy = Proxy::start_with(&format!("{STATUS}\n{MAP}"), &["--pid", "pid"]);
    let old = proxy.pid();
    let before = proxy.read("swiftiply.yml");
    fs::write(
        proxy.file("swiftiply.yml"),
        format!("{before}\nnonsense: 1\n"),
    )
    .unwrap();
    let error = refused(&proxy, &["upgrade"], 1);
    assert_contains(&error, "the new process ended");
    assert_eq!(json(&proxy, &["status"])["pid"], old);
    fs::write(proxy.file("swiftiply.yml"), before).unwrap();
    let backend = Backend::dial_as(proxy.dial_in(), "web000000001", "");
    wait_until("the backend", || {
        done(&proxy, &["backends"]).contains("web000000001")
    });
    done(&proxy, &["drain", "web000000001"]);
    done(&proxy, &["drain", "test"]);
    done(&proxy, &["maintenance", "test", "on"]);
    assert_eq!(done(&proxy, &["upgrade"]), "a new process serves\n");
    assert_eq!(proxy.wait().code(), Some(0), "{}", proxy.log());
    // The same address leads to the new one.
    let new = json(&proxy, &["status"])["pid"].as_u64().unwrap();
    assert_ne!(new, u64::from(old));
    // What was switched is so there.
    let status = done(&proxy, &["status"]);
    assert_contains(&status, "\ndrained: web000000001\n");
    assert_contains(&status, "drained,maintenance");
    drop(backend);
    done(&proxy, &["stop"]);
    wait_until("the end of the new process", || !proxy.file("pid").exists());
}

/// Upgrades, and waits until the new process serves.
fn upgrade(proxy: &Proxy) {
    let before = json(proxy, &["status"])["pid"].clone();
    assert_eq!(done(proxy, &["upgrade"]), "a new process serves\n");
    wait_until("the new process", || {
        json(proxy, &["status"])["pid"] != before
    });
}

fn start(lines: &str) -> Proxy {
    Proxy::start_with(&format!("{STATUS}\n{lines}\n{MAP}"), &["--pid", "pid"])
}

/// How many requests wait at the only site, in the newest process.
fn waiting(proxy: &Proxy) -> u64 {
    json(proxy, &["sites"])["sites"][0]["waiting"]
        .as_u64()
        .unwrap()
}

fn stop(mut proxy: Proxy) {
    done(&proxy, &["stop"]);
    wait_until("the end of the newest process", || {
        !proxy.file("pid").exists()
    });
    assert_eq!(proxy.wait().code(), Some(0), "{}", proxy.log());
}

#[test]
fn paused_requests_of_all_processes_go_on() {
    let proxy = start("");
    let echo = Echo::dial(proxy.dial_in(), "000000000001", "");
    done(&proxy, &["pause", "test"]);
    let mut clients = vec![proxy.ask("/first")];
    wait_until("a waiting request", || waiting(&proxy) == 1);
    for target in ["/second", "/third"] {
        upgrade(&proxy);
        let sites = json(&proxy, &["sites"]);
        assert_eq!(sites["sites"][0]["state"][0], "paused", "{sites}");
        clients.push(proxy.ask(target));
        wait_until("a waiting request", || waiting(&proxy) == 1);
    }
    assert_eq!(echo.answered(), 0);
    assert_eq!(
        done(&proxy, &["resume", "test"]),
        "test is resumed; 1 request waited\n"
    );
    for (client, target) in clients.iter_mut().zip(["/first", "/second", "/third"]) {
        let answer = client.answer();
        assert_eq!((answer.text().as_str(), answer.status), (target, 200));
        // Their connections go on in the newest process.
        assert_eq!(client.get("/more").text(), "/more");
    }
    drop((clients, echo));
    stop(proxy);
}

#[test]
fn a_stop_ends_the_wait_in_all_processes() {
    let proxy = start("");
    done(&proxy, &["pause", "test"]);
    let mut old = proxy.ask("/");
    wait_until("a waiting request", || waiting(&proxy) == 1);
    upgrade(&proxy);
    let mut new = proxy.ask("/");
    wait_until("a waiting request", || waiting(&proxy) == 1);
    stop(proxy);
    assert_eq!((old.answer().status, new.answer().status), (503, 503));
}

#[test]
fn what_is_switched_while_the_new_process_starts_counts() {
    let old = Replaceable::start(STATUS);
    let proxy = &old.proxy;
    let manager = DeafManager::new(&proxy.file("notify"));
    old.upgrade_to(&format!("NOTIFY_SOCKET=notify exec {BUILT} \"$@\""));
    proxy.wait_for_logs("ready: ", 2);
    done(proxy, &["pause", "test"]);
    let mut client = proxy.ask("/");
    wait_until("a waiting request", || waiting(proxy) == 1);
    manager.listen();
    proxy.wait_for_log("upgrade: took over 0 idle backends");
    let sites = json(proxy, &["sites"]);
    assert_eq!(sites["sites"][0]["state"][0], "paused", "{sites}");
    let mut backend = Backend::dial(proxy.dial_in());
    done(proxy, &["resume", "test"]);
    assert_eq!(backend.request().target(), "/");
    backend.reply_to(&mut client, "done");
    drop((backend, client));
    stop(old.proxy);
}

#[test]
fn changes_that_are_not_in_the_file_stay() {
    let other = Server::start();
    let proxy = start("logger: {level: minimal}");
    done(&proxy, &["log", "full"]);
    done(&proxy, &["config", "set", "test", "via=false"]);
    let entry = format!("{{servers: '{}', proxy: traditional}}", other.address());
    fs::write(proxy.file("entry.yml"), entry).unwrap();
    done(&proxy, &["config", "set", "other", "-f", "entry.yml"]);
    // What has changed in the file counts as well.
    let yaml = proxy.read("swiftiply.yml");
    fs::write(proxy.file("swiftiply.yml"), format!("{yaml}\ngrace: 7s\n")).unwrap();
    upgrade(&proxy);
    let shown = done(&proxy, &["config", "show"]);
    assert_contains(&shown, "via: false");
    assert_contains(&shown, "grace: 7s");
    let log = proxy.log().len();
    let mut visitor = Visitor::connect(proxy.address());
    visitor.send("GET /there HTTP/1.1\r\nHost: other\r\n\r\n");
    let mut app = other.accept_asking();
    assert_eq!(app.request().target(), "/there");
    app.reply_to(&mut visitor, "done");
    drop((visitor, app));
    wait_until("messages of the highest level", || {
        proxy.log()[log..].contains("[DEBUG]")
    });
    // A reload ends all of it.
    let reloaded = done(&proxy, &["reload"]);
    assert_contains(&reloaded, "changes of other, test");
    assert_lacks(&done(&proxy, &["config", "show"]), "via");
    stop(proxy);
}

#[test]
fn changes_that_do_not_fit_the_file_any_more() {
    let proxy = start("");
    fs::write(
        proxy.file("entry.yml"),
        "{backup: test, outgoing: '127.0.0.1:0'}",
    )
    .unwrap();
    done(&proxy, &["config", "set", "other", "-f", "entry.yml"]);
    let yaml = proxy.read("swiftiply.yml");
    let renamed = yaml.replace("incoming: test", "incoming: best");
    fs::write(proxy.file("swiftiply.yml"), renamed).unwrap();
    let error = refused(&proxy, &["upgrade"], 1);
    assert_contains(&error, "the new process ended, with status 2");
    proxy.wait_for_log(
        "swiftiply.yml: does not fit the changes of other that are in force and not in the file; reload it to drop them: ",
    );
    fs::write(proxy.file("swiftiply.yml"), yaml).unwrap();
    upgrade(&proxy);
    stop(proxy);
}
