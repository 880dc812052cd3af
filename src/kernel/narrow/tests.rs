//! Conversions against the `half` crate, against brute force, and against their own promises.

use super::half::Key;
use super::*;

const KINDS: [Half; 2] = [Half::Bf16, Half::F16];

/// Runs through many patterns of f32: every exponent and sign, with fractions around those that rounding tells apart.
fn patterns() -> Vec<f32> {
    let fractions = [
        0, 1, 0x0fff, 0x1000, 0x1001, 0x2fff, 0x3000, 0x7fff, 0x8000, 0x8001, 0x1_7fff, 0x1_8000, 0x7f_e000,
        0x7f_ffff,
    ];
    let all = (0..512_u32).flat_map(|top| fractions.map(|fraction| f32::from_bits(top << 23 | fraction)));
    all.collect()
}

fn wide_by_half(kind: Half, bits: u16) -> f32 {
    match kind {
        Half::Bf16 => ::half::bf16::from_bits(bits).to_f32(),
        Half::F16 => ::half::f16::from_bits(bits).to_f32(),
    }
}

fn nearest_by_half(kind: Half, value: f32) -> u16 {
    match kind {
        Half::Bf16 => ::half::bf16::from_f32(value).to_bits(),
        Half::F16 => ::half::f16::from_f32(value).to_bits(),
    }
}

#[test]
fn every_pattern_of_16_bits_widens_as_in_the_half_crate_and_comes_back() {
    let bits: Vec<u16> = (0..=u16::MAX).step_by(if cfg!(miri) { 61 } else { 1 }).collect();
    for isa in InstructionSet::available() {
        for kind in KINDS {
            let (mut values, mut back) = (vec![0.0; bits.len()], vec![0; bits.len()]);
            widen(isa, kind, &bits, &mut values);
            round(isa, kind, Rounding::Nearest, &values, &mut back);
            for ((&bits, &value), &back) in bits.iter().zip(&values).zip(&back) {
                let expected = wide_by_half(kind, bits);
                let same = value.to_bits() == expected.to_bits() || (value.is_nan() && expected.is_nan());
                assert!(same, "{kind:?} {bits:04x} on {}: {value:e}, expected {expected:e}", isa.name());
                assert!(back == bits || value.is_nan(), "{kind:?} {bits:04x} came back as {back:04x}");
            }
        }
    }
}

#[test]
fn rounding_to_the_nearest_is_that_of_the_half_crate() {
    let values = patterns();
    for isa in InstructionSet::available() {
        for kind in KINDS {
            let mut bits = vec![0; values.len()];
            round(isa, kind, Rounding::Nearest, &values, &mut bits);
            for (&value, &bits) in values.iter().zip(&bits) {
                let expected = nearest_by_half(kind, value);
                let same = bits == expected || (value.is_nan() && wide_by_half(kind, bits).is_nan());
                assert!(
                    same,
                    "{kind:?} of {value:e} ({:08x}): {bits:04x}, not {expected:04x}",
                    value.to_bits()
                );
            }
        }
    }
}

/// The two neighbours of a finite value, the one towards zero first, and the share of the way to the other.
fn neighbours(kind: Half, value: f32) -> (u16, u16, f64) {
    let near = nearest_by_half(kind, value);
    let toward = if wide_by_half(kind, near).abs() > value.abs() { near - 1 } else { near };
    let (low, high) = (f64::from(wide_by_half(kind, toward)), f64::from(wide_by_half(kind, toward + 1)));
    (toward, toward + 1, (f64::from(value) - low) / (high - low))
}

