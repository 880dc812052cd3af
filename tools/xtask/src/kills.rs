//! Campaigns of SIGKILLs: a real process, a real file system.

use std::collections::BTreeMap;
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Args;
use paramstore::ParamStore;

use crate::calls::{self, Calls};
use crate::kept::KeptTally;
use crate::promise::{Cut, Found, Looked, Promise};
use crate::rng::Rng;
use crate::training::{COMPACT_FROM, Reference, options, store_path};
use crate::worker::{Said, Worker};

/// Options of `kills`.
#[derive(Args)]
pub(crate) struct Kills {
    /// SIGKILLs to give: every other one at a system call, the others at a time.
    #[arg(long = "kills", default_value_t = 1000)]
    count: u64,
    /// What all randomness comes from, but for that of the machine.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// An empty directory, or one that will be made, on the file system to try; a new one among the temporary files if
    /// not given.
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Kills at times only, although there is strace.
    #[arg(long)]
    no_calls: bool,
    /// Stores in few bits only (bf16, 8-bit moments, copies in 16 bits), which are one of three otherwise.
    #[arg(long)]
    compact: bool,
    /// Rolls the store back by a generation after a kill: the campaign has to fail.
    #[arg(long)]
    spoil: bool,
}

/// What was done and found.
#[derive(Default)]
pub(crate) struct Tally {
    by_time: u64,
    at_calls: BTreeMap<String, u64>,
    not_reached: u64,
    /// Kills or cuts before the first word of a worker.
    pub(crate) early: u64,
    nothing: u64,
    new: u64,
    settled: u64,
    before: u64,
    after: u64,
    /// On the way back to a checkpoint: not yet, and there.
    returning: [u64; 2],
    finished: u64,
    kept: KeptTally,
}

impl Tally {
    pub(crate) fn note(&mut self, said: &[Said], looked: &Looked) {
        self.early += u64::from(!said.iter().any(|said| matches!(said, Said::Opened(..))));
        self.finished += looked.finished;
        self.kept.add(looked.kept);
        *match looked.found {
            Found::Nothing => &mut self.nothing,
            Found::New => &mut self.new,
            Found::Committed { last_step: false } => &mut self.settled,
            Found::Committed { last_step: true } => &mut self.before,
            Found::UnderWay => &mut self.after,
            Found::Returning { is_back } => &mut self.returning[usize::from(is_back)],
        } += 1;
    }

    /// The lines about what was found.
    pub(crate) fn print_found(&self) {
        println!("before an open or create returned {:>6}", self.early);
        println!("found: no store             {:>12}  where a create was under way", self.nothing);
        println!("found: a new store          {:>12}  the same", self.new);
        println!("found: the last commit      {:>12}  where the next was not yet possible", self.settled);
        println!(
            "found: the last commit      {:>12}  in the last step before the next, or in it",
            self.before
        );
        println!("found: the one under way    {:>12}  the same", self.after);
        let [not_yet, is_back] = self.returning;
        println!("found: the last commit      {not_yet:>12}  on the way back to a checkpoint");
        println!("found: the checkpoint's     {is_back:>12}  the same");
        println!(
            "runs finished               {:>12}  each with the reference's bits at its end",
            self.finished
        );
        println!("checkpoints looked at       {:>12}  each with the reference's bits", self.kept.whole);
        let [whole, left, gone] = self.kept.cut_off;
        println!("a keep or prune cut off     {:>12}", whole + left + gone);
        println!("  whole {whole}, what is none and says so {left}, not there {gone}");
    }
}

/// Runs a campaign; false if a promise was broken.
pub(crate) fn kills(arguments: &Kills) -> Result<bool, String> {
    let dir = Scratch::new(arguments.dir.as_deref())?;
    let start = Instant::now();
    let mut campaign = Campaign::new(arguments, &dir.0)?;
    let mut shown = Instant::now();
    for round in 0..arguments.count {
        if shown.elapsed() > Duration::from_secs(20) {
            shown = Instant::now();
            eprintln!("{round} of {} kills, {} s", arguments.count, start.elapsed().as_secs());
        }
        if let Err(why) = campaign.round(round) {
            println!("\nA PROMISE WAS BROKEN after kill {round}: {why}");
            println!("the stores are kept in {}", dir.0.display());
            let Kills { seed, count, no_calls, compact, spoil, .. } = arguments;
            let more = [(no_calls, " --no-calls"), (compact, " --compact"), (spoil, " --spoil")];
            let more: String =
                more.iter().filter(|(is_given, _)| **is_given).map(|(_, word)| *word).collect();
            println!(
                "again, but for the machine's own randomness: cargo run --release -p paramstore-xtask -- \
                 kills --seed {seed} --kills {count}{more}"
            );
            dir.keep();
            return Ok(false);
        }
    }
    campaign.report(start.elapsed());
    Ok(true)
}

struct Campaign<'a> {
    arguments: &'a Kills,
    dir: &'a Path,
    reference: Reference,
    calls: Option<Calls>,
    promise: Promise,
    tally: Tally,
    spoiled: bool,
}

