//! The laws of the ordinary tests, for the fuzz targets.

#[path = "../laws.rs"]
mod laws;

/// Panics if the law of this name does not hold for this input.
pub fn hold(name: &str, input: &[u8]) {
    laws::named(name).hold(input);
}
