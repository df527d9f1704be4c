//! The forms in which a query and a document become one input: that of the tokenizer's own
//! post-processor, or a template that a reranker of the decoder kind was trained with.

use super::frame::Frame;
use super::pair::PairTruncation;
use super::scan::Prompt;
use super::{Tokenizer, TruncationSide};
use crate::error::{Error, Result};

/// One part of a template.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// This token, by its name in the vocabulary.
    Token(&'static str),
    /// This text. Special tokens may be spelled out in it.
    Text(&'static str),
    /// What the model is told to judge by.
    Instruction,
    /// The query.
    Query,
    /// The document.
    Document,
}

/// How a model wants a query and a document written. Declared as data beside the architecture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PairTemplate {
    /// Each span is tokenized apart and without special tokens; parts within one are glued. The
    /// query and the document are in different spans, and the document is at the end of its own.
    /// Only they are ever cut.
    pub spans: &'static [&'static [Part]],
    /// The instruction where the caller gives none.
    pub instruction: &'static str,
    /// What a limit on the length of pairs counts.
    pub limit: TemplateLimit,
}

/// What a limit on the length of pairs counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TemplateLimit {
    /// Every token.
    Whole,
    /// What FlagEmbedding's `max_length` counts for its decoder rerankers: it leaves out what
    /// follows the document, and once more as many tokens. Each text has a limit of its own, too:
    /// three quarters of it for a query, all of it for a document.
    FlagEmbedding,
}

/// Qwen3-Reranker, as its model card writes it. There the middle is one text; parting it before
/// the space that begins the document changes no token, because the tokenizer's pattern ends what
/// follows a colon there.
pub const QWEN3_RERANKER: PairTemplate = PairTemplate {
    spans: &[
        &[Part::Text(
            "<|im_start|>system\nJudge whether the Document meets the requirements based on the \
             Query and the Instruct provided. Note that the answer can only be \"yes\" or \
             \"no\".<|im_end|>\n<|im_start|>user\n",
        )],
        &[
            Part::Text("<Instruct>: "),
            Part::Instruction,
            Part::Text("\n<Query>: "),
            Part::Query,
            Part::Text("\n<Document>:"),
        ],
        &[Part::Text(" "), Part::Document],
        &[Part::Text(
            "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n",
        )],
    ],
    instruction: "Given a web search query, retrieve relevant passages that answer the query",
    limit: TemplateLimit::Whole,
};

/// The decoder rerankers of BGE (bge-reranker-v2-minicpm-layerwise), as FlagEmbedding writes them.
pub const BGE_DECODER_RERANKER: PairTemplate = PairTemplate {
    spans: &[
        &[Part::Token("<s>")],
        BGE_QUERY,
        BGE_BREAK,
        BGE_DOCUMENT,
        BGE_BREAK,
        &[Part::Instruction],
    ],
    instruction: BGE_INSTRUCTION,
    limit: TemplateLimit::FlagEmbedding,
};

const BGE_QUERY: &[Part] = &[Part::Text("A: "), Part::Query];
const BGE_BREAK: &[Part] = &[Part::Text("\n")];
const BGE_DOCUMENT: &[Part] = &[Part::Text("B: "), Part::Document];
const BGE_INSTRUCTION: &str = "Given a query A and a passage B, determine whether the passage \
    contains an answer to the query by providing a prediction of either 'Yes' or 'No'.";

/// A form for pairs, tokenized but for the texts themselves.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PairForm {
    pub(super) frame: Frame,
    // What is glued before and after the query, and before the document.
    pub(super) query_label: Prompt,
    pub(super) query_tail: Prompt,
    pub(super) document_label: Prompt,
    // Tokens that a limit of the caller does not count; `None` where it counts all.
    pub(super) uncounted: Option<usize>,
}

impl PairForm {
    /// How far a pair may reach and what gives way, as the reference implementation of the form has
    /// it. `limit` is the caller's, `longest` what the model takes, both in tokens.
    pub fn truncation(
        &self,
        (limit, longest): (Option<usize>, usize),
        side: TruncationSide,
    ) -> PairTruncation {
        let Some(uncounted) = self.uncounted else {
            return PairTruncation::new(limit.unwrap_or(longest).min(longest), side);
        };
        let limit = limit.unwrap_or(longest.saturating_sub(uncounted));
        let shares = PairTruncation::new(limit, side);
        PairTruncation {
            max_tokens: limit.saturating_add(uncounted).min(longest),
            query_limit_tokens: shares.query_max_tokens,
            document_max_tokens: limit,
            ..shares
        }
    }

