//! Texts to labels: what is asked and what comes back.

use std::borrow::Cow;

use super::{Scale, Timings, Truncate, Usage};

/// Texts, or pairs of them, to be given labels.
#[derive(Debug, Clone, Default)]
pub struct ClassifyRequest {
    /// The model as the caller named it; `None` means the only (or first) one with labels.
    pub model: Option<String>,
    /// What to classify, in the order of the answer.
    pub inputs: Vec<ClassifyInput>,
    /// Probabilities or logits.
    pub scale: Scale,
    /// How far an input may reach.
    pub truncate: Truncate,
}

/// One thing to classify.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClassifyInput {
    /// A text.
    Text(String),
    /// Two texts, such as a premise and a hypothesis.
    Pair(String, String),
}

/// The answer to a [`ClassifyRequest`].
#[derive(Debug, Clone)]
pub struct ClassifyResponse {
    /// The name under which the model is served.
    pub model: String,
    /// What the scores stand for, in order.
    pub labels: Vec<String>,
    /// One per input, in order.
    pub results: Vec<Classified>,
    /// Tokens over all inputs.
    pub usage: Usage,
    /// Where the time went.
    pub timings: Timings,
}

/// What was found about one input.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Classified {
    /// Finite. Probabilities: the sigmoid of a single logit, the softmax of several. `[labels]`
    pub scores: Vec<f32>,
    /// Tokens that the model saw, special tokens included.
    pub tokens: usize,
    /// Tokens of the input that were cut because they did not fit.
    pub tokens_cut: usize,
}

/// The name of a label, transformers' own where the checkpoint has none.
pub fn label_name(names: &[String], index: usize) -> Cow<'_, str> {
    match names.get(index) {
        Some(name) => name.as_str().into(),
        None => format!("LABEL_{index}").into(),
    }
}
