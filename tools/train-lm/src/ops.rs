//! The few differentiable operations that candle does not have in a fused form: each knows its own gradient.
//!
//! Weight gradients do not travel through candle's gradient store, which would allocate and add a zero tensor
//! for each of them: [`Linear`] and [`RmsNorm`] deposit them in a [`GradSink`] as soon as they exist.
//! All loops run over rows in a fixed order, so that no result depends on a number of threads.

use std::sync::{Arc, Mutex, PoisonError};

use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp1, CustomOp2, Layout, Result, Shape, Tensor, bail};
use training::tensors::{slice_of, tensor_like, with_slice};

/// Where the gradients of a unit's parameters are collected, one slot per parameter.
///
/// At most two shards add to a slot: the sum of two numbers does not depend on which came first,
/// so the bits do not depend on the order in which the shards finish.
#[derive(Debug, Clone)]
pub(crate) struct GradSink(Arc<Vec<Mutex<Option<Tensor>>>>);

impl GradSink {
    /// Makes a sink with `slots` empty slots.
    pub(crate) fn new(slots: usize) -> Self {
        Self(Arc::new((0..slots).map(|_| Mutex::new(None)).collect()))
    }

    /// Adds a gradient to a slot.
    pub(crate) fn add(&self, slot: usize, grad: &Tensor) -> Result<()> {
        let mut held = self.0[slot].lock().unwrap_or_else(PoisonError::into_inner);
        *held = Some(match held.take() {
            Some(sum) => (sum + grad)?,
            None => grad.clone(),
        });
        drop(held);
        Ok(())
    }

    /// Takes the gradient of a slot.
    pub(crate) fn take(&self, slot: usize) -> Result<Tensor> {
        match self.0[slot].lock().unwrap_or_else(PoisonError::into_inner).take() {
            Some(grad) => Ok(grad),
            None => bail!("parameter {slot} of the unit received no gradient"),
        }
    }
}

/// One slot of a sink.
#[derive(Debug, Clone)]
pub(crate) struct Slot {
    /// The sink.
    pub(crate) sink: GradSink,
    /// Which slot of it.
    pub(crate) index: usize,
}

impl Slot {
    fn add(&self, grad: &Tensor) -> Result<()> {
        self.sink.add(self.index, grad)
    }
}

/// `x w` for x of shape rows x inputs and w of shape inputs x outputs (strided views are welcome).
#[derive(Debug)]
pub(crate) struct Linear {
    /// Where the gradient of w goes, in w's own layout.
    pub(crate) slot: Option<Slot>,
    /// The gradient of w is wanted transposed, because w is a transposed view of the stored tensor.
    pub(crate) transposed: bool,
}

impl CustomOp2 for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        w: &CpuStorage,
        w_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (rows, inputs) = x_layout.shape().dims2()?;
        let (_, outputs) = w_layout.shape().dims2()?;
        let y = x.matmul(w, (1, rows, outputs, inputs), x_layout, w_layout)?;
        Ok((y, (rows, outputs).into()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        w: &Tensor,
        _y: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        if let Some(slot) = &self.slot {
            let grad_w = if self.transposed { grad.t()?.matmul(x)? } else { x.t()?.matmul(grad)? };
            slot.add(&grad_w)?;
        }
        Ok((Some(grad.matmul(&w.t()?)?), None))
    }
}

/// Added to the mean square before its root, as in PyTorch's `RMSNorm` with `eps=1e-6`.
const RMS_EPS: f32 = 1e-6;

/// Root-mean-square normalisation of each row, times a gain (Zhang and Sennrich, 2019).
#[derive(Debug)]
pub(crate) struct RmsNorm {
    /// Where the gradient of the gain goes.
    pub(crate) slot: Option<Slot>,
}

#[expect(clippy::cast_precision_loss, reason = "a row has far fewer than 2^24 elements")]
fn inverse_rms(row: &[f32]) -> f32 {
    1.0 / (dot(row, row) / row.len() as f32 + RMS_EPS).sqrt()
}

/// The sum of products, over eight interleaved partial sums so that it vectorises.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0f32; 8];
    let (a_chunks, b_chunks) = (a.chunks_exact(8), b.chunks_exact(8));
    let mut tail = 0f32;
    for (x, y) in a_chunks.remainder().iter().zip(b_chunks.remainder()) {
        tail += x * y;
    }
    for (x, y) in a_chunks.zip(b_chunks) {
        for ((sum, x), y) in sums.iter_mut().zip(x).zip(y) {
            *sum += x * y;
        }
    }
    sums.iter().sum::<f32>() + tail
}

