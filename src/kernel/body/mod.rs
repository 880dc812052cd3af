//! Each update rule, written once for one element.
//!
//! A struct here holds the scalars of one step, rounded to f32, and the choices that hold for the whole sweep.
//! Its `run` turns the choices into const parameters, so that the loop has no branch on them. The order of operations
//! is that of PyTorch's kernels, each operation rounded once; where a formula could be written shorter, it was left
//! long on purpose.

mod adadelta;
mod adagrad;
mod adam;
mod adamax;
mod lion;
mod moments;
mod nadam;
mod radam;
mod rmsprop;
mod rowwise_adagrad;
mod sgd;
mod sparse_adam;

pub(crate) use adadelta::Adadelta;
pub(crate) use adagrad::{Adagrad, RowAdagrad};
pub(crate) use adam::Adam;
pub(crate) use adamax::Adamax;
pub(crate) use lion::Lion;
pub(crate) use moments::Moments;
pub(crate) use nadam::NAdam;
pub(crate) use radam::{RAdam, Rectified};
pub(crate) use rmsprop::RmsProp;
pub(crate) use rowwise_adagrad::RowwiseAdagrad;
pub(crate) use sgd::{Momentum, Sgd};
pub(crate) use sparse_adam::SparseAdam;

/// Weight decay of one step, for the rules that have both kinds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Decay {
    /// None: neither the parameter nor the gradient is touched, not even their zeros' signs.
    None,
    /// `g += factor * p`.
    Coupled(f32),
    /// `p *= factor`, the factor being `1 - lr * weight_decay`.
    Decoupled(f32),
}

impl Decay {
    #[inline(always)]
    fn factor(self) -> Option<f32> {
        match self {
            Self::None => None,
            Self::Coupled(factor) | Self::Decoupled(factor) => Some(factor),
        }
    }
}

/// [`Decay::None`] as a const parameter.
const NONE: u8 = 0;
/// [`Decay::Coupled`] as a const parameter.
const COUPLED: u8 = 1;
/// [`Decay::Decoupled`] as a const parameter.
const DECOUPLED: u8 = 2;

/// Adds coupled weight decay to a gradient, if `DECAY`.
#[inline(always)]
fn coupled<const DECAY: bool>(weight_decay: Option<f32>, p: f32, g: f32) -> f32 {
    if DECAY { g + weight_decay.unwrap_or(0.0) * p } else { g }
}

/// Shrinks a parameter by `1 - lr * weight_decay`, if `DECAY`.
#[inline(always)]
fn decoupled<const DECAY: bool>(shrink: Option<f32>, p: f32) -> f32 {
    if DECAY { p * shrink.unwrap_or(1.0) } else { p }
}

/// Applies weight decay of the kind `DECAY` to a parameter and its gradient.
#[inline(always)]
fn decayed<const DECAY: u8>(decay: Decay, p: f32, g: f32) -> (f32, f32) {
    match DECAY {
        COUPLED => (p, coupled::<true>(decay.factor(), p, g)),
        DECOUPLED => (decoupled::<true>(decay.factor(), p), g),
        _ => (p, g),
    }
}

/// Returns the larger value, or NaN if one of them is NaN (`f32::max` would drop it).
#[inline(always)]
fn maximum(a: f32, b: f32) -> f32 {
    if a > b || a.is_nan() { a } else { b }
}

/// The step from a moving average towards a new value, by a weight.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Lerp {
    weight: f32,
}

impl Lerp {
    pub(crate) const fn new(weight: f32) -> Self {
        Self { weight }
    }

    /// Whether the new value weighs at least as much as the average; PyTorch then starts from the new value.
    const fn is_heavy(self) -> bool {
        self.weight.abs() >= 0.5
    }

    #[inline(always)]
    fn at<const HEAVY: bool>(self, average: f32, new: f32) -> f32 {
        if HEAVY {
            new - (new - average) * (1.0 - self.weight)
        } else {
            average + self.weight * (new - average)
        }
    }
}

/// A moving average of squares: `v = keep * v + (add * g) * g`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Squares {
    /// The weight of the average, e.g. `beta2`.
    pub(crate) keep: f32,
    /// The weight of the new square, e.g. `1 - beta2`, rounded on its own.
    pub(crate) add: f32,
}

impl Squares {
    #[inline(always)]
    fn at(self, v: f32, g: f32) -> f32 {
        v * self.keep + (self.add * g) * g
    }
}
