//! References become token sequences: which inputs a reference needs, each of them once however
//! many references share it. Runs nothing.

use super::Published;
use crate::batch::Encoding;
use crate::catalog::reference::{Expected, Inputs, Reference};
use crate::error::Error;
use crate::heads::{Head, Heads};
use crate::model::EncoderInfo;
use crate::tokenizer::pair::PairTruncation;
use crate::tokenizer::template::PairForm;
use crate::tokenizer::{Prompt, Tokenizer, Truncation, TruncationSide};

/// What becomes of a reference.
#[derive(Debug, PartialEq)]
pub(super) enum Plan {
    /// These inputs are run; of a grid, the queries and then the documents.
    Run(Vec<usize>),
    /// This build or this model cannot run it.
    Skipped(String),
    /// The model should take its inputs and does not.
    Failed(String),
}

/// One token sequence and what is wanted of it.
#[derive(Debug)]
pub(super) struct Input {
    pub encoding: Encoding,
    pub heads: Heads,
}

/// Why there is no encoding.
#[derive(Debug)]
pub(super) enum Refusal {
    /// Nothing is wrong with the model.
    Skip(String),
    /// Something is.
    Fail(String),
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        match error {
            // The operator may have set a shorter limit than the numbers were made with.
            Error::InputTooLong { .. } | Error::Unsupported(_) => Self::Skip(error.to_string()),
            other => Self::Fail(other.to_string()),
        }
    }
}

/// Collects inputs.
pub(super) struct Planner<'a> {
    info: &'a EncoderInfo,
    tokenizer: &'a Tokenizer,
    published: &'a Published,
    inputs: Vec<Input>,
}

impl<'a> Planner<'a> {
    pub fn new(info: &'a EncoderInfo, tokenizer: &'a Tokenizer, published: &'a Published) -> Self {
        Self {
            info,
            tokenizer,
            published,
            inputs: Vec::new(),
        }
    }

    /// Everything that is to be run.
    pub fn into_inputs(self) -> Vec<Input> {
        self.inputs
    }

    /// What the model gives.
    pub fn heads(&self) -> Heads {
        self.info.heads
    }

    /// Turns the inputs of a reference into token sequences.
    pub fn plan(&mut self, reference: &Reference) -> Plan {
        let head = head(&reference.expected);
        let encodings = match self.encodings(reference, head) {
            Ok(encodings) => encodings,
            Err(Refusal::Skip(reason)) => return Plan::Skipped(reason),
            Err(Refusal::Fail(reason)) => return Plan::Failed(reason),
        };
        let add = |encoding| self.add(encoding, head.into());
        Plan::Run(encodings.into_iter().map(add).collect())
    }

    /// Adds a sequence, or what is wanted of one that is there already.
    pub fn add(&mut self, encoding: Encoding, heads: Heads) -> usize {
        let is_same = |input: &Input| input.encoding == encoding;
        if let Some(index) = self.inputs.iter().position(is_same) {
            let known = &mut self.inputs[index];
            known.heads = known.heads | heads;
            return index;
        }
        self.inputs.push(Input { encoding, heads });
        self.inputs.len() - 1
    }

    fn encodings(&self, reference: &Reference, head: Head) -> Result<Vec<Encoding>, Refusal> {
        if !self.info.heads.contains(head) {
            return Err(Refusal::Skip(format!(
                "the model as it is loaded gives `{}`, not `{head}`",
                self.info.heads
            )));
        }
        if let Some(adapter) = &reference.adapter {
            return Err(Refusal::Skip(format!(
                "the adapter `{adapter}` cannot be chosen in this build"
            )));
        }
        if let Expected::Scores {
            layer: Some(layer), ..
        } = &reference.expected
        {
            return Err(Refusal::Skip(format!(
                "the layer `{layer}` cannot be chosen in this build"
            )));
        }
        let prompt = reference.prompt.as_deref().unwrap_or_default();
        let is_pair = matches!(reference.inputs, Inputs::Pairs { .. });
        if is_pair != (head == Head::Score) && !(head == Head::Score && is_texts(reference)) {
            return Err(Refusal::Skip(format!(
                "`{head}` of such inputs has no meaning"
            )));
        }
        match &reference.inputs {
            Inputs::Texts { texts } => self.texts(prompt, texts),
            Inputs::Grid { queries, documents } => {
                let mut encodings = self.texts(prompt, queries)?;
                encodings.extend(self.texts("", documents)?);
                Ok(encodings)
            }
            Inputs::Pairs { pairs } => {
                let form = self.pair_form(reference.prompt.as_deref())?;
                pairs
                    .iter()
                    .map(|(query, document)| self.pair(&form, query, document))
                    .collect()
            }
        }
    }

    fn texts(&self, prompt: &str, texts: &[String]) -> Result<Vec<Encoding>, Refusal> {
        let prompt = match prompt {
            "" => Prompt::default(),
            prompt => self.tokenizer.prepare_prompt(prompt)?,
        };
        let truncation = Truncation {
            max_tokens: self.info.max_tokens,
            side: TruncationSide::Refuse,
        };
        let encode = |text: &String| {
            let encoded = self.tokenizer.encode_prompted(&prompt, text, truncation);
            encoded.map_err(Refusal::from)
        };
        texts.iter().map(encode).collect()
    }

    /// The sequence of one text without a prompt.
    pub fn text(&self, text: &str) -> Result<Encoding, Refusal> {
        let encoding = self.texts("", &[text.to_owned()])?.pop();
        encoding.ok_or_else(|| Refusal::Fail("the tokenizer gave nothing".to_owned()))
    }

    /// The form in which the model reads pairs.
    pub fn pair_form(&self, instruction: Option<&str>) -> Result<PairForm, Refusal> {
        let Some(template) = &self.published.template else {
            if instruction.is_some() {
                return Err(Refusal::Skip(
                    "the model reads pairs without an instruction".to_owned(),
                ));
            }
            return Ok(self.tokenizer.pair_form()?);
        };
        let instruction = instruction.or(self.published.instruction.as_deref());
        Ok(self.tokenizer.template_form(template, instruction)?)
    }

    /// The sequence of a query and a document.
    pub fn pair(&self, form: &PairForm, query: &str, document: &str) -> Result<Encoding, Refusal> {
        let truncation = PairTruncation::new(self.info.max_tokens, TruncationSide::Refuse);
        let query = self.tokenizer.prepare_query(form, query, truncation)?;
        Ok(self.tokenizer.encode_pair(&query, document)?)
    }
}

fn is_texts(reference: &Reference) -> bool {
    matches!(reference.inputs, Inputs::Texts { .. })
}

/// The output that a reference is about.
fn head(expected: &Expected) -> Head {
    match expected {
        Expected::Dense { .. } | Expected::DenseSum { .. } | Expected::Similarity { .. } => {
            Head::Dense
        }
        Expected::Sparse { .. } | Expected::SparseByToken { .. } | Expected::Lexical { .. } => {
            Head::Sparse
        }
        Expected::LateInteraction { .. } => Head::MultiVector,
        Expected::Scores { .. } => Head::Score,
    }
}
