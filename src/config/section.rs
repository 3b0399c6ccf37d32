//! Reads a section of the file key by key.
//!
//! Problems with values go to [`Findings`], and reading continues with the default, so that one run reports all of
//! them.

use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::problem::{Findings, Location};
use super::raw::{self, Map, Node, PathStep};
use super::types::{Limits, Timeouts};
use super::value::{self, ValueError};

/// A section with the values that were merged into it.
pub(super) struct Section<'a> {
    /// Keys and values, `defaults` included.
    pub(super) map: Map,
    /// The steps to it.
    pub(super) steps: Vec<PathStep>,
    /// The steps to the section from which its other keys were merged.
    pub(super) inherited: Option<Vec<PathStep>>,
    /// How messages name it: `map[2] (blog.example.com)`.
    pub(super) label: String,
    /// The prefix of its keys: `limits.`.
    pub(super) prefix: String,
    /// The destination of problems.
    pub(super) findings: &'a Findings<'a>,
    /// The base of relative paths.
    pub(super) directory: Option<&'a Path>,
}

impl<'a> Section<'a> {
    /// The top level of a file.
    pub(super) fn top(map: &Map, findings: &'a Findings<'a>, directory: Option<&'a Path>) -> Self {
        Self {
            map: map.clone(),
            steps: Vec::new(),
            inherited: None,
            label: String::new(),
            prefix: String::new(),
            findings,
            directory,
        }
    }

    /// The place of a key or, in its list, of an item.
    pub(super) fn place(&self, key: &str, item: Option<usize>) -> Location {
        let step = PathStep::Key(key.into());
        let with = |steps: &[PathStep]| {
            let mut steps = steps.to_vec();
            steps.push(step.clone());
            steps.extend(item.map(PathStep::Item));
            steps
        };
        let own = with(&self.steps);
        match &self.inherited {
            Some(steps) if !self.findings.has(&own) && self.findings.has(&with(steps)) => {
                Location::File(with(steps), "defaults".into())
            }
            _ => Location::File(own, self.label.clone()),
        }
    }

    /// The place of a key in a section, or in a section of a list.
    pub(super) fn place_within(&self, key: &str, item: Option<usize>, inner: &str) -> Location {
        match self.place(key, item) {
            Location::File(mut steps, label) => {
                steps.push(PathStep::Key(inner.into()));
                // A missing key has the place of its section.
                if !self.findings.has(&steps) {
                    steps.pop();
                }
                Location::File(steps, label)
            }
            place => place,
        }
    }

    /// Checks a file that is opened for writing at the start: its directory must exist, and it must not be a directory
    /// itself.
    pub(super) fn to_be_written(&self, path: PathBuf) -> Result<PathBuf, ValueError> {
        if self.findings.inspection.is_some() {
            value::writable_place(&path)?;
        }
        Ok(path)
    }

    /// Reports a problem of a value: the key, the value as written and what is wrong with it.
    pub(super) fn wrong(&self, key: &str, item: Option<usize>, node: &Node, wrong: &str) {
        // Secrets: messages go to logs.
        let shown = match key {
            "key" | "password" => String::new(),
            _ => format!(" {}", value::shown(node)),
        };
        let message = format!("{}{key}{shown}: {wrong}", self.prefix);
        self.findings.problem(self.place(key, item), message);
    }

    /// Reports a value that needs TLS if this build has none. Returns whether it has; if not, its files are not inspected.
    pub(super) fn needs_tls(&self, key: &str, item: Option<usize>, node: &Node) -> bool {
        if !cfg!(feature = "tls") {
            self.wrong(key, item, node, value::WITHOUT_TLS);
        }
        cfg!(feature = "tls")
    }

    /// Reports a problem of a key, whatever its value is.
    pub(super) fn problem_of(&self, key: &str, wrong: &str) {
        let message = format!("{}{key}: {wrong}", self.prefix);
        self.findings.problem(self.place(key, None), message);
    }

