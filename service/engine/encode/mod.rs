//! One forward pass: the pipeline of one model, from inputs to vectors.
//!
//! tokenize → queue → batcher → worker, in this order of reading.

pub mod batcher;
mod job;
mod queue;
mod tokenize;
mod worker;

#[cfg(test)]
mod tests;

use std::{
    sync::Arc,
    thread::JoinHandle,
    time::{Duration, Instant},
};

use retort_models::{Encode, EncoderInfo, Encoding, Heads, Tokenizer};
use tokio::sync::oneshot;

pub use self::{
    batcher::{AllCoresWorker, BatchLimits, WorkerKind},
    job::Finish,
    tokenize::TokenizerPool,
};
use self::{
    job::{Done, Failure, Job},
    queue::Queue,
    worker::Worker,
};
use super::request::{EmbedRequest, EmbedResponse, Embedding, Normalize, Timings, Truncate, Usage};
use crate::{
    error::{Error, Result},
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
    /// The sessions, one a worker, and which cores each uses.
    pub encoders: Vec<(WorkerKind, Box<dyn Encode>)>,
    /// Where counts go.
    pub telemetry: Telemetry,
}

/// Bounds of a pipeline.
#[derive(Debug, Clone, Copy)]
pub struct PipelineLimits {
    /// The most tokens in one forward pass.
    pub max_batch_tokens: usize,
    /// The most tokens that may wait.
    pub max_queue_tokens: usize,
}

/// One served model: its tokenizer, its queue and the workers behind it.
pub struct Pipeline {
    name: Arc<str>,
    info: EncoderInfo,
    tokenizer: Arc<Tokenizer>,
    pool: TokenizerPool,
    queue: Arc<Queue>,
    telemetry: Telemetry,
    workers: Vec<JoinHandle<()>>,
}

