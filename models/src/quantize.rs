//! Matrices in few bits: rounded to nearest, one scale per block of a row, zero in the middle. The
//! layout is that of ONNX Runtime's `MatMulNBits`.

pub mod store;

use std::num::NonZero;

use crate::checkpoint::weights::Tensor;
use crate::error::Result;
use crate::graph::weight_only::{BLOCK, Bits};

/// So many numbers are in 32 bits at a time: some MiB, of tables that would be half a GiB.
const WIDENED: usize = 1 << 22;

/// Rounds a matrix `[out, in]`. Blocks that reach beyond the width are filled with zeros.
/// Returns bytes `[out, blocks, BLOCK * bits / 8]` and scales `[out, blocks]`.
///
/// # Errors
/// As `Tensor::to_f32`.
pub(crate) fn quantize(tensor: &Tensor, bits: Bits) -> Result<(Vec<u8>, Vec<f32>)> {
    let width = tensor.shape().last().copied().unwrap_or(0).max(1);
    let rows = tensor.elements() / width;
    let some = (WIDENED / width).max(1);
    let (mut numbers, mut scales) = (Vec::new(), Vec::new());
    for first in (0..rows).step_by(some) {
        let part = tensor.rows(first..rows.min(first + some));
        let Some(part) = part else {
            // A matrix that is put together when it is read has no rows of its own.
            return Ok(quantize_rows(tensor.to_f32()?.as_slice(), width, bits));
        };
        let (more, scale) = quantize_rows(part.to_f32()?.as_slice(), width, bits);
        numbers.extend(more);
        scales.extend(scale);
    }
    Ok((numbers, scales))
}

fn quantize_rows(values: &[f32], width: usize, bits: Bits) -> (Vec<u8>, Vec<f32>) {
    let (rows, blocks) = (values.len() / width, width.div_ceil(BLOCK));
    let row_bytes = blocks * BLOCK * bits as usize / 8;
    let mut numbers = vec![0; rows * row_bytes];
    let mut scales = vec![0.0; rows * blocks];
    // Rows are independent, and a large model has a billion numbers.
    let threads = std::thread::available_parallelism().map_or(1, NonZero::get);
    let share = rows.div_ceil(threads).max(1);
    std::thread::scope(|scope| {
        let parts = values.chunks(share * width);
        let parts = parts.zip(numbers.chunks_mut(share * row_bytes));
        for ((values, numbers), scales) in parts.zip(scales.chunks_mut(share * blocks)) {
            scope.spawn(move || {
                let rows = values.chunks(width).zip(numbers.chunks_mut(row_bytes));
                for ((row, numbers), scales) in rows.zip(scales.chunks_mut(blocks)) {
                    let blocks = numbers.chunks_mut(BLOCK * bits as usize / 8).zip(scales);
                    for (block, (numbers, scale)) in row.chunks(BLOCK).zip(blocks) {
                        *scale = quantize_block(block, bits, numbers);
                    }
                }
            });
        }
    });
    (numbers, scales)
}

