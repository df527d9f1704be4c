//! One forward pass: the pipeline of one model, from inputs to vectors and scores.
//!
//! embed, score (compare), classify → tokenize → submit → device → schedule → batcher → worker →
//! finish, in this order of reading.

mod answers;
pub mod batcher;
mod cache;
mod classify;
mod compare;
mod conditioning;
mod device;
mod embed;
mod finish;
mod gpus;
mod inspect;
mod job;
pub mod priority;
mod queue;
mod schedule;
mod score;
mod shares;
mod similarity;
mod submit;
mod tokenize;
mod worker;

#[cfg(test)]
pub mod tests;

use std::{
    sync::Arc,
    thread::JoinHandle,
    time::{Duration, Instant},
};

use retort_models::{Encode, EncoderInfo, Encoding, LateInteraction, Tokenizer};

use self::{
    answers::Answers,
    device::Counter,
    job::{Done, Failure, Input, Job, Reply, Waiter},
    submit::Ask,
    worker::Worker,
};
pub use self::{
    batcher::{DeviceLimits, WorkerKind},
    cache::Cache,
    device::Device,
    gpus::GpuSchedules,
    job::Finish,
    tokenize::TokenizerPool,
};
use super::{
    fault::Faults,
    lane::{Scheduling, Tenant},
    request::{Backlog, Normalize, Timings, Truncate},
};
use crate::{
    error::{Error, Place, Result},
    telemetry::Telemetry,
};

/// What a pipeline is made of.
pub struct Parts {
    /// The served name.
    pub name: Arc<str>,
    /// What the checkpoint says about the model.
    pub info: EncoderInfo,
    /// Shared by all requests.
    pub tokenizer: Arc<Tokenizer>,
    /// How it tells queries from documents when their token vectors are compared.
    pub late_interaction: Option<LateInteraction>,
    /// The sessions, one a worker, and which cores each uses.
    pub encoders: Vec<(WorkerKind, Box<dyn Encode>)>,
    /// Where counts go.
    pub telemetry: Telemetry,
}

/// Bounds of a pipeline.
#[derive(Debug, Clone, Copy)]
pub struct PipelineLimits {
    /// The most tokens that may wait.
    pub max_queue_tokens: usize,
    /// Which request waits in which lane, and how long.
    pub scheduling: Scheduling,
    /// Whether vectors may be cut to lengths that the model was not trained for.
    pub untrained_dimensions: UntrainedDimensions,
}

/// What a pipeline shares with those of other models. Cheap to clone.
#[derive(Clone)]
pub struct Host {
    /// Where texts become token ids.
    pub pool: TokenizerPool,
    /// Where models run that are on the processor.
    pub device: Device,
    /// Where the others run.
    pub gpus: GpuSchedules,
    /// Where faults are told that no model survives.
    pub faults: Faults,
    /// What has been computed lately.
    pub cache: Cache,
}

/// Whether vectors may be cut to lengths that the model was not trained for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum UntrainedDimensions {
    /// Such a request is refused.
    #[default]
    Refused,
    /// The operator takes the loss.
    Allowed,
}

impl UntrainedDimensions {
    fn allowed(self) -> bool {
        self == Self::Allowed
    }
}

/// One served model: its tokenizer, its queue and the workers behind it.
pub struct Pipeline {
    name: Arc<str>,
    info: EncoderInfo,
    tokenizer: Arc<Tokenizer>,
    late_interaction: Option<LateInteraction>,
    pool: TokenizerPool,
    queue: Counter,
    cache: Cache,
    telemetry: Telemetry,
    untrained_dimensions: UntrainedDimensions,
    scheduling: Scheduling,
    workers: Vec<JoinHandle<()>>,
}

