//! See `paramstore::fuzzing::record`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| paramstore::fuzzing::record(bytes));
