//! The layer-wise backward pass against automatic differentiation of the whole model at once.

use std::collections::BTreeMap;

use candle_core::{D, Device, Tensor, Var};

use super::*;
use crate::config::Start;
use crate::ops::alibi_slope;

const SEQ: usize = 12;

/// Parameters in memory, and the gradients that were applied to them.
struct Memory {
    params: BTreeMap<String, Vec<f32>>,
    grads: BTreeMap<String, Vec<f32>>,
}

impl Memory {
    fn new(shape: &Shape) -> Self {
        let mut counter = 0;
        let mut uniform = || {
            counter += 1;
            #[expect(clippy::cast_precision_loss, reason = "24 bits")]
            let x = (training::random::mix(9, counter) >> 40) as f32 / 16_777_216.0 - 0.5;
            x
        };
        let params = shape.tensors().into_iter().map(|def| {
            let values = (0..def.len()).map(|_| match def.start {
                Start::Constant(value) => value + 0.3 * uniform(),
                // Wide enough that every non-linearity matters.
                Start::Normal(_) => 0.4 * uniform(),
            });
            let values = values.collect();
            (def.name, values)
        });
        Self { params: params.collect(), grads: BTreeMap::new() }
    }
}

impl Source for Memory {
    fn prefetch(&self, names: &[&str]) {
        assert!(names.iter().all(|name| self.params.contains_key(*name)));
    }

    fn read(&self, name: &str, start: usize, out: &mut [f32]) -> Result<()> {
        out.copy_from_slice(&self.params[name][start..start + out.len()]);
        Ok(())
    }
}

impl Sink for Memory {
    fn prefetch_update(&self, names: &[&str]) {
        self.prefetch(names);
    }

    fn apply(&mut self, name: &str, grad: &[f32]) -> Result<()> {
        assert_eq!(grad.len(), self.params[name].len(), "{name}");
        self.apply_range(name, 0, grad)
    }

    fn apply_range(&mut self, name: &str, start: usize, grad: &[f32]) -> Result<()> {
        let held = self.grads.entry(name.to_owned()).or_default();
        assert_eq!(held.len(), start, "the runs of {name} come in order, each once");
        held.extend(grad);
        Ok(())
    }
}

fn batch(shape: &Shape, sequences: usize) -> Batch {
    let token = |i: usize| u16::try_from(training::random::mix(4, i as u64) % shape.vocab as u64).unwrap();
    let inputs: Vec<u16> = (0..sequences * SEQ).map(token).collect();
    let targets = (0..sequences * SEQ).map(|i| token(i + 1)).collect();
    Batch { inputs, targets }
}

fn norm(x: &Tensor, gain: &Tensor) -> candle_core::Result<Tensor> {
    let rms = (x.sqr()?.mean_keepdim(D::Minus1)? + 1e-6)?.sqrt()?;
    x.broadcast_div(&rms)?.broadcast_mul(gain)
}

fn softmax(x: &Tensor) -> candle_core::Result<Tensor> {
    let e = x.broadcast_sub(&x.max_keepdim(D::Minus1)?.detach())?.exp()?;
    e.broadcast_div(&e.sum_keepdim(D::Minus1)?)
}

/// The mean loss of the whole model as one graph of candle's own operations, in f64.
fn whole_loss(shape: &Shape, params: &BTreeMap<String, Var>, batch: &Batch) -> candle_core::Result<Tensor> {
    let get = |name: &str| params[name].as_tensor();
    let (d, heads) = (shape.d_model, shape.heads());
    let n = batch.inputs.len() / SEQ;
    let ids = |tokens: &[u16]| {
        Tensor::from_vec(tokens.iter().map(|&t| u32::from(t)).collect::<Vec<_>>(), tokens.len(), &Device::Cpu)
    };
    let mut bias = Vec::new();
    for head in 0..heads {
        for (query, key) in (0..SEQ).flat_map(|query| (0..SEQ).map(move |key| (query, key))) {
            #[expect(clippy::cast_precision_loss, reason = "small")]
            let back = (query.wrapping_sub(key)) as f64;
            bias.push(if key > query { -1e30 } else { -f64::from(alibi_slope(head, heads)) * back });
        }
    }
    let bias = Tensor::from_vec(bias, (1, heads, SEQ, SEQ), &Device::Cpu)?;
    let mut x = get(EMBED).index_select(&ids(&batch.inputs)?, 0)?;
    for layer in 0..shape.layers {
        let attn = |what: &str| get(&format!("blocks.{layer}.attn.{what}.weight"));
        let mlp = |what: &str| get(&format!("blocks.{layer}.mlp.{what}.weight"));
        let h = norm(&x, attn("norm"))?;
        let split =
            |w: &Tensor| h.matmul(w)?.reshape((n, SEQ, heads, d / heads))?.transpose(1, 2)?.contiguous();
        let (q, k, v) = (split(attn("q"))?, split(attn("k"))?, split(attn("v"))?);
        let scores = (q.matmul(&k.t()?)? * 0.125)?.broadcast_add(&bias)?;
        let mixed = softmax(&scores)?.matmul(&v)?.transpose(1, 2)?.contiguous()?.reshape((n * SEQ, d))?;
        x = (&x + mixed.matmul(attn("o"))?)?;
        let h = norm(&x, mlp("norm"))?.matmul(mlp("up"))?.relu()?.sqr()?;
        x = (&x + h.matmul(mlp("down"))?)?;
    }
    let logits = norm(&x, get("norm.weight"))?.matmul(&get(UNEMBED).t()?)?;
    let chosen = softmax(&logits)?.log()?.gather(&ids(&batch.targets)?.unsqueeze(1)?, 1)?;
    chosen.mean_all()?.neg()
}

