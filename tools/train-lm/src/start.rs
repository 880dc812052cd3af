//! Where a new run starts from: weights of files, what of the model is frozen, and how strongly the rest is held to its start.

use std::collections::HashSet;
use std::path::PathBuf;

use anyhow::{Result, ensure};
use clap::Args;
use paramstore::exchange::{Transfer, TransferReport, list};
use paramstore::{Dtype, ParamStore, TensorSpec};
use regex::Regex;
use training::people::note;

use crate::config::TensorDef;

/// What the name of a tensor's start begins with.
pub(crate) const PREFIX: &str = "start.";
/// Memory for values on their way, once, before training begins.
const MEMORY: u64 = 16 << 20;
/// Tensors that are named in the report.
const NAMES_SHOWN: usize = 6;

/// Options of a new run; one that goes on has them from its beginning.
#[derive(Debug, Default, Args)]
pub(crate) struct Pretrained {
    /// Start from the weights of a safetensors, npy, npz or GGUF file, an index of shards or a directory: tensors with the
    /// same name and shape get their values, the others their initial ones
    #[arg(long, value_name = "FILE", num_args = 1..)]
    pub(crate) init_from: Vec<PathBuf>,

    /// Rename tensors of these files: replace all matches of a regular expression ($1 is its first group); several are applied in
    /// order
    #[arg(long, value_name = "REGEX=>TEXT", value_parser = map, requires = "init_from")]
    pub(crate) map: Vec<(Regex, String)>,

    /// Do not train tensors whose names match: they keep their start, have no moments and one place on disk
    #[arg(long, value_name = "REGEX")]
    pub(crate) freeze: Vec<Regex>,

    /// Hold what started from a file to its start: this times the distance is added to its gradient (L2-SP) [default: 0]
    #[arg(long, value_name = "X", value_parser = training::units::positive, requires = "init_from")]
    pub(crate) toward_start: Option<f64>,
}

fn map(text: &str) -> Result<(Regex, String), String> {
    let (regex, to) = text.split_once("=>").ok_or("expected REGEX=>TEXT, e.g. '^model\\.=>'")?;
    Ok((Regex::new(regex).map_err(|error| error.to_string())?, to.to_owned()))
}

impl Pretrained {
    /// The name in the model of a tensor of the files.
    fn rename(&self, name: &str) -> String {
        self.map.iter().fold(name.to_owned(), |name, (regex, to)| regex.replace_all(&name, to).into_owned())
    }

    /// Whether a tensor is not trained.
    pub(crate) fn is_frozen(&self, name: &str) -> bool {
        self.freeze.iter().any(|regex| regex.is_match(name))
    }

    /// Tensors of the store beside those of the model: the starts to which others are held.
    pub(crate) fn anchors(&self, tensors: &[TensorDef]) -> Result<Vec<TensorSpec>> {
        if self.toward_start.is_none() {
            return Ok(Vec::new());
        }
        let mut there = HashSet::new();
        for path in &self.init_from {
            there.extend(list(path)?.into_iter().map(|tensor| (self.rename(&tensor.name), tensor.shape)));
        }
        let dims = |def: &TensorDef| def.dims.iter().map(|&n| n as u64).collect::<Vec<_>>();
        let trained = tensors.iter().filter(|def| !self.is_frozen(&def.name));
        let held = trained.filter(|def| there.contains(&(def.name.clone(), dims(def))));
        let spec = |def: &TensorDef| {
            TensorSpec::new(format!("{PREFIX}{}", def.name), &dims(def)).stored_as(Dtype::F32)
        };
        Ok(held.map(spec).collect())
    }

    /// Gives a new store the values of the files, and tells what came of it.
    pub(crate) fn load(&self, store: &mut ParamStore) -> Result<()> {
        if self.init_from.is_empty() {
            return Ok(());
        }
        let from = || self.init_from.iter().fold(Transfer::new().memory_budget(MEMORY), Transfer::source);
        let report = from().rename(|name| Some(self.rename(name))).run(store, |_| {})?;
        ensure!(
            !report.matched.is_empty(),
            "no tensor of {} has the name and the shape of one of the model's ({} are there, the first {}): rename \
             them with --map, or leave --init-from out",
            self.init_from.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", "),
            report.left.len(),
            report.left.first().map_or(String::new(), |left| format!("{:?}: {}", left.source, left.why))
        );
        if self.toward_start.is_some() {
            from().rename(|name| Some(format!("{PREFIX}{}", self.rename(name)))).run(store, |_| {})?;
        }
        tell(&report);
        Ok(())
    }
}

/// What matched, what is new, what was left.
fn tell(report: &TransferReport) {
    let some = |names: Vec<String>| {
        let more = names.len().saturating_sub(NAMES_SHOWN);
        let text = names.into_iter().take(NAMES_SHOWN).collect::<Vec<_>>().join(", ");
        if more > 0 { format!("{text} and {more} more") } else { text }
    };
    let params: u64 = report.matched.iter().map(|matched| matched.elements).sum();
    let count = training::people::grouped;
    note(&format!("Start      {} tensors from files, {} parameters", report.matched.len(), count(params)));
    let new = report.new.iter().filter(|(name, _)| !name.starts_with(PREFIX));
    let new: Vec<_> = new.map(|(name, init)| format!("{name} ({init:?})")).collect();
    if !new.is_empty() {
        note(&format!("           {} new: {}", new.len(), some(new)));
    }
    let left: Vec<_> = report.left.iter().map(|left| format!("{} ({})", left.source, left.why)).collect();
    if !left.is_empty() {
        note(&format!("           {} of the files left: {}", left.len(), some(left)));
    }
}
