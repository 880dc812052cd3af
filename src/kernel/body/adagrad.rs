//! Adagrad.

use super::coupled;
use crate::kernel::{Rule, Sweep};

/// The scalars of one step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Adagrad {
    /// `-lr / (1 + (t - 1) * lr_decay)`.
    pub(crate) minus_rate: f32,
    /// `eps`.
    pub(crate) eps: f32,
    /// `weight_decay`, if there is one.
    pub(crate) weight_decay: Option<f32>,
}

impl Adagrad {
    pub(crate) fn run(self, sweep: Sweep<'_, '_>) -> u64 {
        match self.weight_decay {
            None => sweep.run(Body::<false>(self)),
            Some(_) => sweep.run(Body::<true>(self)),
        }
    }
}

#[derive(Clone, Copy)]
struct Body<const DECAY: bool>(Adagrad);

impl<const DECAY: bool> Rule<1> for Body<DECAY> {
    #[inline(always)]
    fn element(self, p: f32, g: f32, [sum]: [f32; 1]) -> (f32, [f32; 1]) {
        let s = self.0;
        let g = coupled::<DECAY>(s.weight_decay, p, g);
        let sum = sum + g * g;
        let root = sum.sqrt() + s.eps;
        (p + (s.minus_rate * g) / root, [sum])
    }
}

/// The scalars of one step on rows. PyTorch divides before it multiplies there, which rounds differently.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct RowAdagrad {
    /// `-lr / (1 + (t - 1) * lr_decay)`.
    pub(crate) minus_rate: f32,
    /// `eps`.
    pub(crate) eps: f32,
}

impl RowAdagrad {
    pub(crate) fn run(self, sweep: Sweep<'_, '_>) -> u64 {
        sweep.run(self)
    }
}

impl Rule<1> for RowAdagrad {
    #[inline(always)]
    fn element(self, p: f32, g: f32, [sum]: [f32; 1]) -> (f32, [f32; 1]) {
        let sum = sum + g * g;
        let root = sum.sqrt() + self.eps;
        (p + self.minus_rate * (g / root), [sum])
    }
}
