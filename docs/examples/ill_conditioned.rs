//! A quadratic of condition 10,000 with a known optimum, minimised by AdamW with parameters and moments in few bits.
//!
//! ```text
//! f(x) = 1/2 * sum of w_i * (H (x - x*))_i^2, w_i from 1 down to 1e-4, H the Hadamard matrix of 4,096 rows over 64
//! ```
//!
//! `H` mixes all coordinates, so that no scaling of single ones makes it easy. Prints, for each form of the state, how much
//! of the loss is left at some steps: the median and the range over seeds. docs/PRECISION.md shows a run with five seeds.
//!
//! `cargo run --release --example ill_conditioned -- 5`

#![expect(clippy::cast_precision_loss, reason = "counts are small")]

use paramstore::optim::{AdamW, Optimizer, TensorClock};
use paramstore::precision::{Book, Half, Lane, Rounding, round};
use paramstore::{InstructionSet, Result};

const N: usize = 4096;
const STEPS: u64 = 4000;
const SHOWN: [u64; 5] = [250, 500, 1000, 2000, 4000];

/// How parameters are kept.
#[derive(Clone, Copy, PartialEq)]
enum Params {
    F32,
    Bf16Nearest,
    Bf16Stochastic,
    Bf16Compensated,
}

/// How moments are kept.
#[derive(Clone, Copy, PartialEq)]
enum Moments {
    F32,
    Bf16,
    Q8,
}

const FORMS: [(&str, Params, Moments); 9] = [
    ("f32", Params::F32, Moments::F32),
    ("f32, moments bf16", Params::F32, Moments::Bf16),
    ("f32, moments q8", Params::F32, Moments::Q8),
    ("bf16 to the nearest", Params::Bf16Nearest, Moments::F32),
    ("bf16 (--state bf16)", Params::Bf16Stochastic, Moments::Bf16),
    ("compact (--state compact)", Params::Bf16Stochastic, Moments::Q8),
    ("bf16 kahan, moments f32", Params::Bf16Compensated, Moments::F32),
    ("bf16-kahan", Params::Bf16Compensated, Moments::Bf16),
    ("compact-kahan", Params::Bf16Compensated, Moments::Q8),
];

/// The fast Hadamard transform, scaled so that it is its own inverse.
fn hadamard(x: &mut [f32]) {
    let mut width = 1;
    while width < x.len() {
        for pair in x.chunks_mut(2 * width) {
            let (a, b) = pair.split_at_mut(width);
            for (a, b) in a.iter_mut().zip(b) {
                (*a, *b) = (*a + *b, *a - *b);
            }
        }
        width *= 2;
    }
    for x in x {
        *x /= 64.0;
    }
}

/// Values about 1 of both signs, from a generator of Weyl and SplitMix.
fn values(seed: u64) -> Vec<f32> {
    let value = |i: u64| {
        let mut z = (seed << 32 | i).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z >> 40) as f32 / (1 << 24) as f32 - 0.5) * 3.46
    };
    (0..N as u64).map(value).collect()
}

/// A plane and the form in which it is kept.
enum Plane {
    F32(Vec<f32>),
    Bf16(Vec<u16>),
    Q8(Book, Vec<u8>, Vec<f32>),
    Compensated(Vec<u16>, Vec<u16>),
}

impl Plane {
    fn moments(form: Moments, book: Book) -> Self {
        match form {
            Moments::F32 => Self::F32(vec![0.0; N]),
            Moments::Bf16 => Self::Bf16(vec![0; N]),
            Moments::Q8 => {
                let zero = if book == Book::Signed { 127 } else { 0 };
                Self::Q8(book, vec![zero; N], vec![0.0; N / 256])
            }
        }
    }

    fn lane(&mut self) -> Lane<'_> {
        match self {
            Self::F32(values) => Lane::F32(values),
            Self::Bf16(bits) => Lane::Half(Half::Bf16, bits),
            Self::Q8(book, codes, scales) => Lane::Q8(*book, codes, scales),
            Self::Compensated(bits, lost) => Lane::Compensated(Half::Bf16, bits, lost),
        }
    }

    fn values(&self) -> Vec<f32> {
        match self {
            Self::F32(values) => values.clone(),
            // Gradients are those of the parameters alone, as a forward pass reads them.
            Self::Bf16(bits) | Self::Compensated(bits, _) => {
                bits.iter().map(|&bits| f32::from_bits(u32::from(bits) << 16)).collect()
            }
            Self::Q8(..) => Vec::new(),
        }
    }
}

/// The share of the first loss that is left at the steps of `SHOWN`.
fn run(params: Params, moments: Moments, seed: u64) -> Result<Vec<f64>> {
    let isa = InstructionSet::detect();
    let optimum = values(seed);
    let weights: Vec<f32> = (0..N).map(|i| 1e-4_f32.powf(i as f32 / (N - 1) as f32)).collect();
    let start = values(seed + 1000);
    let mut param = if params == Params::F32 {
        Plane::F32(start)
    } else {
        let mut bits = vec![0; N];
        round(isa, Half::Bf16, Rounding::Nearest, &start, &mut bits);
        if params == Params::Bf16Compensated {
            Plane::Compensated(bits, vec![0; N])
        } else {
            Plane::Bf16(bits)
        }
    };
    let mut first = Plane::moments(moments, Book::Signed);
    let mut second = Plane::moments(moments, Book::Unsigned);
    let mut clock = TensorClock::default();
    let (mut left, mut begin) = (Vec::new(), 0.0);
    for step in 0..=STEPS {
        let mut grad: Vec<f32> = param.values().iter().zip(&optimum).map(|(x, best)| x - best).collect();
        hadamard(&mut grad);
        let loss: f64 =
            grad.iter().zip(&weights).map(|(y, w)| 0.5 * f64::from(*w) * f64::from(*y).powi(2)).sum();
        if step == 0 {
            begin = loss;
        }
        if SHOWN.contains(&step) {
            left.push(loss / begin);
        }
        grad.iter_mut().zip(&weights).for_each(|(y, w)| *y *= w);
        hadamard(&mut grad);
        let lr = 0.02 * 0.5 * (1.0 + (std::f64::consts::PI * step as f64 / STEPS as f64).cos());
        let optimizer = Optimizer::AdamW(AdamW { lr, weight_decay: 0.0, ..AdamW::default() });
        let rounding = match params {
            Params::Bf16Stochastic => Rounding::Stochastic { key: seed << 32 | step, first: 0 },
            _ => Rounding::Nearest,
        };
        let mut lanes = [param.lane(), first.lane(), second.lane()];
        optimizer.update_lanes(isa, &mut clock, &mut lanes, &grad, rounding)?;
    }
    Ok(left)
}

fn main() -> Result<()> {
    let seeds = std::env::args().nth(1).and_then(|seeds| seeds.parse().ok()).unwrap_or(1);
    print!("{:26}", "loss left after steps");
    for step in SHOWN {
        print!("{step:>28}");
    }
    println!();
    for (name, params, moments) in FORMS {
        let runs = (0..seeds).map(|seed| run(params, moments, seed)).collect::<Result<Vec<_>>>()?;
        print!("{name:26}");
        for at in 0..SHOWN.len() {
            let mut left: Vec<_> = runs.iter().map(|run| run[at]).collect();
            left.sort_by(f64::total_cmp);
            print!(
                "{:>10.1e} {:>17}",
                left[left.len() / 2],
                format!("({:.1e}..{:.1e})", left[0], left[left.len() - 1])
            );
        }
        println!();
    }
    Ok(())
}
