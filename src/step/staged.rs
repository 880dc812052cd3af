//! Gradients that wait in the `grad` plane until all are known: accumulation, clipping, refusing.

use std::ops::Range;
use std::time::Instant;

use super::Step;
use crate::error::{Error, Result};
use crate::format::elements::{as_f32, as_f32_mut};
use crate::kernel::reduce::{Preparation, TreeSum, accumulate};
use crate::layout::{Piece, pieces};
use crate::options::NonFinitePolicy;
use crate::pager::{Access, Key, Waiter, elapsed_ns, read_ahead};
use crate::update::{Engine, Gradient, measure, on_threads, slice_of};

use rayon::prelude::*;

/// Elements that one thread adds at a time.
const ADD_LEN: usize = 1 << 15;

impl Step<'_> {
    /// Puts a gradient aside that may come only once.
    pub(super) fn stage_once(&mut self, tensor: usize, range: Range<u64>, gradient: &[f32]) -> Result<()> {
        if self.staged.get(&tensor).is_some_and(|seen| seen.overlaps(&range)) {
            return Err(self.twice(tensor));
        }
        self.stage(tensor, range, gradient, 1.0)
    }

    /// Adds a gradient to the `grad` plane; the first one of an element is put in place of what stood there.
    pub(super) fn stage(
        &mut self,
        tensor: usize,
        range: Range<u64>,
        gradient: &[f32],
        scale: f64,
    ) -> Result<()> {
        #[expect(
            clippy::cast_possible_truncation,
            reason = "a scalar is computed in f64 and rounded once at use"
        )]
        let scale = scale as f32;
        self.check_whole()?;
        self.store.check_dense(tensor, "collected gradient")?;
        self.store.check_trained(tensor, "gradient")?;
        self.failed = true;
        let seen = self.staged.entry(tensor).or_default().clone();
        let directory = self.store.directory();
        let plane = self.store.scratch_plane(tensor);
        for (part, seen) in seen.split(range.clone()) {
            let access =
                Access { tensor, range: part.clone(), planes: plane..plane + 1, blank: !seen, copy: None };
            self.store.pager().enter(&access);
            for piece in pieces(&directory, tensor, part) {
                let values = slice_of(gradient, &piece.of_tensor, range.start);
                self.stage_piece(&piece, plane, values, scale, !seen)?;
            }
        }
        self.staged.entry(tensor).or_default().insert(range);
        self.failed = false;
        Ok(())
    }

    fn stage_piece(
        &mut self,
        piece: &Piece,
        plane: usize,
        gradient: &[f32],
        scale: f32,
        first: bool,
    ) -> Result<()> {
        let key = Key { block: piece.block, plane };
        let Engine { pager, isa, .. } = self.store.engine();
        let whole = first && piece.within == (0..pager.block_elements(piece));
        let mut lease = if whole { pager.lease_blank(key)? } else { pager.lease(&[key], Waiter::Caller)? };
        let start = Instant::now();
        let bytes = 4 * piece.within.start..4 * piece.within.end;
        let buffer = lease.buffers().first_mut().and_then(|buffer| buffer.get_mut(bytes));
        let sum = as_f32_mut(buffer.unwrap_or_default());
        on_threads(self.store.engine().threads(), || {
            let parts = sum.par_chunks_mut(ADD_LEN).zip(gradient.par_chunks(ADD_LEN));
            parts.for_each(|(sum, gradient)| accumulate(*isa, sum, gradient, scale, first));
        });
        pager.lock().stats_mut().compute_ns += elapsed_ns(start);
        lease.release(|_| true)
    }

    /// Applies everything that was put aside. Returns the global norm where it was needed.
    pub(super) fn apply_staged(&mut self) -> Result<Option<f64>> {
        if self.staged.is_empty() {
            return Ok(None);
        }
        for (&tensor, seen) in &self.staged {
            if !seen.is_whole(self.store.elements(tensor)) {
                let what = format!("gradient of tensor {:?}", self.store.tensor_name(tensor));
                let got = format!("a gap at element {}", seen.first_gap());
                return Err(Error::invalid(what, got, "a gradient for every element"));
            }
        }
        let mut norm = None;
        let mut coefficient = None;
        if self.options.needs_all_gradients() {
            let total = self.measure_staged()?;
            norm = Some(total);
            coefficient = self.options.max_norm.map(|max_norm| clip_coefficient(total, max_norm));
        }
        let staged = std::mem::take(&mut self.staged);
        for tensor in staged.into_keys() {
            let range = 0..self.store.elements(tensor);
            self.update(tensor, range, Gradient::Staged, coefficient)?;
        }
        Ok(norm)
    }

    /// The global norm of all staged gradients, summed in an order that depends on nothing but the tensors; refuses
    /// non-finite ones if asked to.
    fn measure_staged(&mut self) -> Result<f64> {
        let prepare = Preparation { divisor: self.divisor(), ..Preparation::default() };
        let mut total = 0.0;
        let mut non_finite = 0;
        let mut first_bad = None;
        let directory = self.store.directory();
        for &tensor in self.staged.keys() {
            let elements = self.store.elements(tensor);
            let mut tree = TreeSum::new();
            let before = non_finite;
            let plane = self.store.scratch_plane(tensor);
            let engine = self.store.engine();
            let access =
                Access { tensor, range: 0..elements, planes: plane..plane + 1, blank: false, copy: None };
            engine.pager.enter(&access);
            let mut ahead = read_ahead(&directory, tensor, 0..elements, plane..plane + 1);
            for piece in pieces(&directory, tensor, 0..elements) {
                ahead.advance(&mut engine.pager.lock(), &piece)?;
                let mut lease = engine.pager.lease(&[Key { block: piece.block, plane }], Waiter::Caller)?;
                let start = Instant::now();
                let bytes = 4 * piece.within.start..4 * piece.within.end;
                let buffer = lease.buffers().first().and_then(|buffer| buffer.get(bytes));
                let values = as_f32(buffer.unwrap_or_default());
                let measured = measure(engine.isa, engine.threads(), values, prepare);
                measured.leaves.iter().for_each(|&leaf| tree.push_leaf(leaf));
                non_finite += measured.non_finite;
                engine.pager.lock().stats_mut().compute_ns += elapsed_ns(start);
                lease.release(|_| false)?;
            }
            total += tree.finish();
            if non_finite > before {
                first_bad.get_or_insert(tensor);
            }
        }
        if let (NonFinitePolicy::Refuse, Some(tensor)) = (self.options.non_finite, first_bad) {
            let tensor = self.store.tensor_name(tensor).to_owned();
            return Err(Error::NonFinite { count: non_finite, tensor });
        }
        Ok(f64::sqrt(total))
    }
}

/// The factor of `torch.nn.utils.clip_grad_norm_`: `min(1, max_norm / (norm + 1e-6))`, where NaN stays NaN.
#[expect(clippy::cast_possible_truncation, reason = "a scalar is computed in f64 and rounded once at use")]
fn clip_coefficient(norm: f64, max_norm: f64) -> f32 {
    let factor = max_norm / (norm + 1e-6);
    if factor > 1.0 { 1.0 } else { factor as f32 }
}
