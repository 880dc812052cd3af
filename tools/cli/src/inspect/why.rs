//! Where every byte on disk goes: by file system, not by what the store says of itself.

use std::collections::BTreeMap;
use std::fs::{self, Metadata};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use paramstore::inspect::{BlockRun, Summary};
use paramstore::{Error, ParamStore};
use serde_json::{Value, json};

use crate::failure::Failure;
use crate::human::{Table, bytes, grouped, percent};

/// Files of a page or a few, of which there is one each.
pub(super) const SMALL_FILES: &str = "lock, pins, progress, notes";

/// Some of the bytes on disk.
#[derive(Debug, Clone, Default)]
struct Line {
    what: String,
    /// The home, of a plane.
    home: Option<u8>,
    /// Bytes of values, for a plane, and those of them that the committed generation has there.
    values: Option<u64>,
    current: Option<u64>,
    /// Length of the files.
    apparent: u64,
    /// What the file system has allocated for them.
    allocated: u64,
}

/// Where every byte goes: `allocated` of all lines adds up to the blocks that the file system counts for the directory and
/// everything below it.
pub(super) struct Why {
    lines: Vec<Line>,
    /// Parts of the file `meta`: what, and how many bytes.
    meta: Vec<(&'static str, u64)>,
}

impl Line {
    fn add(&mut self, metadata: &Metadata) {
        self.apparent += if metadata.is_dir() { 0 } else { metadata.len() };
        self.allocated += metadata.blocks() * 512;
    }
}

pub(super) fn why(store: &ParamStore, summary: &Summary) -> Result<Why, Failure> {
    let failed = |source: io::Error| {
        Failure::from(Error::Io { action: "look at", path: store.path().to_owned(), range: None, source })
    };
    let mut planes: BTreeMap<(usize, u8), Line> = BTreeMap::new();
    for (at, plane) in summary.planes.iter().enumerate().filter(|(_, plane)| plane.files > 0) {
        for home in 0..plane.homes {
            let (what, values) = (plane.name.clone(), Some(plane.value_bytes));
            planes.insert(
                (at, home),
                Line { what, home: Some(home), values, current: Some(0), ..Line::default() },
            );
        }
    }
    for run in store.blocks() {
        let BlockRun::Written(block) = run? else { continue };
        let at = summary.planes.iter().position(|plane| plane.name == block.plane);
        if let Some(line) = at.and_then(|at| planes.get_mut(&(at, block.home))) {
            line.current = line.current.map(|bytes| bytes + block.bytes);
        }
    }
    let named = |what: &str| Line { what: what.to_owned(), ..Line::default() };
    let (mut meta, mut small, mut directories) =
        (named("metadata (meta)"), named(SMALL_FILES), named("directories"));
    let (mut checkpoints, mut others) = (Vec::new(), named("files of others"));
    directories.add(&fs::symlink_metadata(store.path()).map_err(failed)?);
    for entry in sorted(store.path()).map_err(failed)? {
        let metadata = fs::symlink_metadata(&entry).map_err(failed)?;
        let name = entry.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        if let Some(line) = plane_of(&name, summary).and_then(|key| planes.get_mut(&key)) {
            line.add(&metadata);
        } else if name == "meta" {
            meta.add(&metadata);
        } else if matches!(
            name.as_str(),
            "lock" | "progress" | "pin.0" | "pin.1" | "live" | "metrics" | "meta.new"
        ) {
            small.add(&metadata);
        } else if name == "checkpoints" && metadata.is_dir() {
            directories.add(&metadata);
            for kept in sorted(&entry).map_err(failed)? {
                let name =
                    kept.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
                let mut line = named(&format!("checkpoint {name}"));
                whole(&kept, &mut line).map_err(failed)?;
                checkpoints.push(line);
            }
        } else {
            whole(&entry, &mut others).map_err(failed)?;
        }
    }
    let parts = [
        ("superblocks", summary.disk.superblocks),
        ("directory", summary.disk.directory),
        ("records", summary.disk.records),
        ("block table", summary.disk.table),
    ];
    let fixed: u64 = parts.iter().map(|(_, bytes)| bytes).sum();
    let mut parts = parts.to_vec();
    parts.push(("rest", meta.apparent.saturating_sub(fixed)));
    parts.retain(|(_, bytes)| *bytes > 0);
    let mut lines: Vec<_> = planes.into_values().collect();
    lines.extend([meta, small, directories]);
    lines.extend(checkpoints);
    lines.push(others);
    lines.retain(|line| line.home.is_some() || line.apparent + line.allocated > 0);
    Ok(Why { lines, meta: parts })
}

/// What stands in a directory, by name.
fn sorted(dir: &Path) -> io::Result<Vec<std::path::PathBuf>> {
    let mut entries = fs::read_dir(dir)?.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>()?;
    entries.sort();
    Ok(entries)
}

/// Adds a file, or a directory with everything below it.
fn whole(path: &Path, line: &mut Line) -> io::Result<()> {
    let metadata = fs::symlink_metadata(path)?;
    line.add(&metadata);
    if metadata.is_dir() {
        for entry in sorted(path)? {
            whole(&entry, line)?;
        }
    }
    Ok(())
}

/// Which plane and home a file such as `exp_avg.0000.1` belongs to.
fn plane_of(name: &str, summary: &Summary) -> Option<(usize, u8)> {
    let (rest, home) = name.rsplit_once('.')?;
    let (plane, number) = rest.rsplit_once('.')?;
    let is_number = number.len() >= 4 && number.bytes().all(|c| c.is_ascii_digit());
    let at = summary.planes.iter().position(|known| known.name == plane).filter(|_| is_number)?;
    Some((at, home.parse().ok()?))
}

pub(super) fn text(why: &Why, out: &mut dyn Write) -> Result<(), Failure> {
    writeln!(out, "\nwhere every byte on disk goes")?;
    let headings = [
        "what",
        "home",
        ">values",
        ">current",
        ">padding",
        ">length",
        ">allocated",
        ">share",
        ">bytes allocated",
    ];
    let mut table = Table::new(&headings).fit(&["padding", "bytes allocated", "current", "values", "length"]);
    let total: u64 = why.lines.iter().map(|line| line.allocated).sum();
    let some = |value: Option<u64>| value.map_or_else(String::new, bytes);
    for line in &why.lines {
        table.row(vec![
            line.what.clone(),
            line.home.map_or_else(String::new, |home| home.to_string()),
            some(line.values),
            some(line.current),
            some(line.values.map(|values| line.apparent.saturating_sub(values))),
            bytes(line.apparent),
            bytes(line.allocated),
            percent(line.allocated, total),
            grouped(line.allocated),
        ]);
        if line.what.starts_with("metadata") {
            for (what, part) in &why.meta {
                let mut cells = vec![String::new(); 9];
                (cells[0], cells[5]) = (format!("  {what}"), bytes(*part));
                table.row(cells);
            }
        }
    }
    let apparent = why.lines.iter().map(|line| line.apparent).sum();
    let mut cells = vec![String::new(); 9];
    let ends = [bytes(apparent), bytes(total), percent(total, total), grouped(total)];
    cells.splice(5.., ends);
    cells.splice(..1, ["total".to_owned()]);
    table.row(cells);
    table.write(out)?;
    writeln!(out, "  values: what the plane holds; current: what of it the generation has in that home")?;
    writeln!(out, "  two homes: training writes one while the other stays whole, and nothing is copied")?;
    if why.lines.iter().any(|line| line.what.starts_with("checkpoint ")) {
        writeln!(out, "  blocks that a checkpoint shares with the store are counted at both")?;
    }
    Ok(())
}

pub(super) fn to_json(why: &Why) -> Value {
    let line = |line: &Line| {
        json!({
            "what": line.what,
            "home": line.home,
            "values": line.values,
            "current": line.current,
            "padding": line.values.map(|values| line.apparent.saturating_sub(values)),
            "bytes": line.apparent,
            "bytes_allocated": line.allocated,
        })
    };
    let meta: serde_json::Map<_, _> =
        why.meta.iter().map(|(what, part)| ((*what).to_owned(), (*part).into())).collect();
    json!({
        "parts": why.lines.iter().map(line).collect::<Vec<_>>(),
        "metadata": meta,
        "bytes": why.lines.iter().map(|line| line.apparent).sum::<u64>(),
        "bytes_allocated": why.lines.iter().map(|line| line.allocated).sum::<u64>(),
    })
}
