//! Work on planes in parts, by several threads under the memory budget of the store: results depend on neither.
//!
//! Sums have one shape, that of the kernels' sums of squares: leaves of [`LEAF`] elements under a balanced binary tree over
//! all leaves of a plane. A part is a whole subtree, so that it does not matter how many parts there are, nor who took which.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread;

use crate::error::{Error, Result};
use crate::format::elements::as_f32_mut;
use crate::pager::{Pager, Run};
use crate::param_store::ParamStore;
use crate::storage::Buffer;
use crate::units::{to_u64, to_usize};

/// Elements of a leaf; only the last leaf of a plane may have fewer.
pub(super) const LEAF: usize = 1024;
/// Bytes of a leaf's values.
const LEAF_BYTES: usize = 4 * LEAF;
/// Levels of the largest part, which has 2^20 elements.
const LEVELS_MAX: u32 = 10;

/// Something that is summed.
pub(super) trait Sum: Copy {
    /// The sum of this and of what stands behind it.
    fn join(self, right: Self) -> Self;
}

impl Sum for f64 {
    fn join(self, right: Self) -> Self {
        self + right
    }
}

/// A balanced binary tree of sums, fed from left to right.
pub(super) struct Tree<S> {
    leaves: u64,
    /// By level: the sum of a finished subtree that waits for its right sibling.
    waiting: Vec<Option<S>>,
}

impl<S: Sum> Tree<S> {
    pub(super) fn new() -> Self {
        Self { leaves: 0, waiting: Vec::new() }
    }

    /// Adds the sum of the next `2^level` leaves, or of fewer if nothing follows.
    pub(super) fn push(&mut self, level: u32, sum: S) {
        debug_assert!(self.leaves.is_multiple_of(1 << level), "a subtree begins where its like ends");
        let (mut at, mut sum) = (to_usize(level.into()), sum);
        while let Some(left) = self.waiting.get_mut(at).and_then(Option::take) {
            sum = left.join(sum);
            at += 1;
        }
        if self.waiting.len() <= at {
            self.waiting.resize(at + 1, None);
        }
        if let Some(place) = self.waiting.get_mut(at) {
            *place = Some(sum);
        }
        self.leaves += 1 << level;
    }

    /// Adds the same leaf many times over, as if one by one.
    pub(super) fn push_many(&mut self, leaf: S, count: u64) {
        let mut left = count;
        while left > 0 {
            let level = self.leaves.trailing_zeros().min(left.ilog2());
            self.push(level, (0..level).fold(leaf, |sum, _| sum.join(sum)));
            left -= 1 << level;
        }
    }

    pub(super) fn finish(&self) -> Option<S> {
        let lefts = self.waiting.iter().flatten();
        lefts.fold(None, |right, &left| Some(right.map_or(left, |right| left.join(right))))
    }
}

/// Values of one leaf, or whole leaves of one value.
pub(super) enum Leaf<'a> {
    Values(&'a [f32]),
    Constant { value: f32, leaves: u64 },
}

/// Cuts runs into leaves.
pub(super) struct Leaves {
    values: [f32; LEAF],
    filled: usize,
}

impl Leaves {
    pub(super) fn new() -> Self {
        Self { values: [0.0; LEAF], filled: 0 }
    }

    pub(super) fn take(&mut self, run: &Run<'_>, mut each: impl FnMut(Leaf<'_>)) {
        match *run {
            Run::Bytes(mut bytes) => {
                while !bytes.is_empty() {
                    let room = self.values.get_mut(self.filled..).unwrap_or_default();
                    let (now, later) = bytes.split_at(bytes.len().min(4 * room.len()));
                    decode(now, room);
                    self.filled += now.len() / 4;
                    bytes = later;
                    self.end_full(&mut each);
                }
            }
            Run::Constant { value, elements } => {
                let mut left = elements;
                while left > 0 {
                    let leaves = left / to_u64(LEAF);
                    if self.filled == 0 && leaves > 0 {
                        each(Leaf::Constant { value, leaves });
                        left -= leaves * to_u64(LEAF);
                        continue;
                    }
                    let now = to_usize(left).min(LEAF - self.filled);
                    self.values.iter_mut().skip(self.filled).take(now).for_each(|place| *place = value);
                    self.filled += now;
                    left -= to_u64(now);
                    self.end_full(&mut each);
                }
            }
        }
    }

    fn end_full(&mut self, each: &mut impl FnMut(Leaf<'_>)) {
        if self.filled == LEAF {
            self.finish(each);
        }
    }

    /// Shows what is left.
    pub(super) fn finish(&mut self, mut each: impl FnMut(Leaf<'_>)) {
        if self.filled > 0 {
            each(Leaf::Values(self.values.get(..self.filled).unwrap_or_default()));
            self.filled = 0;
        }
    }
}

fn decode(bytes: &[u8], out: &mut [f32]) {
    let (words, _) = bytes.as_chunks::<4>();
    for (place, word) in out.iter_mut().zip(words) {
        *place = f32::from_le_bytes(*word);
    }
}

/// The values of a part of a plane, held while another plane is looked at.
pub(super) struct Held<'m> {
    values: &'m mut [f32],
    filled: usize,
    /// All values so far, if they are one and the same and stand nowhere else.
    constant: Option<f32>,
}

