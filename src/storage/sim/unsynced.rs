//! What a power cut decides: for each thing that is not durable, what will be found of it.
//!
//! Names: each change since the last sync of the directory is there or not, whatever became of the others; a rename is
//! there as a whole. Lengths: the old one, the new one, or one between. Bytes, for each sector on its own: the durable
//! ones, those after any later write (so that writes become durable in any order), or a mixture of all of these, byte
//! by byte or cut at a byte. Where a page was written in part, its other bytes may turn into anything.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::disk::{Disk, Entry, Names, Page};
use super::event::{DirectoryId, FileId};
use super::image::{Bytes, Content, Image, PAGE_BYTES};

const SECTOR_BYTES: usize = 512;

/// Values from here on are seeds of a mixture.
const TORN: u32 = 1 << 16;

/// Decides for a torn sector, a length between, or lost neighbours.
pub(crate) fn torn(seed: u32) -> u32 {
    TORN | (seed & (TORN - 1))
}

/// What an item is, in a form that stays when the events before it change.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum ItemKey {
    /// The directory's own name.
    Directory,
    /// A change of names.
    Name(String),
    /// The length of a file.
    Length(String),
    /// A sector of a file.
    Sector { file: String, page: u64, sector: usize },
    /// The bytes of a page that no write touched.
    Neighbours { file: String, page: u64 },
}

/// One thing that is not durable.
#[derive(Debug, Clone)]
pub(crate) struct Item {
    pub(crate) key: ItemKey,
    /// What can be found beside the durable state (0): 1 up to this, the newest last. More than that is a mixture.
    pub(crate) newest: u32,
    /// Whether a mixture is something else than one of the whole states.
    pub(crate) can_tear: bool,
    place: Place,
}

#[derive(Debug, Clone, Copy)]
enum Place {
    Directory,
    Change(usize),
    Length(FileId),
    Sector(FileId, u64, usize),
    Neighbours(FileId, u64),
}

/// What is found of each item, in the order of the items; those behind the end are as they were when last durable.
pub(crate) type Picks = Vec<u32>;

impl std::fmt::Display for ItemKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Directory => write!(f, "the directory"),
            Self::Name(change) => write!(f, "name {change}"),
            Self::Length(file) => write!(f, "length of {file}"),
            Self::Sector { file, page, sector } => write!(f, "{file}, page {page}, sector {sector}"),
            Self::Neighbours { file, page } => write!(f, "{file}, page {page}, bytes beside the write"),
        }
    }
}

impl Disk {
    /// Everything that a power cut decides on now.
    pub(crate) fn unsynced(&self) -> Vec<Item> {
        let mut items = Vec::new();
        let mut add = |key, newest, can_tear, place| items.push(Item { key, newest, can_tear, place });
        if !self.is_linked {
            add(ItemKey::Directory, 1, false, Place::Directory);
        }
        for (at, change) in self.changes.iter().enumerate() {
            add(ItemKey::Name(change.describe()), 1, false, Place::Change(at));
        }
        for (number, file) in (0..).zip(&self.files) {
            let id = FileId(number);
            let name = || file.name.clone();
            if file.len != file.durable_len {
                add(ItemKey::Length(name()), 1, true, Place::Length(id));
            }
            for (&at, page) in file.pages.iter().filter(|(_, page)| !page.writes.is_empty()) {
                for sector in 0..PAGE_BYTES / SECTOR_BYTES {
                    let newest = page.newest(sector);
                    // To write the bytes that are there already is no risk (docs/FORMAT.md, section 15).
                    if newest > 0 && page.is_changed(sector) {
                        let key = ItemKey::Sector { file: name(), page: at, sector };
                        add(key, newest, true, Place::Sector(id, at, sector));
                    }
                }
                if page.is_written_in_part() {
                    let key = ItemKey::Neighbours { file: name(), page: at };
                    add(key, 0, true, Place::Neighbours(id, at));
                }
            }
        }
        items
    }

    /// What is found when the power comes back.
    pub(crate) fn image(&self, items: &[Item], picks: &[u32]) -> Image {
        let pick = |at: usize| picks.get(at).copied().unwrap_or(0);
        let mut names = self.names.clone();
        let mut lengths = BTreeMap::new();
        let mut pages: BTreeMap<(FileId, u64), Bytes> = BTreeMap::new();
        for (at, item) in items.iter().enumerate() {
            match item.place {
                Place::Directory if pick(at) == 0 => return Image::default(),
                Place::Change(change) if pick(at) > 0 => {
                    if let Some(change) = self.changes.get(change) {
                        change.apply(&mut names);
                    }
                }
                Place::Directory | Place::Change(_) => {}
                Place::Length(file) => drop(lengths.insert(file, pick(at))),
                Place::Sector(file, page, sector) => {
                    let Some(source) = self.page(file, page) else { continue };
                    let bytes = pages.entry((file, page)).or_insert_with(|| source.durable_bytes());
                    source.found(sector, pick(at), bytes);
                }
                Place::Neighbours(file, page) => {
                    let Some(source) = self.page(file, page).filter(|_| pick(at) >= TORN) else { continue };
                    let bytes = pages.entry((file, page)).or_insert_with(|| source.durable_bytes());
                    source.lose_neighbours(pick(at), bytes);
                }
            }
        }
        let content = |file: FileId| {
            let source = self.files.get(file.0 as usize)?;
            let (old, new) = (source.durable_len, source.len);
            let len_bytes = match lengths.get(&file).copied() {
                None | Some(0) => old,
                Some(seed @ TORN..) => {
                    old.min(new) + u64::from(seed % TORN) * old.abs_diff(new) / u64::from(TORN)
                }
                Some(_) => new,
            };
            let durable = source.pages.iter().filter_map(|(&at, page)| Some((at, page.durable.clone()?)));
            let mut found: BTreeMap<_, _> = durable.collect();
            let changed = pages.range((file, 0)..=(file, u64::MAX));
            found.extend(changed.map(|(&(_, at), bytes)| (at, Arc::new(*bytes))));
            found.retain(|&at, _| at * (PAGE_BYTES as u64) < len_bytes);
            Some(Content { len_bytes, pages: found })
        };
        let (files, directories) = reachable(&names);
        let files = files.into_iter().filter_map(|(name, file)| Some((name, content(file)?))).collect();
        Image { is_linked: true, files, directories }
    }

