//! RoBERTa (Liu et al. 2019) and XLM-RoBERTa (Conneau et al. 2020): BGE-M3, multilingual E5,
//! Snowflake Arctic Embed L v2, CamemBERT. BERT's layers; only the positions start elsewhere.
//! Reference implementation: `XLMRobertaModel` of transformers. Jina's own implementation
//! (`xlm-roberta-flash-implementation`, jina-reranker-v2) stores the same under other names.

use super::bert::{BERT, HF_BERT};
use super::heads::{ROBERTA_CLASSIFIER, ROBERTA_LANGUAGE_MODEL};
use super::layout::linear;
use super::{Architecture, FeedForward, FirstPosition, Layout, Positions, Qkv, RemoteCode};

/// `XLMRobertaModel`, `RobertaModel` and `CamembertModel`, which compute the same.
pub const XLM_ROBERTA: Architecture = Architecture {
    name: "xlm-roberta",
    model_types: &["xlm-roberta", "roberta", "camembert"],
    // Whole words, because `RobertaPreLayerNormModel` and `XLMRobertaXLModel` are other families.
    class_prefixes: &[
        "XLMRobertaModel",
        "XLMRobertaFor",
        "RobertaModel",
        "RobertaFor",
        "CamembertModel",
        "CamembertFor",
    ],
    remote_code: FLASH_CODE,
    positions: Positions::Absolute {
        first: FirstPosition::AfterPadding,
    },
    layouts: &[HF_ROBERTA, FLASH],
    classifier: Some(&ROBERTA_CLASSIFIER),
    language_model: Some(&ROBERTA_LANGUAGE_MODEL),
    ..BERT
};

/// Jina's implementation on top of flash attention.
pub(super) const FLASH_CODE: RemoteCode = RemoteCode {
    repositories: &[
        "jinaai/xlm-roberta-flash-implementation",
        "jinaai/jina-reranker-v2-base-multilingual",
    ],
    classes: &[
        "configuration_xlm_roberta.XLMRobertaFlashConfig",
        "modeling_xlm_roberta.XLMRobertaModel",
        "modeling_xlm_roberta.XLMRobertaFor",
        // The same with the adapters that `lora_adaptations` names, if any.
        "modeling_lora.XLMRobertaLoRA",
    ],
};

const HF_ROBERTA: Layout = Layout {
    prefixes: &["", "roberta.", "xlm_roberta.", "camembert."],
    ..HF_BERT
};

pub(super) const FLASH: Layout = Layout {
    prefixes: &["", "roberta."],
    embeddings_norm: Some("emb_ln"),
    layer: "encoder.layers.{}.",
    qkv: Qkv::Fused(linear("mixer.Wqkv")),
    attention_output: linear("mixer.out_proj"),
    attention_norm: "norm1",
    feed_forward: FeedForward::Plain {
        up: linear("mlp.fc1"),
        down: linear("mlp.fc2"),
    },
    feed_forward_norm: "norm2",
    ..HF_BERT
};
