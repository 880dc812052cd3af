//! The standard protocol of link prediction (Bordes et al., 2013): for each triple held out, its tail is asked for by head and
//! relation, and its head by tail and relation. All entities are ranked; other answers known to be true, in any part of the
//! graph, are left out (filtered); among equal scores an answer has the mean of the ranks that it could have.

use std::collections::HashMap;
use std::ops::Range;

use anyhow::Result;
use rayon::prelude::*;

use super::triples::Triple;
use crate::num::small;
use crate::ranks::Tally;

/// Entities that are scored at a time, and queries.
const ENTITIES: usize = 4096;
const QUERIES: usize = 1024;

/// What is asked: an entity and a relation in one direction, and the entities that answer it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Query {
    /// The entity that is given.
    pub(crate) entity: u32,
    /// The relation's row: behind all relations come their inverses.
    pub(crate) relation: u32,
    /// The answer that is asked for.
    pub(crate) answer: u32,
    /// Other true answers, ascending.
    pub(crate) others: Vec<u32>,
}

/// All true answers by entity and relation's row.
pub(crate) struct Known {
    answers: HashMap<(u32, u32), Vec<u32>>,
    relations: u32,
}

impl Known {
    /// The answers that the triples of a graph give.
    pub(crate) fn new(triples: &[Triple], relations: usize) -> Self {
        let relations = small(relations);
        let mut answers: HashMap<(u32, u32), Vec<u32>> = HashMap::new();
        for triple in triples {
            answers.entry((triple.head, triple.relation)).or_default().push(triple.tail);
            answers.entry((triple.tail, triple.relation + relations)).or_default().push(triple.head);
        }
        for of_query in answers.values_mut() {
            of_query.sort_unstable();
            of_query.dedup();
        }
        Self { answers, relations }
    }

    /// Both queries of each triple: for the tail, then for the head.
    pub(crate) fn queries(&self, triples: &[Triple]) -> Vec<Query> {
        let query = |entity, relation, answer| {
            let known = self.answers.get(&(entity, relation)).map_or(&[][..], Vec::as_slice);
            let others = known.iter().copied().filter(|&other| other != answer).collect();
            Query { entity, relation, answer, others }
        };
        let both = |triple: &Triple| {
            let inverse = triple.relation + self.relations;
            [query(triple.head, triple.relation, triple.tail), query(triple.tail, inverse, triple.head)]
        };
        triples.iter().flat_map(both).collect()
    }
}

/// The rank of each query's answer. `score` gives the scores of a run of entities for a run of queries, query after query.
pub(crate) fn ranks(
    queries: &[Query],
    entities: usize,
    score: impl Fn(Range<usize>, Range<usize>) -> Result<Vec<f32>>,
) -> Result<Vec<f64>> {
    let mut truths = vec![f32::NAN; queries.len()];
    let mut tallies = vec![Tally::default(); queries.len()];
    // The answers' own scores first, from the same products, so that equal scores are equal bits.
    for counting in [false, true] {
        for first in (0..entities).step_by(ENTITIES) {
            let run = first..entities.min(first + ENTITIES);
            for start in (0..queries.len()).step_by(QUERIES) {
                let asked = start..queries.len().min(start + QUERIES);
                let scores = score(asked.clone(), run.clone())?;
                let rows = scores.par_chunks(run.len()).zip(&queries[asked.clone()]);
                if counting {
                    let state = tallies[asked.clone()].par_iter_mut().zip(&truths[asked]);
                    rows.zip(state).for_each(|((scores, query), (tally, &truth))| {
                        count(scores, first, query, truth, tally);
                    });
                } else {
                    rows.zip(&mut truths[asked]).for_each(|((scores, query), truth)| {
                        if run.contains(&(query.answer as usize)) {
                            *truth = scores[query.answer as usize - first];
                        }
                    });
                }
            }
        }
    }
    Ok(tallies.into_iter().map(Tally::rank).collect())
}

/// Counts the entities of a run that stand before a query's answer or beside it.
fn count(scores: &[f32], first: usize, query: &Query, truth: f32, tally: &mut Tally) {
    let from = query.others.partition_point(|&other| (other as usize) < first);
    let mut others = query.others[from..].iter().map(|&other| other as usize).peekable();
    for (entity, &score) in (first..).zip(scores) {
        if others.next_if_eq(&entity).is_none() && entity != query.answer as usize {
            tally.add(truth, score);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn triple(head: u32, relation: u32, tail: u32) -> Triple {
        Triple { head, relation, tail }
    }

    #[test]
    fn both_directions_are_asked_and_other_true_answers_known() {
        let known = Known::new(&[triple(0, 0, 1), triple(0, 0, 3), triple(2, 0, 1), triple(0, 1, 2)], 2);
        let queries = known.queries(&[triple(0, 0, 1)]);
        let tail = Query { entity: 0, relation: 0, answer: 1, others: vec![3] };
        let head = Query { entity: 1, relation: 2, answer: 0, others: vec![2] };
        assert_eq!(queries, [tail, head]);
    }

    #[test]
    fn ranks_are_filtered_and_ties_count_half() {
        // Five entities. Scores for the two queries above; the answers are 1 and 0.
        let table = [[0.1, 0.5, 0.7, 0.9, 0.5], [0.5, 0.5, 0.9, 0.5, 0.1]];
        let known = Known::new(&[triple(0, 0, 1), triple(0, 0, 3), triple(2, 0, 1)], 2);
        let queries = known.queries(&[triple(0, 0, 1)]);
        let score = |asked: Range<usize>, run: Range<usize>| {
            Ok(asked.flat_map(|query| table[query][run.clone()].to_vec()).collect())
        };
        let ranks = ranks(&queries, 5, score).unwrap();
        // Tail: 0.7 is better, 0.9 is true as well, one equal: 1 + 1 + 1/2. Head: 0.9 is true as well, two equal: 1 + 2/2.
        assert_eq!(ranks, [2.5, 2.0]);
    }

    #[test]
    fn many_entities_in_runs_rank_as_in_one() {
        let entities = 2 * ENTITIES + 17;
        let value = |query: usize, entity: usize| crate::num::single_of((entity * 31 + query * 7) % 997);
        let query = |i: u32| Query {
            entity: 0,
            relation: 0,
            answer: i * 5000 % small(entities),
            others: (0..50).map(|other| other * 150 + 1).collect(),
        };
        let queries: Vec<Query> = (0..4).map(query).collect();
        let score = |asked: Range<usize>, run: Range<usize>| {
            Ok(asked.flat_map(|query| run.clone().map(move |entity| value(query, entity))).collect())
        };
        let found = ranks(&queries, entities, score).unwrap();
        for (i, (query, rank)) in queries.iter().zip(found).enumerate() {
            let mut tally = Tally::default();
            let truth = value(i, query.answer as usize);
            for entity in (0..entities).filter(|&entity| entity != query.answer as usize) {
                if !query.others.contains(&small(entity)) {
                    tally.add(truth, value(i, entity));
                }
            }
            assert!((tally.rank() - rank).abs() < 1e-9, "query {i}");
        }
    }
}
