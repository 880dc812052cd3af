//! The shells: each kernel loop compiled for one instruction set. The only room of the kernels with `unsafe`.

#[cfg(target_arch = "x86_64")]
mod codes;
pub(super) mod portable;
#[cfg(target_arch = "x86_64")]
mod x86_64;

#[cfg(target_arch = "x86_64")]
pub(super) use x86_64::{Avx2, Avx512, avx2, avx512};
