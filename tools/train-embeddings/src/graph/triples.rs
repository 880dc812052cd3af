//! A graph: triples of a head, a relation and a tail, by names or by numbers.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};

/// A fact: this entity stands in this relation to that one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Triple {
    /// Number of the first entity.
    pub(crate) head: u32,
    /// Number of the relation.
    pub(crate) relation: u32,
    /// Number of the second entity.
    pub(crate) tail: u32,
}

impl Triple {
    /// The same the other way round.
    pub(crate) fn mirrored(self) -> Self {
        Self { head: self.tail, tail: self.head, ..self }
    }
}

/// A triple by names.
pub(crate) type Named = (String, String, String);

/// A graph whose entities and relations are numbered in the order of their names.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Graph {
    /// Names of entities.
    pub(crate) entities: Vec<String>,
    /// Names of relations.
    pub(crate) relations: Vec<String>,
    /// Distinct triples, ascending.
    pub(crate) triples: Vec<Triple>,
}

impl Graph {
    /// The graph of some triples; each counts once.
    pub(crate) fn new(named: &[Named]) -> Self {
        let entities: BTreeSet<&str> =
            named.iter().flat_map(|(head, _, tail)| [head.as_str(), tail.as_str()]).collect();
        let relations: BTreeSet<&str> = named.iter().map(|(_, relation, _)| relation.as_str()).collect();
        let number = |names: &BTreeSet<&str>| -> HashMap<String, u32> {
            names.iter().zip(0..).map(|(name, number)| ((*name).to_owned(), number)).collect()
        };
        let (of_entity, of_relation) = (number(&entities), number(&relations));
        let triple = |(head, relation, tail): &Named| Triple {
            head: of_entity[head],
            relation: of_relation[relation],
            tail: of_entity[tail],
        };
        let mut triples: Vec<Triple> = named.iter().map(triple).collect();
        triples.sort_unstable();
        triples.dedup();
        let owned = |names: BTreeSet<&str>| names.into_iter().map(str::to_owned).collect();
        Self { entities: owned(entities), relations: owned(relations), triples }
    }

    /// In how many triples each entity stands.
    pub(crate) fn degrees(&self, triples: &[Triple]) -> Vec<u32> {
        let mut degrees = vec![0; self.entities.len()];
        for triple in triples {
            degrees[triple.head as usize] += 1;
            degrees[triple.tail as usize] += 1;
        }
        degrees
    }

    /// The graph of the triples whose two entities both stand in at least this many; counted once, not again.
    pub(crate) fn with_degree(self, least: u32) -> Self {
        let degrees = self.degrees(&self.triples);
        let enough = |entity: u32| degrees[entity as usize] >= least;
        self.only(|triple| enough(triple.head) && enough(triple.tail))
    }

    /// The graph of some of its triples, with numbers of its own.
    pub(crate) fn only(&self, keep: impl Fn(&Triple) -> bool) -> Self {
        let kept: Vec<Triple> = self.triples.iter().copied().filter(keep).collect();
        let renumber = |len: usize, used: &dyn Fn(&Triple) -> Vec<u32>| {
            let used: BTreeSet<u32> = kept.iter().flat_map(used).collect();
            let mut numbers = vec![u32::MAX; len];
            used.iter().zip(0..).for_each(|(&old, new)| numbers[old as usize] = new);
            (used, numbers)
        };
        let (entities, of_entity) = renumber(self.entities.len(), &|triple| vec![triple.head, triple.tail]);
        let (relations, of_relation) = renumber(self.relations.len(), &|triple| vec![triple.relation]);
        let triples = kept.iter().map(|triple| Triple {
            head: of_entity[triple.head as usize],
            relation: of_relation[triple.relation as usize],
            tail: of_entity[triple.tail as usize],
        });
        let named = |names: &[String], used: &BTreeSet<u32>| {
            used.iter().map(|&old| names[old as usize].clone()).collect()
        };
        Self {
            triples: triples.collect(),
            entities: named(&self.entities, &entities),
            relations: named(&self.relations, &relations),
        }
    }

    /// Triples of each relation.
    pub(crate) fn by_relation(&self) -> Vec<Vec<(u32, u32)>> {
        let mut pairs = vec![Vec::new(); self.relations.len()];
        for triple in &self.triples {
            pairs[triple.relation as usize].push((triple.head, triple.tail));
        }
        pairs
    }
}

/// Reads a file with a triple on each line, head, relation and tail with tabulators between: the triples, and the bytes
/// that they were read from.
pub(crate) fn read(path: &Path) -> Result<(Vec<Named>, Vec<u8>)> {
    let bytes = std::fs::read(path).with_context(|| format!("cannot read the triples {}", path.display()))?;
    let text = std::str::from_utf8(&bytes)
        .with_context(|| format!("the triples {} are not UTF-8", path.display()))?;
    let named = parse(text).with_context(|| format!("in {}", path.display()))?;
    ensure!(!named.is_empty(), "{} holds no triples", path.display());
    Ok((named, bytes))
}

fn parse(text: &str) -> Result<Vec<Named>> {
    let mut named = Vec::new();
    for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let fields: Vec<&str> = line.split('\t').map(str::trim).collect();
        let [head, relation, tail] = fields[..] else {
            bail!("line {} has {} fields, expected head, relation and tail", number + 1, fields.len());
        };
        named.push((head.to_owned(), relation.to_owned(), tail.to_owned()));
    }
    Ok(named)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn graph() -> Graph {
        Graph::new(&parse("b\tr\ta\nb\tr\ta\n\na\ts\tc\n").unwrap())
    }

    #[test]
    fn triples_are_numbered_by_name_and_count_once() {
        let graph = graph();
        assert_eq!(graph.entities, ["a", "b", "c"]);
        assert_eq!(graph.relations, ["r", "s"]);
        let triples: Vec<_> = graph.triples.iter().map(|t| (t.head, t.relation, t.tail)).collect();
        assert_eq!(triples, [(0, 1, 2), (1, 0, 0)]);
        assert_eq!(graph.degrees(&graph.triples), [2, 1, 1]);
        assert_eq!(graph.by_relation(), [vec![(1, 0)], vec![(0, 2)]]);
    }

    #[test]
    fn a_part_has_numbers_of_its_own() {
        let part = graph().only(|triple| triple.relation == 0);
        assert_eq!((part.entities, part.relations), (vec!["a".into(), "b".into()], vec!["r".to_owned()]));
        let named = parse("a\tr\tb\nb\tr\tc\nc\tr\ta\nd\tr\ta\n").unwrap();
        let dense = Graph::new(&named).with_degree(2);
        assert_eq!((dense.entities.len(), dense.triples.len()), (3, 3));
    }

    #[test]
    fn a_line_without_three_fields_is_named() {
        let error = parse("a\tr\tb\na r b\n").unwrap_err().to_string();
        assert!(error.contains("line 2"), "{error}");
    }
}
