//! See `paramstore::fuzzing::table_page`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| paramstore::fuzzing::table_page(bytes));
