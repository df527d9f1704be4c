//! Who goes first, and what is done once for several.

use super::*;

/// Asks as somebody.
fn spawn_for(bench: &Bench, inputs: &[&[u32]], caller: Caller) -> Answer {
    let (pipeline, request) = (bench.pipeline.clone(), request(inputs));
    tokio::spawn(async move { pipeline.embed(request, &caller).await })
}

#[tokio::test]
async fn a_query_passes_bulk_work_that_waits() {
    let bench = bench(Gate::Shut, LIMITS);
    let bulk = Caller {
        lane: Some(Lane::Bulk),
        ..ANYONE
    };
    let busy = spawn(&bench, &[&[40]]);
    wait_for(&bench.pipeline, |waiting| waiting == 0).await;
    let long = spawn_for(&bench, &[&[41; 8], &[42; 8], &[43; 8], &[44; 8]], bulk);
    wait_for(&bench.pipeline, |waiting| waiting == 32).await;
    let query = spawn(&bench, &[&[45]]);
    wait_for(&bench.pipeline, |waiting| waiting == 33).await;
    // The one that runs, and the next: that is the query, and it is alone.
    bench.gate.send(()).unwrap();
    bench.gate.send(()).unwrap();
    let answer = tokio::time::timeout(Duration::from_secs(20), query).await;
    let answer = answer.expect("bulk work went first").unwrap().unwrap();
    assert_eq!(answer.timings.lane, Some(Lane::Interactive));
    assert_eq!(vectors(answer), [[45.0, 1.0]]);
    assert!(!long.is_finished());
    // How many batches the rest makes depends on how fast the first was.
    for _ in 0..4 {
        bench.gate.send(()).unwrap();
    }
    let answer = long.await.unwrap().unwrap();
    assert_eq!(answer.timings.lane, Some(Lane::Bulk));
    busy.await.unwrap().unwrap();
    assert_eq!(bench.seen.try_iter().take(2).collect::<Vec<_>>(), [1, 1]);
}

#[tokio::test]
async fn equal_inputs_are_run_once_and_cut_as_each_caller_wants() {
    let bench = bench(Gate::Shut, LIMITS);
    // The gate is shut: this one runs, and an equal one joins it.
    let running = spawn(&bench, &[&[40]]);
    wait_for(&bench.pipeline, |waiting| waiting == 0).await;
    let joins = spawn(&bench, &[&[40]]);
    let twice = spawn(&bench, &[&[41, 41], &[42], &[41, 41]]);
    wait_for(&bench.pipeline, |waiting| waiting == 3).await;
    let mut cut = request(&[&[41, 41]]);
    (cut.dimensions, cut.normalize) = (Some(1), Normalize::Yes);
    let pipeline = bench.pipeline.clone();
    let cut = tokio::spawn(async move { pipeline.embed(cut, &ANYONE).await });
    let other = Caller {
        tenant: Tenant([1; 32]),
        ..ANYONE
    };
    let stranger = spawn_for(&bench, &[&[41, 41]], other);
    wait_for(&bench.pipeline, |waiting| waiting == 5).await;
    until_unanswered(&bench, 7).await;
    bench.gate.send(()).unwrap();
    bench.gate.send(()).unwrap();
    let answer = twice.await.unwrap().unwrap();
    assert_eq!((answer.timings.coalesced, answer.timings.cached), (1, 0));
    assert_eq!(answer.usage.prompt_tokens, 5, "each input is accounted for");
    assert_eq!(vectors(answer), [[41.0, 2.0], [42.0, 1.0], [41.0, 2.0]]);
    let answer = cut.await.unwrap().unwrap();
    assert_eq!(answer.timings.coalesced, 1);
    assert_eq!(vectors(answer), [[1.0]]);
    let answer = stranger.await.unwrap().unwrap();
    assert_eq!(answer.timings.coalesced, 0);
    assert_eq!(vectors(answer), [[41.0, 2.0]]);
    assert_eq!(vectors(running.await.unwrap().unwrap()), [[40.0, 1.0]]);
    let answer = joins.await.unwrap().unwrap();
    assert_eq!(answer.timings.coalesced, 1);
    assert_eq!(vectors(answer), [[40.0, 1.0]]);
    assert_eq!(bench.seen.try_iter().collect::<Vec<_>>(), [1, 3]);
}

/// Yields until so many wait for an answer.
async fn until_unanswered(bench: &Bench, count: usize) {
    let patience = Instant::now() + Duration::from_secs(20);
    while bench.pipeline.queue.unanswered() != count {
        assert!(Instant::now() < patience, "never {count}");
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn one_who_leaves_takes_nothing_from_others_who_wait_for_the_same() {
    let bench = bench(Gate::Shut, LIMITS);
    let busy = spawn(&bench, &[&[40]]);
    wait_for(&bench.pipeline, |waiting| waiting == 0).await;
    let leaver = spawn(&bench, &[&[41]]);
    wait_for(&bench.pipeline, |waiting| waiting == 1).await;
    let stayer = spawn(&bench, &[&[41], &[42]]);
    wait_for(&bench.pipeline, |waiting| waiting == 2).await;
    leaver.abort();
    assert!(leaver.await.unwrap_err().is_cancelled());
    bench.gate.send(()).unwrap();
    bench.gate.send(()).unwrap();
    busy.await.unwrap().unwrap();
    let answer = stayer.await.unwrap().unwrap();
    assert_eq!(vectors(answer), [[41.0, 1.0], [42.0, 1.0]]);
}

#[tokio::test]
async fn what_is_kept_answers_without_a_forward_pass_and_only_its_owner() {
    let mut limits = LIMITS;
    limits.scheduling.cache_bytes = 1 << 20;
    let bench = bench(Gate::Open, limits);
    let ask = |caller| spawn_for(&bench, &[&[40, 41]], caller);
    let first = ask(ANYONE).await.unwrap().unwrap();
    assert_eq!(first.timings.cached, 0);
    // The answer leaves before it is kept; the next request finds it as soon as it is there.
    let patience = Instant::now() + Duration::from_secs(20);
    let again = loop {
        let again = ask(ANYONE).await.unwrap().unwrap();
        if again.timings.cached == 1 {
            break again;
        }
        assert!(Instant::now() < patience, "nothing was kept");
    };
    assert_eq!(again.usage, first.usage);
    assert_eq!(vectors(again), vectors(first));
    let stranger = Caller {
        tenant: Tenant([9; 32]),
        ..ANYONE
    };
    assert_eq!(ask(stranger).await.unwrap().unwrap().timings.cached, 0);
}

#[tokio::test]
async fn what_is_late_is_not_run() {
    let bench = bench(Gate::Shut, LIMITS);
    let busy = spawn(&bench, &[&[40]]);
    wait_for(&bench.pipeline, |waiting| waiting == 0).await;
    // Nothing has been measured yet, so nothing is refused; its time is over when it is its turn.
    let hasty = Caller {
        deadline: Some(Instant::now()),
        ..ANYONE
    };
    let late = spawn_for(&bench, &[&[41]], hasty);
    until_unanswered(&bench, 2).await;
    let patient = spawn(&bench, &[&[42]]);
    until_unanswered(&bench, 3).await;
    bench.gate.send(()).unwrap();
    bench.gate.send(()).unwrap();
    busy.await.unwrap().unwrap();
    assert_eq!(vectors(patient.await.unwrap().unwrap()), [[42.0, 1.0]]);
    let error = late.await.unwrap().unwrap_err();
    assert_eq!(error.status(), 504, "{error}");
    assert_eq!(bench.seen.try_iter().collect::<Vec<_>>(), [1, 1]);
}
