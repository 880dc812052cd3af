//! Makes a new store: everything allocated, everything durable, its metadata file last.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use super::barriers;
use crate::error::{Error, Result};
use crate::format::checksum::crc32;
use crate::format::directory::Directory;
use crate::format::page::{Child, TableShape};
use crate::format::progress::PROGRESS_BYTES;
use crate::format::record::{MAX_USER_BYTES, Record};
use crate::format::superblock::{
    INCOMPAT_COMPENSATION, INCOMPAT_COMPUTE, INCOMPAT_FROZEN, INCOMPAT_NARROW, INCOMPAT_ROWS,
    MAX_DIRECTORY_BYTES, RO_COMPAT_SPARSE, Region, Superblock,
};
use crate::format::{
    LOCK_FILE, META_FILE, META_NEW_FILE, PAGE_BYTES, PROGRESS_FILE, Uuid, is_store_file, pin_file,
    segment_file,
};
use crate::storage::{Access, Allocation, Caching, Volume};
use crate::units::{round_up, to_u64, to_usize};

/// Length of the lock file, which holds the writer's process id in decimal, and of the pin files.
pub(crate) const LOCK_BYTES: u64 = crate::storage::LOCK_FILE_BYTES;
/// Room for settings of groups beyond those at creation.
const RECORD_SLACK_BYTES: u64 = 64 << 10;

/// What `create` needs to know.
pub(crate) struct Creation {
    pub(crate) directory: Directory,
    pub(crate) record: Record,
    pub(crate) uuid: Uuid,
    pub(crate) sparse: bool,
}

pub(super) fn writer_version() -> String {
    concat!("paramstore ", env!("CARGO_PKG_VERSION")).to_owned()
}

/// Where everything stands in the metadata file.
struct Plan {
    directory: Vec<u8>,
    record: Vec<u8>,
    superblock: Superblock,
    meta_bytes: u64,
}

fn plan(creation: &Creation) -> Result<Plan> {
    let too_large = || Error::invalid("schema", "tables beyond 2^64 bytes", "fewer parameters");
    let directory = creation.directory.encode();
    if to_u64(directory.len()) > MAX_DIRECTORY_BYTES {
        let got = format!("a directory of {} bytes", directory.len());
        return Err(Error::invalid("schema", got, "fewer or shorter tensor names (256 MiB in all)"));
    }
    let record = creation.record.encode();
    let slots = creation.directory.slots();
    let table = TableShape::new(slots).and_then(|shape| shape.bytes()).ok_or_else(too_large)?;
    let directory_offset = 2 * PAGE_BYTES;
    let record_offset =
        directory_offset + round_up(to_u64(directory.len()), PAGE_BYTES).ok_or_else(too_large)?;
    let capacity = to_u64(record.len()) + MAX_USER_BYTES + RECORD_SLACK_BYTES;
    let record_capacity = round_up(capacity, PAGE_BYTES).ok_or_else(too_large)?;
    let table_offset = record_offset + 2 * record_capacity;
    let created = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let superblock = Superblock {
        compat: 0,
        ro_compat: if creation.sparse { RO_COMPAT_SPARSE } else { 0 },
        incompat: incompat(&creation.directory),
        uuid: creation.uuid,
        generation: 1,
        parent_crc: 0,
        step: 0,
        created_unix_s: created,
        directory: Region {
            offset: directory_offset,
            bytes: to_u64(directory.len()),
            crc: crc32(&directory),
        },
        record: Region { offset: record_offset, bytes: to_u64(record.len()), crc: crc32(&record) },
        record_offset,
        record_capacity,
        table_offset,
        table_slots: slots,
        root: Child::default(),
        writer: writer_version(),
    };
    let meta_bytes = table_offset.checked_add(table).ok_or_else(too_large)?;
    superblock.validate(meta_bytes).map_err(|e| super::decode_error(META_FILE.as_ref(), 0, e))?;
    Ok(Plan { directory, record, superblock, meta_bytes })
}

/// What a program must know to read a store.
fn incompat(directory: &Directory) -> u64 {
    let bit = |is_set: bool, bit: u64| if is_set { bit } else { 0 };
    bit(directory.has_rows(), INCOMPAT_ROWS)
        | bit(directory.has_narrow(), INCOMPAT_NARROW)
        | bit(directory.has_frozen(), INCOMPAT_FROZEN)
        | bit(directory.has_compute(), INCOMPAT_COMPUTE)
        | bit(directory.has_compensation(), INCOMPAT_COMPENSATION)
}

/// The superblock that a new store gets.
pub(crate) fn first_superblock(creation: &Creation) -> Result<Superblock> {
    plan(creation).map(|plan| plan.superblock)
}

/// Bytes that the files of a new store will have, all homes counted.
pub(crate) fn bytes_needed(directory: &Directory, meta_bytes: u64) -> u64 {
    let segments = directory.segments.iter().map(|s| s.bytes.saturating_mul(u64::from(s.homes)));
    segments.fold(meta_bytes, u64::saturating_add)
}

