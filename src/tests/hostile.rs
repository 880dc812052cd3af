//! Metadata that is not what was written, by its length, its features and its version; bits and blocks are in `flips`,
//! bytes of any kind in `fuzz`.

use super::{bits, create, memory, one_step, open, options, schema};
use crate::Error;
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

/// Writes a changed superblock, with a checksum that fits, over one of the two.
fn reseal(volume: &MemoryVolume, slot: usize, change: &dyn Fn(&mut [u8])) {
    let meta = volume.open(META_FILE, Access::Write, Caching::Cached).unwrap();
    let mut page = meta_bytes(volume)[slot * 4096..][..4096].to_vec();
    change(&mut page);
    let crc = crate::format::checksum::crc32(&page[..4092]);
    page[4092..].copy_from_slice(&crc.to_le_bytes());
    meta.write_at(&page, slot as u64 * PAGE_BYTES).unwrap();
}

/// The bit of a kept checkpoint, which is known and keeps a writer out all the same.
const KEPT: &str = "0x2";

/// Whether a writer and a reader may open it; what is refused is refused by the name of the bit.
fn who_may_open(volume: &MemoryVolume, named: &str) -> (bool, bool) {
    let shared = || std::sync::Arc::new(volume.clone());
    let may = |opened: crate::Result<crate::ParamStore>| match opened {
        Ok(_) => true,
        Err(Error::Unsupported { what, .. }) if what.contains(named) => false,
        Err(Error::Kept { .. }) if named == KEPT => false,
        Err(error) => panic!("{error}"),
    };
    let writer = may(open(volume, &options()));
    (writer, may(crate::ParamStore::open_read_only_in(shared(), &options())))
}

#[test]
fn every_unknown_feature_bit_is_ignored_or_allows_reading_or_nothing_by_its_class() {
    let (original, _) = trained();
    for bit in 0..64 {
        for (at, known, expected) in [(16, 0, (true, true)), (24, 1, (false, true)), (32, 31, (false, false))]
        {
            let value = 1_u64 << bit;
            let expected = if known & value != 0 { (true, true) } else { expected };
            let volume = original.copy();
            reseal(&volume, 1, &|page| page[at..at + 8].copy_from_slice(&value.to_le_bytes()));
            assert_eq!(who_may_open(&volume, &format!("{value:#x}")), expected, "bit {bit} at byte {at}");
        }
    }
}

/// A newer format may give the other fields another meaning: a third home of the root, say. It passed for a damaged
/// superblock, and the older generation would have been taken and overwritten.
#[test]
fn an_unknown_feature_counts_before_fields_that_it_may_have_changed() {
    let (volume, _) = trained();
    for slot in [0, 1] {
        let volume = volume.copy();
        reseal(&volume, slot, &|page| {
            page[32..40].copy_from_slice(&(1_u64 << 40).to_le_bytes());
            page[164] = 2;
        });
        assert_eq!(who_may_open(&volume, "0x10000000000"), (false, false), "slot {slot}");
    }
}

#[test]
fn another_version_is_refused_with_both_versions_named() {
    let (original, _) = trained();
    for version in [0_u32, 2, 3, u32::MAX] {
        let volume = original.copy();
        reseal(&volume, 1, &|page| page[12..16].copy_from_slice(&version.to_le_bytes()));
        let named = format!("version {version} (this program knows version 1)");
        assert_eq!(who_may_open(&volume, &named), (false, false));
    }
}

/// Counts that cannot be counted on: the next generation, and the next step, must have a number.
#[test]
fn a_superblock_at_the_end_of_all_counts_is_damaged() {
    let (original, _) = trained();
    for (at, value) in [(56, u64::MAX), (56, (1 << 63) + 1), (64, u64::MAX)] {
        let volume = original.copy();
        for slot in [0, 1] {
            reseal(&volume, slot, &|page| page[at..at + 8].copy_from_slice(&value.to_le_bytes()));
        }
        let error = open(&volume, &options()).unwrap_err();
        assert!(matches!(error, Error::Damaged(_)), "{error}");
    }
}
