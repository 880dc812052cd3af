//! Random numbers that are the same everywhere: SplitMix64.

/// A generator; its whole state is one number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rng(pub(crate) u64);

impl Rng {
    /// The generator of one round of a campaign.
    pub(crate) fn of_round(seed: u64, round: u64) -> Self {
        let mut rng = Self(seed);
        Self(rng.next() ^ round)
    }

    /// Any 64 bits.
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`; 0 for a bound of 0.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }

    /// One of them; `None` of none.
    pub(crate) fn pick<'a, T>(&mut self, of: &'a [T]) -> Option<&'a T> {
        let bound = u64::try_from(of.len()).unwrap_or(u64::MAX);
        of.get(usize::try_from(self.below(bound)).unwrap_or(0))
    }
}
