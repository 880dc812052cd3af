//! What runs in few bits come to beside runs in f32 of the same seeds, as tables for `docs/PRECISION.md`.

use std::fmt::Write as _;

use anyhow::{Context, Result, ensure};

use crate::curves::{Curve, STATES};

/// Student's t: 95 % lie between minus this and this, by degrees of freedom from 1.
const STUDENT: [f64; 19] = [
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131,
    2.120, 2.110, 2.101, 2.093,
];

/// Mean and standard deviation (of a sample) of two values or more.
struct Spread {
    mean: f64,
    deviation: f64,
}

impl Spread {
    #[expect(clippy::cast_precision_loss, reason = "runs are few")]
    fn of(values: &[f64]) -> Self {
        let n = values.len() as f64;
        let mean = values.iter().sum::<f64>() / n;
        let squares: f64 = values.iter().map(|x| (x - mean) * (x - mean)).sum();
        Self { mean, deviation: (squares / (n - 1.0)).sqrt() }
    }
}

/// Half of the interval in which the mean lies by 95 %, for 2 to 20 values of this deviation (Student, 1908).
#[expect(clippy::cast_precision_loss, reason = "runs are few")]
fn half_interval(deviation: f64, count: usize) -> Result<f64> {
    let t = count.checked_sub(2).and_then(|at| STUDENT.get(at));
    let t = t.with_context(|| format!("got {count} pairs of seeds, expected 2 to 20"))?;
    Ok(t * deviation / (count as f64).sqrt())
}

fn last(curve: &Curve) -> f64 {
    curve.points.last().map_or(f64::NAN, |point| point.1)
}

/// Of one state, in the order of seeds.
fn of<'a>(curves: &'a [Curve], state: &str) -> Vec<&'a Curve> {
    let mut chosen: Vec<_> = curves.iter().filter(|curve| curve.state == state).collect();
    chosen.sort_by_key(|curve| curve.seed);
    chosen
}

/// Two tables in Markdown: the losses at the end with their differences to f32, seed by seed, and the mean losses on the
/// way.
pub(crate) fn tables(curves: &[Curve]) -> Result<String> {
    let full = of(curves, STATES[0]);
    let seeds: Vec<_> = full.iter().map(|curve| curve.seed).collect();
    let mut ends = String::from(
        "| `--state` | seeds | loss at the end, mean | deviation between seeds | lowest to highest | minus f32, mean | \
         95 % interval | deviation between pairs | lowest to highest |\n|---|---|---|---|---|---|---|---|---|\n",
    );
    let steps: Vec<_> = full.first().context("no run in f32")?.points.iter().map(|point| point.0).collect();
    let titles = steps.iter().map(f64::to_string).collect::<Vec<_>>().join(" | ");
    let mut way = format!("| `--state` | {titles} |\n|---|{}\n", "---|".repeat(steps.len()));
    for state in STATES {
        let runs = of(curves, state);
        ensure!(
            runs.iter().map(|curve| curve.seed).eq(seeds.iter().copied()),
            "the seeds of {state} are not those of f32, {seeds:?}, once each"
        );
        let losses: Vec<_> = runs.iter().map(|curve| last(curve)).collect();
        let Spread { mean, deviation } = Spread::of(&losses);
        let range =
            |values: &[f64]| values.iter().fold((f64::MAX, f64::MIN), |(a, b), x| (a.min(*x), b.max(*x)));
        let (low, high) = range(&losses);
        write!(
            ends,
            "| `{state}` | {} | {mean:.4} | {deviation:.4} | {low:.4} to {high:.4} |",
            losses.len()
        )?;
        if state == STATES[0] {
            ends += " | | | |\n";
        } else {
            let pairs: Vec<_> = losses.iter().zip(&full).map(|(loss, full)| loss - last(full)).collect();
            let Spread { mean, deviation } = Spread::of(&pairs);
            let half = half_interval(deviation, pairs.len())?;
            let (from, to) = (mean - half, mean + half);
            let (low, high) = range(&pairs);
            writeln!(
                ends,
                " {mean:+.4} | {from:+.4} to {to:+.4} | {deviation:.4} | {low:+.4} to {high:+.4} |"
            )?;
        }
        write!(way, "| `{state}` |")?;
        for (at, step) in steps.iter().enumerate() {
            let points: Option<Vec<_>> = runs.iter().map(|curve| curve.points.get(at).copied()).collect();
            let points = points.filter(|points| points.iter().all(|point| (point.0 - step).abs() < 0.5));
            let points =
                points.with_context(|| format!("a run of {state} was not validated after step {step}"))?;
            write!(
                way,
                " {:.3} |",
                Spread::of(&points.iter().map(|point| point.1).collect::<Vec<_>>()).mean
            )?;
        }
        way += "\n";
    }
    Ok(ends + "\n" + &way)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runs(state: &str, ends: &[f64]) -> Vec<Curve> {
        let run = |(seed, end): (u64, &f64)| Curve {
            state: state.to_owned(),
            seed,
            points: vec![(0.0, 8.0), (10.0, *end)],
        };
        (1..).zip(ends).map(run).collect()
    }

    #[test]
    fn the_interval_of_the_mean_is_students() {
        // Differences 1, 2, 3, 4: mean 2.5, deviation 1.2910, t of 3 degrees 3.182.
        let mut curves = runs("f32", &[1.0, 1.0, 1.0, 1.0]);
        curves.extend(runs("bf16", &[2.0, 3.0, 4.0, 5.0]));
        curves.extend(runs("compact", &[1.0, 1.0, 1.0, 1.5]));
        let text = tables(&curves).unwrap();
        assert!(
            text.contains(
                "| `bf16` | 4 | 3.5000 | 1.2910 | 2.0000 to 5.0000 | +2.5000 | +0.4460 to +4.5540 | 1.2910 |"
            ),
            "{text}"
        );
        assert!(text.contains("| `compact` | 8.000 | 1.125 |"), "{text}");
    }

    #[test]
    fn seeds_that_have_no_partner_are_refused() {
        let mut curves = runs("f32", &[1.0, 1.0]);
        curves.extend(runs("bf16", &[1.0]));
        curves.extend(runs("compact", &[1.0, 1.0]));
        assert!(tables(&curves).unwrap_err().to_string().contains("seeds of bf16"));
    }
}
