//! Adadelta.

use super::prepared::{Body, Prepared};
use super::settings::{Field, Range, Settings};
use super::{Idle, StatePlane, TensorClock, UpdateRule, round, squares, zeros};
use crate::kernel::body;

/// Adadelta: M. D. Zeiler, "ADADELTA: an adaptive learning rate method", arXiv:1212.5701, 2012.
///
/// With gradient `g`, parameter `p`, and state `square_avg` (`v`), `acc_delta` (`u`):
///
/// ```text
/// g = g + weight_decay * p
/// v = rho * v + (1 - rho) * g * g
/// d = sqrt(u + eps) / sqrt(v + eps) * g
/// u = rho * u + (1 - rho) * d * d
/// p = p - lr * d
/// ```
///
/// # Example
///
/// ```
/// use paramstore::InstructionSet;
/// use paramstore::optim::{Adadelta, Optimizer, TensorClock};
///
/// let rule = Optimizer::Adadelta(Adadelta { eps: 1e-2, ..Adadelta::default() });
/// let (mut clock, mut param) = (TensorClock::default(), [1.0]);
/// let (mut square_avg, mut acc_delta) = ([0.0; 1], [0.0; 1]);
/// let state: &mut [&mut [f32]] = &mut [&mut square_avg, &mut acc_delta];
/// rule.update(InstructionSet::detect(), &mut clock, &mut param, &[1.0], state)?;
/// let delta = 0.1 / 0.11_f32.sqrt(); // sqrt(eps) / sqrt((1 - rho) * 1 + eps)
/// assert!((param[0] - (1.0 - delta)).abs() < 1e-6 && acc_delta[0] > 0.0);
/// # Ok::<(), paramstore::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Adadelta {
    /// Factor of the move, at least 0.
    pub lr: f64,
    /// Weight of the past in both averages, 0 to 1.
    pub rho: f64,
    /// Added inside both roots, at least 0.
    pub eps: f64,
    /// Coupled weight decay, at least 0.
    pub weight_decay: f64,
    /// Whether the step goes up the gradient.
    pub maximize: bool,
}

impl Default for Adadelta {
    fn default() -> Self {
        Self { lr: 1.0, rho: 0.9, eps: 1e-6, weight_decay: 0.0, maximize: false }
    }
}

impl Settings for Adadelta {
    fn fields(&mut self) -> Vec<Field<'_>> {
        vec![
            Field::number("lr", &mut self.lr, Range::NonNegative),
            Field::number("rho", &mut self.rho, Range::Unit),
            Field::number("eps", &mut self.eps, Range::NonNegative),
            Field::number("weight_decay", &mut self.weight_decay, Range::NonNegative),
            Field::switch("maximize", &mut self.maximize),
        ]
    }
}

impl UpdateRule for Adadelta {
    fn state_planes(&self) -> Vec<StatePlane> {
        vec![zeros("square_avg"), zeros("acc_delta")]
    }

    fn prepare(&self, clock: TensorClock) -> (Prepared, TensorClock) {
        let body = body::Adadelta {
            minus_lr: round(-self.lr),
            squares: squares(self.rho),
            eps: round(self.eps),
            weight_decay: super::some_unless_zero(self.weight_decay),
        };
        (Prepared::new(Body::Adadelta(body), self.maximize), clock.next())
    }

    /// The rule for all elements.
    fn prepare_rows(&self, clock: TensorClock) -> Option<(Prepared, TensorClock)> {
        (self.weight_decay == 0.0).then(|| self.prepare(clock))
    }

    /// Both averages decay by `rho`.
    fn idle(&self) -> Option<Idle> {
        let keep = f64::from(round(self.rho));
        (self.weight_decay == 0.0).then(|| Idle::decaying(1.0, [keep, keep, 1.0]))
    }
}
