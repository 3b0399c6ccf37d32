//! Calls to the operating system for the process as a whole and its children: descriptors, memory, scheduling, user,
//! daemon.
//!
//! This is the only module with `unsafe` code: some system calls have no safe wrapper, and code between a fork and an
//! exec has none either.

pub mod apart;
pub mod channel;
pub mod pid_file;
pub mod service;

use std::env;
use std::ffi::CString;
use std::fs::{self, OpenOptions};
use std::io::{self, ErrorKind, PipeReader, PipeWriter, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::{self, JoinHandle};

use nix::errno::Errno;
use nix::libc::{O_DIRECTORY, O_NOCTTY, O_NOFOLLOW, O_NONBLOCK};
#[cfg(target_os = "linux")]
use nix::sys::prctl;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
#[cfg(target_os = "linux")]
use nix::sys::signal::Signal;
use nix::sys::stat::fstat;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{self, ForkResult, Gid, Group, Pid, Uid, User};

/// The result of [`fork`] in each process.
#[derive(Debug)]
pub enum ForkSide {
    /// The original process, which waits for a report of the new one.
    Parent {
        /// The new process.
        child: i32,
        /// Readable when the new process has reported that it is ready; ends if the process does.
        ready: PipeReader,
    },
    /// The new process, alone in a new session, without a terminal.
    Child {
        /// Written to in order to report readiness.
        ready: PipeWriter,
    },
}

/// The user and group to change to; see [`look_up`].
#[derive(Debug)]
pub struct UserAndGroup {
    user: Option<User>,
    group: Option<Gid>,
}

/// Raises the limit of open files to `wanted`, or to the hard limit, and returns it.
///
/// # Errors
/// Those of `setrlimit(2)`, in particular if `wanted` is more than the system allows.
pub fn raise_descriptors(wanted: Option<u64>) -> io::Result<u64> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    let limit = wanted.unwrap_or(hard);
    if limit != soft {
        // Only root may raise the hard limit, so lowering it would restrict a later reload.
        setrlimit(Resource::RLIMIT_NOFILE, limit, hard.max(limit))?;
    }
    Ok(limit)
}

/// The current limit of open files.
pub fn descriptors() -> u64 {
    getrlimit(Resource::RLIMIT_NOFILE).map_or(1024, |(soft, _)| soft)
}

/// Bytes of memory that this process may use: all memory of the machine, or less if its cgroup or one above it has a
/// limit. `None`: the system does not report it.
pub fn memory() -> Option<u64> {
    let read = |path: &Path| fs::read_to_string(path).ok();
    least_memory(
        &read(Path::new("/proc/meminfo")).unwrap_or_default(),
        &read(Path::new("/proc/self/cgroup")).unwrap_or_default(),
        read,
    )
}

