//! Ids in paths that bind a request to one backend.

use regex::bytes::Regex;

/// Finds the ids in paths of the original's IOWA framework, whose sessions live in one process: a request whose path
/// ends like this may only go to the backend with this id.
pub(crate) fn sticky() -> Regex {
    Regex::new(r"(?-u)\w-\w+-\w+\.\w+\.[\w.]+-(\w+)$").expect("a constant pattern")
}

/// The id in a decoded path, if it has one; see [`sticky`].
pub(crate) fn sticky_id<'p>(pattern: &Regex, path: &'p [u8]) -> Option<&'p [u8]> {
    // Almost no path has one, and searching for a dash costs next to nothing.
    memchr::memchr(b'-', path)?;
    Some(pattern.captures(path)?.get(1)?.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_in_paths() {
        let pattern = sticky();
        let check = |path: &str, expected: Option<&str>| {
            let found = sticky_id(&pattern, path.as_bytes());
            assert_eq!(found, expected.map(str::as_bytes), "{path}");
        };
        check("/app/1-2-3.4.5-7f0000010016", Some("7f0000010016"));
        check("/a-b-c.d.e.f-id_1", Some("id_1"));
        check("/x/a-b-c.d.e-", None);
        check("/x/a-b-c.d.e-i.d", None);
        check("/x/a-b-c.d-id", None);
        check("/x/b-c.d.e-id", None);
        check("/x/a-b-c.d.e-id/more", None);
        check("/a--c.d.e-id", None);
        check("/", None);
        check("", None);
    }
}
