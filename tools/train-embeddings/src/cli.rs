//! The command line.

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use anyhow::{Result, ensure};
use clap::{Args as Group, Parser, Subcommand};

use crate::graph::model::Kind;
use crate::graph::split::{Leaks, split};
use crate::graph::train::{self, Knowledge};
use crate::graph::triples::{self, Graph};
use crate::graph::wordnet;
use crate::num::index;
use crate::run::record::{DataId, Setting};
use crate::run::report::Summary;
use crate::run::{self, Found, Orders};
use crate::words::glove::{self, Glove};
use crate::words::skip_gram::{self, SkipGram};
use crate::words::text::Text;
use crate::words::vocab::Corpus;
use training::units::{bytes, count, not_negative, positive, size};

const DEFAULT_MEMORY: u64 = 512 << 20;
const DEFAULT_SEED: u64 = 42;
/// Of the order in which triples are held out.
const SPLIT_SEED: u64 = 0;
const DEFAULT_VOCAB: usize = 100_000;
const DEFAULT_MIN_COUNT: u64 = 5;

/// Train embedding tables that live on disk
///
/// Rows, optimizer state and the position in the data become durable together at each commit. A run that ends early, for
/// whatever reason, is continued by the same command, and ends with the same bits as one that was never stopped.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 100)]
pub(crate) struct Args {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Vectors of words and their character n-grams, by skip-gram with negative sampling
    SkipGram(SkipGramArgs),
    /// Vectors of words from co-occurrences
    Glove(GloveArgs),
    /// Vectors of a knowledge graph's entities and relations
    KnowledgeGraph(GraphArgs),
}

/// What every run is told.
#[derive(Debug, Group)]
#[command(args_override_self = true)]
struct Common {
    /// Directory of the store; created if it does not exist [default: runs/ and the task's name]
    #[arg(long, value_name = "DIR")]
    store: Option<PathBuf>,

    /// Memory for rows, gradients and optimizer state, e.g. 64MiB or 1.5GiB: the store's budget and what a batch holds
    #[arg(long, value_name = "BYTES", value_parser = bytes, default_value_t = DEFAULT_MEMORY)]
    memory: u64,

    /// Optimizer steps at which the run is complete; a larger number continues a run
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..), conflicts_with = "epochs")]
    steps: Option<u64>,

    /// The same as passes over the data [default: by the task]
    #[arg(long, value_name = "X", value_parser = positive)]
    epochs: Option<f64>,

    /// Steps from one commit to the next
    #[arg(long, value_name = "K", default_value_t = 500, value_parser = clap::value_parser!(u64).range(1..))]
    commit_every: u64,

    /// sparseadam, adagrad or sgd [default: by the task]
    #[arg(long, value_name = "NAME", value_parser = ["sparseadam", "adagrad", "sgd"])]
    optimizer: Option<String>,

    /// Learning rate; it falls along a line, but for adagrad [default: by the task]
    #[arg(long, value_name = "X", value_parser = positive)]
    lr: Option<f64>,

    /// Seed of initial values, order and negatives [default: 42]
    #[arg(long, value_name = "S")]
    seed: Option<u64>,

    /// Elements of a vector [default: by the task]
    #[arg(long, value_name = "N", value_parser = size(2, 65_536))]
    dim: Option<usize>,

    /// Words, pairs or triples of a batch [default: by the task]
    #[arg(long, value_name = "N", value_parser = size(1, 1 << 20))]
    batch: Option<usize>,

    /// Print one JSON object at the end instead of the report
    #[arg(long)]
    json: bool,
}

/// Defaults that differ between tasks.
struct Defaults {
    optimizer: &'static str,
    lr: f64,
    dim: usize,
    batch: usize,
    epochs: f64,
    /// What Adagrad's sums of squares start with.
    initial: f64,
}

