//! Which rows a batch draws, and what the best possible replacement would find in memory.

use std::collections::{BTreeSet, HashMap};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rand_distr::{Distribution, Zipf};

/// Draws ids of rows.
pub(super) struct Draw {
    rng: StdRng,
    law: Law,
    rows: u64,
    /// Spreads ranks over the table: coprime to the number of rows.
    factor: u64,
}

enum Law {
    Even,
    Zipf(Zipf<f64>),
}

impl Draw {
    /// `None` for an exponent that is no law.
    pub(super) fn new(rows: u64, exponent: f64, seed: u64) -> Option<Self> {
        #[expect(clippy::cast_precision_loss, reason = "a number of rows below 2^53")]
        let law = if exponent == 0.0 { Law::Even } else { Law::Zipf(Zipf::new(rows as f64, exponent).ok()?) };
        let mut factor = (rows / 2) | 1;
        while gcd(factor, rows) != 1 {
            factor += 2;
        }
        Some(Self { rng: StdRng::seed_from_u64(seed), law, rows, factor })
    }

    pub(super) fn batch(&mut self, len: usize) -> Vec<u64> {
        (0..len).map(|_| self.id()).collect()
    }

    fn id(&mut self) -> u64 {
        let rank = match &self.law {
            Law::Even => self.rng.random_range(0..self.rows),
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "a rank from 1 to rows"
            )]
            Law::Zipf(zipf) => (zipf.sample(&mut self.rng) as u64).clamp(1, self.rows) - 1,
        };
        let spread = u128::from(rank) * u128::from(self.factor) % u128::from(self.rows.max(1));
        u64::try_from(spread).unwrap_or(0)
    }
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// The distinct ids of a batch, ascending.
pub(super) fn distinct(ids: &[u64]) -> Vec<u64> {
    let mut rows = ids.to_vec();
    rows.sort_unstable();
    rows.dedup();
    rows
}

/// The share of rows that Belady's MIN finds in a memory of `capacity` rows, in the batches from `first` on: of each batch
/// every row is needed once, and what is needed furthest in the future makes room.
pub(super) fn min_hit_rate(batches: &[Vec<u64>], first: usize, capacity: usize) -> f64 {
    let mut next_uses: HashMap<u64, Vec<usize>> = HashMap::new();
    for (at, batch) in batches.iter().enumerate().rev() {
        for &row in batch {
            next_uses.entry(row).or_default().push(at);
        }
    }
    let mut near: BTreeSet<(usize, u64)> = BTreeSet::new();
    let (mut hits, mut needed) = (0_u64, 0_u64);
    for (at, batch) in batches.iter().enumerate() {
        for &row in batch {
            let uses = next_uses.entry(row).or_default();
            uses.pop();
            let next = uses.last().copied().unwrap_or(usize::MAX);
            let is_near = near.remove(&(at, row));
            if at >= first {
                needed += 1;
                hits += u64::from(is_near);
            }
            near.insert((next, row));
            if near.len() > capacity {
                near.pop_last();
            }
        }
    }
    #[expect(clippy::cast_precision_loss, reason = "a ratio for people")]
    let rate = hits as f64 / needed.max(1) as f64;
    rate
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_stay_in_the_table_and_follow_their_law() {
        for exponent in [0.0, 1.05] {
            let mut draw = Draw::new(1000, exponent, 3).unwrap();
            let ids = draw.batch(20_000);
            assert!(ids.iter().all(|&id| id < 1000));
            let mut counts = vec![0_u32; 1000];
            for &id in &ids {
                counts[usize::try_from(id).unwrap()] += 1;
            }
            counts.sort_unstable_by(|a, b| b.cmp(a));
            // The most frequent of 1,000 ranks has about one draw of seven by Zipf's law of 1.05.
            assert!(
                if exponent == 0.0 { counts[0] < 60 } else { (2000..4500).contains(&counts[0]) },
                "{}",
                counts[0]
            );
        }
        assert!(Draw::new(10, -1.0, 0).is_none());
    }

    #[test]
    fn the_best_replacement_keeps_what_is_needed_soonest() {
        // Cyclic use of three rows with room for two: the classic case in which LRU finds nothing.
        let batches: Vec<_> = (0..12).map(|at| vec![at % 3]).collect();
        assert!((min_hit_rate(&batches, 3, 2) - 5.0 / 9.0).abs() < 0.12);
        assert!((min_hit_rate(&batches, 3, 3) - 1.0).abs() < 1e-9);
        assert!(min_hit_rate(&batches, 0, 0) < 1e-9);
    }
}
