//! `paramstore create`.

use std::io::Write;

use paramstore::ParamStore;
use serde_json::json;

use crate::arguments::CreateArguments;
use crate::failure::Failure;
use crate::human::{bytes, counted};
use crate::{Verdict, terminal};

pub(crate) fn run(arguments: &CreateArguments, out: &mut dyn Write) -> Result<Verdict, Failure> {
    let schema = arguments.schema.schema(&arguments.settings, arguments.init, arguments.seed)?;
    let options = arguments.schema.options().sparse(arguments.sparse);
    let plan = schema.plan(&options)?;
    if plan.budget_bytes < plan.budget_min_bytes {
        return Err(Failure::Usage(format!(
            "--memory: {} hold too few blocks of this size; expected at least {}",
            bytes(plan.budget_bytes),
            bytes(plan.budget_min_bytes)
        )));
    }
    let store = ParamStore::create(&arguments.store, &schema, &options)?;
    let summary = store.summary()?;
    drop(store);
    let block_bytes = summary.blocks.iter().map(|size| size.param_bytes).max().unwrap_or(0);
    if arguments.json {
        let value = json!({
            "path": arguments.store.display().to_string(),
            "uuid": summary.uuid,
            "format_version": summary.format_version,
            "generation": summary.generation,
            "step": summary.step,
            "params": summary.params,
            "tensors": summary.tensors,
            "planes": summary.planes.iter().map(|plane| &plane.name).collect::<Vec<_>>(),
            "block_bytes": block_bytes,
            "bytes_on_disk": summary.bytes_on_disk,
            "bytes_allocated": summary.bytes_allocated,
            "memory_min_bytes": plan.budget_min_bytes,
            "sparse": arguments.sparse,
        });
        terminal::json(out, &value)?;
        return Ok(Verdict::Sound);
    }
    let optimizer = summary.groups.first().map_or("", |group| group.optimizer.name());
    let planes: Vec<_> = summary.planes.iter().map(|plane| plane.name.as_str()).collect();
    writeln!(
        out,
        "created {}: {} in {}, {optimizer}",
        arguments.store.display(),
        counted(summary.params, "parameter"),
        counted(summary.tensors, "tensor"),
    )?;
    writeln!(out, "planes {}, blocks of {}", planes.join(", "), bytes(block_bytes))?;
    let allocated = bytes(summary.bytes_allocated);
    let how = if arguments.sparse {
        format!("sparse: {allocated} allocated so far, the rest when it is first written")
    } else {
        format!("{allocated} allocated: training cannot run out of disk")
    };
    writeln!(out, "{} on disk ({how})", bytes(summary.bytes_on_disk))?;
    writeln!(out, "memory to train with: at least {}", bytes(plan.budget_min_bytes))?;
    Ok(Verdict::Sound)
}
