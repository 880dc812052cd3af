//! The instruction set a kernel runs with.

use super::arch;
use super::narrow::{Conversion, compact};
use super::reduce;
use super::rule::{MOST_PLANES, Rule};

/// An instruction set that the kernels are compiled for and that this CPU has: holding a value is the proof.
///
/// Every instruction set gives the same bits; they differ in speed alone.
///
/// # Example
///
/// ```
/// use paramstore::InstructionSet;
///
/// let best = InstructionSet::detect();
/// assert_eq!(InstructionSet::available().last(), Some(&best));
/// assert_eq!(InstructionSet::from_name(best.name()), Some(best));
/// assert_eq!(InstructionSet::portable().name(), InstructionSet::NAMES[0]); // every CPU has it
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InstructionSet(Kind);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Portable,
    #[cfg(target_arch = "x86_64")]
    Avx2(arch::Avx2),
    #[cfg(target_arch = "x86_64")]
    Avx512(arch::Avx512),
    #[cfg(target_arch = "aarch64")]
    Neon,
}

/// Runs a shell by its name with the instruction set at hand.
macro_rules! dispatch {
    ($isa:expr, $shell:ident($($argument:expr),*)) => {
        match $isa.0 {
            Kind::Portable => arch::portable::$shell($($argument),*),
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2(proof) => arch::avx2::$shell(proof, $($argument),*),
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512(proof) => arch::avx512::$shell(proof, $($argument),*),
            // NEON is part of every aarch64 target: the portable shells are compiled with it.
            #[cfg(target_arch = "aarch64")]
            Kind::Neon => arch::portable::$shell($($argument),*),
        }
    };
}

impl InstructionSet {
    /// Every name that [`from_name`](Self::from_name) may know, on whatever machine.
    pub const NAMES: [&'static str; 4] = ["portable", "avx2", "avx512", "neon"];

    /// Returns the fastest instruction set of this CPU. [Example](Self#example).
    #[must_use]
    pub fn detect() -> Self {
        Self::available().last().copied().unwrap_or_else(Self::portable)
    }

    /// Returns the instruction set that every CPU of the compilation target has. [Example](Self#example).
    #[must_use]
    pub const fn portable() -> Self {
        Self(Kind::Portable)
    }

    /// Lists the instruction sets of this CPU, the slowest (portable) first. [Example](Self#example).
    #[must_use]
    pub fn available() -> Vec<Self> {
        Self::NAMES.into_iter().filter_map(Self::from_name).collect()
    }

    /// Returns the instruction set of this name, or `None` if the name is not one of [`NAMES`](Self::NAMES) or this
    /// CPU lacks it. [Example](Self#example).
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "portable" => Some(Self::portable()),
            #[cfg(target_arch = "x86_64")]
            "avx2" => arch::Avx2::detect().map(|proof| Self(Kind::Avx2(proof))),
            #[cfg(target_arch = "x86_64")]
            "avx512" => arch::Avx512::detect().map(|proof| Self(Kind::Avx512(proof))),
            #[cfg(target_arch = "aarch64")]
            "neon" => Some(Self(Kind::Neon)),
            _ => None,
        }
    }

    /// Returns the name, one of [`NAMES`](Self::NAMES). [Example](Self#example).
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self.0 {
            Kind::Portable => "portable",
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2(_) => "avx2",
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512(_) => "avx512",
            #[cfg(target_arch = "aarch64")]
            Kind::Neon => "neon",
        }
    }

    /// Runs a rule over `param` and its first `N` planes; see [`sweep`](super::sweep::sweep).
    pub(super) fn sweep<R: Rule<N>, const N: usize>(
        self,
        rule: R,
        param: &mut [f32],
        grad: &[f32],
        planes: [&mut [f32]; MOST_PLANES],
    ) -> u32 {
        let [a, b, c] = planes;
        dispatch!(self, sweep(rule, param, grad, a, b, c))
    }

    /// Runs a rule over planes in few bits; see [`compact::sweep`].
    pub(super) fn sweep_compact<R: Rule<N>, const N: usize>(
        self,
        rule: R,
        param: &mut [u16],
        source: compact::Source<'_>,
        planes: [&mut [f32]; MOST_PLANES],
    ) -> u32 {
        let [a, b, c] = planes;
        dispatch!(self, sweep_compact(rule, param, source, a, b, c))
    }

    /// Converts a run of elements; see [`super::narrow::convert`].
    pub(super) fn convert(self, conversion: Conversion<'_>) {
        dispatch!(self, convert(conversion));
    }

    /// Sums the squares of a leaf; see [`reduce::sum_of_squares_leaf`].
    pub(super) fn sum_of_squares_leaf(self, leaf: &[f32]) -> f64 {
        debug_assert!(leaf.len() <= reduce::LEAF_LEN, "a leaf has {} elements", leaf.len());
        dispatch!(self, sum_of_squares_leaf(leaf))
    }

    /// Counts NaN and infinities; see [`reduce::count_non_finite`].
    pub(super) fn count_non_finite(self, values: &[f32]) -> u64 {
        dispatch!(self, count_non_finite(values))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_available_set_is_found_by_its_name_and_detect_takes_one_of_them() {
        let available = InstructionSet::available();
        assert_eq!(available[0], InstructionSet::portable());
        for isa in &available {
            assert_eq!(InstructionSet::from_name(isa.name()), Some(*isa));
        }
        assert_eq!(Some(&InstructionSet::detect()), available.last());
    }

    #[test]
    fn a_set_of_another_machine_or_no_name_is_none() {
        let foreign = if cfg!(target_arch = "aarch64") { "avx2" } else { "neon" };
        assert_eq!(InstructionSet::from_name(foreign), None);
        assert_eq!(InstructionSet::from_name("AVX2 "), None);
    }
}
