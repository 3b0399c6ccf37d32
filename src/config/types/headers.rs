//! What a site changes in the fields of its responses (`response_headers`, `expires`, `cors`).

use serde::{Serialize, Serializer};

use crate::config::written::is_everything;

/// Changes for some paths (an entry of `response_headers`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct HeaderRule {
    /// Decoded paths, with everything below them. `/` is the whole site.
    #[serde(skip_serializing_if = "is_everything")]
    pub paths: Vec<String>,
    /// Whether to add those fields that protect visitors of most sites, where a response has none of its own.
    pub secure: bool,
    /// Names and values of fields that replace those of the response.
    #[serde(serialize_with = "map", skip_serializing_if = "Vec::is_empty")]
    pub set: Vec<(String, String)>,
    /// Names and values of further fields.
    #[serde(serialize_with = "map", skip_serializing_if = "Vec::is_empty")]
    pub add: Vec<(String, Vec<String>)>,
    /// Names of fields that are left out.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub remove: Vec<String>,
}

/// How long clients may use some files without asking again (an entry of `expires`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct ExpiresRule {
    /// Decoded paths, with everything below them. `/` is the whole site.
    #[serde(skip_serializing_if = "is_everything")]
    pub paths: Vec<String>,
    /// Media types in lower case; `text/*` matches all that start with `text/`; empty: all.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub types: Vec<String>,
    /// Whether only files with a hash in their names are meant.
    pub hashed: bool,
    /// For how many seconds; 0: they have to ask each time.
    pub time: u64,
    /// Whether they need not even ask when the page is loaded again.
    pub immutable: bool,
}

/// Which pages of other sites may use responses (`cors`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Cors {
    /// Origins, `https://example.com`; empty: all.
    #[serde(serialize_with = "origins")]
    pub origins: Vec<String>,
    /// Decoded paths, with everything below them. `/` is the whole site.
    #[serde(skip_serializing_if = "is_everything")]
    pub paths: Vec<String>,
    /// Methods that they may use.
    pub methods: Vec<String>,
    /// Fields that they may send; empty: those that they ask for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<String>,
    /// Fields of responses that they may read, besides usual ones.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub expose: Vec<String>,
    /// Whether they may send cookies.
    pub credentials: bool,
    /// For how many seconds browsers remember what is allowed.
    pub max_age: u64,
}

fn map<T: Serialize, S: Serializer>(pairs: &[(String, T)], out: S) -> Result<S::Ok, S::Error> {
    out.collect_map(pairs.iter().map(|(name, value)| (name, value)))
}

fn origins<S: Serializer>(origins: &[String], out: S) -> Result<S::Ok, S::Error> {
    match origins {
        [] => out.serialize_str("*"),
        origins => origins.serialize(out),
    }
}
