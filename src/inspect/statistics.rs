//! Norms, means, extremes and histograms of every plane, in one pass over what is stored.

mod tally;
mod update;

pub(super) use tally::{LANES, fold};

use std::collections::BTreeMap;

use super::parts::{Held, Leaf, Leaves, Memory, Part, Tree, default_threads, in_parts, parts};
use crate::error::Result;
use crate::format::directory::Dtype;
use crate::param_store::{ParamStore, TensorInfo};
use crate::storage::Buffer;
use tally::{Counts, Moments, Tally};
use update::{Moves, Rule};

/// What [`ParamStore::statistics`] looks at, and how.
///
/// # Example
///
/// ```
#[doc = include_str!("../examples/store.txt")]
/// use paramstore::inspect::StatisticsOptions;
///
/// store.write("w", &[3.0, -4.0, 0.0, 0.0, 0.0, f32::NAN])?;
/// let options = StatisticsOptions::new().tensors(["w"]).threads(2);
/// let statistics = store.statistics(&options, |_bytes| {})?;
/// let w = &statistics[0].planes[0];
/// assert_eq!((w.norm, w.min, w.max), (5.0, Some(-4.0), Some(3.0)));
/// assert_eq!((w.nan, w.zeros, w.finite()), (1, 3, 5));
/// assert_eq!(w.rms(), Some(5.0_f64.sqrt()));
/// let bins: Vec<_> = w.histogram.bins().map(|bin| (bin.is_negative, bin.exponent, bin.count)).collect();
/// assert_eq!(bins, [(true, 2, 1), (false, 1, 1)]); // -4 is -1 * 2^2, 3 is 1.5 * 2^1
/// assert_eq!(statistics[0].update_ratio(), None);  // no update was made yet
/// # Ok::<(), paramstore::Error>(())
/// ```
#[derive(Debug, Clone, Default)]
pub struct StatisticsOptions {
    tensors: Option<Vec<String>>,
    threads: Option<usize>,
}

impl StatisticsOptions {
    /// The defaults: all tensors, two threads for each processor. [Example](Self#example).
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Only these tensors, in this order. [Example](Self#example).
    #[must_use]
    pub fn tensors(mut self, names: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.tensors = Some(names.into_iter().map(Into::into).collect());
        self
    }

    /// Threads that look, 1 or more; fewer where the memory budget does not hold a block for each. Results do not depend
    /// on it. [Example](Self#example).
    #[must_use]
    pub fn threads(mut self, threads: usize) -> Self {
        self.threads = Some(threads.max(1));
        self
    }
}

/// What the planes of one tensor hold.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct TensorStatistics {
    /// The tensor.
    pub name: String,
    /// Its planes, the parameters first.
    pub planes: Vec<PlaneStatistics>,
    /// The root of the mean square of what the last update moved the parameters by, estimated from the moments: of
    /// `lr / (1 - beta1^t) * exp_avg / (sqrt(exp_avg_sq) / sqrt(1 - beta2^t) + eps)` for Adam, AdamW and SparseAdam, with
    /// `max_exp_avg_sq` where there is one and without weight decay, and of `lr * momentum_buffer` for SGD with momentum.
    /// `t` counts the tensor's updates, the settings are those of its group now. `None` for other optimizers, and before
    /// the first update.
    pub update_rms: Option<f64>,
}

impl TensorStatistics {
    /// [`update_rms`](Self::update_rms) by the root of the mean square of the parameters: often near 1e-3 where training
    /// goes well. `None` where there is no update, or all parameters are zero. [Example](StatisticsOptions#example).
    #[must_use]
    pub fn update_ratio(&self) -> Option<f64> {
        let rms = self.planes.first()?.rms()?;
        self.update_rms.filter(|_| rms > 0.0).map(|update| update / rms)
    }
}

/// What one plane of a tensor holds. Values in few bits count as the f32 that they stand for, integers and f64 as f64; NaN and
/// infinities are counted, and left out of everything else.
///
/// Sums are taken in f64, in an order that depends on the number of elements alone: leaves of 1,024 elements, summed in
/// eight lanes, under a balanced binary tree. The bits of all of this depend on the values of the plane and on nothing else.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct PlaneStatistics {
    /// The plane, e.g. `exp_avg`.
    pub plane: String,
    /// All its elements.
    pub elements: u64,
    /// Those that are zero, of either sign.
    pub zeros: u64,
    /// Those that are NaN.
    pub nan: u64,
    /// Those that are infinite.
    pub infinite: u64,
    /// The Euclidean norm.
    pub norm: f64,
    /// The mean; `None` where nothing is finite.
    pub mean: Option<f64>,
    /// The standard deviation: the root of the mean squared distance from the mean.
    pub std: Option<f64>,
    /// The smallest value.
    pub min: Option<f64>,
    /// The largest value.
    pub max: Option<f64>,
    /// How many elements there are of each magnitude.
    pub histogram: Histogram,
}

