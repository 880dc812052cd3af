//! RocksDB: a block cache of its own, past the page cache.
#![cfg(feature = "rocksdb")]

use rocksdb::{
    BlockBasedIndexType, BlockBasedOptions, Cache, DB, DBCompressionType, Options, SstFileWriter, WriteBatch,
    WriteOptions,
};
use serde_json::{Value, json};

use super::{MARK, Mode, Readers, Table, copy, first_records, mark};
use crate::Outcome;
use crate::arguments::Arguments;

const FAMILY: &str = "default";
/// Rows of one file of the loading.
const LOADED_AT_ONCE: usize = 320_000;
const BLOCK_BYTES: usize = 4096;
const BLOOM_BITS: f64 = 10.0;

pub(super) struct Rocks {
    database: DB,
    options: Options,
    readers: Readers,
    arguments_dir: std::path::PathBuf,
    dim: usize,
    cache_bytes: usize,
    buffer_bytes: usize,
}

impl Rocks {
    pub(super) fn open(arguments: &Arguments) -> Outcome<Self> {
        // Three write buffers and the cache, which holds indexes and filters too; the rest is for compactions.
        let buffer_bytes = arguments.memory / 16;
        let cache_bytes = arguments.memory / 8 * 5;
        let mut table = BlockBasedOptions::default();
        table.set_block_cache(&Cache::new_lru_cache(cache_bytes));
        table.set_block_size(BLOCK_BYTES);
        table.set_bloom_filter(BLOOM_BITS, false);
        table.set_index_type(BlockBasedIndexType::TwoLevelIndexSearch);
        table.set_partition_filters(true);
        table.set_cache_index_and_filter_blocks(true);
        table.set_pin_l0_filter_and_index_blocks_in_cache(true);
        table.set_format_version(5);
        let mut options = Options::default();
        options.create_if_missing(true);
        options.set_block_based_table_factory(&table);
        options.set_compression_type(DBCompressionType::None);
        options.set_write_buffer_size(buffer_bytes);
        options.set_max_write_buffer_number(3);
        options.set_target_file_size_base(buffer_bytes as u64);
        options.set_max_background_jobs(4);
        options.set_use_direct_reads(true);
        options.set_use_direct_io_for_flush_and_compaction(true);
        options.set_max_open_files(-1);
        let database = DB::open_cf_with_opts(&options, &arguments.dir, [(FAMILY, options.clone())])?;
        Ok(Self {
            database,
            options,
            readers: Readers::new()?,
            arguments_dir: arguments.dir.clone(),
            dim: arguments.dim,
            cache_bytes,
            buffer_bytes,
        })
    }
}

impl Table for Rocks {
    fn version(&self) -> String {
        let library =
            if option_env!("ROCKSDB_LIB_DIR").is_some() { "of the system's package" } else { "10.4.2" };
        format!("RocksDB {library}, rocksdb 0.24")
    }

    fn settings(&self) -> Value {
        json!({
            "wal": "sync; unsynced: not synced",
            "block_cache_bytes": self.cache_bytes,
            "write_buffers": [3, self.buffer_bytes],
            "block_bytes": BLOCK_BYTES,
            "bloom_bits": BLOOM_BITS,
            "direct_io": true,
            "compression": "none",
            "readers": super::READERS,
        })
    }

    /// By files made ahead, which go straight to the last level.
    fn load(&mut self, rows: u64) -> Outcome<()> {
        let mut records = first_records(rows, self.dim).peekable();
        let path = self.arguments_dir.join("ingested.sst");
        while records.peek().is_some() {
            let mut file = SstFileWriter::create(&self.options);
            file.open(&path)?;
            for (row, record) in records.by_ref().take(LOADED_AT_ONCE) {
                file.put(row.to_be_bytes(), bytemuck::cast_slice::<f32, u8>(&record))?;
            }
            file.finish()?;
            let mut options = rocksdb::IngestExternalFileOptions::default();
            options.set_move_files(true);
            self.database.ingest_external_file_opts(&options, vec![&path])?;
        }
        Ok(())
    }

    fn get(&self, rows: &[u64], records: &mut [f32]) -> Outcome<()> {
        let record_len = 3 * self.dim;
        let family = self.database.cf_handle(FAMILY).ok_or("no column family")?;
        self.readers.each(rows, records, |rows, records| {
            let keys: Vec<_> = rows.iter().map(|row| row.to_be_bytes()).collect();
            let values = self.database.batched_multi_get_cf(&family, &keys, true);
            for ((row, value), record) in rows.iter().zip(values).zip(records.chunks_exact_mut(record_len)) {
                copy(*row, value?.as_deref(), record)?;
            }
            Ok(())
        })
    }

    fn put(&mut self, rows: &[u64], records: &[f32], batch: u64, mode: Mode) -> Outcome<()> {
        let mut writes = WriteBatch::default();
        for (row, record) in rows.iter().zip(records.chunks_exact(3 * self.dim)) {
            writes.put(row.to_be_bytes(), bytemuck::cast_slice::<f32, u8>(record));
        }
        writes.put(MARK, batch.to_le_bytes());
        let mut options = WriteOptions::default();
        options.set_sync(mode == Mode::Synced);
        Ok(self.database.write_opt(writes, &options)?)
    }

    fn batch(&self) -> Outcome<u64> {
        mark(self.database.get(MARK)?.as_deref())
    }

    fn sync(&mut self) -> Outcome<()> {
        Ok(self.database.flush_wal(true)?)
    }
}
