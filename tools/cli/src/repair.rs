//! `paramstore repair`.

use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;

use paramstore::inspect::{Verification, VerifyOptions};
use paramstore::repair::{Loss, RebuildPlan, Repair};
use paramstore::{Error, Generation};
use serde_json::json;

use crate::arguments::RepairArguments;
use crate::failure::Failure;
use crate::human::counted;
use crate::{Verdict, terminal, verify};

/// How many losses are listed.
const LOSSES_MAX: usize = 20;

/// A way out, and what it takes.
enum Way {
    /// Whole copies of the damaged blocks.
    Rebuild { copy: PathBuf, name: String, plan: RebuildPlan },
    /// The generation before.
    Previous { generation: u64, step: u64, lost_steps: u64 },
}

pub(crate) fn run(arguments: &RepairArguments, out: &mut dyn Write) -> Result<Verdict, Failure> {
    let mut repair = Repair::open(&arguments.store)?;
    let seen = look(&mut repair, Generation::Newest, "newest generation")?;
    let store = arguments.store.display().to_string();
    if seen.is_sound() || only_superblocks(&seen) {
        let why = if seen.is_sound() {
            "nothing to repair"
        } else {
            "the generation in force is whole; the next commit writes the other superblock anew"
        };
        say(arguments, out, &json!({"path": store, "sound": seen.is_sound(), "done": null}), |out| {
            writeln!(out, "{store}: {why}")
        })?;
        return Ok(Verdict::Sound);
    }
    if !arguments.json {
        verify::findings(&seen, out)?;
        writeln!(out, "{store} is damaged: {}", counted(seen.findings_total, "place"))?;
    }
    let ways = ways(arguments, &mut repair, &seen)?;
    if !arguments.json {
        ways.iter().try_for_each(|way| way.write(out, &repair))?;
        if ways.is_empty() {
            writeln!(out, "neither a kept checkpoint nor the generation before has what is damaged")?;
        }
    }
    out.flush()?;
    let Some(way) = ways.into_iter().find(|way| way.is_meant(arguments)) else {
        let told = json!({"path": store, "sound": false, "done": null});
        say(arguments, out, &told, |out| {
            writeln!(out, "nothing was changed; name one of the ways above to take it, or restore a copy")
        })?;
        return Ok(Verdict::Damaged);
    };
    if !(arguments.yes || is_agreed(&way, &repair)?) {
        let told = json!({"path": store, "sound": false, "done": null});
        say(arguments, out, &told, |out| writeln!(out, "nothing was changed; --yes repairs without asking"))?;
        return Ok(Verdict::Damaged);
    }
    take(arguments, way, repair, &seen, out)
}

