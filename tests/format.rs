//! The format as `docs/FORMAT.md` describes it: a decoder written from that document alone, with plain offsets, reads a
//! store that the library wrote. If document and library part, this fails.

#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    reason = "the document prescribes these roundings; counts are small"
)]

#[path = "format/frozen.rs"]
mod frozen;
#[path = "format/initial.rs"]
mod initial;
#[path = "format/numbers.rs"]
mod numbers;

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use initial::{documented_coefficients, initial};
use paramstore::optim::{AdamW, Sgd};
use paramstore::{
    Dtype, Init, Moments, Optimizer, Options, ParamGroup, ParamStore, Precision, Schema, TensorSpec,
};

const PAGE: u64 = 4096;

/// Takes little-endian fields from the front.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let (now, later) = self.0.split_first_chunk().expect("enough bytes");
        self.0 = later;
        *now
    }
    fn u8(&mut self) -> u8 {
        self.take::<1>()[0]
    }
    fn u16(&mut self) -> u16 {
        u16::from_le_bytes(self.take())
    }
    fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.take())
    }
    fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.take())
    }
    fn f32(&mut self) -> f32 {
        f32::from_le_bytes(self.take())
    }
    fn f64(&mut self) -> f64 {
        f64::from_le_bytes(self.take())
    }
    fn string(&mut self) -> String {
        let (text, rest) = self.0.split_at(usize::from(self.0[0]) + 256 * usize::from(self.0[1]) + 2);
        self.0 = rest;
        String::from_utf8(text[2..].to_vec()).unwrap()
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    Fields(&bytes[at..]).u32()
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    Fields(&bytes[at..]).u64()
}

fn read(path: &Path, offset: u64, bytes: u64) -> Vec<u8> {
    let mut out = vec![0; usize::try_from(bytes).unwrap()];
    File::open(path).unwrap().read_exact_at(&mut out, offset).unwrap();
    out
}

/// A plane of an extent: plane, code of its type, fill, segment, offset of the first block.
struct ExtentPlane {
    plane: usize,
    code: u8,
    fill: f32,
    segment: usize,
    offset: u64,
}

struct Extent {
    elements: u64,
    block: u64,
    first_slot: u64,
    planes: Vec<ExtentPlane>,
    scratch: Option<ExtentPlane>,
}

struct Tensor {
    name: String,
    shape: Vec<u64>,
    group: u32,
    init: (u8, f32, f32),
    extent: usize,
    extents: u32,
    offset: u64,
}

struct Store {
    path: PathBuf,
    superblock: Vec<u8>,
    seed: u64,
    planes: Vec<(String, u8)>,
    segments: Vec<(usize, u32, u8, u64)>,
    extents: Vec<Extent>,
    tensors: Vec<Tensor>,
}

/// A table entry of a block's plane.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Entry {
    generation: u64,
    crc: u32,
    home: u8,
}

impl Store {
    /// Sections 2, 3 and 4: the valid superblock with the highest generation, and the directory that it names.
    fn open(path: &Path) -> Self {
        let meta = path.join("meta");
        let slots = [read(&meta, 0, PAGE), read(&meta, PAGE, PAGE)];
        let valid = |page: &&Vec<u8>| {
            &page[..8] == b"PARSTORE" && crc32fast::hash(&page[..4092]) == u32_at(page, 4092)
        };
        let superblock = slots.iter().filter(valid).max_by_key(|page| u64_at(page, 56)).unwrap().clone();
        assert_eq!(superblock, slots[usize::try_from(u64_at(&superblock, 56) % 2).unwrap()]);
        let bytes = read(&meta, u64_at(&superblock, 80), u64_at(&superblock, 88));
        assert_eq!(crc32fast::hash(&bytes), u32_at(&superblock, 96), "the directory's checksum");
        let mut f = Fields(&bytes);
        let seed = f.u64();
        assert_eq!(f.u32(), 2, "parameter groups");
        let planes = (0..f.u32()).map(|_| (f.string(), f.u8())).collect();
        let segments =
            (0..f.u32()).map(|_| (usize::from(f.u16()), f.u32(), f.u8(), f.u64())).collect::<Vec<_>>();
        let extents = (0..f.u32()).map(|_| extent(&mut f)).collect();
        let tensors = (0..f.u32()).map(|_| tensor(&mut f)).collect();
        assert!(f.0.is_empty(), "the directory ends here");
        Self { path: path.to_owned(), superblock, seed, planes, segments, extents, tensors }
    }

