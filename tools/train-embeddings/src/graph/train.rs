//! Training on triples: each is two questions, for its tail and for its head, and the answer has to stand out among the answer
//! and entities drawn at random, which are the same for all questions of a batch.
//!
//! The loss is the cross-entropy of a softmax over these, with `ln(entities / drawn)` added to the scores of those drawn: an
//! estimate of the softmax over all entities (Jean et al., 2015, for an even distribution). The N3 norm of each
//! question's three rows is added with a weight.

use anyhow::Result;
use rayon::prelude::*;

use super::eval::{Known, Query, ranks};
use super::model::Kind;
use super::product::{Matrix, both_sums, with_rows};
use super::split::Split;
use super::triples::Triple;
use crate::math::{add_scaled, dot, exp};
use crate::named::Named;
use crate::num::{float, index, single, single_of};
use crate::random::{Draws, mix, permuted};
use crate::ranks::Ranks;
use crate::run::{Batch, Init, Model, Outcome, Table, Tables, Verdict};
use training::people::grouped;

/// The tables, in their order.
const ENTITY: usize = 0;
const RELATION: usize = 1;
/// Distances below this count as this: the slope of a distance of 0 is not defined.
const LEAST_DISTANCE: f32 = 1e-6;

/// What a run can be told.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// The model.
    pub(crate) kind: Kind,
    /// Elements of a row.
    pub(crate) dim: usize,
    /// Triples in a batch.
    pub(crate) batch: usize,
    /// Entities drawn for a batch.
    pub(crate) negatives: usize,
    /// Weight of the N3 norm.
    pub(crate) n3: f64,
    /// Seed of the order and of entities drawn.
    pub(crate) seed: u64,
}

/// The model and the graph that it is trained on.
pub(crate) struct Knowledge {
    settings: Settings,
    split: Split,
}

/// The triples of a batch.
#[derive(Debug)]
pub(crate) struct Examples {
    /// Heads, then tails, then the entities drawn.
    entities: Named,
    /// The relations, then their inverses.
    relations: Named,
    triples: usize,
}

impl Examples {
    /// Places of a question's entity and answer; questions for tails come first, then those for heads.
    fn places(&self, question: usize) -> (usize, usize) {
        let other = if question < self.triples { question + self.triples } else { question - self.triples };
        (question, other)
    }
}

/// What the softmax of a batch says.
struct Judged {
    loss: f64,
    /// Derivatives by the questions' vectors.
    of_queries: Vec<f32>,
    /// Derivatives by the drawn entities' rows.
    of_drawn: Vec<f32>,
    /// Derivatives by the answers' rows, one for each question.
    of_answers: Vec<f32>,
}

impl Knowledge {
    /// Prepares training on a graph.
    pub(crate) fn new(split: Split, settings: Settings) -> Self {
        Self { settings, split }
    }

    fn entities(&self) -> usize {
        self.split.graph.entities.len()
    }

    fn relations(&self) -> usize {
        self.split.graph.relations.len()
    }

    /// The vectors of all questions of a batch, one after the other.
    fn queries(&self, examples: &Examples, rows: &[Vec<f32>]) -> Vec<f32> {
        let Settings { dim, kind, .. } = self.settings;
        let mut queries = vec![0.0; 2 * examples.triples * dim];
        queries.par_chunks_mut(dim).enumerate().for_each(|(question, query)| {
            let entity = examples.entities.row(&rows[ENTITY], dim, examples.places(question).0);
            kind.query(entity, examples.relations.row(&rows[RELATION], dim, question), query);
        });
        queries
    }

