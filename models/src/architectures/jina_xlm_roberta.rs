//! Jina's XLM-RoBERTa with rotary positions, and low-rank adapters for tasks where a checkpoint has
//! them: jina-embeddings-v3 (Sturua et al. 2024), jina-colbert-v2. It shares its names in
//! config.json with XLM-RoBERTa and is told from it by its positions. Reference implementation:
//! `jinaai/xlm-roberta-flash-implementation`.

use super::xlm_roberta::{FLASH, FLASH_CODE, XLM_ROBERTA};
use super::{
    Accepted, AdapterSettings, Architecture, Layout, Positions, RemoteCode, RotarySettings, Theta,
};

/// `XLMRobertaLoRA`, and the encoder in it.
pub const JINA_XLM_ROBERTA: Architecture = Architecture {
    name: "jina-xlm-roberta",
    model_types: &["xlm-roberta"],
    class_prefixes: &["XLMRobertaModel", "XLMRobertaLoRA", "HF_ColBERT"],
    marks: &[("position_embedding_type", "rotary")],
    remote_code: RemoteCode {
        repositories: &["jinaai/xlm-roberta-flash-implementation"],
        ..FLASH_CODE
    },
    positions: Positions::Rotary(RotarySettings {
        theta: Theta {
            keys: &["rotary_emb_base"],
            default: 10_000.0,
        },
        local_theta: None,
        fraction: None,
        stretched_beyond: None,
    }),
    layouts: &[ADAPTED, FLASH],
    adapters: Some(AdapterSettings {
        names: "lora_adaptations",
        rank: "lora_rank",
        alpha: "lora_alpha",
        instructions: "task_instructions",
    }),
    classifier: None,
    language_model: None,
    accepted: &[
        ("position_embedding_type", Accepted::Present(&["rotary"])),
        ("rotary_emb_base", Accepted::Implemented),
        ("lora_adaptations", Accepted::Implemented),
        ("use_reg_tokens", Accepted::False),
    ],
    ..XLM_ROBERTA
};

/// With adapters every matrix but those of the norms is a parametrization.
const ADAPTED: Layout = Layout {
    weight: ".parametrizations.weight.original",
    word_embeddings: "embeddings.word_embeddings.parametrizations.weight.original",
    token_type_embeddings: "embeddings.token_type_embeddings.parametrizations.weight.original",
    ..FLASH
};
