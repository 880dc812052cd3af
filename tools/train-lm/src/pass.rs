//! One pass of a batch over the whole model, unit by unit, with at most one unit of it in memory.
//!
//! The batch is cut into shards that are computed in parallel and independently of each other. The number of
//! shards belongs to the run; the number of threads does not, and changes no bit of the result: candle's matrix
//! product (the `gemm` crate) splits rows and columns over threads, never a sum, and everything else is
//! sequential within a shard.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use candle_core::{Device, Tensor};
use rayon::prelude::*;
use training::tensors::with_slice;

use crate::config::{EMBED, Shape, UNEMBED, Unit, shards};
use crate::data::Batch;
use crate::model::{self, Weights};
use crate::ops::{GradSink, exp_minus};

/// Where parameters are read from, by one thread while others compute.
pub(crate) trait Source: Sync {
    /// Announces that these tensors will be read soon.
    fn prefetch(&self, names: &[&str]);
    /// Reads a run of elements of a tensor.
    fn read(&self, name: &str, start: usize, out: &mut [f32]) -> Result<()>;
}

/// Where gradients go as soon as they exist.
pub(crate) trait Sink: Source {
    /// Announces that these tensors will be read and updated soon.
    fn prefetch_update(&self, names: &[&str]);
    /// Updates a whole tensor.
    fn apply(&mut self, name: &str, grad: &[f32]) -> Result<()>;
    /// Updates a run of elements of a tensor; the runs of a step cover the tensor.
    fn apply_range(&mut self, name: &str, start: usize, grad: &[f32]) -> Result<()>;
}

/// A unit and the names of its tensors.
struct Part {
    unit: Unit,
    names: Vec<String>,
}

impl Part {
    fn names(&self) -> Vec<&str> {
        self.names.iter().map(String::as_str).collect()
    }
}

/// Runs batches over a model of a given shape.
pub(crate) struct Engine {
    shape: Shape,
    parts: Vec<Part>,
    runs: Vec<(usize, usize)>,
    /// Nanoseconds that computation waited for reads.
    waited_ns: AtomicU64,
}

/// The tokens of one shard.
#[derive(Clone, Copy)]
struct Shard<'a> {
    inputs: &'a [u16],
    targets: &'a [u16],
}

/// For each token of a shard, what the softmax over the vocabulary needs, gathered run by run.
struct Scores {
    max: Vec<f32>,
    sum: Vec<f32>,
    target: Vec<f32>,
}

impl Scores {
    fn new(tokens: usize) -> Self {
        Self { max: vec![f32::NEG_INFINITY; tokens], sum: vec![0.0; tokens], target: vec![0.0; tokens] }
    }

    /// Takes in the logits of the vocabulary's tokens `first..`.
    fn add(&mut self, logits: &[f32], first: usize, targets: &[u16]) {
        let rows = logits.len() / targets.len();
        let mut shifted = vec![0f32; rows];
        for (token, row) in logits.chunks_exact(rows).enumerate() {
            let max = row.iter().copied().fold(self.max[token], f32::max);
            shifted.copy_from_slice(row);
            let mut before = [self.max[token]];
            exp_minus(&mut before, max);
            self.sum[token] = self.sum[token] * before[0] + exp_minus(&mut shifted, max);
            self.max[token] = max;
            if let Some(logit) = usize::from(targets[token]).checked_sub(first).and_then(|at| row.get(at)) {
                self.target[token] = *logit;
            }
        }
    }

    /// The logarithm of the sum of the exponentials of a token's logits.
    fn log_sum(&self, token: usize) -> f32 {
        self.max[token] + self.sum[token].ln()
    }

    /// The negative log-likelihood of the targets, summed, in nats.
    fn loss(&self) -> f64 {
        (0..self.max.len()).map(|token| f64::from(self.log_sum(token) - self.target[token])).sum()
    }

    /// Turns the logits of the tokens `first..` into the gradient of the loss times `scale`.
    fn gradient(&self, logits: &mut [f32], first: usize, targets: &[u16], scale: f32) {
        let rows = logits.len() / targets.len();
        for (token, row) in logits.chunks_exact_mut(rows).enumerate() {
            exp_minus(row, self.log_sum(token));
            if let Some(at) = usize::from(targets[token]).checked_sub(first).filter(|&at| at < rows) {
                row[at] -= 1.0;
            }
            for x in row {
                *x *= scale;
            }
        }
    }
}

