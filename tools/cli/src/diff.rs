//! `paramstore diff`.

use std::io::Write;
use std::path::PathBuf;

use clap::Args;
use paramstore::inspect::{DiffOptions, Difference, PlaneDifference, TensorDifference};
use paramstore::{Error, ParamStore};
use serde_json::{Value, json};

use crate::arguments::Generation;
use crate::failure::Failure;
use crate::human::{Table, bytes, counted, grouped, number, percent};
use crate::inspect::value_bytes;
use crate::{Verdict, quantity, source, style, terminal};

/// Show which tensors differ between two stores, checkpoints or generations, and how far
///
/// Compares tensors of the same name, the biggest movers first. Blocks that a store shares with its checkpoint or its other
/// generation are known to be the same without reading. Distances of parameters are those of their f32 values.
#[derive(Debug, Args)]
#[command(after_help = "\
Exit status: 0 the same, 1 they differ, 2 wrong usage, 3 one of them could not be read.
Examples:
  paramstore diff run1@previous run1
  paramstore diff run1@best run1 --top 10
  paramstore diff run1 /backup/run1 --planes all --json")]
pub(crate) struct DiffArguments {
    /// A store, as STORE, STORE@CHECKPOINT or STORE@previous
    a: PathBuf,
    /// Another one
    b: PathBuf,
    /// A kept checkpoint of A in place of its last commit
    #[arg(long, value_name = "NAME")]
    checkpoint_a: Option<String>,
    /// A kept checkpoint of B in place of its last commit
    #[arg(long, value_name = "NAME")]
    checkpoint_b: Option<String>,
    /// Which planes are compared
    #[arg(long, value_name = "WHICH", default_value = "parameters", value_parser = ["parameters", "all"])]
    planes: String,
    /// List the N biggest movers
    #[arg(long, value_name = "N", default_value_t = 20)]
    top: usize,
    /// What the biggest movers are the biggest by
    #[arg(long, value_name = "KEY", default_value = "relative", value_parser = ["relative", "rms", "max", "changed", "name"])]
    sort: String,
    /// Memory for each of the two
    #[arg(long, value_name = "BYTES", value_parser = quantity::bytes)]
    memory: Option<u64>,
    /// Print JSON, with all tensors
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: &DiffArguments, out: &mut dyn Write) -> Result<Verdict, Failure> {
    // Status 1 says that they differ: damage has to say something else.
    match compare(arguments, out) {
        Err(Failure::Store(error @ Error::Damaged(_))) => Err(Failure::Unreadable(error)),
        other => other,
    }
}

fn compare(arguments: &DiffArguments, out: &mut dyn Write) -> Result<Verdict, Failure> {
    let open = |path, checkpoint: &Option<String>| {
        source::open(path, checkpoint.as_deref(), Generation::Newest, arguments.memory)
    };
    let a = open(&arguments.a, &arguments.checkpoint_a)?;
    let b = open(&arguments.b, &arguments.checkpoint_b)?;
    let all = arguments.planes == "all";
    let planes = if all { usize::MAX } else { 1 };
    let bar = terminal::progress(
        a.tensors().map(|info| value_bytes(&info, planes)).sum(),
        "{elapsed} [{bar:30}] {binary_bytes} of {binary_total_bytes} compared, {binary_bytes_per_sec}, {eta} left",
    );
    let options = DiffOptions::new().all_planes(all);
    let seen = paramstore::inspect::diff(&a, &b, &options, |done| bar.set_position(done));
    bar.finish_and_clear();
    let seen = seen?;
    let moved = sorted(&seen, &arguments.sort);
    let written = if arguments.json {
        terminal::json(out, &to_json(&a, &b, &seen, &moved))
    } else {
        text(arguments, (&a, &b), &seen, &moved, out)
    };
    match written {
        Err(Failure::Output(error)) => terminal::ignore_closed_pipe(Err(error))?,
        other => other?,
    }
    Ok(if seen.is_same() { Verdict::Sound } else { Verdict::Different })
}

/// Tensors and their planes that differ, the biggest movers first.
fn sorted<'d>(seen: &'d Difference, key: &str) -> Vec<(&'d TensorDifference, &'d PlaneDifference)> {
    let planes =
        seen.tensors.iter().flat_map(|tensor| tensor.planes.iter().map(move |plane| (tensor, plane)));
    let mut moved: Vec<_> = planes.filter(|(_, plane)| plane.changed > 0).collect();
    let size = |plane: &PlaneDifference| match key {
        "rms" => plane.rms,
        "max" => plane.max_abs,
        #[expect(clippy::cast_precision_loss, reason = "an order for people")]
        "changed" => plane.changed as f64 / plane.elements.max(1) as f64,
        // What was zero moved infinitely far.
        _ => plane.relative().unwrap_or(f64::INFINITY),
    };
    if key == "name" {
        moved.sort_by(|(a, _), (b, _)| a.name.cmp(&b.name));
    } else {
        moved.sort_by(|(_, a), (_, b)| size(b).total_cmp(&size(a)));
    }
    moved
}

fn head(name: &str, store: &ParamStore, given: &std::path::Path) -> String {
    format!("{name}  {}: generation {}, step {}", given.display(), store.generation(), grouped(store.step()))
}