/// Bytes of memory that this process has, if `/proc` tells.
pub fn resident() -> Option<u64> {
    let text = fs::read_to_string("/proc/self/status").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kilobytes = line.trim().strip_suffix("kB")?;
    kilobytes.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// How many descriptors this process has open, if `/proc` tells.
pub fn open_descriptors() -> Option<usize> {
    // Since Linux 6.2 the size is their number, and 0 before.
    let listed = fs::metadata(DESCRIPTORS).ok()?.len();
    if listed > 0 {
        return usize::try_from(listed).ok();
    }
    // One is that of the list itself.
    Some(fs::read_dir(DESCRIPTORS).ok()?.count().saturating_sub(1))
}

/// The minimum of `/proc/meminfo` and the limits of the cgroups in `/proc/self/cgroup`.
fn least_memory(
    meminfo: &str,
    cgroups: &str,
    read: impl Fn(&Path) -> Option<String>,
) -> Option<u64> {
    let total = meminfo.lines().find_map(|line| {
        let kilobytes = line.strip_prefix("MemTotal:")?.trim().strip_suffix("kB")?;
        kilobytes.trim().parse::<u64>().ok()?.checked_mul(1024)
    });
    let files = cgroups.lines().flat_map(memory_files);
    // "max" is not a number and means no limit.
    let limits = files.filter_map(|file| read(&file)?.trim().parse().ok());
    limits.chain(total).min()
}

/// The files with the memory limits of a cgroup, from a line of cgroups(7), and of those above it. In a container the
/// process's own cgroup may be mounted at the root, whatever the line says.
fn memory_files(line: &str) -> Vec<PathBuf> {
    let mut fields = line.splitn(3, ':');
    let (Some(_), Some(controllers), Some(group)) = (fields.next(), fields.next(), fields.next())
    else {
        return Vec::new();
    };
    let (root, file) = match controllers {
        "" => ("/sys/fs/cgroup", "memory.max"),
        _ if controllers.split(',').any(|name| name == "memory") => {
            ("/sys/fs/cgroup/memory", "memory.limit_in_bytes")
        }
        _ => return Vec::new(),
    };
    let group = Path::new(group.trim_start_matches('/'));
    let groups = group.ancestors();
    groups
        .map(|group| Path::new(root).join(group).join(file))
        .collect()
}

/// The description of a system error, in lower case and without its number.
pub fn reason(error: &io::Error) -> String {
    let text = match error.raw_os_error() {
        Some(number) => Errno::from_raw(number).desc().to_owned(),
        None => error.to_string(),
    };
    let mut letters = text.chars();
    match letters.next() {
        Some(first) => first.to_lowercase().chain(letters).collect(),
        None => text,
    }
}

/// Configures the allocator to return memory to the system; must be called before there are threads.
///
/// glibc creates eight arenas per processor, and allocates large blocks from them once it has seen a block of that
/// size freed. Memory that a burst of traffic has used stays there. With few arenas, and with large blocks in mappings
/// of their own, [`trim_memory`] finds nearly all free memory.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[expect(unsafe_code, reason = "there is no safe wrapper")]
pub fn prepare_memory() {
    let arenas = thread::available_parallelism().map_or(MOST_ARENAS, usize::from);
    let arenas = arenas.clamp(2, MOST_ARENAS) as i32;
    // SAFETY: plain numbers for the allocator, from the one thread there is.
    unsafe {
        nix::libc::mallopt(nix::libc::M_ARENA_MAX, arenas);
        nix::libc::mallopt(nix::libc::M_MMAP_THRESHOLD, LARGE_BLOCK);
    }
}

/// Configures the allocator if it is glibc's: does nothing.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub fn prepare_memory() {}

/// Returns free memory to the system. Only threads that allocate at the same time wait for it, briefly.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[expect(unsafe_code, reason = "there is no safe wrapper")]
pub fn trim_memory() {
    // SAFETY: any thread may call it at any time; it touches free memory only.
    unsafe { nix::libc::malloc_trim(0) };
}

/// Returns free memory to the system, from the arenas of jemalloc, the allocator of static programs. A thread may keep
/// a little for itself.
#[cfg(all(target_os = "linux", target_env = "musl", feature = "programs"))]
#[expect(unsafe_code, reason = "there is no safe wrapper")]
pub fn trim_memory() {
    use std::ptr::null_mut;
    // 4096 is MALLCTL_ARENAS_ALL. By itself jemalloc purges an arena only when it is used again.
    let purge = c"arena.4096.purge";
    // SAFETY: any thread may call it at any time; it touches free memory only. The name ends with a zero, and the call
    // takes and gives no value.
    unsafe {
        tikv_jemalloc_sys::mallctl(purge.as_ptr(), null_mut(), null_mut(), null_mut(), 0);
    }
}

/// Returns free memory to the system if the allocator is known: does nothing.
#[cfg(not(all(
    target_os = "linux",
    any(target_env = "gnu", all(target_env = "musl", feature = "programs"))
)))]
pub fn trim_memory() {}

