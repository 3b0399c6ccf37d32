//! Problems and notes about a configuration, with their places.

use std::cell::RefCell;
use std::collections::HashSet;
use std::error::Error;
use std::fmt::{self, Write};
use std::path::{Path, PathBuf};

use super::included::IncludedFile;
use super::inspection::Inspection;
use super::raw::{self, Node, PathStep};
use super::references;
use super::types::Reference;
use crate::amount::counted;
use crate::escape::escape;

/// A reason why a configuration cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Problem {
    /// The file as named by the caller, or `command line`.
    pub file: PathBuf,
    /// The line, from 1; `None` if the problem has no line.
    pub line: Option<usize>,
    /// The section: `map[2] (blog.example.com)`, `defaults`; empty for the top level.
    pub path: String,
    /// The key, its value, what is wrong and what to write instead.
    pub message: String,
}

/// A setting that has no effect. Same shape as a [`Problem`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Note {
    /// The file as named by the caller, or `command line`.
    pub file: PathBuf,
    /// The line, from 1.
    pub line: Option<usize>,
    /// The section: `map[2] (blog.example.com)`, `defaults`; empty for the top level.
    pub path: String,
    /// The key and an explanation.
    pub message: String,
}

/// All problems of a configuration, sorted by line; at least one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problems(pub Vec<Problem>);

impl Problems {
    /// The last line of a report: `2 problems`.
    pub fn closing(&self) -> String {
        counted(self.0.len(), "problem")
    }

    /// The same for a text that the reader of the problems has never seen.
    pub(super) fn without_lines(mut self) -> Self {
        self.0.iter_mut().for_each(|problem| problem.line = None);
        self
    }

    /// A single problem, for a file that cannot be read.
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
    // Keep it on one line, whatever a quoted value contains.
    formatter.write_char(' ')?;
    formatter.write_str(&escape(message))
}

/// The text that is being checked, with the findings so far.
pub(super) struct Findings<'a> {
    file: &'a Path,
    text: &'a str,
    root: &'a Node,
    included: Vec<IncludedFile>,
    /// Values of references, which messages do not show.
    pub(super) references: Vec<Reference>,
    /// Before a start: how to inspect files that the configuration names.
    pub(super) inspection: Option<&'a Inspection>,
    problems: RefCell<Vec<Finding>>,
    notes: RefCell<Vec<Finding>>,
}

/// The place of a finding.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Location {
    /// In the file: the steps to it, and the name of its section.
    File(Vec<PathStep>, String),
    /// An included file as a whole, and perhaps a line.
    Whole(PathBuf, Option<usize>),
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
            included: Vec::new(),
            references: Vec::new(),
            inspection,
            problems: RefCell::default(),
            notes: RefCell::default(),
        }
    }

    /// The same with the files that the text includes, whose entries are in the tree already.
    pub(super) fn with(self, included: Vec<IncludedFile>, references: Vec<Reference>) -> Self {
        Self {
            included,
            references,
            ..self
        }
    }

    /// Whether the entry of `map` with this index is from an included file.
    pub(super) fn is_included(&self, index: usize) -> bool {
        let steps = [PathStep::Key("map".into()), PathStep::Item(index)];
        self.included
            .iter()
            .any(|file| file.steps(&steps).is_some())
    }

    /// The file with the value at `steps`, its text, and the steps in it.
    fn file_of(&self, steps: &[PathStep]) -> (&Path, &str, Vec<PathStep>) {
        let mut files = self.included.iter();
        let found = files.find_map(|file| Some((file, file.steps(steps)?)));
        match found {
            Some((file, steps)) => (&file.path, &file.text, steps),
            None => (self.file, self.text, steps.to_vec()),
        }
    }

    pub(super) fn problem(&self, place: Location, message: impl Into<String>) {
        let message = references::hidden(message.into(), &self.references);
        self.problems.borrow_mut().push((place, message));
    }

    pub(super) fn note(&self, place: Location, message: impl Into<String>) {
        let message = references::hidden(message.into(), &self.references);
        self.notes.borrow_mut().push((place, message));
    }

    /// Whether the file itself has a value there, before `defaults` are merged.
    pub(super) fn has(&self, steps: &[PathStep]) -> bool {
        self.root.get(steps).is_some()
    }

    /// A reference to another place, `, line 4`.
    pub(super) fn reference(&self, place: &Location) -> String {
        match place {
            Location::CommandLine => ", command line".into(),
            Location::File(..) if self.problems.borrow().len() > self.affordable() => String::new(),
            Location::File(steps, _) => {
                let (file, text, steps) = self.file_of(steps);
                match raw::line(text, &steps) {
                    Some(line) if file == self.file => format!(", line {line}"),
                    Some(line) => format!(", {}:{line}", file.display()),
                    None => String::new(),
                }
            }
            Location::Whole(..) => String::new(),
        }
    }

    /// The notes, or the problems if there are any.
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

    /// How many lines to look up. Each takes a pass over the text, so a huge file gets fewer.
    fn affordable(&self) -> usize {
        (LOOKUP_BYTES / self.text.len().max(1)).clamp(10, 1000)
    }

    /// Looks up the lines, sorts by them and removes duplicates: a value in `defaults` is read with every entry.
    fn located(&self, found: &[Finding]) -> Vec<Problem> {
        let mut seen = HashSet::new();
        let unique: Vec<&Finding> = found.iter().filter(|found| seen.insert(*found)).collect();
        let affordable = self.affordable();
        let mut problems: Vec<Problem> = Vec::with_capacity(unique.len());
        for (index, (place, message)) in unique.into_iter().enumerate() {
            let (file, line, path) = match place {
                Location::File(steps, path) => {
                    let (file, text, steps) = self.file_of(steps);
                    let line = || raw::line(text, &steps);
                    let line = (index < affordable).then(line).flatten();
                    // An entry that is the whole of its file has no line of its own.
                    let line =
                        line.or_else(|| (file != self.file && steps.is_empty()).then_some(1));
                    (file, line, path.clone())
                }
                Location::Whole(file, line) => (file.as_path(), *line, String::new()),
                Location::CommandLine => (Path::new(COMMAND_LINE), None, String::new()),
            };
            problems.push(Problem {
                file: file.to_path_buf(),
                line,
                path,
                message: message.clone(),
            });
        }
        let number = |path: &Path| {
            let mut files = self.included.iter();
            files
                .position(|file| file.path == path)
                .map_or(0, |number| number + 1)
        };
        problems.sort_by_key(|problem| {
            let line = match problem.line {
                None if !problem.path.is_empty() => usize::MAX,
                line => line.unwrap_or(0),
            };
            (number(&problem.file), line)
        });
        problems
    }
}

/// The name of the file if there is none.
pub(super) const COMMAND_LINE: &str = "command line";

/// Most bytes of text to read for the lines of a report.
const LOOKUP_BYTES: usize = 4 << 20;
