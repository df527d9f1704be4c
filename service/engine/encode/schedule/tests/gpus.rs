//! GPUs: each runs one batch at a time, whosever it is; a model on several has one queue.

use super::*;

const BOTH: [WorkerKind; 2] = [WorkerKind::Gpu(0), WorkerKind::Gpu(1)];

/// Two models on the same two GPUs, with all four workers idle; the worker of a model on a GPU is
/// `10 * model + gpu`.
fn two_models() -> Schedule {
    let limits = DeviceLimits::of_gpus(4096, 2);
    let mut schedule = Schedule::new(limits, Scheduling::default().shares());
    for model in [1, 2] {
        schedule.add(model, &BOTH, 1 << 20);
        for (gpu, kind) in BOTH.into_iter().enumerate() {
            schedule.idle(model, (kind, 10 * model + gpu as u64));
        }
    }
    schedule
}

/// The replies keep the clients where they are.
fn push(schedule: &mut Schedule, model: ModelId, inputs: u32, now: Instant) -> Vec<Reply> {
    let finish = Finish {
        dimensions: None,
        normalize: Normalize::No,
    };
    let mut replies = Vec::new();
    let mut jobs = Vec::new();
    for input in 0..inputs {
        let encoding = Encoding {
            input_ids: vec![input; 1024],
            ..Encoding::default()
        };
        let (waiter, reply) = Waiter::new(Heads::DENSE, finish, None);
        replies.push(reply);
        jobs.push((
            Job::new(Input::new(encoding, Heads::DENSE), Tenant::default()),
            waiter,
        ));
    }
    let arrivals = Arrivals {
        jobs,
        lane: Lane::Bulk,
        deadline: None,
    };
    schedule.push(model, arrivals, now).unwrap();
    replies
}

/// Who begins now, with how many jobs.
fn begin(schedule: &mut Schedule, now: Instant) -> Vec<(WorkerId, usize)> {
    let next = std::iter::from_fn(|| schedule.next(now));
    next.map(|(worker, taken)| (worker, taken.jobs.len()))
        .collect()
}

#[test]
fn a_model_on_two_gpus_takes_from_one_queue() {
    let now = Instant::now();
    let mut schedule = two_models();
    let _clients = push(&mut schedule, 1, 6, now);
    // Shared out over the idle GPUs: 6 × 1,024 tokens are 3 × 1,024 for each.
    let mut begun = begin(&mut schedule, now);
    begun.sort_unstable();
    assert_eq!(begun, [(10, 3), (11, 3)]);
}

#[test]
fn little_work_is_not_split() {
    let now = Instant::now();
    let mut schedule = two_models();
    let _clients = push(&mut schedule, 1, 2, now);
    let begun = begin(&mut schedule, now);
    assert_eq!(begun.iter().map(|(_, jobs)| jobs).collect::<Vec<_>>(), [&2]);
}

#[test]
fn a_gpu_runs_one_batch_at_a_time_whosever_it_is() {
    let now = Instant::now();
    let mut schedule = two_models();
    let _first = push(&mut schedule, 1, 20, now);
    let _second = push(&mut schedule, 2, 20, now);
    let begun = begin(&mut schedule, now);
    let mut gpus: Vec<u64> = begun.iter().map(|(worker, _)| worker % 10).collect();
    gpus.sort_unstable();
    assert_eq!(gpus, [0, 1], "{begun:?}");
    let models: Vec<u64> = begun.iter().map(|(worker, _)| worker / 10).collect();
    assert!(
        models.contains(&1) && models.contains(&2),
        "they take turns"
    );

    // Only the GPU that is free again gets something.
    let (worker, _) = begun[0];
    let (model, gpu) = (worker / 10, worker % 10);
    let later = now + Duration::from_millis(20);
    assert_eq!(schedule.finished(worker, later).len(), begun[0].1);
    schedule.idle(model, (WorkerKind::Gpu(gpu as usize), worker));
    let begun = begin(&mut schedule, later);
    assert_eq!(begun.len(), 1);
    assert_eq!(begun[0].0 % 10, gpu);
}

#[test]
fn a_batch_is_filled_up_to_the_budget_of_a_gpu() {
    let now = Instant::now();
    let mut schedule = two_models();
    let _clients = push(&mut schedule, 1, 50, now);
    assert!(begin(&mut schedule, now).iter().all(|(_, jobs)| *jobs == 4));
}
