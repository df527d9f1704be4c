//! What happens to models that nobody asks for.

use super::*;

const MINUTE: Duration = Duration::from_secs(60);

fn kept(uid: &str, keep_alive: KeepAlive) -> LaunchSpec {
    LaunchSpec {
        keep_alive,
        ..LaunchSpec::of(format!("/models/{uid}"))
    }
}

#[tokio::test]
async fn an_idle_model_sleeps_and_the_next_request_wakes_it() {
    let yard = Yard::new();
    yard.ready(kept("a", KeepAlive::For(5 * MINUTE))).await;
    yard.embed("a").await.unwrap();
    yard.pass(4 * MINUTE);
    yard.embed("a").await.unwrap();
    yard.pass(4 * MINUTE);
    // The keeper has had its chance once it has answered a second ring.
    assert_eq!(yard.fleet.model("a").unwrap().unloads_in, Some(MINUTE));
    yard.pass(MINUTE);
    yard.until("a", Stage::Asleep).await;
    assert_eq!(yard.alive(), 0);
    // It is still served as far as callers are concerned.
    let probes = yard.engine.probe().await;
    assert!(probes[0].outcome.is_ok());
    assert_eq!(yard.alive(), 0, "a probe wakes nobody");
    assert_eq!(yard.embed("a").await.unwrap(), 1);
    assert_eq!((yard.loads(), yard.alive()), (2, 1));
}

#[tokio::test]
async fn requests_at_once_wake_a_model_once() {
    let yard = Yard::new();
    yard.ready(kept("a", KeepAlive::For(MINUTE))).await;
    yard.pass(MINUTE);
    yard.until("a", Stage::Asleep).await;
    yard.loader.gates.shut("a");
    let ask = || async { yard.embed("a").await.unwrap() };
    let open = async {
        yard.until("a", Stage::Fetching).await;
        yard.loader.gates.open("a");
    };
    let (a, b, c, ()) = tokio::join!(ask(), ask(), ask(), open);
    assert_eq!((a, b, c), (1, 1, 1));
    assert_eq!(yard.loads(), 2);
}

#[tokio::test]
async fn a_request_may_wish_that_its_model_goes_afterwards() {
    let yard = Yard::new();
    yard.ready(kept("a", KeepAlive::Forever)).await;
    yard.fleet
        .keep_alive("a", KeepAlive::For(Duration::ZERO))
        .unwrap();
    yard.embed("a").await.unwrap();
    yard.until("a", Stage::Asleep).await;
    assert_eq!(yard.alive(), 0);
    // The wish ended with that load.
    yard.embed("a").await.unwrap();
    assert_eq!(
        yard.fleet.model("a").unwrap().keep_alive,
        KeepAlive::Forever
    );
    yard.fleet.keep_alive("a", KeepAlive::For(MINUTE)).unwrap();
    assert_eq!(yard.fleet.model("a").unwrap().unloads_in, Some(MINUTE));
    yard.pass(MINUTE);
    yard.until("a", Stage::Asleep).await;
}

#[tokio::test]
async fn a_model_that_cannot_wake_says_why_and_is_tried_again() {
    let yard = Yard::new();
    yard.ready(kept("a", KeepAlive::For(MINUTE))).await;
    yard.pass(MINUTE);
    yard.until("a", Stage::Asleep).await;
    yard.loader.broken.lock().unwrap().push("a".into());
    let error = yard.embed("a").await.unwrap_err();
    assert!(error.to_string().contains("no such file"), "{error}");
    assert_eq!(error.status(), 503);
    yard.loader.broken.lock().unwrap().clear();
    yard.until("a", Stage::Asleep).await;
    assert_eq!(yard.embed("a").await.unwrap(), 1);
}

#[tokio::test]
async fn a_sleeping_model_can_be_terminated_while_it_wakes() {
    let yard = Yard::new();
    yard.ready(kept("a", KeepAlive::For(MINUTE))).await;
    yard.pass(MINUTE);
    yard.until("a", Stage::Asleep).await;
    yard.loader.gates.shut("a");
    let end = async {
        yard.until("a", Stage::Fetching).await;
        let open = async { yard.loader.gates.open("a") };
        let (ended, ()) = tokio::join!(yard.fleet.terminate("a"), open);
        ended.unwrap();
    };
    let (answer, ()) = tokio::join!(yard.embed("a"), end);
    assert_eq!(answer.unwrap_err().status(), 404);
}

