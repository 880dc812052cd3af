//! RAdam.

use super::power::power;
use super::prepared::{Body, Prepared};
use super::settings::{self, Field, Settings};
use super::{StatePlane, TensorClock, UpdateRule, decay, lerp, real, round, squares, zeros};
use crate::kernel::body;

/// RAdam, Adam with a rectified variance: L. Liu et al., "On the variance of the adaptive learning rate and beyond",
/// arXiv:1908.03265, 2019.
///
/// With gradient `g`, parameter `p`, step `t` from 1, and state `exp_avg` (`m`), `exp_avg_sq` (`v`):
///
/// ```text
/// g = g + weight_decay * p, or if decoupled p = p * (1 - lr * weight_decay)
/// m = m + (1 - beta1) * (g - m)
/// v = beta2 * v + (1 - beta2) * g * g
/// limit = 2 / (1 - beta2) - 1
/// rho = limit - 2 * t * beta2^t / (1 - beta2^t)
/// if rho > 5:
///     r = sqrt((rho - 4) * (rho - 2) * limit / ((limit - 4) * (limit - 2) * rho))
///     p = p - m / (1 - beta1^t) * lr * sqrt(1 - beta2^t) / (sqrt(v) + eps) * r
/// else:
///     p = p - m / (1 - beta1^t) * lr
/// ```
///
/// # Example
///
/// ```
/// use paramstore::InstructionSet;
/// use paramstore::optim::{Optimizer, RAdam, TensorClock};
///
/// let rule = Optimizer::RAdam(RAdam { lr: 0.25, ..RAdam::default() });
/// let (mut clock, mut param) = (TensorClock::default(), [1.0, 1.0]);
/// let (mut exp_avg, mut exp_avg_sq) = ([0.0; 2], [0.0; 2]);
/// let state: &mut [&mut [f32]] = &mut [&mut exp_avg, &mut exp_avg_sq];
/// rule.update(InstructionSet::detect(), &mut clock, &mut param, &[2.0, -4.0], state)?;
/// assert!((param[0] - 0.5).abs() < 1e-6);  // the first steps are not divided by the root: lr * g
/// assert!((param[1] - 2.0).abs() < 1e-6);
/// # Ok::<(), paramstore::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RAdam {
    /// Learning rate, at least 0.
    pub lr: f64,
    /// Weight of the past in the first moment, 0 to below 1.
    pub beta1: f64,
    /// Weight of the past in the second moment, 0 to below 1.
    pub beta2: f64,
    /// Added to the root, at least 0.
    pub eps: f64,
    /// Weight decay, at least 0.
    pub weight_decay: f64,
    /// Whether weight decay shrinks the parameter instead of entering the gradient.
    pub decoupled_weight_decay: bool,
    /// Whether the step goes up the gradient.
    pub maximize: bool,
}

impl Default for RAdam {
    fn default() -> Self {
        Self {
            lr: 1e-3,
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-8,
            weight_decay: 0.0,
            decoupled_weight_decay: false,
            maximize: false,
        }
    }
}

impl Settings for RAdam {
    fn fields(&mut self) -> Vec<Field<'_>> {
        let Self { lr, beta1, beta2, eps, weight_decay, decoupled_weight_decay, maximize } = self;
        let mut fields = settings::of_moments(lr, beta1, beta2, eps, weight_decay);
        fields.extend([
            Field::switch("decoupled_weight_decay", decoupled_weight_decay),
            Field::switch("maximize", maximize),
        ]);
        fields
    }
}

impl UpdateRule for RAdam {
    fn state_planes(&self) -> Vec<StatePlane> {
        vec![zeros("exp_avg"), zeros("exp_avg_sq")]
    }

    fn prepare(&self, clock: TensorClock) -> (Prepared, TensorClock) {
        let next = clock.next();
        let beta2_power = power(self.beta2, next.steps);
        let correction = 1.0 - beta2_power;
        let limit = 2.0 / (1.0 - self.beta2) - 1.0;
        let rho = limit - 2.0 * real(next.steps) * beta2_power / correction;
        let rectified = (rho > 5.0).then(|| {
            let term = (rho - 4.0) * (rho - 2.0) * limit / ((limit - 4.0) * (limit - 2.0) * rho);
            body::Rectified { correction: round(correction.sqrt()), term: round(term.sqrt()) }
        });
        let decay = decay(self.weight_decay, self.lr, self.decoupled_weight_decay);
        let body = body::RAdam {
            lr: round(self.lr),
            correction: round(1.0 - power(self.beta1, next.steps)),
            moments: body::Moments { first: lerp(self.beta1), second: squares(self.beta2), decay },
            eps: round(self.eps),
            rectified,
        };
        (Prepared::new(Body::RAdam(body), self.maximize), next)
    }
}
