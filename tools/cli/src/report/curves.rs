//! What the steps of a training say, as charts.

use std::time::Duration;

use paramstore::telemetry::StepMetrics;

use super::charts::{Curve, Unit, legend, lines, stacked};
use crate::human::{counted, seconds};

/// Parts of the time of a step, from the bottom: color, name, how long.
type Part = (u8, &'static str, fn(&StepMetrics) -> Duration);
const PARTS: [Part; 5] = [
    (2, "compute", |step| step.compute),
    (0, "waiting for reads", |step| step.stall_read),
    (4, "waiting for writes", |step| step.stall_write),
    (1, "waiting for updates", |step| step.stall_update),
    (3, "commit", |step| step.commit),
];

#[expect(clippy::cast_precision_loss, reason = "places on a chart")]
fn number(value: u64) -> f64 {
    value as f64
}

/// A chart with its heading; empty where there is nothing to show.
fn figure(title: &str, above: &str, chart: &str, below: &str) -> String {
    if chart.is_empty() {
        return String::new();
    }
    let below = if below.is_empty() { String::new() } else { format!("<p class=\"note\">{below}</p>\n") };
    format!("<figure><figcaption>{title}</figcaption>\n{above}{chart}{below}</figure>\n")
}

/// What was said at each step, where it was, as a curve.
fn curve(
    history: &[StepMetrics],
    name: &'static str,
    color: u8,
    of: fn(&StepMetrics) -> Option<f64>,
) -> Curve {
    let point = |step: &StepMetrics| {
        of(step).filter(|value| value.is_finite()).map(|value| (number(step.step), value))
    };
    Curve { name, color, points: history.iter().filter_map(point).collect() }
}

/// All charts over steps.
pub(super) fn charts(history: &[StepMetrics]) -> String {
    if history.is_empty() {
        return "<p class=\"note\">No writer kept account of its steps.</p>\n".to_owned();
    }
    let losses = [
        curve(history, "loss", 0, |step| step.loss),
        curve(history, "validation loss", 1, |step| step.validation_loss),
    ];
    let is_infinite = |step: &&StepMetrics| step.loss.is_some_and(f64::is_infinite);
    let lost = u64::try_from(history.iter().filter(is_infinite).count()).unwrap_or(0);
    let lost = if lost > 0 {
        format!("{} with an infinite loss left out.", counted(lost, "step"))
    } else {
        String::new()
    };
    let names = losses.iter().filter(|curve| !curve.points.is_empty()).map(|curve| (curve.color, curve.name));
    let loss = lines("loss by step", &losses, Unit::Plain, false);
    let lr = lines(
        "learning rate by step",
        &[curve(history, "learning rate", 2, |step| step.lr)],
        Unit::Plain,
        true,
    );
    let bytes = [
        curve(history, "read", 0, |step| Some(number(step.bytes_read))),
        curve(history, "written", 4, |step| Some(number(step.bytes_written))),
    ];
    let moved = lines("bytes moved by step", &bytes, Unit::Bytes, true);
    let moved_names = legend(bytes.iter().map(|curve| (curve.color, curve.name)));
    let charts = [
        figure("Loss", &legend(names), &loss, &lost),
        figure("Learning rate", "", &lr, ""),
        times(history),
        figure("Bytes a step", &moved_names, &moved, ""),
    ];
    format!("<div class=\"charts\">\n{}</div>\n", charts.concat())
}

fn times(history: &[StepMetrics]) -> String {
    let steps: Vec<_> = history.iter().map(|step| number(step.step)).collect();
    let part = |&(color, _, of): &Part| {
        (color, history.iter().map(|step| of(step).as_secs_f64()).collect::<Vec<_>>())
    };
    let mut parts: Vec<_> = PARTS.iter().map(part).collect();
    // What the trainer does itself, forward and backward passes above all.
    let rest = |step: &StepMetrics| {
        let known: f64 = PARTS.iter().map(|(_, _, of)| of(step).as_secs_f64()).sum();
        (step.duration.as_secs_f64() - known).max(0.0)
    };
    parts.push((5, history.iter().map(rest).collect()));
    let names = PARTS.iter().map(|(color, name, _)| (*color, *name)).chain([(5, "the trainer's own")]);
    let chart = stacked("time of a step by step", &steps, &parts, Unit::Seconds);
    let mut durations: Vec<_> = history.iter().map(|step| step.duration.as_secs_f64()).collect();
    durations.sort_by(f64::total_cmp);
    let median = durations.get(durations.len() / 2).copied().unwrap_or(0.0);
    let note = format!(
        "Median {} a step. Updates in the background overlap with the rest, and may make a bar taller than its step was long.",
        seconds(median)
    );
    figure("Time of a step", &legend(names), &chart, &note)
}