    /// The softmax of each question over its answer and the entities drawn.
    fn judge_batch(&self, examples: &Examples, queries: &[f32], rows: &[f32]) -> Result<Judged> {
        let Settings { dim, kind, negatives, .. } = self.settings;
        let asked = 2 * examples.triples;
        let row = |place: usize| examples.entities.row(rows, dim, place);
        let drawn: Vec<f32> = (asked..asked + negatives).flat_map(row).copied().collect();
        let norms: Vec<f32> = drawn.chunks(dim).map(|row| dot(row, row)).collect();
        let shift = single((float(self.entities() as u64) / float(negatives as u64)).ln());
        let mut scores = with_rows(Matrix::new(queries, dim), Matrix::new(&drawn, dim))?;
        let mut of_answers = vec![0.0; queries.len()];
        let state = scores.par_chunks_mut(negatives).zip(of_answers.par_chunks_mut(dim)).enumerate();
        let judged: Vec<(f32, f32, f32)> = state
            .map(|(question, (scores, of_answer))| {
                let query = &queries[question * dim..][..dim];
                let place = examples.places(question).1;
                let own = examples.entities.slot(place);
                let same = |drawn: usize| examples.entities.slot(asked + drawn) == own;
                if kind.measures_distance() {
                    distances(scores, dot(query, query), &norms);
                }
                let truth = if kind.measures_distance() {
                    -distance(query, row(place))
                } else {
                    dot(query, row(place))
                };
                let kept = kind.measures_distance().then(|| scores.to_vec());
                let (loss, of_truth) = softmax(scores, truth, shift, same);
                // From derivatives by scores to factors of rows.
                let mut of_query = of_truth;
                if let Some(kept) = kept {
                    for (factor, score) in scores.iter_mut().zip(kept) {
                        *factor /= (-score).max(LEAST_DISTANCE);
                    }
                    of_query = of_truth / (-truth).max(LEAST_DISTANCE);
                    add_scaled(of_answer, -of_query, row(place));
                }
                add_scaled(of_answer, of_query, query);
                (loss, of_query, scores.iter().sum())
            })
            .collect();
        let weights = Matrix::new(&scores, negatives);
        let (mut of_queries, mut of_drawn) =
            both_sums(weights, Matrix::new(queries, dim), Matrix::new(&drawn, dim))?;
        of_queries.par_chunks_mut(dim).zip(&judged).enumerate().for_each(|(question, (row_of, judged))| {
            let (_, of_query, total) = *judged;
            add_scaled(row_of, of_query, row(examples.places(question).1));
            if kind.measures_distance() {
                add_scaled(row_of, -(total + of_query), &queries[question * dim..][..dim]);
            }
        });
        if kind.measures_distance() {
            subtract_own(&mut of_drawn, &scores, &drawn, dim);
        }
        let loss = judged.iter().map(|&(loss, ..)| f64::from(loss)).sum();
        Ok(Judged { loss, of_queries, of_drawn, of_answers })
    }

    /// Gradients of the two rows that make each question, with N3, and of the answers' N3: for each question entity,
    /// relation, and what the norms add to the loss.
    fn through_queries(
        &self,
        examples: &Examples,
        rows: &[Vec<f32>],
        judged: &mut Judged,
    ) -> (Vec<f32>, Vec<f32>) {
        let Settings { dim, kind, n3, .. } = self.settings;
        let weight = single(n3);
        let (mut of_entities, mut of_relations) =
            (vec![0.0; judged.of_queries.len()], vec![0.0; judged.of_queries.len()]);
        let Judged { of_queries, of_answers, .. } = judged;
        let outs = of_entities.par_chunks_mut(dim).zip(of_relations.par_chunks_mut(dim));
        let norms: Vec<f32> = outs
            .zip(of_queries.par_chunks(dim).zip(of_answers.par_chunks_mut(dim)))
            .enumerate()
            .map(|(question, ((of_entity, of_relation), (of_query, of_answer)))| {
                let (given, answer) = examples.places(question);
                let entity = examples.entities.row(&rows[ENTITY], dim, given);
                let relation = examples.relations.row(&rows[RELATION], dim, question);
                kind.add_gradients((entity, relation), of_query, of_entity, of_relation);
                if weight <= 0.0 {
                    return 0.0;
                }
                let answer = examples.entities.row(&rows[ENTITY], dim, answer);
                kind.add_n3(entity, weight, of_entity)
                    + kind.add_n3(relation, weight, of_relation)
                    + kind.add_n3(answer, weight, of_answer)
            })
            .collect();
        judged.loss += norms.into_iter().map(f64::from).sum::<f64>();
        (of_entities, of_relations)
    }

    /// The ranks of the answers of some triples, two for each.
    fn ranks(&self, tables: &Tables, known: &Known, triples: &[Triple]) -> Result<Vec<f64>> {
        let Settings { dim, kind, .. } = self.settings;
        let queries = known.queries(triples);
        let relations: Vec<u64> = (0..2 * self.relations() as u64).collect();
        let relations = tables.gather(RELATION, &relations)?;
        let vectors = |queries: &[Query]| -> Result<Vec<f32>> {
            let ids: Vec<u64> = queries.iter().map(|query| u64::from(query.entity)).collect();
            let rows = tables.gather(ENTITY, &ids)?;
            let mut out = vec![0.0; rows.len()];
            for ((query, row), out) in queries.iter().zip(rows.chunks(dim)).zip(out.chunks_mut(dim)) {
                kind.query(row, &relations[query.relation as usize * dim..][..dim], out);
            }
            Ok(out)
        };
        ranks(&queries, self.entities(), |asked, run| {
            let ids: Vec<u64> = run.map(|entity| entity as u64).collect();
            let rows = tables.gather(ENTITY, &ids)?;
            let vectors = vectors(&queries[asked])?;
            let mut scores = with_rows(Matrix::new(&vectors, dim), Matrix::new(&rows, dim))?;
            if kind.measures_distance() {
                let norms: Vec<f32> = rows.chunks(dim).map(|row| dot(row, row)).collect();
                scores.par_chunks_mut(norms.len()).zip(vectors.par_chunks(dim)).for_each(
                    |(scores, vector)| {
                        distances(scores, dot(vector, vector), &norms);
                    },
                );
            }
            Ok(scores)
        })
    }

