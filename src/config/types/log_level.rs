//! How much is logged.

use serde::Serialize;

/// The original's four levels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// 0: errors.
    Disabled,
    /// 1: also warnings.
    Minimal,
    /// 2: also changes of state.
    Normal,
    /// 3: all messages.
    Full,
}

impl LogLevel {
    /// Its name in files and commands.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Disabled => "disabled",
            Self::Minimal => "minimal",
            Self::Normal => "normal",
            Self::Full => "full",
        }
    }

    /// The level with this name.
    pub fn named(word: &str) -> Option<Self> {
        let all = [Self::Disabled, Self::Minimal, Self::Normal, Self::Full];
        all.into_iter().find(|level| level.word() == word)
    }
}