    /// Tokens in the span of the query that are not the query's.
    pub(super) fn query_labels(&self) -> usize {
        self.query_label.tokens() + self.query_tail.tokens()
    }

    /// The same for both spans.
    pub(super) fn labels(&self) -> usize {
        self.query_labels() + self.document_label.tokens()
    }
}

impl Tokenizer {
    /// The form that the tokenizer itself has for two texts, with special tokens around them.
    ///
    /// # Errors
    /// `Error::Unsupported` when it has none.
    pub fn pair_form(&self) -> Result<PairForm> {
        let Some(frame) = self.pair.clone() else {
            return Err(Error::Unsupported(
                "the tokenizer has no form for a query and a document, so the model cannot rerank"
                    .into(),
            ));
        };
        Ok(PairForm {
            frame,
            ..PairForm::default()
        })
    }

    /// The form that a template describes, with the caller's instruction or the template's.
    ///
    /// # Errors
    /// `Error::Unsupported` when a token of it is not in the vocabulary or a part has no place.
    pub fn template_form(
        &self,
        template: &PairTemplate,
        instruction: Option<&str>,
    ) -> Result<PairForm> {
        let instruction = instruction.unwrap_or(template.instruction);
        let mut form = PairForm::default();
        let mut after_document = 0;
        for span in template.spans {
            let place = span
                .iter()
                .position(|part| matches!(part, Part::Query | Part::Document));
            let Some(place) = place else {
                let ids = self.span_ids(span, instruction)?;
                form.frame.push_tokens(&ids);
                after_document += ids.len();
                continue;
            };
            let before = self.prepare_prompt(&glued(&span[..place], instruction)?)?;
            let after = self.prepare_prompt(&glued(&span[place + 1..], instruction)?)?;
            if span[place] == Part::Query {
                form.frame.push_first();
                (form.query_label, form.query_tail) = (before, after);
            } else {
                if !after.text.is_empty() {
                    return Err(misplaced());
                }
                form.frame.push_second();
                form.document_label = before;
                after_document = 0;
            }
        }
        form.uncounted = match template.limit {
            TemplateLimit::Whole => None,
            TemplateLimit::FlagEmbedding => Some(2 * after_document),
        };
        if form.frame.is_pair() {
            Ok(form)
        } else {
            Err(misplaced())
        }
    }

    /// The id of a word that is one token where it begins a text.
    ///
    /// # Errors
    /// `Error::Unsupported` when it is more than one.
    pub(crate) fn word_id(&self, word: &str) -> Result<u32> {
        match self.prepare_prompt(word)?.ids[..] {
            [id] => Ok(id),
            ref ids => Err(Error::Unsupported(format!(
                "the score is the logit of `{word}`, which is `{}` tokens to this tokenizer \
                 and not one",
                ids.len()
            ))),
        }
    }

    /// The tokens of a span without query and document.
    fn span_ids(&self, span: &[Part], instruction: &str) -> Result<Vec<u32>> {
        let [Part::Token(token)] = span else {
            return Ok(self.prepare_prompt(&glued(span, instruction)?)?.ids);
        };
        let id = self.inner.token_to_id(token).ok_or_else(|| {
            Error::Unsupported(format!(
                "the model's template begins with `{token}`, which its tokenizer does not have"
            ))
        })?;
        Ok(vec![id])
    }
}

/// The text of parts that have no place in them.
fn glued(parts: &[Part], instruction: &str) -> Result<String> {
    let text = |part: &Part| match part {
        Part::Text(text) => Ok((*text).to_owned()),
        Part::Instruction => Ok(instruction.to_owned()),
        Part::Token(_) | Part::Query | Part::Document => Err(misplaced()),
    };
    parts.iter().map(text).collect()
}

fn misplaced() -> Error {
    Error::Unsupported(
        "a template must have the query and the document once, in spans of their own, the \
         document at the end of its span, and named tokens alone in theirs"
            .into(),
    )
}
