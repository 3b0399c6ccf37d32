//! A file that `include` has added: where its values are in the whole configuration.

use std::path::PathBuf;

use super::raw::PathStep;

/// A file with entries of `map`.
#[derive(Debug)]
pub(super) struct IncludedFile {
    /// Its path as messages name it.
    pub(super) path: PathBuf,
    /// Its text.
    pub(super) text: String,
    /// The index of its first entry in `map`.
    pub(super) first: usize,
    /// How many there are.
    pub(super) count: usize,
    /// Whether the file is a list of entries, rather than one entry.
    pub(super) is_list: bool,
}

impl IncludedFile {
    /// The steps within this file of a value that has these steps in the whole configuration. `None`: it is elsewhere.
    pub(super) fn steps(&self, steps: &[PathStep]) -> Option<Vec<PathStep>> {
        let [PathStep::Key(map), PathStep::Item(index), rest @ ..] = steps else {
            return None;
        };
        let own = index
            .checked_sub(self.first)
            .filter(|own| *own < self.count)?;
        if map != "map" {
            return None;
        }
        let item = self.is_list.then_some(PathStep::Item(own));
        Some(item.into_iter().chain(rest.iter().cloned()).collect())
    }
}
