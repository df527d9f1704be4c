//! The jobs that wait for one model: bounded in tokens, first come first served, guarded by the
//! one short lock of the encode path.

use std::{
    collections::VecDeque,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use super::{
    batcher::{self, BatchLimits, Running, WorkerKind},
    job::Job,
};
use crate::{
    engine::request::Backlog,
    error::{Error, Result},
};

/// Waiting jobs and who works on them. Shared by the handlers, which push, and the workers,
/// which take.
pub struct Queue {
    state: Mutex<State>,
    wake: Condvar,
    max_queue_tokens: usize,
    batch: BatchLimits,
}

struct State {
    jobs: VecDeque<Job>,
    tokens: usize,
    running: Running,
    /// Smoothed tokens per second of the whole pipeline; 0 before the first batch.
    rate: f64,
    last_finished: Option<Instant>,
    closed: bool,
}

/// A batch that a worker took, and what was thrown away on the way.
pub struct Taken {
    /// What to run, in queue order. Never empty.
    pub jobs: Vec<Job>,
    /// Jobs whose clients had left; they were dropped without being run.
    pub dropped: usize,
    /// Tokens that still wait.
    pub waiting_tokens: usize,
}

impl Queue {
    /// An empty queue that holds at most `max_queue_tokens`.
    pub fn new(max_queue_tokens: usize, batch: BatchLimits) -> Self {
        let state = State {
            jobs: VecDeque::new(),
            tokens: 0,
            running: Running::default(),
            rate: 0.0,
            last_finished: None,
            closed: false,
        };
        Self {
            state: Mutex::new(state),
            wake: Condvar::new(),
            max_queue_tokens,
            batch,
        }
    }

    /// Adds all jobs of a request, or none of them.
    ///
    /// A request that is larger than the whole queue is taken when nothing else waits: it was
    /// allowed in by the input limit, and refusing it now would mean refusing it for ever.
    ///
    /// # Errors
    /// [`Error::Overloaded`] when they do not fit, [`Error::NotReady`] after [`Queue::close`].
    pub fn push(&self, jobs: Vec<Job>) -> Result<usize> {
        let requested: usize = jobs.iter().map(Job::tokens).sum();
        let mut state = self.lock();
        self.admit(&state, requested)?;
        state.tokens += requested;
        state.jobs.extend(jobs);
        let waiting = state.tokens;
        drop(state);
        self.wake.notify_all();
        Ok(waiting)
    }

    /// Puts one job before all others, whatever waits: for the readiness probe.
    pub fn push_first(&self, job: Job) {
        let mut state = self.lock();
        state.tokens += job.tokens();
        state.jobs.push_front(job);
        drop(state);
        self.wake.notify_all();
    }

    /// Whether so many more tokens would be taken now, asked before any work is done for them.
    ///
    /// # Errors
    /// As [`Queue::push`].
    pub fn check_room(&self, requested: usize) -> Result<()> {
        self.admit(&self.lock(), requested)
    }

    fn admit(&self, state: &State, requested: usize) -> Result<()> {
        if state.closed {
            return Err(Error::NotReady("the server is shutting down".into()));
        }
        if state.tokens > 0 && state.tokens + requested > self.max_queue_tokens {
            return Err(Error::Overloaded {
                queued: state.tokens,
                requested,
                limit: self.max_queue_tokens,
                retry_after: state.time_to_work_off(requested, self.max_queue_tokens),
            });
        }
        Ok(())
    }

    /// Waits for work and takes a batch. `None` once the queue is closed and empty.
    pub fn take(&self, worker: WorkerKind) -> Option<Taken> {
        let mut state = self.lock();
        let mut dropped = 0;
        loop {
            dropped += state.drop_abandoned();
            let waiting = state.jobs.iter().map(Job::tokens);
            let count = batcher::plan(worker, waiting, state.tokens, state.running, &self.batch);
            if count > 0 {
                let jobs: Vec<Job> = state.jobs.drain(..count).collect();
                state.tokens -= jobs.iter().map(Job::tokens).sum::<usize>();
                *state.running.of(worker) += 1;
                return Some(Taken {
                    jobs,
                    dropped,
                    waiting_tokens: state.tokens,
                });
            }
            if state.closed && state.jobs.is_empty() {
                return None;
            }
            state = self
                .wake
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Tells that a batch of `tokens` has left the cores after `elapsed`.
    pub fn finished(&self, worker: WorkerKind, tokens: usize, elapsed: Duration) {
        let mut state = self.lock();
        let parallel = (state.running.share + state.running.all_cores) as f64;
        *state.running.of(worker) -= 1;
        let rate = parallel * tokens as f64 / elapsed.as_secs_f64().max(1e-6);
        state.rate = if state.rate == 0.0 {
            rate
        } else {
            0.9 * state.rate + 0.1 * rate
        };
        state.last_finished = Some(Instant::now());
        let others_may_start = !state.jobs.is_empty() || state.closed;
        drop(state);
        if others_may_start {
            self.wake.notify_all();
        }
    }

    /// Refuses new jobs from now on; what waits is still worked off.
    pub fn close(&self) {
        self.lock().closed = true;
        self.wake.notify_all();
    }

    /// What waits now.
    pub fn backlog(&self) -> Backlog {
        let state = self.lock();
        Backlog {
            inputs: state.jobs.len(),
            tokens: state.tokens,
            max_tokens: self.max_queue_tokens,
        }
    }

    /// How long ago a batch last succeeded; `None` if none ever did.
    pub fn since_last_finished(&self) -> Option<Duration> {
        self.lock().last_finished.map(|at| at.elapsed())
    }

    /// Waiting tokens and working workers, for tests that need to know when to go on.
    #[cfg(test)]
    pub fn waiting_and_running(&self) -> (usize, usize) {
        let state = self.lock();
        (state.tokens, state.running.share + state.running.all_cores)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // The state stays consistent across a panic: no code that can panic runs under the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Removes the jobs nobody waits for, wherever they stand, and counts them.
    fn drop_abandoned(&mut self) -> usize {
        let before = self.jobs.len();
        let tokens = &mut self.tokens;
        self.jobs.retain(|job| {
            let keep = !job.is_abandoned();
            if !keep {
                *tokens -= job.tokens();
            }
            keep
        });
        before - self.jobs.len()
    }

    /// When `requested` tokens will fit, at the recent rate; between one second and five minutes.
    fn time_to_work_off(&self, requested: usize, limit: usize) -> Duration {
        let excess = (self.tokens + requested)
            .saturating_sub(limit)
            .min(self.tokens);
        let seconds = if self.rate > 0.0 {
            excess as f64 / self.rate
        } else {
            1.0
        };
        Duration::from_secs_f64(seconds.clamp(1.0, 300.0).ceil())
    }
}

impl Running {
    fn of(&mut self, worker: WorkerKind) -> &mut usize {
        match worker {
            WorkerKind::Share => &mut self.share,
            WorkerKind::AllCores => &mut self.all_cores,
        }
    }
}
