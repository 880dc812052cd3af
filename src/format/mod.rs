//! BYTES. What the files of a store mean: pure encoding and decoding, no files, no clocks.
//!
//! `docs/FORMAT.md` is this room in prose. Every integer on disk is little-endian with an explicit width.

pub(crate) mod checksum;
mod codec;
pub(crate) mod directory;
pub(crate) mod elements;
pub(crate) mod notes;
pub(crate) mod page;
pub(crate) mod progress;
pub(crate) mod record;
pub(crate) mod records;
pub(crate) mod row_log;
pub(crate) mod superblock;
mod validate;

pub(crate) use checksum::Uuid;
pub(crate) use codec::FormatError;

/// Unit of everything in the metadata file: superblocks, table pages and paddings.
pub(crate) const PAGE_BYTES: u64 = 4096;

/// The version of the format that this code writes.
pub(crate) const FORMAT_VERSION: u32 = 1;

/// Name of the metadata file.
pub(crate) const META_FILE: &str = "meta";

/// Name of the metadata file while a store is being created.
pub(crate) const META_NEW_FILE: &str = "meta.new";

/// Name of the writer's lock file.
pub(crate) const LOCK_FILE: &str = "lock";

/// Name of the file that says how far the working generation has come.
pub(crate) const PROGRESS_FILE: &str = "progress";

/// Name of the directory in which a store's checkpoints are kept.
pub(crate) const CHECKPOINTS_DIRECTORY: &str = "checkpoints";

/// The longest name of a checkpoint, in bytes.
const CHECKPOINT_NAME_BYTES_MAX: usize = 64;

/// Whether a checkpoint may be named like this: what every file system and every shell takes as it is.
pub(crate) fn is_checkpoint_name(name: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    (1..=CHECKPOINT_NAME_BYTES_MAX).contains(&name.len())
        && name.bytes().all(is_plain)
        && !name.starts_with(['.', '-'])
        && name != LOCK_FILE
}

/// Name of the file on which readers of generations of this parity hold a shared lock.
pub(crate) fn pin_file(generation: u64) -> &'static str {
    if generation.is_multiple_of(2) { "pin.0" } else { "pin.1" }
}

/// Name of the segment file `index` of a plane, in one of its homes.
pub(crate) fn segment_file(plane: &str, index: u32, home: u8) -> String {
    format!("{plane}.{index:04}.{home}")
}

/// Whether `create` could have left this file behind; nothing else in a directory is ever removed.
pub(crate) fn is_store_file(name: &str) -> bool {
    if matches!(name, META_FILE | META_NEW_FILE | LOCK_FILE | PROGRESS_FILE | "pin.0" | "pin.1") {
        return true;
    }
    let mut parts = name.rsplitn(3, '.');
    let home = parts.next().is_some_and(|home| matches!(home, "0" | "1"));
    let index = parts.next().is_some_and(|s| s.len() == 4 && s.bytes().all(|b| b.is_ascii_digit()));
    home && index && parts.next().is_some_and(directory::is_plane_name)
}

/// Whether a writer could have left this file for onlookers.
pub(crate) fn is_note_file(name: &str) -> bool {
    matches!(name, notes::LIVE_FILE | notes::METRICS_FILE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_checkpoints_are_plain_and_short() {
        let long = "x".repeat(64);
        for name in ["a", "step-1000", "v1.2_final", "0", "meta", &long] {
            assert!(is_checkpoint_name(name), "{name}");
        }
        let longer = "x".repeat(65);
        for name in ["", ".", "..", ".a", "-a", "a/b", "../a", "a b", "a\0", "\u{e9}", "a\n", "lock", &longer]
        {
            assert!(!is_checkpoint_name(name), "{name:?}");
        }
    }

    #[test]
    fn only_names_that_create_makes_are_store_files() {
        for name in ["meta", "meta.new", "lock", "progress", "pin.1", "exp_avg.0000.1", "param.0012.0"] {
            assert!(is_store_file(name), "{name}");
        }
        for name in ["notes.txt", "param.0000.2", "param.000.1", "Param.0000.1", "..0000.1", ".0000.1", "x"] {
            assert!(!is_store_file(name), "{name}");
        }
    }
}
