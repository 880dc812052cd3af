//! The map of blocks: which home and which generation, in runs of blocks.

use paramstore::Error;
use paramstore::inspect::BlockRun;

use super::charts::{MapCell, count};

/// Cells of the map at most.
pub(super) const CELLS_MAX: u64 = 2_000;

/// A run of blocks, as many as each other but the last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) first: u64,
    pub(super) last: u64,
    /// Block planes that stand in either home.
    pub(super) homes: [u64; 2],
    /// The oldest and the newest generation that wrote one of them; 0 for none.
    pub(super) generations: (u64, u64),
    /// The generation of the store.
    pub(super) newest: u64,
}

/// Sums up a listing of blocks. What is damaged is left out: `verify` tells of it.
pub(super) fn runs(
    listing: impl Iterator<Item = Result<BlockRun, Error>>,
    blocks: u64,
    newest: u64,
) -> Vec<Run> {
    let written = listing.filter_map(|run| match run {
        Ok(BlockRun::Written(block)) => Some((block.block, block.home, block.generation)),
        _ => None,
    });
    summed(written, blocks, newest)
}

/// Of each block plane written: block, home, generation.
fn summed(written: impl Iterator<Item = (u64, u8, u64)>, blocks: u64, newest: u64) -> Vec<Run> {
    let of_run = blocks.div_ceil(CELLS_MAX).max(1);
    let run = |at: u64| Run {
        first: at * of_run,
        last: ((at + 1) * of_run).min(blocks) - 1,
        homes: [0; 2],
        generations: (0, 0),
        newest,
    };
    let mut runs: Vec<_> = (0..blocks.div_ceil(of_run)).map(run).collect();
    for (block, home, generation) in written {
        let at = usize::try_from(block / of_run).unwrap_or(usize::MAX);
        let Some(run) = runs.get_mut(at) else { continue };
        if let Some(planes) = run.homes.get_mut(usize::from(home)) {
            *planes += 1;
        }
        let (oldest, latest) = &mut run.generations;
        *oldest = if *oldest == 0 { generation } else { generation.min(*oldest) };
        *latest = generation.max(*latest);
    }
    runs
}

/// Colors of the map, with what they mean.
pub(super) const COLORS: [(u8, &str); 4] =
    [(0, "home 0"), (1, "home 1"), (4, "both homes"), (5, "never written")];

/// A cell for each run: its color says where it stands, its strength how lately it was written.
pub(super) fn cells(runs: &[Run]) -> Vec<MapCell> {
    let cell = |run: &Run| {
        let color = match run.homes {
            [0, 0] => 5,
            [_, 0] => 0,
            [0, _] => 1,
            _ => 4,
        };
        let blocks = if run.first == run.last {
            format!("block {}", run.first)
        } else {
            format!("blocks {} to {}", run.first, run.last)
        };
        let (oldest, latest) = run.generations;
        let what = match (run.homes, oldest == latest) {
            ([0, 0], _) => "never written".to_owned(),
            ([a, b], true) => format!("{a} in home 0, {b} in home 1, generation {latest}"),
            ([a, b], false) => format!("{a} in home 0, {b} in home 1, generations {oldest} to {latest}"),
        };
        let strength = if color == 5 { 0.3 } else { 0.35 + 0.65 * recency(latest, run.newest) };
        MapCell { color, strength, title: format!("{blocks}: {what}") }
    };
    runs.iter().map(cell).collect()
}

/// 1 for the newest generation, less for older ones, the first steps counting most: 1/2 one behind, 1/3 two behind.
fn recency(generation: u64, newest: u64) -> f64 {
    let behind = usize::try_from(newest.saturating_sub(generation)).unwrap_or(usize::MAX);
    1.0 / (1.0 + count(behind))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_summed_up_in_runs_of_equal_length() {
        let written = [(0, 0, 5), (0, 1, 6), (2, 1, 7), (9_999, 0, 3)];
        let runs = summed(written.into_iter(), 10_000, 7);
        assert_eq!(runs.len(), 2_000);
        assert_eq!((runs[0].first, runs[0].last, runs[0].homes, runs[0].generations), (0, 4, [1, 2], (5, 7)));
        assert_eq!((runs[1].homes, runs[1].generations), ([0, 0], (0, 0)));
        assert_eq!((runs[1999].last, runs[1999].homes), (9_999, [1, 0]));
        let cells = cells(&runs);
        assert_eq!(cells[0].title, "blocks 0 to 4: 1 in home 0, 2 in home 1, generations 5 to 7");
        assert_eq!((cells[0].color, cells[1].color, cells[1999].color), (4, 5, 0));
        assert!(cells[0].strength > cells[1999].strength);
        // More than fit, and a last run that is shorter.
        let runs = summed(std::iter::empty(), 2_001, 1);
        assert_eq!((runs.len(), runs.last().map(|run| (run.first, run.last))), (1_001, Some((2_000, 2_000))));
        assert!(summed(std::iter::empty(), 0, 1).is_empty());
    }
}
