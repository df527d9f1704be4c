//! What a batch gave → an answer for everybody who waits for a job of it. Needs no session, so that
//! where a GPU waits for its next batch another thread can do it.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use retort_models::Output;

use super::{
    cache::Cache,
    finish::finish,
    job::{Done, Failure, Job, Waiter},
    schedule::ModelId,
};
use crate::telemetry::Telemetry;

/// What is needed for the answers of one model.
pub struct Answers {
    /// The served name of the model, for the metrics.
    pub model: Arc<str>,
    /// What tells the model from all others, for the cache.
    pub id: ModelId,
    /// Where results are kept.
    pub cache: Cache,
    /// Where counts go.
    pub telemetry: Telemetry,
}

/// A batch that was run.
pub struct Ran {
    /// Its jobs.
    pub jobs: Vec<Job>,
    /// What came of each.
    pub outputs: Vec<Result<Output, Failure>>,
    /// Who waits for each.
    pub waiters: Vec<Vec<Waiter>>,
    /// When.
    pub pass: Pass,
}

/// When a forward pass began and how long it took.
#[derive(Debug, Clone, Copy)]
pub struct Pass {
    /// Its beginning.
    pub started: Instant,
    /// Its length.
    pub inference: Duration,
}

impl Answers {
    /// Answers everybody.
    pub fn give(&self, ran: Ran) {
        let Ran {
            jobs,
            outputs,
            waiters,
            pass,
        } = ran;
        for ((job, output), waiters) in jobs.iter().zip(outputs).zip(waiters) {
            match output {
                Ok(output) => self.answer(job, output, waiters, pass),
                Err(failure) => self.fail(&failure, waiters),
            }
        }
    }

    fn fail(&self, failure: &Failure, waiters: Vec<Waiter>) {
        // A lost device was told of once, and it fails everything.
        if !matches!(failure, Failure::DeviceLost(_)) {
            tracing::error!(model = %self.model, ?failure, "a forward pass failed");
        }
        for waiter in waiters {
            // The client may have left while its batch ran; then nobody needs the answer.
            let _ = waiter.reply.send(Err(failure.clone()));
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