impl PlaneStatistics {
    /// Elements that are neither NaN nor infinite. [Example](StatisticsOptions#example).
    #[must_use]
    pub fn finite(&self) -> u64 {
        self.elements - self.nan - self.infinite
    }

    /// The root of the mean square; `None` where nothing is finite. [Example](StatisticsOptions#example).
    #[must_use]
    pub fn rms(&self) -> Option<f64> {
        #[expect(clippy::cast_precision_loss, reason = "a count beyond 2^53 is rounded as the sums are")]
        (self.finite() > 0).then(|| self.norm / (self.finite() as f64).sqrt())
    }
}

/// Counts of elements by sign and by the power of two below their magnitude.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Histogram {
    /// By the nine highest bits of an f32, its sign and exponent.
    counts: BTreeMap<u16, u64>,
}

/// One bin of a [`Histogram`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Bin {
    /// Whether the elements are below zero.
    pub is_negative: bool,
    /// Magnitudes from 2 to this power up to the next power of two; -127 stands for everything below 2^-126 but zero.
    pub exponent: i32,
    /// How many elements; not 0.
    pub count: u64,
}

impl Histogram {
    /// The bins with elements, from the most negative to the most positive. Zeros, NaN and infinities are in none.
    /// [Example](StatisticsOptions#example).
    pub fn bins(&self) -> impl Iterator<Item = Bin> + '_ {
        let bin = |(&key, &count): (&u16, &u64)| Bin {
            is_negative: key >= 256,
            exponent: i32::from(key % 256) - 127,
            count,
        };
        let negative = self.counts.range(256..).rev();
        negative.chain(self.counts.range(..256)).map(bin)
    }

    /// Of counts with zeros and with what is not finite.
    fn of(counts: &Counts) -> Self {
        let mut bins = counts.bins.clone();
        // Zeros stand with what is below 2^-126, those of either sign.
        for (key, zeros) in [(0, counts.zeros - counts.negative_zeros), (256, counts.negative_zeros)] {
            bins.entry(key).and_modify(|count| *count -= zeros);
        }
        bins.retain(|key, count| key % 256 != 255 && *count > 0);
        Self { counts: bins }
    }
}

/// What a thread found in a part of a tensor.
struct Found {
    /// By plane; nothing where the plane has ended before.
    planes: Vec<(Option<Moments>, Counts)>,
    moves: Option<f64>,
    /// Bytes of the values on disk.
    bytes: u64,
}

/// What there is to look at of one tensor, and what has been seen.
struct Item<'s> {
    tensor: usize,
    name: &'s str,
    /// Name, elements and bytes on disk of each plane.
    planes: Vec<(&'s str, u64, u64)>,
    rule: Option<Rule>,
    /// The type of its elements, if they are kept as they are.
    kept_as_is: Option<Dtype>,
}

impl Item<'_> {
    fn elements(&self) -> u64 {
        self.planes.iter().map(|(_, elements, _)| *elements).max().unwrap_or(0)
    }
}

/// What has been seen of one tensor.
struct Seen {
    planes: Vec<(Tree<Moments>, Counts)>,
    moves: Tree<f64>,
}