impl<'a> Campaign<'a> {
    fn new(arguments: &'a Kills, dir: &'a Path) -> Result<Self, String> {
        let calls = match calls::check_strace() {
            _ if arguments.no_calls => None,
            Ok(()) => Some(with_scratch(dir, Calls::count)?),
            Err(why) => {
                println!("skipped: kills at system calls: {why}");
                None
            }
        };
        let reference = with_scratch(dir, Reference::new)?;
        let first = if arguments.compact { COMPACT_FROM } else { 0 };
        let (promise, tally) = (Promise::new(first), Tally::default());
        Ok(Self { arguments, dir, reference, calls, promise, tally, spoiled: false })
    }

    fn round(&mut self, round: u64) -> Result<(), String> {
        let mut rng = Rng::of_round(self.arguments.seed, round);
        let said = match self.calls.as_ref().and_then(|calls| calls.pick(&mut rng)) {
            Some((call, nth)) if round % 2 == 1 => {
                let mut worker = Worker::start(&calls::killed_at(call, nth), self.dir, self.promise.number)?;
                if worker.wait(Duration::from_secs(10)) {
                    *self.tally.at_calls.entry(call.to_owned()).or_default() += 1;
                } else {
                    self.tally.not_reached += 1;
                }
                heard(worker)?
            }
            _ => {
                let mut worker = Worker::start(&[], self.dir, self.promise.number)?;
                pause(&mut worker, &mut rng, [2_000, 20_000, 150_000, 8_000]);
                self.tally.by_time += 1;
                heard(worker)?
            }
        };
        self.promise.hear(&said)?;
        if self.arguments.spoil && !self.spoiled && round > 1 {
            self.spoiled = self.roll_back()?;
        }
        let found = self.promise.look(self.dir, &self.reference, Cut::Process, round.is_multiple_of(8))?;
        self.tally.note(&said, &found);
        Ok(())
    }

    /// Makes the newest superblock unreadable, as if it had not reached the disk; false where there is only one.
    fn roll_back(&self) -> Result<bool, String> {
        let path = store_path(self.dir, self.promise.number);
        let Ok(store) = ParamStore::open_read_only(&path, &options(self.promise.number)) else {
            return Ok(false);
        };
        // Not a commit that was under way: to lose that one is no broken promise.
        if store.generation() < 2 || !self.promise.is_committed(store.step()) {
            return Ok(false);
        }
        let at = store.generation() % 2 * 4096;
        drop(store);
        let meta = std::fs::File::options().write(true).open(path.join("meta"));
        let zeroed = meta.and_then(|mut meta| {
            meta.seek(SeekFrom::Start(at))?;
            meta.write_all(&[0; 4096])
        });
        zeroed.map(|()| true).map_err(|error| format!("{}: {error}", path.display()))
    }

    fn report(&self, elapsed: Duration) {
        let tally = &self.tally;
        let at_calls: u64 = tally.at_calls.values().sum();
        println!("seed {}, {:.1} s", self.arguments.seed, elapsed.as_secs_f64());
        println!("killed at a time            {:>12}", tally.by_time);
        println!("killed at a system call     {at_calls:>12}");
        for (call, count) in &tally.at_calls {
            println!("  {call:<26}{count:>12}");
        }
        if tally.not_reached > 0 {
            println!("killed at a time, the call did not come {:>4}", tally.not_reached);
        }
        if let Some(calls) = &self.calls {
            println!("kinds of calls              {:>12}", calls.kinds());
        }
        tally.print_found();
    }
}

/// Kills a worker, and gives what it said; it is a broken promise if it had ended by itself.
fn heard(worker: Worker) -> Result<Vec<Said>, String> {
    let (killed, said) = worker.kill();
    match said.last() {
        Some(Said::Failed(why)) => Err(format!("the worker failed: {why}")),
        _ if !killed => Err("the worker ended by itself, without a word".to_owned()),
        _ => Ok(said),
    }
}

/// Lets a worker go on for a time up to one of these bounds in microseconds. The short ones are for what comes first; the
/// time of the last begins with a commit.
pub(crate) fn pause(worker: &mut Worker, rng: &mut Rng, bounds_us: [u64; 4]) {
    let kind = rng.below(4);
    if kind == 3 {
        worker.wait_for_commit(1 + rng.below(6));
    }
    let bound = usize::try_from(kind).ok().and_then(|kind| bounds_us.get(kind)).copied().unwrap_or_default();
    std::thread::sleep(Duration::from_micros(rng.below(bound)));
}

/// Does something in a directory of its own, and removes it.
pub(crate) fn with_scratch<T>(
    dir: &Path,
    work: impl FnOnce(&Path) -> Result<T, String>,
) -> Result<T, String> {
    let scratch = Scratch::new(Some(&dir.join("scratch")))?;
    work(&scratch.0)
}

/// A directory that goes when this does.
pub(crate) struct Scratch(pub(crate) PathBuf);

impl Scratch {
    /// Makes it; one that is there has to be empty.
    pub(crate) fn new(path: Option<&Path>) -> Result<Self, String> {
        let path = path.map_or_else(
            || std::env::temp_dir().join(format!("paramstore-xtask-{}", std::process::id())),
            Path::to_owned,
        );
        let at = |error: std::io::Error| format!("{}: {error}", path.display());
        std::fs::create_dir_all(&path).map_err(at)?;
        if std::fs::read_dir(&path).map_err(at)?.next().is_some() {
            return Err(format!("{} is not empty; --dir names an empty directory", path.display()));
        }
        Ok(Self(path))
    }

    /// Leaves it where it is.
    pub(crate) fn keep(self) {
        std::mem::forget(self);
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.0));
    }
}