    /// The ranks of one relation's triples, for people: relations with the most triples first.
    fn by_relation(&self, ranks: &[f64]) -> Vec<(String, String)> {
        let mut of_relation: Vec<Vec<f64>> = vec![Vec::new(); self.relations()];
        for (triple, ranks) in self.split.test.iter().zip(ranks.chunks(2)) {
            of_relation[triple.relation as usize].extend(ranks);
        }
        let mut order: Vec<usize> = (0..self.relations()).collect();
        order.sort_by_key(|&relation| std::cmp::Reverse(of_relation[relation].len()));
        let shown = order.into_iter().filter(|&relation| !of_relation[relation].is_empty()).take(8);
        let line = |relation: usize| {
            let ranks = Ranks::of(of_relation[relation].iter().copied());
            let name = &self.split.graph.relations[relation];
            (String::new(), format!("{name:<28} {:>5} answers: {}", ranks.count, ranks.text()))
        };
        shown.map(line).collect()
    }
}

/// The Euclidean distance.
fn distance(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| (a - b) * (a - b)).sum::<f32>().sqrt()
}

/// Turns scalar products with a vector into minus the distances from it, given the squares of the lengths.
fn distances(products: &mut [f32], square: f32, squares: &[f32]) {
    for (product, other) in products.iter_mut().zip(squares) {
        *product = -(square + other - 2.0 * *product).max(0.0).sqrt();
    }
}

/// Replaces scores by the derivatives of the loss, and returns the loss and its derivative by the answer's score. Drawn
/// entities that are the `same` as the answer do not count.
fn softmax(scores: &mut [f32], truth: f32, shift: f32, same: impl Fn(usize) -> bool) -> (f32, f32) {
    for (drawn, score) in scores.iter_mut().enumerate() {
        *score = if same(drawn) { f32::MIN } else { *score + shift };
    }
    let most = scores.iter().copied().fold(truth, f32::max);
    for score in scores.iter_mut() {
        *score = exp(*score - most);
    }
    let own = exp(truth - most);
    let total = own + sum(scores);
    for score in scores.iter_mut() {
        *score /= total;
    }
    (total.ln() + most - truth, own / total - 1.0)
}

/// A sum in eight parts.
fn sum(values: &[f32]) -> f32 {
    let mut sums = [0.0f32; 8];
    let parts = values.chunks_exact(8);
    let rest: f32 = parts.remainder().iter().sum();
    for part in parts {
        for (sum, value) in sums.iter_mut().zip(part) {
            *sum += value;
        }
    }
    sums.iter().sum::<f32>() + rest
}

/// For distances: takes from each drawn entity's gradient its own row, times the sum of its factors over all questions.
fn subtract_own(of_drawn: &mut [f32], factors: &[f32], drawn: &[f32], dim: usize) {
    let count = drawn.len() / dim;
    let mut totals = vec![0.0; count];
    factors.chunks(count).for_each(|factors| add_scaled(&mut totals, 1.0, factors));
    for ((gradient, row), total) in of_drawn.chunks_mut(dim).zip(drawn.chunks(dim)).zip(totals) {
        add_scaled(gradient, -total, row);
    }
}

impl Model for Knowledge {
    type Examples = Examples;
    const UNIT: &'static str = "triples";

    fn tables(&self) -> Vec<Table> {
        let width = self.settings.dim;
        let init = if self.settings.kind.measures_distance() {
            let reach = 6.0 / single_of(width).sqrt();
            Init::Uniform { low: -reach, high: reach }
        } else {
            Init::Normal { mean: 0.0, std: 1e-3 }
        };
        let table = |name, rows: usize| Table { name, rows: rows as u64, width, init };
        vec![table("entity", self.entities()), table("relation", 2 * self.relations())]
    }

    fn steps_per_epoch(&self) -> u64 {
        (self.split.train.len() as u64).div_ceil(self.settings.batch as u64)
    }

    fn most_rows(&self) -> Vec<u64> {
        let Settings { batch, negatives, .. } = self.settings;
        vec![(2 * batch + negatives) as u64, 2 * batch as u64]
    }

