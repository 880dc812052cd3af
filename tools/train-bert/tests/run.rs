//! The program from its command line on, with a model of one small layer in place of the one that a package ships.

use std::path::Path;
use std::process::Command;

use paramstore::exchange::Export;
use paramstore::optim::{Optimizer, Sgd};
use paramstore::{Init, Options, ParamGroup, ParamStore, Schema, TensorSpec};
use serde_json::{Value, json};

const WIDTH: usize = 64;
const HIDDEN: usize = 128;
const POSITIONS: usize = 40;

/// Letters, as pieces that begin a word and pieces that go on with it, behind the marks.
fn vocabulary() -> Vec<String> {
    let letters = || ('a'..='z').map(String::from);
    let marks = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"].map(str::to_owned);
    marks.into_iter().chain(letters()).chain(letters().map(|letter| format!("##{letter}"))).collect()
}

/// Writes config.json, tokenizer.json and model.safetensors.
fn write_model(dir: &Path) {
    std::fs::create_dir(dir).unwrap();
    let words = vocabulary();
    let config = json!({
        "vocab_size": words.len(), "hidden_size": WIDTH, "num_hidden_layers": 1, "num_attention_heads": 4,
        "intermediate_size": HIDDEN, "max_position_embeddings": POSITIONS, "type_vocab_size": 2,
        "layer_norm_eps": 1e-12, "hidden_act": "gelu",
    });
    std::fs::write(dir.join("config.json"), config.to_string()).unwrap();
    let mark = |id: &str| json!({ "SpecialToken": { "id": id, "type_id": 0 } });
    let special = |id: &str, number: usize| json!({ "id": id, "ids": [number], "tokens": [id] });
    let vocab: serde_json::Map<_, _> = words.iter().cloned().zip((0..).map(Value::from)).collect();
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
        "normalizer": { "type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true,
            "strip_accents": null, "lowercase": true },
        "pre_tokenizer": { "type": "BertPreTokenizer" },
        "post_processor": { "type": "TemplateProcessing",
            "single": [mark("[CLS]"), { "Sequence": { "id": "A", "type_id": 0 } }, mark("[SEP]")], "pair": [],
            "special_tokens": { "[CLS]": special("[CLS]", 2), "[SEP]": special("[SEP]", 3) } },
        "decoder": null,
        "model": { "type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100, "vocab": vocab },
    });
    std::fs::write(dir.join("tokenizer.json"), tokenizer.to_string()).unwrap();
    write_weights(dir, words.len());
}

fn write_weights(dir: &Path, vocab: usize) {
    let d = WIDTH;
    let mut tensors = vec![
        ("embeddings.word_embeddings.weight".to_owned(), vec![vocab, d]),
        ("embeddings.position_embeddings.weight".to_owned(), vec![POSITIONS, d]),
        ("embeddings.token_type_embeddings.weight".to_owned(), vec![2, d]),
    ];
    for (what, outputs, inputs) in [
        ("attention.self.query", d, d),
        ("attention.self.key", d, d),
        ("attention.self.value", d, d),
        ("attention.output.dense", d, d),
        ("intermediate.dense", HIDDEN, d),
        ("output.dense", d, HIDDEN),
    ] {
        tensors.push((format!("encoder.layer.0.{what}.weight"), vec![outputs, inputs]));
        tensors.push((format!("encoder.layer.0.{what}.bias"), vec![outputs]));
    }
    for at in ["embeddings", "encoder.layer.0.attention.output", "encoder.layer.0.output"] {
        tensors.push((format!("{at}.LayerNorm.weight"), vec![d]));
        tensors.push((format!("{at}.LayerNorm.bias"), vec![d]));
    }
    let mut schema = Schema::new().seed(3).group(ParamGroup::new("all", Optimizer::Sgd(Sgd::default())));
    for (name, dims) in tensors {
        let dims: Vec<_> = dims.into_iter().map(|n| n as u64).collect();
        let gain = name.ends_with("LayerNorm.weight");
        let init = if gain { Init::Constant(1.0) } else { Init::Normal { mean: 0.0, std: 0.05 } };
        schema = schema.tensor(TensorSpec::new(name, &dims).init(init));
    }
    let store = ParamStore::create(dir.join("store"), &schema, &Options::new()).unwrap();
    Export::new().to_file(&store, dir.join("model.safetensors"), |_| {}).unwrap();
}

fn run(arguments: &[String]) -> Value {
    let output = Command::new(env!("CARGO_BIN_EXE_train-bert")).args(arguments).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn commands_of_the_documents_fine_tune_a_model_in_every_state_with_the_same_bits_each_time() {
    let dir = tempfile::tempdir().unwrap();
    let text = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    write_model(&dir.path().join("model"));
    let mut ends = std::collections::BTreeMap::new();
    for (number, command) in documents::commands("train-bert").into_iter().enumerate() {
        let of = |store: &str| {
            let model = text("model");
            let small = [("--model", model.as_str()), ("--store", store), ("--memory", "16MiB")];
            let short = [("--steps", "6"), ("--batch", "4"), ("--validate", "8"), ("--validate-every", "6")];
            let mut words = command.clone().with(&small).with(&short).with(&[("--tokens", "16")]).arguments;
            words.retain(|word| word != "--json");
            words.push("--json".to_owned());
            run(&words)
        };
        let (ran, again) = (of(&text(&format!("{number}a"))), of(&text(&format!("{number}b"))));
        assert_eq!(ran["digest"], again["digest"], "{}", command.place());
        let name = format!("{} {}", ran["state"], ran["random_start"]);
        ends.insert(name, (ran["digest"].to_string(), ran["state_bytes"].as_u64().unwrap()));
        let losses = &ran["val_bits_per_verse_at"];
        assert!(losses[0][1].as_f64().unwrap() > 4.0 && losses[1][0] == 6, "{ran}");
        assert_ne!(losses[0][1], losses[1][1], "six steps change something");
    }
    assert_eq!(ends.len(), 4, "{ends:?}");
    let digests: std::collections::BTreeSet<_> = ends.values().map(|end| &end.0).collect();
    assert_eq!(digests.len(), 4, "{ends:?}");
    let bytes = |state: &str| ends[&format!("\"{state}\" false")].1;
    assert!(bytes("f32") > bytes("bf16") && bytes("bf16") > bytes("compact"), "{ends:?}");
}

#[test]
fn a_file_that_lacks_a_tensor_is_refused_by_its_name() {
    let dir = tempfile::tempdir().unwrap();
    let model = dir.path().join("model");
    write_model(&model);
    let store = ParamStore::open_read_only(model.join("store"), &Options::new()).unwrap();
    let export = Export::new().force(true).select(|name| !name.ends_with("query.bias"));
    export.to_file(&store, model.join("model.safetensors"), |_| {}).unwrap();
    let paths =
        ["--model".into(), model.into_os_string(), "--store".into(), dir.path().join("s").into_os_string()];
    let output = Command::new(env!("CARGO_BIN_EXE_train-bert")).args(paths).output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && told.contains("encoder.layer.0.attention.self.query.bias"), "{told}");
}