fn difference(a: &[f32], b: &[f64]) -> f64 {
    let square = |x: f64| x * x;
    let off: f64 = a.iter().zip(b).map(|(a, b)| square(f64::from(*a) - b)).sum();
    (off / b.iter().map(|b| square(*b)).sum::<f64>().max(1e-30)).sqrt()
}

#[test]
fn layer_wise_gradients_equal_those_of_the_whole_graph() {
    // A width and a vocabulary for which the tables are worked on in several runs.
    let shape = Shape { vocab: 900, d_model: 64, layers: 2 };
    assert!(shape.table_runs().len() > 1);
    let batch = batch(&shape, 3);
    let mut memory = Memory::new(&shape);
    let loss = Engine::new(shape).train(&mut memory, &batch, SEQ).unwrap();

    let params = shape.tensors().into_iter().map(|def| {
        let values = memory.params[&def.name].iter().map(|&x| f64::from(x)).collect::<Vec<_>>();
        (def.name, Var::from_vec(values, def.dims, &Device::Cpu).unwrap())
    });
    let params: BTreeMap<String, Var> = params.collect();
    let whole = whole_loss(&shape, &params, &batch).unwrap();
    let grads = whole.backward().unwrap();
    let whole = whole.to_scalar::<f64>().unwrap();
    assert!((loss / whole - 1.0).abs() < 1e-6, "loss {loss}, whole graph {whole}");
    assert_eq!(memory.grads.len(), params.len());
    for (name, var) in &params {
        let expected = grads.get(var).unwrap().flatten_all().unwrap().to_vec1::<f64>().unwrap();
        assert!(expected.iter().any(|&x| x.abs() > 1e-9), "{name} has no gradient to compare");
        let off = difference(&memory.grads[name], &expected);
        assert!(off < 3e-6, "{name}: relative difference {off}");
    }
}

#[test]
fn the_bits_do_not_depend_on_the_number_of_threads() {
    let shape = Shape { vocab: 900, d_model: 128, layers: 1 };
    let batch = batch(&shape, 5);
    let run = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let mut memory = Memory::new(&shape);
            let loss = Engine::new(shape).train(&mut memory, &batch, SEQ).unwrap();
            let bits = |grad: Vec<f32>| grad.into_iter().map(f32::to_bits).collect::<Vec<_>>();
            (
                loss.to_bits(),
                memory.grads.into_iter().map(|(name, grad)| (name, bits(grad))).collect::<Vec<_>>(),
            )
        })
    };
    let one = run(1);
    for threads in [2, 3, 8] {
        assert_eq!(run(threads), one, "{threads} threads");
    }
}

#[test]
fn the_loss_of_a_batch_equals_that_of_training_on_it() {
    let shape = Shape { vocab: 300, d_model: 64, layers: 1 };
    let batch = batch(&shape, 2);
    let mut memory = Memory::new(&shape);
    let engine = Engine::new(shape);
    let sum = engine.loss(&memory, &batch, SEQ).unwrap();
    let mean = engine.train(&mut memory, &batch, SEQ).unwrap();
    #[expect(clippy::cast_precision_loss, reason = "small")]
    let tokens = batch.inputs.len() as f64;
    assert!((sum / tokens - mean).abs() < 1e-12);
}

#[test]
fn the_next_token_sees_the_whole_sequence_and_nothing_behind_it() {
    let shape = Shape { vocab: 300, d_model: 64, layers: 2 };
    let engine = Engine::new(shape);
    let memory = Memory::new(&shape);
    let tokens = batch(&shape, 1).inputs;
    let mut other = tokens.clone();
    other[0] ^= 1;
    let logits = engine.next_logits(&memory, &tokens).unwrap();
    assert_eq!(logits.len(), shape.vocab);
    assert_ne!(engine.next_logits(&memory, &other).unwrap(), logits);
    // The loss of the first token alone does not change with what follows it.
    let first = |inputs: Vec<u16>| {
        let shards = [Shard { inputs: &inputs, targets: &[] }];
        let memory = Memory::new(&shape);
        let output = engine.forward(&memory, &shards, inputs.len(), false).unwrap().pop().unwrap();
        output[0].narrow(0, 0, 4).unwrap().to_vec2::<f32>().unwrap()
    };
    let mut changed = tokens.clone();
    changed[4] ^= 1;
    assert_eq!(first(changed), first(tokens));
}
