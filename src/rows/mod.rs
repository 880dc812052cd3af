//! ROWS. Which rows of a table are near, which stand in the log, which in their blocks, and which are yet unborn.
//!
//! A record is in one of four places: in the cache, in the log, in the page of its block, or nowhere, when it has its
//! initial values. The first of these that has it is right. Changed records go to the log when a commit wants them
//! durable, or when their memory is needed; now and then what stands in the log is folded into the blocks, by leases of
//! the pager, so that the log can be used again. Nothing here knows what is computed with a record.

mod ahead;
mod cache;
mod changed;
mod check;
mod clean;
mod commit;
mod expire;
mod fetch;
mod find;
mod fold;
mod hashed;
mod index;
mod log;
mod packed;
mod places;
mod shares;
mod visit;
mod window;

use std::collections::HashSet;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub(crate) use check::{LogPlace, check_log, each_batch};
pub(crate) use shares::{budget_share, check_budget, rows_in_memory, smallest_budget};

use cache::{Cache, NEVER, RowMap};
use fold::Pass;
use index::{Entry, Index, place_of};
use log::Log;

use crate::error::{Error, Result};
use crate::format::directory::Directory;
use crate::format::records::RowMode;
use crate::format::row_log::{Head, RowCounts, RowState, ids};
use crate::initial::tensor_key;
use crate::layout::{RowTable, row_tables};
use crate::pager::Pager;
use crate::storage::Buffer;
use crate::store::BlockStore;
use crate::units::{to_u64, to_usize};

use ahead::Ahead;
use shares::Shares;
use window::{Announced, Window};

/// The tables of rows of an open store.
pub(crate) struct Rows {
    pager: Arc<Pager>,
    state: Mutex<State>,
}

struct State {
    tables: Vec<Table>,
    log: Log,
    /// Reads land here.
    staging: Buffer,
    /// Records from the log wait here for their blocks.
    arena: Buffer,
    pass: Option<Pass>,
    /// Without it, nothing is read ahead.
    ahead: Option<Ahead>,
    /// Memory that the indices of the log may take.
    index_bytes: usize,
}

/// Where all rows of a call are in memory.
struct LastCall {
    rows: Vec<u64>,
    slots: Vec<u32>,
    moves: u64,
}

/// One table of rows.
struct Table {
    spec: RowTable,
    key: u64,
    tensor: u32,
    cache: Cache,
    window: Window,
    /// Rows in the log, of the committed generation and of the working one.
    committed: Index,
    working: Index,
    /// What the committed generation has in the log of blocks that the working one has folded.
    stash: RowMap<Vec<Entry>>,
    /// Blocks that the working generation has written: nothing of them may stand in the log when it is committed.
    folded: HashSet<u64>,
    /// What is counted, in the working generation and in the committed one.
    counts: [RowCounts; 2],
    /// The slots that the last call found: the update of a batch names the rows that were gathered for it.
    last: Option<LastCall>,
}

/// What a tensor of rows takes now.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RowUse {
    /// The tensor.
    pub tensor: String,
    /// Its rows.
    pub rows: u64,
    /// What becomes of a row in steps that do not name it.
    pub mode: RowMode,
    /// Bytes of a row's record: a mark, parameters and state.
    pub record_bytes: u64,
    /// Bytes that are read from a block for one row.
    pub page_bytes: u64,
    /// Rows that have been given values; the others have their initial ones, and take no room on a sparse store's disk.
    pub born: u64,
    /// Rows that have expired, each time: they have their initial values again.
    pub expired: u64,
    /// How often a row has to be seen before it is updated, where rows are found by hashed ids; else 0.
    pub admission: u32,
    /// Sightings of ids that found a row which another id had come to first, and shares with it.
    pub collided: u64,
    /// Sightings of rows that had not been seen often enough: their gradients were left out.
    pub not_admitted: u64,
    /// Rows that stand in the log.
    pub in_log: u64,
    /// Rows in memory, and how many there is room for.
    pub in_memory: u64,
    /// How many rows the memory budget holds.
    pub memory_rows: u64,
    /// Rows in memory that the next commit will write.
    pub changed: u64,
}

/// What a change of records counts.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Counted {
    /// Rows that have values now and had their initial ones.
    pub(crate) born: u64,
    /// The other way round.
    pub(crate) unborn: u64,
    pub(crate) expired: u64,
    pub(crate) collided: u64,
    pub(crate) not_admitted: u64,
}