impl Pipeline {
    /// Starts the workers.
    ///
    /// # Errors
    /// When the operating system refuses a thread.
    pub fn start(parts: Parts, limits: PipelineLimits, pool: TokenizerPool) -> Result<Self> {
        let shares = parts
            .encoders
            .iter()
            .filter(|(kind, _)| *kind == WorkerKind::Share)
            .count();
        let batch_limits = BatchLimits {
            max_batch_tokens: limits.max_batch_tokens,
            workers: shares,
            all_cores_worker: if shares < parts.encoders.len() {
                AllCoresWorker::Present
            } else {
                AllCoresWorker::Absent
            },
        };
        let queue = Arc::new(Queue::new(limits.max_queue_tokens, batch_limits));
        let mut pipeline = Self {
            name: parts.name,
            info: parts.info,
            tokenizer: parts.tokenizer,
            pool,
            queue,
            telemetry: parts.telemetry,
            workers: Vec::new(),
        };
        for (i, (kind, encoder)) in parts.encoders.into_iter().enumerate() {
            let worker = Worker {
                kind,
                model: pipeline.name.clone(),
                queue: pipeline.queue.clone(),
                telemetry: pipeline.telemetry.clone(),
                encoder,
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

    /// Vectors for all inputs of a request, in order.
    ///
    /// # Errors
    /// The first input that is not valid; [`Error::Overloaded`] when the queue has no room;
    /// [`Error::BadOutput`] when the model's answer to an input is not a vector.
    pub async fn embed(&self, request: EmbedRequest) -> Result<EmbedResponse> {
        let finish = self.finish(&request)?;
        self.room_for(request.inputs.len())?;
        let started = Instant::now();
        let truncation = tokenize::truncation(request.truncate, self.info.max_tokens)?;
        let encodings = self
            .pool
            .encode(self.tokenizer.clone(), request.inputs, truncation)
            .await?;
        let tokenize = started.elapsed();
        let counts: Vec<_> = encodings
            .iter()
            .map(|e| (e.input_ids.len(), e.tokens_cut))
            .collect();
        self.telemetry
            .tokenized(&self.name, tokenize, counts.iter().map(|(n, _)| n).sum());
        let done = self.run(encodings, finish).await?;
        Ok(response(&self.name, done, &counts, tokenize))
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
        let encoding = self
            .tokenizer
            .encode("ready", truncation)
            .map_err(|error| Error::Internal(error.to_string()))?;
        let finish = Finish {
            dimensions: None,
            normalize: Normalize::Yes,
        };
        let (job, done) = job(encoding, self.info.heads, finish);
        self.queue.push_first(job);
        tokio::time::timeout(patience, answer(0, done))
            .await
            .map_err(|_| Error::Timeout { after: patience })??;
        Ok(started.elapsed())
    }

    /// Refuses new work; what waits is still done.
    pub fn close(&self) {
        self.queue.close();
    }

    fn finish(&self, request: &EmbedRequest) -> Result<Finish> {
        let own = self.info.dimensions;
        match request.dimensions {
            Some(wanted) if wanted == 0 || wanted > own => Err(Error::invalid(
                "dimensions",
                format!(
                    "`dimensions` is {wanted}; model `{}` has 1 to {own}",
                    self.name
                ),
            )),
            dimensions => Ok(Finish {
                dimensions,
                normalize: request.normalize,
            }),
        }
    }

    /// Refuses early, before the cost of tokenization; every input is at least one token.
    fn room_for(&self, inputs: usize) -> Result<()> {
        self.queue
            .check_room(inputs)
            .inspect_err(|_| self.telemetry.request_refused(&self.name))
    }

    async fn run(&self, encodings: Vec<Encoding>, finish: Finish) -> Result<Vec<Done>> {
        let (jobs, replies): (Vec<_>, Vec<_>) = encodings
            .into_iter()
            .map(|encoding| job(encoding, Heads::DENSE, finish))
            .unzip();
        let waiting = self
            .queue
            .push(jobs)
            .inspect_err(|_| self.telemetry.request_refused(&self.name))?;
        self.telemetry.queue_changed(&self.name, waiting);
        let mut done = Vec::with_capacity(replies.len());
        for (index, reply) in replies.into_iter().enumerate() {
            done.push(answer(index, reply).await?);
        }
        Ok(done)
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
    }
}

type Reply = oneshot::Receiver<Result<Done, Failure>>;

fn job(encoding: Encoding, heads: Heads, finish: Finish) -> (Job, Reply) {
    let (reply, done) = oneshot::channel();
    (
        Job {
            encoding,
            heads,
            finish,
            arrived: Instant::now(),
            reply,
        },
        done,
    )
}

async fn answer(index: usize, reply: Reply) -> Result<Done> {
    match reply.await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(Failure::BadOutput(fault))) => Err(Error::BadOutput { index, fault }),
        Ok(Err(Failure::Inference(error))) => Err(Error::Internal(error)),
        Err(_) => Err(Error::Internal(
            "the worker stopped before it answered".into(),
        )),
    }
}

fn response(
    name: &str,
    done: Vec<Done>,
    counts: &[(usize, usize)],
    tokenize: Duration,
) -> EmbedResponse {
    let timings = Timings {
        tokenize,
        queue: done.iter().map(|d| d.queue).max().unwrap_or_default(),
        inference: done.iter().map(|d| d.inference).max().unwrap_or_default(),
    };
    let usage = Usage {
        prompt_tokens: counts.iter().map(|(tokens, _)| tokens).sum(),
        cut_tokens: counts.iter().map(|(_, cut)| cut).sum(),
        cut_inputs: counts.iter().filter(|(_, cut)| *cut > 0).count(),
    };
    let embeddings = done
        .into_iter()
        .zip(counts)
        .map(|(done, &(tokens, tokens_cut))| Embedding {
            vector: done.values.dense.into_iter().flatten().collect(),
            tokens,
            tokens_cut,
        })
        .collect();
    EmbedResponse {
        model: name.to_owned(),
        embeddings,
        usage,
        timings,
    }
}
