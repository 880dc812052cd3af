//! RMSprop, plain or centred, with or without momentum.

use super::{Lerp, Squares, coupled};
use crate::kernel::{Rule, Sweep};

/// The scalars of one step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct RmsProp {
    /// `-lr`.
    pub(crate) minus_lr: f32,
    /// The average of squares, by `alpha`.
    pub(crate) squares: Squares,
    /// `eps`, outside the root.
    pub(crate) eps: f32,
    /// `momentum`, if there is a buffer.
    pub(crate) momentum: Option<f32>,
    /// The average of gradients, by `1 - alpha`, if the squares are centred.
    pub(crate) average: Option<Lerp>,
    /// `weight_decay`, if there is one.
    pub(crate) weight_decay: Option<f32>,
}

impl RmsProp {
    pub(crate) fn run(self, sweep: Sweep<'_, '_>) -> u64 {
        match self.weight_decay {
            None => self.run_decayed::<false>(sweep),
            Some(_) => self.run_decayed::<true>(sweep),
        }
    }

    fn run_decayed<const DECAY: bool>(self, sweep: Sweep<'_, '_>) -> u64 {
        let scalars = Scalars {
            minus_lr: self.minus_lr,
            squares: self.squares,
            eps: self.eps,
            momentum: self.momentum.unwrap_or(0.0),
            average: self.average.unwrap_or(Lerp::new(0.0)),
            weight_decay: self.weight_decay,
        };
        match (self.momentum.is_some(), self.average.map(Lerp::is_heavy)) {
            (false, None) => sweep.run(Plain::<DECAY>(scalars)),
            (true, None) => sweep.run(WithMomentum::<DECAY>(scalars)),
            (false, Some(false)) => sweep.run(Centred::<DECAY, false>(scalars)),
            (false, Some(true)) => sweep.run(Centred::<DECAY, true>(scalars)),
            (true, Some(false)) => sweep.run(CentredWithMomentum::<DECAY, false>(scalars)),
            (true, Some(true)) => sweep.run(CentredWithMomentum::<DECAY, true>(scalars)),
        }
    }
}

#[derive(Clone, Copy)]
struct Scalars {
    minus_lr: f32,
    squares: Squares,
    eps: f32,
    momentum: f32,
    average: Lerp,
    weight_decay: Option<f32>,
}

impl Scalars {
    /// Moves the averages; returns the gradient after decay, the averages, and the divisor.
    #[inline(always)]
    fn centred<const DECAY: bool, const HEAVY: bool>(
        self,
        p: f32,
        g: f32,
        square: f32,
        average: f32,
    ) -> (f32, f32, f32, f32) {
        let g = coupled::<DECAY>(self.weight_decay, p, g);
        let square = self.squares.at(square, g);
        let average = self.average.at::<HEAVY>(average, g);
        let root = (square - average * average).sqrt() + self.eps;
        (g, square, average, root)
    }
}

#[derive(Clone, Copy)]
struct Plain<const DECAY: bool>(Scalars);

impl<const DECAY: bool> Rule<1> for Plain<DECAY> {
    #[inline(always)]
    fn element(self, p: f32, g: f32, [square]: [f32; 1]) -> (f32, [f32; 1]) {
        let s = self.0;
        let g = coupled::<DECAY>(s.weight_decay, p, g);
        let square = s.squares.at(square, g);
        let root = square.sqrt() + s.eps;
        (p + (s.minus_lr * g) / root, [square])
    }
}

#[derive(Clone, Copy)]
struct WithMomentum<const DECAY: bool>(Scalars);

impl<const DECAY: bool> Rule<2> for WithMomentum<DECAY> {
    #[inline(always)]
    fn element(self, p: f32, g: f32, [square, buffer]: [f32; 2]) -> (f32, [f32; 2]) {
        let s = self.0;
        let g = coupled::<DECAY>(s.weight_decay, p, g);
        let square = s.squares.at(square, g);
        let root = square.sqrt() + s.eps;
        let buffer = buffer * s.momentum + g / root;
        (p + s.minus_lr * buffer, [square, buffer])
    }
}

#[derive(Clone, Copy)]
struct Centred<const DECAY: bool, const HEAVY: bool>(Scalars);

impl<const DECAY: bool, const HEAVY: bool> Rule<2> for Centred<DECAY, HEAVY> {
    #[inline(always)]
    fn element(self, p: f32, g: f32, [square, average]: [f32; 2]) -> (f32, [f32; 2]) {
        let (g, square, average, root) = self.0.centred::<DECAY, HEAVY>(p, g, square, average);
        (p + (self.0.minus_lr * g) / root, [square, average])
    }
}

#[derive(Clone, Copy)]
struct CentredWithMomentum<const DECAY: bool, const HEAVY: bool>(Scalars);

impl<const DECAY: bool, const HEAVY: bool> Rule<3> for CentredWithMomentum<DECAY, HEAVY> {
    #[inline(always)]
    fn element(self, p: f32, g: f32, [square, buffer, average]: [f32; 3]) -> (f32, [f32; 3]) {
        let s = self.0;
        let (g, square, average, root) = s.centred::<DECAY, HEAVY>(p, g, square, average);
        let buffer = buffer * s.momentum + g / root;
        (p + s.minus_lr * buffer, [square, buffer, average])
    }
}
