//! What waits for one model, and who waits for what runs. No lock and no clock: the device has
//! both.
//!
//! Within a lane, requests take turns: a job stands behind `PATIENCE` tokens of others for each
//! token of its own request before it. So a query passes the tail of a long request, and the tail
//! cannot be passed for ever.

use std::{
    collections::{BTreeMap, HashMap},
    time::Instant,
};

use retort_models::Heads;

use super::{
    batcher,
    job::{Fingerprint, Gone, Job, Waiter},
};
use crate::engine::lane::{Lane, PerLane};

/// How many tokens of later requests may pass a job for each token of its own request before it.
const PATIENCE: u64 = 8;

/// How many jobs at the front of a lane are looked at for clients that have left, each time.
const LOOKED_AT: usize = 512;

/// A job of a queue.
pub type JobId = u64;

/// The jobs of one model, from when they come in until they are answered.
#[derive(Default)]
pub struct Queue {
    lines: PerLane<Line>,
    entries: HashMap<JobId, Entry>,
    /// The youngest job of each fingerprint.
    known: HashMap<Fingerprint, JobId>,
    next: JobId,
    gone: Dropped,
}

#[derive(Default)]
struct Line {
    /// Tokens of each waiting job by its place: when its turn is at the latest, then its age.
    order: BTreeMap<(u64, JobId), usize>,
    tokens: usize,
    /// Tokens that have left to be run, ever: the time by which turns are told.
    served: u64,
}

struct Entry {
    /// `None` once it runs.
    job: Option<Job>,
    /// Where it waits; `None` once it runs.
    place: Option<(Lane, u64)>,
    fingerprint: Fingerprint,
    heads: Heads,
    waiters: Vec<Waiter>,
}

/// How many left before they were served.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Dropped {
    /// Clients that had left.
    pub left: usize,
    /// Those whose deadline had passed; they were told.
    pub late: usize,
}

impl Queue {
    /// Adds the jobs of a request; says how many of them were there already.
    pub fn push(&mut self, jobs: Vec<(Job, Waiter)>, lane: Lane) -> usize {
        let now = self.lines[lane].served;
        let (mut before, mut coalesced) = (0, 0);
        for (job, waiter) in jobs {
            let place = now + PATIENCE * before;
            before += job.tokens() as u64;
            match self.join(&job, waiter, (lane, place)) {
                None => coalesced += 1,
                Some(waiter) => self.insert(job, waiter, (lane, place)),
            }
        }
        coalesced
    }

    /// Puts one job before all others, whatever waits: for the readiness probe.
    pub fn push_first(&mut self, job: Job, waiter: Waiter) {
        self.insert(job, waiter, (Lane::Interactive, 0));
    }

    /// Lets somebody wait for an equal job; gives the waiter back when there is none that will
    /// have everything that is wanted.
    fn join(&mut self, job: &Job, waiter: Waiter, (lane, place): (Lane, u64)) -> Option<Waiter> {
        let Some(&id) = self.known.get(&job.fingerprint) else {
            return Some(waiter);
        };
        let Some(entry) = self.entries.get_mut(&id) else {
            return Some(waiter);
        };
        if entry.place.is_none() && !waiter.heads.without(entry.heads).is_empty() {
            return Some(waiter);
        }
        entry.heads = entry.heads | waiter.heads;
        if let Some(job) = &mut entry.job {
            job.heads = entry.heads;
        }
        entry.waiters.push(waiter);
        // It waits where the one waits who is served first.
        if let Some(old) = entry.place.filter(|old| (lane, place) < *old) {
            entry.place = Some((lane, place));
            let tokens = self.lines[old.0].remove((old.1, id));
            self.lines[lane].insert((place, id), tokens);
        }
        None
    }

    fn insert(&mut self, job: Job, waiter: Waiter, (lane, place): (Lane, u64)) {
        let id = self.next;
        self.next += 1;
        self.lines[lane].insert((place, id), job.tokens());
        self.known.insert(job.fingerprint, id);
        let entry = Entry {
            place: Some((lane, place)),
            fingerprint: job.fingerprint,
            heads: job.heads,
            waiters: vec![waiter],
            job: Some(job),
        };
        self.entries.insert(id, entry);
    }

    /// Takes jobs from the front of a lane, at most so many tokens of them but for the first.
    pub fn take(&mut self, lane: Lane, budget: usize) -> Vec<(JobId, Job)> {
        let line = &mut self.lines[lane];
        let count = batcher::take_within(line.order.values().copied(), budget);
        let mut taken = Vec::with_capacity(count);
        for _ in 0..count {
            let Some(((_, id), tokens)) = line.order.pop_first() else {
                break;
            };
            line.tokens -= tokens;
            line.served += tokens as u64;
            let Some(entry) = self.entries.get_mut(&id) else {
                continue;
            };
            entry.place = None;
            taken.extend(entry.job.take().map(|job| (id, job)));
        }
        taken
    }

    /// Whoever waited for jobs that have run, in their order. From now on equal inputs are new.
    pub fn finish(&mut self, ids: &[JobId]) -> Vec<Vec<Waiter>> {
        ids.iter().map(|&id| self.remove(id)).collect()
    }

    fn remove(&mut self, id: JobId) -> Vec<Waiter> {
        let Some(entry) = self.entries.remove(&id) else {
            return Vec::new();
        };
        if self.known.get(&entry.fingerprint) == Some(&id) {
            self.known.remove(&entry.fingerprint);
        }
        entry.waiters
    }

