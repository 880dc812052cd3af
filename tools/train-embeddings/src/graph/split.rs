//! Which triples are trained on, and which are held out: without giving away by one what is asked by another.
//!
//! Many facts stand in a graph twice: `a hypernym b` beside `b hyponym a`. If one is trained on, the other is no question. WN18
//! is split that way; WN18RR (Dettmers et al., 2018) drops one relation of each inverse pair, but leaves relations that are
//! their own inverse, whose triples still give away each other. Here one of each pair is dropped, and two triples that are each
//! other's mirror image in one relation are trained on or held out together, unless asked otherwise.

use std::collections::HashSet;

use super::triples::{Graph, Triple};
use crate::random::permuted;

/// A relation is the inverse of another if at least this share of the triples of both are mirrored in the other.
const MIRRORED: f64 = 0.95;
/// At most one triple in this many is held out for each purpose.
const LEAST_SHARE: usize = 20;

/// What one triple may give away about another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Leaks {
    /// Both relations of inverse pairs are kept, as in WN18.
    pub(crate) inverse: bool,
    /// The two triples of a symmetric fact may be split, as in WN18RR and WN18.
    pub(crate) symmetric: bool,
}

/// A graph, and its triples divided.
#[derive(Debug)]
pub(crate) struct Split {
    /// The graph without what was dropped.
    pub(crate) graph: Graph,
    /// Triples to train on.
    pub(crate) train: Vec<Triple>,
    /// Triples held out to choose settings by.
    pub(crate) valid: Vec<Triple>,
    /// Triples held out to judge by.
    pub(crate) test: Vec<Triple>,
    /// Relations that were dropped, each with its inverse.
    pub(crate) dropped: Vec<(String, String)>,
    /// Relations that are their own inverse.
    pub(crate) symmetric: Vec<String>,
}

/// Divides a graph; `held` triples are held out for each purpose, if there are enough.
pub(crate) fn split(graph: Graph, leaks: Leaks, held: usize, seed: u64) -> Split {
    let mirrors = mirrors(&graph);
    let names = |relation: usize| graph.relations[relation].clone();
    let symmetric: Vec<usize> =
        mirrors.iter().filter(|(a, b)| a == b).map(|&(relation, _)| relation).collect();
    let pairs: Vec<(usize, usize)> = mirrors.into_iter().filter(|(a, b)| a != b && !leaks.inverse).collect();
    let dropped: Vec<(String, String)> =
        pairs.iter().map(|&(kept, gone)| (names(gone), names(kept))).collect();
    let symmetric: Vec<String> = symmetric.into_iter().map(names).collect();
    let gone: HashSet<usize> = pairs.into_iter().map(|(_, gone)| gone).collect();
    let graph = if gone.is_empty() {
        graph
    } else {
        graph.only(|triple| !gone.contains(&(triple.relation as usize)))
    };
    let units = units(&graph, !leaks.symmetric);
    let held = held.min(graph.triples.len() / LEAST_SHARE);
    let (train, valid, test) = hold_out(&graph, &units, held, seed);
    Split { graph, train, valid, test, dropped, symmetric }
}

/// Pairs of relations that mirror each other, the first in order kept; a relation that mirrors itself is paired with itself.
fn mirrors(graph: &Graph) -> Vec<(usize, usize)> {
    let pairs = graph.by_relation();
    let mut found = Vec::new();
    let mut taken = HashSet::new();
    for (a, of_a) in pairs.iter().enumerate() {
        let set: HashSet<(u32, u32)> = of_a.iter().copied().collect();
        for (b, of_b) in pairs.iter().enumerate().skip(a) {
            let most = crate::num::float(of_a.len().max(of_b.len()) as u64);
            if crate::num::float(of_a.len().min(of_b.len()) as u64) < MIRRORED * most || taken.contains(&b) {
                continue;
            }
            let mirrored = of_b.iter().filter(|&&(head, tail)| set.contains(&(tail, head))).count();
            if !taken.contains(&a) && crate::num::float(mirrored as u64) >= MIRRORED * most {
                taken.extend([a, b]);
                found.push((a, b));
            }
        }
    }
    found
}

