//! The systems: a record of a row is one value, its key the row's number in big-endian order.

mod lmdb;
mod redb;
mod rocksdb;

use rayon::ThreadPool;
use rayon::prelude::*;
use serde_json::Value;

use crate::Outcome;
use crate::arguments::Arguments;
use crate::rule::first_record;

/// Threads that read at once: as many as `paramstore bench rows` keeps reads in flight to measure its limit.
const READERS: usize = 32;
/// Rows that one of them asks for at a time.
const ASKED: usize = 256;
/// The key of the number of the last batch.
const MARK: [u8; 8] = u64::MAX.to_be_bytes();

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// A batch is on the disk when its commit returns.
    Synced,
    /// Whatever the system offers without waiting for the disk.
    Unsynced,
}

impl Mode {
    pub(crate) fn parse(word: &str) -> Outcome<Self> {
        match word {
            "synced" => Ok(Self::Synced),
            "unsynced" => Ok(Self::Unsynced),
            _ => Err(format!("{word} is no mode").into()),
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Synced => "synced",
            Self::Unsynced => "unsynced",
        }
    }
}

pub(crate) trait Table {
    fn version(&self) -> String;

    /// What was chosen for it, for the record.
    fn settings(&self) -> Value;

    /// Writes the first record of every row in the order of keys.
    fn load(&mut self, rows: u64) -> Outcome<()>;

    /// The records of `rows`, which are ascending and distinct.
    fn get(&self, rows: &[u64], records: &mut [f32]) -> Outcome<()>;

    /// Writes the records and the number of the batch in one transaction.
    fn put(&mut self, rows: &[u64], records: &[f32], batch: u64, mode: Mode) -> Outcome<()>;

    /// The number of the last batch that is there.
    fn batch(&self) -> Outcome<u64>;

    /// Brings everything to the disk.
    fn sync(&mut self) -> Outcome<()>;
}

/// An empty table.
pub(crate) fn create(arguments: &Arguments) -> Outcome<Box<dyn Table>> {
    std::fs::create_dir(&arguments.dir)?;
    open(arguments)
}

pub(crate) fn open(arguments: &Arguments) -> Outcome<Box<dyn Table>> {
    Ok(match arguments.system.as_str() {
        "lmdb" => Box::new(lmdb::Lmdb::open(arguments)?),
        "redb" => Box::new(redb::Redb::open(arguments)?),
        #[cfg(feature = "rocksdb")]
        "rocksdb" => Box::new(rocksdb::Rocks::open(arguments)?),
        other => return Err(format!("no system {other:?} in this build").into()),
    })
}

/// Threads that wait for the disk, beside those that compute.
struct Readers(ThreadPool);

impl Readers {
    fn new() -> Outcome<Self> {
        Ok(Self(rayon::ThreadPoolBuilder::new().num_threads(READERS).build()?))
    }

    /// Lets many threads read parts of `rows` at once.
    fn each(
        &self,
        rows: &[u64],
        records: &mut [f32],
        read: impl Fn(&[u64], &mut [f32]) -> Outcome<()> + Sync,
    ) -> Outcome<()> {
        let record_len = records.len() / rows.len().max(1);
        let parts = rows.par_chunks(ASKED).zip(records.par_chunks_mut((ASKED * record_len).max(1)));
        self.0.install(|| parts.with_max_len(1).try_for_each(|(rows, records)| read(rows, records)))
    }
}

/// First records, ascending, as bytes.
fn first_records(rows: u64, dim: usize) -> impl Iterator<Item = (u64, Vec<f32>)> {
    (0..rows).map(move |row| {
        let mut record = vec![0.0; 3 * dim];
        first_record(row, &mut record);
        (row, record)
    })
}

/// Copies a value that was found to where it belongs.
fn copy(row: u64, value: Option<&[u8]>, record: &mut [f32]) -> Outcome<()> {
    let value = value.ok_or_else(|| format!("row {row} is not there"))?;
    let record: &mut [u8] = bytemuck::cast_slice_mut(record);
    if value.len() != record.len() {
        return Err(format!("row {row} has {} bytes", value.len()).into());
    }
    record.copy_from_slice(value);
    Ok(())
}

fn mark(value: Option<&[u8]>) -> Outcome<u64> {
    Ok(value.map(<[u8; 8]>::try_from).transpose()?.map_or(0, u64::from_le_bytes))
}
