//! Operating it: options, reloads, signals, logs.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{MetadataExt, symlink};
use std::os::unix::net::UnixStream;
use std::path::Path;

use nix::sys::signal::Signal::{SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGUSR2};
use nix::sys::signal::kill;
use nix::sys::stat::Mode;
use nix::unistd::{Pid, getuid, mkfifo};

use crate::common::backend::preamble;
use crate::common::proxy::{SITE, check, program, run, site};
use crate::common::{
    Backend, Echo, Load, PATIENCE, Port, Proxy, Running, Visitor, assert_contains, assert_lacks,
    bytes, ended, exchange, needs, secure, wait_until,
};

#[test]
fn what_only_prints() {
    let help = run(&["-h"]);
    assert_eq!(help.code, Some(0));
    assert!(help.out.starts_with("Usage: swiftiply "), "{help:?}");
    let version = format!("Swiftiply v. {}\n", env!("CARGO_PKG_VERSION"));
    assert_eq!(run(&["--version"]).out, version);
    for wrong in [&["--nonsense"][..], &["-t", "abc"], &["file.yml"], &["-c"]] {
        let ended = run(wrong);
        assert_eq!(ended.code, Some(2), "{wrong:?}");
        assert!(ended.err.starts_with("swiftiply: "), "{ended:?}");
    }
}

#[test]
fn check_prints_every_problem_and_opens_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("swiftiply.yml");
    let path = file.to_str().unwrap();
    let yaml = "cluster_port: 80\npidfile: x.pid\nmap:\n- {incoming: a, outgoing: 127.0.0.1}\n- {incoming: a, outgoing: '127.0.0.1:30000', docrot: /srv}\n";
    fs::write(&file, yaml).unwrap();
    let check = run(&["--check", "-c", path]);
    assert_eq!(check.code, Some(2));
    let expected = format!(
        "{path}:4: map[1] (a): outgoing \"127.0.0.1\": no port; write 127.0.0.1:30000\n\
         {path}:5: map[2] (a): unknown key \"docrot\"; did you mean \"docroot\"?\n"
    );
    let errors = check.err;
    assert!(errors.starts_with(&expected), "{errors}");
    assert!(
        errors.contains("incoming \"a\": also a name of map[1]"),
        "{errors}"
    );
    assert!(
        errors.ends_with("3 problems, nothing changed\n"),
        "{errors}"
    );
    assert_eq!(run(&["-c", path]).code, Some(2));
    fs::write(
        &file,
        "cluster_port: 80\nmap: [{incoming: a, outgoing: '127.0.0.1:30000'}]",
    )
    .unwrap();
    let check = run(&["--check", "-c", path]);
    assert_eq!((check.code, check.out.as_str()), (Some(0), "ok: 1 site\n"));
    // What is printed is a configuration that means the same.
    let printed = run(&["-p", "-c", path]).out;
    fs::write(&file, &printed).unwrap();
    assert_eq!(run(&["-p", "-c", path]).out, printed);
    let missing = run(&["-c", "/none/such.yml"]);
    assert_eq!(missing.code, Some(2));
    assert!(missing.err.contains("/none/such.yml"), "{missing:?}");
    assert!(
        !directory.path().join("x.pid").exists(),
        "--check wrote the PID file"
    );
}

#[test]
fn check_finds_what_would_keep_it_from_starting() {
    needs!("openssl");
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    for name in ["good", "other"] {
        secure::certificate(directory.path(), name, &["a"]);
    }
    let encrypt = |options: &[&str], to: &str| {
        let mut openssl = std::process::Command::new("openssl");
        openssl.args(options).args(["-in", "good.key", "-out", to]);
        let ended = ended(openssl.current_dir(&directory));
        assert_eq!(ended.code, Some(0), "{ended:?}");
    };
    let password = ["-passout", "pass:secret"];
    let old = ["ec", "-aes128"];
    encrypt(&[&["pkey", "-aes128"], &password[..]].concat(), "pkcs8.key");
    encrypt(&[&old[..], &password[..]].concat(), "old.key");
    let yaml = "\
cluster_address: [127.0.0.1, 'unix:none/v']
cluster_port: 0
pidfile: none/pid
user: no-such-user
logger: {type: file, file: none/log}
access_log: {file: good.pem/x/log}
ssl:
  - {at: '127.0.0.1:0', certfile: none.pem, keyfile: none.key}
  - at: '127.0.0.1:0'
    certfile: good.pem
    keyfile: other.key
  - {at: '127.0.0.1:0', certfile: good.pem, keyfile: pkcs8.key}
  - {at: '127.0.0.1:0', certfile: good.pem, keyfile: old.key}
  - {at: '127.0.0.1:0', certfile: good.key}
outgoing_ssl: {at: '127.0.0.1:1', certfile: good.pem, keyfile: good.key, client_ca: good.key}
map:
  - {incoming: a, outgoing: ['127.0.0.1:1', 'unix:none/s'], logger: {type: file, file: .}}
";
    fs::write(at("swiftiply.yml"), yaml).unwrap();
    let none = at("none");
    let none = none.display();
    let path = directory.path().display();
    let pem = at("good.pem");
    let encrypted =
        "the private key is encrypted; decrypt it, openssl pkey -in FILE -out FILE".to_owned();
    let expected = [
        format!("1: cluster_address \"unix:none/v\": there is no directory {none}"),
        format!("3: pidfile \"none/pid\": there is no directory {none}"),
        "4: user \"no-such-user\": no such user".to_owned(),
        format!("5: logger.file \"none/log\": there is no directory {none}"),
        format!(
            "6: access_log.file \"{path}/good.pem/x/log\": there is no directory {path}/good.pem/x"
        ),
        "8: ssl.certfile \"none.pem\": no such file or directory".to_owned(),
        "8: ssl.keyfile \"none.key\": no such file or directory".to_owned(),
        format!(
            "11: ssl.keyfile \"other.key\": not the key of the certificate in {}",
            pem.display()
        ),
        format!("12: ssl.keyfile \"pkcs8.key\": {encrypted}"),
        format!("13: ssl.keyfile \"old.key\": {encrypted}"),
        "14: ssl.certfile \"good.key\": no certificate in it".to_owned(),
        "15: outgoing_ssl.client_ca \"good.key\": no certificate in it".to_owned(),
        format!("17: map[1] (a): outgoing \"unix:none/s\": there is no directory {none}"),
        "17: map[1] (a): logger.file \".\": a directory, not a file".to_owned(),
    ];
    let expected: String = expected
        .iter()
        .map(|line| format!("swiftiply.yml:{line}\n"))
        .collect();
    let checked = check(directory.path());
    assert_eq!(checked.code, Some(2));
    let problems = checked.err.strip_suffix("14 problems, nothing changed\n");
    assert_eq!(problems, Some(&*expected), "{checked:?}");
    // The start says the same.
    let mut start = program();
    start
        .args(["-c", "swiftiply.yml"])
        .current_dir(directory.path());
    assert_eq!(ended(&mut start).err, checked.err);
}

