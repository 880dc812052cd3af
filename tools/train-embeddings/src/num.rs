//! Conversions between kinds of numbers, each with its reason in one place.

/// A count as a float.
#[expect(clippy::cast_precision_loss, reason = "counts of words, pairs and bytes are far below 2^53")]
pub(crate) fn float(n: u64) -> f64 {
    n as f64
}

/// A length as a single-precision float.
#[expect(clippy::cast_precision_loss, reason = "lengths of rows and windows are below 2^24")]
pub(crate) fn single_of(n: usize) -> f32 {
    n as f32
}

/// A float in single precision.
#[expect(clippy::cast_possible_truncation, reason = "rounds once, to the precision of the tables")]
pub(crate) fn single(x: f64) -> f32 {
    x as f32
}

/// The whole part of a float that is not negative.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "saturates, which is wanted")]
pub(crate) fn whole(x: f64) -> u64 {
    x as u64
}

/// A number of things in memory as an index.
pub(crate) fn index(n: u64) -> usize {
    usize::try_from(n).unwrap_or(usize::MAX)
}

/// An index that is known to be below 2^32: of a word, an entity, an example.
pub(crate) fn small(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}
