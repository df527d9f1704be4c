//! Pooling in one pass over the tokens, compiled once per instruction set, sequences spread over
//! threads when there is enough work.
//!
//! Every column adds up the same terms in the same order as the definition, so the bits agree.

use super::{Pooling, check, max_or_nan};
use crate::dispatch::Level;
use crate::parallel::SharedOutput;
use crate::{Execution, KernelError, PackedHidden, Parallel, Sequential};

/// Below this many values the threads would cost more than they give.
const PARALLEL_VALUES_MIN: usize = 1 << 17;

/// Pools every sequence; the same bits as [`pool_plain`](super::pool_plain), only sooner.
/// // packed: [tokens, hidden_size] -> out: [batch, hidden_size]
pub fn pool(
    pooling: Pooling,
    packed: &PackedHidden<'_>,
    execution: Execution<'_>,
    out: &mut [f32],
) -> Result<(), KernelError> {
    let cu_seqlens = check(packed, out.len())?;
    let size = packed.hidden_size;
    let few = packed.hidden.len() < PARALLEL_VALUES_MIN;
    let parallel: &dyn Parallel = if few { &Sequential } else { execution.parallel };
    let shared = SharedOutput::new(out);
    parallel.run(cu_seqlens.batch(), &|sequence| {
        let tokens = cu_seqlens.range(sequence);
        let states = &packed.hidden[tokens.start * size..tokens.end * size];
        // SAFETY: `check` made sure that `out` has one row of `size` values per sequence, and
        // this task is the only one for this sequence.
        let vector = unsafe { std::slice::from_raw_parts_mut(shared.at(sequence * size), size) };
        pool_sequence(pooling, states, execution.isa.0, vector);
    })
}

fn pool_sequence(pooling: Pooling, states: &[f32], level: Level, vector: &mut [f32]) {
    match level {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: a `Level` exists only when the processor has its instructions.
        Level::Avx512 => unsafe { pool_avx512(pooling, states, vector) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Level::Avx2 => unsafe { pool_avx2(pooling, states, vector) },
        // NEON is in the baseline of AArch64, so plain Rust already uses it.
        _ => pool_states(pooling, states, vector),
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx2,fma")]
fn pool_avx512(pooling: Pooling, states: &[f32], vector: &mut [f32]) {
    pool_states(pooling, states, vector);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn pool_avx2(pooling: Pooling, states: &[f32], vector: &mut [f32]) {
    pool_states(pooling, states, vector);
}

/// One sequence; inlined into the callers above so that each gets its own instructions.
#[inline(always)]
fn pool_states(pooling: Pooling, states: &[f32], vector: &mut [f32]) {
    let size = vector.len();
    match pooling {
        Pooling::Cls => vector.copy_from_slice(&states[..size]),
        Pooling::LastToken => vector.copy_from_slice(&states[states.len() - size..]),
        Pooling::Max => {
            vector.copy_from_slice(&states[..size]);
            for state in states[size..].chunks_exact(size) {
                for (largest, &value) in vector.iter_mut().zip(state) {
                    *largest = max_or_nan(*largest, value);
                }
            }
        }
        Pooling::Mean | Pooling::MeanSqrtLen | Pooling::WeightedMean => {
            let mut sums = vec![0.0f64; size]; // stays in the first cache
            for (position, state) in states.chunks_exact(size).enumerate() {
                let weight = pooling.weight(position);
                for (sum, &value) in sums.iter_mut().zip(state) {
                    *sum += f64::from(value) * weight;
                }
            }
            let divisor = pooling.divisor(states.len() / size);
            for (value, sum) in vector.iter_mut().zip(sums) {
                *value = (sum / divisor) as f32;
            }
        }
    }
}
