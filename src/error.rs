//! Errors for a person: where it happened, what was found, what was expected, what to do next.

use std::fmt;
use std::io;
use std::path::PathBuf;

/// The result of every fallible call of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Everything that can go wrong, by what the caller can do about it.
///
/// # Example
///
/// ```
#[doc = include_str!("examples/store.txt")]
/// use paramstore::{Error, ParamStore};
///
/// let error = ParamStore::create(&path, &schema, &options).expect_err("there is one");
/// assert!(matches!(&error, Error::AlreadyExists { path: at } if *at == path));
/// assert!(error.to_string().ends_with("model.store exists already"));
/// assert_eq!(error.hint(), "Open it instead, or choose another path.");
/// # Ok::<(), paramstore::Error>(())
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused an operation on a file.
    Io {
        /// What was being done, as a verb phrase ("read", "write", "make durable").
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The byte range concerned (offset, length), where there is one.
        range: Option<(u64, u64)>,
        /// What the operating system said.
        source: io::Error,
    },
    /// The operating system refused something other than a file: memory, a thread.
    Resource {
        /// What was asked for.
        what: String,
        /// What the operating system said.
        source: io::Error,
    },
    /// The file system cannot hold what has to be allocated.
    NoSpace {
        /// The file or directory that was being allocated.
        path: PathBuf,
        /// Bytes that were needed in all.
        needed: u64,
        /// Bytes that were free to this user.
        free: u64,
    },
    /// The path does not hold a store.
    NotAStore {
        /// The path as given.
        path: PathBuf,
        /// Why it is not one.
        reason: String,
    },
    /// `create` found something at the path already.
    AlreadyExists {
        /// The path as given.
        path: PathBuf,
    },
    /// Another writer holds the store.
    Locked {
        /// The store's directory.
        path: PathBuf,
        /// What is known of the holder, e.g. its process id.
        holder: Option<String>,
    },
    /// A reader keeps a generation whose homes the writer needs, and waiting for it was limited.
    Pinned {
        /// The store's directory.
        path: PathBuf,
        /// The generation that is being read.
        generation: u64,
        /// Seconds waited.
        waited_s: f64,
    },
    /// The store was written by a version of the format that this version cannot use.
    Unsupported {
        /// The file.
        path: PathBuf,
        /// What is not supported.
        what: String,
    },
    /// Stored bytes are not what was written.
    Damaged(Box<Damage>),
    /// A file of another program is not what its format asks for, or breaks off.
    Foreign(Box<Damage>),
    /// An argument does not fit.
    Invalid {
        /// Which argument.
        what: String,
        /// What was given.
        got: String,
        /// What would have been right.
        expected: String,
    },
    /// No tensor or group has this name.
    Unknown {
        /// "tensor", "parameter group", "checkpoint".
        kind: &'static str,
        /// The name asked for.
        name: String,
    },
    /// The memory budget cannot hold what the operation needs at once.
    Budget {
        /// What needs the memory.
        what: String,
        /// Bytes needed at once.
        needed: u64,
        /// The budget in force, in bytes.
        budget: u64,
    },
    /// The step holds gradients that are NaN or infinite, and the policy is to refuse it.
    NonFinite {
        /// How many gradient elements are NaN or infinite.
        count: u64,
        /// The first tensor that holds one.
        tensor: String,
    },
    /// A step failed or was dropped half way: some blocks are at the new step, others at the old one.
    Mixed {
        /// The last step that finished.
        step: u64,
        /// The committed step to which `rollback` returns.
        committed_step: u64,
    },
    /// An earlier write or sync failed, so that what the disk holds is unknown to this handle.
    Poisoned {
        /// The earlier failure.
        cause: String,
    },
    /// The path holds a kept checkpoint, which is read and never written.
    Kept {
        /// The checkpoint's directory.
        path: PathBuf,
    },
    /// The store was opened for reading only.
    ReadOnly {
        /// What was refused.
        action: &'static str,
    },
}

/// Where stored bytes differ from what was written.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Damage {
    /// The file.
    pub path: PathBuf,
    /// What stands there, e.g. `tensor "wte.weight", plane exp_avg, block 7`.
    pub what: String,
    /// The byte range in the file: offset and length.
    pub range: (u64, u64),
    /// What was found.
    pub got: String,
    /// What was expected.
    pub expected: String,
}

impl Error {
    pub(crate) fn io(action: &'static str, path: impl Into<PathBuf>, source: io::Error) -> Self {
        Self::Io { action, path: path.into(), range: None, source }
    }

    pub(crate) fn io_at(
        action: &'static str,
        path: impl Into<PathBuf>,
        range: (u64, u64),
        source: io::Error,
    ) -> Self {
        Self::Io { action, path: path.into(), range: Some(range), source }
    }

    pub(crate) fn invalid(
        what: impl Into<String>,
        got: impl fmt::Display,
        expected: impl Into<String>,
    ) -> Self {
        Self::Invalid { what: what.into(), got: got.to_string(), expected: expected.into() }
    }

    pub(crate) fn damaged(
        path: impl Into<PathBuf>,
        what: impl Into<String>,
        range: (u64, u64),
        got: impl fmt::Display,
        expected: impl fmt::Display,
    ) -> Self {
        Self::Damaged(Box::new(Damage::new(path, what, range, got, expected)))
    }

