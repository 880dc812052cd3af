//! Powers of beta, the same bits on every platform.

/// Returns `base^exponent` for a base of 0 to 1, rounded once.
///
/// The C library's `pow` differs between platforms in the last place. This one squares and multiplies in double-double
/// arithmetic (T. J. Dekker, "A floating-point technique for extending the available precision", Numer. Math. 18,
/// 1971), whose relative error grows by about 2^-104 per unit of the exponent: up to an exponent of 2^40 the result
/// is the exact power rounded to f64, unless that power lies within 2^-10 of a last place from the middle of two f64.
/// It uses no fused multiply-add. Below about 1e-290 the digits beyond f64 get lost; `1 - power` does not see it.
pub(super) fn power(base: f64, exponent: u64) -> f64 {
    let mut square = Double { high: base, low: 0.0 };
    let mut result = Double { high: 1.0, low: 0.0 };
    let mut rest = exponent;
    while rest != 0 {
        if rest & 1 == 1 {
            result = result.times(square);
        }
        rest >>= 1;
        if rest != 0 {
            square = square.times(square);
        }
    }
    result.high
}

/// An unevaluated sum of two f64, the lower at most half a last place of the higher.
#[derive(Clone, Copy)]
struct Double {
    high: f64,
    low: f64,
}

impl Double {
    fn times(self, other: Self) -> Self {
        let product = self.high * other.high;
        let error = product_error(self.high, other.high, product);
        let error = error + (self.high * other.low + self.low * other.high);
        let high = product + error;
        Self { high, low: error - (high - product) }
    }
}

/// Returns `a * b - product` exactly, for `product` the rounded product.
fn product_error(a: f64, b: f64, product: f64) -> f64 {
    let ((a_high, a_low), (b_high, b_low)) = (split(a), split(b));
    ((a_high * b_high - product) + a_high * b_low + a_low * b_high) + a_low * b_low
}

/// Splits 53 bits of mantissa into two halves whose products are exact (Veltkamp).
fn split(x: f64) -> (f64, f64) {
    const FACTOR: f64 = 134_217_729.0; // 2^27 + 1
    let scaled = FACTOR * x;
    let high = scaled - (scaled - x);
    (high, x - high)
}

#[cfg(test)]
mod tests {
    use super::power;

    /// Base, exponent and power, from exact rational arithmetic (large exponents: 120 decimal digits); floats as bits.
    const EXACT: [(u64, u64, u64); 30] = [
        (0x3fec_cccc_cccc_cccd, 2, 0x3fe9_eb85_1eb8_51ec),      // 0.9
        (0x3fec_cccc_cccc_cccd, 3, 0x3fe7_53f7_ced9_1688),      // 0.9
        (0x3fec_cccc_cccc_cccd, 7, 0x3fde_9c6a_99d1_cdbf),      // 0.9
        (0x3fec_cccc_cccc_cccd, 10, 0x3fd6_50bf_6043_2fd9),     // 0.9
        (0x3fec_cccc_cccc_cccd, 50, 0x3f75_1c1f_ff76_4631),     // 0.9
        (0x3fec_cccc_cccc_cccd, 100, 0x3efb_da05_6ed4_9410),    // 0.9
        (0x3fec_cccc_cccc_cccd, 999, 0x3671_bd5c_ee95_fab2),    // 0.9
        (0x3fef_f7ce_d916_872b, 2, 0x3fef_ef9f_cb0c_026d),      // 0.999
        (0x3fef_f7ce_d916_872b, 3, 0x3fef_e772_d557_0166),      // 0.999
        (0x3fef_f7ce_d916_872b, 10, 0x3fef_ae72_99c2_56e3),     // 0.999
        (0x3fef_f7ce_d916_872b, 50, 0x3fee_7046_c91c_138a),     // 0.999
        (0x3fef_f7ce_d916_872b, 1_000, 0x3fd7_8852_6411_ed72),  // 0.999
        (0x3fef_f7ce_d916_872b, 12_345, 0x3ed2_2391_fb94_567e), // 0.999
        (0x3fef_f7ce_d916_872b, 1_000_000, 0x0000_0000_0000_0000), // 0.999
        (0x3fee_6666_6666_6666, 3, 0x3feb_6f9d_b22d_0e55),      // 0.95
        (0x3fee_6666_6666_6666, 50, 0x3fb3_b2aa_7867_aed6),     // 0.95
        (0x3fee_6666_6666_6666, 777, 0x3c56_a6d6_a12c_dac1),    // 0.95
        (0x3fd3_3333_3333_3333, 2, 0x3fb7_0a3d_70a3_d70a),      // 0.3
        (0x3fd3_3333_3333_3333, 5, 0x3f63_e814_50ef_dc9b),      // 0.3
        (0x3fd3_3333_3333_3333, 33, 0x3c59_a2fa_f682_6cb9),     // 0.3
        (0x3fef_ae14_7ae1_47ae, 2, 0x3fef_5cfa_acd9_e83e),      // 0.99
        (0x3fef_ae14_7ae1_47ae, 49, 0x3fe3_8e45_bdba_1832),     // 0.99
        (0x3fef_ae14_7ae1_47ae, 4_097, 0x3c38_2c06_03c1_9292),  // 0.99
        (0x3fef_ffff_ca50_1acb, 2, 0x3fef_ffff_94a0_35f0),      // 0.9999999
        (0x3fef_ffff_ca50_1acb, 1_000_003, 0x3fec_f46d_05b1_f257), // 0.9999999
        (0x3fef_ffff_ca50_1acb, 4_294_967_296, 0x1934_a318_2a6a_b8f9), // 0.9999999
        (0x3fe0_0000_0000_0000, 3, 0x3fc0_0000_0000_0000),      // 0.5
        (0x3fe0_0000_0000_0000, 500, 0x20b0_0000_0000_0000),    // 0.5
        (0x3fef_ffff_ffff_ffff, 1_099_511_627_776, 0x3fef_ff00_03ff_f555), // 0.9999999999999999
        (0x3fe9_9999_9999_999a, 11, 0x3fb5_fd7f_e179_6499),     // 0.8
    ];

    #[test]
    fn powers_are_the_exact_ones_rounded_to_nearest() {
        for (base, exponent, bits) in EXACT {
            let got = power(f64::from_bits(base), exponent);
            assert_eq!(got.to_bits(), bits, "{}^{exponent} = {got:e}", f64::from_bits(base));
        }
    }

    #[test]
    fn edges_are_exact() {
        assert_eq!(power(0.9, 0).to_bits(), 1.0_f64.to_bits());
        assert_eq!(power(0.0, 0).to_bits(), 1.0_f64.to_bits());
        assert_eq!(power(0.0, u64::MAX).to_bits(), 0.0_f64.to_bits());
        assert_eq!(power(0.999, 1).to_bits(), 0.999_f64.to_bits());
        assert_eq!(power(0.9, u64::MAX).to_bits(), 0.0_f64.to_bits());
    }

    #[test]
    fn powers_stay_within_one_last_place_of_libm() {
        for base in [0.3, 0.5, 0.9, 0.95, 0.99, 0.999, 0.9999] {
            for exponent in (0..3000).chain([9_999, 123_456, 10_000_019]) {
                let want = libm::pow(base, f64::from(u32::try_from(exponent).unwrap()));
                let got = power(base, exponent);
                if want > 1e-280 {
                    assert!(
                        got.to_bits().abs_diff(want.to_bits()) <= 1,
                        "{base}^{exponent}: {got:e}, {want:e}"
                    );
                }
            }
        }
    }
}
