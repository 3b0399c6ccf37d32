//! `swiftiplyctl` with a running swiftiply.

use std::fs;
use std::net::IpAddr;
use std::process::Command;

use serde_json::Value;

use crate::common::{
    Backend, Echo, EchoServer, Ended, Load, Proxy, Server, Visitor, assert_contains, assert_lacks,
    ended, wait_until,
};

pub(super) const STATUS: &str = "status: {at: 'unix:status.sock'}";

/// A site with comments, whose entry is written in lines.
pub(super) const MAP: &str = "
map:
  # The test.
  - incoming: test
    default: true
    outgoing: 127.0.0.1:0 # any port
    timeout: 60
";

fn start() -> Proxy {
    Proxy::start(&format!("{STATUS}\n{MAP}"))
}

/// Runs a command for the server of this directory.
pub(super) fn run(proxy: &Proxy, arguments: &[&str]) -> Ended {
    let mut program = program(proxy);
    ended(program.args(["-c", "swiftiply.yml"]).args(arguments))
}

pub(super) fn program(proxy: &Proxy) -> Command {
    let mut program = Command::new(env!("CARGO_BIN_EXE_swiftiplyctl"));
    program
        .current_dir(proxy.directory())
        .env_remove("SWIFTIPLY_KEY");
    program
}

/// Runs a command that has to succeed, and returns what it prints.
#[track_caller]
pub(crate) fn done(proxy: &Proxy, arguments: &[&str]) -> String {
    let ended = run(proxy, arguments);
    assert_eq!(ended.code, Some(0), "{arguments:?}: {}", ended.err);
    assert_eq!(ended.err, "", "{arguments:?}");
    ended.out
}

/// Runs a command that has to fail with this exit status, and returns its message.
#[track_caller]
pub(super) fn refused(proxy: &Proxy, arguments: &[&str], code: i32) -> String {
    let ended = run(proxy, arguments);
    assert_eq!(
        (ended.code, ended.out.as_str()),
        (Some(code), ""),
        "{}",
        ended.err
    );
    let message = ended.err.strip_prefix("swiftiplyctl: ");
    message.expect("its name").trim_end().to_owned()
}

#[track_caller]
pub(super) fn json(proxy: &Proxy, arguments: &[&str]) -> Value {
    serde_json::from_str(&done(proxy, &[arguments, &["--json"]].concat())).unwrap()
}

#[test]
fn lists() {
    let server = EchoServer::start();
    let address = server.address();
    let proxy = Proxy::start(&format!(
        "{STATUS}\n{MAP}  - {{incoming: other, proxy: traditional, servers: '{address}'}}\n"
    ));
    let mut backend = Backend::dial_as(proxy.dial_in(), "web000000001", "");
    let mut client = proxy.ask("/");
    backend.request();
    let sites = done(&proxy, &["sites"]);
    let lines: Vec<_> = sites
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .collect();
    assert_eq!(
        lines[0],
        ["SITE", "STATE", "RATE", "WAITING", "BACKENDS", "BUSY"]
    );
    assert_eq!(lines[1], ["test", "serving", "0/s", "0", "1", "1"]);
    assert_eq!(lines[2], ["other", "serving", "0/s", "0", "1/1", "0"]);
    let backends = json(&proxy, &["backends"]);
    let own = &backends["backends"][0];
    assert_eq!(
        (&own["id"], &own["state"]),
        (&"web000000001".into(), &"busy".into())
    );
    assert_eq!(own["requests"], 0);
    let server = &backends["servers"][0];
    assert_eq!(
        (&server["address"], &server["site"], &server["state"]),
        (&address.to_string().into(), &"other".into(), &"up".into())
    );
    backend.reply_to(&mut client, "ok");
    wait_until("an idle backend", || {
        let line = done(&proxy, &["backends"]);
        line.lines()
            .nth(1)
            .is_some_and(|line| line.contains("idle"))
    });
    let status = done(&proxy, &["status"]);
    assert_contains(&status, &format!("process {}", proxy.pid()));
    assert_contains(
        &status,
        "1 client connected, 0 requests waiting, 1 response, ",
    );
    assert_contains(&status, "\nother ");
    assert_eq!(json(&proxy, &["status"])["requests"]["total"], 1);
    drop((client, backend));
    proxy.finish_without_leak_check();
}

