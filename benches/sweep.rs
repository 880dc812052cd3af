//! Seconds per optimizer step over a whole store, beside the time of a raw copy of the same bytes in the same run.
//!
//! `cargo bench --bench sweep -- [--params 200M] [--memory 256MiB] [--steps 5] [--optimizer adamw] [--dir DIR]
//! [--commit-every K] [--path auto|direct|mapped]`
//!
//! A cold step reads and writes every plane once; the raw copy reads the same number of bytes from one set of files
//! and writes them to another, with direct I/O on four threads in 4 MiB pieces and no arithmetic. Step and copy take
//! turns, so that a disk that drifts does so for both. Where the state fits the budget the step never touches the
//! disk, and the row says so.

#![expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    reason = "figures for people, from counts far below 2^52; 64-bit machines only"
)]

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Instant;

use paramstore::{IoPath, Optimizer, Options, ParamGroup, ParamStore, Schema, TensorSpec};

const PIECE: usize = 4 << 20;
const COPY_THREADS: u64 = 4;
/// Linux's flag for direct I/O on x86-64 (the generic value; aarch64 has another).
const O_DIRECT: i32 = if cfg!(target_arch = "aarch64") { 0o200_000 } else { 0o40_000 };

struct Arguments {
    params: u64,
    memory: u64,
    steps: usize,
    optimizer: String,
    dir: PathBuf,
    commit_every: usize,
    path: IoPath,
    block_bytes: Option<u64>,
}

fn number(text: &str) -> u64 {
    let units =
        [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1_000_000_000), ("M", 1_000_000)];
    for (unit, factor) in units {
        if let Some(count) = text.strip_suffix(unit) {
            return count.parse::<u64>().expect("a whole number with its unit") * factor;
        }
    }
    text.parse().expect("a whole number")
}

fn arguments() -> Arguments {
    let mut parsed = Arguments {
        params: 20_000_000,
        memory: 64 << 20,
        steps: 3,
        optimizer: "adamw".into(),
        dir: std::env::temp_dir(),
        commit_every: 1,
        path: IoPath::Auto,
        block_bytes: None,
    };
    let mut arguments = std::env::args().skip(1);
    while let Some(name) = arguments.next() {
        if name == "--bench" {
            continue;
        }
        let value = arguments.next().unwrap_or_else(|| panic!("{name} needs a value"));
        match name.as_str() {
            "--params" => parsed.params = number(&value),
            "--memory" => parsed.memory = number(&value),
            "--steps" => parsed.steps = value.parse().expect("a count"),
            "--optimizer" => parsed.optimizer = value,
            "--dir" => parsed.dir = value.into(),
            "--commit-every" => parsed.commit_every = value.parse().expect("a count"),
            "--block-bytes" => parsed.block_bytes = Some(number(&value)),
            "--path" => {
                parsed.path = match value.as_str() {
                    "auto" => IoPath::Auto,
                    "direct" => IoPath::Direct,
                    "mapped" => IoPath::Mapped,
                    other => panic!("--path is auto, direct or mapped, not {other}"),
                }
            }
            other => panic!("unknown option {other}"),
        }
    }
    parsed
}

fn open_direct(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).custom_flags(O_DIRECT).open(path)
}

/// Memory on huge pages, as the store's own: the disk gets large requests.
fn huge_memory() -> memmap2::MmapMut {
    let memory = memmap2::MmapMut::map_anon(PIECE).expect("memory");
    memory.advise(memmap2::Advice::HugePage).expect("advice");
    memory
}

/// Copies `bytes` from one file to another on several threads, each with one piece in flight.
fn raw_copy(from: &File, to: &File, bytes: u64) -> f64 {
    let start = Instant::now();
    std::thread::scope(|scope| {
        for thread in 0..COPY_THREADS {
            scope.spawn(move || {
                let mut memory = huge_memory();
                let memory = &mut memory[..];
                let mut offset = thread * PIECE as u64;
                while offset < bytes {
                    let len = PIECE.min((bytes - offset).next_multiple_of(4096) as usize);
                    from.read_exact_at(&mut memory[..len], offset).expect("read");
                    to.write_all_at(&memory[..len], offset).expect("write");
                    offset += COPY_THREADS * PIECE as u64;
                }
            });
        }
    });
    to.sync_data().expect("sync");
    start.elapsed().as_secs_f64()
}

