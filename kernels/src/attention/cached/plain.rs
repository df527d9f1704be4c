//! Attention over a pool as it is written down: the oracle of the fast version.

use super::CachedAttention;
use crate::KernelError;
use crate::kv_pool::KvPool;

/// Appends to `pool`, then computes one query row at a time in `f64`.
/// // out: [tokens, num_heads * head_size]
pub fn cached_attention_plain(
    args: &CachedAttention<'_>,
    pool: &KvPool,
    out: &mut [f32],
) -> Result<(), KernelError> {
    let step = args.check(pool, out.len())?;
    let Some(mut layer) = pool.layer(args.layer) else {
        return Ok(());
    };
    step.append(&mut layer);
    let shape = &step.shape;
    let (size, padded) = (shape.head_size, shape.padded_head());
    let width = args.num_heads * size;
    for sequence in &step.sequences {
        // Key and value of a token, by its place in the sequence.
        let place = |j: usize, head: usize| {
            let block = sequence.blocks[j / KvPool::BLOCK_TOKENS] as usize;
            ([block, head], j % KvPool::BLOCK_TOKENS)
        };
        for (i, row) in (sequence.past..).zip(sequence.rows.clone()) {
            for head in 0..args.num_heads {
                let kv_head = head * shape.kv_num_heads / args.num_heads;
                let query = args.query.slice(row, head * size, size);
                let score = |j: usize| {
                    let (block, slot) = place(j, kv_head);
                    let keys = layer.keys(shape, block);
                    let column = |d: usize| f64::from(keys[d * KvPool::BLOCK_TOKENS + slot]);
                    let products = query.iter().enumerate();
                    let dot: f64 = products.map(|(d, &q)| f64::from(q) * column(d)).sum();
                    dot * f64::from(args.scale)
                };
                let scores: Vec<f64> = (0..=i).map(score).collect();
                let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let weights: Vec<f64> = scores.iter().map(|score| (score - max).exp()).collect();
                let total: f64 = weights.iter().sum();
                let average = &mut out[row * width + head * size..][..size];
                for (d, average) in average.iter_mut().enumerate() {
                    let term = |(j, weight): (usize, &f64)| {
                        let (block, slot) = place(j, kv_head);
                        let value = layer.values(shape, block)[slot * padded + d];
                        weight * f64::from(value)
                    };
                    *average = (weights.iter().enumerate().map(term).sum::<f64>() / total) as f32;
                }
            }
        }
    }
    Ok(())
}
