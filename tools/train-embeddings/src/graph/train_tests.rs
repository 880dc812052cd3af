//! The gradients against differences of the loss, and a small graph that can be learned.

use super::super::split::{Leaks, split};
use super::super::triples::Graph;
use super::*;

fn model(kind: Kind) -> Knowledge {
    let mut named = Vec::new();
    for i in 0..60 {
        named.push((format!("e{i:02}"), "next".to_owned(), format!("e{:02}", (i + 1) % 60)));
        named.push((format!("e{i:02}"), "far".to_owned(), format!("e{:02}", (i + 20) % 60)));
    }
    let split = split(Graph::new(&named), Leaks { inverse: false, symmetric: false }, 5, 1);
    Knowledge::new(split, Settings { kind, dim: 6, batch: 8, negatives: 12, n3: 0.05, seed: 3 })
}

#[test]
fn the_gradients_are_the_slopes_of_the_loss() {
    for kind in [Kind::Complex, Kind::Distmult, Kind::Transe] {
        let model = model(kind);
        let batch = model.batch(2);
        let value = |i: usize| single_of(i * 37 % 101) / 80.0 - 0.6;
        let mut rows: Vec<Vec<f32>> =
            batch.ids.iter().map(|ids| (0..ids.len() * 6).map(value).collect()).collect();
        let outcome = model.gradients(&batch.examples, &rows).unwrap();
        for table in [ENTITY, RELATION] {
            for element in 0..rows[table].len() {
                let mut loss = |by: f32| {
                    let kept = rows[table][element];
                    rows[table][element] = kept + by;
                    let loss = model.gradients(&batch.examples, &rows).unwrap().loss;
                    rows[table][element] = kept;
                    loss
                };
                let slope = (loss(0.01) - loss(-0.01)) / 0.02;
                let got = f64::from(outcome.gradients[table][element]);
                let within = 5e-3 * (1.0 + slope.abs());
                assert!((got - slope).abs() < within, "{kind} {table} {element}: {got}, slope {slope}");
            }
        }
    }
}

#[test]
fn the_softmax_leaves_out_the_answer_when_it_is_drawn() {
    let mut scores = [1.0, 9.0, 2.0];
    let (loss, of_truth) = softmax(&mut scores, 1.5, 0.5, |drawn| drawn == 1);
    let total = 1.5f32.exp() + 1.5f32.exp() + 2.5f32.exp();
    assert!((loss - (total.ln() - 1.5)).abs() < 1e-5);
    assert!((of_truth - (1.5f32.exp() / total - 1.0)).abs() < 1e-6);
    assert!(scores[1].abs() < 1e-30 && (scores.iter().sum::<f32>() + of_truth).abs() < 1e-6);
}

#[test]
fn an_epoch_visits_every_triple_once() {
    let model = model(Kind::Complex);
    let relations = model.relations();
    let mut seen = Vec::new();
    for step in 0..model.steps_per_epoch() {
        let Examples { entities, relations: named, triples } = model.batch(step).examples;
        let id = |place: usize| small(index(entities.ids()[entities.slot(place)]));
        for i in 0..triples {
            let relation = small(index(named.ids()[named.slot(i)]));
            assert_eq!(
                small(index(named.ids()[named.slot(i + triples)])),
                relation + small(relations),
                "its inverse"
            );
            seen.push(Triple { head: id(i), relation, tail: id(i + triples) });
        }
    }
    seen.sort_unstable();
    assert_eq!(seen, model.split.train);
}

fn small(n: usize) -> u32 {
    crate::num::small(n)
}
