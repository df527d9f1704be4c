//! Which waiting work runs next, and how much of it at once: pure functions of what waits, what
//! runs and the limits.
//!
//! Nothing is ever held back to wait for company: on a CPU a batch gains nothing beyond a few
//! hundred tokens, so whoever is free takes what is there.
//!
//! A forward pass cannot be interrupted by us, but on Linux it can by the kernel: the workers that
//! each own a part of the cores run at a lower priority than the one over all cores. So a query
//! never waits for bulk work: it starts beside it, on the worker over all cores, and the kernel
//! takes the cores away from the others for as long as it runs. Where there is no such worker or
//! no such kernel, bulk batches are kept short instead, for as long as queries come.

use std::time::Duration;

use crate::engine::lane::{Lane, PerLane};

/// What a device can do at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceLimits {
    /// The most tokens in one forward pass; a longer single input runs alone.
    pub max_batch_tokens: usize,
    /// Batches that run at the same time, each on its part of the cores or its GPU.
    pub slots: usize,
    /// The fewest tokens worth a worker of their own: below this, splitting what waits over those
    /// that are idle costs more in per-run overhead than the next one brings.
    pub min_share_tokens: usize,
    /// Whether batches that run give way to the worker over all cores.
    pub preemption: Preemption,
}

/// Whether the operating system takes the cores from a batch of low priority.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Preemption {
    /// It does.
    System,
    /// A batch that has begun keeps its cores.
    None,
}

/// Which part of the machine a worker's session uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum WorkerKind {
    /// One of several workers, each on its own cores: the most tokens per second.
    Share,
    /// The one worker over all cores: the lowest latency.
    AllCores,
    /// The one worker of a model on the GPU of this number.
    Gpu(usize),
}

impl WorkerKind {
    /// Whether such a worker may be given a batch that is for one of this kind: a GPU is a share of
    /// all GPUs.
    pub fn is_one_for(self, wanted: Self) -> bool {
        match self {
            Self::Gpu(_) => wanted == Self::Share,
            own => own == wanted,
        }
    }
}

/// Whether a worker could begin now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hands {
    /// There is no such worker.
    Absent,
    /// It has not come back yet.
    Busy,
    /// It could.
    Free,
}

/// What waits for one model in one lane, and who could run it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Candidate {
    /// The lane.
    pub lane: Lane,
    /// The tokens that wait.
    pub tokens: usize,
    /// The worker over all cores.
    pub all_cores: Hands,
    /// The workers that each own a part of them.
    pub share: Hands,
    /// Tokens that the model runs in a second on one worker's part; 0 while it is unknown.
    pub rate: f64,
}

/// What the device is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Situation {
    /// Jobs that wait, over all models.
    pub waiting: PerLane<usize>,
    /// Batches of [`WorkerKind::Share`] workers.
    pub share: PerLane<usize>,
    /// What runs over all cores.
    pub all_cores: Option<Lane>,
    /// The lane that is owed the device.
    pub due: Option<Lane>,
    /// Whether interactive work has come in lately.
    pub queries_lately: bool,
}

/// A batch that may begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Start {
    /// Who runs it.
    pub worker: WorkerKind,
    /// The most tokens; at least one job is taken whatever its length.
    pub budget: usize,
}

/// The most tokens of a batch that takes the cores from others, so that the next query does not
/// wait long for it.
const PREEMPTING_TOKENS: usize = 128;

/// The longest bulk batch while queries come and nothing else makes it give way.
const RESIDUAL: Duration = Duration::from_millis(10);

/// How the candidate would begin now; `None` means wait.
pub fn plan(candidate: &Candidate, now: &Situation, limits: &DeviceLimits) -> Option<Start> {
    match candidate.lane {
        Lane::Interactive => plan_interactive(candidate, now, limits),
        Lane::Bulk => plan_bulk(candidate, now, limits),
    }
}

fn plan_interactive(
    candidate: &Candidate,
    now: &Situation,
    limits: &DeviceLimits,
) -> Option<Start> {
    let bulk = now.waiting[Lane::Bulk] + now.share[Lane::Bulk] > 0;
    let gives_way = now.due == Some(Lane::Bulk) && bulk;
    if now.all_cores.is_some() || gives_way {
        return None;
    }
    let preempts = bulk && limits.preemption == Preemption::System;
    match candidate.all_cores {
        Hands::Free if preempts => Some(Start {
            worker: WorkerKind::AllCores,
            budget: PREEMPTING_TOKENS.min(limits.max_batch_tokens),
        }),
        Hands::Free if now.has_only_one() => Some(LONE),
        // It will be back in a moment, and faster than any other.
        Hands::Busy if preempts || now.has_only_one() => None,
        _ => on_a_share(candidate, now, limits, limits.max_batch_tokens),
    }
}

