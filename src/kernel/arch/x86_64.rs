//! Shells for the vector extensions of x86-64.
//!
//! The shells only raise the instruction set around loops written in safe code; the one loop with intrinsics is
//! in [`codes`](super::codes). FMA comes with AVX-512 but is never used: the compiler does not contract a multiplication and an addition by itself.

#![expect(
    unsafe_code,
    reason = "calls across a target_feature boundary; each is guarded by a proof of the features"
)]

use crate::kernel::narrow::{self, Conversion, compact};
use crate::kernel::reduce;
use crate::kernel::rule::Rule;
use crate::kernel::sweep;

/// Defines the proof that a CPU has some features, and the shells compiled with them.
macro_rules! shells {
    ($proof:ident, $shells:ident, $features:literal, [$($feature:tt),+], $encode:path) => {
        #[doc = concat!("Proof that this CPU has the features `", $features, "`.")]
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(in crate::kernel) struct $proof(());

        impl $proof {
            /// Asks the CPU (and the operating system, which must save the registers).
            pub(in crate::kernel) fn detect() -> Option<Self> {
                ($(std::arch::is_x86_feature_detected!($feature))&&+).then_some(Self(()))
            }
        }

        pub(in crate::kernel) mod $shells {
            use super::{$proof, Conversion, Rule, compact, narrow, reduce};

            pub(in crate::kernel) fn sweep<R: Rule<N>, const N: usize>(
                _proof: $proof,
                rule: R,
                param: &mut [f32],
                grad: &[f32],
                a: &mut [f32],
                b: &mut [f32],
                c: &mut [f32],
            ) -> u32 {
                #[target_feature(enable = $features)]
                fn shell<R: Rule<N>, const N: usize>(
                    rule: R,
                    param: &mut [f32],
                    grad: &[f32],
                    a: &mut [f32],
                    b: &mut [f32],
                    c: &mut [f32],
                ) -> u32 {
                    super::sweep::sweep(rule, param, grad, a, b, c)
                }
                // SAFETY: a value of the proof exists only if `detect` found every feature of the shell.
                unsafe { shell(rule, param, grad, a, b, c) }
            }

            pub(in crate::kernel) fn sweep_compact<R: Rule<N>, const N: usize>(
                _proof: $proof,
                rule: R,
                param: &mut [u16],
                source: compact::Source<'_>,
                a: &mut [f32],
                b: &mut [f32],
                c: &mut [f32],
            ) -> u32 {
                #[target_feature(enable = $features)]
                fn shell<R: Rule<N>, const N: usize>(
                    rule: R,
                    param: &mut [u16],
                    source: compact::Source<'_>,
                    a: &mut [f32],
                    b: &mut [f32],
                    c: &mut [f32],
                ) -> u32 {
                    compact::sweep(rule, param, source, a, b, c)
                }
                // SAFETY: a value of the proof exists only if `detect` found every feature of the shell.
                unsafe { shell(rule, param, source, a, b, c) }
            }

            pub(in crate::kernel) fn convert(_proof: $proof, conversion: Conversion<'_>) {
                #[target_feature(enable = $features)]
                fn shell(conversion: Conversion<'_>) {
                    // Of a closure, the features are those of the shell.
                    narrow::convert(conversion, &|of, values: &[f32], codes: &mut [u8], scales: &[f32]| {
                        $encode(of, values, codes, scales);
                    });
                }
                // SAFETY: a value of the proof exists only if `detect` found every feature of the shell.
                unsafe { shell(conversion) }
            }

            pub(in crate::kernel) fn sum_of_squares_leaf(_proof: $proof, leaf: &[f32]) -> f64 {
                #[target_feature(enable = $features)]
                fn shell(leaf: &[f32]) -> f64 {
                    reduce::sum_of_squares_body(leaf)
                }
                // SAFETY: a value of the proof exists only if `detect` found every feature of the shell.
                unsafe { shell(leaf) }
            }

            pub(in crate::kernel) fn count_non_finite(_proof: $proof, values: &[f32]) -> u64 {
                #[target_feature(enable = $features)]
                fn shell(values: &[f32]) -> u64 {
                    reduce::count_non_finite_body(values)
                }
                // SAFETY: a value of the proof exists only if `detect` found every feature of the shell.
                unsafe { shell(values) }
            }
        }
    };
}

shells!(Avx2, avx2, "avx2", ["avx2"], crate::kernel::narrow::q8::encode);
shells!(
    Avx512,
    avx512,
    "avx512f,avx512bw,avx512dq,avx512vl",
    ["avx512f", "avx512bw", "avx512dq", "avx512vl"],
    crate::kernel::arch::codes::encode
);
