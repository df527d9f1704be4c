//! Where a family keeps its weights: names of tensors, and which of them are stored as one.

/// Names of tensors. Those of a linear layer or a norm are without `.weight` and `.bias`.
#[derive(Debug, Clone, Copy)]
pub struct Layout {
    /// What may stand before every name, depending on the class that saved the checkpoint.
    pub prefixes: &'static [&'static str],
    /// What follows the name of a linear layer for its matrix.
    pub weight: &'static str,
    /// `[vocabulary, hidden]`
    pub word_embeddings: &'static str,
    /// `[positions, hidden]`; used when the family has such positions.
    pub position_embeddings: &'static str,
    /// `[types, hidden]`; used when the model has such embeddings.
    pub token_type_embeddings: &'static str,
    /// The norm after the embeddings.
    pub embeddings_norm: Option<&'static str>,
    /// What stands before the names of a layer; `{}` is its number.
    pub layer: &'static str,
    /// What makes queries, keys and values.
    pub qkv: Qkv,
    /// The norms of queries and keys.
    pub qk_norm: QkNorm,
    /// `[hidden, heads * head]`
    pub attention_output: Linear,
    /// The norm before or after the attention.
    pub attention_norm: &'static str,
    /// A second norm, of what the first gave plus what the layer was given once more.
    pub second_attention_norm: Option<&'static str>,
    /// The layer after the attention.
    pub feed_forward: FeedForward,
    /// The norm before or after the feed-forward layer.
    pub feed_forward_norm: &'static str,
    /// The norm after the last layer.
    pub final_norm: Option<&'static str>,
    /// Whether norms have a bias.
    pub norm_bias: Bias,
    /// The table of MPNet's relative positions, which all layers share. `[buckets, heads]`
    pub relative_positions: &'static str,
}

/// How PyTorch's `parametrize` calls a matrix that has something added to it.
const ORIGINAL: &str = ".original";

impl Layout {
    /// The names of the two low-rank factors that adapters add to a matrix of this name; `None`
    /// where a matrix of such a name has none.
    pub(crate) fn factors(matrix: &str) -> Option<[String; 2]> {
        let base = matrix.strip_suffix(ORIGINAL)?;
        Some(["A", "B"].map(|factor| format!("{base}.0.lora_{factor}")))
    }
}

/// What makes queries, keys and values of token vectors.
#[derive(Debug, Clone, Copy)]
pub enum Qkv {
    /// A linear layer each: query, key, value.
    Separate([Linear; 3]),
    /// One linear layer whose rows are those of the query, then the key, then the value.
    Fused(Linear),
}

/// The norms of queries and keys: their two names.
#[derive(Debug, Clone, Copy)]
pub enum QkNorm {
    /// There are none.
    Absent,
    /// Of each head apart. `[head]`
    PerHead([&'static str; 2]),
    /// Of all heads together. `[heads * head]`
    Whole([&'static str; 2]),
}

/// The layer after the attention. A gated one is `down(activation(gate(x)) * up(x))`
/// (Shazeer 2020).
#[derive(Debug, Clone, Copy)]
pub enum FeedForward {
    /// `down(activation(up(x)))`
    Plain {
        /// `[intermediate, hidden]`
        up: Linear,
        /// `[hidden, intermediate]`
        down: Linear,
    },
    /// Gated.
    Gated {
        /// `[intermediate, hidden]`
        gate: Linear,
        /// `[intermediate, hidden]`
        up: Linear,
        /// `[hidden, intermediate]`
        down: Linear,
    },
    /// Gated, with the rows of `gate` and `up` in one tensor.
    GatedFused {
        /// `[2 * intermediate, hidden]`
        both: Linear,
        /// Whose rows come first.
        order: Halves,
        /// `[hidden, intermediate]`
        down: Linear,
    },
}

impl FeedForward {
    /// The last of its linear layers, whatever the others are.
    pub(crate) fn down(self) -> Linear {
        match self {
            Self::Plain { down, .. } | Self::Gated { down, .. } | Self::GatedFused { down, .. } => {
                down
            }
        }
    }
}

/// The order of two halves of a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Halves {
    /// The gate, which the nonlinearity is applied to, then the other.
    GateUp,
    /// The other way around.
    UpGate,
}

/// A linear layer of a checkpoint.
#[derive(Debug, Clone, Copy)]
pub struct Linear {
    /// Its name, without `.weight` and `.bias`.
    pub name: &'static str,
    /// Whether it adds something.
    pub bias: Bias,
}

/// Whether a layer has a bias.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bias {
    /// It has; a checkpoint without is incomplete.
    Required,
    /// It has one where the checkpoint stores one, as settings of the family decide.
    AsStored,
}

/// A linear layer that always has a bias.
pub(super) const fn linear(name: &'static str) -> Linear {
    Linear {
        name,
        bias: Bias::Required,
    }
}

/// A linear layer that has a bias in some checkpoints, or in none.
pub(super) const fn maybe_biased(name: &'static str) -> Linear {
    Linear {
        name,
        bias: Bias::AsStored,
    }
}
