//! A whole store with changed bytes.
//!
//! An input is a choice of store (first byte; its highest bit asks to make all checksums of the metadata fit
//! afterwards) and a list of changes: which file, what kind, where, with what.

use std::sync::{Arc, OnceLock};

use super::Input;
use crate::error::{Error, Result};
use crate::format::checksum::{crc32, page_crc};
use crate::format::page::{CHILDREN_PER_PAGE, PageIndex, TableShape};
use crate::format::superblock::{Superblock, superblock_crc};
use crate::format::{META_FILE, PAGE_BYTES, Uuid};
use crate::inspect::VerifyOptions;
use crate::layout::place;
use crate::optim::{AdamW, Optimizer, Sgd};
use crate::storage::{Access, Caching, MemoryVolume, Segment, Volume};
use crate::store::Creation;
use crate::units::to_usize;
use crate::{Init, Options, ParamGroup, ParamStore, Schema, TensorSpec};

/// Most changes of one input.
const CHANGES_MAX: usize = 32;
/// Bytes of each home of the record in a [`compact`] store.
const RECORD_BYTES: u64 = 4096;

/// A store, and the digests of its committed generations.
pub(crate) struct Base {
    pub(crate) volume: MemoryVolume,
    pub(crate) digests: Vec<String>,
}

pub(crate) fn options() -> Options {
    Options::new().memory_budget(256 << 10).io_threads(1)
}

/// The stores that inputs change: one with two optimizers and three generations, one with a table of two levels, one
/// that was never trained. Their metadata files are [`compact`], so that most places in them say something.
pub(crate) fn bases() -> &'static [Base] {
    static BASES: OnceLock<Vec<Base>> = OnceLock::new();
    BASES.get_or_init(|| {
        vec![base(&rich(), false, 2, true), base(&wide(), true, 1, true), base(&rich(), false, 0, false)]
    })
}

fn rich() -> Schema {
    let sgd = Sgd { lr: 0.1, momentum: 0.9, ..Sgd::default() };
    Schema::new()
        .seed(5)
        .block_bytes(4096)
        .gradient_plane(true)
        .group(ParamGroup::new("adamw", Optimizer::AdamW(AdamW::default())))
        .group(ParamGroup::new("sgd", Optimizer::Sgd(sgd)))
        .tensor(TensorSpec::new("big", &[3, 700]).init(Init::Normal { mean: 0.0, std: 1.0 }))
        .tensor(TensorSpec::new("bias", &[37]).group("sgd").init(Init::Constant(0.5)))
        .tensor(TensorSpec::new("scale", &[]))
}

fn wide() -> Schema {
    let group = ParamGroup::new("all", Optimizer::Sgd(Sgd { momentum: 0.9, ..Sgd::default() }));
    let schema = Schema::new().block_bytes(4096).group(group);
    (0..260).fold(schema, |schema, i| schema.tensor(TensorSpec::new(format!("t{i}"), &[1 + i % 3])))
}

/// Makes a store that takes and commits some steps, and leaves one more uncommitted if asked to: that one overwrites
/// blocks of the older generation.
pub(crate) fn base(schema: &Schema, sparse: bool, commits: u64, lost: bool) -> Base {
    let (volume, digests) = trained(schema, sparse, commits, lost).unwrap_or_else(|e| panic!("{e}"));
    Base { volume: compact(&volume), digests }
}

fn trained(schema: &Schema, sparse: bool, commits: u64, lost: bool) -> Result<(MemoryVolume, Vec<String>)> {
    let volume = MemoryVolume::new("store");
    let request = schema.request(options().budget_bytes())?;
    let record = crate::format::record::Record::first(schema.group_records(), 0);
    // Not at random, so that an input means the same in every run.
    let creation = Creation { directory: place(&request)?, record, uuid: Uuid([0x5a; 16]), sparse };
    crate::store::create(&(Arc::new(volume.clone()) as Arc<dyn Volume>), &creation)?;
    let mut store = ParamStore::open_in(Arc::new(volume.clone()), &options())?;
    let mut digests = vec![store.digest()?.to_string()];
    for _ in 0..commits {
        one_step(&mut store)?;
        store.commit(&store.step().to_le_bytes())?;
        digests.push(store.digest()?.to_string());
    }
    if lost {
        one_step(&mut store)?;
    }
    drop(store);
    Ok((volume, digests))
}

pub(crate) fn one_step(store: &mut ParamStore) -> Result<()> {
    let tensors: Vec<_> = store.tensors().map(|t| (t.name().to_owned(), t.elements())).collect();
    let now = store.step();
    let mut step = store.begin_step()?;
    for (name, elements) in tensors {
        // The step may be any that a superblock can hold.
        let number = |i: u64| (i * 31).wrapping_add(now.wrapping_mul(7)) % 251;
        let value = |i: u64| f32::from(u8::try_from(number(i)).unwrap_or(0)) / 125.0 - 1.0;
        step.apply(&name, &(0..elements).map(value).collect::<Vec<_>>())?;
    }
    step.finish().map(|_| ())
}