impl CustomOp2 for RmsNorm {
    fn name(&self) -> &'static str {
        "rms-norm"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        gain: &CpuStorage,
        gain_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (x, gain) = (slice_of(x, x_layout)?, slice_of(gain, gain_layout)?);
        let mut out = Vec::with_capacity(x.len());
        for row in x.chunks_exact(gain.len()) {
            let scale = inverse_rms(row);
            out.extend(row.iter().zip(gain).map(|(x, g)| x * scale * g));
        }
        Ok((CpuStorage::F32(out), x_layout.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        gain: &Tensor,
        _y: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let grad = grad.contiguous()?;
        let (dx, dgain) = with_slice(x, |xs| {
            with_slice(gain, |gain| with_slice(&grad, |dy| rms_norm_gradient(xs, gain, dy)))
        })???;
        if let Some(slot) = &self.slot {
            slot.add(&tensor_like(dgain, gain)?)?;
        }
        Ok((Some(tensor_like(dx, x)?), None))
    }
}

/// With r = 1/rms and u = g * dy: dx = r*u - x*r^3*(u*x)/n, dg = sum over rows r*x * dy.
#[expect(clippy::cast_precision_loss, reason = "a row has far fewer than 2^24 elements")]
fn rms_norm_gradient(x: &[f32], gain: &[f32], dy: &[f32]) -> (Vec<f32>, Vec<f32>) {
    let n = gain.len();
    let mut dx = Vec::with_capacity(x.len());
    let mut dgain = vec![0f32; n];
    let mut u = vec![0f32; n];
    for (x, dy) in x.chunks_exact(n).zip(dy.chunks_exact(n)) {
        let scale = inverse_rms(x);
        for ((u, g), dy) in u.iter_mut().zip(gain).zip(dy) {
            *u = g * dy;
        }
        let pull = scale * scale * scale * dot(&u, x) / n as f32;
        dx.extend(x.iter().zip(&u).map(|(x, u)| u * scale - x * pull));
        for ((dg, x), dy) in dgain.iter_mut().zip(x).zip(dy) {
            *dg += scale * x * dy;
        }
    }
    (dx, dgain)
}

/// The square of the positive part (Primer; So et al., 2021).
#[derive(Debug)]
pub(crate) struct SquaredRelu;

impl CustomOp1 for SquaredRelu {
    fn name(&self) -> &'static str {
        "squared-relu"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let out = slice_of(x, layout)?.iter().map(|x| x.max(0.0) * x.max(0.0)).collect();
        Ok((CpuStorage::F32(out), layout.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, _y: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let grad = grad.contiguous()?;
        let dx = with_slice(x, |xs| {
            with_slice(&grad, |dy| xs.iter().zip(dy).map(|(x, dy)| 2.0 * x.max(0.0) * dy).collect())
        })??;
        Ok(Some(tensor_like(dx, x)?))
    }
}

/// Softmax over the past of scaled attention scores with linear position biases (ALiBi; Press et al., 2022).
///
/// Scores have shape batch x heads x queries x keys with as many keys as queries; head h of H biases the key
/// that lies t positions back by -t*2^(-8(h+1)/H).
#[derive(Debug)]
pub(crate) struct CausalSoftmax {
    /// What the scores are multiplied by, usually 1/sqrt(head size).
    pub(crate) scale: f32,
}

/// The bias slope of a head.
#[expect(clippy::cast_precision_loss, reason = "heads are few")]
pub(crate) fn alibi_slope(head: usize, heads: usize) -> f32 {
    (-8.0 * (head + 1) as f32 / heads as f32).exp2()
}

impl CustomOp1 for CausalSoftmax {
    fn name(&self) -> &'static str {
        "causal-softmax"
    }

    fn cpu_fwd(&self, scores: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (_, heads, len, _) = layout.shape().dims4()?;
        let mut out = vec![0f32; layout.shape().elem_count()];
        let rows = slice_of(scores, layout)?.chunks_exact(len).zip(out.chunks_exact_mut(len));
        for (index, (scores, out)) in rows.enumerate() {
            let (query, head) = (index % len, index / len % heads);
            let slope = alibi_slope(head, heads);
            let (scores, out) = (&scores[..=query], &mut out[..=query]);
            #[expect(clippy::cast_precision_loss, reason = "a sequence has far fewer than 2^24 positions")]
            for (key, (out, score)) in out.iter_mut().zip(scores).enumerate() {
                *out = score * self.scale - slope * (query - key) as f32;
            }
            softmax_in_place(out);
        }
        Ok((CpuStorage::F32(out), layout.shape().clone()))
    }