impl Pipeline {
    /// Starts the workers.
    ///
    /// # Errors
    /// When the operating system refuses a thread.
    pub fn start(parts: Parts, limits: PipelineLimits, host: Host) -> Result<Self> {
        let kinds: Vec<WorkerKind> = parts.encoders.iter().map(|(kind, _)| *kind).collect();
        let device = host.gpus.of(&host.device, &kinds);
        let (queue, seats) = device.add(&kinds, limits.max_queue_tokens);
        let mut pipeline = Self {
            name: parts.name,
            info: parts.info,
            tokenizer: parts.tokenizer,
            late_interaction: parts.late_interaction,
            pool: host.pool,
            queue,
            cache: host.cache,
            telemetry: parts.telemetry,
            untrained_dimensions: limits.untrained_dimensions,
            scheduling: limits.scheduling,
            workers: Vec::new(),
        };
        for (i, ((_, encoder), seat)) in parts.encoders.into_iter().zip(seats).enumerate() {
            let worker = Worker {
                seat,
                encoder,
                faults: host.faults.clone(),
                answers: Arc::new(Answers {
                    model: pipeline.name.clone(),
                    id: pipeline.queue.id(),
                    cache: pipeline.cache.clone(),
                    telemetry: pipeline.telemetry.clone(),
                }),
            };
            let thread = std::thread::Builder::new()
                .name(format!("encode-{i}"))
                .spawn(move || worker.run())
                .map_err(|error| Error::Internal(format!("worker thread: {error}")))?;
            pipeline.workers.push(thread);
        }
        Ok(pipeline)
    }

    /// What the checkpoint says about the model.
    pub fn info(&self) -> &EncoderInfo {
        &self.info
    }

    /// A real forward pass ahead of whatever waits; how long it took.
    ///
    /// # Errors
    /// What the forward pass says, or [`Error::Timeout`].
    pub async fn probe(&self, patience: Duration) -> Result<Duration> {
        let started = Instant::now();
        // A model that has just finished a batch has proven itself.
        if self
            .queue
            .since_last_finished()
            .is_some_and(|ago| ago < Duration::from_secs(1))
        {
            return Ok(started.elapsed());
        }
        let truncation = tokenize::truncation(Truncate::default(), self.info.max_tokens)?;
        let mut encoding = self
            .tokenizer
            .encode("ready", truncation)
            .map_err(|error| Error::Internal(error.to_string()))?;
        // Any task is as good as another to see whether the model runs.
        encoding.adapter = self.info.needs_task().then_some(0);
        let finish = Finish {
            dimensions: None,
            normalize: Normalize::Yes,
        };
        let heads = self.info.heads;
        let (waiter, done) = Waiter::new(heads, finish, None);
        let job = Job::new(Input::new(encoding, heads), Tenant::default());
        self.queue.push_first(job, waiter);
        tokio::time::timeout(patience, answer(Place::Input(0), done))
            .await
            .map_err(|_| Error::Timeout { after: patience })??;
        Ok(started.elapsed())
    }

    /// What waits now.
    pub fn backlog(&self) -> Backlog {
        self.queue.backlog()
    }

    /// Refuses new work; what waits is still done.
    pub fn close(&self) {
        self.queue.close();
    }

    /// Refuses early, before the cost of tokenization; every input is at least one token.
    fn room_for(&self, inputs: usize) -> Result<()> {
        self.queue
            .check_room(inputs)
            .inspect_err(|_| self.telemetry.request_refused(&self.name))
    }

    /// Notes what tokenization gave and how long it took.
    fn tokenized<'a>(
        &self,
        started: Instant,
        encodings: impl IntoIterator<Item = &'a Encoding>,
    ) -> Timings {
        let tokenize = started.elapsed();
        let tokens = encodings.into_iter().map(|e| e.input_ids.len()).sum();
        self.telemetry.tokenized(&self.name, tokenize, tokens);
        Timings {
            tokenize,
            ..Timings::default()
        }
    }
}

impl Drop for Pipeline {
    /// Waits for the workers, so that no thread is inside ONNX Runtime when the process ends.
    fn drop(&mut self) {
        self.queue.close();
        for worker in self.workers.drain(..) {
            if worker.join().is_err() {
                tracing::error!(model = %self.name, "a worker thread had panicked");
            }
        }
        self.cache.forget(self.queue.id());
    }
}

async fn answer(place: Place, reply: Reply) -> Result<Done> {
    match reply.await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(Failure::BadOutput(fault))) => Err(Error::BadOutput { place, fault }),
        Ok(Err(Failure::Inference(error))) => Err(Error::Internal(error)),
        Ok(Err(Failure::NoMemory(error))) => Err(Error::InsufficientMemory(error)),
        Ok(Err(Failure::DeviceLost(reason))) => Err(Faults::error(&reason)),
        Ok(Err(Failure::Late { after })) => Err(Error::Timeout { after }),
        Err(_) => Err(Error::Internal(
            "the worker stopped before it answered".into(),
        )),
    }
}

/// Keeps the longest wait and the longest forward pass.
fn note(timings: &mut Timings, done: &Done) {
    timings.queue = timings.queue.max(done.queue);
    timings.inference = timings.inference.max(done.inference);
}
