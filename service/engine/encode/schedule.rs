//! Who computes next on one device, over all models that share it: queues, the account of the
//! lanes, and what runs. No lock and no thread; the time is told, so tests tell their own.

use std::{
    collections::{BTreeMap, HashMap},
    time::{Duration, Instant},
};

use super::{
    batcher::{self, Candidate, DeviceLimits, Hands, Preemption, Situation, WorkerKind},
    job::{Job, Waiter},
    queue::{Dropped, JobId, Queue},
    shares::Shares,
};
use crate::{
    engine::lane::{Lane, PerLane},
    error::{Error, Result},
};

/// For so long after an interactive request the device counts on another.
const LATELY: Duration = Duration::from_secs(10);

/// A model on this device.
pub type ModelId = u64;
/// A worker of any model on this device.
pub type WorkerId = u64;

/// The device: its models, its workers and what they do.
pub struct Schedule {
    limits: DeviceLimits,
    shares: Shares,
    models: BTreeMap<ModelId, Model>,
    runs: HashMap<WorkerId, Run>,
    situation: Situation,
    last_query: Option<Instant>,
    preemption: PreemptedTime,
    /// Counts batches, so that models take turns.
    turn: u64,
}

/// One model on the device.
struct Model {
    queue: Queue,
    max_queue_tokens: usize,
    idle: Vec<(WorkerKind, WorkerId)>,
    has_all_cores: bool,
    rate: Rate,
    last_finished: Option<Instant>,
    closed: bool,
    last_turn: PerLane<u64>,
}

/// A batch that is being run.
struct Run {
    model: ModelId,
    worker: WorkerKind,
    lane: Lane,
    tokens: usize,
    started: Instant,
    /// [`PreemptedTime::until`] its start.
    preempted: Duration,
    jobs: Vec<JobId>,
}

/// How long runs over all cores have kept others from theirs.
#[derive(Default)]
struct PreemptedTime {
    over: Duration,
    since: Option<Instant>,
}

/// Tokens for core-seconds, of the last batches more than of those before.
#[derive(Default)]
struct Rate {
    tokens: f64,
    core_seconds: f64,
}

/// Jobs of a request, all of one lane.
pub struct Arrivals {
    /// The jobs, with who waits for each.
    pub jobs: Vec<(Job, Waiter)>,
    /// Where they wait.
    pub lane: Lane,
    /// When nobody waits for them any more.
    pub deadline: Option<Instant>,
}

/// What came of a request that was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pushed {
    /// Inputs that somebody waits for already.
    pub coalesced: usize,
    /// Tokens that wait for this model in each lane.
    pub waiting_tokens: PerLane<usize>,
}

/// A batch for a worker.
pub struct Taken {
    /// What to run, in order. Never empty.
    pub jobs: Vec<Job>,
    /// The lane that they waited in.
    pub lane: Lane,
    /// How many were dropped on the way.
    pub dropped: Dropped,
    /// Tokens of this model that still wait, in each lane: who was dropped may have waited in any.
    pub waiting_tokens: PerLane<usize>,
}

impl Schedule {
    /// A device without models, with the share of each lane.
    pub fn new(limits: DeviceLimits, shares: PerLane<f64>) -> Self {
        Self {
            limits,
            shares: Shares::new(shares),
            models: BTreeMap::new(),
            runs: HashMap::new(),
            situation: Situation::default(),
            last_query: None,
            preemption: PreemptedTime::default(),
            turn: 0,
        }
    }

    /// Adds a model that has workers of these kinds and holds so many waiting tokens.
    pub fn add(&mut self, id: ModelId, workers: &[WorkerKind], max_queue_tokens: usize) {
        let model = Model {
            queue: Queue::default(),
            max_queue_tokens,
            idle: Vec::new(),
            has_all_cores: workers.contains(&WorkerKind::AllCores),
            rate: Rate::default(),
            last_finished: None,
            closed: false,
            last_turn: PerLane::default(),
        };
        self.models.insert(id, model);
    }

    /// Forgets a model whose workers have ended.
    pub fn remove(&mut self, id: ModelId) {
        self.models.remove(&id);
    }

    /// Refuses new jobs for a model from now on; what waits is still worked off.
    pub fn close(&mut self, id: ModelId) {
        if let Some(model) = self.models.get_mut(&id) {
            model.closed = true;
        }
    }

