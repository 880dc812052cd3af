//! One block's update on all threads: spans for rayon, chunks for the cache.

use std::ops::Range;

use rayon::prelude::*;

use super::{Engine, Update};
use crate::kernel::narrow::{Lane, Rounding};
use crate::kernel::reduce::{LEAF_LEN, Preparation, count_non_finite, prepare_gradient, sum_of_squares_leaf};
use crate::kernel::{InstructionSet, MOST_PLANES};
use crate::optim::Prepared;
use crate::units::to_u64;

/// Elements that one thread takes at a time.
pub(crate) const SPAN_LEN: usize = 1 << 16;
/// Elements whose gradient is made or scaled at a time: it stays in the first-level cache.
const CHUNK_LEN: usize = 4096;
const _: () = assert!(CHUNK_LEN.is_multiple_of(LEAF_LEN) && SPAN_LEN.is_multiple_of(CHUNK_LEN));

/// Makes the gradient of a range of a tensor's elements.
pub(crate) type MakeGradient<'a> = dyn Fn(Range<u64>, &mut [f32]) + Sync + 'a;

/// Where a gradient comes from.
#[derive(Clone, Copy)]
pub(crate) enum Gradient<'a> {
    /// Values in memory, as long as the planes.
    Given(&'a [f32]),
    /// Made chunk by chunk, near the update.
    Made(&'a MakeGradient<'a>),
    /// In the block's scratch plane.
    Staged,
}

/// What is the same for all spans.
#[derive(Clone, Copy)]
struct Job<'a> {
    isa: InstructionSet,
    rule: &'a Prepared,
    prepare: Preparation,
    rounding_key: u64,
    /// Whether the last plane becomes a copy of the first.
    copies: bool,
}

/// A run of elements that one thread updates.
pub(super) struct Span<'a> {
    /// The parameter plane, then the state planes, then the copy of the parameters, if there is one.
    planes: Vec<Lane<'a>>,
    gradient: Gradient<'a>,
    /// First element in the tensor.
    first: u64,
}

/// Runs `work` on the store's own threads, or on rayon's.
pub(crate) fn on_threads<R: Send>(threads: Option<&rayon::ThreadPool>, work: impl FnOnce() -> R + Send) -> R {
    match threads {
        Some(pool) => pool.install(work),
        None => work(),
    }
}

/// Updates spans on all threads. Returns how many gradients were NaN or infinite.
pub(super) fn update(update: &Update, engine: &Engine, mut spans: Vec<Span<'_>>) -> u64 {
    let (rule, rounding_key) = (&update.rule, update.rounding_key);
    let copies = update.copy.is_some();
    let job = Job { isa: engine.isa, rule, prepare: update.prepare, rounding_key, copies };
    match spans.as_mut_slice() {
        [one] => one.run(job),
        many => {
            // One at a time: with runs of many spans, the thread that is done first waits for the others.
            let spans = || many.par_iter_mut().with_max_len(1).map(|span| span.run(job)).sum();
            on_threads(engine.threads(), spans)
        }
    }
}

/// Cuts a run of elements of a tensor into spans: `planes` are the parameter plane and the state planes, equally long;
/// `first` is the run's first element in the tensor.
pub(super) fn cut<'a>(
    mut planes: Vec<Lane<'a>>,
    mut gradient: Gradient<'a>,
    mut first: u64,
    spans: &mut Vec<Span<'a>>,
) {
    loop {
        let len = planes.iter().map(Lane::len).min().unwrap_or(0).min(SPAN_LEN);
        if len == 0 {
            return;
        }
        let now = planes.iter_mut().map(|plane| plane.split_off(len)).collect();
        let part = match &mut gradient {
            Gradient::Given(values) => {
                let (head, tail) = values.split_at(len.min(values.len()));
                *values = tail;
                Gradient::Given(head)
            }
            other => *other,
        };
        spans.push(Span { planes: now, gradient: part, first });
        first += to_u64(len);
    }
}

/// Takes the first `len` elements off each plane.
pub(crate) fn split_off<'a>(planes: &mut [&'a mut [f32]], len: usize) -> Vec<&'a mut [f32]> {
    let mut heads = Vec::with_capacity(planes.len());
    for plane in planes {
        let (head, tail) = std::mem::take(plane).split_at_mut(len);
        heads.push(head);
        *plane = tail;
    }
    heads
}