impl Common {
    fn settings(&self, task: &'static str, defaults: &Defaults) -> Vec<Setting> {
        vec![
            Setting::new("task", Some(&task), &task),
            Setting::new("optimizer", self.optimizer.as_ref(), &defaults.optimizer),
            Setting::new("lr", self.lr.as_ref(), &defaults.lr),
            Setting::new("seed", self.seed.as_ref(), &DEFAULT_SEED),
            Setting::new("dim", self.dim.as_ref(), &defaults.dim),
            Setting::new("batch", self.batch.as_ref(), &defaults.batch),
        ]
    }

    fn store(&self, task: &str) -> PathBuf {
        self.store.clone().unwrap_or_else(|| Path::new("runs").join(task))
    }

    fn orders<'a>(&self, store: &'a Path, defaults: &Defaults) -> Orders<'a> {
        Orders {
            store,
            memory: self.memory,
            steps: self.steps,
            epochs: self.epochs,
            default_epochs: defaults.epochs,
            commit_every: self.commit_every,
            initial: defaults.initial,
        }
    }
}

/// Where words come from.
#[derive(Debug, Group)]
struct TextArgs {
    /// Text files to train on, UTF-8; the default is the King James Bible, which ships with the repository
    #[arg(long, value_name = "FILE", num_args = 1..)]
    text: Vec<PathBuf>,

    /// Distinct words at most, the most frequent [default: 100000]
    #[arg(long, value_name = "N", value_parser = size(2, 100_000_000))]
    vocab: Option<usize>,

    /// Words that occur less often have no vector [default: 5]
    #[arg(long, value_name = "N")]
    min_count: Option<u64>,

    /// Words on each side that are context [default: 5 for skip-gram, 10 for GloVe]
    #[arg(long, value_name = "N", value_parser = size(1, 1000))]
    window: Option<usize>,

    /// Words whose nearest neighbours are shown at the end
    #[arg(long, value_name = "WORD", num_args = 1..)]
    neighbours: Vec<String>,
}

impl TextArgs {
    fn settings(&self, window: usize) -> Vec<Setting> {
        vec![
            Setting::new("vocab", self.vocab.as_ref(), &DEFAULT_VOCAB),
            Setting::new("min-count", self.min_count.as_ref(), &DEFAULT_MIN_COUNT),
            Setting::new("window", self.window.as_ref(), &window),
        ]
    }

    /// The text's identity, and its words as numbers.
    fn corpus(&self, found: &Found) -> Result<(DataId, Corpus)> {
        let text = Text::load(&self.text)?;
        let (least, most) = (found.settings.get("min-count")?, found.settings.get("vocab")?);
        Ok((text.id(), Corpus::new(&text, least, most)?))
    }
}

#[derive(Debug, Group)]
struct SkipGramArgs {
    #[command(flatten)]
    common: Common,

    #[command(flatten)]
    text: TextArgs,

    /// Rows for character n-grams, e.g. 2M; 0 for none [default: 100k]
    #[arg(long, value_name = "N", value_parser = count)]
    buckets: Option<u64>,

    /// Number of parameters, e.g. 1B, by as many buckets
    #[arg(long, value_name = "N", value_parser = count, conflicts_with = "buckets")]
    params: Option<u64>,

    /// Negatives of a word [default: 5]
    #[arg(long, value_name = "N", value_parser = size(1, 1000))]
    negatives: Option<usize>,

    /// Frequent words are thinned out to about this frequency; 0 for none [default: 1e-4]
    #[arg(long, value_name = "X", value_parser = not_negative)]
    subsample: Option<f64>,
}

#[derive(Debug, Group)]
struct GloveArgs {
    #[command(flatten)]
    common: Common,

    #[command(flatten)]
    text: TextArgs,

    /// Distinct pairs of words at most, 12 bytes each; beyond them the lightest are dropped [default: 16M]
    #[arg(long, value_name = "N", value_parser = count)]
    pairs: Option<u64>,
}

#[derive(Debug, Group)]
struct GraphArgs {
    #[command(flatten)]
    common: Common,