impl Counted {
    fn add_to(self, counts: &mut RowCounts) {
        counts.born = counts.born.saturating_add(self.born).saturating_sub(self.unborn);
        counts.expired = counts.expired.saturating_add(self.expired);
        counts.collided = counts.collided.saturating_add(self.collided);
        counts.not_admitted = counts.not_admitted.saturating_add(self.not_admitted);
    }
}

impl std::ops::Add for Counted {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            born: self.born + other.born,
            unborn: self.unborn + other.unborn,
            expired: self.expired + other.expired,
            collided: self.collided + other.collided,
            not_admitted: self.not_admitted + other.not_admitted,
        }
    }
}

impl Rows {
    /// The tables of a store with `budget_bytes` of memory for them; `None` for a store without tables. Rows are only read
    /// ahead if that may be done in another thread.
    pub(crate) fn open(pager: &Arc<Pager>, budget_bytes: u64, reads_ahead: bool) -> Result<Option<Self>> {
        let mut state = pager.lock();
        let store = state.store_mut();
        let Some(rows) = store.record().rows.clone() else {
            let tables = row_tables(store.directory()).len();
            return if tables == 0 { Ok(None) } else { Err(wrong_counts(store, 0, tables)) };
        };
        let Some(log) = Log::open(store, &rows)? else { return Ok(None) };
        let mut opened = State::new(store.directory(), log, budget_bytes, reads_ahead)?;
        opened.find(store, &rows)?;
        drop(state);
        Ok(Some(Self { pager: Arc::clone(pager), state: Mutex::new(opened) }))
    }

    /// No user code runs under this lock that could leave the state in pieces: a panic of a kernel is one of memory.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives `each` the records of distinct rows of a tensor, ascending, a part of them at a time: the range of `rows`,
    /// and the records. If it changes them, marks included, it returns what there is to count.
    pub(crate) fn with_records(
        &self,
        tensor: usize,
        rows: &[u64],
        mut each: impl FnMut(Range<usize>, Vec<&mut [u8]>) -> Option<Counted>,
    ) -> Result<()> {
        let mut state = self.lock();
        let table = state.table_of(tensor)?;
        let next = state.tables.get_mut(table).and_then(|table| table.at_hand(rows));
        // Reading goes on while the rows of this batch are waited for. What fails here fails again, and is told, when the
        // rows are asked for.
        drop(state.read_following(&self.pager, table));
        let most = state.tables.get(table).map_or(1, |table| (table.cache.capacity() / 2).max(1));
        let mut done = 0;
        for part in rows.chunks(most) {
            let slots = state.slots(&self.pager, table, part)?;
            let Some(table) = state.tables.get_mut(table) else { break };
            let next = next.as_ref().and_then(|next| next.get(done..)).unwrap_or_default();
            for (&at, &next) in slots.iter().zip(next) {
                table.cache.set_next(at, next);
            }
            if let Some(counted) = each(done..done + part.len(), table.cache.records_mut(&slots)) {
                for &at in &slots {
                    table.cache.set_dirty(at, true);
                }
                counted.add_to(&mut table.counts[0]);
            }
            done += part.len();
        }
        Ok(())
    }

    /// Says which distinct rows, ascending, a later batch will need, `ahead` after the one at hand; those of the next one are
    /// read ahead.
    pub(crate) fn expect(&self, tensor: usize, rows: &[u64], ahead: u32) -> Result<()> {
        let mut state = self.lock();
        let number = state.table_of(tensor)?;
        let Some(table) = state.tables.get_mut(number) else { return Ok(()) };
        let announced = table.window.announce(rows, ahead);
        if let Announced::As(batch) | Announced::Unkept(batch) = announced {
            table.cache.expect_all(rows, batch);
        }
        match announced {
            _ if ahead > 1 => Ok(()),
            Announced::Unkept(_) => state.read_ahead(&self.pager, number, rows),
            Announced::As(_) | Announced::Known => state.read_following(&self.pager, number),
        }
    }

    /// What each table takes.
    pub(crate) fn usage(&self) -> Vec<RowUse> {
        let state = self.lock();
        let directory = self.pager.directory();
        let name = |tensor: usize| directory.tensors.get(tensor).map(|tensor| tensor.name.clone());
        let look = |table: &Table| RowUse {
            tensor: name(table.spec.tensor).unwrap_or_default(),
            rows: table.spec.rows,
            mode: table.spec.records.mode,
            record_bytes: to_u64(table.spec.records.bytes()),
            page_bytes: to_u64(table.spec.page_bytes()),
            memory_rows: to_u64(table.cache.capacity()),
            admission: table.spec.records.admission,
            born: table.counts[0].born,
            expired: table.counts[0].expired,
            collided: table.counts[0].collided,
            not_admitted: table.counts[0].not_admitted,
            in_log: to_u64(table.committed.len() + table.working.len()),
            in_memory: to_u64(table.cache.len()),
            changed: to_u64(table.cache.dirty()),
        };
        state.tables.iter().map(look).collect()
    }