#[test]
fn a_taken_address_is_told_and_leaves_nothing_behind() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let directory = tempfile::tempdir().unwrap();
    let pidfile = directory.path().join("pid");
    let ended = run(&[
        "--cluster-address",
        "127.0.0.1",
        "--cluster-port",
        &port,
        "--backend-address",
        "127.0.0.1",
        "--backend-port",
        "0",
        "-f",
        pidfile.to_str().unwrap(),
    ]);
    assert_eq!(ended.code, Some(1));
    let told = format!("listen 127.0.0.1:{port}: ");
    assert!(ended.err.contains(&told), "{ended:?}");
    assert!(!pidfile.exists(), "the PID file was left behind");
}

#[test]
fn a_start_without_enough_threads_is_no_panic() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("swiftiply.yml");
    let yaml = "cluster_address: 127.0.0.1\ncluster_port: 0\nworkers: 256\nmap: []\n";
    fs::write(&file, yaml).unwrap();
    // Each thread wants a stack of 64 MiB, and all of them much more than there is; nothing else needs so much at once.
    let mut limited = std::process::Command::new("sh");
    limited
        .args(["-c", "ulimit -v 2000000 && exec \"$0\" -c \"$1\""])
        .env("RUST_MIN_STACK", "67108864")
        .arg(program().get_program())
        .arg(&file);
    let ended = ended(&mut limited);
    assert_eq!(ended.code, Some(1), "{ended:?}");
    let message = "swiftiply: thread \"worker\": the system allows no more threads";
    assert!(ended.err.contains(message), "{ended:?}");
    assert!(!ended.err.contains("panicked"), "{ended:?}");
}

#[test]
fn a_named_pipe_is_no_file_of_a_configuration() {
    needs!("openssl");
    const PIPE: &str = ": a named pipe, not a regular file";
    let directory = tempfile::tempdir().unwrap();
    mkfifo(&directory.path().join("pipe"), Mode::S_IRWXU).unwrap();
    secure::certificate(directory.path(), "good", &["a"]);
    let with = |top: &str, site: &str| {
        format!(
            "cluster_address: 127.0.0.1\ncluster_port: 0\n{top}\nmap: [{{incoming: a, outgoing: '127.0.0.1:0'{site}}}]\n"
        )
    };
    let ssl = |files: &str| with(&format!("ssl: {{at: '127.0.0.1:0', {files}}}"), "");
    for yaml in [
        ssl("certfile: pipe, keyfile: good.key"),
        ssl("certfile: good.pem, keyfile: pipe"),
        with(
            "outgoing_ssl: {at: '127.0.0.1:0', certfile: good.pem, keyfile: good.key, client_ca: pipe}",
            "",
        ),
        with("", ", key_file: pipe"),
        with("", ", basic_auth: {users_file: pipe}"),
        with("", ", maintenance_page: pipe"),
        with("", ", error_pages: {404: pipe}"),
    ] {
        fs::write(directory.path().join("swiftiply.yml"), &yaml).unwrap();
        let ended = check(directory.path());
        assert_eq!(ended.code, Some(2), "{yaml} {ended:?}");
        assert!(ended.err.contains(PIPE), "{yaml} {ended:?}");
    }
    let ended = run(&["-c", directory.path().join("pipe").to_str().unwrap()]);
    assert_eq!(ended.code, Some(2));
    assert!(ended.err.contains(PIPE), "{ended:?}");
    // And at a reload it keeps nobody from being heard.
    let mut proxy = Proxy::simple();
    fs::remove_file(proxy.file("swiftiply.yml")).unwrap();
    mkfifo(&proxy.file("swiftiply.yml"), Mode::S_IRWXU).unwrap();
    proxy.signal(SIGHUP);
    proxy.wait_for_log(&format!("swiftiply.yml{PIPE}"));
    proxy.signal(SIGTERM);
    assert_eq!(proxy.wait().code(), Some(0));
}

