//! Files of a docroot, of the page cache, and files that a backend names.

mod cache;
mod large;
mod named;
mod pages;
mod serving;

use std::fs;

use tempfile::TempDir;

/// More than the socket buffers on both sides hold.
const LARGE: usize = 24 << 20;

/// What is known of a path is trusted for longer than any test takes.
const LONG: &str =
    "file_cache: {window: 60m}, etag_cache: {window: 60m}, dynamic_request_cache: {window: 60m}";

/// A folder with `www`, which has these files in it.
fn folder(files: &[(&str, &[u8])]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, content) in files {
        let path = folder.path().join("www").join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    folder
}

/// A site that has `www` of a folder and no backends, with more keys.
fn site(folder: &TempDir, keys: &str) -> String {
    let www = folder.path().join("www");
    format!(
        "map: [{{incoming: test, default: true, docroot: {}{keys}}}]",
        www.display()
    )
}

/// The same with backends.
fn with_backends(folder: &TempDir, keys: &str) -> String {
    site(
        folder,
        &format!(", outgoing: '127.0.0.1:0', timeout: 60{keys}"),
    )
}
