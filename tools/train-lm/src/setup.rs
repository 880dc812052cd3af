//! What a run is: the options that were given, the record of the run so far, and where they contradict each other.

use anyhow::{Result, bail};

use crate::args::Args;
use crate::config::Shape;
use crate::record::{Record, TextId};
use crate::schedule::Schedule;
use crate::weights;

const DEFAULT_PARAMS: u64 = 11_500_000;
const DEFAULT_STEPS: u64 = 120;
const DEFAULT_SEED: u64 = 42;
const DEFAULT_SEQ: usize = 128;
const DEFAULT_VOCAB: usize = 8192;
const DEFAULT_OPTIMIZER: &str = "adamw";
/// Tokens of the sample, and the number of parameters above which it is left out unless asked for.
const SAMPLE: (usize, u64) = (48, 200_000_000);

/// The record of a new run, before its tokenizer is trained: `vocab` is what the tokenizer may have at most.
pub(crate) fn new_run(args: &Args, text: TextId, vocab: usize, merges: Vec<(u32, u32)>) -> Result<Record> {
    let shape = Shape::for_params(args.params.unwrap_or(DEFAULT_PARAMS), vocab)?;
    let seq = args.seq.unwrap_or(DEFAULT_SEQ);
    let optimizer = args.optimizer.clone().unwrap_or_else(|| DEFAULT_OPTIMIZER.to_owned());
    let peak = args.lr.map_or_else(|| weights::default_lr(&optimizer), Ok)?;
    Ok(Record {
        step: 0,
        cursor: 0,
        seed: args.seed.unwrap_or(DEFAULT_SEED),
        schedule: Schedule::new(args.steps.unwrap_or(DEFAULT_STEPS), peak),
        val_before: f64::NAN,
        shape,
        seq,
        batch: args.batch.unwrap_or_else(|| shape.default_batch(seq)),
        text,
        optimizer,
        merges,
        toward_start: args.start.toward_start.unwrap_or(0.0),
    })
}

/// The size of the vocabulary to train for a new run.
pub(crate) fn wanted_vocab(args: &Args) -> usize {
    args.vocab.unwrap_or(DEFAULT_VOCAB)
}

/// Checks that the options that were given agree with the run that the store holds, and returns the step at which
/// the run is complete. A larger `--steps` than the schedule's extends it.
pub(crate) fn resume(args: &Args, text: TextId, record: &mut Record) -> Result<u64> {
    let store = args.store.display();
    let differs = |what: &str, held: String, given: String| {
        format!(
            "the run in {store} has {what} {held}, and this command asks for {given}: leave the option out to go on \
             with the run, or start another one with --store"
        )
    };
    if text != record.text {
        bail!(
            "the run in {store} is trained on another text ({}), and this command gives {}: name the same files \
             with --text to go on with the run, or start another one with --store",
            describe(record.text),
            describe(text)
        );
    }
    if let Some(params) = args.params {
        let shape = Shape::for_params(params, record.shape.vocab)?;
        if shape != record.shape {
            bail!(differs(
                "--params",
                record.shape.params().to_string(),
                format!("{params} ({})", shape.params())
            ));
        }
    }
    if let Some(name) = args.optimizer.as_ref().filter(|name| **name != record.optimizer) {
        bail!(differs("--optimizer", record.optimizer.clone(), name.clone()));
    }
    if let Some(lr) = args.lr.filter(|lr| lr.to_bits() != record.schedule.peak.to_bits()) {
        bail!(differs("--lr", record.schedule.peak.to_string(), lr.to_string()));
    }
    if let Some(x) = args.start.toward_start.filter(|x| x.to_bits() != record.toward_start.to_bits()) {
        bail!(differs("--toward-start", record.toward_start.to_string(), x.to_string()));
    }
    if let Some(seed) = args.seed.filter(|seed| *seed != record.seed) {
        bail!(differs("--seed", record.seed.to_string(), seed.to_string()));
    }
    let sizes = [("--batch", args.batch, record.batch), ("--seq", args.seq, record.seq)];
    for (what, given, held) in sizes {
        if let Some(given) = given.filter(|given| *given != held) {
            bail!(differs(what, held.to_string(), given.to_string()));
        }
    }
    // A text can have too few words for the vocabulary that was asked for.
    if let Some(vocab) = args.vocab.filter(|vocab| *vocab < record.shape.vocab) {
        bail!(differs("--vocab", record.shape.vocab.to_string(), vocab.to_string()));
    }
    let steps = args.steps.unwrap_or(record.schedule.total);
    record.schedule.total = record.schedule.total.max(steps);
    Ok(steps)
}

fn describe(text: TextId) -> String {
    let digest = text.sha256[..6].iter().fold(String::new(), |digest, byte| digest + &format!("{byte:02x}"));
    format!("{} bytes, SHA-256 {digest}...", text.bytes)
}

/// Tokens of text to write at the end.
pub(crate) fn sample_len(args: &Args, params: u64) -> usize {
    args.sample.unwrap_or(if params > SAMPLE.1 { 0 } else { SAMPLE.0 })
}

/// How `--memory` is divided.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Memory {
    /// All of it.
    pub(crate) total: u64,
    /// The store's budget.
    pub(crate) budget: u64,
}

/// Divides the memory that was given, or an eighth of the state, between the trainer and the store.
pub(crate) fn memory(given: Option<u64>, record: &Record) -> Result<Memory> {
    let state = record.shape.params() * weights::state_bytes_per_param(&record.optimizer)?;
    let held = record.shape.held_bytes(crate::config::shards(record.batch));
    let least = held + weights::least_budget(&record.shape, &record.optimizer)?;
    let total = given.unwrap_or_else(|| (state / 8).max(least) >> 20 << 20).max(if given.is_none() {
        least
    } else {
        0
    });
    if total < least {
        let mib = |bytes: u64| bytes.div_ceil(1 << 20);
        bail!(
            "--memory {} MiB is too small for a model of this shape: the trainer holds {} MiB of it at once and the \
             store needs {} MiB to work with: give at least {} MiB",
            total >> 20,
            mib(held),
            mib(least - held),
            mib(least)
        );
    }
    Ok(Memory { total, budget: total - held })
}