#[test]
fn a_pid_file_belongs_to_the_server_that_accepts() {
    let directory = tempfile::tempdir().unwrap();
    let pidfile = directory.path().join("pid");
    let read = || fs::read_to_string(&pidfile).unwrap();
    let options = ["-f", pidfile.to_str().unwrap()];
    // Whatever the umask.
    let mut program = std::process::Command::new("sh");
    let script = "umask 077; exec \"$0\" \"$@\"";
    program.args(["-c", script, env!("CARGO_BIN_EXE_swiftiply")]);
    program.args(options);
    let mut first = Proxy::start_program(program, SITE);
    assert_eq!(read(), format!("{}\n", first.pid()));
    assert_eq!(fs::metadata(&pidfile).unwrap().mode() & 0o777, 0o644);
    let mut backend = Backend::dial(first.dial_in());
    let mut visitor = first.ask("/");
    backend.request();
    let second = [
        "--cluster-address=127.0.0.1",
        "--cluster-port=0",
        "--backend-port=0",
        options[0],
        options[1],
    ];
    let refused = run(&second);
    assert_eq!(refused.code, Some(1));
    let why = format!("it is that of a server that runs, process {}", first.pid());
    assert!(refused.err.contains(&why), "{refused:?}");
    assert_eq!(read(), format!("{}\n", first.pid()));
    // While it drains, another one may begin.
    first.signal(SIGTERM);
    first.wait_for_log("draining");
    let second = Proxy::start_with(SITE, &options);
    assert_eq!(read(), format!("{}\n", second.pid()));
    backend.reply("done");
    assert_eq!(visitor.answer().text(), "done");
    assert_eq!(first.wait().code(), Some(0));
    assert_eq!(read(), format!("{}\n", second.pid()));
    second.finish();
    assert!(!pidfile.exists(), "the PID file was left behind");
}

#[test]
fn the_command_line_alone_makes_a_site() {
    let proxy = Proxy::start_with(
        "map: []",
        &[
            "--backend-address=127.0.0.1",
            "--backend-port",
            "0",
            "-t60",
            "-f",
            "a.pid",
        ],
    );
    assert_eq!(proxy.read("a.pid"), format!("{}\n", proxy.pid()));
    let backend = Echo::dial(proxy.dial_in(), "000000000001", "");
    assert_eq!(proxy.visit().get("/a").text(), "/a");
    // And stays in force.
    proxy.reload("map: []");
    assert_eq!(proxy.visit().get("/b").text(), "/b");
    drop(backend);
    let pidfile = proxy.file("a.pid");
    proxy.finish_and(|| assert!(!pidfile.exists(), "the PID file was left behind"));
}

#[test]
fn a_daemon_is_ready_when_the_command_returns() {
    let directory = tempfile::tempdir().unwrap();
    let reserved = Port::reserve();
    let port = reserved.number();
    let yaml = format!(
        "cluster_address: 127.0.0.1\ncluster_port: {port}\nlogger: {{type: file, file: log}}\nmap: []"
    );
    fs::write(directory.path().join("swiftiply.yml"), &yaml).unwrap();
    let daemon = |options: &[&str]| {
        let mut program = program();
        program.args(["-c", "swiftiply.yml", "-d"]).args(options);
        ended(program.current_dir(&directory))
    };
    let end = |pid: &str| {
        let pid = Pid::from_raw(pid.trim().parse().unwrap());
        assert_eq!(
            Visitor::connect(([127, 0, 0, 1], port).into())
                .get("/")
                .status,
            404
        );
        // It has left the directory and the terminal behind.
        let cwd = fs::read_link(format!("/proc/{pid}/cwd")).unwrap();
        assert_eq!(cwd.to_str(), Some("/"));
        let stdin = fs::read_link(format!("/proc/{pid}/fd/0")).unwrap();
        assert_eq!(stdin.to_str(), Some("/dev/null"));
        // And finds its files again.
        kill(pid, SIGHUP).unwrap();
        let log = directory.path().join("log");
        wait_until("a reload", || {
            fs::read_to_string(&log).unwrap().contains("reloaded")
        });
        fs::write(&log, "").unwrap();
        kill(pid, SIGTERM).unwrap();
        wait_until("the end of the daemon", || kill(pid, None).is_err());
    };
    let started = daemon(&[]);
    assert_eq!(started.code, Some(0), "{started:?}");
    let pid = started
        .out
        .lines()
        .find_map(|line| line.strip_prefix("PID "))
        .expect("a line PID n");
    end(pid);
    let started = daemon(&["-f", "daemon.pid"]);
    assert_eq!(started.code, Some(0), "{started:?}");
    assert!(!started.out.contains("PID"), "{started:?}");
    end(&fs::read_to_string(directory.path().join("daemon.pid")).unwrap());
    assert!(
        !directory.path().join("daemon.pid").exists(),
        "the PID file was left behind"
    );
    // Whatever has nowhere to go afterwards is warned of.
    assert!(!started.err.contains("are lost"), "{started:?}");
    let lossy = yaml.replace("type: file, file: log", "type: stderr") + "\naccess_log: '-'";
    fs::write(directory.path().join("swiftiply.yml"), lossy).unwrap();
    let started = daemon(&["-f", "daemon.pid"]);
    assert_eq!(started.code, Some(0), "{started:?}");
    let pid = fs::read_to_string(directory.path().join("daemon.pid")).unwrap();
    let pid = Pid::from_raw(pid.trim().parse().unwrap());
    kill(pid, SIGTERM).unwrap();
    wait_until("the end of the daemon", || kill(pid, None).is_err());
    for lost in [
        "daemonize: there is no logger.file, so messages are lost from now on",
        "daemonize: an access_log goes to standard output, and so is lost from now on",
    ] {
        assert!(started.err.contains(lost), "{started:?}");
    }
    fs::write(directory.path().join("swiftiply.yml"), &yaml).unwrap();
    // What goes wrong is told, with the code of the foreground.
    let taken = TcpListener::bind(("127.0.0.1", port)).unwrap();
    let failed = daemon(&[]);
    assert_eq!(failed.code, Some(1), "{failed:?}");
    assert!(failed.err.contains("listen 127.0.0.1"), "{failed:?}");
    drop(taken);
}

