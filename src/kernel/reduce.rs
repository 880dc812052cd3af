//! Sums in a fixed order, counts, and the passes over a gradient before its rule.
//!
//! A norm must not depend on how a tensor was cut into blocks nor on who added first. The sum of squares therefore
//! has one fixed shape: leaves of [`LEAF_LEN`] elements, each summed in [`LANES`] lanes, under a balanced binary tree
//! over all leaves of the tensor ([`TreeSum`]).

use super::InstructionSet;
use super::rule::{EXPONENT, Rule};

/// Elements in a leaf; only the last leaf of a tensor may have fewer.
pub(crate) const LEAF_LEN: usize = 1024;

/// Sums that a leaf keeps side by side: element `i` is added to lane `i % LANES`.
const LANES: usize = 16;

/// Returns the sum of squares of at most [`LEAF_LEN`] elements, in f64.
///
/// Squares of f32 are exact in f64, and their sum cannot overflow: it is infinite or NaN exactly if an element is.
pub(crate) fn sum_of_squares_leaf(isa: InstructionSet, leaf: &[f32]) -> f64 {
    isa.sum_of_squares_leaf(leaf)
}

#[inline(always)]
pub(super) fn sum_of_squares_body(leaf: &[f32]) -> f64 {
    let mut lanes = [0.0_f64; LANES];
    let (rows, rest) = leaf.as_chunks::<LANES>();
    for row in rows {
        for (lane, &x) in lanes.iter_mut().zip(row) {
            *lane += f64::from(x) * f64::from(x);
        }
    }
    for (lane, &x) in lanes.iter_mut().zip(rest) {
        *lane += f64::from(x) * f64::from(x);
    }
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            lanes[i] += lanes[i + width];
        }
        width /= 2;
    }
    lanes[0]
}

/// Returns the sum of squares of a run that begins at a leaf of its tensor: [`TreeSum`] over its leaves.
#[cfg(test)]
pub(crate) fn sum_of_squares(isa: InstructionSet, run: &[f32]) -> f64 {
    let mut sum = TreeSum::new();
    for leaf in run.chunks(LEAF_LEN) {
        sum.push_leaf(sum_of_squares_leaf(isa, leaf));
    }
    sum.finish()
}

/// A balanced binary tree of sums over the leaves of a tensor, fed from left to right in constant memory.
///
/// The result is that of the full tree whose missing leaves are zeros, up to a power of two. It does not depend on
/// whether leaves were pushed one by one or as nodes that were summed elsewhere. The shape is that of pairwise
/// summation, whose error grows with the logarithm of the length (N. J. Higham, "The accuracy of floating point
/// summation", SIAM J. Sci. Comput. 14(4), 1993).
#[derive(Debug, Clone, Copy)]
pub(crate) struct TreeSum {
    /// Leaves pushed so far. Bit `L` is set if a finished subtree of `2^L` leaves waits for its right sibling.
    leaves: u64,
    /// The sum of the waiting subtree of each level.
    waiting: [f64; u64::BITS as usize],
}

impl TreeSum {
    /// Makes the sum of no leaves, which is 0.
    pub(crate) const fn new() -> Self {
        Self { leaves: 0, waiting: [0.0; u64::BITS as usize] }
    }

    /// Adds the sum of the next leaf.
    pub(crate) fn push_leaf(&mut self, sum: f64) {
        self.push_node(0, sum);
    }

    /// Adds the sum of the next `2^level` leaves, which were summed by a tree of their own.
    ///
    /// The last node may stand for fewer leaves, since absent leaves are zeros; nothing may follow it then.
    ///
    /// # Panics
    ///
    /// If the leaves pushed before are not a multiple of `2^level`, or the leaves exceed `2^63`.
    pub(crate) fn push_node(&mut self, level: u32, sum: f64) {
        assert!(level < u64::BITS, "a tree has at most 2^63 leaves, not 2^{level}");
        let node_leaves = 1_u64 << level;
        assert!(
            self.leaves.is_multiple_of(node_leaves),
            "a node of {node_leaves} leaves cannot begin at leaf {}",
            self.leaves
        );
        let (mut level, mut sum) = (level as usize, sum);
        while self.leaves >> level & 1 == 1 {
            sum += self.waiting[level];
            level += 1;
        }
        self.waiting[level] = sum;
        self.leaves += node_leaves;
    }

