//! What a request asks, checked against what a model can do, before anything is computed for it.

use std::sync::Arc;

use retort_models::{
    ControlTokens, DecoderInfo, GenerationDefaults, RenderedPart, Spelling, Tokenizer,
};

use super::sampling::SamplingPlan;
use crate::{
    engine::request::{EndOfText, GenerateRequest, Origin, PromptInput},
    error::{Error, Result},
};

/// The most answers to one request.
pub const MAX_CHOICES: usize = 16;
/// The most stop texts of one request.
const MAX_STOPS: usize = 16;
/// The most bytes of them together: all are looked for with every token.
const MAX_STOP_BYTES: usize = 16 << 10;
/// The most likelier tokens that are told of each token.
const MAX_TOP_LOGPROBS: usize = 20;

/// What is known of a model, as far as requests depend on it.
pub struct Known {
    /// What the checkpoint says.
    pub info: DecoderInfo,
    /// How it chooses tokens unless told otherwise.
    pub defaults: GenerationDefaults,
    /// Shared by all requests.
    pub tokenizer: Arc<Tokenizer>,
    /// What its tokens write.
    pub spelling: Arc<Spelling>,
    /// The most tokens of a prompt and its answer.
    pub max_context: usize,
    /// Tokens that end an answer.
    pub ends: Arc<[u32]>,
}

/// A request that makes sense.
#[derive(Debug, Clone, PartialEq)]
pub struct Checked {
    /// The prompt's token ids.
    pub prompt: Vec<u32>,
    /// How tokens are chosen.
    pub sampling: SamplingPlan,
    /// Texts that end an answer.
    pub stops: Vec<String>,
    /// Tokens that do.
    pub ends: Arc<[u32]>,
    /// The most tokens of an answer.
    pub max_tokens: usize,
}

/// Checks what needs no tokenizer.
///
/// # Errors
/// What is outside its range.
pub fn check(request: &GenerateRequest, known: &Known) -> Result<SamplingPlan> {
    let range = |field, value: usize, least: usize, most: usize| {
        if (least..=most).contains(&value) {
            return Ok(());
        }
        let message = format!("`{field}` is {value}; {least} to {most} are allowed");
        Err(Error::invalid(field, message))
    };
    range("n", request.n, 1, MAX_CHOICES)?;
    range("stop", request.stop.len(), 0, MAX_STOPS)?;
    range(
        "top_logprobs",
        request.logprobs.unwrap_or_default(),
        0,
        MAX_TOP_LOGPROBS,
    )?;
    if request.max_tokens == Some(0) {
        return Err(Error::invalid(
            "max_tokens",
            "`max_tokens` is 0; leave it out, or ask for at least 1",
        ));
    }
    if request.stop.iter().map(String::len).sum::<usize>() > MAX_STOP_BYTES {
        return Err(Error::invalid(
            "stop",
            format!("`stop` has more than {MAX_STOP_BYTES} bytes; shorten it"),
        ));
    }
    if request.stop.iter().any(String::is_empty) {
        return Err(Error::invalid(
            "stop",
            "`stop` has an empty text, which would end every answer at once; leave it out",
        ));
    }
    SamplingPlan::new(&request.sampling, &known.defaults)
}

/// Tokenizes the prompt and puts everything together. `sampling` is what [`check`] gave.
///
/// # Errors
/// When the prompt is empty, or leaves no room for an answer.
pub fn tokenize(
    request: &GenerateRequest,
    sampling: SamplingPlan,
    known: &Known,
) -> Result<Checked> {
    let wrong = |message: String| Error::invalid(request.field.name(), message);
    let prompt = match &request.prompt {
        PromptInput::Ids(ids) => ids.clone(),
        PromptInput::Text {
            pieces,
            special_tokens,
        } => {
            let bytes: usize = pieces.iter().map(|piece| piece.text.len()).sum();
            // So much text has too many tokens however it is tokenized.
            let least = bytes / known.spelling.longest();
            check_room(request, least, known)?;
            let parts: Vec<RenderedPart<'_>> = pieces
                .iter()
                .map(|piece| RenderedPart {
                    text: &piece.text,
                    control_tokens: match piece.origin {
                        Origin::Template => ControlTokens::Meant,
                        Origin::Message => ControlTokens::Plain,
                    },
                })
                .collect();
            known
                .tokenizer
                .encode_rendered(&parts, *special_tokens)
                .map_err(|error| wrong(error.to_string()))?
        }
    };
    let prompt = match known.info.bos_token_id {
        Some(begin) if prompt.is_empty() => vec![begin],
        _ => prompt,
    };
    if prompt.is_empty() {
        let message = "the prompt is empty; send at least one character";
        return Err(wrong(message.into()));
    }
    let size = known.info.vocab_size;
    if let Some(id) = prompt.iter().find(|&&id| id as usize >= size) {
        let message = format!("token id {id} is outside the vocabulary of {size} tokens");
        return Err(wrong(message));
    }
    let room = check_room(request, prompt.len(), known)?;
    let (stops, ends) = ends(request, known);
    Ok(Checked {
        prompt,
        sampling,
        stops,
        ends,
        max_tokens: request.max_tokens.unwrap_or(room).min(room),
    })
}

/// How many tokens an answer to a prompt of so many may have.
fn check_room(request: &GenerateRequest, tokens: usize, known: &Known) -> Result<usize> {
    match known.max_context.checked_sub(tokens) {
        None | Some(0) => Err(Error::ContextLength {
            field: request.field.name(),
            tokens,
            limit: known.max_context,
        }),
        Some(room) => Ok(room),
    }
}

/// The texts and tokens that end an answer. The name of a control token that is not part of the
/// text ends it by the token.
fn ends(request: &GenerateRequest, known: &Known) -> (Vec<String>, Arc<[u32]>) {
    let mut ends = match request.end_of_text {
        EndOfText::Ignored if request.constraint.is_none() => Vec::new(),
        // A form ends by these tokens.
        EndOfText::Honoured | EndOfText::Ignored => known.ends.to_vec(),
    };
    let named = |stop: &String| known.spelling.special_id(stop);
    ends.extend(request.stop.iter().filter_map(named));
    (request.stop.clone(), ends.into())
}