/// Calls `f` for each shard, in parallel, and returns the results in order.
fn on_shards<A: Sync, T: Send>(shards: &[A], f: impl Fn(&A) -> Result<T> + Send + Sync) -> Result<Vec<T>> {
    shards.par_iter().map(f).collect()
}

impl Engine {
    /// Prepares passes over a model.
    pub(crate) fn new(shape: Shape) -> Self {
        let parts = shape.units().into_iter().map(|unit| Part {
            unit,
            names: shape.unit_tensors(unit).into_iter().map(|tensor| tensor.name).collect(),
        });
        Self { shape, parts: parts.collect(), runs: shape.table_runs(), waited_ns: AtomicU64::new(0) }
    }

    /// Seconds that computation has waited for reads so far.
    pub(crate) fn waited_s(&self) -> f64 {
        Duration::from_nanos(self.waited_ns.load(Ordering::Relaxed)).as_secs_f64()
    }

    /// Counts the time of something that waits for reads.
    fn waiting<T>(&self, wait: impl FnOnce() -> T) -> T {
        let start = Instant::now();
        let value = wait();
        let waited = u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.waited_ns.fetch_add(waited, Ordering::Relaxed);
        value
    }

    /// Reads what is needed next on a thread of its own, which mostly waits for the disk, and computes meanwhile.
    fn overlap<A: Send, B>(
        &self,
        read: impl FnOnce() -> Result<A> + Send,
        compute: impl FnOnce() -> Result<B>,
    ) -> Result<(A, B)> {
        std::thread::scope(|scope| {
            let reader = scope.spawn(read);
            let computed = compute();
            let read =
                self.waiting(|| reader.join()).unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            Ok((read?, computed?))
        })
    }

