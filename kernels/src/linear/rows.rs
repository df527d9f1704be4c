//! Rows of activations in the form a dot product reads. Plain loops, which the compiler turns
//! into wide instructions inside a caller that enables them.

use std::cell::Cell;

/// How the activations of a row follow each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Layout {
    /// As they are.
    F32,
    /// Two bfloat16 to a word.
    Bf16,
    /// Rounded to bfloat16, but each in a word as f32.
    WideBf16,
    /// Four steps to a word, each as a byte.
    #[cfg_attr(
        not(any(test, target_arch = "aarch64")),
        expect(dead_code, reason = "only SDOT takes signed bytes")
    )]
    Bytes,
    /// Four steps to a word, each as a byte 128 above its value.
    OffsetBytes,
    /// Four steps to two words, as 16-bit numbers: steps 0 and 2, then 1 and 3.
    Int16Pairs,
}

impl Layout {
    /// Words of activations per word of weights.
    pub(super) const fn words(self) -> usize {
        match self {
            Self::F32 | Self::Bf16 | Self::Bytes | Self::OffsetBytes => 1,
            Self::WideBf16 | Self::Int16Pairs => 2,
        }
    }
}

/// Writes a row and returns what one of its steps is worth, if it has steps. What the row leaves
/// of its words becomes zero, or the byte that stands for it.
#[inline(always)]
pub(super) fn convert(layout: Layout, row: &[f32], to: &mut [u32]) -> f32 {
    match layout {
        Layout::F32 => {
            for (to, value) in to.iter_mut().zip(row) {
                *to = value.to_bits();
            }
            1.0
        }
        Layout::Bf16 => {
            let (pairs, rest) = row.as_chunks::<2>();
            for (to, pair) in to.iter_mut().zip(pairs) {
                *to = u32::from(to_bf16(pair[0])) | u32::from(to_bf16(pair[1])) << 16;
            }
            let mut used = pairs.len();
            if let [last] = rest {
                to[used] = u32::from(to_bf16(*last));
                used += 1;
            }
            to[used..].fill(0);
            1.0
        }
        Layout::WideBf16 => {
            for (to, &value) in to.iter_mut().zip(row) {
                *to = u32::from(to_bf16(value)) << 16;
            }
            to[row.len()..].fill(0);
            1.0
        }
        Layout::Bytes => convert_steps(row, to.as_chunks_mut::<1>().0, bytes),
        Layout::OffsetBytes => convert_steps(row, to.as_chunks_mut::<1>().0, offset_bytes),
        Layout::Int16Pairs => convert_steps(row, to.as_chunks_mut::<2>().0, int16_pairs),
    }
}

/// Quantizes a row, four steps after four; returns the value of one.
#[inline(always)]
fn convert_steps<const N: usize>(
    row: &[f32],
    to: &mut [[u32; N]],
    arrange: impl Fn([u8; 4]) -> [u32; N],
) -> f32 {
    let (inverse, step) = quantize::steps(row);
    let (quads, rest) = row.as_chunks::<4>();
    for (to, quad) in to.iter_mut().zip(quads) {
        *to = arrange(quad.map(|value| quantize::byte(value, inverse)));
    }
    let mut used = quads.len();
    if !rest.is_empty() {
        let mut quad = [0.0; 4];
        quad[..rest.len()].copy_from_slice(rest);
        to[used] = arrange(quad.map(|value| quantize::byte(value, inverse)));
        used += 1;
    }
    to[used..].fill(arrange([0; 4]));
    step
}

#[inline(always)]
fn bytes(steps: [u8; 4]) -> [u32; 1] {
    [u32::from_le_bytes(steps)]
}

#[inline(always)]
fn offset_bytes(steps: [u8; 4]) -> [u32; 1] {
    [u32::from_le_bytes(steps) ^ 0x8080_8080]
}

#[inline(always)]
fn int16_pairs(steps: [u8; 4]) -> [u32; 2] {
    let wide = steps.map(|step| u32::from(i16::from(step as i8) as u16));
    [wide[0] | wide[2] << 16, wide[1] | wide[3] << 16]
}

/// The nearest bfloat16, of two the even one; NaN stays NaN.
#[inline(always)]
pub(super) fn to_bf16(value: f32) -> u16 {
    let bits = value.to_bits();
    let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
    // The quiet bit, so that cutting the low half off never makes an infinity.
    let nan = bits >> 16 | 0x40;
    (if value.is_nan() { nan } else { rounded }) as u16
}

/// Symmetric quantization to -127..=127.
pub(super) mod quantize {
    /// Adding it leaves a small number's nearest integer in the low bits. // 1.5 * 2^23
    const ROUNDER: f32 = 12_582_912.0;

    /// So that the inverse of a step is finite whatever the largest value. // 2^120
    const INVERSE_MAX: f32 = f32::from_bits((127 + 120) << 23);

