//! `paramstore export`: what each option says it does, also beside a process that trains.

use std::collections::HashMap;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use paramstore::{Options, ParamStore};
use serde_json::Value;

use super::exchange::{read, values};
use super::{Place, run, take_step, train};

fn keys(path: &Path) -> Vec<String> {
    read(path).into_keys().collect()
}

fn files(path: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(path).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn tensors_are_chosen_by_name_and_by_pattern() {
    let place = Place::new();
    let store = place.trained("s", 1, &[]);
    let export = |file: &str, more: &[&str], status: i32| {
        run(&[&["export", &store, &place.text(file)], more].concat()).expect(status)
    };
    export("a.safetensors", &["--tensor", "bias"], 0);
    assert_eq!(keys(&place.path("a.safetensors")), ["bias"]);
    export("b.safetensors", &["--only", "^w", "--only", "ia"], 0);
    assert_eq!(keys(&place.path("b.safetensors")), ["bias", "wte"]);
    export("c.safetensors", &["--tensor", "bias", "--tensor", "wte", "--only", "^w"], 0);
    assert_eq!(keys(&place.path("c.safetensors")), ["wte"]);
    for (more, expected) in [
        (&["--tensor", "bais"][..], "bais"),
        (&["--only", "nothing"], "at least one that is chosen"),
        (&["--only", "("], "regex parse error"),
    ] {
        let ran = export("x.safetensors", more, 2);
        assert!(ran.stderr.contains(expected), "{}", ran.stderr);
        assert!(!place.path("x.safetensors").exists());
    }
}

#[test]
fn npy_takes_one_tensor_and_says_so() {
    let place = Place::new();
    let store = place.trained("s", 1, &[]);
    let out = place.path("bias.npy");
    let text = out.to_str().unwrap();
    let ran = run(&["export", &store, text]).expect(2);
    assert!(ran.stderr.contains("name it by --tensor"), "{}", ran.stderr);
    run(&["export", &store, text, "--tensor", "bias"]).expect(0);
    let bytes = std::fs::read(&out).unwrap();
    assert!(bytes.starts_with(b"\x93NUMPY\x01\x00") && bytes.len().is_multiple_of(64), "{}", bytes.len());
    let header = String::from_utf8_lossy(&bytes[10..bytes.len() - 256]).into_owned();
    assert!(header.contains("'<f4'") && header.contains("(64,)"), "{header}");
    let first = f32::from_le_bytes(bytes[bytes.len() - 256..][..4].try_into().unwrap());
    let opened = ParamStore::open_read_only(&store, &Options::new().memory_budget(16 << 20)).unwrap();
    assert_eq!(first.to_bits(), opened.view("bias").unwrap()[0].to_bits());
    // What NumPy does not have.
    let half = place.text("half.npy");
    let ran = run(&["export", &store, &half, "--tensor", "bias", "--dtype", "bf16"]).expect(2);
    assert!(ran.stderr.contains("NumPy has no bf16"), "{}", ran.stderr);
    assert!(!place.path("half.npy").exists());
    let narrow = place.text("narrow");
    run(&["convert", &store, &narrow, "--params", "bf16", "--everywhere"]).expect(0);
    run(&["export", &narrow, &half, "--tensor", "bias"]).expect(0);
    let bytes = std::fs::read(&half).unwrap();
    assert!(String::from_utf8_lossy(&bytes).contains("'<f4'"));
    let opened = ParamStore::open_read_only(&narrow, &Options::new().memory_budget(16 << 20)).unwrap();
    let first = f32::from_le_bytes(bytes[bytes.len() - 256..][..4].try_into().unwrap());
    assert_eq!((opened.tensor("bias").unwrap().dtype().name(), first.to_bits() & 0xffff), ("bf16", 0));
}

#[test]
fn directory_gets_shards_of_the_size_and_state_apart() {
    let place = Place::new();
    let store = place.trained("s", 2, &[]);
    let out = place.path("hub");
    let text = out.to_str().unwrap();
    run(&["export", &store, text, "--shard-size", "100kB", "--with-state"]).expect(0);
    let model = [
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        "model.safetensors.index.json",
    ];
    assert_eq!(files(&out).iter().filter(|name| name.starts_with("model")).collect::<Vec<_>>(), model);
    let index = |stem: &str| -> Value {
        let text = std::fs::read_to_string(out.join(format!("{stem}.safetensors.index.json"))).unwrap();
        serde_json::from_str(&text).unwrap()
    };
    assert_eq!(index("model")["metadata"]["total_size"], 4 * 32_064);
    let mut state: HashMap<String, Vec<String>> = HashMap::new();
    for (name, file) in index("optimizer")["weight_map"].as_object().unwrap() {
        state.entry(file.as_str().unwrap().to_owned()).or_default().push(name.clone());
    }
    for (file, mut names) in state {
        names.sort();
        assert_eq!(keys(&out.join(&file)), names, "{file}");
        let bytes: usize = read(&out.join(&file)).values().map(|raw| raw.2.len()).sum();
        assert!(bytes <= 100_000 || names.len() == 1, "{file}: {names:?}");
    }
    let file = place.path("all.safetensors");
    run(&["export", &store, file.to_str().unwrap(), "--with-state"]).expect(0);
    let all = read(&file);
    let expected = [
        "bias",
        "exp_avg.bias",
        "exp_avg.wte",
        "exp_avg_sq.bias",
        "exp_avg_sq.wte",
        "step",
        "step.bias",
        "step.wte",
        "wte",
    ];
    assert_eq!(all.keys().collect::<Vec<_>>(), expected);
    assert_eq!((all["step"].0.as_str(), &all["step.wte"].2[..]), ("I64", &2_i64.to_le_bytes()[..]));
    // In the way, until it may be replaced: then nothing of the old model is left.
    let ran = run(&["export", &store, text]).expect(3);
    assert!(ran.stderr.contains("--force"), "{}", ran.stderr);
    run(&["export", &store, text, "--force"]).expect(0);
    assert_eq!(files(&out), ["model.safetensors"]);
    assert_eq!(keys(&out.join("model.safetensors")), ["bias", "wte"]);
}

#[test]
fn floats_are_rounded_to_the_type_and_state_is_not() {
    let place = Place::new();
    let store = place.trained("s", 1, &[]);
    let file = |name: &str, more: &[&str]| {
        let path = place.path(name);
        run(&[&["export", &store, path.to_str().unwrap(), "--with-state"], more].concat()).expect(0);
        read(&path)
    };
    let plain = file("a.safetensors", &[]);
    let rounded = file("b.safetensors", &["--dtype", "bf16"]);
    let half = file("c.safetensors", &["--dtype", "f16"]);
    assert_eq!([&plain, &rounded, &half].map(|all| all["wte"].0.as_str()), ["F32", "BF16", "F16"]);
    assert_eq!(rounded["exp_avg.wte"], plain["exp_avg.wte"]);
    for (value, bits) in values(&plain["wte"]).iter().zip(rounded["wte"].2.chunks_exact(2)) {
        let bits = u16::from_le_bytes(bits.try_into().unwrap());
        // To the nearest, ties to even.
        let exact = value.to_bits();
        let right = (exact + 0x7fff + (exact >> 16 & 1)) >> 16;
        assert_eq!(u32::from(bits), right, "{value}");
    }
    run(&["export", &store, &place.text("x.safetensors"), "--dtype", "i8"]).expect(2);
}

#[test]
fn checkpoint_and_the_generation_before_are_what_they_were() {
    let place = Place::new();
    let store = place.trained("s", 2, &[]);
    let file = |name: &str| place.path(name);
    let export = |from: &str, name: &str, more: &[&str]| {
        run(&[&["export", from, &place.text(name), "--json"], more].concat()).expect(0).json()
    };
    export(&store, "two.safetensors", &[]);
    run(&["checkpoint", "keep", &store, "two"]).expect(0);
    train(Path::new(&store), 3);
    let told = export(&store, "kept.safetensors", &["--checkpoint", "two"]);
    assert_eq!(told["step"], 2, "{told}");
    export(&format!("{store}@two"), "at.safetensors", &[]);
    let told = export(&format!("{store}@previous"), "four.safetensors", &[]);
    assert_eq!(told["step"], 4, "{told}");
    let now = export(&store, "five.safetensors", &[]);
    assert_eq!((&now["step"], &now["tensors"]), (&5.into(), &2.into()), "{now}");
    let two = read(&file("two.safetensors"));
    assert_eq!(read(&file("kept.safetensors")), two);
    assert_eq!(read(&file("at.safetensors")), two);
    assert_ne!(read(&file("five.safetensors")), two);
    assert_ne!(read(&file("five.safetensors")), read(&file("four.safetensors")));
    let ran = run(&["export", &store, &place.text("x.safetensors"), "--checkpoint", "none"]).expect(2);
    assert!(ran.stderr.contains("checkpoint list"), "{}", ran.stderr);
}

/// Names the store for the process that is started as a writer.
const WRITER: &str = "PARAMSTORE_TEST_CLI_WRITER";

/// As a writer: steps without end, each committed. As a test of its own: nothing, since nobody asked.
#[test]
fn writer_process_trains_until_it_is_killed() {
    let Ok(path) = std::env::var(WRITER) else { return };
    let options = Options::new().memory_budget(16 << 20).threads(1);
    let mut store = ParamStore::open(path, &options).unwrap();
    loop {
        take_step(&mut store);
        store.commit(b"record").unwrap();
    }
}

/// Ends the process when the test ends, also by a panic.
struct Writer(Child);

impl Drop for Writer {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

#[test]
fn store_that_another_process_trains_gives_one_generation_whole() {
    let place = Place::new();
    let store = place.trained("s", 1, &[]);
    let twin = place.trained("twin", 1, &[]);
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["export::writer_process_trains_until_it_is_killed", "--exact", "--test-threads=1"]);
    command.env(WRITER, &store).stdout(Stdio::null()).stderr(Stdio::null());
    let writer = Writer(command.spawn().unwrap());
    let mut seen = Vec::new();
    for round in 0..200 {
        let name = format!("{round}.safetensors");
        let told = run(&["export", &store, &place.text(&name), "--with-state", "--json"]).expect(0).json();
        let step = told["step"].as_u64().unwrap();
        if seen.last().is_none_or(|&(last, _)| last < step) {
            seen.push((step, name));
        }
        if seen.len() > 3 {
            break;
        }
    }
    drop(writer);
    assert!(seen.len() > 3, "the writer did not come on: {seen:?}");
    let options = Options::new().memory_budget(16 << 20).threads(1);
    let mut twin = ParamStore::open(twin, &options).unwrap();
    for (step, name) in seen {
        while twin.step() < step {
            take_step(&mut twin);
        }
        let got = read(&place.path(&name));
        assert_eq!(got["step"].2, step.to_le_bytes(), "{name}");
        for (plane, prefix) in [("param", ""), ("exp_avg", "exp_avg."), ("exp_avg_sq", "exp_avg_sq.")] {
            for (tensor, elements) in [("wte", 32_000), ("bias", 64)] {
                let mut right = vec![0.0; elements];
                twin.read_plane_range_into(tensor, plane, 0, &mut right).unwrap();
                let bits = |values: &[f32]| values.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
                let got = values(&got[&format!("{prefix}{tensor}")]);
                assert!(bits(&got) == bits(&right), "{plane} of {tensor} at step {step}");
            }
        }
    }
}

#[test]
fn little_memory_is_enough_and_too_little_is_told() {
    let place = Place::new();
    let store = place.trained("s", 1, &["--block-bytes", "4KiB"]);
    run(&["export", &store, &place.text("a.safetensors"), "--memory", "1MiB"]).expect(0);
    run(&["export", &store, &place.text("b.safetensors")]).expect(0);
    assert_eq!(read(&place.path("a.safetensors")), read(&place.path("b.safetensors")));
    let ran = run(&["export", &store, &place.text("x.safetensors"), "--memory", "4KiB"]).expect(2);
    assert!(ran.stderr.contains("expected at least") || ran.stderr.contains("budget"), "{}", ran.stderr);
    assert!(!place.path("x.safetensors").exists());
}