fn peak_rss_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|l| l.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()).unwrap_or(0) * 1024
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() {
    let arguments = arguments();
    let dir = tempfile::tempdir_in(&arguments.dir).expect("a scratch directory");
    let optimizer = Optimizer::from_name(&arguments.optimizer).expect("an optimizer");
    let planes = 1 + optimizer.state_planes().len() as u64;
    let state = 4 * planes * arguments.params;
    let mut schema = Schema::new().group(ParamGroup::new("default", optimizer));
    if let Some(bytes) = arguments.block_bytes {
        schema = schema.block_bytes(bytes);
    }
    // Tensors of at most 50M elements, as a large model has.
    let tensors = arguments.params.div_ceil(50_000_000);
    for i in 0..tensors {
        let elements = arguments.params / tensors + u64::from(i < arguments.params % tensors);
        schema = schema.tensor(TensorSpec::new(format!("w{i}"), &[elements]));
    }
    let options = Options::new().memory_budget(arguments.memory).io_path(arguments.path);
    let start = Instant::now();
    let mut store = ParamStore::create(dir.path().join("store"), &schema, &options).expect("create");
    println!(
        "create {:.3} s, state {:.2} GB, budget {:.2} GB",
        start.elapsed().as_secs_f64(),
        state as f64 / 1e9,
        arguments.memory as f64 / 1e9
    );

    let copies =
        [dir.path().join("a"), dir.path().join("b")].map(|path| open_direct(&path).expect("scratch file"));
    let names: Vec<String> = store.tensors().map(|t| t.name().to_owned()).collect();
    let mut steps = Vec::new();
    let mut limits = Vec::new();
    let mut ratios = Vec::new();
    for round in 0..arguments.steps + 2 {
        let before = store.stats();
        let start = Instant::now();
        let mut step = store.begin_step().expect("step");
        for name in &names {
            step.apply_with(name, |range, out| {
                let first = range.start as u32;
                for (i, value) in out.iter_mut().enumerate() {
                    *value = ((first.wrapping_add(i as u32) & 1023) as f32 - 511.5) * 1e-4;
                }
            })
            .expect("apply");
        }
        step.finish().expect("finish");
        let compute_end = start.elapsed().as_secs_f64();
        let mut commit_bytes = 0;
        if (round + 1) % arguments.commit_every == 0 {
            commit_bytes = store.commit(b"").expect("commit").bytes_written;
        }
        let seconds = start.elapsed().as_secs_f64();
        let stats = store.stats().since(&before);
        // The first two rounds bring blocks to life and write their homes for the first time.
        let source = if round == 0 { &copies[1] } else { &copies[0] };
        if round == 0 {
            raw_fill(source, state);
            raw_fill(&copies[0], state);
            continue;
        }
        let limit = raw_copy(&copies[round % 2], &copies[(round + 1) % 2], state);
        println!(
            "step {seconds:.3} s (commit {:.3} s, {:.1} MB)  raw copy {limit:.3} s  ratio {:.3}  {:.1} Mparam/s  read {:.2} B/p  written {:.2} B/p  hits {:.3}  stall r {:.3} w {:.3}  compute {:.3}",
            seconds - compute_end,
            commit_bytes as f64 / 1e6,
            limit / seconds,
            arguments.params as f64 / seconds / 1e6,
            stats.bytes_read as f64 / arguments.params as f64,
            stats.bytes_written as f64 / arguments.params as f64,
            stats.hit_rate(),
            stats.stall_read_ns as f64 / 1e9,
            stats.stall_write_ns as f64 / 1e9,
            stats.compute_ns as f64 / 1e9,
        );
        if round >= 2 {
            steps.push(seconds);
            limits.push(limit);
            ratios.push(limit / seconds);
        }
    }
    println!(
        "median: step {:.3} s, raw copy {:.3} s, raw copy / step {:.3}; peak resident {:.1} MB",
        median(&mut steps),
        median(&mut limits),
        median(&mut ratios),
        peak_rss_bytes() as f64 / 1e6
    );
}

/// Writes a file once, so that later copies overwrite allocated blocks as the store does.
fn raw_fill(file: &File, bytes: u64) {
    let memory = memmap2::MmapMut::map_anon(PIECE).expect("memory");
    let mut offset = 0;
    while offset < bytes {
        let len = PIECE.min((bytes - offset).next_multiple_of(4096) as usize);
        file.write_all_at(&memory[..len], offset).expect("write");
        offset += PIECE as u64;
    }
    file.sync_data().expect("sync");
}
