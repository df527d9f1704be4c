//! The answers to prompts: all at once, or while they are written.

use std::collections::BTreeMap;

use serde::Serialize;
use utoipa::ToSchema;

use crate::{
    api::{
        answer::{new_id, now},
        generation::{DONE, EVENT_STREAM, TokenUsage, Write, sse, sse_error},
    },
    engine::request::{
        Choice, GenerateEvent, GenerateTimings, GenerateUsage, Generated, TokenLogprob,
    },
    error::Error,
};

/// What of the answers' form does not depend on the model.
#[derive(Debug, Default)]
pub struct Form {
    id: String,
    created: u64,
    model: String,
    /// Whether a stream ends with the token counts.
    tells_usage: bool,
    /// What stands in front of each answer.
    echoes: Vec<String>,
}

impl Form {
    /// A form as a request wants it.
    pub fn new(tells_usage: bool) -> Self {
        Self {
            tells_usage,
            ..Self::default()
        }
    }

    /// The form of the answers to some prompts, `n` to each, with a text in front of each prompt's.
    pub fn about(self, model: String, echoes: Vec<String>, n: usize) -> Self {
        Self {
            id: new_id("cmpl"),
            created: now(),
            model,
            echoes: echoes.into_iter().flat_map(|echo| vec![echo; n]).collect(),
            ..self
        }
    }
}

/// The answer to a completion, and each event of its stream.
#[derive(Debug, Serialize, ToSchema)]
pub struct CompletionAnswer<'a> {
    id: &'a str,
    /// Always `text_completion`.
    object: &'static str,
    /// Seconds since the Unix epoch.
    created: u64,
    /// The model as the caller named it.
    model: &'a str,
    choices: Vec<CompletionChoice>,
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<TokenUsage>,
}

/// One answer, or what is new in it.
#[derive(Debug, Serialize, ToSchema)]
struct CompletionChoice {
    index: usize,
    text: String,
    logprobs: Option<CompletionLogprobs>,
    /// `stop` or `length`; null while it is written.
    finish_reason: Option<&'static str>,
}

/// Log probabilities in four lists of the same length.
#[derive(Debug, Default, Serialize, ToSchema)]
struct CompletionLogprobs {
    tokens: Vec<String>,
    token_logprobs: Vec<f32>,
    top_logprobs: Vec<BTreeMap<String, f32>>,
    /// Where each token begins, in characters of the text.
    text_offset: Vec<usize>,
}

impl CompletionLogprobs {
    /// Nothing when none were asked for; `offset` goes on.
    fn new(logprobs: &[TokenLogprob], offset: &mut usize) -> Option<Self> {
        if logprobs.is_empty() {
            return None;
        }
        let mut lists = Self::default();
        for TokenLogprob { token, top } in logprobs {
            lists.tokens.push(token.text.clone());
            lists.token_logprobs.push(token.logprob.max(f32::MIN));
            let top = top
                .iter()
                .map(|t| (t.text.clone(), t.logprob.max(f32::MIN)));
            lists.top_logprobs.push(top.collect());
            lists.text_offset.push(*offset);
            *offset += token.text.chars().count();
        }
        Some(lists)
    }
}

/// The whole answer.
pub fn whole(generated: &Generated, form: &Form) -> Vec<u8> {
    let choices = generated.choices.iter().zip(&form.echoes).enumerate();
    let choice = |(index, (choice, echo)): (usize, (&Choice, &String))| CompletionChoice {
        index,
        text: format!("{echo}{}", choice.text),
        logprobs: CompletionLogprobs::new(&choice.logprobs, &mut echo.chars().count()),
        finish_reason: Some(choice.finish.reason.name()),
    };
    let answer = CompletionAnswer {
        id: &form.id,
        object: "text_completion",
        created: form.created,
        model: &form.model,
        choices: choices.map(choice).collect(),
        usage: Some(generated.usage.into()),
    };
    serde_json::to_vec(&answer).expect("numbers and strings always serialise")
}

/// Writes a stream.
pub struct CompletionWriter {
    form: Form,
    /// Characters of each answer so far.
    offsets: Vec<usize>,
}

impl CompletionWriter {
    /// For answers of this form.
    pub fn new(form: Form) -> Self {
        let offsets = form.echoes.iter().map(|echo| echo.chars().count());
        Self {
            offsets: offsets.collect(),
            form,
        }
    }

    fn chunk(
        &self,
        choice: Option<CompletionChoice>,
        usage: Option<TokenUsage>,
        out: &mut Vec<u8>,
    ) {
        let chunk = CompletionAnswer {
            id: &self.form.id,
            object: "text_completion",
            created: self.form.created,
            model: &self.form.model,
            choices: choice.into_iter().collect(),
            usage,
        };
        sse(&chunk, out);
    }
}

impl Write for CompletionWriter {
    const CONTENT_TYPE: &'static str = EVENT_STREAM;

    fn begin(&mut self, out: &mut Vec<u8>) {
        for (index, echo) in self.form.echoes.iter().enumerate() {
            if !echo.is_empty() {
                let choice = CompletionChoice {
                    index,
                    text: echo.clone(),
                    logprobs: None,
                    finish_reason: None,
                };
                self.chunk(Some(choice), None, out);
            }
        }
    }

    fn event(&mut self, event: GenerateEvent, out: &mut Vec<u8>) {
        let Some(offset) = self.offsets.get_mut(event.choice) else {
            return;
        };
        let logprobs = CompletionLogprobs::new(&event.logprobs, offset);
        if event.text.is_empty() && logprobs.is_none() && event.finish.is_none() {
            return;
        }
        let choice = CompletionChoice {
            index: event.choice,
            text: event.text,
            logprobs,
            finish_reason: event.finish.map(|finished| finished.reason.name()),
        };
        self.chunk(Some(choice), None, out);
    }

    fn end(&mut self, usage: GenerateUsage, _: GenerateTimings, out: &mut Vec<u8>) {
        if self.form.tells_usage {
            self.chunk(None, Some(usage.into()), out);
        }
        out.extend_from_slice(DONE);
    }

    fn broken(&mut self, error: &Error, out: &mut Vec<u8>) {
        sse_error(error, out);
    }
}
