//! Launch, progress, cancel, terminate.

use super::*;
use crate::{engine::request::Task, error::Error};

fn spec(reference: &str) -> LaunchSpec {
    LaunchSpec::of(reference)
}

fn named(uid: &str, reference: &str) -> LaunchSpec {
    LaunchSpec {
        uid: Some(uid.into()),
        ..spec(reference)
    }
}

#[tokio::test]
async fn a_launched_model_answers_until_it_is_terminated() {
    let yard = Yard::new();
    let uid = yard.ready(spec("/models/a")).await;
    assert_eq!(uid, "a");
    assert_eq!(yard.embed("a").await.unwrap(), 1);
    let model = yard.fleet.model("a").unwrap();
    assert_eq!(model.progress.stage, Stage::Ready);
    assert_eq!(model.progress.fraction, 1.0);
    assert_eq!(model.memory_bytes, Some(4));
    assert_eq!(model.info.origin, "a test");

    yard.fleet.terminate("a").await.unwrap();
    assert_eq!(yard.alive(), 0);
    assert_eq!(yard.embed("a").await.unwrap_err().status(), 404);
    assert!(yard.fleet.models().is_empty());
    let again = yard.fleet.terminate("a").await.unwrap_err();
    assert_eq!(again.code(), "model_not_found");
}

#[tokio::test]
async fn a_model_is_visible_as_soon_as_it_is_launched() {
    let yard = Yard::new();
    yard.loader.gates.shut("a");
    yard.fleet.launch(spec("/models/a")).unwrap();
    let model = yard.fleet.model("a").unwrap();
    assert!(model.progress.stage.is_loading(), "{:?}", model.progress);
    assert_eq!(yard.embed("a").await.unwrap_err().status(), 503);
    yard.loader.gates.open("a");
    yard.fleet.wait_ready("a").await.unwrap();
    assert_eq!(yard.embed("a").await.unwrap(), 1);
}

#[tokio::test]
async fn the_same_launch_twice_is_one_model() {
    let yard = Yard::new();
    yard.ready(named("m", "/models/a")).await;
    let again = yard.fleet.launch(named("m", "/models/a")).unwrap();
    assert!(again.already);
    let error = yard.fleet.launch(named("m", "/models/b")).unwrap_err();
    let text = error.to_string();
    assert_eq!(
        (error.status().as_u16(), error.code()),
        (400, "model_already_served")
    );
    assert!(
        text.starts_with("Model is already in the model list, uid: m"),
        "{text}"
    );
    assert!(
        text.contains("/models/a") && text.contains("/models/b"),
        "{text}"
    );
    assert_eq!(yard.loads(), 1);
}

#[tokio::test]
async fn a_default_name_that_is_taken_gets_a_suffix() {
    let yard = Yard::new();
    yard.ready(spec("/models/one/m")).await;
    let other = yard.fleet.launch(spec("/models/two/m")).unwrap();
    let suffix = other.uid.strip_prefix("m-").unwrap();
    assert_eq!(suffix.len(), 8);
    assert!(yard.fleet.launch(spec("/models/one/m")).unwrap().already);
}

#[tokio::test]
async fn names_come_from_the_catalogue_and_never_have_a_slash() {
    let yard = Yard::new();
    for reference in ["bge-m3", "BAAI/bge-m3", "/models/x/bge-m3"] {
        yard.loader.gates.shut("bge-m3");
        let launched = yard.fleet.launch(spec(reference)).unwrap();
        assert_eq!(launched.uid, "bge-m3", "{reference}");
        yard.loader.gates.open("bge-m3");
        yard.fleet.wait_ready("bge-m3").await.unwrap();
        yard.fleet.terminate("bge-m3").await.unwrap();
    }
    let launched = yard.fleet.launch(spec("/models/what?#now")).unwrap();
    assert_eq!(launched.uid, "what--now");
    for wrong in ["a/b", "a?", "a#b", ""] {
        let error = yard.fleet.launch(named(wrong, "/models/a")).unwrap_err();
        assert_eq!(error.param(), Some("model_uid"), "{wrong}");
    }
}