#[test]
fn stochastic_rounding_takes_each_neighbour_as_often_as_it_should() {
    let values = [1.0, 1.003, -1.003, 0.1, -3.3e4, 1e-30, 6e-8, 3.3e-5, -2.9e-6, 0.999_99, 1.5e-45];
    for kind in KINDS {
        for value in values.into_iter().take(if cfg!(miri) { 2 } else { usize::MAX }) {
            let (toward, away, share) = neighbours(kind, value);
            let mut count = 0_u32;
            for random in 0..=0xffff {
                let got = match kind {
                    Half::Bf16 => half::stochastic::<{ Half::Bf16 as u8 }>(value, random),
                    Half::F16 => half::stochastic::<{ Half::F16 as u8 }>(value, random),
                };
                assert!(got == away || got == toward, "{kind:?} of {value:e} by {random:x}: {got:04x}");
                count += u32::from(got == away);
            }
            // bf16 has 16 bits behind its last place, f16 has 13: more only among its subnormal numbers.
            let off = (f64::from(count) / 65_536.0 - share).abs();
            let bound = if kind == Half::Bf16 { 1.0 / 65_536.0 } else { 1.0 / 8192.0 };
            assert!(off < bound, "{kind:?} of {value:e}: {count} of 65,536, expected {share}");
        }
    }
}

#[test]
fn a_number_of_the_format_infinity_and_nan_are_not_moved_by_stochastic_rounding() {
    for kind in KINDS {
        for bits in
            (0..=u16::MAX).step_by(if cfg!(miri) { 997 } else { 7 }).chain([0x7f80, 0xff80, 0x7c00, 0xfc00])
        {
            let value = wide_by_half(kind, bits);
            for random in [0, 1, 0x7fff, 0x8000, 0xffff] {
                let got = match kind {
                    Half::Bf16 => half::stochastic::<{ Half::Bf16 as u8 }>(value, random),
                    Half::F16 => half::stochastic::<{ Half::F16 as u8 }>(value, random),
                };
                assert!(
                    got == bits || (value.is_nan() && wide_by_half(kind, got).is_nan()),
                    "{kind:?} {bits:04x}"
                );
            }
        }
    }
    assert!(wide_by_half(Half::Bf16, bf16_stochastic(f32::from_bits(0x7fff_ffff), 0xffff)).is_nan());
}

/// Rounds `count` copies of a value as elements of one tensor in one step; mean and variance in units of the distance
/// of its neighbours, the one towards zero being 0.
fn drawn(value: f32, count: usize, key: u64, first: u64) -> (f64, f64, Vec<bool>) {
    let (toward, away, _) = neighbours(Half::Bf16, value);
    let mut bits = vec![0; count];
    let rounding = Rounding::Stochastic { key, first };
    round(InstructionSet::detect(), Half::Bf16, rounding, &vec![value; count], &mut bits);
    let ups: Vec<_> = bits.iter().map(|&bits| bits == away).collect();
    assert!(bits.iter().all(|&bits| bits == away || bits == toward));
    #[expect(clippy::cast_precision_loss, reason = "counts below 2^53")]
    let mean = ups.iter().filter(|&&up| up).count() as f64 / count as f64;
    (mean, mean * (1.0 - mean), ups)
}

/// Expectation, variance, and independence of neighbours, of elements 2^16 apart and of steps. Each of the 24 + 3 figures is
/// compared with 6 standard errors, which random bits exceed with a probability of 2e-9 each: 6e-8 in all. The keys are
/// fixed, so that the test passes always or never.
#[test]
fn random_bits_of_a_tensor_have_the_mean_the_variance_and_the_independence_of_fair_draws() {
    let count = if cfg!(miri) { 1 << 12 } else { 1 << 19 };
    let n = f64::from(u32::try_from(count).unwrap());
    for (key, first) in [(0, 0), (1, 40_000), (0x9e37_79b9_7f4a_7c15, 1 << 40)] {
        for value in [1.000_1, 1.002, -0.7654, 3e-9] {
            let (_, _, share) = neighbours(Half::Bf16, value);
            let (mean, variance, _) = drawn(value, count, key, first);
            let expected = share * (1.0 - share);
            let error = (expected / n).sqrt();
            assert!((mean - share).abs() < 6.0 * error, "mean of {value}: {mean}, expected {share}");
            // The variance of p (1 - p) is that of p by the square of its slope.
            let bound = 6.0 * (error * (1.0 - 2.0 * share).abs() + 6.0 / n);
            assert!(
                (variance - expected).abs() < bound,
                "variance of {value}: {variance}, expected {expected}"
            );
        }
        let half = 1.0 + 1.0 / 256.0;
        let (_, _, ups) = drawn(half, count, key, first);
        let (_, _, next) = drawn(half, count, key + 1, first);
        let lag = if cfg!(miri) { 1 << 10 } else { 1 << 16 };
        let pairs: [(&[bool], &[bool]); 3] =
            [(&ups[1..], &ups[..count - 1]), (&ups[lag..], &ups[..count - lag]), (&ups, &next)];
        for (number, (a, b)) in pairs.into_iter().enumerate() {
            let same = a.iter().zip(b).filter(|(a, b)| a == b).count();
            let (same, n) =
                (f64::from(u32::try_from(same).unwrap()), f64::from(u32::try_from(a.len()).unwrap()));
            assert!((same / n - 0.5).abs() < 6.0 * (0.25 / n).sqrt(), "pairs {number}: {same} of {n} alike");
        }
    }
}

