//! The properties of `fuzzing` on the inputs that are kept in `tools/fuzz`, and on some thousands made from them.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::fuzzing;

type Property = fn(&[u8]);

/// Each target with its property and how many inputs are made for it here.
const TARGETS: [(&str, Property, u64); 10] = [
    ("superblock", fuzzing::superblock, 50_000),
    ("table_page", fuzzing::table_page, 20_000),
    ("directory", fuzzing::directory, 50_000),
    ("record", fuzzing::record, 50_000),
    ("notes", fuzzing::notes, 50_000),
    ("safetensors", fuzzing::safetensors, 2_000),
    ("gguf", fuzzing::gguf, 2_000),
    ("archive", fuzzing::archive, 2_000),
    ("store", fuzzing::store, 1_500),
    ("history", fuzzing::history, 200),
];

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(end.max(1)).unwrap()).unwrap()
    }
}

/// What is kept for a target: seeds, and what once failed.
fn kept(target: &str) -> Vec<Vec<u8>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tools/fuzz");
    let mut inputs = Vec::new();
    for folder in ["seeds", "regressions"] {
        let Ok(entries) = std::fs::read_dir(root.join(folder).join(target)) else { continue };
        let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
        paths.sort();
        inputs.extend(paths.iter().map(|path| std::fs::read(path).unwrap()));
    }
    assert!(!inputs.is_empty(), "nothing is kept for {target}");
    inputs
}

/// Changes an input in one to four places: bits, bytes, numbers at the edge, stretches cut out or doubled.
fn mutate(input: &mut Vec<u8>, random: &mut Random) {
    for _ in 0..=random.below(4) {
        let at = random.below(input.len());
        let stretch = at..(at + 1 + random.below(16)).min(input.len());
        match random.below(6) {
            0 if !input.is_empty() => input[at] ^= 1 << random.below(8),
            1 if !input.is_empty() => input[at] = random.next().to_le_bytes()[0],
            2 => {
                let edge = [0, 1, u64::MAX, u64::MAX - 1, 1 << 32, 1 << 63, 4096][random.below(7)];
                let edge = edge.to_le_bytes();
                let len = stretch.len().min(8);
                input[at..at + len].copy_from_slice(&edge[..len]);
            }
            3 => drop(input.drain(stretch)),
            4 => {
                let copy = input[stretch].to_vec();
                let to = random.below(input.len());
                input.splice(to..to, copy);
            }
            _ => input.extend((0..random.below(24)).map(|_| random.next().to_le_bytes()[0])),
        }
    }
}

/// Runs an input, and prints it if it is a finding.
fn run(target: &str, property: Property, input: &[u8]) {
    let result = std::panic::catch_unwind(|| property(input));
    if let Err(panic) = result {
        eprintln!("{target} fails for the input {input:02x?}");
        std::panic::resume_unwind(panic);
    }
}

#[test]
fn kept_inputs_and_thousands_made_from_them_break_no_promise() {
    for (target, property, rounds) in TARGETS {
        let kept = kept(target);
        for input in &kept {
            run(target, property, input);
        }
        let next = AtomicUsize::new(0);
        let rounds = usize::try_from(rounds).unwrap();
        // More threads than processors: a reader that finds damage sleeps before it looks again.
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    while let Some(round) = Some(next.fetch_add(1, Ordering::Relaxed)).filter(|&r| r < rounds)
                    {
                        let mut random = Random(u64::try_from(round).unwrap());
                        let mut input = kept[random.below(kept.len())].clone();
                        mutate(&mut input, &mut random);
                        run(target, property, &input);
                    }
                });
            }
        });
    }
}

/// Writes the seeds that are kept, from stores made here: run it with `--ignored` after a change of the format.
#[test]
#[ignore = "writes into tools/fuzz/seeds"]
fn write_the_seeds() {
    use crate::fuzzing::image;
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tools/fuzz/seeds");
    let save = |target: &str, name: &str, bytes: &[u8]| {
        let folder = root.join(target);
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join(name), bytes).unwrap();
    };
    for (base, name) in image::bases().iter().zip(["rich", "wide", "fresh"]) {
        let meta = image::file(&base.volume, "meta");
        let page = image::read(&meta, 4096, 4096);
        let superblock = crate::format::superblock::Superblock::decode(&page).unwrap_or_else(|_| {
            crate::format::superblock::Superblock::decode(&image::read(&meta, 0, 4096)).unwrap()
        });
        // What stands behind the last field is filled up by the property.
        save("superblock", name, &superblock.encode()[..208]);
        let region =
            |region: crate::format::superblock::Region| image::read(&meta, region.offset, region.bytes);
        save("directory", name, &region(superblock.directory));
        save("record", name, &region(superblock.record));
        save("notes", name, &image::read(&image::file(&base.volume, "progress"), 0, 44));
        let table = image::read(&meta, superblock.table_offset, 600);
        save(
            "table_page",
            name,
            &[&[7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 40][..], &table].concat(),
        );
    }
    // One change of each kind, with and without checksums made to fit: store, file, kind, place, with what.
    let kinds: [&[u8]; 7] = [&[3], &[0xff; 8], b"\x04abcd", &[0xa5, 0, 2], &[0, 16], &[1], &[]];
    for store in [0, 1, 2, 0x80, 0x81] {
        for (kind, with) in (0_u8..).zip(kinds) {
            let change = [&[store, 0xff, kind, 60, 0x10, 0, 0][..], with].concat();
            save("store", &format!("{store:02x}-{kind}"), &change);
        }
        for file in [0_u8, 2, 6, 9] {
            save("store", &format!("{store:02x}-file-{file}"), &[store, file, 0, 9, 0, 0, 0, 1]);
        }
    }
    let mut random = Random(1);
    for number in 0..12 {
        let bytes: Vec<u8> = (0..60 + number * 8).map(|_| random.next().to_le_bytes()[0]).collect();
        save("history", &number.to_string(), &bytes);
    }
}