    /// Whether a model takes nothing any more and has nothing that waits.
    pub fn is_over(&self, id: ModelId) -> bool {
        self.models
            .get(&id)
            .is_none_or(|model| model.closed && model.queue.all_jobs() == 0)
    }

    /// The queue of a model.
    pub fn queue(&self, id: ModelId) -> Option<&Queue> {
        self.models.get(&id).map(|model| &model.queue)
    }

    /// When a batch of a model was last done.
    pub fn last_finished(&self, id: ModelId) -> Option<Instant> {
        self.models.get(&id)?.last_finished
    }

    /// How many batches run.
    #[cfg(test)]
    pub fn running(&self) -> usize {
        self.runs.len()
    }

    /// Adds all jobs of a request, or none of them.
    ///
    /// A request that is larger than the whole queue is taken when nothing else waits: it was
    /// allowed in by the input limit, and refusing it now would mean refusing it for ever.
    ///
    /// # Errors
    /// [`Error::Overloaded`] when they do not fit, [`Error::WouldBeLate`] when they cannot be done
    /// by their deadline, [`Error::NotReady`] after [`Schedule::close`].
    pub fn push(&mut self, id: ModelId, arrivals: Arrivals, now: Instant) -> Result<Pushed> {
        let Arrivals { jobs, lane, .. } = arrivals;
        let tokens = jobs.iter().map(|(job, _)| job.tokens()).sum();
        self.check_room(id, tokens, now)?;
        if let Some(deadline) = arrivals.deadline {
            self.check_deadline(id, (lane, tokens), deadline.saturating_duration_since(now))?;
        }
        if lane == Lane::Interactive {
            self.last_query = Some(now);
        }
        let model = self.models.get_mut(&id).ok_or_else(shutting_down)?;
        let coalesced = model.queue.push(jobs, lane);
        Ok(Pushed {
            coalesced,
            waiting_tokens: PerLane::of(|lane| model.queue.tokens(lane)),
        })
    }

    /// Puts one job before all others of a model, whatever waits.
    pub fn push_first(&mut self, id: ModelId, job: Job, waiter: Waiter) {
        if let Some(model) = self.models.get_mut(&id) {
            model.queue.push_first(job, waiter);
        }
    }

    /// Whether so many more tokens would be taken now.
    ///
    /// # Errors
    /// As [`Schedule::push`], but for the deadline.
    pub fn check_room(&mut self, id: ModelId, requested: usize, now: Instant) -> Result<()> {
        let model = self.models.get_mut(&id).ok_or_else(shutting_down)?;
        if model.closed {
            return Err(shutting_down());
        }
        let fits = |queued| queued == 0 || queued + requested <= model.max_queue_tokens;
        if fits(model.queue.all_tokens()) {
            return Ok(());
        }
        model.queue.sweep(now);
        let queued = model.queue.all_tokens();
        if fits(queued) {
            return Ok(());
        }
        let limit = model.max_queue_tokens;
        let excess = (queued + requested).saturating_sub(limit).min(queued);
        let wait = model.rate.time_for(excess, self.limits.slots);
        Err(Error::Overloaded {
            queued,
            requested,
            limit,
            retry_after: in_whole_seconds(wait.unwrap_or_default()),
        })
    }

    /// Refuses what cannot be done in time even if the whole device did nothing else than what is
    /// before it, at the rate that was measured. What may or may not be done in time is taken, and
    /// dropped when its deadline passes.
    fn check_deadline(
        &self,
        id: ModelId,
        (lane, tokens): (Lane, usize),
        patience: Duration,
    ) -> Result<()> {
        let slots = self.limits.slots;
        let Some(own) = self.models.get(&id).and_then(|model| {
            let ahead = model.queue.ahead(lane, tokens);
            model.rate.time_for(ahead + tokens, slots)
        }) else {
            return Ok(());
        };
        // Models of a lane take turns, so another one's queue delays by no more than its own.
        let others = self.models.iter().filter(|(other, _)| **other != id);
        let others: Duration = others
            .filter_map(|(_, model)| model.rate.time_for(model.queue.tokens(lane), slots))
            .map(|time| time.min(own))
            .sum();
        let estimate = own + others;
        if estimate <= patience {
            return Ok(());
        }
        Err(Error::WouldBeLate {
            estimate,
            patience,
            retry_after: in_whole_seconds(estimate - patience),
        })
    }

