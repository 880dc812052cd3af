//! The text of `inspect`.

use std::io::{self, Write};

use paramstore::inspect::{BlockRun, DiskUse, PlaneUse, Summary};
use paramstore::optim::Setting;

use super::{Shown, tensors, why};
use crate::failure::Failure;
use crate::human::{Table, bytes, counted, date, grouped, percent};

pub(super) fn write(shown: &Shown<'_>, out: &mut dyn Write) -> Result<(), Failure> {
    let summary = &shown.summary;
    head(summary, out)?;
    if let Some(digest) = &shown.digest {
        writeln!(out, "digest      {digest}")?;
    }
    groups(summary, out)?;
    rows(summary, out)?;
    writeln!(out, "\nplanes")?;
    planes(&summary.planes, out)?;
    writeln!(out, "\ndisk")?;
    disk(&summary.disk, out)?;
    if summary.bytes_allocated < summary.bytes_on_disk {
        writeln!(out, "  {} of it allocated by the file system", bytes(summary.bytes_allocated))?;
    }
    writeln!(out, "\nblocks")?;
    for size in &summary.blocks {
        let (blocks, each) = (counted(size.blocks, "block"), bytes(size.param_bytes));
        writeln!(
            out,
            "  {blocks} of {} ({each} of parameters or records)",
            counted(size.elements, "element")
        )?;
    }
    let table = summary.table;
    let (entries, pages) = (grouped(table.entries), counted(table.pages, "page"));
    writeln!(out, "  table of {entries} entries: {pages} of 4 KiB in {}", counted(table.levels, "level"))?;
    tensors::write(&shown.list, out)?;
    writeln!(out, "\ncheckpoints")?;
    crate::checkpoint::text::list(&shown.checkpoints, out)?;
    if let Some(seen) = &shown.why {
        why::text(seen, out)?;
    }
    if shown.arguments.blocks {
        blocks(shown, out)?;
    }
    Ok(())
}

fn head(summary: &Summary, out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, "{}: parameter store, format {}", summary.path.display(), summary.format_version)?;
    writeln!(out, "uuid        {}", summary.uuid)?;
    writeln!(out, "created     {}", date(summary.created_unix_s))?;
    let by = &summary.writer_version;
    writeln!(out, "generation  {}, step {}, by {by}", summary.generation, grouped(summary.step))?;
    let (params, tensors) = (grouped(summary.params), counted(summary.tensors, "tensor"));
    writeln!(out, "parameters  {params} in {tensors}")?;
    let allocated = if summary.features.is_empty() {
        String::new()
    } else {
        format!(" ({})", summary.features.join(", "))
    };
    writeln!(out, "on disk     {}{allocated}", bytes(summary.bytes_on_disk))?;
    if summary.user_record_bytes > 0 {
        writeln!(out, "record      {} of the user", bytes(summary.user_record_bytes))?;
    }
    let ahead = match summary.uncommitted_steps {
        0 => "all its steps are committed".to_owned(),
        steps => format!("{} not yet committed", counted(steps, "step")),
    };
    match summary.writer_process {
        Some(0) => writeln!(out, "writer      a process outside this container; {ahead}")?,
        Some(process) => writeln!(out, "writer      process {process}; {ahead}")?,
        None if summary.uncommitted_steps > 0 => {
            let steps = counted(summary.uncommitted_steps, "finished step");
            writeln!(out, "lost        {steps}, not committed when the last writer ended")?;
        }
        None => {}
    }
    if summary.recovery.damaged {
        for (slot, state) in summary.recovery.slots.iter().enumerate() {
            writeln!(out, "superblock {slot} {state}")?;
        }
    }
    Ok(())
}

/// What the tensors of rows hold.
fn rows(summary: &Summary, out: &mut dyn Write) -> io::Result<()> {
    if summary.rows.is_empty() {
        return Ok(());
    }
    writeln!(out, "\nrows")?;
    let mut table = Table::new(&["tensor", "mode", ">rows", ">born", ">in the log", ">record", ">page"]);
    for tensor in &summary.rows {
        table.row(vec![
            tensor.tensor.clone(),
            tensor.mode.name().to_owned(),
            grouped(tensor.rows),
            grouped(tensor.born),
            grouped(tensor.in_log),
            bytes(tensor.record_bytes),
            bytes(tensor.page_bytes),
        ]);
    }
    table.write(out)?;
    for tensor in summary.rows.iter().filter(|tensor| tensor.admission > 0) {
        let (name, admission) = (&tensor.tensor, tensor.admission);
        let (collided, waiting) = (grouped(tensor.collided), grouped(tensor.not_admitted));
        writeln!(
            out,
            "  {name}: found by hashed ids, updated from sighting {admission} on; {collided} sightings collided, \
             {waiting} were not admitted"
        )?;
    }
    for tensor in summary.rows.iter().filter(|tensor| tensor.expired > 0) {
        writeln!(out, "  {}: {} rows expired so far", tensor.tensor, grouped(tensor.expired))?;
    }
    Ok(())
}