#[test]
fn readiness_is_printed_once_and_not_into_an_access_log() {
    let directory = tempfile::tempdir().unwrap();
    let output = directory.path().join("output");
    // How often each stream has the line, if both are the same or not.
    let ready = |lines: &str, is_one: bool| {
        let yaml = format!("cluster_address: 127.0.0.1\ncluster_port: 0\n{lines}\n");
        fs::write(directory.path().join("swiftiply.yml"), yaml).unwrap();
        for old in ["log", "errors"] {
            let _ = fs::remove_file(directory.path().join(old));
        }
        let out = fs::File::create(&output).unwrap();
        let err = match is_one {
            true => out.try_clone().unwrap(),
            false => fs::File::create(directory.path().join("errors")).unwrap(),
        };
        let mut program = program();
        program.args(["-c", "swiftiply.yml", "-f", "pid"]);
        let child = program.current_dir(&directory).stdout(out).stderr(err);
        let mut running = Running(child.spawn().unwrap());
        let read = |name: &str| fs::read_to_string(directory.path().join(name)).unwrap_or_default();
        wait_until("signals to be heard", || !read("pid").is_empty());
        let pid = Pid::from_raw(i32::try_from(running.0.id()).unwrap());
        kill(pid, SIGTERM).unwrap();
        assert_eq!(running.0.wait().unwrap().code(), Some(0));
        let count = |name| read(name).matches("ready: visitors ").count();
        let errors = if is_one { 0 } else { count("errors") };
        (count("output"), errors, count("log"))
    };
    assert_eq!(ready("map: []", false), (1, 1, 0));
    assert_eq!(ready("map: []", true), (1, 0, 0), "a terminal");
    let file = "logger: {type: file, file: log}\nmap: []";
    assert_eq!(ready(file, true), (1, 0, 1), "the log is elsewhere");
    let quiet = "logger: {type: stderr, level: minimal}\nmap: []";
    assert_eq!(ready(quiet, true), (1, 0, 0), "the log has it not");
    assert_eq!(ready("access_log: '-'\nmap: []", false), (0, 1, 0));
    let site = "map: [{incoming: a, outgoing: '127.0.0.1:0', access_log: '-'}]";
    assert_eq!(ready(site, false), (0, 1, 0));
}

#[test]
fn a_signal_without_meaning_is_logged_and_ignored() {
    let (proxy, mut backend, mut visitor) = Proxy::scene();
    proxy.signal(SIGUSR2);
    proxy.wait_for_log("[INFO] signal USR2 has no meaning; ignored");
    visitor.send_get("/");
    backend.request();
    backend.reply("still here");
    assert_eq!(visitor.answer().text(), "still here");
    // Root is told so.
    assert_eq!(
        proxy.log().contains("[WARN] running as root; set user"),
        getuid().is_root()
    );
    drop((backend, visitor));
    proxy.finish();
}

#[test]
fn privileges_are_given_up_after_binding() {
    needs!(needs::ROOT);
    let others = tempfile::tempdir().unwrap();
    let (secret, link) = (others.path().join("secret"), others.path().join("link"));
    fs::write(&secret, "").unwrap();
    symlink(&secret, &link).unwrap();
    let (shared, hard) = (others.path().join("shared"), others.path().join("hard"));
    fs::write(&shared, "").unwrap();
    fs::hard_link(&shared, &hard).unwrap();
    let proxy = Proxy::start(&format!(
        "user: nobody\nlogger: {{type: file, file: messages}}\naccess_log: access\n\
         map:\n\
         - {{incoming: a, outgoing: '127.0.0.1:0', logger: {{type: file, file: site}}}}\n\
         - {{incoming: b, outgoing: '127.0.0.1:0', access_log: /dev/null}}\n\
         - {{incoming: c, outgoing: '127.0.0.1:0', access_log: {}}}\n\
         - {{incoming: d, outgoing: '127.0.0.1:0', access_log: {}}}",
        link.display(),
        hard.display()
    ));
    let owner = fs::metadata(format!("/proc/{}", proxy.pid()))
        .unwrap()
        .uid();
    let status = fs::read_to_string(format!("/proc/{}/status", proxy.pid())).unwrap();
    let ids = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace()
            .skip(1)
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    assert_ne!(owner, 0);
    for file in ["messages", "access", "site"] {
        assert_eq!(
            fs::metadata(proxy.file(file)).unwrap().uid(),
            owner,
            "{file}"
        );
    }
    for file in [Path::new("/dev/null"), &secret, &shared] {
        assert_eq!(fs::metadata(file).unwrap().uid(), 0, "{file:?}");
    }
    let messages = || fs::read_to_string(proxy.file("messages")).unwrap();
    let refused = format!(
        "{}: not given to user or group: it has other names (hard links)",
        hard.display()
    );
    wait_until("a warning", || messages().contains(&refused));
    assert!(!messages().contains("running as root"), "{}", messages());
    assert_eq!(ids("Uid:"), vec![owner.to_string(); 4]);
    assert!(
        ids("Gid:").iter().all(|id| id != "0"),
        "group root was kept: {:?}",
        ids("Gid:")
    );
    assert!(
        ids("Groups:").iter().all(|id| id != "0"),
        "group root was kept: {:?}",
        ids("Groups:")
    );
    proxy.finish();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("a.yml");
    fs::write(&file, "cluster_port: 0\nuser: no-such-user\nmap: []").unwrap();
    let ended = run(&["-c", file.to_str().unwrap()]);
    assert_eq!(ended.code, Some(2));
    assert!(ended.err.contains("no-such-user"), "{ended:?}");
}