    /// A worker has nothing to do.
    pub fn idle(&mut self, id: ModelId, worker: (WorkerKind, WorkerId)) {
        if let Some(model) = self.models.get_mut(&id) {
            model.idle.push(worker);
        }
    }

    /// The next batch that begins now and the worker that runs it; asked until there is none.
    pub fn next(&mut self, now: Instant) -> Option<(WorkerId, Taken)> {
        let (id, lane, start) = loop {
            let waits = |lane| self.models.values().map(|m| m.queue.jobs(lane)).sum();
            self.situation.waiting = PerLane::of(waits);
            self.situation.due = self.shares.due();
            self.situation.queries_lately = self
                .last_query
                .is_some_and(|last| now.saturating_duration_since(last) < LATELY);
            let (id, lane, start) = self.candidates().find_map(|(id, candidate)| {
                let start = batcher::plan(&candidate, &self.situation, &self.limits)?;
                Some((id, candidate.lane, start))
            })?;
            // Looking for those who have left costs time for each job, so it is done only for what
            // is about to begin; without them something else may have its turn.
            if !self.models.get_mut(&id)?.queue.sweep(now) {
                break (id, lane, start);
            }
        };
        self.turn += 1;
        let busy = self.busy_gpus();
        let model = self.models.get_mut(&id)?;
        model.last_turn[lane] = self.turn;
        // The worker that came back last finds most of its memory in the caches.
        let is_one = |kind: WorkerKind| kind.is_one_for(start.worker) && !busy.contains(&kind);
        let hand = model.idle.iter().rposition(|worker| is_one(worker.0))?;
        let (kind, worker) = model.idle.remove(hand);
        let (ids, jobs): (Vec<JobId>, Vec<Job>) =
            model.queue.take(lane, start.budget).into_iter().unzip();
        let taken = Taken {
            lane,
            dropped: model.queue.dropped(),
            waiting_tokens: PerLane::of(|lane| model.queue.tokens(lane)),
            jobs,
        };
        let run = Run {
            model: id,
            worker: kind,
            lane,
            tokens: taken.jobs.iter().map(Job::tokens).sum(),
            started: now,
            preempted: self.preemption.until(now),
            jobs: ids,
        };
        self.runs.insert(worker, run);
        match kind {
            WorkerKind::Share | WorkerKind::Gpu(_) => self.situation.share[lane] += 1,
            WorkerKind::AllCores => {
                self.situation.all_cores = Some(lane);
                self.preemption.begin(now);
            }
        }
        Some((worker, taken))
    }

    /// What waits, in the order in which it may begin: the lane that is due, then the lanes in
    /// their order; in a lane, the model whose last turn is longest ago.
    fn candidates(&self) -> impl Iterator<Item = (ModelId, Candidate)> {
        let due = self.situation.due;
        let lanes = due.into_iter().chain(Lane::ALL);
        let busy = self.busy_gpus();
        lanes.flat_map(move |lane| {
            let waiting = self.models.iter().filter(move |m| m.1.queue.jobs(lane) > 0);
            let mut models: Vec<_> = waiting.collect();
            models.sort_by_key(|(_, model)| model.last_turn[lane]);
            let busy = busy.clone();
            models
                .into_iter()
                .map(move |(&id, model)| (id, model.candidate(lane, &busy)))
        })
    }

    /// The GPUs on which a batch runs, of whatever model: each runs one at a time.
    fn busy_gpus(&self) -> Vec<WorkerKind> {
        let kinds = self.runs.values().map(|run| run.worker);
        kinds
            .filter(|kind| matches!(kind, WorkerKind::Gpu(_)))
            .collect()
    }

