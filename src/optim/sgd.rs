//! Stochastic gradient descent.

use super::prepared::{Body, Prepared};
use super::settings::{Field, Range, Settings};
use super::{Idle, StatePlane, TensorClock, UpdateRule, round, zeros};
use crate::error::{Error, Result};
use crate::kernel::body;

/// Stochastic gradient descent, optionally with momentum as in I. Sutskever, J. Martens, G. Dahl, G. Hinton, "On the
/// importance of initialization and momentum in deep learning", ICML 2013.
///
/// With gradient `g`, parameter `p`, and state `momentum_buffer` (`b`, only if `momentum` is not 0):
///
/// ```text
/// g = g + weight_decay * p
/// b = g at the first step, else momentum * b + (1 - dampening) * g
/// g = b, with nesterov g + momentum * b
/// p = p - lr * g
/// ```
///
/// # Example
///
/// ```
/// use paramstore::InstructionSet;
/// use paramstore::optim::{Optimizer, Sgd, TensorClock};
///
/// let rule = Optimizer::Sgd(Sgd { lr: 0.5, momentum: 0.5, ..Sgd::default() });
/// let (mut clock, mut param) = (TensorClock::default(), [1.0, 1.0]);
/// let mut momentum_buffer = [0.0; 2];
/// let state: &mut [&mut [f32]] = &mut [&mut momentum_buffer];
/// rule.update(InstructionSet::detect(), &mut clock, &mut param, &[1.0, -2.0], state)?;
/// assert_eq!((param, momentum_buffer), ([0.5, 2.0], [1.0, -2.0]));
/// # Ok::<(), paramstore::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sgd {
    /// Learning rate, at least 0.
    pub lr: f64,
    /// Momentum factor, at least 0; 0 keeps no state.
    pub momentum: f64,
    /// What of a gradient does not enter the buffer; not applied at the first step.
    pub dampening: f64,
    /// Coupled weight decay, at least 0.
    pub weight_decay: f64,
    /// Whether the step looks ahead; needs momentum and no dampening.
    pub nesterov: bool,
    /// Whether the step goes up the gradient.
    pub maximize: bool,
}

impl Default for Sgd {
    fn default() -> Self {
        Self { lr: 1e-3, momentum: 0.0, dampening: 0.0, weight_decay: 0.0, nesterov: false, maximize: false }
    }
}

impl Settings for Sgd {
    fn fields(&mut self) -> Vec<Field<'_>> {
        vec![
            Field::number("lr", &mut self.lr, Range::NonNegative),
            Field::number("momentum", &mut self.momentum, Range::NonNegative),
            Field::number("dampening", &mut self.dampening, Range::Finite),
            Field::number("weight_decay", &mut self.weight_decay, Range::NonNegative),
            Field::switch("nesterov", &mut self.nesterov),
            Field::switch("maximize", &mut self.maximize),
        ]
    }

    fn check_together(&self) -> Result<()> {
        if self.nesterov && (self.momentum <= 0.0 || self.dampening != 0.0) {
            let got = format!("momentum {} and dampening {}", self.momentum, self.dampening);
            return Err(Error::invalid("nesterov of sgd", got, "momentum above 0 and dampening 0"));
        }
        Ok(())
    }
}

impl UpdateRule for Sgd {
    fn state_planes(&self) -> Vec<StatePlane> {
        if self.momentum == 0.0 { Vec::new() } else { vec![zeros("momentum_buffer")] }
    }

    fn prepare(&self, clock: TensorClock) -> (Prepared, TensorClock) {
        let nesterov = self.nesterov;
        let mode = match (self.momentum == 0.0, clock.steps) {
            (true, _) => body::Momentum::None,
            (false, 0) => body::Momentum::First { nesterov },
            (false, _) => body::Momentum::Running { nesterov },
        };
        let body = body::Sgd {
            minus_lr: round(-self.lr),
            momentum: round(self.momentum),
            undamped: round(1.0 - self.dampening),
            weight_decay: super::some_unless_zero(self.weight_decay),
            mode,
        };
        (Prepared::new(Body::Sgd(body), self.maximize), clock.next())
    }

    /// The rule for all elements.
    fn prepare_rows(&self, clock: TensorClock) -> Option<(Prepared, TensorClock)> {
        (self.weight_decay == 0.0).then(|| self.prepare(clock))
    }

    /// Weight decay is the gradient that is left, and the buffer goes on moving the parameter: both are linear.
    fn idle(&self) -> Option<Idle> {
        let scalars = [self.lr, self.weight_decay, self.momentum, 1.0 - self.dampening];
        let [lr, decay, momentum, undamped] = scalars.map(|scalar| f64::from(round(scalar)));
        if momentum == 0.0 {
            let shrinking = Idle::decaying(1.0 - lr * decay, [1.0; 3]);
            return Some(if decay == 0.0 { Idle::default() } else { shrinking });
        }
        // The buffer's next value, and the move, by parameter and buffer.
        let buffer = [undamped * decay, momentum];
        let moved = if self.nesterov { [decay + momentum * buffer[0], momentum * momentum] } else { buffer };
        let map = [[1.0 - lr * moved[0], -lr * moved[1]], buffer];
        Some(Idle { map, moves: Some(0), ..Idle::decaying(1.0, [1.0; 3]) })
    }
}
