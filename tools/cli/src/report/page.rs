//! The page: sections one after the other, in HTML.

use paramstore::checkpoint::CheckpointState;
use paramstore::inspect::Summary;
use serde_json::json;

use super::charts::{self, divided, legend, timeline};
use super::gather::{Gathered, Tensor};
use super::html::{escape, script_json, table};
use super::{MARK, blocks, curves, histogram};
use crate::human::{bytes, counted, date, grouped, percent, seconds};
use crate::inspect::text::{disk_parts, setting};

const STYLE: &str = include_str!("style.css");
const SCRIPT: &str = include_str!("script.js");

pub(super) fn page(gathered: &Gathered) -> String {
    let summary = &gathered.summary;
    let path = escape(&summary.path.display().to_string());
    let sections = [
        head(gathered),
        section("Training", &curves::charts(&gathered.history)),
        section("Groups", &groups(summary)),
        section("Tensors", &tensors(gathered)),
        section("Disk", &disk(summary)),
        section("Blocks", &map(gathered)),
        section("Checkpoints", &checkpoints(gathered)),
    ];
    let (by, when) = (env!("CARGO_PKG_VERSION"), date(gathered.unix_s));
    // The mark has to stand within the first bytes.
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n{MARK}\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n\
         <title>{path}</title>\n<style>\n{STYLE}</style></head>\n<body><main>\n{}\
         <footer>Made by paramstore {by} on {when}. Complete in itself: nothing is loaded from elsewhere.</footer>\n\
         </main>\n<script>\n{SCRIPT}</script></body></html>\n",
        sections.concat()
    )
}

fn section(title: &str, content: &str) -> String {
    format!("<section><h2>{title}</h2>\n{content}</section>\n")
}

fn note(text: &str) -> String {
    format!("<p class=\"note\">{}</p>\n", escape(text))
}

fn length(items: usize) -> u64 {
    u64::try_from(items).unwrap_or(u64::MAX)
}

fn head(gathered: &Gathered) -> String {
    let summary = &gathered.summary;
    let fact = |name: &str, value: &str, more: &str| {
        let (value, more) = (escape(value), escape(more));
        format!("<div><dt>{name}</dt><dd>{value}</dd><dd class=\"note\">{more}</dd></div>\n")
    };
    let ahead = match (summary.uncommitted_steps, summary.writer_process) {
        (0, _) => "all finished steps are committed".to_owned(),
        (steps, Some(_)) => format!("{} not yet committed", counted(steps, "step")),
        (steps, None) => format!("{} lost, finished after the last commit", counted(steps, "step")),
    };
    let writer = match summary.writer_process {
        Some(0) => ("at work".to_owned(), "outside this container".to_owned()),
        Some(process) => ("at work".to_owned(), format!("process {process}")),
        None => {
            let said = gathered.live.as_ref().map_or("never told of a step".to_owned(), |live| {
                let age = gathered.unix_s.saturating_sub(live.now_unix_ms / 1000);
                #[expect(clippy::cast_precision_loss, reason = "an age for people")]
                let age = age as f64;
                format!("the last one spoke {} ago", seconds(age.max(1.0)))
            });
            ("none".to_owned(), said)
        }
    };
    let features = summary.features.join(", ");
    let allocated = format!("{} allocated", bytes(summary.bytes_allocated));
    let facts = [
        fact("Step", &grouped(summary.step), &ahead),
        fact("Parameters", &grouped(summary.params), &counted(summary.tensors, "tensor")),
        fact("On disk", &bytes(summary.bytes_on_disk), &allocated),
        fact("Generation", &grouped(summary.generation), &format!("by {}", summary.writer_version)),
        fact("Writer", &writer.0, &writer.1),
        fact("Created", &date(summary.created_unix_s), &summary.uuid),
        fact("Format", &summary.format_version.to_string(), &features),
    ];
    let damage = if summary.recovery.damaged {
        let slots = &summary.recovery.slots;
        format!(
            "<p class=\"damage\">Damaged: superblock 0 {}; superblock 1 {}. <code>paramstore verify</code> says more.</p>\n",
            escape(&slots[0]),
            escape(&slots[1])
        )
    } else {
        String::new()
    };
    let path = escape(&summary.path.display().to_string());
    format!("<h1>{path}</h1>\n<dl>\n{}</dl>\n{damage}", facts.concat())
}

fn groups(summary: &Summary) -> String {
    let mut rows = Vec::new();
    for group in &summary.groups {
        let settings = group.optimizer.settings();
        let settings: Vec<_> = settings
            .iter()
            .map(|(key, value)| {
                format!("<span class=\"setting\">{} <b>{}</b></span>", escape(key), setting(*value))
            })
            .collect();
        rows.push(vec![
            escape(&group.name),
            escape(group.optimizer.name()),
            grouped(group.params),
            grouped(group.tensors),
            settings.join(" "),
        ]);
    }
    table(&["group", "optimizer", ">parameters", ">tensors", "hyperparameters"], &rows)
}

