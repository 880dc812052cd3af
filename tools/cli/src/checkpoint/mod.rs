//! `paramstore checkpoint`: what each command will take is said before it is spent.

pub(crate) mod text;

use std::io::Write;
use std::path::Path;
use std::time::Duration;

use paramstore::checkpoint::{Checkpoint, CheckpointState, KeepEstimate, RollbackEstimate};
use paramstore::{Error, Options, ParamStore};
use serde_json::{Value, json};

use crate::arguments::{CheckpointCommand, KeepArguments, ListArguments, PruneArguments, RollbackArguments};
use crate::failure::Failure;
use crate::inspect::MEMORY_BYTES;
use crate::{Verdict, terminal};

/// Below this many bytes a copy takes no longer than a measurement of the disk.
const MEASURED_FROM_BYTES: u64 = 256 << 20;

pub(crate) fn run(command: &CheckpointCommand, out: &mut dyn Write) -> Result<Verdict, Failure> {
    match command {
        CheckpointCommand::Keep(arguments) => keep(arguments, out),
        CheckpointCommand::List(arguments) => list(arguments, out),
        CheckpointCommand::Rollback(arguments) => rollback(arguments, out),
        CheckpointCommand::Prune(arguments) => prune(arguments, out),
    }
}

/// Opens with as much memory as the blocks of the store need.
fn open(path: &Path, to_write: bool) -> Result<ParamStore, Failure> {
    let open = |bytes| {
        let options = Options::new().memory_budget(bytes);
        if to_write { ParamStore::open(path, &options) } else { ParamStore::open_read_only(path, &options) }
    };
    Ok(match open(MEMORY_BYTES) {
        Err(Error::Budget { needed, .. }) => open(needed)?,
        other => other?,
    })
}

/// Says what is going to be spent before it is: on standard output, or beside the JSON on standard error.
fn announce(json: bool, text: &str, out: &mut dyn Write) -> Result<(), Failure> {
    if json {
        terminal::say(text);
        return Ok(());
    }
    terminal::ignore_closed_pipe(out.write_all(text.as_bytes()).and_then(|()| out.flush()))
}

/// How long a copy would take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Copying {
    bytes: u64,
    /// What the disk did in a short measurement, both ways at once; `None` for what takes no longer than that, and
    /// where the disk could not be measured.
    bytes_per_s: Option<f64>,
}

impl Copying {
    fn of(bytes: u64, store: &Path) -> Self {
        let measure = || paramstore::inspect::measure_disk(store, 64 << 20, Duration::from_millis(500)).ok();
        let speed = if bytes >= MEASURED_FROM_BYTES { measure() } else { None };
        Self { bytes, bytes_per_s: speed.map(|speed| speed.step_bytes_per_s) }
    }

    #[expect(clippy::cast_precision_loss, reason = "a time for people")]
    pub(crate) fn seconds(self) -> Option<f64> {
        self.bytes_per_s.map(|speed| self.bytes as f64 / speed.max(1.0))
    }

    pub(crate) fn bytes_per_s(self) -> Option<f64> {
        self.bytes_per_s
    }
}

fn keep(arguments: &KeepArguments, out: &mut dyn Write) -> Result<Verdict, Failure> {
    let KeepArguments { store: path, name, dry_run, json } = arguments;
    let mut store = open(path, false)?;
    let estimate = store.keep_estimate()?;
    let copying = Copying::of(estimate.bytes_to_copy, path);
    announce(*json, &text::keep_estimate(path, name, &estimate, copying), out)?;
    let report = if *dry_run {
        None
    } else {
        let bar = bar(estimate.bytes_to_copy + estimate.bytes_to_share);
        let report = store.keep_with(name, |bytes| bar.set_position(bytes));
        bar.finish_and_clear();
        Some(report?)
    };
    if *json {
        let value = json!({
            "path": path.display().to_string(),
            "name": name,
            "generation": estimate.generation,
            "step": estimate.step,
            "estimate": keep_json(&estimate, copying),
            "kept": report.as_ref().map(|report| json!({
                "path": report.path.display().to_string(),
                "generation": report.generation,
                "step": report.step,
                "bytes_copied": report.bytes_copied,
                "bytes_shared": report.bytes_shared,
                "bytes_metadata": report.bytes_metadata,
                "seconds": report.seconds,
            })),
        });
        terminal::json(out, &value)?;
    } else if let Some(report) = &report {
        out.write_all(text::kept(report).as_bytes())?;
    }
    Ok(Verdict::Sound)
}

fn keep_json(estimate: &KeepEstimate, copying: Copying) -> Value {
    json!({
        "bytes_to_copy": estimate.bytes_to_copy,
        "bytes_to_share": estimate.bytes_to_share,
        "bytes_metadata": estimate.bytes_metadata,
        "bytes_needed": estimate.bytes_needed(),
        "bytes_free": estimate.bytes_free,
        "fits": estimate.bytes_needed() <= estimate.bytes_free,
        "copy_bytes_per_s": copying.bytes_per_s(),
        "seconds": copying.seconds(),
    })
}

fn bar(bytes: u64) -> indicatif::ProgressBar {
    terminal::progress(
        bytes,
        "{elapsed} [{bar:30}] {binary_bytes} of {binary_total_bytes}, {binary_bytes_per_sec}",
    )
}

