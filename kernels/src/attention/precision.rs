//! The number formats that the two matrix products of attention may run in.

use crate::Isa;
use std::fmt;

/// The arithmetic of queries with keys and of weights with values. Sums, scores and the softmax
/// between them are fp32 in all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Precision {
    /// Operands as they are.
    #[default]
    Fp32,
    /// Operands rounded to the nearest bf16, ties to even: the queries after they were scaled,
    /// keys, values, and the weights `2^(score - ceil(largest score))` with scores in units of
    /// `ln 2`. The weights of a row are divided by the sum of the rounded ones, so that an
    /// average of equal values is that value. Sequences of up to 16 tokens are not rounded: their
    /// products are too small to pay for it.
    ///
    /// Scaling first costs one product per query value and no accuracy: the scaled query is
    /// rounded once, with the same relative error as the query itself would be. The maximum is
    /// rounded up to an integer because a factor of a power of two moves no rounding, so what a
    /// weight becomes does not depend on which keys were seen before.
    Bf16,
}

/// Most tokens of a sequence that bf16 leaves to fp32. Measured: 5 to 20 % slower at 8 and 16
/// tokens for heads of 32 and 64 values, faster from 17 on.
const FP32_TOKENS: usize = 16;

impl Precision {
    /// Every kind; tests go through this list.
    pub const ALL: [Self; 2] = [Self::Fp32, Self::Bf16];

    /// The name in graphs and for people: `fp32` or `bf16`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Fp32 => "fp32",
            Self::Bf16 => "bf16",
        }
    }

    /// The kind of that name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// What runs on a processor that is asked for this. Without instructions for bf16 that is
    /// [`Fp32`](Self::Fp32): rounding in software would be slower than not to round.
    pub fn on(self, isa: Isa) -> Self {
        match self {
            Self::Bf16 if isa.has_bf16() => Self::Bf16,
            Self::Bf16 | Self::Fp32 => Self::Fp32,
        }
    }

    /// What runs for a sequence of so many tokens.
    pub(super) fn for_length(self, tokens: usize) -> Self {
        match self {
            Self::Bf16 if tokens > FP32_TOKENS => Self::Bf16,
            Self::Bf16 | Self::Fp32 => Self::Fp32,
        }
    }
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The bf16 nearest to `value`, ties to even; NaN stays NaN, and what is closer to infinity than
/// to the largest bf16 becomes infinite.
pub(super) fn round_to_bf16(value: f32) -> f32 {
    if value.is_nan() {
        return value;
    }
    let bits = value.to_bits();
    let odd = bits >> 16 & 1;
    f32::from_bits((bits + 0x7fff + odd) & 0xffff_0000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_back() {
        for precision in Precision::ALL {
            assert_eq!(Precision::named(precision.name()), Some(precision));
        }
        assert_eq!(Precision::named("BF16"), None);
        assert_eq!(Precision::default().name(), "fp32");
    }

    #[test]
    fn a_processor_without_the_instructions_computes_in_fp32() {
        assert_eq!(Precision::Bf16.on(Isa::PORTABLE), Precision::Fp32);
        for isa in Isa::available() {
            assert_eq!(Precision::Fp32.on(isa), Precision::Fp32);
            let rounds = Precision::Bf16.on(isa) == Precision::Bf16;
            assert_eq!(rounds, isa.has_bf16());
        }
    }

    #[test]
    fn roundings_by_hand() {
        let step = 1.0 / 128.0; // between bf16 of 1 to 2
        for (value, expected) in [
            (1.0, 1.0),
            (1.0 + step / 2.0, 1.0),
            (1.0 + step / 2.0 + f32::EPSILON, 1.0 + step),
            (1.0 + step * 1.5, 1.0 + 2.0 * step),
            (-1.0 - step * 1.5, -1.0 - 2.0 * step),
            (f32::MAX, f32::INFINITY),
            (f32::NEG_INFINITY, f32::NEG_INFINITY),
            (-0.0, 0.0),
        ] {
            assert_eq!(round_to_bf16(value), expected, "{value}");
        }
        // A NaN whose upper half alone would be an infinity, and one that would turn to zero.
        for bits in [0x7f80_0001, 0x7fff_ffff, 0xffff_ffff] {
            assert!(round_to_bf16(f32::from_bits(bits)).is_nan());
        }
    }
}
