//! The differentiable operations that candle does not have in a fused form: each knows its own gradient, in the layout in
//! which its parameters are stored. All sums go in a fixed order, whatever the number of threads.

use candle_core::backend::BackendStorage as _;
use candle_core::cpu::erf::erf_f32;
use candle_core::{CpuStorage, CustomOp1, CustomOp3, Layout, Result, Shape, Tensor};
use training::tensors::{slice_of, tensor_like, with_slice};

/// `x W^T + b` for x of rows x inputs and W of outputs x inputs.
pub(crate) struct Affine;

impl CustomOp3 for Affine {
    fn name(&self) -> &'static str {
        "affine"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        w: &CpuStorage,
        w_layout: &Layout,
        b: &CpuStorage,
        b_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (rows, inputs) = x_layout.shape().dims2()?;
        let (outputs, _) = w_layout.shape().dims2()?;
        let w_layout = w_layout.transpose(0, 1)?;
        let mut y = x.matmul(w, (1, rows, outputs, inputs), x_layout, &w_layout)?;
        let b = slice_of(b, b_layout)?;
        if let CpuStorage::F32(y) = &mut y {
            y.chunks_exact_mut(outputs).for_each(|row| row.iter_mut().zip(b).for_each(|(y, b)| *y += b));
        }
        Ok((y, (rows, outputs).into()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        w: &Tensor,
        b: &Tensor,
        _y: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let grad = grad.contiguous()?;
        let mut sums = vec![0f32; b.elem_count()];
        with_slice(&grad, |grad| {
            for row in grad.chunks_exact(sums.len()) {
                sums.iter_mut().zip(row).for_each(|(sum, g)| *sum += g);
            }
        })?;
        Ok((Some(grad.matmul(w)?), Some(grad.t()?.matmul(x)?), Some(tensor_like(sums, b)?)))
    }
}

/// Layer normalisation of each row, with gain and bias (Ba et al., 2016).
pub(crate) struct Norm {
    /// Added to the variance before its root.
    pub(crate) eps: f64,
}

impl Norm {
    /// Mean, and one over the deviation.
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        reason = "a row is short, and f32 is wanted"
    )]
    fn of(&self, row: &[f32]) -> (f32, f32) {
        let n = row.len() as f64;
        let mean = row.iter().map(|x| f64::from(*x)).sum::<f64>() / n;
        let variance = row.iter().map(|x| (f64::from(*x) - mean).powi(2)).sum::<f64>() / n;
        (mean as f32, (1.0 / (variance + self.eps).sqrt()) as f32)
    }

    /// With n = (x - mean) / deviation and u = gain * dy: dx = (u - mean(u) - n mean(u n)) / deviation, dgain = sum over rows of
    /// n dy, dbias = that of dy.
    #[expect(clippy::cast_precision_loss, reason = "a row is short")]
    fn gradient(&self, x: &[f32], gain: &[f32], dy: &[f32]) -> [Vec<f32>; 3] {
        let len = gain.len();
        let (mut dx, mut dgain, mut dbias) = (Vec::with_capacity(x.len()), vec![0f32; len], vec![0f32; len]);
        let (mut n, mut u) = (vec![0f32; len], vec![0f32; len]);
        for (x, dy) in x.chunks_exact(len).zip(dy.chunks_exact(len)) {
            let (mean, scale) = self.of(x);
            n.iter_mut().zip(x).for_each(|(n, x)| *n = (x - mean) * scale);
            u.iter_mut().zip(gain).zip(dy).for_each(|((u, g), dy)| *u = g * dy);
            dgain.iter_mut().zip(&n).zip(dy).for_each(|((sum, n), dy)| *sum += n * dy);
            dbias.iter_mut().zip(dy).for_each(|(sum, dy)| *sum += dy);
            let mean_u = u.iter().sum::<f32>() / len as f32;
            let mean_un = u.iter().zip(&n).map(|(u, n)| u * n).sum::<f32>() / len as f32;
            dx.extend(u.iter().zip(&n).map(|(u, n)| (u - mean_u - n * mean_un) * scale));
        }
        [dx, dgain, dbias]
    }
}

impl CustomOp3 for Norm {
    fn name(&self) -> &'static str {
        "layer-norm"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        gain: &CpuStorage,
        gain_layout: &Layout,
        bias: &CpuStorage,
        bias_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let x = slice_of(x, x_layout)?;
        let (gain, bias) = (slice_of(gain, gain_layout)?, slice_of(bias, bias_layout)?);
        let mut out = Vec::with_capacity(x.len());
        for row in x.chunks_exact(gain.len()) {
            let (mean, scale) = self.of(row);
            out.extend(row.iter().zip(gain).zip(bias).map(|((x, g), b)| (x - mean) * scale * g + b));
        }
        Ok((CpuStorage::F32(out), x_layout.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        gain: &Tensor,
        bias: &Tensor,
        _y: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let [dx, dgain, dbias] =
            with_slice(x, |x| with_slice(gain, |gain| with_slice(grad, |dy| self.gradient(x, gain, dy))))???;
        Ok((Some(tensor_like(dx, x)?), Some(tensor_like(dgain, gain)?), Some(tensor_like(dbias, bias)?)))
    }
}

/// `x` times the normal distribution's share below it (Hendrycks and Gimpel, 2016).
pub(crate) struct Gelu;

/// The share of the normal distribution below x.
fn below(x: f32) -> f32 {
    0.5 + 0.5 * erf_f32(x * std::f32::consts::FRAC_1_SQRT_2)
}

impl CustomOp1 for Gelu {
    fn name(&self) -> &'static str {
        "gelu"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let out = slice_of(x, layout)?.iter().map(|x| x * below(*x)).collect();
        Ok((CpuStorage::F32(out), layout.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, _y: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        // One over the root of 2 pi.
        const PEAK: f32 = 0.398_942_3;
        let slope = |x: f32| below(x) + x * PEAK * (-0.5 * x * x).exp();
        let dx = with_slice(x, |x| {
            with_slice(grad, |dy| x.iter().zip(dy).map(|(x, dy)| slope(*x) * dy).collect())
        })??;
        Ok(Some(tensor_like(dx, x)?))
    }
}

/// Exchanges the second and the third of four dimensions. Unlike a transposed view, its gradient is contiguous too, as
/// the matrix products of the backward pass need it.
pub(crate) struct Swap;

impl CustomOp1 for Swap {
    fn name(&self) -> &'static str {
        "swap"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (a, b, c, d) = layout.shape().dims4()?;
        let x = slice_of(x, layout)?;
        let mut out = Vec::with_capacity(x.len());
        for block in x.chunks_exact(b * c * d) {
            for j in 0..c {
                for i in 0..b {
                    out.extend_from_slice(&block[(i * c + j) * d..][..d]);
                }
            }
        }
        Ok((CpuStorage::F32(out), (a, c, b, d).into()))
    }

    fn bwd(&self, _x: &Tensor, _y: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        Ok(Some(grad.contiguous()?.apply_op1(Self)?))
    }
}