fn text(
    arguments: &DiffArguments,
    (a, b): (&ParamStore, &ParamStore),
    seen: &Difference,
    moved: &[(&TensorDifference, &PlaneDifference)],
    out: &mut dyn Write,
) -> Result<(), Failure> {
    writeln!(out, "{}\n{}", head("A", a, &arguments.a), head("B", b, &arguments.b))?;
    let one_sided =
        seen.tensors.iter().flat_map(|t| t.one_sided.iter().map(move |p| format!("{}, plane {p}", t.name)));
    for name in &seen.only_in_a {
        writeln!(out, "{}", style::paint(style::LESS, format!("only in A: {name}")))?;
    }
    for name in &seen.only_in_b {
        writeln!(out, "{}", style::paint(style::MORE, format!("only in B: {name}")))?;
    }
    for name in one_sided {
        writeln!(out, "only in one of them: {name}")?;
    }
    for other in &seen.other_shape {
        writeln!(out, "other shape: {}, {:?} in A, {:?} in B", other.name, other.a, other.b)?;
    }
    if !moved.is_empty() {
        writeln!(out, "\nmoved, by {}", arguments.sort)?;
        movers(moved, arguments.top, arguments.planes == "all", out)?;
    }
    let same = seen.tensors.iter().filter(|tensor| tensor.is_same()).count();
    let (same, all) = (u64::try_from(same).unwrap_or(0), u64::try_from(seen.tensors.len()).unwrap_or(0));
    let known = match seen.bytes_known_same {
        0 => String::new(),
        known => format!("; {} known to be the same without reading", bytes(known)),
    };
    let verdict = match (seen.is_same(), arguments.planes.as_str()) {
        (true, "all") => "the same in every value",
        (true, _) => "the same in all parameters",
        (false, _) => "different",
    };
    writeln!(out, "\n{verdict}: {} of {} the same{known}", grouped(same), counted(all, "tensor"))?;
    Ok(())
}

fn movers(
    moved: &[(&TensorDifference, &PlaneDifference)],
    top: usize,
    with_planes: bool,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    let headings = [
        "name",
        "plane",
        ">elements",
        ">changed",
        ">max |B-A|",
        ">rms B-A",
        ">rms A",
        ">relative",
        ">cosine",
    ];
    let mut table =
        Table::new(&headings).fit(&["elements", "rms A", "max |B-A|", "changed", "cosine", "plane"]);
    let some = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), number);
    for (tensor, plane) in moved.iter().take(top) {
        table.row(vec![
            tensor.name.clone(),
            plane.plane.clone(),
            grouped(plane.elements),
            percent(plane.changed, plane.elements),
            number(plane.max_abs),
            number(plane.rms),
            some(plane.rms_a),
            some(plane.relative()),
            plane.cosine.map_or_else(|| "-".to_owned(), |cosine| format!("{cosine:.6}")),
        ]);
        if plane.non_finite > 0 {
            table.alarm(5);
        }
    }
    table.write(out)?;
    for (tensor, plane) in moved.iter().filter(|(_, plane)| plane.non_finite > 0).take(top) {
        let count = counted(plane.non_finite, "element");
        writeln!(out, "  {}, {}: {count} NaN or infinite, left out of distances", tensor.name, plane.plane)?;
    }
    if moved.len() > top {
        let what = if with_planes { "planes" } else { "tensors" };
        writeln!(out, "  ... and {} more {what} (--top N lists more)", moved.len() - top)?;
    }
    Ok(())
}

fn to_json(
    a: &ParamStore,
    b: &ParamStore,
    seen: &Difference,
    moved: &[(&TensorDifference, &PlaneDifference)],
) -> Value {
    let side = |store: &ParamStore| json!({ "path": store.path().display().to_string(), "generation": store.generation(), "step": store.step() });
    let plane = |plane: &PlaneDifference| {
        json!({
            "plane": plane.plane,
            "elements": plane.elements,
            "changed": plane.changed,
            "non_finite": plane.non_finite,
            "max_abs": plane.max_abs,
            "rms": plane.rms,
            "rms_a": plane.rms_a,
            "relative": plane.relative(),
            "cosine": plane.cosine,
        })
    };
    let tensors = seen.tensors.iter().map(|tensor| {
        json!({
            "name": tensor.name,
            "same": tensor.is_same(),
            "planes": tensor.planes.iter().map(plane).collect::<Vec<_>>(),
            "planes_in_one": tensor.one_sided,
        })
    });
    let shapes =
        seen.other_shape.iter().map(|other| json!({ "name": other.name, "a": other.a, "b": other.b }));
    json!({
        "same": seen.is_same(),
        "a": side(a),
        "b": side(b),
        "only_in_a": seen.only_in_a,
        "only_in_b": seen.only_in_b,
        "other_shape": shapes.collect::<Vec<_>>(),
        "bytes_known_same": seen.bytes_known_same,
        "moved": moved.iter().map(|(t, p)| json!({ "name": t.name, "plane": p.plane })).collect::<Vec<_>>(),
        "tensors": tensors.collect::<Vec<_>>(),
    })
}
