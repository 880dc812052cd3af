//! Regularisation toward a starting point: what keeps a fine-tuned tensor near the one that it came from.

use super::Step;
use crate::error::{Error, Result};
use crate::units::to_u64;

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
    /// ```
    /// use paramstore::optim::Sgd;
    /// use paramstore::{Init, Optimizer, Options, ParamGroup, ParamStore, Schema, TensorSpec};
    ///
    /// # let dir = tempfile::tempdir().expect("a temporary directory");
    /// # let path = dir.path().join("model.store");
    /// let group = ParamGroup::new("all", Optimizer::Sgd(Sgd { lr: 0.5, ..Sgd::default() }));
    /// let start = TensorSpec::new("start.w", &[2]).init(Init::Constant(1.0)).frozen();
    /// let schema = Schema::new().group(group).tensor(TensorSpec::new("w", &[2])).tensor(start);
    /// let mut store = ParamStore::create(&path, &schema, &Options::new().memory_budget(4 << 20))?;
    /// let mut step = store.begin_step()?;
    /// step.apply_toward("w", &[0.0, 1.0], "start.w", 0.5)?; // the gradient becomes [-0.5, 0.5]
    /// step.finish()?;
    /// assert_eq!(store.view("w")?[..], [0.25, -0.25]);
    /// # Ok::<(), paramstore::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`apply`](Self::apply); [`Error::Invalid`] for a strength that is negative or not finite, for tensors that differ in
    /// their number of elements, and for tensors of rows.
    pub fn apply_toward(&mut self, name: &str, gradient: &[f32], start: &str, strength: f64) -> Result<()> {
        let elements = self.store.elements(self.store.tensor_index(name)?);
        if to_u64(gradient.len()) != elements {
            let (got, expected) = (format!("{} elements", gradient.len()), format!("{elements} elements"));
            return Err(Error::invalid(format!("gradient of tensor {name:?}"), got, expected));
        }
        self.apply_range_toward(name, 0, gradient, start, strength)
    }

    /// As [`apply_toward`](Self::apply_toward), for a part of a tensor that begins at element `first`; see
    /// [`apply_range`](Self::apply_range).
    ///
    /// ```
    /// use paramstore::optim::Sgd;
    /// use paramstore::{Init, Optimizer, Options, ParamGroup, ParamStore, Schema, TensorSpec};
    ///
    /// # let dir = tempfile::tempdir().expect("a temporary directory");
    /// # let path = dir.path().join("model.store");
    /// let group = ParamGroup::new("all", Optimizer::Sgd(Sgd { lr: 0.5, ..Sgd::default() }));
    /// let start = TensorSpec::new("start.w", &[2]).init(Init::Constant(1.0)).frozen();
    /// let schema = Schema::new().group(group).tensor(TensorSpec::new("w", &[2])).tensor(start);
    /// let mut store = ParamStore::create(&path, &schema, &Options::new().memory_budget(4 << 20))?;
    /// let mut step = store.begin_step()?;
    /// step.apply_range_toward("w", 1, &[1.0], "start.w", 0.5)?;
    /// step.apply_range_toward("w", 0, &[0.0], "start.w", 0.5)?;
    /// step.finish()?;
    /// assert_eq!(store.view("w")?[..], [0.25, -0.25]);
    /// # Ok::<(), paramstore::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`apply_toward`](Self::apply_toward) and [`apply_range`](Self::apply_range).
    pub fn apply_range_toward(
        &mut self,
        name: &str,
        first: u64,
        gradient: &[f32],
        start: &str,
        strength: f64,
    ) -> Result<()> {
        let (tensor, range) = self.store.checked_range(name, first, gradient.len())?;
        let (elements, from) = (self.store.elements(tensor), self.store.tensor_index(start)?);
        if !strength.is_finite() || strength < 0.0 {
            return Err(Error::invalid("strength toward a start", strength, "0 or more"));
        }
        if self.store.elements(from) != elements {
            let (got, expected) = (self.store.elements(from), format!("{elements} elements"));
            return Err(Error::invalid(
                format!("start of tensor {name:?}"),
                format!("{got} elements"),
                expected,
            ));
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
            let first = range.start + to_u64(number * PART_LEN);
            let params = params.get_mut(..part.len()).unwrap_or_default();
            let starts = starts.get_mut(..part.len()).unwrap_or_default();
            self.store.read_range_into(name, first, params)?;
            self.store.read_range_into(start, first, starts)?;
            for ((param, start), gradient) in params.iter_mut().zip(starts.iter()).zip(part) {
                *param = gradient + strength * (*param - start);
            }
            self.apply_range(name, first, params)?;
        }
        Ok(())
    }
}
