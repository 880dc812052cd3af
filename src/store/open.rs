//! What open does: lock or pin, choose the generation, believe nothing that a checksum does not vouch for.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::segments::Segments;
use super::table::Table;
use super::{BlockStore, Holder, PinWait, barriers, decode_error, pins, read_region};
use crate::error::{Error, Result};
use crate::format::directory::Directory;
use crate::format::page::TableShape;
use crate::format::progress::{PROGRESS_BYTES, Progress};
use crate::format::record::Record;
use crate::format::superblock::{
    KNOWN_RO_COMPAT, RO_COMPAT_KEPT, Superblock, claimed_generation, superblock_crc,
};
use crate::format::{LOCK_FILE, META_FILE, PAGE_BYTES, PROGRESS_FILE};
use crate::storage::{Access, Caching, Lock, LockKind, Segment, Volume};
use crate::units::to_usize;

/// Which of the two generations that a store may hold is looked at. [Example](crate::Options#example).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Generation {
    /// The last one that was committed whole.
    #[default]
    Newest,
    /// The one before it. Its blocks are there until steps after the last commit take their homes; a block that was
    /// overwritten since reads as damaged, never as something else.
    Previous,
}

/// What one of the two superblock slots holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum SlotState {
    /// A whole superblock of this generation.
    Valid(u64),
    /// Nothing was ever written.
    Empty,
    /// Bytes that are not a superblock or that name damaged metadata, why, and the generation that the bytes still
    /// name, which no checksum vouches for.
    Damaged { why: String, generation: Option<u64> },
}

impl SlotState {
    fn is_damaged(&self) -> bool {
        matches!(self, Self::Damaged { .. })
    }
}

/// What `open` found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) slots: [SlotState; 2],
    /// Last step that a writer had finished, where its note survived.
    pub(crate) last_step: Option<u64>,
    /// Whether a newer generation than the chosen one had been committed, or was being committed.
    pub(crate) fell_back: bool,
}

impl Found {
    pub(crate) fn is_damaged(&self) -> bool {
        self.slots.iter().any(SlotState::is_damaged)
    }
}

/// A superblock that was chosen, with everything it names in the metadata file.
struct Chosen {
    superblock: Superblock,
    crc: u32,
    directory: Directory,
    record: Record,
}

/// How often a reader looks again when writers overtake it between its looks.
const PIN_TRIES: usize = 500;
/// How often the writer's lock is asked for.
const LOCK_TRIES: usize = 50;
/// How often a reader looks again at damage: what a writer is just replacing can look torn.
const DAMAGE_TRIES: usize = 5;

impl BlockStore {
    /// Opens the store for its only writer.
    pub(crate) fn open_writer(volume: Arc<dyn Volume>, wait: PinWait) -> Result<Self> {
        let meta = open_meta(&volume, Access::Write)?;
        // Before a lock file is made: what has no superblock at all is not ours to write into.
        let (slots, candidates) = read_slots(&meta)?;
        if candidates.is_empty() {
            return Err(no_superblock(&volume, &slots));
        }
        if candidates.iter().any(|(superblock, _)| superblock.ro_compat & RO_COMPAT_KEPT != 0) {
            return Err(Error::Kept { path: volume.path().to_owned() });
        }
        let Some(lock) = lock_writer(&volume)? else {
            let holder = holder(&volume);
            return Err(Error::Locked { path: volume.path().to_owned(), holder });
        };
        let (slots, candidates) = read_slots(&meta)?;
        let (slots, chosen) = choose(&volume, &meta, slots, candidates)?;
        let unknown = chosen.superblock.ro_compat & !KNOWN_RO_COMPAT;
        if unknown != 0 {
            let what = format!("feature bits {unknown:#x} are unknown; it can be opened for reading only");
            return Err(Error::Unsupported { path: meta.path().to_owned(), what });
        }
        make_durable(&meta, &chosen)?;
        volume.sync_dir(barriers::OPEN_NAMES)?;
        volume.sync_parent(barriers::OPEN_DIRECTORY)?;
        sign_lock(&volume);
        let access = Holder::Writer { _lock: lock, reuse: None, wait };
        let mut store = Self::assemble(volume, meta, slots, chosen, access)?;
        store.check_lengths()?;
        // What was lost has been told; from here on the note counts this writer's steps.
        store.note_progress(store.committed.step);
        Ok(store)
    }

