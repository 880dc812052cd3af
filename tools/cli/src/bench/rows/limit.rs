//! The least that a step on rows could take: its reads alone, or what it is in memory.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use memmap2::MmapMut;
use paramstore::inspect::BlockRun;
use paramstore::optim::TensorClock;
use paramstore::{InstructionSet, Optimizer, ParamStore};
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

/// A step on rows by a program that keeps them in memory and knows their places: gather, update, scatter. It has no table of
/// what is in memory, sorts nothing, and makes nothing durable.
pub(super) struct Memory {
    /// Records, as many as a table has or 4 GiB of them, whichever is less.
    records: Vec<f32>,
    record_len: usize,
    dim: usize,
    rule: Optimizer,
}

impl Memory {
    pub(super) fn new(rows: u64, record_len: usize, dim: usize, rule: Optimizer) -> Self {
        const MOST: u64 = 1 << 30;
        let rows = rows.min(MOST / record_len as u64).max(1);
        let records = vec![1.0; usize::try_from(rows).unwrap_or(1) * record_len];
        Self { records, record_len, dim, rule }
    }

    /// Gathers `ids`, then updates the records of the distinct ones by the sums of their `gradients`; returns the seconds.
    pub(super) fn pass(&mut self, ids: &[u64], gradients: &[f32], out: &mut [f32]) -> Result<f64, Failure> {
        let rows = (self.records.len() / self.record_len) as u64;
        let (dim, record_len, rule) = (self.dim, self.record_len, self.rule);
        let number = |id: u64| usize::try_from(id % rows).unwrap_or(0);
        // Ascending, so that the records can be handed out to threads: what is known before a step begins.
        let mut named: Vec<_> = ids.iter().map(|&id| number(id)).zip(0..).collect::<Vec<(usize, usize)>>();
        named.sort_unstable();
        let groups: Vec<_> = named.chunk_by(|a, b| a.0 == b.0).collect();
        let start = Instant::now();
        let records = &self.records;
        out.par_chunks_exact_mut(dim).zip(ids).with_min_len(256).for_each(|(out, &id)| {
            out.copy_from_slice(&records[number(id) * record_len..][..dim]);
        });
        let mut touched = Vec::with_capacity(groups.len());
        let (mut rest, mut position) = (self.records.as_mut_slice(), 0);
        for number in groups.iter().map(|group| group[0].0) {
            let (_, from) = rest.split_at_mut((number - position) * record_len);
            let (record, after) = from.split_at_mut(record_len);
            touched.push(record);
            (rest, position) = (after, number + 1);
        }
        let chunks = touched.par_chunks_mut(ROWS).zip(groups.par_chunks(ROWS)).with_min_len(256 / ROWS);
        chunks.try_for_each_init(
            || Chunk::new(&rule, dim),
            |chunk, (records, groups)| chunk.update(&rule, records, groups, gradients),
        )?;
        Ok(start.elapsed().as_secs_f64())
    }
}

/// Rows that are updated by one call of a rule: their planes stay in the first level of the cache.
const ROWS: usize = 16;

/// The planes of some rows one after the other, as rules take them.
struct Chunk {
    isa: InstructionSet,
    gradient: Vec<f32>,
    /// Elements of a row of each plane, the parameters' first, and room for a chunk of them.
    planes: Vec<(usize, Vec<f32>)>,
    /// Rows of a call: one for a rule that keeps something for a row.
    rows: usize,
}

impl Chunk {
    fn new(rule: &Optimizer, dim: usize) -> Self {
        let state = rule.state_planes();
        let rows = if state.iter().any(|plane| plane.per_row) { 1 } else { ROWS };
        let widths = [dim].into_iter().chain(state.iter().map(|plane| if plane.per_row { 1 } else { dim }));
        let planes = widths.map(|width| (width, vec![0.0; rows * width])).collect();
        Self { isa: InstructionSet::detect(), gradient: vec![0.0; rows * dim], planes, rows }
    }

    /// Updates records by the sums of the gradients at the places of their groups.
    fn update(
        &mut self,
        rule: &Optimizer,
        records: &mut [&mut [f32]],
        groups: &[&[(usize, usize)]],
        gradients: &[f32],
    ) -> Result<(), Failure> {
        let dim = self.gradient.len() / self.rows;
        for (records, groups) in records.chunks_mut(self.rows).zip(groups.chunks(self.rows)) {
            let len = records.len();
            let sums = self.gradient.chunks_exact_mut(dim);
            for (at, ((record, group), sum)) in records.iter().zip(groups).zip(sums).enumerate() {
                sum.fill(0.0);
                for (_, position) in *group {
                    let gradient = &gradients[position * dim..][..dim];
                    sum.iter_mut().zip(gradient).for_each(|(sum, g)| *sum += g);
                }
                let mut from = 0;
                for (width, plane) in &mut self.planes {
                    plane[at * *width..][..*width].copy_from_slice(&record[from..][..*width]);
                    from += *width;
                }
            }
            let mut planes = self.planes.iter_mut().map(|(width, plane)| &mut plane[..len * *width]);
            if let Some(param) = planes.next() {
                let mut state: Vec<_> = planes.collect();
                let mut clock = TensorClock::default();
                rule.update(self.isa, &mut clock, param, &self.gradient[..len * dim], &mut state)?;
            }
            for (at, record) in records.iter_mut().enumerate() {
                let mut from = 0;
                for (width, plane) in &self.planes {
                    record[from..][..*width].copy_from_slice(&plane[at * width..][..*width]);
                    from += width;
                }
            }
        }
        Ok(())
    }
}
