//! How likely a token was under the model itself, before penalties, forms and temperature.

use retort_models::Spelling;

use super::sampling::descending;
use crate::engine::request::{TokenLogprob, TokenScore};

/// The log probability of a token and of the `top` likeliest. `logits` is `[vocab]`.
pub fn logprobs(logits: &[f32], id: u32, top: usize, spelling: &Spelling) -> TokenLogprob {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits
        .iter()
        .map(|&logit| f64::from(logit - max).exp())
        .sum();
    let score = |id: u32, logit: f32| {
        let bytes = spelling.bytes(id).to_vec();
        TokenScore {
            id,
            text: String::from_utf8_lossy(&bytes).into_owned(),
            bytes,
            logprob: (f64::from(logit - max) - sum.ln()) as f32,
        }
    };
    let mut best: Vec<(u32, f32)> = (0..).zip(logits.iter().copied()).collect();
    if top < best.len() {
        if top > 0 {
            best.select_nth_unstable_by(top - 1, descending);
        }
        best.truncate(top);
    }
    best.sort_unstable_by(descending);
    let chosen = logits
        .get(id as usize)
        .copied()
        .unwrap_or(f32::NEG_INFINITY);
    TokenLogprob {
        token: score(id, chosen),
        top: best
            .into_iter()
            .map(|(id, logit)| score(id, logit))
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use retort_models::Tokenizer;

    use super::*;

    #[test]
    fn they_are_those_of_a_softmax() {
        let checkpoint = "tests/golden/checkpoints/qwen3-tiny-lasttoken";
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(checkpoint);
        let spelling = Tokenizer::load(&path).unwrap().spelling().unwrap();
        let logits = [0.0, 3.0, -1.0, 3.0];
        let told = logprobs(&logits, 2, 3, &spelling);
        let sum: f64 = logits.iter().map(|&l| f64::from(l).exp()).sum();
        let expected = |id: usize| (f64::from(logits[id]) - sum.ln()) as f32;
        assert!((told.token.logprob - expected(2)).abs() < 1e-6);
        let ids: Vec<u32> = told.top.iter().map(|token| token.id).collect();
        assert_eq!(ids, [1, 3, 0]);
        for token in &told.top {
            assert!((token.logprob - expected(token.id as usize)).abs() < 1e-6);
            assert_eq!(token.bytes, spelling.bytes(token.id));
        }
        assert!(logprobs(&logits, 0, 0, &spelling).top.is_empty());
        assert_eq!(logprobs(&logits, 0, 9, &spelling).top.len(), 4);
    }
}
