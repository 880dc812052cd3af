//! One unit of the decoder at a time on candle: forward, and the pull-back of a gradient through it.
//!
//! A unit maps the residual stream, tokens x width, to the residual stream. The backward pass computes the unit
//! again from its input, so nothing but that input has to be kept.

use candle_core::{Result, Tensor, Var, bail};

use crate::config::{Shape, Unit};
use crate::ops::{CausalSoftmax, GradSink, Linear, PullBack, RmsNorm, Slot, SquaredRelu};

/// What a unit's forward pass needs beside its input.
pub(crate) struct Weights<'a> {
    /// The unit's tensors, in the order of [`Shape::unit_tensors`].
    pub(crate) tensors: &'a [Tensor],
    /// Where their gradients go in a backward pass.
    pub(crate) sink: Option<&'a GradSink>,
}

impl Weights<'_> {
    fn slot(&self, index: usize) -> Option<Slot> {
        self.sink.map(|sink| Slot { sink: sink.clone(), index })
    }

    fn linear(&self, x: &Tensor, index: usize) -> Result<Tensor> {
        x.apply_op2(&self.tensors[index], Linear { slot: self.slot(index), transposed: false })
    }

    fn norm(&self, x: &Tensor, index: usize) -> Result<Tensor> {
        x.apply_op2(&self.tensors[index], RmsNorm { slot: self.slot(index) })
    }
}

/// Computes a unit's output from its input, which holds whole sequences of `seq` tokens.
pub(crate) fn forward(
    shape: &Shape,
    unit: Unit,
    weights: &Weights<'_>,
    x: &Tensor,
    seq: usize,
) -> Result<Tensor> {
    match unit {
        Unit::Attention(_) => x + attention(shape, weights, x, seq)?,
        Unit::Mlp(_) => {
            let hidden = weights.linear(&weights.norm(x, 0)?, 1)?.apply_op1(SquaredRelu)?;
            x + weights.linear(&hidden, 2)?
        }
        Unit::FinalNorm => weights.norm(x, 0),
    }
}

fn attention(shape: &Shape, weights: &Weights<'_>, x: &Tensor, seq: usize) -> Result<Tensor> {
    let (tokens, width) = x.dims2()?;
    let heads = shape.heads();
    let size = width / heads;
    let normed = weights.norm(x, 0)?;
    let split = |index: usize| -> Result<Tensor> {
        weights
            .linear(&normed, index)?
            .reshape((tokens / seq, seq, heads, size))?
            .transpose(1, 2)?
            .contiguous()
    };
    let (q, k, v) = (split(1)?, split(2)?, split(3)?);
    #[expect(clippy::cast_precision_loss, reason = "a head has 64 elements")]
    let scale = 1.0 / (size as f32).sqrt();
    let probabilities = q.matmul(&k.t()?)?.apply_op1(CausalSoftmax { scale })?;
    let mixed = probabilities.matmul(&v)?.transpose(1, 2)?.contiguous()?.reshape((tokens, width))?;
    weights.linear(&mixed, 4)
}

/// Computes the unit again from its input and pulls the gradient of its output back: returns the gradient of the
/// input, and leaves those of the parameters in the sink.
pub(crate) fn backward(
    shape: &Shape,
    unit: Unit,
    weights: &Weights<'_>,
    x: &Tensor,
    grad: &Tensor,
    seq: usize,
) -> Result<Tensor> {
    let x = Var::from_tensor(x)?;
    let y = forward(shape, unit, weights, x.as_tensor(), seq)?;
    pull_back(&x, &y, grad)
}

fn pull_back(x: &Var, y: &Tensor, grad: &Tensor) -> Result<Tensor> {
    let mut grads = y.apply_op2(grad, PullBack)?.backward()?;
    match grads.remove(x) {
        Some(grad) => grad.contiguous(),
        None => bail!("the input of the unit received no gradient"),
    }
}

/// Logits over a run of the vocabulary: `x * table^T` for `table` of shape rows x width.
pub(crate) fn logits(x: &Tensor, table: &Tensor, slot: Option<Slot>) -> Result<Tensor> {
    x.apply_op2(&table.t()?, Linear { slot, transposed: true })
}

/// Computes the logits of a run of the vocabulary again and pulls their gradient back to `x` and the sink.
pub(crate) fn logits_backward(
    x: &Tensor,
    table: &Tensor,
    sink: &GradSink,
    grad: impl FnOnce(&Tensor) -> Result<Tensor>,
) -> Result<Tensor> {
    let x = Var::from_tensor(x)?;
    let z = logits(x.as_tensor(), table, Some(Slot { sink: sink.clone(), index: 0 }))?;
    let grad = grad(&z)?;
    pull_back(&x, &z, &grad)
}
