//! The shape of the model, the tensors it is made of, and what the trainer needs in memory. Pure.

use anyhow::{Result, bail, ensure};

/// Elements of one head's query, key and value.
const HEAD: usize = 64;
/// Width of the hidden layer of an MLP, in multiples of the model's width.
const MLP_RATIO: usize = 4;
/// The width aimed at, in multiples of the number of layers.
const ASPECT: f64 = 40.0;
/// The widest model the formula chooses.
const MAX_WIDTH: usize = 16_384;
/// Bytes of saved activations that the default batch stays below.
const SAVED_BYTES: usize = 32 << 20;
/// The largest default batch, in sequences.
const MAX_BATCH: usize = 4;

/// The shape of a decoder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shape {
    /// Tokens of the vocabulary.
    pub(crate) vocab: usize,
    /// Width of the residual stream; a multiple of 64.
    pub(crate) d_model: usize,
    /// Blocks of one attention and one MLP each.
    pub(crate) layers: usize,
}

/// How a tensor starts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Start {
    /// Every element is this.
    Constant(f32),
    /// Normal with mean zero and this standard deviation.
    Normal(f32),
}

/// One tensor of the model.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct TensorDef {
    /// Its name in the store.
    pub(crate) name: String,
    /// Its shape, slowest dimension first.
    pub(crate) dims: Vec<usize>,
    /// How it starts.
    pub(crate) start: Start,
}

impl TensorDef {
    fn new(name: String, dims: &[usize], start: Start) -> Self {
        Self { name, dims: dims.to_vec(), start }
    }

    /// Its number of elements.
    pub(crate) fn len(&self) -> usize {
        self.dims.iter().product()
    }

    /// Whether weight decay applies: to matrices only.
    pub(crate) fn decays(&self) -> bool {
        self.dims.len() > 1
    }
}

/// A part of the model that is in memory on its own: it maps the residual stream to the residual stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unit {
    /// The attention of a layer.
    Attention(usize),
    /// The MLP of a layer.
    Mlp(usize),
    /// The normalisation before the unembedding.
    FinalNorm,
}

/// Name of the embedding, of shape vocab x width.
pub(crate) const EMBED: &str = "embed.weight";
/// Name of the unembedding, of shape vocab x width.
pub(crate) const UNEMBED: &str = "unembed.weight";

impl Shape {
    /// Name of the first matrix of every model.
    pub(crate) const FIRST_MATRIX: &str = "blocks.0.attn.q.weight";

    /// Chooses width and depth so that the number of parameters comes as close to `params` as whole layers
    /// allow, with a width of about 40 times the number of layers.
    pub(crate) fn for_params(params: u64, vocab: usize) -> Result<Self> {
        ensure!(vocab >= 256, "the vocabulary needs at least the 256 byte values, got {vocab}");
        let mut best: Option<(f64, Self)> = None;
        for d_model in (HEAD..=MAX_WIDTH).step_by(HEAD) {
            let outside = Self { vocab, d_model, layers: 0 }.params();
            let layer = Self { vocab, d_model, layers: 1 }.params() - outside;
            let layers = params.saturating_sub(outside).saturating_add(layer / 2) / layer;
            let Ok(layers) = usize::try_from(layers) else { continue };
            if layers == 0 {
                continue;
            }
            #[expect(clippy::cast_precision_loss, reason = "a ratio of small integers")]
            let cost = (d_model as f64 / layers as f64 / ASPECT).ln().abs();
            if best.is_none_or(|(least, _)| cost < least) {
                best = Some((cost, Self { vocab, d_model, layers }));
            }
        }
        let Some((_, shape)) = best else {
            let least = Self { vocab, d_model: HEAD, layers: 1 }.params();
            bail!(
                "--params {params} is too small: with a vocabulary of {vocab} tokens the smallest model has \
                 {least} parameters"
            );
        };
        Ok(shape)
    }

    /// Attention heads of each layer.
    pub(crate) fn heads(&self) -> usize {
        self.d_model / HEAD
    }

    /// Width of the hidden layer of the MLPs.
    pub(crate) fn hidden(&self) -> usize {
        MLP_RATIO * self.d_model
    }

