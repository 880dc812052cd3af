//! RADIX. In which order are these numbers? Batches of rows are too large for comparisons to sort them in passing.

use std::ops::Range;

use crate::units::to_usize;

/// Below this many, comparing is faster than counting.
const FEW: usize = 512;

/// Bits of a digit, at most: the counts of its values stay in the first level of the cache.
const DIGIT_BITS: u32 = 11;

/// Sorts numbers by some of their bits; those in which these are the same stay in the order in which they came.
pub(crate) fn sort_by_bits(numbers: &mut Vec<u64>, bits: Range<u32>) {
    let count = bits.end.saturating_sub(bits.start);
    if numbers.len() < FEW {
        let key = |number: &u64| number >> bits.start & mask(count);
        return numbers.sort_by_key(key);
    }
    let passes = count.div_ceil(DIGIT_BITS);
    let width = count.div_ceil(passes.max(1));
    let digit = |number: u64, pass: u32| {
        let shift = bits.start + pass * width;
        to_usize(number >> shift & mask(width.min(bits.end - shift)))
    };
    // Of each pass: where the next number with each digit goes.
    let mut places = vec![[0_usize; 1 << DIGIT_BITS]; to_usize(passes.into())];
    for &number in numbers.iter() {
        for (pass, places) in (0..).zip(&mut places) {
            places[digit(number, pass)] += 1;
        }
    }
    let mut other = vec![0; numbers.len()];
    for (pass, places) in (0..).zip(&mut places) {
        let mut before = 0;
        for place in places.iter_mut() {
            before += std::mem::replace(place, before);
        }
        for &number in numbers.iter() {
            let place = &mut places[digit(number, pass)];
            other[*place] = number;
            *place += 1;
        }
        std::mem::swap(numbers, &mut other);
    }
}

/// So many ones.
const fn mask(bits: u32) -> u64 {
    if bits >= u64::BITS { u64::MAX } else { (1 << bits) - 1 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::splitmix::mix;

    #[test]
    fn numbers_are_sorted_by_the_bits_named_and_nothing_else() {
        for len in [0, 1, 2, FEW - 1, FEW, 3000] {
            for bits in [0..0, 0..1, 3..4, 5..16, 5..17, 20..44, 0..63, 0..64, 33..64] {
                // Few different digits too, so that the order of equals shows.
                for spread in [u64::MAX, 0x0001_0400_0010_0421] {
                    let mut numbers: Vec<_> = (0..len as u64).map(|i| mix(i) & spread).collect();
                    let mut expected = numbers.clone();
                    let count = bits.end - bits.start;
                    expected
                        .sort_by_key(|number| u128::from(*number) >> bits.start & ((1_u128 << count) - 1));
                    sort_by_bits(&mut numbers, bits.clone());
                    assert!(numbers == expected, "{len} numbers by {bits:?}");
                }
            }
        }
    }
}
