//! The elements of candle's tensors on the CPU.

use candle_core::{CpuStorage, Layout, Result, Storage, Tensor, bail};

/// Runs `f` on the elements of a tensor of f32, in order; those of one that is not contiguous are copied.
///
/// # Errors
/// For a tensor of another type, or that is not on the CPU.
pub fn with_slice<R>(tensor: &Tensor, f: impl FnOnce(&[f32]) -> R) -> Result<R> {
    let tensor = tensor.contiguous()?;
    let (storage, layout) = tensor.storage_and_layout();
    match &*storage {
        Storage::Cpu(cpu) => Ok(f(slice_of(cpu, layout)?)),
        _ => bail!("expected a tensor on the CPU"),
    }
}

/// The elements of a contiguous storage of f32.
///
/// # Errors
/// For another type, or another layout.
pub fn slice_of<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&storage.as_slice::<f32>()?[start..end]),
        None => bail!("expected a contiguous tensor, got strides {:?}", layout.stride()),
    }
}

/// A tensor of the shape of another.
///
/// # Errors
/// If that has another number of elements.
pub fn tensor_like(values: Vec<f32>, like: &Tensor) -> Result<Tensor> {
    Tensor::from_vec(values, like.shape(), like.device())
}