fn plan_bulk(candidate: &Candidate, now: &Situation, limits: &DeviceLimits) -> Option<Start> {
    let gives_way = limits.preemption == Preemption::System && candidate.all_cores != Hands::Absent;
    match now.all_cores {
        Some(Lane::Interactive) if gives_way => {}
        Some(_) => return None,
        None => {}
    }
    // Over all cores it would give way to nobody.
    if now.has_only_one() && !now.queries_lately && candidate.all_cores == Hands::Free {
        return Some(LONE);
    }
    let is_due = now.due == Some(Lane::Bulk);
    if !gives_way && now.waiting[Lane::Interactive] > 0 && !is_due {
        return None;
    }
    let short = now.queries_lately && !gives_way && candidate.rate > 0.0;
    let most = if short {
        (candidate.rate * RESIDUAL.as_secs_f64()) as usize
    } else {
        limits.max_batch_tokens
    };
    on_a_share(candidate, now, limits, most.min(limits.max_batch_tokens))
}

/// One input and no more.
const LONE: Start = Start {
    worker: WorkerKind::AllCores,
    budget: 1,
};

/// What waits is spread over the idle parts of the device.
fn on_a_share(
    candidate: &Candidate,
    now: &Situation,
    limits: &DeviceLimits,
    most: usize,
) -> Option<Start> {
    let running: usize = now.share.values().sum();
    let idle = limits.slots.saturating_sub(running);
    if idle == 0 || candidate.share != Hands::Free {
        return None;
    }
    let share = candidate.tokens.div_ceil(idle).max(limits.min_share_tokens);
    Some(Start {
        worker: WorkerKind::Share,
        budget: share.min(most),
    })
}

impl Situation {
    /// A lone input on an idle device.
    fn has_only_one(&self) -> bool {
        self.waiting.values().sum::<usize>() == 1
            && self.share.values().sum::<usize>() == 0
            && self.all_cores.is_none()
    }
}