/// Puts the calling thread into SCHED_BATCH: threads that wake each other then do not preempt each other. In
/// measurements that is a third more requests per second on two cores.
///
/// # Errors
/// Those of `sched_setscheduler(2)`; no privilege is needed.
#[cfg(target_os = "linux")]
#[expect(unsafe_code, reason = "there is no safe wrapper")]
pub fn schedule_as_batch() -> io::Result<()> {
    // SAFETY: a structure of integers, for which all zeros are a value. Which ones it has differs: musl's has those of
    // the sporadic server, too.
    let parameters: nix::libc::sched_param = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer is to a value that lives until the call returns, and the call only reads it.
    // 0 stands for the calling thread. Nothing else of the program is touched.
    let result = unsafe { nix::libc::sched_setscheduler(0, nix::libc::SCHED_BATCH, &parameters) };
    Errno::result(result).map(drop).map_err(io::Error::from)
}

/// Puts the calling thread into SCHED_BATCH, which exists on Linux only: does nothing.
///
/// # Errors
/// None.
#[cfg(not(target_os = "linux"))]
pub fn schedule_as_batch() -> io::Result<()> {
    Ok(())
}

/// Becomes a daemon: the child is a new process in its own session, and reports to the parent through a pipe when it
/// is ready.
///
/// # Errors
/// Those of `pipe(2)`, `fork(2)` and `setsid(2)`; also if the process has more than one thread.
#[expect(unsafe_code, reason = "there is no safe wrapper")]
pub fn fork() -> io::Result<ForkSide> {
    if threads()? != 1 {
        return Err(io::Error::other("fork needs a process of one thread"));
    }
    let (reader, writer) = io::pipe()?;
    // SAFETY: after a fork only the calling thread goes on in the child, so that locks of the others would stay
    // locked for ever. There are no others: that was checked above, and only they could start one in between.
    match unsafe { unistd::fork() }? {
        ForkResult::Parent { child } => Ok(ForkSide::Parent {
            child: child.as_raw(),
            ready: reader,
        }),
        ForkResult::Child => {
            drop(reader);
            unistd::setsid()?;
            Ok(ForkSide::Child { ready: writer })
        }
    }
}

/// Makes a command end with this program: its process gets SIGTERM when the thread that has started it ends, which
/// includes that this program is killed. So that thread must stay alive as long as the process.
///
/// Only the process itself gets the signal, perhaps more than once, not its children. The system drops the setting
/// when a program with set-user-ID, set-group-ID or capabilities is executed, and when the process changes its user
/// (`PR_SET_PDEATHSIG` of prctl(2)).
#[cfg(target_os = "linux")]
#[expect(unsafe_code, reason = "there is no safe wrapper")]
pub fn end_with_us(command: &mut Command) {
    let parent = unistd::getpid();
    let ask = move || {
        prctl::set_pdeathsig(Signal::SIGTERM)?;
        // If the parent has ended already, the signal would never come.
        match unistd::getppid() == parent {
            true => Ok(()),
            false => Err(Errno::ESRCH.into()),
        }
    };
    // SAFETY: in the child of a process with threads only async-signal-safe calls may be made before the program is
    // executed. These are two plain system calls; neither they nor their errors take memory or a lock.
    unsafe { command.pre_exec(ask) };
}

/// Makes a command end with this program, which is possible on Linux only: does nothing.
#[cfg(not(target_os = "linux"))]
pub fn end_with_us(_: &mut Command) {}

/// Waits until the child reports that it is ready. `false`: it ended before.
pub fn wait_until_ready(mut ready: PipeReader) -> bool {
    let mut byte = [0];
    matches!(ready.read(&mut byte), Ok(1))
}

/// Waits for a child to end and returns its exit code; 1 if it was killed by a signal.
pub fn exit_code(child: i32) -> u8 {
    match waitpid(Pid::from_raw(child), None) {
        Ok(WaitStatus::Exited(_, code)) => u8::try_from(code).unwrap_or(1),
        _ => 1,
    }
}

