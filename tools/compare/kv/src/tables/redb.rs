//! redb: a cache of its own.

use redb::{Builder, Database, Durability, ReadableDatabase, TableDefinition};
use serde_json::{Value, json};

use super::{MARK, Mode, Readers, Table, copy, first_records, mark};
use crate::Outcome;
use crate::arguments::Arguments;

/// Rows of one transaction of the loading.
const LOADED_AT_ONCE: u64 = 200_000;
const ROWS: TableDefinition<&[u8; 8], &[u8]> = TableDefinition::new("rows");

pub(super) struct Redb {
    database: Database,
    readers: Readers,
    dim: usize,
    cache_bytes: usize,
}

impl Redb {
    pub(super) fn open(arguments: &Arguments) -> Outcome<Self> {
        // The rest is for the pages of a transaction and what the kernel keeps of the file.
        let cache_bytes = arguments.memory / 4 * 3;
        let database = Builder::new().set_cache_size(cache_bytes).create(arguments.dir.join("rows.redb"))?;
        Ok(Self { database, readers: Readers::new()?, dim: arguments.dim, cache_bytes })
    }
}

impl Table for Redb {
    fn version(&self) -> String {
        "redb 4.1".to_owned()
    }

    fn settings(&self) -> Value {
        json!({"durability": "Immediate; unsynced: None", "cache_bytes": self.cache_bytes, "readers": super::READERS})
    }

    fn load(&mut self, rows: u64) -> Outcome<()> {
        let mut records = first_records(rows, self.dim).peekable();
        while records.peek().is_some() {
            let transaction = self.database.begin_write()?;
            let mut table = transaction.open_table(ROWS)?;
            for (row, record) in records.by_ref().take(usize::try_from(LOADED_AT_ONCE)?) {
                table.insert(&row.to_be_bytes(), bytemuck::cast_slice(&record))?;
            }
            drop(table);
            transaction.commit()?;
        }
        Ok(())
    }

    fn get(&self, rows: &[u64], records: &mut [f32]) -> Outcome<()> {
        let record_len = 3 * self.dim;
        let table = self.database.begin_read()?.open_table(ROWS)?;
        self.readers.each(rows, records, |rows, records| {
            for (row, record) in rows.iter().zip(records.chunks_exact_mut(record_len)) {
                let value = table.get(&row.to_be_bytes())?;
                copy(*row, value.as_ref().map(|value| value.value()), record)?;
            }
            Ok(())
        })
    }

    fn put(&mut self, rows: &[u64], records: &[f32], batch: u64, mode: Mode) -> Outcome<()> {
        let mut transaction = self.database.begin_write()?;
        transaction.set_durability(match mode {
            Mode::Synced => Durability::Immediate,
            Mode::Unsynced => Durability::None,
        })?;
        let mut table = transaction.open_table(ROWS)?;
        for (row, record) in rows.iter().zip(records.chunks_exact(3 * self.dim)) {
            table.insert(&row.to_be_bytes(), bytemuck::cast_slice(record))?;
        }
        table.insert(&MARK, batch.to_le_bytes().as_slice())?;
        drop(table);
        Ok(transaction.commit()?)
    }

    fn batch(&self) -> Outcome<u64> {
        let table = self.database.begin_read()?.open_table(ROWS)?;
        mark(table.get(&MARK)?.as_ref().map(|value| value.value()))
    }

    /// A durable commit takes those before it along.
    fn sync(&mut self) -> Outcome<()> {
        Ok(self.database.begin_write()?.commit()?)
    }
}
