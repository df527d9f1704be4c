//! The Hugging Face source against a hub that behaves, and one that does not.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicUsize, Ordering},
};

use super::{
    super::{ModelOrigin, ModelRequest, ModelSource, Progress, Secret, model},
    MODEL, Recording, Tripwire, config,
    fake_hub::{Answer, COMMIT, FakeHub, Repository, git_blob, sha256},
    offline, request, write,
};

const WEIGHTS: &str = "model.safetensors";

fn snapshot(root: &Path) -> PathBuf {
    root.join("hub/models--acme--tiny-embedder/snapshots")
        .join(COMMIT)
}

fn blobs(root: &Path) -> PathBuf {
    root.join("hub/models--acme--tiny-embedder/blobs")
}

/// Puts the first half of the weights where an interrupted start would have left it.
fn leave_half(root: &Path, weights: &[u8]) -> usize {
    let half = weights.len() / 2;
    let part = blobs(root).join(format!("{}.incomplete", sha256(weights)));
    write(&part, &weights[..half]);
    half
}

#[test]
fn downloads_into_the_hubs_own_layout_and_needs_no_network_again() {
    let root = tempfile::tempdir().unwrap();
    let repository = Repository::embedder();
    let hub = FakeHub::new({
        let repository = repository.clone();
        move |seen| repository.hugging_face(seen)
    });
    let config = config(root.path(), &hub.endpoint());

    let found = model(&config, &request(MODEL), &Progress::silent()).unwrap();

    assert_eq!(found.dir, snapshot(root.path()));
    assert_eq!(found.origin, ModelOrigin::Fetched(ModelSource::HuggingFace));
    assert_eq!(found.revision.as_deref(), Some(COMMIT));
    assert_eq!(
        fs::read(found.dir.join(WEIGHTS)).unwrap(),
        repository.weights()
    );
    let pooling = &repository.files["1_Pooling/config.json"];
    assert_eq!(
        &fs::read(found.dir.join("1_Pooling/config.json")).unwrap(),
        pooling
    );
    assert!(
        blobs(root.path())
            .join(sha256(repository.weights()))
            .is_file()
    );
    assert!(blobs(root.path()).join(git_blob(pooling)).is_file());
    let reference = root
        .path()
        .join("hub/models--acme--tiny-embedder/refs/main");
    assert_eq!(fs::read_to_string(reference).unwrap(), COMMIT);
    for unneeded in [
        "README.md",
        "pytorch_model.bin",
        "tf_model.h5",
        "onnx/model.onnx",
    ] {
        assert!(hub.gets(unneeded).is_empty(), "{unneeded} was fetched");
    }

    let requests = hub.seen().len();
    let again = model(&config, &request(MODEL), &Progress::silent()).unwrap();
    assert_eq!(again.origin, ModelOrigin::Cache(ModelSource::HuggingFace));
    assert_eq!(again.dir, found.dir);
    assert_eq!(hub.seen().len(), requests);
}

#[cfg(unix)]
#[test]
fn links_are_relative_so_that_the_cache_can_be_mounted_elsewhere() {
    let root = tempfile::tempdir().unwrap();
    let repository = Repository::embedder();
    let hub = FakeHub::new(move |seen| repository.hugging_face(seen));
    let config = config(root.path(), &hub.endpoint());
    model(&config, &request(MODEL), &Progress::silent()).unwrap();

    let nested = fs::read_link(snapshot(root.path()).join("1_Pooling/config.json")).unwrap();
    assert!(nested.starts_with("../../../blobs"), "{}", nested.display());
    let moved = root.path().join("elsewhere");
    fs::rename(root.path().join("hub"), &moved).unwrap();
    let file = moved
        .join("models--acme--tiny-embedder/snapshots")
        .join(COMMIT)
        .join("config.json");
    assert!(file.is_file());
}

#[test]
fn goes_on_after_a_connection_that_was_cut() {
    let root = tempfile::tempdir().unwrap();
    let repository = Repository::embedder();
    let half = repository.weights().len() / 2;
    let tries = AtomicUsize::new(0);
    let served = repository.clone();
    let hub = FakeHub::new(move |seen| {
        let mut answer = served.hugging_face(seen);
        if seen.asks_for(WEIGHTS) && tries.fetch_add(1, Ordering::SeqCst) == 0 {
            answer.cut_at = Some(half);
        }
        answer
    });
    let config = config(root.path(), &hub.endpoint());

    let found = model(&config, &request(MODEL), &Progress::silent()).unwrap();

    assert_eq!(
        fs::read(found.dir.join(WEIGHTS)).unwrap(),
        repository.weights()
    );
    let asked: Vec<_> = hub
        .gets(WEIGHTS)
        .iter()
        .map(super::fake_hub::Seen::from)
        .collect();
    assert_eq!(asked, [None, Some(half)]);
}

