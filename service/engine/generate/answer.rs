//! One answer while it is written: from a row of logits to a token, from tokens to text, and when
//! it ends. Everything here belongs to one sequence, so nobody else can change what it says.

use std::{collections::VecDeque, sync::Arc, time::Instant};

use retort_models::Spelling;
use tokio::sync::mpsc::UnboundedSender;

use super::{
    detokenize::Detokenizer,
    grammar::{Form, Progress},
    logprobs::logprobs,
    sampling::Sampler,
    stop::StopTexts,
};
use crate::{
    engine::request::{FinishReason, Finished, GenerateEvent, TokenLogprob},
    error::{Error, Result},
};

/// What a worker tells whoever reads an answer.
#[derive(Debug)]
pub enum Message {
    /// Its prompt is being computed from now on.
    Started {
        /// Tokens of it that were in the cache.
        cached: usize,
        /// Since when.
        at: Instant,
    },
    /// It goes on.
    Written {
        /// What came.
        event: GenerateEvent,
        /// Tokens generated for this answer so far.
        generated: usize,
        /// When.
        at: Instant,
    },
    /// It is over.
    Failed(Error),
}

/// What an answer is made with.
pub struct AnswerParts {
    /// Which of the answers to a request.
    pub choice: usize,
    /// Chooses tokens.
    pub sampler: Sampler,
    /// Makes them text.
    pub writer: Detokenizer,
    /// Ends it by its text.
    pub stops: StopTexts,
    /// What it must look like.
    pub form: Option<Form>,
    /// How many likelier tokens are told of each.
    pub logprobs: Option<usize>,
    /// Tokens that end it.
    pub ends: Arc<[u32]>,
    /// The most tokens, at least one.
    pub max_tokens: usize,
    /// What tokens write.
    pub spelling: Arc<Spelling>,
    /// Who reads it.
    pub replies: UnboundedSender<Message>,
}

/// An answer that is being written.
pub struct Answer {
    parts: AnswerParts,
    generated: usize,
    /// Bytes of text so far, and those that were sent.
    written: usize,
    sent: usize,
    /// Tokens whose text was not all sent.
    held: VecDeque<Held>,
    scratch: Vec<f32>,
}

/// A token that waits for its text.
struct Held {
    id: u32,
    logprob: Option<TokenLogprob>,
    /// Where its text begins and ends.
    start: usize,
    end: usize,
}

/// What a token meant for an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It goes on after this token.
    Open(u32),
    /// It is complete.
    Ended,
}

impl Answer {
    /// Nothing is written yet.
    pub fn new(parts: AnswerParts) -> Self {
        Self {
            parts,
            generated: 0,
            written: 0,
            sent: 0,
            held: VecDeque::new(),
            scratch: Vec::new(),
        }
    }

    /// Whether nobody reads it any more.
    pub fn is_abandoned(&self) -> bool {
        self.parts.replies.is_closed()
    }

    /// Tells the reader that the prompt is being computed. Only the first time counts.
    pub fn started(&self, cached: usize, at: Instant) {
        if self.generated == 0 {
            self.tell(Message::Started { cached, at });
        }
    }

    /// Tells the reader that nothing more comes.
    pub fn fail(&self, error: Error) {
        self.tell(Message::Failed(error));
    }

    /// Whether no token has been written yet.
    pub fn is_new(&self) -> bool {
        self.generated == 0
    }

    /// Chooses the next token and sends what it makes certain. `logits` is `[vocab]`.
    ///
    /// # Errors
    /// When the logits or the form make no sense.
    pub fn go_on(&mut self, logits: &[f32]) -> Result<Outcome> {
        let id = self.choose(logits)?;
        self.generated += 1;
        if self.parts.ends.contains(&id) {
            self.flush(FinishReason::Stop);
            return Ok(Outcome::Ended);
        }
        let top = self.parts.logprobs;
        let logprob = top.map(|top| logprobs(logits, id, top, &self.parts.spelling));
        if self.write(id, logprob) {
            return Ok(Outcome::Ended);
        }
        let complete = match &mut self.parts.form {
            Some(form) => form.accept(id)? == Progress::Complete,
            None => false,
        };
        if complete {
            self.flush(FinishReason::Stop);
            return Ok(Outcome::Ended);
        }
        if self.generated >= self.parts.max_tokens {
            self.flush(FinishReason::Length);
            return Ok(Outcome::Ended);
        }
        Ok(Outcome::Open(id))
    }

    fn choose(&mut self, logits: &[f32]) -> Result<u32> {
        let internal = |fault| Error::Internal(format!("{fault}"));
        Sampler::check(logits).map_err(internal)?;
        self.scratch.clear();
        self.scratch.extend_from_slice(logits);
        self.parts.sampler.penalize(&mut self.scratch);
        if let Some(form) = &mut self.parts.form {
            form.mask(&mut self.scratch)?;
        }
        self.parts.sampler.choose(&self.scratch).map_err(internal)
    }

    /// Writes a token and sends what is certain; whether a stop text has ended the answer.
    fn write(&mut self, id: u32, logprob: Option<TokenLogprob>) -> bool {
        let start = self.written;
        let text = self.parts.writer.push(id);
        self.written += text.len();
        // Half a character belongs to the text that its other half completes.
        let end = self.written + usize::from(self.parts.writer.is_pending());
        self.held.push_back(Held {
            id,
            logprob,
            start,
            end,
        });
        let passed = self.parts.stops.push(&text);
        self.sent += passed.text.len();
        let reason = passed.stopped.then_some(FinishReason::Stop);
        self.send(passed.text, reason);
        passed.stopped
    }

    /// Sends what was held back, with the end of the answer.
    fn flush(&mut self, reason: FinishReason) {
        let half = self.parts.writer.finish();
        self.written += half.len();
        let mut passed = self.parts.stops.push(&half);
        let mut reason = reason;
        if passed.stopped {
            reason = FinishReason::Stop;
        } else {
            passed.text.push_str(&self.parts.stops.finish());
        }
        self.sent += passed.text.len();
        self.send(passed.text, Some(reason));
    }

    fn send(&mut self, text: String, reason: Option<FinishReason>) {
        let is_out = |held: &Held| match reason {
            // Of the last tokens, those that are in the text at all; the text may end within one.
            Some(FinishReason::Stop) => held.start < self.sent,
            Some(FinishReason::Length) => true,
            None => held.end <= self.sent,
        };
        let out = self.held.iter().take_while(|held| is_out(held)).count();
        let out: Vec<Held> = self.held.drain(..out).collect();
        if text.is_empty() && out.is_empty() && reason.is_none() {
            return;
        }
        let finish = reason.map(|reason| Finished {
            reason,
            completion_tokens: self.generated,
        });
        let event = GenerateEvent {
            choice: self.parts.choice,
            text,
            tokens: out.iter().map(|held| held.id).collect(),
            logprobs: out.into_iter().filter_map(|held| held.logprob).collect(),
            finish,
        };
        self.tell(Message::Written {
            event,
            generated: self.generated,
            at: Instant::now(),
        });
    }

    fn tell(&self, message: Message) {
        // The reader may have left; the worker finds that out before the next step.
        let _ = self.parts.replies.send(message);
    }
}
