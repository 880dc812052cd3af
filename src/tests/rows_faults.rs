//! Tensors of rows on disks that fail, lie or were changed: every call fails once, every bit of what the log and a page
//! hold is flipped, the log is cut short.

use std::io::ErrorKind;
use std::sync::Arc;

use super::rows_kept::{one_step, options, schema};
use super::{create, memory, open};
use crate::error::Result;
use crate::inspect::VerifyOptions;
use crate::inspect::verify::verify_in;
use crate::storage::fault::{FaultVolume, Lasting};
use crate::storage::{Access, Caching, MemoryVolume, Volume};
use crate::{Error, ParamStore};

const STEPS: u64 = 8;
const BUDGETS: [u64; 2] = [60 * 4096, 1 << 20];

fn digest(store: &ParamStore) -> Result<String> {
    store.digest().map(|digest| digest.to_string())
}

fn script(volume: &FaultVolume, budget: u64) -> Result<()> {
    let mut store = create(volume, &schema(), &options(budget))?;
    for _ in 0..STEPS {
        one_step(&mut store, 60)?;
        let step = store.step();
        store.commit(&step.to_le_bytes())?;
    }
    Ok(())
}

/// What a store holds after each step.
fn reference() -> Vec<String> {
    let mut store = create(&memory(), &schema(), &options(BUDGETS[1])).unwrap();
    let mut digests = vec![digest(&store).unwrap()];
    for _ in 0..STEPS + 2 {
        one_step(&mut store, 60).unwrap();
        digests.push(digest(&store).unwrap());
    }
    digests
}

#[test]
fn a_failed_operation_leaves_a_committed_generation_of_rows() {
    let reference = reference();
    for (budget, lasting) in BUDGETS.iter().flat_map(|&b| [(b, Lasting::Once), (b, Lasting::FromThenOn)]) {
        let clean = FaultVolume::new(memory());
        script(&clean, budget).unwrap();
        let operations = clean.operations();
        for (at, operation) in operations.iter().enumerate() {
            let volume = FaultVolume::new(memory());
            volume.fail_at(at, ErrorKind::Other, lasting);
            let result = script(&volume, budget);
            volume.heal();
            let store = match open(&volume, &options(BUDGETS[1])) {
                Ok(store) => store,
                Err(Error::NotAStore { .. }) => continue,
                Err(error) => panic!("operation {at}: {error}"),
            };
            let step = store.step();
            assert_eq!(
                digest(&store).unwrap(),
                reference[usize::try_from(step).unwrap()],
                "{at} {operation:?}"
            );
            if result.is_ok() {
                assert_eq!(step, STEPS, "operation {at} {operation:?}");
            }
        }
    }
}

/// An error of a read is no reason to stop for good: who goes on with the same handle finds every row as it was.
#[test]
fn a_handle_that_goes_on_after_a_failed_operation_loses_no_row() {
    let reference = reference();
    for budget in BUDGETS {
        let clean = FaultVolume::new(memory());
        script(&clean, budget).unwrap();
        let (mut went_on, count) = (0, clean.operation_count());
        for at in 0..count {
            let volume = FaultVolume::new(memory());
            let Ok(mut store) = create(&volume, &schema(), &options(budget)) else { continue };
            if volume.operation_count() > at {
                continue;
            }
            volume.fail_at(at, ErrorKind::Other, Lasting::Once);
            while store.step() < STEPS {
                if one_step(&mut store, 60).is_err() && store.rollback().is_err() {
                    break;
                }
                if store.commit(b"").is_err() && store.commit(b"").is_err() {
                    break;
                }
            }
            went_on += usize::from(store.step() == STEPS && volume.failures() > 0);
            drop(store);
            let store = open(&volume, &options(BUDGETS[1])).unwrap();
            let step = usize::try_from(store.step()).unwrap();
            assert_eq!(digest(&store).unwrap(), reference[step], "operation {at}");
        }
        println!("{went_on} of {count} failures were survived by the handle");
        assert!(went_on > 0);
    }
}

/// A store with rows in the log and in blocks.
fn trained(steps: u64) -> (MemoryVolume, String) {
    let volume = memory();
    let mut store = create(&volume, &schema(), &options(BUDGETS[1])).unwrap();
    for _ in 0..steps {
        one_step(&mut store, 20).unwrap();
        store.commit(b"").unwrap();
    }
    assert!(store.row_log_bytes().0 > 0);
    let digest = digest(&store).unwrap();
    (volume, digest)
}

/// Whether a change is found by `verify`; if it is not, every value has to be what it was.
fn is_found(volume: &MemoryVolume, expected: &str, what: &str) -> bool {
    let shared: Arc<dyn Volume> = Arc::new(volume.clone());
    let found = match verify_in(&shared, &VerifyOptions::new().io_threads(1), &mut |_| {}) {
        Ok(seen) => !seen.is_sound(),
        Err(Error::Damaged(_)) => true,
        Err(Error::Io { ref source, .. }) if source.kind() == ErrorKind::UnexpectedEof => true,
        Err(error) => panic!("{what}: {error}"),
    };
    let read = open(volume, &options(BUDGETS[1])).and_then(|store| digest(&store));
    match read {
        Ok(digest) => assert!(digest == expected, "{what}: silent damage"),
        Err(error) => assert!(found, "{what}: {error}, and verify finds nothing"),
    }
    found
}

