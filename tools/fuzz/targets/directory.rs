//! See `paramstore::fuzzing::directory`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| paramstore::fuzzing::directory(bytes));
