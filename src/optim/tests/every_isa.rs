//! Every instruction set gives the bits of the portable kernels, for every rule and choice of hyperparameters.

use proptest::prelude::*;

use super::super::*;
use super::Tensor;

/// The choices that select another kernel.
const CHOICES: [(&str, &str, &str); 10] = [
    ("weight_decay", "0", "0.03"),
    ("maximize", "off", "on"),
    ("momentum", "0", "0.9"),
    ("dampening", "0", "0.4"),
    ("nesterov", "off", "on"),
    ("centered", "off", "on"),
    ("amsgrad", "off", "on"),
    ("decoupled_weight_decay", "off", "on"),
    ("beta1", "0.9", "0.3"),
    ("alpha", "0.99", "0.4"),
];

/// Every rule with every valid combination of choices.
pub(super) fn variants() -> Vec<Optimizer> {
    let mut all = Vec::new();
    for name in Optimizer::NAMES {
        let mut variants = vec![Optimizer::from_name(name).unwrap()];
        for (key, first, second) in CHOICES {
            if !variants[0].settings().iter().any(|&(known, _)| known == key) {
                continue;
            }
            variants = variants
                .into_iter()
                .flat_map(|variant| {
                    [first, second].map(|value| {
                        let mut variant = variant;
                        variant.set(key, value).unwrap();
                        variant
                    })
                })
                .collect();
        }
        all.extend(variants.into_iter().filter(|variant| variant.validate().is_ok()));
    }
    all
}

const SPECIAL: [f32; 20] = [
    0.0,
    -0.0,
    f32::NAN,
    f32::INFINITY,
    f32::NEG_INFINITY,
    1e-45,
    -1e-45,
    1.175_494_2e-38, // the largest subnormal
    -1.175_494_2e-38,
    f32::MIN_POSITIVE,
    f32::MAX,
    f32::MIN,
    1e20,
    -1e20,
    1e-20,
    1e-30,
    1.0,
    -1.0,
    1e-3,
    -7.5,
];

/// Values from a counter: special ones, any bits, and normal ones of usual size.
pub(super) struct Source(pub(super) u64);

impl Source {
    pub(super) fn bits(&mut self) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        u32::try_from(self.0 >> 32).unwrap()
    }

    fn value(&mut self) -> f32 {
        match self.bits() % 4 {
            0 => SPECIAL[self.bits() as usize % SPECIAL.len()],
            1 => f32::from_bits(self.bits()),
            _ => f32::from_bits(self.bits() >> 9 | 0x3f80_0000) * 2.0 - 3.0,
        }
    }

    /// A positive number of any size, or a special one.
    pub(super) fn scale(&mut self) -> f32 {
        match self.bits() % 8 {
            0 => [0.0, f32::NAN, 1e-38, 1e30][self.bits() as usize % 4],
            _ => self.value().abs().clamp(1e-20, 1e3),
        }
    }

    pub(super) fn values(&mut self, len: usize) -> Vec<f32> {
        (0..len).map(|_| self.value()).collect()
    }
}

/// Takes some steps on a part of arbitrary planes, so that it begins at any place of a vector.
fn run(
    rule: &Optimizer,
    isa: InstructionSet,
    len: usize,
    offset: usize,
    steps: u64,
    seed: u64,
) -> (Vec<u32>, u32) {
    let mut source = Source(seed | 1);
    let mut tensor = Tensor::new(rule, &source.values(len));
    tensor.clock.steps = seed % 7;
    for plane in &mut tensor.planes {
        *plane = source.values(plane.len());
    }
    // The planes move to an offset of their own each.
    let mut at = |values: &[f32]| {
        let mut padded = source.values(offset);
        padded.extend(values);
        padded
    };
    tensor.param = at(&tensor.param);
    for plane in &mut tensor.planes {
        *plane = at(plane);
    }
    for _ in 0..steps {
        let grad = source.values(len + 1);
        let mut state: Vec<&mut [f32]> = tensor.planes.iter_mut().map(|plane| &mut plane[offset..]).collect();
        rule.update(isa, &mut tensor.clock, &mut tensor.param[offset..], &grad[1..], &mut state).unwrap();
    }
    (tensor.bits(), tensor.clock.mu_product.to_bits())
}

#[test]
fn the_choices_cover_every_kernel() {
    let variants = variants();
    let count = |name: &str| variants.iter().filter(|variant| variant.name() == name).count();
    assert_eq!(Optimizer::NAMES.map(count), [20, 4, 4, 32, 16, 16, 8, 16, 16, 4, 4, 2]);
}

#[test]
fn every_length_up_to_some_vectors_gives_the_portable_bits() {
    for rule in variants() {
        for len in 0..=67 {
            let want = run(&rule, InstructionSet::portable(), len, 0, 3, len as u64 * 2 + 1);
            for isa in InstructionSet::available() {
                let got = run(&rule, isa, len, 0, 3, len as u64 * 2 + 1);
                assert_eq!(got, want, "{len} elements on {} by {rule:?}", isa.name());
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_length_offset_and_values_give_the_portable_bits(
        len in 0_usize..300,
        offset in 0_usize..17,
        steps in 1_u64..9,
        seed in any::<u64>(),
    ) {
        for rule in variants() {
            let want = run(&rule, InstructionSet::portable(), len, offset, steps, seed);
            for isa in InstructionSet::available() {
                prop_assert_eq!(&run(&rule, isa, len, offset, steps, seed), &want, "{} by {:?}", isa.name(), rule);
            }
        }
    }
}