fn groups(summary: &Summary, out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, "\ngroups")?;
    for group in &summary.groups {
        let (params, tensors) = (counted(group.params, "parameter"), counted(group.tensors, "tensor"));
        writeln!(out, "  {}: {}, {params} in {tensors}", group.name, group.optimizer.name())?;
        let settings = group.optimizer.settings();
        let settings: Vec<_> =
            settings.iter().map(|(key, value)| format!("{key} {}", setting(*value))).collect();
        writeln!(out, "    {}", settings.join(", "))?;
    }
    Ok(())
}

/// The table of planes, as `plan` shows it too.
pub(crate) fn planes(planes: &[PlaneUse], out: &mut dyn Write) -> io::Result<()> {
    let mut table =
        Table::new(&["name", "role", "dtype", ">elements", ">values", ">homes", ">on disk", ">files"]);
    // Of tensors of rows, all planes stand in that of their records.
    for plane in planes.iter().filter(|plane| plane.files > 0) {
        table.row(vec![
            plane.name.clone(),
            plane.role.name().to_owned(),
            plane.dtype_names(),
            grouped(plane.elements),
            bytes(plane.value_bytes),
            plane.homes.to_string(),
            bytes(plane.disk_bytes),
            grouped(plane.files),
        ]);
    }
    table.write(out)
}

/// Every byte of disk by its use, as `plan` shows it too.
pub(crate) fn disk(disk: &DiskUse, out: &mut dyn Write) -> io::Result<()> {
    let total = disk.total();
    let mut table = Table::new(&["", ">", ">", ">"]);
    for (name, part) in disk_parts(disk).chain([("total", total)]) {
        let cells = [bytes(part), percent(part, total), format!("{} bytes", grouped(part))];
        table.row([name.to_owned()].into_iter().chain(cells).collect());
    }
    table.write(out)
}

/// The uses of disk, by name; of those that few stores have, only what is there.
pub(crate) fn disk_parts(disk: &DiskUse) -> impl Iterator<Item = (&str, u64)> {
    let rest = [
        ("scratch", disk.scratch),
        ("rows", disk.rows),
        ("row log", disk.row_log),
        ("frozen", disk.frozen),
        ("padding", disk.padding),
        ("block table", disk.table),
        ("directory", disk.directory),
        ("records", disk.records),
        ("superblocks", disk.superblocks),
        (super::why::SMALL_FILES, disk.small_files),
        ("files of others", disk.other_files),
    ];
    let planes = disk.state.iter().map(|plane| (plane.name.as_str(), plane.bytes));
    let first = [("parameters", disk.parameters)].into_iter().chain(planes);
    let second = [("second homes of these", disk.second_homes)];
    first.chain(second).chain(rest.into_iter().filter(|(_, part)| *part > 0))
}

/// One line for each block plane; not aligned over all lines, since a large store has millions.
fn blocks(shown: &Shown<'_>, out: &mut dyn Write) -> Result<(), Failure> {
    writeln!(out, "\nblocks of generation {}", shown.summary.generation)?;
    let width = shown.summary.planes.iter().map(|plane| plane.name.len()).max().unwrap_or(0);
    for run in shown.store.blocks() {
        match run {
            Ok(BlockRun::Written(block)) => writeln!(
                out,
                "  {:>8}  {:width$}  home {}  generation {:<6}  checksum {:08x}  {} at {:>14}, {:>9} bytes  {}",
                block.block,
                block.plane,
                block.home,
                block.generation,
                block.crc,
                block.file,
                grouped(block.offset),
                grouped(block.bytes),
                names(&block.tensors),
            )?,
            Ok(BlockRun::Absent(absent)) if absent.first_block == absent.last_block => {
                let planes = counted(absent.planes, "plane");
                writeln!(out, "  {:>8}  {planes} never written", absent.first_block)?;
            }
            Ok(BlockRun::Absent(absent)) => {
                let planes = counted(absent.planes, "block plane");
                writeln!(
                    out,
                    "  {:>8} to {}: {planes} never written",
                    absent.first_block, absent.last_block
                )?;
            }
            Ok(_) => {}
            Err(error) => writeln!(out, "  {error}")?,
        }
    }
    Ok(())
}

/// A hyperparameter as one would type it.
pub(crate) fn setting(value: Setting) -> String {
    match value {
        Setting::Number(number) if number != 0.0 && number.abs() < 1e-3 => format!("{number:e}"),
        Setting::Number(number) => number.to_string(),
        Setting::Switch(on) => on.to_string(),
    }
}

/// The first tensors of a block, and how many more there are.
fn names(tensors: &[String]) -> String {
    match tensors {
        [one] => one.clone(),
        [first, second] => format!("{first}, {second}"),
        [first, rest @ ..] => format!("{first} and {} more", rest.len()),
        [] => String::new(),
    }
}
