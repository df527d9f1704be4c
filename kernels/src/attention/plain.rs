//! Attention as it is written down: the oracle of the fast version.

use super::PackedAttention;
use super::precision::{Precision, round_to_bf16};
use crate::KernelError;
use std::f64::consts::LOG2_E;

/// Attention one query row at a time and in `f64`, with the roundings that `args.precision` asks
/// for where the processor has them. Needs memory for the scores of one row.
/// // out: [tokens, num_heads * head_size]
pub fn attention_plain(args: &PackedAttention<'_>, out: &mut [f32]) -> Result<(), KernelError> {
    let cu_seqlens = args.check(out.len())?;
    let (width, size) = (args.width(), args.head_size);
    for tokens in cu_seqlens.ranges() {
        let precision = args.precision.for_length(tokens.len());
        for head in 0..args.num_heads {
            let (column, kv_column) = (head * size, args.kv_head(head) * size);
            let bias = args.bias.head(head, args.num_heads);
            for (i, row) in tokens.clone().enumerate() {
                let query = args.query.slice(row, column, size);
                let query = scaled(query, args.scale, precision);
                let seen = args.mask.keys(i, tokens.len());
                let mut weights: Vec<f64> = seen
                    .clone()
                    .map(|j| {
                        let key = args.key.slice(tokens.start + j, kv_column, size);
                        let distance = j as isize - i as isize;
                        dot(&query, key, precision)
                            + bias.map_or(0.0, |bias| bias.at(distance) * LOG2_E)
                    })
                    .collect();
                softmax(&mut weights, precision);
                let average = &mut out[row * width + column..][..size];
                for (dimension, average) in average.iter_mut().enumerate() {
                    let term = |(j, weight): (usize, &f64)| {
                        let value = args.value.slice(tokens.start + j, kv_column, size);
                        weight * operand(value[dimension], precision)
                    };
                    *average = seen.clone().zip(&weights).map(term).sum::<f64>() as f32;
                }
            }
        }
    }
    Ok(())
}

/// A query as it is multiplied with keys, so that scores are in units of `ln 2`.
fn scaled(query: &[f32], scale: f32, precision: Precision) -> Vec<f64> {
    let factor = scale * std::f32::consts::LOG2_E;
    let scaled = |&value: &f32| match precision {
        Precision::Fp32 => f64::from(value) * f64::from(scale) * LOG2_E,
        Precision::Bf16 => operand(value * factor, precision),
    };
    query.iter().map(scaled).collect()
}

/// A value as it is multiplied.
fn operand(value: f32, precision: Precision) -> f64 {
    f64::from(match precision {
        Precision::Fp32 => value,
        Precision::Bf16 => round_to_bf16(value),
    })
}

fn dot(query: &[f64], key: &[f32], precision: Precision) -> f64 {
    query
        .iter()
        .zip(key)
        .map(|(&a, &b)| a * operand(b, precision))
        .sum()
}

/// Turns scores into weights that sum to 1. The largest score, rounded up, is subtracted first,
/// so that no power overflows.
fn softmax(scores: &mut [f64], precision: Precision) {
    let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    for score in &mut *scores {
        let weight = (*score - max.ceil()).exp2();
        *score = match precision {
            Precision::Fp32 => weight,
            Precision::Bf16 => operand(weight as f32, precision),
        };
    }
    let sum: f64 = scores.iter().sum();
    for score in scores {
        *score /= sum;
    }
}