    fn generation(&self) -> u64 {
        u64_at(&self.superblock, 56)
    }

    fn uuid(&self) -> &[u8] {
        &self.superblock[40..56]
    }

    /// Section 6: the entry of a slot, by the path from the root, each page checked; `None` below an absent page.
    fn entry(&self, slot: u64) -> Option<[u8; 16]> {
        let table = u64_at(&self.superblock, 144);
        let mut levels = vec![u64_at(&self.superblock, 152).div_ceil(254)];
        while levels.last() != Some(&1) {
            levels.push(levels[levels.len() - 1].div_ceil(508));
        }
        let mut child = self.superblock[160..168].to_vec();
        for level in (0..levels.len()).rev() {
            if child[5] == 0 {
                return None;
            }
            let within = slot / 254 / 508_u64.pow(u32::try_from(level).unwrap());
            let page = levels[..level].iter().sum::<u64>() + within;
            let bytes = read(&self.path.join("meta"), table + (2 * page + u64::from(child[4])) * PAGE, PAGE);
            let crc = crc32fast::hash(&[self.uuid(), &bytes].concat());
            assert_eq!(crc, u32_at(&child, 0), "checksum of page {page}");
            assert_eq!(&bytes[..4], b"PTBL");
            assert_eq!((u32_at(&bytes, 4) as usize, u64_at(&bytes, 8)), (level, page));
            assert!(u64_at(&bytes, 16) <= self.generation());
            if level == 0 {
                let at = 32 + 16 * usize::try_from(slot % 254).unwrap();
                return Some(bytes[at..at + 16].try_into().unwrap());
            }
            let place = slot / 254 / 508_u64.pow(u32::try_from(level - 1).unwrap()) % 508;
            let at = 32 + 8 * usize::try_from(place).unwrap();
            child = bytes[at..at + 8].to_vec();
        }
        None
    }

    fn block_entry(&self, slot: u64) -> Option<Entry> {
        let entry = self.entry(slot)?;
        assert_eq!(entry[13..], [0; 3]);
        Some(Entry { generation: u64_at(&entry, 0), crc: u32_at(&entry, 8), home: entry[12] })
    }

    /// Section 5: the checked bytes of a block's plane, or `None` if it was never written.
    fn block(&self, extent: &Extent, block: u64, plane: usize) -> Option<Vec<f32>> {
        let slot = extent.first_slot + block * extent.planes.len() as u64 + plane as u64;
        let entry = self.block_entry(slot)?;
        if entry.generation == 0 {
            return None;
        }
        let spec = &extent.planes[plane];
        let (of_plane, index, homes, _) = self.segments[spec.segment];
        assert_eq!((of_plane, homes), (spec.plane, 2));
        let file = self.path.join(format!("{}.{index:04}.{}", self.planes[spec.plane].0, entry.home));
        let elements = extent.block.min(extent.elements - block * extent.block);
        let offset = spec.offset + block * numbers::bytes(spec.code, extent.block).next_multiple_of(PAGE);
        let len = numbers::bytes(spec.code, elements);
        let padded = read(&file, offset, len.next_multiple_of(PAGE));
        let (bytes, padding) = padded.split_at(usize::try_from(len).unwrap());
        assert!(padding.iter().all(|&byte| byte == 0), "padding of block {block}");
        let identity = [self.uuid(), &slot.to_le_bytes(), &entry.generation.to_le_bytes(), bytes].concat();
        assert_eq!(crc32fast::hash(&identity), entry.crc, "block {block}, plane {plane}");
        Some(numbers::decode(spec.code, bytes, elements))
    }

    /// A plane of a tensor from its blocks; `unborn` gives what was never written.
    fn plane(&self, tensor: &Tensor, plane: usize, unborn: impl Fn(u64) -> f32) -> Vec<f32> {
        assert_eq!(tensor.extents, 1);
        let extent = &self.extents[tensor.extent];
        let elements = tensor.shape.iter().product::<u64>();
        let mut blocks = HashMap::new();
        (0..elements)
            .map(|i| {
                let at = tensor.offset + i;
                let block = blocks
                    .entry(at / extent.block)
                    .or_insert_with_key(|&block| self.block(extent, block, plane));
                let within = usize::try_from(at % extent.block).unwrap();
                block.as_ref().map_or_else(|| unborn(i), |block| block[within])
            })
            .collect()
    }
}