impl<'m> Held<'m> {
    pub(super) fn new(memory: &'m mut Buffer) -> Self {
        Self { values: as_f32_mut(memory), filled: 0, constant: None }
    }

    pub(super) fn take(&mut self, run: &Run<'_>) {
        if let Run::Constant { value, elements } = *run {
            let is_like = |known: f32| known.to_bits() == value.to_bits();
            if self.filled == 0 || self.constant.is_some_and(is_like) {
                self.constant = Some(value);
                self.filled += to_usize(elements);
                return;
            }
        }
        if let Some(value) = self.constant.take() {
            self.values.iter_mut().take(self.filled).for_each(|place| *place = value);
        }
        let room = self.values.get_mut(self.filled..).unwrap_or_default();
        match *run {
            Run::Bytes(bytes) => {
                decode(bytes, room);
                self.filled += bytes.len() / 4;
            }
            Run::Constant { value, elements } => {
                room.iter_mut().take(to_usize(elements)).for_each(|place| *place = value);
                self.filled += to_usize(elements);
            }
        }
    }

    /// The value that all of them have, if it is known to be one.
    pub(super) fn constant(&self) -> Option<f32> {
        self.constant
    }

    /// Some of the values; `scratch` is as long as they are at least.
    pub(super) fn values<'s>(&'s self, at: usize, len: usize, scratch: &'s mut [f32; LEAF]) -> &'s [f32] {
        match self.constant {
            None => self.values.get(at..at + len).unwrap_or_default(),
            Some(value) => {
                scratch.fill(value);
                scratch.get(..len).unwrap_or_default()
            }
        }
    }
}

impl ParamStore {
    /// Begins to read a range of a plane's elements that will be shown soon.
    pub(super) fn begin_range(&self, tensor: usize, plane: usize, range: Range<u64>) -> Result<()> {
        if self.table_of(tensor).is_some() {
            return Ok(());
        }
        self.pager().begin_runs(tensor, plane, range)
    }

    /// Shows a range of a plane's elements, of whatever kind the tensor is.
    pub(super) fn show_range(
        &self,
        tensor: usize,
        plane: usize,
        range: Range<u64>,
        mut take: impl FnMut(&Run<'_>),
    ) -> Result<()> {
        let Some((_, layout)) = self.table_of(tensor) else {
            return self.pager().for_each_run(tensor, plane, range, |run| take(&run));
        };
        // Tensors of rows show whole rows.
        let width = to_u64(layout.within(plane).len()).max(1);
        let rows = range.start / width..range.end.div_ceil(width);
        let mut at = rows.start * width;
        self.for_each_run_of_rows(tensor, plane, rows, |run| {
            let (start, end) = (at, at + elements_of(run));
            at = end;
            let now = range.start.clamp(start, end) - start..range.end.clamp(start, end) - start;
            if !now.is_empty() {
                take(&cut(run, now));
            }
        })
    }
}

fn elements_of(run: &Run<'_>) -> u64 {
    match run {
        Run::Bytes(bytes) => to_u64(bytes.len() / 4),
        Run::Constant { elements, .. } => *elements,
    }
}

fn cut<'a>(run: &Run<'a>, now: Range<u64>) -> Run<'a> {
    match *run {
        Run::Bytes(bytes) => {
            Run::Bytes(bytes.get(4 * to_usize(now.start)..4 * to_usize(now.end)).unwrap_or_default())
        }
        Run::Constant { value, .. } => Run::Constant { value, elements: now.end - now.start },
    }
}

/// Memory of the store's budget for each of some threads, given back when dropped.
pub(super) struct Memory<'p> {
    pager: &'p Pager,
    pub(super) buffers: Vec<Buffer>,
    /// Levels of a part whose values fill one of the buffers.
    pub(super) levels: u32,
}

impl<'p> Memory<'p> {
    /// Memory for up to `threads` threads, each of which leases one plane of a block at a time.
    pub(super) fn of(store: &'p ParamStore, threads: usize) -> Result<Self> {
        let pager = store.pager();
        let buffers = pager.take_thread_memory(threads, LEAF_BYTES, LEAF_BYTES << LEVELS_MAX)?;
        let leaves = buffers.first().map_or(1, |buffer| buffer.len() / LEAF_BYTES).max(1);
        Ok(Self { pager, buffers, levels: leaves.ilog2().min(LEVELS_MAX) })
    }

