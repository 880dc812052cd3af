//! Row-wise Adagrad.

use crate::kernel::{Planes, Rule, Sweep};

/// The scalars of one step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct RowwiseAdagrad {
    /// `-lr`.
    pub(crate) minus_lr: f32,
    /// `eps`.
    pub(crate) eps: f32,
}

impl RowwiseAdagrad {
    /// Updates one row, whose state plane is a single sum.
    pub(crate) fn run(self, sweep: Sweep<'_, '_>) -> u64 {
        let Planes::F32(param, [sum, ..]) = sweep.planes else { return 0 };
        let Some(sum) = sum.first_mut() else { return 0 };
        if sweep.grad.is_empty() {
            return 0;
        }
        *sum += mean_of_squares(sweep.grad);
        let root = sum.sqrt() + self.eps;
        Sweep { planes: Planes::F32(param, &mut []), ..sweep }.run(Move { minus_lr: self.minus_lr, root })
    }
}

#[derive(Clone, Copy)]
struct Move {
    minus_lr: f32,
    root: f32,
}

impl Rule<0> for Move {
    #[inline(always)]
    fn element(self, p: f32, g: f32, _: [f32; 0]) -> (f32, [f32; 0]) {
        (p + (self.minus_lr * g) / self.root, [])
    }
}

/// Returns the mean of the squares of a row: each operation rounded to f32, in the order of NumPy's `mean(g * g)`.
#[expect(clippy::cast_precision_loss, reason = "a row has at most 65,535 elements")]
fn mean_of_squares(row: &[f32]) -> f32 {
    sum_of_squares(row) / row.len() as f32
}

/// Sums in eight lanes up to 128 elements, and in two halves above that: always in the same order.
fn sum_of_squares(row: &[f32]) -> f32 {
    const LANES: usize = 8;
    const LEAF_LEN: usize = 128;
    if row.len() < LANES {
        return row.iter().fold(0.0, |sum, g| sum + g * g);
    }
    if row.len() > LEAF_LEN {
        let half = row.len() / 2;
        let (left, right) = row.split_at(half - half % LANES);
        return sum_of_squares(left) + sum_of_squares(right);
    }
    let (parts, rest) = row.as_chunks::<LANES>();
    let mut lanes = [0.0_f32; LANES];
    for part in parts {
        for (lane, g) in lanes.iter_mut().zip(part) {
            *lane += g * g;
        }
    }
    let [a, b, c, d, e, f, g, h] = lanes;
    rest.iter().fold(((a + b) + (c + d)) + ((e + f) + (g + h)), |sum, g| sum + g * g)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sum_of_squares_is_exact_where_no_addition_rounds_whatever_the_length() {
        for len in [0, 1, 7, 8, 9, 23, 24, 127, 128, 129, 200, 1000, 4099] {
            let row: Vec<f32> = [1.0, -2.0, 3.0, 0.5].into_iter().cycle().take(len).collect();
            let exact = row.iter().fold(0.0, |sum, &g| sum + f64::from(g) * f64::from(g));
            assert_eq!(f64::from(sum_of_squares(&row)).to_bits(), exact.to_bits(), "{len}");
        }
    }
}
