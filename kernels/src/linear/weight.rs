//! Weights as checkpoints store them, and the layout in which the kernels read them.

use super::LinearKind;
use super::rows::{quantize, to_bf16};
use crate::KernelError;

/// Words of a cache line.
const LINE: usize = 16;

/// The largest number of inputs whose products of bytes fit into 32 bits: `255 * 127 * 2^16`.
const INT8_IN_FEATURES_MAX: usize = 1 << 16;

/// Numbers in one of the formats of checkpoints.
#[derive(Debug, Clone, Copy)]
pub enum WeightValues<'a> {
    /// Single precision.
    F32(&'a [f32]),
    /// Half precision, as bits.
    F16(&'a [u16]),
    /// bfloat16, as bits.
    Bf16(&'a [u16]),
}

impl WeightValues<'_> {
    fn len(&self) -> usize {
        match self {
            Self::F32(values) => values.len(),
            Self::F16(values) | Self::Bf16(values) => values.len(),
        }
    }

    /// Writes the values from `first` on as single precision.
    fn read(&self, first: usize, to: &mut [f32]) {
        let last = first + to.len();
        match self {
            Self::F32(values) => to.copy_from_slice(&values[first..last]),
            Self::F16(values) => {
                for (to, &bits) in to.iter_mut().zip(&values[first..last]) {
                    *to = f16_to_f32(bits);
                }
            }
            Self::Bf16(values) => {
                for (to, &bits) in to.iter_mut().zip(&values[first..last]) {
                    *to = f32::from_bits(u32::from(bits) << 16);
                }
            }
        }
    }
}

/// A weight as a checkpoint stores it.
#[derive(Debug, Clone, Copy)]
pub struct LinearWeight<'a> {
    /// The values. // [out_features, in_features]
    pub values: WeightValues<'a>,
    /// Rows: numbers that come out for each token.
    pub out_features: usize,
    /// Columns: numbers that go in for each token.
    pub in_features: usize,
    /// What is added to the products. // [out_features]
    pub bias: Option<&'a [f32]>,
}

impl LinearWeight<'_> {
    /// Checks that the sizes make sense and the slices have them.
    pub(super) fn check(&self, kind: LinearKind) -> Result<(), KernelError> {
        let most = match kind {
            LinearKind::Int8 => (INT8_IN_FEATURES_MAX, "`1` to `65536` for int8"),
            _ => (isize::MAX as usize / 8, "at least `1`, and fit into memory"),
        };
        for (name, found, (most, rule)) in [
            ("in_features", self.in_features, most),
            (
                "out_features",
                self.out_features,
                (isize::MAX as usize / 8, "at least `1`"),
            ),
        ] {
            if found == 0 || found > most {
                return Err(KernelError::Size { name, found, rule });
            }
        }
        let bias = self.bias.map_or(self.out_features, <[f32]>::len);
        for (name, found, expected) in [
            (
                "values",
                self.values.len(),
                self.out_features.saturating_mul(self.in_features),
            ),
            ("bias", bias, self.out_features),
        ] {
            if found != expected {
                return Err(KernelError::Length {
                    name,
                    found,
                    expected,
                });
            }
        }
        Ok(())
    }
}

/// One cache line of words.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([u32; LINE]);

/// A weight in panels of `width` columns, padded with zeros. A word holds one f32, two bfloat16
/// or four bytes of a column, which are multiplied with as many neighbours of a row.
pub(super) struct Panels {
    lines: Vec<Line>, // [panels, words, width]
    /// Columns per panel.
    pub(super) width: usize,
    /// Words per column.
    pub(super) words: usize,
    /// What is added to each column. // [panels * width]
    pub(super) bias: Vec<f32>,
    /// Of int8 what one step is worth. // [panels * width]
    pub(super) scales: Vec<f32>,
    /// Of int8 what undoes the offset of unsigned activations. // [panels * width]
    pub(super) offsets: Vec<i32>,
}

impl Panels {
    /// Lays a weight out, which [`LinearWeight::check`] found sound.
    /// Each panel has `width` columns, and each column a multiple of `words_step` words.
    pub(super) fn pack(
        kind: LinearKind,
        weight: &LinearWeight<'_>,
        (width, words_step): (usize, usize),
    ) -> Self {
        let words = weight.in_features.div_ceil(kind.values_per_word());
        let words = words.next_multiple_of(words_step);
        let panels = weight.out_features.div_ceil(width);
        let columns = panels * width;
        let mut bias = vec![0.0; columns];
        if let Some(values) = weight.bias {
            bias[..values.len()].copy_from_slice(values);
        }
        let integers = if kind == LinearKind::Int8 { columns } else { 0 };
        let mut packed = Self {
            lines: vec![Line([0; LINE]); (columns * words).div_ceil(LINE)],
            width,
            words,
            bias,
            scales: vec![0.0; integers],
            offsets: vec![0; integers],
        };
        let mut row = vec![0.0; weight.in_features];
        let mut column = vec![0; words];
        for at in 0..weight.out_features {
            weight.values.read(at * weight.in_features, &mut row);
            match kind {
                LinearKind::Fp32 => {
                    for (word, value) in column.iter_mut().zip(&row) {
                        *word = value.to_bits();
                    }
                }
                LinearKind::Bf16 => {
                    for (word, pair) in column.iter_mut().zip(row.chunks(2)) {
                        let high = pair.get(1).map_or(0, |&value| to_bf16(value));
                        *word = u32::from(to_bf16(pair[0])) | u32::from(high) << 16;
                    }
                }
                LinearKind::Int8 => {
                    let (step, sum) = quantize_column(&row, &mut column);
                    packed.scales[at] = step;
                    packed.offsets[at] = -128 * sum;
                }
            }
            packed.write(at, &column);
        }
        packed
    }