#[test]
fn random_bits_do_not_depend_on_where_a_run_is_cut_nor_on_the_instruction_set() {
    let values: Vec<f32> = (0..3000_u16).map(|i| f32::from(i) * 0.001 + 0.5).collect();
    let first = (5 << 16) - 1000;
    for kind in KINDS {
        let mut whole = vec![0; 3000];
        let rounding = |first| Rounding::Stochastic { key: 77, first };
        round(InstructionSet::portable(), kind, rounding(first), &values, &mut whole);
        for isa in InstructionSet::available() {
            for cut in [1, 17, 999, 1000, 1001, 2999] {
                let mut parts = vec![0; 3000];
                round(isa, kind, rounding(first), &values[..cut], &mut parts[..cut]);
                round(isa, kind, rounding(first + cut as u64), &values[cut..], &mut parts[cut..]);
                assert_eq!(parts, whole, "{kind:?} cut at {cut} on {}", isa.name());
            }
        }
        let mut other = vec![0; 3000];
        round(InstructionSet::portable(), kind, Rounding::Stochastic { key: 78, first }, &values, &mut other);
        assert_ne!(other, whole);
    }
    assert_ne!(Key::new(1, 0).bits(3), Key::new(1, 1).bits(3));
}

/// The code nearest to `y` by looking at all of them; `None` if two are as near, to 2^-20 of `y`.
fn nearest_code(book: Book, y: f64) -> Option<u8> {
    let mut found: Vec<(f64, u8)> =
        (0..=u8::MAX).zip(book.codes()).map(|(code, &x)| ((f64::from(x) - y).abs(), code)).collect();
    found.sort_by(|a, b| a.0.total_cmp(&b.0));
    (found[1].0 - found[0].0 > y.abs() / 1_048_576.0).then_some(found[0].1)
}

/// Magnitudes from far below the smallest code up to 1, and 1 itself.
fn quotients() -> Vec<f32> {
    let mut all = vec![1.0];
    let mut y = 2e-8_f32;
    while y < 1.0 {
        all.push(y);
        y *= if cfg!(miri) { 1.3 } else { 1.000_9 };
    }
    all
}

#[test]
fn each_code_is_the_nearest_one() {
    for (book, sign) in [(Book::Signed, 1.0), (Book::Signed, -1.0), (Book::Unsigned, 1.0)] {
        for (isa, scale) in InstructionSet::available()
            .into_iter()
            .flat_map(|isa| [(isa, 1.0), (isa, 3.7e-35), (isa, 2.9e33)])
        {
            for block in quotients().chunks(255) {
                let mut values: Vec<f32> = block.iter().map(|y| y * sign * scale).collect();
                values.push(scale * sign);
                let (mut codes, mut scales) = (vec![0; values.len()], [0.0]);
                quantise(isa, book, &values, &mut codes, &mut scales);
                assert_eq!(scales[0].to_bits(), scale.to_bits());
                for (&value, &code) in values.iter().zip(&codes) {
                    let y = f64::from(value) / f64::from(scale);
                    let right = nearest_code(book, y).is_none_or(|nearest| nearest == code);
                    assert!(
                        right,
                        "{book:?} {y:e} on {}: {code}, not {:?}",
                        isa.name(),
                        nearest_code(book, y)
                    );
                }
            }
        }
    }
}

