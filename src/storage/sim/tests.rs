//! What the simulated disk may keep and what it has to keep.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::*;

const TEST: Barrier = Barrier("test");

/// A volume with one durable file of two pages of ones.
fn with_file() -> (SimVolume, Arc<dyn Segment>) {
    let volume = SimVolume::new("volume");
    volume.create("a", 8192, Allocation::Full).unwrap();
    let file = volume.open("a", Access::Write, Caching::Cached).unwrap();
    file.write_at(&[1; 8192], 0).unwrap();
    file.sync(TEST).unwrap();
    volume.sync_dir(TEST).unwrap();
    volume.sync_parent(TEST).unwrap();
    (volume, file)
}

fn disk(volume: &SimVolume) -> Disk {
    let mut disk = Disk::new(None);
    volume.events().iter().for_each(|event| disk.apply(event));
    disk
}

/// The bytes of a file in an image, if it is there.
fn bytes(image: &Image, name: &str) -> Option<Vec<u8>> {
    let volume = SimVolume::from_image("image", image).unwrap();
    let file = volume.open(name, Access::Read, Caching::Cached).ok()?;
    let mut bytes = vec![0; usize::try_from(file.len_bytes().unwrap()).unwrap()];
    file.read_at(&mut bytes, 0).unwrap();
    Some(bytes)
}

#[test]
fn what_was_synced_is_in_every_image() {
    let (volume, _file) = with_file();
    let disk = disk(&volume);
    assert!(disk.unsynced().is_empty());
    assert_eq!(bytes(&disk.image(&[], &[]), "a"), Some(vec![1; 8192]));
}

#[test]
fn each_unsynced_sector_is_old_or_new_on_its_own() {
    let (volume, file) = with_file();
    file.write_at(&[2; 1024], 4096).unwrap();
    let disk = disk(&volume);
    let items = disk.unsynced();
    assert_eq!(items.iter().filter(|item| matches!(item.key, ItemKey::Sector { .. })).count(), 2);
    let found: BTreeSet<_> = [[0, 0], [0, 1], [1, 0], [1, 1]]
        .iter()
        .map(|picks| {
            let bytes = bytes(&disk.image(&items, picks), "a").unwrap();
            (bytes[4096], bytes[4608], bytes[4095], bytes[5120])
        })
        .collect();
    assert_eq!(found, BTreeSet::from([(1, 1, 1, 1), (1, 2, 1, 1), (2, 1, 1, 1), (2, 2, 1, 1)]));
}

#[test]
fn an_earlier_of_two_writes_may_outlive_the_later() {
    let (volume, file) = with_file();
    file.write_at(&[2; 512], 0).unwrap();
    file.write_at(&[3; 512], 0).unwrap();
    let disk = disk(&volume);
    let items = disk.unsynced();
    assert_eq!(items[0].newest, 2);
    for (pick, expected) in [(0, 1), (1, 2), (2, 3)] {
        assert_eq!(bytes(&disk.image(&items, &[pick]), "a").unwrap()[0], expected);
    }
}

#[test]
fn a_torn_sector_is_a_mixture_of_its_states_and_of_nothing_else() {
    let (volume, file) = with_file();
    file.write_at(&[2; 4096], 0).unwrap();
    let disk = disk(&volume);
    let items = disk.unsynced();
    let mut mixtures = 0;
    for seed in 0..20 {
        let bytes = bytes(&disk.image(&items, &[torn(seed)]), "a").unwrap();
        assert!(bytes[..512].iter().all(|byte| [1, 2].contains(byte)));
        assert!(bytes[512..].iter().all(|&byte| byte == 1));
        mixtures += usize::from(bytes[..512].contains(&1) && bytes[..512].contains(&2));
    }
    assert!(mixtures > 10, "{mixtures}");
}