#[test]
fn routing_and_the_answers_of_our_own() {
    let proxy = Proxy::start(
        "map:\n\
         - {incoming: [one, www.one], outgoing: '127.0.0.1:0', timeout: 60}\n\
         - {incoming: two, outgoing: '127.0.0.2:0', timeout: 60}",
    );
    let one = Echo::dial(proxy.dial_ins()[0], "000000000one", "");
    let two = Echo::dial(proxy.dial_ins()[1], "000000000two", "");
    let mut visitor = proxy.visit();
    let mut ask = |host: &str| {
        visitor.ask(format!(
            "GET /x HTTP/1.1\r\nHost: {host}\r\nAccept: text/html\r\n\r\n"
        ))
    };
    for host in ["one", "ONE", "www.One:8080", "one.:80"] {
        assert_eq!(ask(host).text(), "/x");
    }
    assert_eq!(ask("two").text(), "/x");
    assert_eq!((one.answered(), two.answered()), (4, 1));
    for host in ["three", "one-", "a.one", "[::1]", "on"] {
        let answer = ask(host);
        assert_eq!(answer.status, 404);
        assert_eq!(
            answer.field("Content-Type"),
            Some("text/html; charset=utf-8")
        );
        assert_contains(&answer.text(), "<h1>Not Found</h1>");
    }
    let health = ask("one").status;
    assert_eq!(health, 200);
    let health = visitor.get("/swiftiply_health?a=b");
    assert_eq!(health.status, 200);
    assert!(
        health
            .text()
            .starts_with("Health request from 127.0.0.1 at "),
        "{health:?}"
    );
    assert!(health.text().contains("404: 5\n"), "{health:?}");
    let head = visitor.send("HEAD /swiftiply_health HTTP/1.1\r\nHost: one\r\n\r\n");
    assert_eq!(
        head.answer_to("HEAD").field("Content-Length").unwrap(),
        health.body.len().to_string()
    );
    // Another path, or none.
    proxy.reload("health_check_uri: /up\nmap: []");
    assert_eq!(
        (
            visitor.get("/up").status,
            visitor.get("/swiftiply_health").status
        ),
        (200, 404)
    );
    proxy.reload("health_check_uri: false\nmap: []");
    assert_eq!(
        (visitor.get("/up").status, visitor.get("/false").status),
        (404, 404)
    );
    drop((visitor, one, two));
    proxy.finish();
}

#[test]
fn a_reload_changes_what_is_new_and_leaves_what_is_not() {
    let site = |name: &str, address: &str| {
        format!("- {{incoming: {name}, outgoing: '{address}', timeout: 60}}\n")
    };
    let first = site("one", "127.0.0.1:0") + &site("two", "127.0.0.2:0");
    let proxy = Proxy::start(&format!("map:\n{first}"));
    let one = Echo::dial(proxy.dial_ins()[0], "000000000one", "");
    let mut two = Backend::dial(proxy.dial_ins()[1]);
    proxy.wait_for_logs("joined", 2);
    let mut visitor = proxy.visit();
    let ask = |host: &str| format!("GET /x HTTP/1.1\r\nHost: {host}\r\n\r\n");
    // A request is under way at a backend whose address goes.
    let mut slow = proxy.visit();
    slow.send(ask("two"));
    two.request();
    proxy.reload(&format!(
        "map:\n{}{}",
        site("new, uno", "127.0.0.3:0").replace("new, uno", "[new, uno]"),
        site("one", "127.0.0.1:0")
    ));
    assert!(
        TcpStream::connect(proxy.dial_ins()[1]).is_err(),
        "the address is closed"
    );
    two.reply_to(&mut slow, "late");
    two.assert_closed();
    proxy.wait_for_log("reason=removed");
    assert_eq!(visitor.ask(ask("two")).status, 404);
    // The idle backend, the connections and the listener are the same as before.
    assert_eq!(visitor.ask(ask("one")).text(), "/x");
    // What is wrong changes nothing.
    let good = fs::read_to_string(proxy.file("swiftiply.yml")).unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap();
    for (bad, message) in [
        (
            "map: [{incoming: one, outgoing: nowhere}]".to_owned(),
            "outgoing \"nowhere\"",
        ),
        ("map: [".to_owned(), "swiftiply.yml:"),
        (
            format!("map: [{{incoming: one, outgoing: '{taken}'}}]"),
            "listen ",
        ),
        (
            "access_log: /none/such/file\nmap: []".to_owned(),
            "/none/such/file",
        ),
        (
            "logger: {type: file, file: /none/such/log}\nmap: []".to_owned(),
            "/none/such/log",
        ),
    ] {
        let before = proxy.log().matches("reload failed").count();
        proxy.configure(&bad);
        proxy.signal(SIGHUP);
        proxy.wait_for_logs("reload failed", before + 1);
        assert!(proxy.log().contains(message), "{message}");
        assert_eq!(visitor.ask(ask("one")).text(), "/x", "{bad}");
    }
    fs::write(proxy.file("swiftiply.yml"), good).unwrap();
    drop((visitor, slow, one, two));
    proxy.finish_without_leak_check();
}

#[test]
fn a_reload_that_fails_changes_no_limit() {
    let yaml = |limits: &str, log: &str| {
        format!(
            "map:\n- {{incoming: test, outgoing: '127.0.0.1:0', timeout: 60, limits: {limits}}}\n\
             - {{incoming: other, outgoing: '127.0.0.2:0', access_log: {log}}}"
        )
    };
    let proxy = Proxy::start(&yaml("{}", "access"));
    // The site is done with when the fault is found.
    proxy.configure(&yaml("{waiting: 0}", "/none/such/file"));
    proxy.signal(SIGHUP);
    proxy.wait_for_log("reload failed");
    let mut visitor = proxy.visit();
    visitor.send_get("/waits");
    proxy.wait_until_idle();
    let echo = Echo::dial(proxy.dial_in(), "00000000000e", "");
    assert_eq!(visitor.answer().text(), "/waits");
    drop((visitor, echo));
    proxy.finish();
}

#[test]
fn a_changed_key_closes_who_sent_the_old_one() {
    let proxy = Proxy::start(&site("key: old"));
    let mut backend = Backend::dial_as(proxy.dial_in(), "000000000001", "old");
    proxy.wait_for_log("joined");
    proxy.reload(&site("key: [old, new]"));
    let stays = Backend::dial_as(proxy.dial_in(), "000000000002", "new");
    proxy.wait_for_logs("joined", 2);
    proxy.reload(&site("key: new"));
    backend.assert_closed();
    let mut late = Backend::dial_as(proxy.dial_in(), "000000000003", "old");
    late.assert_closed();
    drop((backend, stays, late));
    proxy.finish();
}

