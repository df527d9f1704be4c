//! Token ids to replies: the lane and the deadline of a request, what is known already, and one
//! job for each of the rest.

use std::time::Instant;

use super::{
    Pipeline,
    finish::finish,
    job::{Done, Failure, Finish, Input, Job, Reply, Waiter},
    schedule::Arrivals,
};
use crate::{
    engine::{
        lane::{Caller, Lane, Work},
        request::Timings,
    },
    error::{Error, Result},
};

/// What a request wants of all its inputs.
#[derive(Clone, Copy)]
pub struct Ask<'a> {
    /// What is done to its vector.
    pub finish: Finish,
    /// What the inputs are.
    pub work: Work,
    /// Who asks.
    pub caller: &'a Caller,
}

impl Pipeline {
    /// Queues one job an input, all or none of them; notes in the timings where they wait and
    /// how many did not have to.
    pub(super) fn submit(
        &self,
        inputs: Vec<Input>,
        ask: Ask<'_>,
        timings: &mut Timings,
    ) -> Result<Vec<Reply>> {
        let tokens = inputs.iter().map(|i| i.encoding.input_ids.len()).sum();
        let scheduling = &self.scheduling;
        let lane = scheduling.lane(ask.caller.lane, ask.work, inputs.len(), tokens);
        let own = scheduling.deadlines[lane].map(|patience| Instant::now() + patience);
        let deadline = ask.caller.deadline.or(own);
        timings.lane = Some(lane);
        let (mut jobs, mut replies) = (Vec::with_capacity(inputs.len()), Vec::new());
        for input in inputs {
            let (waiter, reply) = Waiter::new(input.heads, ask.finish, deadline);
            let job = Job::new(input, ask.caller.tenant);
            replies.push(reply);
            match self.recalled(&job, waiter) {
                None => timings.cached += 1,
                Some(waiter) => jobs.push((job, waiter)),
            }
        }
        if timings.cached > 0 {
            self.telemetry.inputs_cached(&self.name, timings.cached);
        }
        if jobs.is_empty() {
            return Ok(replies);
        }
        let arrivals = Arrivals {
            jobs,
            lane,
            deadline,
        };
        let pushed = self
            .queue
            .push(arrivals)
            .inspect_err(|error| self.refused(lane, error))?;
        timings.coalesced = pushed.coalesced;
        if pushed.coalesced > 0 {
            self.telemetry
                .inputs_coalesced(&self.name, pushed.coalesced);
        }
        for lane in Lane::ALL {
            self.telemetry
                .queue_changed(&self.name, lane.name(), pushed.waiting_tokens[lane]);
        }
        Ok(replies)
    }

    /// Answers out of the cache; gives the waiter back when the job has to be run.
    fn recalled(&self, job: &Job, waiter: Waiter) -> Option<Waiter> {
        let key = (self.queue.id(), job.fingerprint);
        let Some(output) = self.cache.get(&key, waiter.heads) else {
            return Some(waiter);
        };
        let segments = job.encoding.segments.len();
        let answer = finish((*output).clone(), waiter.heads, segments, waiter.finish)
            .map(|values| Done {
                values,
                queue: waiter.arrived.elapsed(),
                inference: std::time::Duration::ZERO,
            })
            .map_err(|fault| {
                self.telemetry.bad_output(&self.name);
                Failure::BadOutput(fault.to_string())
            });
        // The receiver is on its way to the caller.
        let _ = waiter.reply.send(answer);
        None
    }

    fn refused(&self, lane: Lane, error: &Error) {
        match error {
            Error::WouldBeLate { .. } => {
                self.telemetry
                    .request_would_be_late(&self.name, lane.name());
            }
            _ => self.telemetry.request_refused(&self.name),
        }
    }
}
