//! Random numbers and layouts for the checks; the same seed gives the same ones on every machine.

use super::super::calls::Number;
use half::f16;

/// A linear congruential generator (Knuth, MMIX), of which the upper bits are used.
pub(super) struct Chance(pub(super) u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }

    /// From `least` to `most`, both included.
    pub(super) fn between(&mut self, least: usize, most: usize) -> usize {
        least + self.next() as usize % (most - least + 1)
    }

    pub(super) fn one_in(&mut self, count: usize) -> bool {
        self.between(1, count) == 1
    }

    /// Values up to 10 in size that 16 bits hold, so that both kinds of numbers mean the same.
    pub(super) fn values(&mut self, count: usize) -> Vec<f32> {
        let mut value = || self.next() as f32 / (1u64 << 30) as f32 - 1.0;
        (0..count)
            .map(|_| f16::from_f32(value() * 10.0).to_f32())
            .collect()
    }

    /// Boundaries of sequences with at least one token each; now and then a long one.
    pub(super) fn boundaries(&mut self) -> Vec<i32> {
        let mut boundaries = vec![0];
        for _ in 0..self.between(1, 6) {
            let most = if self.one_in(4) { 150 } else { 20 };
            let length = self.between(1, most) as i32;
            boundaries.push(boundaries[boundaries.len() - 1] + length);
        }
        boundaries
    }

    /// A number of columns: every other one such that rows are made of whole packs.
    pub(super) fn columns(&mut self) -> usize {
        match self.one_in(2) {
            true => 8 * self.between(1, 20),
            false => self.between(1, 160),
        }
    }
}

/// The bytes of values as a machine has them.
pub(super) fn bytes(values: &[f32], number: Number) -> Vec<u8> {
    match number {
        Number::F16 => {
            let halves = values.iter().map(|&value| f16::from_f32(value));
            halves.flat_map(f16::to_ne_bytes).collect()
        }
        Number::F32 => values
            .iter()
            .flat_map(|value| value.to_ne_bytes())
            .collect(),
    }
}

/// The values of such bytes.
pub(super) fn values(bytes: &[u8], number: Number) -> Vec<f32> {
    match number {
        Number::F16 => {
            let (halves, _) = bytes.as_chunks::<2>();
            let halves = halves.iter().map(|&half| f16::from_ne_bytes(half));
            halves.map(f16::to_f32).collect()
        }
        Number::F32 => {
            let (values, _) = bytes.as_chunks::<4>();
            values
                .iter()
                .map(|&value| f32::from_ne_bytes(value))
                .collect()
        }
    }
}