    /// Directory of WordNet's database, as Debian's package wordnet-base installs it
    #[arg(long, value_name = "DIR", default_value = "/usr/share/wordnet", conflicts_with = "triples")]
    wordnet: PathBuf,

    /// A file of triples instead: head, relation and tail in each line, with tabulators between
    #[arg(long, value_name = "FILE")]
    triples: Option<PathBuf>,

    /// The model [default: complex]
    #[arg(long, value_name = "NAME")]
    model: Option<Kind>,

    /// Entities drawn at random for each batch [default: 1024]
    #[arg(long, value_name = "N", value_parser = size(1, 1 << 20))]
    negatives: Option<usize>,

    /// Weight of the N3 norm [default: by the model]
    #[arg(long, value_name = "X", value_parser = not_negative)]
    n3: Option<f64>,

    /// Entities in fewer triples are left out [default: 5]
    #[arg(long, value_name = "N")]
    min_degree: Option<u32>,

    /// Triples held out to validate, and as many to test [default: 3000]
    #[arg(long, value_name = "N", value_parser = size(1, 1_000_000))]
    held_out: Option<usize>,

    /// Let symmetric facts be split between training and test, as WN18RR does
    #[arg(long)]
    keep_symmetric: bool,

    /// Keep both relations of inverse pairs, and let symmetric facts be split, as WN18 does
    #[arg(long)]
    keep_inverse: bool,
}

impl Args {
    /// Whether the report is for programs.
    pub(crate) fn json(&self) -> bool {
        match &self.task {
            Task::SkipGram(args) => args.common.json,
            Task::Glove(args) => args.common.json,
            Task::KnowledgeGraph(args) => args.common.json,
        }
    }

    /// Runs the task.
    pub(crate) fn run(&self, stop: &AtomicBool) -> Result<Summary> {
        match &self.task {
            Task::SkipGram(args) => args.run(stop),
            Task::Glove(args) => args.run(stop),
            Task::KnowledgeGraph(args) => args.run(stop),
        }
    }
}

impl SkipGramArgs {
    const DEFAULTS: Defaults =
        Defaults { optimizer: "sparseadam", lr: 3e-3, dim: 100, batch: 4096, epochs: 10.0, initial: 0.0 };

    fn run(&self, stop: &AtomicBool) -> Result<Summary> {
        let store = self.common.store("skip-gram");
        let mut asked = self.common.settings("skip-gram", &Self::DEFAULTS);
        asked.extend(self.text.settings(5));
        asked.push(Setting::new("buckets", self.buckets.as_ref(), &100_000));
        // What was asked for; the buckets follow from it and the vocabulary.
        asked.push(Setting::new("params", self.params.as_ref(), &0));
        asked.push(Setting::new("negatives", self.negatives.as_ref(), &5));
        asked.push(Setting::new("subsample", self.subsample.as_ref(), &1e-4));
        let found = Found::look(&store, &asked)?;
        let (id, corpus) = self.text.corpus(&found)?;
        let get = &found.settings;
        let dim: usize = get.get("dim")?;
        let params: u64 = get.get("params")?;
        let words = 2 * corpus.vocab.len() as u64;
        let buckets =
            if params == 0 { get.get("buckets")? } else { (params / dim as u64).saturating_sub(words) };
        ensure!(
            params == 0 || buckets > 0,
            "--params {params} is less than the {} of the words alone: give more, or a smaller --dim or --vocab",
            words * dim as u64
        );
        let settings = skip_gram::Settings {
            dim,
            buckets,
            window: get.get("window")?,
            negatives: get.get("negatives")?,
            batch: get.get("batch")?,
            threshold: get.get("subsample")?,
            seed: get.get("seed")?,
            shown: self.text.neighbours.clone(),
        };
        let orders = self.common.orders(&store, &Self::DEFAULTS);
        run::run(SkipGram::new(corpus, settings), id, found, orders, stop)
    }
}

impl GloveArgs {
    const DEFAULTS: Defaults = Defaults {
        optimizer: "adagrad",
        lr: 0.1,
        dim: 100,
        batch: 1024,
        epochs: 25.0,
        initial: glove::INITIAL,
    };