#[tokio::test]
async fn files_are_looked_up_again_only_when_they_have_changed() {
    let yard = Yard::new();
    let folder = tempfile::tempdir().unwrap();
    let weights = folder.path().join("model.safetensors");
    std::fs::write(&weights, "weights").unwrap();
    let dir = folder.path().to_owned();
    yard.loader.folders.lock().unwrap().insert("a".into(), dir);
    let finds = || yard.loader.finds.load(Ordering::SeqCst);
    let sleep = async || {
        yard.pass(MINUTE);
        yard.until("a", Stage::Asleep).await;
    };
    yard.ready(kept("a", KeepAlive::For(MINUTE))).await;
    for loads in 2..=3 {
        sleep().await;
        yard.embed("a").await.unwrap();
        assert_eq!((yard.loads(), finds()), (loads, 1));
    }
    sleep().await;
    std::fs::write(&weights, "other weights").unwrap();
    yard.embed("a").await.unwrap();
    assert_eq!(finds(), 2);
    // What is estimated depends on the number of sessions.
    sleep().await;
    yard.fleet.scale("a", 2).unwrap();
    yard.embed("a").await.unwrap();
    assert_eq!((finds(), yard.alive()), (3, 2));
    // After a load that failed nothing is taken for granted.
    sleep().await;
    yard.loader.broken.lock().unwrap().push("a".into());
    yard.embed("a").await.unwrap_err();
    yard.loader.broken.lock().unwrap().clear();
    yard.until("a", Stage::Asleep).await;
    yard.embed("a").await.unwrap();
    assert_eq!(finds(), 4);
    let served = yard.loader.served.lock().unwrap().clone();
    assert_eq!(served, [false, true, true, false, false, true, false]);
}

#[tokio::test]
async fn room_is_made_by_those_who_are_idle_longest_if_that_is_allowed() {
    let yard = Yard::with(|settings| {
        settings.memory_bytes = Some(100);
        settings.eviction = Eviction::IdleModels;
    });
    for (uid, bytes) in [("a", 40), ("b", 40), ("c", 40), ("d", 101)] {
        yard.loader.needs.lock().unwrap().insert(uid.into(), bytes);
    }
    for uid in ["a", "b"] {
        yard.ready(kept(uid, KeepAlive::Forever)).await;
        yard.pass(MINUTE);
    }
    yard.embed("a").await.unwrap();
    yard.pass(MINUTE);
    yard.ready(kept("c", KeepAlive::Forever)).await;
    let stage = |uid| yard.fleet.progress(uid).unwrap().stage;
    assert_eq!((stage("a"), stage("b")), (Stage::Ready, Stage::Asleep));
    // Waking it costs another its place, and nobody goes for one that cannot fit.
    yard.pass(MINUTE);
    yard.embed("c").await.unwrap();
    yard.embed("b").await.unwrap();
    assert_eq!((stage("a"), stage("b")), (Stage::Asleep, Stage::Ready));
    yard.fleet.launch(kept("d", KeepAlive::Forever)).unwrap();
    assert!(yard.fleet.wait_ready("d").await.is_err());
    assert_eq!((stage("b"), stage("c")), (Stage::Ready, Stage::Ready));
}

/// Two models fit on the GPU, and one runs on the processor.
async fn full_gpu(eviction: Eviction) -> Yard {
    let yard = Yard::with(|settings| settings.eviction = eviction);
    // The one on the processor counts among the sessions that are alive.
    *yard.loader.gpu.lock().unwrap() = Some(("gpu", 3));
    for uid in ["on-cpu", "gpu-a", "gpu-b"] {
        yard.ready(kept(uid, KeepAlive::Forever)).await;
        yard.pass(MINUTE);
    }
    yard.embed("gpu-a").await.unwrap();
    yard
}

#[tokio::test]
async fn a_full_gpu_makes_room_for_another_model() {
    let yard = full_gpu(Eviction::IdleModels).await;
    yard.ready(kept("gpu-c", KeepAlive::Forever)).await;
    let stage = |uid| yard.fleet.progress(uid).unwrap().stage;
    // The one that was used least recently went, of those that are there.
    assert_eq!(stage("gpu-b"), Stage::Asleep);
    assert_eq!(
        (stage("gpu-a"), stage("on-cpu")),
        (Stage::Ready, Stage::Ready)
    );
    assert_eq!(yard.embed("gpu-b").await.unwrap(), 1, "it comes back");
    assert_eq!(yard.alive(), 3);
}

#[tokio::test]
async fn a_gpu_that_stays_full_is_told() {
    let yard = full_gpu(Eviction::Never).await;
    let refused = async |yard: &Yard| {
        let spec = kept("gpu-c", KeepAlive::Forever);
        let uid = yard.fleet.launch(spec).unwrap().uid;
        yard.fleet.wait_ready(&uid).await.unwrap_err()
    };
    let error = refused(&yard).await;
    assert_eq!(error.status(), 503);
    let error = error.to_string();
    assert!(
        error.contains("not a byte left") && error.contains("--allow-eviction"),
        "{error}"
    );
    assert_eq!(yard.alive(), 3);
    // Nobody leaves whose leaving would not help.
    let yard = Yard::with(|settings| settings.eviction = Eviction::IdleModels);
    *yard.loader.gpu.lock().unwrap() = Some(("gpu", 0));
    yard.ready(kept("on-cpu", KeepAlive::Forever)).await;
    let error = refused(&yard).await.to_string();
    assert!(
        error.contains("terminate a model") && !error.contains("--allow-eviction"),
        "{error}"
    );
    assert_eq!(yard.alive(), 1);
}