#[test]
fn watching_goes_on() {
    use std::io::{BufRead, BufReader};
    use std::process::Stdio;
    let proxy = start();
    let mut child = program(&proxy)
        .args(["-c", "swiftiply.yml", "status", "--watch=0.1"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut rates = lines
        .map_while(Result::ok)
        .filter(|line| line.ends_with("/s"));
    assert!(rates.next().is_some() && rates.next().is_some());
    child.kill().unwrap();
    child.wait().unwrap();
    proxy.finish_without_leak_check();
}

#[test]
fn pause_and_resume() {
    let proxy = start();
    let echo = Echo::dial(proxy.dial_in(), "000000000001", "");
    let load = Load::start(proxy.address(), false);
    load.wait_for(20);
    assert_eq!(
        done(&proxy, &["pause", "test", "--most", "1m"]),
        "test is paused; a request waits 60s at most\n"
    );
    wait_until("all requests waiting", || {
        let sites = json(&proxy, &["sites"]);
        assert_eq!(sites["sites"][0]["state"][0], "paused");
        sites["sites"][0]["waiting"] == 8
    });
    assert_eq!(
        done(&proxy, &["resume", "test"]),
        "test is resumed; 8 requests waited\n"
    );
    load.wait_for(20);
    load.end();
    assert_eq!(
        refused(&proxy, &["resume", "test"], 1),
        "site test is not paused"
    );
    assert_eq!(
        refused(&proxy, &["pause", "tset"], 1),
        "no site is called \"tset\"; there are test"
    );
    proxy.wait_for_log("site test: paused; requests wait");
    drop(echo);
    proxy.finish_without_leak_check();
}

#[test]
fn routes_have_names() {
    let proxy = Proxy::start(&format!(
        "{STATUS}\n{MAP}    routes: [{{match: /api, outgoing: '127.0.0.2:0', timeout: 60}}]\n"
    ));
    let at = |host: [u8; 4]| {
        let mut dial_ins = proxy.dial_ins().iter().copied();
        dial_ins.find(|at| at.ip() == IpAddr::from(host)).unwrap()
    };
    let own = Echo::dial(at([127, 0, 0, 1]), "000000000own", "");
    let api = Echo::dial(at([127, 0, 0, 2]), "000000000api", "");
    proxy.wait_until_idle();
    let mut client = proxy.visit();
    done(&proxy, &["pause", "test/api"]);
    let mut waiting = proxy.ask("/api/waits");
    wait_until("a waiting request", || {
        json(&proxy, &["sites"])["sites"][1]["waiting"] == 1
    });
    assert_eq!(client.get("/").text(), "/");
    assert_eq!(
        done(&proxy, &["resume", "test/api"]),
        "test/api is resumed; 1 request waited\n"
    );
    proxy.wait_for_log("site test/api: resumed; 1 request waited");
    assert_eq!(waiting.answer().text(), "/api/waits");
    // The others have no effect on the site either.
    let mut status = |of: &str| (client.get("/").status, client.get(of).status);
    done(&proxy, &["maintenance", "test/api", "on"]);
    assert_eq!(status("/api"), (200, 503));
    done(&proxy, &["maintenance", "test/api", "off"]);
    assert_eq!(
        done(&proxy, &["drain", "test/api"]),
        "site test/api is drained\n"
    );
    assert_eq!(status("/api"), (200, 503));
    done(&proxy, &["undrain", "test/api"]);
    assert_eq!(status("/api"), (200, 200));
    assert_contains(&done(&proxy, &["backends"]), "000000000api");
    // Its configuration is that of its site.
    let refusal =
        "no entry of map has the name \"test/api\"; a route is part of the entry of its site, test";
    for words in [
        &["config", "show", "test/api"][..],
        &["config", "set", "test/api", "timeout=5"],
        &["config", "rm", "test/api"],
    ] {
        assert_eq!(refused(&proxy, words, 1), refusal);
    }
    assert_contains(&done(&proxy, &["config", "show", "test"]), "match: /api");
    drop((client, waiting, own, api));
    proxy.finish_without_leak_check();
}

#[test]
fn drain_and_maintenance() {
    let proxy = start();
    let mut backend = Backend::dial_as(proxy.dial_in(), "web000000001", "");
    let mut client = proxy.ask("/");
    backend.request();
    assert_eq!(
        done(&proxy, &["drain", "web000000001"]),
        "web000000001 is drained; 1 backend is connected\n"
    );
    assert_contains(&done(&proxy, &["backends"]), "drained, busy");
    backend.reply_to(&mut client, "ok");
    wait_until("an idle backend", || {
        done(&proxy, &["backends"]).contains("drained, idle")
    });
    drop(backend);
    wait_until("its end", || {
        done(&proxy, &["backends"]).contains("drained, not connected")
    });
    assert_contains(&done(&proxy, &["status"]), "\ndrained: web000000001\n");
    done(&proxy, &["reload"]);
    assert_eq!(
        done(&proxy, &["undrain", "web000000001"]),
        "web000000001 gets requests again\n"
    );
    let error = refused(&proxy, &["undrain", "web000000001"], 1);
    assert_eq!(error, "web000000001 is not drained");
    assert_contains(
        &refused(&proxy, &["drain", "web000000001"], 1),
        "is neither a site",
    );
    assert_eq!(done(&proxy, &["drain", "test"]), "site test is drained\n");
    assert_eq!(client.get("/").status, 503);
    done(&proxy, &["undrain", "test"]);
    let on = ["maintenance", "test", "on"];
    assert_eq!(done(&proxy, &on), "test is in maintenance\n");
    assert_eq!(done(&proxy, &on), "test is already in maintenance\n");
    assert_eq!(client.get("/").field("Retry-After"), Some("60"));
    assert_contains(&done(&proxy, &["sites"]), "maintenance");
    done(&proxy, &["maintenance", "test", "off"]);
    assert_contains(
        &refused(&proxy, &["maintenance", "tset", "off"], 1),
        "no site is called",
    );
    drop(client);
    proxy.finish_without_leak_check();
}

#[test]
fn reload_and_check_report_problems() {
    let proxy = start();
    assert_eq!(done(&proxy, &["reload"]), "reloaded: 1 site\n");
    assert_eq!(done(&proxy, &["check"]), "ok: 1 site\n");
    let before = proxy.read("swiftiply.yml");
    fs::write(
        proxy.file("swiftiply.yml"),
        before.replace("timeout: 60", "timeuot: 60"),
    )
    .unwrap();
    let line = before
        .lines()
        .position(|line| line.contains("timeout"))
        .unwrap()
        + 1;
    let problem = format!("swiftiply.yml:{line}: map[1] (test): unknown key \"timeuot\"");
    // The file is found by its status all the same.
    for command in ["check", "reload"] {
        let error = refused(&proxy, &[command], 1);
        assert_contains(&error, &problem);
        assert_contains(&error, "1 problem");
    }
    proxy.wait_for_log("reload failed: 1 problem");
    proxy.finish_without_leak_check();
}

#[test]
fn level_of_the_log() {
    let proxy = start();
    assert_eq!(
        done(&proxy, &["log", "minimal"]),
        "logging at level minimal until the next reload\n"
    );
    done(&proxy, &["maintenance", "test", "on"]);
    done(&proxy, &["log", "full"]);
    done(&proxy, &["maintenance", "test", "off"]);
    proxy.wait_for_log("maintenance ends");
    assert_lacks(&proxy.log(), "maintenance begins");
    proxy.finish_without_leak_check();
}

#[test]
fn stop_and_what_follows() {
    let mut proxy = start();
    let mut backend = Backend::dial(proxy.dial_in());
    let mut client = proxy.ask("/");
    backend.request();
    assert_eq!(done(&proxy, &["stop"]), "stopping\n");
    proxy.wait_for_log("draining");
    backend.reply_to(&mut client, "the last one");
    drop((backend, client));
    assert_eq!(proxy.wait().code(), Some(0));
    let error = refused(&proxy, &["status"], 3);
    assert_contains(&error, "(is swiftiply running, with this status address?)");
}

#[test]
fn sites_are_changed_at_once() {
    let other = Server::start();
    let proxy = start();
    let mut backend = Backend::dial(proxy.dial_in());
    let file = proxy.read("swiftiply.yml");
    assert_eq!(done(&proxy, &["config", "show"]), file);
    assert_eq!(
        done(
            &proxy,
            &["config", "set", "test", "redeployable=true", "via=false"]
        ),
        "site test is changed, until the next reload\n"
    );
    let entry = done(&proxy, &["config", "show", "test"]);
    assert_contains(&entry, "redeployable: true\n");
    assert_contains(
        &done(&proxy, &["config", "show"]),
        "    outgoing: 127.0.0.1:0 # any port\n",
    );
    // Its backend has stayed.
    let mut client = proxy.ask("/");
    backend.request();
    backend.reply_to(&mut client, "ok");
    assert_contains(
        &done(&proxy, &["status"]),
        "changed, and not in the file: test\n",
    );
    assert_contains(
        &done(&proxy, &["check"]),
        "would lose, since they are not in the file: test",
    );
    // A new site.
    let new = format!("proxy: traditional\nservers: '{}'\n", other.address());
    fs::write(proxy.file("new.yml"), &new).unwrap();
    let set = ["config", "set", "new", "-f", "new.yml"];
    assert_eq!(
        done(&proxy, &set),
        "site new is added, until the next reload\n"
    );
    let mut served = proxy.visit();
    served.send("GET / HTTP/1.1\r\nHost: new\r\n\r\n");
    let mut accepted = other.accept_asking();
    accepted.request();
    accepted.reply_to(&mut served, "from the new one");
    assert_eq!(
        done(&proxy, &["config", "rm", "new"]),
        "site new is removed, until the next reload\n"
    );
    assert_eq!(proxy.read("swiftiply.yml"), file, "nothing was persisted");
    let reloaded = done(&proxy, &["reload"]);
    assert_contains(
        &reloaded,
        "lost, since they were not in the file: changes of new, test\n",
    );
    assert_lacks(&done(&proxy, &["config", "show", "test"]), "redeployable");
    drop((client, served, accepted, backend));
    proxy.finish_without_leak_check();
}

#[test]
fn wrong_sites_change_nothing() {
    let proxy = start();
    let error = refused(&proxy, &["config", "set", "test", "timeout=soon"], 1);
    assert_contains(&error, "entry: map[1] (test): timeout \"soon\": ");
    fs::write(
        proxy.file("new.yml"),
        "incoming: new\noutgoing: 127.0.0.1:0\ndocrot: x\n",
    )
    .unwrap();
    let error = refused(&proxy, &["config", "set", "new", "-f", "new.yml"], 1);
    assert_contains(&error, "entry:3: map[2] (new): unknown key \"docrot\"");
    // What only the system knows.
    let taken = Server::start();
    let outgoing = format!("outgoing={}", taken.address());
    assert_contains(
        &refused(&proxy, &["config", "set", "test", &outgoing], 1),
        "address",
    );
    for missing in [
        &["config", "rm", "none"][..],
        &["config", "show", "none"],
        &["config", "set", "none", "timeout=3"],
    ] {
        assert_eq!(
            refused(&proxy, missing, 1),
            "no entry of map has the name \"none\""
        );
    }
    assert_contains(
        &refused(&proxy, &["config", "set", "new", "-f", "none.yml"], 2),
        "none.yml: ",
    );
    let same = proxy.read("swiftiply.yml");
    assert_eq!(done(&proxy, &["config", "show"]), same);
    proxy.finish_without_leak_check();
}

#[test]
fn persisted_changes_keep_the_rest_of_the_file() {
    let proxy = start();
    let before = proxy.read("swiftiply.yml");
    assert_eq!(
        done(
            &proxy,
            &["config", "set", "test", "timeout=50", "--persist"]
        ),
        "site test is changed, also in the file\n"
    );
    let after = before.replace("timeout: 60", "timeout: 50");
    assert_eq!(proxy.read("swiftiply.yml"), after);
    let error = refused(
        &proxy,
        &["config", "set", "test", "outgoing=127.0.0.1:0", "-p"],
        1,
    );
    assert_contains(&error, "has a comment that would be lost");
    let dropping = [
        "config",
        "set",
        "test",
        "outgoing=127.0.0.1:0",
        "-p",
        "--drop-comments",
    ];
    done(&proxy, &dropping);
    assert_eq!(
        proxy.read("swiftiply.yml"),
        after.replace(" # any port", "")
    );
    fs::write(proxy.file("swiftiply.yml"), &before).unwrap();
    let error = refused(&proxy, &["config", "set", "test", "timeout=40", "-p"], 1);
    assert_eq!(
        error,
        "swiftiply.yml: changed since it was loaded; reload it first"
    );
    assert_eq!(done(&proxy, &["reload"]), "reloaded: 1 site\n");
    proxy.finish_without_leak_check();
}

#[test]
fn a_key_that_stands_elsewhere() {
    let files = tempfile::tempdir().unwrap();
    let key = files.path().join("key");
    fs::write(&key, "secret\n").unwrap();
    let proxy = Proxy::start(&format!(
        "status: {{at: 'unix:status.sock', key: '${{file:{}}}'}}\n{MAP}",
        key.display()
    ));
    done(&proxy, &["status"]);
    assert_contains(&done(&proxy, &["config", "show"]), "key: '${file:");
    fs::remove_file(&key).unwrap();
    let error = refused(&proxy, &["status"], 2);
    assert_contains(&error, "swiftiply.yml: status: key \"${file:");
    assert_contains(&error, "no such file");
    proxy.finish_without_leak_check();
}

#[test]
fn keys() {
    let proxy = Proxy::start(&format!(
        "status: {{at: '127.0.0.1:0', key: secret}}\n{MAP}"
    ));
    let at = proxy.status_address().to_string();
    let ask = |arguments: &[&str], key: Option<&str>| {
        let mut program = program(&proxy);
        program.args(["-s", &at, "sites"]).args(arguments);
        if let Some(key) = key {
            program.env("SWIFTIPLY_KEY", key);
        }
        ended(&mut program)
    };
    fs::write(proxy.file("key"), "secret\n").unwrap();
    fs::write(proxy.file("wrong"), "other\n").unwrap();
    assert_eq!(ask(&["-k", "key"], None).code, Some(0));
    assert_eq!(ask(&[], Some("secret")).code, Some(0));
    for (arguments, key) in [
        (&["-k", "wrong"][..], None),
        (&[], Some("wrong")),
        (&[], None),
    ] {
        let ended = ask(arguments, key);
        assert_eq!(ended.code, Some(1), "{}", ended.err);
        assert_contains(&ended.err, "status.key");
    }
    assert_eq!(ask(&["-k", "none"], None).code, Some(2));
    proxy.finish_without_leak_check();
}

#[test]
fn there_is_no_such_server() {
    let proxy = Proxy::start("map: []");
    let error = refused(&proxy, &["status"], 2);
    assert_contains(
        &error,
        "swiftiply.yml: has no status, where the server takes commands",
    );
    let ask = |arguments: &[&str]| ended(program(&proxy).args(arguments));
    let ended = ask(&["-c", "none.yml", "status"]);
    assert_eq!(ended.code, Some(2));
    assert_contains(&ended.err, "none.yml: ");
    let ended = ask(&["-s", "unix:none", "status"]);
    assert_eq!(ended.code, Some(3), "{}", ended.err);
    // The address for clients.
    let ended = ask(&["-s", &proxy.address().to_string(), "status"]);
    assert_eq!(ended.code, Some(3), "{}", ended.err);
    assert_contains(&ended.err, "is this its status address?");
    let dialled = ask(&["-s", "nonsense", "status"]);
    assert_eq!(dialled.code, Some(2));
    let misused = ask(&["statsu"]);
    assert_eq!(misused.code, Some(2));
    assert_eq!(
        misused.err,
        "swiftiplyctl: statsu: no such command; see swiftiplyctl --help\n"
    );
    let help = ask(&["--help"]);
    assert_eq!((help.code, help.err.as_str()), (Some(0), ""));
    let written = fs::read_to_string(
        std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("conf/completions/swiftiplyctl.bash"),
    );
    assert_eq!(ask(&["completions", "bash"]).out, written.unwrap());
    assert_eq!(
        ask(&["--version"]).out,
        format!("Swiftiply v. {}\n", env!("CARGO_PKG_VERSION"))
    );
    proxy.finish_without_leak_check();
}

#[test]
fn other_programs_can_send_commands() {
    let proxy = Proxy::start(&format!("status: {{at: '127.0.0.1:0'}}\n{MAP}"));
    let ask = |request: &str, body: &str| {
        let length = body.len();
        Visitor::connect(proxy.status_address()).ask(format!(
            "{request} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n{body}"
        ))
    };
    let check = |request: &str, body: &str, status: u16, text: &str| {
        let answer = ask(request, body);
        assert_eq!(answer.status, status, "{request}: {}", answer.text());
        assert_contains(&answer.text(), text);
    };
    check(
        "PUT /config/new",
        "{\"outgoing\": \"127.0.0.1:0\"}",
        200,
        "site new is added",
    );
    check("POST /config/new", "timeout: 3", 200, "site new is changed");
    check("GET /config/new", "", 200, "timeout: 3");
    check("DELETE /config/new", "", 200, "site new is removed");
    check("DELETE /config/new", "", 404, "no entry of map");
    check(
        "PUT /config/new?persist=maybe",
        "outgoing: x",
        400,
        "write true or false",
    );
    check(
        "PUT /config/new?comments=maybe",
        "outgoing: x",
        400,
        "write keep or drop",
    );
    check("PUT /config/new", "outgoing: 3", 422, "problem");
    check(
        "POST /control/pause/test?most=soon",
        "",
        400,
        "write seconds",
    );
    check("POST /control/log/loud", "", 400, "disabled, minimal");
    check(
        "POST /control/maintenance/test/maybe",
        "",
        400,
        "write on or off",
    );
    check("GET /control/reload", "", 405, "another method");
    check("POST /control/nonsense", "", 404, "no such path");
    proxy.finish_without_leak_check();
}

#[test]
fn embedded_servers_take_the_commands_that_they_can() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("s");
    let server = crate::common::embedded(&format!(
        "status: {{at: 'unix:{}'}}\nmap: []",
        socket.display()
    ));
    let run = |command: &str| {
        let at = format!("unix:{}", socket.display());
        let mut program = Command::new(env!("CARGO_BIN_EXE_swiftiplyctl"));
        ended(program.args(["-s", &at]).args(command.split(' ')))
    };
    assert_eq!(run("sites").code, Some(0));
    for command in [
        "reload",
        "check",
        "upgrade",
        "stop",
        "log full",
        "config show",
    ] {
        let ended = run(command);
        assert_eq!(ended.code, Some(1), "{command}");
        assert_contains(&ended.err, "does not take this command");
    }
    crate::common::drain(server);
}