fn extent(f: &mut Fields<'_>) -> Extent {
    let (elements, block, _first_block, first_slot) = (f.u64(), f.u64(), f.u64(), f.u64());
    let (count, scratch) = (f.u8(), f.u8());
    let plane = |f: &mut Fields<'_>| {
        let (plane, code) = (usize::from(f.u16()), f.u8());
        ExtentPlane { plane, code, fill: f.f32(), segment: f.u32() as usize, offset: f.u64() }
    };
    let planes = (0..count).map(|_| plane(f)).collect();
    let scratch = (scratch == 1).then(|| plane(f));
    Extent { elements, block, first_slot, planes, scratch }
}

fn tensor(f: &mut Fields<'_>) -> Tensor {
    let name = f.string();
    assert!(matches!(f.u8(), 1..=3 | 6..=17), "the type of parameters");
    let shape = (0..f.u8()).map(|_| f.u64()).collect();
    Tensor {
        name,
        shape,
        group: f.u32(),
        init: (f.u8(), f.f32(), f.f32()),
        extent: f.u32() as usize,
        extents: f.u32(),
        offset: f.u64(),
    }
}

fn schema() -> Schema {
    let sgd = Sgd { lr: 0.1, momentum: 0.9, ..Sgd::default() };
    Schema::new()
        .seed(77)
        .block_bytes(4096)
        .gradient_plane(true)
        .group(ParamGroup::new("adamw", Optimizer::AdamW(AdamW::default())))
        .group(ParamGroup::new("sgd", Optimizer::Sgd(sgd)))
        // Three planes of 98 blocks: more slots than one leaf of the table has.
        .tensor(TensorSpec::new("big", &[100, 1000]).init(Init::Normal { mean: 0.5, std: 2.0 }))
        .tensor(TensorSpec::new("bias", &[37]).group("sgd").init(Init::Constant(0.25)))
        .tensor(TensorSpec::new("middle", &[3000]).group("sgd").init(Init::Uniform { low: -1.0, high: 3.0 }))
        .tensor(TensorSpec::new("scale", &[]).group("sgd"))
        .tensor(TensorSpec::new("untouched", &[50_000]).init(Init::Normal { mean: 0.0, std: 1.0 }))
}

/// Updates every tensor but one.
fn one_step(store: &mut ParamStore) {
    let tensors: Vec<_> = store.tensors().map(|t| (t.name().to_owned(), t.elements())).collect();
    let mut step = store.begin_step().unwrap();
    for (name, elements) in tensors.iter().filter(|(name, _)| name != "untouched") {
        let gradient: Vec<f32> = (0..*elements).map(|i| (i % 97) as f32 / 50.0 - 1.0).collect();
        step.apply(name, &gradient).unwrap();
    }
    step.finish().unwrap();
}

fn values(store: &ParamStore, tensor: &str, plane: &str) -> Vec<f32> {
    let mut out = vec![0.0; usize::try_from(store.tensor(tensor).unwrap().elements()).unwrap()];
    store.read_plane_into(tensor, plane, &mut out).unwrap();
    out
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|x| x.to_bits()).collect()
}

/// A store with generations 1 to 3, at step 2.
fn trained(path: &Path) -> ParamStore {
    trained_in(path, Precision::F32)
}

fn trained_in(path: &Path, precision: Precision) -> ParamStore {
    let schema = schema().precision(precision);
    let mut store = ParamStore::create(path, &schema, &Options::new().memory_budget(1 << 20)).unwrap();
    for _ in 0..2 {
        one_step(&mut store);
        store.commit(b"the user's own bytes").unwrap();
    }
    store
}

