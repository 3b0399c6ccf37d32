//! What is wrong with a configuration, or without effect, and where.

use std::cell::RefCell;
use std::collections::HashSet;
use std::error::Error;
use std::fmt::{self, Write};
use std::path::{Path, PathBuf};

use super::inspection::Inspection;
use super::raw::{self, Node, PathStep};
use crate::escape::escape;

/// Something that keeps a configuration from being used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The file as it was named, or `command line`.
    pub file: PathBuf,
    /// The line, from 1; `None` for what is not there at all.
    pub line: Option<usize>,
    /// The section: `map[2] (blog.example.com)`, `defaults`; empty for the top level.
    pub path: String,
    /// The key, its value, what is wrong and what would be right.
    pub message: String,
}

/// Something that is read but has no effect. Same shape as a [`Problem`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// The file as it was named, or `command line`.
    pub file: PathBuf,
    /// The line, from 1.
    pub line: Option<usize>,
    /// The section: `map[2] (blog.example.com)`, `defaults`; empty for the top level.
    pub path: String,
    /// The key and what there is to know about it.
    pub message: String,
}

/// All problems of a configuration, in the order of lines; at least one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problems(pub Vec<Problem>);

impl Problems {
    /// The line that ends a report: `2 problems, nothing changed`.
    pub fn closing(&self) -> String {
        match self.0.len() {
            1 => "1 problem, nothing changed".into(),
            count => format!("{count} problems, nothing changed"),
        }
    }

    /// The one problem of a file that cannot be read.
    pub(super) fn one(file: &Path, line: Option<usize>, message: impl Into<String>) -> Self {
        Self(vec![Problem {
            file: file.to_path_buf(),
            line,
            path: String::new(),
            message: message.into(),
        }])
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { "\n" };
            write!(formatter, "{separator}{problem}")?;
        }
        Ok(())
    }
}

impl Error for Problems {}

impl fmt::Display for Problem {
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        located(formatter, &self.file, self.line, &self.path, &self.message)
    }
}

impl fmt::Display for Note {
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        located(formatter, &self.file, self.line, &self.path, &self.message)
    }
}

fn located(
    formatter: &mut fmt::Formatter,
    file: &Path,
    line: Option<usize>,
    path: &str,
    message: &str,
) -> fmt::Result {
    write!(formatter, "{}:", file.display())?;
    if let Some(line) = line {
        write!(formatter, "{line}:")?;
    }
    if !path.is_empty() {
        write!(formatter, " {path}:")?;
    }
    // One line, whatever stands in a value that it quotes.
    formatter.write_char(' ')?;
    formatter.write_str(&escape(message))
}

/// The text under examination, and what has been found in it so far.
pub(super) struct Findings<'a> {
    file: &'a Path,
    text: &'a str,
    root: &'a Node,
    /// Before a start: how to look into what the configuration names.
    pub(super) inspection: Option<&'a Inspection>,
    problems: RefCell<Vec<Finding>>,
    notes: RefCell<Vec<Finding>>,
}

/// Where something was found.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Location {
    /// In the file: the way there, and its section for the message.
    File(Vec<PathStep>, String),
    /// On the command line.
    CommandLine,
}

type Finding = (Location, String);

impl<'a> Findings<'a> {
    pub(super) fn new(
        file: &'a Path,
        text: &'a str,
        root: &'a Node,
        inspection: Option<&'a Inspection>,
    ) -> Self {
        Self {
            file,
            text,
            root,
            inspection,
            problems: RefCell::default(),
            notes: RefCell::default(),
        }
    }

    pub(super) fn problem(&self, place: Location, message: impl Into<String>) {
        self.problems.borrow_mut().push((place, message.into()));
    }

    pub(super) fn note(&self, place: Location, message: impl Into<String>) {
        self.notes.borrow_mut().push((place, message.into()));
    }

    /// Whether something stands there in the file, before `defaults` are merged.
    pub(super) fn has(&self, steps: &[PathStep]) -> bool {
        self.root.get(steps).is_some()
    }

    /// `, line 4`, for a message that refers to another place.
    pub(super) fn reference(&self, place: &Location) -> String {
        match place {
            Location::CommandLine => ", command line".into(),
            Location::File(..) if self.problems.borrow().len() > self.affordable() => String::new(),
            Location::File(steps, _) => raw::line(self.text, steps)
                .map(|line| format!(", line {line}"))
                .unwrap_or_default(),
        }
    }

    /// The notes, unless there are problems.
    pub(super) fn finish(self) -> Result<Vec<Note>, Problems> {
        let problems = self.located(&self.problems.borrow());
        if !problems.is_empty() {
            return Err(Problems(problems));
        }
        let notes = self.located(&self.notes.borrow()).into_iter();
        Ok(notes
            .map(
                |Problem {
                     file,
                     line,
                     path,
                     message,
                 }| Note {
                    file,
                    line,
                    path,
                    message,
                },
            )
            .collect())
    }

    /// How many lines are looked up. Each costs a pass over the text, and a huge file gets fewer.
    fn affordable(&self) -> usize {
        (LOOKUP_BYTES / self.text.len().max(1)).clamp(10, 1000)
    }

    /// Looks up the lines, sorts by them and drops what was found twice: a value in `defaults` is read
    /// with every entry.
    fn located(&self, found: &[Finding]) -> Vec<Problem> {
        let mut seen = HashSet::new();
        let unique: Vec<&Finding> = found.iter().filter(|found| seen.insert(*found)).collect();
        let affordable = self.affordable();
        let mut problems: Vec<Problem> = Vec::with_capacity(unique.len());
        for (index, (place, message)) in unique.into_iter().enumerate() {
            let (file, line, path) = match place {
                Location::File(steps, path) if index < affordable => {
                    (self.file, raw::line(self.text, steps), path.clone())
                }
                Location::File(_, path) => (self.file, None, path.clone()),
                Location::CommandLine => (Path::new(COMMAND_LINE), None, String::new()),
            };
            problems.push(Problem {
                file: file.to_path_buf(),
                line,
                path,
                message: message.clone(),
            });
        }
        problems.sort_by_key(|problem| match problem.line {
            None if !problem.path.is_empty() => usize::MAX,
            line => line.unwrap_or(0),
        });
        problems
    }
}

/// Stands for the file where there is none.
pub(super) const COMMAND_LINE: &str = "command line";

/// How much text may be walked through to tell the lines of a report.
const LOOKUP_BYTES: usize = 4 << 20;
