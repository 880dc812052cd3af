//! Bytes that changed by themselves: every bit of a small store's metadata, every sector that may be missing, and blocks
//! that are damaged, swapped or of yesterday. Each is found, or harmless: proved by the digest of what opens.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use crate::error::{Error, Result};
use crate::format::segment_file;
use crate::fuzzing::image::{Base, base, bases, file, options, read};
use crate::inspect::{Finding, VerifyOptions};
use crate::layout::{block_of_slot, block_place};
use crate::optim::{AdamW, Optimizer, Sgd};
use crate::storage::{Access, Caching, MemoryVolume, Volume};
use crate::store::{BlockStore, Generation};
use crate::units::{SlotIndex, to_u64};
use crate::{ParamGroup, ParamStore, Schema, TensorSpec};

/// What became of a store after one change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Outcome {
    /// `open`, or a read after it, says what is damaged.
    Refused,
    /// The older generation, and `open` says so.
    FellBack,
    /// The newest generation, and `open` tells of damage to the other.
    Told,
    /// The newest generation, every value of it; the bytes have no meaning for it.
    Harmless,
}

/// Opens for writing and reads everything. Values other than committed ones, or an older generation without a word,
/// fail the test.
fn outcome(volume: &MemoryVolume, digests: &[String], what: &str) -> Outcome {
    let opened = ParamStore::open_in(Arc::new(volume.clone()), &options());
    let read = opened.and_then(|store| Ok((store.digest()?.to_string(), store.recovery().clone())));
    match read {
        Err(Error::Damaged(_) | Error::Unsupported { .. } | Error::NotAStore { .. }) => Outcome::Refused,
        // A sector that is not there.
        Err(Error::Io { ref source, .. }) if source.kind() == std::io::ErrorKind::UnexpectedEof => {
            Outcome::Refused
        }
        Err(error) => panic!("{what}: {error}"),
        Ok((digest, recovery)) => {
            let newest = digests.last() == Some(&digest);
            assert!(newest || digests.contains(&digest), "{what}: silent damage");
            assert!(newest || recovery.fell_back, "{what}: an older generation without a word");
            match (newest, recovery.damaged) {
                (false, _) => Outcome::FellBack,
                (true, true) => Outcome::Told,
                (true, false) => Outcome::Harmless,
            }
        }
    }
}

/// Runs numbers up to `end` on several threads, and counts what came out.
fn count<T: Ord + Send>(end: usize, one: impl Fn(usize) -> T + Sync) -> BTreeMap<T, usize> {
    let (next, counts) = (AtomicUsize::new(0), Mutex::new(BTreeMap::new()));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while let Some(i) = Some(next.fetch_add(1, Ordering::Relaxed)).filter(|&i| i < end) {
                    let result = one(i);
                    *counts.lock().unwrap().entry(result).or_default() += 1;
                }
            });
        }
    });
    counts.into_inner().unwrap()
}

/// The smallest store with everything in it: two optimizers, four planes, three generations.
fn small() -> Base {
    let sgd = Sgd { lr: 0.1, momentum: 0.9, ..Sgd::default() };
    let schema = Schema::new()
        .block_bytes(4096)
        .group(ParamGroup::new("a", Optimizer::AdamW(AdamW::default())))
        .group(ParamGroup::new("s", Optimizer::Sgd(sgd)))
        .tensor(TensorSpec::new("w", &[5]))
        .tensor(TensorSpec::new("b", &[3]).group("s"));
    base(&schema, false, 2, false)
}

fn flip(volume: &MemoryVolume, name: &str, bit: usize) {
    let (file, at) = (file(volume, name), to_u64(bit / 8));
    file.write_at(&[read(&file, at, 1)[0] ^ (1 << (bit % 8))], at).unwrap();
}

/// Every file but the segments: the metadata, whose every bit is flipped, and what is never believed.
const METADATA: [&str; 5] = ["meta", "lock", "pin.0", "pin.1", "progress"];

/// Flips bits of every file of [`METADATA`]: all of them, or those that say something and one in seven of the others.
fn flip_metadata(all: bool) {
    let base = small();
    for name in METADATA {
        let bits = 8 * usize::try_from(file(&base.volume, name).len_bytes().unwrap()).unwrap();
        let says_something = |bit: usize| bit / 8 % 4096 < 512 || bit / 8 % 4096 >= 4088;
        let chosen: Vec<_> = (0..bits).filter(|&bit| all || says_something(bit) || bit % 7 == 0).collect();
        let counts = count(chosen.len(), |number| {
            let (volume, bit) = (base.volume.copy(), chosen[number]);
            flip(&volume, name, bit);
            outcome(&volume, &base.digests, &format!("bit {bit} of {name}"))
        });
        println!("{name}: {} of {bits} bits flipped: {counts:?}", chosen.len());
        assert_eq!(counts.values().sum::<usize>(), chosen.len());
        if name == "meta" {
            // Seven pages: two superblocks, directory, two records, two homes of one table page.
            assert_eq!(bits, 7 * 4096 * 8);
            let least = if all { 4096 * 8 } else { 4096 * 8 / 7 };
            // The newest superblock and its table page; the older superblock; the directory, which stands once.
            assert!(counts[&Outcome::FellBack] > 2 * least && counts[&Outcome::Told] >= least, "{counts:?}");
            assert!(counts[&Outcome::Refused] > 1000, "{counts:?}");
        } else {
            assert_eq!(counts, BTreeMap::from([(Outcome::Harmless, chosen.len())]), "{name}");
        }
    }
}

