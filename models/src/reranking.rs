//! What a loaded model wants of a query and a document: the form of a pair, and what gives way when
//! both are too long. A caller needs no model's name for either.

use crate::architectures::Architecture;
use crate::checkpoint::Checkpoint;
use crate::error::{Error, Result};
use crate::heads::Head;
use crate::heads::plan::HeadPlan;
use crate::model::{EncoderInfo, EncoderModel};
use crate::tokenizer::pair::PairTruncation;
use crate::tokenizer::template::{PairForm, PairTemplate, Part};
use crate::tokenizer::{Tokenizer, TruncationSide};

impl EncoderInfo {
    /// Whether pairs are written with an instruction to judge by.
    pub fn takes_instruction(&self) -> bool {
        let spans = self.pair_template.iter().flat_map(|form| form.spans);
        spans
            .flat_map(|span| *span)
            .any(|part| *part == Part::Instruction)
    }

    /// What the model is told to judge by where the caller says nothing; `None` when it is told
    /// nothing.
    pub fn default_instruction(&self) -> Option<&str> {
        let template = self.pair_template.filter(|_| self.takes_instruction())?;
        Some(self.instruction.as_deref().unwrap_or(template.instruction))
    }

    /// The form in which the model reads a query and a document: a template that it was trained
    /// with, else that of its tokenizer. An instruction is the caller's, else the checkpoint's,
    /// else the template's.
    ///
    /// # Errors
    /// `Error::Unsupported` when the model gives no scores, takes no instruction but gets one, or
    /// its tokenizer has no form for two texts.
    pub fn pair_form(&self, tokenizer: &Tokenizer, instruction: Option<&str>) -> Result<PairForm> {
        if !self.heads.contains(Head::Score) {
            return Err(Error::Unsupported(format!(
                "the model gives `{}`, not scores, so it has no form for a query and a document",
                self.heads
            )));
        }
        if instruction.is_some() && !self.takes_instruction() {
            return Err(Error::Unsupported(
                "the model was trained without instructions; leave the instruction out".to_owned(),
            ));
        }
        match self.pair_template {
            Some(template) => {
                let instruction = instruction.or(self.instruction.as_deref());
                tokenizer.template_form(template, instruction)
            }
            None => tokenizer.pair_form(),
        }
    }

    /// How far a pair may reach, and what gives way: the document, then of the query what is beyond
    /// three quarters, as FlagEmbedding cuts. `limit` is the caller's, in tokens, and means what it
    /// means to the reference implementation of the form; without one, pairs are as long as the
    /// model takes. No pair is longer than that in any case.
    pub fn pair_truncation(
        &self,
        form: &PairForm,
        limit: Option<usize>,
        side: TruncationSide,
    ) -> PairTruncation {
        form.truncation((limit, self.max_tokens), side)
    }
}

impl EncoderModel {
    /// As `EncoderInfo::pair_form`, with the model's tokenizer.
    ///
    /// # Errors
    /// As there.
    pub fn pair_form(&self, instruction: Option<&str>) -> Result<PairForm> {
        self.info().pair_form(self.tokenizer(), instruction)
    }
}

/// A reranker of a family with a template wants it, converted to a classifier or not; a classifier
/// of several labels is something else.
pub(crate) fn pair_template(
    architecture: &Architecture,
    plan: &HeadPlan,
    labels: usize,
) -> Option<&'static PairTemplate> {
    let reranker = architecture.reranker.filter(|_| plan.score.is_some());
    reranker
        .filter(|_| labels == 1)
        .map(|reranker| reranker.template)
}

/// The prompt that sentence-transformers puts before every pair is what a template is told to judge
/// by.
pub(crate) fn instruction(
    checkpoint: &Checkpoint,
    template: Option<&'static PairTemplate>,
) -> Result<Option<String>> {
    let prompt = checkpoint.prompts.resolve(None)?;
    Ok(template
        .filter(|_| !prompt.is_empty())
        .map(|_| prompt.to_owned()))
}

#[cfg(test)]
pub(crate) mod tests;
