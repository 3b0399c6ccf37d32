//! References in texts of the configuration, such as `${NAME}`.

/// A text of the file with references, which are not to be lost when it is printed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    /// The text with the values.
    pub value: String,
    /// The text as written.
    pub written: String,
}
