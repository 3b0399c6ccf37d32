//! Escapes foreign text in lines for people or programs.

use std::borrow::Cow;

/// Whether a letter could end a line, hide or reorder text, or control a terminal: C0 and C1 controls, DEL, the line
/// and paragraph separators, and the controls of bidirectional text (Unicode Standard Annex 9).
pub const fn is_unsafe(letter: char) -> bool {
    matches!(
        letter,
        '\0'..='\u{1f}'
            | '\u{7f}'..='\u{9f}'
            | '\u{61c}'
            | '\u{200e}'
            | '\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2066}'..='\u{2069}'
    )
}

/// Whether a text is ASCII without controls, as most are: it contains nothing unsafe.
pub fn is_plain(text: &str) -> bool {
    text.bytes().all(|byte| matches!(byte, b' '..=b'~'))
}

/// The text with unsafe letters in Rust's notation: `\n`, `\u{202e}`.
pub fn escape(text: &str) -> Cow<'_, str> {
    if is_plain(text) || !text.contains(is_unsafe) {
        return Cow::Borrowed(text);
    }
    let mut safe = String::with_capacity(text.len() + 16);
    for letter in text.chars() {
        match is_unsafe(letter) {
            true => safe.extend(letter.escape_default()),
            false => safe.push(letter),
        }
    }
    Cow::Owned(safe)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_unsafe_is_escaped() {
        let check = |text: &str, expected: &str| assert_eq!(escape(text), expected);
        check("", "");
        check("plain \"text\" \\", "plain \"text\" \\");
        check("Grüße, 世界, 👩‍💻", "Grüße, 世界, 👩‍💻");
        check("a\r\nb\tc\0", "a\\r\\nb\\tc\\u{0}");
        check("\u{1b}[31m\u{7f}", "\\u{1b}[31m\\u{7f}");
        check("\u{85}\u{9b}\u{a0}", "\\u{85}\\u{9b}\u{a0}");
        check("\u{2028}\u{2029}\u{2027}", "\\u{2028}\\u{2029}\u{2027}");
        check(
            "\u{202e}gpj\u{2066}\u{200f}",
            "\\u{202e}gpj\\u{2066}\\u{200f}",
        );
        for letter in '\0'..=char::MAX {
            assert!(is_unsafe(letter) || !letter.is_control(), "{letter:?}");
        }
    }
}
