//! A directory that goes away with the measurement, also if somebody interrupts it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use paramstore::inspect::{Plan, VerifyOptions, free_bytes};

use crate::failure::{self, Failure};
use crate::terminal;

/// Whether somebody asked the program to end.
#[derive(Clone)]
pub(super) struct Stop(Arc<AtomicBool>);

impl Stop {
    /// Takes over Ctrl-C and the request to terminate. Asked twice, the program ends at once and leaves what it made.
    pub(super) fn listen() -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let asked = Arc::clone(&stop);
        let listening = ctrlc::set_handler(move || {
            if asked.swap(true, Ordering::Relaxed) {
                std::process::exit(i32::from(failure::INTERRUPTED));
            }
        });
        if listening.is_err() {
            terminal::warn("cannot listen for Ctrl-C: an interrupted run leaves its scratch store behind");
        }
        Self(stop)
    }

    pub(super) fn is_asked(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    pub(super) fn check(&self) -> Result<(), Failure> {
        if self.is_asked() { Err(Failure::Interrupted) } else { Ok(()) }
    }
}

/// Refuses a disk that cannot hold everything, before anything is made.
pub(super) fn check_room(plan: &Plan, dir: &Path) -> Result<(), Failure> {
    let free = free_bytes(dir)?;
    if plan.bytes_on_disk > free {
        return Err(Failure::Room { dir: PathBuf::from(dir), needed: plan.bytes_on_disk, free });
    }
    Ok(())
}

/// A new directory, removed with all that is in it when this is dropped.
pub(super) struct Scratch {
    path: PathBuf,
}

impl Scratch {
    /// Makes `paramstore-bench-PID` in `dir`, or the same with a number where a killed run left that behind.
    pub(super) fn new(dir: &Path) -> Result<Self, Failure> {
        const NAMES: u32 = 100;
        let name = format!("paramstore-bench-{}", std::process::id());
        for number in 0..NAMES {
            let path = dir.join(if number == 0 { name.clone() } else { format!("{name}-{number}") });
            match fs::create_dir(&path) {
                Ok(()) => return Ok(Self { path }),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(source) => {
                    return Err(Failure::Transfer { what: format!("make {}", path.display()), source });
                }
            }
        }
        let what = format!("make {name} in {}", dir.display());
        Err(Failure::Transfer { what, source: io::ErrorKind::AlreadyExists.into() })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Checks every checksum of the store in it: a measurement of a store that breaks it measures something else.
    pub(super) fn verify(&self, stop: &Stop) -> Result<(), Failure> {
        stop.check()?;
        let seen = paramstore::inspect::verify(self.path(), &VerifyOptions::new(), |_| ())?;
        if seen.is_sound() {
            return Ok(());
        }
        let first = seen.findings.first().map_or_else(String::new, |finding| finding.damage.to_string());
        Err(Failure::Unsound { first, places: seen.findings_total })
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.path) {
            terminal::warn(&format!("cannot remove {}: {error}", self.path.display()));
        }
    }
}
