//! Token by token: the pipeline of one model that generates, from prompts to streams of text.
//!
//! prompt → inbox → scheduler → worker → sampling → answer → stream, in this order of reading.

mod answer;
mod detokenize;
mod grammar;
mod inbox;
mod logprobs;
mod penalties;
mod prompt;
mod random;
pub mod reasoning;
mod sampling;
mod scheduler;
mod stop;
mod stream;
pub mod template;
mod worker;

#[cfg(test)]
pub mod fake;
#[cfg(test)]
mod tests;

use std::{
    sync::{Arc, OnceLock},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use retort_models::{
    BlockPool, DecoderInfo, Generate, GenerationDefaults, SpecialTokens, Tokenizer,
};
use tokio::sync::mpsc::unbounded_channel;

use self::{
    answer::{Answer, AnswerParts},
    detokenize::Detokenizer,
    grammar::{Form, Grammars},
    inbox::{Inbox, Request},
    prompt::{Checked, Known},
    sampling::Sampler,
    scheduler::{Scheduler, SchedulerLimits},
    stop::StopTexts,
    stream::Beginning,
    template::{ChatTemplate, SpecialTexts},
    worker::{Worker, WorkerParts},
};
pub use self::{grammar::with_short_gaps, prompt::MAX_CHOICES, stream::GenerateStream};
use super::{
    encode::priority,
    lane::Tenant,
    request::{Backlog, Chats, EndOfText, GenerateRequest, PromptInput, Sampling},
};
use crate::{
    error::{Error, Result},
    telemetry::{Telemetry, generate::LANE},
};

/// Sequences that are computed at the same time. More of them are more tokens a second for each
/// pass over the weights, until the arithmetic is what takes the time.
pub const MAX_SEQUENCES: usize = 16;
/// Tokens of prompts in a step in which somebody writes: on a few cores a step of so many takes a
/// fraction of a second for a small model, and that is how long others stand still.
pub const MAX_PREFILL_TOKENS: usize = 64;

/// What a pipeline is made of.
pub struct Parts {
    /// The served name.
    pub name: Arc<str>,
    /// What the checkpoint says about the model.
    pub info: DecoderInfo,
    /// How it chooses tokens unless told otherwise.
    pub defaults: GenerationDefaults,
    /// Shared by all requests.
    pub tokenizer: Arc<Tokenizer>,
    /// How it turns messages into a prompt.
    pub chat_template: Option<Arc<str>>,
    /// The model itself.
    pub generator: Box<dyn Generate>,
    /// Where counts go.
    pub telemetry: Telemetry,
}

/// Bounds of a pipeline.
#[derive(Debug, Clone, Copy)]
pub struct PipelineLimits {
    /// The most tokens of prompts that may wait.
    pub max_queue_tokens: usize,
    /// Sequences that are computed at the same time.
    pub max_sequences: usize,
    /// Tokens of prompts in a step in which somebody writes.
    pub max_prefill_tokens: usize,
}

/// One served model that generates: its tokenizer, its inbox and the worker behind it.
pub struct Pipeline {
    name: Arc<str>,
    known: Known,
    chat_template: Option<Arc<str>>,
    /// Compiled for the first request that needs it.
    template: OnceLock<Result<Arc<ChatTemplate>>>,
    /// Made for the first request that needs it.
    grammars: OnceLock<Result<Grammars>>,
    inbox: Arc<Inbox>,
    telemetry: Telemetry,
    worker: Option<JoinHandle<()>>,
}

impl Pipeline {
    /// Starts the worker.
    ///
    /// # Errors
    /// When the tokenizer cannot say what its tokens write, or the operating system refuses a
    /// thread.
    pub fn start(parts: Parts, limits: PipelineLimits) -> Result<Self> {
        let internal = |error: &dyn std::fmt::Display| Error::Internal(error.to_string());
        let bounds = parts.generator.info();
        let pool = BlockPool::new(bounds.kv_blocks, bounds.kv_block_tokens);
        let scheduler_limits = SchedulerLimits {
            max_sequences: limits.max_sequences,
            max_step_tokens: bounds.max_step_tokens,
            max_prefill_tokens: limits.max_prefill_tokens,
        };
        let scheduler = Scheduler::new(scheduler_limits, pool);
        let spelling = parts.tokenizer.spelling().map_err(|e| internal(&e))?;
        let known = Known {
            // A sequence that fills the cache alone is the longest that can ever be finished.
            max_context: bounds.max_context.min(scheduler.capacity()),
            ends: parts.info.eos_token_ids.clone().into(),
            info: parts.info,
            defaults: parts.defaults,
            tokenizer: parts.tokenizer,
            spelling: Arc::new(spelling),
        };
        let inbox = Arc::new(Inbox::new(limits.max_queue_tokens));
        let worker = Worker::new(WorkerParts {
            model: parts.name.clone(),
            inbox: inbox.clone(),
            generator: parts.generator,
            scheduler,
            telemetry: parts.telemetry.clone(),
        });
        let thread = std::thread::Builder::new()
            .name("generate".into())
            .spawn(move || {
                priority::lower();
                worker.run();
            })
            .map_err(|error| Error::Internal(format!("worker thread: {error}")))?;
        Ok(Self {
            name: parts.name,
            known,
            chat_template: parts.chat_template,
            template: OnceLock::new(),
            grammars: OnceLock::new(),
            inbox,
            telemetry: parts.telemetry,
            worker: Some(thread),
        })
    }

    /// The served name.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// What the checkpoint says about the model.
    pub fn info(&self) -> &DecoderInfo {
        &self.known.info
    }

    /// Its tokenizer.
    pub fn tokenizer(&self) -> &Arc<Tokenizer> {
        &self.known.tokenizer
    }

    /// What turns messages into a prompt.
    ///
    /// # Errors
    /// When the checkpoint has none, or one that cannot be read.
    pub fn template(&self) -> Result<Arc<ChatTemplate>> {
        self.template.get_or_init(|| self.compile()).clone()
    }

    /// What it makes of messages.
    pub fn chats(&self) -> Chats {
        match self.chat_template.as_deref() {
            None => Chats::No,
            Some(source) if template::knows_functions(source) => Chats::WithTools,
            Some(_) => Chats::Plainly,
        }
    }

    fn compile(&self) -> Result<Arc<ChatTemplate>> {
        let refused =
            |what: String| Error::invalid("model", format!("model `{}` {what}", self.name));
        let source = self.chat_template.as_deref().ok_or_else(|| {
            let what = "has no chat template, so it cannot answer messages; send a prompt to \
                        `/v1/completions`";
            refused(what.into())
        })?;
        let tokenizer = self.tokenizer();
        let named = |id: Option<u32>| id.and_then(|id| tokenizer.id_to_token(id));
        let special = SpecialTexts {
            bos: named(self.info().bos_token_id).unwrap_or_default(),
            eos: named(self.info().eos_token_ids.first().copied()).unwrap_or_default(),
            control: tokenizer.special_texts(),
        };
        let template = ChatTemplate::compile(source, special);
        template
            .map(Arc::new)
            .map_err(|reason| refused(format!("has a chat template that cannot be read: {reason}")))
    }

    /// Refuses early what would be refused later: what is out of range, or too much for now.
    ///
    /// # Errors
    /// What is wrong with a request, or [`Error::Overloaded`].
    pub fn check(&self, requests: &[GenerateRequest]) -> Result<()> {
        for request in requests {
            prompt::check(request, &self.known)?;
        }
        self.room_for(requests.iter().map(|request| request.n).sum())
    }

    /// Starts to answer somebody. Blocks while the prompt is tokenized.
    ///
    /// # Errors
    /// As [`Pipeline::check`]; and when the prompt is empty or leaves no room for an answer.
    pub fn submit(&self, request: &GenerateRequest, tenant: Tenant) -> Result<GenerateStream> {
        let (request, stream) = self.prepare(request, tenant)?;
        self.push(vec![request])?;
        Ok(stream)
    }

    /// As [`Pipeline::submit`] for several prompts of somebody. Nothing is computed for any of them
    /// unless all are taken.
    ///
    /// # Errors
    /// As [`Pipeline::submit`].
    pub fn submit_all(
        &self,
        requests: &[GenerateRequest],
        tenant: Tenant,
    ) -> Result<Vec<GenerateStream>> {
        let prepared = requests.iter().map(|one| self.prepare(one, tenant));
        let prepared = prepared.collect::<Result<Vec<_>>>()?;
        let (mut requests, streams): (Vec<Request>, _) = prepared.into_iter().unzip();
        let mut ahead = 0;
        for request in &mut requests {
            request.ahead = ahead;
            ahead += request.answers.len();
        }
        self.push(requests)?;
        Ok(streams)
    }

    fn prepare(
        &self,
        request: &GenerateRequest,
        tenant: Tenant,
    ) -> Result<(Request, GenerateStream)> {
        let started = Instant::now();
        let sampling = prompt::check(request, &self.known)?;
        let checked = prompt::tokenize(request, sampling, &self.known)?;
        let form = self.form(request)?;
        let tokenize = started.elapsed();
        self.telemetry
            .tokenized(&self.name, tokenize, checked.prompt.len());
        self.room_for(checked.prompt.len() * request.n)?;
        let beginning = Beginning {
            choices: request.n,
            prompt_tokens: checked.prompt.len(),
            tokenize,
            deadline: request.deadline,
        };
        let (replies, reader) = unbounded_channel();
        let answers = (0..request.n).map(|choice| {
            Answer::new(AnswerParts {
                choice,
                sampler: Sampler::new(checked.sampling, &checked.prompt, choice),
                writer: self.writer(&checked, request.special_tokens),
                stops: StopTexts::new(&checked.stops),
                form: form.as_ref().map(Form::another),
                logprobs: request.logprobs,
                ends: checked.ends.clone(),
                max_tokens: checked.max_tokens,
                spelling: self.known.spelling.clone(),
                replies: replies.clone(),
            })
        });
        let answers = answers.collect();
        let request = Request {
            prompt: checked.prompt,
            answers,
            ahead: 0,
            tenant,
            arrived: Instant::now(),
        };
        Ok((request, GenerateStream::new(reader, beginning)))
    }

    fn push(&self, requests: Vec<Request>) -> Result<()> {
        let waiting = self.inbox.push(requests);
        let waiting = waiting.inspect_err(|_| self.telemetry.request_refused(&self.name))?;
        self.telemetry.queue_changed(&self.name, LANE, waiting);
        Ok(())
    }

    fn writer(&self, checked: &Checked, special_tokens: SpecialTokens) -> Detokenizer {
        let spelling = self.known.spelling.clone();
        Detokenizer::new(spelling, &checked.prompt, special_tokens)
    }

    fn form(&self, request: &GenerateRequest) -> Result<Option<Form>> {
        let Some(constraint) = &request.constraint else {
            return Ok(None);
        };
        let make = || Grammars::new(self.known.spelling.clone(), self.known.ends.clone());
        let grammars = self.grammars.get_or_init(make).as_ref();
        grammars.map_err(Clone::clone)?.read(constraint).map(Some)
    }

    fn room_for(&self, tokens: usize) -> Result<()> {
        self.inbox
            .check_room(tokens)
            .inspect_err(|_| self.telemetry.request_refused(&self.name))
    }

    /// A real step; how long it took.
    ///
    /// # Errors
    /// What the step says, or [`Error::Timeout`].
    pub async fn probe(&self, patience: Duration) -> Result<Duration> {
        let started = Instant::now();
        // A model that has just finished a step has proven itself. One that is at work has time for
        // the step it is in; a probe would only stand behind all who wait, or find no room.
        let enough = match self.inbox.is_at_work() {
            true => patience.max(Duration::from_secs(1)),
            false => Duration::from_secs(1),
        };
        let last = self.inbox.since_last_finished();
        if last.is_some_and(|ago| ago < enough) {
            return Ok(started.elapsed());
        }
        let begin = self.known.info.bos_token_id.unwrap_or(0);
        let request = GenerateRequest {
            max_tokens: Some(1),
            end_of_text: EndOfText::Ignored,
            sampling: Sampling {
                temperature: Some(0.0),
                ..Sampling::default()
            },
            ..GenerateRequest::new(PromptInput::Ids(vec![begin]))
        };
        let stream = self.submit(&request, Tenant::default())?;
        tokio::time::timeout(patience, stream.collect())
            .await
            .map_err(|_| Error::Timeout { after: patience })??;
        Ok(started.elapsed())
    }

    /// What waits now.
    pub fn backlog(&self) -> Backlog {
        self.inbox.backlog()
    }

    /// Refuses new work; what is inside is still done.
    pub fn close(&self) {
        self.inbox.close();
    }
}

impl Drop for Pipeline {
    /// Waits for the worker's step, so that no thread is inside ONNX Runtime when the process
    /// ends. Answers that are still being written are given up.
    fn drop(&mut self) {
        self.inbox.cut();
        let ended = self.worker.take().map(JoinHandle::join);
        if ended.is_some_and(|ended| ended.is_err()) {
            tracing::error!(model = %self.name, "a worker thread had panicked");
        }
    }
}