#[test]
fn flipped_bits_of_the_metadata_are_found_or_harmless() {
    flip_metadata(false);
}

#[test]
#[ignore = "takes minutes: every bit"]
fn every_flipped_bit_of_the_metadata_is_found_or_harmless() {
    flip_metadata(true);
}

/// The reader's way in, and what `verify` says: not for every bit, since both look again for some milliseconds where
/// they see damage.
fn readers_and_verify(every: usize) {
    let base = small();
    let bits = 8 * usize::try_from(file(&base.volume, "meta").len_bytes().unwrap()).unwrap();
    let counts = count(bits / every, |number| {
        // One in each stretch, at another place in each.
        let bit = number * every + number * 7919 % every;
        let volume = base.volume.copy();
        flip(&volume, "meta", bit);
        let shared: Arc<dyn Volume> = Arc::new(volume.copy());
        let reader = ParamStore::open_read_only_in(Arc::clone(&shared), &options());
        let seen = reader.and_then(|store| Ok(store.digest()?.to_string()));
        assert!(
            seen.as_ref().map_or(true, |digest| base.digests.contains(digest)),
            "bit {bit}: silent damage"
        );
        let verification =
            crate::inspect::verify::verify_in(&shared, &VerifyOptions::new().io_threads(1), &mut |_| {})
                .unwrap();
        let outcome = outcome(&volume, &base.digests, &format!("bit {bit}"));
        // A writer beside gives the same answer, and `verify` finds exactly what is no harm to nobody.
        assert_eq!(seen.is_err(), outcome == Outcome::Refused, "bit {bit}");
        assert_eq!(verification.is_sound(), outcome == Outcome::Harmless, "bit {bit}: {verification:?}");
        outcome
    });
    println!("{} bits through a reader and verify: {counts:?}", bits / every);
    assert_eq!(counts.len(), 4, "{counts:?}");
}

#[test]
fn readers_and_verify_agree_with_the_writer_about_flipped_bits() {
    readers_and_verify(97);
}

#[test]
#[ignore = "takes minutes: every bit"]
fn readers_and_verify_agree_with_the_writer_about_every_flipped_bit() {
    readers_and_verify(1);
}

#[test]
fn files_that_end_at_any_sector_or_go_on_are_found_or_harmless() {
    for base in [small(), Base { volume: bases()[0].volume.copy(), digests: bases()[0].digests.clone() }] {
        let mut cuts = 0;
        for name in base.volume.list().unwrap() {
            let len = file(&base.volume, &name).len_bytes().unwrap();
            let lengths: Vec<_> =
                (0..len).step_by(512).chain([1, 511, 512, 4096, 1 << 30].map(|more| len + more)).collect();
            cuts += lengths.len();
            count(lengths.len(), |i| {
                let volume = base.volume.copy();
                volume.resize(&name, lengths[i]).unwrap();
                let what = format!("{name} of {} bytes instead of {len}", lengths[i]);
                if lengths[i] > len {
                    file(&volume, &name).write_at(&[0xa5], lengths[i] - 1).unwrap();
                }
                let outcome = outcome(&volume, &base.digests, &what);
                let small_file = METADATA[1..].contains(&name.as_str());
                let expected = if small_file { Outcome::Harmless } else { Outcome::Refused };
                assert_eq!(outcome, expected, "{what}");
                let reader = ParamStore::open_read_only_in(Arc::new(volume.copy()), &options());
                assert_eq!(reader.is_ok(), small_file, "{what}");
            });
        }
        println!("{cuts} lengths of files");
        assert!(cuts > 150, "{cuts}");
    }
}

/// A written plane of a block: where it is said to be, and the name of the file.
struct Place {
    slot: SlotIndex,
    file: String,
    other_home: String,
    tensor: &'static str,
    plane: String,
    block: u64,
    range: (u64, u64),
}

