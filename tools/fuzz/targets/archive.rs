//! See `paramstore::fuzzing::archive`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| paramstore::fuzzing::archive(bytes));
