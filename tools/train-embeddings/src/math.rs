//! Arithmetic on slices, in an order that does not depend on anything: the same bits on every machine.

/// The sum of products, in eight partial sums that are added pairwise.
pub(crate) fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0.0f32; 8];
    let (a_parts, b_parts) = (a.chunks_exact(8), b.chunks_exact(8));
    let rest: f32 = a_parts.remainder().iter().zip(b_parts.remainder()).map(|(a, b)| a * b).sum();
    for (a, b) in a_parts.zip(b_parts) {
        for lane in 0..8 {
            sums[lane] += a[lane] * b[lane];
        }
    }
    let [s0, s1, s2, s3, s4, s5, s6, s7] = sums;
    ((s0 + s4) + (s1 + s5)) + ((s2 + s6) + (s3 + s7)) + rest
}

/// Adds a multiple of `x` to `to`.
pub(crate) fn add_scaled(to: &mut [f32], factor: f32, x: &[f32]) {
    for (to, x) in to.iter_mut().zip(x) {
        *to += factor * x;
    }
}

/// `e` to the power of `x`, within 2e-7 of the true value; below -87 and above 88 as there. The range is reduced by
/// powers of two, the rest is a polynomial of the Cephes library.
pub(crate) fn exp(x: f32) -> f32 {
    const ROUND: f32 = 12_582_912.0;
    let x = x.clamp(-87.0, 88.0);
    let n = (x * std::f32::consts::LOG2_E + ROUND) - ROUND;
    let r = x - n * 0.693_359_4 + n * 2.121_944_4e-4;
    let mut p = 1.987_569_2e-4;
    for c in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
        p = p * r + c;
    }
    #[expect(clippy::cast_possible_truncation, reason = "a whole number from -126 to 127")]
    let exponent = n as i32;
    let power = f32::from_bits((exponent + 127).cast_unsigned() << 23);
    (p * r * r + r + 1.0) * power
}

/// The logistic function.
pub(crate) fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// Minus the logarithm of the logistic function, for display.
pub(crate) fn minus_log_sigmoid(x: f32) -> f32 {
    if x > 0.0 { exp(-x).ln_1p() } else { exp(x).ln_1p() - x }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_close_to_the_true_value_over_its_range() {
        for i in -8700..=8800i16 {
            let x = f32::from(i) / 100.0;
            let (got, expected) = (f64::from(exp(x)), f64::from(x).exp());
            assert!((got / expected - 1.0).abs() < 2e-7, "exp({x}) = {got}, expected {expected}");
        }
        assert!((exp(-1000.0) - exp(-87.0)).abs() < f32::MIN_POSITIVE);
    }

    #[test]
    fn the_dot_product_counts_every_element_once() {
        for len in [0u8, 1, 7, 8, 9, 100] {
            let a: Vec<f32> = (0..len).map(|i| f32::from(i) - 3.0).collect();
            let b: Vec<f32> = (0..len).map(|i| f32::from(i) * 2.0).collect();
            let expected: f32 = a.iter().zip(&b).map(|(a, b)| a * b).sum();
            assert!((dot(&a, &b) - expected).abs() < 1e-3, "{len}");
        }
    }

    #[test]
    fn the_logistic_function_and_its_logarithm_agree() {
        for x in [-20.0, -1.5, 0.0, 0.3, 9.0] {
            let expected = (1.0 + f64::from(-x).exp()).ln();
            assert!((f64::from(minus_log_sigmoid(x)) - expected).abs() < 1e-6 * (1.0 + expected), "{x}");
            assert!((sigmoid(x) + sigmoid(-x) - 1.0).abs() < 1e-6);
        }
        assert!((sigmoid(0.0) - 0.5).abs() < 1e-7);
    }
}
