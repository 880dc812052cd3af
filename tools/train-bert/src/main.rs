//! Fine-tunes a BERT of a safetensors file, whose parameters and optimizer state live in a paramstore, to tell of which book of
//! the Bible a verse is.
//!
//! The evidence of docs/PRECISION.md that a start from trained weights does well in few bits. The model is small, and all of it
//! is in memory for a step; `train-lm` shows what to do with one that is not.

mod bert;
mod ops;
mod shape;
mod tuned;
mod verses;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use candle_core::Tensor;
use clap::Parser;
use serde_json::json;
use training::people::{grouped, note};
use training::units::{bytes, positive, size};

use crate::bert::{Batch, Model};
use crate::shape::Shape;
use crate::tuned::Tuned;
use crate::verses::Verses;

/// Fine-tune a BERT whose parameters and optimizer state live on disk to name the book of a verse of the Bible
#[derive(Debug, Parser)]
#[command(version, max_term_width = 100)]
struct Args {
    /// Directory with model.safetensors, config.json and tokenizer.json
    #[arg(long, value_name = "DIR")]
    model: PathBuf,

    /// Directory of the store, which must not exist
    #[arg(long, value_name = "DIR", default_value = "runs/train-bert")]
    store: PathBuf,

    /// Bits of parameters and moments: f32, bf16 or compact
    #[arg(long, value_name = "STATE", default_value = "f32", value_parser = clap::builder::PossibleValuesParser::new(paramstore::Precision::NAMES))]
    state: String,

    /// Seed of the classifier, of the order of the verses, and of rounding
    #[arg(long, value_name = "S", default_value_t = 1)]
    seed: u64,

    /// Optimizer steps
    #[arg(long, value_name = "N", default_value_t = 120, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    steps: u64,

    /// The store's memory budget
    #[arg(long, value_name = "BYTES", default_value = "256MiB", value_parser = bytes)]
    memory: u64,

    /// Verses of a batch
    #[arg(long, value_name = "N", default_value = "16", value_parser = size(1, 4096))]
    batch: usize,

    /// Tokens of a verse, at most
    #[arg(long, value_name = "N", default_value = "32", value_parser = size(8, 512))]
    tokens: usize,

    /// Highest learning rate; the classifier's is ten times as high
    #[arg(long, value_name = "X", default_value = "1e-4", value_parser = positive)]
    lr: f64,

    /// Verses to validate on
    #[arg(long, value_name = "N", default_value = "384", value_parser = size(1, 100_000))]
    validate: usize,

    /// Steps from one validation to the next
    #[arg(long, value_name = "K", default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..))]
    validate_every: u64,

    /// Leave the file's weights out and begin with random ones: what the start is worth
    #[arg(long)]
    random_start: bool,

    /// Only compare three sentences, whose similarities the model's documentation names
    #[arg(long)]
    check: bool,

    /// Print one JSON object at the end
    #[arg(long)]
    json: bool,
}

/// The example of the documentation of sentence-transformers for all-MiniLM-L6-v2, which gives 0.6660, 0.1046 and 0.1411.
const SENTENCES: [&str; 3] =
    ["The weather is lovely today.", "It's so sunny outside!", "He drove to the stadium."];

fn main() -> ExitCode {
    let args = Args::parse();
    training::program::run(|stop| run(&args, stop))
}

fn run(args: &Args, stop: &AtomicBool) -> Result<bool> {
    let config = args.model.join("config.json");
    let json =
        std::fs::read_to_string(&config).with_context(|| format!("cannot read {}", config.display()))?;
    let shape = Shape::parse(&json).with_context(|| config.display().to_string())?;
    let tokenizer = verses::tokenizer(&args.model.join("tokenizer.json"), args.tokens.min(shape.positions))?;
    let file = args.model.join("model.safetensors");
    ensure!(!args.store.exists(), "{} exists: remove it, or name another --store", args.store.display());
    if args.check {
        let tuned = Tuned::create(&args.store, shape.tensors(1), ("f32", 0, args.memory), Some(&file))?;
        let sentences = SENTENCES.map(|text| verses::encode(&tokenizer, text));
        return check(&shape, &tuned, &sentences.into_iter().collect::<Result<Vec<_>>>()?);
    }
    let verses = Verses::new(training::text::DEFAULT_TEXT, tokenizer, args.seed, (args.validate, 32))?;
    let defs = shape.tensors(verses.books());
    let start = (!args.random_start).then_some(&*file);
    let tuned = Tuned::create(&args.store, defs, (&args.state, args.seed, args.memory), start)?;
    let (all, trained) = tuned.params();
    let (train, val) = verses.counts();
    note(&format!("Model      {} parameters, {} of them trained", grouped(all), grouped(trained)));
    note(&format!("Verses     {train} to train on, {val} to validate, {} books", verses.books()));
    train_on(args, &shape, tuned, &verses, stop)
}

