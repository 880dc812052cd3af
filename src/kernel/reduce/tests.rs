//! Reductions against their definitions written out slowly, and instruction sets against each other.

use proptest::prelude::*;

use super::*;

/// The definition of the tree: halves of a power of two, absent leaves being zero.
fn tree(leaves: &[f64]) -> f64 {
    match leaves.len().next_power_of_two() {
        1 => leaves.first().copied().unwrap_or(0.0),
        width => {
            let (left, right) = leaves.split_at(leaves.len().min(width / 2));
            tree_of(left, width / 2) + tree_of(right, width / 2)
        }
    }
}

fn tree_of(leaves: &[f64], width: usize) -> f64 {
    let mut padded = leaves.to_vec();
    padded.resize(width, 0.0);
    if width == 1 { padded[0] } else { tree(&padded) }
}

/// The definition of a leaf: lane by lane, then the lanes in a tree that adds far neighbours first.
fn leaf(values: &[f32]) -> f64 {
    let lane = |j| values.iter().skip(j).step_by(16).fold(0.0, |sum, &x| sum + f64::from(x) * f64::from(x));
    let mut lanes: Vec<f64> = (0..16).map(lane).collect();
    while lanes.len() > 1 {
        let half = lanes.len() / 2;
        lanes = (0..half).map(|j| lanes[j] + lanes[j + half]).collect();
    }
    lanes[0]
}

/// Values from a counter: mostly normal ones of sizes so different that the order of their sum shows, some
/// subnormals, and special ones if asked for.
fn values(len: usize, seed: u64, special: bool) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        u32::try_from(state >> 32).unwrap()
    };
    (0..len)
        .map(|_| match next() % 16 {
            0 if special => f32::from_bits(next()),
            1 if special => [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -0.0][next() as usize % 4],
            2 => f32::from_bits(next() & 0x807f_ffff),
            // Both signs, 2^-20 to 2^20.
            kind => f32::from_bits(next() & 0x807f_ffff | (107 + 40 * (kind % 2) + next() % 3) << 23),
        })
        .collect()
}

fn same(a: f64, b: f64) -> bool {
    a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan())
}

fn canonical(values: &[f32]) -> Vec<u32> {
    values.iter().map(|x| if x.is_nan() { 0x7fc0_0000 } else { x.to_bits() }).collect()
}

#[test]
fn a_leaf_has_the_defined_sum_at_every_length_on_every_instruction_set() {
    let all: Vec<usize> = (0..=3 * 16 + 1).chain([63, 64, 65, 1_000, 1_023, LEAF_LEN]).collect();
    let few = [0, 1, 15, 16, 17, 65];
    for &len in if cfg!(miri) { &few[..] } else { &all } {
        for special in [false, true] {
            let data = values(len + 3, len as u64 + 1, special);
            for offset in 0..=3 {
                let run = &data[offset..offset + len];
                for isa in InstructionSet::available() {
                    let got = sum_of_squares_leaf(isa, run);
                    assert!(same(got, leaf(run)), "{len} elements on {}: {got:e}", isa.name());
                }
            }
        }
    }
}

#[test]
fn a_tree_has_the_defined_sum_for_every_number_of_leaves() {
    for count in (0..=70).step_by(if cfg!(miri) { 10 } else { 1 }) {
        let leaves: Vec<f64> = values(count, 5, false).iter().map(|&x| f64::from(x) / 3.0).collect();
        let mut sum = TreeSum::new();
        for &leaf in &leaves {
            sum.push_leaf(leaf);
        }
        assert_eq!(sum.finish().to_bits(), tree(&leaves).to_bits(), "{count} leaves");
    }
}

#[test]
#[should_panic(expected = "cannot begin at leaf 2")]
fn a_node_that_does_not_begin_at_a_multiple_of_its_size_is_refused() {
    let mut sum = TreeSum::new();
    sum.push_leaf(1.0);
    sum.push_leaf(1.0);
    sum.push_node(2, 1.0);
}

#[test]
fn sums_of_a_hundred_thousand_squares_are_near_the_exact_one() {
    let data = values(if cfg!(miri) { 2 * LEAF_LEN + 3 } else { 100_003 }, 9, false);
    // The errors of the additions are exact (D. E. Knuth's two-sum), and are added up apart.
    let (mut sum, mut error) = (0.0_f64, 0.0_f64);
    for &x in &data {
        let square = f64::from(x) * f64::from(x);
        let next = sum + square;
        let back = next - sum;
        error += (sum - (next - back)) + (square - back);
        sum = next;
    }
    let (got, exact) = (sum_of_squares(InstructionSet::detect(), &data), sum + error);
    assert!((got / exact - 1.0).abs() < 1e-15, "{got:e}, exactly {exact:e}");
}

