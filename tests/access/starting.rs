//! Options, problems of the configuration, the samples.

use std::fs;

use nix::sys::signal::Signal::{SIGHUP, SIGTERM};
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

use super::{by_hand, dialled, path};
use crate::common::access::run;
use crate::common::{Access, EchoServer, Proxy, needs, secure};

#[test]
fn usage_and_version() {
    let help = run(&["-h"]);
    assert_eq!(help.code, Some(0));
    assert!(help.out.starts_with("Usage: swiftiply-access "), "{help:?}");
    let version = format!("swiftiply-access {}\n", env!("CARGO_PKG_VERSION"));
    assert_eq!(run(&["--version"]).out, version);
    let good = run(&["--check", "-t", "127.0.0.1:3000", "127.0.0.1:30000"]);
    assert_eq!((good.code, good.out.as_str()), (Some(0), "ok\n"));
}

#[test]
fn named_pipe() {
    let (server, _app, mut access) = by_hand();
    let _line = dialled(&server);
    let file = access.file("access.yml");
    fs::remove_file(&file).unwrap();
    mkfifo(&file, Mode::S_IRWXU).unwrap();
    access.signal(SIGHUP);
    access.wait_for_log("access.yml: a named pipe, not a regular file");
    access.signal(SIGTERM);
    assert_eq!(access.wait().code(), Some(0));
}

#[test]
fn problems() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("access.yml");
    let path = file.to_str().unwrap();
    let certificate = directory.path().join("ca.pem");
    fs::write(&certificate, "no certificate").unwrap();
    for (yaml, options, expected) in [
        ("", &[][..], "connect: missing; write where the server is"),
        (
            "\nconect: 'a:1'",
            &[],
            ":2: unknown key \"conect\"; did you mean \"connect\"?",
        ),
        (
            "connect: 'a:1'\nto: b",
            &[],
            ":2: to \"b\": no port; write b:30000",
        ),
        (
            "connect: 'a:1'",
            &["-n", "x"],
            "command line: places \"x\": write a number",
        ),
        (
            "connect: 'a:1'",
            &["-t", "b:1", "-k", "/none"],
            "command line: key file \"/none\": ",
        ),
        (
            "connect: 'a:1'",
            &["--nonsense"],
            "swiftiply-access: unrecognized option: 'nonsense'",
        ),
        (
            "connect: 'a:1'",
            &["-t", "b:1", "--"],
            "swiftiply-access: --: no command behind it",
        ),
        (
            &format!(
                "{{connect: 'a:1', to: 'b:1', ssl: {{ca: {}}}}}",
                certificate.display()
            ),
            &[],
            &format!(
                "access.yml:1: ssl.ca \"{}\": no certificate in it",
                certificate.display()
            ),
        ),
        (
            "connect: 'a:1'\nto: 'b:1'\ncommand: [no-such-program-here, -p]",
            &[],
            ":3: command \"no-such-program-here\": no such program in PATH",
        ),
        (
            "connect: 'a:1'\nto: 'b:1'",
            &["--", certificate.to_str().unwrap()],
            "command line: command \"",
        ),
        (
            "connect: 'a:1'\nto: 'b:1'",
            &["--", certificate.to_str().unwrap()],
            "not executable",
        ),
        (
            "connect: 'a:1'\nto: 'b:1'\nlogger: {type: file, file: /none/such/log}",
            &[],
            ":3: logger.file \"/none/such/log\": there is no directory /none/such",
        ),
        (
            "connect: 'a:1'\nto: 'b:1'\nssl: {ca: /none, certfile: /none, keyfile: /none}",
            &[],
            ":3: ssl.certfile \"/none\": no such file or directory",
        ),
        (
            "connect: 'a:1'\nto: 'b:1'",
            &["a:1", "puma", "-p", "3000"],
            "if the command begins here, write -- in front of it",
        ),
    ] {
        fs::write(&file, yaml).unwrap();
        for check in [&["--check"][..], &[]] {
            let arguments = [&["-c", path], check, options].concat();
            let ended = run(&arguments);
            assert_eq!(ended.code, Some(2), "{arguments:?}: {ended:?}");
            assert!(ended.err.contains(expected), "{arguments:?}: {ended:?}");
        }
    }
    assert_eq!(run(&["-c", "/none/such.yml"]).code, Some(2));
}

#[test]
fn samples() {
    needs!("openssl");
    let sample = include_str!("../../conf/swiftiply-access.yml");
    let proxy = Proxy::simple();
    let app = EchoServer::start();
    let yaml = sample
        .replace("127.0.0.1:30000", &proxy.dial_in().to_string())
        .replace("to: 127.0.0.1:3000\n", &format!("to: {}\n", app.address()));
    let access = Access::start(&yaml, &[]);
    assert_eq!(proxy.visit().get("/a").text(), "/a");
    access.finish();
    drop(app);
    proxy.finish();

    let directory = tempfile::tempdir().unwrap();
    let (certificate, _) = secure::certificate(directory.path(), "ca", &["a.test"]);
    fs::write(directory.path().join("key"), "secret\n").unwrap();
    // Every line that shows a key, in the place of the one that it stands for.
    let shown = sample.lines().filter(|line| !line.starts_with("connect:"));
    let yaml: String = shown
        .map(|line| match line.strip_prefix('#') {
            Some(key) if key.starts_with(|letter: char| letter.is_alphabetic()) => key,
            _ => line,
        })
        .map(|line| format!("{line}\n"))
        .collect();
    let yaml = yaml.replace("/etc/swiftiply", path(directory.path()));
    // A program that every machine has.
    let yaml = yaml.replace("[puma,", "[sh,");
    assert!(certificate.exists(), "{} is missing", certificate.display());
    let file = directory.path().join("all.yml");
    fs::write(&file, &yaml).unwrap();
    let ended = run(&["--check", "-c", path(&file)]);
    assert_eq!(ended.code, Some(0), "{yaml}\n{ended:?}");
    // All keys but those for logs, deadlines and signals are shown.
    for key in swiftiply::internals::config::access_keys() {
        let inner = ["ssl.", "logger", "timeouts", "grace", "signals", "check."];
        let is_known = inner.iter().any(|start| key.starts_with(start)) || key == "key";
        assert!(is_known || yaml.contains(&format!("\n{key}: ")), "{key}");
    }
    // The unit starts it with a configuration, and reloads and ends it by signals that it knows.
    let unit = include_str!("../../conf/swiftiply-access@.service");
    for line in [
        "WorkingDirectory=/srv/%i\n",
        "ExecStart=swiftiply-access -c /etc/swiftiply/access/%i.yml\n",
        // In this order; the second is not done if the first fails.
        "ExecReload=swiftiply-access --check -c /etc/swiftiply/access/%i.yml\n\
         ExecReload=/bin/kill -HUP $MAINPID\n",
        "KillMode=mixed\n",
        "User=%i\nGroup=%i\n",
    ] {
        assert!(unit.contains(line), "{line}");
    }
    let unit = include_str!("../../conf/swiftiply.service");
    for unit in [unit, include_str!("../../conf/swiftiply-access@.service")] {
        // Older versions of systemd ignore the second line.
        assert!(
            unit.contains("\nType=notify\nType=notify-reload\n"),
            "{unit}"
        );
    }
    let reload = "ExecReload=swiftiply --check -c /etc/swiftiply/swiftiply.yml\n\
                  ExecReload=/bin/kill -HUP $MAINPID\n";
    assert!(
        unit.contains(reload),
        "conf/swiftiply.service does not check before it reloads:\n{unit}"
    );
}