pub(crate) fn file(volume: &MemoryVolume, name: &str) -> Arc<dyn Segment> {
    volume.open(name, Access::Write, Caching::Cached).unwrap_or_else(|e| panic!("{e}"))
}

pub(crate) fn read(file: &Arc<dyn Segment>, offset: u64, bytes: u64) -> Vec<u8> {
    let mut out = vec![0; to_usize(bytes)];
    file.read_at(&mut out, offset).unwrap_or_else(|e| panic!("{e}"));
    out
}

fn write(file: &Arc<dyn Segment>, bytes: &[u8], offset: u64) {
    file.write_at(bytes, offset).unwrap_or_else(|e| panic!("{e}"));
}

/// The same store with record homes of one page each instead of a megabyte.
pub(crate) fn compact(volume: &MemoryVolume) -> MemoryVolume {
    let (volume, old) = (volume.copy(), file(&volume.copy(), META_FILE));
    let mut superblocks: Vec<_> = [0, PAGE_BYTES]
        .iter()
        .filter_map(|&at| Superblock::decode(&read(&old, at, PAGE_BYTES)).ok())
        .collect();
    superblocks.sort_by_key(|superblock| superblock.generation);
    let meta = file(&volume, META_FILE);
    let mut parent_crc = 0;
    for mut superblock in superblocks {
        let was = superblock.clone();
        superblock.parent_crc = parent_crc;
        superblock.record_capacity = RECORD_BYTES;
        superblock.table_offset = was.record_offset + 2 * RECORD_BYTES;
        if was.record.offset != was.record_offset {
            superblock.record.offset = was.record_offset + RECORD_BYTES;
        }
        let table = TableShape::new(was.table_slots).and_then(|shape| shape.bytes()).unwrap_or(0);
        write(&meta, &read(&old, was.record_offset, RECORD_BYTES), was.record_offset);
        write(
            &meta,
            &read(&old, was.record_offset + was.record_capacity, RECORD_BYTES),
            was.record_offset + RECORD_BYTES,
        );
        write(&meta, &read(&old, was.table_offset, table), superblock.table_offset);
        let page = superblock.encode();
        parent_crc = superblock_crc(&page).unwrap_or(0);
        write(&meta, &page, Superblock::slot_offset(superblock.generation));
        volume.resize(META_FILE, superblock.table_offset + table).unwrap_or_else(|e| panic!("{e}"));
    }
    volume
}

/// Changes a store as the bytes say, and does with it what a user would do.
pub(super) fn open(bytes: &[u8]) {
    let mut input = Input(bytes);
    let choice = input.u8();
    let base = &bases()[usize::from(choice & 0x7f) % bases().len()];
    let volume = base.volume.copy();
    let mut is_meta_whole = true;
    for _ in 0..CHANGES_MAX {
        if input.is_empty() {
            break;
        }
        is_meta_whole &= change(&volume, &mut input);
    }
    let is_resealed = choice & 0x80 != 0 && is_meta_whole;
    if is_resealed {
        reseal(&file(&volume, META_FILE));
    }
    judge(&volume, (!is_resealed).then_some(&base.digests));
}

/// Makes one change; false if the metadata file has another length since.
fn change(volume: &MemoryVolume, input: &mut Input<'_>) -> bool {
    let names = volume.list().unwrap_or_default();
    let selector = input.u8();
    // Most changes fall into the metadata file.
    let name = match names.get(usize::from(selector)) {
        Some(name) => name.as_str(),
        None => META_FILE,
    };
    if !names.iter().any(|other| other == name) {
        return false;
    }
    let (file, kind) = (file(volume, name), input.u8());
    let len = file.len_bytes().unwrap_or(0);
    if len == 0 {
        return name != META_FILE;
    }
    let at = input.below(len);
    let fit = |bytes: &[u8]| bytes.len().min(to_usize(len - at));
    match kind % 7 {
        0 => {
            let byte = read(&file, at, 1)[0] ^ (1 << (input.u8() % 8));
            write(&file, &[byte], at);
        }
        1 => {
            let value = input.u64().to_le_bytes();
            write(&file, &value[..fit(&value)], at);
        }
        2 => {
            let count = usize::from(input.u8());
            let value = input.bytes(count);
            write(&file, &value[..fit(value)], at);
        }
        3 => {
            let value = input.u8();
            let value = vec![value; to_usize(1 + input.below(5000))];
            write(&file, &value[..fit(&value)], at);
        }
        4 => {
            // A page from elsewhere in the file, to a page's place.
            let page = read(&file, at & !(PAGE_BYTES - 1), PAGE_BYTES.min(len - (at & !(PAGE_BYTES - 1))));
            let to = input.below(len) & !(PAGE_BYTES - 1);
            write(&file, &page[..page.len().min(to_usize(len - to))], to);
        }
        5 => {
            let len = if input.u8() & 1 == 0 { at } else { len + at };
            volume.resize(name, len).unwrap_or_else(|e| panic!("{e}"));
            return name != META_FILE;
        }
        _ => {
            volume.remove(name).unwrap_or_else(|e| panic!("{e}"));
            return name != META_FILE;
        }
    }
    true
}

