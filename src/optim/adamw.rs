//! AdamW.

use super::prepared::Prepared;
use super::settings::{self, Field, Settings};
use super::{Adam, Idle, StatePlane, TensorClock, UpdateRule, decay, round};

/// AdamW: I. Loshchilov, F. Hutter, "Decoupled weight decay regularization", arXiv:1711.05101, 2017.
///
/// With gradient `g`, parameter `p`, step `t` from 1, and state `exp_avg` (`m`), `exp_avg_sq` (`v`), `max_exp_avg_sq`
/// (`x`, only with `amsgrad`):
///
/// ```text
/// p = p * (1 - lr * weight_decay)
/// m = m + (1 - beta1) * (g - m)
/// v = beta2 * v + (1 - beta2) * g * g
/// x = max(x, v) with amsgrad, else v
/// p = p - lr / (1 - beta1^t) * m / (sqrt(x) / sqrt(1 - beta2^t) + eps)
/// ```
///
/// # Example
///
/// ```
/// use paramstore::InstructionSet;
/// use paramstore::optim::{AdamW, Optimizer, TensorClock};
///
/// let rule = Optimizer::AdamW(AdamW { lr: 0.5, weight_decay: 0.5, ..AdamW::default() });
/// let (mut clock, mut param) = (TensorClock::default(), [1.0, 1.0]);
/// let (mut exp_avg, mut exp_avg_sq) = ([0.0; 2], [0.0; 2]);
/// let state: &mut [&mut [f32]] = &mut [&mut exp_avg, &mut exp_avg_sq];
/// rule.update(InstructionSet::detect(), &mut clock, &mut param, &[3.0, 0.0], state)?;
/// assert!((param[0] - 0.25).abs() < 1e-6); // 1 * (1 - 0.5 * 0.5) - 0.5
/// assert_eq!(param[1], 0.75);               // it shrinks without a gradient too
/// # Ok::<(), paramstore::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamW {
    /// Learning rate, at least 0.
    pub lr: f64,
    /// Weight of the past in the first moment, 0 to below 1.
    pub beta1: f64,
    /// Weight of the past in the second moment, 0 to below 1.
    pub beta2: f64,
    /// Added to the root, at least 0.
    pub eps: f64,
    /// Decoupled weight decay, at least 0.
    pub weight_decay: f64,
    /// Whether the largest second moment so far divides.
    pub amsgrad: bool,
    /// Whether the step goes up the gradient.
    pub maximize: bool,
}

impl Default for AdamW {
    fn default() -> Self {
        Self {
            lr: 1e-3,
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-8,
            weight_decay: 1e-2,
            amsgrad: false,
            maximize: false,
        }
    }
}

impl Settings for AdamW {
    fn fields(&mut self) -> Vec<Field<'_>> {
        let Self { lr, beta1, beta2, eps, weight_decay, amsgrad, maximize } = self;
        let mut fields = settings::of_moments(lr, beta1, beta2, eps, weight_decay);
        fields.extend([Field::switch("amsgrad", amsgrad), Field::switch("maximize", maximize)]);
        fields
    }
}

impl AdamW {
    /// Returns Adam with the same hyperparameters; only the weight decay means something else there.
    const fn as_adam(&self) -> Adam {
        let Self { lr, beta1, beta2, eps, weight_decay, amsgrad, maximize } = *self;
        Adam { lr, beta1, beta2, eps, weight_decay, amsgrad, maximize }
    }
}

impl UpdateRule for AdamW {
    fn state_planes(&self) -> Vec<StatePlane> {
        self.as_adam().state_planes()
    }

    fn prepare(&self, clock: TensorClock) -> (Prepared, TensorClock) {
        self.as_adam().prepare_with(clock, decay(self.weight_decay, self.lr, true))
    }

    /// The rule for all elements: a row shrinks when it is named.
    fn prepare_rows(&self, clock: TensorClock) -> Option<(Prepared, TensorClock)> {
        Some(self.prepare(clock))
    }

    fn idle(&self) -> Option<Idle> {
        let shrink = 1.0 - self.lr * self.weight_decay;
        Some(self.as_adam().idle_with(f64::from(round(shrink))))
    }
}
