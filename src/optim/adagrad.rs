//! Adagrad.

use super::prepared::{Body, Prepared};
use super::settings::{Field, Range, Settings};
use super::{Idle, StatePlane, TensorClock, UpdateRule, real, round};
use crate::kernel::body;

/// Adagrad: J. Duchi, E. Hazan, Y. Singer, "Adaptive subgradient methods for online learning and stochastic
/// optimization", JMLR 12, 2011.
///
/// With gradient `g`, parameter `p`, step `t` from 1, and state `sum` (`s`, filled with `initial_accumulator_value`):
///
/// ```text
/// g = g + weight_decay * p
/// s = s + g * g
/// p = p - lr / (1 + (t - 1) * lr_decay) * g / (sqrt(s) + eps)
/// ```
///
/// # Example
///
/// ```
/// use paramstore::InstructionSet;
/// use paramstore::optim::{Adagrad, Optimizer, TensorClock};
///
/// let rule = Optimizer::Adagrad(Adagrad { lr: 0.5, ..Adagrad::default() });
/// let (mut clock, mut param) = (TensorClock::default(), [1.0, 1.0]);
/// let mut sum = [0.0; 2];
/// let state: &mut [&mut [f32]] = &mut [&mut sum];
/// rule.update(InstructionSet::detect(), &mut clock, &mut param, &[3.0, -300.0], state)?;
/// assert_eq!((param, sum), ([0.5, 1.5], [9.0, 90_000.0])); // the first step is `lr` for any gradient
/// # Ok::<(), paramstore::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Adagrad {
    /// Learning rate, at least 0.
    pub lr: f64,
    /// How the learning rate falls with the steps, at least 0.
    pub lr_decay: f64,
    /// Coupled weight decay, at least 0.
    pub weight_decay: f64,
    /// What the sum of squares starts with, at least 0.
    pub initial_accumulator_value: f64,
    /// Added to the root, at least 0.
    pub eps: f64,
    /// Whether the step goes up the gradient.
    pub maximize: bool,
}

impl Default for Adagrad {
    fn default() -> Self {
        Self {
            lr: 1e-2,
            lr_decay: 0.0,
            weight_decay: 0.0,
            initial_accumulator_value: 0.0,
            eps: 1e-10,
            maximize: false,
        }
    }
}

impl Settings for Adagrad {
    fn fields(&mut self) -> Vec<Field<'_>> {
        vec![
            Field::number("lr", &mut self.lr, Range::NonNegative),
            Field::number("lr_decay", &mut self.lr_decay, Range::NonNegative),
            Field::number("weight_decay", &mut self.weight_decay, Range::NonNegative),
            Field::number(
                "initial_accumulator_value",
                &mut self.initial_accumulator_value,
                Range::NonNegative,
            ),
            Field::number("eps", &mut self.eps, Range::NonNegative),
            Field::switch("maximize", &mut self.maximize),
        ]
    }
}

impl UpdateRule for Adagrad {
    fn state_planes(&self) -> Vec<StatePlane> {
        vec![StatePlane { name: "sum", fill: round(self.initial_accumulator_value), per_row: false }]
    }

    fn prepare(&self, clock: TensorClock) -> (Prepared, TensorClock) {
        let body = body::Adagrad {
            minus_rate: round(-self.rate(clock)),
            eps: round(self.eps),
            weight_decay: super::some_unless_zero(self.weight_decay),
        };
        (Prepared::new(Body::Adagrad(body), self.maximize), clock.next())
    }

    /// The same sums; the move is `rate * (g / root)`, as PyTorch computes it for sparse gradients, instead of
    /// `(rate * g) / root`: up to two roundings apart.
    fn prepare_rows(&self, clock: TensorClock) -> Option<(Prepared, TensorClock)> {
        let body = body::RowAdagrad { minus_rate: round(-self.rate(clock)), eps: round(self.eps) };
        (self.weight_decay == 0.0)
            .then(|| (Prepared::new(Body::RowAdagrad(body), self.maximize), clock.next()))
    }

    /// A sum to which nothing is added stays as it is, and so does the parameter.
    fn idle(&self) -> Option<Idle> {
        (self.weight_decay == 0.0).then(Idle::default)
    }
}

impl Adagrad {
    /// The learning rate of the next step; the steps before it are t - 1.
    fn rate(&self, clock: TensorClock) -> f64 {
        self.lr / (1.0 + real(clock.steps) * self.lr_decay)
    }
}
