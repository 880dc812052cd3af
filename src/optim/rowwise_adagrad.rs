//! Row-wise Adagrad.

use super::prepared::{Body, Prepared};
use super::settings::{Field, Range, Settings};
use super::{Idle, StatePlane, TensorClock, UpdateRule, round};
use crate::kernel::body;

/// Adagrad with one sum for each row, as recommendation models use it for their tables: a row of 64 elements takes 260
/// bytes with its state instead of 512. It is FBGEMM's `EXACT_ROWWISE_ADAGRAD` without weight decay: D. Mudigere et al.,
/// "Software-hardware co-design for fast and scalable training of deep learning recommendation models", ISCA 2022.
///
/// With the gradient `g` of a row (those of a row that is named several times summed first), parameters `p`, and state
/// `row_sum` (`h`, one value a row):
///
/// ```text
/// h = h + mean(g * g)
/// p = p - lr * g / (sqrt(h) + eps)
/// ```
///
/// Only [tensors of rows](crate::TensorSpec::rows) can have it. For [`Optimizer::update`](super::Optimizer::update) the
/// parameters are one row.
///
/// # Example
///
/// ```
/// use paramstore::InstructionSet;
/// use paramstore::optim::{Optimizer, RowwiseAdagrad, TensorClock};
///
/// let rule = Optimizer::RowwiseAdagrad(RowwiseAdagrad { lr: 0.5, ..RowwiseAdagrad::default() });
/// let (mut clock, mut param) = (TensorClock::default(), [1.0, 1.0]);
/// let mut row_sum = [0.0; 1];
/// let state: &mut [&mut [f32]] = &mut [&mut row_sum];
/// rule.update(InstructionSet::detect(), &mut clock, &mut param, &[1.0, 7.0], state)?;
/// assert_eq!(row_sum, [25.0]); // the mean of 1 and 49
/// assert!((param[0] - 0.9).abs() < 1e-6 && (param[1] - 0.3).abs() < 1e-6); // lr * g / 5
/// # Ok::<(), paramstore::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RowwiseAdagrad {
    /// Learning rate, at least 0.
    pub lr: f64,
    /// What the sum of a row starts with, at least 0.
    pub initial_accumulator_value: f64,
    /// Added to the root, at least 0.
    pub eps: f64,
    /// Whether the step goes up the gradient.
    pub maximize: bool,
}

impl Default for RowwiseAdagrad {
    fn default() -> Self {
        Self { lr: 1e-2, initial_accumulator_value: 0.0, eps: 1e-10, maximize: false }
    }
}

impl Settings for RowwiseAdagrad {
    fn fields(&mut self) -> Vec<Field<'_>> {
        let Self { lr, initial_accumulator_value, eps, maximize } = self;
        vec![
            Field::number("lr", lr, Range::NonNegative),
            Field::number("initial_accumulator_value", initial_accumulator_value, Range::NonNegative),
            Field::number("eps", eps, Range::NonNegative),
            Field::switch("maximize", maximize),
        ]
    }
}

impl UpdateRule for RowwiseAdagrad {
    fn state_planes(&self) -> Vec<StatePlane> {
        let fill = round(self.initial_accumulator_value);
        vec![StatePlane { name: "row_sum", fill, per_row: true }]
    }

    fn prepare(&self, clock: TensorClock) -> (Prepared, TensorClock) {
        let body = body::RowwiseAdagrad { minus_lr: round(-self.lr), eps: round(self.eps) };
        (Prepared::new(Body::RowwiseAdagrad(body), self.maximize), clock.next())
    }

    fn prepare_rows(&self, clock: TensorClock) -> Option<(Prepared, TensorClock)> {
        Some(self.prepare(clock))
    }

    /// A row without a gradient stays as it is.
    fn idle(&self) -> Option<Idle> {
        Some(Idle::default())
    }
}