#[test]
fn goes_on_where_an_earlier_start_stopped() {
    let root = tempfile::tempdir().unwrap();
    let repository = Repository::embedder();
    let half = leave_half(root.path(), repository.weights());
    let served = repository.clone();
    let hub = FakeHub::new(move |seen| served.hugging_face(seen));
    let config = config(root.path(), &hub.endpoint());

    let found = model(&config, &request(MODEL), &Progress::silent()).unwrap();

    assert_eq!(
        fs::read(found.dir.join(WEIGHTS)).unwrap(),
        repository.weights()
    );
    let asked: Vec<_> = hub
        .gets(WEIGHTS)
        .iter()
        .map(super::fake_hub::Seen::from)
        .collect();
    assert_eq!(asked, [Some(half)]);
    assert_eq!(
        fs::read_dir(blobs(root.path())).unwrap().count(),
        5,
        "a part was left over"
    );
}

#[test]
fn begins_anew_when_the_server_ignores_the_range() {
    let root = tempfile::tempdir().unwrap();
    let repository = Repository::embedder();
    leave_half(root.path(), repository.weights());
    let served = repository.clone();
    let hub = FakeHub::new(move |seen| {
        let mut unranged = seen.clone();
        unranged.headers.remove("range");
        served.hugging_face(&unranged)
    });
    let config = config(root.path(), &hub.endpoint());

    let found = model(&config, &request(MODEL), &Progress::silent()).unwrap();

    assert_eq!(
        fs::read(found.dir.join(WEIGHTS)).unwrap(),
        repository.weights()
    );
    assert_eq!(hub.gets(WEIGHTS).len(), 1);
}

#[test]
fn refuses_a_wrong_hash_and_takes_the_right_content_of_the_second_try() {
    let root = tempfile::tempdir().unwrap();
    let repository = Repository::embedder();
    let tries = AtomicUsize::new(0);
    let served = repository.clone();
    let hub = FakeHub::new(move |seen| {
        let mut answer = served.hugging_face(seen);
        if seen.asks_for(WEIGHTS) && tries.fetch_add(1, Ordering::SeqCst) == 0 {
            answer.body[1000] ^= 1;
        }
        answer
    });
    let config = config(root.path(), &hub.endpoint());

    let found = model(&config, &request(MODEL), &Progress::silent()).unwrap();

    assert_eq!(
        fs::read(found.dir.join(WEIGHTS)).unwrap(),
        repository.weights()
    );
    let asked: Vec<_> = hub
        .gets(WEIGHTS)
        .iter()
        .map(super::fake_hub::Seen::from)
        .collect();
    assert_eq!(asked, [None, None]);
}

#[test]
fn gives_up_on_a_hash_that_stays_wrong_and_keeps_nothing() {
    let root = tempfile::tempdir().unwrap();
    let repository = Repository::embedder();
    let expected = sha256(repository.weights());
    let hub = FakeHub::new(move |seen| {
        let mut answer = repository.hugging_face(seen);
        if seen.asks_for(WEIGHTS) {
            answer.body[1000] ^= 1;
        }
        answer
    });
    let config = config(root.path(), &hub.endpoint());

    let error = model(&config, &request(MODEL), &Progress::silent()).unwrap_err();

    let reason = &error.attempts()[0].reason;
    assert!(reason.contains("sha256 of `model.safetensors`"), "{reason}");
    assert!(reason.contains(&expected), "{reason}");
    assert_eq!(hub.gets(WEIGHTS).len(), 2);
    assert!(!blobs(root.path()).join(&expected).exists());
    assert!(
        !blobs(root.path())
            .join(format!("{expected}.incomplete"))
            .exists()
    );
}

#[test]
fn small_files_are_checked_by_their_git_id() {
    let root = tempfile::tempdir().unwrap();
    let repository = Repository::embedder();
    let hub = FakeHub::new(move |seen| {
        let mut answer = repository.hugging_face(seen);
        if seen.asks_for("tokenizer.json") {
            answer.body = b"[]".to_vec();
        }
        answer
    });
    let config = config(root.path(), &hub.endpoint());
    let error = model(&config, &request(MODEL), &Progress::silent()).unwrap_err();
    let reason = &error.attempts()[0].reason;
    assert!(
        reason.contains("git blob id of `tokenizer.json`"),
        "{reason}"
    );
}

