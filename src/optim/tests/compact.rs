//! A rule over planes in bf16 and codes of 8 bits, in one pass, leaves what widening, updating and rounding one after the other
//! leave: for every rule and choice of hyperparameters, on every instruction set.

use super::super::*;
use super::every_isa::{Source, variants};
use crate::kernel::narrow::{self, Book, Half, Lane, Rounding};

#[derive(Clone)]
struct Planes {
    param: Vec<u16>,
    state: Vec<(Book, Vec<u8>, Vec<f32>)>,
}

impl Planes {
    /// Any codes and scales; what is never negative has the book for that.
    fn new(rule: &Optimizer, source: &mut Source, len: usize) -> Self {
        let mut wide = source.values(len);
        wide.iter_mut().filter(|x| !x.is_finite()).for_each(|x| *x = 0.5);
        let mut param = vec![0; len];
        narrow::round(InstructionSet::portable(), Half::Bf16, Rounding::Nearest, &wide, &mut param);
        let state = (0..rule.state_planes().len()).map(|number| {
            let book = if number == 0 { Book::Signed } else { Book::Unsigned };
            let codes = (0..len).map(|_| source.bits().to_le_bytes()[0]).collect();
            let scales = (0..len.div_ceil(256)).map(|_| source.scale()).collect();
            (book, codes, scales)
        });
        Self { state: state.collect(), param }
    }

    fn lanes(&mut self) -> Vec<Lane<'_>> {
        let state = self.state.iter_mut().map(|(book, codes, scales)| Lane::Q8(*book, codes, scales));
        [Lane::Half(Half::Bf16, &mut self.param)].into_iter().chain(state).collect()
    }

    /// Every bit, one pattern for all NaN.
    fn bits(&self) -> (Vec<u16>, Vec<Vec<u8>>, Vec<u32>) {
        let param = self.param.iter().map(|&x| if x & 0x7fff > 0x7f80 { 0x7fc0 } else { x }).collect();
        let scales = self.state.iter().flat_map(|(_, _, scales)| scales);
        let scales = scales.map(|x| if x.is_nan() { 0x7fc0_0000 } else { x.to_bits() }).collect();
        (param, self.state.iter().map(|(_, codes, _)| codes.clone()).collect(), scales)
    }
}

#[test]
fn one_pass_leaves_what_one_loop_after_another_leaves() {
    // Parts of vectors, of blocks and of chunks, and the end of a run of 2^16 elements at any place of them.
    let lens: [(usize, u64); 6] =
        [(1, 0), (33, 65_500), (255, 7), (256, 65_400), (1_300, 64_900), (2_400, 131_072 - 256)];
    let per_element = |rule: &Optimizer| {
        let planes = rule.state_planes();
        !planes.is_empty() && planes.iter().all(|plane| !plane.per_row)
    };
    let (each, lens) = if cfg!(miri) { (29, &lens[1..5]) } else { (1, &lens[..]) };
    for rule in variants().iter().filter(|rule| per_element(rule)).step_by(each) {
        for &(len, first) in lens {
            let mut source = Source(len as u64);
            let start = Planes::new(rule, &mut source, len);
            let grad = source.values(len);
            let (prepared, _) = rule.prepare(TensorClock { steps: 3, ..TensorClock::default() });
            let rounding = Rounding::Stochastic { key: 11, first };
            let portable = InstructionSet::portable();
            let mut expected = start.clone();
            let not_finite =
                narrow::in_f32(portable, &mut expected.lanes(), &grad, rounding, |param, grad, state| {
                    prepared.run(portable, param, grad, state)
                });
            assert_eq!(not_finite, grad.iter().filter(|x| !x.is_finite()).count() as u64);
            for isa in InstructionSet::available() {
                let mut got = start.clone();
                assert!(narrow::Compact::of(&mut got.lanes(), rounding).is_some(), "planes of another kind");
                let count = prepared.run_lanes(isa, &mut got.lanes(), &grad, rounding);
                assert!(
                    count == not_finite && got.bits() == expected.bits(),
                    "{len} elements from {first} on {} by {rule:?}",
                    isa.name()
                );
            }
        }
    }
}

#[test]
fn planes_of_another_kind_length_or_rounding_are_not_taken_in_one_pass() {
    let stochastic = Rounding::Stochastic { key: 1, first: 2 };
    let (mut param, mut codes, mut scales) = ([0; 3], [0; 4], [0.0; 1]);
    let mut is_taken = |kind, len: usize, rounding| {
        let state = Lane::Q8(Book::Signed, &mut codes[..len], &mut scales);
        narrow::Compact::of(&mut [Lane::Half(kind, &mut param), state], rounding).is_some()
    };
    assert!(is_taken(Half::Bf16, 3, stochastic));
    assert!(!is_taken(Half::F16, 3, stochastic));
    assert!(!is_taken(Half::Bf16, 3, Rounding::Nearest));
    assert!(!is_taken(Half::Bf16, 4, stochastic));
    assert!(!is_taken(Half::Bf16, 1, stochastic), "a row with one value of state");
    assert!(narrow::Compact::of(&mut [Lane::Half(Half::Bf16, &mut param)], stochastic).is_none());
    let mut f32 = [0.0; 3];
    let lanes = &mut [Lane::Half(Half::Bf16, &mut param), Lane::F32(&mut f32)];
    assert!(narrow::Compact::of(lanes, stochastic).is_none());
}

/// Its one value of state is as long as the row.
#[test]
fn a_row_of_one_element_is_updated_by_its_own_rule() {
    let rule = Optimizer::from_name("rowwiseadagrad").unwrap();
    let (prepared, _) = rule.prepare(TensorClock::default());
    let (mut param, mut codes, mut scales) = ([0x3f80], [0], [0.0]);
    let state = Lane::Q8(Book::Unsigned, &mut codes, &mut scales);
    let lanes = &mut [Lane::Half(Half::Bf16, &mut param), state];
    let rounding = Rounding::Stochastic { key: 1, first: 0 };
    assert_eq!(prepared.run_lanes(InstructionSet::detect(), lanes, &[3.0], rounding), 0);
    assert_eq!((codes, scales), ([255], [9.0]));
    assert_ne!(param, [0x3f80]);
}