/// The highest rate after a tenth of the steps, then along a line to 0.
#[expect(clippy::cast_precision_loss, reason = "step counts are far below 2^53")]
fn rate(step: u64, args: &Args) -> f64 {
    let warm = (args.steps / 10).max(1);
    let rising = (step + 1) as f64 / warm as f64;
    let falling = (args.steps - step) as f64 / (args.steps - warm).max(1) as f64;
    args.lr * rising.min(falling).min(1.0)
}

fn train_on(
    args: &Args,
    shape: &Shape,
    mut tuned: Tuned,
    verses: &Verses,
    stop: &AtomicBool,
) -> Result<bool> {
    let began = Instant::now();
    let (mut losses, mut right) = (Vec::new(), Vec::new());
    let mut values = tuned.values(None)?;
    for step in 0..=args.steps {
        let model = Model { shape, tensors: &values.tensors };
        if step.is_multiple_of(args.validate_every) || step == args.steps {
            let (bits, share) =
                verses.validate(|batch: &Batch| -> Result<Tensor> { Ok(model.log_probabilities(batch)?) })?;
            let seconds = began.elapsed().as_secs_f64();
            note(&format!(
                "step {step}/{} | {bits:.4} bits for each verse | {:.1} % right | {seconds:.0} s",
                args.steps,
                100.0 * share
            ));
            losses.push((step, bits));
            right.push((step, share));
        }
        if step == args.steps || stop.load(Ordering::Relaxed) {
            break;
        }
        let batch = verses.batch(step * args.batch as u64, args.batch)?;
        #[expect(clippy::cast_precision_loss, reason = "a batch has few verses")]
        let loss = (model.loss(&batch)? / args.batch as f64)?;
        tuned.step(rate(step, args), &values, &loss.backward()?)?;
        values = tuned.values(Some(values))?;
    }
    let digest = tuned.commit()?;
    if stop.load(Ordering::Relaxed) {
        note("Stopped; a run cannot go on");
        return Ok(false);
    }
    if args.json {
        let (params, trained) = tuned.params();
        let report = json!({
            "state": args.state,
            "seed": args.seed,
            "random_start": args.random_start,
            "lr": args.lr,
            "batch": args.batch,
            "tokens": args.tokens,
            "params": params,
            "trained_params": trained,
            "state_bytes": tuned.state_bytes(),
            "val_bits_per_verse_at": losses,
            "val_right_at": right,
            "seconds": began.elapsed().as_secs_f64(),
            "digest": digest,
        });
        print(&format!("{report}\n"))?;
    }
    Ok(true)
}

fn check(shape: &Shape, tuned: &Tuned, sentences: &[Vec<u32>]) -> Result<bool> {
    let values = tuned.values(None)?;
    let sequences: Vec<_> = sentences.iter().map(|ids| (&ids[..], 0)).collect();
    let means =
        Model { shape, tensors: &values.tensors }.mean(&Batch::new(&sequences, 1)?)?.to_vec2::<f32>()?;
    let dot = |a: usize, b: usize| means[a].iter().zip(&means[b]).map(|(x, y)| x * y).sum::<f32>();
    for (a, b) in [(0, 1), (0, 2), (1, 2)] {
        let cosine = dot(a, b) / (dot(a, a) * dot(b, b)).sqrt();
        print(&format!("{cosine:.4}  {:?} {:?}\n", SENTENCES[a], SENTENCES[b]))?;
    }
    Ok(true)
}

fn print(text: &str) -> Result<()> {
    use std::io::Write as _;
    std::io::stdout().lock().write_all(text.as_bytes()).context("cannot write the report")
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
        documents::check("train-bert", 1, |words| Args::try_parse_from(words).map(drop));
    }

    #[test]
    fn the_rate_rises_over_a_tenth_and_falls_to_almost_nothing() {
        let args = Args::parse_from(["train-bert", "--model", "m", "--steps", "100", "--lr", "1"]);
        assert!((rate(0, &args) - 0.1).abs() < 1e-12 && (rate(9, &args) - 1.0).abs() < 1e-12);
        assert!(
            (10..100)
                .all(|step| rate(step, &args) < 1.0 + 1e-12 && rate(step, &args) > rate(step + 1, &args))
        );
        assert!((rate(99, &args) - 1.0 / 90.0).abs() < 1e-12);
    }
}
