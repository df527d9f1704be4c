//! The thread that owns a session: takes a batch whenever it is free, runs it, answers each job.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::{Duration, Instant},
};

use retort_models::{Batch, Encode, Heads, Output};

use super::{
    batcher::WorkerKind,
    cache::Cache,
    device::Seat,
    finish::finish,
    job::{Done, Failure, Job, Waiter},
    priority,
    schedule::{ModelId, Taken},
};
use crate::{
    engine::lane::Lane,
    telemetry::{BatchStats, Telemetry},
};

/// Everything a worker thread holds.
pub struct Worker {
    /// The served name of the model, for the metrics.
    pub model: Arc<str>,
    /// What tells the model from all others, for the cache.
    pub id: ModelId,
    /// Where work comes from.
    pub seat: Seat,
    /// Where results are kept.
    pub cache: Cache,
    /// Where counts go.
    pub telemetry: Telemetry,
    /// The session.
    pub encoder: Box<dyn Encode>,
}

/// When a forward pass began and how long it took.
#[derive(Debug, Clone, Copy)]
struct Pass {
    started: Instant,
    inference: Duration,
}

impl Worker {
    /// Works until the model is closed and nothing of it waits.
    pub fn run(mut self) {
        if self.seat.kind() == WorkerKind::Share {
            priority::lower();
        }
        while let Some(taken) = self.seat.take() {
            self.work(taken);
        }
    }

    fn work(&mut self, taken: Taken) {
        let Taken {
            jobs,
            lane,
            dropped,
            waiting_tokens,
        } = taken;
        for lane in Lane::ALL {
            self.telemetry
                .queue_changed(&self.model, lane.name(), waiting_tokens[lane]);
        }
        if dropped.left > 0 {
            self.telemetry.jobs_dropped(&self.model, dropped.left);
        }
        if dropped.late > 0 {
            self.telemetry.jobs_late(&self.model, dropped.late);
        }
        let batch = batch_of(&jobs);
        let started = Instant::now();
        let outputs = self.encode(&batch);
        let pass = Pass {
            started,
            inference: started.elapsed(),
        };
        let waiters = self.seat.finished();
        let first = waiters.iter().flatten().map(|waiter| waiter.arrived).min();
        self.telemetry.batch_finished(
            &self.model,
            &BatchStats {
                lane: lane.name(),
                sequences: jobs.len(),
                tokens: batch.tokens(),
                queue: first.map_or(Duration::ZERO, |first| {
                    started.saturating_duration_since(first)
                }),
                inference: pass.inference,
            },
        );
        for ((job, output), waiters) in jobs.iter().zip(outputs).zip(waiters) {
            match output {
                Ok(output) => self.answer(job, output, waiters, pass),
                Err(error) => self.fail(&error, waiters),
            }
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

    fn fail(&self, error: &str, waiters: Vec<Waiter>) {
        tracing::error!(model = %self.model, error, "a forward pass failed");
        for waiter in waiters {
            // The client may have left while its batch ran; then nobody needs the answer.
            let _ = waiter.reply.send(Err(Failure::Inference(error.into())));
        }
    }

    /// Gives everybody who waits for a job what they want of it.
    fn answer(&self, job: &Job, output: Output, mut waiters: Vec<Waiter>, pass: Pass) {
        let keep = self.cache.is_on().then(|| Arc::new(output.clone()));
        let Some(last) = waiters.pop() else {
            return;
        };
        // Mostly one waits, and nothing needs to be copied.
        for waiter in waiters {
            self.reply(job, output.clone(), waiter, pass);
        }
        let good = self.reply(job, output, last, pass);
        if let Some(output) = keep.filter(|_| good) {
            self.cache
                .put((self.id, job.fingerprint), job.heads, output);
        }
    }

    /// Returns whether the numbers were good.
    fn reply(&self, job: &Job, output: Output, waiter: Waiter, pass: Pass) -> bool {
        let segments = job.encoding.segments.len();
        let answer = finish(output, waiter.heads, segments, waiter.finish)
            .map(|values| Done {
                values,
                // Who came while it ran has not waited for its start.
                queue: pass.started.saturating_duration_since(waiter.arrived),
                inference: pass.inference,
            })
            .map_err(|fault| {
                self.telemetry.bad_output(&self.model);
                Failure::BadOutput(fault.to_string())
            });
        let good = answer.is_ok();
        // The client may have left while its batch ran; then nobody needs the answer.
        let _ = waiter.reply.send(answer);
        good
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
