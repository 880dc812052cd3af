//! See `paramstore::fuzzing::safetensors`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| paramstore::fuzzing::safetensors(bytes));