    /// A worker's batch has left the cores: who waits for its jobs, in their order.
    pub fn finished(&mut self, worker: WorkerId, now: Instant) -> Vec<Vec<Waiter>> {
        let Some(run) = self.runs.remove(&worker) else {
            return Vec::new();
        };
        let elapsed = now.saturating_duration_since(run.started);
        let core_time = match run.worker {
            WorkerKind::Share | WorkerKind::Gpu(_) => {
                self.situation.share[run.lane] -= 1;
                let preempted = self.preemption.until(now).saturating_sub(run.preempted);
                elapsed.saturating_sub(preempted)
            }
            WorkerKind::AllCores => {
                self.situation.all_cores = None;
                self.preemption.end(now);
                elapsed * u32::try_from(self.limits.slots).unwrap_or(u32::MAX)
            }
        };
        let core_seconds = core_time.as_secs_f64();
        let wanting = PerLane::of(|lane| lane == run.lane || self.wants(lane));
        self.shares.used(run.lane, core_seconds, wanting);
        let Some(model) = self.models.get_mut(&run.model) else {
            return Vec::new();
        };
        model.rate.add(run.tokens, core_seconds);
        model.last_finished = Some(now);
        model.queue.finish(&run.jobs)
    }

    /// Whether a lane would use the device if it had it.
    fn wants(&self, lane: Lane) -> bool {
        self.situation.share[lane] > 0
            || self.situation.all_cores == Some(lane)
            || self.models.values().any(|m| m.queue.jobs(lane) > 0)
    }
}

impl Model {
    fn candidate(&self, lane: Lane, busy: &[WorkerKind]) -> Candidate {
        let is_free = |kind: WorkerKind| !busy.contains(&kind);
        let free = |wanted| {
            let mut idle = self.idle.iter().map(|worker| worker.0);
            idle.any(|kind| kind.is_one_for(wanted) && is_free(kind))
        };
        Candidate {
            lane,
            tokens: self.queue.tokens(lane),
            all_cores: match (self.has_all_cores, free(WorkerKind::AllCores)) {
                (false, _) => Hands::Absent,
                (true, false) => Hands::Busy,
                (true, true) => Hands::Free,
            },
            share: if free(WorkerKind::Share) {
                Hands::Free
            } else {
                Hands::Busy
            },
            rate: self.rate.per_core_second().unwrap_or(0.0),
        }
    }
}

impl PreemptedTime {
    fn begin(&mut self, now: Instant) {
        self.since = Some(now);
    }

    fn end(&mut self, now: Instant) {
        self.over = self.until(now);
        self.since = None;
    }

    fn until(&self, now: Instant) -> Duration {
        let current = self.since.map(|since| now.saturating_duration_since(since));
        self.over + current.unwrap_or_default()
    }
}

impl Rate {
    fn add(&mut self, tokens: usize, core_seconds: f64) {
        const KEPT: f64 = 0.9;
        self.tokens = KEPT * self.tokens + tokens as f64;
        self.core_seconds = KEPT * self.core_seconds + core_seconds.max(1e-6);
    }

    fn per_core_second(&self) -> Option<f64> {
        (self.core_seconds > 0.0).then(|| self.tokens / self.core_seconds)
    }

    /// How long so many tokens take on the whole device; `None` before the first batch.
    fn time_for(&self, tokens: usize, slots: usize) -> Option<Duration> {
        let rate = self.per_core_second()? * slots as f64;
        Duration::try_from_secs_f64(tokens as f64 / rate).ok()
    }
}

impl DeviceLimits {
    /// Limits of a processor: whether its system can preempt is known when this is compiled.
    pub fn of_processor(max_batch_tokens: usize, slots: usize) -> Self {
        Self {
            max_batch_tokens,
            slots,
            min_share_tokens: 48,
            preemption: if cfg!(target_os = "linux") {
                Preemption::System
            } else {
                Preemption::None
            },
        }
    }

    /// Limits of so many GPUs: a batch that has begun runs to its end, and a small one takes as
    /// long as one of a few thousand tokens.
    pub fn of_gpus(max_batch_tokens: usize, count: usize) -> Self {
        Self {
            max_batch_tokens,
            slots: count,
            min_share_tokens: 2048,
            preemption: Preemption::None,
        }
    }
}

fn shutting_down() -> Error {
    Error::NotReady("the server is shutting down".into())
}

/// When to come back; between one second and five minutes.
fn in_whole_seconds(wait: Duration) -> Duration {
    Duration::from_secs_f64(wait.as_secs_f64().clamp(1.0, 300.0).ceil())
}

#[cfg(test)]
mod tests;
