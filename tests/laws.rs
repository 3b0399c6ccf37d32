//! What must hold for any input: one law for each parser of bytes from outside.
//!
//! A law panics where it does not hold. The ordinary tests replay the files of `tests/corpus` through them; the fuzz
//! targets of `tests/fuzz` look for bytes that break them. The judges here read in a second, simple way: whole messages,
//! without states.

// The fuzz targets have this file in another place, so each module is named with its path.
#[path = "laws/chunks.rs"]
pub(crate) mod chunks;
#[path = "laws/configs.rs"]
mod configs;
#[path = "laws/heads.rs"]
pub(crate) mod heads;
#[path = "laws/preambles.rs"]
mod preambles;
#[path = "laws/targets.rs"]
mod targets;

use swiftiply::internals::http::head::HeadLimits;

/// A law, by what it is about.
#[derive(Clone, Copy)]
pub(crate) enum Law {
    /// Of bytes that come in pieces, which end at the given offsets.
    Pieces(fn(&[u8], &[usize])),
    /// Of bytes that are there as a whole.
    Whole(fn(&[u8])),
}

/// The law with the name of a fuzz target and of a folder of the corpus.
pub(crate) fn named(name: &str) -> Law {
    match name {
        "request_head" => Law::Pieces(heads::request_head),
        "response_head" => Law::Pieces(heads::response_head),
        "chunked" => Law::Pieces(chunks::chunked),
        "preamble" => Law::Whole(preambles::preamble),
        "target" => Law::Whole(targets::target),
        "path" => Law::Whole(targets::path),
        "config" => Law::Whole(configs::config),
        _ => panic!("no law {name}"),
    }
}

impl Law {
    /// Holds the law against an input: the whole of it, cut as it says itself, and byte by byte.
    pub(crate) fn hold(self, input: &[u8]) {
        match self {
            Self::Whole(law) => law(input),
            Self::Pieces(law) => {
                let (message, cuts) = split(input);
                law(message, &[]);
                law(message, &cuts);
                law(message, &(1..message.len()).collect::<Vec<_>>());
            }
        }
    }
}

/// What is behind the last 0xff of an input are the lengths of the pieces in which the rest comes. So a fuzzer can choose
/// them, and a file without that byte is nothing but its message.
pub(crate) fn split(input: &[u8]) -> (&[u8], Vec<usize>) {
    let Some(mark) = input.iter().rposition(|byte| *byte == 0xff) else {
        return (input, Vec::new());
    };
    let mut end = 0;
    let lengths = input[mark + 1..].iter();
    let cuts = lengths.map(|length| {
        end += usize::from(*length);
        end
    });
    (&input[..mark], cuts.collect())
}

/// The ends of all pieces of a message, that of the message last.
fn ends(cuts: &[usize], message: &[u8]) -> impl Iterator<Item = usize> {
    let inner = cuts.iter().copied().filter(|cut| *cut < message.len());
    inner.chain([message.len()])
}

/// The least that a configuration may say, nearly, so that small inputs reach all of them.
pub(crate) const LIMITS: HeadLimits = HeadLimits {
    head: 1024,
    fields: 16,
    target: 64,
};