impl ParamStore {
    /// Looks at every value of some tensors: norm, mean, deviation, extremes, histogram, zeros and non-finite values of each
    /// plane, and how far updates move the parameters; with every update made so far, committed or not. Several threads read
    /// and count, under the memory budget. Stretches of one value that were never written are not read. `progress` is told
    /// again and again how many bytes of values, as they are stored, are done. [Example](StatisticsOptions#example).
    ///
    /// # Errors
    /// [`Error::Unknown`](crate::Error::Unknown) for a name, disk errors and damage.
    pub fn statistics(
        &self,
        options: &StatisticsOptions,
        mut progress: impl FnMut(u64),
    ) -> Result<Vec<TensorStatistics>> {
        let all = || self.tensors().map(|info| info.name().to_owned()).collect();
        let names: Vec<String> = options.tensors.clone().unwrap_or_else(all);
        let items = names.iter().map(|name| self.item(name)).collect::<Result<Vec<_>>>()?;
        let mut memory = Memory::of(self, options.threads.unwrap_or_else(default_threads))?;
        let (levels, part_elements) = (memory.levels, memory.part_elements());
        let elements: Vec<_> = items.iter().map(Item::elements).collect();
        let new = |item: &Item<'_>| Seen {
            planes: item.planes.iter().map(|_| (Tree::new(), Counts::new())).collect(),
            moves: Tree::new(),
        };
        let mut seen: Vec<_> = items.iter().map(new).collect();
        let mut done = 0;
        let work = |memory: &mut Buffer, part: &Part| {
            items.get(part.item).map(|item| self.look(memory, item, part)).transpose()
        };
        in_parts(&mut memory.buffers, parts(&elements, part_elements), work, |part, found| {
            let (Some(seen), Some(found)) = (seen.get_mut(part.item), found) else { return };
            for ((tree, counts), (moments, found)) in seen.planes.iter_mut().zip(&found.planes) {
                if let Some(moments) = moments {
                    tree.push(levels, *moments);
                }
                counts.join(found);
            }
            if let Some(moves) = found.moves {
                seen.moves.push(levels, moves);
            }
            done += found.bytes;
            progress(done);
        })?;
        Ok(items.iter().zip(&seen).map(|(item, seen)| item.result(seen)).collect())
    }

    fn item<'s>(&'s self, name: &'s str) -> Result<Item<'s>> {
        let tensor = self.tensor_index(name)?;
        self.background().settle(tensor);
        let info = self.tensor(name);
        let names: Vec<_> = info.iter().flat_map(TensorInfo::planes).collect();
        let planes = names.iter().enumerate().map(|(plane, plane_name)| {
            let elements = self.plane_elements(tensor, plane);
            let dtype = info.and_then(|info| info.plane_dtype(plane_name));
            (*plane_name, elements, dtype.and_then(|dtype| dtype.bytes_of(elements)).unwrap_or(0))
        });
        let optimizer = self.optimizer_of(tensor).ok();
        let rule = optimizer.zip(self.tensor_clock(name).ok());
        let rule = rule.and_then(|(optimizer, clock)| Rule::of(optimizer, clock.steps, &names));
        let kept_as_is = info.map(|info| info.dtype()).filter(|dtype| !dtype.is_trainable());
        Ok(Item { tensor, name, planes: planes.collect(), rule, kept_as_is })
    }

    /// Looks at a part of all planes of a tensor.
    fn look(&self, memory: &mut Buffer, item: &Item<'_>, part: &Part) -> Result<Found> {
        let mut held = Held::new(memory);
        let mut moves = item.rule.map(Moves::new);
        let mut found = Found { planes: Vec::with_capacity(item.planes.len()), moves: None, bytes: 0 };
        // While one plane is counted, the next ones come.
        for (plane, &(_, elements, _)) in item.planes.iter().enumerate() {
            self.begin_range(item.tensor, plane, part.of_plane(elements))?;
        }
        for (plane, &(_, elements, bytes)) in item.planes.iter().enumerate() {
            let range = part.of_plane(elements);
            if range.is_empty() {
                found.planes.push((None, Counts::new()));
                continue;
            }
            let is_first = item.rule.is_some_and(|rule| rule.first == plane && rule.second.is_some());
            let is_last = item
                .rule
                .is_some_and(|rule| rule.second.map_or(rule.first, |(second, _, _)| second) == plane);
            let (mut tally, mut leaves) = (Tally::new(), Leaves::new());
            found.bytes += share(bytes, range.end - range.start, elements);
            if let Some(dtype) = item.kept_as_is {
                self.show_elements(item.name, dtype, range, |stretch| {
                    tally.take_wide(stretch.values());
                    Ok(())
                })?;
                found.planes.push(tally.finish());
                continue;
            }
            let mut count = |held: &Held<'_>, leaf: &Leaf<'_>| {
                tally.take(leaf);
                if let Some(moves) = moves.as_mut().filter(|_| is_last) {
                    moves.take(held, leaf);
                }
            };
            self.show_range(item.tensor, plane, range, |run| {
                leaves.take(run, |leaf| count(&held, &leaf));
                if is_first {
                    held.take(run);
                }
            })?;
            leaves.finish(|leaf| count(&held, &leaf));
            found.planes.push(tally.finish());
        }
        found.moves = moves.and_then(|moves| moves.finish());
        Ok(found)
    }
}

/// What a part of the elements takes of the bytes of all.
pub(super) fn share(bytes: u64, part: u64, elements: u64) -> u64 {
    let share = u128::from(bytes) * u128::from(part) / u128::from(elements.max(1));
    u64::try_from(share).unwrap_or(u64::MAX)
}

impl Item<'_> {
    fn result(&self, seen: &Seen) -> TensorStatistics {
        let planes = self.planes.iter().zip(&seen.planes);
        let planes = planes.map(|(&(name, elements, _), (tree, counts))| {
            let moments = tree.finish().filter(|moments| moments.count > 0);
            PlaneStatistics {
                plane: name.to_owned(),
                elements,
                zeros: counts.zeros,
                nan: counts.nan,
                infinite: counts.infinite,
                norm: moments.map_or(0.0, |moments| moments.squares.sqrt()),
                mean: moments.map(|moments| moments.mean()),
                std: moments.map(|moments| moments.variance().sqrt()),
                min: moments.map(|_| counts.min),
                max: moments.map(|_| counts.max),
                histogram: Histogram::of(counts),
            }
        });
        #[expect(clippy::cast_precision_loss, reason = "a count beyond 2^53 is rounded as the sums are")]
        let elements = self.elements().max(1) as f64;
        let moves = self.rule.zip(seen.moves.finish());
        TensorStatistics {
            name: self.name.to_owned(),
            planes: planes.collect(),
            update_rms: moves.map(|(rule, squares)| rule.factor * (squares / elements).sqrt()),
        }
    }
}