/// How many jobs from the front fit into `budget` tokens; at least one.
pub fn take_within(waiting: impl Iterator<Item = usize>, budget: usize) -> usize {
    let mut tokens = 0;
    waiting
        .take_while(|job| {
            tokens += job;
            tokens <= budget
        })
        .count()
        .max(1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMITS: DeviceLimits = DeviceLimits {
        max_batch_tokens: 256,
        slots: 2,
        min_share_tokens: 48,
        preemption: Preemption::System,
    };

    const FIRM: DeviceLimits = DeviceLimits {
        preemption: Preemption::None,
        ..LIMITS
    };

    fn candidate(lane: Lane, tokens: usize) -> Candidate {
        Candidate {
            lane,
            tokens,
            all_cores: Hands::Free,
            share: Hands::Free,
            rate: 4_000.0,
        }
    }

    fn waiting(interactive: usize, bulk: usize) -> Situation {
        let mut waiting = PerLane::default();
        waiting[Lane::Interactive] = interactive;
        waiting[Lane::Bulk] = bulk;
        Situation {
            waiting,
            ..Situation::default()
        }
    }

    fn running(mut now: Situation, lane: Lane, batches: usize) -> Situation {
        now.share[lane] = batches;
        now
    }

    const QUERY: Lane = Lane::Interactive;

    fn share(budget: usize) -> Option<Start> {
        let worker = WorkerKind::Share;
        Some(Start { worker, budget })
    }

    fn all_cores(budget: usize) -> Option<Start> {
        let worker = WorkerKind::AllCores;
        Some(Start { worker, budget })
    }

    #[test]
    fn a_lone_input_gets_all_cores() {
        let one = waiting(1, 0);
        assert_eq!(plan(&candidate(QUERY, 16), &one, &LIMITS), all_cores(1));
        // Its worker is on its way back: no other is faster.
        let mut busy = candidate(QUERY, 16);
        busy.all_cores = Hands::Busy;
        assert_eq!(plan(&busy, &one, &LIMITS), None);
        busy.all_cores = Hands::Absent;
        assert_eq!(plan(&busy, &one, &LIMITS), share(48));
    }

    #[test]
    fn several_inputs_are_spread_over_the_shares() {
        let two = waiting(2, 0);
        assert_eq!(plan(&candidate(QUERY, 200), &two, &LIMITS), share(100));
        let busy = running(two, QUERY, 1);
        assert_eq!(plan(&candidate(QUERY, 200), &busy, &LIMITS), share(200));
        let full = running(two, QUERY, 2);
        assert_eq!(plan(&candidate(QUERY, 200), &full, &LIMITS), None);
    }

    #[test]
    fn a_query_starts_beside_bulk_work() {
        let busy = running(waiting(1, 50), Lane::Bulk, 2);
        assert_eq!(plan(&candidate(QUERY, 16), &busy, &LIMITS), all_cores(128));
        // Without a kernel that helps it waits for a slot.
        assert_eq!(plan(&candidate(QUERY, 16), &busy, &FIRM), None);
    }

    #[test]
    fn bulk_work_goes_on_beside_a_query_only_where_it_gives_way() {
        let mut busy = waiting(0, 50);
        busy.all_cores = Some(QUERY);
        let bulk = candidate(Lane::Bulk, 5_000);
        assert_eq!(plan(&bulk, &busy, &LIMITS), share(256));
        assert_eq!(plan(&bulk, &busy, &FIRM), None);
        let contest = waiting(1, 50);
        assert_eq!(plan(&bulk, &contest, &FIRM), None);
    }

    #[test]
    fn what_is_due_goes_first() {
        let mut contest = running(waiting(9, 50), Lane::Bulk, 1);
        contest.due = Some(Lane::Bulk);
        for limits in [LIMITS, FIRM] {
            assert_eq!(plan(&candidate(QUERY, 90), &contest, &limits), None);
            let bulk = candidate(Lane::Bulk, 5_000);
            assert_eq!(plan(&bulk, &contest, &limits), share(256));
        }
        // Nothing of it is left: nobody has to wait for nothing.
        let mut over = waiting(9, 0);
        over.due = Some(Lane::Bulk);
        assert_eq!(plan(&candidate(QUERY, 200), &over, &LIMITS), share(100));
    }

    #[test]
    fn without_preemption_bulk_batches_are_short_while_queries_come() {
        let mut calm = waiting(0, 50);
        let bulk = candidate(Lane::Bulk, 5_000);
        assert_eq!(plan(&bulk, &calm, &FIRM), share(256));
        calm.queries_lately = true;
        assert_eq!(plan(&bulk, &calm, &FIRM), share(40));
        assert_eq!(plan(&bulk, &calm, &LIMITS), share(256));
    }

    #[test]
    fn a_lone_bulk_input_takes_all_cores_only_where_no_queries_come() {
        let mut one = waiting(0, 1);
        let bulk = candidate(Lane::Bulk, 500);
        assert_eq!(plan(&bulk, &one, &LIMITS), all_cores(1));
        one.queries_lately = true;
        assert_eq!(plan(&bulk, &one, &LIMITS), share(250));
    }

    fn any_situation() -> impl Strategy<Value = (Situation, usize)> {
        let due = proptest::option::of(prop_oneof![Just(QUERY), Just(Lane::Bulk)]);
        (0usize..5, 0usize..5, due, any::<bool>(), 1usize..9).prop_map(
            |(interactive, bulk, due, queries_lately, slots)| {
                let mut now = waiting(interactive, bulk);
                (now.due, now.queries_lately) = (due, queries_lately);
                (now, slots)
            },
        )
    }

    proptest! {
        /// Whatever waits, an idle device whose workers are free starts something.
        #[test]
        fn progress(
            (now, slots) in any_situation(),
            express in any::<bool>(),
            preemption in prop_oneof![Just(Preemption::System), Just(Preemption::None)],
            tokens in 1usize..5_000,
        ) {
            let limits = DeviceLimits { slots, preemption, ..LIMITS };
            let lanes = Lane::ALL.into_iter().filter(|&lane| now.waiting[lane] > 0);
            let starts: Vec<_> = lanes
                .map(|lane| {
                    let all_cores = if express { Hands::Free } else { Hands::Absent };
                    plan(&Candidate { all_cores, ..candidate(lane, tokens) }, &now, &limits)
                })
                .collect();
            prop_assert!(starts.is_empty() || starts.iter().any(Option::is_some));
            for start in starts.into_iter().flatten() {
                prop_assert!(start.budget <= limits.max_batch_tokens);
            }
        }

        /// Never more batches than slots, never two over all cores, and beside one over all cores
        /// only what gives way to it.
        #[test]
        fn bounds(
            (mut now, slots) in any_situation(),
            share in 0usize..9,
            over_all in proptest::option::of(prop_oneof![Just(QUERY), Just(Lane::Bulk)]),
            lane in prop_oneof![Just(QUERY), Just(Lane::Bulk)],
        ) {
            now.share[Lane::Bulk] = share.min(slots);
            now.all_cores = over_all;
            now.waiting[lane] += 1;
            let limits = DeviceLimits { slots, ..LIMITS };
            let Some(start) = plan(&candidate(lane, 500), &now, &limits) else {
                return Ok(());
            };
            match start.worker {
                WorkerKind::AllCores => prop_assert!(over_all.is_none()),
                WorkerKind::Share | WorkerKind::Gpu(_) => {
                    prop_assert!(now.share[Lane::Bulk] < slots);
                    prop_assert!(over_all.is_none() || lane == Lane::Bulk);
                    prop_assert!(over_all != Some(Lane::Bulk));
                }
            }
        }

        #[test]
        fn a_batch_of_several_is_within_its_budget(
            waiting in proptest::collection::vec(1usize..600, 1..80),
            budget in 1usize..1000,
        ) {
            let count = take_within(waiting.iter().copied(), budget);
            prop_assert!((1..=waiting.len()).contains(&count));
            if count > 1 {
                prop_assert!(waiting[..count].iter().sum::<usize>() <= budget);
            }
        }
    }
}