/// Tensors as data: the script makes rows of them, sorts and searches.
fn tensors(gathered: &Gathered) -> String {
    // Pictures for the largest ones.
    let mut sizes: Vec<_> = gathered.tensors.iter().map(|tensor| tensor.elements).collect();
    sizes.sort_unstable_by(|a, b| b.cmp(a));
    let least = sizes.get(histogram::DRAWN_MAX).map_or(0, |size| size + 1);
    let row = |tensor: &Tensor| {
        let mut row = vec![
            json!(tensor.name),
            json!(tensor.group),
            json!(tensor.dtype),
            json!(tensor.shape),
            json!(tensor.elements),
            json!(tensor.updates),
            json!(tensor.planes),
        ];
        if let Some(statistics) = &tensor.statistics {
            row.extend(histogram::cells(statistics, tensor.elements >= least));
        }
        serde_json::Value::Array(row)
    };
    let rows: Vec<_> = gathered.tensors.iter().map(row).collect();
    let left = gathered.summary.tensors.saturating_sub(length(rows.len()));
    let left = if left > 0 {
        note(&format!(
            "{} more are not listed here; `paramstore inspect --tensors` lists all.",
            grouped(left)
        ))
    } else {
        String::new()
    };
    format!(
        "<p><input id=\"search\" type=\"search\" placeholder=\"Search names, groups, types\" \
         aria-label=\"Search tensors\"> <span id=\"found\" class=\"note\" aria-live=\"polite\"></span></p>\n\
         <div class=\"scroll\"><table id=\"tensors\"><thead></thead><tbody></tbody></table></div>\n\
         <p><button id=\"more\" hidden></button></p>\n{left}\
         <noscript><p class=\"note\">The list of tensors needs the page's own script.</p></noscript>\n\
         <script type=\"application/json\" id=\"tensor-data\">{}</script>\n",
        script_json(&serde_json::Value::Array(rows))
    )
}

/// Every byte of disk by its use.
fn disk(summary: &Summary) -> String {
    const COLORS: u8 = 8;
    let parts: Vec<_> = disk_parts(&summary.disk).filter(|(_, part)| *part > 0).collect();
    let total = summary.disk.total();
    let colors = (0..COLORS).cycle();
    let shares: Vec<_> =
        parts.iter().zip(colors.clone()).map(|((_, part), color)| (color, number(*part))).collect();
    let row = |((name, part), color): (&(&str, u64), u8)| {
        let name = format!("<i class=\"b{color}\"></i>{}", escape(name));
        vec![name, bytes(*part), percent(*part, total), grouped(*part)]
    };
    let mut rows: Vec<_> = parts.iter().zip(colors).map(row).collect();
    rows.push(vec!["total".to_owned(), bytes(total), String::new(), grouped(total)]);
    let planes: Vec<_> = summary
        .planes
        .iter()
        .filter(|plane| plane.files > 0)
        .map(|plane| {
            vec![
                escape(&plane.name),
                plane.role.name().to_owned(),
                escape(&plane.dtype_names()),
                grouped(plane.elements),
                bytes(plane.value_bytes),
                plane.homes.to_string(),
                bytes(plane.disk_bytes),
            ]
        })
        .collect();
    format!(
        "<div class=\"band\">{}</div>\n{}<h3>Planes</h3>\n{}",
        divided("where the bytes of the disk go", &shares),
        table(&["use", ">size", ">share", ">bytes"], &rows),
        table(&["plane", "role", "type", ">elements", ">values", ">homes", ">on disk"], &planes)
    )
}

#[expect(clippy::cast_precision_loss, reason = "shares of a chart")]
fn number(value: u64) -> f64 {
    value as f64
}

fn map(gathered: &Gathered) -> String {
    let runs = &gathered.blocks;
    if runs.is_empty() {
        return note("The store has no blocks.");
    }
    let all = gathered.summary.blocks.iter().map(|size| size.blocks).sum();
    let each = runs.first().map_or(1, |run| run.last - run.first + 1);
    let text = format!(
        "{} in table order, {} a cell; the stronger the color, the newer the generation that wrote it.",
        counted(all, "block"),
        counted(each, "block")
    );
    let label = "home and generation of the blocks";
    format!(
        "{}{}<div class=\"map\">{}</div>\n",
        note(&text),
        legend(blocks::COLORS),
        charts::map(label, &blocks::cells(runs))
    )
}

fn checkpoints(gathered: &Gathered) -> String {
    let summary = &gathered.summary;
    let mut marks = Vec::new();
    let mut rows = Vec::new();
    for checkpoint in &gathered.checkpoints {
        let name = escape(&checkpoint.name);
        let size = bytes(checkpoint.bytes_allocated);
        rows.push(match &checkpoint.state {
            CheckpointState::Kept { generation, step, kept_unix_s, .. } => {
                marks.push((number(*step), checkpoint.name.clone(), 0));
                vec![name, grouped(*step), grouped(*generation), date(*kept_unix_s), size]
            }
            CheckpointState::Damaged(why) => {
                vec![name, String::new(), String::new(), format!("damaged: {}", escape(why)), size]
            }
            _ => vec![name, String::new(), String::new(), "interrupted".to_owned(), size],
        });
    }
    let last = summary.step + summary.uncommitted_steps;
    marks.push((number(summary.step), "last commit".to_owned(), 2));
    let line =
        format!("<div class=\"band\">{}</div>\n", timeline("checkpoints by step", number(last), &marks));
    if rows.is_empty() {
        return line + &note("No checkpoints are kept.");
    }
    line + &table(&["name", ">step", ">generation", "kept", ">allocated"], &rows)
}
