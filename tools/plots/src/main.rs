//! Draws the plots of `docs/BENCHMARKS.md` from what `paramstore bench sweep --json` printed, and those of `docs/PRECISION.md`
//! from losses of `train-lm --json` and `train-bert --json`, whose differences between states it prints as tables.
//!
//! `cargo run --release -p paramstore-plots` reads files of `benches/record/sweep` and `precision`, one run a line, and writes
//! `docs/plots/*.svg`. Each plot belongs to one file of runs; a run that lacks a value it needs is an error.

mod curves;
mod draw;
mod pairs;
mod runs;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use curves::{Curve, STATES};
use draw::{Axis, Line, Plot};
use plotters::chart::SeriesLabelPosition;
use runs::{Run, read};

fn main() -> Result<()> {
    let arguments: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let (records, plots) = match arguments.as_slice() {
        [] => (Path::new("benches/record"), Path::new("docs/plots")),
        [records, plots] => (records.as_path(), plots.as_path()),
        _ => anyhow::bail!("usage: plots [RECORDS PLOTS], two directories"),
    };
    std::fs::create_dir_all(plots).with_context(|| format!("cannot make {}", plots.display()))?;
    for (name, make) in PLOTS {
        let runs = read(&records.join(format!("sweep/{name}.json")))?;
        let path = plots.join(format!("{name}.svg"));
        make(&runs).draw(&path)?;
        println!("{}: {} runs", path.display(), runs.len());
    }
    for plot in LOSSES {
        let name = plot.0;
        let curves = curves::read(&records.join(format!("precision/{name}.json")))?;
        let path = plots.join(format!("{name}.svg"));
        losses(plot, &curves).draw(&path)?;
        println!("\n{}: {} runs\n\n{}", path.display(), curves.len(), pairs::tables(&curves)?);
    }
    Ok(())
}

/// One line for each run, so that the spread of the seeds is seen beside that of the states.
fn lines(curves: &[Curve]) -> Vec<Line> {
    let lines = STATES.iter().flat_map(|&state| {
        let of_state = curves.iter().filter(move |curve| curve.state == state);
        of_state.map(move |curve| Line { name: state, points: curve.points.clone() })
    });
    lines.collect()
}

/// A plot of losses: the file of runs, whose name it has, its title, what a loss is of, and whether steps go by logarithm.
type Losses = (&'static str, &'static str, &'static str, bool);

const LOSSES: [Losses; 3] = [
    (
        "scratch",
        "Validation loss of train-lm by the state it is kept in, one line for each seed",
        "bits per byte",
        true,
    ),
    (
        "tuned",
        "Validation loss of train-lm fine-tuned on another text, one line for each seed",
        "bits per byte",
        false,
    ),
    (
        "bert",
        "Validation loss of all-MiniLM-L6-v2 fine-tuned, one line for each seed",
        "bits per verse",
        false,
    ),
];

fn losses((_, title, of, log): Losses, curves: &[Curve]) -> Plot {
    Plot {
        title,
        x: Axis { name: "step", log },
        y: Axis { name: of, log: true },
        lines: lines(curves),
        legend: if log { SeriesLabelPosition::LowerLeft } else { SeriesLabelPosition::UpperRight },
    }
}

/// A plot is made from the runs of the file with its name.
type Make = fn(&[Run]) -> Plot;

const PLOTS: [(&str, Make); 4] =
    [("budget", budget), ("blocks", blocks), ("io-threads", io_threads), ("params", params)];

fn points(runs: &[Run], x: impl Fn(&Run) -> f64, y: impl Fn(&Run) -> f64) -> Vec<(f64, f64)> {
    runs.iter().map(|run| (x(run), y(run))).collect()
}

fn budget(runs: &[Run]) -> Plot {
    let fraction = |run: &Run| run.memory_bytes / run.state_bytes;
    let cold: Vec<_> = runs.iter().filter(|run| run.limit == "raw_copy").cloned().collect();
    Plot {
        title: "Seconds of a step by the share of the state that fits the budget (no commit)",
        x: Axis { name: "memory budget / state", log: false },
        y: Axis { name: "seconds", log: false },
        lines: vec![
            Line { name: "step", points: points(runs, fraction, Run::step) },
            Line { name: "raw copy of the whole state", points: points(&cold, fraction, Run::limit_s) },
            Line {
                name: "raw copy x best possible misses",
                points: points(&cold, fraction, |run| run.limit_s() * (1.0 - run.min_hit_rate)),
            },
        ],
        legend: SeriesLabelPosition::LowerLeft,
    }
}

fn blocks(runs: &[Run]) -> Plot {
    let kib = |run: &Run| run.block_bytes / 1024.0;
    Plot {
        title: "Parameters per second by block size",
        x: Axis { name: "KiB of a block's parameters", log: true },
        y: Axis { name: "million parameters per second", log: false },
        lines: both(runs, kib),
        legend: SeriesLabelPosition::LowerRight,
    }
}

fn io_threads(runs: &[Run]) -> Plot {
    Plot {
        title: "Parameters per second by I/O threads (requests in flight)",
        x: Axis { name: "I/O threads", log: true },
        y: Axis { name: "million parameters per second", log: false },
        lines: both(runs, |run| run.io_threads),
        legend: SeriesLabelPosition::LowerRight,
    }
}

/// Throughput of the step and of the raw copy.
fn both(runs: &[Run], x: impl Fn(&Run) -> f64) -> Vec<Line> {
    vec![
        Line { name: "step", points: points(runs, &x, |run| run.params / run.step() / 1e6) },
        Line { name: "raw copy", points: points(runs, &x, |run| run.params / run.limit_s() / 1e6) },
    ]
}

fn params(runs: &[Run]) -> Plot {
    let millions = |run: &Run| run.params / 1e6;
    Plot {
        title: "Seconds of a step by parameters, budget a tenth of the state",
        x: Axis { name: "million parameters", log: true },
        y: Axis { name: "seconds", log: true },
        lines: vec![
            Line { name: "step", points: points(runs, millions, Run::step) },
            Line { name: "raw copy", points: points(runs, millions, Run::limit_s) },
        ],
        legend: SeriesLabelPosition::LowerRight,
    }
}