    /// Elements of a part.
    pub(super) fn part_elements(&self) -> u64 {
        to_u64(LEAF) << self.levels
    }
}

impl Drop for Memory<'_> {
    fn drop(&mut self) {
        self.buffers.drain(..).for_each(|buffer| self.pager.give_memory(buffer));
    }
}

/// How many threads look, unless somebody says: some wait for the disk while others compute.
pub(super) fn default_threads() -> usize {
    let processors = thread::available_parallelism().map_or(1, std::num::NonZero::get);
    (2 * processors).clamp(4, 16)
}

/// A range of elements of one of the tensors that are looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Part {
    /// Which of the tensors, counted in the order in which they are looked at.
    pub(super) item: usize,
    pub(super) range: Range<u64>,
}

impl Part {
    /// The part of a plane with this many elements; empty behind its end.
    pub(super) fn of_plane(&self, elements: u64) -> Range<u64> {
        self.range.start.min(elements)..self.range.end.min(elements)
    }
}

/// All parts of tensors with these numbers of elements, in order.
pub(super) fn parts(elements: &[u64], part_elements: u64) -> impl Iterator<Item = Part> + Send + '_ {
    elements.iter().enumerate().flat_map(move |(item, &elements)| {
        (0..elements.div_ceil(part_elements)).map(move |part| {
            let start = part * part_elements;
            Part { item, range: start..elements.min(start + part_elements) }
        })
    })
}

/// The parts that nobody has taken yet, and how far the results have been taken in.
struct Line<I> {
    state: Mutex<LineState<I>>,
    moved: Condvar,
    /// How far a thread may be ahead of the first result that is missing.
    window: u64,
}

struct LineState<I> {
    parts: I,
    next: u64,
    taken_in: u64,
    stopped: bool,
}

impl<I: Iterator<Item = Part>> Line<I> {
    fn lock(&self) -> MutexGuard<'_, LineState<I>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn next(&self) -> Option<(u64, Part)> {
        let mut state = self.lock();
        while !state.stopped && state.next >= state.taken_in + self.window {
            state = self.moved.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        let part = if state.stopped { None } else { state.parts.next() }?;
        let number = state.next;
        state.next += 1;
        Some((number, part))
    }

    fn taken_in(&self, results: u64) {
        self.lock().taken_in = results;
        self.moved.notify_all();
    }
}

/// Lets no thread begin another part, once dropped: after the last result, an error or a panic.
struct Stop<'l, I>(&'l Line<I>);

impl<I> Drop for Stop<'_, I> {
    fn drop(&mut self) {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner).stopped = true;
        self.0.moved.notify_all();
    }
}

/// Does `work` on each part, in as many threads as there is memory for, and hands the results to `take` in order of parts.
pub(super) fn in_parts<T: Send>(
    buffers: &mut [Buffer],
    parts: impl Iterator<Item = Part> + Send,
    work: impl Fn(&mut Buffer, &Part) -> Result<T> + Sync,
    mut take: impl FnMut(&Part, T),
) -> Result<()> {
    if let [memory] = buffers {
        for part in parts {
            let made = work(memory, &part)?;
            take(&part, made);
        }
        return Ok(());
    }
    let window = 16 * to_u64(buffers.len());
    let state = LineState { parts, next: 0, taken_in: 0, stopped: false };
    let line = Line { state: Mutex::new(state), moved: Condvar::new(), window };
    thread::scope(|scope| {
        let (send, results) = mpsc::channel();
        let _stop = Stop(&line);
        for (number, memory) in buffers.iter_mut().enumerate() {
            let (send, line, work) = (send.clone(), &line, &work);
            let run = move || {
                // Whoever ends early ends all: what it had would be missing.
                let stop = Stop(line);
                while let Some((number, part)) = line.next() {
                    let made = work(memory, &part);
                    if send.send((number, part, made)).is_err() {
                        return;
                    }
                }
                std::mem::forget(stop);
            };
            let name = format!("paramstore-look-{number}");
            let spawned = thread::Builder::new().name(name).spawn_scoped(scope, run);
            let refused = |source| Error::Resource { what: format!("thread {number} that looks"), source };
            spawned.map_err(refused)?;
        }
        drop(send);
        let (mut early, mut next) = (BTreeMap::new(), 0);
        for (number, part, made) in results {
            early.insert(number, (part, made?));
            while let Some((part, made)) = early.remove(&next) {
                take(&part, made);
                next += 1;
            }
            line.taken_in(next);
        }
        Ok(())
    })
}
