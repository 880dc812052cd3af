//! What leaves a trace on a disk.

use std::sync::Arc;

use crate::storage::Barrier;

/// A file, whatever its name; numbered in the order in which files came to be known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct FileId(pub(crate) u32);

/// A directory, whatever its name: the topmost is number 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct DirectoryId(pub(crate) u32);

impl DirectoryId {
    pub(crate) const TOP: Self = Self(0);
}

/// One thing that was done to a directory or a file in it. Names are paths from the topmost directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Event {
    /// A file of zeros got a name and a length.
    Create { file: FileId, directory: DirectoryId, name: String, len_bytes: u64 },
    /// A file became at least this long.
    Extend { file: FileId, len_bytes: u64 },
    /// Bytes were written.
    Write { file: FileId, offset: u64, bytes: Arc<[u8]> },
    /// A file's bytes and length became durable.
    Sync { file: FileId, barrier: Barrier },
    /// A sync failed, and the pages count as clean all the same.
    LoseSync { file: FileId },
    /// A name went away.
    Remove { directory: DirectoryId, name: String },
    /// A name became another; atomic.
    Rename { file: FileId, directory: DirectoryId, from: String, to: String },
    /// An empty directory got a name in another.
    MakeDirectory { made: DirectoryId, directory: DirectoryId, name: String },
    /// The names in a directory became durable.
    SyncDir { directory: DirectoryId, name: String, barrier: Barrier },
    /// A directory's own name became durable, in the one above.
    SyncParent { directory: DirectoryId, name: String, barrier: Barrier },
}

impl Event {
    /// The barrier that this was, if it was one.
    #[cfg(test)]
    pub(crate) fn barrier(&self) -> Option<Barrier> {
        match self {
            Self::Sync { barrier, .. } | Self::SyncDir { barrier, .. } | Self::SyncParent { barrier, .. } => {
                Some(*barrier)
            }
            _ => None,
        }
    }

    /// The event in words; `name_of` knows the names of files.
    pub(crate) fn describe(&self, name_of: impl Fn(FileId) -> String) -> String {
        match self {
            Self::Create { name, len_bytes, .. } => format!("create {name} ({len_bytes} bytes)"),
            Self::Extend { file, len_bytes } => format!("extend {} to {len_bytes} bytes", name_of(*file)),
            Self::Write { file, offset, bytes } => {
                format!("write {} at byte {offset} ({} bytes)", name_of(*file), bytes.len())
            }
            Self::Sync { file, barrier } => format!("sync {} [{}]", name_of(*file), barrier.0),
            Self::LoseSync { file } => format!("failing sync of {}", name_of(*file)),
            Self::Remove { name, .. } => format!("remove {name}"),
            Self::MakeDirectory { name, .. } => format!("make the directory {name}"),
            Self::Rename { from, to, .. } => format!("rename {from} to {to}"),
            Self::SyncDir { name, barrier, .. } => format!("sync the directory {name} [{}]", barrier.0),
            Self::SyncParent { name, barrier, .. } => format!("sync the parent of {name} [{}]", barrier.0),
        }
    }
}
