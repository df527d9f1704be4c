//! Which jobs run next, as a pure function of what waits, what runs and the limits.
//!
//! Nothing is ever held back to wait for company: on a CPU a batch gains nothing beyond a few
//! hundred tokens, so whoever is free takes what is there.

/// How large a batch may be and how many hands there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchLimits {
    /// The most tokens in one forward pass; a longer single input runs alone.
    pub max_batch_tokens: usize,
    /// Workers that each own a part of the cores.
    pub workers: usize,
    /// Whether there is a worker that owns all cores, for the lowest latency of a lone input.
    pub all_cores_worker: AllCoresWorker,
}

/// Whether a worker over all cores exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AllCoresWorker {
    /// It does.
    Present,
    /// There is only one core, or one worker already has them all.
    Absent,
}

/// Who asks for work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WorkerKind {
    /// One of several workers, each on its own cores: the most tokens per second.
    Share,
    /// The one worker over all cores: the lowest latency.
    AllCores,
}

/// What runs at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Running {
    /// [`WorkerKind::Share`] workers in a forward pass.
    pub share: usize,
    /// [`WorkerKind::AllCores`] workers in a forward pass (0 or 1).
    pub all_cores: usize,
}

/// The fewest tokens worth a worker of their own: below this, splitting what waits over the idle
/// workers costs more in per-run overhead than the second core brings.
const MIN_SHARE_TOKENS: usize = 48;

/// How many jobs from the front of the queue `worker` should take now; 0 means wait.
///
/// `waiting` yields the tokens of the waiting jobs, first come first; `waiting_tokens` is their
/// sum.
pub fn plan(
    worker: WorkerKind,
    waiting: impl ExactSizeIterator<Item = usize>,
    waiting_tokens: usize,
    running: Running,
    limits: &BatchLimits,
) -> usize {
    if waiting.len() == 0 || running.all_cores > 0 {
        return 0;
    }
    // A lone input on an idle machine gets all cores; anything more is spread, one core each.
    let lone = waiting.len() == 1
        && running.share == 0
        && limits.all_cores_worker == AllCoresWorker::Present;
    match (worker, lone) {
        (WorkerKind::AllCores, true) => return 1,
        (WorkerKind::AllCores, false) | (WorkerKind::Share, true) => return 0,
        (WorkerKind::Share, false) => {}
    }
    let idle = limits.workers.saturating_sub(running.share).max(1);
    let share = waiting_tokens.div_ceil(idle).max(MIN_SHARE_TOKENS);
    take_within(waiting, share.min(limits.max_batch_tokens))
}

/// How many jobs from the front fit into `budget` tokens; at least one.
fn take_within(waiting: impl Iterator<Item = usize>, budget: usize) -> usize {
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

    const LIMITS: BatchLimits = BatchLimits {
        max_batch_tokens: 256,
        workers: 2,
        all_cores_worker: AllCoresWorker::Present,
    };

    fn check(worker: WorkerKind, waiting: &[usize], running: Running) -> usize {
        let sum = waiting.iter().sum();
        plan(worker, waiting.iter().copied(), sum, running, &LIMITS)
    }

    const IDLE: Running = Running {
        share: 0,
        all_cores: 0,
    };

    #[test]
    fn a_lone_input_gets_all_cores() {
        assert_eq!(check(WorkerKind::AllCores, &[16], IDLE), 1);
        assert_eq!(check(WorkerKind::Share, &[16], IDLE), 0);
    }

    #[test]
    fn two_inputs_are_left_to_the_shares() {
        assert_eq!(check(WorkerKind::AllCores, &[16, 16], IDLE), 0);
        assert_eq!(check(WorkerKind::Share, &[100, 100], IDLE), 1);
    }

    #[test]
    fn a_lone_input_joins_a_machine_that_is_already_working() {
        let busy = Running {
            share: 1,
            all_cores: 0,
        };
        assert_eq!(check(WorkerKind::Share, &[16], busy), 1);
        assert_eq!(check(WorkerKind::AllCores, &[16], busy), 0);
    }

    #[test]
    fn nobody_starts_while_one_run_has_all_cores() {
        let busy = Running {
            share: 0,
            all_cores: 1,
        };
        assert_eq!(check(WorkerKind::Share, &[16, 16], busy), 0);
        assert_eq!(check(WorkerKind::AllCores, &[16], busy), 0);
    }

    #[test]
    fn what_waits_is_split_over_the_idle_workers() {
        assert_eq!(check(WorkerKind::Share, &[50; 4], IDLE), 2);
        let one_busy = Running {
            share: 1,
            all_cores: 0,
        };
        assert_eq!(check(WorkerKind::Share, &[50; 4], one_busy), 4);
    }

    #[test]
    fn a_single_worker_without_company_takes_lone_inputs_itself() {
        let limits = BatchLimits {
            workers: 1,
            all_cores_worker: AllCoresWorker::Absent,
            ..LIMITS
        };
        assert_eq!(
            plan(WorkerKind::Share, [7].into_iter(), 7, IDLE, &limits),
            1
        );
    }

    proptest! {
        /// Whatever waits, an idle machine starts something, and no batch of several jobs is over
        /// the limit.
        #[test]
        fn progress_and_bounds(
            waiting in proptest::collection::vec(1usize..600, 1..80),
            workers in 1usize..9,
            running_share in 0usize..9,
            max_batch_tokens in 1usize..1000,
        ) {
            let all = if workers > 1 { AllCoresWorker::Present } else { AllCoresWorker::Absent };
            let limits = BatchLimits { max_batch_tokens, workers, all_cores_worker: all };
            let running = Running { share: running_share.min(workers - 1), all_cores: 0 };
            let sum: usize = waiting.iter().sum();
            let ask = |kind| plan(kind, waiting.iter().copied(), sum, running, &limits);
            let (share, lone) = (ask(WorkerKind::Share), ask(WorkerKind::AllCores));
            // An all-cores worker may only be counted on when it exists.
            prop_assert!(share + lone > 0);
            prop_assert!(share <= waiting.len());
            if share > 1 {
                prop_assert!(waiting[..share].iter().sum::<usize>() <= max_batch_tokens);
            }
        }
    }
}
