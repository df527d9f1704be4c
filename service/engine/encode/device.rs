//! A device and everybody who uses it: handlers push, workers take. The one short lock of the
//! encode path is here; what happens under it is decided in [`super::schedule`].

use std::{
    collections::HashMap,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use super::{
    batcher::{DeviceLimits, WorkerKind},
    job::{Job, Waiter},
    queue::Queue,
    schedule::{Arrivals, ModelId, Pushed, Schedule, Taken, WorkerId},
};
use crate::{
    engine::{lane::PerLane, request::Backlog},
    error::Result,
};

/// The cores, or another device, that all models on it share. Cheap to clone.
#[derive(Clone)]
pub struct Device {
    state: Arc<Mutex<State>>,
    /// Numbers for models and workers, over all devices: results are kept by them.
    next_id: Arc<AtomicU64>,
}

struct State {
    schedule: Schedule,
    desks: HashMap<WorkerId, Desk>,
}

/// Where a worker finds its next batch.
struct Desk {
    bell: Arc<Condvar>,
    batch: Option<Taken>,
}

/// One model's place on a device. The model leaves it when this is dropped.
pub struct Counter {
    device: Device,
    model: ModelId,
    max_queue_tokens: usize,
}

/// One worker's place on a device.
pub struct Seat {
    device: Device,
    model: ModelId,
    worker: WorkerId,
    kind: WorkerKind,
    bell: Arc<Condvar>,
}

impl Device {
    /// A device without models.
    pub fn new(limits: DeviceLimits, shares: PerLane<f64>) -> Self {
        let state = State {
            schedule: Schedule::new(limits, shares),
            desks: HashMap::new(),
        };
        Self {
            state: Arc::new(Mutex::new(state)),
            next_id: Arc::default(),
        }
    }

    /// Another device of the same machine.
    pub fn beside(&self, limits: DeviceLimits, shares: PerLane<f64>) -> Self {
        Self {
            next_id: self.next_id.clone(),
            ..Self::new(limits, shares)
        }
    }

    /// Makes room for a model with workers of these kinds, and for the workers themselves.
    pub fn add(&self, workers: &[WorkerKind], max_queue_tokens: usize) -> (Counter, Vec<Seat>) {
        let mut state = self.lock();
        let model = self.new_id();
        state.schedule.add(model, workers, max_queue_tokens);
        let seat = |&kind| {
            let worker = self.new_id();
            let bell = Arc::new(Condvar::new());
            let desk = Desk {
                bell: bell.clone(),
                batch: None,
            };
            state.desks.insert(worker, desk);
            Seat {
                device: self.clone(),
                model,
                worker,
                kind,
                bell,
            }
        };
        let seats = workers.iter().map(seat).collect();
        let counter = Counter {
            device: self.clone(),
            model,
            max_queue_tokens,
        };
        (counter, seats)
    }

    fn new_id(&self) -> u64 {
        self.next_id.fetch_add(1, Ordering::Relaxed) + 1
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // The state stays consistent across a panic: no code that can panic runs under the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Gives out everything that may begin now.
    fn give_out(&mut self) {
        let now = Instant::now();
        while let Some((worker, batch)) = self.schedule.next(now) {
            if let Some(desk) = self.desks.get_mut(&worker) {
                desk.batch = Some(batch);
                desk.bell.notify_one();
            }
        }
    }

    /// Lets the workers of a model go home once there is nothing left to come.
    fn dismiss(&self, model: ModelId) {
        if self.schedule.is_over(model) {
            // Workers of other models only look up.
            self.desks.values().for_each(|desk| desk.bell.notify_one());
        }
    }
}

impl Counter {
    /// Adds all jobs of a request, or none of them.
    ///
    /// # Errors
    /// As [`Schedule::push`].
    pub fn push(&self, arrivals: Arrivals) -> Result<Pushed> {
        let mut state = self.device.lock();
        let pushed = state.schedule.push(self.model, arrivals, Instant::now())?;
        state.give_out();
        Ok(pushed)
    }

    /// Puts one job before all others of this model: for the readiness probe.
    pub fn push_first(&self, job: Job, waiter: Waiter) {
        let mut state = self.device.lock();
        state.schedule.push_first(self.model, job, waiter);
        state.give_out();
    }

    /// Whether so many more tokens would be taken now, asked before any work is done for them.
    ///
    /// # Errors
    /// As [`Schedule::check_room`].
    pub fn check_room(&self, requested: usize) -> Result<()> {
        let mut state = self.device.lock();
        state
            .schedule
            .check_room(self.model, requested, Instant::now())
    }

    /// Refuses new jobs from now on; what waits is still worked off.
    pub fn close(&self) {
        let mut state = self.device.lock();
        state.schedule.close(self.model);
        state.give_out();
        state.dismiss(self.model);
    }

    /// What waits now.
    pub fn backlog(&self) -> Backlog {
        let state = self.device.lock();
        let queue = state.schedule.queue(self.model);
        Backlog {
            inputs: queue.map_or(0, Queue::all_jobs),
            tokens: queue.map_or(0, Queue::all_tokens),
            max_tokens: self.max_queue_tokens,
        }
    }

    /// How long ago a batch was last done; `None` if none ever was.
    pub fn since_last_finished(&self) -> Option<Duration> {
        let last = self.device.lock().schedule.last_finished(self.model);
        last.map(|at| at.elapsed())
    }

    /// What tells this model from all others that ever were.
    pub fn id(&self) -> ModelId {
        self.model
    }

    /// Whether both wait in the same schedule.
    #[cfg(test)]
    pub fn shares_a_device_with(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.device.state, &other.device.state)
    }

    /// Waiting tokens and running batches, for tests that need to know when to go on.
    #[cfg(test)]
    pub fn waiting_and_running(&self) -> (usize, usize) {
        let running = self.device.lock().schedule.running();
        (self.backlog().tokens, running)
    }

    /// Those who wait for an answer, for tests that need to know when to go on.
    #[cfg(test)]
    pub fn unanswered(&self) -> usize {
        let state = self.device.lock();
        let queue = state.schedule.queue(self.model);
        queue.map_or(0, Queue::unanswered)
    }
}

impl Drop for Counter {
    fn drop(&mut self) {
        self.device.lock().schedule.remove(self.model);
    }
}

impl Seat {
    /// Which part of the device the worker uses.
    pub fn kind(&self) -> WorkerKind {
        self.kind
    }

    /// Waits for a batch. `None` once the model is closed and nothing of it waits.
    pub fn take(&self) -> Option<Taken> {
        let mut state = self.device.lock();
        state.schedule.idle(self.model, (self.kind, self.worker));
        state.give_out();
        loop {
            let desk = state.desks.get_mut(&self.worker);
            if let Some(batch) = desk.and_then(|desk| desk.batch.take()) {
                return Some(batch);
            }
            if state.schedule.is_over(self.model) {
                return None;
            }
            state = self
                .bell
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Tells that the batch has left the cores; returns who waits for its jobs, in their order.
    pub fn finished(&self) -> Vec<Vec<Waiter>> {
        let mut state = self.device.lock();
        let waiters = state.schedule.finished(self.worker, Instant::now());
        state.give_out();
        state.dismiss(self.model);
        waiters
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.device.lock().desks.remove(&self.worker);
    }
}
