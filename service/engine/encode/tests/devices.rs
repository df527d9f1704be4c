//! Devices that fail: what one request may cost the others, and what no model survives.

use super::*;
use crate::error::Error;

fn on_gpu(kind: WorkerKind) -> (Bench, Faults) {
    let host = host(LIMITS.scheduling);
    let faults = host.faults.clone();
    (bench_on(kind, Gate::Shut, host), faults)
}

/// Has two requests run in one batch, behind one that keeps the worker busy.
async fn together(bench: &Bench, ids: [u32; 2]) -> [Result<EmbedResponse>; 2] {
    let busy = spawn(bench, &[&[40]]);
    wait_for(&bench.pipeline, |waiting| waiting == 0).await;
    let first = spawn(bench, &[&[ids[0], 42]]);
    wait_for(&bench.pipeline, |waiting| waiting == 2).await;
    let second = spawn(bench, &[&[ids[1], 42]]);
    wait_for(&bench.pipeline, |waiting| waiting == 4).await;
    // At most: the first batch, the shared one, and its two halves again.
    for _ in 0..4 {
        bench.gate.send(()).unwrap();
    }
    busy.await.unwrap().unwrap();
    [first.await.unwrap(), second.await.unwrap()]
}

#[tokio::test]
async fn answers_of_a_gpu_come_from_a_thread_of_their_own() {
    let (bench, faults) = on_gpu(WorkerKind::Gpu(0));
    let [first, second] = together(&bench, [41, 43]).await;
    assert_eq!(vectors(first.unwrap()), [[41.0, 2.0]]);
    assert_eq!(vectors(second.unwrap()), [[43.0, 2.0]]);
    assert_eq!(bench.seen.try_iter().collect::<Vec<_>>(), [1, 2]);
    assert_eq!(faults.current(), None);
}

#[tokio::test]
async fn only_what_cannot_fit_fails_for_want_of_memory() {
    for kind in [WorkerKind::Gpu(0), WorkerKind::Share] {
        let (bench, faults) = on_gpu(kind);
        let [large, small] = together(&bench, [LARGE as u32, 43]).await;
        assert_eq!(vectors(small.unwrap()), [[43.0, 2.0]]);
        let error = large.unwrap_err();
        assert!(matches!(error, Error::InsufficientMemory(_)), "{error:?}");
        assert_eq!(error.status(), 503);
        assert_eq!(faults.current(), None, "the device goes on");
    }
}

#[tokio::test]
async fn a_lost_device_is_not_tried_again_and_is_told() {
    for kind in [WorkerKind::Gpu(0), WorkerKind::Share] {
        let (bench, faults) = on_gpu(kind);
        for outcome in together(&bench, [LOST as u32, 43]).await {
            assert_eq!(outcome.unwrap_err().status(), 503);
        }
        assert_eq!(bench.seen.try_iter().collect::<Vec<_>>(), [1, 2]);
        let reason = faults.current().unwrap();
        assert!(reason.contains("an illegal address"), "{reason}");
    }
}

#[test]
fn models_on_the_same_gpus_share_a_schedule_and_all_have_numbers_of_their_own() {
    let host = host(LIMITS.scheduling);
    let of = |kinds: &[WorkerKind]| {
        let (counter, seats) = host.gpus.of(&host.device, kinds).add(kinds, 100);
        // Their workers never start; without a desk nobody waits for them.
        drop(seats);
        counter
    };
    let (zero, both) = (
        [WorkerKind::Gpu(0)],
        [WorkerKind::Gpu(1), WorkerKind::Gpu(0)],
    );
    let counters = [
        of(&[WorkerKind::Share]),
        of(&zero),
        of(&zero),
        of(&both),
        of(&[WorkerKind::Gpu(0), WorkerKind::Gpu(1)]),
    ];
    let mut ids: Vec<_> = counters.iter().map(Counter::id).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), counters.len());
    let same = |a: usize, b: usize| counters[a].shares_a_device_with(&counters[b]);
    assert!(same(1, 2) && same(3, 4));
    assert!(!same(0, 1) && !same(1, 3));
}
