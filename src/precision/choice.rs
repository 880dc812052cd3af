//! What a user chooses: in which form parameters and moments are kept, and which tensors stay in f32 all the same.

use crate::format::directory::Dtype;

/// The form in which moments are kept. [Example](Precision#example).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Moments {
    /// 4 bytes each.
    #[default]
    F32,
    /// 2 bytes each, rounded to the nearest after each step.
    Bf16,
    /// 2 bytes each, rounded to the nearest after each step: more digits than bf16, and nothing below 6e-8.
    F16,
    /// A byte each, and 4 for each 256: the nearest code of a book, relative to the largest of the 256.
    Q8,
}

impl Moments {
    /// The names of all forms.
    pub const NAMES: [&'static str; 4] = ["f32", "bf16", "f16", "q8"];

    /// The form of this name, one of [`NAMES`](Self::NAMES).
    ///
    /// ```
    /// use paramstore::Moments;
    ///
    /// assert_eq!(Moments::from_name("q8"), Some(Moments::Q8));
    /// assert_eq!(Moments::from_name("int4"), None); // not one of `Moments::NAMES`
    /// ```
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "f32" => Some(Self::F32),
            "bf16" => Some(Self::Bf16),
            "f16" => Some(Self::F16),
            "q8" => Some(Self::Q8),
            _ => None,
        }
    }

    /// The type of a plane of moments.
    pub(crate) fn dtype(self, never_negative: bool) -> Dtype {
        match self {
            Self::F32 => Dtype::F32,
            Self::Bf16 => Dtype::Bf16,
            Self::F16 => Dtype::F16,
            Self::Q8 if never_negative => Dtype::Q8Unsigned,
            Self::Q8 => Dtype::Q8Signed,
        }
    }
}

/// In how many bits parameters and moments are kept. Fixed when a store is created.
///
/// Some tensors stay in f32 whatever is chosen for their group, since they are few bytes and much depends on them: those of
/// less than 4,096 elements; those of less than two dimensions (norms, biases); and embeddings, which are told by their names:
/// a part of the name between dots is `wte` or `wpe`, or has `emb` in it. [`everywhere`](Self::everywhere) lifts this rule for
/// a group; [`TensorSpec::precision`](crate::TensorSpec::precision) says it for a tensor, without a rule.
///
/// Parameters in bf16 or f16 have no f32 behind them: a step computes in f32 and rounds stochastically, with random bits
/// that are a function of the store's seed, the step, the tensor's name and the element, and of nothing else. So updates that
/// are smaller than half a last place are not lost, but happen now and then. [`compensated`](Self::compensated) is the other
/// way to the same end: no chance, and 2 bytes more.
///
/// # Example
///
/// ```
/// use paramstore::{Dtype, Moments, Precision};
///
/// assert_eq!(Precision::new(Dtype::Bf16, Moments::Q8), Precision::COMPACT);
/// assert_eq!(Precision::from_name("compact"), Some(Precision::COMPACT)); // one of `Precision::NAMES`
/// assert!(Precision::BF16.everywhere().everywhere); // small tensors too
/// assert_eq!(Precision::BF16.compensated(), Precision::BF16_KAHAN);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Precision {
    /// The type of parameters: [`Dtype::F32`], [`Dtype::Bf16`] or [`Dtype::F16`].
    pub params: Dtype,
    /// The form of moments.
    pub moments: Moments,
    /// Whether small tensors, vectors and embeddings are kept so too.
    pub everywhere: bool,
    /// Whether parameters in bf16 or f16 are rounded to the nearest, and a plane beside them keeps what that lost.
    pub compensated: bool,
}

impl Default for Precision {
    fn default() -> Self {
        Self::F32
    }
}

impl Precision {
    /// Everything in f32.
    pub const F32: Self = Self::new(Dtype::F32, Moments::F32);
    /// Parameters and moments in bf16: half the bytes.
    pub const BF16: Self = Self::new(Dtype::Bf16, Moments::Bf16);
    /// Parameters in bf16, moments in 8 bits: a third of the bytes.
    pub const COMPACT: Self = Self::new(Dtype::Bf16, Moments::Q8);