/// Triples that are held out together: a fact, and its mirror image in the same relation if that stands in the graph too.
fn units(graph: &Graph, together: bool) -> Vec<Vec<Triple>> {
    let all: HashSet<Triple> = graph.triples.iter().copied().collect();
    let unit = |&triple: &Triple| {
        let mirrored = triple.mirrored();
        if !together || mirrored == triple || !all.contains(&mirrored) {
            return Some(vec![triple]);
        }
        (triple < mirrored).then(|| vec![triple, mirrored])
    };
    graph.triples.iter().filter_map(unit).collect()
}

/// Holds out triples in a pseudo-random order, but none whose entities or relation would be left without any to train on.
fn hold_out(
    graph: &Graph,
    units: &[Vec<Triple>],
    held: usize,
    seed: u64,
) -> (Vec<Triple>, Vec<Triple>, Vec<Triple>) {
    let mut degrees = graph.degrees(&graph.triples);
    let mut of_relation: Vec<usize> = graph.by_relation().iter().map(Vec::len).collect();
    let (mut train, mut valid, mut test) = (Vec::new(), Vec::new(), Vec::new());
    let count = units.len() as u64;
    for i in 0..count {
        let unit = &units[crate::num::index(permuted(i, count, seed))];
        let target = if test.len() < held { &mut test } else { &mut valid };
        let first = unit[0];
        let size = crate::num::small(unit.len() * if first.head == first.tail { 2 } else { 1 });
        let spare = |entity: u32| degrees[entity as usize] > size;
        let free =
            spare(first.head) && spare(first.tail) && of_relation[first.relation as usize] > 10 * unit.len();
        if target.len() + unit.len() <= held && free {
            for triple in unit {
                degrees[triple.head as usize] -= 1;
                degrees[triple.tail as usize] -= 1;
                of_relation[triple.relation as usize] -= 1;
            }
            target.extend(unit);
        } else {
            train.extend(unit);
        }
    }
    train.sort_unstable();
    (train, valid, test)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HONEST: Leaks = Leaks { inverse: false, symmetric: false };

    /// A graph with an inverse pair, a symmetric relation, and one without a mirror.
    fn graph() -> Graph {
        let mut named = Vec::new();
        let mut add = |head: usize, relation: &str, tail: usize| {
            named.push((format!("e{head:03}"), relation.to_owned(), format!("e{tail:03}")));
        };
        for i in 0..200 {
            add(i, "above", (i * 7 + 1) % 200);
            add((i * 7 + 1) % 200, "below", i);
            add(i, "beside", (i + 100) % 200);
            add(i, "likes", (i * i + 3) % 200);
        }
        Graph::new(&named)
    }

    #[test]
    fn inverse_and_symmetric_relations_are_found() {
        let split = split(graph(), HONEST, 20, 1);
        assert_eq!(split.dropped, [("below".to_owned(), "above".to_owned())]);
        assert_eq!(split.symmetric, ["beside"]);
        assert_eq!(split.graph.relations, ["above", "beside", "likes"]);
        let all = self::split(graph(), Leaks { inverse: true, symmetric: true }, 20, 1);
        assert_eq!((all.graph.relations.len(), all.dropped.len()), (4, 0));
    }

    #[test]
    fn the_parts_are_disjoint_and_complete_and_know_every_entity() {
        let split = split(graph(), HONEST, 20, 1);
        assert_eq!((split.test.len(), split.valid.len()), (20, 20));
        let mut all = [&split.train[..], &split.valid, &split.test].concat();
        all.sort_unstable();
        assert_eq!(all, split.graph.triples);
        let degrees = split.graph.degrees(&split.train);
        assert!(
            split
                .valid
                .iter()
                .chain(&split.test)
                .all(|triple| { degrees[triple.head as usize] > 0 && degrees[triple.tail as usize] > 0 })
        );
    }

    #[test]
    fn a_symmetric_fact_is_on_one_side_unless_asked_otherwise() {
        let torn = |leaks| {
            let split = split(graph(), leaks, 20, 1);
            let train: HashSet<Triple> = split.train.iter().copied().collect();
            split.test.iter().filter(|triple| train.contains(&triple.mirrored())).count()
        };
        assert_eq!(torn(HONEST), 0);
        assert!(torn(Leaks { inverse: false, symmetric: true }) > 0);
    }
}