/// The written planes of all blocks of the first base.
fn places(volume: &MemoryVolume) -> Result<Vec<Place>> {
    let mut store = BlockStore::open_unchecked(Arc::new(volume.clone()), Generation::Newest)?;
    let directory = Arc::clone(store.directory());
    let mut places = Vec::new();
    for slot in (to_u64(directory.tensors.len())..directory.slots()).map(SlotIndex) {
        let (at, block, plane) = block_of_slot(&directory, slot).unwrap();
        let extent = &directory.extents[at];
        let place = block_place(extent, block, plane).unwrap();
        let entry = store.block_entry(slot)?;
        assert!(entry.generation > 0);
        let spec = &directory.segments[place.segment];
        let name = directory.planes[usize::from(spec.plane)].name.clone();
        let tensor = ["big", "bias", "scale"].into_iter().find(|name| {
            let tensor = directory.tensors.iter().find(|tensor| tensor.name == *name).unwrap();
            usize::try_from(tensor.extent).unwrap() == at
        });
        places.push(Place {
            slot,
            file: segment_file(&name, spec.index, entry.home),
            other_home: segment_file(&name, spec.index, 1 - entry.home),
            tensor: tensor.unwrap(),
            plane: name,
            block: block.0,
            range: (place.offset, to_u64(place.bytes)),
        });
    }
    Ok(places)
}

fn findings(volume: &MemoryVolume) -> Vec<Finding> {
    let shared: Arc<dyn Volume> = Arc::new(volume.clone());
    crate::inspect::verify::verify_in(&shared, &VerifyOptions::new().io_threads(1), &mut |_| {})
        .unwrap()
        .findings
}

fn assert_names(findings: &[Finding], places: &[&Place]) {
    assert_eq!(findings.len(), places.len(), "{findings:?}");
    for (finding, place) in findings.iter().zip(places) {
        assert_eq!(finding.tensors, [place.tensor], "{finding:?}");
        assert_eq!(
            (finding.plane.as_deref(), finding.block),
            (Some(place.plane.as_str()), Some(place.block))
        );
        assert_eq!(finding.damage.range, place.range, "{finding:?}");
        assert!(finding.damage.path.ends_with(&place.file), "{finding:?}");
    }
}

#[test]
fn flipped_bits_of_a_block_of_each_plane_are_found_and_named_and_those_of_its_filling_are_harmless() {
    let base = &bases()[0];
    let places = places(&base.volume).unwrap();
    let planes: std::collections::BTreeSet<_> =
        places.iter().map(|place| (place.tensor, &place.plane)).collect();
    assert_eq!(planes.len(), 8, "three planes of each AdamW tensor, two of the other: {planes:?}");
    let mut flips = 0;
    for (tensor, plane) in planes {
        let place = places.iter().rfind(|p| p.tensor == tensor && p.plane == *plane).unwrap();
        let (offset, bytes) = place.range;
        let bits = 8 * usize::try_from(bytes).unwrap();
        let first = 8 * usize::try_from(offset).unwrap();
        flips += bits.div_ceil(5);
        count(bits.div_ceil(5), |number| {
            let volume = base.volume.copy();
            flip(&volume, &place.file, first + number * 5);
            assert_names(&findings(&volume), &[place]);
        });
        if bytes % 4096 != 0 {
            let volume = base.volume.copy();
            flip(&volume, &place.file, first + bits);
            assert_eq!(findings(&volume), []);
            assert_eq!(outcome(&volume, &base.digests, "filling"), Outcome::Harmless);
        }
        // The home that no committed generation names.
        let volume = base.volume.copy();
        flip(&volume, &place.other_home, first);
        assert_eq!(outcome(&volume, &base.digests, "the other home"), Outcome::Harmless);
    }
    println!("{flips} flipped bits of blocks, each named");
}

#[test]
fn swapped_blocks_and_blocks_of_yesterday_are_found_and_named() {
    let base = &bases()[0];
    let places = places(&base.volume).unwrap();
    let bytes_of = |file_name: &str, place: &Place| {
        let file = base.volume.open(file_name, Access::Read, Caching::Cached).unwrap();
        read(&file, place.range.0, place.range.1)
    };
    let (mut swaps, mut pasted) = (0, 0);
    for a in &places {
        for b in places.iter().filter(|b| b.slot > a.slot && b.range.1 == a.range.1) {
            let (of_a, of_b) = (bytes_of(&a.file, a), bytes_of(&b.file, b));
            if of_a == of_b {
                continue;
            }
            let volume = base.volume.copy();
            file(&volume, &a.file).write_at(&of_b, a.range.0).unwrap();
            file(&volume, &b.file).write_at(&of_a, b.range.0).unwrap();
            assert_names(&findings(&volume), &[a, b]);
            swaps += 1;
        }
        let yesterday = bytes_of(&a.other_home, a);
        assert_ne!(yesterday, bytes_of(&a.file, a), "{}", a.file);
        let volume = base.volume.copy();
        file(&volume, &a.file).write_at(&yesterday, a.range.0).unwrap();
        assert_names(&findings(&volume), &[a]);
        assert_eq!(outcome(&volume, &base.digests, &a.file), Outcome::Refused);
        pasted += 1;
    }
    println!("{swaps} swaps, {pasted} blocks of yesterday");
    assert!(swaps >= 10 && pasted == places.len(), "{swaps} {pasted}");
}
