//! MIX. Which 64 bits come of these? One answer for every room: values at birth, rows of ids and random roundings are
//! functions of it, on disk for ever.

/// The increment of SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014).
pub(crate) const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// The output function of SplitMix64.
pub(crate) const fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_numbers_are_those_of_the_reference_program() {
        // Vigna's splitmix64.c from the state 1234567.
        let state = |step: u64| 1_234_567_u64.wrapping_add(step.wrapping_mul(GOLDEN));
        let first: Vec<_> = (1..=3).map(|step| mix(state(step))).collect();
        assert_eq!(first, [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423]);
    }
}