    fn page(&self, file: FileId, page: u64) -> Option<&Page> {
        self.files.get(file.0 as usize)?.pages.get(&page)
    }
}

/// The files and directories that are found from the topmost directory on, by path.
fn reachable(names: &Names) -> (BTreeMap<String, FileId>, BTreeSet<String>) {
    let (mut files, mut directories) = (BTreeMap::new(), BTreeSet::new());
    let mut left = vec![DirectoryId::TOP];
    while let Some(directory) = left.pop() {
        let within = names.range((directory, String::new())..(DirectoryId(directory.0 + 1), String::new()));
        for ((_, path), entry) in within {
            match entry {
                Entry::File(file) => drop(files.insert(path.clone(), *file)),
                Entry::Directory(below) => {
                    directories.insert(path.clone());
                    left.push(*below);
                }
            }
        }
    }
    (files, directories)
}

fn range(sector: usize) -> std::ops::Range<usize> {
    sector * SECTOR_BYTES..(sector + 1) * SECTOR_BYTES
}

impl Page {
    /// How many writes since the last sync changed a sector.
    fn newest(&self, sector: usize) -> u32 {
        let range = range(sector);
        let touched = self.writes.iter().filter(|write| write.start < range.end && range.start < write.end());
        u32::try_from(touched.count()).unwrap_or(TORN - 1).min(TORN - 1)
    }

    fn is_changed(&self, sector: usize) -> bool {
        let states = self.states(sector);
        states.windows(2).any(|pair| pair[0] != pair[1])
    }

    /// The states that a sector has had since the last sync.
    fn states(&self, sector: usize) -> Vec<[u8; SECTOR_BYTES]> {
        let range = range(sector);
        let mut page = self.durable_bytes();
        let state = |page: &Bytes| {
            let mut bytes = [0; SECTOR_BYTES];
            bytes.copy_from_slice(page.get(range.clone()).unwrap_or_default());
            bytes
        };
        let mut states = vec![state(&page)];
        for write in self.writes.iter().filter(|write| write.start < range.end && range.start < write.end()) {
            write.apply(&mut page);
            states.push(state(&page));
        }
        states
    }

    /// Puts into a page what is found of a sector.
    fn found(&self, sector: usize, pick: u32, page: &mut Bytes) {
        if pick == 0 {
            return;
        }
        let states = self.states(sector);
        let Some(target) = page.get_mut(range(sector)) else { return };
        if pick < TORN {
            let state = states.get(pick as usize).or(states.last());
            if let Some(state) = state {
                target.copy_from_slice(state);
            }
            return;
        }
        let mut bits = Bits(u64::from(pick));
        let count = states.len();
        if pick.is_multiple_of(2) {
            // Each byte from any of the states.
            for (at, byte) in target.iter_mut().enumerate() {
                let state = states.get(bits.below(count));
                *byte = state.and_then(|state| state.get(at)).copied().unwrap_or(0);
            }
        } else {
            // Cut at a byte: one state before it, another behind it.
            let cut = bits.below(SECTOR_BYTES);
            let (before, behind) = (bits.below(count), bits.below(count));
            for (at, byte) in target.iter_mut().enumerate() {
                let state = states.get(if at < cut { before } else { behind });
                *byte = state.and_then(|state| state.get(at)).copied().unwrap_or(0);
            }
        }
    }

    fn is_written_in_part(&self) -> bool {
        !self.writes.iter().any(|write| write.start == 0 && write.end() == PAGE_BYTES)
    }

    /// Turns the bytes that no write touched into anything.
    fn lose_neighbours(&self, seed: u32, page: &mut Bytes) {
        let mut bits = Bits(u64::from(seed));
        for (at, byte) in page.iter_mut().enumerate() {
            if !self.writes.iter().any(|write| (write.start..write.end()).contains(&at)) {
                *byte = u8::try_from(bits.below(256)).unwrap_or(0);
            }
        }
    }
}

/// A few bits from a seed (`SplitMix64`).
struct Bits(u64);

impl Bits {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((z ^ (z >> 31)) % (bound as u64).max(1)).unwrap_or(0)
    }
}
