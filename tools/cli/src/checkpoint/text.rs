//! The text of `checkpoint`.

use std::fmt::Write as _;
use std::io::{self, Write};
use std::path::Path;

use paramstore::checkpoint::{
    Checkpoint, CheckpointState, KeepEstimate, KeepReport, RollbackEstimate, RollbackReport,
};

use super::Copying;
use crate::human::{Table, bytes, counted, date, grouped, seconds, speed};

/// How long, and how that is known.
fn time(copying: Copying) -> String {
    match (copying.seconds(), copying.bytes_per_s()) {
        (Some(time), Some(rate)) => {
            format!(", about {} (this disk copies {}, measured just now)", seconds(time), speed(rate))
        }
        _ => String::new(),
    }
}

pub(super) fn keep_estimate(path: &Path, name: &str, estimate: &KeepEstimate, copying: Copying) -> String {
    let mut text = format!(
        "{}: generation {}, step {}, to be kept as {name}\n",
        path.display(),
        estimate.generation,
        grouped(estimate.step)
    );
    let (copy, share) = (bytes(estimate.bytes_to_copy), bytes(estimate.bytes_to_share));
    let blocks = if estimate.bytes_to_share > 0 {
        format!(
            "{share} shared with the store, nothing copied; training takes up to {share} more when it writes over them"
        )
    } else {
        format!("{copy} to copy, checked while copying{}", time(copying))
    };
    let (metadata, free) = (bytes(estimate.bytes_metadata), bytes(estimate.bytes_free));
    let short = if estimate.bytes_needed() > estimate.bytes_free {
        format!(", {} needed: does not fit", bytes(estimate.bytes_needed()))
    } else {
        String::new()
    };
    // Writing to memory does not fail.
    let _written =
        write!(text, "  blocks    {blocks}\n  metadata  about {metadata}\n  free      {free}{short}\n");
    text
}

pub(super) fn kept(report: &KeepReport) -> String {
    let how = match (report.bytes_copied, report.bytes_shared) {
        (copied, 0) => format!("{} copied and checked", bytes(copied)),
        (0, shared) => format!("{} shared, nothing copied", bytes(shared)),
        (copied, shared) => format!("{} shared, {} copied and checked", bytes(shared), bytes(copied)),
    };
    let (path, metadata) = (report.path.display(), bytes(report.bytes_metadata));
    format!("kept {path}: {how}, {metadata} of metadata, in {}\n", seconds(report.seconds))
}

pub(super) fn rollback_estimate(
    path: &Path,
    name: &str,
    estimate: &RollbackEstimate,
    copying: Copying,
) -> String {
    let mut text = format!(
        "{}: from step {} back to {name}, step {}, generation {}\n",
        path.display(),
        grouped(estimate.step_now),
        grouped(estimate.step),
        estimate.generation
    );
    let lost = match estimate.steps_lost {
        0 => "no finished step; whatever was written since".to_owned(),
        steps => format!("{} and whatever else was written since", counted(steps, "step")),
    };
    let _written = write!(
        text,
        "  lost      {lost}\n  blocks    {} to copy in {}{}; {} the same, {} unwritten again\n  free      {}\n",
        bytes(estimate.bytes_to_copy),
        counted(estimate.planes_to_copy, "block plane"),
        time(copying),
        grouped(estimate.planes_same),
        grouped(estimate.planes_unborn),
        bytes(estimate.bytes_free),
    );
    text
}

pub(super) fn rolled_back(report: &RollbackReport) -> String {
    format!(
        "back at step {} as generation {}: {} copied in {}; {} lost\n",
        grouped(report.step),
        report.generation,
        bytes(report.bytes_copied),
        seconds(report.seconds),
        counted(report.steps_lost, "step"),
    )
}

pub(super) fn prune_estimate(going: &[&Checkpoint], staying: usize) -> String {
    let mut text = String::new();
    for checkpoint in going {
        let what = match checkpoint.state {
            CheckpointState::Kept { generation, step, .. } => {
                format!("generation {generation}, step {}", grouped(step))
            }
            CheckpointState::Interrupted => "interrupted".to_owned(),
            _ => "damaged".to_owned(),
        };
        let _written = writeln!(text, "  {}: {what}, {}", checkpoint.name, bytes(checkpoint.bytes_allocated));
    }
    let freed = going.iter().map(|checkpoint| checkpoint.bytes_allocated).sum();
    let staying = u64::try_from(staying).unwrap_or(u64::MAX);
    let _written = writeln!(
        text,
        "to remove: {}, {} allocated (blocks shared with others stay theirs), at once; {} to stay",
        counted(u64::try_from(going.len()).unwrap_or(u64::MAX), "checkpoint"),
        bytes(freed),
        grouped(staying),
    );
    text
}

/// The table of checkpoints, or `none`.
pub(crate) fn list(all: &[Checkpoint], out: &mut dyn Write) -> io::Result<()> {
    if all.is_empty() {
        return writeln!(out, "  none");
    }
    let mut table = Table::new(&["name", ">generation", ">step", "kept", ">allocated"]);
    for checkpoint in all {
        let allocated = bytes(checkpoint.bytes_allocated);
        let name = checkpoint.name.clone();
        table.row(match &checkpoint.state {
            CheckpointState::Kept { generation, step, kept_unix_s, .. } => {
                vec![name, grouped(*generation), grouped(*step), date(*kept_unix_s), allocated]
            }
            CheckpointState::Interrupted => {
                vec![
                    name,
                    String::new(),
                    String::new(),
                    "interrupted; prune removes it".to_owned(),
                    allocated,
                ]
            }
            _ => vec![name, String::new(), String::new(), "damaged".to_owned(), allocated],
        });
    }
    table.write(out)?;
    for checkpoint in all {
        if let CheckpointState::Damaged(why) = &checkpoint.state {
            writeln!(out, "  {}: {why}", checkpoint.name)?;
        }
    }
    Ok(())
}