#[test]
fn only_pages_written_in_part_lose_their_other_bytes() {
    let (volume, file) = with_file();
    file.write_at(&[2; 4096], 0).unwrap();
    assert!(!disk(&volume).unsynced().iter().any(|item| matches!(item.key, ItemKey::Neighbours { .. })));
    file.write_at(&[2; 64], 4096).unwrap();
    let disk = disk(&volume);
    let items = disk.unsynced();
    let at = items.iter().position(|item| matches!(item.key, ItemKey::Neighbours { .. })).unwrap();
    let mut picks = vec![0; at];
    picks.push(torn(7));
    let bytes = bytes(&disk.image(&items, &picks), "a").unwrap();
    assert!(bytes[4160..].iter().any(|&byte| byte != 1), "other bytes of the page");
    assert!(bytes[..4160].iter().all(|&byte| byte == 1), "the write itself, and the page before");
}

#[test]
fn names_and_lengths_are_uncertain_until_they_are_synced() {
    let (volume, _file) = with_file();
    volume.create("b", 100, Allocation::Full).unwrap();
    volume.rename("a", "c").unwrap();
    let before = disk(&volume);
    let items = before.unsynced();
    let keys: Vec<_> = items.iter().map(|item| item.key.to_string()).collect();
    assert_eq!(keys, ["name +b", "name a>c", "length of b"]);
    for (picks, names) in
        [([0, 0, 0], &["a"][..]), ([1, 0, 0], &["a", "b"]), ([0, 1, 0], &["c"]), ([1, 1, 1], &["b", "c"])]
    {
        let image = before.image(&items, &picks);
        assert_eq!(image.names().collect::<Vec<_>>(), names);
        assert_eq!(bytes(&image, "b").map_or(0, |bytes| bytes.len()), if picks[2] == 1 { 100 } else { 0 });
    }
    volume.open("b", Access::Read, Caching::Cached).unwrap().sync(TEST).unwrap();
    volume.sync_dir(TEST).unwrap();
    let after = disk(&volume);
    assert!(after.unsynced().is_empty());
    assert_eq!(after.image(&[], &[]).names().collect::<Vec<_>>(), ["b", "c"]);
}

#[test]
fn a_directory_whose_parent_was_never_synced_may_be_gone_whole() {
    let volume = SimVolume::new("volume");
    volume.create("a", 10, Allocation::Full).unwrap();
    volume.open("a", Access::Write, Caching::Cached).unwrap().sync(TEST).unwrap();
    volume.sync_dir(TEST).unwrap();
    let before = disk(&volume);
    let items = before.unsynced();
    assert_eq!(items.iter().map(|item| item.key.clone()).collect::<Vec<_>>(), [ItemKey::Directory]);
    let gone = before.image(&items, &[0]);
    assert_eq!(gone, Image::default());
    assert!(!Disk::new(Some(&gone)).unsynced().is_empty(), "it is made anew, and not durable then either");
    let found = before.image(&items, &[1]);
    assert_eq!(found.names().count(), 1);
    assert!(Disk::new(Some(&found)).unsynced().is_empty());
    volume.sync_parent(TEST).unwrap();
    assert!(disk(&volume).unsynced().is_empty());
}

#[test]
fn a_sync_after_a_lost_one_keeps_only_what_was_written_anew() {
    let (volume, file) = with_file();
    file.write_at(&[2; 8192], 0).unwrap();
    volume.fail_sync(Some(0));
    assert!(file.sync(TEST).is_err());
    file.write_at(&[3; 512], 0).unwrap();
    file.sync(TEST).unwrap();
    let mut seen = [0; 8192];
    file.read_at(&mut seen, 0).unwrap();
    assert_eq!((seen[0], seen[512], seen[4096]), (3, 2, 2), "the program sees what it wrote");
    let disk = disk(&volume);
    let found = bytes(&disk.image(&disk.unsynced(), &[]), "a").unwrap();
    assert_eq!((found[0], found[512], found[4096]), (3, 2, 1), "whole pages are written, clean ones are not");
}

