//! `paramstore import`.

use std::io::Write;
use std::path::PathBuf;

use clap::Args;
use clap::builder::PossibleValuesParser;
use paramstore::exchange::{Import, ImportPlan, PlannedTensor};
use paramstore::{Moments, Optimizer, ParamGroup, Precision, RowMode, Schema};
use regex::Regex;
use serde_json::json;

use crate::failure::Failure;
use crate::human::{Table, bytes, counted, seconds, speed};
use crate::hyperparameters::Hyperparameters;
use crate::{Verdict, quantity, terminal};

/// Tensors that are listed without --dry-run.
const TENSORS_SHOWN: usize = 20;

/// The group of tensors that no --group matches.
const DEFAULT_GROUP: &str = "default";

/// Make a store from safetensors, npy, npz or GGUF files
///
/// FILE is a file in one of these formats, an index (model.safetensors.index.json) whose shards stand beside it, or a directory
/// with model.safetensors or its index, such as a snapshot in the cache of Hugging Face. Values stream through the memory given, whatever the size of the model. Parameters stay in f32, bf16
/// or f16 as they are in the file, bit for bit, unless --params or --state says otherwise; integers and f64 are kept as they
/// are, and are not trained. Optimizer state comes along where it has PyTorch's names: exp_avg.NAME, step.NAME, step.
///
/// STORE is made under the name STORE.importing, and gets its name when it is whole and durable. What an interrupted import
/// left there is removed by the next one.
#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "switches of a command line do not depend on each other")]
#[command(after_help = "\
Examples:
  paramstore import run1 model.safetensors --optimizer adamw --lr 3e-4
  paramstore import run1 llama/model.safetensors.index.json --dry-run
  paramstore import run1 model.safetensors --map '^model\\.=>' --skip rotary \\
      --group 'norm|bias=no-decay' --group-set no-decay:weight_decay=0
  paramstore import run1 base.gguf adapter.npz --freeze '^blk' --state compact
  paramstore import run1 ~/.cache/huggingface/hub/models--*/snapshots/* --rows '^wte' --optimizer sparseadam")]
pub(crate) struct ImportArguments {
    /// Directory of the new store; must not exist, or be empty
    store: PathBuf,
    /// Files, indices or directories
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Rename tensors: replace all matches of a regular expression ($1 is its first group); several are applied in order
    #[arg(long, value_name = "REGEX=>TEXT", value_parser = map)]
    map: Vec<(Regex, String)>,
    /// Only tensors whose name in the file matches; of several, one
    #[arg(long, value_name = "REGEX")]
    only: Vec<Regex>,
    /// No tensors whose name in the file matches
    #[arg(long, value_name = "REGEX")]
    skip: Vec<Regex>,
    /// Put tensors whose name in the store matches into a group; the first that matches counts
    #[arg(long, value_name = "REGEX=NAME", value_parser = group)]
    group: Vec<(Regex, String)>,
    /// Set a hyperparameter of a group, e.g. no-decay:weight_decay=0
    #[arg(long, value_name = "NAME:KEY=VALUE", value_parser = group_setting)]
    group_set: Vec<(String, String, String)>,
    /// Do not train tensors whose name in the store matches: one place in place of two, and no state
    #[arg(long, value_name = "REGEX")]
    freeze: Vec<Regex>,
    /// Keep matrices whose name in the store matches by rows, in f32: for tables of embeddings of which a step updates some rows
    #[arg(long, value_name = "REGEX")]
    rows: Vec<Regex>,
    /// What becomes of a row in steps that do not name it: nothing, or what a dense run would do
    #[arg(long, value_name = "MODE", value_parser = ["lazy", "catch-up"], requires = "rows", default_value = "lazy")]
    row_mode: String,
    /// Bytes of the log of rows [default: as much as the tables, 16MiB to 8GiB]
    #[arg(long, value_name = "BYTES", value_parser = quantity::bytes, requires = "rows")]
    row_log: Option<u64>,
    /// Leave optimizer state out
    #[arg(long)]
    no_state: bool,
    /// Leave out tensors whose type a store cannot hold (quantised ones), in place of refusing them
    #[arg(long)]
    skip_unsupported: bool,
    /// Update rule, which decides what state is kept per parameter
    #[arg(long, value_name = "NAME", default_value = "adamw", value_parser = PossibleValuesParser::new(Optimizer::NAMES))]
    optimizer: String,
    /// Bits of parameters and moments: bf16, or compact (bf16 and 8 bits); with -kahan, 2 bytes more keep what rounding lost;
    /// tensors below 4,096 elements or two dimensions, and embeddings, are kept in f32 then
    #[arg(long, value_name = "STATE", value_parser = PossibleValuesParser::new(Precision::NAMES))]
    state: Option<String>,
    /// Type of parameters; with -kahan, 2 bytes more for each keep what rounding lost [default: as in the file]
    #[arg(long, value_name = "TYPE", value_parser = PossibleValuesParser::new(crate::schema::PARAMS))]
    params: Option<String>,
    /// Form of moments [default: that of --state, or f32]
    #[arg(long, value_name = "FORM", value_parser = PossibleValuesParser::new(Moments::NAMES))]
    moments: Option<String>,
    /// Keep parameters in the file's type in spite of --state, which then says it for moments only
    #[arg(long, conflicts_with = "params")]
    keep_dtype: bool,
    /// Also tensors that would be kept in f32
    #[arg(long)]
    everywhere: bool,
    /// Reserve a plane for gradients, for accumulation, clipping by global norm, and refusing of NaN
    #[arg(long)]
    gradient_plane: bool,
    /// Bytes of a block's parameters, a power of two from 4KiB to 256MiB [default: 4MiB or less, by size and memory]
    #[arg(long, value_name = "BYTES", value_parser = quantity::bytes)]
    block_bytes: Option<u64>,
    /// Allocate blocks of state when they are first written
    #[arg(long)]
    sparse: bool,
    /// Memory for blocks and values on their way
    #[arg(long, value_name = "BYTES", default_value = "1GiB", value_parser = quantity::bytes)]
    memory: u64,
    /// List what would be made, and stop
    #[arg(long)]
    dry_run: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    settings: Hyperparameters,
}

pub(crate) fn run(arguments: &ImportArguments, out: &mut dyn Write) -> Result<Verdict, Failure> {
    let mut import = arguments.import()?;
    for file in &arguments.files {
        import = import.source(file);
    }
    let plan = import.plan()?;
    arguments.warn_of_idle(&plan);
    let disk = plan.schema.plan(&import.options())?.bytes_on_disk;
    let mut value = json!({
        "path": arguments.store.display().to_string(),
        "tensors": plan.tensors.iter().map(to_json).collect::<Vec<_>>(),
        "skipped": plan.skipped.iter().map(|tensor| json!({
            "name": tensor.name, "type": tensor.dtype.name(), "shape": tensor.shape,
        })).collect::<Vec<_>>(),
        "bytes": plan.bytes,
        "bytes_on_disk": disk,
        "step": plan.step,
        "dry_run": arguments.dry_run,
    });
    if !arguments.json {
        list(&plan, if arguments.dry_run { usize::MAX } else { TENSORS_SHOWN }, out)?;
        let (tensors, read) = (counted(plan.tensors.len() as u64, "tensor"), bytes(plan.bytes));
        writeln!(out, "{tensors}, {read} to read; {} on disk; step {}", bytes(disk), plan.step)?;
        out.flush()?;
    }
    if !arguments.dry_run {
        let bar = terminal::progress(plan.bytes, "{elapsed} [{bar:30}] {bytes} of {total_bytes}, {eta} left");
        let report = import.run(&arguments.store, |done| bar.set_position(done))?;
        bar.finish_and_clear();
        let rate = rate(report.bytes, report.seconds);
        value["seconds"] = report.seconds.into();
        value["bytes_per_s"] = rate.into();
        if !arguments.json {
            let (read, time, rate) = (bytes(report.bytes), seconds(report.seconds), speed(rate));
            writeln!(out, "imported {}: {read} in {time}, {rate}", arguments.store.display())?;
        }
    }
    if arguments.json {
        terminal::json(out, &value)?;
    }
    Ok(Verdict::Sound)
}

#[expect(clippy::cast_precision_loss, reason = "a rate for people")]
pub(crate) fn rate(bytes: u64, seconds: f64) -> f64 {
    bytes as f64 / seconds.max(1e-9)
}

impl ImportArguments {
    fn import(&self) -> Result<Import<'_>, Failure> {
        let keep = self.keep_dtype || (self.params.is_none() && self.state.is_none());
        let matches = |any: &[Regex], name: &str| any.iter().any(|regex| regex.is_match(name));
        let mode = if self.row_mode == RowMode::CatchUp.name() { RowMode::CatchUp } else { RowMode::Lazy };
        let rename = move |name: &str| {
            if (!self.only.is_empty() && !matches(&self.only, name)) || matches(&self.skip, name) {
                return None;
            }
            let apply = |name: String, (regex, text): &(Regex, String)| {
                regex.replace_all(&name, text.as_str()).into_owned()
            };
            Some(self.map.iter().fold(name.to_owned(), apply))
        };
        let assign = |name: &str| {
            let found = self.group.iter().find(|(regex, _)| regex.is_match(name));
            found.map(|(_, group)| group.clone())
        };
        Ok(Import::with_schema(self.schema()?)
            .rename(rename)
            .assign(assign)
            .freeze(move |name| matches(&self.freeze, name))
            .rows(move |name| matches(&self.rows, name).then_some(mode))
            .keep_dtypes(keep)
            .with_state(!self.no_state)
            .skip_unsupported(self.skip_unsupported)
            .sparse(self.sparse)
            .memory_budget(self.memory))
    }

    fn schema(&self) -> Result<Schema, Failure> {
        let optimizer = self.settings.optimizer(&self.optimizer)?;
        let state = self.state.as_deref().and_then(Precision::from_name).unwrap_or_default();
        let of_state = (state.params, state.compensated);
        let (params, compensated) = self.params.as_deref().map_or(of_state, crate::schema::params);
        let moments = self.moments.as_deref().and_then(Moments::from_name).unwrap_or(state.moments);
        let mut precision = Precision::new(params, moments);
        (precision.everywhere, precision.compensated) = (self.everywhere, compensated);
        let mut schema = Schema::new().gradient_plane(self.gradient_plane).precision(precision);
        if let Some(bytes) = self.block_bytes {
            schema = schema.block_bytes(bytes);
        }
        if let Some(bytes) = self.row_log {
            schema = schema.row_log_bytes(bytes);
        }
        let mut names = vec![DEFAULT_GROUP];
        for (_, name) in &self.group {
            if !names.contains(&name.as_str()) {
                names.push(name);
            }
        }
        if let Some((name, ..)) = self.group_set.iter().find(|(name, ..)| !names.contains(&name.as_str())) {
            let known = names.join(", ");
            return Err(Failure::Usage(format!(
                "--group-set: no group is named {name:?}, expected one of {known}"
            )));
        }
        for name in names {
            let mut optimizer = optimizer;
            for (_, key, value) in self.group_set.iter().filter(|(group, ..)| group == name) {
                optimizer.set(key, value)?;
            }
            optimizer.validate()?;
            schema = schema.group(ParamGroup::new(name, optimizer));
        }
        Ok(schema)
    }
}

impl ImportArguments {
    /// Says which patterns have no effect: most likely they are misspelt, and found out after the training otherwise.
    fn warn_of_idle(&self, plan: &ImportPlan) {
        let of_store = |regex: &Regex| plan.tensors.iter().any(|tensor| regex.is_match(&tensor.name));
        let patterns = [("--freeze", &self.freeze), ("--rows", &self.rows)];
        let patterns =
            patterns.into_iter().flat_map(|(flag, all)| all.iter().map(move |regex| (flag, regex)));
        let groups = self.group.iter().map(|(regex, _)| ("--group", regex));
        for (flag, regex) in patterns.chain(groups).filter(|(_, regex)| !of_store(regex)) {
            terminal::warn(&format!("{flag} {:?} matches no tensor of the store", regex.as_str()));
        }
    }
}

/// A table of what is made.
fn list(plan: &ImportPlan, shown: usize, out: &mut dyn Write) -> Result<(), Failure> {
    let mut table = Table::new(&["tensor", "shape", "file", "store", "group", "state"]);
    for tensor in plan.tensors.iter().take(shown) {
        let mut state = match (tensor.is_frozen, tensor.planes.is_empty()) {
            (true, _) => "frozen".to_owned(),
            (false, true) => "new".to_owned(),
            (false, false) => format!("{} at {}", tensor.planes.join(", "), tensor.steps),
        };
        if let Some(mode) = tensor.rows {
            state = format!("{state}, {} rows", mode.name());
        }
        table.row(vec![
            tensor.name.clone(),
            format!("{:?}", tensor.shape),
            tensor.from.name().to_ascii_lowercase(),
            tensor.to.name().to_owned(),
            tensor.group.clone().unwrap_or_else(|| DEFAULT_GROUP.to_owned()),
            state,
        ]);
    }
    table.write(out)?;
    if plan.tensors.len() > shown {
        writeln!(out, "  ... and {} more (--dry-run lists all)", plan.tensors.len() - shown)?;
    }
    for tensor in &plan.skipped {
        writeln!(out, "  left out: {} ({})", tensor.name, tensor.dtype.name())?;
    }
    Ok(())
}

fn to_json(tensor: &PlannedTensor) -> serde_json::Value {
    json!({
        "name": tensor.name,
        "source": tensor.source,
        "file": tensor.path.display().to_string(),
        "from": tensor.from.name(),
        "dtype": tensor.to.name(),
        "shape": tensor.shape,
        "group": tensor.group.as_deref().unwrap_or(DEFAULT_GROUP),
        "frozen": tensor.is_frozen,
        "rows": tensor.rows.map(RowMode::name),
        "planes": tensor.planes,
        "steps": tensor.steps,
    })
}

/// `REGEX=>TEXT`.
fn map(text: &str) -> Result<(Regex, String), String> {
    let (regex, to) = text.split_once("=>").ok_or("expected REGEX=>TEXT, e.g. '^model\\.=>'")?;
    Ok((Regex::new(regex).map_err(|error| error.to_string())?, to.to_owned()))
}

/// `REGEX=NAME`, cut at the last `=`.
fn group(text: &str) -> Result<(Regex, String), String> {
    let cut = text.rsplit_once('=').filter(|(_, name)| !name.is_empty());
    let (regex, name) = cut.ok_or("expected REGEX=NAME, e.g. 'norm|bias=no-decay'")?;
    Ok((Regex::new(regex).map_err(|error| error.to_string())?, name.to_owned()))
}

/// `NAME:KEY=VALUE`.
fn group_setting(text: &str) -> Result<(String, String, String), String> {
    let expected = "expected NAME:KEY=VALUE, e.g. no-decay:weight_decay=0";
    let (front, value) = text.rsplit_once('=').ok_or(expected)?;
    let (name, key) = front.rsplit_once(':').ok_or(expected)?;
    Ok((name.to_owned(), key.trim().to_owned(), value.trim().to_owned()))
}
