//! The schedule on a machine that exists on paper only: its time is told, its batches take what
//! their tokens take, and a run over all cores stops the others where the system preempts.

mod gpus;

use std::collections::BTreeMap;

use proptest::prelude::*;
use retort_models::{Encoding, Heads};

use super::*;
use crate::engine::{
    encode::job::{Finish, Input, Reply},
    lane::{Scheduling, Tenant},
    request::Normalize,
};

/// Tokens that one core runs in a second.
const RATE: f64 = 4_000.0;
const SLOTS: usize = 2;
const QUERY: Lane = Lane::Interactive;

struct Machine {
    schedule: Schedule,
    preemption: Preemption,
    began: Instant,
    seconds: f64,
    workers: BTreeMap<WorkerId, (ModelId, WorkerKind)>,
    running: BTreeMap<WorkerId, Batch>,
    /// Keeps the clients where they are.
    clients: Vec<Reply>,
    next_input: u32,
    /// When each job came in, by the id that it is made of.
    arrived: BTreeMap<u32, f64>,
    /// The longest wait of any job of a lane, in seconds.
    longest_wait: PerLane<f64>,
    tokens: PerLane<usize>,
}

struct Batch {
    lane: Lane,
    tokens: usize,
    /// Core-seconds that are left.
    left: f64,
}

impl Machine {
    fn new(preemption: Preemption, models: &[ModelId]) -> Self {
        let limits = DeviceLimits {
            max_batch_tokens: 256,
            slots: SLOTS,
            min_share_tokens: 48,
            preemption,
        };
        let mut schedule = Schedule::new(limits, Scheduling::default().shares());
        let mut workers = BTreeMap::new();
        let kinds = [WorkerKind::Share, WorkerKind::Share, WorkerKind::AllCores];
        for &model in models {
            schedule.add(model, &kinds, 1 << 20);
            for kind in kinds {
                let worker = 100 + workers.len() as u64;
                workers.insert(worker, (model, kind));
                schedule.idle(model, (kind, worker));
            }
        }
        Self {
            schedule,
            preemption,
            began: Instant::now(),
            seconds: 0.0,
            workers,
            running: BTreeMap::new(),
            clients: Vec::new(),
            next_input: 0,
            arrived: BTreeMap::new(),
            longest_wait: PerLane::default(),
            tokens: PerLane::default(),
        }
    }

    fn now(&self) -> Instant {
        self.began + Duration::from_secs_f64(self.seconds)
    }

    fn push(&mut self, model: ModelId, lane: Lane, lengths: &[usize]) {
        self.push_until(model, lane, lengths, None).unwrap();
    }

    fn push_until(
        &mut self,
        model: ModelId,
        lane: Lane,
        lengths: &[usize],
        deadline: Option<Instant>,
    ) -> Result<Pushed> {
        let finish = Finish {
            dimensions: None,
            normalize: Normalize::No,
        };
        let mut jobs = Vec::new();
        for &length in lengths {
            self.next_input += 1;
            self.arrived.insert(self.next_input, self.seconds);
            let encoding = Encoding {
                input_ids: vec![self.next_input; length],
                ..Encoding::default()
            };
            let (waiter, reply) = Waiter::new(Heads::DENSE, finish, None);
            self.clients.push(reply);
            jobs.push((
                Job::new(Input::new(encoding, Heads::DENSE), Tenant::default()),
                waiter,
            ));
        }
        let arrivals = Arrivals {
            jobs,
            lane,
            deadline,
        };
        let now = self.now();
        self.schedule.push(model, arrivals, now)
    }

    /// Starts what may start.
    fn start(&mut self) {
        let now = self.now();
        while let Some((worker, taken)) = self.schedule.next(now) {
            let lane = taken.lane;
            for job in &taken.jobs {
                let arrived = self.arrived.remove(&job.encoding.input_ids[0]).unwrap();
                let wait = self.seconds - arrived;
                self.longest_wait[lane] = self.longest_wait[lane].max(wait);
            }
            let tokens = taken.jobs.iter().map(Job::tokens).sum();
            let left = tokens as f64 / RATE;
            let batch = Batch { lane, tokens, left };
            assert!(self.running.insert(worker, batch).is_none());
        }
    }

    /// Lets time pass until the next batch ends, but for no more than `most` seconds.
    fn pass(&mut self, most: f64) {
        self.start();
        let over_all = |worker: &WorkerId| self.workers[worker].1 == WorkerKind::AllCores;
        let preempted = self.running.keys().any(over_all);
        let speed = |worker: &WorkerId| match (over_all(worker), preempted) {
            (true, _) => SLOTS as f64,
            (false, true) => {
                assert_eq!(self.preemption, Preemption::System, "two fight for a core");
                0.0
            }
            (false, false) => 1.0,
        };
        let ends = |(worker, batch): (&WorkerId, &Batch)| batch.left / speed(worker);
        let step = self.running.iter().map(ends).fold(most, f64::min);
        let speeds: Vec<(WorkerId, f64)> = self.running.keys().map(|w| (*w, speed(w))).collect();
        self.seconds += step;
        for (worker, speed) in speeds {
            let batch = self.running.get_mut(&worker).unwrap();
            batch.left -= step * speed;
            if batch.left < 1e-9 {
                self.end(worker);
            }
        }
        self.start();
    }