    /// Number of parameters: 2*V*d + L*(12*d^2 + 2*d) + d.
    pub(crate) fn params(&self) -> u64 {
        let [vocab, d, layers] = [self.vocab, self.d_model, self.layers].map(|n| n as u64);
        let hidden = self.hidden() as u64;
        2 * vocab * d + layers * (4 * d * d + 2 * d * hidden + 2 * d) + d
    }

    /// The units in the order of the forward pass.
    pub(crate) fn units(&self) -> Vec<Unit> {
        let layers = (0..self.layers).flat_map(|layer| [Unit::Attention(layer), Unit::Mlp(layer)]);
        layers.chain([Unit::FinalNorm]).collect()
    }

    /// The tensors of a unit, in the order in which the model uses them. Matrices are inputs x outputs.
    pub(crate) fn unit_tensors(&self, unit: Unit) -> Vec<TensorDef> {
        let (d, hidden) = (self.d_model, self.hidden());
        #[expect(clippy::cast_precision_loss, reason = "widths and depths are far below 2^24")]
        let (width, depth) = (d as f32, self.layers as f32);
        // Inputs of each unit have unit variance, so 1/sqrt(d) keeps it; what is added to the residual stream
        // starts small, so that 2*L additions leave the stream near the embedding (as in GPT-2).
        let inward = Start::Normal(1.0 / width.sqrt());
        let outward = |inputs: f32| Start::Normal(0.5 / (inputs * 2.0 * depth).sqrt());
        let gain = Start::Constant(1.0);
        match unit {
            Unit::Attention(layer) => {
                let at = |what: &str| format!("blocks.{layer}.attn.{what}.weight");
                let mut tensors = vec![TensorDef::new(at("norm"), &[d], gain)];
                tensors.extend(["q", "k", "v"].map(|what| TensorDef::new(at(what), &[d, d], inward)));
                tensors.push(TensorDef::new(at("o"), &[d, d], outward(width)));
                tensors
            }
            Unit::Mlp(layer) => {
                let at = |what: &str| format!("blocks.{layer}.mlp.{what}.weight");
                #[expect(clippy::cast_precision_loss, reason = "widths are far below 2^24")]
                let down = outward(hidden as f32);
                vec![
                    TensorDef::new(at("norm"), &[d], gain),
                    TensorDef::new(at("up"), &[d, hidden], inward),
                    TensorDef::new(at("down"), &[hidden, d], down),
                ]
            }
            Unit::FinalNorm => vec![TensorDef::new("norm.weight".to_owned(), &[d], gain)],
        }
    }

    /// Every tensor of the model, in the order of the forward pass.
    pub(crate) fn tensors(&self) -> Vec<TensorDef> {
        let table = [self.vocab, self.d_model];
        let mut tensors = vec![TensorDef::new(EMBED.to_owned(), &table, Start::Normal(0.02))];
        tensors.extend(self.units().into_iter().flat_map(|unit| self.unit_tensors(unit)));
        tensors.push(TensorDef::new(UNEMBED.to_owned(), &table, Start::Normal(0.01)));
        tensors
    }

    /// The largest tensor of a layer, in elements.
    fn largest(&self) -> usize {
        self.d_model * self.hidden()
    }

    /// Bytes of a block's parameter plane: the power of two between 64 KiB and 4 MiB that is at most a quarter of
    /// the largest tensor of a layer, so that several blocks are in flight under a small budget.
    pub(crate) fn block_bytes(&self) -> usize {
        let quarter = self.largest() * size_of::<f32>() / 4;
        (1 << quarter.max(1).ilog2()).clamp(64 << 10, 4 << 20)
    }

    /// The embedding and the unembedding are worked on in runs of whole rows, each no larger than the largest
    /// tensor of a layer and a whole number of blocks: `(first row, rows)` of each run.
    pub(crate) fn table_runs(&self) -> Vec<(usize, usize)> {
        let block = self.block_bytes() / size_of::<f32>();
        // Rows x width is a multiple of the block, a power of two, if the rows make up for what the width lacks.
        let common = 1 << self.d_model.trailing_zeros().min(block.trailing_zeros());
        let unit = block / common;
        let rows = (self.hidden() / unit).max(1) * unit;
        (0..self.vocab).step_by(rows).map(|first| (first, rows.min(self.vocab - first))).collect()
    }

