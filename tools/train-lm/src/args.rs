//! The command line.

use std::path::PathBuf;

use clap::Parser;
use training::units::{bytes, count, positive, size};

use crate::start::Pretrained;

/// Train a small language model whose parameters and optimizer state live on disk
///
/// Parameters, moments and the position in the text become durable together at each commit. A run that ends early,
/// for whatever reason, is continued by the same command, and ends with the same bits as one that was never stopped.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 100, args_override_self = true)]
pub(crate) struct Args {
    /// Directory of the store; created if it does not exist
    #[arg(long, value_name = "DIR", default_value = "runs/train-lm")]
    pub(crate) store: PathBuf,

    /// Text files to train on, UTF-8; the default is the King James Bible, which ships with the program
    #[arg(long, value_name = "FILE", num_args = 1..)]
    pub(crate) text: Vec<PathBuf>,

    /// Number of parameters, e.g. 12M or 1B; the shape is chosen to match [default: 11.5M]
    #[arg(long, value_name = "N", value_parser = count)]
    pub(crate) params: Option<u64>,

    /// Memory for parameters, gradients and moments, e.g. 64MiB or 1.5GiB: the store's budget and what the trainer
    /// holds of the model [default: an eighth of the state]
    #[arg(long, value_name = "BYTES", value_parser = bytes)]
    pub(crate) memory: Option<u64>,

    /// Optimizer steps at which the run is complete. A new run's learning rate falls over these steps; a larger
    /// number continues a run, and its rate then falls over that many [default: 120]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) steps: Option<u64>,

    /// Steps from one commit to the next
    #[arg(long, value_name = "K", default_value_t = 25, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) commit_every: u64,

    /// sgd, adagrad, adadelta, rmsprop, adam, adamw, adamax, nadam, radam or lion [default: adamw]
    #[arg(long, value_name = "NAME")]
    pub(crate) optimizer: Option<String>,

    /// Bits of parameters and moments: f32, bf16 (half the bytes) or compact (bf16 and 8 bits: a third); with -kahan parameters
    /// are rounded to the nearest in place of stochastically, and 2 bytes more keep what that lost. Embeddings, vectors
    /// and tensors below 4,096 elements stay in f32 [default: f32]
    #[arg(long, value_name = "STATE", value_parser = clap::builder::PossibleValuesParser::new(paramstore::Precision::NAMES))]
    pub(crate) state: Option<String>,

    #[command(flatten)]
    pub(crate) start: Pretrained,

    /// Highest learning rate [default: by the optimizer]
    #[arg(long, value_name = "X", value_parser = positive)]
    pub(crate) lr: Option<f64>,

    /// Seed of initial values, order of the text and sampling [default: 42]
    #[arg(long, value_name = "S")]
    pub(crate) seed: Option<u64>,

    /// Sequences of a batch [default: by the shape]
    #[arg(long, value_name = "N", value_parser = size(1, 4096))]
    pub(crate) batch: Option<usize>,

    /// Tokens of a sequence [default: 128]
    #[arg(long, value_name = "N", value_parser = size(2, 65_536))]
    pub(crate) seq: Option<usize>,

    /// Tokens of the vocabulary, which is trained on the text; 256 means bytes [default: 8192]
    #[arg(long, value_name = "N", value_parser = size(256, 65_536))]
    pub(crate) vocab: Option<usize>,

    /// Tokens of text to write at the end [default: 48, none above 200M parameters]
    #[arg(long, value_name = "N", value_parser = size(0, 100_000))]
    pub(crate) sample: Option<usize>,

    /// Validate after every Kth step too: the losses stand in the JSON object
    #[arg(long, value_name = "K", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) validate_every: Option<u64>,

    /// Print one JSON object at the end instead of the report
    #[arg(long)]
    pub(crate) json: bool,
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
        documents::check("train-lm", 5, |words| Args::try_parse_from(words).map(drop));
    }
}
