//! `paramstore` behind the line protocol of this comparison; `README.md` beside it describes the protocol.
//!
//! `paramstore-compare --params N --memory BYTES --dir DIR --threads T [--sparse] [--open]`

use std::error::Error;
use std::fs::File;
use std::io::{BufRead, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use paramstore::optim::AdamW;
use paramstore::{Init, Optimizer, Options, ParamGroup, ParamStore, Schema, TensorSpec};
use serde_json::{Value, json};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

// The values of `baseline.py`.
const RULE: AdamW = AdamW {
    lr: 1e-3,
    beta1: 0.9,
    beta2: 0.999,
    eps: 1e-8,
    weight_decay: 0.1,
    amsgrad: false,
    maximize: false,
};
const FIRST_VALUE: f32 = 0.5;
const CHUNK_MAX: u64 = 16 << 20;
const PLANES: [&str; 3] = ["param", "exp_avg", "exp_avg_sq"];
/// Elements of a tensor: below 50 million, as a large model has, and whole chunks.
const TENSOR: u64 = 2 * CHUNK_MAX;

struct Arguments {
    params: u64,
    memory: u64,
    dir: PathBuf,
    threads: usize,
    sparse: bool,
    open: bool,
}

fn arguments() -> Result<Arguments> {
    let (mut params, mut memory, mut dir, mut threads) = (None, None, None, 1);
    let (mut sparse, mut open) = (false, false);
    let mut words = std::env::args().skip(1);
    while let Some(name) = words.next() {
        let mut value = || words.next().ok_or(format!("{name} needs a value"));
        match name.as_str() {
            "--params" => params = Some(value()?.parse()?),
            "--memory" => memory = Some(value()?.parse()?),
            "--dir" => dir = Some(PathBuf::from(value()?)),
            "--threads" => threads = value()?.parse()?,
            "--sparse" => sparse = true,
            "--open" => open = true,
            other => return Err(format!("unknown option {other}").into()),
        }
    }
    Ok(Arguments {
        params: params.ok_or("--params is needed: the number of parameters")?,
        memory: memory.ok_or("--memory is needed: the budget in bytes")?,
        dir: dir.ok_or("--dir is needed: a scratch directory")?,
        threads,
        sparse,
        open,
    })
}

/// Elements of a chunk, by the rule of `baseline.py`: the largest power of two of which three chunks of three planes
/// fit the memory.
fn chunk_elements(memory: u64) -> u64 {
    let fitting = (memory / 36).max(1024);
    (1 << fitting.ilog2()).min(CHUNK_MAX)
}

/// The same gradient in every program: element `i` of any chunk has one value, never 0, in every step.
#[expect(clippy::cast_precision_loss, reason = "below 1024")]
fn gradient(elements: u64) -> Vec<f32> {
    (0..elements).map(|i| ((i & 1023) as f32 - 511.5) * 1e-4).collect()
}

fn open(arguments: &Arguments) -> Result<ParamStore> {
    let options =
        Options::new().memory_budget(arguments.memory).threads(arguments.threads).sparse(arguments.sparse);
    let path = arguments.dir.join("store");
    if arguments.open {
        return Ok(ParamStore::open(path, &options)?);
    }
    let mut schema = Schema::new().group(ParamGroup::new("default", Optimizer::AdamW(RULE)));
    for (i, start) in (0..arguments.params).step_by(usize::try_from(TENSOR)?).enumerate() {
        let elements = TENSOR.min(arguments.params - start);
        schema =
            schema.tensor(TensorSpec::new(format!("w{i}"), &[elements]).init(Init::Constant(FIRST_VALUE)));
    }
    Ok(ParamStore::create(path, &schema, &options)?)
}

/// Name and elements of every tensor.
fn tensors(store: &ParamStore) -> Vec<(String, u64)> {
    store.tensors().map(|tensor| (tensor.name().to_owned(), tensor.elements())).collect()
}

fn step(store: &mut ParamStore, gradient: &[f32], commit: bool) -> Result<Value> {
    let before = store.stats();
    let start = Instant::now();
    let tensors = tensors(store);
    let mut step = store.begin_step()?;
    for (name, elements) in &tensors {
        for first in (0..*elements).step_by(gradient.len()) {
            let len = usize::try_from(elements - first)?.min(gradient.len());
            step.apply_range(name, first, &gradient[..len])?;
        }
    }
    step.finish()?;
    let swept = start.elapsed().as_secs_f64();
    if commit {
        store.commit(b"")?;
    }
    let step_s = start.elapsed().as_secs_f64();
    let stats = store.stats().since(&before);
    Ok(json!({
        "step_s": step_s,
        "commit_s": step_s - swept,
        "step": store.step(),
        "peak_rss_bytes": peak_rss_bytes()?,
        "read_bytes": stats.bytes_read,
        "written_bytes": stats.bytes_written,
    }))
}

fn peak_rss_bytes() -> Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).ok_or("no VmHWM in status")?;
    let kib: u64 = line.trim().trim_end_matches("kB").trim().parse()?;
    Ok(kib * 1024)
}

/// Writes each plane, all tensors after one another, as a raw file of f32.
fn dump(store: &ParamStore, dir: &Path) -> Result<Value> {
    for plane in PLANES {
        let mut file = BufWriter::new(File::create(dir.join(format!("{plane}.f32")))?);
        for (name, elements) in tensors(store) {
            let mut values = vec![0.0; usize::try_from(elements)?];
            store.read_plane_into(&name, plane, &mut values)?;
            for value in values {
                file.write_all(&value.to_le_bytes())?;
            }
        }
        file.flush()?;
    }
    Ok(json!({ "dumped": dir }))
}

fn answer(store: &mut ParamStore, line: &str, gradient: &[f32]) -> Result<Value> {
    match line.split_once(' ').unwrap_or((line, "")) {
        ("step", "") => step(store, gradient, false),
        ("step", "commit") => step(store, gradient, true),
        ("dump", dir) if !dir.is_empty() => dump(store, Path::new(dir)),
        ("digest", "") => Ok(json!({ "digest": store.digest()?.to_string(), "step": store.step() })),
        _ => Err(format!("unknown line {line:?}; known: step, step commit, dump DIR, digest, quit").into()),
    }
}

fn main() -> Result<()> {
    let arguments = arguments()?;
    let mut store = open(&arguments)?;
    let gradient = gradient(chunk_elements(arguments.memory));
    println!("ready");
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        if line == "quit" {
            break;
        }
        println!("{}", answer(&mut store, &line, &gradient)?);
    }
    Ok(())
}
