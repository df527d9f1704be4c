//! Attention as it is written down: the oracle of the fast version.

use super::PackedAttention;
use crate::KernelError;

/// Attention one query row at a time and in `f64`. Needs memory for the scores of one row.
/// // out: [tokens, num_heads * head_size]
pub fn attention_plain(args: &PackedAttention<'_>, out: &mut [f32]) -> Result<(), KernelError> {
    let cu_seqlens = args.check(out.len())?;
    let (width, size) = (args.width(), args.head_size);
    for tokens in cu_seqlens.ranges() {
        for head in 0..args.num_heads {
            let (column, kv_column) = (head * size, args.kv_head(head) * size);
            let bias = args.bias.head(head, args.num_heads);
            for (i, row) in tokens.clone().enumerate() {
                let query = args.query.slice(row, column, size);
                let seen = args.mask.keys(i, tokens.len());
                let mut weights: Vec<f64> = seen
                    .clone()
                    .map(|j| {
                        let key = args.key.slice(tokens.start + j, kv_column, size);
                        let distance = j as isize - i as isize;
                        dot(query, key) * f64::from(args.scale)
                            + bias.map_or(0.0, |bias| bias.at(distance))
                    })
                    .collect();
                softmax(&mut weights);
                let average = &mut out[row * width + column..][..size];
                for (dimension, average) in average.iter_mut().enumerate() {
                    let term = |(j, weight): (usize, &f64)| {
                        let value = args.value.slice(tokens.start + j, kv_column, size);
                        weight * f64::from(value[dimension])
                    };
                    *average = seen.clone().zip(&weights).map(term).sum::<f64>() as f32;
                }
            }
        }
    }
    Ok(())
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter()
        .zip(b)
        .map(|(&a, &b)| f64::from(a) * f64::from(b))
        .sum()
}

/// Turns scores into weights that sum to 1. The largest score is subtracted first, so that no
/// exponential overflows.
fn softmax(scores: &mut [f64]) {
    let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    for score in &mut *scores {
        *score = (*score - max).exp();
    }
    let sum: f64 = scores.iter().sum();
    for score in scores {
        *score /= sum;
    }
}
