//! Adamax.

use super::power::power;
use super::prepared::{Body, Prepared};
use super::settings::{self, Field, Settings};
use super::{StatePlane, TensorClock, UpdateRule, lerp, round, zeros};
use crate::kernel::body;

/// Adamax, Adam with the infinity norm: D. P. Kingma, J. Ba, "Adam: a method for stochastic optimization",
/// arXiv:1412.6980, 2014, section 7.
///
/// With gradient `g`, parameter `p`, step `t` from 1, and state `exp_avg` (`m`), `exp_inf` (`u`):
///
/// ```text
/// g = g + weight_decay * p
/// m = m + (1 - beta1) * (g - m)
/// u = max(beta2 * u, |g| + eps)
/// p = p - lr / (1 - beta1^t) * m / u
/// ```
///
/// # Example
///
/// ```
/// use paramstore::InstructionSet;
/// use paramstore::optim::{Adamax, Optimizer, TensorClock};
///
/// let rule = Optimizer::Adamax(Adamax { lr: 0.5, ..Adamax::default() });
/// let (mut clock, mut param) = (TensorClock::default(), [1.0, 1.0]);
/// let (mut exp_avg, mut exp_inf) = ([0.0; 2], [0.0; 2]);
/// let state: &mut [&mut [f32]] = &mut [&mut exp_avg, &mut exp_inf];
/// rule.update(InstructionSet::detect(), &mut clock, &mut param, &[3.0, -300.0], state)?;
/// assert_eq!(exp_inf, [3.0, 300.0]); // the largest magnitude so far
/// assert!((param[0] - 0.5).abs() < 1e-6 && (param[1] - 1.5).abs() < 1e-6);
/// # Ok::<(), paramstore::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Adamax {
    /// Learning rate, at least 0.
    pub lr: f64,
    /// Weight of the past in the first moment, 0 to below 1.
    pub beta1: f64,
    /// How the norm fades, 0 to below 1.
    pub beta2: f64,
    /// Added to the gradient's size, at least 0.
    pub eps: f64,
    /// Coupled weight decay, at least 0.
    pub weight_decay: f64,
    /// Whether the step goes up the gradient.
    pub maximize: bool,
}

impl Default for Adamax {
    fn default() -> Self {
        Self { lr: 2e-3, beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.0, maximize: false }
    }
}

impl Settings for Adamax {
    fn fields(&mut self) -> Vec<Field<'_>> {
        let Self { lr, beta1, beta2, eps, weight_decay, maximize } = self;
        let mut fields = settings::of_moments(lr, beta1, beta2, eps, weight_decay);
        fields.extend([Field::switch("maximize", maximize)]);
        fields
    }
}

impl UpdateRule for Adamax {
    fn state_planes(&self) -> Vec<StatePlane> {
        vec![zeros("exp_avg"), zeros("exp_inf")]
    }

    fn prepare(&self, clock: TensorClock) -> (Prepared, TensorClock) {
        let next = clock.next();
        let rate = self.lr / (1.0 - power(self.beta1, next.steps));
        let body = body::Adamax {
            minus_rate: round(-rate),
            first: lerp(self.beta1),
            beta2: round(self.beta2),
            eps: round(self.eps),
            weight_decay: super::some_unless_zero(self.weight_decay),
        };
        (Prepared::new(Body::Adamax(body), self.maximize), next)
    }
}
