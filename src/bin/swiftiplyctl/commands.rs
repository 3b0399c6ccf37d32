//! The table of commands: for the command line, the help text, completions and the manual.

use crate::program::CommandOption;

/// A command.
#[derive(Debug)]
pub(crate) struct Command {
    /// One word, or two.
    pub(crate) name: &'static str,
    pub(crate) arguments: &'static [Argument],
    /// What it does, in a line of the help text.
    pub(crate) summary: &'static str,
    /// What it does, in the manual, as mdoc(7).
    #[cfg_attr(not(test), allow(dead_code, reason = "the manual is made by a test"))]
    pub(crate) manual: &'static str,
    pub(crate) action: Action,
}

/// An argument of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Argument {
    /// A site.
    Site,
    /// A site, if given.
    OptionalSite,
    /// A site, or what else can be drained.
    Backend,
    /// `on` or `off`.
    Switch,
    /// A level of the log.
    Level,
    /// A shell for which there are completions.
    Shell,
    /// Keys with values, as many as there are.
    Values,
}

/// What a command does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Sends a request without a body: the method, and the path, where `*` stands for each argument.
    Send(&'static str, &'static str),
    /// Shows the configuration.
    Show,
    /// Changes the configuration of a site.
    Set,
    /// Shows certificates, or tries whether they can be obtained.
    Certificates,
    /// Prints completions.
    Completions,
}

impl Argument {
    /// The name in the help text and the manual.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Site | Self::OptionalSite => "SITE",
            Self::Backend => "NAME",
            Self::Switch => "on|off",
            Self::Level => "LEVEL",
            Self::Shell => "SHELL",
            Self::Values => "KEY=VALUE",
        }
    }

    /// The words that it may be; empty: any.
    pub(crate) const fn words(self) -> &'static [&'static str] {
        match self {
            Self::Switch => &["on", "off"],
            Self::Level => LEVELS,
            Self::Shell => &["bash", "zsh", "fish"],
            _ => &[],
        }
    }

    /// Whether it can be left out.
    pub(crate) const fn is_optional(self) -> bool {
        matches!(self, Self::OptionalSite | Self::Values)
    }
}

impl Command {
    /// The name with the arguments: `maintenance SITE on|off`.
    pub(crate) fn synopsis(&self) -> String {
        let mut text = self.name.to_owned();
        for argument in self.arguments {
            text.push_str(&match argument {
                Argument::Values => format!(" [{} ...]", argument.name()),
                argument if argument.is_optional() => format!(" [{}]", argument.name()),
                argument => format!(" {}", argument.name()),
            });
        }
        text
    }

    /// Its own options.
    pub(crate) fn options(&self) -> impl Iterator<Item = &'static CommandOption> {
        let own = OPTIONS
            .iter()
            .filter(|(names, _)| names.contains(&self.name));
        own.map(|(_, option)| option)
    }
}

const LEVELS: &[&str] = &["disabled", "minimal", "normal", "full"];

/// The options that every command has.
pub(crate) const COMMON: &[CommandOption] = &[
    CommandOption(
        "c",
        "config",
        "FILE",
        "find the server by status in its configuration (/etc/swiftiply/swiftiply.yml)",
    ),
    CommandOption(
        "s",
        "socket",
        "ADDRESS",
        "find the server at ADDRESS: host:port or unix:/path",
    ),
    CommandOption(
        "k",
        "key-file",
        "FILE",
        "with -s: read the key from FILE; without it the key is in SWIFTIPLY_KEY, if there is one",
    ),
    CommandOption("", "json", "", "print what the server sends, as JSON"),
    CommandOption("v", "version", "", "print the version and exit"),
    CommandOption(
        "h",
        "help",
        "",
        "print this help, or that of a command, and exit",
    ),
];

/// The options of single commands, which are named.
pub(crate) const OPTIONS: &[(&[&str], CommandOption)] = &[
    (
        &["status", "sites", "backends"],
        CommandOption(
            "w",
            "watch",
            "[SECONDS]",
            "show it again and again, every 2 seconds",
        ),
    ),
    (
        &["certificates"],
        CommandOption(
            "n",
            "dry-run",
            "",
            "try whether the names would get certificates",
        ),
    ),
    (
        &["pause"],
        CommandOption("m", "most", "TIME", "how long a request waits at most (5m)"),
    ),
    (
        &["drain", "pause"],
        CommandOption(
            "",
            "wait",
            "[TIME]",
            "wait until no request is in flight, for TIME at most (60s)",
        ),
    ),
    (
        &["config set"],
        CommandOption(
            "f",
            "file",
            "FILE",
            "the whole entry of the site, YAML or JSON; - is standard input",
        ),
    ),
    (
        &["config set", "config rm"],
        CommandOption("p", "persist", "", "write the change to the file as well"),
    ),
    (
        &["config set", "config rm"],
        CommandOption(
            "",
            "drop-comments",
            "",
            "with --persist: comments in the changed lines may be lost",
        ),
    ),
];