/// Prints the result in the form that was asked for.
fn say(
    arguments: &RepairArguments,
    out: &mut dyn Write,
    value: &serde_json::Value,
    text: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> Result<(), Failure> {
    if arguments.json { terminal::json(out, value) } else { Ok(text(out)?) }
}

/// Reads and checks a generation; all damage is listed, since all of it is to be mended.
fn look(repair: &mut Repair, generation: Generation, what: &str) -> Result<Verification, Failure> {
    let options = VerifyOptions::new().generation(generation).findings_max(usize::MAX);
    let bar = terminal::progress(
        1,
        &format!("{{elapsed}} [{{bar:30}}] {{percent}} % of the {what} checked, {{eta}} left"),
    );
    let seen = repair.verify(&options, |progress| {
        bar.set_length(progress.entries);
        bar.set_position(progress.entries_done);
    });
    bar.finish_and_clear();
    Ok(seen?)
}

fn only_superblocks(seen: &Verification) -> bool {
    seen.complete && seen.findings.iter().all(|finding| finding.damage.what.starts_with("superblock"))
}

/// The ways out, the one that loses least first.
fn ways(arguments: &RepairArguments, repair: &mut Repair, seen: &Verification) -> Result<Vec<Way>, Failure> {
    let mut ways = Vec::new();
    for (name, copy) in copies(arguments)? {
        match repair.plan_rebuild(&copy, seen) {
            Ok(plan) if plan.is_complete() => ways.push(Way::Rebuild { copy, name, plan }),
            // What was named has to be right; what merely lies there need not be.
            Err(error) if arguments.from.is_some() => return Err(error.into()),
            Ok(_) | Err(_) => {}
        }
    }
    // Whoever has named and agreed to a copy does not need all of the other generation read.
    let is_settled = arguments.from.is_some() && arguments.yes;
    if let Some(step) = repair.previous_step()?.filter(|_| !is_settled) {
        match look(repair, Generation::Previous, "generation before") {
            Ok(previous) if previous.is_sound() && previous.complete => ways.push(Way::Previous {
                generation: previous.last_generation,
                step,
                lost_steps: repair.step() - step,
            }),
            Ok(_) | Err(Failure::Store(Error::Damaged(_))) => {}
            Err(error) => return Err(error),
        }
    }
    ways.sort_by_key(|way| match way {
        Way::Rebuild { plan, .. } if plan.is_lossless() => (0, 0),
        Way::Previous { lost_steps, .. } => (1, *lost_steps),
        Way::Rebuild { plan, .. } => (2, u64::try_from(plan.losses.len()).unwrap_or(u64::MAX)),
    });
    Ok(ways)
}

/// The copies to look into: the one that was named, or all kept checkpoints.
fn copies(arguments: &RepairArguments) -> Result<Vec<(String, PathBuf)>, Failure> {
    let kept = arguments.store.join("checkpoints");
    if let Some(from) = &arguments.from {
        let name = from.display().to_string();
        let is_name = from.components().count() == 1 && kept.join(from).is_dir();
        return Ok(vec![(name, if is_name { kept.join(from) } else { from.clone() })]);
    }
    if arguments.previous {
        return Ok(Vec::new());
    }
    let all = paramstore::checkpoint::list(&arguments.store)?;
    let kept = all.into_iter().filter(|checkpoint| checkpoint.generation().is_some());
    Ok(kept.map(|checkpoint| (checkpoint.name, checkpoint.path)).collect())
}

fn is_agreed(way: &Way, repair: &Repair) -> Result<bool, Failure> {
    if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
        return Ok(false);
    }
    let loss = way.loss(repair);
    let asked = write!(io::stderr(), "this is lost: {loss}\nrepair it in this way? [y/N] ");
    asked.and_then(|()| io::stderr().flush())?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

fn take(
    arguments: &RepairArguments,
    way: Way,
    mut repair: Repair,
    seen: &Verification,
    out: &mut dyn Write,
) -> Result<Verdict, Failure> {
    let store = arguments.store.display().to_string();
    let loss = way.loss(&repair);
    let (told, generation, step) = match way {
        Way::Rebuild { copy, name, .. } => {
            let rebuilt = repair.rebuild(&copy, seen)?;
            let planes = counted(rebuilt.blocks, "block plane");
            (format!("{planes} rebuilt from {name}"), rebuilt.generation, repair.step())
        }
        Way::Previous { .. } => {
            let dropped = repair.drop_newest(&VerifyOptions::new())?;
            let told = format!("step {} dropped", dropped.dropped_step);
            (told, dropped.generation, dropped.step)
        }
    };
    let value = json!({
        "path": store, "sound": true, "done": told, "lost": loss, "generation": generation, "step": step,
    });
    say(arguments, out, &value, |out| {
        writeln!(out, "{told}; generation {generation}, step {step} is in force; lost: {loss}")
    })?;
    Ok(Verdict::Sound)
}

impl Way {
    /// Whether this is the way that was asked for.
    fn is_meant(&self, arguments: &RepairArguments) -> bool {
        match self {
            Self::Rebuild { .. } => arguments.from.is_some(),
            Self::Previous { .. } => arguments.previous,
        }
    }

    fn loss(&self, repair: &Repair) -> String {
        match self {
            Self::Rebuild { plan, .. } if plan.is_lossless() => "nothing".to_owned(),
            Self::Rebuild { plan, .. } => older(&plan.losses, repair.step()),
            Self::Previous { step, lost_steps, .. } => {
                format!("{} (step {} back to {step})", counted(*lost_steps, "step"), repair.step())
            }
        }
    }

    fn write(&self, out: &mut dyn Write, repair: &Repair) -> io::Result<()> {
        let loss = self.loss(repair);
        match self {
            Self::Rebuild { name, plan, .. } => {
                let exact = counted(plan.exact, "block plane");
                writeln!(out, "  --from {name}: {exact} with the very bytes; lost: {loss}")?;
                for loss in plan.losses.iter().take(LOSSES_MAX) {
                    writeln!(out, "    {}: {}", loss.what, loss.tensors.join(", "))?;
                }
                let more = plan.losses.len().saturating_sub(LOSSES_MAX);
                if more > 0 { writeln!(out, "    ... and {more} more") } else { Ok(()) }
            }
            Self::Previous { generation, step, .. } => {
                writeln!(out, "  --previous: generation {generation}, step {step}; lost: {loss}")
            }
        }
    }
}

fn older(losses: &[Loss], step: u64) -> String {
    let planes = counted(u64::try_from(losses.len()).unwrap_or(u64::MAX), "block plane");
    let back = losses.iter().filter_map(|loss| loss.back_to_step).min().unwrap_or(0);
    format!("what {planes} learned between steps {back} and {step}, while all others stay at step {step}")
}
