//! LMDB: the page cache is its cache.

use std::path::PathBuf;

use heed::types::Bytes;
use heed::{Database, Env, EnvFlags, EnvOpenOptions, FlagSetMode, PutFlags, WithoutTls};
use serde_json::{Value, json};

use super::{MARK, Mode, Readers, Table, copy, first_records, mark};
use crate::Outcome;
use crate::arguments::Arguments;

/// Rows of one transaction of the loading.
const LOADED_AT_ONCE: u64 = 100_000;
const MAP_BYTES: usize = 1 << 36;

pub(super) struct Lmdb {
    env: Env<WithoutTls>,
    table: Database<Bytes, Bytes>,
    readers: Readers,
    dim: usize,
    mode: Mode,
}

impl Lmdb {
    pub(super) fn open(arguments: &Arguments) -> Outcome<Self> {
        let mut options = EnvOpenOptions::new().read_txn_without_tls();
        options.map_size(MAP_BYTES).max_readers(512);
        // SAFETY: no other process has the folder.
        let env = unsafe { options.flags(EnvFlags::NO_READ_AHEAD).open(PathBuf::from(&arguments.dir)) }?;
        let mut transaction = env.write_txn()?;
        let table = env.create_database(&mut transaction, None)?;
        transaction.commit()?;
        Ok(Self { env, table, readers: Readers::new()?, dim: arguments.dim, mode: Mode::Synced })
    }

    fn set(&mut self, mode: Mode) -> Outcome<()> {
        if mode != self.mode {
            let switch = if mode == Mode::Synced { FlagSetMode::Disable } else { FlagSetMode::Enable };
            // SAFETY: `self` is borrowed for this alone, so that no thread sets flags or has a transaction.
            unsafe { self.env.set_flags(EnvFlags::NO_SYNC, switch) }?;
            self.mode = mode;
        }
        Ok(())
    }
}

impl Table for Lmdb {
    fn version(&self) -> String {
        let version = heed::lmdb_version();
        format!("LMDB {}.{}.{}, heed 0.22", version.major, version.minor, version.patch)
    }

    fn settings(&self) -> Value {
        json!({"flags": "MDB_NORDAHEAD; unsynced: MDB_NOSYNC", "readers": super::READERS})
    }

    fn load(&mut self, rows: u64) -> Outcome<()> {
        self.set(Mode::Unsynced)?;
        let mut transaction = self.env.write_txn()?;
        for (row, record) in first_records(rows, self.dim) {
            let (key, value) = (row.to_be_bytes(), bytemuck::cast_slice(&record));
            self.table.put_with_flags(&mut transaction, PutFlags::APPEND, &key, value)?;
            if (row + 1).is_multiple_of(LOADED_AT_ONCE) {
                transaction.commit()?;
                transaction = self.env.write_txn()?;
            }
        }
        transaction.commit()?;
        self.sync()
    }

    fn get(&self, rows: &[u64], records: &mut [f32]) -> Outcome<()> {
        let record_len = 3 * self.dim;
        self.readers.each(rows, records, |rows, records| {
            let transaction = self.env.read_txn()?;
            for (row, record) in rows.iter().zip(records.chunks_exact_mut(record_len)) {
                copy(*row, self.table.get(&transaction, &row.to_be_bytes())?, record)?;
            }
            Ok(())
        })
    }

    fn put(&mut self, rows: &[u64], records: &[f32], batch: u64, mode: Mode) -> Outcome<()> {
        self.set(mode)?;
        let mut transaction = self.env.write_txn()?;
        for (row, record) in rows.iter().zip(records.chunks_exact(3 * self.dim)) {
            self.table.put(&mut transaction, &row.to_be_bytes(), bytemuck::cast_slice(record))?;
        }
        self.table.put(&mut transaction, &MARK, &batch.to_le_bytes())?;
        Ok(transaction.commit()?)
    }

    fn batch(&self) -> Outcome<u64> {
        let transaction = self.env.read_txn()?;
        mark(self.table.get(&transaction, &MARK)?)
    }

    fn sync(&mut self) -> Outcome<()> {
        Ok(self.env.force_sync()?)
    }
}
