//! The JSON of `inspect`. Its keys are relied on by scripts.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io::Write;

use paramstore::RowUse;
use paramstore::inspect::{BlockRun, Blocks, DiskUse, PlaneUse, Summary, TensorDigest};
use paramstore::optim::Setting;
use serde::ser::{Error as _, SerializeSeq};
use serde::{Serialize, Serializer};
use serde_json::{Map, Value, json};

use super::Shown;
use super::tensors::{self, Row};
use crate::failure::Failure;
use crate::terminal;

#[derive(Serialize)]
struct Document<'a> {
    #[serde(flatten)]
    head: Map<String, Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    blocks: Option<BlockList<'a>>,
}

/// The blocks, written one by one: a large store has millions.
struct BlockList<'a>(RefCell<Blocks<'a>>);

impl Serialize for BlockList<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut list = serializer.serialize_seq(None)?;
        for run in &mut *self.0.try_borrow_mut().map_err(S::Error::custom)? {
            list.serialize_element(&block(&run))?;
        }
        list.end()
    }
}

pub(super) fn write(shown: &Shown<'_>, out: &mut dyn Write) -> Result<(), Failure> {
    let mut head = match summary(&shown.summary) {
        Value::Object(map) => map,
        _ => Map::new(),
    };
    let digests = shown.digest.iter().flat_map(|digest| &digest.tensors);
    let digests: HashMap<_, _> = digests.map(|digest| (digest.name.as_str(), digest)).collect();
    let tensors = shown.list.rows.iter().map(|row| tensor(row, digests.get(row.info.name()).copied()));
    let checkpoints = shown.checkpoints.iter().map(crate::checkpoint::to_json);
    head.insert("checkpoints".to_owned(), checkpoints.collect::<Vec<_>>().into());
    head.insert("tensors".to_owned(), tensors.collect::<Vec<_>>().into());
    if let Some(digest) = &shown.digest {
        head.insert("digest".to_owned(), digest.to_string().into());
    }
    if let Some(why) = &shown.why {
        head.insert("why".to_owned(), super::why::to_json(why));
    }
    let blocks = shown.arguments.blocks.then(|| BlockList(RefCell::new(shown.store.blocks())));
    terminal::json(out, &Document { head, blocks })
}

fn setting(value: Setting) -> Value {
    match value {
        Setting::Number(number) => number.into(),
        Setting::Switch(on) => on.into(),
    }
}

fn summary(summary: &Summary) -> Value {
    let groups = summary.groups.iter().map(|group| {
        let settings: Map<_, _> = group
            .optimizer
            .settings()
            .into_iter()
            .map(|(key, value)| (key.to_owned(), setting(value)))
            .collect();
        json!({
            "name": group.name,
            "optimizer": group.optimizer.name(),
            "hyperparameters": settings,
            "tensors": group.tensors,
            "params": group.params,
        })
    });
    let blocks = summary.blocks.iter().map(
        |size| json!({ "elements": size.elements, "param_bytes": size.param_bytes, "blocks": size.blocks }),
    );
    json!({
        "path": summary.path.display().to_string(),
        "format_version": summary.format_version,
        "uuid": summary.uuid,
        "generation": summary.generation,
        "step": summary.step,
        "created_unix_s": summary.created_unix_s,
        "writer_version": summary.writer_version,
        "features": summary.features,
        "params": summary.params,
        "bytes_on_disk": summary.bytes_on_disk,
        "bytes_allocated": summary.bytes_allocated,
        "disk": disk(&summary.disk),
        "groups": groups.collect::<Vec<_>>(),
        "planes": summary.planes.iter().map(plane).collect::<Vec<_>>(),
        "block_sizes": blocks.collect::<Vec<_>>(),
        "row_tensors": summary.rows.iter().map(row_tensor).collect::<Vec<_>>(),
        "table": {
            "entries": summary.table.entries,
            "pages": summary.table.pages,
            "levels": summary.table.levels,
        },
        "user_record_bytes": summary.user_record_bytes,
        "recovery": {
            "damaged": summary.recovery.damaged,
            "fell_back": summary.recovery.fell_back,
            "superblocks": summary.recovery.slots,
        },
        "writer": summary.writer_process.map(|process| {
            json!({ "process": process, "uncommitted_steps": summary.uncommitted_steps })
        }),
        "lost_steps": summary.lost_steps(),
    })
}

/// Every byte of disk by its use.
pub(crate) fn disk(disk: &DiskUse) -> Value {
    let state: Map<_, _> = disk.state.iter().map(|plane| (plane.name.clone(), plane.bytes.into())).collect();
    json!({
        "parameters": disk.parameters,
        "state": state,
        "second_homes": disk.second_homes,
        "scratch": disk.scratch,
        "rows": disk.rows,
        "row_log": disk.row_log,
        "frozen": disk.frozen,
        "padding": disk.padding,
        "table": disk.table,
        "directory": disk.directory,
        "records": disk.records,
        "superblocks": disk.superblocks,
        "small_files": disk.small_files,
        "other_files": disk.other_files,
    })
}

pub(crate) fn plane(plane: &PlaneUse) -> Value {
    json!({
        "name": plane.name,
        "role": plane.role.name(),
        "dtype": plane.dtype_names(),
        "elements": plane.elements,
        "bytes": plane.value_bytes,
        "bytes_on_disk": plane.disk_bytes,
        "homes": plane.homes,
        "files": plane.files,
    })
}

fn tensor(row: &Row<'_>, digest: Option<&TensorDigest>) -> Value {
    let info = row.info;
    let mut value = json!({
        "name": info.name(),
        "dtype": info.dtype().name(),
        "shape": info.shape(),
        "elements": info.elements(),
        "group": info.group(),
        "planes": info.planes().collect::<Vec<_>>(),
        "steps": row.steps,
    });
    if let Value::Object(map) = &mut value {
        map.extend(digest.map(|digest| ("digest".to_owned(), digest.to_string().into())));
        map.extend(tensors::to_json(row).map(|seen| ("statistics".to_owned(), seen)));
    }
    value
}

fn block(run: &Result<BlockRun, paramstore::Error>) -> Value {
    match run {
        Ok(BlockRun::Written(block)) => json!({
            "tensors": block.tensors,
            "plane": block.plane,
            "block": block.block,
            "home": block.home,
            "generation": block.generation,
            "checksum": format!("{:08x}", block.crc),
            "file": block.file,
            "offset": block.offset,
            "bytes": block.bytes,
        }),
        Ok(BlockRun::Absent(absent)) => json!({
            "never_written": {
                "first_block": absent.first_block,
                "last_block": absent.last_block,
                "block_planes": absent.planes,
            }
        }),
        Ok(_) => Value::Null,
        Err(error) => json!({ "error": error.to_string() }),
    }
}

fn row_tensor(rows: &RowUse) -> Value {
    json!({
        "tensor": rows.tensor,
        "mode": rows.mode.name(),
        "rows": rows.rows,
        "born": rows.born,
        "expired": rows.expired,
        "admission": rows.admission,
        "collided": rows.collided,
        "not_admitted": rows.not_admitted,
        "in_log": rows.in_log,
        "record_bytes": rows.record_bytes,
        "page_bytes": rows.page_bytes,
    })
}
