//! The limit of a step whose blocks are all in memory: the same bytes, moved without arithmetic.

use std::hint::black_box;
use std::time::Instant;

use rayon::prelude::*;

use crate::error::{Error, Result};
use crate::param_store::ParamStore;
use crate::units::to_u64;
use crate::update::{SPAN_LEN, on_threads};

/// Elements of each plane that a thread moves before it goes to the next plane: four lines of a cache.
const LINE_LEN: usize = 64;

/// What [`ParamStore::memory_pass`] moved.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct MemoryPass {
    /// Bytes read and written: 4 of gradient for every element that is in memory, and each of its planes in and out (8 bytes
    /// where it is f32).
    pub bytes: u64,
    /// Wall-clock seconds of the pass alone.
    pub seconds: f64,
}

/// A run of elements of one block, with as many gradients.
struct Span<'a> {
    planes: Vec<&'a mut [f32]>,
    gradient: &'a [f32],
}

/// For measurements.
impl ParamStore {
    /// Waits until nothing is on its way between disk and memory: what a step has written behind is with the disk
    /// then, though not durable. A commit does this by itself.
    ///
    /// ```
    #[doc = include_str!("../examples/store.txt")]
    /// store.write("w", &[1.0; 6])?;
    /// store.wait_idle()?; // what is timed from here on shares the disk with nothing before it
    /// assert_eq!(store.generation(), store.summary()?.generation); // nothing was committed by it
    /// # Ok::<(), paramstore::Error>(())
    /// ```
    ///
    /// # Errors
    /// The first failure of a write; the handle is poisoned then.
    pub fn wait_idle(&mut self) -> Result<()> {
        self.pager().wait_idle()
    }

    /// Moves what an update of the blocks in memory moves, without its arithmetic: reads gradients, reads and writes
    /// every plane, on the threads of the store. No bit changes. Its time is the limit of a step whose whole state is
    /// in memory. Blocks that are not in memory are left out; `bytes` says what was there.
    ///
    /// `gradient` holds at least one element and is read again and again from its beginning, block by block.
    ///
    /// ```
    #[doc = include_str!("../examples/store.txt")]
    /// let mut step = store.begin_step()?;
    /// step.apply("w", &[1.0; 6])?; // now its blocks are in memory
    /// step.finish()?;
    /// let pass = store.memory_pass(&[1.0; 6])?;
    /// assert_eq!(pass.bytes, 6 * (4 + 2 * 8)); // the gradient; parameters and momentum, in and out
    /// assert_eq!(store.view("w")?[0], -0.5);
    /// # Ok::<(), paramstore::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Invalid`] for a gradient without elements; as [`wait_idle`](Self::wait_idle).
    pub fn memory_pass(&mut self, gradient: &[f32]) -> Result<MemoryPass> {
        if gradient.is_empty() {
            return Err(Error::invalid("gradient", "no element", "at least one element"));
        }
        let engine = self.engine();
        engine.pager.with_hot_planes(|planes| {
            let mut bytes = 0;
            let mut spans = Vec::new();
            let mut at = 0;
            let mut near = planes.into_iter().peekable();
            while let Some(plane) = near.next() {
                let (block, elements) = (plane.key.block, plane.elements);
                let mut planes = vec![plane.words];
                while let Some(plane) = near.next_if(|next| next.key.block == block) {
                    planes.push(plane.words);
                }
                let words: u64 = planes.iter().map(|words| to_u64(words.len())).sum();
                bytes += 4 * to_u64(elements) + 8 * words;
                cut(planes, elements, gradient, &mut at, &mut spans);
            }
            // The compiler must not know that it changes nothing.
            let mask = black_box(0);
            let start = Instant::now();
            on_threads(engine.threads(), || spans.par_iter_mut().for_each(|span| span.pass(mask)));
            MemoryPass { bytes, seconds: start.elapsed().as_secs_f64() }
        })
    }
}

/// Cuts a block into spans, none of which goes over the end of `gradient`; `at` is the next gradient. Of a plane that takes
/// fewer words than the block has elements, each span has its share.
fn cut<'a>(
    mut planes: Vec<&'a mut [f32]>,
    elements: usize,
    gradient: &'a [f32],
    at: &mut usize,
    spans: &mut Vec<Span<'a>>,
) {
    let mut left = elements;
    loop {
        let rest = gradient.get(*at..).unwrap_or_default();
        let len = left.min(rest.len()).min(SPAN_LEN);
        let Some(part) = rest.get(..len).filter(|part| !part.is_empty()) else { return };
        let mut shares = Vec::with_capacity(planes.len());
        for plane in &mut planes {
            let share = plane.len() * len / left;
            let (head, tail) = std::mem::take(plane).split_at_mut(share);
            shares.push(head);
            *plane = tail;
        }
        spans.push(Span { planes: shares, gradient: part });
        left -= len;
        *at = if len == rest.len() { 0 } else { *at + len };
    }
}

impl Span<'_> {
    /// With a mask of 0, reads every gradient, reads and writes every element of every plane, and changes none. All
    /// planes go forward together, line by line: one plane after the other takes a quarter longer, since fewer lines
    /// are on their way from memory at once.
    fn pass(&mut self, mask: u32) {
        let elements = self.gradient.len();
        for (number, line) in self.gradient.chunks(LINE_LEN).enumerate() {
            let mut masked = [0; LINE_LEN];
            for (masked, gradient) in masked.iter_mut().zip(line) {
                *masked = gradient.to_bits() & mask;
            }
            let first = number * LINE_LEN;
            for plane in &mut self.planes {
                let share = |end: usize| plane.len() * end / elements;
                let words = share(first)..share(first + line.len());
                touch(plane.get_mut(words).unwrap_or_default(), &masked);
            }
        }
    }
}

/// Reads and writes as many elements as there are bits to flip in each.
#[inline]
fn touch(plane: &mut [f32], masked: &[u32]) {
    for (value, bits) in plane.iter_mut().zip(masked) {
        *value = f32::from_bits(value.to_bits() ^ bits);
    }
}