    /// Returns the sum of the whole tree.
    pub(crate) fn finish(&self) -> f64 {
        let mut right: Option<f64> = None;
        for (level, &left) in self.waiting.iter().enumerate() {
            if self.leaves >> level & 1 == 1 {
                // A right sibling that is absent is zero, and adding zero changes nothing.
                right = Some(right.map_or(left, |right| left + right));
            }
        }
        right.unwrap_or(0.0)
    }
}

/// Counts the elements that are NaN or infinite.
pub(crate) fn count_non_finite(isa: InstructionSet, values: &[f32]) -> u64 {
    isa.count_non_finite(values)
}

#[inline(always)]
pub(super) fn count_non_finite_body(values: &[f32]) -> u64 {
    // Counters as wide as the elements keep the vectors whole; a chunk is short enough for them.
    values
        .chunks(1 << 16)
        .map(|chunk| {
            let count: u32 = chunk.iter().map(|x| u32::from(x.to_bits() & EXPONENT == EXPONENT)).sum();
            u64::from(count)
        })
        .sum()
}

/// What happens to a gradient before its rule sees it; each operation is rounded once, in this order.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Preparation {
    /// Divides, e.g. by the scale of the loss.
    pub(crate) divisor: Option<f32>,
    /// Multiplies, e.g. by the coefficient of global-norm clipping.
    pub(crate) coefficient: Option<f32>,
    /// Changes the sign. A sweep that negates by itself ([`Sweep`](super::Sweep)) must not get it negated already.
    pub(crate) negate: bool,
}

#[derive(Clone, Copy)]
struct Prepare<const DIVIDE: bool, const MULTIPLY: bool, const NEGATE: bool> {
    divisor: f32,
    coefficient: f32,
}

impl<const DIVIDE: bool, const MULTIPLY: bool, const NEGATE: bool> Rule<0>
    for Prepare<DIVIDE, MULTIPLY, NEGATE>
{
    #[inline(always)]
    fn element(self, _: f32, g: f32, _: [f32; 0]) -> (f32, [f32; 0]) {
        let g = if DIVIDE { g / self.divisor } else { g };
        let g = if MULTIPLY { g * self.coefficient } else { g };
        (if NEGATE { -g } else { g }, [])
    }
}

/// Writes the prepared gradient to `out`, whose earlier content does not matter.
///
/// # Panics
///
/// If the lengths differ.
pub(crate) fn prepare_gradient(isa: InstructionSet, out: &mut [f32], grad: &[f32], how: Preparation) {
    fn run<const DIVIDE: bool, const MULTIPLY: bool>(
        isa: InstructionSet,
        out: &mut [f32],
        grad: &[f32],
        (divisor, coefficient, negate): (f32, f32, bool),
    ) {
        let none = [&mut [][..], &mut [], &mut []];
        if negate {
            isa.sweep(Prepare::<DIVIDE, MULTIPLY, true> { divisor, coefficient }, out, grad, none);
        } else {
            isa.sweep(Prepare::<DIVIDE, MULTIPLY, false> { divisor, coefficient }, out, grad, none);
        }
    }
    let scalars = (how.divisor.unwrap_or(1.0), how.coefficient.unwrap_or(1.0), how.negate);
    match (how.divisor.is_some(), how.coefficient.is_some()) {
        (false, false) => run::<false, false>(isa, out, grad, scalars),
        (false, true) => run::<false, true>(isa, out, grad, scalars),
        (true, false) => run::<true, false>(isa, out, grad, scalars),
        (true, true) => run::<true, true>(isa, out, grad, scalars),
    }
}

#[derive(Clone, Copy)]
struct Accumulate<const FIRST: bool> {
    scale: f32,
}

impl<const FIRST: bool> Rule<0> for Accumulate<FIRST> {
    #[inline(always)]
    fn element(self, sum: f32, g: f32, _: [f32; 0]) -> (f32, [f32; 0]) {
        let scaled = self.scale * g;
        (if FIRST { scaled } else { sum + scaled }, [])
    }
}

/// Adds `scale * grad` to `sum`, or overwrites `sum` with it at the first micro-batch.
///
/// The mean over `k` micro-batches has the scale `1/k`; the product is rounded, then the sum.
///
/// # Panics
///
/// If the lengths differ.
pub(crate) fn accumulate(isa: InstructionSet, sum: &mut [f32], grad: &[f32], scale: f32, first: bool) {
    let none = [&mut [][..], &mut [], &mut []];
    if first {
        isa.sweep(Accumulate::<true> { scale }, sum, grad, none);
    } else {
        isa.sweep(Accumulate::<false> { scale }, sum, grad, none);
    }
}

#[cfg(test)]
mod tests;