/// Rounds at most `BLOCK` values and returns their scale: a value is `(number - middle) * scale`.
/// The value furthest from zero gets the end of the range that reaches furthest.
fn quantize_block(values: &[f32], bits: Bits, numbers: &mut [u8]) -> f32 {
    let middle = match bits {
        Bits::Four => 8.0,
        Bits::Eight => 128.0,
    };
    let furthest = values.iter().fold(0.0, |most: f32, &value| {
        if value.abs() > most.abs() {
            value
        } else {
            most
        }
    });
    let scale = furthest / -middle;
    let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
    let most = (2.0 * middle - 1.0) as u8;
    // All sums are above 0, and what is above the largest number becomes that.
    let number = |at: usize| {
        let value = values.get(at).copied().unwrap_or(0.0);
        ((value * inverse + (middle + 0.5)) as u8).min(most)
    };
    match bits {
        Bits::Eight => (0..BLOCK).for_each(|at| numbers[at] = number(at)),
        // Two to a byte, the first in the low half.
        Bits::Four => {
            (0..BLOCK / 2).for_each(|at| numbers[at] = number(2 * at) | number(2 * at + 1) << 4);
        }
    }
    // Damaged weights must be seen in what comes out.
    match values.iter().any(|value| value.is_nan()) {
        true => f32::NAN,
        false => scale,
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What is left of a matrix once it was rounded. // [rows, width]
    pub(crate) fn rounded(values: &[f32], width: usize, bits: Bits) -> Vec<f32> {
        let (numbers, scales) = quantize_rows(values, width, bits);
        let blocks = width.div_ceil(BLOCK);
        let rows = numbers
            .chunks(blocks * BLOCK * bits as usize / 8)
            .zip(scales.chunks(blocks));
        let row = |(numbers, scales): (&[u8], &[f32])| -> Vec<f32> {
            let blocks = numbers.chunks(BLOCK * bits as usize / 8).zip(scales);
            let values = blocks.flat_map(|(numbers, &scale)| widened(numbers, scale, bits));
            values.take(width).collect()
        };
        rows.flat_map(row).collect()
    }

    /// What the numbers of a block mean.
    fn widened(numbers: &[u8], scale: f32, bits: Bits) -> Vec<f32> {
        let of = |number: u8, middle: f32| (f32::from(number) - middle) * scale;
        match bits {
            Bits::Eight => numbers.iter().map(|&number| of(number, 128.0)).collect(),
            Bits::Four => numbers
                .iter()
                .flat_map(|&pair| [of(pair & 15, 8.0), of(pair >> 4, 8.0)])
                .collect(),
        }
    }

    proptest! {
        #[test]
        fn values_are_at_most_a_step_away(
            rows in 1usize..7,
            width in 1usize..100,
            seed in any::<u32>(),
        ) {
            let mut state = seed;
            let values: Vec<f32> = (0..rows * width).map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 8) as f32 / 8_388_608.0 - 1.0
            }).collect();
            for bits in [Bits::Four, Bits::Eight] {
                let blocks = width.div_ceil(BLOCK);
                let bytes = BLOCK * bits as usize / 8;
                let (numbers, scales) = quantize_rows(&values, width, bits);
                prop_assert_eq!(numbers.len(), rows * blocks * bytes);
                prop_assert_eq!(scales.len(), rows * blocks);
                for (row, values) in values.chunks(width).enumerate() {
                    for (block, values) in values.chunks(BLOCK).enumerate() {
                        let at = row * blocks + block;
                        let numbers = &numbers[at * bytes..(at + 1) * bytes];
                        let found = widened(numbers, scales[at], bits);
                        // The far end of the other side is one step short.
                        let step = scales[at].abs() * 1.0001;
                        for (a, b) in found.iter().zip(values) {
                            prop_assert!((a - b).abs() <= step, "{a} for {b}");
                        }
                        prop_assert!(found[values.len()..].iter().all(|&filled| filled == 0.0));
                    }
                }
            }
        }
    }

    #[test]
    fn nothing_stays_nothing_and_the_largest_is_exact() {
        let mut numbers = [0; BLOCK];
        assert_eq!(quantize_block(&[0.0; 5], Bits::Eight, &mut numbers), 0.0);
        assert_eq!(widened(&numbers, 0.0, Bits::Eight), [0.0; BLOCK]);
        for value in [3.0, -3.0] {
            let scale = quantize_block(&[0.1, value], Bits::Four, &mut numbers[..BLOCK / 2]);
            let found = widened(&numbers[..BLOCK / 2], scale, Bits::Four);
            assert_eq!((found[0], found[1]), (0.0, value));
        }
    }

    #[test]
    fn damaged_numbers_stay_visible() {
        let mut numbers = [0; BLOCK];
        for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let scale = quantize_block(&[0.5, value, 1.0], Bits::Eight, &mut numbers);
            let found = widened(&numbers, scale, Bits::Eight);
            let visible = found.iter().all(|value| !value.is_finite());
            assert!(visible, "{value}: {found:?}");
        }
    }
}