#[test]
fn books_ascend_and_what_a_code_stands_for_gets_that_code() {
    for book in [Book::Signed, Book::Unsigned] {
        assert!(book.codes().is_sorted_by(|a, b| a < b), "{book:?}");
        let (mut codes, mut scales) = (vec![0; 256], [0.0]);
        quantise(InstructionSet::detect(), book, book.codes(), &mut codes, &mut scales);
        assert!(codes.iter().copied().eq(0..=u8::MAX), "{book:?}: {codes:?}");
    }
    assert_eq!((Book::Signed.codes()[127], Book::Unsigned.codes()[0]), (0.0, 0.0));
    assert!(
        Book::Signed.codes()[..127]
            .iter()
            .zip(Book::Signed.codes()[128..255].iter().rev())
            .all(|(a, b)| a.to_bits() == (-b).to_bits())
    );
}

#[test]
fn zeros_have_the_scale_zero_and_what_is_not_finite_makes_its_block_nan() {
    for isa in InstructionSet::available() {
        for (book, zero) in [(Book::Signed, 127), (Book::Unsigned, 0)] {
            for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                let mut values = vec![0.25; 700];
                values[..256].fill(0.0);
                values[300] = bad;
                let (mut codes, mut scales) = (vec![9; 700], vec![9.0; 3]);
                quantise(isa, book, &values, &mut codes, &mut scales);
                assert!(scales[1].is_nan(), "{scales:?}");
                assert_eq!([scales[0], scales[2]].map(f32::to_bits), [0.0, 0.25_f32].map(f32::to_bits));
                assert!(codes[..512].iter().all(|&code| code == zero) && codes[600] == 255);
                let mut out = vec![1.0; 700];
                dequantise(isa, book, &codes, &scales, &mut out);
                assert!(out[..256].iter().all(|&x| x == 0.0) && out[256..512].iter().all(|x| x.is_nan()));
                assert!(out[512..].iter().all(|x| x.to_bits() == 0.25_f32.to_bits()));
            }
        }
    }
}

#[test]
fn a_second_moment_in_a_lane_does_not_become_zero_unless_it_is() {
    let isa = InstructionSet::detect();
    let values = [0.0, 1e-30, 1e-7, 2e-7, 1.0];
    let (mut codes, mut scales) = ([9; 5], [0.0]);
    quantise(isa, Book::Unsigned, &values, &mut codes, &mut scales);
    assert_eq!(codes, [0, 0, 0, 1, 255]);
    Lane::Q8(Book::Unsigned, &mut codes, &mut scales).write(isa, 0, &values, Rounding::Nearest);
    assert_eq!(codes, [0, 1, 1, 1, 255]);
}

#[test]
fn conversions_on_every_instruction_set_give_the_bits_of_the_portable_ones() {
    let noise = |i: u32| f32::from_bits(i.wrapping_mul(2_654_435_761) & 0xbfff_ffff);
    let special = [f32::NAN, f32::INFINITY, -0.0, 1e-45, -1e-40, f32::MAX, 65_520.0, 65_519.0, 6e-8];
    let values: Vec<f32> = (0..2111).map(noise).chain(special).collect();
    let run = |isa| {
        let mut all: Vec<u32> = Vec::new();
        for kind in KINDS {
            for rounding in [Rounding::Nearest, Rounding::Stochastic { key: 3, first: 65_000 }] {
                let mut bits = vec![0; values.len()];
                round(isa, kind, rounding, &values, &mut bits);
                all.extend(bits.iter().map(|&bits| u32::from(bits)));
            }
        }
        for book in [Book::Signed, Book::Unsigned] {
            let finite: Vec<f32> = values.iter().filter(|x| x.is_finite()).map(|x| x.abs().sqrt()).collect();
            let (mut codes, mut scales) = (vec![0; finite.len()], vec![0.0; finite.len().div_ceil(256)]);
            quantise(isa, book, &finite, &mut codes, &mut scales);
            all.extend(codes.iter().map(|&code| u32::from(code)).chain(scales.iter().map(|x| x.to_bits())));
            let mut out = vec![0.0; codes.len()];
            dequantise(isa, book, &codes, &scales, &mut out);
            all.extend(out.iter().map(|x| x.to_bits()));
        }
        all
    };
    let portable = run(InstructionSet::portable());
    for isa in InstructionSet::available() {
        assert_eq!(run(isa), portable, "{}", isa.name());
    }
}

