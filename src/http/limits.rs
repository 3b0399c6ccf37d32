//! The limits for heads.

/// The limits for a head; trailers are held to them too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadLimits {
    /// Most bytes of the whole head.
    pub head: usize,
    /// Most fields, at most 256.
    pub fields: usize,
    /// Most bytes of a request target.
    pub target: usize,
}

impl Default for HeadLimits {
    fn default() -> Self {
        Self {
            head: 64 * 1024,
            fields: 100,
            target: 16 * 1024,
        }
    }
}
