//! Adadelta.

use super::{Squares, coupled};
use crate::kernel::{Rule, Sweep};

/// The scalars of one step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Adadelta {
    /// `-lr`.
    pub(crate) minus_lr: f32,
    /// The averages of squared gradients and of squared moves, by `rho`.
    pub(crate) squares: Squares,
    /// `eps`, inside both roots.
    pub(crate) eps: f32,
    /// `weight_decay`, if there is one.
    pub(crate) weight_decay: Option<f32>,
}

impl Adadelta {
    pub(crate) fn run(self, sweep: Sweep<'_, '_>) -> u64 {
        match self.weight_decay {
            None => sweep.run(Body::<false>(self)),
            Some(_) => sweep.run(Body::<true>(self)),
        }
    }
}

#[derive(Clone, Copy)]
struct Body<const DECAY: bool>(Adadelta);

impl<const DECAY: bool> Rule<2> for Body<DECAY> {
    #[inline(always)]
    fn element(self, p: f32, g: f32, [square, moves]: [f32; 2]) -> (f32, [f32; 2]) {
        let s = self.0;
        let g = coupled::<DECAY>(s.weight_decay, p, g);
        let square = s.squares.at(square, g);
        let root = (square + s.eps).sqrt();
        let delta = ((moves + s.eps).sqrt() / root) * g;
        let moves = s.squares.at(moves, delta);
        (p + s.minus_lr * delta, [square, moves])
    }
}
