//! A php-fpm with scripts of its own.

use std::env;
use std::fs;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::unistd::getuid;
use tempfile::TempDir;

use super::{Running, wait_until};

/// What `needs!` calls it: the file has the version in its name.
pub(crate) const PHP_FPM: &str = "php-fpm";

/// The newest php-fpm of this machine.
pub(crate) fn find() -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = env::split_paths(&path).chain(["/usr/sbin".into(), "/usr/local/sbin".into()]);
    let files = folders.flat_map(|folder| fs::read_dir(folder).into_iter().flatten().flatten());
    let is_fpm = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let version = name.strip_prefix(PHP_FPM);
        version.is_some_and(|version| version.bytes().all(|byte| b"0123456789.".contains(&byte)))
    };
    files.map(|file| file.path()).filter(is_fpm).max()
}

/// A running php-fpm, with a directory of scripts.
pub(crate) struct Php {
    running: Option<Running>,
    directory: TempDir,
}

impl Php {
    /// Starts it with this many processes.
    pub(crate) fn start(processes: usize) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().display();
        // Programs that are not started by root cannot change their user, and need not.
        let user = if getuid().is_root() {
            "user = root\ngroup = root"
        } else {
            ""
        };
        let settings = format!(
            "[global]\nerror_log = {root}/log\ndaemonize = no\n[test]\n{user}\nlisten = {root}/socket\npm = static\n\
             pm.max_children = {processes}\nphp_admin_flag[log_errors] = on\nphp_admin_flag[opcache.enable] = off\n"
        );
        fs::write(directory.path().join("settings"), settings).unwrap();
        fs::create_dir(directory.path().join("www")).unwrap();
        let mut php = Self {
            running: None,
            directory,
        };
        php.run();
        php
    }

    /// Starts it again, after [`Php::stop`].
    pub(crate) fn run(&mut self) {
        let program = find().expect("php-fpm");
        let child = Command::new(program)
            .args(["--nodaemonize", "--allow-to-run-as-root", "--fpm-config"])
            .arg(self.directory.path().join("settings"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        self.running = Some(Running(child.unwrap()));
        let socket = self.directory.path().join("socket");
        wait_until("php-fpm listens", || UnixStream::connect(&socket).is_ok());
    }

    /// Ends it at once, with its processes.
    pub(crate) fn stop(&mut self) {
        if let Some(mut running) = self.running.take() {
            running.signal(nix::sys::signal::Signal::SIGTERM);
            running.wait();
        }
    }

    /// The directory of the scripts.
    pub(crate) fn docroot(&self) -> PathBuf {
        self.directory.path().join("www")
    }

    /// Writes a file below it.
    pub(crate) fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.docroot().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        path
    }

    /// The keys of a site that runs its scripts.
    pub(crate) fn site(&self, name: &str, keys: &str) -> String {
        let (docroot, socket) = (self.docroot(), self.directory.path().join("socket"));
        let shown = |path: &Path| path.display().to_string();
        format!(
            "  - {{incoming: {name}, docroot: {}, outgoing: 'fastcgi:unix:{}', timeout: 60{keys}}}\n",
            shown(&docroot),
            shown(&socket)
        )
    }
}

impl Drop for Php {
    fn drop(&mut self) {
        // So that its processes end as well.
        self.stop();
    }
}
