//! The command line.

use std::path::PathBuf;

use clap::builder::PossibleValuesParser;
use clap::{Args, Parser, Subcommand, ValueEnum};
use paramstore::{Moments, Optimizer, Precision};

use crate::diff::DiffArguments;
use crate::hyperparameters::Hyperparameters;
use crate::inspect::TensorsArguments;
use crate::quantity;
use crate::schema::SchemaArguments;
use crate::shell::{CompletionsArguments, ManArguments};
use crate::show::ShowArguments;

const AFTER: &str = "\
Exit status: 0 sound, 1 damage found (diff: they differ), 2 wrong usage, 3 the store could not be looked at or made,
130 interrupted.
Sizes: 4096, 4k, 64MiB, 1.5GiB (powers of 1024), 2TB (power of 1000). Counts: 120M, 1B, 1T.";

/// Create, inspect, compare, verify, keep, plan and measure stores of model parameters and optimizer state
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
    Repair(RepairArguments),
    Checkpoint(CheckpointArguments),
    Convert(ConvertArguments),
    Import(crate::import::ImportArguments),
    Export(crate::export::ExportArguments),
    Plan(PlanArguments),
    Bench(BenchArguments),
    Show(ShowArguments),
    Diff(DiffArguments),
    Completions(CompletionsArguments),
    Man(ManArguments),
    Top(crate::top::TopArguments),
    Report(crate::report::ReportArguments),
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

/// Which of the committed generations is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Generation {
    Newest,
    Previous,
}

impl From<Generation> for paramstore::Generation {
    fn from(generation: Generation) -> Self {
        match generation {
            Generation::Newest => Self::Newest,
            Generation::Previous => Self::Previous,
        }
    }
}

/// Show what a store is and where its bytes go
///
/// Shows the committed generation: step, groups with every hyperparameter, planes, tensors, and where every byte of
/// disk goes. Never writes and never takes the write lock, so it works beside a training run; it takes milliseconds at
/// any size, but for --digest, --stats and what needs them, which read everything.
#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "switches of a command line do not depend on each other")]
#[command(after_help = "\
Examples:
  paramstore inspect run1
  paramstore inspect run1 --tensors
  paramstore inspect run1 --stats --filter '*.attn.*' --sort ratio --top 10
  paramstore inspect run1 --histograms --why
  paramstore inspect run1 --json | jq .step
  paramstore inspect run1 --generation previous
  paramstore inspect run1 --digest")]