    /// Drops the jobs near the front for which nobody waits any more, and tells those who are late.
    /// Says whether any job went.
    pub fn sweep(&mut self, now: Instant) -> bool {
        let before = self.all_jobs();
        for lane in Lane::ALL {
            let front = self.lines[lane].order.keys().take(LOOKED_AT);
            let front: Vec<(u64, JobId)> = front.copied().collect();
            for place in front {
                let Some(entry) = self.entries.get_mut(&place.1) else {
                    continue;
                };
                for waiter in entry.waiters.extract_if(.., |w| w.gone(now).is_some()) {
                    match waiter.gone(now) {
                        Some(Gone::Late) => {
                            self.gone.late += 1;
                            waiter.too_late();
                        }
                        Some(Gone::Left) | None => self.gone.left += 1,
                    }
                }
                if entry.waiters.is_empty() {
                    self.lines[lane].remove(place);
                    self.remove(place.1);
                }
            }
        }
        self.all_jobs() < before
    }

    /// How many were dropped since this was last asked.
    pub fn dropped(&mut self) -> Dropped {
        std::mem::take(&mut self.gone)
    }

    /// Tokens that would be run before the last of a request of so many would be.
    pub fn ahead(&self, lane: Lane, tokens: usize) -> usize {
        let line = &self.lines[lane];
        let last = line.served + PATIENCE * tokens as u64;
        let before = line.order.range(..(last, JobId::MAX));
        before.map(|(_, tokens)| tokens).sum()
    }

    /// Those who wait for an answer, also for one of a job that runs.
    #[cfg(test)]
    pub fn unanswered(&self) -> usize {
        self.entries.values().map(|e| e.waiters.len()).sum()
    }

    /// Jobs that wait.
    pub fn jobs(&self, lane: Lane) -> usize {
        self.lines[lane].order.len()
    }

    /// Tokens that wait.
    pub fn tokens(&self, lane: Lane) -> usize {
        self.lines[lane].tokens
    }

    /// Tokens that wait in all lanes.
    pub fn all_tokens(&self) -> usize {
        self.lines.values().map(|line| line.tokens).sum()
    }

    /// Jobs that wait in all lanes.
    pub fn all_jobs(&self) -> usize {
        self.lines.values().map(|line| line.order.len()).sum()
    }
}

impl Line {
    fn insert(&mut self, place: (u64, JobId), tokens: usize) {
        self.order.insert(place, tokens);
        self.tokens += tokens;
    }

    fn remove(&mut self, place: (u64, JobId)) -> usize {
        let tokens = self.order.remove(&place).unwrap_or_default();
        self.tokens -= tokens;
        tokens
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use retort_models::Encoding;

    use super::*;
    use crate::engine::{
        encode::job::{Failure, Finish, Input, Reply},
        lane::Tenant,
        request::Normalize,
    };

    /// A job of so many tokens that are all `id`, and whoever waits for it.
    fn job(id: u32, tokens: usize, deadline: Option<Instant>) -> ((Job, Waiter), Reply) {
        let finish = Finish {
            dimensions: None,
            normalize: Normalize::No,
        };
        let encoding = Encoding {
            input_ids: vec![id; tokens],
            ..Encoding::default()
        };
        let (waiter, reply) = Waiter::new(Heads::DENSE, finish, deadline);
        (
            (
                Job::new(Input::new(encoding, Heads::DENSE), Tenant::default()),
                waiter,
            ),
            reply,
        )
    }

    #[test]
    fn an_equal_input_comes_forward_with_whoever_is_served_first() {
        let mut queue = Queue::default();
        let (jobs, _replies): (Vec<_>, Vec<_>) = (1..=3).map(|id| job(id, 100, None)).unzip();
        assert_eq!(queue.push(jobs, Lane::Bulk), 0);
        let (last, _reply) = job(3, 100, None);
        assert_eq!(queue.push(vec![last], Lane::Bulk), 1);
        let taken = queue.take(Lane::Bulk, 300);
        let order: Vec<u32> = taken
            .iter()
            .map(|(_, job)| job.encoding.input_ids[0])
            .collect();
        assert_eq!(order, [1, 3, 2]);
        let ids: Vec<JobId> = taken.iter().map(|(id, _)| *id).collect();
        let waiters = queue.finish(&ids);
        assert_eq!(waiters.iter().map(Vec::len).collect::<Vec<_>>(), [1, 2, 1]);
        assert_eq!(queue.all_tokens(), 0);
    }

    #[test]
    fn whoever_is_late_is_told_also_when_nothing_else_waits() {
        let now = Instant::now();
        let mut queue = Queue::default();
        let ((hasty, waiter), mut reply) = job(1, 10, Some(now + Duration::from_secs(1)));
        queue.push(vec![(hasty, waiter)], Lane::Interactive);
        assert!(!queue.sweep(now));
        assert!(reply.try_recv().is_err());
        assert!(queue.sweep(now + Duration::from_secs(1)));
        assert!(matches!(reply.try_recv(), Ok(Err(Failure::Late { .. }))));
        assert_eq!(queue.dropped(), Dropped { left: 0, late: 1 });
        assert_eq!(queue.all_jobs(), 0);
    }
}
