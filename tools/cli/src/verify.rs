//! `paramstore verify`.

mod mark;

use std::io::Write;
use std::time::{Duration, Instant};

use paramstore::inspect::{Finding, Verification, VerifyOptions};
use serde_json::{Value, json};

use crate::arguments::VerifyArguments;
use crate::failure::Failure;
use crate::human::{bytes, counted, grouped, seconds, speed};
use crate::{Verdict, terminal};

/// Time between two notes of how far a look has come: each is made durable, which can take a second.
const KEEP_EVERY: Duration = Duration::from_secs(5);

pub(crate) fn run(arguments: &VerifyArguments, out: &mut dyn Write) -> Result<Verdict, Failure> {
    let mut options = VerifyOptions::new()
        .memory(arguments.memory)
        .io_threads(usize::from(arguments.threads))
        .generation(arguments.generation.into())
        .findings_max(arguments.limit);
    if let Some(earlier) = arguments.resume.as_deref().map(mark::read).transpose()?.flatten() {
        options = options.resume(earlier);
    }
    let (mut kept, mut kept_at) = (Ok(()), Instant::now());
    let bar = terminal::progress(1, "{elapsed} [{bar:30}] {percent} % of the block table, {eta} left, {msg}");
    let result = paramstore::inspect::verify(&arguments.store, &options, |progress| {
        bar.set_length(progress.entries);
        bar.set_position(progress.entries_done);
        let read = bytes(progress.bytes_read);
        let found = counted(progress.findings, "damaged place");
        bar.set_message(if progress.findings == 0 {
            format!("{read} read")
        } else {
            format!("{read} read, {found}")
        });
        if let (Some(path), Some(seen), Ok(())) = (&arguments.resume, progress.so_far, &kept)
            && kept_at.elapsed() >= KEEP_EVERY
        {
            kept = mark::write(path, seen);
            kept_at = Instant::now();
        }
    });
    bar.finish_and_clear();
    let seen = result?;
    kept?;
    arguments.resume.as_deref().map_or(Ok(()), mark::remove)?;
    // The verdict stands, whether somebody reads it to the end or not.
    let written = if arguments.json {
        terminal::json(out, &to_json(arguments, &seen))
    } else {
        to_text(arguments, &seen, out).map_err(Failure::from)
    };
    match written {
        Err(Failure::Output(error)) => terminal::ignore_closed_pipe(Err(error))?,
        other => other?,
    }
    Ok(if seen.is_sound() { Verdict::Sound } else { Verdict::Damaged })
}

fn to_json(arguments: &VerifyArguments, seen: &Verification) -> Value {
    let finding = |finding: &Finding| {
        json!({
            "tensors": finding.tensors,
            "plane": finding.plane,
            "block": finding.block,
            "file": finding.damage.path.display().to_string(),
            "offset": finding.damage.range.0,
            "bytes": finding.damage.range.1,
            "what": finding.damage.what,
            "got": finding.damage.got,
            "expected": finding.damage.expected,
        })
    };
    json!({
        "path": arguments.store.display().to_string(),
        "sound": seen.is_sound(),
        "complete": seen.complete,
        "uuid": seen.uuid,
        "generation": seen.last_generation,
        "first_generation": seen.first_generation,
        "table_pages": seen.table_pages,
        "blocks": seen.blocks,
        "blocks_never_written": seen.blocks_absent,
        "bytes_read": seen.bytes_read,
        "seconds": seen.seconds,
        "damage_count": seen.findings_total,
        "damage": seen.findings.iter().map(finding).collect::<Vec<_>>(),
    })
}

/// Lists the damaged places that were noted.
pub(crate) fn findings(seen: &Verification, out: &mut dyn Write) -> std::io::Result<()> {
    for finding in &seen.findings {
        writeln!(out, "{}", finding.damage)?;
        if finding.tensors.len() > 1 {
            writeln!(out, "  tensors in it: {}", finding.tensors.join(", "))?;
        }
    }
    Ok(())
}

fn to_text(arguments: &VerifyArguments, seen: &Verification, out: &mut dyn Write) -> std::io::Result<()> {
    findings(seen, out)?;
    let listed = u64::try_from(seen.findings.len()).unwrap_or(u64::MAX);
    if listed < seen.findings_total {
        writeln!(out, "... and {} more (--limit lists more)", grouped(seen.findings_total - listed))?;
    }
    let store = arguments.store.display();
    if seen.is_sound() {
        writeln!(out, "{store} is sound: generation {}", seen.last_generation)?;
    } else {
        writeln!(out, "{store} is damaged: {}", counted(seen.findings_total, "place"))?;
        if !seen.complete {
            writeln!(out, "damaged metadata hides what is below it; the rest could not be followed")?;
        }
    }
    if seen.first_generation != seen.last_generation {
        let (first, last) = (seen.first_generation, seen.last_generation);
        writeln!(out, "a writer was at work: generations {first} to {last} were looked at")?;
    }
    #[expect(clippy::cast_precision_loss, reason = "a speed for people")]
    let rate = seen.bytes_read as f64 / seen.seconds.max(1e-9);
    let rate = if seen.bytes_read > 1 << 20 { format!(", {}", speed(rate)) } else { String::new() };
    writeln!(
        out,
        "checked {} and {} ({}) in {}{rate}; {} never written",
        counted(seen.table_pages, "table page"),
        counted(seen.blocks, "block plane"),
        bytes(seen.bytes_read),
        seconds(seen.seconds),
        counted(seen.blocks_absent, "block plane"),
    )?;
    if !seen.is_sound() {
        let is_superblock = |finding: &Finding| finding.damage.what.starts_with("superblock");
        let hint = if seen.complete && seen.findings.iter().all(is_superblock) {
            "the generation in force is whole, and the next commit writes the other superblock anew"
        } else if seen.complete {
            "`paramstore repair` says what can be done; everything else is whole and readable"
        } else {
            "`paramstore repair` says what can be done, beside restoring the files named above from a copy"
        };
        writeln!(out, "hint: {hint}")?;
    }
    Ok(())
}