/// Reports to the parent that the daemon is ready, and detaches from the terminal and the working directory.
///
/// # Errors
/// Those of `open(2)`, `dup2(2)` and `chdir(2)`.
pub fn detach(mut ready: PipeWriter) -> io::Result<()> {
    env::set_current_dir("/")?;
    ready.write_all(b"r")?;
    let null = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/null")?;
    unistd::dup2_stdin(&null)?;
    unistd::dup2_stdout(&null)?;
    unistd::dup2_stderr(&null)?;
    Ok(())
}

/// Takes over a descriptor that the system has just given to this process.
#[expect(unsafe_code, reason = "the library returns it as a number")]
fn own_descriptor(number: RawFd) -> OwnedFd {
    // SAFETY: it came with a message to this process, so it is open, and no other owner knows it.
    unsafe { OwnedFd::from_raw_fd(number) }
}

/// Takes over a descriptor with which this process was started. Programs that it starts do not get it.
///
/// # Errors
/// It is not open.
#[expect(unsafe_code, reason = "the environment names it as a number")]
fn inherited_descriptor(number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: the call takes numbers only. It fails if the descriptor is not open.
    let result = unsafe { nix::libc::fcntl(number, nix::libc::F_SETFD, nix::libc::FD_CLOEXEC) };
    Errno::result(result)?;
    // SAFETY: it is open, and nothing in this process has opened it, or knows it otherwise.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Replaces standard input by /dev/null.
fn replace_stdin() -> io::Result<()> {
    let null = OpenOptions::new().read(true).open("/dev/null")?;
    Ok(unistd::dup2_stdin(&null)?)
}

/// Whether the process has root's rights.
pub fn is_root() -> bool {
    Uid::effective().is_root()
}

/// Whether standard output and standard error are the same terminal, pipe or file.
pub fn is_one_output() -> bool {
    let place = |stream: BorrowedFd<'_>| {
        let data = fstat(stream).ok()?;
        Some((data.st_dev, data.st_ino))
    };
    let output = place(io::stdout().as_fd());
    output.is_some() && output == place(io::stderr().as_fd())
}

/// Whether standard error is the journal of systemd, which then reads the priority of each line (systemd.exec(5),
/// `JOURNAL_STREAM`).
pub fn logs_to_journal() -> bool {
    let stream = env::var("JOURNAL_STREAM").ok();
    let data = fstat(io::stderr().as_fd()).ok();
    let place = data.map(|data| format!("{}:{}", data.st_dev, data.st_ino));
    stream.is_some() && stream == place
}

/// The name of the machine.
pub fn host_name() -> Option<String> {
    unistd::gethostname().ok()?.into_string().ok()
}

/// Looks up a user and a group, by name or by number.
///
/// # Errors
/// The name that does not exist.
pub fn look_up(user: Option<&str>, group: Option<&str>) -> Result<UserAndGroup, String> {
    let user = user.map(|name| {
        let by_number = || User::from_uid(Uid::from_raw(name.parse().ok()?)).ok()?;
        let found = User::from_name(name).ok().flatten().or_else(by_number);
        found.ok_or_else(|| format!("user {name}: no such user"))
    });
    let group = group.map(|name| {
        let by_number = || Group::from_gid(Gid::from_raw(name.parse().ok()?)).ok()?;
        let found = Group::from_name(name).ok().flatten().or_else(by_number);
        found.ok_or_else(|| format!("group {name}: no such group"))
    });
    let (user, group) = (user.transpose()?, group.transpose()?);
    let group = group.map(|group| group.gid);
    Ok(UserAndGroup { user, group })
}

impl UserAndGroup {
    /// The numbers of user and group, if they are given.
    pub fn ids(&self) -> (Option<u32>, Option<u32>) {
        let user = self.user.as_ref().map(|user| user.uid.as_raw());
        (user, self.group.map(Gid::as_raw))
    }