    fn scratch_bytes(&self) -> u64 {
        // Scores as they come from the product and as factors go back, and rows copied for the products.
        let Settings { batch, negatives, dim, .. } = self.settings;
        16 * (2 * batch * negatives) as u64 + 16 * ((6 * batch + 2 * negatives) * dim) as u64
    }

    fn batch(&self, step: u64) -> Batch<Examples> {
        let (epoch, batch) = (step / self.steps_per_epoch(), step % self.steps_per_epoch());
        let (count, each) = (self.split.train.len() as u64, self.settings.batch as u64);
        let key = mix(self.settings.seed, epoch);
        let visited: Vec<Triple> = (batch * each..(batch * each + each).min(count))
            .map(|i| self.split.train[index(permuted(i, count, key))])
            .collect();
        let mut draws = Draws::new(mix(!self.settings.seed, step));
        let drawn = (0..self.settings.negatives).map(|_| draws.below(self.entities() as u64));
        let entities: Vec<u64> = visited
            .iter()
            .map(|triple| u64::from(triple.head))
            .chain(visited.iter().map(|triple| u64::from(triple.tail)))
            .chain(drawn)
            .collect();
        let inverse = self.relations() as u64;
        let relations = visited.iter().map(|triple| u64::from(triple.relation));
        let relations: Vec<u64> = relations.clone().chain(relations.map(|id| id + inverse)).collect();
        let examples = Examples {
            entities: Named::new(&entities),
            relations: Named::new(&relations),
            triples: visited.len(),
        };
        Batch { ids: vec![examples.entities.ids().to_vec(), examples.relations.ids().to_vec()], examples }
    }

    fn gradients(&self, examples: &Examples, rows: &[Vec<f32>]) -> Result<Outcome> {
        let dim = self.settings.dim;
        let queries = self.queries(examples, rows);
        let mut judged = self.judge_batch(examples, &queries, &rows[ENTITY])?;
        let (of_given, of_relations) = self.through_queries(examples, rows, &mut judged);
        let asked = 2 * examples.triples;
        let entities = examples.entities.sum(dim, |place, row| {
            if place >= asked {
                add_scaled(row, 1.0, &judged.of_drawn[(place - asked) * dim..][..dim]);
                return;
            }
            // A head is given by the question for the tail, and is the answer of the question for the head.
            let answered = examples.places(place).1;
            add_scaled(row, 1.0, &of_given[place * dim..][..dim]);
            add_scaled(row, 1.0, &judged.of_answers[answered * dim..][..dim]);
        });
        let relations = examples.relations.sum(dim, |question, row| {
            add_scaled(row, 1.0, &of_relations[question * dim..][..dim]);
        });
        Ok(Outcome {
            gradients: vec![entities, relations],
            loss: judged.loss,
            terms: asked as u64,
            examples: examples.triples as u64,
        })
    }

    fn describe(&self) -> Vec<(String, String)> {
        let Split { train, valid, test, dropped, symmetric, .. } = &self.split;
        let graph = format!(
            "{} entities, {} relations, {} triples to train on, {} and {} held out to validate and to test",
            grouped(self.entities() as u64),
            self.relations(),
            grouped(train.len() as u64),
            grouped(valid.len() as u64),
            grouped(test.len() as u64)
        );
        let pairs: Vec<_> = dropped.iter().map(|(gone, kept)| format!("{gone} (of {kept})")).collect();
        let mut lines = vec![("Graph".to_owned(), graph)];
        if !pairs.is_empty() {
            lines.push(("Inverse".to_owned(), format!("dropped: {}", pairs.join(", "))));
        }
        if !symmetric.is_empty() {
            lines.push(("Symmetric".to_owned(), symmetric.join(", ")));
        }
        lines
    }

    fn judge(&self, tables: &Tables) -> Result<Verdict> {
        let known = Known::new(&self.split.graph.triples, self.relations());
        let valid = Ranks::of(self.ranks(tables, &known, &self.split.valid)?);
        let test = self.ranks(tables, &known, &self.split.test)?;
        let of_test = Ranks::of(test.iter().copied());
        let mut scores = of_test.scores("test_");
        scores.push(("test_mean_rank".to_owned(), of_test.mean));
        scores.extend(valid.scores("valid_"));
        let mut lines = vec![
            ("test".to_owned(), format!("{}, mean rank {:.0}", of_test.text(), of_test.mean)),
            ("validation".to_owned(), valid.text()),
        ];
        lines.extend(self.by_relation(&test));
        Ok(Verdict { scores, lines })
    }
}

#[cfg(test)]
#[path = "train_tests.rs"]
mod tests;
