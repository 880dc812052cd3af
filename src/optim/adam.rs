//! Adam.

use super::power::power;
use super::prepared::{Body, Prepared};
use super::settings::{self, Field, Settings};
use super::{Idle, StatePlane, TensorClock, UpdateRule, decay, lerp, round, squares, zeros};
use crate::kernel::body;

/// Adam: D. P. Kingma, J. Ba, "Adam: a method for stochastic optimization", arXiv:1412.6980, 2014; `amsgrad` is that of
/// S. J. Reddi, S. Kale, S. Kumar, "On the convergence of Adam and beyond", ICLR 2018.
///
/// With gradient `g`, parameter `p`, step `t` from 1, and state `exp_avg` (`m`), `exp_avg_sq` (`v`), `max_exp_avg_sq`
/// (`x`, only with `amsgrad`):
///
/// ```text
/// g = g + weight_decay * p
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
/// use paramstore::optim::{Adam, Optimizer, TensorClock};
///
/// let rule = Optimizer::Adam(Adam { lr: 0.5, beta1: 0.5, ..Adam::default() });
/// let (mut clock, mut param) = (TensorClock::default(), [1.0, 1.0]);
/// let (mut exp_avg, mut exp_avg_sq) = ([0.0; 2], [0.0; 2]);
/// let state: &mut [&mut [f32]] = &mut [&mut exp_avg, &mut exp_avg_sq];
/// rule.update(InstructionSet::detect(), &mut clock, &mut param, &[3.0, -300.0], state)?;
/// assert_eq!(exp_avg, [1.5, -150.0]);
/// assert!((param[0] - 0.5).abs() < 1e-6 && (param[1] - 1.5).abs() < 1e-6); // `lr` at first, for any gradient
/// # Ok::<(), paramstore::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Adam {
    /// Learning rate, at least 0.
    pub lr: f64,
    /// Weight of the past in the first moment, 0 to below 1.
    pub beta1: f64,
    /// Weight of the past in the second moment, 0 to below 1.
    pub beta2: f64,
    /// Added to the root, at least 0.
    pub eps: f64,
    /// Coupled weight decay, at least 0.
    pub weight_decay: f64,
    /// Whether the largest second moment so far divides.
    pub amsgrad: bool,
    /// Whether the step goes up the gradient.
    pub maximize: bool,
}

impl Default for Adam {
    fn default() -> Self {
        Self {
            lr: 1e-3,
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-8,
            weight_decay: 0.0,
            amsgrad: false,
            maximize: false,
        }
    }
}

impl Settings for Adam {
    fn fields(&mut self) -> Vec<Field<'_>> {
        let Self { lr, beta1, beta2, eps, weight_decay, amsgrad, maximize } = self;
        let mut fields = settings::of_moments(lr, beta1, beta2, eps, weight_decay);
        fields.extend([Field::switch("amsgrad", amsgrad), Field::switch("maximize", maximize)]);
        fields
    }
}

impl UpdateRule for Adam {
    fn state_planes(&self) -> Vec<StatePlane> {
        let mut planes = vec![zeros("exp_avg"), zeros("exp_avg_sq")];
        if self.amsgrad {
            planes.push(zeros("max_exp_avg_sq"));
        }
        planes
    }

    fn prepare(&self, clock: TensorClock) -> (Prepared, TensorClock) {
        self.prepare_with(clock, decay(self.weight_decay, self.lr, false))
    }

    /// The rule for all elements.
    fn prepare_rows(&self, clock: TensorClock) -> Option<(Prepared, TensorClock)> {
        (self.weight_decay == 0.0).then(|| self.prepare(clock))
    }

    fn idle(&self) -> Option<Idle> {
        (self.weight_decay == 0.0).then(|| self.idle_with(1.0))
    }
}

impl Adam {
    /// Computes a step of Adam or AdamW, which differ by their weight decay.
    pub(super) fn prepare_with(&self, clock: TensorClock, decay: body::Decay) -> (Prepared, TensorClock) {
        let next = clock.next();
        let rate = self.lr / (1.0 - power(self.beta1, next.steps));
        let body = body::Adam {
            minus_rate: round(-rate),
            moments: body::Moments { first: lerp(self.beta1), second: squares(self.beta2), decay },
            correction: round((1.0 - power(self.beta2, next.steps)).sqrt()),
            eps: round(self.eps),
            amsgrad: self.amsgrad,
        };
        (Prepared::new(Body::Adam(body), self.maximize), next)
    }

    /// Moments decay, and the parameter shrinks; the moves that the first moment still makes end soon.
    pub(super) fn idle_with(&self, shrink: f64) -> Idle {
        let first = 1.0 - f64::from(round(1.0 - self.beta1));
        let second = f64::from(round(self.beta2));
        // The largest second moment does not decay.
        let ratio = if self.amsgrad { first } else { first / second.sqrt() };
        Idle::decaying(shrink, [first, second, 1.0]).until_moves_end(ratio)
    }
}
