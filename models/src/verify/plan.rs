//! References become token sequences: which inputs a reference needs, each of them once however
//! many references share it. Runs nothing.

use crate::batch::Encoding;
use crate::catalog::reference::{Expected, Inputs, Reference};
use crate::error::Error;
use crate::heads::late_interaction::LateInteraction;
use crate::heads::{Head, Heads};
use crate::model::EncoderInfo;
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
    late_interaction: Option<&'a LateInteraction>,
    inputs: Vec<Input>,
}

/// What all texts of one side of a comparison get.
struct Side {
    prompt: Prompt,
    adapter: Option<u8>,
    truncation: Truncation,
}

impl<'a> Planner<'a> {
    pub fn new(
        info: &'a EncoderInfo,
        tokenizer: &'a Tokenizer,
        late_interaction: Option<&'a LateInteraction>,
    ) -> Self {
        Self {
            info,
            tokenizer,
            late_interaction,
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
        self.check_layer(&reference.expected)?;
        let is_pair = matches!(reference.inputs, Inputs::Pairs { .. });
        if is_pair != (head == Head::Score) && !(head == Head::Score && is_texts(reference)) {
            return Err(Refusal::Skip(format!(
                "`{head}` of such inputs has no meaning"
            )));
        }
        match &reference.inputs {
            Inputs::Texts { texts } => self.texts(&self.sides(reference, head)?[1], texts),
            Inputs::Grid { queries, documents } => {
                let [query, document] = self.sides(reference, head)?;
                let mut encodings = self.texts(&query, queries)?;
                encodings.extend(self.texts(&document, documents)?);
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

    /// Scores were published for one layer; those of another are others.
    fn check_layer(&self, expected: &Expected) -> Result<(), Refusal> {
        let Expected::Scores {
            layer: Some(layer), ..
        } = expected
        else {
            return Ok(());
        };
        match self.info.cutoff_layer {
            Some(own) if own == *layer => Ok(()),
            Some(own) => Err(Refusal::Skip(format!(
                "the model as it is loaded gives the scores of layer `{own}`, not of layer \
                 `{layer}`"
            ))),
            None => Err(Refusal::Skip(format!(
                "the model as it is loaded has no scores of layer `{layer}`"
            ))),
        }
    }

    /// What queries get, and what documents and lone texts get. The prompt of a reference is that
    /// of its queries, or of its texts.
    fn sides(&self, reference: &Reference, head: Head) -> Result<[Side; 2], Refusal> {
        let prompt = reference.prompt.as_deref().unwrap_or_default();
        let adapter = self.adapter(reference.adapter.as_deref())?;
        if let (Some(known), Head::MultiVector) = (self.late_interaction, head) {
            if !prompt.is_empty() {
                let reason = "the model marks queries and documents, and takes no other prompt";
                return Err(Refusal::Skip(reason.to_owned()));
            }
            // These models cut each side to the length that they were trained with.
            let side = |side: &crate::Side| Side {
                prompt: side.prompt.clone(),
                adapter,
                truncation: Truncation {
                    max_tokens: side
                        .max_tokens
                        .map_or(self.info.max_tokens, |most| most.min(self.info.max_tokens)),
                    side: TruncationSide::End,
                },
            };
            return Ok([side(&known.query), side(&known.document)]);
        }
        let side = |prompt: &str| -> Result<Side, Refusal> {
            Ok(Side {
                prompt: match prompt {
                    "" => Prompt::default(),
                    prompt => self.tokenizer.prepare_prompt(prompt)?,
                },
                adapter,
                truncation: Truncation {
                    max_tokens: self.info.max_tokens,
                    side: TruncationSide::Refuse,
                },
            })
        };
        let of_texts = if is_texts(reference) { prompt } else { "" };
        Ok([side(prompt)?, side(of_texts)?])
    }

    /// The number of an adapter. Without a name there is none, unless the graph must have one.
    fn adapter(&self, name: Option<&str>) -> Result<Option<u8>, Refusal> {
        let Some(name) = name else {
            return Ok(self.info.needs_task().then_some(0));
        };
        let place = self.info.tasks.iter().position(|task| task == name);
        match place.and_then(|place| u8::try_from(place).ok()) {
            Some(number) => Ok(Some(number)),
            None => Err(Refusal::Skip(format!(
                "the model as it is loaded has no adapter `{name}`"
            ))),
        }
    }

    fn texts(&self, side: &Side, texts: &[String]) -> Result<Vec<Encoding>, Refusal> {
        let encode = |text: &String| -> Result<Encoding, Refusal> {
            let encoded = self
                .tokenizer
                .encode_prompted(&side.prompt, text, side.truncation)?;
            Ok(Encoding {
                adapter: side.adapter,
                ..encoded
            })
        };
        texts.iter().map(encode).collect()
    }

    /// The sequence of one text without a prompt.
    pub fn text(&self, text: &str) -> Result<Encoding, Refusal> {
        let side = Side {
            prompt: Prompt::default(),
            adapter: self.adapter(None)?,
            truncation: Truncation {
                max_tokens: self.info.max_tokens,
                side: TruncationSide::Refuse,
            },
        };
        let encoding = self.texts(&side, &[text.to_owned()])?.pop();
        encoding.ok_or_else(|| Refusal::Fail("the tokenizer gave nothing".to_owned()))
    }

    /// The form in which the model reads pairs.
    pub fn pair_form(&self, instruction: Option<&str>) -> Result<PairForm, Refusal> {
        Ok(self.info.pair_form(self.tokenizer, instruction)?)
    }

    /// The sequence of a query and a document.
    pub fn pair(&self, form: &PairForm, query: &str, document: &str) -> Result<Encoding, Refusal> {
        let truncation = self
            .info
            .pair_truncation(form, None, TruncationSide::Refuse);
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
