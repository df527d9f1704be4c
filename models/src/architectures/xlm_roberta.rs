//! RoBERTa (Liu et al. 2019) and XLM-RoBERTa (Conneau et al. 2020): BGE-M3, multilingual E5,
//! Snowflake Arctic Embed L v2, CamemBERT. BERT's layers; only the positions start elsewhere.
//! Reference implementation: `XLMRobertaModel` of transformers.

use super::bert::{BERT, HF_BERT_NAMES};
use super::heads::{ROBERTA_CLASSIFIER, ROBERTA_LANGUAGE_MODEL};
use super::{Architecture, FirstPosition, Positions, WeightNames};

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
    positions: Positions::Absolute {
        first: FirstPosition::AfterPadding,
    },
    weights: WeightNames {
        prefixes: &["", "roberta.", "xlm_roberta.", "camembert."],
        ..HF_BERT_NAMES
    },
    classifier: Some(&ROBERTA_CLASSIFIER),
    language_model: Some(&ROBERTA_LANGUAGE_MODEL),
    ..BERT
};
