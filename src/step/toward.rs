//! Regularisation toward a starting point: what keeps a fine-tuned tensor near the one that it came from.

use super::Step;
use crate::error::{Error, Result};
use crate::units::{to_u64, to_usize};

/// Elements that are regularised at a time: whole blocks of codes of 8 bits.
const PART_LEN: usize = 1 << 16;

impl Step<'_> {
    /// As [`apply`](Self::apply), with `strength * (parameter - start)` added to each element of the gradient: the gradient of
    /// `strength / 2` times the squared distance from a starting point, which holds a fine-tuned model near the pretrained one
    /// where its data says nothing (L2-SP: Li, Grandvalet, Davoine, "Explicit Inductive Bias for Transfer Learning with
    /// Convolutional Networks", 2018). `start` names a tensor with as many elements, such as a
    /// [frozen](crate::TensorSpec::frozen) copy of what was imported; with zeros in it, it is plain L2.
    ///
    /// In f32, each operation rounded once: the difference, its product with the strength, the sum. With a loss scale the
    /// strength is multiplied by it, so that it means the same. Where all gradients are clipped together, the sum is. It
    /// differs from `weight_decay` in where it pulls to, and from AdamW's in that it passes through the moments.
    ///
    /// # Errors
    /// As [`apply`](Self::apply); [`Error::Invalid`] for a strength that is negative or not finite, for tensors that differ in
    /// their number of elements, and for tensors of rows.
    pub fn apply_toward(&mut self, name: &str, gradient: &[f32], start: &str, strength: f64) -> Result<()> {
        let tensor = self.store.tensor_index(name)?;
        let (elements, from) = (self.store.elements(tensor), self.store.tensor_index(start)?);
        let invalid = |what: String, got: String, expected: String| Err(Error::invalid(what, got, expected));
        if !strength.is_finite() || strength < 0.0 {
            return invalid("strength toward a start".into(), strength.to_string(), "0 or more".into());
        }
        for (what, len) in [("gradient", to_u64(gradient.len())), ("start", self.store.elements(from))] {
            if len != elements {
                let what = format!("{what} of tensor {name:?}");
                return invalid(what, format!("{len} elements"), format!("{elements} elements"));
            }
        }
        self.store.check_dense(tensor, "dense update")?;
        self.store.check_dense(from, "start")?;
        #[expect(
            clippy::cast_possible_truncation,
            reason = "a scalar is computed in f64 and rounded once at use"
        )]
        let strength = (strength * self.options.loss_scale.unwrap_or(1.0)) as f32;
        let len = PART_LEN.min(gradient.len());
        let (mut params, mut starts) = (vec![0.0; len], vec![0.0; len]);
        for (number, part) in gradient.chunks(PART_LEN).enumerate() {
            let first = to_u64(number * PART_LEN);
            let params = params.get_mut(..part.len()).unwrap_or_default();
            let starts = starts.get_mut(..part.len()).unwrap_or_default();
            self.store.read_range_into(name, first, params)?;
            self.store.read_range_into(start, first, starts)?;
            for ((param, start), gradient) in params.iter_mut().zip(starts.iter()).zip(part) {
                *param = gradient + strength * (*param - start);
            }
            self.apply_range(name, first, params)?;
        }
        debug_assert_eq!(to_usize(elements), gradient.len());
        Ok(())
    }
}