#[test]
fn counts_of_non_finite_values_are_exact_beyond_one_chunk() {
    let all: Vec<usize> = (0..=100).chain([65_535, 65_536, 65_537, 200_001]).collect();
    let few = [0, 1, 31, 32, 100];
    for &len in if cfg!(miri) { &few[..] } else { &all } {
        let data = values(len, len as u64 + 7, true);
        let want = data.iter().filter(|x| !x.is_finite()).count() as u64;
        for isa in InstructionSet::available() {
            assert_eq!(count_non_finite(isa, &data), want, "{len} elements on {}", isa.name());
        }
    }
}

#[test]
fn a_gradient_is_divided_then_scaled_then_negated() {
    let data = values(203, 3, true);
    for (divisor, coefficient, negate) in [None, Some(3.0_f32)]
        .into_iter()
        .flat_map(|d| [None, Some(0.7_f32)].map(|c| (d, c)))
        .flat_map(|(d, c)| [(d, c, false), (d, c, true)])
    {
        let want: Vec<f32> = data
            .iter()
            .map(|&g| {
                let g = divisor.map_or(g, |divisor| g / divisor);
                let g = coefficient.map_or(g, |coefficient| g * coefficient);
                if negate { -g } else { g }
            })
            .collect();
        for isa in InstructionSet::available() {
            let mut got = vec![f32::NAN; data.len()];
            prepare_gradient(isa, &mut got, &data, Preparation { divisor, coefficient, negate });
            assert_eq!(canonical(&got), canonical(&want), "{divisor:?} {coefficient:?} {negate}");
        }
    }
}

#[test]
fn the_first_micro_batch_overwrites_and_later_ones_are_scaled_then_added() {
    let (first, second) = (values(203, 11, true), values(203, 12, true));
    let scale = 1.0_f32 / 3.0;
    let want: Vec<f32> = first.iter().zip(&second).map(|(a, b)| scale * a + scale * b).collect();
    for isa in InstructionSet::available() {
        let mut sum = vec![f32::NAN; first.len()];
        accumulate(isa, &mut sum, &first, scale, true);
        accumulate(isa, &mut sum, &second, scale, false);
        assert_eq!(canonical(&sum), canonical(&want), "{}", isa.name());
    }
}

proptest! {
    #[test]
    fn a_sum_does_not_depend_on_how_the_tensor_was_cut(
        leaves in 0_usize..if cfg!(miri) { 4 } else { 40 },
        rest in 0_usize..LEAF_LEN,
        cuts in prop::collection::vec(0_u32..5, 40),
        seed in any::<u64>(),
    ) {
        let isa = InstructionSet::detect();
        let data = values(leaves * LEAF_LEN + rest, seed, false);
        let mut sum = TreeSum::new();
        let (mut at, mut cuts) = (0, cuts.into_iter());
        while at < data.len() {
            // A block of the size asked for, or the largest one that may begin here.
            let position = u32::trailing_zeros(u32::try_from(at / LEAF_LEN).unwrap() | 1 << 10);
            let level = cuts.next().unwrap_or(0).min(position);
            let end = data.len().min(at + (LEAF_LEN << level));
            sum.push_node(level, sum_of_squares(isa, &data[at..end]));
            at = end;
        }
        let leaf_sums: Vec<f64> = data.chunks(LEAF_LEN).map(leaf).collect();
        prop_assert_eq!(sum.finish().to_bits(), sum_of_squares(isa, &data).to_bits());
        prop_assert_eq!(sum.finish().to_bits(), tree(&leaf_sums).to_bits());
    }

    #[test]
    fn a_sum_is_finite_exactly_if_every_element_is(len in 0_usize..3_000, seed in any::<u64>()) {
        let isa = InstructionSet::detect();
        let mut data = values(len, seed, true);
        if seed % 2 == 0 {
            data.retain(|x| x.is_finite());
        }
        prop_assert_eq!(sum_of_squares(isa, &data).is_finite(), count_non_finite(isa, &data) == 0);
    }
}