    /// As [`BF16`](Self::BF16), with compensated parameters: two thirds of the bytes of f32.
    pub const BF16_KAHAN: Self = Self::BF16.compensated();
    /// As [`COMPACT`](Self::COMPACT), with compensated parameters: half the bytes of f32.
    pub const COMPACT_KAHAN: Self = Self::COMPACT.compensated();

    /// The names of the five above.
    pub const NAMES: [&'static str; 5] = ["f32", "bf16", "compact", "bf16-kahan", "compact-kahan"];

    /// This form of parameters and moments, with the rule for tensors that stay in f32. [Example](Self#example).
    #[must_use]
    pub const fn new(params: Dtype, moments: Moments) -> Self {
        Self { params, moments, everywhere: false, compensated: false }
    }

    /// One of the five above, by its name. [Example](Self#example).
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "f32" => Some(Self::F32),
            "bf16" => Some(Self::BF16),
            "compact" => Some(Self::COMPACT),
            "bf16-kahan" => Some(Self::BF16_KAHAN),
            "compact-kahan" => Some(Self::COMPACT_KAHAN),
            _ => None,
        }
    }

    /// The same for every tensor, without the rule for those that stay in f32. [Example](Self#example).
    #[must_use]
    pub const fn everywhere(mut self) -> Self {
        self.everywhere = true;
        self
    }

    /// The same with parameters that are rounded to the nearest, and beside them a plane `compensation` of the same type that
    /// keeps what rounding lost (Kahan's summation, in the form of "Revisiting BFloat16 Training", arXiv:2010.06192). A step
    /// runs the rule, weight decay included, on the sum of both in f32, and splits the result again; see
    /// [`round_compensated`](super::round_compensated) for what is lost then. Whoever reads parameters gets them without what
    /// the plane has. Costs 2 bytes more for each parameter, each way. Of a tensor that is never updated it keeps nothing.
    /// [Example](Self#example).
    #[must_use]
    pub const fn compensated(mut self) -> Self {
        self.compensated = true;
        self
    }

    /// What a tensor of a group of this precision is kept in.
    pub(crate) fn of(self, name: &str, shape: &[u64]) -> Self {
        let elements = shape.iter().fold(1, |n: u64, &d| n.saturating_mul(d));
        let is_small = elements < SMALL_ELEMENTS || shape.len() < 2;
        if !self.everywhere && (is_small || is_embedding(name)) { Self::F32 } else { self }
    }
}

/// Tensors of fewer elements stay in f32.
const SMALL_ELEMENTS: u64 = 4096;

fn is_embedding(name: &str) -> bool {
    name.split('.').any(|part| matches!(part, "wte" | "wpe") || part.contains("emb"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_tensors_vectors_and_embeddings_stay_in_f32_unless_everything_is_asked_for() {
        let narrow: [(&str, &[u64]); 3] =
            [("h.0.attn.weight", &[64, 64]), ("lm_head.weight", &[5000, 1, 7]), ("mlp.up", &[4096, 1])];
        let wide: [(&str, &[u64]); 7] = [
            ("h.0.attn.weight", &[63, 65]),
            ("h.0.ln.weight", &[100_000]),
            ("scale", &[]),
            ("wte", &[1000, 100]),
            ("transformer.wpe.weight", &[1000, 100]),
            ("model.embed_tokens.weight", &[1000, 100]),
            ("tok_embeddings.weight", &[1000, 100]),
        ];
        for (name, shape) in narrow {
            assert_eq!(Precision::COMPACT.of(name, shape), Precision::COMPACT, "{name}");
        }
        for (name, shape) in wide {
            assert_eq!(Precision::COMPACT.of(name, shape), Precision::F32, "{name}");
            let all = Precision::BF16.everywhere();
            assert_eq!(all.of(name, shape), all, "{name}");
        }
    }

    #[test]
    fn every_name_is_that_of_a_choice() {
        let all = Precision::NAMES.map(Precision::from_name);
        assert!(all.iter().all(Option::is_some));
        assert_eq!(all.iter().flatten().filter(|precision| precision.compensated).count(), 2);
        assert!(Moments::NAMES.iter().all(|name| Moments::from_name(name).is_some()));
        assert_eq!((Precision::from_name("q8"), Moments::from_name("compact")), (None, None));
    }
}
