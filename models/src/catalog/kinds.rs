//! What models are for, what they put out and which architecture they are of: the closed lists of
//! the catalogue.

use serde::{Deserialize, Serialize};

/// What a model is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Task {
    /// Text to vectors.
    Embed,
    /// A query and a document to a score.
    Rerank,
}

impl Task {
    /// Every task.
    pub const ALL: [Self; 2] = [Self::Embed, Self::Rerank];

    /// As it is written in a file.
    pub fn name(self) -> &'static str {
        match self {
            Self::Embed => "embed",
            Self::Rerank => "rerank",
        }
    }
}

/// Which architecture a model is of. The names are those of the declarations that run it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Family {
    /// BERT.
    Bert,
    /// XLM-RoBERTa, RoBERTa and CamemBERT.
    XlmRoberta,
    /// Jina's BERT with linear biases in place of positions.
    JinaBert,
    /// Jina's XLM-RoBERTa with fused projections, with rotary or absolute positions.
    JinaXlmRoberta,
    /// Alibaba's encoder whose `model_type` is `new`.
    Gte,
    /// ModernBERT.
    #[serde(rename = "modernbert")]
    ModernBert,
    /// Nomic's BERT with rotary positions.
    NomicBert,
    /// DistilBERT.
    #[serde(rename = "distilbert")]
    DistilBert,
    /// MPNet.
    Mpnet,
    /// The Qwen3 decoder.
    Qwen3,
    /// The MiniCPM decoder with a head per layer.
    #[serde(rename = "minicpm")]
    MiniCpm,
    /// A table of token vectors, made by model2vec.
    Model2vec,
    /// A table of token vectors, trained as one by sentence-transformers.
    StaticEmbedding,
}

impl Family {
    /// Every family.
    pub const ALL: [Self; 13] = [
        Self::Bert,
        Self::XlmRoberta,
        Self::JinaBert,
        Self::JinaXlmRoberta,
        Self::Gte,
        Self::ModernBert,
        Self::NomicBert,
        Self::DistilBert,
        Self::Mpnet,
        Self::Qwen3,
        Self::MiniCpm,
        Self::Model2vec,
        Self::StaticEmbedding,
    ];

    /// Whether it is a decoder, a language model's architecture.
    pub fn is_decoder(self) -> bool {
        matches!(self, Self::Qwen3 | Self::MiniCpm)
    }

    /// As it is written in a file.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bert => "bert",
            Self::XlmRoberta => "xlm-roberta",
            Self::JinaBert => "jina-bert",
            Self::JinaXlmRoberta => "jina-xlm-roberta",
            Self::Gte => "gte",
            Self::ModernBert => "modernbert",
            Self::NomicBert => "nomic-bert",
            Self::DistilBert => "distilbert",
            Self::Mpnet => "mpnet",
            Self::Qwen3 => "qwen3",
            Self::MiniCpm => "minicpm",
            Self::Model2vec => "model2vec",
            Self::StaticEmbedding => "static-embedding",
        }
    }
}