    /// Opens a committed generation for reading, beside a writer or not, and pins it.
    pub(crate) fn open_reader(volume: Arc<dyn Volume>, generation: Generation) -> Result<Self> {
        let mut store = Self::open_unchecked(volume, generation)?;
        store.check_lengths()?;
        Ok(store)
    }

    /// As [`open_reader`](Self::open_reader), also where segments are missing or have another length, for looking at
    /// what is left.
    pub(crate) fn open_unchecked(volume: Arc<dyn Volume>, generation: Generation) -> Result<Self> {
        if generation == Generation::Previous {
            return Self::pin_previous(volume);
        }
        for _ in 1..DAMAGE_TRIES {
            let opened = Self::pin_newest(Arc::clone(&volume));
            let damaged = match &opened {
                Ok(store) => store.found.is_damaged(),
                Err(error) => matches!(error, Error::Damaged(_)),
            };
            if !damaged {
                return opened;
            }
            drop(opened);
            pins::pause(&volume);
        }
        Self::pin_newest(volume)
    }

    /// Looks for the newest whole generation and pins it.
    fn pin_newest(volume: Arc<dyn Volume>) -> Result<Self> {
        let meta = open_meta(&volume, Access::Read)?;
        for _ in 0..PIN_TRIES {
            let (slots, candidates) = read_slots(&meta)?;
            let Some(seen) = candidates.first().map(|(superblock, _)| superblock.generation) else {
                return Err(no_superblock(&volume, &slots));
            };
            let Some(pin) = pins::try_pin(&volume, seen)? else {
                pins::pause(&volume);
                continue;
            };
            // Between the look and the lock the writer may have gone on; one commit later the homes are still whole.
            let (slots, candidates) = read_slots(&meta)?;
            let newest = candidates.first().map_or(0, |(superblock, _)| superblock.generation);
            if newest != seen && newest != seen + 1 {
                continue;
            }
            let candidates = candidates.into_iter().filter(|(s, _)| s.generation <= seen).collect();
            let (slots, chosen) = choose(&volume, &meta, slots, candidates)?;
            if chosen.superblock.generation != seen {
                return Self::open_older(volume, meta, slots, chosen);
            }
            return Self::assemble(volume, meta, slots, chosen, Holder::Reader { _pin: pin });
        }
        Err(Error::Locked {
            path: volume.path().to_owned(),
            holder: Some("a writer that commits faster than this reader can pin a generation".to_owned()),
        })
    }

    /// Pins the generation before the newest, if both superblocks are whole.
    fn pin_previous(volume: Arc<dyn Volume>) -> Result<Self> {
        let meta = open_meta(&volume, Access::Read)?;
        for _ in 0..PIN_TRIES {
            let (_, candidates) = read_slots(&meta)?;
            let Some(seen) = candidates.get(1).map(|(superblock, _)| superblock.generation) else {
                break;
            };
            let Some(pin) = pins::try_pin(&volume, seen)? else {
                return Err(Error::Locked {
                    path: volume.path().to_owned(),
                    holder: Some("a writer that is replacing the previous generation".to_owned()),
                });
            };
            let (slots, mut candidates) = read_slots(&meta)?;
            if candidates.get(1).is_some_and(|(superblock, _)| superblock.generation == seen) {
                let (superblock, crc) = candidates.swap_remove(1);
                let chosen = load(&meta, superblock, crc)?;
                return Self::assemble(volume, meta, slots, chosen, Holder::Reader { _pin: pin });
            }
        }
        let (slots, candidates) = read_slots(&meta)?;
        let got = match candidates.first() {
            None => return Err(no_superblock(&volume, &slots)),
            Some((superblock, _)) => format!("generation {} and no other", superblock.generation),
        };
        Err(Error::invalid("previous generation", got, "a store with two whole superblocks"))
    }

