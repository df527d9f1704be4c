//! What returns in the next process.

use super::*;

fn persisting(uid: &str) -> LaunchSpec {
    LaunchSpec {
        persist: true,
        ..LaunchSpec::of(format!("/models/{uid}"))
    }
}

#[tokio::test]
async fn what_was_launched_to_stay_returns_in_its_order() {
    let yard = Yard::new();
    for uid in ["b", "a"] {
        yard.ready(persisting(uid)).await;
    }
    yard.ready(LaunchSpec::of("/models/c")).await;
    let next = yard.after_restart();
    next.fleet.restore();
    // They have their names before they are loaded.
    assert_eq!(next.embed("a").await.unwrap_err().status(), 503);
    next.fleet.load_queued().unwrap();
    let names: Vec<_> = next
        .fleet
        .models()
        .into_iter()
        .map(|m| m.info.name)
        .collect();
    assert_eq!(names, ["b", "a"]);
    assert_eq!(next.embed("a").await.unwrap(), 1);

    next.fleet.terminate("b").await.unwrap();
    let last = next.after_restart();
    last.fleet.restore();
    let names: Vec<_> = last
        .fleet
        .models()
        .into_iter()
        .map(|m| m.info.name)
        .collect();
    assert_eq!(names, ["a"]);
}

#[tokio::test]
async fn what_never_loaded_does_not_return_but_what_did_is_tried_again() {
    let yard = Yard::new();
    yard.loader.broken.lock().unwrap().push("a".into());
    yard.fleet.launch(persisting("a")).unwrap();
    assert!(yard.fleet.wait_ready("a").await.is_err());
    // The last thing its thread does.
    while yard.fleet.model("a").unwrap().spec.persist {
        tokio::task::yield_now().await;
    }
    yard.ready(persisting("b")).await;

    let next = yard.after_restart();
    next.loader.broken.lock().unwrap().push("b".into());
    next.fleet.restore();
    next.fleet.load_queued().unwrap();
    assert_eq!(next.fleet.models().len(), 1);
    assert_eq!(next.fleet.progress("b").unwrap().stage, Stage::Failed);

    let last = next.after_restart();
    last.fleet.restore();
    last.fleet.load_queued().unwrap();
    assert_eq!(last.fleet.progress("b").unwrap().stage, Stage::Ready);
}

#[tokio::test]
async fn a_launch_that_is_under_way_when_the_process_ends_returns() {
    let yard = Yard::new();
    yard.loader.gates.shut("a");
    yard.fleet.launch(persisting("a")).unwrap();
    let next = yard.after_restart();
    next.fleet.restore();
    next.fleet.load_queued().unwrap();
    assert_eq!(next.embed("a").await.unwrap(), 1);
    yard.loader.gates.open("a");
}

#[tokio::test]
async fn the_configuration_goes_before_what_was_launched() {
    let yard = Yard::new();
    yard.ready(persisting("a")).await;
    let next = yard.after_restart();
    next.fleet.enlist(&[entry("a")]).unwrap();
    next.fleet.restore();
    next.fleet.load_queued().unwrap();
    assert_eq!((next.fleet.models().len(), next.loads()), (1, 1));
}
