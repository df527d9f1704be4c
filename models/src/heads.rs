//! What a model gives for one sequence: which outputs exist, and the values of one sequence.

pub(crate) mod judgement;
pub(crate) mod late_interaction;
pub(crate) mod outputs;
pub(crate) mod plan;

use std::fmt;
use std::ops::{BitAnd, BitOr};

use serde::{Deserialize, Serialize};

/// One kind of output that a model may be trained to give.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Head {
    /// One vector for the sequence.
    Dense,
    /// Weights of vocabulary entries: bge-m3's lexical weights (Chen et al. 2024), SPLADE
    /// (Formal et al. 2021).
    Sparse,
    /// One vector per token, for late interaction (`ColBERT`, Khattab & Zaharia 2020).
    MultiVector,
    /// One number per label: the logits of a cross-encoder.
    Score,
}

impl Head {
    /// Every kind, in the order in which they are listed to people.
    pub const ALL: [Self; 4] = [Self::Dense, Self::Sparse, Self::MultiVector, Self::Score];

    /// What it is called.
    pub fn name(self) -> &'static str {
        match self {
            Self::Dense => "dense",
            Self::Sparse => "sparse",
            Self::MultiVector => "multi-vector",
            Self::Score => "score",
        }
    }

    fn bit(self) -> u8 {
        1 << self as u8
    }
}

impl fmt::Display for Head {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A set of heads.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Heads(u8);

impl Heads {
    /// No head.
    pub const NONE: Self = Self(0);
    /// Only the vector of the sequence.
    pub const DENSE: Self = Self(1 << Head::Dense as u8);
    /// Only the logits.
    pub const SCORE: Self = Self(1 << Head::Score as u8);

    /// Whether a head is in the set.
    pub fn contains(self, head: Head) -> bool {
        self.0 & head.bit() != 0
    }

    /// The heads of this set that another one lacks.
    pub fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Whether there is none.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The heads in it.
    pub fn iter(self) -> impl Iterator<Item = Head> {
        Head::ALL
            .into_iter()
            .filter(move |&head| self.contains(head))
    }
}

impl From<Head> for Heads {
    fn from(head: Head) -> Self {
        Self(head.bit())
    }
}

impl BitOr for Heads {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl BitAnd for Heads {
    type Output = Self;

    fn bitand(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }
}

impl FromIterator<Head> for Heads {
    fn from_iter<I: IntoIterator<Item = Head>>(heads: I) -> Self {
        heads
            .into_iter()
            .fold(Self::NONE, |set, head| set | head.into())
    }
}

impl fmt::Display for Heads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.iter().map(Head::name).collect();
        f.write_str(&names.join(", "))
    }
}

impl fmt::Debug for Heads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Heads({self})")
    }
}

/// What an encoder returns for one sequence: the heads that its batch asked for.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Output {
    /// The pooled vector, neither cut nor normalised, unless a given graph does so; several, one
    /// after the other, where the encoding has segments. `[segments, dimensions]`
    pub dense: Option<Vec<f32>>,
    /// Weights of vocabulary entries.
    pub sparse: Option<SparseVector>,
    /// A vector per token, of length 1 each.
    pub multi_vector: Option<MultiVector>,
    /// Instead of them how well they match their query
    /// ([`max_sim`](retort_kernels::max_sim::max_sim)), where a batch has one for the sequence.
    pub late_interaction: Option<f32>,
    /// Logits, one per label of the model. `[labels]`
    pub scores: Option<Vec<f32>>,
}

impl Output {
    /// An output with nothing but a vector.
    pub fn of_dense(vector: Vec<f32>) -> Self {
        Self {
            dense: Some(vector),
            ..Self::default()
        }
    }
}

/// The weights of vocabulary entries that are not zero.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct SparseVector {
    /// Token ids, ascending. `[entries]`
    pub ids: Vec<u32>,
    /// Their weights; not a number where the model gave none. `[entries]`
    pub weights: Vec<f32>,
}

/// One vector per token.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct MultiVector {
    /// Length of each vector.
    pub width: usize,
    /// The vectors, one after the other. `[tokens, width]`
    pub values: Vec<f32>,
}

impl MultiVector {
    /// The vectors, in the order of the tokens.
    pub fn rows(&self) -> impl ExactSizeIterator<Item = &[f32]> {
        self.values.chunks_exact(self.width.max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_holds_what_was_put_in() {
        let set = Heads::from_iter([Head::Sparse, Head::Dense]);
        assert_eq!(set, Heads::DENSE | Head::Sparse.into());
        assert_eq!(set.to_string(), "dense, sparse");
        assert!(!set.contains(Head::Score) && set.contains(Head::Sparse));
        assert_eq!(set.without(Heads::DENSE), Head::Sparse.into());
        assert_eq!(set & (Heads::DENSE | Heads::SCORE), Heads::DENSE);
        assert!(Heads::NONE.is_empty() && !set.is_empty());
        for head in Head::ALL {
            assert_eq!(Heads::from(head).iter().collect::<Vec<_>>(), [head]);
        }
    }
}