    /// The same section with other keys.
    pub(super) fn with(&self, map: Map) -> Self {
        Self {
            map,
            steps: self.steps.clone(),
            inherited: self.inherited.clone(),
            label: self.label.clone(),
            prefix: self.prefix.clone(),
            findings: self.findings,
            directory: self.directory,
        }
    }

    /// Reports a missing key, or two that conflict, at the section itself.
    pub(super) fn problem(&self, message: &str) {
        let place = Location::File(self.steps.clone(), self.label.clone());
        self.findings
            .problem(place, format!("{}{message}", self.prefix));
    }

    /// Reports a note about a key.
    pub(super) fn note(&self, key: &str, message: &str) {
        let message = format!("{}{key}{message}", self.prefix);
        self.findings.note(self.place(key, None), message);
    }

    /// Reads the value of a key; `None` if it is missing or wrong.
    pub(super) fn take<T>(
        &self,
        key: &str,
        read: impl Fn(&Node) -> Result<T, ValueError>,
    ) -> Option<T> {
        let node = raw::get(&self.map, key)?;
        self.read(key, None, node, read)
    }

    /// Reads a single value, or an item of a list.
    pub(super) fn read<T>(
        &self,
        key: &str,
        item: Option<usize>,
        node: &Node,
        read: impl Fn(&Node) -> Result<T, ValueError>,
    ) -> Option<T> {
        read(node)
            .map_err(|wrong| self.wrong(key, item, node, &wrong))
            .ok()
    }

    /// The values of a key that takes one or a list, each with its index in the list.
    pub(super) fn many(&self, key: &str) -> Option<Vec<(Option<usize>, &Node)>> {
        match raw::get(&self.map, key)? {
            Node::List(list) => Some(
                list.iter()
                    .enumerate()
                    .map(|(index, node)| (Some(index), node))
                    .collect(),
            ),
            node => Some(vec![(None, node)]),
        }
    }

    /// The values of a key that restricts access: one or a list, or false for none. A key without a value is a problem,
    /// since it would restrict nothing.
    pub(super) fn restrictions(&self, key: &str) -> Vec<(Option<usize>, &Node)> {
        let wrong = |node: &Node, wrong: &str| {
            self.wrong(key, None, node, wrong);
            Vec::new()
        };
        // `raw::get` takes null for no key.
        let typed = self.map.iter().find(|(name, _)| name == key);
        match typed.map(|(_, node)| node) {
            None => Vec::new(),
            Some(node) if value::truth(node) == Ok(false) => Vec::new(),
            Some(node @ Node::Null) => wrong(node, "no value; write false for none"),
            Some(node @ Node::List(list)) if list.is_empty() => {
                wrong(node, "an empty list; write false for none")
            }
            Some(_) => self.many(key).unwrap_or_default(),
        }
    }

    /// Reads the values of a key that takes one or a list, without the wrong ones.
    pub(super) fn take_many<T>(
        &self,
        key: &str,
        read: impl Fn(&Node) -> Result<T, ValueError>,
    ) -> Option<Vec<T>> {
        let values = self.many(key)?.into_iter();
        Some(
            values
                .filter_map(|(item, node)| self.read(key, item, node, &read))
                .collect(),
        )
    }

    /// The section at a key; empty if it is missing.
    pub(super) fn section(&self, key: &str) -> Self {
        let map = match raw::get(&self.map, key) {
            None => Map::new(),
            Some(Node::Map(map)) => map.clone(),
            Some(node) => {
                self.wrong(key, None, node, "not a section; write keys and values");
                Map::new()
            }
        };
        self.inner(key, map)
    }

    /// The section at a key, with a map that is already known.
    pub(super) fn inner(&self, key: &str, map: Map) -> Self {
        let with = |steps: &[PathStep]| [steps, &[PathStep::Key(key.into())]].concat();
        Self {
            map,
            steps: with(&self.steps),
            inherited: self.inherited.as_deref().map(with),
            label: self.label.clone(),
            prefix: format!("{}{key}.", self.prefix),
            findings: self.findings,
            directory: self.directory,
        }
    }