fn flips(every: usize) {
    let (base, expected) = trained(9);
    let store = open(&base, &options(BUDGETS[1])).unwrap();
    let ranges = store.engine().pager.lock().store().log_ranges();
    drop(store);
    for name in base.list().unwrap() {
        if !name.starts_with("row_log") && !name.starts_with("record") {
            continue;
        }
        let file = base.open(&name, Access::Read, Caching::Cached).unwrap();
        let bits = 8 * usize::try_from(file.len_bytes().unwrap()).unwrap();
        let (mut flipped, mut found) = (0, 0);
        for number in 0..bits / every {
            let bit = number * every + number * 7919 % every;
            let (volume, at) = (base.copy(), bit as u64 / 8);
            let counts = ranges.iter().any(|&(start, bytes)| (start..start + bytes).contains(&at));
            // Of the log, only what counts says anything; one flip in eight elsewhere.
            if name.starts_with("row_log") && !counts && number % 8 > 0 {
                continue;
            }
            let file = volume.open(&name, Access::Write, Caching::Cached).unwrap();
            let mut byte = [0];
            file.read_at(&mut byte, at).unwrap();
            file.write_at(&[byte[0] ^ 1 << (bit % 8)], at).unwrap();
            flipped += 1;
            found += usize::from(is_found(&volume, &expected, &format!("bit {bit} of {name}")));
        }
        println!("{name}: {found} of {flipped} flipped bits found, of {bits}");
        assert!(found > 0, "{name}");
    }
}

#[test]
fn flipped_bits_of_the_log_and_of_pages_are_found_or_harmless() {
    flips(499);
}

#[test]
#[ignore = "takes an hour or more: every bit"]
fn every_flipped_bit_of_the_log_and_of_pages_is_found_or_harmless() {
    flips(1);
}

/// A write of a batch that a loss of power has cut up, if nothing had been made durable in the right order: sectors of
/// nothing, of what stood there before, of their neighbours.
#[test]
fn a_batch_of_the_log_with_any_sector_torn_is_found_or_harmless() {
    const SECTOR: usize = 512;
    let (base, _) = trained(9);
    let name = base.list().unwrap().into_iter().find(|name| name.starts_with("row_log")).unwrap();
    let read = |volume: &MemoryVolume| {
        let mut bytes = vec![0; 64 << 10];
        volume.open(&name, Access::Read, Caching::Cached).unwrap().read_at(&mut bytes, 0).unwrap();
        bytes
    };
    let before = read(&base);
    let mut store = open(&base, &options(BUDGETS[1])).unwrap();
    // The generation with the most in its log.
    let mut most = 0;
    let (mut full, mut expected, mut ranges) = (base.copy(), String::new(), Vec::new());
    for _ in 0..20 {
        one_step(&mut store, 20).unwrap();
        store.commit(b"").unwrap();
        let counting = store.engine().pager.lock().store().log_ranges();
        let bytes = counting.iter().map(|&(_, bytes)| bytes).sum();
        if bytes > most {
            most = bytes;
            (full, expected, ranges) = (base.copy(), digest(&store).unwrap(), counting);
        }
    }
    drop(store);
    let whole = read(&full);
    let (mut torn, mut found) = (0, 0);
    for (offset, bytes) in ranges {
        let (start, end) = (usize::try_from(offset).unwrap(), usize::try_from(offset + bytes).unwrap());
        for at in (start..end).step_by(SECTOR) {
            let beside = (at + SECTOR) % whole.len();
            let others = [&[0; SECTOR][..], &before[at..at + SECTOR], &whole[beside..beside + SECTOR]];
            for other in others.into_iter().filter(|&other| *other != whole[at..at + SECTOR]) {
                let volume = full.copy();
                let file = volume.open(&name, Access::Write, Caching::Cached).unwrap();
                file.write_at(other, at as u64).unwrap();
                torn += 1;
                found += usize::from(is_found(&volume, &expected, &format!("sector at {at}")));
            }
        }
    }
    println!("{found} of {torn} torn sectors of the log found");
    assert!(found > 20, "{found} of {torn}");
}

#[test]
fn a_log_that_ends_at_any_sector_or_goes_on_is_refused() {
    let (base, _) = trained(9);
    let name = base.list().unwrap().into_iter().find(|name| name.starts_with("row_log")).unwrap();
    for len in (0..64 << 10).step_by(512).chain([(64 << 10) + 1, 128 << 10]) {
        let volume = base.copy();
        volume.resize(&name, len).unwrap();
        let error = open(&volume, &options(BUDGETS[1])).unwrap_err();
        let is_told = match &error {
            Error::Damaged(_) => true,
            Error::Io { source, .. } => source.kind() == ErrorKind::UnexpectedEof,
            _ => false,
        };
        assert!(is_told, "{len} bytes: {error}");
        assert!(ParamStore::open_read_only_in(Arc::new(volume), &options(BUDGETS[1])).is_err());
    }
}
