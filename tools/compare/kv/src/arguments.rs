//! What the program is asked to do.

use std::path::PathBuf;
use std::str::FromStr;

use crate::Outcome;
use crate::tables::Mode;

pub(crate) struct Arguments {
    pub(crate) system: String,
    pub(crate) dir: PathBuf,
    pub(crate) rows: u64,
    pub(crate) dim: usize,
    pub(crate) batch: usize,
    pub(crate) zipf: f64,
    pub(crate) seed: u64,
    /// For caches of the system, where it has some of its own.
    pub(crate) memory: usize,
    pub(crate) warm_up: u64,
    pub(crate) steps: u64,
    /// No step of a mode begins after so many seconds of it.
    pub(crate) seconds: f64,
    pub(crate) modes: Vec<Mode>,
    pub(crate) acknowledged: u64,
}

impl Arguments {
    pub(crate) fn parse(mut words: impl Iterator<Item = String>) -> Outcome<Self> {
        let mut found = Self {
            system: String::new(),
            dir: PathBuf::new(),
            rows: 0,
            dim: 64,
            batch: 65_536,
            zipf: 1.05,
            seed: 0,
            memory: 0,
            warm_up: 60,
            steps: 60,
            seconds: 1e9,
            modes: vec![Mode::Synced, Mode::Unsynced],
            acknowledged: 0,
        };
        while let Some(name) = words.next() {
            let word = words.next().ok_or_else(|| format!("{name} has no value"))?;
            match name.as_str() {
                "--system" => found.system = word,
                "--dir" => found.dir = word.into(),
                "--rows" => found.rows = number(&word)?,
                "--dim" => found.dim = number(&word)?,
                "--batch" => found.batch = number(&word)?,
                "--zipf" => found.zipf = number(&word)?,
                "--seed" => found.seed = number(&word)?,
                "--memory" => found.memory = number(&word)?,
                "--warm-up" => found.warm_up = number(&word)?,
                "--steps" => found.steps = number(&word)?,
                "--seconds" => found.seconds = number(&word)?,
                "--modes" => found.modes = word.split(',').map(Mode::parse).collect::<Outcome<_>>()?,
                "--acknowledged" => found.acknowledged = number(&word)?,
                _ => return Err(format!("unknown option {name}").into()),
            }
        }
        if found.rows == 0 || found.memory == 0 || found.dir.as_os_str().is_empty() {
            return Err("--rows, --memory and --dir are needed".into());
        }
        Ok(found)
    }
}

fn number<T: FromStr>(word: &str) -> Outcome<T> {
    word.parse().map_err(|_| format!("{word} is not a number").into())
}
