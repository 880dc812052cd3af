//! Random numbers without state: each is a function of a key and a counter, so that a run that goes on in the middle
//! needs nothing but its seed and its step.

/// A well-mixed number that depends on both arguments (the finaliser of SplitMix64; Steele et al., 2014).
#[must_use]
pub fn mix(key: u64, counter: u64) -> u64 {
    let mut z = (key ^ counter.wrapping_mul(0x9E37_79B9_7F4A_7C15)).wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// The place of `index` in a pseudo-random order of `0..count`: a four-round Feistel network over the smallest
/// even number of bits that holds `count`, walked until it lands inside (Black and Rogaway, 2002).
#[must_use]
pub fn permuted(index: u64, count: u64, key: u64) -> u64 {
    let half = (u64::BITS - (count - 1).leading_zeros()).div_ceil(2).max(1);
    let mask = (1 << half) - 1;
    let mut at = index;
    loop {
        let (mut left, mut right) = (at >> half, at & mask);
        for round in 0..4 {
            (left, right) = (right, left ^ (mix(key ^ round, right) & mask));
        }
        at = left << half | right;
        if at < count {
            return at;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_permutation_visits_every_index_once_and_depends_on_the_key() {
        for count in [1, 2, 3, 17, 256, 1000] {
            let order: Vec<u64> = (0..count).map(|i| permuted(i, count, 5)).collect();
            let mut sorted = order.clone();
            sorted.sort_unstable();
            assert!(sorted.into_iter().eq(0..count), "{count}");
            assert!(count < 17 || !order.into_iter().eq((0..count).map(|i| permuted(i, count, 6))));
        }
    }
}
