//! SparseAdam.

use super::power::power;
use super::prepared::{Body, Prepared};
use super::settings::{Field, Range, Settings};
use super::{StatePlane, TensorClock, UpdateRule, round, zeros};
use crate::kernel::body;

/// PyTorch's `SparseAdam`, a lazy Adam: rows without a gradient keep parameters and moments, bit for bit, and the rows
/// that have one are updated with the bias correction of the tensor's step, whenever they were updated last.
///
/// With gradient `g`, parameter `p`, step `t` from 1 of the tensor (a step without rows counts too), and state
/// `exp_avg` (`m`), `exp_avg_sq` (`v`):
///
/// ```text
/// m = m + (g - m) * (1 - beta1)
/// v = v + (g * g - v) * (1 - beta2)
/// p = p - lr * sqrt(1 - beta2^t) / (1 - beta1^t) * (m / (sqrt(v) + eps))
/// ```
///
/// `eps` is added to the uncorrected root, and there is no weight decay. A gradient of the whole tensor, which PyTorch
/// refuses, is here one that has all rows.
///
/// # Example
///
/// ```
/// use paramstore::InstructionSet;
/// use paramstore::optim::{Optimizer, SparseAdam, TensorClock};
///
/// let rule = Optimizer::SparseAdam(SparseAdam { lr: 0.5, ..SparseAdam::default() });
/// let (mut clock, mut param) = (TensorClock::default(), [1.0, 1.0]);
/// let (mut exp_avg, mut exp_avg_sq) = ([0.0; 2], [0.0; 2]);
/// let state: &mut [&mut [f32]] = &mut [&mut exp_avg, &mut exp_avg_sq];
/// rule.update(InstructionSet::detect(), &mut clock, &mut param, &[3.0, -300.0], state)?;
/// assert!((param[0] - 0.5).abs() < 1e-5 && (param[1] - 1.5).abs() < 1e-5);
/// # Ok::<(), paramstore::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SparseAdam {
    /// Learning rate, at least 0.
    pub lr: f64,
    /// Weight of the past in the first moment, 0 to below 1.
    pub beta1: f64,
    /// Weight of the past in the second moment, 0 to below 1.
    pub beta2: f64,
    /// Added to the uncorrected root, at least 0.
    pub eps: f64,
    /// Whether the step goes up the gradient.
    pub maximize: bool,
}

impl Default for SparseAdam {
    fn default() -> Self {
        Self { lr: 1e-3, beta1: 0.9, beta2: 0.999, eps: 1e-8, maximize: false }
    }
}

impl Settings for SparseAdam {
    fn fields(&mut self) -> Vec<Field<'_>> {
        vec![
            Field::number("lr", &mut self.lr, Range::NonNegative),
            Field::number("beta1", &mut self.beta1, Range::Decay),
            Field::number("beta2", &mut self.beta2, Range::Decay),
            Field::number("eps", &mut self.eps, Range::NonNegative),
            Field::switch("maximize", &mut self.maximize),
        ]
    }
}

impl UpdateRule for SparseAdam {
    fn state_planes(&self) -> Vec<StatePlane> {
        vec![zeros("exp_avg"), zeros("exp_avg_sq")]
    }

    fn prepare(&self, clock: TensorClock) -> (Prepared, TensorClock) {
        let next = clock.next();
        let root = (1.0 - power(self.beta2, next.steps)).sqrt();
        let rate = self.lr * root / (1.0 - power(self.beta1, next.steps));
        let body = body::SparseAdam {
            minus_rate: round(-rate),
            first: round(1.0 - self.beta1),
            second: round(1.0 - self.beta2),
            eps: round(self.eps),
        };
        (Prepared::new(Body::SparseAdam(body), self.maximize), next)
    }

    fn prepare_rows(&self, clock: TensorClock) -> Option<(Prepared, TensorClock)> {
        Some(self.prepare(clock))
    }
}