#[test]
fn every_plane_read_by_the_document_is_what_the_library_reads() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    compare(&trained(&path), &path);
    for moments in [Moments::Q8, Moments::Bf16, Moments::F16] {
        let path = dir.path().join(format!("{moments:?}"));
        let dtype = if moments == Moments::F16 { Dtype::F16 } else { Dtype::Bf16 };
        let library = trained_in(&path, Precision::new(dtype, moments).everywhere());
        assert_eq!(u64_at(&Store::open(&path).superblock, 32), 2, "the incompat bit of few bits");
        compare_written(&library, &path);
    }
    let path = dir.path().join("kahan");
    let library = trained_in(&path, Precision::COMPACT_KAHAN.everywhere());
    let store = Store::open(&path);
    assert_eq!(
        u64_at(&store.superblock, 32),
        2 + 16,
        "the incompat bits of few bits and of what rounding lost"
    );
    compare_written(&library, &path);
    for tensor in store.tensors.iter().filter(|tensor| tensor.name != "untouched") {
        let extent = &store.extents[tensor.extent];
        let last = extent.planes.len() - 1;
        assert_eq!(store.planes[extent.planes[last].plane].0, "compensation");
        let plane = |at| store.plane(tensor, at, |i| panic!("element {i} was never written"));
        for (param, lost) in plane(0).into_iter().zip(plane(last)) {
            assert!(lost.abs() <= param.abs() / 256.0, "{lost:e} of {param:e} is at most half a last place");
            assert!([param, lost].iter().all(|x| half::bf16::from_f32(*x).to_f32().to_bits() == x.to_bits()));
        }
    }
}

/// As `compare`, of what was written: initial values are rounded.
fn compare_written(library: &ParamStore, path: &Path) {
    let store = Store::open(path);
    for tensor in store.tensors.iter().filter(|tensor| tensor.name != "untouched") {
        for (at, spec) in store.extents[tensor.extent].planes.iter().enumerate() {
            let read = store.plane(tensor, at, |i| panic!("element {i} was never written"));
            let name = &store.planes[spec.plane].0;
            assert!(bits(&read) == bits(&values(library, &tensor.name, name)), "{} {name}", tensor.name);
        }
    }
}

/// Section 17: a checkpoint is read like a store, says that it is one, and has no more than its generation.
#[test]
fn a_checkpoint_read_by_the_document_is_the_generation_that_was_kept() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let mut library = trained(&path);
    library.keep("a.b-c").unwrap();
    let of_store = Store::open(&path);
    let kept = path.join("checkpoints").join("a.b-c");
    compare(&library, &kept);
    one_step(&mut library);
    library.commit(b"later").unwrap();
    let s = Store::open(&kept).superblock;
    assert_eq!((u64_at(&s, 16), u64_at(&s, 24), u64_at(&s, 32)), (0, 3, 0));
    assert_eq!(s[40..72], of_store.superblock[40..72], "uuid, generation and step");
    assert_eq!(s[80..172], of_store.superblock[80..172], "the map and the root");
    assert_eq!(read(&kept.join("meta"), (1 - u64_at(&s, 56) % 2) * PAGE, PAGE), [0; PAGE as usize]);
    let (record, other) = (u64_at(&s, 104), 2 * u64_at(&s, 128) + u64_at(&s, 136) - u64_at(&s, 104));
    assert!(u64_at(&read(&kept.join("meta"), record, 8), 0) != 0);
    assert_eq!(u64_at(&read(&kept.join("meta"), other, 8), 0), 0, "the other record home");
    let names = |path: &Path| -> std::collections::BTreeMap<_, _> {
        let entries = std::fs::read_dir(path).unwrap().map(Result::unwrap);
        entries
            .filter(|entry| !["checkpoints", "live", "metrics"].map(Into::into).contains(&entry.file_name()))
            .map(|entry| (entry.file_name(), entry.metadata().unwrap().len()))
            .collect()
    };
    assert_eq!(names(&kept), names(&path), "the same files with the same lengths");
}

fn compare(library: &ParamStore, path: &Path) {
    let store = Store::open(path);
    let coefficients = documented_coefficients();
    assert_eq!(store.tensors.len(), 5);
    for tensor in &store.tensors {
        let extent = &store.extents[tensor.extent];
        for (at, spec) in extent.planes.iter().enumerate() {
            let name = &store.planes[spec.plane].0;
            let unborn = |i| {
                if at == 0 { initial(store.seed, tensor, i, &coefficients) } else { spec.fill }
            };
            let read = store.plane(tensor, at, unborn);
            assert!(bits(&read) == bits(&values(library, &tensor.name, name)), "{} {name}", tensor.name);
        }
        let steps = store.entry(tensor_slot(&store, &tensor.name)).map_or(0, |entry| u64_at(&entry, 0));
        assert_eq!(steps, if tensor.name == "untouched" { 0 } else { 2 }, "{}", tensor.name);
    }
}

