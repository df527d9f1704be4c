//! MPNet (Song et al. 2020): BERT's layers with RoBERTa's positions and learned biases for buckets
//! of distances; all-mpnet-base-v2. Reference implementation: `MPNetModel` of transformers.

use super::bert::{BERT, HF_BERT};
use super::heads::{ROBERTA_CLASSIFIER, ROBERTA_LANGUAGE_MODEL};
use super::layout::linear;
use super::{Architecture, Attention, Distance, FirstPosition, Layout, Positions, Qkv, TokenTypes};

/// `MPNetModel`.
pub const MPNET: Architecture = Architecture {
    name: "mpnet",
    model_types: &["mpnet"],
    class_prefixes: &["MPNet"],
    positions: Positions::Absolute {
        first: FirstPosition::AfterPadding,
    },
    token_types: TokenTypes::Absent,
    attention: Attention {
        distance: Distance::Buckets {
            count: "relative_attention_num_buckets",
            default: 32,
            reach: 128,
        },
        ..BERT.attention
    },
    layouts: &[HF_MPNET],
    // `MPNetClassificationHead` and `MPNetLMHead` are RoBERTa's.
    classifier: Some(&ROBERTA_CLASSIFIER),
    language_model: Some(&ROBERTA_LANGUAGE_MODEL),
    accepted: &[],
    ..BERT
};

const HF_MPNET: Layout = Layout {
    prefixes: &["", "mpnet."],
    qkv: Qkv::Separate([
        linear("attention.attn.q"),
        linear("attention.attn.k"),
        linear("attention.attn.v"),
    ]),
    attention_output: linear("attention.attn.o"),
    attention_norm: "attention.LayerNorm",
    relative_positions: "encoder.relative_attention_bias.weight",
    ..HF_BERT
};
