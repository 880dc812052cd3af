//! `paramstore inspect`.

pub(crate) mod json;
mod tensors;
pub(crate) mod text;
mod why;

pub(crate) use tensors::TensorsArguments;

use std::io::Write;

use paramstore::checkpoint::Checkpoint;
use paramstore::inspect::{Digest, Summary};
use paramstore::{ParamStore, TensorInfo};

use crate::arguments::InspectArguments;
use crate::failure::Failure;
use crate::{Verdict, source, terminal};
use tensors::List;
use why::Why;

/// Memory for looking: inspect needs little, and --digest no more to be fast.
pub(crate) const MEMORY_BYTES: u64 = 256 << 20;

/// What there is to show.
struct Shown<'a> {
    arguments: &'a InspectArguments,
    store: &'a ParamStore,
    summary: Summary,
    digest: Option<Digest>,
    checkpoints: Vec<Checkpoint>,
    list: List<'a>,
    why: Option<Why>,
}

pub(crate) fn run(arguments: &InspectArguments, out: &mut dyn Write) -> Result<Verdict, Failure> {
    let store = source::open_at(&arguments.store, arguments.generation, arguments.memory)?;
    let summary = store.summary()?;
    let digest = if arguments.digest { Some(digest(&store)?) } else { None };
    let checkpoints = store.checkpoints()?;
    // JSON lists all tensors unless told which.
    let list = tensors::list(&store, &arguments.list, arguments.tensors || arguments.json)?;
    let why = if arguments.why { Some(why::why(&store, &summary)?) } else { None };
    let shown = Shown { arguments, store: &store, summary, digest, checkpoints, list, why };
    if arguments.json {
        json::write(&shown, out)?;
    } else {
        text::write(&shown, out)?;
    }
    let recovery = &shown.summary.recovery;
    if recovery.damaged {
        out.flush()?;
        terminal::warn(if recovery.fell_back {
            "the newest superblock, or what it names, is damaged; the generation before it is shown"
        } else {
            "the older superblock, or what it names, is damaged; the newest generation is whole and shown"
        });
        return Ok(Verdict::Damaged);
    }
    Ok(Verdict::Sound)
}

fn digest(store: &ParamStore) -> Result<Digest, Failure> {
    let bar = terminal::progress(
        store.tensors().map(|info| value_bytes(&info, usize::MAX)).sum(),
        "{elapsed} [{bar:30}] {binary_bytes} of {binary_total_bytes} hashed, {binary_bytes_per_sec}, {eta} left",
    );
    let digest = store.digest_with(|bytes| bar.set_position(bytes));
    bar.finish_and_clear();
    Ok(digest?)
}

/// Bytes on disk of the values of a tensor's first planes.
pub(crate) fn value_bytes(tensor: &TensorInfo<'_>, planes: usize) -> u64 {
    let planes = tensor.planes().take(planes);
    planes.filter_map(|plane| tensor.plane_dtype(plane)?.bytes_of(tensor.elements())).sum()
}

/// A tensor's shape as `1000x64`, or `scalar`.
pub(crate) fn shape(tensor: &TensorInfo<'_>) -> String {
    let dims: Vec<_> = tensor.shape().iter().map(u64::to_string).collect();
    if dims.is_empty() { "scalar".to_owned() } else { dims.join("x") }
}
