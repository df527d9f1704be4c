//! What follows the layers of a family for outputs other than token vectors: the layers of a
//! classifier and of a masked language model.

use retort_kernels::Pooling;

use crate::checkpoint::Config;
use crate::error::Result;
use crate::graph::ops::Activation;

/// How a family makes logits of token vectors when its class ends in `ForSequenceClassification`.
#[derive(Debug)]
pub struct Classifier {
    /// Which token vectors the first step gets.
    pub pooling: ClassifierPooling,
    /// What is done to them; the rows of the last linear layer are the labels.
    pub steps: &'static [Step],
}

/// How a classifier pools.
#[derive(Debug, Clone, Copy)]
pub enum ClassifierPooling {
    /// Always so.
    Always(Pooling),
    /// As a setting of config.json says.
    Setting(&'static str),
}

impl ClassifierPooling {
    /// Looks the setting up.
    ///
    /// # Errors
    /// `Error::Unsupported` when it is no pooling.
    pub(crate) fn read(self, config: &Config) -> Result<Pooling> {
        match self {
            Self::Always(pooling) => Ok(pooling),
            Self::Setting(key) => {
                let name = config.optional_text(key)?.unwrap_or_default();
                name.parse()
                    .map_err(|_| config.unsupported(key, "`cls` or `mean`"))
            }
        }
    }
}

/// One layer of a head. Names are those of the checkpoint, with or without the prefix that its
/// other tensors have.
#[derive(Debug, Clone, Copy)]
pub enum Step {
    /// `x·Wᵀ + b`; the bias may be absent.
    Linear(&'static str),
    /// A fixed nonlinearity.
    Activation(Activation),
    /// The nonlinearity that a setting of config.json names, or the one of the feed-forward layers.
    ActivationSetting(&'static str),
    /// A norm of the family's kind.
    Norm(&'static str),
}

/// How a family makes a logit for every vocabulary entry of every token.
#[derive(Debug)]
pub struct LanguageModel {
    /// What is done to the token vectors first.
    pub steps: &'static [Step],
    /// `[vocabulary, hidden]`; the word embeddings where the checkpoint has no such tensor.
    pub decoder: &'static str,
    /// `[vocabulary]`, under the first of these names that is there.
    pub bias: &'static [&'static str],
}

/// `BertForSequenceClassification`: the pooler, then the classifier.
pub(super) const BERT_CLASSIFIER: Classifier = Classifier {
    pooling: ClassifierPooling::Always(Pooling::Cls),
    steps: &[
        Step::Linear("pooler.dense"),
        Step::Activation(Activation::Tanh),
        Step::Linear("classifier"),
    ],
};

/// `RobertaClassificationHead`.
pub(super) const ROBERTA_CLASSIFIER: Classifier = Classifier {
    pooling: ClassifierPooling::Always(Pooling::Cls),
    steps: &[
        Step::Linear("classifier.dense"),
        Step::Activation(Activation::Tanh),
        Step::Linear("classifier.out_proj"),
    ],
};

/// `DistilBertForSequenceClassification`.
pub(super) const DISTILBERT_CLASSIFIER: Classifier = Classifier {
    pooling: ClassifierPooling::Always(Pooling::Cls),
    steps: &[
        Step::Linear("pre_classifier"),
        Step::Activation(Activation::Relu),
        Step::Linear("classifier"),
    ],
};

/// `ModernBertForSequenceClassification`.
pub(super) const MODERNBERT_CLASSIFIER: Classifier = Classifier {
    pooling: ClassifierPooling::Setting("classifier_pooling"),
    steps: &[
        Step::Linear("head.dense"),
        Step::ActivationSetting("classifier_activation"),
        Step::Norm("head.norm"),
        Step::Linear("classifier"),
    ],
};

/// `GenericForSequenceClassification`, as transformers has it for decoders.
pub(super) const DECODER_CLASSIFIER: Classifier = Classifier {
    pooling: ClassifierPooling::Always(Pooling::LastToken),
    steps: &[Step::Linear("score")],
};

/// The logits of the next token, as transformers has them for decoders.
pub(super) const DECODER_LANGUAGE_MODEL: LanguageModel = LanguageModel {
    steps: &[],
    decoder: "lm_head.weight",
    bias: &[],
};

/// `BertForMaskedLM`.
pub(super) const BERT_LANGUAGE_MODEL: LanguageModel = LanguageModel {
    steps: &[
        Step::Linear("cls.predictions.transform.dense"),
        Step::ActivationSetting("hidden_act"),
        Step::Norm("cls.predictions.transform.LayerNorm"),
    ],
    decoder: "cls.predictions.decoder.weight",
    bias: &["cls.predictions.bias", "cls.predictions.decoder.bias"],
};

/// `RobertaLMHead`, whose nonlinearity is fixed.
pub(super) const ROBERTA_LANGUAGE_MODEL: LanguageModel = LanguageModel {
    steps: &[
        Step::Linear("lm_head.dense"),
        Step::Activation(Activation::Gelu),
        Step::Norm("lm_head.layer_norm"),
    ],
    decoder: "lm_head.decoder.weight",
    bias: &["lm_head.bias", "lm_head.decoder.bias"],
};

/// `DistilBertForMaskedLM`.
pub(super) const DISTILBERT_LANGUAGE_MODEL: LanguageModel = LanguageModel {
    steps: &[
        Step::Linear("vocab_transform"),
        Step::ActivationSetting("activation"),
        Step::Norm("vocab_layer_norm"),
    ],
    decoder: "vocab_projector.weight",
    bias: &["vocab_projector.bias"],
};

/// `ModernBertForMaskedLM`.
pub(super) const MODERNBERT_LANGUAGE_MODEL: LanguageModel = LanguageModel {
    steps: &[
        Step::Linear("head.dense"),
        Step::ActivationSetting("classifier_activation"),
        Step::Norm("head.norm"),
    ],
    decoder: "decoder.weight",
    bias: &["decoder.bias"],
};

/// `NewForMaskedLM`, whose table of names is in transformers' conversion of `gte`.
pub(super) const GTE_LANGUAGE_MODEL: LanguageModel = LanguageModel {
    steps: &[
        Step::Linear("lm_head.dense"),
        Step::ActivationSetting("hidden_act"),
        Step::Norm("lm_head.norm"),
    ],
    decoder: "lm_head.decoder.weight",
    bias: &["lm_head.decoder.bias"],
};