    fn cut(batch: &Batch, seq: usize) -> Vec<Shard<'_>> {
        let sequences = batch.inputs.len() / seq;
        let count = shards(sequences);
        let cut = |i: usize| i * sequences / count * seq;
        let ranges = (0..count).map(|i| cut(i)..cut(i + 1));
        ranges
            .map(|range| Shard { inputs: &batch.inputs[range.clone()], targets: &batch.targets[range] })
            .collect()
    }

    /// Reads the tensors of a part; nothing where there is none.
    fn read_part(&self, source: &impl Source, index: Option<usize>) -> Result<Vec<Tensor>> {
        let Some(part) = index.and_then(|index| self.parts.get(index)) else {
            source.prefetch(&[UNEMBED]);
            return Ok(Vec::new());
        };
        source.prefetch(&part.names());
        let read = |def: crate::config::TensorDef| {
            let mut values = vec![0f32; def.len()];
            source.read(&def.name, 0, &mut values)?;
            Ok(Tensor::from_vec(values, def.dims, &Device::Cpu)?)
        };
        self.shape.unit_tensors(part.unit).into_iter().map(read).collect()
    }

    /// Reads a run of rows of the embedding or the unembedding.
    fn read_run(&self, source: &impl Source, name: &str, (first, rows): (usize, usize)) -> Result<Vec<f32>> {
        let mut values = vec![0f32; rows * self.shape.d_model];
        source.read(name, first * self.shape.d_model, &mut values)?;
        Ok(values)
    }

    /// Reads a run of rows of the unembedding; nothing where there is none.
    fn read_table(&self, source: &impl Source, run: Option<&(usize, usize)>) -> Result<Tensor> {
        let values = run.map_or_else(|| Ok(Vec::new()), |&run| self.read_run(source, UNEMBED, run))?;
        Ok(Tensor::from_vec(values, ((), self.shape.d_model), &Device::Cpu)?)
    }

    /// Looks up the tokens of each shard in the embedding.
    fn embed(&self, source: &impl Source, shards: &[Shard<'_>]) -> Result<Vec<Tensor>> {
        let d = self.shape.d_model;
        let mut streams: Vec<Vec<f32>> =
            shards.iter().map(|shard| vec![0.0; shard.inputs.len() * d]).collect();
        for &(first, rows) in &self.runs {
            let table = self.waiting(|| self.read_run(source, EMBED, (first, rows)))?;
            for (shard, stream) in shards.iter().zip(&mut streams) {
                for (token, out) in shard.inputs.iter().zip(stream.chunks_exact_mut(d)) {
                    if let Some(row) = usize::from(*token).checked_sub(first).filter(|&row| row < rows) {
                        out.copy_from_slice(&table[row * d..][..d]);
                    }
                }
            }
        }
        let tensors = streams.into_iter().map(|stream| Ok(Tensor::from_vec(stream, ((), d), &Device::Cpu)?));
        tensors.collect()
    }

    /// Computes the input of every unit and the output of the last one: `[unit][shard]`. Without `keep` only the
    /// output remains.
    fn forward(
        &self,
        source: &impl Source,
        shards: &[Shard<'_>],
        seq: usize,
        keep: bool,
    ) -> Result<Vec<Vec<Tensor>>> {
        source.prefetch(&[EMBED]);
        let mut streams = vec![self.embed(source, shards)?];
        let mut tensors = self.waiting(|| self.read_part(source, Some(0)))?;
        for (index, part) in self.parts.iter().enumerate() {
            let weights = Weights { tensors: &tensors, sink: None };
            let unit = |x: &Tensor| Ok(model::forward(&self.shape, part.unit, &weights, x, seq)?);
            let inputs = streams.last().map_or(&[][..], Vec::as_slice);
            let (next, outputs) =
                self.overlap(|| self.read_part(source, Some(index + 1)), || on_shards(inputs, unit))?;
            if !keep {
                streams.clear();
            }
            streams.push(outputs);
            tensors = next;
        }
        Ok(streams)
    }

    /// Scores the targets of each shard, given the outputs of the last unit.
    fn score(&self, source: &impl Source, outputs: &[Tensor], shards: &[Shard<'_>]) -> Result<Vec<Scores>> {
        let work: Vec<_> = outputs.iter().zip(shards).collect();
        let mut scores: Vec<Scores> = shards.iter().map(|shard| Scores::new(shard.targets.len())).collect();
        let mut table = self.waiting(|| self.read_table(source, self.runs.first()))?;
        for (index, run) in self.runs.iter().enumerate() {
            let (next, logits) = self.overlap(
                || self.read_table(source, self.runs.get(index + 1)),
                || on_shards(&work, |(x, _)| Ok(model::logits(x, &table, None)?)),
            )?;
            let parts: Vec<_> = logits.iter().zip(&mut scores).zip(shards).collect();
            parts.into_par_iter().try_for_each(|((logits, scores), shard)| {
                with_slice(logits, |logits| scores.add(logits, run.0, shard.targets))
            })?;
            table = next;
        }
        Ok(scores)
    }

    /// Computes the loss of a batch, summed over its tokens, in nats.
    pub(crate) fn loss(&self, source: &impl Source, batch: &Batch, seq: usize) -> Result<f64> {
        let shards = Self::cut(batch, seq);
        let outputs = self.forward(source, &shards, seq, false)?.pop().unwrap_or_default();
        Ok(self.score(source, &outputs, &shards)?.iter().map(Scores::loss).sum())
    }

    /// Computes the logits of the token that follows a sequence.
    pub(crate) fn next_logits(&self, source: &impl Source, tokens: &[u16]) -> Result<Vec<f32>> {
        let shards = [Shard { inputs: tokens, targets: &[] }];
        let outputs = self.forward(source, &shards, tokens.len(), false)?.pop().unwrap_or_default();
        let mut all = Vec::with_capacity(self.shape.vocab);
        for output in outputs {
            let last = output.narrow(0, tokens.len() - 1, 1)?.contiguous()?;
            for run in &self.runs {
                let logits = model::logits(&last, &self.read_table(source, Some(run))?, None)?;
                with_slice(&logits, |logits| all.extend(logits))?;
            }
        }
        Ok(all)
    }

    /// Trains on a batch: returns the mean loss of its tokens, in nats, before the update.
    ///
    /// # Errors
    /// A loss that is not finite, before anything is updated; what the store and candle report.
    pub(crate) fn train(&self, store: &mut impl Sink, batch: &Batch, seq: usize) -> Result<f64> {
        let shards = Self::cut(batch, seq);
        let mut streams = self.forward(store, &shards, seq, true)?;
        let outputs = streams.pop().unwrap_or_default();
        let scores = self.score(store, &outputs, &shards)?;
        #[expect(clippy::cast_precision_loss, reason = "a batch has far fewer than 2^53 tokens")]
        let tokens = batch.targets.len() as f64;
        let loss = scores.iter().map(Scores::loss).sum::<f64>() / tokens;
        ensure!(loss.is_finite(), "the loss is {loss}: nothing was updated; try a smaller --lr");
        #[expect(clippy::cast_possible_truncation, reason = "a scale needs no more than f32 holds")]
        let mut grads = self.unembed_backward(store, &outputs, &shards, &scores, (1.0 / tokens) as f32)?;
        drop((outputs, scores));
        let mut tensors = self.waiting(|| self.read_part(store, self.parts.len().checked_sub(1)))?;
        for (index, part) in self.parts.iter().enumerate().rev() {
            store.prefetch_update(&part.names());
            let sink = GradSink::new(tensors.len());
            let weights = Weights { tensors: &tensors, sink: Some(&sink) };
            let inputs = streams.pop().unwrap_or_default();
            let work: Vec<_> = inputs.iter().zip(&grads).collect();
            let unit = |(x, grad): &(&Tensor, &Tensor)| {
                Ok(model::backward(&self.shape, part.unit, &weights, x, grad, seq)?)
            };
            let source = &*store;
            let (next, pulled) =
                self.overlap(|| self.read_part(source, index.checked_sub(1)), || on_shards(&work, unit))?;
            for (slot, name) in part.names.iter().enumerate() {
                with_slice(&sink.take(slot)?, |grad| store.apply(name, grad))??;
            }
            (tensors, grads) = (next, pulled);
        }
        self.embed_backward(store, &grads, &shards)?;
        Ok(loss)
    }

    /// Pulls the loss back through the unembedding and updates it, run by run.
    fn unembed_backward(
        &self,
        store: &mut impl Sink,
        outputs: &[Tensor],
        shards: &[Shard<'_>],
        scores: &[Scores],
        scale: f32,
    ) -> Result<Vec<Tensor>> {
        let mut sums: Vec<Option<Tensor>> = vec![None; shards.len()];
        let work: Vec<_> = outputs.iter().zip(shards).zip(scores).collect();
        let mut table = self.waiting(|| self.read_table(store, self.runs.first()))?;
        for (index, run) in self.runs.iter().enumerate() {
            let sink = GradSink::new(1);
            let pull = |((x, shard), scores): &((&Tensor, &Shard<'_>), &Scores)| {
                Ok(model::logits_backward(x, &table, &sink, |logits| {
                    let mut values = logits.flatten_all()?.to_vec1::<f32>()?;
                    scores.gradient(&mut values, run.0, shard.targets, scale);
                    Tensor::from_vec(values, logits.shape(), logits.device())
                })?)
            };
            let source = &*store;
            let (next, grads) = self
                .overlap(|| self.read_table(source, self.runs.get(index + 1)), || on_shards(&work, pull))?;
            for (sum, grad) in sums.iter_mut().zip(grads) {
                *sum = Some(match sum.take() {
                    Some(sum) => (sum + grad)?,
                    None => grad,
                });
            }
            let start = run.0 * self.shape.d_model;
            with_slice(&sink.take(0)?, |grad| store.apply_range(UNEMBED, start, grad))??;
            table = next;
        }
        Ok(sums.into_iter().flatten().collect())
    }

    /// Updates the embedding, run by run: rows of tokens that are not in the batch have gradient zero.
    fn embed_backward(&self, store: &mut impl Sink, grads: &[Tensor], shards: &[Shard<'_>]) -> Result<()> {
        let d = self.shape.d_model;
        for &(first, rows) in &self.runs {
            let mut table = vec![0f32; rows * d];
            for (grad, shard) in grads.iter().zip(shards) {
                with_slice(grad, |grad| {
                    for (token, grad) in shard.inputs.iter().zip(grad.chunks_exact(d)) {
                        if let Some(row) = usize::from(*token).checked_sub(first).filter(|&row| row < rows) {
                            table[row * d..][..d].iter_mut().zip(grad).for_each(|(sum, grad)| *sum += grad);
                        }
                    }
                })?;
            }
            store.apply_range(EMBED, first * d, &table)?;
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "pass_tests.rs"]
mod tests;
