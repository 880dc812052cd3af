//! SparseAdam on records of parameter, `exp_avg` and `exp_avg_sq`, with all threads; the same for every system.

use rayon::prelude::*;

const LR: f64 = 1e-3;
const BETA1: f64 = 0.9;
const BETA2: f64 = 0.999;
const EPS: f32 = 1e-8;
/// Tasks smaller than this cost more than they give.
const MIN_LEN: usize = 256;

/// A batch by rows: `order[starts[i]..starts[i + 1]]` are the positions at which `rows[i]` was drawn, ascending.
pub(crate) struct Batch {
    pub(crate) rows: Vec<u64>,
    starts: Vec<usize>,
    order: Vec<usize>,
}

impl Batch {
    pub(crate) fn new(ids: &[u64]) -> Self {
        let mut pairs: Vec<_> = ids.iter().copied().zip(0_usize..).collect();
        pairs.par_sort_unstable();
        let (mut rows, mut starts) = (Vec::new(), Vec::new());
        for (at, &(id, _)) in pairs.iter().enumerate() {
            if rows.last() != Some(&id) {
                rows.push(id);
                starts.push(at);
            }
        }
        starts.push(pairs.len());
        Self { rows, starts, order: pairs.into_iter().map(|(_, position)| position).collect() }
    }

    /// Hands every drawn position its row's parameters.
    pub(crate) fn spread(&self, records: &[f32], dim: usize, drawn: &mut [f32]) {
        let mut places: Vec<_> = drawn.chunks_exact_mut(dim).map(Some).collect();
        let mut by_row: Vec<_> =
            self.order.iter().map(|&position| places.get_mut(position).and_then(Option::take)).collect();
        let mut groups = Vec::with_capacity(self.rows.len());
        let mut rest = by_row.as_mut_slice();
        for bounds in self.starts.windows(2) {
            let (group, after) = rest.split_at_mut(bounds[1] - bounds[0]);
            groups.push(group);
            rest = after;
        }
        groups.into_par_iter().zip(records.par_chunks_exact(3 * dim)).with_min_len(MIN_LEN).for_each(
            |(group, record)| {
                for place in group.iter_mut().flatten() {
                    place.copy_from_slice(&record[..dim]);
                }
            },
        );
    }

    /// The update of step `step`, from 1; `gradients` has one row for every draw, and those of a row are summed first.
    pub(crate) fn update(&self, step: u64, records: &mut [f32], dim: usize, gradients: &[f32]) {
        let rule = Rule::new(step);
        records
            .par_chunks_exact_mut(3 * dim)
            .zip(self.starts.par_windows(2))
            .with_min_len(MIN_LEN)
            .for_each_init(
                || vec![0.0_f32; dim],
                |sum, (record, bounds)| {
                    sum.fill(0.0);
                    for &position in &self.order[bounds[0]..bounds[1]] {
                        for (sum, g) in sum.iter_mut().zip(&gradients[position * dim..][..dim]) {
                            *sum += *g;
                        }
                    }
                    rule.update(record, sum);
                },
            );
    }
}

/// The record of a row before the first batch.
pub(crate) fn first_record(row: u64, record: &mut [f32]) {
    let dim = record.len() / 3;
    #[expect(clippy::cast_precision_loss, reason = "any value of a row will do")]
    let value = (row % 1021) as f32 * 1e-5;
    record.fill(0.0);
    record[..dim].fill(value);
    Rule::new(1).update(record, &vec![1e-3; dim]);
}

struct Rule {
    minus_rate: f32,
    first: f32,
    second: f32,
}

impl Rule {
    fn new(step: u64) -> Self {
        let power = i32::try_from(step).unwrap_or(i32::MAX);
        let rate = LR * (1.0 - BETA2.powi(power)).sqrt() / (1.0 - BETA1.powi(power));
        #[expect(clippy::cast_possible_truncation, reason = "the rule is one of f32")]
        let [minus_rate, first, second] = [-rate, 1.0 - BETA1, 1.0 - BETA2].map(|x| x as f32);
        Self { minus_rate, first, second }
    }

    fn update(&self, record: &mut [f32], gradient: &[f32]) {
        let dim = gradient.len();
        let (params, state) = record.split_at_mut(dim);
        let (exp_avg, exp_avg_sq) = state.split_at_mut(dim);
        for (((p, m), v), g) in params.iter_mut().zip(exp_avg).zip(exp_avg_sq).zip(gradient) {
            *m += (g - *m) * self.first;
            *v += (g * g - *v) * self.second;
            *p += self.minus_rate * (*m / (v.sqrt() + EPS));
        }
    }
}
