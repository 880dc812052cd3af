//! NAdam.

use super::power::power;
use super::prepared::{Body, Prepared};
use super::settings::{self, Field, Range, Settings};
use super::{StatePlane, TensorClock, UpdateRule, decay, lerp, real, round, squares, zeros};
use crate::kernel::body;

/// NAdam, Adam with Nesterov momentum: T. Dozat, "Incorporating Nesterov momentum into Adam", ICLR workshop 2016.
///
/// With gradient `g`, parameter `p`, step `t` from 1, and state `exp_avg` (`m`), `exp_avg_sq` (`v`):
///
/// ```text
/// g = g + weight_decay * p, or if decoupled p = p * (1 - lr * weight_decay)
/// mu(t) = beta1 * (1 - 0.5 * 0.96^(t * momentum_decay))
/// product = mu(1) * mu(2) * .. * mu(t), kept in f32
/// m = m + (1 - beta1) * (g - m)
/// v = beta2 * v + (1 - beta2) * g * g
/// d = sqrt(v / (1 - beta2^t)) + eps
/// p = p - lr * (1 - mu(t)) / (1 - product) * g / d - lr * mu(t + 1) / (1 - product * mu(t + 1)) * m / d
/// ```
///
/// # Example
///
/// ```
/// use paramstore::InstructionSet;
/// use paramstore::optim::{NAdam, Optimizer, TensorClock};
///
/// let rule = Optimizer::NAdam(NAdam { lr: 0.5, ..NAdam::default() });
/// let (mut clock, mut param) = (TensorClock::default(), [1.0]);
/// let (mut exp_avg, mut exp_avg_sq) = ([0.0; 1], [0.0; 1]);
/// let state: &mut [&mut [f32]] = &mut [&mut exp_avg, &mut exp_avg_sq];
/// rule.update(InstructionSet::detect(), &mut clock, &mut param, &[3.0], state)?;
/// assert!(param[0] < 0.5);                                    // beyond Adam's step: it looks ahead
/// assert!(clock.mu_product > 0.4 && clock.mu_product < 0.5);  // mu(1), near beta1 / 2
/// # Ok::<(), paramstore::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct NAdam {
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
    /// How fast the momentum rises to `beta1`, at least 0.
    pub momentum_decay: f64,
    /// Whether weight decay shrinks the parameter instead of entering the gradient.
    pub decoupled_weight_decay: bool,
    /// Whether the step goes up the gradient.
    pub maximize: bool,
}

impl Default for NAdam {
    fn default() -> Self {
        Self {
            lr: 2e-3,
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-8,
            weight_decay: 0.0,
            momentum_decay: 4e-3,
            decoupled_weight_decay: false,
            maximize: false,
        }
    }
}

impl Settings for NAdam {
    fn fields(&mut self) -> Vec<Field<'_>> {
        let Self { lr, beta1, beta2, eps, weight_decay, momentum_decay, decoupled_weight_decay, maximize } =
            self;
        let mut fields = settings::of_moments(lr, beta1, beta2, eps, weight_decay);
        fields.extend([
            Field::number("momentum_decay", momentum_decay, Range::NonNegative),
            Field::switch("decoupled_weight_decay", decoupled_weight_decay),
            Field::switch("maximize", maximize),
        ]);
        fields
    }
}

impl NAdam {
    /// Returns the momentum of step `t`.
    fn mu(&self, t: f64) -> f64 {
        // The exponent is not whole; `libm` gives the same bits on every platform.
        self.beta1 * (1.0 - 0.5 * libm::pow(0.96, t * self.momentum_decay))
    }
}

impl UpdateRule for NAdam {
    fn state_planes(&self) -> Vec<StatePlane> {
        vec![zeros("exp_avg"), zeros("exp_avg_sq")]
    }

    fn prepare(&self, clock: TensorClock) -> (Prepared, TensorClock) {
        let mut next = clock.next();
        let t = real(next.steps);
        let (mu, mu_next) = (self.mu(t), self.mu(t + 1.0));
        next.mu_product *= round(mu);
        let product = f64::from(next.mu_product);
        let decay = decay(self.weight_decay, self.lr, self.decoupled_weight_decay);
        let body = body::NAdam {
            minus_rate_of_gradient: round(-(self.lr * (1.0 - mu) / (1.0 - product))),
            minus_rate_of_moment: round(-(self.lr * mu_next / (1.0 - product * mu_next))),
            moments: body::Moments { first: lerp(self.beta1), second: squares(self.beta2), decay },
            correction: round(1.0 - power(self.beta2, next.steps)),
            eps: round(self.eps),
        };
        (Prepared::new(Body::NAdam(body), self.maximize), next)
    }
}
