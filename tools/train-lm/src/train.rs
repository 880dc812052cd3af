//! The flow of a run: begin or go on, train, commit, report.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use paramstore::telemetry::Metrics;

use crate::args::Args;
use crate::data::{Batch, Corpus, Text};
use crate::pass::Engine;
use crate::record::Record;
use crate::report::{Progress, Summary, Traffic};
use crate::sample::sample;
use crate::setup;
use crate::tokenizer::Tokenizer;
use crate::weights::Weights;
use training::people::{grouped, note, peak_rss};
use training::store::{Held, peek};

/// Floating-point operations that a validation pass may take; it has between one batch and 64 sequences.
const VALIDATION_FLOPS: u64 = 160_000_000_000;
const VALIDATION_SEQUENCES: usize = 64;

/// A run under way.
struct Run {
    weights: Weights,
    record: Record,
    tokenizer: Tokenizer,
    corpus: Corpus,
    engine: Engine,
    memory: setup::Memory,
    /// Step at which the run is complete.
    total: u64,
    continued_from: Option<u64>,
    unigram: f64,
}

/// What a training loop did.
#[derive(Default)]
struct Trained {
    loss: Option<f64>,
    tokens: u64,
    seconds: f64,
    commits: u64,
    commit_s: f64,
    traffic: Traffic,
    /// Steps, and bits per byte of the validation text after them.
    curve: Vec<(u64, f64)>,
}

/// Begins a run or goes on with it, until it is complete or `stop` is set.
pub(crate) fn run(args: &Args, stop: &AtomicBool) -> Result<Summary> {
    let text = Text::load(&args.text)?;
    let mut run = match peek(&args.store)? {
        Held::Nothing => Run::begin(args, &text)?,
        Held::Record(bytes) => Run::resume(args, &text, &bytes)?,
    };
    drop(text);
    run.announce(args);
    if run.record.val_before.is_nan() {
        run.record.val_before = run.validate()?;
        run.commit()?;
    }
    let trained = run.train(args, stop)?;
    let stopped = run.record.step < run.total;
    run.summary(args, &trained, stopped)
}

impl Run {
    fn begin(args: &Args, text: &Text) -> Result<Self> {
        let id = text.id();
        // The shape is checked before the tokenizer is trained, which takes longer.
        setup::new_run(args, id, setup::wanted_vocab(args), Vec::new())?;
        let tokenizer = text.train_tokenizer(setup::wanted_vocab(args))?;
        let record = setup::new_run(args, id, tokenizer.vocab(), tokenizer.merges().to_vec())?;
        let memory = setup::memory(args.memory, &record)?;
        let corpus = Corpus::new(text, &tokenizer, record.seq, record.seed)?;
        if let Some(parent) = args.store.parent() {
            std::fs::create_dir_all(parent).with_context(|| format!("cannot create {}", parent.display()))?;
        }
        let state = (args.state.as_deref(), &args.start);
        let mut weights = Weights::create(
            &args.store,
            &record.shape,
            &record.optimizer,
            record.seed,
            memory.budget,
            state,
        )?;
        let total = record.schedule.total;
        weights.hold(record.toward_start);
        let mut run = Self {
            weights,
            engine: Engine::new(record.shape),
            record,
            tokenizer,
            corpus,
            memory,
            total,
            continued_from: None,
            unigram: text.byte_entropy(),
        };
        run.commit()?;
        Ok(run)
    }

    fn resume(args: &Args, text: &Text, bytes: &[u8]) -> Result<Self> {
        let id = text.id();
        let (mut record, tokenizer) = if bytes.is_empty() {
            // Killed between the creation of the store and its first commit.
            let tokenizer = text.train_tokenizer(setup::wanted_vocab(args))?;
            (setup::new_run(args, id, tokenizer.vocab(), tokenizer.merges().to_vec())?, tokenizer)
        } else {
            let record = Record::decode(bytes)
                .with_context(|| format!("cannot go on with {}", args.store.display()))?;
            let tokenizer = Tokenizer::from_merges(record.merges.clone())?;
            (record, tokenizer)
        };
        let total = setup::resume(args, id, &mut record)?;
        let memory = setup::memory(args.memory, &record)?;
        let mut weights = Weights::open(&args.store, &record.shape, memory.budget)?;
        if bytes.is_empty() {
            weights.load(&args.start)?;
        }
        weights.hold(record.toward_start);
        if let Some(state) = &args.state {
            weights.check_state(state, &args.store)?;
        }
        ensure!(
            weights.step() == record.step,
            "{} is at step {} and its user record at step {}: it was changed by another program",
            args.store.display(),
            weights.step(),
            record.step
        );
        Ok(Self {
            corpus: Corpus::new(text, &tokenizer, record.seq, record.seed)?,
            weights,
            engine: Engine::new(record.shape),
            continued_from: (record.step > 0).then_some(record.step),
            record,
            tokenizer,
            memory,
            total,
            unigram: text.byte_entropy(),
        })
    }

    /// Makes everything so far durable.
    fn commit(&mut self) -> Result<()> {
        self.weights.commit(&self.record.encode()?)
    }

    /// Bits per byte of the validation text.
    fn validate(&self) -> Result<f64> {
        let Record { shape, seq, batch, .. } = self.record;
        let affordable = VALIDATION_FLOPS / (2 * shape.params() * seq as u64);
        let sequences =
            usize::try_from(affordable)?.clamp(batch.min(VALIDATION_SEQUENCES), VALIDATION_SEQUENCES);
        let (mut nats, mut bytes) = (0.0, 0);
        for part in self.corpus.validation(sequences, batch) {
            nats += self.engine.loss(&self.weights, &part, seq)?;
            bytes += self.corpus.bytes_of(&part.targets);
        }
        #[expect(clippy::cast_precision_loss, reason = "a validation text is far below 2^53 bytes")]
        Ok(nats / std::f64::consts::LN_2 / bytes as f64)
    }