    /// Reads the older generation where what the newest superblock names is damaged.
    fn open_older(
        volume: Arc<dyn Volume>,
        meta: Arc<dyn Segment>,
        slots: [SlotState; 2],
        chosen: Chosen,
    ) -> Result<Self> {
        match pins::try_pin(&volume, chosen.superblock.generation)? {
            Some(pin) => Self::assemble(volume, meta, slots, chosen, Holder::Reader { _pin: pin }),
            None => Err(Error::Locked {
                path: volume.path().to_owned(),
                holder: Some("a writer that is replacing the only generation left whole".to_owned()),
            }),
        }
    }

    fn assemble(
        volume: Arc<dyn Volume>,
        meta: Arc<dyn Segment>,
        slots: [SlotState; 2],
        chosen: Chosen,
        access: Holder,
    ) -> Result<Self> {
        let Chosen { superblock, crc, directory, record } = chosen;
        let writer = matches!(access, Holder::Writer { .. });
        let directory = Arc::new(directory);
        let segments = Segments::new(Arc::clone(&directory));
        let shape = TableShape::new(superblock.table_slots).ok_or_else(|| {
            Error::damaged(
                meta.path(),
                "superblock table slots",
                (0, PAGE_BYTES),
                superblock.table_slots,
                "1 or more",
            )
        })?;
        let table = Table::new(shape, superblock.table_offset, superblock.uuid, superblock.root);
        let note = read_progress(&volume, &superblock);
        let last_step = note.as_ref().map(|note| note.step).filter(|&step| step >= superblock.step);
        let fell_back = fell_back(&slots, superblock.generation, note.as_ref());
        let progress =
            if writer { volume.open(PROGRESS_FILE, Access::Write, Caching::Cached).ok() } else { None };
        Ok(Self {
            volume,
            directory,
            meta,
            segments,
            table,
            committed: superblock,
            committed_crc: crc,
            record,
            found: Found { slots, last_step, fell_back },
            access,
            progress,
            written: BTreeSet::new(),
            poison: None,
        })
    }
}

pub(super) fn open_meta(volume: &Arc<dyn Volume>, access: Access) -> Result<Arc<dyn Segment>> {
    match volume.open(META_FILE, access, Caching::Cached) {
        Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
            let names = volume.list().unwrap_or_default();
            let has = |name: &str| names.iter().any(|n| n == name);
            let reason = if super::create::is_unfinished(&names) {
                "its creation was interrupted; create it again"
            } else if has(LOCK_FILE) {
                "its file `meta` is gone, without which its other files say nothing"
            } else {
                "it has no file named `meta`"
            };
            Err(Error::NotAStore { path: volume.path().to_owned(), reason: reason.to_owned() })
        }
        other => other,
    }
}

pub(super) type Candidates = Vec<(Superblock, u32)>;

/// Reads both slots; the valid superblocks come newest first.
pub(super) fn read_slots(meta: &Arc<dyn Segment>) -> Result<([SlotState; 2], Candidates)> {
    let len_bytes = meta.len_bytes()?;
    if len_bytes < 2 * PAGE_BYTES {
        let expected = format!("at least {} bytes", 2 * PAGE_BYTES);
        let what = "length of the metadata file";
        return Err(Error::damaged(
            meta.path(),
            what,
            (0, len_bytes),
            format!("{len_bytes} bytes"),
            expected,
        ));
    }
    let mut slots = [SlotState::Empty, SlotState::Empty];
    let mut candidates = Vec::new();
    for (slot, state) in slots.iter_mut().enumerate() {
        let mut page = vec![0; to_usize(PAGE_BYTES)];
        let offset = crate::units::to_u64(slot) * PAGE_BYTES;
        meta.read_at(&mut page, offset)?;
        if page.iter().all(|&byte| byte == 0) {
            continue;
        }
        let decoded = Superblock::decode(&page).and_then(|superblock| {
            superblock.validate(len_bytes)?;
            Ok((superblock, superblock_crc(&page)?))
        });
        *state = match decoded {
            Ok((superblock, crc)) if Superblock::slot_offset(superblock.generation) == offset => {
                let generation = superblock.generation;
                candidates.push((superblock, crc));
                SlotState::Valid(generation)
            }
            Ok((superblock, _)) => SlotState::Damaged {
                why: format!("generation {} stands in the wrong slot", superblock.generation),
                generation: None,
            },
            Err(error) if error.unsupported => return Err(decode_error(meta.path(), offset, error)),
            Err(error) => SlotState::Damaged {
                why: format!("{}: got {}, expected {}", error.what, error.got, error.expected),
                generation: claimed_generation(&page),
            },
        };
    }
    candidates.sort_by_key(|(superblock, _)| std::cmp::Reverse(superblock.generation));
    Ok((slots, candidates))
}

