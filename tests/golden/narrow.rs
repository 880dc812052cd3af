//! The files of 16-bit and 8-bit numbers: rounding, stochastic rounding, code books.

use std::path::Path;

use paramstore::InstructionSet;
use paramstore::precision::{Book, Half, Rounding, bf16_stochastic, dequantise, quantise, round, widen};
use safetensors::tensor::SafeTensors;

use super::case::{self, Arrays, Outcome};

/// Elements that share a scale.
const BLOCK: usize = 256;

/// Distance in units of the last place of the expected value.
fn ulps(got: f32, expected: f32) -> u32 {
    let ordered = |x: f32| {
        let bits = i64::from(x.to_bits() & 0x7fff_ffff);
        if x.is_sign_negative() { -bits } else { bits }
    };
    u32::try_from((ordered(got) - ordered(expected)).abs()).unwrap_or(u32::MAX)
}

fn close(what: &str, got: &[f32], expected: &[f32]) -> Outcome<()> {
    let far = got.iter().zip(expected).position(|(&got, &expected)| ulps(got, expected) > 2);
    match far {
        None if got.len() == expected.len() => Ok(()),
        at => Err(format!("{what}: {} values, the one at {at:?} is more than 2 ulp off", got.len())),
    }
}

fn quantise8(arrays: &Arrays<'_>, isa: InstructionSet) -> Outcome<()> {
    for (book, name) in [(Book::Signed, "signed"), (Book::Unsigned, "unsigned")] {
        let of = |what: &str| format!("{what}_{name}");
        close(&of("code"), book.codes(), &arrays.f32(&of("code"))?)?;
        let values = arrays.f32(&of("x"))?;
        let (mut codes, mut scales) = (vec![0; values.len()], vec![0.0; values.len().div_ceil(BLOCK)]);
        quantise(isa, book, &values, &mut codes, &mut scales);
        let expected = arrays.u8(&of("q"))?;
        if let Some(at) = codes.iter().zip(&expected).position(|(got, expected)| got != expected) {
            return Err(format!("q_{name}[{at}] is {}, expected {}", codes[at], expected[at]));
        }
        let bits = |values: &[f32]| values.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        if bits(&scales) != bits(&arrays.f32(&of("absmax"))?) {
            return Err(format!("absmax_{name} is {scales:?}"));
        }
        let mut back = vec![0.0; values.len()];
        dequantise(isa, book, &codes, &scales, &mut back);
        close(&of("dequant"), &back, &arrays.f32(&of("dequant"))?)?;
    }
    Ok(())
}

fn bf16_round(arrays: &Arrays<'_>, isa: InstructionSet) -> Outcome<()> {
    let values: Vec<f32> = arrays.u32("f32_bits")?.into_iter().map(f32::from_bits).collect();
    let expected = arrays.u16("bf16_bits")?;
    let mut bits = vec![0; values.len()];
    round(isa, Half::Bf16, Rounding::Nearest, &values, &mut bits);
    let mut wide = vec![0.0; bits.len()];
    widen(isa, Half::Bf16, &bits, &mut wide);
    let right = |at: usize| if values[at].is_nan() { wide[at].is_nan() } else { bits[at] == expected[at] };
    match (0..values.len()).find(|&at| !right(at)) {
        None => Ok(()),
        Some(at) => {
            Err(format!("bf16 of {:e} is {:04x}, expected {:04x}", values[at], bits[at], expected[at]))
        }
    }
}

fn bf16_stochastic_all(arrays: &Arrays<'_>, isa: InstructionSet) -> Outcome<()> {
    let wide = |bits: u16| f64::from(f32::from_bits(u32::from(bits) << 16));
    let (toward, away) = (arrays.u16("toward")?, arrays.u16("away")?);
    let (count, bound) = (arrays.u32("away_count")?, arrays.f64("mean_bound")?);
    for (at, bits) in arrays.u32("f32_bits")?.into_iter().enumerate() {
        let value = f32::from_bits(bits);
        let mut got = 0;
        for random in 0..=u16::MAX {
            let rounded = bf16_stochastic(value, random);
            if rounded != toward[at] && rounded != away[at] {
                return Err(format!("{value:e} by {random:04x} is {rounded:04x}"));
            }
            got += u32::from(rounded == away[at] && away[at] != toward[at]);
        }
        if got != count[at] {
            return Err(format!("{value:e} goes away {got} times, expected {}", count[at]));
        }
        // The bits that a store draws, for as many elements.
        let mut drawn = vec![0; 1 << 16];
        let rounding = Rounding::Stochastic { key: at as u64, first: 0 };
        round(isa, Half::Bf16, rounding, &vec![value; 1 << 16], &mut drawn);
        let mean = drawn.iter().map(|&bits| wide(bits)).sum::<f64>() / 65_536.0;
        if (mean - f64::from(value)).abs() > bound[at] {
            return Err(format!("the mean of {value:e} is {mean:e}, bound {:e}", bound[at]));
        }
    }
    Ok(())
}

/// Runs the files of a folder; returns how many there were of each kind.
pub(crate) fn run(dir: &Path) -> Outcome<[usize; 3]> {
    let mut counts = [0; 3];
    for path in case::files(dir)? {
        let bytes = std::fs::read(&path).map_err(|error| error.to_string())?;
        let kind = case::kind(&bytes)?;
        let (count, run): (_, fn(&Arrays<'_>, InstructionSet) -> Outcome<()>) = match kind.as_str() {
            "quantise8" => (&mut counts[0], quantise8),
            "bf16_round" => (&mut counts[1], bf16_round),
            "bf16_stochastic" => (&mut counts[2], bf16_stochastic_all),
            _ => continue,
        };
        *count += 1;
        let tensors = SafeTensors::deserialize(&bytes).map_err(|error| error.to_string())?;
        for isa in InstructionSet::available() {
            let failed = |error| format!("{} on {}: {error}", path.display(), isa.name());
            run(&Arrays(&tensors), isa).map_err(failed)?;
        }
    }
    Ok(counts)
}
