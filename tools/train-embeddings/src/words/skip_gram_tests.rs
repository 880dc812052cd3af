//! The gradients against differences of the loss, and the examples against the text.

use super::super::text::Text;
use super::*;

fn model(buckets: u64, seed: u64) -> SkipGram {
    let corpus = Corpus::new(&Text::load(&[]).unwrap(), 200, 400).unwrap();
    let settings = Settings {
        dim: 6,
        buckets,
        window: 3,
        negatives: 4,
        batch: 256,
        threshold: 1e-3,
        seed,
        shown: Vec::new(),
    };
    SkipGram::new(corpus, settings)
}

/// Rows of a batch with values that depend on their place.
fn rows(batch: &Batch<Examples>, dim: usize) -> Vec<Vec<f32>> {
    let value = |i: usize| single_of(i * 37 % 101) / 100.0 - 0.5;
    batch.ids.iter().map(|ids| (0..ids.len() * dim).map(value).collect()).collect()
}

#[test]
fn the_gradients_are_the_slopes_of_the_loss() {
    let model = model(50, 1);
    let batch = model.batch(3);
    let mut rows = rows(&batch, 6);
    let outcome = model.gradients(&batch.examples, &rows).unwrap();
    assert!(outcome.terms > 50, "{}", outcome.terms);
    for table in [INPUT, OUTPUT] {
        for element in (0..rows[table].len()).step_by(rows[table].len() / 40) {
            let mut loss = |by: f32| {
                let kept = rows[table][element];
                rows[table][element] = kept + by;
                let loss = model.gradients(&batch.examples, &rows).unwrap().loss;
                rows[table][element] = kept;
                loss
            };
            let slope = (loss(0.02) - loss(-0.02)) / 0.04;
            let got = f64::from(outcome.gradients[table][element]);
            assert!(
                (got - slope).abs() < 4e-3 * (1.0 + slope.abs()),
                "{table} {element}: {got}, slope {slope}"
            );
        }
    }
}

#[test]
fn a_batch_is_a_function_of_the_seed_and_the_step() {
    let ids = |model: &SkipGram, step| model.batch(step).ids;
    let one = model(50, 1);
    assert_eq!(ids(&one, 5), ids(&model(50, 1), 5));
    assert_ne!(ids(&one, 5), ids(&one, 6));
    assert_ne!(ids(&one, 5), ids(&model(50, 2), 5));
    assert_ne!(ids(&one, 0), ids(&one, one.steps_per_epoch()), "the next epoch draws anew");
}

#[test]
fn negatives_are_no_contexts_and_contexts_stand_near() {
    let model = model(50, 1);
    for example in model.draw(2, 0) {
        let (contexts, negatives) = example.outputs.split_at(example.contexts);
        assert!((1..=6).contains(&contexts.len()) && negatives.len() <= 4);
        assert!(negatives.iter().all(|negative| !contexts.contains(negative)));
    }
}

#[test]
fn a_batch_names_no_more_rows_than_are_announced() {
    let model = model(1000, 1);
    for (ids, most) in model.batch(0).ids.iter().zip(model.most_rows()) {
        assert!(ids.len() as u64 <= most);
        assert!(ids.is_sorted());
    }
    assert!(model.batch(0).ids[INPUT].iter().all(|&id| id < model.tables()[INPUT].rows));
}

#[test]
fn without_buckets_a_word_is_its_own_row_alone() {
    let model = model(0, 1);
    assert_eq!(model.rows_of(7), [7]);
    assert_eq!(model.tables()[INPUT].rows, model.tables()[OUTPUT].rows);
}