pub(crate) fn to_json(checkpoint: &Checkpoint) -> Value {
    let mut value = json!({
        "name": checkpoint.name,
        "path": checkpoint.path.display().to_string(),
        "state": match checkpoint.state {
            CheckpointState::Kept { .. } => "kept",
            CheckpointState::Interrupted => "interrupted",
            _ => "damaged",
        },
        "bytes_allocated": checkpoint.bytes_allocated,
    });
    match &checkpoint.state {
        CheckpointState::Kept { generation, step, kept_unix_s, .. } => {
            value["generation"] = (*generation).into();
            value["step"] = (*step).into();
            value["kept_unix_s"] = (*kept_unix_s).into();
        }
        CheckpointState::Damaged(why) => value["why"] = why.clone().into(),
        _ => {}
    }
    value
}

fn list(arguments: &ListArguments, out: &mut dyn Write) -> Result<Verdict, Failure> {
    let all = paramstore::checkpoint::list(&arguments.store)?;
    if arguments.json {
        let checkpoints: Vec<_> = all.iter().map(to_json).collect();
        let path = arguments.store.display().to_string();
        terminal::json(out, &json!({ "path": path, "checkpoints": checkpoints }))?;
    } else {
        text::list(&all, out)?;
    }
    let is_damaged = |checkpoint: &Checkpoint| matches!(checkpoint.state, CheckpointState::Damaged(_));
    Ok(if all.iter().any(is_damaged) { Verdict::Damaged } else { Verdict::Sound })
}

fn rollback(arguments: &RollbackArguments, out: &mut dyn Write) -> Result<Verdict, Failure> {
    let RollbackArguments { store: path, name, yes, dry_run, json } = arguments;
    let act = *yes && !*dry_run;
    let mut store = open(path, act)?;
    let estimate = store.roll_back_estimate(name)?;
    let copying = Copying::of(estimate.bytes_to_copy, path);
    announce(*json, &text::rollback_estimate(path, name, &estimate, copying), out)?;
    if !act && !*dry_run {
        return Err(Failure::Usage(format!(
            "--yes is missing: going back to {name} loses what the store holds now; nothing was done"
        )));
    }
    let report = if act {
        let bar = bar(estimate.bytes_to_copy);
        let report = store.roll_back_to_with(name, |bytes| bar.set_position(bytes));
        bar.finish_and_clear();
        Some(report?)
    } else {
        None
    };
    if *json {
        let value = json!({
            "path": path.display().to_string(),
            "name": name,
            "estimate": rollback_json(&estimate, copying),
            "rolled_back": report.as_ref().map(|report| json!({
                "generation": report.generation,
                "step": report.step,
                "steps_lost": report.steps_lost,
                "planes_copied": report.planes_copied,
                "bytes_copied": report.bytes_copied,
                "planes_same": report.planes_same,
                "planes_unborn": report.planes_unborn,
                "seconds": report.seconds,
            })),
        });
        terminal::json(out, &value)?;
    } else if let Some(report) = &report {
        out.write_all(text::rolled_back(report).as_bytes())?;
    }
    Ok(Verdict::Sound)
}

fn rollback_json(estimate: &RollbackEstimate, copying: Copying) -> Value {
    json!({
        "generation": estimate.generation,
        "step": estimate.step,
        "step_now": estimate.step_now,
        "steps_lost": estimate.steps_lost,
        "planes_to_copy": estimate.planes_to_copy,
        "bytes_to_copy": estimate.bytes_to_copy,
        "planes_same": estimate.planes_same,
        "planes_unborn": estimate.planes_unborn,
        "bytes_free": estimate.bytes_free,
        "copy_bytes_per_s": copying.bytes_per_s(),
        "seconds": copying.seconds(),
    })
}

fn prune(arguments: &PruneArguments, out: &mut dyn Write) -> Result<Verdict, Failure> {
    let all = paramstore::checkpoint::list(&arguments.store)?;
    let going = chosen(arguments, &all)?;
    announce(arguments.json, &text::prune_estimate(&going, all.len() - going.len()), out)?;
    let mut pruned = Vec::new();
    if !arguments.dry_run {
        for checkpoint in &going {
            paramstore::checkpoint::prune(&arguments.store, &checkpoint.name)?;
            pruned.push(checkpoint.name.as_str());
        }
    }
    if arguments.json {
        let value = json!({
            "path": arguments.store.display().to_string(),
            "chosen": going.iter().map(|checkpoint| to_json(checkpoint)).collect::<Vec<_>>(),
            "bytes_allocated": going.iter().map(|checkpoint| checkpoint.bytes_allocated).sum::<u64>(),
            "pruned": pruned,
        });
        terminal::json(out, &value)?;
    } else if !pruned.is_empty() {
        writeln!(out, "removed")?;
    }
    Ok(Verdict::Sound)
}

/// What is to go: what was named, or all but the newest. Damaged ones go by name only.
fn chosen<'a>(arguments: &PruneArguments, all: &'a [Checkpoint]) -> Result<Vec<&'a Checkpoint>, Failure> {
    if let Some(last) = arguments.keep_last {
        let is_kept = |checkpoint: &&Checkpoint| checkpoint.generation().is_some();
        let older = all.iter().filter(is_kept).count().saturating_sub(last);
        let left = all.iter().filter(|checkpoint| matches!(checkpoint.state, CheckpointState::Interrupted));
        return Ok(all.iter().filter(is_kept).take(older).chain(left).collect());
    }
    let mut going: Vec<&Checkpoint> = Vec::new();
    for name in &arguments.names {
        let found = all.iter().find(|checkpoint| checkpoint.name == *name);
        let found = found.ok_or_else(|| Error::Unknown { kind: "checkpoint", name: name.clone() })?;
        if !going.iter().any(|other| other.name == found.name) {
            going.push(found);
        }
    }
    Ok(going)
}
