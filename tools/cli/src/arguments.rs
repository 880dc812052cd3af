//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::hyperparameters::Hyperparameters;
use crate::quantity;
use crate::schema::SchemaArguments;

const AFTER: &str = "\
Exit status: 0 sound, 1 damage found, 2 wrong usage, 3 the store could not be looked at or made.
Sizes: 4096, 4k, 64MiB, 1.5GiB (powers of 1024), 2TB (power of 1000). Counts: 120M, 1B, 1T.";

/// Create, inspect, verify and plan stores of model parameters and optimizer state
#[derive(Debug, Parser)]
#[command(name = "paramstore", version, after_help = AFTER, max_term_width = 100)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Create(CreateArguments),
    Inspect(InspectArguments),
    Verify(VerifyArguments),
    Plan(PlanArguments),
}

/// Create a store, with everything it will ever need allocated
///
/// Both homes of every block are allocated now, so that training cannot run out of disk. No data is written: blocks
/// take their initial values when they are first touched.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  paramstore create run1 --optimizer adamw --lr 3e-4 --weight-decay 0.1 --params 120M
  paramstore create run2 --optimizer sgd --momentum 0.9 --nesterov \\
      --tensor wte:f32:50257x768 --tensor ln.weight:f32:768 --init normal:0.02 --seed 7
  paramstore create huge --optimizer lion --params 1T --sparse")]
pub(crate) struct CreateArguments {
    /// Directory of the new store; made if it does not exist, else it has to be empty
    pub(crate) store: PathBuf,
    #[command(flatten)]
    pub(crate) schema: SchemaArguments,
    /// Allocate blocks when they are first written: costs nothing until used, and a full disk shows itself during
    /// training instead of now
    #[arg(long)]
    pub(crate) sparse: bool,
    /// Initial values: zeros, constant:X, normal:STD or uniform:LOW:HIGH
    #[arg(long, value_name = "INIT", default_value = "zeros", value_parser = crate::schema::init)]
    pub(crate) init: paramstore::Init,
    /// Seed of the initial values
    #[arg(long, default_value_t = 0, value_name = "S")]
    pub(crate) seed: u64,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) settings: Hyperparameters,
}

/// Show what a store is and where its bytes go
///
/// Shows the committed generation: step, groups with every hyperparameter, planes, tensors, and where every byte of
/// disk goes. Never writes and never takes the write lock, so it works beside a training run; it takes milliseconds at
/// any size, but for --digest, which reads everything.
#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "switches of a command line do not depend on each other")]
#[command(after_help = "\
Examples:
  paramstore inspect run1
  paramstore inspect run1 --tensors
  paramstore inspect run1 --json | jq .step
  paramstore inspect run1 --digest")]
pub(crate) struct InspectArguments {
    /// Directory of the store
    pub(crate) store: PathBuf,
    /// List all tensors, with their shape, group, planes and updates so far
    #[arg(long)]
    pub(crate) tensors: bool,
    /// List all blocks, with file, place, home, generation and checksum
    #[arg(long)]
    pub(crate) blocks: bool,
    /// Hash the logical content: tensor names, shapes, step and the values of every plane, whatever the block size,
    /// homes and generation
    #[arg(long)]
    pub(crate) digest: bool,
    /// Memory for --digest
    #[arg(long, value_name = "BYTES", value_parser = quantity::bytes)]
    pub(crate) memory: Option<u64>,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// Read everything and check every checksum
///
/// Checks both superblocks, the directory, the record, the block table and every written block, and names tensor,
/// plane, block, file and byte range of whatever is damaged. Works beside a training run, which never waits for it for
/// longer than about half a second.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  paramstore verify run1
  paramstore verify run1 --json | jq '.damage[].tensors'")]
pub(crate) struct VerifyArguments {
    /// Directory of the store
    pub(crate) store: PathBuf,
    /// Memory for blocks on their way
    #[arg(long, value_name = "BYTES", default_value = "128MiB", value_parser = quantity::bytes)]
    pub(crate) memory: u64,
    /// Reads at once, 1 to 64
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub(crate) threads: u16,
    /// How many damaged places to list; all are counted
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub(crate) limit: usize,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// Say what a training run would take of disk and memory, and how fast it could be
///
/// Computes the bytes on disk exactly as create would take them, and predicts the time of a step from a measurement of
/// the disk below --dir (a few hundred MB in files without names, two or three seconds) and of the update rule on this
/// processor. Nothing is created.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  paramstore plan --params 7B --optimizer adamw --memory 32GiB --dir /data
  paramstore plan --params 1T --optimizer lion --no-measure")]
pub(crate) struct PlanArguments {
    #[command(flatten)]
    pub(crate) schema: SchemaArguments,
    /// Directory whose disk is measured and asked for free space
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub(crate) dir: PathBuf,
    /// Predict no time: neither the disk nor the processor is measured
    #[arg(long)]
    pub(crate) no_measure: bool,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) settings: Hyperparameters,
}