/// Makes the store's files in an empty directory, or over what an interrupted `create` left in it.
///
/// When this returns the store is whole, and durable but for two names, `meta` and the directory's own, which `open` makes durable: it has
/// to all the same, for a `create` that was killed. A crash before that leaves no `meta` file, and so no store.
pub(crate) fn create(volume: &Arc<dyn Volume>, creation: &Creation) -> Result<()> {
    let plan = plan(creation)?;
    if !free_to_create(volume)?.iter().any(|name| name == LOCK_FILE) {
        volume.create(LOCK_FILE, LOCK_BYTES, Allocation::Full)?;
    }
    let Some(_lock) = super::open::lock_writer(volume)? else {
        return Err(Error::Locked { path: volume.path().to_owned(), holder: None });
    };
    // Again, under the lock: another `create` may have finished in between.
    clear(volume, &free_to_create(volume)?)?;
    let result = allocate(volume, creation, &plan).and_then(|()| write_meta(volume, &plan));
    if result.is_err() {
        // Best effort: what is left behind is cleared by the next `create`.
        let names = volume.list().unwrap_or_default();
        if clear(volume, &names).is_ok() {
            drop(volume.remove(LOCK_FILE));
        }
        return result;
    }
    volume.rename(META_NEW_FILE, META_FILE)
}

/// Removes what an interrupted `create` left, but for the lock. The file that tells it from a store that lost its
/// `meta` goes last, when it is certain that the others will not come back.
fn clear(volume: &Arc<dyn Volume>, names: &[String]) -> Result<()> {
    let is_kept = |name: &str| name == LOCK_FILE || name == META_NEW_FILE;
    let others: Vec<_> = names.iter().filter(|name| !is_kept(name)).collect();
    for name in &others {
        volume.remove(name)?;
    }
    if !others.is_empty() {
        volume.sync_dir(barriers::CREATE_CLEARED)?;
    }
    if names.iter().any(|name| name == META_NEW_FILE) { volume.remove(META_NEW_FILE) } else { Ok(()) }
}

/// The names in the directory, if `create` may take it: an empty one, or what an interrupted `create` left.
fn free_to_create(volume: &Arc<dyn Volume>) -> Result<Vec<String>> {
    let existing = volume.list()?;
    if existing.is_empty() || is_unfinished(&existing) {
        return Ok(existing);
    }
    Err(Error::AlreadyExists { path: volume.path().to_owned() })
}

/// Whether these files are what an interrupted `create` leaves: `meta.new` is the first file after the lock, and
/// becomes `meta` last. Segments without either belong to a store that lost its `meta`, and are never removed.
pub(super) fn is_unfinished(names: &[String]) -> bool {
    let has = |wanted: &str| names.iter().any(|name| name == wanted);
    let only_lock = names.len() == 1 && has(LOCK_FILE);
    (has(META_NEW_FILE) || only_lock) && !has(META_FILE) && names.iter().all(|name| is_store_file(name))
}

fn allocate(volume: &Arc<dyn Volume>, creation: &Creation, plan: &Plan) -> Result<()> {
    let directory = &creation.directory;
    let allocation = if creation.sparse { Allocation::Sparse } else { Allocation::Full };
    let needed = bytes_needed(directory, plan.meta_bytes);
    let free = volume.free_bytes()?;
    if !creation.sparse && needed > free {
        return Err(Error::NoSpace { path: volume.path().to_owned(), needed, free });
    }
    volume.create(META_NEW_FILE, plan.meta_bytes, allocation)?;
    // Segments without it would be taken for those of a store that lost its `meta`.
    volume.sync_dir(barriers::CREATE_BEGUN)?;
    for parity in 0..2 {
        volume.create(pin_file(parity), LOCK_BYTES, Allocation::Full)?;
    }
    volume.create(PROGRESS_FILE, PROGRESS_BYTES, Allocation::Full)?;
    volume.open(PROGRESS_FILE, Access::Write, Caching::Cached)?.sync(barriers::CREATE_PROGRESS)?;
    for segment in &directory.segments {
        let plane = directory.planes.get(usize::from(segment.plane)).map_or("", |p| p.name.as_str());
        for home in 0..segment.homes {
            let name = segment_file(plane, segment.index, home);
            volume.create(&name, segment.bytes, allocation).map_err(|error| match error {
                Error::NoSpace { path, free, .. } => Error::NoSpace { path, needed, free },
                other => other,
            })?;
            // The file's length and blocks must be durable before any metadata names it.
            volume.open(&name, Access::Write, Caching::Cached)?.sync(barriers::CREATE_SEGMENT)?;
        }
    }
    Ok(())
}

fn write_meta(volume: &Arc<dyn Volume>, plan: &Plan) -> Result<()> {
    let meta = volume.open(META_NEW_FILE, Access::Write, Caching::Cached)?;
    meta.write_at(&plan.directory, plan.superblock.directory.offset)?;
    meta.write_at(&plan.record, plan.superblock.record.offset)?;
    let page = plan.superblock.encode();
    debug_assert_eq!(page.len(), to_usize(PAGE_BYTES));
    meta.write_at(&page, Superblock::slot_offset(plan.superblock.generation))?;
    meta.sync(barriers::CREATE_META)?;
    volume.sync_dir(barriers::CREATE_NAMES)
}