    fn run(&self, stop: &AtomicBool) -> Result<Summary> {
        let store = self.common.store("glove");
        let mut asked = self.common.settings("glove", &Self::DEFAULTS);
        asked.extend(self.text.settings(10));
        asked.push(Setting::new("pairs", self.pairs.as_ref(), &16_000_000));
        let found = Found::look(&store, &asked)?;
        let (id, corpus) = self.text.corpus(&found)?;
        let get = &found.settings;
        let settings = glove::Settings {
            dim: get.get("dim")?,
            window: get.get("window")?,
            pairs: index(get.get("pairs")?).max(1),
            batch: get.get("batch")?,
            seed: get.get("seed")?,
            shown: self.text.neighbours.clone(),
        };
        let orders = self.common.orders(&store, &Self::DEFAULTS);
        run::run(Glove::new(corpus, settings), id, found, orders, stop)
    }
}

impl GraphArgs {
    fn defaults() -> Defaults {
        Defaults { optimizer: "adagrad", lr: 0.1, dim: 128, batch: 512, epochs: 15.0, initial: 0.0 }
    }

    fn default_n3(kind: Kind) -> f64 {
        match kind {
            Kind::Complex | Kind::Distmult => 0.05,
            Kind::Transe => 0.0,
        }
    }

    /// The data's identity, and the graph.
    fn graph(&self, least: u32) -> Result<(DataId, Graph)> {
        let (named, bytes) = match &self.triples {
            Some(path) => triples::read(path)?,
            None => wordnet::read(&self.wordnet)?,
        };
        let graph = Graph::new(&named).with_degree(least);
        ensure!(graph.triples.len() >= 20, "the graph has {} triples: too few", graph.triples.len());
        Ok((DataId::of(&bytes), graph))
    }

    fn run(&self, stop: &AtomicBool) -> Result<Summary> {
        let store = self.common.store("knowledge-graph");
        let kind = self.model.unwrap_or(Kind::Complex);
        let defaults = Self::defaults();
        let mut asked = self.common.settings("knowledge-graph", &defaults);
        let leaks =
            if self.keep_inverse { Some("inverse") } else { self.keep_symmetric.then_some("symmetric") };
        asked.extend([
            Setting::new("model", self.model.as_ref(), &kind),
            Setting::new("negatives", self.negatives.as_ref(), &1024),
            Setting::new("n3", self.n3.as_ref(), &Self::default_n3(kind)),
            Setting::new("min-degree", self.min_degree.as_ref(), &5),
            Setting::new("held-out", self.held_out.as_ref(), &3000),
            Setting::new("keep", leaks.as_ref(), &"nothing"),
        ]);
        let found = Found::look(&store, &asked)?;
        let get = &found.settings;
        let keep: String = get.get("keep")?;
        let leaks = Leaks { inverse: keep == "inverse", symmetric: keep != "nothing" };
        let (id, graph) = self.graph(get.get("min-degree")?)?;
        let settings = train::Settings {
            kind: get.get("model")?,
            dim: get.get("dim")?,
            batch: get.get("batch")?,
            negatives: get.get("negatives")?,
            n3: get.get("n3")?,
            seed: get.get("seed")?,
        };
        ensure!(
            settings.kind != Kind::Complex || settings.dim.is_multiple_of(2),
            "--dim {} is odd, and complex numbers have two parts: give an even one",
            settings.dim
        );
        // The split is the same for every seed, so that runs compare.
        let split = split(graph, leaks, get.get("held-out")?, SPLIT_SEED);
        let orders = self.common.orders(&store, &defaults);
        run::run(Knowledge::new(split, settings), id, found, orders, stop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory as _;
        Args::command().debug_assert();
    }

    #[test]
    fn every_command_of_the_documents_is_understood() {
        use clap::Parser as _;
        documents::check("train-embeddings", 4, |words| Args::try_parse_from(words).map(drop));
    }
}
