//! The workload of `paramstore bench rows` on RocksDB, LMDB and redb. See the README of the folder above.

mod arguments;
mod bench;
mod disk;
mod kills;
mod rule;
mod tables;

/// The very draws of `paramstore bench rows`.
#[path = "../../../cli/src/bench/rows/ids.rs"]
#[expect(dead_code, clippy::precedence, reason = "the bound for caches is used there alone; lints differ")]
mod ids;

use std::error::Error;

use arguments::Arguments;

/// Whatever goes wrong ends the program.
type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

const USAGE: &str = "usage: paramstore-compare-kv run|until-killed|judge --system rocksdb|lmdb|redb --dir DIR --rows N \
     --memory BYTES [--dim D] [--batch B] [--zipf S] [--seed S] [--warm-up W] [--steps S] [--seconds S] \
     [--modes synced,unsynced] [--acknowledged K]";

fn main() -> Outcome<()> {
    let mut words = std::env::args().skip(1);
    let command = words.next().unwrap_or_default();
    let arguments = Arguments::parse(words).map_err(|error| format!("{error}\n{USAGE}"))?;
    match command.as_str() {
        "run" => bench::run(&arguments),
        "until-killed" => kills::until_killed(&arguments),
        "judge" => kills::judge(&arguments),
        _ => Err(USAGE.into()),
    }
}
