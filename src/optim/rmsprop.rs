//! RMSprop.

use super::prepared::{Body, Prepared};
use super::settings::{Field, Range, Settings};
use super::{Idle, StatePlane, TensorClock, UpdateRule, lerp, round, squares, zeros};
use crate::kernel::body;

/// RMSprop: T. Tieleman, G. Hinton, "Lecture 6.5: rmsprop", COURSERA Neural Networks for Machine Learning, 2012; the
/// centred form is that of A. Graves, "Generating sequences with recurrent neural networks", arXiv:1308.0850, 2013.
///
/// With gradient `g`, parameter `p`, and state `square_avg` (`v`), `momentum_buffer` (`b`, only if `momentum` is above
/// 0), `grad_avg` (`a`, only if `centered`):
///
/// ```text
/// g = g + weight_decay * p
/// v = alpha * v + (1 - alpha) * g * g
/// d = sqrt(v) + eps, or if centered: a = a + (1 - alpha) * (g - a), d = sqrt(v - a * a) + eps
/// p = p - lr * g / d, or with momentum: b = momentum * b + g / d, p = p - lr * b
/// ```
///
/// # Example
///
/// ```
/// use paramstore::InstructionSet;
/// use paramstore::optim::{Optimizer, RmsProp, TensorClock};
///
/// let rule = Optimizer::RmsProp(RmsProp { lr: 0.5, alpha: 0.75, ..RmsProp::default() });
/// let (mut clock, mut param) = (TensorClock::default(), [1.0, 1.0]);
/// let mut square_avg = [0.0; 2];
/// let state: &mut [&mut [f32]] = &mut [&mut square_avg];
/// rule.update(InstructionSet::detect(), &mut clock, &mut param, &[2.0, -200.0], state)?;
/// assert_eq!(square_avg, [1.0, 10_000.0]);
/// assert!((param[0] - 0.0).abs() < 1e-6 && (param[1] - 2.0).abs() < 1e-6); // lr * g / sqrt(square_avg)
/// # Ok::<(), paramstore::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RmsProp {
    /// Learning rate, at least 0.
    pub lr: f64,
    /// Weight of the past in the averages, at least 0.
    pub alpha: f64,
    /// Added to the root, at least 0.
    pub eps: f64,
    /// Coupled weight decay, at least 0.
    pub weight_decay: f64,
    /// Momentum factor, at least 0; 0 keeps no buffer.
    pub momentum: f64,
    /// Whether squares are taken about the average gradient.
    pub centered: bool,
    /// Whether the step goes up the gradient.
    pub maximize: bool,
}

impl Default for RmsProp {
    fn default() -> Self {
        Self {
            lr: 1e-2,
            alpha: 0.99,
            eps: 1e-8,
            weight_decay: 0.0,
            momentum: 0.0,
            centered: false,
            maximize: false,
        }
    }
}

impl Settings for RmsProp {
    fn fields(&mut self) -> Vec<Field<'_>> {
        vec![
            Field::number("lr", &mut self.lr, Range::NonNegative),
            Field::number("alpha", &mut self.alpha, Range::NonNegative),
            Field::number("eps", &mut self.eps, Range::NonNegative),
            Field::number("weight_decay", &mut self.weight_decay, Range::NonNegative),
            Field::number("momentum", &mut self.momentum, Range::NonNegative),
            Field::switch("centered", &mut self.centered),
            Field::switch("maximize", &mut self.maximize),
        ]
    }
}

impl UpdateRule for RmsProp {
    fn state_planes(&self) -> Vec<StatePlane> {
        let mut planes = vec![zeros("square_avg")];
        if self.momentum > 0.0 {
            planes.push(zeros("momentum_buffer"));
        }
        if self.centered {
            planes.push(zeros("grad_avg"));
        }
        planes
    }

    fn prepare(&self, clock: TensorClock) -> (Prepared, TensorClock) {
        let body = body::RmsProp {
            minus_lr: round(-self.lr),
            squares: squares(self.alpha),
            eps: round(self.eps),
            momentum: (self.momentum > 0.0).then_some(round(self.momentum)),
            average: self.centered.then_some(lerp(self.alpha)),
            weight_decay: super::some_unless_zero(self.weight_decay),
        };
        (Prepared::new(Body::RmsProp(body), self.maximize), clock.next())
    }

    /// The rule for all elements.
    fn prepare_rows(&self, clock: TensorClock) -> Option<(Prepared, TensorClock)> {
        (self.weight_decay == 0.0).then(|| self.prepare(clock))
    }

    /// Averages decay by `alpha`; what is in the buffer goes on moving the parameter.
    fn idle(&self) -> Option<Idle> {
        let average = 1.0 - f64::from(round(1.0 - self.alpha));
        let mut idle = Idle::decaying(1.0, [f64::from(round(self.alpha)), average, average]);
        if self.momentum > 0.0 {
            let momentum = f64::from(round(self.momentum));
            idle.moves = Some(1);
            idle.map = [[1.0, -f64::from(round(self.lr)) * momentum], [0.0, momentum]];
        }
        (self.weight_decay == 0.0).then_some(idle)
    }
}
