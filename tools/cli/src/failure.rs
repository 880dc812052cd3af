//! Why a command could not do its work, and with which status it ends.

use std::fmt;
use std::io;

use paramstore::Error;

/// Damage was found.
pub(crate) const DAMAGED: u8 = 1;
/// The command line is wrong.
pub(crate) const USAGE: u8 = 2;
/// The store could not be looked at, or not be made.
pub(crate) const NO_LOOK: u8 = 3;

#[derive(Debug)]
pub(crate) enum Failure {
    /// What the library says.
    Store(Error),
    /// A value of the command line, and what would have been right.
    Usage(String),
    /// The output could not be written.
    Output(io::Error),
}

impl Failure {
    pub(crate) fn status(&self) -> u8 {
        match self {
            Self::Store(Error::Damaged(_)) => DAMAGED,
            Self::Store(Error::Invalid { .. } | Error::Unknown { .. } | Error::Budget { .. })
            | Self::Usage(_) => USAGE,
            Self::Store(_) | Self::Output(_) => NO_LOOK,
        }
    }

    /// What to try next.
    pub(crate) fn hint(&self) -> String {
        let hint = match self {
            Self::Usage(_) | Self::Store(Error::Invalid { .. } | Error::Unknown { .. }) => {
                "`--help` behind the command explains every option"
            }
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
            Self::Store(Error::Damaged(_)) => {
                "`paramstore verify` lists everything that is damaged; restore the file from a copy"
            }
            Self::Store(Error::Budget { .. }) => "give a larger `--memory`, or use smaller blocks",
            Self::Store(error) => return first_lower(error.hint()),
        };
        hint.to_owned()
    }
}

/// The library's hints are sentences; ours are not.
fn first_lower(sentence: &str) -> String {
    let mut letters = sentence.trim_end_matches('.').chars();
    letters.next().map_or_else(String::new, |first| first.to_lowercase().chain(letters).collect())
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Store(error) => write!(f, "{error}"),
            Self::Usage(what) => f.write_str(what),
            Self::Output(error) => write!(f, "cannot write the output: {error}"),
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
