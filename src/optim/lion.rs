//! Lion.

use super::prepared::{Body, Prepared};
use super::settings::{Field, Range, Settings};
use super::{StatePlane, TensorClock, UpdateRule, round, zeros};
use crate::kernel::body;

/// Lion: X. Chen et al., "Symbolic discovery of optimization algorithms", arXiv:2302.06675, 2023. PyTorch has no Lion.
///
/// With gradient `g`, parameter `p`, and state `exp_avg` (`m`), in this order and each operation rounded once:
///
/// ```text
/// u = sign(m * beta1 + g * (1 - beta1)), sign(0) = 0, NaN stays NaN
/// p = p * (1 - lr * weight_decay)
/// p = p + (-lr) * u
/// m = m * beta2 + g * (1 - beta2)
/// ```
///
/// # Example
///
/// ```
/// use paramstore::InstructionSet;
/// use paramstore::optim::{Lion, Optimizer, TensorClock};
///
/// let rule = Optimizer::Lion(Lion { lr: 0.25, ..Lion::default() });
/// let (mut clock, mut param) = (TensorClock::default(), [1.0, 1.0, 1.0]);
/// let mut exp_avg = [0.0; 3];
/// let state: &mut [&mut [f32]] = &mut [&mut exp_avg];
/// rule.update(InstructionSet::detect(), &mut clock, &mut param, &[3.0, -0.001, 0.0], state)?;
/// assert_eq!(param, [0.75, 1.25, 1.0]); // the sign alone counts
/// # Ok::<(), paramstore::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Lion {
    /// Learning rate, at least 0: the size of every move.
    pub lr: f64,
    /// Weight of the past in the direction, 0 to below 1.
    pub beta1: f64,
    /// Weight of the past in the moment, 0 to below 1.
    pub beta2: f64,
    /// Decoupled weight decay, at least 0.
    pub weight_decay: f64,
}

impl Default for Lion {
    fn default() -> Self {
        Self { lr: 1e-4, beta1: 0.9, beta2: 0.99, weight_decay: 0.0 }
    }
}

impl Settings for Lion {
    fn fields(&mut self) -> Vec<Field<'_>> {
        vec![
            Field::number("lr", &mut self.lr, Range::NonNegative),
            Field::number("beta1", &mut self.beta1, Range::Decay),
            Field::number("beta2", &mut self.beta2, Range::Decay),
            Field::number("weight_decay", &mut self.weight_decay, Range::NonNegative),
        ]
    }
}

impl UpdateRule for Lion {
    fn state_planes(&self) -> Vec<StatePlane> {
        vec![zeros("exp_avg")]
    }

    fn prepare(&self, clock: TensorClock) -> (Prepared, TensorClock) {
        let body = body::Lion {
            minus_lr: round(-self.lr),
            direction: (round(self.beta1), round(1.0 - self.beta1)),
            moment: (round(self.beta2), round(1.0 - self.beta2)),
            shrink: (self.weight_decay != 0.0).then(|| round(1.0 - self.lr * self.weight_decay)),
        };
        (Prepared::new(Body::Lion(body), false), clock.next())
    }
}
