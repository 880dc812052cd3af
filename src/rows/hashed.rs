//! From ids to rows.

use super::Rows;
use crate::error::Result;
use crate::splitmix::{GOLDEN, mix};

impl Rows {
    /// The rows of a tensor that ids are hashed to.
    pub(crate) fn rows_of_ids(&self, tensor: usize, ids: &[u64]) -> Result<Vec<u64>> {
        let state = self.lock();
        let table = state.tables.get(state.table_of(tensor)?);
        let (key, rows) = table.map_or((0, 1), |table| (table.key, table.spec.rows));
        Ok(ids.iter().map(|&id| row_of(key, id, rows)).collect())
    }
}

/// The row of an id, by the tensor's key: each is as likely as any other, but for `rows / 2^64`.
fn row_of(key: u64, id: u64, rows: u64) -> u64 {
    let hash = mix(mix(id.wrapping_add(GOLDEN)) ^ key);
    u64::try_from((u128::from(hash) * u128::from(rows)) >> 64).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::row_of;

    #[test]
    fn ids_in_a_row_are_spread_evenly_and_a_key_changes_where() {
        const ROWS: usize = 100;
        let place = |key, id| usize::try_from(row_of(key, id, 100)).unwrap();
        let mut counts = [0_u32; ROWS];
        (0..100_000).for_each(|id| counts[place(7, id)] += 1);
        // Six deviations of a count whose mean is 1,000.
        assert!(counts.iter().all(|&count| (810..=1190).contains(&count)), "{counts:?}");
        let same = (0..10_000).filter(|&id| place(7, id) == place(8, id)).count();
        assert!((40..=160).contains(&same), "{same}");
        // As FORMAT.md has them.
        assert_eq!([0, 1, u64::MAX].map(|id| row_of(1, id, 1_000_000)), [617_208, 360_637, 98_686]);
    }
}