/// All commands, in the order of the help text.
pub(crate) const COMMANDS: &[Command] = &[
    Command {
        name: "status",
        arguments: &[],
        summary: "show what the server is doing",
        manual: "Show the state of the server in a few lines, and each site in a line, as
.Cm sites
does.
With
.Fl -json
everything that is described in
.Dq STATUS
in
.Xr swiftiply 8 .",
        action: Action::Send("GET", "/status"),
    },
    Command {
        name: "sites",
        arguments: &[],
        summary: "list the sites",
        manual: "Show each site in a line: what an operator has switched there
.Pq Cm pause , drain , maintenance ,
or
.Li serving ,
or
.Li down
if no backend is connected and no server is up;
requests per second; the requests that wait; the backends that have dialled in, or how many of its servers are up;
and the requests that these have.
Backends that serve several sites are counted at each of them.",
        action: Action::Send("GET", "/sites"),
    },
    Command {
        name: "backends",
        arguments: &[],
        summary: "list the backends",
        manual: "Show each connection of a backend in a line: its id, from where it has dialled
in, the address at
which it did, its state, for how long, and how many responses it has sent.
For servers
.Pq Li \"proxy: traditional\"
their address, the site, the state, for how long, responses, failures, and why a server is not up.
What was drained and is not connected is listed as well.",
        action: Action::Send("GET", "/backends"),
    },
    Command {
        name: "certificates",
        arguments: &[Argument::OptionalSite],
        summary: "list the certificates, or try whether they can be obtained",
        manual: "Show each certificate in a line, or those of a site: its names; whether it was obtained from
an authority
.Pq acme ,
made by the server itself
.Pq internal
or read from a file; its issuer; when it expires; when the next one is ordered;
and why the last
order has failed.
.Pp
With
.Fl n
nothing is obtained: the server tries for each name with
.Li \"tls: auto\"
.Pq or Li on_demand , No if it is in the configuration
whether it would be, and prints why not.
It places an order, lets the authority validate the name by each of
.Ic acme.challenges
until one succeeds, and leaves the order unfinished.
In place of Let's Encrypt its staging environment is asked, so this does not count for the limits
of the real one; any other authority is asked itself.
The exit status is 1 if a name would get no certificate.",
        action: Action::Certificates,
    },
    Command {
        name: "reload",
        arguments: &[],
        summary: "load the configuration file again",
        manual: "Load the configuration file again, as after HUP, and wait for the outcome.
If it has problems, print them with file and line; nothing has changed then.
Changes of
.Cm config set
and
.Cm config rm
that were not persisted are lost, which is reported.",
        action: Action::Send("POST", "/control/reload"),
    },
    Command {
        name: "check",
        arguments: &[],
        summary: "check the configuration file without loading it",
        manual: "Check the configuration file of the running server, with its command line, and
print its problems.
Nothing changes.",
        action: Action::Send("POST", "/control/check"),
    },
    Command {
        name: "upgrade",
        arguments: &[],
        summary: "replace the process with a new one",
        manual: "Start the program that is installed now in the place of the running process, as
after USR2, and wait
until it serves.
If it fails, the old process goes on, and the reason is printed.
What is paused, drained or in maintenance stays so, as do the level of the logs
and changes of
.Cm config set
and
.Cm config rm
that were not persisted; those are made again in the file as it is now.
The number of requests that
.Cm sites
shows as waiting does not have those that wait in the old process.",
        action: Action::Send("POST", "/control/upgrade"),
    },
    Command {
        name: "drain",
        arguments: &[Argument::Backend],
        summary: "give a backend, a machine, a server or a site no more requests",
        manual: "Let backends finish their requests and give them no more, until
.Cm undrain .
.Ar NAME
is one of these:
.Bl -dash -compact
.It
The id or the whole name of backends, as in
.Cm backends
and in logs;
.Xr swiftiply-access 8
sends the name of the machine.
They stay connected, so that their applications do not dial in again and again,
and those of this name that dial in
later get no requests either.
Some frameworks give all processes of a machine the same id.
.It
The IP address of a machine: the same for all backends that dial in from there.
.It
The address of a server
.Pq Li \"proxy: traditional\" .
Its idle connections are closed.
.It
A site, by any of its host names: its requests go to its
.Ic backup
at once; without one they get 503.
.El
At least one backend of that name has to be connected, so that a mistyped name
is noticed.
Upgraded connections stay open.
When
.Cm backends
shows none of them as busy, the processes can be stopped.
With
.Fl -wait
the command ends at this moment, or with status 4 when it has not come in time.
It waits for upgraded connections of backends that dialled in, but not for those of a site.",
        action: Action::Send("POST", "/control/drain/*"),
    },
    Command {
        name: "undrain",
        arguments: &[Argument::Backend],
        summary: "end what drain has begun",
        manual: "Give requests again to what was drained by this name.",
        action: Action::Send("POST", "/control/undrain/*"),
    },
    Command {
        name: "pause",
        arguments: &[Argument::Site],
        summary: "let the requests of a site wait",
        manual: "Let the requests of a site wait for
.Cm resume
instead of a backend.
As many wait as
.Ic limits.waiting
allows, each for 5 minutes at most, or for
.Fl m Ar TIME ;
then it gets 503.
The wait does not count towards
.Ic timeout ,
and holds no worker.
Requests that a backend has already go on.
With
.Fl -wait
the command ends when the site's backends have none of its requests any more, or with status 4
when they still have some after that time; the site stays paused.
Neither upgraded connections count, nor requests that an old process still has after an upgrade.
Files are served.
The site's
.Ic backup
gets none of the requests.",
        action: Action::Send("POST", "/control/pause/*"),
    },
    Command {
        name: "resume",
        arguments: &[Argument::Site],
        summary: "end a pause",
        manual: "End the pause of a site: its requests go to backends.",
        action: Action::Send("POST", "/control/resume/*"),
    },
    Command {
        name: "maintenance",
        arguments: &[Argument::Site, Argument::Switch],
        summary: "answer every request of a site with its maintenance page",
        manual: "While it is on, every request of the site gets 503 with Retry-After, and its
.Ic maintenance_page ,
its own page for 503 or a built-in one.
Requests that were accepted before go on.
The health check is answered as ever.
The site is also in maintenance while its
.Ic maintenance_flag
exists; this command does not change that file.",
        action: Action::Send("POST", "/control/maintenance/*/*"),
    },
    Command {
        name: "log",
        arguments: &[Argument::Level],
        summary: "change how much is logged",
        manual: "Change the level of the server's log and of the logs of sites:
.Cm disabled , minimal , normal
or
.Cm full .
Lasts until the next reload, also over an upgrade.",
        action: Action::Send("POST", "/control/log/*"),
    },
    Command {
        name: "config show",
        arguments: &[Argument::OptionalSite],
        summary: "show the configuration in force, or the entry of a site",
        manual: "Show the configuration that is in force as YAML, as in the file, with changes
that were not
persisted; or the entry of a site, which may stand in a file of
.Ic include .
References such as
.Li ${NAME}
are shown as they are written.
It has the keys of backends, and other secrets of the file.
.Dq swiftiply -p
shows a file with its defaults.",
        action: Action::Show,
    },
    Command {
        name: "config set",
        arguments: &[Argument::Site, Argument::Values],
        summary: "change keys of a site, or set its entry",
        manual: "Change keys of a site's entry in
.Ic map :
each
.Ar KEY=VALUE
is a key and its value as YAML.
Or, with
.Fl f Ar FILE ,
replace the whole entry, or add one;
.Ic incoming
can be left out then.
The change is checked as a file is, together with the rest of the configuration:
all of it takes effect at once, or
nothing.
Files that the configuration names, such as those of
.Ic include ,
are read again for that.
A site that stands in one of those files is not changed: edit it there and reload.
It lasts until the file is loaded again, which
.Cm reload
reports, or the server ends, unless it is written to the file
.Pq Fl p .
Then the rest of the file stays as it is, with its comments and anchors.
A comment in the lines that are replaced would be lost, so that is refused
without
.Fl -drop-comments ,
as it is if the file was changed since it was loaded, or if
.Ic map
is not written as a list with dashes.
The server writes the file: its user needs the right to do so in the directory of the
file, which
.Pa conf/swiftiply.service
does not give it.",
        action: Action::Set,
    },
    Command {
        name: "config rm",
        arguments: &[Argument::Site],
        summary: "remove a site",
        manual: "Remove a site's entry, in the same way.",
        action: Action::Send("DELETE", "/config/*"),
    },
    Command {
        name: "stop",
        arguments: &[],
        summary: "stop the server after the requests under way",
        manual: "Stop the server, as after TERM: it finishes the requests under way, for
.Ic grace
at most.
Requests that wait at a paused site get 503.",
        action: Action::Send("POST", "/control/stop"),
    },
    Command {
        name: "completions",
        arguments: &[Argument::Shell],
        summary: "print completions for bash, zsh or fish",
        manual: "Print completions for a shell.
They are also in
.Pa conf/completions .",
        action: Action::Completions,
    },
];
