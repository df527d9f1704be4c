//! Random numbers and layouts for the checks; a seed gives the same ones on every machine.

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
}

/// Packed sequences, and which two of them are compared.
pub(super) struct Layout {
    /// Where each begins. // [sequences + 1]
    pub(super) cu_seqlens: Vec<i32>,
    /// Values of a token.
    pub(super) columns: usize,
    /// Pairs of sequences.
    pub(super) pairs: Vec<[i32; 2]>,
}

impl Layout {
    /// Sequences of at least one token each, now and then a long one; every other time with rows
    /// that are made of whole packs.
    pub(super) fn random(chance: &mut Chance) -> Self {
        let sequences = chance.between(1, 6);
        let mut cu_seqlens = vec![0];
        for _ in 0..sequences {
            let most = if chance.one_in(4) { 150 } else { 20 };
            let length = chance.between(1, most) as i32;
            cu_seqlens.push(cu_seqlens[cu_seqlens.len() - 1] + length);
        }
        let columns = match chance.one_in(2) {
            true => 8 * chance.between(1, 20),
            false => chance.between(1, 160),
        };
        let pairs = (0..chance.between(1, 4))
            .map(|_| [0; 2].map(|_| chance.between(0, sequences - 1) as i32));
        Self {
            pairs: pairs.collect(),
            cu_seqlens,
            columns,
        }
    }

    /// A query, a word and a long document at the width of a large encoder.
    pub(super) fn large() -> Self {
        Self {
            cu_seqlens: vec![0, 40, 41, 4_100],
            columns: 1024,
            pairs: vec![[0, 2], [1, 0], [2, 1]],
        }
    }

    pub(super) fn tokens(&self) -> usize {
        self.cu_seqlens[self.cu_seqlens.len() - 1] as usize
    }

    pub(super) fn sequences(&self) -> usize {
        self.cu_seqlens.len() - 1
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