    /// Bytes of the log in use, and its length.
    pub(crate) fn log_bytes(&self) -> (u64, u64) {
        let state = self.lock();
        (state.log.used_bytes(), state.log.ring_bytes())
    }
}

impl State {
    fn new(directory: &Directory, log: Log, budget_bytes: u64, reads_ahead: bool) -> Result<Self> {
        let specs = row_tables(directory);
        let window = specs.len();
        let mut shares = Shares::of(&specs, log.ring_bytes(), budget_bytes)?;
        if !reads_ahead {
            shares.ahead = 0;
        }
        let window = shares.window / window.max(1);
        let staging = Buffer::new(shares.staging)?;
        let arena = Buffer::new(shares.arena)?;
        let tables = specs.into_iter().zip(shares.records).map(|(spec, records)| {
            let name = directory.tensors.get(spec.tensor).map_or("", |tensor| tensor.name.as_str());
            Ok(Table {
                key: tensor_key(directory.seed, name),
                tensor: u32::try_from(spec.tensor).unwrap_or(u32::MAX),
                cache: Cache::new(spec.records.bytes(), records, spec.rows)?,
                window: Window::new(window),
                committed: Index::default(),
                working: Index::default(),
                stash: RowMap::default(),
                folded: HashSet::new(),
                counts: [RowCounts::default(); 2],
                last: None,
                spec,
            })
        });
        let tables = tables.collect::<Result<Vec<_>>>()?;
        let ahead = (shares.ahead > 0).then(|| Ahead::new(shares.ahead)).transpose()?;
        Ok(Self { tables, log, staging, arena, pass: None, ahead, index_bytes: shares.index })
    }

    /// Finds out what the committed generation has in the log.
    fn find(&mut self, store: &mut BlockStore, rows: &RowState) -> Result<()> {
        if rows.counts.len() != self.tables.len() {
            return Err(wrong_counts(store, rows.counts.len(), self.tables.len()));
        }
        for (table, &counts) in self.tables.iter_mut().zip(&rows.counts) {
            (table.counts, table.committed, table.working) =
                ([counts; 2], Index::default(), Index::default());
        }
        let (tables, tensors) = (&mut self.tables, store.directory().tensors.len());
        self.log.scan(tensors, |head, bytes, offset| {
            let rows: Vec<_> = ids(head, bytes).collect();
            let (table, chosen) = counting(tables, store, head, &rows)?;
            let Some(table) = tables.get_mut(table) else { return Ok(()) };
            for index in chosen {
                let place = table.spec.place(rows.get(index).copied().unwrap_or(0));
                let at = place_of(offset + to_u64(head.place(index)));
                table.committed.set(place.block.0, Entry { row_in_block: place.row_in_block, at });
            }
            Ok(())
        })
    }

    fn table_of(&self, tensor: usize) -> Result<usize> {
        let found = self.tables.iter().position(|table| table.spec.tensor == tensor);
        found.ok_or_else(|| Error::invalid("tensor", tensor, "a tensor of rows"))
    }

    /// The slots of distinct rows, ascending, all in memory now.
    fn slots(&mut self, pager: &Pager, table: usize, rows: &[u64]) -> Result<Vec<u32>> {
        let Some(of) = self.tables.get_mut(table) else { return Ok(Vec::new()) };
        let moves = of.cache.moves();
        if let Some(last) = of.last.take_if(|last| last.moves == moves && last.rows == rows) {
            of.cache.begin();
            of.cache.touch_slots(&last.slots);
            pager.lock().stats_mut().rows_hit += to_u64(rows.len());
            return Ok(last.slots);
        }
        let slots = self.near(pager, table, rows)?;
        if let Some(of) = self.tables.get_mut(table) {
            let moves = of.cache.moves();
            of.last = Some(LastCall { rows: rows.to_vec(), slots: slots.clone(), moves });
        }
        Ok(slots)
    }