#[test]
fn reloads_under_load_fail_no_request() {
    let yaml = |n: usize| {
        format!(
            "map:\n- {{incoming: test, default: true, outgoing: '127.0.0.1:0', timeout: 60}}\n\
             - {{incoming: other{n}, outgoing: '127.0.0.2:0', timeout: {}}}",
            n + 1
        )
    };
    let proxy = Proxy::start(&yaml(0));
    let backends: Vec<_> = (0..3)
        .map(|_| Echo::dial(proxy.dial_in(), "000000000001", ""))
        .collect();
    let load = Load::start(proxy.address(), false);
    for n in 1..40 {
        proxy.reload(&yaml(n));
        load.wait_for(100);
    }
    load.end();
    drop(backends);
    proxy.finish();
}

#[test]
fn a_drain_under_load_cuts_no_exchange() {
    for signal in [SIGTERM, SIGINT] {
        let mut proxy = Proxy::simple();
        let backends: Vec<_> = (0..3)
            .map(|_| Echo::dial(proxy.dial_in(), "000000000001", ""))
            .collect();
        let load = Load::start(proxy.address(), true);
        load.wait_for(500);
        proxy.signal(signal);
        assert_eq!(proxy.wait().code(), Some(0));
        load.end();
        drop(backends);
    }
}

#[test]
fn a_drain_waits_for_what_is_under_way_and_no_longer() {
    // To the end of the exchange.
    let mut proxy = Proxy::simple();
    let mut backend = Backend::dial(proxy.dial_in());
    let mut idle = proxy.visit();
    proxy.wait_for_log("joined");
    let mut visitor = proxy.ask("/");
    backend.request();
    proxy.signal(SIGTERM);
    idle.assert_closed();
    backend.reply("late");
    let answer = visitor.answer();
    assert_eq!(
        (answer.text().as_str(), answer.field("Connection")),
        ("late", Some("close"))
    );
    assert_eq!(proxy.wait().code(), Some(0));
    // To the end of the grace period.
    let mut proxy = Proxy::simple_with("grace: 300ms");
    let _visitor = proxy.ask("/");
    let mut backend = Backend::dial(proxy.dial_in());
    backend.request();
    proxy.signal(SIGTERM);
    assert_eq!(proxy.wait().code(), Some(1));
    // To the second signal.
    let mut proxy = Proxy::simple();
    let _visitor = proxy.ask("/");
    let mut backend = Backend::dial(proxy.dial_in());
    backend.request();
    proxy.signal(SIGTERM);
    proxy.wait_for_log("draining");
    proxy.signal(SIGINT);
    assert_eq!(proxy.wait().code(), Some(1));
}