    /// Scatters the words of a column.
    fn write(&mut self, column: usize, words: &[u32]) {
        let (panel, lane) = (column / self.width, column % self.width);
        let (first, width) = (panel * self.words * self.width + lane, self.width);
        let all = self.words_mut();
        for (to, &word) in all[first..].iter_mut().step_by(width).zip(words) {
            *to = word;
        }
    }

    fn words_mut(&mut self) -> &mut [u32] {
        let count = self.lines.len() * LINE;
        // SAFETY: a line is `LINE` words without padding.
        unsafe { std::slice::from_raw_parts_mut(self.lines.as_mut_ptr().cast(), count) }
    }

    /// Where a panel begins. // [words, width]
    pub(super) fn panel(&self, panel: usize) -> *const u32 {
        let first = panel * self.words * self.width;
        debug_assert!(first < self.lines.len() * LINE);
        self.lines.as_ptr().cast::<u32>().wrapping_add(first)
    }

    /// Memory held.
    pub(super) fn bytes(&self) -> usize {
        size_of_val(&self.lines[..])
            + size_of_val(&self.bias[..])
            + size_of_val(&self.scales[..])
            + size_of_val(&self.offsets[..])
    }
}

/// Quantizes one column symmetrically; returns the value of a step and the sum of the steps.
fn quantize_column(row: &[f32], words: &mut [u32]) -> (f32, i32) {
    let (inverse, step) = quantize::steps(row);
    let mut sum = 0;
    for (word, values) in words.iter_mut().zip(row.chunks(4)) {
        let mut bytes = [0; 4];
        for (byte, &value) in bytes.iter_mut().zip(values) {
            *byte = quantize::byte(value, inverse);
            sum += i32::from(*byte as i8);
        }
        *word = u32::from_le_bytes(bytes);
    }
    (step, sum)
}

/// The value of IEEE 754 half precision bits, exactly.
fn f16_to_f32(bits: u16) -> f32 {
    let sign = u32::from(bits & 0x8000) << 16;
    let magnitude = u32::from(bits & 0x7fff);
    // With the exponent of the larger format 112 too small; the product corrects it, and makes
    // subnormal numbers normal on the way.
    let value = f32::from_bits(magnitude << 13) * f32::from_bits((127 + 112) << 23);
    let value = if magnitude >= 0x7c00 {
        f32::from_bits(0x7f80_0000 | magnitude << 13)
    } else {
        value
    };
    f32::from_bits(value.to_bits() | sign)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_precision_is_read_exactly() {
        for bits in 0..=u16::MAX {
            let (exponent, fraction) = (i32::from(bits >> 10 & 31), f64::from(bits & 1023));
            let sign = if bits >> 15 == 1 { -1.0 } else { 1.0 };
            let expected = match exponent {
                0 => sign * fraction * 2f64.powi(-24),
                31 if fraction == 0.0 => sign * f64::INFINITY,
                31 => f64::NAN,
                _ => sign * (1.0 + fraction / 1024.0) * 2f64.powi(exponent - 15),
            };
            let found = f64::from(f16_to_f32(bits));
            assert!(
                found == expected || found.is_nan() && expected.is_nan(),
                "{bits:#x}"
            );
        }
    }

    #[test]
    fn panels_are_padded_columns() {
        let values: Vec<f32> = (1..=15).map(|i| i as f32).collect();
        let weight = LinearWeight {
            values: WeightValues::F32(&values),
            out_features: 5,
            in_features: 3,
            bias: Some(&[1.0; 5]),
        };
        let mut panels = Panels::pack(LinearKind::Fp32, &weight, (4, 1));
        assert_eq!(panels.bias, [1.0, 1.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0]);
        assert_eq!(
            panels.panel(1) as usize - panels.panel(0) as usize,
            4 * 3 * 4
        );
        let words: Vec<f32> = panels
            .words_mut()
            .iter()
            .map(|&word| f32::from_bits(word))
            .collect();
        assert_eq!(words[..5], [1.0, 4.0, 7.0, 10.0, 2.0]);
        assert_eq!(words[12..18], [13.0, 0.0, 0.0, 0.0, 14.0, 0.0]);
        let deeper = Panels::pack(LinearKind::Fp32, &weight, (4, 2));
        assert_eq!((deeper.words, deeper.lines.len()), (4, 2));
    }
}
