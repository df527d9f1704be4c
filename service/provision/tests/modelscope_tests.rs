//! The ModelScope source.

use std::fs;

use super::{
    super::{ModelOrigin, ModelSource, Progress, ProvisionConfig, model},
    MODEL, Tripwire, config,
    fake_hub::{Answer, FakeHub, Repository, Seen},
    offline, request, write,
};

const WEIGHTS: &str = "model.safetensors";

fn from_modelscope(config: ProvisionConfig) -> ProvisionConfig {
    ProvisionConfig {
        model_sources: vec![ModelSource::ModelScope],
        ..config
    }
}

#[test]
fn downloads_into_retorts_cache_and_needs_no_network_again() {
    let root = tempfile::tempdir().unwrap();
    let repository = Repository::embedder();
    let served = repository.clone();
    let hub = FakeHub::new(move |seen| served.modelscope(seen));
    let config = from_modelscope(config(root.path(), &hub.endpoint()));

    let found = model(&config, &request(MODEL), &Progress::silent()).unwrap();

    let folder = "retort/models/modelscope/acme--tiny-embedder/master-checkpoint";
    assert_eq!(found.dir, root.path().join(folder));
    assert_eq!(found.origin, ModelOrigin::Fetched(ModelSource::ModelScope));
    assert_eq!(
        fs::read(found.dir.join(WEIGHTS)).unwrap(),
        repository.weights()
    );
    assert!(found.dir.join("1_Pooling/config.json").is_file());
    assert!(hub.gets("tf_model.h5").is_empty());

    let requests = hub.seen().len();
    let again = model(&config, &request(MODEL), &Progress::silent()).unwrap();
    assert_eq!(again.origin, ModelOrigin::Cache(ModelSource::ModelScope));
    assert_eq!(hub.seen().len(), requests);
}

/// Its download address honours a range but answers it with 200.
#[test]
fn goes_on_after_an_interrupted_start_even_when_a_range_is_answered_with_200() {
    let root = tempfile::tempdir().unwrap();
    let repository = Repository::embedder();
    let half = repository.weights().len() / 2;
    let folder = root
        .path()
        .join("retort/models/modelscope/acme--tiny-embedder");
    let part = folder.join("master-checkpoint.incomplete/model.safetensors.part");
    write(&part, &repository.weights()[..half]);
    let served = repository.clone();
    let hub = FakeHub::new(move |seen| Answer {
        status: 200,
        ..served.modelscope(seen)
    });
    let config = from_modelscope(config(root.path(), &hub.endpoint()));

    let found = model(&config, &request(MODEL), &Progress::silent()).unwrap();

    assert_eq!(
        fs::read(found.dir.join(WEIGHTS)).unwrap(),
        repository.weights()
    );
    let asked: Vec<_> = hub.gets(WEIGHTS).iter().map(Seen::from).collect();
    assert_eq!(asked, [Some(half)]);
    assert!(!part.exists());
}

#[test]
fn refuses_a_hash_that_stays_wrong() {
    let root = tempfile::tempdir().unwrap();
    let repository = Repository::embedder();
    let hub = FakeHub::new(move |seen| {
        let mut answer = repository.modelscope(seen);
        if seen.asks_for(WEIGHTS) {
            answer.body[7] ^= 1;
        }
        answer
    });
    let config = from_modelscope(config(root.path(), &hub.endpoint()));
    let error = model(&config, &request(MODEL), &Progress::silent()).unwrap_err();
    assert!(
        error.to_string().contains("sha256 of `model.safetensors`"),
        "{error}"
    );
    assert!(
        !root
            .path()
            .join("retort/models/modelscope/acme--tiny-embedder/master")
            .exists()
    );
}

#[test]
fn uses_what_modelscopes_own_tools_downloaded() {
    let root = tempfile::tempdir().unwrap();
    let wire = Tripwire::new();
    let folder = root.path().join("modelscope/models/acme/tiny___v1___5");
    for (name, content) in Repository::embedder().files {
        write(&folder.join(name), content);
    }
    let config = from_modelscope(offline(root.path(), &wire.endpoint()));
    let found = model(&config, &request("acme/tiny.v1.5"), &Progress::silent()).unwrap();
    assert_eq!(found.dir, folder);
    wire.assert_untouched();
}
