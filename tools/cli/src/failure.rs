//! Why a command could not do its work, and with which status it ends.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use paramstore::Error;

use crate::human::{counted, grouped};

/// Damage was found.
pub(crate) const DAMAGED: u8 = 1;
/// Two stores differ.
pub(crate) const DIFFERENT: u8 = 1;
/// The command line is wrong.
pub(crate) const USAGE: u8 = 2;
/// The store could not be looked at, or not be made.
pub(crate) const NO_LOOK: u8 = 3;
/// Ctrl-C, or a request to end, as a shell reports it.
pub(crate) const INTERRUPTED: u8 = 130;

#[derive(Debug)]
pub(crate) enum Failure {
    /// What the library says.
    Store(Error),
    /// The same, where status 1 says something else than damage.
    Unreadable(Error),
    /// A value of the command line, and what would have been right.
    Usage(String),
    /// The output could not be written.
    Output(io::Error),
    /// The disk below a directory cannot hold what would be made there, in bytes.
    Room { dir: PathBuf, needed: u64, free: u64 },
    /// The operating system refused a transfer of a measurement: what it was about, and what it said.
    Transfer { what: String, source: io::Error },
    /// The store was damaged while it was measured: the first damaged place, and how many there are.
    Unsound { first: String, places: u64 },
    /// Something is where an export would go.
    InTheWay(PathBuf),
    /// Somebody asked the program to end.
    Interrupted,
    /// Somebody asked a command to end that leaves nothing behind.
    Stopped,
}

impl Failure {
    pub(crate) fn status(&self) -> u8 {
        match self {
            Self::Store(Error::Damaged(_)) | Self::Unsound { .. } => DAMAGED,
            Self::Interrupted | Self::Stopped => INTERRUPTED,
            Self::Store(Error::Invalid { .. } | Error::Unknown { .. } | Error::Budget { .. })
            | Self::Usage(_) => USAGE,
            Self::Store(_)
            | Self::Unreadable(_)
            | Self::Output(_)
            | Self::Room { .. }
            | Self::InTheWay(_)
            | Self::Transfer { .. } => NO_LOOK,
        }
    }

    /// What to try next.
    pub(crate) fn hint(&self) -> String {
        let hint = match self {
            Self::Store(Error::NoSpace { path, .. }) if is_checkpoint(path) => {
                "free some space, or prune checkpoints that are not needed (`paramstore checkpoint list STORE`)"
            }
            Self::Store(Error::AlreadyExists { path }) if is_checkpoint(path) => {
                "choose another name, or prune this one first"
            }
            Self::Store(Error::NotAStore { path, .. }) if is_checkpoint(path) => "",
            Self::Store(Error::Unknown { kind: "checkpoint", .. }) => {
                "`paramstore checkpoint list STORE` shows which there are"
            }
            Self::Usage(_) | Self::Store(Error::Invalid { .. } | Error::Unknown { .. }) => {
                "`--help` behind the command explains every option"
            }
            Self::Room { .. } => "free some space, choose another `--dir`, or give fewer `--params`",
            Self::Transfer { .. } => "check the file system and the disk below `--dir`",
            Self::Unsound { .. } => "no figure of this run counts; please report it with the command line",
            Self::Interrupted | Self::Stopped => "",
            Self::InTheWay(_) => "choose another path, or add `--force` to take its place",
            Self::Store(Error::Io { action: "find", .. }) => "check the path of the file",
            Self::Output(_) => "make room where the output goes, or send it elsewhere",
            Self::Store(Error::Io { source, .. }) => match source.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => {
                    "check the path: a store is a directory with all its files, as `paramstore create` makes it"
                }
                io::ErrorKind::PermissionDenied => {
                    "run this as the user who owns the store; its files are readable by their owner only"
                }
                _ => "check the file system and the disk; nothing was changed",
            },
            Self::Store(Error::NotAStore { reason, .. }) if reason.contains("interrupted") => {
                "if it was being created: run the same `paramstore create` again. If it ever held data, its file `meta` \
                 is lost: restore it from a copy, and create nothing here"
            }
            Self::Store(Error::NotAStore { .. }) => {
                "check the path: it has to be the directory that `paramstore create` made"
            }
            Self::Store(Error::NoSpace { .. }) => {
                "free some space, choose another directory, or add `--sparse`, which allocates blocks when they are \
                 first written"
            }
            Self::Store(Error::AlreadyExists { .. }) => {
                "look at it with `paramstore inspect`, choose another path, or remove it first"
            }
            Self::Store(Error::Damaged(_)) | Self::Unreadable(_) => {
                "`paramstore verify` lists everything that is damaged, `paramstore repair` what can be done"
            }
            Self::Store(Error::Budget { .. }) => "give a larger `--memory`, or use smaller blocks",
            Self::Store(error) => return first_lower(error.hint()),
        };
        hint.to_owned()
    }
}

/// Whether this is the directory of a checkpoint.
fn is_checkpoint(path: &Path) -> bool {
    path.parent().and_then(Path::file_name).is_some_and(|name| name == "checkpoints")
}

/// The library's hints are sentences; ours are not.
fn first_lower(sentence: &str) -> String {
    let mut letters = sentence.trim_end_matches('.').chars();
    letters.next().map_or_else(String::new, |first| first.to_lowercase().chain(letters).collect())
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Store(error) | Self::Unreadable(error) => write!(f, "{error}"),
            Self::Usage(what) => f.write_str(what),
            Self::Output(error) => write!(f, "cannot write the output: {error}"),
            Self::Room { dir, needed, free } => write!(
                f,
                "no space for the scratch store in {}: {} bytes needed, {} bytes free",
                dir.display(),
                grouped(*needed),
                grouped(*free)
            ),
            Self::Transfer { what, source } => write!(f, "cannot {what}: {source}"),
            Self::Unsound { first, places } => write!(
                f,
                "the scratch store did not survive its measurement ({}); the first: {first}",
                counted(*places, "damaged place")
            ),
            Self::InTheWay(path) => write!(f, "{} exists already", path.display()),
            Self::Interrupted => f.write_str("interrupted; the scratch store is removed"),
            Self::Stopped => f.write_str("interrupted"),
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Store(error)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Output(error)
    }
}

impl From<serde_json::Error> for Failure {
    fn from(error: serde_json::Error) -> Self {
        Self::Output(error.into())
    }
}
