//! How far the last step moved a tensor, estimated from the moments that its optimizer keeps.

use super::super::parts::{Held, LEAF, Leaf, Tree};
use super::tally::{LANES, each_lane, fold};
use crate::optim::Optimizer;
use crate::units::{to_u64, to_usize};

/// `factor * m / (sqrt(v) * root + eps)`, or `factor * m` without a second moment.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Rule {
    /// The plane of `m`.
    pub(super) first: usize,
    /// The plane of `v`, behind that of `m`, with `root` and `eps`.
    pub(super) second: Option<(usize, f32, f32)>,
    pub(super) factor: f64,
}

impl Rule {
    /// The rule of an optimizer after so many updates of a tensor with these planes; `None` where it keeps no first moment,
    /// and before the first update.
    pub(super) fn of(optimizer: &Optimizer, steps: u64, planes: &[&str]) -> Option<Self> {
        let plane = |name: &str| planes.iter().position(|plane| *plane == name);
        let (lr, beta1, beta2, eps) = match optimizer {
            _ if steps == 0 => return None,
            Optimizer::Adam(rule) => (rule.lr, rule.beta1, rule.beta2, rule.eps),
            Optimizer::AdamW(rule) => (rule.lr, rule.beta1, rule.beta2, rule.eps),
            Optimizer::SparseAdam(rule) => (rule.lr, rule.beta1, rule.beta2, rule.eps),
            Optimizer::Sgd(rule) => {
                return Some(Self { first: plane("momentum_buffer")?, second: None, factor: rule.lr });
            }
            _ => return None,
        };
        let power = |beta: f64| beta.powi(i32::try_from(steps).unwrap_or(i32::MAX));
        let second = plane("max_exp_avg_sq").or_else(|| plane("exp_avg_sq"))?;
        #[expect(clippy::cast_possible_truncation, reason = "rounded as the kernels round them")]
        let (root, eps) = ((1.0 / (1.0 - power(beta2)).sqrt()) as f32, eps as f32);
        let factor = lr / (1.0 - power(beta1));
        Some(Self { first: plane("exp_avg")?, second: Some((second, root, eps)), factor })
    }
}

/// Sums the squares of what a part moved by, without the factor of the rule.
pub(super) struct Moves {
    rule: Rule,
    tree: Tree<f64>,
    at: usize,
}

impl Moves {
    pub(super) fn new(rule: Rule) -> Self {
        Self { rule, tree: Tree::new(), at: 0 }
    }

    /// Takes the next leaf of the last plane that the rule needs: of the second moment, or of the first where there is none.
    pub(super) fn take(&mut self, held: &Held<'_>, leaf: &Leaf<'_>) {
        let mut scratch = [0.0; LEAF];
        match *leaf {
            Leaf::Values(second) => self.leaf(held, second, &mut scratch),
            Leaf::Constant { value, leaves } => {
                let second = [value; LEAF];
                if self.rule.second.is_none() || held.constant().is_some() {
                    let first = held.values(self.at, LEAF, &mut scratch);
                    let sum = self.squares(first, &second);
                    self.tree.push_many(sum, leaves);
                    self.at += to_usize(leaves * to_u64(LEAF));
                } else {
                    (0..leaves).for_each(|_| self.leaf(held, &second, &mut scratch));
                }
            }
        }
    }

    fn leaf(&mut self, held: &Held<'_>, second: &[f32], scratch: &mut [f32; LEAF]) {
        let sum = self.squares(held.values(self.at, second.len(), scratch), second);
        self.tree.push(0, sum);
        self.at += second.len();
    }

    fn squares(&self, first: &[f32], second: &[f32]) -> f64 {
        let Some((_, root, eps)) = self.rule.second else { return squares(second) };
        let mut moves = [0.0; LEAF];
        for ((place, m), v) in moves.iter_mut().zip(first).zip(second) {
            *place = m / (v.sqrt() * root + eps);
        }
        squares(moves.get(..second.len()).unwrap_or_default())
    }

    pub(super) fn finish(&self) -> Option<f64> {
        self.tree.finish()
    }
}

/// The sum of squares; what is not finite (nothing by nothing, too) counts as no move.
fn squares(values: &[f32]) -> f64 {
    let mut lanes = [0.0; LANES];
    each_lane(values, |lane, value| {
        let value = if value.is_finite() { f64::from(value) } else { 0.0 };
        lanes[lane] += value * value;
    });
    fold(lanes)
}