    /// Changes to this user and group permanently: supplementary groups first, the user last.
    ///
    /// # Errors
    /// The call that was refused, and the reason.
    pub fn assume(&self) -> Result<(), String> {
        let group = self.group.or(self.user.as_ref().map(|user| user.gid));
        let failed = |what: &str, error: Errno| format!("{what}: {}", error.desc().to_lowercase());
        if let Some(user) = &self.user {
            let name =
                CString::new(user.name.as_bytes()).map_err(|_| "user: bad name".to_owned())?;
            if Uid::effective().is_root() {
                unistd::initgroups(&name, group.unwrap_or(user.gid))
                    .map_err(|error| failed("initgroups", error))?;
            }
        }
        if let Some(group) = group {
            unistd::setgid(group).map_err(|error| failed("setgid", error))?;
        }
        if let Some(user) = &self.user {
            unistd::setuid(user.uid)
                .map_err(|error| failed(&format!("setuid {}", user.name), error))?;
        }
        Ok(())
    }

    /// Changes the owner of a file to the new user, so that the process can open it again later. Skips files that are
    /// not regular, such as `/dev/null`, since others use them, and symbolic links, since the new user may have
    /// created them.
    ///
    /// # Errors
    /// The file has hard links, by which the new user may have made another user's file accessible; also those of
    /// `lstat(2)`, `open(2)` and `fchown(2)`.
    pub fn own(&self, file: &Path) -> io::Result<()> {
        let user = self.user.as_ref().map(|user| user.uid);
        if user.is_none() && self.group.is_none() || !file.symlink_metadata()?.is_file() {
            return Ok(());
        }
        // Check and change the open file, whatever happens to its name meanwhile.
        let mut options = OpenOptions::new();
        let file = options
            .append(true)
            .custom_flags(O_NOFOLLOW | O_NONBLOCK | O_NOCTTY)
            .open(file)?;
        let data = file.metadata()?;
        if !data.is_file() {
            return Ok(());
        }
        if data.nlink() > 1 {
            return Err(io::Error::other("it has hard links"));
        }
        unistd::fchown(&file, user, self.group).map_err(io::Error::from)
    }
}

impl UserAndGroup {
    /// Changes the owner of a directory, of the directories in it and of the files in these, as [`UserAndGroup::own`] does.
    ///
    /// # Errors
    /// Those of [`UserAndGroup::own`] and `readdir(3)`.
    pub fn own_directory(&self, directory: &Path) -> io::Result<()> {
        let user = self.user.as_ref().map(|user| user.uid);
        if user.is_none() && self.group.is_none() {
            return Ok(());
        }
        let mut options = OpenOptions::new();
        let flags = O_DIRECTORY | O_NOFOLLOW;
        let open = options.read(true).custom_flags(flags).open(directory)?;
        unistd::fchown(&open, user, self.group)?;
        for entry in fs::read_dir(directory)? {
            let entry = entry?;
            match entry.file_type()?.is_dir() {
                true => self.own_directory(&entry.path())?,
                false => self.own(&entry.path())?,
            }
        }
        Ok(())
    }
}

/// Starts a thread.
///
/// # Errors
/// The system allows no more threads; the message names the thread and the limits.
pub fn thread<T: Send + 'static>(
    name: &str,
    run: impl FnOnce() -> T + Send + 'static,
) -> io::Result<JoinHandle<T>> {
    let started = thread::Builder::new().name(name.to_owned()).spawn(run);
    started.map_err(|error| no_thread(name, &error))
}

/// Why a thread could not be started, in words.
pub fn no_thread(name: &str, error: &io::Error) -> io::Error {
    let cause = match error.kind() {
        ErrorKind::WouldBlock => {
            "the system allows no more threads; see ulimit -u and -v, TasksMax and pids.max".into()
        }
        _ => Errno::from_raw(error.raw_os_error().unwrap_or_default())
            .desc()
            .to_lowercase(),
    };
    io::Error::new(error.kind(), format!("thread {name:?}: {cause}"))
}

