//! See `paramstore::fuzzing::superblock`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| paramstore::fuzzing::superblock(bytes));