    fn bwd(&self, scores: &Tensor, probabilities: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let grad = grad.contiguous()?;
        let len = scores.dim(3)?;
        let mut out = vec![0f32; scores.elem_count()];
        with_slice(probabilities, |p| {
            with_slice(&grad, |dp| {
                let rows = p.chunks_exact(len).zip(dp.chunks_exact(len)).zip(out.chunks_exact_mut(len));
                for (index, ((p, dp), out)) in rows.enumerate() {
                    let past = ..=index % len;
                    let mean = dot(&p[past], &dp[past]);
                    for ((out, p), dp) in out[past].iter_mut().zip(&p[past]).zip(&dp[past]) {
                        *out = self.scale * p * (dp - mean);
                    }
                }
            })
        })??;
        Ok(Some(tensor_like(out, scores)?))
    }
}

/// Turns a row of finite scores into probabilities.
pub(crate) fn softmax_in_place(row: &mut [f32]) {
    let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let total = exp_minus(row, max);
    let scale = 1.0 / total;
    for x in row {
        *x *= scale;
    }
}

/// Replaces each x of the row by e^(x - shift) and returns their sum.
pub(crate) fn exp_minus(row: &mut [f32], shift: f32) -> f32 {
    let mut sums = [0f32; 8];
    let mut chunks = row.chunks_exact_mut(8);
    for chunk in &mut chunks {
        for (x, sum) in chunk.iter_mut().zip(&mut sums) {
            *x = exp(*x - shift);
            *sum += *x;
        }
    }
    let mut tail = 0f32;
    for x in chunks.into_remainder() {
        *x = exp(*x - shift);
        tail += *x;
    }
    sums.iter().sum::<f32>() + tail
}

/// e^x to about 2 units in the last place, in operations that vectorise and round alike everywhere.
///
/// x = n*ln 2 + r with |r| <= ln 2 / 2 (Cody and Waite), then a Taylor polynomial of degree 7 in r and the
/// exponent n put in by its bits. Below -87 the result is 0, above 88 it is that of 88.
#[expect(clippy::excessive_precision, reason = "the split of ln 2 into a short and a small part")]
fn exp(x: f32) -> f32 {
    const LN2_HIGH: f32 = 0.693_359_375;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    const ROUND: f32 = 12_582_912.0; // 1.5 * 2^23: adding and subtracting it rounds to the nearest integer
    let clamped = x.clamp(-87.0, 88.0);
    let n = (clamped * std::f32::consts::LOG2_E + ROUND) - ROUND;
    let r = clamped - n * LN2_HIGH - n * LN2_LOW;
    let mut p = 1.0 / 5040.0;
    for c in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        p = p * r + c;
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "n + 127 lies within 1..=254"
    )]
    let power = f32::from_bits(((n + 127.0) as u32) << 23);
    if x < -87.0 { 0.0 } else { p * power }
}

/// The sum of y * grad, a scalar whose backward pass starts with `grad` at y: the vector-Jacobian product.
#[derive(Debug)]
pub(crate) struct PullBack;

impl CustomOp2 for PullBack {
    fn name(&self) -> &'static str {
        "pull-back"
    }

    fn cpu_fwd(
        &self,
        y: &CpuStorage,
        y_layout: &Layout,
        grad: &CpuStorage,
        grad_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let sum = dot(slice_of(y, y_layout)?, slice_of(grad, grad_layout)?);
        Ok((CpuStorage::F32(vec![sum]), Shape::from(())))
    }

    /// The gradient that arrives is that of the scalar itself, which is 1.
    fn bwd(
        &self,
        _y: &Tensor,
        grad_y: &Tensor,
        _sum: &Tensor,
        _one: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        Ok((Some(grad_y.clone()), None))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_close_to_the_exact_value_over_its_range() {
        for i in -8_700..8_800 {
            #[expect(clippy::cast_precision_loss, reason = "small integers")]
            let x = i as f32 / 100.0 + 0.003;
            let exact = f64::from(x).exp();
            assert!((f64::from(exp(x)) / exact - 1.0).abs() < 4e-7, "exp({x}) = {} but {exact}", exp(x));
        }
        assert_eq!(exp(-88.0).to_bits(), 0);
        assert_eq!(exp(0.0).to_bits(), 1f32.to_bits());
    }

    #[test]
    fn softmax_of_a_row_sums_to_one_and_keeps_ratios() {
        let mut row = [1.0, 2.0, 3.0, -50.0, 2.0, 2.0, 2.0, 2.0, 2.0, 0.5];
        softmax_in_place(&mut row);
        assert!((row.iter().sum::<f32>() - 1.0).abs() < 1e-6);
        assert!((row[1] / row[0] - std::f32::consts::E).abs() < 1e-5);
    }

    #[test]
    fn a_slot_without_gradient_is_an_error() {
        assert!(GradSink::new(1).take(0).is_err());
    }
}