/// Takes the newest superblock whose directory, record and table root are whole.
fn choose(
    volume: &Arc<dyn Volume>,
    meta: &Arc<dyn Segment>,
    mut slots: [SlotState; 2],
    candidates: Candidates,
) -> Result<([SlotState; 2], Chosen)> {
    let mut first_error = None;
    for (superblock, crc) in candidates {
        let generation = superblock.generation;
        match load(meta, superblock, crc) {
            Ok(chosen) => return Ok((slots, chosen)),
            Err(error @ Error::Damaged(_)) => {
                if let Some(state) = slots.get_mut(to_usize(generation % 2)) {
                    *state = SlotState::Damaged { why: error.to_string(), generation: Some(generation) };
                }
                first_error.get_or_insert(error);
            }
            // A read that fails says nothing about the generation: going back would let the next commit destroy it.
            Err(error) => return Err(error),
        }
    }
    Err(first_error.unwrap_or_else(|| no_superblock(volume, &slots)))
}

/// The superblock of the generation before `newest`, if its slot holds it whole.
pub(super) fn older_superblock(meta: &Arc<dyn Segment>, newest: u64) -> Result<Option<(Superblock, u32)>> {
    let (_, candidates) = read_slots(meta)?;
    Ok(candidates.into_iter().find(|(superblock, _)| superblock.generation + 1 == newest))
}

/// Checks that what a superblock names in the metadata file is whole, and makes sure that it is on the disk itself.
pub(super) fn make_whole_and_durable(
    meta: &Arc<dyn Segment>,
    superblock: Superblock,
    crc: u32,
) -> Result<()> {
    make_durable(meta, &load(meta, superblock, crc)?)
}

/// Writes the chosen superblock once more, and syncs it.
///
/// After a failed sync or a crash of the process the page cache may show a superblock that the disk never got, and a
/// later sync of clean pages would prove nothing. Everything that it names was durable before it was first written.
fn make_durable(meta: &Arc<dyn Segment>, chosen: &Chosen) -> Result<()> {
    let offset = Superblock::slot_offset(chosen.superblock.generation);
    let mut page = vec![0; to_usize(PAGE_BYTES)];
    meta.read_at(&mut page, offset)?;
    let crc = superblock_crc(&page).map_err(|e| decode_error(meta.path(), offset, e))?;
    if crc != chosen.crc {
        let range = (offset, PAGE_BYTES);
        return Err(Error::damaged(
            meta.path(),
            "superblock",
            range,
            format!("{crc:08x}"),
            format!("{:08x}", chosen.crc),
        ));
    }
    meta.write_at(&page, offset)?;
    meta.sync(barriers::OPEN_SUPERBLOCK)
}

