//! See `paramstore::fuzzing::history`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| paramstore::fuzzing::history(bytes));
