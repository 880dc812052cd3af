//! One step of one tensor, ready to run over its blocks.

use crate::kernel::narrow::{self, Compact, Lane, Rounding};
use crate::kernel::{InstructionSet, MOST_PLANES, Planes, Sweep, body};

/// The scalars of a tensor's step, and the kernel they belong to. One value serves all blocks, on any thread.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Prepared {
    body: Body,
    negate: bool,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Body {
    Sgd(body::Sgd),
    Adagrad(body::Adagrad),
    Adadelta(body::Adadelta),
    RmsProp(body::RmsProp),
    Adam(body::Adam),
    Adamax(body::Adamax),
    NAdam(body::NAdam),
    RAdam(body::RAdam),
    Lion(body::Lion),
    SparseAdam(body::SparseAdam),
    RowAdagrad(body::RowAdagrad),
    RowwiseAdagrad(body::RowwiseAdagrad),
}

impl Prepared {
    pub(super) const fn new(body: Body, maximize: bool) -> Self {
        Self { body, negate: maximize }
    }

    /// Whether it takes a row at a time, whose state is one value.
    pub(crate) const fn is_rowwise(&self) -> bool {
        matches!(self.body, Body::RowwiseAdagrad(_))
    }

    /// Updates a run of elements, or one row if the rule is [row-wise](Self::is_rowwise). `maximize` is taken care of inside,
    /// by a kernel compiled with the negation (it costs nothing): the caller never negates the gradient. Returns how many
    /// gradients were NaN or infinite.
    ///
    /// # Panics
    ///
    /// If the lengths differ, or the planes are not as many as the rule has.
    pub(crate) fn run(
        &self,
        isa: InstructionSet,
        param: &mut [f32],
        grad: &[f32],
        state: &mut [&mut [f32]],
    ) -> u64 {
        self.run_planes(isa, Planes::F32(param, state), grad)
    }

    fn run_planes(&self, isa: InstructionSet, planes: Planes<'_, '_>, grad: &[f32]) -> u64 {
        let sweep = Sweep { isa, planes, grad, negate: self.negate };
        match self.body {
            Body::Sgd(body) => body.run(sweep),
            Body::Adagrad(body) => body.run(sweep),
            Body::Adadelta(body) => body.run(sweep),
            Body::RmsProp(body) => body.run(sweep),
            Body::Adam(body) => body.run(sweep),
            Body::Adamax(body) => body.run(sweep),
            Body::NAdam(body) => body.run(sweep),
            Body::RAdam(body) => body.run(sweep),
            Body::Lion(body) => body.run(sweep),
            Body::SparseAdam(body) => body.run(sweep),
            Body::RowAdagrad(body) => body.run(sweep),
            Body::RowwiseAdagrad(body) => body.run(sweep),
        }
    }

    /// As [`run`](Self::run), over planes in any form, the parameters first; these are rounded by `rounding`.
    pub(crate) fn run_lanes(
        &self,
        isa: InstructionSet,
        lanes: &mut [Lane<'_>],
        grad: &[f32],
        rounding: Rounding,
    ) -> u64 {
        // A rule for rows has one value of state for all elements.
        if !self.is_rowwise()
            && let Some(planes) = Compact::of(lanes, rounding)
        {
            return self.run_planes(isa, Planes::Compact(planes), grad);
        }
        if lanes.iter().any(|lane| !matches!(lane, Lane::F32(_))) {
            let rule =
                |param: &mut [f32], grad: &[f32], state: &mut [&mut [f32]]| self.run(isa, param, grad, state);
            return narrow::in_f32(isa, lanes, grad, rounding, rule);
        }
        let states = lanes.len().saturating_sub(1);
        let mut planes: [&mut [f32]; 1 + MOST_PLANES] = Default::default();
        for (plane, lane) in planes.iter_mut().zip(lanes) {
            *plane = lane.reborrow().into_f32();
        }
        let [param, state @ ..] = &mut planes;
        self.run(isa, param, grad, state.get_mut(..states).unwrap_or_default())
    }
}
