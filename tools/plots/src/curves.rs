//! Recorded losses of `train-lm` and `train-bert`.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

/// The values of `--state`.
pub(crate) const STATES: [&str; 3] = ["f32", "bf16", "compact"];

/// A run: what `--json` printed.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Curve {
    pub(crate) state: String,
    pub(crate) seed: u64,
    /// Steps, and bits per byte of the validation text after them, or those per verse.
    #[serde(rename = "val_bits_per_byte_at", alias = "val_bits_per_verse_at")]
    pub(crate) points: Vec<(f64, f64)>,
}

/// Reads runs, one JSON object after the other.
pub(crate) fn read(path: &Path) -> Result<Vec<Curve>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let runs = serde_json::Deserializer::from_str(&text).into_iter::<Curve>();
    let runs: Vec<_> = runs.collect::<Result<_, _>>().with_context(|| path.display().to_string())?;
    let known = runs.iter().all(|run| STATES.contains(&run.state.as_str()) && !run.points.is_empty());
    ensure!(known && !runs.is_empty(), "{}: a run without losses, or of an unknown state", path.display());
    Ok(runs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_of_an_unknown_state_is_refused() {
        let file = std::env::temp_dir().join(format!("paramstore-curves-{}.json", std::process::id()));
        let of = |state: &str| {
            format!("{{\"state\": \"{state}\", \"seed\": 1, \"val_bits_per_byte_at\": [[1, 8.0]]}}\n")
        };
        std::fs::write(&file, of("f32") + &of("bf16")).unwrap();
        assert_eq!(read(&file).unwrap().len(), 2);
        std::fs::write(&file, of("f64")).unwrap();
        assert!(read(&file).is_err());
        std::fs::remove_file(&file).unwrap();
    }
}
