//! The forward pass of a BERT encoder with a classifier on the mean of its outputs, on candle (Devlin et al., 2019).

use std::collections::HashMap;

use candle_core::{D, Device, Result, Tensor, bail};

use crate::ops::{Affine, Gelu, Norm, Swap};
use crate::shape::{HEAD, Shape, TABLES};

/// What is added to the scores of places without a word.
const NOWHERE: f64 = -1e9;

/// Tensors by name.
pub(crate) type Tensors = HashMap<String, Tensor>;

/// Sequences of the same length, filled up behind their ends.
pub(crate) struct Batch {
    /// Sequences x places, tokens.
    pub(crate) ids: Tensor,
    /// Sequences x places, 1 where a token stands and 0 behind the end.
    pub(crate) mask: Tensor,
    /// Sequences x classes, 1 at the right one.
    pub(crate) targets: Tensor,
}

impl Batch {
    /// Fills up sequences of tokens, none of them empty, and their classes.
    pub(crate) fn new(sequences: &[(&[u32], usize)], classes: usize) -> Result<Self> {
        let places = sequences.iter().map(|(ids, _)| ids.len()).max().unwrap_or(0);
        let (mut ids, mut mask) = (Vec::new(), Vec::new());
        let mut targets = vec![0f32; sequences.len() * classes];
        for (at, &(sequence, class)) in sequences.iter().enumerate() {
            let empty = places - sequence.len();
            ids.extend(sequence.iter().copied().chain(std::iter::repeat_n(0, empty)));
            mask.extend(sequence.iter().map(|_| 1f32).chain(std::iter::repeat_n(0.0, empty)));
            targets[at * classes + class] = 1.0;
        }
        let (shape, on) = ((sequences.len(), places), &Device::Cpu);
        Ok(Self {
            ids: Tensor::from_vec(ids, shape, on)?,
            mask: Tensor::from_vec(mask, shape, on)?,
            targets: Tensor::from_vec(targets, (sequences.len(), classes), on)?,
        })
    }
}

/// A model: shape and tensors.
pub(crate) struct Model<'a> {
    pub(crate) shape: &'a Shape,
    pub(crate) tensors: &'a Tensors,
}

impl Model<'_> {
    fn tensor(&self, name: &str) -> Result<&Tensor> {
        match self.tensors.get(name) {
            Some(tensor) => Ok(tensor),
            None => bail!("the model has no tensor {name:?}"),
        }
    }

    /// A tensor's weight and bias.
    fn both(&self, at: &str) -> Result<(&Tensor, &Tensor)> {
        Ok((self.tensor(&format!("{at}.weight"))?, self.tensor(&format!("{at}.bias"))?))
    }

    fn linear(&self, x: &Tensor, at: &str) -> Result<Tensor> {
        let (weight, bias) = self.both(at)?;
        x.apply_op3(weight, bias, Affine)
    }

    fn norm(&self, x: &Tensor, at: &str) -> Result<Tensor> {
        let (gain, bias) = self.both(&format!("{at}.LayerNorm"))?;
        x.apply_op3(gain, bias, Norm { eps: self.shape.eps })
    }

    /// Sequences * places x width.
    fn embed(&self, ids: &Tensor) -> Result<Tensor> {
        let (sequences, places) = ids.dims2()?;
        let [words, positions, types] =
            TABLES.map(|table| self.tensor(&format!("embeddings.{table}.weight")));
        let word = words?.index_select(&ids.flatten_all()?, 0)?;
        let place = positions?.narrow(0, 0, places)?.broadcast_add(&types?.narrow(0, 0, 1)?)?;
        let x = word.reshape((sequences, places, self.shape.width))?.broadcast_add(&place)?;
        self.norm(&x.reshape((sequences * places, self.shape.width))?, "embeddings")
    }

    fn attention(&self, x: &Tensor, layer: &str, bias: &Tensor) -> Result<Tensor> {
        let (sequences, places) = (bias.dim(0)?, bias.dim(3)?);
        let (heads, width) = (self.shape.heads, self.shape.width);
        let size = width / heads;
        let split = |what: &str| -> Result<Tensor> {
            let all = self.linear(x, &format!("{layer}.attention.self.{what}"))?;
            all.reshape((sequences, places, heads, size))?.apply_op1(Swap)
        };
        let (q, k, v) = (split("query")?, split("key")?, split("value")?);
        #[expect(clippy::cast_precision_loss, reason = "a head has few elements")]
        let scale = 1.0 / (size as f64).sqrt();
        let scores = (q.matmul(&k.t()?)? * scale)?.broadcast_add(bias)?;
        let mixed = softmax(&scores)?.matmul(&v)?.apply_op1(Swap)?.reshape((sequences * places, width))?;
        self.linear(&mixed, &format!("{layer}.attention.output.dense"))
    }

    /// The mean of the outputs over the places of each sequence: sequences x width.
    pub(crate) fn mean(&self, batch: &Batch) -> Result<Tensor> {
        let (sequences, places) = batch.mask.dims2()?;
        let bias = ((&batch.mask - 1.0)? * -NOWHERE)?.reshape((sequences, 1, 1, places))?;
        let mut x = self.embed(&batch.ids)?;
        for layer in 0..self.shape.layers {
            let layer = format!("encoder.layer.{layer}");
            let attended = (self.attention(&x, &layer, &bias)? + x)?;
            x = self.norm(&attended, &format!("{layer}.attention.output"))?;
            let hidden = self.linear(&x, &format!("{layer}.intermediate.dense"))?.apply_op1(Gelu)?;
            let out = (self.linear(&hidden, &format!("{layer}.output.dense"))? + x)?;
            x = self.norm(&out, &format!("{layer}.output"))?;
        }
        let mask = batch.mask.unsqueeze(2)?;
        let sum = x.reshape((sequences, places, self.shape.width))?.broadcast_mul(&mask)?.sum(1)?;
        sum.broadcast_div(&batch.mask.sum_keepdim(1)?)
    }

    /// Logarithms of the probabilities: sequences x classes.
    pub(crate) fn log_probabilities(&self, batch: &Batch) -> Result<Tensor> {
        let logits = self.linear(&self.mean(batch)?, HEAD)?;
        let logits = logits.broadcast_sub(&logits.max_keepdim(1)?.detach())?;
        logits.broadcast_sub(&logits.exp()?.sum_keepdim(1)?.log()?)
    }

    /// Cross-entropy of the right classes, in nats, summed over the sequences.
    pub(crate) fn loss(&self, batch: &Batch) -> Result<Tensor> {
        (self.log_probabilities(batch)? * &batch.targets)?.sum_all()?.neg()
    }
}

