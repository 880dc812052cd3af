//! The learning rate over the steps of a run: linear warm-up, then half a cosine. Pure.

/// The final learning rate, as a part of the peak.
const FLOOR: f64 = 0.02;

/// The learning rate over the steps.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Schedule {
    /// Steps over which the rate falls.
    pub(crate) total: u64,
    /// Steps over which it rises first.
    pub(crate) warmup: u64,
    /// The highest rate.
    pub(crate) peak: f64,
}

impl Schedule {
    /// Makes the schedule of a new run: a tenth of the steps, at most 100, are warm-up.
    pub(crate) fn new(total: u64, peak: f64) -> Self {
        Self { total, warmup: (total / 10).clamp(1, 100), peak }
    }

    /// The rate of a step, counted from 0; behind the end the rate of the last step.
    pub(crate) fn rate(&self, step: u64) -> f64 {
        if step < self.warmup {
            return self.peak * ratio(step + 1, self.warmup);
        }
        let past = ratio((step - self.warmup).min(self.total), self.total.saturating_sub(self.warmup).max(1))
            .min(1.0);
        self.peak * (FLOOR + (1.0 - FLOOR) * 0.5 * (1.0 + (std::f64::consts::PI * past).cos()))
    }
}

#[expect(clippy::cast_precision_loss, reason = "step counts are far below 2^53")]
fn ratio(a: u64, b: u64) -> f64 {
    a as f64 / b as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_rises_to_the_peak_and_falls_to_the_floor() {
        let schedule = Schedule::new(200, 1e-2);
        assert_eq!(schedule.warmup, 20);
        assert!((0..19).all(|step| schedule.rate(step) < schedule.rate(step + 1)));
        assert!((schedule.rate(19) - 1e-2).abs() < 1e-15);
        assert!((20..199).all(|step| schedule.rate(step) > schedule.rate(step + 1)));
        assert!((schedule.rate(200) - 1e-2 * FLOOR).abs() < 1e-15);
        assert!((schedule.rate(u64::MAX) - 1e-2 * FLOOR).abs() < 1e-15);
    }

    #[test]
    fn a_run_of_one_step_has_a_positive_rate() {
        assert!(Schedule::new(1, 1e-3).rate(0) > 0.0);
    }
}
