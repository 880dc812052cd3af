//! `paramstore export`.

use std::io::Write;
use std::path::PathBuf;

use clap::Args;
use clap::builder::PossibleValuesParser;
use paramstore::exchange::{Export, ExportReport};
use paramstore::{Dtype, Error};
use regex::Regex;
use serde_json::json;

use crate::arguments::Generation;
use crate::failure::Failure;
use crate::human::{bytes, counted, seconds, speed};
use crate::import::rate;
use crate::{Verdict, quantity, source, terminal};

/// Write the parameters of a store as safetensors or npy
///
/// OUT ends in .safetensors: one file. In .npy: one tensor. Anything else is a directory, which gets model.safetensors, or
/// shards and their index in Hugging Face's form. A file appears under its name when it is whole and durable. Exports the
/// committed generation, and works beside a training run.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  paramstore export run1 model.safetensors
  paramstore export run1 hub/ --shard-size 5GB --dtype bf16
  paramstore export run1 wte.npy --tensor wte.weight
  paramstore export run1 resume.safetensors --with-state --checkpoint best")]
pub(crate) struct ExportArguments {
    /// Directory of the store, or STORE@CHECKPOINT
    store: PathBuf,
    /// File or directory to make
    out: PathBuf,
    /// Size at which the files of a directory are cut
    #[arg(long, value_name = "BYTES", default_value = "5GB", value_parser = quantity::bytes)]
    shard_size: u64,
    /// A tensor, by its name; once for each [default: all]
    #[arg(long, value_name = "NAME")]
    tensor: Vec<String>,
    /// Only tensors whose name matches; of several, one
    #[arg(long, value_name = "REGEX")]
    only: Vec<Regex>,
    /// Optimizer state too, as exp_avg.NAME, step.NAME and so on; a directory gets it in files of its own
    #[arg(long)]
    with_state: bool,
    /// Round floats to this type [default: as in the store]
    #[arg(long, value_name = "TYPE", value_parser = PossibleValuesParser::new(["f32", "bf16", "f16"]))]
    dtype: Option<String>,
    /// A kept checkpoint, by its name, in place of the committed generation
    #[arg(long, value_name = "NAME")]
    checkpoint: Option<String>,
    /// Take the place of files that are there
    #[arg(long)]
    force: bool,
    /// Memory for blocks and values on their way
    #[arg(long, value_name = "BYTES", default_value = "256MiB", value_parser = quantity::bytes)]
    memory: u64,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: &ExportArguments, out: &mut dyn Write) -> Result<Verdict, Failure> {
    // A quarter for what is on its way out.
    let memory = arguments.memory / 4;
    let (checkpoint, blocks) = (arguments.checkpoint.as_deref(), arguments.memory - memory);
    let store = source::open(&arguments.store, checkpoint, Generation::Newest, Some(blocks))?;
    for name in &arguments.tensor {
        if store.tensor(name).is_none() {
            return Err(Error::Unknown { kind: "tensor", name: name.clone() }.into());
        }
    }
    let is_chosen = |name: &str| {
        (arguments.tensor.is_empty() || arguments.tensor.iter().any(|tensor| tensor == name))
            && (arguments.only.is_empty() || arguments.only.iter().any(|regex| regex.is_match(name)))
    };
    let mut export = Export::new()
        .select(is_chosen)
        .with_state(arguments.with_state)
        .shard_bytes(arguments.shard_size)
        .force(arguments.force)
        .memory_budget(memory);
    if let Some(dtype) = arguments.dtype.as_deref().and_then(Dtype::from_name) {
        export = export.dtype(dtype);
    }
    let bar = terminal::progress(
        export.bytes(&store)?,
        "{elapsed} [{bar:30}] {bytes} of {total_bytes}, {eta} left",
    );
    let progress = |done| bar.set_position(done);
    let result = match arguments.out.extension().and_then(|extension| extension.to_str()) {
        Some("safetensors") => export.to_file(&store, &arguments.out, progress),
        Some("npy") => {
            let mut chosen = store.tensors().map(|tensor| tensor.name()).filter(|name| is_chosen(name));
            match (chosen.next(), chosen.next()) {
                (Some(name), None) => export.to_npy(&store, name, &arguments.out, progress),
                _ => {
                    return Err(Failure::Usage(
                        "an npy file holds one tensor: name it by --tensor".to_owned(),
                    ));
                }
            }
        }
        _ => export.to_directory(&store, &arguments.out, progress),
    };
    bar.finish_and_clear();
    let report = result.map_err(|error| match error {
        Error::AlreadyExists { path } => Failure::InTheWay(path),
        error => error.into(),
    })?;
    tell(arguments, store.step(), &report, out)
}

fn tell(
    arguments: &ExportArguments,
    step: u64,
    report: &ExportReport,
    out: &mut dyn Write,
) -> Result<Verdict, Failure> {
    let rate = rate(report.bytes, report.seconds);
    if arguments.json {
        let value = json!({
            "path": arguments.out.display().to_string(),
            "step": step,
            "files": report.files.iter().map(|file| file.display().to_string()).collect::<Vec<_>>(),
            "tensors": report.tensors,
            "bytes": report.bytes,
            "seconds": report.seconds,
            "bytes_per_s": rate,
        });
        terminal::json(out, &value)?;
        return Ok(Verdict::Sound);
    }
    for file in &report.files {
        writeln!(out, "{}", file.display())?;
    }
    let (tensors, written) = (counted(report.tensors, "tensor"), bytes(report.bytes));
    let (time, rate) = (seconds(report.seconds), speed(rate));
    writeln!(out, "exported step {step}: {tensors}, {written} in {time}, {rate}")?;
    Ok(Verdict::Sound)
}
