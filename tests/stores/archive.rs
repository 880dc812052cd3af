//! A directory in one file, without most of its zeros: for each file of it a line `file NAME BYTES`, for each of its pages
//! of 4,096 bytes that is not zero a line `page NUMBER BYTES` and its bytes but for the zeros at its end, and at last a
//! line `end`. A directory in it has a line `directory NAME` before its files; their names begin with its name and a `/`.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::Path;

const PAGE: usize = 4096;

pub(crate) fn pack(directory: &Path, archive: &Path) {
    let mut out = Vec::new();
    pack_below(directory, "", &mut out);
    out.extend_from_slice(b"end\n");
    fs::write(archive, out).unwrap();
}

fn pack_below(directory: &Path, prefix: &str, out: &mut Vec<u8>) {
    let mut paths: Vec<_> = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    for path in paths {
        let name = format!("{prefix}{}", path.file_name().unwrap().to_str().unwrap());
        if path.is_dir() {
            writeln!(out, "directory {name}").unwrap();
            pack_below(&path, &format!("{name}/"), out);
            continue;
        }
        let bytes = fs::read(&path).unwrap();
        writeln!(out, "file {name} {}", bytes.len()).unwrap();
        for (number, page) in bytes.chunks(PAGE).enumerate() {
            if let Some(last) = page.iter().rposition(|&byte| byte != 0) {
                writeln!(out, "page {number} {}", last + 1).unwrap();
                out.extend_from_slice(&page[..=last]);
            }
        }
    }
}

pub(crate) fn unpack(archive: &Path, directory: &Path) {
    let make_directory = |path: &Path| fs::DirBuilder::new().mode(0o700).create(path).unwrap();
    make_directory(directory);
    let bytes = fs::read(archive).unwrap_or_else(|error| panic!("{}: {error}", archive.display()));
    let mut rest = bytes.as_slice();
    let mut file = None;
    loop {
        let end = rest.iter().position(|&byte| byte == b'\n').expect("a line");
        let line = std::str::from_utf8(&rest[..end]).unwrap();
        rest = &rest[end + 1..];
        let words: Vec<_> = line.split(' ').collect();
        match words[..] {
            ["directory", name] => make_directory(&directory.join(name)),
            ["file", name, len] => {
                let path = directory.join(name);
                let new = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).unwrap();
                new.set_len(len.parse().unwrap()).unwrap();
                file = Some(new);
            }
            ["page", number, len] => {
                let at = number.parse::<usize>().unwrap() * PAGE;
                let (page, behind) = rest.split_at(len.parse().unwrap());
                file.as_ref()
                    .expect("a file before its pages")
                    .write_all_at(page, at.try_into().unwrap())
                    .unwrap();
                rest = behind;
            }
            ["end"] => return assert!(rest.is_empty(), "bytes behind the end"),
            _ => panic!("{line:?}"),
        }
    }
}
