//! The shape of a BERT, and the tensors it is made of. Pure.

use anyhow::{Result, ensure};
use serde::Deserialize;

/// The largest value that any size of a model may have here.
const MOST: usize = 1 << 20;

/// What a model's `config.json` says.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Shape {
    #[serde(rename = "vocab_size")]
    pub(crate) vocab: usize,
    #[serde(rename = "hidden_size")]
    pub(crate) width: usize,
    #[serde(rename = "num_hidden_layers")]
    pub(crate) layers: usize,
    #[serde(rename = "num_attention_heads")]
    pub(crate) heads: usize,
    /// Width of the hidden layer of an MLP.
    #[serde(rename = "intermediate_size")]
    pub(crate) hidden: usize,
    #[serde(rename = "max_position_embeddings")]
    pub(crate) positions: usize,
    #[serde(rename = "type_vocab_size")]
    pub(crate) types: usize,
    /// Added to a variance before its root.
    #[serde(rename = "layer_norm_eps")]
    pub(crate) eps: f64,
    hidden_act: String,
}

/// The optimizer's settings that a tensor gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Is not trained.
    Frozen,
    /// A matrix, which decays.
    Matrix,
    /// A gain or a bias, which does not.
    Vector,
    /// Of the new classifier, which learns faster.
    Head,
}

/// One tensor of the model.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct TensorDef {
    /// Its name in the file and in the store.
    pub(crate) name: String,
    pub(crate) dims: Vec<usize>,
    pub(crate) kind: Kind,
    /// What it is before training where no file says: a constant, or normal with the second number as deviation.
    pub(crate) start: (f32, f32),
}

/// What the names of the new classifier's weight and bias begin with.
pub(crate) const HEAD: &str = "classifier";
/// Tables of the embeddings: words, positions, types.
pub(crate) const TABLES: [&str; 3] = ["word_embeddings", "position_embeddings", "token_type_embeddings"];
/// Standard deviation of BERT's matrices before it was trained.
const DEVIATION: f32 = 0.02;

impl Shape {
    /// Reads a `config.json`.
    ///
    /// # Errors
    /// Text that is not one, or a model that this program cannot compute.
    pub(crate) fn parse(json: &str) -> Result<Self> {
        let shape: Self = serde_json::from_str(json)?;
        let Self { vocab, width, layers, heads, hidden, positions, types, .. } = shape;
        for (name, value) in [
            ("vocab_size", vocab),
            ("hidden_size", width),
            ("num_hidden_layers", layers),
            ("num_attention_heads", heads),
            ("intermediate_size", hidden),
            ("max_position_embeddings", positions),
            ("type_vocab_size", types),
        ] {
            ensure!((1..=MOST).contains(&value), "{name} is {value}, expected a number from 1 to {MOST}");
        }
        ensure!(
            width.is_multiple_of(heads),
            "hidden_size {width} is not a multiple of num_attention_heads {heads}"
        );
        ensure!(
            shape.hidden_act == "gelu",
            "hidden_act is {:?}, and only \"gelu\" is known",
            shape.hidden_act
        );
        Ok(shape)
    }

    /// Every tensor, in the order of the forward pass, with a classifier of so many classes.
    pub(crate) fn tensors(&self, classes: usize) -> Vec<TensorDef> {
        let (d, hidden) = (self.width, self.hidden);
        let mut out = Vec::new();
        let mut add = |name: String, dims: &[usize], kind: Kind, start: (f32, f32)| {
            out.push(TensorDef { name, dims: dims.to_vec(), kind, start });
        };
        for (table, rows) in TABLES.into_iter().zip([self.vocab, self.positions, self.types]) {
            add(format!("embeddings.{table}.weight"), &[rows, d], Kind::Frozen, (0.0, DEVIATION));
        }
        let norm =
            |at: &str| [(format!("{at}.LayerNorm.weight"), 1.0), (format!("{at}.LayerNorm.bias"), 0.0)];
        for (name, start) in norm("embeddings") {
            add(name, &[d], Kind::Frozen, (start, 0.0));
        }
        for layer in 0..self.layers {
            let at = |what: &str| format!("encoder.layer.{layer}.{what}");
            for (what, outputs, inputs, normed) in [
                ("attention.self.query", d, d, None),
                ("attention.self.key", d, d, None),
                ("attention.self.value", d, d, None),
                ("attention.output.dense", d, d, Some("attention.output")),
                ("intermediate.dense", hidden, d, None),
                ("output.dense", d, hidden, Some("output")),
            ] {
                add(at(&format!("{what}.weight")), &[outputs, inputs], Kind::Matrix, (0.0, DEVIATION));
                add(at(&format!("{what}.bias")), &[outputs], Kind::Vector, (0.0, 0.0));
                for (name, start) in normed.into_iter().flat_map(|normed| norm(&at(normed))) {
                    add(name, &[d], Kind::Vector, (start, 0.0));
                }
            }
        }
        add(format!("{HEAD}.weight"), &[classes, d], Kind::Head, (0.0, DEVIATION));
        add(format!("{HEAD}.bias"), &[classes], Kind::Head, (0.0, 0.0));
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINILM: &str = r#"{"vocab_size": 30522, "hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12,
        "intermediate_size": 1536, "max_position_embeddings": 512, "type_vocab_size": 2, "layer_norm_eps": 1e-12,
        "hidden_act": "gelu", "more": 1}"#;

    #[test]
    fn the_tensors_of_minilm_have_the_parameters_of_its_file_but_for_the_pooler() {
        let shape = Shape::parse(MINILM).unwrap();
        let elements = shape.tensors(66).iter().map(|def| def.dims.iter().product::<usize>()).sum::<usize>();
        // 22,713,216 in the file, 384 x 384 + 384 of them the pooler's; the classifier is new.
        assert_eq!(elements, 22_713_216 - 147_840 + 66 * 385);
    }

    #[test]
    fn a_model_that_cannot_be_computed_is_refused_by_the_name_of_its_setting() {
        for (from, to, name) in [
            ("\"gelu\"", "\"relu\"", "hidden_act"),
            ("_heads\": 12", "_heads\": 7", "num_attention_heads"),
            ("_heads\": 12", "_heads\": 0", "num_attention_heads"),
            ("30522", "99999999", "vocab_size"),
            ("\"vocab_size\"", "\"words\"", "vocab_size"),
        ] {
            let error = Shape::parse(&MINILM.replace(from, to)).unwrap_err().to_string();
            assert!(error.contains(name), "{error}");
        }
    }
}
