//! Campaigns of losses of power beneath a real file system.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};

use crate::calls;
use crate::device::{Device, Loss};
use crate::kills::{Scratch, Tally, pause, with_scratch};
use crate::promise::{Cut, Promise};
use crate::rng::Rng;
use crate::training::Reference;
use crate::worker::{Said, Worker};

/// Options of `powercut`.
#[derive(Args)]
pub(crate) struct PowerCut {
    /// Losses of power on each file system.
    #[arg(long, default_value_t = 100)]
    cuts: u64,
    /// The file system beneath the stores.
    #[arg(long, value_enum, default_value_t = FileSystem::All)]
    file_system: FileSystem,
    /// What all randomness comes from, but for that of the machine.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// An empty directory, or one that will be made, for 640 MiB of images; a new one among the temporary files if not
    /// given.
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Lets no sync of the worker happen, by strace: the campaign has to fail.
    #[arg(long)]
    without_syncs: bool,
}

/// What may be beneath the stores.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum FileSystem {
    Ext4,
    Xfs,
    Btrfs,
    All,
}

/// Runs a campaign; false if a promise was broken.
pub(crate) fn powercut(arguments: &PowerCut) -> Result<bool, String> {
    let file_systems = match arguments.file_system {
        FileSystem::Ext4 => &["ext4"][..],
        FileSystem::Xfs => &["xfs"],
        FileSystem::Btrfs => &["btrfs"],
        FileSystem::All => &["ext4", "xfs", "btrfs"],
    };
    if arguments.without_syncs
        && let Err(why) = calls::check_strace()
    {
        println!("skipped: {why}");
        return Ok(true);
    }
    let dir = Scratch::new(arguments.dir.as_deref())?;
    let reference = with_scratch(&dir.0, Reference::new)?;
    let mut kept = true;
    for file_system in file_systems {
        let dir = Scratch::new(Some(&dir.0.join(file_system)))?;
        match Device::new(&dir.0, file_system) {
            Ok(device) => kept &= one(arguments, file_system, &device, &reference)?,
            Err(why) => println!("skipped: {file_system}: {why}"),
        }
    }
    Ok(kept)
}

fn one(arguments: &PowerCut, name: &str, device: &Device, reference: &Reference) -> Result<bool, String> {
    let start = Instant::now();
    let (mut promise, mut tally, mut system) = (Promise::new(0), Tally::default(), 0);
    let mut shown = Instant::now();
    for round in 0..arguments.cuts {
        if shown.elapsed() > Duration::from_secs(20) {
            shown = Instant::now();
            eprintln!("{name}: {round} of {} cuts, {} s", arguments.cuts, start.elapsed().as_secs());
        }
        let mut rng = Rng::of_round(arguments.seed, round);
        let loss = rng.pick(&device.losses).copied().unwrap_or(Loss::DiskCache);
        system += u64::from(loss == Loss::System);
        let said = interrupted(arguments, &promise, device, loss, &mut rng)?;
        let looked = said.and_then(|said| {
            promise.hear(&said)?;
            tidy(&device.inner(), promise.oldest());
            let found = promise.look(&device.inner(), reference, Cut::Power, round.is_multiple_of(4))?;
            tally.note(&said, &found);
            Ok(())
        });
        if let Err(why) = looked {
            println!("\nA PROMISE WAS BROKEN on {name} after cut {round} ({loss:?}): {why}");
            let more = if arguments.without_syncs { " --without-syncs" } else { "" };
            println!(
                "again, but for the machine's own randomness: cargo run --release -p paramstore-xtask -- \
                 powercut --file-system {name} --seed {} --cuts {}{more}",
                arguments.seed, arguments.cuts
            );
            return Ok(false);
        }
    }
    println!("{name}, seed {}, {:.1} s", arguments.seed, start.elapsed().as_secs_f64());
    println!("disk's cache lost           {:>12}", arguments.cuts - system);
    println!("system stopped, disk kept   {system:>12}");
    tally.print_found();
    Ok(true)
}

/// Lets a worker train, cuts the power and gives it back. What the worker said; within, the promise that broke before
/// the cut.
///
/// # Errors
/// A sentence, where the machine does not do what it should.
fn interrupted(
    arguments: &PowerCut,
    promise: &Promise,
    device: &Device,
    loss: Loss,
    rng: &mut Rng,
) -> Result<Result<Vec<Said>, String>, String> {
    let tracer = if arguments.without_syncs { calls::without_syncs() } else { Vec::new() };
    let mut worker = Worker::start(&tracer, &device.inner(), promise.number)?;
    pause(&mut worker, rng, [10_000, 100_000, 600_000, 15_000]);
    let ended = worker.has_ended();
    device.cut(loss, rng)?;
    let (_, said) = worker.kill();
    device.restart(loss)?;
    if !ended {
        return Ok(Ok(said));
    }
    let why =
        said.iter().find_map(|said| if let Said::Failed(why) = said { Some(why.as_str()) } else { None });
    Ok(Err(format!("the worker ended by itself: {}", why.unwrap_or("without a word"))))
}

/// Removes stores of before: the removal of one that was finished may have been lost with the power.
fn tidy(dir: &Path, oldest: u64) {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    for entry in entries {
        let name = entry.file_name();
        let number = name.to_str().and_then(|name| name.strip_prefix("store-")?.parse::<u64>().ok());
        if number.is_some_and(|number| number < oldest) {
            drop(std::fs::remove_dir_all(entry.path()));
        }
    }
}
