//! What is counted and summed of a plane, a leaf at a time.

use std::collections::BTreeMap;

use super::super::parts::{LEAF, Leaf, Sum, Tree};
use crate::units::to_u64;

/// Sums that a leaf keeps side by side: element `i` is added to lane `i % LANES`.
pub(in super::super) const LANES: usize = 8;
/// Sign and exponent of an f32: so many bins has a histogram.
const BINS: usize = 512;
/// The bits of infinity; what has more, its sign left out, is NaN.
const INFINITE: u32 = 0x7f80_0000;
const SIGN: u32 = 0x8000_0000;

/// Sums over the finite elements of a subtree of leaves.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Moments {
    pub(super) count: u64,
    pub(super) sum: f64,
    pub(super) squares: f64,
    /// Squares of the distances from the mean of these elements.
    pub(super) scatter: f64,
}

#[expect(clippy::cast_precision_loss, reason = "a count beyond 2^53 is rounded as the sums are")]
impl Moments {
    pub(super) fn mean(&self) -> f64 {
        self.sum / self.count as f64
    }

    pub(super) fn variance(&self) -> f64 {
        self.scatter / self.count as f64
    }
}

impl Sum for Moments {
    /// The scatter of both by the formula of T. F. Chan, G. H. Golub, R. J. LeVeque, "Updating formulae and a pairwise
    /// algorithm for computing sample variances", 1979.
    #[expect(clippy::cast_precision_loss, reason = "a count beyond 2^53 is rounded as the sums are")]
    fn join(self, right: Self) -> Self {
        if self.count == 0 || right.count == 0 {
            return if self.count == 0 { right } else { self };
        }
        let apart = right.mean() - self.mean();
        let count = self.count + right.count;
        let share = self.count as f64 / count as f64 * right.count as f64;
        Self {
            count,
            sum: self.sum + right.sum,
            squares: self.squares + right.squares,
            scatter: self.scatter + right.scatter + apart * apart * share,
        }
    }
}

/// What does not depend on the order of elements.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Counts {
    /// Zeros of either sign.
    pub(super) zeros: u64,
    pub(super) negative_zeros: u64,
    pub(super) nan: u64,
    pub(super) infinite: u64,
    pub(super) min: f64,
    pub(super) max: f64,
    /// By sign and exponent: how many elements.
    pub(super) bins: BTreeMap<u16, u64>,
}

impl Counts {
    pub(super) fn new() -> Self {
        Self {
            zeros: 0,
            negative_zeros: 0,
            nan: 0,
            infinite: 0,
            min: f64::INFINITY,
            max: f64::NEG_INFINITY,
            bins: BTreeMap::new(),
        }
    }

    pub(super) fn join(&mut self, other: &Self) {
        self.zeros += other.zeros;
        self.negative_zeros += other.negative_zeros;
        self.nan += other.nan;
        self.infinite += other.infinite;
        self.min = self.min.min(other.min);
        self.max = self.max.max(other.max);
        for (bin, count) in &other.bins {
            *self.bins.entry(*bin).or_default() += count;
        }
    }
}

/// Counts and sums of a part of a plane.
pub(super) struct Tally {
    counts: Counts,
    tree: Tree<Moments>,
    /// Four tables, so that neighbours of the same bin do not wait for each other. A part has fewer than 2^32 elements.
    tables: [[u32; BINS]; 4],
}

impl Tally {
    pub(super) fn new() -> Self {
        Self { counts: Counts::new(), tree: Tree::new(), tables: [[0; BINS]; 4] }
    }

    pub(super) fn take(&mut self, leaf: &Leaf<'_>) {
        match *leaf {
            Leaf::Values(values) => {
                let moments = self.leaf(values);
                self.tree.push(0, moments);
                self.count_bins(values);
            }
            Leaf::Constant { value, leaves } => {
                let before = std::mem::replace(&mut self.counts, Counts::new());
                let moments = self.leaf(&[value; LEAF]);
                self.tree.push_many(moments, leaves);
                let mut seen = std::mem::replace(&mut self.counts, before);
                let counts = [&mut seen.zeros, &mut seen.negative_zeros, &mut seen.nan, &mut seen.infinite];
                for count in counts {
                    *count *= leaves;
                }
                seen.bins.insert(bin(value), leaves * to_u64(LEAF));
                self.counts.join(&seen);
            }
        }
    }

    /// Takes a leaf of wider values. Magnitudes beyond those of f32 count in the bins at their ends.
    pub(super) fn take_wide(&mut self, values: &[f64]) {
        let mut kept = [0.0; LEAF];
        let mut count = 0;
        for &value in values {
            if value.is_nan() {
                self.counts.nan += 1;
            } else if value.is_infinite() {
                self.counts.infinite += 1;
            } else {
                self.counts.zeros += u64::from(value == 0.0);
                self.counts.negative_zeros += u64::from(value == 0.0 && value.is_sign_negative());
                self.counts.min = self.counts.min.min(value) + 0.0;
                self.counts.max = self.counts.max.max(value) + 0.0;
                *self.counts.bins.entry(wide_bin(value)).or_default() += 1;
                if let Some(place) = kept.get_mut(count) {
                    *place = value;
                }
                count += 1;
            }
        }
        let kept = kept.get(..count).unwrap_or_default();
        let lanes = |of: &dyn Fn(f64) -> f64| {
            let mut lanes = [0.0; LANES];
            for (at, &value) in kept.iter().enumerate() {
                lanes[at % LANES] += of(value);
            }
            fold(lanes)
        };
        let (count, sum, squares) = (to_u64(count), lanes(&|value| value), lanes(&|value| value * value));
        let mut moments = Moments { count, sum, squares, scatter: 0.0 };
        if count > 0 {
            let mean = moments.mean();
            moments.scatter = lanes(&|value| (value - mean) * (value - mean));
        }
        self.tree.push(0, moments);
    }