/// Makes every checksum of the metadata fit that can be found from the superblocks as they are.
fn reseal(meta: &Arc<dyn Segment>) {
    let len = meta.len_bytes().unwrap_or(0);
    for slot in [0, PAGE_BYTES] {
        let mut page = read(meta, slot, PAGE_BYTES);
        let number =
            |page: &[u8], at: usize| u64::from_le_bytes(page[at..at + 8].try_into().unwrap_or_default());
        if page.iter().all(|&byte| byte == 0) {
            continue;
        }
        for region in [80, 104] {
            let (offset, bytes) = (number(&page, region), number(&page, region + 8));
            if offset.checked_add(bytes).is_some_and(|end| end <= len) {
                let crc = crc32(&read(meta, offset, bytes));
                page[region + 16..region + 20].copy_from_slice(&crc.to_le_bytes());
            }
        }
        let uuid = Uuid(page[40..56].try_into().unwrap_or_default());
        let (table_offset, slots) = (number(&page, 144), number(&page, 152));
        if let Some(shape) = TableShape::new(slots)
            && shape.bytes().and_then(|bytes| bytes.checked_add(table_offset)).is_some_and(|end| end <= len)
        {
            let table = Table { meta, shape: &shape, offset: table_offset, uuid };
            let (present, home) = (page[165] == 1, page[164]);
            if present && home < 2 {
                let crc = table.reseal(shape.root(), home);
                page[160..164].copy_from_slice(&crc.to_le_bytes());
            }
        }
        let crc = crc32(&page[..4092]);
        page[4092..].copy_from_slice(&crc.to_le_bytes());
        write(meta, &page, slot);
    }
}

struct Table<'a> {
    meta: &'a Arc<dyn Segment>,
    shape: &'a TableShape,
    offset: u64,
    uuid: Uuid,
}

impl Table<'_> {
    /// Makes the checksums in a page fit its children; returns its own.
    fn reseal(&self, index: PageIndex, home: u8) -> u32 {
        let offset = TableShape::offset(self.offset, index, home);
        let mut page = read(self.meta, offset, PAGE_BYTES);
        for place in 0..CHILDREN_PER_PAGE {
            let Some(child) = self.shape.child_of(index, place) else { break };
            let at = 32 + 8 * to_usize(place);
            if page[at + 5] == 1 && page[at + 4] < 2 {
                let crc = self.reseal(child, page[at + 4]);
                page[at..at + 4].copy_from_slice(&crc.to_le_bytes());
            }
        }
        write(self.meta, &page, offset);
        page_crc(self.uuid, &page)
    }
}

/// Does with a store what a user would do. With `known` digests of committed generations, nothing else may be read.
pub(crate) fn judge(volume: &MemoryVolume, known: Option<&Vec<String>>) {
    let shared: Arc<dyn Volume> = Arc::new(volume.clone());
    let verification =
        crate::inspect::verify::verify_in(&shared, &VerifyOptions::new().io_threads(1), &mut |_| {});
    let mut seen = None;
    if let Ok(reader) = ParamStore::open_read_only_in(Arc::clone(&shared), &options()) {
        let summary = reader.summary().map(|summary| (summary.disk.total(), summary.bytes_on_disk));
        if let Ok((total, bytes)) = summary
            && known.is_some()
        {
            assert_eq!(total, bytes);
        }
        match reader.digest() {
            Ok(digest) => {
                let digest = digest.to_string();
                assert!(known.is_none_or(|known| known.contains(&digest)), "a reader saw silent damage");
                seen = Some(digest);
            }
            Err(error) => {
                let sound = verification.as_ref().is_ok_and(|result| result.is_sound() && result.complete);
                assert!(!sound, "verified, and yet: {error}");
            }
        }
    }
    let Ok(mut store) = ParamStore::open_in(Arc::clone(&shared), &options()) else { return };
    // Beside a writer: another one is refused, and told who it is if the lock file says so.
    let second = ParamStore::open_in(Arc::clone(&shared), &options());
    assert!(matches!(second, Err(Error::Locked { .. })));
    if let Ok(digest) = store.digest() {
        let digest = digest.to_string();
        assert!(known.is_none_or(|known| known.contains(&digest)), "a writer saw silent damage");
        assert!(seen.is_none_or(|seen| seen == digest), "reader and writer part");
    }
    let trained = one_step(&mut store).and_then(|()| {
        store.commit(b"after")?;
        Ok((store.digest()?.to_string(), store.generation()))
    });
    drop(store);
    let Ok((digest, generation)) = trained else { return };
    let reopened =
        ParamStore::open_in(shared, &options()).unwrap_or_else(|e| panic!("committed, and yet: {e}"));
    assert_eq!((reopened.generation(), reopened.user_record()), (generation, &b"after"[..]));
    assert_eq!(reopened.digest().unwrap_or_else(|e| panic!("{e}")).to_string(), digest);
}
