//! The thread that owns a session: takes a batch whenever it is free, runs it, has each job
//! answered.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        mpsc::{SendError, sync_channel},
    },
    time::{Duration, Instant},
};

use retort_models::{Batch, Encode, Heads, Output};

use super::{
    answers::{Answers, Pass, Ran},
    batcher::WorkerKind,
    device::Seat,
    job::{Failure, Job},
    priority,
    schedule::Taken,
};
use crate::{
    engine::{fault::Faults, lane::Lane},
    telemetry::BatchStats,
};

/// Batches whose answers may be under way while a GPU runs the next one.
const UNANSWERED_BATCHES: usize = 2;

/// Everything a worker thread holds.
pub struct Worker {
    /// Where work comes from.
    pub seat: Seat,
    /// The session.
    pub encoder: Box<dyn Encode>,
    /// Where faults are told that no model survives.
    pub faults: Faults,
    /// How jobs are answered.
    pub answers: Arc<Answers>,
}

impl Worker {
    /// Works until the model is closed and nothing of it waits.
    pub fn run(mut self) {
        match self.seat.kind() {
            WorkerKind::Gpu(_) => return self.run_on_gpu(),
            WorkerKind::Share => priority::lower(),
            WorkerKind::AllCores => {}
        }
        while let Some(taken) = self.seat.take() {
            let ran = self.work(taken);
            self.answers.give(ran);
        }
    }

    /// The same with a thread beside it that answers, so that the GPU need not wait for that.
    fn run_on_gpu(mut self) {
        let answers = self.answers.clone();
        let (done, batches) = sync_channel::<Ran>(UNANSWERED_BATCHES);
        std::thread::scope(|scope| {
            let answering = std::thread::Builder::new().name("answer".into());
            // Where the system refuses the thread, its end of the channel is gone.
            let _ = answering.spawn_scoped(scope, move || {
                batches.into_iter().for_each(|ran| answers.give(ran));
            });
            while let Some(taken) = self.seat.take() {
                let ran = self.work(taken);
                if let Err(SendError(ran)) = done.send(ran) {
                    self.answers.give(ran);
                }
            }
            drop(done);
        });
    }

    fn work(&mut self, taken: Taken) -> Ran {
        let Taken {
            jobs,
            lane,
            dropped,
            waiting_tokens,
        } = taken;
        let Answers {
            model, telemetry, ..
        } = &*self.answers.clone();
        for lane in Lane::ALL {
            telemetry.queue_changed(model, lane.name(), waiting_tokens[lane]);
        }
        if dropped.left > 0 {
            telemetry.jobs_dropped(model, dropped.left);
        }
        if dropped.late > 0 {
            telemetry.jobs_late(model, dropped.late);
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
        telemetry.batch_finished(
            model,
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
        Ran {
            jobs,
            outputs,
            waiters,
            pass,
        }
    }

    /// Runs the batch; when it fails as a whole, runs each sequence alone, so that one that cannot
    /// be run costs its neighbours nothing but time. A device that is lost is not tried again.
    fn encode(&mut self, batch: &Batch) -> Vec<Result<Output, Failure>> {
        let failure = match self.try_encode(batch) {
            Ok(outputs) => return outputs.into_iter().map(Ok).collect(),
            Err(failure) => failure,
        };
        let lost = matches!(failure, Failure::DeviceLost(_));
        if lost || batch.sequences() == 1 {
            return vec![Err(failure); batch.sequences()];
        }
        let model = &*self.answers.model;
        tracing::warn!(model, ?failure, "a batch failed; running it one by one");
        let mut lost = None;
        (0..batch.sequences())
            .map(|i| {
                if let Some(failure) = &lost {
                    return Err(Failure::clone(failure));
                }
                let outputs = self.try_encode(&batch.sequence(i));
                if let Err(failure @ Failure::DeviceLost(_)) = &outputs {
                    lost = Some(failure.clone());
                }
                let no_output = || Failure::Inference("the model returned no output".to_owned());
                outputs?.pop().ok_or_else(no_output)
            })
            .collect()
    }

    fn try_encode(&mut self, batch: &Batch) -> Result<Vec<Output>, Failure> {
        // A panic in a forward pass is a bug, but it must not take the other requests with it.
        let encoder = &mut self.encoder;
        let outputs = catch_unwind(AssertUnwindSafe(|| encoder.encode(batch)))
            .map_err(|_| Failure::Inference("the forward pass panicked".to_owned()))?
            .map_err(|error| self.meaning(&error))?;
        if outputs.len() == batch.sequences() {
            Ok(outputs)
        } else {
            Err(Failure::Inference(format!(
                "{} outputs for {} inputs",
                outputs.len(),
                batch.sequences()
            )))
        }
    }

    /// What an error means for those who wait; one that no model survives is told at once.
    fn meaning(&self, error: &retort_models::Error) -> Failure {
        match error {
            retort_models::Error::Device { poisoned: true, .. } => {
                let reason = error.to_string();
                self.faults.report(&reason);
                Failure::DeviceLost(reason)
            }
            retort_models::Error::OutOfMemory { .. } => Failure::NoMemory(error.to_string()),
            other => Failure::Inference(other.to_string()),
        }
    }
}

fn batch_of(jobs: &[Job]) -> Batch {
    let mut batch = Batch::wanting(Heads::NONE);
    for job in jobs {
        batch.push_wanting(&job.encoding, job.heads, job.query.as_ref());
    }
    batch
}