#[test]
fn a_server_that_keeps_failing_is_given_up_after_a_bounded_number_of_tries() {
    let root = tempfile::tempdir().unwrap();
    let repository = Repository::embedder();
    let hub = FakeHub::new(move |seen| match seen.asks_for(WEIGHTS) {
        true => Answer::status(503),
        false => repository.hugging_face(seen),
    });
    let config = config(root.path(), &hub.endpoint());
    let error = model(&config, &request(MODEL), &Progress::silent()).unwrap_err();
    assert!(error.to_string().contains("status 503"), "{error}");
    assert_eq!(hub.gets(WEIGHTS).len(), 5);
}

#[test]
fn says_what_to_do_about_missing_private_and_gated_models() {
    let gated = |seen: &super::fake_hub::Seen| match seen.target.contains("/resolve/") {
        true => Answer::status(401).header("X-Error-Code", "GatedRepo"),
        false => Repository::embedder().hugging_face(seen),
    };
    type Respond = Box<dyn Fn(&super::fake_hub::Seen) -> Answer + Send>;
    let cases: [(Respond, &str, &str); 3] = [
        (
            Box::new(|_| Answer::status(404)),
            "no such model",
            "path of a folder",
        ),
        (
            Box::new(|_| Answer::status(401)),
            "private or gated",
            "HF_TOKEN",
        ),
        (
            Box::new(gated),
            "access to this model is restricted",
            "accept the licence",
        ),
    ];
    for (respond, reason, hint) in cases {
        let root = tempfile::tempdir().unwrap();
        let hub = FakeHub::new(respond);
        let config = config(root.path(), &hub.endpoint());
        let error = model(&config, &request(MODEL), &Progress::silent()).unwrap_err();
        assert!(error.attempts()[0].reason.contains(reason), "{error}");
        assert!(error.hint().unwrap().contains(hint), "{:?}", error.hint());
    }
}

#[test]
fn the_token_goes_to_the_endpoint_and_not_where_it_redirects() {
    let root = tempfile::tempdir().unwrap();
    let repository = Repository::embedder();
    let content = repository.weights().to_vec();
    let storage = FakeHub::new(move |seen| Answer::ok(content.clone()).ranged(seen));
    let elsewhere = format!("{}/signed", storage.endpoint());
    let hub = FakeHub::new(move |seen| match seen.asks_for(WEIGHTS) {
        true => Answer::status(302).header("Location", &elsewhere),
        false => repository.hugging_face(seen),
    });
    let mut config = config(root.path(), &hub.endpoint());
    config.hugging_face.token = Some(Secret::new("hf_secret"));

    model(&config, &request(MODEL), &Progress::silent()).unwrap();

    let authorization = |seen: &super::fake_hub::Seen| seen.headers.get("authorization").cloned();
    let sent = Some("Bearer hf_secret".to_owned());
    assert!(hub.seen().iter().all(|seen| authorization(seen) == sent));
    assert_eq!(
        storage.seen().iter().map(authorization).collect::<Vec<_>>(),
        [None]
    );
}

#[test]
fn follows_a_rename_on_the_same_host() {
    let root = tempfile::tempdir().unwrap();
    let repository = Repository::embedder();
    let hub = FakeHub::new(
        move |seen| match seen.target.strip_prefix("/acme/tiny-embedder/") {
            Some(rest) => Answer::status(307).header("Location", &format!("/acme/renamed/{rest}")),
            None => repository.hugging_face(seen),
        },
    );
    let config = config(root.path(), &hub.endpoint());
    model(&config, &request(MODEL), &Progress::silent()).unwrap();
    assert!(snapshot(root.path()).join(WEIGHTS).is_file());
}

#[test]
fn refuses_a_listing_with_paths_outside_the_model() {
    for name in [
        "../escape.safetensors",
        "/etc/model.safetensors",
        "a\\..\\b.safetensors",
    ] {
        let root = tempfile::tempdir().unwrap();
        let mut repository = Repository::embedder();
        repository.files.insert(name.to_owned(), b"x".to_vec());
        let hub = FakeHub::new(move |seen| repository.hugging_face(seen));
        let config = config(root.path(), &hub.endpoint());
        let error = model(&config, &request(MODEL), &Progress::silent()).unwrap_err();
        assert!(
            error.to_string().contains("outside the model's folder"),
            "{error}"
        );
        assert_eq!(hub.seen().len(), 1, "something was fetched");
    }
}