    /// Reads the server's `limits`.
    pub(super) fn server_limits(&self) -> Limits {
        let base = Limits::default();
        let common = self.site_limits(&base);
        let section = self.section("limits");
        let limits = Limits {
            head: section.bytes("head", 1 << 10..=1 << 20, base.head as u64) as usize,
            fields: section.count("fields", 1..=256, base.fields),
            target: section.bytes("target", 64..=1 << 20, base.target as u64) as usize,
            spool: section.bytes("spool", 0..=1 << 50, base.spool),
            waiting_total: section.count("waiting_total", 0..=MANY, base.waiting_total),
            backends: section.count("backends", 1..=MANY, base.backends),
            connections: section.count("connections", 1..=MANY, base.connections),
            connections_per_client: section.count(
                "connections_per_client",
                0..=MANY,
                base.connections_per_client,
            ),
            ..common
        };
        self.note_largest_body(&limits);
        limits
    }

    /// Notes that the largest body of a request exceeds what one client may store.
    pub(super) fn note_largest_body(&self, limits: &Limits) {
        let section = self.section("limits");
        let most = limits.largest_kept();
        if raw::get(&section.map, "body").is_some() && limits.body > most {
            let message = format!(
                ": with request_buffering bodies of more than {most} bytes are refused, since one client may use an eighth \
                 of limits.spool; write a larger one"
            );
            section.note("body", &message);
        }
    }

    /// Reads a site's `limits`; missing ones are the server's. Keys that a site cannot have are reported as unknown,
    /// and ignored here.
    pub(super) fn site_limits(&self, server: &Limits) -> Limits {
        let section = self.section("limits");
        let memory = section.bytes("body_memory", 0..=1 << 30, server.body_memory as u64);
        Limits {
            body: section.bytes("body", 0..=1 << 50, server.body),
            body_memory: memory as usize,
            waiting: section.count("waiting", 0..=MANY, server.waiting),
            ..server.clone()
        }
    }

    /// Reads the server's `timeouts`.
    pub(super) fn server_timeouts(&self) -> Timeouts {
        let base = Timeouts::default();
        let common = self.site_timeouts(&base);
        let section = self.section("timeouts");
        Timeouts {
            head: section.deadline("head", base.head),
            preamble: section.deadline("preamble", base.preamble),
            ..common
        }
    }

    /// Reads a site's `timeouts`; missing ones are the server's.
    pub(super) fn site_timeouts(&self, server: &Timeouts) -> Timeouts {
        let section = self.section("timeouts");
        Timeouts {
            idle: section.deadline("idle", server.idle),
            body: section.deadline("body", server.body),
            write: section.deadline("write", server.write),
            first_byte: section.deadline("first_byte", server.first_byte),
            backend: section.deadline("backend", server.backend),
            connect: section.deadline("connect", server.connect),
            tunnel: section.deadline("tunnel", server.tunnel),
            ..server.clone()
        }
    }

    /// Reads a number of bytes within a range.
    pub(super) fn bytes(&self, key: &str, range: RangeInclusive<u64>, default: u64) -> u64 {
        self.take(key, value::size(range)).unwrap_or(default)
    }

    /// Reads a count within a range.
    pub(super) fn count(&self, key: &str, range: RangeInclusive<u64>, default: usize) -> usize {
        self.take(key, value::count(range))
            .map_or(default, |count| count as usize)
    }

    /// Reads a time that must not be zero.
    pub(super) fn deadline(&self, key: &str, default: Duration) -> Duration {
        self.take(key, value::deadline).unwrap_or(default)
    }
}

/// A bound for counts without a more specific one.
pub(super) const MANY: u64 = 1_000_000;
