//! Metadata that is not what was written: a typed error or a fallback, never a panic, never memory on the word of a
//! damaged count.

use super::{bits, create, memory, one_step, open, options, schema};
use crate::Error;
use crate::format::directory::Directory;
use crate::format::record::Record;
use crate::format::superblock::Superblock;
use crate::format::{META_FILE, PAGE_BYTES};
use crate::storage::{Access, Caching, MemoryVolume, Volume};

fn meta_bytes(volume: &MemoryVolume) -> Vec<u8> {
    let meta = volume.open(META_FILE, Access::Read, Caching::Cached).unwrap();
    let mut bytes = vec![0; usize::try_from(meta.len_bytes().unwrap()).unwrap()];
    meta.read_at(&mut bytes, 0).unwrap();
    bytes
}

fn trained() -> (MemoryVolume, Vec<(u64, Vec<u32>)>) {
    let volume = memory();
    let mut store = create(&volume, &schema(4096), &options()).unwrap();
    let mut known = vec![(0, bits(&store).unwrap())];
    for _ in 0..2 {
        one_step(&mut store).unwrap();
        store.commit(b"record").unwrap();
        known.push((store.step(), bits(&store).unwrap()));
    }
    (volume, known)
}

/// Opens and reads everything; what can be read must be a committed step, bit for bit.
fn judge(volume: &MemoryVolume, known: &[(u64, Vec<u32>)], what: &str) -> bool {
    match open(volume, &options()) {
        Err(
            Error::Damaged(_)
            | Error::Unsupported { .. }
            | Error::NotAStore { .. }
            | Error::Io { .. }
            | Error::Invalid { .. },
        ) => false,
        Err(error) => panic!("{what}: {error}"),
        Ok(store) => match bits(&store) {
            Ok(bits) => {
                assert!(known.contains(&(store.step(), bits)), "{what}: silent damage");
                true
            }
            Err(Error::Damaged(_)) => false,
            Err(error) => panic!("{what}: {error}"),
        },
    }
}

#[test]
fn every_flipped_bit_of_the_metadata_is_found_or_harmless() {
    let (volume, known) = trained();
    let original = meta_bytes(&volume);
    let meta = volume.open(META_FILE, Access::Write, Caching::Cached).unwrap();
    let superblock = Superblock::decode(&original[4096..8192]).unwrap();
    // Every byte that says something, one in 17 of the zeros between, one in 4,096 of the free megabytes of the
    // record homes.
    let record = usize::try_from(superblock.record_offset).unwrap();
    let table = usize::try_from(superblock.table_offset).unwrap();
    let free = record + 1024..table;
    let interesting = |at: usize| {
        let every = if free.contains(&at) { 4096 } else { 17 };
        original[at] != 0 || at.is_multiple_of(every)
    };
    let mut harmless = 0;
    let mut found = 0;
    for at in (0..original.len()).filter(|&at| interesting(at)) {
        // One bit per byte, another one in each neighbour, all eight over eight bytes.
        let flipped = original[at] ^ (1 << (at % 8));
        meta.write_at(&[flipped], at as u64).unwrap();
        if judge(&volume, &known, &format!("bit {} of byte {at}", at % 8)) {
            harmless += 1;
        } else {
            found += 1;
        }
        meta.write_at(&original[at..=at], at as u64).unwrap();
    }
    assert!(found > 100 && harmless > 100, "{found} found, {harmless} harmless");
}

#[test]
fn metadata_cut_short_at_any_sector_is_an_error() {
    let (volume, known) = trained();
    let original = meta_bytes(&volume);
    for sectors in 0..original.len() / 512 {
        if sectors > 64 && !sectors.is_multiple_of(97) {
            continue;
        }
        volume.remove(META_FILE).unwrap();
        let len = sectors as u64 * 512;
        volume.create(META_FILE, len, crate::storage::Allocation::Full).unwrap();
        let meta = volume.open(META_FILE, Access::Write, Caching::Cached).unwrap();
        meta.write_at(&original[..sectors * 512], 0).unwrap();
        assert!(!judge(&volume, &known, &format!("{sectors} sectors")), "{sectors} sectors were accepted");
    }
}

