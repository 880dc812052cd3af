//! Writes text with the model.

use anyhow::Result;

use training::random::mix;

use crate::data::Corpus;
use crate::ops::exp_minus;
use crate::pass::{Engine, Source};
use crate::tokenizer::Tokenizer;

/// Divides the logits: below 1, likely tokens become likelier.
const TEMPERATURE: f32 = 0.8;
/// Only this many of the likeliest tokens are drawn from.
const LIKELIEST: usize = 50;
/// Tokens of the held-out text that the sample starts with.
const PROMPT: usize = 12;

/// Continues the beginning of the held-out text by `len` tokens: `(prompt, continuation)`.
pub(crate) fn sample(
    engine: &Engine,
    source: &impl Source,
    corpus: &Corpus,
    tokenizer: &Tokenizer,
    (seq, len, seed): (usize, usize, u64),
) -> Result<(String, String)> {
    let mut tokens = corpus.prompt(PROMPT.min(seq)).to_vec();
    let prompt = tokens.len();
    for i in 0..len as u64 {
        let context = &tokens[tokens.len().saturating_sub(seq)..];
        let logits = engine.next_logits(source, context)?;
        tokens.push(draw(&logits, mix(seed, i))?);
    }
    Ok((tokenizer.decode(&tokens[..prompt]), tokenizer.decode(&tokens[prompt..])))
}

/// Draws a token by its probability among the likeliest.
fn draw(logits: &[f32], random: u64) -> Result<u16> {
    let mut order: Vec<usize> = (0..logits.len()).collect();
    order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]).then(a.cmp(&b)));
    order.truncate(LIKELIEST);
    let mut weights: Vec<f32> = order.iter().map(|&token| logits[token] / TEMPERATURE).collect();
    let max = weights[0];
    let total = exp_minus(&mut weights, max);
    #[expect(clippy::cast_precision_loss, reason = "24 bits")]
    let mut left = (random >> 40) as f32 / 16_777_216.0 * total;
    let chosen = weights.iter().position(|weight| {
        left -= weight;
        left < 0.0
    });
    Ok(u16::try_from(order[chosen.unwrap_or(0)])?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_follow_the_probabilities_and_leave_out_unlikely_tokens() {
        let mut logits = vec![-100.0; 300];
        logits[7] = 1.0;
        logits[9] = 1.0 + TEMPERATURE * 2f32.ln();
        let draws: Vec<u16> = (0..3000).map(|i| draw(&logits, mix(1, i)).unwrap()).collect();
        let nines = draws.iter().filter(|&&token| token == 9).count();
        assert!(draws.iter().all(|&token| token == 7 || token == 9));
        assert!((1900..2100).contains(&nines), "{nines} of 3000, expected two thirds");
    }
}
