//! What a report is about, read through the library.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use paramstore::ParamStore;
use paramstore::checkpoint::Checkpoint;
use paramstore::inspect::{StatisticsOptions, Summary, TensorStatistics};
use paramstore::telemetry::{self, Live, StepMetrics};

use super::blocks::{self, Run};
use crate::arguments::Generation;
use crate::failure::Failure;
use crate::inspect::value_bytes;
use crate::{source, terminal};

/// Tensors that are listed.
pub(super) const TENSORS_MAX: usize = 20_000;

pub(super) struct Tensor {
    pub(super) name: String,
    pub(super) group: String,
    pub(super) dtype: &'static str,
    pub(super) shape: String,
    pub(super) elements: u64,
    pub(super) updates: u64,
    /// Names of its planes, and what is special about it.
    pub(super) planes: String,
    pub(super) statistics: Option<TensorStatistics>,
}

pub(super) struct Gathered {
    pub(super) summary: Summary,
    pub(super) tensors: Vec<Tensor>,
    pub(super) checkpoints: Vec<Checkpoint>,
    pub(super) blocks: Vec<Run>,
    pub(super) live: Option<Live>,
    pub(super) history: Vec<StepMetrics>,
    /// When this was read, in seconds since 1970.
    pub(super) unix_s: u64,
}

pub(super) fn gather(path: &Path, with_statistics: bool) -> Result<Gathered, Failure> {
    let store = source::open_at(path, Generation::Newest, None)?;
    let summary = store.summary()?;
    let mut tensors = Vec::new();
    for info in store.tensors().take(TENSORS_MAX) {
        let mut planes = info.planes().collect::<Vec<_>>().join(", ");
        if let Some(mode) = info.row_mode() {
            planes = format!("rows ({}): {planes}", mode.name());
        }
        tensors.push(Tensor {
            name: info.name().to_owned(),
            group: info.group().to_owned(),
            dtype: info.dtype().name(),
            shape: crate::inspect::shape(&info),
            elements: info.elements(),
            updates: store.tensor_clock(info.name())?.steps,
            planes,
            statistics: None,
        });
    }
    if with_statistics {
        look(&store, &mut tensors)?;
    }
    let all = summary.blocks.iter().map(|size| size.blocks).sum();
    let blocks = blocks::runs(store.blocks(), all, summary.generation);
    let checkpoints = store.checkpoints()?;
    let live = telemetry::live(path)?;
    let last = live.as_ref().map_or(summary.step + summary.uncommitted_steps, |live| live.step);
    let history = telemetry::history(path, last)?;
    let unix_s = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    Ok(Gathered { summary, tensors, checkpoints, blocks, live, history, unix_s })
}

/// Reads every value of the tensors listed.
fn look(store: &ParamStore, tensors: &mut [Tensor]) -> Result<(), Failure> {
    let options = StatisticsOptions::new().tensors(tensors.iter().map(|tensor| tensor.name.as_str()));
    let bar = terminal::progress(
        store.tensors().take(tensors.len()).map(|info| value_bytes(&info, usize::MAX)).sum(),
        "{elapsed} [{bar:30}] {binary_bytes} of {binary_total_bytes}, {eta} left",
    );
    let seen = store.statistics(&options, |done| bar.set_position(done));
    bar.finish_and_clear();
    for (tensor, seen) in tensors.iter_mut().zip(seen?) {
        tensor.statistics = Some(seen);
    }
    Ok(())
}