    /// The sums of the part, and its counts.
    pub(super) fn finish(mut self) -> (Option<Moments>, Counts) {
        let [first, second, third, fourth] = &self.tables;
        let counts = first.iter().zip(second).zip(third).zip(fourth).map(|(((a, b), c), d)| a + b + c + d);
        for (bin, count) in (0..).zip(counts).filter(|(_, count)| *count > 0) {
            *self.counts.bins.entry(bin).or_default() += u64::from(count);
        }
        (self.tree.finish(), self.counts)
    }

    fn count_bins(&mut self, values: &[f32]) {
        let (fours, rest) = values.as_chunks::<4>();
        for four in fours {
            for (table, value) in self.tables.iter_mut().zip(four) {
                table[usize::from(bin(*value))] += 1;
            }
        }
        for value in rest {
            self.tables[0][usize::from(bin(*value))] += 1;
        }
    }

    fn leaf(&mut self, values: &[f32]) -> Moments {
        // As integers, finite values are below infinity and NaN above.
        let worst = values.iter().fold(0, |worst: u32, value| worst.max(value.to_bits() & !SIGN));
        if worst < INFINITE {
            return self.finite(values);
        }
        // Those that count, close together.
        let (mut kept, mut count) = ([0.0; LEAF], 0);
        for value in values {
            if value.is_finite() {
                if let Some(place) = kept.get_mut(count) {
                    *place = *value;
                }
                count += 1;
            } else if value.is_nan() {
                self.counts.nan += 1;
            } else {
                self.counts.infinite += 1;
            }
        }
        self.finite(kept.get(..count).unwrap_or_default())
    }

    fn finite(&mut self, values: &[f32]) -> Moments {
        let (mut min, mut max) = ([f32::INFINITY; LANES], [f32::NEG_INFINITY; LANES]);
        let (mut sum, mut squares) = ([0.0_f64; LANES], [0.0_f64; LANES]);
        each_lane(values, |lane, value| {
            min[lane] = if value < min[lane] { value } else { min[lane] };
            max[lane] = if value > max[lane] { value } else { max[lane] };
            sum[lane] += f64::from(value);
            squares[lane] += f64::from(value) * f64::from(value);
        });
        let zeros: u32 = values.iter().map(|value| u32::from(value.to_bits() & !SIGN == 0)).sum();
        let negative: u32 = values.iter().map(|value| u32::from(value.to_bits() == SIGN)).sum();
        self.counts.zeros += u64::from(zeros);
        self.counts.negative_zeros += u64::from(negative);
        // Zero has one sign here, whichever came first.
        self.counts.min = min.into_iter().map(f64::from).fold(self.counts.min, f64::min) + 0.0;
        self.counts.max = max.into_iter().map(f64::from).fold(self.counts.max, f64::max) + 0.0;
        let mut moments =
            Moments { count: to_u64(values.len()), sum: fold(sum), squares: fold(squares), scatter: 0.0 };
        if values.is_empty() {
            return moments;
        }
        let mean = moments.mean();
        let mut scatter = [0.0_f64; LANES];
        each_lane(values, |lane, value| {
            let apart = f64::from(value) - mean;
            scatter[lane] += apart * apart;
        });
        moments.scatter = fold(scatter);
        moments
    }
}

/// Shows each value with its lane; whole rows of lanes in loops of a known length, which become vectors.
#[inline]
pub(in super::super) fn each_lane(values: &[f32], mut each: impl FnMut(usize, f32)) {
    let (rows, rest) = values.as_chunks::<LANES>();
    for row in rows {
        for (lane, &value) in row.iter().enumerate() {
            each(lane, value);
        }
    }
    for (lane, &value) in rest.iter().enumerate() {
        each(lane, value);
    }
}

/// Sign and exponent.
fn bin(value: f32) -> u16 {
    (value.to_bits() >> 23) as u16
}

/// As [`bin`], of a wider value.
fn wide_bin(value: f64) -> u16 {
    let bits = value.to_bits();
    let exponent = i32::try_from(bits >> 52 & 0x7ff).unwrap_or(0) - 1023;
    let sign = if value.is_sign_negative() { 256 } else { 0 };
    sign + u16::try_from((exponent + 127).clamp(0, 254)).unwrap_or(0)
}

/// The sum of all lanes, halves upon halves.
pub(in super::super) fn fold(mut lanes: [f64; LANES]) -> f64 {
    let mut width = LANES / 2;
    while width > 0 {
        for lane in 0..width {
            lanes[lane] += lanes[lane + width];
        }
        width /= 2;
    }
    lanes[0]
}
