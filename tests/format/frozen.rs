//! Frozen tensors, read by the document.

use std::path::Path;

use paramstore::optim::{AdamW, Sgd};
use paramstore::{Dtype, Optimizer, Options, ParamGroup, ParamStore, Schema, TensorSpec};

use crate::{Store, read, u64_at};

/// Code and bytes of an element of each type that is kept as it is, by the table of section 5; and three that are floats.
const TYPES: [(Dtype, u8, u64); 15] = [
    (Dtype::F32, 1, 4),
    (Dtype::Bf16, 2, 2),
    (Dtype::F16, 3, 2),
    (Dtype::F64, 6, 8),
    (Dtype::I64, 7, 8),
    (Dtype::I32, 8, 4),
    (Dtype::I16, 9, 2),
    (Dtype::I8, 10, 1),
    (Dtype::U64, 11, 8),
    (Dtype::U32, 12, 4),
    (Dtype::U16, 13, 2),
    (Dtype::U8, 14, 1),
    (Dtype::Bool, 15, 1),
    (Dtype::F8E4M3, 16, 1),
    (Dtype::F8E5M2, 17, 1),
];

fn made(path: &Path) {
    let adamw = ParamGroup::new("adamw", Optimizer::AdamW(AdamW::default()));
    let mut schema = Schema::new()
        .block_bytes(4096)
        .gradient_plane(true)
        .group(adamw)
        .group(ParamGroup::new("sgd", Optimizer::Sgd(Sgd::default())))
        .tensor(TensorSpec::new("trained", &[1500]));
    for (dtype, ..) in TYPES {
        schema = schema.tensor(TensorSpec::new(dtype.name(), &[1100]).stored_as(dtype));
    }
    let schema = schema.tensor(TensorSpec::new("untouched", &[9]).stored_as(Dtype::I32));
    let mut store = ParamStore::create(path, &schema, &Options::new().memory_budget(1 << 20)).unwrap();
    for (dtype, _, size) in TYPES {
        store.write_bytes(dtype.name(), 0, &pattern(size)).unwrap();
    }
    store.commit(b"").unwrap();
    let mut step = store.begin_step().unwrap();
    step.apply("trained", &[0.5; 1500]).unwrap();
    step.finish().unwrap();
    store.commit(b"").unwrap();
}

fn pattern(size: u64) -> Vec<u8> {
    (0..1100 * size).map(|i| ((i * 37 + size) % 256).to_le_bytes()[0]).collect()
}

#[test]
fn frozen_tensors_read_by_the_document_are_the_bytes_that_were_written() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    made(&path);
    let store = Store::open(&path);
    assert_eq!(u64_at(&store.superblock, 32), 2 + 4, "the incompat bits of few bits and of frozen tensors");
    assert_eq!(u64_at(&store.superblock, 56), 3);
    for (dtype, code, size) in TYPES {
        let tensor = store.tensors.iter().find(|tensor| tensor.name == dtype.name()).unwrap();
        let extent = &store.extents[tensor.extent];
        let [plane] = extent.planes.as_slice() else { panic!("one plane") };
        assert!(plane.code == code && extent.scratch.is_none(), "{}", tensor.name);
        assert_eq!(store.planes[plane.plane], ("frozen".to_owned(), 5));
        let (of_plane, segment, homes, _) = store.segments[plane.segment];
        assert_eq!((of_plane, homes), (plane.plane, 1));
        let mut bytes = Vec::new();
        for block in 0..extent.elements.div_ceil(extent.block) {
            let slot = extent.first_slot + block;
            let entry = store.block_entry(slot).unwrap();
            assert_eq!((entry.generation, entry.home), (2, 0), "never written again");
            let elements = extent.block.min(extent.elements - block * extent.block);
            let offset = plane.offset + block * (size * extent.block).next_multiple_of(4096);
            let file = path.join(format!("frozen.{segment:04}.0"));
            let found = read(&file, offset, size * elements);
            let generation = entry.generation.to_le_bytes();
            let identity = [&store.superblock[40..56], &slot.to_le_bytes(), &generation, &found].concat();
            assert_eq!(crc32fast::hash(&identity), entry.crc, "{} block {block}", tensor.name);
            bytes.extend(found);
        }
        assert!(bytes == pattern(size), "{}", tensor.name);
    }
    assert!(!path.join("frozen.0000.1").exists());
    // The small tensor that nobody wrote has zeros.
    let mut library = ParamStore::open(&path, &Options::new().memory_budget(1 << 20)).unwrap();
    let mut zeros = [1; 36];
    library.read_bytes("untouched", 0, &mut zeros).unwrap();
    assert_eq!(zeros, [0; 36]);
    // One more step writes neither of them.
    let before = read(&path.join("frozen.0000.0"), 0, 4096);
    let mut step = library.begin_step().unwrap();
    step.apply("trained", &[0.5; 1500]).unwrap();
    step.finish().unwrap();
    assert_eq!(read(&path.join("frozen.0000.0"), 0, 4096), before);
}