    pub(crate) fn foreign(
        path: impl Into<PathBuf>,
        what: impl Into<String>,
        range: (u64, u64),
        got: impl fmt::Display,
        expected: impl fmt::Display,
    ) -> Self {
        Self::Foreign(Box::new(Damage::new(path, what, range, got, expected)))
    }

    /// What the user can try next, as one sentence; empty where the message says it all. [Example](Self#example).
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            Self::NoSpace { .. } => {
                "Free some space, choose another directory, or create the store with `sparse`, which allocates \
                 blocks when they are first written."
            }
            Self::AlreadyExists { .. } => "Open it instead, or choose another path.",
            Self::Locked { .. } => {
                "Wait for the other process to end, or open the store for reading only, which needs no lock."
            }
            Self::Pinned { .. } => "End the reader (inspect, verify, export) that is still running.",
            Self::Unsupported { .. } => "Use the version of paramstore that wrote the store, or a newer one.",
            Self::Damaged(_) => "Run `paramstore verify` to see everything that is damaged.",
            Self::Foreign(_) => {
                "Fetch or write the file again; its program made it otherwise, or it was cut off."
            }
            Self::Budget { .. } => "Give a larger memory budget, or use smaller blocks or ranges.",
            Self::NonFinite { .. } => {
                "Nothing was changed: skip the batch or lower the loss scale, then begin a new step."
            }
            Self::Mixed { .. } => "Call `rollback` (or open the store again) to go on from the last commit.",
            Self::Poisoned { .. } => {
                "Close the store and open it again: it goes on from the last commit that is whole."
            }
            Self::Kept { .. } => {
                "Open it for reading, or let its store go back to it: `paramstore checkpoint rollback STORE NAME`."
            }
            Self::ReadOnly { .. } => "Open the store for writing.",
            _ => "",
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io { action, path, range, source } => {
                write!(f, "cannot {action} {}", path.display())?;
                if let Some((offset, len)) = range {
                    write!(f, " at byte {offset} ({len} bytes)")?;
                }
                write!(f, ": {source}")
            }
            Self::Resource { what, source } => write!(f, "cannot get {what}: {source}"),
            Self::NoSpace { path, needed, free } => {
                write!(f, "no space for {}: {needed} bytes needed, {free} bytes free", path.display())
            }
            Self::NotAStore { path, reason } => {
                write!(f, "{} is not a parameter store: {reason}", path.display())
            }
            Self::AlreadyExists { path } => write!(f, "{} exists already", path.display()),
            Self::Locked { path, holder } => {
                write!(f, "{} is locked by another writer", path.display())?;
                holder.as_ref().map_or(Ok(()), |holder| write!(f, " ({holder})"))
            }
            Self::Pinned { path, generation, waited_s } => write!(
                f,
                "generation {generation} of {} is still being read after {waited_s:.1} s of waiting",
                path.display()
            ),
            Self::Unsupported { path, what } => write!(f, "cannot use {}: {what}", path.display()),
            Self::Damaged(damage) => write!(f, "{damage}"),
            Self::Foreign(damage) => {
                write!(f, "cannot read {}", damage.path.display())?;
                damage.write_details(f)
            }
            Self::Invalid { what, got, expected } => write!(f, "{what}: got {got}, expected {expected}"),
            Self::Unknown { kind, name } => write!(f, "no {kind} is named {name:?}"),
            Self::Budget { what, needed, budget } => {
                write!(f, "{what} needs {needed} bytes at once, and the memory budget is {budget} bytes")
            }
            Self::NonFinite { count, tensor } => {
                write!(f, "{count} gradient elements are NaN or infinite, the first in tensor {tensor:?}")
            }
            Self::Mixed { step, committed_step } => write!(
                f,
                "the store is mixed between steps {step} and {}; the last commit is step {committed_step}",
                step + 1
            ),
            Self::Poisoned { cause } => write!(f, "an earlier failure stopped this handle: {cause}"),
            Self::Kept { path } => {
                write!(f, "{} is a kept checkpoint, expected a store that may be written to", path.display())
            }
            Self::ReadOnly { action } => write!(f, "cannot {action}: the store is open for reading only"),
        }
    }
}

impl Damage {
    /// A place whose bytes differ: file, what stands there, offset and length, what was found and what was expected.
    ///
    /// ```
    /// use paramstore::{Damage, Error};
    ///
    /// let damage = Damage::new("data.bin", "magic", (0, 4), "0000", "PSTR");
    /// assert_eq!(
    ///     Error::Damaged(Box::new(damage)).to_string(),
    ///     "data.bin is damaged at bytes 0..4 (magic): got 0000, expected PSTR"
    /// );
    /// ```
    #[must_use]
    pub fn new(
        path: impl Into<PathBuf>,
        what: impl Into<String>,
        range: (u64, u64),
        got: impl fmt::Display,
        expected: impl fmt::Display,
    ) -> Self {
        let (got, expected) = (got.to_string(), expected.to_string());
        Self { path: path.into(), what: what.into(), range, got, expected }
    }

    /// All but the file.
    fn write_details(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (offset, len) = self.range;
        let end = offset.saturating_add(len);
        write!(f, " at bytes {offset}..{end} ({}): got {}, expected {}", self.what, self.got, self.expected)
    }
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is damaged", self.path.display())?;
        self.write_details(f)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io { source, .. } | Self::Resource { source, .. } => Some(source),
            _ => None,
        }
    }
}