fn softmax(x: &Tensor) -> Result<Tensor> {
    let exp = x.broadcast_sub(&x.max_keepdim(D::Minus1)?.detach())?.exp()?;
    exp.broadcast_div(&exp.sum_keepdim(D::Minus1)?)
}

#[cfg(test)]
mod tests {
    use candle_core::Var;
    use training::random::mix;

    use super::*;
    use crate::shape::TensorDef;

    fn tiny() -> Shape {
        Shape::parse(
            r#"{"vocab_size": 11, "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16,
            "max_position_embeddings": 6, "type_vocab_size": 2, "layer_norm_eps": 1e-12, "hidden_act": "gelu"}"#,
        )
        .unwrap()
    }

    /// Even over -1 to 1.
    #[expect(clippy::cast_precision_loss, reason = "32 bits in f64")]
    fn noise(key: u64, len: usize) -> Vec<f64> {
        (0..len as u64).map(|at| (mix(key, at) >> 32) as f64 / f64::from(1u32 << 31) - 1.0).collect()
    }

    #[expect(clippy::cast_possible_truncation, reason = "to f32 on purpose")]
    fn values(def: &TensorDef, key: u64, along: f64) -> Tensor {
        let len = def.dims.iter().product();
        let at = noise(key, len).into_iter().zip(noise(key ^ 0x63, len));
        let all = at.map(|(x, d)| (f64::from(def.start.0) + 0.4 * x + along * d) as f32).collect();
        Tensor::from_vec(all, def.dims.clone(), &Device::Cpu).unwrap()
    }

    fn batch() -> Batch {
        Batch::new(&[(&[1, 7, 3, 2], 0), (&[4, 10], 2), (&[5, 6, 7, 8, 9, 1], 1)], 3).unwrap()
    }

    #[test]
    fn gradients_are_the_slopes_of_the_loss_along_each_tensor() {
        const H: f64 = 4e-3;
        let (shape, batch) = (tiny(), batch());
        let defs = shape.tensors(3);
        // The loss with one tensor moved along a direction.
        let loss = |moved: usize, along: f64| {
            let at = |(i, def): (usize, &TensorDef)| {
                (def.name.clone(), values(def, i as u64, if i == moved { along } else { 0.0 }))
            };
            let tensors = defs.iter().enumerate().map(at).collect();
            let model = Model { shape: &shape, tensors: &tensors };
            f64::from(model.loss(&batch).unwrap().to_scalar::<f32>().unwrap())
        };
        let vars: Vec<_> = defs
            .iter()
            .enumerate()
            .map(|(i, def)| Var::from_tensor(&values(def, i as u64, 0.0)).unwrap())
            .collect();
        let tensors =
            defs.iter().zip(&vars).map(|(def, var)| (def.name.clone(), var.as_tensor().clone())).collect();
        let grads = Model { shape: &shape, tensors: &tensors }.loss(&batch).unwrap().backward().unwrap();
        for (i, (def, var)) in defs.iter().zip(&vars).enumerate() {
            let direction = noise(i as u64 ^ 0x63, def.dims.iter().product());
            let grad = grads.get(var).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
            let slope: f64 = grad.iter().zip(&direction).map(|(g, d)| f64::from(*g) * d).sum();
            let measured = (loss(i, H) - loss(i, -H)) / (2.0 * H);
            assert!(
                (slope - measured).abs() < 2e-3 + 5e-3 * measured.abs(),
                "{}: {slope} {measured}",
                def.name
            );
        }
    }

    #[test]
    fn what_stands_behind_the_end_of_a_sequence_changes_nothing() {
        let shape = tiny();
        let tensors = shape
            .tensors(3)
            .iter()
            .zip(0..)
            .map(|(def, key)| (def.name.clone(), values(def, key, 0.0)))
            .collect();
        let model = Model { shape: &shape, tensors: &tensors };
        let alone = model.log_probabilities(&Batch::new(&[(&[4, 10], 2)], 3).unwrap()).unwrap();
        let beside = model.log_probabilities(&batch()).unwrap().narrow(0, 1, 1).unwrap();
        let (alone, beside) = (alone.to_vec2::<f32>().unwrap(), beside.to_vec2::<f32>().unwrap());
        for (a, b) in alone[0].iter().zip(&beside[0]) {
            assert!((a - b).abs() < 1e-5, "{alone:?} {beside:?}");
        }
    }
}
