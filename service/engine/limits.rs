//! The bounds of the engine, and what follows from them for the sessions of a model.

use std::time::Duration;

use super::{
    encode::{UntrainedDimensions, WorkerKind},
    lane::Scheduling,
};

/// Bounds of the engine, and how it uses the machine.
#[derive(Debug, Clone, Copy)]
pub struct EngineLimits {
    /// The most inputs in one request.
    pub max_inputs_per_request: usize,
    /// The most tokens in one forward pass on the processor.
    pub max_batch_tokens: usize,
    /// The most tokens in one forward pass on a GPU.
    pub max_gpu_batch_tokens: usize,
    /// The most tokens that may wait for one model.
    pub max_queue_tokens: usize,
    /// When a request is given up.
    pub request_timeout: Duration,
    /// Cores to compute on.
    pub threads: usize,
    /// Whether vectors may be cut to lengths that their model was not trained for.
    pub untrained_dimensions: UntrainedDimensions,
    /// Workers that share the cores when there is more than one input; at most `threads`.
    pub workers: usize,
    /// Whose turn it is when there is more work than can be done at once.
    pub scheduling: Scheduling,
}

impl EngineLimits {
    /// Batches that run at the same time.
    pub(super) fn slots(&self) -> usize {
        self.workers.clamp(1, self.threads.max(1))
    }
}

/// The sessions a model gets: one a worker on its part of the cores for throughput, `replicas`
/// times over, and one over all cores for the latency of a lone input, where that is different.
pub(crate) fn worker_threads(limits: &EngineLimits, replicas: usize) -> Vec<(WorkerKind, usize)> {
    let workers = limits.slots();
    let each = (limits.threads / workers).max(1);
    let mut sessions = vec![(WorkerKind::Share, each); workers * replicas.max(1)];
    if workers > 1 {
        sessions.push((WorkerKind::AllCores, limits.threads));
    }
    sessions
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(threads: usize, workers: usize) -> EngineLimits {
        EngineLimits {
            max_inputs_per_request: 1,
            max_batch_tokens: 1,
            max_gpu_batch_tokens: 1,
            max_queue_tokens: 1,
            request_timeout: Duration::ZERO,
            untrained_dimensions: UntrainedDimensions::Refused,
            threads,
            workers,
            scheduling: Scheduling::default(),
        }
    }

    #[test]
    fn cores_are_shared_out_and_a_lone_input_gets_them_all() {
        use WorkerKind::{AllCores, Share};
        let check = |threads, workers, expected: &[(WorkerKind, usize)]| {
            assert_eq!(worker_threads(&limits(threads, workers), 1), expected);
        };
        check(1, 1, &[(Share, 1)]);
        check(2, 2, &[(Share, 1), (Share, 1), (AllCores, 2)]);
        check(4, 1, &[(Share, 4)]);
        check(8, 2, &[(Share, 4), (Share, 4), (AllCores, 8)]);
        check(2, 9, &[(Share, 1), (Share, 1), (AllCores, 2)]);
        let twice = [
            (Share, 2),
            (Share, 2),
            (Share, 2),
            (Share, 2),
            (AllCores, 4),
        ];
        assert_eq!(worker_threads(&limits(4, 2), 2), twice);
    }
}