    /// Bytes that the trainer holds of the model at once, beside the store's budget: one unit's parameters and
    /// their gradients, the next unit's parameters, and for each shard one more tensor while gradients are added up.
    pub(crate) fn held_bytes(&self, shards: usize) -> u64 {
        let unit = self.units().into_iter().map(|unit| self.unit_tensors(unit));
        let unit = unit.map(|tensors| tensors.iter().map(TensorDef::len).sum::<usize>()).max().unwrap_or(0);
        let run = self.table_runs().first().map_or(0, |(_, rows)| rows * self.d_model);
        ((3 * unit.max(run) + shards * self.largest().max(run)) * size_of::<f32>()) as u64
    }

    /// Bytes of the residual stream that a sequence leaves behind for the backward pass.
    fn saved_bytes_per_sequence(&self, seq: usize) -> usize {
        (self.units().len() + 1) * seq * self.d_model * size_of::<f32>()
    }

    /// The default batch, in sequences: as many as leave 32 MiB behind, at most 4. It depends on the shape
    /// alone, so that runs under different memory budgets have the same bits.
    pub(crate) fn default_batch(&self, seq: usize) -> usize {
        (SAVED_BYTES / self.saved_bytes_per_sequence(seq)).clamp(1, MAX_BATCH)
    }

    /// Bytes of activations beside the model: the saved residual streams of a batch, and what the widest unit
    /// makes of the shards that are worked on at the same time.
    pub(crate) fn activation_bytes(&self, batch: usize, seq: usize) -> u64 {
        let wide = 4 * self.hidden() + 4 * self.d_model;
        (batch * self.saved_bytes_per_sequence(seq) + batch * seq * wide * size_of::<f32>()) as u64
    }
}

/// The batch is worked on in this many independent parts: part of the run's arithmetic, not of the machine.
pub(crate) fn shards(batch: usize) -> usize {
    batch.min(2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_count_of_parameters_is_the_sum_over_all_tensors() {
        for params in [1_000_000, 12_000_000, 120_000_000, 1_000_000_000] {
            let shape = Shape::for_params(params, 4096).unwrap();
            let sum: usize = shape.tensors().iter().map(TensorDef::len).sum();
            assert_eq!(shape.params(), sum as u64);
        }
    }

    #[test]
    fn the_chosen_shape_comes_close_to_the_wanted_count() {
        for params in [12_000_000u64, 120_000_000, 350_000_000, 1_000_000_000, 7_000_000_000] {
            let shape = Shape::for_params(params, 4096).unwrap();
            let off = shape.params().abs_diff(params);
            assert!(off * 16 < params, "{shape:?} has {} parameters, wanted {params}", shape.params());
            assert!(shape.d_model.is_multiple_of(HEAD));
        }
    }

    #[test]
    fn too_few_parameters_for_the_vocabulary_are_refused() {
        let error = Shape::for_params(100_000, 4096).unwrap_err().to_string();
        assert!(error.contains("too small"), "{error}");
    }

    #[test]
    fn table_runs_cover_every_row_once_in_whole_blocks() {
        for (params, vocab) in
            [(2_000_000, 256), (12_000_000, 4096), (120_000_000, 5000), (1_000_000_000, 65_536)]
        {
            let shape = Shape::for_params(params, vocab).unwrap();
            let runs = shape.table_runs();
            let mut next = 0;
            for &(first, rows) in &runs {
                assert_eq!(first, next);
                assert!((first * shape.d_model * 4).is_multiple_of(shape.block_bytes()));
                next += rows;
            }
            assert_eq!(next, vocab);
        }
    }

    #[test]
    fn a_billion_parameters_leave_most_of_a_gibibyte_to_the_store() {
        let shape = Shape::for_params(1_000_000_000, 4096).unwrap();
        let batch = shape.default_batch(128);
        let trainer = shape.held_bytes(shards(batch)) + shape.activation_bytes(batch, 128);
        assert!(trainer < 512 << 20, "{shape:?} needs {trainer} bytes beside the store");
    }
}