    fn end(&mut self, worker: WorkerId) {
        let batch = self.running.remove(&worker).unwrap();
        self.tokens[batch.lane] += batch.tokens;
        let now = self.now();
        let waiters = self.schedule.finished(worker, now);
        assert!(waiters.iter().all(|waiters| waiters.len() == 1));
        let (model, kind) = self.workers[&worker];
        self.schedule.idle(model, (kind, worker));
    }

    fn pass_until(&mut self, seconds: f64) {
        while self.seconds < seconds {
            self.pass(seconds - self.seconds);
        }
    }

    /// Keeps at least so many tokens waiting.
    fn fill(&mut self, model: ModelId, lane: Lane, tokens: usize, length: usize) {
        while self.schedule.queue(model).unwrap().tokens(lane) < tokens {
            self.push(model, lane, &[length; 8]);
        }
    }

    /// What a lane has had of the machine, as a part of everything.
    fn part(&self, lane: Lane) -> f64 {
        self.tokens[lane] as f64 / RATE / SLOTS as f64 / self.seconds
    }
}

#[test]
fn a_query_never_waits_for_bulk_work_of_its_own_or_another_model() {
    for asked in [1, 2] {
        let mut machine = Machine::new(Preemption::System, &[1, 2]);
        for query in 1..=200 {
            machine.fill(1, Lane::Bulk, 5_000, 200);
            machine.pass_until(f64::from(query) * 0.05);
            machine.push(asked, QUERY, &[16]);
        }
        assert_eq!(machine.longest_wait[QUERY], 0.0);
        // 16 tokens every 50 ms are 4 % of the machine; the rest is bulk's.
        let bulk = machine.part(Lane::Bulk);
        assert!(bulk > 0.93, "bulk had {bulk}");
    }
}

#[test]
fn without_preemption_a_query_waits_for_a_short_batch() {
    let mut machine = Machine::new(Preemption::None, &[1]);
    for query in 1..=200 {
        machine.fill(1, Lane::Bulk, 5_000, 20);
        machine.pass_until(f64::from(query) * 0.05);
        machine.push(1, QUERY, &[16]);
    }
    let wait = machine.longest_wait[QUERY];
    // 256 tokens before the first query had come.
    assert!(wait < 0.064, "{wait}");
    machine.longest_wait[QUERY] = 0.0;
    for query in 201..=400 {
        machine.fill(1, Lane::Bulk, 5_000, 20);
        machine.pass_until(f64::from(query) * 0.05);
        machine.push(1, QUERY, &[16]);
    }
    let wait = machine.longest_wait[QUERY];
    assert!(wait <= 0.0101, "{wait}");
    assert!(machine.part(Lane::Bulk) > 0.9);
}

#[test]
fn with_both_lanes_full_each_has_its_share() {
    for preemption in [Preemption::System, Preemption::None] {
        for models in [[1, 1], [1, 2]] {
            let mut machine = Machine::new(preemption, &[1, 2]);
            for _ in 0..3_000 {
                machine.fill(models[0], Lane::Bulk, 5_000, 120);
                machine.fill(models[1], QUERY, 2_000, 16);
                machine.pass(1.0);
            }
            let (query, bulk) = (machine.part(QUERY), machine.part(Lane::Bulk));
            assert!(
                query > 0.75 && bulk > 0.18,
                "{preemption:?}: {query} and {bulk}"
            );
        }
    }
}

#[test]
fn models_take_turns() {
    let mut machine = Machine::new(Preemption::System, &[1, 2]);
    machine.push(1, Lane::Bulk, &[200; 100]);
    machine.pass_until(0.1);
    machine.push(2, Lane::Bulk, &[200; 2]);
    machine.pass_until(0.3);
    let waits = machine.schedule.queue(2).unwrap().tokens(Lane::Bulk);
    assert_eq!(
        waits, 0,
        "the later model had to wait for all of the earlier"
    );
}

#[test]
fn a_short_request_passes_the_tail_of_a_long_one() {
    let mut machine = Machine::new(Preemption::System, &[1]);
    machine.push(1, QUERY, &[128; 100]);
    machine.pass_until(0.2);
    machine.push(1, QUERY, &[16]);
    machine.pass_until(0.3);
    assert!(
        !machine.arrived.contains_key(&101),
        "the short one still waits"
    );
    assert!(machine.arrived.contains_key(&100), "the long one is over");
}

