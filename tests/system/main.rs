//! What the operating system can do to a store: limits, links, permissions, files cut short under a live handle, full
//! and read-only file systems. Every time a typed error and no signal, and afterwards the store as it was.
//!
//! Where a limit or a user belongs to a process, the test binary starts itself again as another process.

mod limits;
mod links;
mod mounts;
mod onlookers;
mod shares;
mod truncation;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

use paramstore::optim::{AdamW, Sgd};
use paramstore::{Error, Init, Optimizer, Options, ParamGroup, ParamStore, Result, Schema, TensorSpec};

/// Names the job of a process that is started by a test, and the store that it is for.
const JOB: &str = "PARAMSTORE_TEST_JOB";
const STORE: &str = "PARAMSTORE_TEST_STORE";

const BIG: u16 = 40_000;

fn options() -> Options {
    Options::new().memory_budget(24 * 16384).threads(1)
}

fn schema() -> Schema {
    let sgd = Sgd { lr: 0.05, momentum: 0.9, ..Sgd::default() };
    Schema::new()
        .block_bytes(16384)
        .group(ParamGroup::new("adamw", Optimizer::AdamW(AdamW::default())))
        .group(ParamGroup::new("sgd", Optimizer::Sgd(sgd)))
        .tensor(TensorSpec::new("big", &[u64::from(BIG)]).init(Init::Normal { mean: 0.0, std: 1.0 }))
        .tensor(TensorSpec::new("small", &[100]).group("sgd"))
}

fn one_step(store: &mut ParamStore) -> Result<()> {
    let now = u16::try_from(store.step()).unwrap();
    let gradient = |elements: u16| -> Vec<f32> {
        (0..elements).map(|i| f32::from((i % 1000 * 7 + now * 31) % 1013) / 500.0 - 1.0).collect()
    };
    let mut step = store.begin_step()?;
    step.apply("big", &gradient(BIG))?;
    step.apply("small", &gradient(100))?;
    step.finish().map(|_| ())
}

/// Steps, each with its commit; tells of each through `said`.
fn train(store: &mut ParamStore, steps: u64, mut said: impl FnMut(u64)) -> Result<()> {
    for _ in 0..steps {
        one_step(store)?;
        store.commit(&store.step().to_le_bytes())?;
        said(store.step());
    }
    Ok(())
}

fn digest(path: &Path) -> String {
    ParamStore::open(path, &options()).unwrap().digest().unwrap().to_string()
}

/// The digests of the first steps, as they should be.
fn digests() -> &'static HashMap<u64, String> {
    static DIGESTS: OnceLock<HashMap<u64, String>> = OnceLock::new();
    DIGESTS.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        let mut twin = ParamStore::create(dir.path().join("twin"), &schema(), &options()).unwrap();
        let mut digests = HashMap::from([(0, twin.digest().unwrap().to_string())]);
        for step in 1..=4 {
            one_step(&mut twin).unwrap();
            digests.insert(step, twin.digest().unwrap().to_string());
        }
        digests
    })
}

/// A store with one committed step, and the digests of that step and others.
fn trained(folder: &Path) -> (PathBuf, &'static HashMap<u64, String>) {
    let path = folder.join("store");
    let mut store = ParamStore::create(&path, &schema(), &options()).unwrap();
    train(&mut store, 1, |_| {}).unwrap();
    (path, digests())
}

/// What a process that was started by [`child`] does; nothing where nobody asked.
#[test]
fn child_does_what_it_is_told() {
    let Ok(job) = std::env::var(JOB) else { return };
    let path = std::env::var(STORE).unwrap();
    let said = match job.as_str() {
        "create" => ParamStore::create(&path, &schema(), &options()).map(|_| "created".to_owned()),
        "train" => ParamStore::open(&path, &options()).and_then(|mut store| {
            train(&mut store, 3, |step| println!("\nsays: committed {step}"))?;
            Ok("trained".to_owned())
        }),
        "read" => {
            ParamStore::open_read_only(&path, &options()).and_then(|store| Ok(store.digest()?.to_string()))
        }
        "write" => ParamStore::open(&path, &options()).map(|_| "opened".to_owned()),
        other => panic!("no job {other:?}"),
    };
    match said {
        Ok(said) => println!("\nsays: {said}"),
        Err(error) => println!("\nsays: {} error: {error}", kind(&error)),
    }
}

/// The name of an error's variant.
fn kind(error: &Error) -> String {
    let debug = format!("{error:?}");
    debug.split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default().to_owned()
}

/// A command that does a job; a shell's words may stand before it.
fn child(shell: &str, job: &str, store: &Path) -> Command {
    let mut command = Command::new("/bin/sh");
    let program = std::env::current_exe().unwrap();
    command.args(["-c", &format!("{shell} exec \"$@\""), "sh"]).arg(program);
    command.args(["child_does_what_it_is_told", "--exact", "--test-threads=1", "--nocapture"]);
    command.env(JOB, job).env(STORE, store);
    command
}

/// What a job said, line by line.
fn said(output: &Output) -> Vec<String> {
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines().filter_map(|line| line.strip_prefix("says: ").map(str::to_owned)).collect()
}
