#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| swiftiply_fuzz::hold("path", input));
