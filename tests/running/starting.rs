//! Options, --check, and the start.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;
use std::process::Stdio;

use nix::sys::signal::Signal::{SIGHUP, SIGTERM};
use nix::sys::signal::kill;
use nix::sys::stat::Mode;
use nix::unistd::{Pid, getuid, mkfifo};

use crate::common::backend::EchoServer;
use crate::common::proxy::{SITE, check, program, run};
use crate::common::{
    Backend, Echo, Port, Proxy, Running, Visitor, ended, needs, secure, wait_until,
};

#[test]
fn usage_and_version() {
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
fn check_prints_problems() {
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
    assert!(errors.ends_with("3 problems\n"), "{errors}");
    assert_eq!(run(&["-c", path]).code, Some(2));
    fs::write(
        &file,
        "cluster_port: 80\nmap: [{incoming: a, outgoing: '127.0.0.1:30000'}]",
    )
    .unwrap();
    let check = run(&["--check", "-c", path]);
    assert_eq!((check.code, check.out.as_str()), (Some(0), "ok: 1 site\n"));
    // The output is a configuration with the same meaning.
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
fn site_without_a_file() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("index.html"), "a page").unwrap();
    let files = directory.path().to_str().unwrap();
    let app = EchoServer::start();
    let printed = run(&["--site", "test", "--to", &app.address().to_string(), "-p"]);
    assert_eq!(printed.code, Some(0), "{printed:?}");
    assert!(printed.out.contains("cluster_port:\n- 80\n"), "{printed:?}");
    let site = ["--site", "test", "--to", &app.address().to_string()].map(str::to_owned);
    let child = program()
        .args(site)
        .args(["--files", files])
        .args(["--cluster-address", "127.0.0.1", "--cluster-port", "0"])
        .stdout(Stdio::piped())
        .spawn();
    let mut running = Running(child.unwrap());
    let mut ready = String::new();
    let output = running.0.stdout.take().unwrap();
    BufReader::new(output).read_line(&mut ready).unwrap();
    let address = ready.strip_prefix("ready: visitors ").unwrap();
    let address = address.trim_end().trim_end_matches("; backends").trim_end();
    let mut visitor = Visitor::connect(address.parse().expect(&ready));
    assert_eq!(visitor.get("/").text(), "a page");
    assert_eq!(visitor.get("/app").text(), "/app");
    drop(visitor);
    running.signal(SIGTERM);
    assert!(running.wait().success());
}

#[test]
fn check_looks_at_the_machine() {
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
    let problems = checked.err.strip_suffix("14 problems\n");
    assert_eq!(problems, Some(&*expected), "{checked:?}");
    // The start reports the same.
    let mut start = program();
    start
        .args(["-c", "swiftiply.yml"])
        .current_dir(directory.path());
    assert_eq!(ended(&mut start).err, checked.err);
}

#[test]
fn address_in_use() {
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
fn too_few_threads() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("swiftiply.yml");
    let yaml = "cluster_address: 127.0.0.1\ncluster_port: 0\nworkers: 256\nmap: []\n";
    fs::write(&file, yaml).unwrap();
    // Each thread takes a stack of 64 MiB, which is too much for all of them and more than anything else takes at once.
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
fn named_pipe() {
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
    // A reload that fails on it does not block later ones.
    let mut proxy = Proxy::simple();
    fs::remove_file(proxy.file("swiftiply.yml")).unwrap();
    mkfifo(&proxy.file("swiftiply.yml"), Mode::S_IRWXU).unwrap();
    proxy.signal(SIGHUP);
    proxy.wait_for_log(&format!("swiftiply.yml{PIPE}"));
    proxy.signal(SIGTERM);
    assert_eq!(proxy.wait().code(), Some(0));
}

#[test]
fn pid_file() {
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
    let why = format!("in use by a running server, process {}", first.pid());
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
fn command_line_site() {
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
    // The options stay in force after a reload.
    proxy.reload("map: []");
    assert_eq!(proxy.visit().get("/b").text(), "/b");
    drop(backend);
    let pidfile = proxy.file("a.pid");
    proxy.finish_and(|| assert!(!pidfile.exists(), "the PID file was left behind"));
}

#[test]
fn daemon() {
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
        // It has changed its directory and has no terminal.
        let cwd = fs::read_link(format!("/proc/{pid}/cwd")).unwrap();
        assert_eq!(cwd.to_str(), Some("/"));
        let stdin = fs::read_link(format!("/proc/{pid}/fd/0")).unwrap();
        assert_eq!(stdin.to_str(), Some("/dev/null"));
        // A reload finds its files all the same.
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
    // Output that would have no destination afterwards causes a warning.
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
    // Errors are reported, with the exit code of the foreground.
    let taken = TcpListener::bind(("127.0.0.1", port)).unwrap();
    let failed = daemon(&[]);
    assert_eq!(failed.code, Some(1), "{failed:?}");
    assert!(failed.err.contains("listen 127.0.0.1"), "{failed:?}");
    drop(taken);
}

#[test]
fn readiness_once() {
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
        wait_until("the PID file", || !read("pid").is_empty());
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
fn warning_as_root() {
    let proxy = Proxy::simple();
    assert_eq!(
        proxy.log().contains("[WARN] running as root; set user"),
        getuid().is_root(),
        "{}",
        proxy.log()
    );
    proxy.finish();
}

#[test]
fn privileges() {
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
        "{}: not given to user or group: it has hard links",
        hard.display()
    );
    wait_until("the warning about the refused user", || {
        messages().contains(&refused)
    });
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
