//! See `paramstore::fuzzing::notes`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| paramstore::fuzzing::notes(bytes));