/// Where the choice of a code changes, AVX-512 finds the decade in another way.
#[test]
fn codes_next_to_each_border_are_the_same_on_every_instruction_set() {
    let lines = [&super::q8::SIGNED_LINES, &super::q8::UNSIGNED_LINES];
    let codes = [Book::Signed, Book::Unsigned].into_iter().flat_map(Book::codes).copied();
    let borders = lines.into_iter().flat_map(|lines| lines.from).chain(codes).filter(|y| *y > 0.0);
    let near = |y: f32| (0..9).map(move |ulp| f32::from_bits(y.to_bits() + ulp - 4));
    let magnitudes: Vec<f32> =
        borders.flat_map(near).chain([0.0, 1e-45, 1e-20]).filter(|y| *y <= 1.0).collect();
    let values: Vec<f32> = magnitudes.iter().flat_map(|&y| [y, -y]).collect();
    for (book, keep) in [(Book::Signed, false), (Book::Unsigned, false), (Book::Unsigned, true)] {
        let run = |isa: InstructionSet, scale: f32| {
            // 255 of them, so that the last ones of a block are no sixteen.
            let blocks = values.chunks(254).map(|block| {
                let values: Vec<f32> = [scale].into_iter().chain(block.iter().map(|y| y * scale)).collect();
                let (mut codes, mut scales) = (vec![0; values.len()], [0.0]);
                let (of, to) = (&values, &mut codes);
                isa.convert(Conversion::Quantise { book, keep, values: of, codes: to, scales: &mut scales });
                codes
            });
            blocks.collect::<Vec<_>>()
        };
        for scale in [1.0, 0.7, 3e-29, 5e-33] {
            let portable = run(InstructionSet::portable(), scale);
            for isa in InstructionSet::available() {
                assert!(run(isa, scale) == portable, "{book:?} {keep} {scale:e} {}", isa.name());
            }
        }
    }
}

#[test]
fn lanes_read_and_split_where_blocks_of_codes_do_not_end() {
    let isa = InstructionSet::detect();
    let values: Vec<f32> = (0..1000_u16).map(f32::from).collect();
    let (mut codes, mut scales) = (vec![0; 1000], vec![0.0; 4]);
    let mut lane = Lane::Q8(Book::Unsigned, &mut codes, &mut scales);
    lane.write(isa, 0, &values, Rounding::Nearest);
    let mut whole = vec![0.0; 1000];
    lane.read(isa, 0, &mut whole);
    for range in [0..1, 200..300, 255..257, 256..1000, 700..999, 999..1000] {
        let mut part = vec![0.0; range.len()];
        lane.read(isa, range.start, &mut part);
        assert_eq!(part, whole[range.clone()], "{range:?}");
    }
    let mut rest = lane.reborrow().part(256..900);
    let head = rest.split_off(512);
    for (lane, range) in [(head, 256..768), (rest, 768..900)] {
        let mut part = vec![0.0; range.len()];
        lane.read(isa, 0, &mut part);
        assert_eq!(part, whole[range]);
    }
}

/// Values of all exponents, and many of random bits.
fn many_values() -> Vec<f32> {
    let random = (0..100_000_u64).map(|i| f32::from_bits((crate::splitmix::mix(i) >> 32) as u32));
    let near_one =
        (0..100_000_u64).map(|i| f32::from_bits(0x3f00_0000 + (crate::splitmix::mix(i) >> 39) as u32));
    let take = if cfg!(miri) { 300 } else { usize::MAX };
    patterns().into_iter().chain(random.take(take)).chain(near_one.take(take)).collect()
}

/// The bound of `round_compensated`.
fn compensated_bound(kind: Half, value: f32) -> f64 {
    let exponent = (f64::from(value).abs().to_bits() >> 52) as i32 - 1023;
    let (last, least) = if kind == Half::Bf16 { (17, -134) } else { (23, -25) };
    power((exponent - last).max(least))
}

