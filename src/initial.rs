//! VALUES AT BIRTH. What a block holds before its first write, from a counter-based generator: the same for any
//! block size, thread count and order of touching, so that a store costs nothing until it is used.

use crate::format::directory::Init;
use crate::format::records::Records;
use crate::splitmix::{GOLDEN, mix};
use crate::units::to_u64;

/// The key of a tensor's values: from the store's seed and the tensor's name (FNV-1a), not its place.
pub(crate) fn tensor_key(seed: u64, name: &str) -> u64 {
    let hash = name
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3));
    mix(mix(seed.wrapping_add(GOLDEN)) ^ hash)
}

/// The key of the random bits that a tensor's parameters are rounded with in a step: from the store's seed, the tensor's
/// name, and the number that the step has when it is finished.
pub(crate) fn rounding_key(seed: u64, name: &str, step: u64) -> u64 {
    mix(mix(tensor_key(seed, name)).wrapping_add(step.wrapping_mul(GOLDEN)))
}

/// 64 random bits for an element.
fn bits(key: u64, element: u64) -> u64 {
    mix(key.wrapping_add(element.wrapping_mul(GOLDEN)))
}

/// A double in `(0, 1)`, never an end of it, from the upper 52 bits.
#[expect(clippy::cast_precision_loss, reason = "a value below 2^52 is exact in an f64")]
fn open_unit(bits: u64) -> f64 {
    ((bits >> 12) as f64 + 0.5) * (1.0 / (1_u64 << 52) as f64)
}

/// Writes the initial values of the elements from `first` on.
pub(crate) fn fill(init: Init, key: u64, first: u64, out: &mut [f32]) {
    match init {
        Init::Zeros => out.fill(0.0),
        Init::Constant(value) => out.fill(value),
        Init::Normal { mean, std } => {
            each(key, first, out, |u| f64::from(mean) + f64::from(std) * normal_quantile(u));
        }
        Init::Uniform { low, high } => {
            let (low, high) = (f64::from(low), f64::from(high));
            each(key, first, out, |u| low + (high - low) * u);
        }
    }
}

/// The record of a row that was never updated: `key` is the tensor's, `record` the whole record.
pub(crate) fn fill_record(records: &Records, init: Init, key: u64, row: u64, record: &mut [f32]) {
    record.fill(0.0);
    for (at, plane) in records.planes.iter().enumerate() {
        let Some(out) = record.get_mut(records.within(at)) else { continue };
        if at == 0 {
            fill(init, key, row.wrapping_mul(to_u64(out.len())), out);
        } else {
            out.fill(plane.fill);
        }
    }
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "values are computed in f64 and rounded once to the plane's f32"
)]
fn each(key: u64, first: u64, out: &mut [f32], value: impl Fn(f64) -> f64) {
    for (i, out) in out.iter_mut().enumerate() {
        *out = value(open_unit(bits(key, first.wrapping_add(to_u64(i))))) as f32;
    }
}

/// The inverse of the normal distribution function, to about 1e-16 relative: algorithm AS 241, routine PPND16
/// (Wichura, Applied Statistics 37, 1988). One uniform value gives one normal value, so an element's value does
/// not depend on its neighbours.
fn normal_quantile(p: f64) -> f64 {
    let q = p - 0.5;
    if q.abs() <= 0.425 {
        let r = 0.180_625 - q * q;
        return q * ratio(r, &CENTRE_A, &CENTRE_B);
    }
    let tail = if q < 0.0 { p } else { 1.0 - p };
    let r = libm::sqrt(-libm::log(tail));
    let value = if r <= 5.0 { ratio(r - 1.6, &MIDDLE_C, &MIDDLE_D) } else { ratio(r - 5.0, &FAR_E, &FAR_F) };
    if q < 0.0 { -value } else { value }
}

/// A quotient of polynomials by Horner's rule, highest coefficient first, without fused operations.
fn ratio(x: f64, upper: &[f64; 8], lower: &[f64; 8]) -> f64 {
    let polynomial = |c: &[f64; 8]| c.iter().fold(0.0, |sum, c| sum * x + c);
    polynomial(upper) / polynomial(lower)
}

