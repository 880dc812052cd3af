//! The JSON of `top`: one object on a line.

use std::io::Write;

use serde_json::{Value, json};

use super::model::{Model, Rates, Writer};
use super::view::Kind;
use crate::failure::Failure;

pub(super) fn write(model: &Model, out: &mut dyn Write) -> Result<(), Failure> {
    serde_json::to_writer(&mut *out, &value(model))?;
    Ok(writeln!(out)?)
}

pub(super) fn value(model: &Model) -> Value {
    let (is_alive, process) = match model.writer {
        Writer::Process(process) => (Some(true), Some(process)),
        Writer::Outside => (Some(true), None),
        Writer::Nobody => (Some(false), None),
        Writer::Unknown => (None, None),
    };
    let mut value = json!({
        "path": model.path,
        "state": model.state().name(),
        "unix_ms": model.unix_ms,
        "writer": { "is_alive": is_alive, "process": process },
    });
    let (Some(live), Value::Object(map)) = (&model.live, &mut value) else { return value };
    let rest = json!({
        "page": {
            "process": live.pid,
            "unix_ms": live.now_unix_ms,
            "opened_unix_ms": live.opened_unix_ms,
            "age_seconds": model.age_ms().map(|age| super::model::number(age) / 1e3),
        },
        "step": live.step,
        "committed_step": live.committed_step,
        "generation": live.generation,
        "step_seconds": model.step_seconds(),
        "rates": model.rates().map(|rates| of_rates(&rates)),
        "disk": {
            "measured_bytes_per_s": model.limit,
            "highest_read_bytes_per_s": model.highest[0],
            "highest_written_bytes_per_s": model.highest[1],
        },
        "memory": {
            "budget_bytes": live.budget_bytes,
            "held_bytes": live.stats.held_bytes,
            "hot_bytes": live.hot_bytes,
            "dirty_bytes": live.dirty_bytes,
        },
        "blocks": { "all": live.blocks, "runs": live.cells.len(), "by_state": of_cells(live) },
        "loss": live.loss,
        "validation_loss": live.validation_loss,
        "lr": live.lr,
    });
    if let Value::Object(rest) = rest {
        map.extend(rest);
    }
    value
}

fn of_rates(rates: &Rates) -> Value {
    json!({
        "seconds": rates.seconds,
        "steps": rates.steps,
        "steps_per_s": rates.steps_per_s(),
        "read_bytes_per_s": rates.read_bytes_per_s,
        "written_bytes_per_s": rates.written_bytes_per_s,
        "compute_share": rates.compute,
        "stall_read_share": rates.stall_read,
        "stall_write_share": rates.stall_write,
        "stall_update_share": rates.stall_update,
        "commit_share": rates.commit,
        "disk_share": rates.disk,
        "hit_rate": rates.hit_rate,
    })
}

/// How many runs of blocks there are of each state.
fn of_cells(live: &paramstore::telemetry::Live) -> Value {
    let count = |kind: Kind| live.cells.chunks(1).filter(|cell| Kind::of(cell) == kind).count();
    json!({
        "on_disk": count(Kind::OnDisk),
        "partly": count(Kind::Partly),
        "in_memory": count(Kind::InMemory),
        "changed": count(Kind::Changed),
        "moving": count(Kind::Moving),
    })
}