pub(crate) struct InspectArguments {
    /// Directory of the store
    pub(crate) store: PathBuf,
    /// List all tensors, with their shape, group, planes and updates so far
    #[arg(long)]
    pub(crate) tensors: bool,
    #[command(flatten)]
    pub(crate) list: TensorsArguments,
    /// Say where every byte on disk goes, by plane and home, as the file system counts it
    #[arg(long)]
    pub(crate) why: bool,
    /// List all blocks, with file, place, home, generation and checksum
    #[arg(long)]
    pub(crate) blocks: bool,
    /// Hash the logical content: tensor names, shapes, step and the values of every plane, whatever the block size,
    /// homes and generation
    #[arg(long)]
    pub(crate) digest: bool,
    /// Which of the two committed generations to look at; the previous one is whole until steps after the last commit
    /// take the place of its blocks
    #[arg(long, value_enum, default_value_t = Generation::Newest)]
    pub(crate) generation: Generation,
    /// Memory for --digest and --stats
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
  paramstore verify run1 --resume run1.verify
  paramstore verify run1 --json | jq '.damage[].tensors'")]
pub(crate) struct VerifyArguments {
    /// Directory of the store
    pub(crate) store: PathBuf,
    /// Memory for blocks on their way
    #[arg(long, value_name = "BYTES", default_value = "128MiB", value_parser = quantity::bytes)]
    pub(crate) memory: u64,
    /// Reads at once, 1 to 64
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub(crate) threads: u16,
    /// Which of the two committed generations to look at; the previous one is whole until steps after the last commit
    /// take the place of its blocks
    #[arg(long, value_enum, default_value_t = Generation::Newest)]
    pub(crate) generation: Generation,
    /// Keep in FILE how far this has come; if it is there, go on from it. Removed at the end
    #[arg(long, value_name = "FILE")]
    pub(crate) resume: Option<PathBuf>,
    /// How many damaged places to list; all are counted
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub(crate) limit: usize,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// Say what can be done about damage, and do it when told to
///
/// Checks the newest generation. If it is damaged, looks for a way out: the very bytes of the damaged blocks in a kept
/// checkpoint or another copy of the store, the generation before, or older content of the damaged blocks; and says what
/// each would lose. Nothing is written before one of the ways is named and agreed to, at the prompt or by --yes. Takes the
/// write lock.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  paramstore repair run1
  paramstore repair run1 --previous
  paramstore repair run1 --from best --yes
  paramstore repair run1 --from /backup/run1")]
pub(crate) struct RepairArguments {
    /// Directory of the store
    pub(crate) store: PathBuf,
    /// Go back to the generation before the newest, if it is whole
    #[arg(long, conflicts_with = "from")]
    pub(crate) previous: bool,
    /// Rebuild damaged blocks from a kept checkpoint, by its name, or from another copy of this store, by its path
    #[arg(long, value_name = "COPY")]
    pub(crate) from: Option<PathBuf>,
    /// Do it without asking
    #[arg(long)]
    pub(crate) yes: bool,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// Make a store anew in another precision
///
/// Reads the committed generation of STORE and makes OUT with the same tensors, settings, clocks, step and user record, a
/// part at a time under the memory given. Values are rounded to the nearest; what that did to each plane is printed. Tensors
/// below 4,096 elements or two dimensions, and embeddings, are kept in f32. STORE is only read.
///
/// OUT is made under the name OUT.converting, and gets its name when it is whole and durable. What an interrupted conversion
/// left there is removed by the next one.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  paramstore convert run1 run1.compact --params bf16 --moments q8
  paramstore convert run1 run1.kahan --params bf16-kahan --moments q8
  paramstore convert run1.compact run1.f32 --params f32 --moments f32 --memory 4GiB --json")]
pub(crate) struct ConvertArguments {
    /// Directory of the store to read
    pub(crate) store: PathBuf,
    /// Directory of the store to make
    pub(crate) out: PathBuf,
    /// Type of parameters; with -kahan, 2 bytes more for each keep what rounding to the nearest lost
    #[arg(long, value_name = "TYPE", value_parser = PossibleValuesParser::new(crate::schema::PARAMS))]
    pub(crate) params: String,
    /// Form of moments
    #[arg(long, value_name = "FORM", default_value = "f32", value_parser = PossibleValuesParser::new(Moments::NAMES))]
    pub(crate) moments: String,
    /// Also tensors that would be kept in f32
    #[arg(long)]
    pub(crate) everywhere: bool,
    /// Memory for both stores together
    #[arg(long, value_name = "BYTES", default_value = "1GiB", value_parser = quantity::bytes)]
    pub(crate) memory: u64,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// Keep generations by name: keep, list, rollback, prune
///
/// A checkpoint is a store of its own in STORE/checkpoints/NAME, which every command that reads takes: inspect and
/// verify. Where the file system can share blocks between files (XFS, btrfs) keeping copies nothing. What a command will
/// take of disk and time is printed before it is spent; with --json, on standard error.
#[derive(Debug, Args)]
pub(crate) struct CheckpointArguments {
    #[command(subcommand)]
    pub(crate) command: CheckpointCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum CheckpointCommand {
    Keep(KeepArguments),
    List(ListArguments),
    Rollback(RollbackArguments),
    Prune(PruneArguments),
}

/// Keep the last commit under a name
///
/// Works beside a training run, which waits before its second commit from now until this has ended. Blocks that are copied
/// are checked; shared ones are not read (verify STORE/checkpoints/NAME reads them).
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  paramstore checkpoint keep run1 best --dry-run
  paramstore checkpoint keep run1 best
  paramstore verify run1/checkpoints/best")]
pub(crate) struct KeepArguments {
    /// Directory of the store
    pub(crate) store: PathBuf,
    /// Name: 1 to 64 of A-Z a-z 0-9 . _ -, without . or - in front
    pub(crate) name: String,
    /// Say what it would take, and stop
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// List checkpoints, the oldest first, and what interrupted commands left
#[derive(Debug, Args)]
pub(crate) struct ListArguments {
    /// Directory of the store
    pub(crate) store: PathBuf,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// Go back to a checkpoint: everything after it is lost, committed or not
///
/// Parameters, moments, step, settings and user record are what they were, bit for bit, and training goes on from there.
/// Only blocks that differ are copied. It is one commit: a crash leaves the store as it was, or as the checkpoint is. The
/// checkpoint stays.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  paramstore checkpoint rollback run1 best --dry-run
  paramstore checkpoint rollback run1 best --yes")]
pub(crate) struct RollbackArguments {
    /// Directory of the store, which nobody trains on now
    pub(crate) store: PathBuf,
    /// Name of the checkpoint
    pub(crate) name: String,
    /// Lose what came after the checkpoint
    #[arg(long)]
    pub(crate) yes: bool,
    /// Say what it would take and lose, and stop
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// Remove checkpoints, and what interrupted commands left
///
/// Blocks that a checkpoint shares with the store or with another checkpoint stay theirs.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  paramstore checkpoint prune run1 old older
  paramstore checkpoint prune run1 --keep-last 3 --dry-run")]
pub(crate) struct PruneArguments {
    /// Directory of the store
    pub(crate) store: PathBuf,
    /// Names of checkpoints
    #[arg(required_unless_present = "keep_last")]
    pub(crate) names: Vec<String>,
    /// Remove all but the N newest, and what interrupted commands left
    #[arg(long, value_name = "N", conflicts_with = "names")]
    pub(crate) keep_last: Option<usize>,
    /// Say what would go, and stop
    #[arg(long)]
    pub(crate) dry_run: bool,
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

/// Measure this machine, beside the limit of its disk or memory
#[derive(Debug, Args)]
pub(crate) struct BenchArguments {
    #[command(subcommand)]
    pub(crate) command: BenchCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum BenchCommand {
    Sweep(SweepArguments),
    Rows(RowsArguments),
}

/// Time optimizer steps on some rows of a table, each beside its limit
///
/// Makes a scratch store in --dir with one tensor of rows, removed at the end, gives every row values, and then takes
/// steps: a batch of rows is drawn, gathered, updated and, with every Kth step, committed. The ids of a batch are drawn by
/// Zipf's law, or evenly with --zipf 0; frequent rows are spread over the table. After each step its limit is measured: as
/// many random reads of a page, past the page cache, as rows had to be read, 32 at once; or, where no row had to be read, a
/// pass by all threads over memory that reads and writes what the step does, without its arithmetic. A ratio of 1 means as
/// fast as the limit.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  paramstore bench rows --rows 10M --dim 64 --batch 65536 --zipf 1.05 --optimizer sparseadam --memory 1GiB
  paramstore bench rows --rows 1M --dim 64 --batch 65536 --zipf 0 --optimizer adagrad --memory 2GiB --json | jq .ratio")]
pub(crate) struct RowsArguments {
    /// Rows of the table
    #[arg(long, value_name = "N", value_parser = quantity::count)]
    pub(crate) rows: u64,
    /// Elements of a row
    #[arg(long, value_name = "D", value_parser = clap::value_parser!(u64).range(1..=65_535))]
    pub(crate) dim: u64,
    /// Ids drawn for each step
    #[arg(long, value_name = "B", value_parser = clap::value_parser!(u64).range(1..=16_777_216))]
    pub(crate) batch: u64,
    /// Exponent of Zipf's law; 0 draws all rows equally often
    #[arg(long, value_name = "S", default_value_t = 1.05)]
    pub(crate) zipf: f64,
    /// Update rule with a form for rows
    #[arg(long, value_name = "NAME", value_parser = PossibleValuesParser::new(Optimizer::NAMES))]
    pub(crate) optimizer: String,
    /// Memory budget of the store
    #[arg(long, value_name = "BYTES", value_parser = quantity::bytes)]
    pub(crate) memory: u64,
    /// Say which rows the next K batches will need
    #[arg(long, value_name = "K", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=1000))]
    pub(crate) lookahead: u32,
    /// Commit after every Kth step
    #[arg(long, value_name = "K", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) commit_every: u64,
    /// Steps before the timed ones, which fill the memory with the rows that are used most
    #[arg(long, value_name = "W", default_value_t = 100, value_parser = clap::value_parser!(u64).range(0..=100_000))]
    pub(crate) warm_up: u64,
    /// Timed steps
    #[arg(long, value_name = "S", default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    pub(crate) steps: u64,
    /// Bytes of the log of rows [default: as much as the table, 16MiB to 8GiB]
    #[arg(long, value_name = "BYTES", value_parser = quantity::bytes)]
    pub(crate) log_bytes: Option<u64>,
    /// Bytes of a block of rows, a power of two from 4KiB to 256MiB [default: 256KiB]
    #[arg(long, value_name = "BYTES", value_parser = quantity::bytes)]
    pub(crate) block_bytes: Option<u64>,
    /// Threads that compute, 1 to 1024 [default: one for each processor]
    #[arg(long, value_name = "T", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) threads: Option<u16>,
    /// Seed of the draws
    #[arg(long, value_name = "SEED", default_value_t = 0)]
    pub(crate) seed: u64,
    /// Directory for the scratch store [default: the system's temporary directory]
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) settings: Hyperparameters,
}

/// How blocks travel between disk and memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Path {
    Auto,
    Direct,
    Mapped,
}

/// Time optimizer steps over a whole store, each beside its limit
///
/// Makes a scratch store in --dir, removed at the end, and takes turns on it between a real step and the least that
/// such a step could take. Where the state is larger than the memory (cold), that is a raw copy of the same bytes of
/// the same files: read where the step reads, written where it writes, past the page cache, without checksums or
/// arithmetic, with the queue depth and the size of pieces that a short search finds best, made durable when the step
/// is. Where the whole state stays in memory (hot), it is a pass over that memory by all threads which reads and writes
/// what the update does, without its arithmetic. A ratio of 1 means as fast as the limit.
///
/// The resident memory includes 16 MiB of gradients and the copy's 32 MiB of buffers. At the end the store is verified.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  paramstore bench sweep --params 200M --memory 256MiB --optimizer adamw
  paramstore bench sweep --params 200M --memory 4GiB --optimizer adamw --commit-every 100
  paramstore bench sweep --params 800M --memory 2GiB --optimizer adamw --state compact
  paramstore bench sweep --params 1B --memory 1GiB --optimizer lion --dir /data --json | jq .ratio")]
pub(crate) struct SweepArguments {
    /// Number of parameters, in tensors of at most 50M
    #[arg(long, value_name = "N", value_parser = quantity::count)]
    pub(crate) params: u64,
    /// Memory budget of the store
    #[arg(long, value_name = "BYTES", value_parser = quantity::bytes)]
    pub(crate) memory: u64,
    /// Update rule
    #[arg(long, value_name = "NAME", value_parser = PossibleValuesParser::new(Optimizer::NAMES))]
    pub(crate) optimizer: String,
    /// Bits of parameters and moments: bf16 halves the bytes, compact (bf16 and 8 bits) makes them a third; with -kahan parameters
    /// are rounded to the nearest in place of stochastically, and 2 bytes more keep what that lost
    #[arg(long, value_name = "STATE", default_value = "f32", value_parser = PossibleValuesParser::new(Precision::NAMES))]
    pub(crate) state: String,
    /// How blocks travel between disk and memory
    #[arg(long, value_enum, default_value_t = Path::Auto)]
    pub(crate) path: Path,
    /// Commit after every Kth of the timed steps
    #[arg(long, value_name = "K", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) commit_every: u64,
    /// Timed steps; two more warm up and always commit: blocks are born in the first, and written into their second home
    /// for the first time in the second
    #[arg(long, value_name = "S", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    pub(crate) steps: u64,
    /// Threads that compute, 1 to 1024 [default: one for each processor]
    #[arg(long, value_name = "T", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) threads: Option<u16>,
    /// Threads that read and write blocks, 1 to 64 [default: 8, on the mapped path 4]
    #[arg(long, value_name = "T", value_parser = clap::value_parser!(u16).range(1..=64))]
    pub(crate) io_threads: Option<u16>,
    /// Bytes of a block's parameters, a power of two from 4KiB to 256MiB [default: 4MiB or less, by size and memory]
    #[arg(long, value_name = "BYTES", value_parser = quantity::bytes)]
    pub(crate) block_bytes: Option<u64>,
    /// Directory for the scratch store [default: the system's temporary directory]
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) settings: Hyperparameters,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_of_the_documents_is_understood() {
        documents::check("paramstore", 40, |words| Arguments::try_parse_from(words).map(drop));
    }
}