#[test]
fn a_segment_of_another_length_is_named() {
    let (volume, _) = trained();
    volume.remove("exp_avg.0000.1").unwrap();
    volume.create("exp_avg.0000.1", 4096, crate::storage::Allocation::Full).unwrap();
    let error = open(&volume, &options()).unwrap_err().to_string();
    assert!(error.contains("exp_avg.0000.1") && error.contains("4096 bytes"), "{error}");
}

#[test]
fn a_block_pasted_over_another_is_named_and_never_read() {
    let (volume, _) = trained();
    let name = "param.0000.0";
    let segment = volume.open(name, Access::Write, Caching::Cached).unwrap();
    let other = volume.open("param.0000.1", Access::Write, Caching::Cached).unwrap();
    for file in [&segment, &other] {
        let mut block = vec![0; 4096];
        file.read_at(&mut block, 4096).unwrap();
        file.write_at(&block, 0).unwrap();
    }
    let store = open(&volume, &options()).unwrap();
    let error = store.read_into("big", &mut vec![0.0; 9000]).unwrap_err();
    let Error::Damaged(damage) = &error else { panic!("{error}") };
    assert!(damage.what.contains("\"big\"") && damage.what.contains("plane param, block 0"), "{damage}");
    assert_eq!(damage.range, (0, 4096));
    assert!(matches!(store.view("big").map(|_| ()), Err(Error::Damaged(_))));
}

#[test]
fn decoders_of_random_bytes_never_panic() {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let (volume, _) = trained();
    let meta = meta_bytes(&volume);
    let superblock = Superblock::decode(&meta[4096..8192]).unwrap();
    let region = |r: crate::format::superblock::Region| {
        let start = usize::try_from(r.offset).unwrap();
        meta[start..start + usize::try_from(r.bytes).unwrap()].to_vec()
    };
    let (directory, record) = (region(superblock.directory), region(superblock.record));
    Directory::decode(&directory).unwrap();
    Record::decode(&record).unwrap();
    for round in 0..20_000 {
        let mut bytes = if round % 2 == 0 { directory.clone() } else { record.clone() };
        for _ in 0..=next() % 4 {
            let at = usize::try_from(next()).unwrap() % bytes.len();
            bytes[at] = u8::try_from(next() & 0xff).unwrap();
        }
        bytes.truncate(bytes.len() - usize::try_from(next() % 3).unwrap());
        // Most are refused; what is accepted must be usable without a panic.
        if round % 2 == 0 {
            if let Ok(directory) = Directory::decode(&bytes) {
                assert!(directory.slots() > 0);
            }
        } else {
            drop(Record::decode(&bytes));
        }
        let mut page = meta[4096..8192].to_vec();
        let at = usize::try_from(next()).unwrap() % page.len();
        page[at] = u8::try_from(next() & 0xff).unwrap();
        if let Ok(superblock) = Superblock::decode(&page) {
            drop(superblock.validate(next() & !(PAGE_BYTES - 1)));
        }
    }
}

#[test]
fn an_unknown_feature_or_version_is_refused_with_its_name() {
    let (volume, _) = trained();
    let original = meta_bytes(&volume);
    let meta = volume.open(META_FILE, Access::Write, Caching::Cached).unwrap();
    let sealed = |change: &dyn Fn(&mut Superblock)| {
        let mut superblock = Superblock::decode(&original[4096..8192]).unwrap();
        change(&mut superblock);
        superblock.encode()
    };
    meta.write_at(&sealed(&|s| s.incompat = 1 << 40), 4096).unwrap();
    let error = open(&volume, &options()).unwrap_err();
    assert!(matches!(&error, Error::Unsupported { what, .. } if what.contains("0x10000000000")), "{error}");
    meta.write_at(&sealed(&|s| s.ro_compat = 1 << 40), 4096).unwrap();
    assert!(matches!(open(&volume, &options()), Err(Error::Unsupported { .. })));
    crate::ParamStore::open_read_only_in(std::sync::Arc::new(volume.clone()), &options()).unwrap();
    meta.write_at(&sealed(&|s| s.compat = 1 << 40), 4096).unwrap();
    open(&volume, &options()).unwrap();
}