fn load(meta: &Arc<dyn Segment>, superblock: Superblock, crc: u32) -> Result<Chosen> {
    let bytes = read_region(meta, "directory", superblock.directory)?;
    let directory =
        Directory::decode(&bytes).map_err(|e| decode_error(meta.path(), superblock.directory.offset, e))?;
    let bytes = read_region(meta, "record", superblock.record)?;
    let record =
        Record::decode(&bytes).map_err(|e| decode_error(meta.path(), superblock.record.offset, e))?;
    let range = (0, PAGE_BYTES);
    if directory.slots() != superblock.table_slots {
        let (got, expected) = (superblock.table_slots, directory.slots());
        return Err(Error::damaged(meta.path(), "superblock table slots", range, got, expected));
    }
    if crate::units::to_u64(record.groups.len()) != u64::from(directory.groups) {
        let (got, expected) = (record.groups.len(), directory.groups);
        return Err(Error::damaged(meta.path(), "groups in the record", range, got, expected));
    }
    let shape = TableShape::new(superblock.table_slots);
    if let Some(shape) = shape {
        // Reading the first entry checks the root and one path below it.
        let mut table = Table::new(shape, superblock.table_offset, superblock.uuid, superblock.root);
        table.tensor(meta, crate::units::SlotIndex(0))?;
    }
    Ok(Chosen { superblock, crc, directory, record })
}

pub(super) fn no_superblock(volume: &Arc<dyn Volume>, slots: &[SlotState; 2]) -> Error {
    let path = volume.path_of(META_FILE);
    let got = format!("slot 0: {:?}, slot 1: {:?}", slots[0], slots[1]);
    Error::damaged(path, "both superblocks", (0, 2 * PAGE_BYTES), got, "one whole superblock")
}

/// Takes the writer's lock, if nobody has it.
///
/// It is asked for some times: a process that this one is just starting holds copies of all its locks until it runs its
/// own program, also of one that has been given back.
pub(super) fn lock_writer(volume: &Arc<dyn Volume>) -> Result<Option<Box<dyn Lock>>> {
    for _ in 1..LOCK_TRIES {
        let lock = volume.try_lock(LOCK_FILE, LockKind::Exclusive)?;
        if lock.is_some() {
            return Ok(lock);
        }
        pins::pause(volume);
    }
    volume.try_lock(LOCK_FILE, LockKind::Exclusive)
}

/// What the lock file says of its holder.
fn holder(volume: &Arc<dyn Volume>) -> Option<String> {
    let file = volume.open(LOCK_FILE, Access::Read, Caching::Cached).ok()?;
    let mut bytes = [0; 64];
    file.read_at(&mut bytes, 0).ok()?;
    let text = std::str::from_utf8(&bytes).ok()?.trim_matches('\0').trim();
    text.parse::<u32>().ok().map(|pid| format!("process {pid}"))
}

/// Leaves this process's id in the lock file, for the message that another writer gets; nothing relies on it.
fn sign_lock(volume: &Arc<dyn Volume>) {
    let mut text = std::process::id().to_string().into_bytes();
    text.resize(64, 0);
    if let Ok(file) = volume.open(LOCK_FILE, Access::Write, Caching::Cached) {
        drop(file.write_at(&text, 0));
    }
}

/// Reads the note of finished steps, if it is this store's.
fn read_progress(volume: &Arc<dyn Volume>, superblock: &Superblock) -> Option<Progress> {
    let file = volume.open(PROGRESS_FILE, Access::Read, Caching::Cached).ok()?;
    let mut bytes = vec![0; to_usize(PROGRESS_BYTES)];
    file.read_at(&mut bytes, 0).ok()?;
    let progress = Progress::decode(&bytes).ok()?;
    // One more than ours: the note of a writer whose newest generation was damaged since.
    let ours = progress.uuid == superblock.uuid && progress.generation <= superblock.generation + 1;
    ours.then_some(progress)
}

/// Whether damage hides a newer generation than the chosen one, rather than the older one that stands beside it.
///
/// No checksum vouches for a damaged slot, and the note is not durable: only if the slot still names the older
/// generation, and the note does not name a newer one, is the damaged one the older.
fn fell_back(slots: &[SlotState; 2], chosen: u64, note: Option<&Progress>) -> bool {
    let noted_newer = note.is_some_and(|note| note.generation > chosen);
    slots.iter().any(|slot| match slot {
        SlotState::Damaged { generation, .. } => noted_newer || *generation != chosen.checked_sub(1),
        SlotState::Valid(_) | SlotState::Empty => false,
    })
}
