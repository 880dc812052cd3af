//! See `paramstore::fuzzing::gguf`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| paramstore::fuzzing::gguf(bytes));
