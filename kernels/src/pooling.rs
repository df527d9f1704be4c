//! From the hidden states of a sequence to one vector. [`pool_plain`] is the definition;
//! [`pool`] gives the same bits faster.

mod fast;

use crate::{CuSeqlens, KernelError, PackedHidden};
use std::fmt;
use std::str::FromStr;

pub use fast::pool;

/// How a sequence becomes a vector. Names and meanings are those of the `Pooling` module of
/// sentence-transformers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Pooling {
    /// The first token's state.
    Cls,
    /// The average of all states.
    Mean,
    /// The largest value per dimension.
    Max,
    /// The last token's state.
    LastToken,
    /// The sum of all states over the square root of their number.
    MeanSqrtLen,
    /// The average weighted by position: 1 for the first token, n for the last of n.
    WeightedMean,
}

impl Pooling {
    /// Every kind; tests go through this list.
    pub const ALL: [Self; 6] = [
        Self::Cls,
        Self::Mean,
        Self::Max,
        Self::LastToken,
        Self::MeanSqrtLen,
        Self::WeightedMean,
    ];

    /// The name in a sentence-transformers configuration, `pooling_mode_<name>` or, for `mean`
    /// and `max`, `pooling_mode_<name>_tokens`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cls => "cls",
            Self::Mean => "mean",
            Self::Max => "max",
            Self::LastToken => "lasttoken",
            Self::MeanSqrtLen => "mean_sqrt_len_tokens",
            Self::WeightedMean => "weightedmean",
        }
    }

    /// What the state of the token at `position`, counted from 0, counts in a sum.
    #[inline(always)]
    fn weight(self, position: usize) -> f64 {
        if self == Self::WeightedMean {
            (position + 1) as f64
        } else {
            1.0
        }
    }

    /// What the weighted sum of `length` states is divided by.
    #[inline(always)]
    fn divisor(self, length: usize) -> f64 {
        let n = length as f64;
        match self {
            Self::Mean => n,
            Self::MeanSqrtLen => n.sqrt(),
            Self::WeightedMean => n * (n + 1.0) / 2.0,
            // These choose a value instead of summing.
            Self::Cls | Self::Max | Self::LastToken => 1.0,
        }
    }
}

impl fmt::Display for Pooling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Pooling {
    type Err = KernelError;

    fn from_str(name: &str) -> Result<Self, KernelError> {
        Self::ALL
            .into_iter()
            .find(|pooling| pooling.name() == name)
            .ok_or_else(|| KernelError::UnknownPooling {
                name: name.to_owned(),
            })
    }
}

/// Pools every sequence, written to be read. Sums are accumulated in `f64`, token after token,
/// and rounded once at the end, so a long sequence loses nothing. NaN in a sequence stays NaN
/// in its vector. // packed: [tokens, hidden_size] -> out: [batch, hidden_size]
pub fn pool_plain(
    pooling: Pooling,
    packed: &PackedHidden<'_>,
    out: &mut [f32],
) -> Result<(), KernelError> {
    let cu_seqlens = check(packed, out.len())?;
    let size = packed.hidden_size;
    for (tokens, vector) in cu_seqlens.ranges().zip(out.chunks_exact_mut(size)) {
        let length = tokens.len();
        let states = &packed.hidden[tokens.start * size..tokens.end * size]; // [length, size]
        for (column, value) in vector.iter_mut().enumerate() {
            let state = |position: usize| states[position * size + column];
            let weighted_sum = || -> f64 {
                (0..length)
                    .map(|i| f64::from(state(i)) * pooling.weight(i))
                    .sum()
            };
            *value = match pooling {
                Pooling::Cls => state(0),
                Pooling::LastToken => state(length - 1),
                Pooling::Max => (1..length).map(state).fold(state(0), max_or_nan),
                Pooling::Mean | Pooling::MeanSqrtLen | Pooling::WeightedMean => {
                    (weighted_sum() / pooling.divisor(length)) as f32
                }
            };
        }
    }
    Ok(())
}

/// The larger of two values, or NaN when one of them is, unlike `f32::max`.
#[inline(always)]
fn max_or_nan(largest: f32, value: f32) -> f32 {
    let larger = if value > largest { value } else { largest };
    if value.is_nan() { value } else { larger }
}

/// Checks the shapes that both versions rely on.
fn check<'a>(packed: &PackedHidden<'a>, out_len: usize) -> Result<CuSeqlens<'a>, KernelError> {
    let size = packed.hidden_size;
    if size == 0 {
        let rule = "at least `1`";
        return Err(KernelError::Size {
            name: "hidden_size",
            found: size,
            rule,
        });
    }
    let (found, tokens) = (packed.hidden.len(), packed.hidden.len() / size);
    if !found.is_multiple_of(size) {
        let expected = (tokens + 1) * size;
        return Err(KernelError::Length {
            name: "hidden",
            found,
            expected,
        });
    }
    let cu_seqlens = CuSeqlens::new(packed.cu_seqlens, tokens)?;
    if let Some(sequence) = cu_seqlens.ranges().position(|range| range.is_empty()) {
        return Err(KernelError::EmptySequence { sequence });
    }
    let expected = cu_seqlens.batch() * size;
    if out_len != expected {
        return Err(KernelError::Length {
            name: "out",
            found: out_len,
            expected,
        });
    }
    Ok(cu_seqlens)
}

#[cfg(test)]
mod tests;
