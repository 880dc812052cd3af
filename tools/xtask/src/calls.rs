//! The system calls of a worker, and strace's way of killing a process at one of them.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::rng::Rng;
use crate::worker::Worker;

/// Calls by which files are made, read, written and made durable, in a choice that strace knows on every processor:
/// `?` lets it skip those that this one does not have.
const TRACED: &str = "?openat,?mkdir,?mkdirat,?unlink,?unlinkat,?rename,?renameat,?renameat2,?ftruncate,?fallocate,\
                      ?pwrite64,?pwritev,?pwritev2,?pread64,?preadv,?preadv2,?fdatasync,?fsync,?syncfs,?fcntl,?flock,\
                      ?fstat,?statx,?newfstatat,?getdents64,?mmap,?munmap,?madvise";

/// How often a worker makes each call in the life of one store: at most by one of its threads, since strace counts for
/// each thread on its own.
pub(crate) struct Calls(BTreeMap<String, u64>);

/// The words before a command that trace it. `-D`: the command is the child of whoever started strace. Not with
/// `--seccomp-bpf`: the kernel drops signals that are injected at its stops.
fn strace(more: &[&str]) -> Vec<String> {
    let words = ["strace", "-D", "-f", "-qq"];
    words.iter().chain(more).map(|&word| word.to_owned()).collect()
}

/// The words that let a worker be killed when one of its threads makes this call for the `nth` time.
pub(crate) fn killed_at(call: &str, nth: u64) -> Vec<String> {
    let inject = format!("inject={call}:signal=SIGKILL:when={nth}");
    strace(&["-o", "/dev/null", "-e", &format!("trace={call}"), "-e", &inject])
}

/// The words that make every sync return at once, with success and without a sync.
pub(crate) fn without_syncs() -> Vec<String> {
    let syncs = "?fdatasync,?fsync,?syncfs";
    let (trace, inject) = (format!("trace={syncs}"), format!("inject={syncs}:retval=0"));
    strace(&["-o", "/dev/null", "-e", &trace, "-e", &inject])
}

/// Whether strace is there and may trace.
///
/// # Errors
/// Why not.
pub(crate) fn check_strace() -> Result<(), String> {
    let words = strace(&["-o", "/dev/null", "-e", "trace=openat", "true"]);
    let (first, rest) = words.split_first().ok_or("no words")?;
    let output = Command::new(first).args(rest).stdin(Stdio::null()).output();
    match output {
        Err(error) => Err(format!("strace cannot be started ({error}); it is a package of that name")),
        Ok(output) if output.status.success() && output.stderr.is_empty() => Ok(()),
        Ok(output) => {
            let text = String::from_utf8_lossy(&output.stderr);
            Err(format!("strace may not trace here: {}", text.lines().next().unwrap_or("no word why")))
        }
    }
}

impl Calls {
    /// Lets a worker make one store and finish it, and counts.
    ///
    /// # Errors
    /// A sentence, where that cannot be done.
    pub(crate) fn count(dir: &Path) -> Result<Self, String> {
        let log = dir.join("calls");
        let trace = format!("trace={TRACED}");
        let words = strace(&["-o", &log.to_string_lossy(), "-e", &trace]);
        let mut worker = Worker::start(&words, dir, 0)?;
        let begins = crate::training::store_path(dir, 1);
        for _ in 0..12_000 {
            if begins.exists() || worker.has_ended() {
                break;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        drop(worker.kill());
        let text = std::fs::read_to_string(&log).map_err(|error| format!("{}: {error}", log.display()))?;
        let mut of_threads = BTreeMap::<(&str, &str), u64>::new();
        // "1234  fdatasync(5) = 0", or "1234  <... fdatasync resumed>) = 0" for the second half of a call.
        for line in text.lines() {
            let Some((thread, rest)) = line.split_once(' ') else { continue };
            let Some((call, _)) = rest.trim_start().split_once('(') else { continue };
            if call.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
                *of_threads.entry((thread, call)).or_default() += 1;
            }
        }
        let mut calls = BTreeMap::<String, u64>::new();
        for ((_, call), count) in of_threads {
            let most = calls.entry(call.to_owned()).or_default();
            *most = count.max(*most);
        }
        if calls.is_empty() {
            return Err("strace saw no call of a worker".to_owned());
        }
        Ok(Self(calls))
    }

    /// A call at random, and which of its kind.
    pub(crate) fn pick(&self, rng: &mut Rng) -> Option<(&str, u64)> {
        let names: Vec<_> = self.0.iter().collect();
        rng.pick(&names).map(|(name, most)| (name.as_str(), 1 + rng.below(**most)))
    }

    /// Kinds of calls.
    pub(crate) fn kinds(&self) -> usize {
        self.0.len()
    }
}