/// The number of threads of this process.
///
/// # Errors
/// Those of the file system.
pub fn threads() -> io::Result<usize> {
    Ok(fs::read_dir("/proc/self/task")?.count())
}

/// Most arenas of the allocator. In measurements more did not help: each thread has its own cache for small blocks.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const MOST_ARENAS: usize = 4;
/// The size in bytes from which a block gets a mapping of its own.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const LARGE_BLOCK: i32 = 128 << 10;

/// Has an entry for each descriptor of this process.
const DESCRIPTORS: &str = "/proc/self/fd";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smallest_limit_on_memory_counts() {
        const MEMINFO: &str = "MemTotal:       1000 kB\nMemFree:         500 kB\n";
        let check = |meminfo, cgroups, files: &[(&str, &str)], expected| {
            let read = |path: &Path| {
                let found = files.iter().find(|(name, _)| Path::new(name) == path);
                found.map(|(_, text)| (*text).to_owned())
            };
            let least = least_memory(meminfo, cgroups, read);
            assert_eq!(least, expected, "{meminfo:?} {cgroups:?} {files:?}");
        };
        check("", "", &[], None);
        check("MemTotal: many kB\n", "nonsense\n1:memory\n", &[], None);
        check(MEMINFO, "", &[], Some(1_024_000));
        let own = "/sys/fs/cgroup/a/b.service/memory.max";
        let above = "/sys/fs/cgroup/a/memory.max";
        let v2 = "0::/a/b.service\n";
        check(MEMINFO, v2, &[(own, "max\n")], Some(1_024_000));
        check(MEMINFO, v2, &[(own, "5000\n")], Some(5000));
        check(
            MEMINFO,
            v2,
            &[(own, "max\n"), (above, "4000\n")],
            Some(4000),
        );
        check(
            MEMINFO,
            v2,
            &[(own, "3000\n"), (above, "4000\n")],
            Some(3000),
        );
        let root = [("/sys/fs/cgroup/memory.max", "2000\n")];
        check(MEMINFO, "0::/\n", &root, Some(2000));
        check(MEMINFO, v2, &root, Some(2000));
        check("", v2, &root, Some(2000));
        let v1 = "4:cpu,memory:/docker/1\n3:cpuset:/\n0::/\n";
        let inside = "/sys/fs/cgroup/memory/memory.limit_in_bytes";
        let outside = "/sys/fs/cgroup/memory/docker/1/memory.limit_in_bytes";
        check(MEMINFO, v1, &[(inside, "6000\n")], Some(6000));
        check(MEMINFO, v1, &[(outside, "7000\n")], Some(7000));
        let none = [(inside, "9223372036854771712\n")];
        check(MEMINFO, v1, &none, Some(1_024_000));
        check(MEMINFO, "4:memoryless:/\n", &none, Some(1_024_000));
        assert!(memory().is_some_and(|bytes| bytes > 1 << 20));
    }

    #[test]
    fn batch_scheduling_is_allowed_for_everyone() {
        thread::spawn(|| schedule_as_batch().unwrap())
            .join()
            .unwrap();
    }

    #[test]
    fn a_process_with_threads_does_not_fork() {
        // The test runner has at least two.
        thread::scope(|scope| {
            scope.spawn(|| assert!(fork().is_err()));
        });
    }

    #[test]
    fn unknown_names_are_told() {
        assert_eq!(
            look_up(Some("no-such-user-here"), None).unwrap_err(),
            "user no-such-user-here: no such user"
        );
        assert!(look_up(None, Some("no-such-group-here")).is_err());
        assert!(look_up(Some("0"), Some("0")).is_ok());
    }
}