const CENTRE_A: [f64; 8] = [
    2.509_080_928_730_122_7e3,
    3.343_057_558_358_813e4,
    6.726_577_092_700_87e4,
    4.592_195_393_154_987e4,
    1.373_169_376_550_946e4,
    1.971_590_950_306_551_3e3,
    1.331_416_678_917_843_8e2,
    3.387_132_872_796_366_5,
];
const CENTRE_B: [f64; 8] = [
    5.226_495_278_852_854e3,
    2.872_908_573_572_194_3e4,
    3.930_789_580_009_271e4,
    2.121_379_430_158_659_7e4,
    5.394_196_021_424_751e3,
    6.871_870_074_920_579e2,
    4.231_333_070_160_091e1,
    1.0,
];
const MIDDLE_C: [f64; 8] = [
    7.745_450_142_783_414e-4,
    2.272_384_498_926_918_4e-2,
    2.417_807_251_774_506e-1,
    1.270_458_252_452_368_4,
    3.647_848_324_763_204_5,
    5.769_497_221_460_691,
    4.630_337_846_156_546,
    1.423_437_110_749_683_5,
];
const MIDDLE_D: [f64; 8] = [
    1.050_750_071_644_416_9e-9,
    5.475_938_084_995_345e-4,
    1.519_866_656_361_645_7e-2,
    1.481_039_764_274_800_8e-1,
    6.897_673_349_851e-1,
    1.676_384_830_183_803_8,
    2.053_191_626_637_759,
    1.0,
];
const FAR_E: [f64; 8] = [
    2.010_334_399_292_288_1e-7,
    2.711_555_568_743_487_6e-5,
    1.242_660_947_388_078_4e-3,
    2.653_218_952_657_612_4e-2,
    2.965_605_718_285_048_7e-1,
    1.784_826_539_917_291_3,
    5.463_784_911_164_114,
    6.657_904_643_501_103,
];
const FAR_F: [f64; 8] = [
    2.044_263_103_389_939_8e-15,
    1.421_511_758_316_446e-7,
    1.846_318_317_510_054_8e-5,
    7.868_691_311_456_133e-4,
    1.487_536_129_085_061_5e-2,
    1.369_298_809_227_358e-1,
    5.998_322_065_558_88e-1,
    1.0,
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_match_published_values() {
        // Standard normal quantiles, to the digits of common tables.
        let cases = [
            (0.5, 0.0),
            (0.75, 0.674_489_750_196_082),
            (0.975, 1.959_963_984_540_054),
            (0.001, -3.090_232_306_167_813_5),
            (1e-10, -6.361_340_902_404_056),
            (1e-20, -9.262_340_089_798_41),
        ];
        for (p, z) in cases {
            assert!(
                (normal_quantile(p) - z).abs() <= 1e-13 * f64::max(1.0, f64::abs(z)),
                "{p}: {}",
                normal_quantile(p)
            );
        }
    }

    #[test]
    fn a_value_does_not_depend_on_where_a_fill_begins() {
        let init = Init::Normal { mean: 1.0, std: 2.0 };
        let mut whole = vec![0.0; 100];
        fill(init, 5, 0, &mut whole);
        let mut part = vec![0.0; 40];
        fill(init, 5, 60, &mut part);
        assert_eq!(whole[60..], part);
        fill(init, 6, 60, &mut part);
        assert_ne!(whole[60..], part);
    }

    #[test]
    fn normal_and_uniform_values_have_their_mean_and_deviation() {
        // The root of how many values there are: the standard error of a mean is the deviation by it.
        let root: u16 = if cfg!(miri) { 64 } else { 512 };
        let mut values = vec![0.0; usize::from(root) * usize::from(root)];
        let root = f64::from(root);
        fill(Init::Normal { mean: 0.5, std: 0.02 }, tensor_key(1, "w"), 0, &mut values);
        let (mean, std) = moments(&values);
        // Six standard errors of the mean and of the deviation.
        assert!((mean - 0.5).abs() < 6.0 * 0.02 / root, "{mean}");
        assert!((std / 0.02 - 1.0).abs() < 6.0 / (2.0_f64.sqrt() * root), "{std}");
        fill(Init::Uniform { low: -1.0, high: 3.0 }, 9, 0, &mut values);
        let (mean, std) = moments(&values);
        assert!((mean - 1.0).abs() < 6.0 * (4.0 / 12_f64.sqrt()) / root, "{mean}");
        assert!((std / (4.0 / 12_f64.sqrt()) - 1.0).abs() < 5.12 / root, "{std}");
        assert!(values.iter().all(|v| (-1.0..=3.0).contains(v)));
    }

    #[expect(clippy::cast_precision_loss, reason = "a count of at most 2^18 is exact")]
    fn moments(values: &[f32]) -> (f64, f64) {
        let n = values.len() as f64;
        let mean = values.iter().map(|&v| f64::from(v)).sum::<f64>() / n;
        let variance = values.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum::<f64>() / n;
        (mean, variance.sqrt())
    }

    #[test]
    fn keys_of_tensors_differ_by_name_and_by_seed() {
        let keys = [tensor_key(0, "a"), tensor_key(0, "b"), tensor_key(1, "a"), tensor_key(1, "b")];
        for (i, a) in keys.iter().enumerate() {
            assert!(keys[i + 1..].iter().all(|b| a != b));
        }
    }
}