#[tokio::test]
async fn a_load_that_fails_says_why_and_may_be_tried_again() {
    let yard = Yard::new();
    yard.loader.broken.lock().unwrap().push("a".into());
    yard.fleet.launch(spec("/models/a")).unwrap();
    let error = yard.fleet.wait_ready("a").await.unwrap_err();
    assert!(error.to_string().contains("no such file"), "{error}");
    assert_eq!(yard.fleet.progress("a").unwrap().stage, Stage::Failed);
    assert_eq!(yard.embed("a").await.unwrap_err().status(), 503);

    yard.loader.broken.lock().unwrap().clear();
    let again = yard.fleet.launch(spec("/models/a")).unwrap();
    assert!(!again.already);
    yard.fleet.wait_ready("a").await.unwrap();
    assert_eq!(yard.embed("a").await.unwrap(), 1);
}

#[tokio::test]
async fn a_configured_model_that_failed_keeps_its_configuration() {
    let yard = Yard::new();
    yard.loader.broken.lock().unwrap().push("a".into());
    let configured = ModelEntry {
        aliases: vec!["other".into()],
        cutoff_layer: Some(4),
        ..entry("a")
    };
    yard.fleet.enlist(&[configured]).unwrap();
    assert!(yard.fleet.load_queued().is_err(), "it is required");
    yard.loader.broken.lock().unwrap().clear();
    yard.fleet.launch(spec("/models/a")).unwrap();
    yard.fleet.wait_ready("a").await.unwrap();
    let model = yard.fleet.model("other").unwrap();
    assert!(model.info.required && model.spec.required);
    assert_eq!(yard.embed("other").await.unwrap(), 1);
}

#[tokio::test]
async fn a_launch_can_be_called_off() {
    let yard = Yard::new();
    yard.loader.gates.shut("a");
    yard.fleet.launch(spec("/models/a")).unwrap();
    let fleet = yard.fleet.clone();
    let waiting = tokio::spawn(async move { fleet.wait_ready("a").await });
    tokio::task::yield_now().await;
    yard.fleet.cancel("a").unwrap();
    let error = waiting.await.unwrap().unwrap_err();
    assert!(error.to_string().contains("cancelled"), "{error}");
    assert!(yard.fleet.model("a").is_err());

    // The name is free although the old load has not noticed yet; what it loads is not served.
    let again = yard.fleet.launch(named("a", "/models/b")).unwrap();
    assert!(!again.already);
    yard.loader.gates.open("a");
    yard.fleet.wait_ready("a").await.unwrap();
    assert_eq!(yard.fleet.model("a").unwrap().spec.reference, "/models/b");
    let error = yard.fleet.cancel("a").unwrap_err();
    assert_eq!(error.status(), 400);
}

#[tokio::test]
async fn a_model_that_cannot_do_what_it_is_wanted_for_is_refused() {
    let yard = Yard::new();
    let spec = LaunchSpec {
        task: Some(Task::Classify),
        ..spec("/models/a")
    };
    yard.fleet.launch(spec).unwrap();
    let error = yard.fleet.wait_ready("a").await.unwrap_err();
    assert!(error.to_string().contains("cannot classify"), "{error}");
    assert_eq!(yard.alive(), 0);
}

#[tokio::test]
async fn replicas_are_sessions_and_their_number_can_change() {
    let yard = Yard::new();
    let spec = LaunchSpec {
        replicas: 3,
        ..spec("/models/a")
    };
    yard.ready(spec).await;
    assert_eq!(yard.alive(), 3);
    yard.fleet.scale("a", 2).unwrap();
    // The request waits for the new sessions or comes before the old ones go; it is answered.
    assert_eq!(yard.embed("a").await.unwrap(), 1);
    while yard.loads() < 2 || yard.fleet.progress("a").unwrap().stage != Stage::Ready {
        tokio::task::yield_now().await;
    }
    assert_eq!(yard.alive(), 2);
    assert_eq!(yard.fleet.scale("a", 0).unwrap_err().status(), 400);
}