#[test]
fn uses_what_another_tool_downloaded_without_the_network() {
    let root = tempfile::tempdir().unwrap();
    let wire = Tripwire::new();
    for (name, content) in Repository::embedder().files {
        write(&snapshot(root.path()).join(name), content);
    }
    write(
        &root
            .path()
            .join("hub/models--acme--tiny-embedder/refs/main"),
        COMMIT,
    );
    let config = config(root.path(), &wire.endpoint());
    let found = model(&config, &request(MODEL), &Progress::silent()).unwrap();
    assert_eq!(found.origin, ModelOrigin::Cache(ModelSource::HuggingFace));
    let at_commit = ModelRequest {
        revision: Some(COMMIT),
        ..request(MODEL)
    };
    assert_eq!(
        model(&config, &at_commit, &Progress::silent()).unwrap().dir,
        found.dir
    );
    wire.assert_untouched();
}

/// transformers fetches neither `modules.json` nor the pooling it names; taking its download for
/// the whole model would pool wrongly and say nothing.
#[test]
fn completes_what_another_tool_downloaded_in_part() {
    let root = tempfile::tempdir().unwrap();
    let repository = Repository::embedder();
    for name in ["config.json", "tokenizer.json", WEIGHTS] {
        write(&snapshot(root.path()).join(name), &repository.files[name]);
    }
    write(
        &root
            .path()
            .join("hub/models--acme--tiny-embedder/refs/main"),
        COMMIT,
    );
    let hub = FakeHub::new(move |seen| repository.hugging_face(seen));

    let recording = Recording::default();
    let without = offline(root.path(), &hub.endpoint());
    let found = model(&without, &request(MODEL), &recording.progress()).unwrap();
    assert_eq!(found.origin, ModelOrigin::Cache(ModelSource::HuggingFace));
    assert!(recording.lines()[0].contains("not known whether they are all"));
    assert!(hub.seen().is_empty());

    let with = config(root.path(), &hub.endpoint());
    let found = model(&with, &request(MODEL), &Progress::silent()).unwrap();
    assert_eq!(found.origin, ModelOrigin::Fetched(ModelSource::HuggingFace));
    assert!(found.dir.join("1_Pooling/config.json").is_file());
    assert!(
        hub.gets(WEIGHTS).is_empty(),
        "the weights were there already"
    );
}

#[test]
fn a_lost_blob_is_fetched_again() {
    let root = tempfile::tempdir().unwrap();
    let repository = Repository::embedder();
    let blob = blobs(root.path()).join(sha256(repository.weights()));
    let hub = FakeHub::new(move |seen| repository.hugging_face(seen));
    let config = config(root.path(), &hub.endpoint());
    model(&config, &request(MODEL), &Progress::silent()).unwrap();
    fs::remove_file(&blob).unwrap();
    let found = model(&config, &request(MODEL), &Progress::silent()).unwrap();
    assert_eq!(found.origin, ModelOrigin::Fetched(ModelSource::HuggingFace));
    assert!(blob.is_file());
}

#[test]
fn two_starts_at_once_fetch_the_weights_once() {
    let root = tempfile::tempdir().unwrap();
    let repository = Repository::embedder();
    let hub = FakeHub::new(move |seen| repository.hugging_face(seen));
    let config = config(root.path(), &hub.endpoint());
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| model(&config, &request(MODEL), &Progress::silent()).unwrap());
        }
    });
    assert!(snapshot(root.path()).join(WEIGHTS).is_file());
    assert_eq!(hub.gets(WEIGHTS).len(), 1);
}

/// The hub redirects to where a file is stored; hash and length are on the redirect.
#[test]
fn the_hash_on_a_redirect_is_used() {
    let root = tempfile::tempdir().unwrap();
    let repository = Repository::embedder();
    let content = repository.files["tokenizer.json"].clone();
    let id = git_blob(&content);
    let hub = FakeHub::new(move |seen| match seen.target.as_str() {
        "/stored" => Answer::ok(content.clone()).header("ETag", "\"of-the-storage\""),
        _ if seen.asks_for("tokenizer.json") => Answer::status(302)
            .header("X-Linked-ETag", &format!("\"{}\"", git_blob(&content)))
            .header("X-Linked-Size", &content.len().to_string())
            .header("Location", "/stored"),
        _ => repository.hugging_face(seen),
    });
    let config = config(root.path(), &hub.endpoint());
    model(&config, &request(MODEL), &Progress::silent()).unwrap();
    assert!(blobs(root.path()).join(id).is_file());
}
