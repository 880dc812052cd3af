//! Several processes on a real file system: a writer that is killed with SIGKILL, a second writer, readers beside a
//! writer. The test binary starts itself again as the other process.

use std::collections::HashMap;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use paramstore::optim::{AdamW, Sgd};
use paramstore::{Error, Init, Optimizer, Options, ParamGroup, ParamStore, Schema, TensorSpec};

/// Names the store for the process that is started as a writer.
const WRITER: &str = "PARAMSTORE_TEST_WRITER";
/// The same for one that keeps, goes back and prunes.
const KEEPER: &str = "PARAMSTORE_TEST_KEEPER";
const BIG: u16 = 40_000;

fn options() -> Options {
    Options::new().memory_budget(24 * 16384).threads(2)
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

fn gradient(elements: u16, step: u64) -> Vec<f32> {
    let salt = u16::try_from(step % 1000).unwrap();
    (0..elements).map(|i| f32::from((i % 1000 * 7 + salt * 31) % 1013) / 500.0 - 1.0).collect()
}

fn one_step(store: &mut ParamStore) {
    let now = store.step();
    let mut step = store.begin_step().unwrap();
    step.apply("big", &gradient(BIG, now)).unwrap();
    step.apply("small", &gradient(100, now)).unwrap();
    step.finish().unwrap();
}

/// Everything that the store holds, as one hash of its content.
fn content(store: &ParamStore) -> String {
    store.digest().unwrap().to_string()
}

/// As a writer: steps without end, a commit after every third. As a test of its own: nothing, since nobody asked.
#[test]
fn writer_process_trains_until_it_is_killed() {
    let Ok(path) = std::env::var(WRITER) else { return };
    let mut store = ParamStore::open(path, &options()).unwrap();
    loop {
        one_step(&mut store);
        if store.step().is_multiple_of(3) {
            store.commit(&store.step().to_le_bytes()).unwrap();
        }
    }
}

/// As a writer that keeps every step, goes on, goes back, and prunes.
#[test]
fn keeper_process_keeps_and_goes_back_until_it_is_killed() {
    let Ok(path) = std::env::var(KEEPER) else { return };
    let mut store = ParamStore::open(path, &options()).unwrap();
    let step = |store: &mut ParamStore| {
        one_step(store);
        store.commit(&store.step().to_le_bytes()).unwrap();
    };
    loop {
        step(&mut store);
        // One that a killed process left is as good.
        if store.checkpoints().unwrap().iter().any(|checkpoint| checkpoint.generation().is_some()) {
            store.prune("kept").unwrap();
        }
        store.keep("kept").unwrap();
        step(&mut store);
        store.roll_back_to("kept").unwrap();
        store.prune("kept").unwrap();
    }
}

/// Ends the process when the test ends, also by a panic.
struct Writer(Child);

impl Writer {
    fn start(path: &Path) -> Self {
        Self::start_as(path, WRITER, "writer_process_trains_until_it_is_killed")
    }

    fn start_as(path: &Path, variable: &str, test: &str) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args([test, "--exact", "--test-threads=1"]);
        command.env(variable, path).stdout(Stdio::null()).stderr(Stdio::null());
        Self(command.spawn().unwrap())
    }

    fn kill(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// Waits until a reader sees a later step; the bound is only there so that a broken writer does not hang the test.
fn wait_for_step(path: &Path, step: u64) {
    let start = Instant::now();
    loop {
        let store = ParamStore::open_read_only(path, &options()).unwrap();
        if store.step() >= step {
            return;
        }
        drop(store);
        assert!(start.elapsed() < Duration::from_secs(60), "the writer does not come to step {step}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_writer_killed_at_any_instant_leaves_its_last_commit() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    drop(ParamStore::create(&path, &schema(), &options()).unwrap());
    let twin_path = dir.path().join("twin");
    let mut twin = ParamStore::create(&twin_path, &schema(), &options()).unwrap();
    let mut known = HashMap::from([(0, content(&twin))]);
    let mut lost = 0;
    for round in 0_u64..12 {
        let before = ParamStore::open_read_only(&path, &options()).unwrap().step();
        let mut writer = Writer::start(&path);
        wait_for_step(&path, before + 3);
        // Anywhere in a step or a commit: a few microseconds to milliseconds later, different in every round.
        std::thread::sleep(Duration::from_micros(round * 997 % 9000));
        writer.kill();

        let store = ParamStore::open(&path, &options()).unwrap();
        let step = store.step();
        assert!(step >= before + 3 && step.is_multiple_of(3), "step {step} after {before}");
        assert_eq!(store.user_record(), step.to_le_bytes());
        lost += store.recovery().lost_steps;
        while twin.step() < step {
            one_step(&mut twin);
            known.insert(twin.step(), content(&twin));
        }
        assert_eq!(content(&store), known[&step], "round {round}, step {step}");
    }
    println!("12 kills, {lost} uncommitted steps lost, step {} reached", twin.step());
}

#[test]
fn a_process_killed_at_any_instant_leaves_whole_checkpoints_or_none() {
    use paramstore::checkpoint::CheckpointState;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    drop(ParamStore::create(&path, &schema(), &options()).unwrap());
    let mut twin = ParamStore::create(dir.path().join("twin"), &schema(), &options()).unwrap();
    let mut known = HashMap::from([(0, content(&twin))]);
    let mut found = [0; 2];
    for round in 0_u64..24 {
        let before = ParamStore::open_read_only(&path, &options()).unwrap().generation();
        let mut keeper =
            Writer::start_as(&path, KEEPER, "keeper_process_keeps_and_goes_back_until_it_is_killed");
        let start = Instant::now();
        while ParamStore::open_read_only(&path, &options()).unwrap().generation() < before + 3 {
            assert!(
                start.elapsed() < Duration::from_secs(60),
                "the keeper does not come to its third commit"
            );
            std::thread::sleep(Duration::from_millis(1));
        }
        std::thread::sleep(Duration::from_micros(round * 7919 % 60_000));
        keeper.kill();

        let store = ParamStore::open(&path, &options()).unwrap();
        while twin.step() <= store.step() {
            one_step(&mut twin);
            known.insert(twin.step(), content(&twin));
        }
        assert_eq!(content(&store), known[&store.step()], "round {round}, step {}", store.step());
        for checkpoint in store.checkpoints().unwrap() {
            match checkpoint.state {
                CheckpointState::Kept { step, .. } => {
                    let kept = ParamStore::open_read_only(&checkpoint.path, &options()).unwrap();
                    assert_eq!((kept.step(), content(&kept)), (step, known[&step].clone()), "round {round}");
                    found[0] += 1;
                }
                CheckpointState::Interrupted => found[1] += 1,
                state => panic!("round {round}: {state:?}"),
            }
        }
    }
    println!("24 kills: {} checkpoints and {} interrupted ones found", found[0], found[1]);
}

#[test]
fn a_second_writer_process_is_told_the_first_ones_process_id() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    drop(ParamStore::create(&path, &schema(), &options()).unwrap());
    let mut writer = Writer::start(&path);
    wait_for_step(&path, 3);
    let error = ParamStore::open(&path, &options()).unwrap_err();
    let Error::Locked { holder, .. } = &error else { panic!("{error}") };
    assert_eq!(holder.as_deref(), Some(format!("process {}", writer.0.id()).as_str()));
    writer.kill();
    ParamStore::open(&path, &options()).unwrap();
}

#[test]
fn readers_beside_a_writer_process_see_whole_generations_only() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    drop(ParamStore::create(&path, &schema(), &options()).unwrap());
    let mut twin = ParamStore::create(dir.path().join("twin"), &schema(), &options()).unwrap();
    let mut known = HashMap::from([(0, content(&twin))]);
    let mut writer = Writer::start(&path);
    let mut seen = 0;
    for _ in 0..10 {
        let reader = ParamStore::open_read_only(&path, &options()).unwrap();
        let step = reader.step();
        // Twice, with time for the writer to commit the next generation in between.
        let first = content(&reader);
        std::thread::sleep(Duration::from_millis(20));
        assert_eq!(content(&reader), first);
        while twin.step() < step {
            one_step(&mut twin);
            known.insert(twin.step(), content(&twin));
        }
        assert_eq!(first, known[&step], "step {step}");
        assert!(step >= seen);
        seen = step;
        drop(reader);
        wait_for_step(&path, step + 3);
    }
    writer.kill();
}