#[tokio::test]
async fn configured_models_load_in_order_and_only_required_ones_stop_it() {
    let yard = Yard::new();
    let optional = ModelEntry {
        required: false,
        ..entry("b")
    };
    yard.loader.broken.lock().unwrap().push("b".into());
    yard.fleet
        .enlist(&[entry("a"), optional, entry("c")])
        .unwrap();
    yard.fleet.load_queued().unwrap();
    let stages: Vec<_> = yard
        .fleet
        .models()
        .into_iter()
        .map(|m| m.progress.stage)
        .collect();
    assert_eq!(stages, [Stage::Ready, Stage::Failed, Stage::Ready]);
    // What is not required does not count while it fails.
    let probed = yard.engine.probe().await;
    let names: Vec<_> = probed.iter().map(|probe| probe.model.as_str()).collect();
    assert_eq!(names, ["a", "c"]);

    let yard = Yard::new();
    yard.loader.broken.lock().unwrap().push("a".into());
    yard.fleet.enlist(&[entry("a"), entry("b")]).unwrap();
    let error = yard.fleet.load_queued().unwrap_err();
    assert!(error.message.contains("no such file"), "{error}");
}

#[tokio::test]
async fn what_does_not_fit_is_refused_with_numbers() {
    let yard = Yard::with(|settings| settings.memory_bytes = Some(100 << 20));
    let needs = [("a", 60u64 << 20), ("b", 50 << 20)];
    let needs = needs.map(|(uid, bytes)| (uid.to_owned(), bytes));
    yard.loader.needs.lock().unwrap().extend(needs);
    yard.ready(spec("/models/a")).await;
    yard.fleet.launch(spec("/models/b")).unwrap();
    let error = yard.fleet.wait_ready("b").await.unwrap_err();
    assert!(matches!(error, Error::InsufficientMemory(_)), "{error:?}");
    let text = error.to_string();
    for number in ["50 MiB", "60 MiB", "100 MiB"] {
        assert!(text.contains(number), "{number}: {text}");
    }
    yard.fleet.terminate("a").await.unwrap();
    yard.ready(spec("/models/b")).await;
}

#[tokio::test]
async fn models_known_by_name_come_and_go() {
    let yard = Yard::new();
    let catalog = yard.fleet.catalog();
    let mut own = catalog.by_name("bge-m3").unwrap().clone();
    (own.name, own.aliases) = ("my-m3".into(), Vec::new());
    (own.huggingface.id, own.huggingface.copies) = ("me/my-m3".into(), Vec::new());
    yard.fleet.register(own.clone(), true).unwrap();
    assert!(yard.fleet.register(own, true).is_err(), "its name is taken");
    assert!(yard.fleet.catalog().by_name("my-m3").is_some());
    assert!(!yard.fleet.is_builtin("my-m3") && yard.fleet.is_builtin("bge-m3"));
    assert!(yard.fleet.unregister("bge-m3").is_err());

    let next = yard.after_restart();
    next.fleet.restore();
    assert!(next.fleet.catalog().by_name("my-m3").is_some());
    next.fleet.unregister("my-m3").unwrap();
    assert!(next.fleet.unregister("my-m3").is_err());
    let last = next.after_restart();
    last.fleet.restore();
    assert!(last.fleet.catalog().by_name("my-m3").is_none());
}

#[test]
fn a_model_that_only_the_engine_knows_is_not_the_fleets() {
    let yard = Yard::new();
    yard.engine.register(registered("x")).unwrap();
    assert_eq!(yard.fleet.model("x").unwrap_err().status(), 404);
}

#[tokio::test]
async fn a_model_that_is_loading_is_gone_when_its_termination_returns() {
    let yard = Yard::with(|settings| settings.memory_bytes = Some(100));
    let needs = &yard.loader.needs;
    for uid in ["a", "b"] {
        needs.lock().unwrap().insert(uid.into(), 60);
    }
    yard.loader.inner_gates.shut("a");
    yard.fleet.launch(spec("/models/a")).unwrap();
    yard.until("a", Stage::Loading).await;
    let is_open = std::cell::Cell::new(false);
    let end = async {
        yard.fleet.terminate("a").await.unwrap();
        assert!(is_open.get(), "its thread was still loading");
    };
    let open = async {
        assert_eq!(yard.fleet.0.ledger().held(), 60, "it holds memory still");
        is_open.set(true);
        yard.loader.inner_gates.open("a");
    };
    tokio::join!(end, open);
    assert_eq!((yard.alive(), yard.fleet.0.ledger().held()), (0, 0));
    yard.ready(spec("/models/b")).await;
}
