//! See `paramstore::fuzzing::store`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| paramstore::fuzzing::store(bytes));
