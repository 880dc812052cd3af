//! The process that is killed: it trains without end, says on its standard output what it has done, and never knows.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use clap::Args;

use crate::kept::after_commit;
use crate::training::{STRIDE, Training};

/// Options of `worker`.
#[derive(Args)]
pub(crate) struct Work {
    /// Where the stores are.
    #[arg(long)]
    dir: PathBuf,
    /// The number of the first store.
    #[arg(long)]
    number: u64,
}

/// What the worker says, one line each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Said {
    /// Store `number` is being made.
    Creating(u64),
    /// Store `number` is open for writing, at this step.
    Opened(u64, u64),
    /// This step has been finished.
    Stepped(u64),
    /// The commit of this step has returned.
    Committed(u64),
    /// The commit of this step is being kept, under a name of this number.
    Keeping(usize, u64),
    /// The same, and it has been.
    Kept(usize, u64),
    /// The store goes back to a checkpoint of this step.
    Returning(u64),
    /// It is at this step again.
    Returned(u64),
    /// The checkpoint under a name is being removed.
    Pruning(usize),
    /// It is gone.
    Pruned(usize),
    /// An error, and the worker ended.
    Failed(String),
}

impl Said {
    fn line(&self) -> String {
        match self {
            Self::Creating(number) => format!("creating {number}\n"),
            Self::Opened(number, step) => format!("opened {number} {step}\n"),
            Self::Stepped(step) => format!("step {step}\n"),
            Self::Committed(step) => format!("committed {step}\n"),
            Self::Keeping(name, step) => format!("keeping {name} {step}\n"),
            Self::Kept(name, step) => format!("kept {name} {step}\n"),
            Self::Returning(step) => format!("returning {step}\n"),
            Self::Returned(step) => format!("returned {step}\n"),
            Self::Pruning(name) => format!("pruning {name}\n"),
            Self::Pruned(name) => format!("pruned {name}\n"),
            Self::Failed(why) => format!("failed {}\n", why.replace('\n', " ")),
        }
    }

    fn parse(line: &str) -> Option<Self> {
        let (word, rest) = line.split_once(' ')?;
        let two = || rest.split_once(' ');
        let named = || two().and_then(|(name, step)| Some((name.parse().ok()?, step.parse().ok()?)));
        Some(match word {
            "creating" => Self::Creating(rest.parse().ok()?),
            "opened" => {
                let (number, step) = two()?;
                Self::Opened(number.parse().ok()?, step.parse().ok()?)
            }
            "step" => Self::Stepped(rest.parse().ok()?),
            "committed" => Self::Committed(rest.parse().ok()?),
            "keeping" => named().map(|(name, step)| Self::Keeping(name, step))?,
            "kept" => named().map(|(name, step)| Self::Kept(name, step))?,
            "returning" => Self::Returning(rest.parse().ok()?),
            "returned" => Self::Returned(rest.parse().ok()?),
            "pruning" => Self::Pruning(rest.parse().ok()?),
            "pruned" => Self::Pruned(rest.parse().ok()?),
            "failed" => Self::Failed(rest.to_owned()),
            _ => return None,
        })
    }
}

/// Says it in one write, so that a kill cannot cut it; ends the process where nobody listens any more.
fn say(said: &Said) {
    let mut out = std::io::stdout().lock();
    if out.write_all(said.line().as_bytes()).and_then(|()| out.flush()).is_err() {
        std::process::exit(3);
    }
}

/// Trains store after store until something goes wrong; false then.
pub(crate) fn work(arguments: &Work) -> bool {
    // A campaign that was ended must not leave its worker behind: the pipe closes with it.
    std::thread::spawn(|| {
        let _ended = std::io::stdin().read(&mut [0]);
        std::process::exit(3);
    });
    for number in arguments.number.. {
        if let Err(why) = train(&arguments.dir, number) {
            say(&Said::Failed(why));
            return false;
        }
    }
    true
}

fn train(dir: &Path, number: u64) -> Result<(), String> {
    let mut training = Training::start(dir, number, || say(&Said::Creating(number)))?;
    say(&Said::Opened(training.number(), training.step()));
    while !training.is_finished() {
        training.take_step().map_err(|error| error.to_string())?;
        say(&Said::Stepped(training.step()));
        if training.step().is_multiple_of(STRIDE) {
            training.commit().map_err(|error| error.to_string())?;
            say(&Said::Committed(training.step()));
            after_commit(&mut training, say)?;
        }
    }
    Ok(())
}

/// A worker, from the outside. It is killed when this is dropped.
pub(crate) struct Worker {
    child: Child,
    _stdin: Option<ChildStdin>,
    listener: Option<JoinHandle<Vec<Said>>>,
    /// Commits that it was about to begin.
    commits: Arc<AtomicU64>,
}

impl Worker {
    /// Starts this program again as a worker, after the words of a tracer if there are any. The tracer has to make the
    /// worker its parent's child (`strace -D`).
    ///
    /// # Errors
    /// A sentence, where the process cannot be started.
    pub(crate) fn start(tracer: &[String], dir: &Path, number: u64) -> Result<Self, String> {
        let program = std::env::current_exe().map_err(|error| format!("this program's own path: {error}"))?;
        let mut command = match tracer.split_first() {
            Some((first, rest)) => {
                let mut command = Command::new(first);
                command.args(rest).arg(program);
                command
            }
            None => Command::new(program),
        };
        command.arg("worker").arg("--dir").arg(dir).args(["--number", &number.to_string()]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().map_err(|error| format!("start a worker: {error}"))?;
        let stdin = child.stdin.take();
        let commits = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&commits);
        let listener = child.stdout.take().map(|out| {
            std::thread::spawn(move || {
                let lines = BufReader::new(out).lines().map_while(Result::ok);
                let said = lines.filter_map(|line| Said::parse(&line));
                let counted = said.inspect(|said| {
                    let commits = matches!(said, Said::Stepped(step) if step.is_multiple_of(STRIDE));
                    counter.fetch_add(u64::from(commits), Ordering::Relaxed);
                });
                counted.collect()
            })
        });
        Ok(Self { child, _stdin: stdin, listener, commits })
    }

    /// Whether it has ended by itself.
    pub(crate) fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    /// Waits until it is about to begin a commit for the `nth` time, but not for ever.
    pub(crate) fn wait_for_commit(&mut self, nth: u64) {
        let start = Instant::now();
        while self.commits.load(Ordering::Relaxed) < nth
            && start.elapsed() < Duration::from_secs(5)
            && !self.has_ended()
        {
            std::thread::sleep(Duration::from_micros(100));
        }
    }

    /// Waits until it has ended; false if it has not within the limit.
    pub(crate) fn wait(&mut self, limit: Duration) -> bool {
        let start = Instant::now();
        while !self.has_ended() {
            if start.elapsed() > limit {
                return false;
            }
            std::thread::sleep(Duration::from_micros(500));
        }
        true
    }

    /// Kills it if it lives, and waits for its end. Whether it died of SIGKILL, and everything that it said.
    pub(crate) fn kill(mut self) -> (bool, Vec<Said>) {
        drop(self.child.kill());
        let status = self.child.wait();
        let said = self.listener.take().and_then(|listener| listener.join().ok()).unwrap_or_default();
        // SIGKILL is 9 on every Unix.
        (status.is_ok_and(|status| status.signal() == Some(9)), said)
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