    /// As [`slots`](Self::slots), looked for one by one; those that are not in memory are read.
    fn near(&mut self, pager: &Pager, table: usize, rows: &[u64]) -> Result<Vec<u32>> {
        let Some(of) = self.tables.get_mut(table) else { return Ok(Vec::new()) };
        of.cache.begin();
        let mut slots = of.cache.touch_all(rows);
        let (mut missing, mut places) = (Vec::new(), Vec::new());
        for (place, (&row, _)) in rows.iter().zip(&slots).enumerate().filter(|(_, (_, slot))| **slot == NEVER)
        {
            missing.push(row);
            places.push(place);
        }
        let mut state = pager.lock();
        let stats = state.stats_mut();
        stats.rows_hit += to_u64(rows.len() - missing.len());
        stats.rows_missed += to_u64(missing.len());
        drop(state);
        if missing.is_empty() {
            return Ok(slots);
        }
        let claimed = self.claim(pager, table, &missing)?;
        let fetched = self.fetch(pager, table, &missing, &claimed);
        if let Err(error) = fetched {
            // What they hold is not their rows' records.
            if let Some(of) = self.tables.get_mut(table) {
                of.cache.give_up_all(&claimed);
            }
            return Err(error);
        }
        for (place, at) in places.into_iter().zip(claimed) {
            if let Some(slot) = slots.get_mut(place) {
                *slot = at;
            }
        }
        Ok(slots)
    }

    /// Slots for rows that are not in memory; others make room for them.
    fn claim(&mut self, pager: &Pager, table: usize, rows: &[u64]) -> Result<Vec<u32>> {
        let Some(of) = self.tables.get_mut(table) else { return Ok(Vec::new()) };
        let lacking = rows.len().saturating_sub(of.cache.free());
        let victims = if lacking > 0 { of.cache.victims(lacking) } else { Vec::new() };
        let needed = to_u64(rows.len() * of.spec.records.bytes());
        if victims.iter().any(|&at| of.cache.is_dirty(at)) {
            // Before a slot is claimed: what it holds until it is filled would be taken for its row's record.
            self.spill(pager, table, &victims)?;
        }
        let Some(of) = self.tables.get_mut(table) else { return Ok(Vec::new()) };
        of.cache.give_up_all(&victims);
        let claimed = of.cache.claim_free(rows);
        if claimed.len() == rows.len() {
            return Ok(claimed);
        }
        of.cache.give_up_all(&claimed);
        let budget = to_u64(of.cache.capacity() * of.spec.records.bytes());
        Err(Error::Budget { what: "rows that are needed at once".to_owned(), needed, budget })
    }
}

impl Table {
    /// Says which rows a call asks for; returns the batches that need them next, if any is known.
    fn at_hand(&mut self, rows: &[u64]) -> Option<Vec<u32>> {
        let is_known = self.window.at_hand(rows);
        self.cache.set_now(self.window.now());
        while let Some((batch, rows)) = self.window.link() {
            // Those that have come while it waited know of no use.
            self.cache.expect_all(&rows, batch);
        }
        is_known.then(|| self.window.next_uses().to_vec())
    }

    /// Where a row stands in the log.
    fn in_log(&self, block: u64, row_in_block: u32) -> Option<u32> {
        self.working.get(block, row_in_block).or_else(|| self.committed.get(block, row_in_block))
    }
}

/// A record that does not speak of the tables that there are.
fn wrong_counts(store: &BlockStore, got: usize, expected: usize) -> Error {
    Error::damaged(store.path(), "record: tensors of rows", (0, 0), got, expected)
}

/// The table of a batch, and which of the batch's rows count in a store, by number: those whose blocks were not written
/// since. What was in the log when its block was written is in the block.
fn counting(
    tables: &[Table],
    store: &mut BlockStore,
    head: &Head,
    rows: &[u64],
) -> Result<(usize, Vec<usize>)> {
    let directory = Arc::clone(store.directory());
    let is_of = |table: &Table| {
        Some(table.tensor) == head.tensor && table.spec.records.bytes() == to_usize(head.record_bytes.into())
    };
    let Some((number, table)) = tables.iter().enumerate().find(|(_, table)| is_of(table)) else {
        let got = format!("records of {} bytes of tensor {:?}", head.record_bytes, head.tensor);
        let what = "batch in the log of rows";
        return Err(Error::damaged(store.path(), what, (head.position, 4096), got, "a tensor of rows"));
    };
    let mut chosen = Vec::with_capacity(rows.len());
    // Rows ascend, and a block has many of them.
    let mut last = None;
    for (index, &row) in rows.iter().enumerate().filter(|&(_, &row)| row < table.spec.rows) {
        let block = table.spec.place(row).block;
        let generation = match last {
            Some((known, generation)) if known == block => generation,
            _ => {
                let place = table.spec.block_place(&directory, block);
                place
                    .map(|place| store.block_entry(place.slot))
                    .transpose()?
                    .map_or(0, |entry| entry.generation)
            }
        };
        last = Some((block, generation));
        if head.generation > generation {
            chosen.push(index);
        }
    }
    Ok((number, chosen))
}
