//! What each format's reader takes and refuses.

use std::sync::Arc;

use crate::Error;
use crate::exchange::ForeignDtype;
use crate::exchange::hostile::{Opened, open};
use crate::format::directory::Dtype;
use crate::storage::{Access, Allocation, Caching, MemoryVolume, Volume};

fn file(bytes: &[u8]) -> Arc<MemoryVolume> {
    let volume = MemoryVolume::new("memory");
    volume.create("file.npy", bytes.len() as u64, Allocation::Full).unwrap();
    volume.open("file.npy", Access::Write, Caching::Cached).unwrap().write_at(bytes, 0).unwrap();
    Arc::new(volume)
}

fn opened(bytes: &[u8]) -> Opened {
    open(&*file(bytes), "file.npy").unwrap()
}

/// The message with which a file is refused.
#[track_caller]
fn refused(bytes: &[u8], expected: &str) {
    match open(&*file(bytes), "file.npy").err() {
        Some(error @ Error::Foreign(_)) => assert!(error.to_string().contains(expected), "{error}"),
        other => panic!("{other:?} for {:?}", String::from_utf8_lossy(bytes)),
    }
}

fn safetensors(json: &str, data: usize) -> Vec<u8> {
    let mut bytes = (json.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(json.as_bytes());
    bytes.resize(bytes.len() + data, 1);
    bytes
}

#[test]
fn safetensors_is_as_strict_as_the_reference_and_more() {
    let one = |name: &str, dtype: &str, shape: &str, from: u64, to: u64| {
        format!(r#""{name}":{{"dtype":"{dtype}","shape":{shape},"data_offsets":[{from},{to}]}}"#)
    };
    let a = one("a", "F32", "[2]", 0, 8);
    let cases: &[(String, usize, &str)] = &[
        (format!("{{{a}}}"), 7, "bytes inside the 7"),
        (format!("{{{a}}}"), 9, "1 bytes behind the last tensor"),
        (format!(" {{{a}}}"), 8, "no {"),
        (format!("[{a}]"), 8, "no {"),
        (format!("{{{a}"), 8, "EOF"),
        (format!("{{{a}}}x"), 8, "trailing"),
        (format!("{{{a},{a}}}"), 8, "twice"),
        (format!("{{{a},{}}}", one("b", "F32", "[1]", 12, 16)), 16, "byte"),
        (format!("{{{a},{}}}", one("b", "F32", "[1]", 4, 8)), 8, "where the tensor before ends"),
        (format!("{{{}}}", one("a", "F32", "[3]", 0, 8)), 8, "12 bytes"),
        (format!("{{{}}}", one("a", "F32", "[4294967296,4294967296]", 0, 8)), 8, "whole bytes"),
        (format!("{{{}}}", one("a", "F32", "[-1]", 0, 8)), 8, "invalid value"),
        (format!("{{{}}}", one("a", "X9", "[2]", 0, 8)), 8, "X9"),
        (format!("{{{}}}", one("a", "F32", "[2]", 8, 0)), 8, "offsets 8 to 0"),
        (r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8],"x":1}}"#.to_owned(), 8, "unknown field"),
        (r#"{"a":{"dtype":"F32","shape":[2]}}"#.to_owned(), 8, "data_offsets"),
        (r#"{"__metadata__":{"a":1}}"#.to_owned(), 0, "string"),
    ];
    for (json, data, expected) in cases {
        refused(&safetensors(json, *data), expected);
    }
    refused(b"", "8");
    refused(&[0xff; 64], "a header of");
    refused(&safetensors(&"[".repeat(100_000), 0), "no {");
    refused(&safetensors(&format!("{{\"a\":{}", "[".repeat(100_000)), 0), "invalid type");
    let fine = safetensors(&format!("{{{a},{}}}   ", one("b", "F8_E8M0", "[3]", 8, 11)), 11);
    let opened = opened(&fine);
    let tensors = opened.tensors();
    assert_eq!(opened.read(&tensors[0]).unwrap(), [1; 8]);
    assert_eq!(tensors[1].dtype, ForeignDtype::Other("F8_E8M0".to_owned()));
}

fn npy(version: u8, header: &str, data: usize) -> Vec<u8> {
    let mut bytes = b"\x93NUMPY".to_vec();
    bytes.extend([version, 0]);
    let len = u32::try_from(header.len()).unwrap().to_le_bytes();
    bytes.extend(&len[..if version == 1 { 2 } else { 4 }]);
    bytes.extend(header.as_bytes());
    bytes.resize(bytes.len() + data, 3);
    bytes
}

#[test]
fn npy_is_read_in_three_versions_and_says_what_it_cannot_be() {
    for version in 1..=3 {
        let opened =
            opened(&npy(version, "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }   \n", 24));
        let tensor = &opened.tensors()[0];
        assert_eq!((tensor.name.as_str(), tensor.shape.as_slice()), ("file", &[2, 3][..]));
        assert_eq!(opened.read(tensor).unwrap(), [3; 24]);
    }
    // What is known and cannot be held has a type that says so, and is refused by whoever wants it.
    for (descr, fortran, expected) in [
        ("'>f4'", "False", ">f4, which is not little-endian,"),
        ("'|O'", "False", "|O"),
        ("'<c8'", "False", "<c8"),
        ("[('x', '<f4'), ('y', '<i4', (2,))]", "False", "[('x', '<f4'), ('y', '<i4', (2,))]"),
        ("'<f4'", "True", "F32 in Fortran order"),
    ] {
        let header = format!("{{'descr': {descr}, 'fortran_order': {fortran}, 'shape': (2, 3), }}\n");
        let opened = opened(&npy(1, &header, 24));
        assert_eq!(opened.tensors()[0].dtype, ForeignDtype::Other(expected.to_owned()));
    }
    // A vector is the same in both orders.
    let vector = opened(&npy(1, "{'descr': '|b1', 'fortran_order': True, 'shape': (5,), }\n", 5));
    assert_eq!(vector.tensors()[0].dtype, ForeignDtype::Plain(Dtype::Bool));
    let header = "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3)}";
    refused(&npy(1, header, 23), "as many bytes");
    refused(&npy(1, header, 25), "as many bytes");
    refused(&npy(4, header, 24), "version 1, 2 or 3");
    for wrong in [
        "",
        "{",
        "{'descr': '<f4', 'fortran_order': False}",
        "{'descr': '<f4', 'fortran_order': 0, 'shape': (2, 3)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (2, -3)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3)",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3)} x",
        "{'descr': '<f4', 'descr': '<f4', 'fortran_order': False, 'shape': (2, 3)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999999999999,)}",
        "__import__('os')",
    ] {
        refused(&npy(1, wrong, 24), "a dictionary");
    }
    refused(&npy(2, &" ".repeat(70_000), 24), "less than 64 KiB");
}

