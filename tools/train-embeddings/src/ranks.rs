//! What a list of ranks says: the mean of their reciprocals, and how many are among the first.

use std::cmp::Ordering;

use crate::num::float;

/// A summary of ranks, each 1 for the best answer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Ranks {
    /// How many ranks there are.
    pub(crate) count: u64,
    /// Mean of the reciprocals.
    pub(crate) mrr: f64,
    /// Mean rank.
    pub(crate) mean: f64,
    /// Shares of ranks up to 1, 3, and 10.
    pub(crate) hits: [f64; 3],
}

impl Ranks {
    /// Summarises ranks; all values are 0 for none.
    pub(crate) fn of(ranks: impl IntoIterator<Item = f64>) -> Self {
        let mut all = Self { count: 0, mrr: 0.0, mean: 0.0, hits: [0.0; 3] };
        for rank in ranks {
            all.count += 1;
            all.mrr += 1.0 / rank;
            all.mean += rank;
            for (hits, most) in all.hits.iter_mut().zip([1.0, 3.0, 10.0]) {
                *hits += f64::from(u8::from(rank <= most));
            }
        }
        let count = float(all.count.max(1));
        all.mrr /= count;
        all.mean /= count;
        all.hits = all.hits.map(|hits| hits / count);
        all
    }

    /// Names and values, for programs.
    pub(crate) fn scores(&self, prefix: &str) -> Vec<(String, f64)> {
        let [one, three, ten] = self.hits;
        let values = [("mrr", self.mrr), ("hits_1", one), ("hits_3", three), ("hits_10", ten)];
        values.into_iter().map(|(name, value)| (format!("{prefix}{name}"), value)).collect()
    }

    /// The values for people.
    pub(crate) fn text(&self) -> String {
        let [one, three, ten] = self.hits;
        format!("MRR {:.3}, Hits@1 {one:.3}, Hits@3 {three:.3}, Hits@10 {ten:.3}", self.mrr)
    }
}

/// How an answer stands among others.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    /// Others that score higher.
    pub(crate) better: u64,
    /// Others that score the same.
    pub(crate) equal: u64,
}

impl Tally {
    /// Counts another answer beside the true one. A score that is no number is below all others.
    pub(crate) fn add(&mut self, truth: f32, other: f32) {
        match other.partial_cmp(&truth) {
            Some(Ordering::Greater) => self.better += 1,
            Some(Ordering::Equal) => self.equal += 1,
            None if truth.is_nan() => self.better += 1,
            _ => {}
        }
    }

    /// The rank: among others that score the same, the mean of the ranks that the answer could have.
    pub(crate) fn rank(self) -> f64 {
        1.0 + float(self.better) + float(self.equal) / 2.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_are_summed_up() {
        let ranks = Ranks::of([1.0, 2.0, 4.0, 20.0]);
        assert_eq!((ranks.count, ranks.hits), (4, [0.25, 0.5, 0.75]));
        assert!((ranks.mrr - (1.0 + 0.5 + 0.25 + 0.05) / 4.0).abs() < 1e-12);
        assert!((ranks.mean - 6.75).abs() < 1e-12);
    }

    #[test]
    fn ties_count_by_their_mean_rank() {
        let mut tally = Tally::default();
        assert!((tally.rank() - 1.0).abs() < 1e-12);
        for other in [3.0, 2.0, 1.0, 1.0, 1.0, 0.0, f32::NAN] {
            tally.add(1.0, other);
        }
        assert_eq!(tally, Tally { better: 2, equal: 3 });
        assert!((tally.rank() - 4.5).abs() < 1e-12);
        let mut broken = Tally::default();
        broken.add(f32::NAN, f32::NAN);
        broken.add(f32::NAN, 1.0);
        assert_eq!(broken.better, 2);
    }
}