#[test]
fn access_logs_tell_every_exchange_and_can_be_moved_away() {
    let proxy = Proxy::start(
        "access_log: combined.log\n\
         logger: {type: file, file: messages.log, level: full}\n\
         map:\n\
         - incoming: test\n\
         \x20 outgoing: '127.0.0.1:0'\n\
         \x20 timeout: 60\n\
         \x20 access_log: {file: json.log, format: json}\n\
         \x20 logger: {type: file, file: site.log}\n\
         - {incoming: other, outgoing: '127.0.0.2:0', timeout: 10ms}",
    );
    let mut backend = Backend::dial_as(proxy.dial_in(), "7f0000011a2b", "");
    let mut visitor = proxy.visit();
    visitor.send(
        "GET /a?b HTTP/1.1\r\nHost: test:80\r\nUser-Agent: a\"b\r\nReferer: http://r/\r\n\r\n",
    );
    backend.request();
    backend.reply("12345");
    visitor.answer();
    visitor.ask("POST / HTTP/1.1\r\nHost: other\r\nContent-Length: 0\r\n\r\n");
    visitor.ask("GET /none HTTP/1.1\r\nHost: none\r\n\r\n");
    visitor.send_get("/dies");
    backend.request();
    backend.send("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n123");
    drop(backend);
    visitor.answer().assert_cut();
    let lines = |name: &str, count: usize| {
        wait_until(name, || proxy.read(name).lines().count() >= count);
        let text = proxy.read(name);
        text.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    let json = lines("json.log", 2);
    for part in [
        "\"client\":\"127.0.0.1\",\"user\":\"-\",\"method\":\"GET\",\"target\":\"/a?b\",\"host\":\"test:80\",\"version\":\"HTTP/1.1\",\
         \"status\":200,\"bytes\":5,\"site\":\"test\",\"backend\":\"7f0000011a2b\",\"queue_ms\":",
        "\"ended\":\"complete\",\"referer\":\"http://r/\",\"user_agent\":\"a\\\"b\"}",
    ] {
        assert!(json[0].contains(part), "{}", json[0]);
    }
    assert!(
        json[1].contains("\"bytes\":3,") && json[1].contains("\"ended\":\"backend_failed\""),
        "{}",
        json[1]
    );
    let combined = lines("combined.log", 2);
    assert!(
        combined[0].starts_with("127.0.0.1 - - ["),
        "{}",
        combined[0]
    );
    assert!(
        combined[0].contains("] \"POST / HTTP/1.1\" 503 "),
        "{}",
        combined[0]
    );
    assert!(combined[0].contains(" other other - "), "{}", combined[0]);
    assert!(
        combined[1].contains("\"GET /none HTTP/1.1\" 404 "),
        "{}",
        combined[1]
    );
    assert_contains(&proxy.read("messages.log"), "503 POST / from 127.0.0.1");
    assert_lacks(&proxy.read("messages.log"), "site test");
    // Moved away, they are written to until they are opened anew.
    for name in ["json.log", "combined.log", "messages.log", "site.log"] {
        fs::rename(proxy.file(name), proxy.file(&format!("{name}.1"))).unwrap();
    }
    proxy.signal(SIGUSR1);
    wait_until("new files", || {
        proxy.read("messages.log").contains("logs reopened")
    });
    visitor = proxy.visit();
    visitor.ask("GET /new HTTP/1.1\r\nHost: none\r\n\r\n");
    assert_contains(&lines("combined.log", 1)[0], "/new");
    assert!(
        proxy.file("json.log").exists() && proxy.file("site.log").exists(),
        "a log was not opened again"
    );
    drop(visitor);
    proxy.finish_without_leak_check();
}

#[test]
fn a_configuration_that_is_gone_holds_no_log_open() {
    let yaml = |log: &str| {
        format!(
            "access_log: {log}\nmap: [{{incoming: test, default: true, outgoing: '127.0.0.1:0', timeout: 60}}]"
        )
    };
    let proxy = Proxy::start(&yaml("old.log"));
    let is_open = |name: &str| {
        let files = fs::read_dir(format!("/proc/{}/fd", proxy.pid())).unwrap();
        let mut paths = files.map(|file| fs::read_link(file.unwrap().path()));
        paths.any(|path| path.is_ok_and(|path| path.ends_with(name)))
    };
    let mut backend = Backend::dial(proxy.dial_in());
    let (mut one, mut other) = (proxy.visit(), proxy.visit());
    exchange(&mut one, &mut backend, "/first");
    other.send_get("/late");
    backend.request();
    assert!(
        is_open("old.log"),
        "the old log was closed before its requests ended"
    );
    // Workers hold what they had until their next request, and there is none.
    proxy.reload(&yaml("new.log"));
    wait_until("the old one is closed", || !is_open("old.log"));
    assert!(is_open("new.log"), "the new log is not open");
    // What began before is told where it would have been, at once.
    backend.reply_to(&mut other, "late");
    let told = || proxy.read("old.log");
    wait_until("the last line", || told().contains("/late"));
    assert!(
        told().contains("/first") && told().lines().count() == 2,
        "expected /first and /late:\n{}",
        told()
    );
    wait_until("no open file", || !is_open("old.log"));
    exchange(&mut one, &mut backend, "/new");
    wait_until("a line", || proxy.read("new.log").contains("/new"));
    drop((one, other, backend));
    proxy.finish();
}

#[test]
fn access_logs_tell_what_a_drain_did_not_wait_for() {
    let mut proxy = Proxy::simple_with("grace: 300ms\naccess_log: {file: access, format: json}");
    let mut backend = Backend::dial(proxy.dial_in());
    let slow = proxy.ask("/slow");
    backend.request();
    // More than the systems on both sides take.
    backend.reply(bytes(24 << 20));
    let mut half = proxy.visit();
    half.send("POST /half HTTP/1.1\r\nHost: test\r\nContent-Length: 8\r\n\r\nabcd");
    proxy.wait_until_idle();
    proxy.signal(SIGTERM);
    assert_eq!(proxy.wait().code(), Some(1));
    let log = proxy.read("access");
    for (target, status) in [("/slow", 200), ("/half", 503)] {
        let line = log.lines().find(|line| line.contains(target));
        let line = line.unwrap_or_else(|| panic!("{target}: {log}"));
        assert!(line.contains(&format!("\"status\":{status},")), "{line}");
        assert!(line.contains("\"ended\":\"draining\""), "{line}");
        // What it did not take does not count.
        let bytes = line.split("\"bytes\":").nth(1).unwrap();
        let bytes: u32 = bytes.split(',').next().unwrap().parse().unwrap();
        assert!(bytes < 24 << 20, "{line}");
    }
    drop((slow, half, backend));
}

#[test]
fn access_logs_tell_where_the_time_of_those_went_that_were_not_answered() {
    let lines = "access_log: {file: access, format: json}\ntimeouts: {head: 300ms}";
    let proxy = Proxy::start(&format!(
        "{lines}\nmap:\n\
         - {{incoming: test, outgoing: '127.0.0.1:0', timeout: 60}}\n\
         - {{incoming: passed, outgoing: '127.0.0.1:0', timeout: 60, request_buffering: false}}"
    ));
    let line = |count: usize| {
        wait_until("the access log", || {
            proxy.read("access").lines().count() == count
        });
        proxy.read("access").lines().next_back().unwrap().to_owned()
    };
    let has = |line: &str, part: &str| assert!(line.contains(part), "{part}: {line}");
    let half = |host: &str| {
        let head = format!("POST / HTTP/1.1\r\nHost: {host}\r\nContent-Length: 8\r\n\r\n");
        let mut visitor = proxy.visit();
        visitor.send(head).send("abcd");
        visitor
    };
    // No backend was waited for while the body was.
    let collected = half("test");
    proxy.wait_until_idle();
    drop(collected);
    let first = line(1);
    has(&first, "\"status\":499,");
    has(&first, "\"backend\":\"-\",\"queue_ms\":0.0,");
    // Here there was one.
    let mut backend = Backend::dial_as(proxy.dial_in(), "7f0000011a2b", "");
    let passed = half("passed");
    backend.read_to("abcd");
    drop(passed);
    let second = line(2);
    has(&second, "\"status\":499,");
    has(&second, "\"backend\":\"7f0000011a2b\"");
    let mut slow = proxy.visit();
    assert_eq!(slow.ask("GET / HTTP").status, 408);
    drop((slow, backend));
    let third = line(3);
    has(&third, "\"status\":408,");
    let total = third.split("\"total_ms\":").nth(1).unwrap();
    let total: f64 = total.split(',').next().unwrap().parse().unwrap();
    assert!(total >= 300.0, "{third}");
    proxy.finish();
}

#[test]
fn a_visitor_that_goes_on_with_another_request_after_a_refusal_is_not_heard() {
    let proxy = Proxy::simple();
    let backend = Echo::dial(proxy.dial_in(), "000000000001", "");
    let mut visitor = proxy.visit();
    visitor.send("GET / HTTP/9.9\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: test\r\n\r\n");
    assert_eq!(visitor.answer().status, 505);
    visitor.finish();
    assert_eq!(visitor.rest(), b"");
    assert_eq!(backend.answered(), 0);
    drop((visitor, backend));
    proxy.finish();
}

#[test]
fn several_addresses_and_ports_are_all_served() {
    let proxy = Proxy::start("cluster_address: [127.0.0.1, 127.0.0.2, '::1']\nmap: []");
    assert_eq!(proxy.addresses().len(), 3);
    for &address in proxy.addresses() {
        assert_eq!(Visitor::connect(address).get("/").status, 404, "{address}");
    }
    proxy.finish();
}

#[test]
fn above_the_limit_of_connections_the_longest_idle_one_makes_room() {
    let proxy = Proxy::simple_with("limits: {connections: 3}");
    // All have asked for something and wait for it: a fourth one finds no room.
    let mut busy: Vec<_> = (0..3).map(|_| proxy.visit()).collect();
    for (number, visitor) in busy.iter_mut().enumerate() {
        visitor.send_get(&format!("/{number}"));
    }
    wait_until("no room", || proxy.visit().is_closed());
    proxy.wait_for_log("limits.connections reached: reason=overload");
    let mut backend = Backend::dial(proxy.dial_in());
    for _ in 0..3 {
        backend.request();
        backend.reply("ok");
    }
    // Now they are kept, the first one for the longest time.
    for visitor in &mut busy {
        assert_eq!(visitor.answer().text(), "ok");
    }
    for visitor in &mut busy {
        exchange(visitor, &mut backend, "/again");
        // A connection is kept a moment after its answer was read.
        proxy.wait_until_idle();
    }
    let mut new = proxy.visit();
    exchange(&mut new, &mut backend, "/new");
    busy[0].assert_closed();
    exchange(&mut busy[2], &mut backend, "/still");
    drop((busy, new, backend));
    proxy.finish();
}

#[test]
fn one_address_may_have_so_many_connections() {
    let yaml = "limits: {connections_per_client: 2}\nmap: []";
    let proxy = Proxy::start(yaml);
    let greet = || {
        let mut visitor = proxy.visit();
        assert_eq!(visitor.get("/").status, 404);
        visitor
    };
    let (first, mut second) = (greet(), greet());
    proxy.visit().assert_closed();
    proxy.wait_for_log("limits.connections_per_client reached: reason=overload");
    assert_eq!(second.get("/").status, 404);
    drop(first);
    proxy.wait_for_log("reason=peer_closed");
    let third = greet();
    // A proxy in front of us speaks for many.
    proxy.reload(&format!("trusted_proxies: 127.0.0.1\n{yaml}"));
    let more = (greet(), greet());
    drop((second, third, more));
    proxy.finish();
}

/// A site for each of so many addresses, which are Unix sockets.
fn many_addresses(count: usize) -> String {
    let site = |n| format!("- {{incoming: s{n}.test, outgoing: 'unix:sockets/{n}'}}\n");
    format!("map:\n{}", (0..count).map(site).collect::<String>())
}

#[test]
fn all_addresses_for_backends_are_served_by_one_thread() {
    let proxy = Proxy::simple();
    fs::create_dir(proxy.file("sockets")).unwrap();
    let threads = || {
        let tasks = fs::read_dir(format!("/proc/{}/task", proxy.pid())).unwrap();
        tasks.count()
    };
    let before = threads();
    proxy.reload(&many_addresses(200));
    // A reload has a thread while it goes on.
    wait_until("the end of the reload", || threads() == before);
    for n in [0, 199] {
        let path = proxy.file(&format!("sockets/{n}"));
        let mut backend = UnixStream::connect(path).unwrap();
        backend.write_all(&preamble("000000000001", "")).unwrap();
        proxy.wait_for_logs("joined at unix:", usize::from(n > 0) + 1);
        proxy.wait_for_log(&format!("/sockets/{n}"));
    }
    // One that has not sent its preamble is closed with its address.
    let mut stranger = UnixStream::connect(proxy.file("sockets/199")).unwrap();
    stranger.set_read_timeout(Some(PATIENCE)).unwrap();
    proxy.reload(&many_addresses(199));
    assert_eq!(stranger.read(&mut [0]).unwrap(), 0);
    assert!(
        !proxy.file("sockets/199").exists(),
        "the socket of an address that was removed is still there"
    );
    assert!(
        UnixStream::connect(proxy.file("sockets/198")).is_ok(),
        "an address that was kept refuses connections"
    );
    proxy.finish_without_leak_check();
}

#[test]
fn a_reload_takes_time_in_proportion_to_its_addresses() {
    let proxy = Proxy::simple();
    fs::create_dir(proxy.file("sockets")).unwrap();
    let ticks = || {
        let stat = fs::read_to_string(format!("/proc/{}/stat", proxy.pid())).unwrap();
        let (_, fields) = stat.rsplit_once(") ").unwrap();
        let fields: Vec<_> = fields.split(' ').collect();
        // Time in user mode and in the kernel.
        fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
    };
    // The least of a few, since the machine may be busy.
    let cost = |addresses: usize| {
        proxy.reload(&many_addresses(addresses));
        let each = (0..3).map(|_| {
            let before = ticks();
            proxy.load_again();
            ticks() - before
        });
        each.min().unwrap()
    };
    let few = cost(250);
    let many = cost(4000);
    // 16 times as many; their square is 256 times as many.
    assert!(many <= 64 * few.max(2), "{few} and {many} ticks");
    proxy.finish_without_leak_check();
}
