//! Amounts in words, for messages: `1 request`, `2 requests`.

use std::fmt::Display;

/// So many of a thing; its plural has an `s`.
pub fn counted<N: Display + PartialEq + From<u8>>(count: N, thing: &str) -> String {
    let plural = if count == N::from(1) { "" } else { "s" };
    format!("{count} {thing}{plural}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_no_plural() {
        assert_eq!(counted(1_usize, "request"), "1 request");
        assert_eq!(counted(0_u64, "request"), "0 requests");
        assert_eq!(counted(21_u64, "idle backend"), "21 idle backends");
    }
}