#[test]
fn what_cannot_be_done_in_time_is_refused_and_says_when_to_come_back() {
    let mut machine = Machine::new(Preemption::System, &[1, 2]);
    let at = |machine: &Machine, seconds| Some(machine.now() + Duration::from_secs_f64(seconds));
    // Nothing is known of the model yet, so nothing is refused.
    let deadline = at(&machine, 0.001);
    machine
        .push_until(1, Lane::Bulk, &[200; 400], deadline)
        .unwrap();
    machine.pass_until(1.0);
    // About 72,000 tokens wait, at 8,000 in a second.
    let deadline = at(&machine, 5.0);
    let refused = machine.push_until(1, Lane::Bulk, &[200; 400], deadline);
    let error = refused.unwrap_err();
    let Error::WouldBeLate {
        estimate,
        retry_after,
        ..
    } = error
    else {
        panic!("{error}");
    };
    assert!(
        (17.0..20.0).contains(&estimate.as_secs_f64()),
        "{estimate:?}"
    );
    assert_eq!((error.status().as_u16(), retry_after.as_secs()), (429, 14));
    let deadline = at(&machine, 25.0);
    machine
        .push_until(1, Lane::Bulk, &[200; 400], deadline)
        .unwrap();
    // A query does not wait for any of that.
    let deadline = at(&machine, 0.02);
    machine.push_until(1, QUERY, &[16], deadline).unwrap();
}

#[test]
fn a_job_moves_to_the_lane_of_whoever_is_more_in_a_hurry() {
    let mut machine = Machine::new(Preemption::System, &[1]);
    machine.push(1, Lane::Bulk, &[200; 100]);
    machine.start();
    machine.push(1, Lane::Bulk, &[100]);
    // The same input again.
    machine.next_input -= 1;
    machine.push(1, QUERY, &[100]);
    let queue = machine.schedule.queue(1).unwrap();
    assert_eq!((queue.tokens(QUERY), queue.jobs(QUERY)), (100, 1));
    let now = machine.now();
    let (_, taken) = machine.schedule.next(now).unwrap();
    assert_eq!((taken.lane, taken.jobs.len()), (QUERY, 1));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Whatever comes, in whatever lane and for whatever model: the machine is never idle while
    /// something waits, everything that waits is run, and once nothing new comes it is run in the
    /// time that its tokens take, by workers of which at most two share the cores.
    #[test]
    fn nobody_starves(
        requests in proptest::collection::vec(
            (1u64..4, any::<bool>(), proptest::collection::vec(1usize..400, 1..20), 0.0f64..0.2),
            1..40,
        ),
        preempts in any::<bool>(),
    ) {
        let preemption = if preempts { Preemption::System } else { Preemption::None };
        let mut machine = Machine::new(preemption, &[1, 2, 3]);
        for (model, is_query, lengths, pause) in requests {
            let lane = if is_query { QUERY } else { Lane::Bulk };
            machine.push(model, lane, &lengths);
            machine.pass_until(machine.seconds + pause);
        }
        let left: usize = machine.schedule.models.values().map(|m| m.queue.all_tokens()).sum();
        let running: f64 = machine.running.values().map(|batch| batch.left).sum();
        let began = machine.seconds;
        for _ in 0..2_000 {
            machine.pass(1.0);
            if machine.arrived.is_empty() && machine.running.is_empty() {
                break;
            }
            prop_assert!(!machine.running.is_empty(), "it idles while something waits");
            prop_assert!(machine.running.len() <= SLOTS + 1);
        }
        prop_assert!(machine.arrived.is_empty());
        // The last batch may have a core to itself, and a lone input all of them.
        let work = left as f64 / RATE + running;
        let took = machine.seconds - began - 1.0;
        prop_assert!(took <= work / SLOTS as f64 + 2.0 * 400.0 / RATE + work * 0.5);
    }

    /// A lane that goes second gets its turn however many queries come: a job is started after
    /// the work before it has been done at the share of its lane.
    #[test]
    fn bulk_work_is_done_in_bounded_time(length in 1usize..200, before in 1usize..40) {
        let mut machine = Machine::new(Preemption::System, &[1]);
        machine.push(1, Lane::Bulk, &vec![length; before]);
        let work = (length * before) as f64 / RATE / SLOTS as f64;
        let bound = work / 0.2 + 2.0;
        while machine.schedule.queue(1).unwrap().jobs(Lane::Bulk) > 0 {
            machine.fill(1, QUERY, 2_000, 16);
            machine.pass(1.0);
            prop_assert!(machine.seconds < bound, "{} of {bound}", machine.seconds);
        }
    }

    /// Within a lane: however many short requests come, a long one is done after at most eight
    /// times its tokens of theirs, and what waited when its turn had come.
    #[test]
    fn a_long_request_is_not_passed_for_ever(
        lengths in proptest::collection::vec(1usize..100, 1..30),
    ) {
        let mut machine = Machine::new(Preemption::System, &[1]);
        machine.push(1, QUERY, &lengths);
        let own: usize = lengths.iter().sum();
        let last = lengths.len() as u32;
        while (1..=last).any(|job| machine.arrived.contains_key(&job)) {
            machine.fill(1, QUERY, own + 256, 16);
            machine.pass(1.0);
            let others = machine.tokens[QUERY];
            prop_assert!(others <= 8 * own + 2 * (own + 256) + 1_024, "{others} for {own}");
        }
    }
}