    /// Steps per unit and the value of one, so that the largest value is 127 steps. The value is
    /// NaN when one of the numbers is not finite.
    #[inline(always)]
    pub(in super::super) fn steps(values: &[f32]) -> (f32, f32) {
        // The bits of positive numbers are ordered as they are, infinity and NaN above all.
        let magnitude = |value: &f32| value.to_bits() & 0x7fff_ffff;
        let most = f32::from_bits(values.iter().map(magnitude).fold(0, u32::max));
        if !most.is_finite() {
            return (0.0, f32::NAN);
        }
        let inverse = (127.0 / most).min(INVERSE_MAX);
        (inverse, 1.0 / inverse)
    }

    /// The nearest step, in two's complement.
    #[inline(always)]
    pub(in super::super) fn byte(value: f32, inverse: f32) -> u8 {
        (value * inverse + ROUNDER).to_bits() as u8
    }
}

/// One cache line of words.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([u32; 16]);

/// Memory for converted rows, kept by the thread between calls because fresh pages are slow.
#[derive(Default)]
pub(super) struct Scratch(Vec<Line>);

thread_local! {
    // Taken out while in use: a task of a pool may begin another layer on the same thread.
    static SCRATCH: Cell<Scratch> = Cell::default();
}

impl Scratch {
    /// Lends at least so many words, aligned to a cache line, with what was left there.
    pub(super) fn with<R>(words: usize, use_it: impl FnOnce(&mut [u32]) -> R) -> R {
        let mut scratch = SCRATCH.take();
        let lines = words.div_ceil(16);
        if scratch.0.len() < lines {
            scratch.0.resize(lines, Line([0; 16]));
        }
        // SAFETY: a line is 16 words without padding.
        let all = unsafe {
            std::slice::from_raw_parts_mut(scratch.0.as_mut_ptr().cast(), scratch.0.len() * 16)
        };
        let result = use_it(all);
        SCRATCH.set(scratch);
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bfloat16_is_the_nearest() {
        for (value, expected) in [
            (1.0, 0x3f80),
            (f32::from_bits(0x3f80_8000), 0x3f80),
            (f32::from_bits(0x3f81_8000), 0x3f82),
            (f32::from_bits(0x3f80_8001), 0x3f81),
            (f32::MAX, 0x7f80),
            (f32::NEG_INFINITY, 0xff80),
        ] {
            assert_eq!(to_bf16(value), expected, "{value}");
        }
        assert_eq!(to_bf16(f32::from_bits(0x7f80_0001)), 0x7fc0);
    }

    #[test]
    fn words_that_a_row_does_not_fill_are_zero() {
        let row = [1.0; 3];
        for (layout, expected) in [
            (Layout::Bf16, [0x3f80_3f80, 0x3f80, 0, 0]),
            (Layout::WideBf16, [0x3f80_0000, 0x3f80_0000, 0x3f80_0000, 0]),
        ] {
            let mut words = [7; 4];
            assert_eq!(convert(layout, &row, &mut words), 1.0);
            assert_eq!(words, expected, "{layout:?}");
        }
    }

    #[test]
    fn steps_reach_from_the_largest_to_the_smallest_numbers() {
        for most in [f32::MAX, 1.0, f32::MIN_POSITIVE] {
            let row = [most, -most, 0.0, most / 2.0, -most / 127.0];
            let mut words = [0; 2];
            let step = convert(Layout::OffsetBytes, &row, &mut words);
            let bytes: Vec<i32> = words
                .iter()
                .flat_map(|word| word.to_le_bytes())
                .map(|byte| i32::from(byte) - 128)
                .collect();
            for (&value, &byte) in row.iter().zip(&bytes) {
                let error = (f64::from(value) - f64::from(byte) * f64::from(step)).abs();
                assert!(
                    error <= f64::from(step) * 0.500_1,
                    "{value} is {byte} times {step}"
                );
            }
            assert_eq!(bytes[5..], [0; 3]);
        }
        let (inverse, step) = quantize::steps(&[0.0; 3]);
        assert!(inverse.is_finite() && step.is_finite());
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            assert!(quantize::steps(&[1.0, bad, 2.0]).1.is_nan());
        }
    }

    #[test]
    fn all_layouts_of_steps_agree() {
        let row = [1.0, -0.5, 0.25, 0.7, -1.0];
        let (mut bytes, mut signed, mut pairs) = ([7; 3], [7; 3], [7; 6]);
        let step = convert(Layout::OffsetBytes, &row, &mut bytes);
        assert_eq!(convert(Layout::Bytes, &row, &mut signed), step);
        assert_eq!(convert(Layout::Int16Pairs, &row, &mut pairs), step);
        assert_eq!(signed[1..], [0x81, 0]);
        assert_eq!(bytes.map(|word| word ^ 0x8080_8080), signed);
        for (word, pair) in bytes.iter().zip(pairs.as_chunks::<2>().0) {
            let [a, b, c, d] = word
                .to_le_bytes()
                .map(|byte| (i32::from(byte) - 128) as i16 as u16);
            let join = |low: u16, high: u16| u32::from(low) | u32::from(high) << 16;
            assert_eq!(*pair, [join(a, c), join(b, d)]);
        }
    }
}
