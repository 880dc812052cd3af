//! Recorded runs of `bench sweep`.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

/// What the plots need of a run.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Run {
    pub(crate) params: f64,
    pub(crate) memory_bytes: f64,
    pub(crate) state_bytes: f64,
    pub(crate) block_bytes: f64,
    pub(crate) io_threads: f64,
    pub(crate) min_hit_rate: f64,
    pub(crate) limit: String,
    step_s: Vec<f64>,
    limit_s: Vec<f64>,
}

impl Run {
    /// Median seconds of a step.
    pub(crate) fn step(&self) -> f64 {
        median(&self.step_s)
    }

    /// Median seconds of the limit.
    pub(crate) fn limit_s(&self) -> f64 {
        median(&self.limit_s)
    }
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

/// Reads runs, one JSON object after the other.
pub(crate) fn read(path: &Path) -> Result<Vec<Run>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut runs = Vec::new();
    for (number, run) in serde_json::Deserializer::from_str(&text).into_iter::<Run>().enumerate() {
        let at = || format!("{}, run {}", path.display(), number + 1);
        let run = run.with_context(at)?;
        ensure!(!run.step_s.is_empty() && !run.limit_s.is_empty(), "{}: no step in it", at());
        runs.push(run);
    }
    ensure!(runs.len() > 1, "{}: got {} runs, expected at least two for a line", path.display(), runs.len());
    Ok(runs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_that_lacks_a_value_is_named_by_file_and_number() {
        let file = std::env::temp_dir().join(format!("paramstore-plots-{}.json", std::process::id()));
        std::fs::write(&file, "{\"params\": 1}\n").unwrap();
        let error = read(&file).unwrap_err();
        std::fs::remove_file(&file).unwrap();
        assert!(error.to_string().ends_with("run 1"), "{error:#}");
        assert!(format!("{error:#}").contains("missing field"), "{error:#}");
    }

    #[test]
    fn the_median_of_an_odd_number_is_the_middle_one() {
        assert!((median(&[3.0, 1.0, 2.0]) - 2.0).abs() < 1e-12);
    }
}
