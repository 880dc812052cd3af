//! Draws from a discrete distribution in constant time: Walker's alias table, made as Vose does (1991).

use crate::num::{float, index, small};
use crate::random::Draws;

/// A distribution over `0..len`.
#[derive(Debug)]
pub(crate) struct Alias {
    /// The share of each column that is its own.
    own: Vec<f64>,
    /// Whose the rest is.
    other: Vec<u32>,
}

impl Alias {
    /// The distribution in proportion to weights that are not negative and not all 0.
    pub(crate) fn new(weights: &[f64]) -> Self {
        let scale = float(weights.len() as u64) / weights.iter().sum::<f64>();
        let mut own: Vec<f64> = weights.iter().map(|weight| weight * scale).collect();
        let mut other: Vec<u32> = (0..small(weights.len())).collect();
        let (mut light, mut heavy): (Vec<u32>, Vec<u32>) =
            other.iter().partition(|&&column| own[column as usize] < 1.0);
        while let (Some(column), Some(&giver)) = (light.pop(), heavy.last()) {
            other[column as usize] = giver;
            let left = own[giver as usize] - (1.0 - own[column as usize]);
            own[giver as usize] = left;
            if left < 1.0 {
                heavy.pop();
                light.push(giver);
            }
        }
        // Whatever is left is 1 but for rounding.
        for column in light.into_iter().chain(heavy) {
            own[column as usize] = 1.0;
        }
        Self { own, other }
    }

    /// One draw.
    pub(crate) fn draw(&self, draws: &mut Draws) -> u32 {
        let column = index(draws.below(self.own.len() as u64));
        if draws.unit() < self.own[column] { small(column) } else { self.other[column] }
    }
}

/// The noise of word2vec: words in proportion to their count to the power of 3/4.
pub(crate) fn noise(counts: &[u64]) -> Alias {
    Alias::new(&counts.iter().map(|&count| float(count).powf(NOISE_POWER)).collect::<Vec<_>>())
}

/// The exponent of the noise distribution.
pub(crate) const NOISE_POWER: f64 = 0.75;

#[cfg(test)]
mod tests {
    use super::*;

    /// The probability that the table gives to each column.
    fn shares(alias: &Alias) -> Vec<f64> {
        let n = float(alias.own.len() as u64);
        let mut shares = vec![0.0; alias.own.len()];
        for (column, (&own, &other)) in alias.own.iter().zip(&alias.other).enumerate() {
            shares[column] += own / n;
            shares[other as usize] += (1.0 - own) / n;
        }
        shares
    }

    #[test]
    fn the_table_gives_every_column_its_weight() {
        for weights in [vec![1.0], vec![1.0, 1.0], vec![5.0, 0.0, 1.0, 2.0], vec![1e-9, 3.0, 1e3, 7.0, 0.5]] {
            let total: f64 = weights.iter().sum();
            for (share, weight) in shares(&Alias::new(&weights)).iter().zip(&weights) {
                assert!((share - weight / total).abs() < 1e-12, "{weights:?}");
            }
        }
    }

    #[test]
    fn draws_follow_the_weights_and_never_give_a_column_without_any() {
        let alias = Alias::new(&[2.0, 0.0, 6.0]);
        let mut draws = Draws::new(1);
        let mut counts = [0u32; 3];
        for _ in 0..8000 {
            counts[alias.draw(&mut draws) as usize] += 1;
        }
        assert_eq!(counts[1], 0);
        assert!((1850..2150).contains(&counts[0]), "{counts:?}");
    }

    #[test]
    fn noise_is_flatter_than_the_counts() {
        let shares = shares(&noise(&[16, 1]));
        assert!((shares[0] - 8.0 / 9.0).abs() < 1e-12);
    }
}
