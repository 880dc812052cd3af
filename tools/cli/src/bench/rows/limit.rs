//! The least that a step on rows could take: its reads alone, or its traffic through memory alone.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use memmap2::MmapMut;
use paramstore::ParamStore;
use paramstore::inspect::BlockRun;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rayon::prelude::*;

use super::super::raw_copy::open_direct;
use crate::failure::Failure;

/// Reads at once.
pub(super) const READS: usize = 32;

/// Random reads of pages that a store has written: others have nothing on disk to be read, and come sooner.
pub(super) struct Pages {
    files: Vec<File>,
    /// Stretches of pages: the file, the offset of the first, how many.
    stretches: Vec<(usize, u64, u64)>,
    page_bytes: u64,
    rng: StdRng,
}

impl Pages {
    /// The pages of the blocks of rows that were written, or of what is in use of the log if none were.
    pub(super) fn new(store: &ParamStore, path: &Path, page_bytes: u64) -> Result<Self, Failure> {
        let mut pages =
            Self { files: Vec::new(), stretches: Vec::new(), page_bytes, rng: StdRng::seed_from_u64(1) };
        let mut numbers = HashMap::new();
        for run in store.blocks() {
            let BlockRun::Written(block) = run? else { continue };
            if block.plane == "record" {
                let file = pages.file(&mut numbers, &path.join(&block.file))?;
                pages.stretches.push((file, block.offset, block.bytes / page_bytes));
            }
        }
        if pages.stretches.is_empty() {
            let file = pages.file(&mut numbers, &path.join("row_log.0000.0"))?;
            pages.stretches.push((file, 0, store.row_log_bytes().0 / page_bytes));
        }
        Ok(pages)
    }

    /// The number of a file, which is opened for it.
    fn file(&mut self, numbers: &mut HashMap<PathBuf, usize>, path: &Path) -> Result<usize, Failure> {
        if let Some(&number) = numbers.get(path) {
            return Ok(number);
        }
        self.files.push(open_direct(path)?.0);
        numbers.insert(path.to_owned(), self.files.len() - 1);
        Ok(self.files.len() - 1)
    }

    /// A page at random.
    fn place(&mut self) -> Option<(usize, u64)> {
        let at = self.rng.random_range(0..self.stretches.len().max(1));
        let &(file, offset, pages) = self.stretches.get(at)?;
        Some((file, offset + self.rng.random_range(0..pages.max(1)) * self.page_bytes))
    }

    /// Reads so many pages at random places, and returns the seconds.
    pub(super) fn read(&mut self, count: u64) -> Result<f64, Failure> {
        let places: Vec<_> = (0..count).filter_map(|_| self.place()).collect();
        let next = AtomicUsize::new(0);
        let start = Instant::now();
        let work = || -> io::Result<()> {
            let mut page = MmapMut::map_anon(usize::try_from(self.page_bytes).unwrap_or(4096))?;
            while let Some(&(file, offset)) = places.get(next.fetch_add(1, Ordering::Relaxed)) {
                if let Some(file) = self.files.get(file) {
                    file.read_exact_at(&mut page, offset)?;
                }
            }
            Ok(())
        };
        let results: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..READS.min(places.len())).map(|_| scope.spawn(work)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap_or(Ok(()))).collect()
        });
        let seconds = start.elapsed().as_secs_f64();
        let failed = |source| Failure::Transfer { what: "read pages at random".to_owned(), source };
        results.into_iter().try_for_each(|result| result.map_err(failed))?;
        Ok(seconds)
    }
}

/// Traffic of a step through memory: what is gathered, the gradients, and every plane of the rows updated.
pub(super) struct Memory {
    /// Records, as many as a table has or 4 GiB of them, whichever is less.
    records: Vec<f32>,
    record_len: usize,
    dim: usize,
}

impl Memory {
    pub(super) fn new(rows: u64, record_len: usize, dim: usize) -> Self {
        const MOST: u64 = 1 << 30;
        let rows = rows.min(MOST / record_len as u64).max(1);
        let records = vec![1.0; usize::try_from(rows).unwrap_or(1) * record_len];
        Self { records, record_len, dim }
    }

    /// Gathers `ids`, then reads `gradients` and reads and writes the records of the distinct rows; returns the seconds.
    pub(super) fn pass(&mut self, ids: &[u64], distinct: &[u64], gradients: &[f32], out: &mut [f32]) -> f64 {
        let rows = (self.records.len() / self.record_len) as u64;
        let (dim, record_len) = (self.dim, self.record_len);
        let place = |id: u64| usize::try_from(id % rows).unwrap_or(0) * record_len;
        let start = Instant::now();
        let records = &self.records;
        out.par_chunks_exact_mut(dim).zip(ids).with_min_len(256).for_each(|(out, &id)| {
            out.copy_from_slice(&records[place(id)..][..dim]);
        });
        // Ascending and distinct, so that the records can be handed out to threads.
        let mut numbers: Vec<_> =
            distinct.iter().map(|&id| usize::try_from(id % rows).unwrap_or(0)).collect();
        numbers.sort_unstable();
        numbers.dedup();
        let mut touched = Vec::with_capacity(numbers.len());
        let (mut rest, mut position) = (self.records.as_mut_slice(), 0);
        for number in numbers {
            let (_, from) = rest.split_at_mut((number - position) * record_len);
            let (record, after) = from.split_at_mut(record_len);
            touched.push(record);
            (rest, position) = (after, number + 1);
        }
        let per_record = gradients.len() / dim / touched.len().max(1) * dim;
        touched.par_iter_mut().enumerate().with_min_len(256).for_each(|(at, record)| {
            for gradient in gradients[at * per_record..][..per_record].chunks_exact(dim) {
                for (x, g) in record[..dim].iter_mut().zip(gradient) {
                    *x += *g * 1e-9;
                }
            }
            for x in &mut record[dim..] {
                *x *= 0.999;
            }
        });
        start.elapsed().as_secs_f64()
    }
}