fn tensor_slot(store: &Store, name: &str) -> u64 {
    store.tensors.iter().position(|tensor| tensor.name == name).unwrap() as u64
}

#[test]
fn initial_values_follow_the_documented_generator() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let library = ParamStore::create(&path, &schema(), &Options::new().memory_budget(1 << 20)).unwrap();
    let store = Store::open(&path);
    let coefficients = documented_coefficients();
    assert!((0..u64_at(&store.superblock, 152)).all(|slot| store.entry(slot).is_none()), "an absent root");
    for tensor in &store.tensors {
        let expected = values(&library, &tensor.name, "param");
        let made: Vec<f32> =
            (0..).zip(&expected).map(|(i, _)| initial(store.seed, tensor, i, &coefficients)).collect();
        assert!(bits(&made) == bits(&expected), "{}", tensor.name);
    }
}

#[test]
fn superblock_fields_stand_where_the_document_says() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let library = trained(&path);
    let store = Store::open(&path);
    let s = &store.superblock;
    assert_eq!((u32_at(s, 8), u32_at(s, 12)), (0x0102_0304, 1));
    assert_eq!((u64_at(s, 16), u64_at(s, 24), u64_at(s, 32)), (0, 0, 0));
    assert_eq!((u64_at(s, 56), u64_at(s, 64)), (library.generation(), library.step()));
    assert_eq!((u64_at(s, 56), u64_at(s, 64)), (3, 2));
    let older = read(&path.join("meta"), 0, PAGE);
    assert_eq!((u64_at(&older, 56), u32_at(&older, 4092)), (2, u32_at(s, 168)), "the parent");
    let writer = String::from_utf8(s[176..208].to_vec()).unwrap();
    assert_eq!(writer.trim_end_matches('\0'), concat!("paramstore ", env!("CARGO_PKG_VERSION")));
    assert!(s[100..104] == [0; 4] && s[124..128] == [0; 4] && s[172..176] == [0; 4]);
    assert!(s[208..4092].iter().all(|&byte| byte == 0));
    let age = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs() - u64_at(s, 72);
    assert!(age < 3600, "created {age} s ago");
}

#[test]
fn parts_of_the_metadata_file_abut_and_fill_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    drop(trained(&path));
    let store = Store::open(&path);
    let s = &store.superblock;
    let (record_offset, capacity) = (u64_at(s, 128), u64_at(s, 136));
    assert_eq!(u64_at(s, 80), 2 * PAGE);
    assert_eq!(record_offset, u64_at(s, 80) + u64_at(s, 88).next_multiple_of(PAGE));
    assert!([record_offset, record_offset + capacity].contains(&u64_at(s, 104)));
    assert_eq!(u64_at(s, 144), record_offset + 2 * capacity);
    let slots = u64_at(s, 152);
    let of_extents: u64 =
        store.extents.iter().map(|e| e.elements.div_ceil(e.block) * e.planes.len() as u64).sum();
    assert_eq!(slots, store.tensors.len() as u64 + of_extents);
    assert!(slots > 254, "{slots} slots");
    let pages = slots.div_ceil(254) + 1;
    assert_eq!(std::fs::metadata(path.join("meta")).unwrap().len(), u64_at(s, 144) + 2 * PAGE * pages);
}