#[test]
fn archives_are_read_stored_and_deflated_and_their_checksums_hold() {
    for kept in ["stored", "deflated"] {
        let path =
            std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tools/fuzz/seeds/archive").join(kept);
        let mut bytes = std::fs::read(path).unwrap();
        let whole = opened(&bytes);
        let tensors = whole.tensors();
        assert_eq!((tensors[0].name.as_str(), tensors[1].name.as_str()), ("a", "b"));
        assert_eq!(whole.read(&tensors[0]).unwrap(), (0..24).collect::<Vec<u8>>());
        assert_eq!(whole.read(&tensors[1]).unwrap(), [0; 40]);
        refused(&bytes[..bytes.len() - 1], "end");
        // A changed checksum in the list.
        let entry = bytes.windows(4).position(|four| four == b"PK\x01\x02").unwrap();
        bytes[entry + 16] ^= 1;
        let changed = opened(&bytes);
        let error = changed.read(&changed.tensors()[0]).unwrap_err();
        assert!(error.to_string().contains("checksum"), "{error}");
        // A size that nothing unpacks to.
        bytes[entry + 27] = 0x7f;
        refused(&bytes, "zip archive");
        bytes[entry + 27] = 0;
        bytes[entry + 8] |= 1;
        refused(&bytes, "encrypted");
    }
}

#[test]
fn gguf_is_read_with_its_dimensions_turned_round_and_quantised_tensors_named() {
    let seed = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tools/fuzz/seeds/gguf/whole");
    let bytes = std::fs::read(seed).unwrap();
    let whole = opened(&bytes);
    let tensors = whole.tensors();
    assert_eq!((tensors[0].name.as_str(), tensors[0].shape.as_slice()), ("w", &[2, 3][..]));
    assert_eq!((tensors[0].offset % 32, tensors[0].bytes), (0, 24));
    assert_eq!((&tensors[1].dtype, tensors[1].bytes), (&ForeignDtype::Other("Q8_0".to_owned()), 34));
    let changed = |at: usize, with: &[u8]| {
        let mut bytes = bytes.clone();
        bytes[at..at + with.len()].copy_from_slice(with);
        bytes
    };
    refused(&changed(4, &[1]), "version 2 or 3");
    refused(&changed(4, &[0, 0, 0, 3]), "big-endian");
    refused(&changed(8, &u64::MAX.to_le_bytes()), "what fits");
    refused(&changed(16, &[200]), "what fits");
    refused(&changed(24, &u64::MAX.to_le_bytes()), "at most 1024");
    refused(&bytes[..bytes.len() - 1], "bytes inside");
    let last = bytes.len() - 32 - 34;
    let offset = bytes[..last].windows(8).rposition(|eight| eight == 32_u64.to_le_bytes()).unwrap();
    refused(&changed(offset, &[33]), "multiple of 32");
    refused(&changed(offset, &[0]), "a place from byte");
}