impl Job<'_> {
    /// How parameters are rounded, from the tensor's element `first` on.
    fn rounding(&self, first: u64) -> Rounding {
        Rounding::Stochastic { key: self.rounding_key, first }
    }
}

impl Span<'_> {
    fn run(&mut self, job: Job<'_>) -> u64 {
        match self.gradient {
            Gradient::Given(values) if job.prepare == Preparation::default() && !job.copies => {
                job.rule.run_lanes(job.isa, &mut self.planes, values, job.rounding(self.first))
            }
            _ => self.run_chunks(job),
        }
    }

    /// Makes or scales the gradient chunk by chunk, so that it is in the cache when the rule takes it.
    fn run_chunks(&mut self, job: Job<'_>) -> u64 {
        let mut made = [0.0; CHUNK_LEN];
        let mut ready = [0.0; CHUNK_LEN];
        let mut non_finite = 0;
        let elements = self.planes.first().map_or(0, Lane::len);
        for start in (0..elements).step_by(CHUNK_LEN) {
            let len = CHUNK_LEN.min(elements - start);
            let gradient = match self.gradient {
                Gradient::Given(values) => values.get(start..start + len).unwrap_or_default(),
                Gradient::Made(make) => {
                    let first = self.first + to_u64(start);
                    let out = made.get_mut(..len).unwrap_or_default();
                    make(first..first + to_u64(len), out);
                    &*out
                }
                Gradient::Staged => &[],
            };
            let mut lanes: [Lane<'_>; 2 + MOST_PLANES] = Default::default();
            for (lane, plane) in lanes.iter_mut().zip(&mut self.planes) {
                *lane = plane.split_off(len);
            }
            let lanes = lanes.get_mut(..self.planes.len()).unwrap_or_default();
            let (lanes, copy) = lanes.split_at_mut(lanes.len() - usize::from(job.copies));
            let rounding = job.rounding(self.first + to_u64(start));
            if job.prepare == Preparation::default() {
                non_finite += job.rule.run_lanes(job.isa, lanes, gradient, rounding);
            } else {
                // Counted before it is scaled, which can make an infinity of a number.
                non_finite += count_non_finite(job.isa, gradient);
                let out = ready.get_mut(..len).unwrap_or_default();
                prepare_gradient(job.isa, out, gradient, job.prepare);
                let _of_scaled = job.rule.run_lanes(job.isa, lanes, out, rounding);
            }
            if let ([Lane::F32(params), ..], [copy]) = (lanes, copy) {
                copy.write(job.isa, 0, params, Rounding::Nearest);
            }
        }
        non_finite
    }
}

/// What one block's gradients add to the global norm.
pub(crate) struct Measured {
    /// Sums of squares of runs of [`LEAF_LEN`] elements, in order.
    pub(crate) leaves: Vec<f64>,
    pub(crate) non_finite: u64,
}

/// Measures a run of gradients that begins at a multiple of [`LEAF_LEN`] elements of its tensor.
pub(crate) fn measure(
    isa: InstructionSet,
    threads: Option<&rayon::ThreadPool>,
    gradient: &[f32],
    prepare: Preparation,
) -> Measured {
    let leaves_per_chunk = CHUNK_LEN / LEAF_LEN;
    let mut leaves = vec![0.0; gradient.len().div_ceil(LEAF_LEN)];
    let non_finite = on_threads(threads, || {
        let chunks = leaves.par_chunks_mut(leaves_per_chunk).zip(gradient.par_chunks(CHUNK_LEN));
        chunks
            .map(|(sums, values)| {
                let mut ready = [0.0; CHUNK_LEN];
                let out = ready.get_mut(..values.len()).unwrap_or_default();
                prepare_gradient(isa, out, values, prepare);
                for (sum, leaf) in sums.iter_mut().zip(out.chunks(LEAF_LEN)) {
                    *sum = sum_of_squares_leaf(isa, leaf);
                }
                count_non_finite(isa, values)
            })
            .sum()
    });
    Measured { leaves, non_finite }
}
