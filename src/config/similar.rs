//! Which key is meant by a name that is none.

/// The edit distance of an unknown name from that of a key, if it may be meant.
pub(super) fn near(name: &str, key: &str) -> Option<usize> {
    let distance = distance(&name.to_ascii_lowercase(), key);
    (distance <= (name.len() / 4).clamp(1, 2)).then_some(distance)
}

/// The edit distance: letters that are added, removed, replaced or swapped with the next one.
fn distance(one: &str, other: &str) -> usize {
    // Longer than any key; the time is the product of both lengths.
    if one.len() > 64 {
        return usize::MAX;
    }
    let (one, other) = (one.as_bytes(), other.as_bytes());
    let mut rows = vec![vec![0; other.len() + 1]; one.len() + 1];
    for i in 0..=one.len() {
        for j in 0..=other.len() {
            if i == 0 || j == 0 {
                rows[i][j] = i + j;
                continue;
            }
            let replaced = rows[i - 1][j - 1] + usize::from(one[i - 1] != other[j - 1]);
            let mut least = replaced.min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1);
            if i > 1 && j > 1 && one[i - 1] == other[j - 2] && one[i - 2] == other[j - 1] {
                least = least.min(rows[i - 2][j - 2] + 1);
            }
            rows[i][j] = least;
        }
    }
    rows[one.len()][other.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_or_two_are_near() {
        assert_eq!(near("docroot", "docroot"), Some(0));
        assert_eq!(near("Docrot", "docroot"), Some(1));
        assert_eq!(near("outgiong", "outgoing"), Some(1));
        // Short names allow one slip.
        assert_eq!(near("kye", "key"), Some(1));
        assert_eq!(near("k", "key"), None);
        assert_eq!(near("incoming", "outgoing"), None);
        assert_eq!(near(&"x".repeat(65), "x"), None);
    }

    #[test]
    fn distances() {
        let check =
            |one, other, expected| assert_eq!(distance(one, other), expected, "{one} {other}");
        check("", "abc", 3);
        check("abc", "abc", 0);
        check("abc", "acb", 1);
        check("abc", "abxc", 1);
        check("kitten", "sitting", 3);
    }
}
