//! `paramstore inspect`.

pub(crate) mod json;
pub(crate) mod text;

use std::io::Write;

use paramstore::checkpoint::Checkpoint;
use paramstore::inspect::{Digest, Summary};
use paramstore::{Error, Options, ParamStore, TensorInfo};

use crate::arguments::InspectArguments;
use crate::failure::Failure;
use crate::{Verdict, terminal};

/// Memory for looking: inspect needs little, and --digest no more to be fast.
pub(crate) const MEMORY_BYTES: u64 = 256 << 20;

/// What there is to show.
struct Shown<'a> {
    arguments: &'a InspectArguments,
    store: &'a ParamStore,
    summary: Summary,
    digest: Option<Digest>,
    checkpoints: Vec<Checkpoint>,
}

pub(crate) fn run(arguments: &InspectArguments, out: &mut dyn Write) -> Result<Verdict, Failure> {
    let store = open(arguments)?;
    let summary = store.summary()?;
    let digest = if arguments.digest { Some(digest(&store, &summary)?) } else { None };
    let checkpoints = store.checkpoints()?;
    let shown = Shown { arguments, store: &store, summary, digest, checkpoints };
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

/// Opens for reading, with as much memory as the blocks of the store need.
fn open(arguments: &InspectArguments) -> Result<ParamStore, Failure> {
    let options = Options::new().generation(arguments.generation.into());
    let open = |bytes| ParamStore::open_read_only(&arguments.store, &options.clone().memory_budget(bytes));
    Ok(match open(arguments.memory.unwrap_or(MEMORY_BYTES)) {
        Err(Error::Budget { needed, .. }) if arguments.memory.is_none() => open(needed)?,
        other => other?,
    })
}

fn digest(store: &ParamStore, summary: &Summary) -> Result<Digest, Failure> {
    let values = summary.disk.parameters + summary.disk.state.iter().map(|plane| plane.bytes).sum::<u64>();
    let bar = terminal::progress(
        values,
        "{elapsed} [{bar:30}] {binary_bytes} of {binary_total_bytes} hashed, {binary_bytes_per_sec}, {eta} left",
    );
    let digest = store.digest_with(|bytes| bar.set_position(bytes));
    bar.finish_and_clear();
    Ok(digest?)
}

/// A tensor's shape as `1000x64`, or `scalar`.
pub(crate) fn shape(tensor: &TensorInfo<'_>) -> String {
    let dims: Vec<_> = tensor.shape().iter().map(u64::to_string).collect();
    if dims.is_empty() { "scalar".to_owned() } else { dims.join("x") }
}
