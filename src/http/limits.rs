//! How large a head may be.

/// How large a head may be; trailers are held to the same limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadLimits {
    /// Bytes of all of it.
    pub head: usize,
    /// Fields, at most 256.
    pub fields: usize,
    /// Bytes of a request's target.
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
