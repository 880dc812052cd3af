//! Campaigns of losses of power.

use std::io::{IsTerminal, Write};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use clap::Args;
use paramstore::Result;
use paramstore::simulation::{Broken, Campaign, Summary, barrier_names};

/// Options of `crash`.
#[derive(Args)]
pub(crate) struct Crash {
    /// Losses of power to try.
    #[arg(long, default_value_t = 100_000)]
    schedules: u64,
    /// What all randomness comes from.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Runs explored at the same time; all processors if not given.
    #[arg(long)]
    threads: Option<usize>,
    /// Explores this one run of the campaign, on one thread, as a failure names it.
    #[arg(long)]
    run: Option<u64>,
    /// Leaves out the barrier of this name (`barriers` lists them).
    #[arg(long)]
    without: Option<String>,
}

/// Options of `barriers`.
#[derive(Args)]
pub(crate) struct Barriers {
    /// Losses of power to try at most for each barrier.
    #[arg(long, default_value_t = 100_000)]
    schedules: u64,
    /// What all randomness comes from.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// Runs a campaign; false if a promise was broken.
pub(crate) fn crash(arguments: &Crash) -> Result<bool> {
    let mut campaign = Campaign::new(arguments.schedules, arguments.seed);
    campaign.threads = arguments.threads.unwrap_or_else(processors);
    if let Some(run) = arguments.run {
        (campaign.schedules, campaign.threads, campaign.first_run) = (1, 1, run);
    }
    if let Some(name) = &arguments.without {
        campaign = campaign.without(name)?;
    }
    let start = Instant::now();
    let line = Line::new(arguments.schedules);
    let (summary, broken) = campaign.run(|summary, elapsed| line.show(summary, elapsed))?;
    line.end();
    report(&campaign, &summary, start.elapsed());
    if let Some(broken) = &broken {
        tell(arguments.seed, broken, arguments.without.as_deref());
    }
    Ok(broken.is_none())
}

/// Leaves out each barrier in turn; false if one was not missed.
pub(crate) fn barriers(arguments: &Barriers) -> Result<bool> {
    let (mut found, mut all) = (0, 0);
    for name in barrier_names() {
        let campaign = Campaign::new(arguments.schedules, arguments.seed).without(name)?;
        let (summary, broken) = campaign.run(|_, _| {})?;
        all += 1;
        found += u32::from(broken.is_some());
        match broken {
            Some(broken) => println!("{name:26} {:>7} schedules  {}", summary.schedules, broken.failure.what),
            None => println!("{name:26} not missed in {} schedules", summary.schedules),
        }
    }
    println!("{found} of {all} barriers missed");
    Ok(found == all)
}

fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn report(campaign: &Campaign, summary: &Summary, elapsed: Duration) {
    let seconds = elapsed.as_secs_f64();
    #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
    let rate = summary.schedules as f64 / seconds.max(1e-9);
    println!("seed {}, {} threads", campaign.seed, campaign.threads);
    println!("schedules            {:>10}  in {seconds:.1} s, {rate:.0} each second", summary.schedules);
    println!(
        "  cut again          {:>10}  in the recovery from another loss of power, or after it",
        summary.again
    );
    println!("recorded runs        {:>10}", summary.runs);
    println!("crash points         {:>10}  distinct places in these runs", summary.points);
    println!(
        "found: generation g  {:>10}  where a commit of g + 1, or a create, was under way",
        summary.older
    );
    println!("found: g + 1         {:>10}  the same", summary.newer);
    println!("found: g             {:>10}  where nothing was under way", summary.settled);
    println!("found: no store      {:>10}  where a create was under way", summary.without_store);
    println!(
        "undecided at most    {:>10}  sectors, lengths and names in one loss of power",
        summary.unsynced_max
    );
}

fn tell(seed: u64, broken: &Broken, without: Option<&str>) {
    let Broken { run, store, failure, .. } = broken;
    println!("\nA PROMISE WAS BROKEN, store {store:?}:\n{}", failure.story);
    let without = without.map_or(String::new(), |name| format!(" --without {name:?}"));
    println!("\nagain: cargo run --release -p paramstore-xtask -- crash --seed {seed} --run {run}{without}");
}

/// The line that says how far it is, on a terminal; a line now and then elsewhere.
struct Line {
    schedules: u64,
    is_terminal: bool,
    shown: Mutex<Instant>,
}

impl Line {
    fn new(schedules: u64) -> Self {
        Self { schedules, is_terminal: std::io::stderr().is_terminal(), shown: Mutex::new(Instant::now()) }
    }

    fn show(&self, summary: &Summary, elapsed: Duration) {
        let pause = Duration::from_millis(if self.is_terminal { 200 } else { 30_000 });
        let Ok(mut shown) = self.shown.lock() else { return };
        if shown.elapsed() < pause {
            return;
        }
        *shown = Instant::now();
        let seconds = elapsed.as_secs();
        let rate = summary.schedules / seconds.max(1);
        let left = self.schedules.saturating_sub(summary.schedules) / rate.max(1);
        let (start, end) = if self.is_terminal { ("\r", "   ") } else { ("", "\n") };
        let text = format!("{} of {} schedules, {rate}/s, {left} s left", summary.schedules, self.schedules);
        let mut err = std::io::stderr();
        // Progress that cannot be shown is no failure.
        let _written = write!(err, "{start}{text}{end}").and_then(|()| err.flush());
    }

    fn end(&self) {
        if self.is_terminal {
            eprintln!();
        }
    }
}