    /// Tells what is going to happen.
    fn announce(&self, args: &Args) {
        let Record { shape, seq, batch, .. } = self.record;
        note(&format!(
            "Model      {} parameters: {} layers, width {}, {} heads, {} tokens in the vocabulary",
            grouped(shape.params()),
            shape.layers,
            shape.d_model,
            shape.heads(),
            shape.vocab
        ));
        let (train, val) = self.corpus.tokens();
        note(&format!(
            "Text       {} bytes: {} tokens to train on, {} to validate; {batch} x {seq} in a batch",
            grouped(self.record.text.bytes),
            grouped(train as u64),
            grouped(val as u64)
        ));
        let step = self.record.step;
        let lost = self.weights.lost_steps();
        note(&match self.continued_from {
            Some(_) if step >= self.total => {
                format!("Store      {} holds the complete run", args.store.display())
            }
            Some(_) if lost > 0 => format!(
                "Store      {} goes on from its last commit at step {step}; {lost} later steps were lost and are \
                 computed again",
                args.store.display()
            ),
            Some(_) => format!("Store      {} goes on from step {step}", args.store.display()),
            None => format!("Store      {} is new", args.store.display()),
        });
        if step < self.total {
            note("           Stop with Ctrl-C or kill at any time: the same command continues the run");
        }
    }

    /// Trains until the run is complete or asked to stop, and commits.
    fn train(&mut self, args: &Args, stop: &AtomicBool) -> Result<Trained> {
        if self.record.step >= self.total {
            return Ok(Trained::default());
        }
        let mut done = Trained::default();
        let before = self.traffic();
        let mut progress = Progress::new(self.record.step, self.total);
        let mut committed = self.record.step;
        while self.record.step < self.total && !stop.load(Ordering::Relaxed) {
            let Record { seq, batch, cursor, step, schedule, .. } = self.record;
            let batch = self.corpus.batch(cursor, batch);
            let lr = schedule.rate(step);
            let loss = self.step(lr, &batch, seq)?;
            self.weights.note(&Metrics::new().loss(loss).lr(lr));
            self.record.step += 1;
            self.record.cursor += (batch.inputs.len() / seq) as u64;
            done.tokens += batch.targets.len() as u64;
            if self.record.step.is_multiple_of(args.commit_every) || self.record.step == self.total {
                self.timed_commit(&mut done)?;
                committed = self.record.step;
            }
            if args.validate_every.is_some_and(|every| self.record.step.is_multiple_of(every)) {
                let loss = self.validate()?;
                self.weights.note(&Metrics::new().validation_loss(loss));
                done.curve.push((self.record.step, loss));
            }
            let traffic = self.traffic().since(before);
            progress.step(self.record.step, loss, batch.targets.len() as u64, traffic);
        }
        if committed < self.record.step {
            self.timed_commit(&mut done)?;
        }
        (done.loss, done.seconds) = progress.end();
        done.traffic = self.traffic().since(before);
        Ok(done)
    }

    /// What was moved and waited for since the run was opened.
    fn traffic(&self) -> Traffic {
        let mut traffic = self.weights.traffic();
        traffic.stall_read_s += self.engine.waited_s();
        traffic
    }

    fn step(&mut self, lr: f64, batch: &Batch, seq: usize) -> Result<f64> {
        let engine = &self.engine;
        self.weights.take_step(lr, |updates| engine.train(updates, batch, seq))
    }

    fn timed_commit(&mut self, done: &mut Trained) -> Result<()> {
        let start = Instant::now();
        self.commit()?;
        done.commits += 1;
        done.commit_s += start.elapsed().as_secs_f64();
        Ok(())
    }

    /// Reports on the run; a run that was asked to stop leaves at once, without judging the model first.
    fn summary(self, args: &Args, done: &Trained, stopped: bool) -> Result<Summary> {
        let Record { shape, seq, batch, seed, step, val_before, .. } = self.record;
        let (mut val_after, mut text, mut digest) = (None, None, None);
        if !stopped {
            note("Validating, sampling and hashing");
            val_after = Some(self.validate()?);
            let len = setup::sample_len(args, shape.params());
            if len > 0 {
                let size = (seq, len, seed);
                text = Some(sample(&self.engine, &self.weights, &self.corpus, &self.tokenizer, size)?);
            }
            digest = Some(self.weights.digest()?);
        }
        Ok(Summary {
            store: args.store.display().to_string(),
            state: self.weights.state(),
            seed,
            params: shape.params(),
            steps: (step, self.total),
            continued_from: self.continued_from,
            loss: done.loss,
            val: (val_before, val_after),
            curve: done.curve.clone(),
            unigram: (self.unigram, self.corpus.token_entropy()),
            tokens: done.tokens,
            text_tokens: self.corpus.tokens().0,
            train_s: done.seconds,
            state_bytes: self.weights.state_bytes(),
            memory: (self.memory.total, self.memory.budget),
            activation_bytes: shape.activation_bytes(batch, seq),
            peak_rss: peak_rss(),
            traffic: done.traffic,
            commits: (done.commits, done.commit_s),
            digest,
            sample: text,
        })
    }
}