/// A power of two by its bits: those of the standard library are not exact under Miri.
fn power(exponent: i32) -> f64 {
    f64::from_bits(u64::try_from(exponent + 1023).unwrap() << 52)
}

#[test]
#[expect(clippy::float_cmp, reason = "what is exact is compared as such")]
fn compensated_values_are_the_nearest_and_come_back_within_the_bound_on_every_instruction_set() {
    let values = many_values();
    let n = values.len();
    for kind in KINDS {
        let largest = if kind == Half::Bf16 { f64::from(f32::MAX) * 0.999 } else { 65_504.0 };
        let mut of_portable = None;
        for isa in InstructionSet::available() {
            let (mut bits, mut lost, mut back) = (vec![0; n], vec![0; n], vec![0.0; n]);
            round_compensated(isa, kind, &values, &mut bits, &mut lost);
            widen_compensated(isa, kind, &bits, &lost, &mut back);
            let mut nearest = vec![0; n];
            round(isa, kind, Rounding::Nearest, &values, &mut nearest);
            assert_eq!(bits, nearest, "{kind:?} alone");
            for (((&value, &bits), &lost), &back) in values.iter().zip(&bits).zip(&lost).zip(&back) {
                let what = || format!("{kind:?} of {value:e}: {bits:04x} and {lost:04x} are {back:e}");
                let (param, rest) = (wide_by_half(kind, bits), wide_by_half(kind, lost));
                if !param.is_finite() {
                    let same = back == param || (back.is_nan() && value.is_nan());
                    assert!(lost == 0 && same, "{}", what());
                    continue;
                }
                assert_eq!(f64::from(back), f64::from(param) + f64::from(rest), "exact: {}", what());
                assert_eq!(nearest_by_half(kind, value - param), lost, "{}", what());
                let error = (f64::from(value) - f64::from(back)).abs();
                assert!(
                    error <= compensated_bound(kind, value) || f64::from(value).abs() > largest,
                    "{}",
                    what()
                );
                assert!(value != 0.0 || back.to_bits() == value.to_bits(), "the sign of 0: {}", what());
            }
            let found = (bits, lost, back.iter().map(|x| x.to_bits()).collect::<Vec<_>>());
            assert!(*of_portable.get_or_insert_with(|| found.clone()) == found, "{}", isa.name());
        }
    }
}

/// The bound is reached by some value, so that it is not a loose one.
#[test]
#[expect(clippy::float_cmp, reason = "what is exact is compared as such")]
fn compensated_values_do_reach_their_bound() {
    let isa = InstructionSet::portable();
    for (kind, value) in [
        (Half::Bf16, 1.0 + 1.0 / 512.0 + 1.0 / 131_072.0),
        (Half::F16, 1.0 + 1.0 / 4096.0 + 1.0 / 8_388_608.0),
    ] {
        let (mut bits, mut lost, mut back) = ([0], [0], [0.0]);
        round_compensated(isa, kind, &[value], &mut bits, &mut lost);
        widen_compensated(isa, kind, &bits, &lost, &mut back);
        assert_eq!(f64::from((value - back[0]).abs()), compensated_bound(kind, value), "{kind:?}");
    }
}

#[test]
fn compensated_values_that_are_split_once_more_keep_their_sum() {
    let (isa, values) = (InstructionSet::detect(), many_values());
    let n = values.len();
    for kind in KINDS {
        let (mut bits, mut lost, mut once, mut twice) = (vec![0; n], vec![0; n], vec![0.0; n], vec![0.0; n]);
        round_compensated(isa, kind, &values, &mut bits, &mut lost);
        widen_compensated(isa, kind, &bits, &lost, &mut once);
        round_compensated(isa, kind, &once, &mut bits, &mut lost);
        widen_compensated(isa, kind, &bits, &lost, &mut twice);
        for (once, twice) in once.iter().zip(&twice) {
            assert!(
                once.to_bits() == twice.to_bits() || once.is_nan() && twice.is_nan(),
                "{once:e} {twice:e}"
            );
        }
    }
}