#[test]
fn a_barrier_left_out_makes_nothing_durable_and_the_others_still_do() {
    let (volume, file) = with_file();
    volume.leave_out(Some(TEST));
    file.write_at(&[2; 512], 0).unwrap();
    file.sync(TEST).unwrap();
    assert_eq!(disk(&volume).unsynced().len(), 2);
    file.sync(Barrier("another")).unwrap();
    assert!(disk(&volume).unsynced().is_empty());
}

#[test]
fn a_lock_that_makes_its_file_is_remembered_with_its_length() {
    let volume = SimVolume::new("volume");
    drop(volume.try_lock("lock", LockKind::Exclusive).unwrap().unwrap());
    let disk = disk(&volume);
    let items = disk.unsynced();
    let image = disk.image(&items, &[1; 3]);
    assert_eq!(bytes(&image, "lock").unwrap().len(), 64);
}

#[test]
fn names_below_are_uncertain_until_their_own_directory_is_synced() {
    let volume = SimVolume::new("volume");
    let below = volume.create_subvolume("below").unwrap();
    below.create("a", 10, Allocation::Full).unwrap();
    below.open("a", Access::Write, Caching::Cached).unwrap().sync(TEST).unwrap();
    volume.sync_dir(TEST).unwrap();
    volume.sync_parent(TEST).unwrap();
    let before = disk(&volume);
    let items = before.unsynced();
    assert_eq!(items.iter().map(|item| item.key.to_string()).collect::<Vec<_>>(), ["name +below/a"]);
    for (picks, names) in [([0], &[][..]), ([1], &["below/a"])] {
        let image = before.image(&items, &picks);
        assert_eq!(image.names().collect::<Vec<_>>(), names);
        let found = SimVolume::from_image("image", &image).unwrap();
        assert_eq!(found.subvolume("below").unwrap().unwrap().list().unwrap().len(), names.len());
    }
    below.sync_dir(TEST).unwrap();
    assert!(disk(&volume).unsynced().is_empty());
}

#[test]
fn the_name_of_a_directory_is_sure_when_its_parent_is_synced_and_those_beside_it_are_not() {
    let volume = SimVolume::new("volume");
    volume.sync_parent(TEST).unwrap();
    volume.create("beside", 0, Allocation::Full).unwrap();
    let below = volume.create_subvolume("below").unwrap();
    below.create("a", 0, Allocation::Full).unwrap();
    below.sync_dir(TEST).unwrap();
    let keys = |items: &[Item]| items.iter().map(|item| item.key.to_string()).collect::<Vec<_>>();
    let before = disk(&volume);
    assert_eq!(keys(&before.unsynced()), ["name +beside", "name +below"]);
    assert_eq!(before.image(&before.unsynced(), &[0, 0]).names().count(), 0, "no way to it");
    below.sync_parent(TEST).unwrap();
    let after = disk(&volume);
    let items = after.unsynced();
    assert_eq!(keys(&items), ["name +beside"]);
    assert_eq!(after.image(&items, &[0]).names().collect::<Vec<_>>(), ["below/a"]);
}

#[test]
fn a_directory_made_anew_has_nothing_of_the_one_before() {
    let volume = SimVolume::new("volume");
    let old = volume.create_subvolume("below").unwrap();
    old.create("old", 0, Allocation::Full).unwrap();
    old.sync_dir(TEST).unwrap();
    volume.sync_dir(TEST).unwrap();
    volume.sync_parent(TEST).unwrap();
    old.remove("old").unwrap();
    volume.remove_subvolume("below").unwrap();
    let new = volume.create_subvolume("below").unwrap();
    new.create("new", 0, Allocation::Full).unwrap();
    new.sync_dir(TEST).unwrap();
    new.sync_parent(TEST).unwrap();
    let disk = disk(&volume);
    for picks in [[0], [1]] {
        let image = disk.image(&disk.unsynced(), &picks);
        assert_eq!(image.names().collect::<Vec<_>>(), ["below/new"], "{picks:?}");
    }
}
