//! How blocks stand between disk and memory now, for onlookers.

use super::State;
use super::frames::Frame;
use crate::format::directory::Extent;
use crate::units::{to_u64, to_usize};

/// Planes of blocks in a run of blocks, by their state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct RunState {
    pub(crate) near: u64,
    pub(crate) dirty: u64,
    /// On their way, or leased.
    pub(crate) moving: u64,
    /// All of them.
    pub(crate) planes: u64,
}

/// All blocks, in runs of the same length.
pub(crate) struct Look {
    pub(crate) blocks: u64,
    pub(crate) runs: Vec<RunState>,
    pub(crate) hot_bytes: u64,
    pub(crate) dirty_bytes: u64,
}

impl State {
    /// Looks at all frames; their number is what it costs.
    pub(crate) fn look(&self, runs_max: usize) -> Look {
        let blocks = self.directory.extents.last().map_or(0, |last| last.first_block + last.blocks());
        let of_run = blocks.div_ceil(to_u64(runs_max).max(1)).max(1);
        let mut runs = vec![RunState::default(); to_usize(blocks.div_ceil(of_run))];
        for (number, run) in runs.iter_mut().enumerate() {
            let first = to_u64(number) * of_run;
            run.planes = planes_of(&self.directory.extents, first, (first + of_run).min(blocks));
        }
        let mut dirty_bytes = 0;
        for (key, frame) in self.frames.iter() {
            let Some(run) = runs.get_mut(to_usize(key.block.0 / of_run)) else { continue };
            match frame {
                Frame::Reading { .. } => run.moving += 1,
                Frame::Ready { dirty: false, .. } => run.near += 1,
                Frame::Ready { dirty: true, buffer, .. } => {
                    (run.near, run.dirty) = (run.near + 1, run.dirty + 1);
                    dirty_bytes += to_u64(buffer.len());
                }
                Frame::Writing { .. } | Frame::Leased { .. } => {
                    (run.near, run.moving) = (run.near + 1, run.moving + 1);
                }
            }
        }
        let hot_bytes = self.frames.totals().hot_bytes;
        Look { blocks, runs, hot_bytes, dirty_bytes }
    }
}

/// Planes of some blocks.
fn planes_of(extents: &[Extent], start: u64, end: u64) -> u64 {
    let after = extents.partition_point(|extent| extent.first_block <= start);
    let overlapping = extents.iter().skip(after.saturating_sub(1)).take_while(|e| e.first_block < end);
    let planes = |extent: &Extent| {
        let (first, last) = (extent.first_block.max(start), (extent.first_block + extent.blocks()).min(end));
        last.saturating_sub(first) * to_u64(extent.planes.len() + usize::from(extent.scratch.is_some()))
    };
    overlapping.map(planes).sum()
}