#[test]
fn record_holds_the_groups_and_the_users_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let mut library = trained(&path);
    library.group_mut("sgd").unwrap().set_lr(0.075).unwrap();
    library.commit(b"later").unwrap();
    let store = Store::open(&path);
    let s = &store.superblock;
    let bytes = read(&path.join("meta"), u64_at(s, 104), u64_at(s, 112));
    assert_eq!(crc32fast::hash(&bytes), u32_at(s, 120));
    let mut f = Fields(&bytes);
    let mut groups = HashMap::new();
    for _ in 0..f.u32() {
        let (name, optimizer) = (f.string(), f.string());
        let settings: HashMap<_, _> = (0..f.u32()).map(|_| (f.string(), f.f64())).collect();
        groups.insert(name, (optimizer, settings));
    }
    assert_eq!(groups["sgd"].0, "sgd");
    assert_eq!((groups["sgd"].1["lr"], groups["sgd"].1["momentum"]), (0.075, 0.9));
    assert_eq!((groups["adamw"].0.as_str(), groups["adamw"].1["beta2"]), ("adamw", 0.999));
    assert_eq!(f.u32(), 5);
    assert_eq!(f.0, b"later");
    assert_eq!(store.tensors.iter().map(|tensor| tensor.group).collect::<Vec<_>>(), [0, 1, 1, 1, 0]);
}

#[test]
fn files_are_those_of_the_document_with_their_lengths() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    drop(trained(&path));
    let store = Store::open(&path);
    let mut expected: HashMap<String, Option<u64>> = HashMap::from([
        ("meta".to_owned(), None),
        ("lock".to_owned(), Some(64)),
        ("progress".to_owned(), Some(64)),
        // Both parities have been worked on.
        ("pin.0".to_owned(), Some(64)),
        ("pin.1".to_owned(), Some(64)),
        // For people who look on.
        ("live".to_owned(), Some(PAGE)),
        ("metrics".to_owned(), Some(1 << 20)),
    ]);
    for (plane, index, homes, bytes) in &store.segments {
        for home in 0..*homes {
            expected.insert(format!("{}.{index:04}.{home}", store.planes[*plane].0), Some(*bytes));
        }
    }
    assert!(expected.contains_key("exp_avg_sq.0000.1") && !expected.contains_key("grad.0000.1"));
    let mut found = 0;
    for entry in std::fs::read_dir(&path).unwrap() {
        let entry = entry.unwrap();
        let metadata = entry.metadata().unwrap();
        let length = expected.get(entry.file_name().to_str().unwrap()).expect("a file of the document");
        assert!(length.is_none_or(|length| length == metadata.len()), "{entry:?}");
        assert_eq!(metadata.permissions().mode() & 0o777, 0o600, "{entry:?}");
        found += 1;
    }
    assert_eq!(found, expected.len());
    assert_eq!(store.planes.iter().map(|(_, role)| *role).collect::<Vec<_>>(), [0, 1, 1, 1, 2]);
    assert!(store.extents.iter().all(|extent| extent.scratch.is_some()));
}

#[test]
fn a_block_moves_to_its_other_home_with_the_first_write_after_a_commit() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let mut library = trained(&path);
    let before = Store::open(&path);
    one_step(&mut library);
    one_step(&mut library);
    library.commit(b"").unwrap();
    let after = Store::open(&path);
    let touched = before.extents[0].first_slot..before.extents[0].first_slot + 3 * 98;
    for slot in touched {
        let (old, new) = (before.block_entry(slot).unwrap(), after.block_entry(slot).unwrap());
        assert_eq!((old.generation, new.generation), (3, 4));
        assert_eq!(new.home, 1 - old.home, "slot {slot}");
    }
}

#[test]
fn small_tensors_share_a_block_at_multiples_of_sixteen_elements() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    drop(trained(&path));
    let store = Store::open(&path);
    let of = |name: &str| &store.tensors[usize::try_from(tensor_slot(&store, name)).unwrap()];
    assert_eq!(of("bias").extent, of("scale").extent);
    assert_ne!(of("bias").extent, of("middle").extent);
    assert_eq!((of("bias").offset, of("scale").offset), (0, 48));
}

#[test]
fn progress_note_counts_steps_after_the_commit() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let mut library = trained(&path);
    one_step(&mut library);
    let note = read(&path.join("progress"), 0, 64);
    let store = Store::open(&path);
    assert_eq!((&note[..8], &note[8..24]), (&b"PARSTEPS"[..], store.uuid()));
    assert_eq!((u64_at(&note, 24), u64_at(&note, 32), u32_at(&note, 40)), (3, 3, std::process::id()));
    assert!(note[44..60].iter().all(|&byte| byte == 0));
    assert_eq!(crc32fast::hash(&note[..60]), u32_at(&note, 60));
}
