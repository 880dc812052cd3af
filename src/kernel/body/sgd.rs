//! Stochastic gradient descent.

use super::coupled;
use crate::kernel::{Rule, Sweep};

/// How the momentum buffer is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Momentum {
    /// There is no buffer.
    None,
    /// The buffer takes the gradient as it is.
    First {
        /// Whether the step looks ahead.
        nesterov: bool,
    },
    /// The buffer is a running sum.
    Running {
        /// Whether the step looks ahead.
        nesterov: bool,
    },
}

/// The scalars of one step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Sgd {
    /// `-lr`.
    pub(crate) minus_lr: f32,
    /// `momentum`.
    pub(crate) momentum: f32,
    /// `1 - dampening`.
    pub(crate) undamped: f32,
    /// `weight_decay`, if there is one.
    pub(crate) weight_decay: Option<f32>,
    /// What the buffer is for at this step.
    pub(crate) mode: Momentum,
}

impl Sgd {
    pub(crate) fn run(self, sweep: Sweep<'_, '_>) -> u64 {
        match self.weight_decay {
            None => self.run_decayed::<false>(sweep),
            Some(_) => self.run_decayed::<true>(sweep),
        }
    }

    fn run_decayed<const DECAY: bool>(self, sweep: Sweep<'_, '_>) -> u64 {
        match self.mode {
            Momentum::None => sweep.run(Plain::<DECAY>(self)),
            Momentum::First { nesterov: false } => sweep.run(Buffered::<DECAY, true, false>(self)),
            Momentum::First { nesterov: true } => sweep.run(Buffered::<DECAY, true, true>(self)),
            Momentum::Running { nesterov: false } => sweep.run(Buffered::<DECAY, false, false>(self)),
            Momentum::Running { nesterov: true } => sweep.run(Buffered::<DECAY, false, true>(self)),
        }
    }
}

#[derive(Clone, Copy)]
struct Plain<const DECAY: bool>(Sgd);

impl<const DECAY: bool> Rule<0> for Plain<DECAY> {
    #[inline(always)]
    fn element(self, p: f32, g: f32, _: [f32; 0]) -> (f32, [f32; 0]) {
        let g = coupled::<DECAY>(self.0.weight_decay, p, g);
        (p + self.0.minus_lr * g, [])
    }
}

#[derive(Clone, Copy)]
struct Buffered<const DECAY: bool, const FIRST: bool, const NESTEROV: bool>(Sgd);

impl<const DECAY: bool, const FIRST: bool, const NESTEROV: bool> Rule<1>
    for Buffered<DECAY, FIRST, NESTEROV>
{
    #[inline(always)]
    fn element(self, p: f32, g: f32, [buffer]: [f32; 1]) -> (f32, [f32; 1]) {
        let s = self.0;
        let g = coupled::<DECAY>(s.weight_decay, p, g);
        let buffer = if FIRST { g } else { buffer * s.momentum + s.undamped * g };
        let g = if NESTEROV { g + s.momentum * buffer } else { buffer };
        (p + s.minus_lr * g, [buffer])
    }
}