#[test]
fn compensated_lanes_in_parts_and_chunks_are_those_in_one_piece() {
    let isa = InstructionSet::detect();
    let n = 2 * CHUNK_LEN + 77;
    let values: Vec<f32> = many_values().into_iter().filter(|x| x.abs() < 6e4).take(n).collect();
    let n = values.len();
    let grad = vec![0.0; n];
    let double = |param: &mut [f32], _: &[f32], _: &mut [&mut [f32]]| {
        for x in param.iter_mut() {
            *x *= 1.25;
        }
        param.len() as u64
    };
    for kind in KINDS {
        let run = |parts: &[usize]| {
            let (mut bits, mut lost) = (vec![0; n], vec![0; n]);
            let mut all = Lane::Compensated(kind, &mut bits, &mut lost);
            all.write(isa, 0, &values, Rounding::Stochastic { key: 1, first: 2 });
            for &len in parts {
                let part = all.split_off(len);
                let len = part.len();
                let mut lanes = [part];
                let count =
                    in_f32(isa, &mut lanes, &grad[..len], Rounding::Stochastic { key: 3, first: 4 }, double);
                assert_eq!(count, len as u64);
            }
            assert!(all.is_empty());
            (bits, lost)
        };
        let whole = run(&[n]);
        assert_eq!(run(&[1, 31, 1024, 500, usize::MAX]), whole);
        let (mut bits, mut lost) = whole;
        let mut read = vec![0.0; 50];
        Lane::Compensated(kind, &mut bits, &mut lost).part(100..n - 3).read(isa, 7, &mut read);
        for (&read, &value) in read.iter().zip(&values[107..]) {
            let expected = f64::from(value) * 1.25;
            let bound = 3.0 * compensated_bound(kind, value).max(f64::from(value).abs() / 1e7);
            assert!((f64::from(read) - expected).abs() <= bound, "{read:e} of {value:e}");
        }
    }
    let (mut a, mut b) = ([0; 3], [0; 3]);
    let mixed = Lane::Half(Half::Bf16, &mut a).compensated_by(Lane::Half(Half::F16, &mut b));
    assert!(mixed.is_empty(), "two kinds make none");
}

/// Chunks and their ends change nothing: the rule sees what the lanes stand for, and what it leaves is rounded once.
#[test]
fn a_rule_over_lanes_leaves_what_rounding_its_results_gives() {
    let isa = InstructionSet::portable();
    let rounding = Rounding::Stochastic { key: 5, first: 300 };
    for len in [1, 256, 1023, 1024, 1025, 2300] {
        let values: Vec<f32> = (0..2300_u16).take(len).map(|i| f32::from(i).sin()).collect();
        let mut bits = vec![0; len];
        round(isa, Half::Bf16, Rounding::Nearest, &values, &mut bits);
        let (mut codes, mut scales) = (vec![0; len], vec![0.0; len.div_ceil(256)]);
        quantise(isa, Book::Signed, &values, &mut codes, &mut scales);
        let (mut param, mut state) = (vec![0.0; len], vec![0.0; len]);
        widen(isa, Half::Bf16, &bits, &mut param);
        dequantise(isa, Book::Signed, &codes, &scales, &mut state);
        let rule = |param: &mut [f32], grad: &[f32], state: &mut [&mut [f32]]| {
            for ((p, g), s) in param.iter_mut().zip(grad).zip(state[0].iter_mut()) {
                *s = 0.9 * *s + g;
                *p -= 0.01 * *s;
            }
            param.len() as u64
        };
        rule(&mut param, &values, &mut [&mut state]);
        let mut expected = vec![0; len];
        round(isa, Half::Bf16, rounding, &param, &mut expected);
        let (mut of_codes, mut of_scales) = (codes.clone(), scales.clone());
        Lane::Q8(Book::Signed, &mut of_codes, &mut of_scales).write(isa, 0, &state, Rounding::Nearest);
        let mut lanes = [Lane::Half(Half::Bf16, &mut bits), Lane::Q8(Book::Signed, &mut codes, &mut scales)];
        assert_eq!(in_f32(isa, &mut lanes, &values, rounding, rule), len as u64);
        assert_eq!((&bits, &codes), (&expected, &of_codes), "{len} elements");
        assert!(scales.iter().zip(&of_scales).all(|(a, b)| a.to_bits() == b.to_bits()));
    }
}
