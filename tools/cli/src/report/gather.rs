//! What a report is about, read through the library.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use paramstore::checkpoint::Checkpoint;
use paramstore::inspect::Summary;
use paramstore::telemetry::{self, Live, StepMetrics};
use paramstore::{Error, Options, ParamStore};

use super::blocks::{self, Run};
use crate::failure::Failure;
use crate::inspect::MEMORY_BYTES;

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

pub(super) fn gather(path: &Path) -> Result<Gathered, Failure> {
    let store = open(path)?;
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
        });
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

/// Opens for reading, with as much memory as the blocks of the store need.
fn open(path: &Path) -> Result<ParamStore, Failure> {
    let open = |bytes| ParamStore::open_read_only(path, &Options::new().memory_budget(bytes));
    Ok(match open(MEMORY_BYTES) {
        Err(Error::Budget { needed, .. }) => open(needed)?,
        other => other?,
    })
}
