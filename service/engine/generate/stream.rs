//! What a caller reads while answers are written. Dropping it ends them.

use std::{
    future::poll_fn,
    pin::Pin,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use tokio::{
    sync::mpsc::UnboundedReceiver,
    time::{Sleep, sleep},
};

use super::answer::Message;
use crate::{
    engine::request::{
        Choice, FinishReason, Finished, GenerateEvent, GenerateTimings, GenerateUsage, Generated,
    },
    error::{Error, Result},
};

/// The answers to a request, step by step. When it is dropped, nothing more is computed for them
/// after the step that is under way.
pub struct GenerateStream {
    replies: UnboundedReceiver<Message>,
    /// What was read before the caller asked for it.
    ahead: Option<Result<GenerateEvent>>,
    /// Answers that are not finished.
    open: usize,
    progress: Progress,
    deadline: Option<(Pin<Box<Sleep>>, Duration)>,
    /// Who counts the caller as present until the end.
    guards: Vec<Box<dyn Send + Sync>>,
}

/// What is known of a generation so far.
#[derive(Debug, Clone)]
struct Progress {
    prompt_tokens: usize,
    cached_tokens: usize,
    /// Of each answer.
    generated: Vec<usize>,
    tokenize: Duration,
    arrived: Instant,
    started: Option<Instant>,
    first: Option<Instant>,
    last: Option<Instant>,
}

/// What is known of a generation when it begins.
#[derive(Debug, Clone, Copy)]
pub struct Beginning {
    /// Answers that were asked for.
    pub choices: usize,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// What it took to find them.
    pub tokenize: Duration,
    /// When the caller stops waiting.
    pub deadline: Option<Instant>,
}

impl GenerateStream {
    /// Reads what a worker tells.
    pub fn new(replies: UnboundedReceiver<Message>, beginning: Beginning) -> Self {
        let now = Instant::now();
        let in_time = |deadline: Instant| {
            let left = deadline.saturating_duration_since(now);
            (Box::pin(sleep(left)), left)
        };
        Self {
            replies,
            ahead: None,
            open: beginning.choices,
            progress: Progress {
                prompt_tokens: beginning.prompt_tokens,
                cached_tokens: 0,
                generated: vec![0; beginning.choices],
                tokenize: beginning.tokenize,
                arrived: now,
                started: None,
                first: None,
                last: None,
            },
            deadline: beginning.deadline.map(in_time),
            guards: Vec::new(),
        }
    }

    /// Keeps something until the stream is dropped.
    pub fn guarded(mut self, guard: impl Send + Sync + 'static) -> Self {
        self.guards.push(Box::new(guard));
        self
    }

    /// Waits for the first event, which [`GenerateStream::next`] then gives.
    ///
    /// # Errors
    /// When there is none: what happened before the first token.
    pub async fn begin(&mut self) -> Result<()> {
        match self.next().await {
            Some(Err(error)) => Err(error),
            first => {
                self.ahead = first;
                Ok(())
            }
        }
    }

    /// The next event; `None` after the last answer has ended, and after an error.
    pub async fn next(&mut self) -> Option<Result<GenerateEvent>> {
        poll_fn(|context| self.poll_next(context)).await
    }

    /// As [`GenerateStream::next`], for those who poll.
    pub fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<GenerateEvent>>> {
        if let Some(ahead) = self.ahead.take() {
            return Poll::Ready(Some(ahead));
        }
        if self.open == 0 {
            return Poll::Ready(None);
        }
        if let Some((sleep, after)) = &mut self.deadline
            && sleep.as_mut().poll(context).is_ready()
        {
            let after = *after;
            return Poll::Ready(Some(Err(self.end(Error::Timeout { after }))));
        }
        while let Poll::Ready(message) = self.replies.poll_recv(context) {
            let error = match message {
                Some(Message::Started { cached, at }) => {
                    self.progress.start(cached, at);
                    continue;
                }
                Some(Message::Written {
                    event,
                    generated,
                    at,
                }) => {
                    self.progress.go_on(event.choice, generated, at);
                    self.open -= usize::from(event.finish.is_some());
                    return Poll::Ready(Some(Ok(event)));
                }
                Some(Message::Failed(error)) => error,
                None => Error::Internal("the worker stopped before it answered".into()),
            };
            return Poll::Ready(Some(Err(self.end(error))));
        }
        Poll::Pending
    }

    /// Nothing more is read, and nothing more is computed.
    fn end(&mut self, error: Error) -> Error {
        self.open = 0;
        self.replies.close();
        error
    }

    /// Token counts so far; those of the prompt from the beginning.
    pub fn usage(&self) -> GenerateUsage {
        GenerateUsage {
            prompt_tokens: self.progress.prompt_tokens,
            cached_tokens: self.progress.cached_tokens,
            completion_tokens: self.progress.generated.iter().sum(),
        }
    }

    /// Where the time went so far.
    pub fn timings(&self) -> GenerateTimings {
        let progress = &self.progress;
        let since = |from: Option<Instant>, to: Option<Instant>| match (from, to) {
            (Some(from), Some(to)) => to.saturating_duration_since(from),
            _ => Duration::ZERO,
        };
        GenerateTimings {
            tokenize: progress.tokenize,
            queue: since(Some(progress.arrived), progress.started),
            prefill: since(progress.started, progress.first),
            decode: since(progress.first, progress.last),
        }
    }

    /// Reads to the end.
    ///
    /// # Errors
    /// The first error of the stream.
    pub async fn collect(mut self) -> Result<Generated> {
        self.gather().await
    }

    /// As [`GenerateStream::collect`], for those who want to know how far it came.
    ///
    /// # Errors
    /// As [`GenerateStream::collect`].
    pub async fn gather(&mut self) -> Result<Generated> {
        let unfinished = Choice {
            text: String::new(),
            tokens: Vec::new(),
            logprobs: Vec::new(),
            finish: Finished {
                reason: FinishReason::Length,
                completion_tokens: 0,
            },
        };
        let mut choices = vec![unfinished; self.progress.generated.len()];
        while let Some(event) = self.next().await {
            let event = event?;
            if let Some(choice) = choices.get_mut(event.choice) {
                choice.text.push_str(&event.text);
                choice.tokens.extend(event.tokens);
                choice.logprobs.extend(event.logprobs);
                choice.finish = event.finish.unwrap_or(choice.finish);
            }
        }
        Ok(Generated {
            choices,
            usage: self.usage(),
            timings: self.timings(),
        })
    }
}

impl Progress {
    fn start(&mut self, cached: usize, at: Instant) {
        if self.started.is_none() {
            self.started = Some(at);
            self.cached_tokens = cached;
        }
    }

    fn go_on(&mut self, choice: usize, generated: usize, at: Instant) {
        self.first.get_or_insert(at);
        self.last = Some(at);
        if let Some(count) = self.generated.get_mut(choice) {
            *count = generated;
        }
    }
}
