//! Random numbers without state: each is a function of a key and a counter, so that a run that goes on in the middle
//! needs nothing but its seed and its step.

pub(crate) use training::random::{mix, permuted};

/// The numbers of one key, one after the other.
#[derive(Debug, Clone)]
pub(crate) struct Draws {
    key: u64,
    counter: u64,
}

impl Draws {
    /// The numbers that belong to a key.
    pub(crate) fn new(key: u64) -> Self {
        Self { key, counter: 0 }
    }

    /// 64 random bits.
    pub(crate) fn bits(&mut self) -> u64 {
        self.counter += 1;
        mix(self.key, self.counter)
    }

    /// From 0 to below 1.
    pub(crate) fn unit(&mut self) -> f64 {
        crate::num::float(self.bits() >> 11) / crate::num::float(1 << 53)
    }

    /// From 0 to below `n`.
    pub(crate) fn below(&mut self, n: u64) -> u64 {
        u64::try_from((u128::from(self.bits()) * u128::from(n)) >> 64).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_are_even_within_bounds_and_repeat_with_their_key() {
        let mut draws = Draws::new(3);
        let mut counts = [0u32; 7];
        for _ in 0..7000 {
            counts[crate::num::index(draws.below(7))] += 1;
            let unit = draws.unit();
            assert!((0.0..1.0).contains(&unit));
        }
        assert!(counts.iter().all(|&count| (850..1150).contains(&count)), "{counts:?}");
        assert_eq!(Draws::new(9).bits(), Draws::new(9).bits());
        assert_ne!(Draws::new(9).bits(), Draws::new(10).bits());
    }
}
