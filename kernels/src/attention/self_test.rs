//! Whether the fast version computes what the definition says, on this processor: a question that
//! is asked before it is used.

use super::{Bias, Mask, PackedAttention, Precision, attention, attention_plain};
use crate::{Execution, Isa, Strided};

/// Tokens of the sequences: one that is short for bf16, one that fills no whole tile.
const CU_SEQLENS: [i32; 3] = [0, 5, 26];

/// Values per head: whole registers and a rest.
const HEAD_SIZE: usize = 24;

/// The largest difference of averages of values below 1 that is no mistake: in bf16 a weight may
/// be rounded to the other side, which moves the average by less than 2^-7.
fn tolerance(precision: Precision) -> f32 {
    match precision {
        Precision::Fp32 => 1e-5,
        Precision::Bf16 => 1.0 / 128.0,
    }
}

/// Whether attention in `precision` on `isa` is the definition.
pub(crate) fn reproduces(precision: Precision, isa: Isa) -> bool {
    let precision = precision.on(isa);
    let tokens = CU_SEQLENS[2] as usize;
    let mut state = 1u32;
    let qkv: Vec<f32> = (0..tokens * 3 * HEAD_SIZE)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1u32 << 23) as f32 - 1.0
        })
        .collect();
    let part = |part: usize| Strided {
        values: &qkv[part * HEAD_SIZE..],
        stride: 3 * HEAD_SIZE,
    };
    let args = PackedAttention {
        query: part(0),
        key: part(1),
        value: part(2),
        cu_seqlens: &CU_SEQLENS,
        num_heads: 1,
        kv_num_heads: 1,
        head_size: HEAD_SIZE,
        scale: 1.0,
        mask: Mask::default(),
        bias: Bias::default(),
        precision,
    };
    let [mut found, mut expected] = [f32::NAN, 0.0].map(|value| vec![value; tokens * HEAD_SIZE]);
    let is_done = attention(&args, Execution::sequential(isa), &mut found).is_ok()
        && attention_plain(&args, &mut expected).is_ok();
    let mut pairs = found.iter().zip(&expected);
    // Not of a NaN either.
    is_done && pairs.all(|(found, expected)| (found - expected).abs() <= tolerance(precision))
}
