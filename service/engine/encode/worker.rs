//! The thread that owns a session: takes a batch whenever it is free, runs it, answers each job.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::{Duration, Instant},
};

use retort_models::{Batch, Encode, Heads, Output};

use super::{
    batcher::WorkerKind,
    finish::finish,
    job::{Done, Failure, Job},
    queue::{Queue, Taken},
};
use crate::telemetry::{BatchStats, Telemetry};

/// Everything a worker thread holds.
pub struct Worker {
    /// Which part of the machine its session uses.
    pub kind: WorkerKind,
    /// The served name of the model, for the metrics.
    pub model: Arc<str>,
    /// Where work comes from.
    pub queue: Arc<Queue>,
    /// Where counts go.
    pub telemetry: Telemetry,
    /// The session.
    pub encoder: Box<dyn Encode>,
}

impl Worker {
    /// Works until the queue is closed and empty.
    pub fn run(mut self) {
        while let Some(taken) = self.queue.take(self.kind) {
            self.work(taken);
        }
    }

    fn work(&mut self, taken: Taken) {
        self.telemetry
            .queue_changed(&self.model, taken.waiting_tokens);
        if taken.dropped > 0 {
            self.telemetry.jobs_dropped(&self.model, taken.dropped);
        }
        let jobs = taken.jobs;
        let batch = batch_of(&jobs);
        let started = Instant::now();
        let outputs = self.encode(&batch);
        let inference = started.elapsed();
        self.queue.finished(self.kind, batch.tokens(), inference);
        let waited = jobs
            .iter()
            .map(|job| started - job.arrived)
            .max()
            .unwrap_or_default();
        self.telemetry.batch_finished(
            &self.model,
            &BatchStats {
                sequences: jobs.len(),
                tokens: batch.tokens(),
                queue: waited,
                inference,
            },
        );
        for (job, output) in jobs.into_iter().zip(outputs) {
            self.answer(job, output, started, inference);
        }
    }

    /// Runs the batch; when it fails as a whole, runs each sequence alone, so that one that cannot
    /// be run costs its neighbours nothing but time.
    fn encode(&mut self, batch: &Batch) -> Vec<Result<Output, String>> {
        match self.try_encode(batch) {
            Ok(outputs) => outputs.into_iter().map(Ok).collect(),
            Err(error) if batch.sequences() == 1 => vec![Err(error)],
            Err(error) => {
                let model = &*self.model;
                tracing::warn!(model, %error, "a batch failed; running it one by one");
                (0..batch.sequences())
                    .map(|i| {
                        let mut outputs = self.try_encode(&batch.sequence(i))?;
                        outputs
                            .pop()
                            .ok_or_else(|| "the model returned no output".to_owned())
                    })
                    .collect()
            }
        }
    }

    fn try_encode(&mut self, batch: &Batch) -> Result<Vec<Output>, String> {
        // A panic in a forward pass is a bug, but it must not take the other requests with it.
        let encoder = &mut self.encoder;
        let outputs = catch_unwind(AssertUnwindSafe(|| encoder.encode(batch)))
            .map_err(|_| "the forward pass panicked".to_owned())?
            .map_err(|error| error.to_string())?;
        if outputs.len() == batch.sequences() {
            Ok(outputs)
        } else {
            Err(format!(
                "{} outputs for {} inputs",
                outputs.len(),
                batch.sequences()
            ))
        }
    }

    fn answer(
        &self,
        job: Job,
        output: Result<Output, String>,
        started: Instant,
        inference: Duration,
    ) {
        let queue = started - job.arrived;
        let answer = output.map_err(Failure::Inference).and_then(|output| {
            let values = finish(output, &job).map_err(|fault| {
                self.telemetry.bad_output(&self.model);
                Failure::BadOutput(fault.to_string())
            })?;
            Ok(Done {
                values,
                queue,
                inference,
            })
        });
        if let Err(Failure::Inference(error)) = &answer {
            tracing::error!(model = %self.model, %error, "a forward pass failed");
        }
        // The client may have left while its batch ran; then nobody needs the answer.
        let _ = job.reply.send(answer);
    }
}

fn batch_of(jobs: &[Job]) -> Batch {
    let heads = jobs.iter().fold(Heads::NONE, |all, job| all | job.heads);
    let mut batch = Batch::wanting(heads);
    for job in jobs {
        batch.push(&job.encoding);
    }
    batch
}
