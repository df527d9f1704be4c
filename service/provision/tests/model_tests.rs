//! Which place a model comes from, and what is said when none has it.

use std::path::Path;

use retort_models::catalog::Entry;

use super::{
    super::{
        ModelOrigin, ModelRequest, ModelSource, Network, Progress, ProvisionConfig, cache_report,
        model, probe_sources, runtime,
    },
    MODEL, Recording, Tripwire, config,
    fake_hub::{Answer, FakeHub, Repository, sha256},
    offline, request, write,
};

const POINTER: &str =
    "version https://git-lfs.github.com/spec/v1\noid sha256:53aa\nsize 90868376\n";
const MINILM: &str = "sentence-transformers/all-MiniLM-L6-v2";

#[test]
fn sources_are_tried_in_order_and_each_failure_is_one_line() {
    let root = tempfile::tempdir().unwrap();
    let repository = Repository::embedder();
    let broken = FakeHub::new(|_| Answer::status(404));
    let hub = FakeHub::new(move |seen| repository.modelscope(seen));
    let mut config = config(root.path(), &broken.endpoint());
    config.modelscope.endpoint = hub.endpoint();
    config.model_sources = ModelSource::ALL.to_vec();
    let recording = Recording::default();

    let found = model(&config, &request(MODEL), &recording.progress()).unwrap();

    assert_eq!(found.origin, ModelOrigin::Fetched(ModelSource::ModelScope));
    let expected = format!(
        "{MODEL}: Hugging Face ({}): no such model",
        broken.endpoint()
    );
    assert_eq!(recording.lines()[0], expected);
}

#[test]
fn an_error_names_every_source_with_its_reason() {
    let root = tempfile::tempdir().unwrap();
    let broken = FakeHub::new(|_| Answer::status(500));
    let mut config = config(root.path(), &broken.endpoint());
    config.model_sources = ModelSource::ALL.to_vec();
    let error = model(&config, &request(MINILM), &Progress::silent()).unwrap_err();
    let text = error.to_string();
    assert_eq!(text.lines().count(), 4, "{text}");
    assert_eq!(
        text.lines().next(),
        Some(&*format!("the model `{MINILM}` could not be fetched"))
    );
    assert_eq!(
        text.matches("the server answered with status 500").count(),
        2,
        "{text}"
    );
    assert!(
        error.attempts()[2].reason.starts_with("there is no pip"),
        "{text}"
    );
}

#[test]
fn an_unreachable_endpoint_is_one_line_too() {
    let root = tempfile::tempdir().unwrap();
    let free = Tripwire::new().endpoint();
    let config = config(root.path(), &free);
    let error = model(&config, &request(MODEL), &Progress::silent()).unwrap_err();
    assert_eq!(error.to_string().lines().count(), 2, "{error}");
    assert!(error.to_string().contains("`127.0.0.1`"), "{error}");
}

#[test]
fn offline_opens_no_socket_and_says_where_it_looked() {
    let root = tempfile::tempdir().unwrap();
    let wire = Tripwire::new();
    let mut config = offline(root.path(), &wire.endpoint());
    config.model_sources = ModelSource::ALL.to_vec();

    let error = model(&config, &request(MODEL), &Progress::silent()).unwrap_err();
    let expected = format!("the model `{MODEL}` is not here, and `--offline` forbids fetching it");
    assert_eq!(error.to_string().lines().next(), Some(&*expected));
    let looked = root
        .path()
        .join("hub/models--acme--tiny-embedder")
        .display()
        .to_string();
    assert!(error.attempts()[0].source.contains(&looked), "{error}");
    assert_eq!(error.attempts().len(), 3);
    assert!(model(&config, &request(MINILM), &Progress::silent()).is_err());
    assert!(runtime(&config, &Progress::silent()).is_err());
    assert!(probe_sources(&config).is_empty());
    assert!(cache_report(&config).is_empty());
    wire.assert_untouched();
}

#[test]
fn a_local_folder_is_used_as_it_is() {
    let root = tempfile::tempdir().unwrap();
    let wire = Tripwire::new();
    let config = config(root.path(), &wire.endpoint());
    for file in ["config.json", "model.onnx", "onnx/model.onnx"] {
        let folder = root.path().join(file.replace('/', "-"));
        write(&folder.join(file), "{}");
        let path = folder.display().to_string();
        let found = model(&config, &request(&path), &Progress::silent()).unwrap();
        assert_eq!(
            (found.dir, found.origin),
            (folder, ModelOrigin::LocalFolder)
        );
    }
    wire.assert_untouched();
}

#[test]
fn a_path_without_a_model_is_never_taken_for_a_name() {
    let root = tempfile::tempdir().unwrap();
    let wire = Tripwire::new();
    let config = config(root.path(), &wire.endpoint());
    let missing = root.path().join("missing").display().to_string();
    let empty = root.path().display().to_string();
    for (path, why) in [
        (missing.as_str(), "does not exist"),
        (empty.as_str(), "holds neither"),
        ("./missing", "does not exist"),
        ("~/missing", "does not exist"),
        ("a/b/c", "does not exist"),
    ] {
        let error = model(&config, &request(path), &Progress::silent()).unwrap_err();
        assert!(error.to_string().contains(why), "{error}");
        assert!(error.to_string().contains(path), "{error}");
    }
    wire.assert_untouched();
}

#[test]
fn names_that_are_no_names_are_refused() {
    let root = tempfile::tempdir().unwrap();
    let wire = Tripwire::new();
    let config = config(root.path(), &wire.endpoint());
    for id in ["", "a/", "/", "a/b?c", "a b", "a/b#c", "ä/b"] {
        assert!(
            model(&config, &request(id), &Progress::silent()).is_err(),
            "{id}"
        );
    }
    for revision in ["..", "a/../b", "a?b", ""] {
        let request = ModelRequest {
            revision: Some(revision),
            ..request(MODEL)
        };
        let error = model(&config, &request, &Progress::silent()).unwrap_err();
        assert!(error.to_string().contains("is not a revision"), "{error}");
    }
    wire.assert_untouched();
}

#[test]
fn a_git_lfs_pointer_is_named_as_such() {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("cloned");
    write(&folder.join("config.json"), "{}");
    write(&folder.join("model.safetensors"), POINTER);
    let path = folder.display().to_string();
    let wire = Tripwire::new();
    let config = config(root.path(), &wire.endpoint());
    let error = model(&config, &request(&path), &Progress::silent()).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("model.safetensors` is a git-LFS pointer"),
        "{error}"
    );
    assert!(error.hint().unwrap().contains("git lfs pull"));
}

#[test]
fn a_git_lfs_pointer_from_a_mirror_is_refused_too() {
    let root = tempfile::tempdir().unwrap();
    let mut repository = Repository::embedder();
    repository
        .files
        .insert("model.safetensors".to_owned(), POINTER.into());
    let hub = FakeHub::new(move |seen| repository.hugging_face(seen));
    let config = config(root.path(), &hub.endpoint());
    let error = model(&config, &request(MODEL), &Progress::silent()).unwrap_err();
    assert!(
        error.attempts()[0].reason.contains("git-LFS pointer"),
        "{error}"
    );
    let again = offline(root.path(), &hub.endpoint());
    let error = model(&again, &request(MODEL), &Progress::silent()).unwrap_err();
    assert!(error.to_string().contains("git-LFS pointer"), "{error}");
}

#[test]
fn the_report_lists_models_of_every_cache() {
    let root = tempfile::tempdir().unwrap();
    let repository = Repository::embedder();
    let bytes = repository.weights().len() as u64;
    let hub = FakeHub::new(move |seen| match seen.target.contains("/api/v1/") {
        true => repository.modelscope(seen),
        false if seen.target.contains("/resolve/master/") => repository.modelscope(seen),
        false => repository.hugging_face(seen),
    });
    let config = config(root.path(), &hub.endpoint());
    for source in [ModelSource::HuggingFace, ModelSource::ModelScope] {
        let config = ProvisionConfig {
            model_sources: vec![source],
            ..config.clone()
        };
        model(&config, &request(MODEL), &Progress::silent()).unwrap();
    }
    let forbidden = Network::Forbidden {
        by: "--offline".to_owned(),
    };
    let report = cache_report(&ProvisionConfig {
        network: forbidden,
        ..config.clone()
    });
    let what: Vec<_> = report.iter().map(|entry| entry.what.as_str()).collect();
    assert_eq!(
        what,
        [
            "model from ModelScope: acme--tiny-embedder/master-checkpoint",
            "model from Hugging Face: acme/tiny-embedder"
        ]
    );
    assert!(
        report
            .iter()
            .all(|entry| entry.bytes > bytes && entry.path.is_dir())
    );

    let probes = probe_sources(&config);
    assert_eq!(probes.len(), 1);
    assert!(probes[0].result.is_ok());
}

#[test]
fn a_name_of_the_catalogue_is_another_one_on_each_hub() {
    let root = tempfile::tempdir().unwrap();
    let text = format!(
        "name = \"tiny\"\ntask = \"embed\"\nfamily = \"bert\"\nheads = [\"dense\"]\n\
         dimensions = 8\nmax_tokens = 16\nlanguages = [\"en\"]\n\
         [huggingface]\nid = \"acme/other\"\nrevision = \"v1\"\n\
         [modelscope]\nid = \"{MODEL}\"\n"
    );
    let entry = Entry::parse(Path::new("tiny.toml"), &text).unwrap();
    let repository = Repository::embedder();
    let hub = FakeHub::new(move |seen| repository.modelscope(seen));
    let sources = |config: ProvisionConfig| ProvisionConfig {
        model_sources: vec![ModelSource::HuggingFace, ModelSource::ModelScope],
        ..config
    };
    let config = sources(config(root.path(), &hub.endpoint()));
    let request = ModelRequest {
        entry: Some(&entry),
        ..request("acme/other")
    };
    let found = model(&config, &request, &Progress::silent()).unwrap();
    assert_eq!(found.origin, ModelOrigin::Fetched(ModelSource::ModelScope));
    let targets: Vec<String> = hub.seen().into_iter().map(|seen| seen.target).collect();
    let asks = |parts: [&str; 2]| {
        let fits = |target: &&String| parts.iter().all(|part| target.contains(part));
        targets.iter().any(|target| fits(&target))
    };
    assert!(asks(["acme/other", "v1"]), "{targets:?}");
    assert!(asks(["/api/v1/", MODEL]), "{targets:?}");

    // Without the network it is found again, under the name it was asked for by.
    let again = sources(offline(root.path(), &hub.endpoint()));
    let found = model(&again, &request, &Progress::silent()).unwrap();
    assert_eq!(found.origin, ModelOrigin::Cache(ModelSource::ModelScope));
}

/// A hub vouches for its own listing only; the catalogue knows what the file was.
#[test]
fn a_file_that_is_not_what_the_catalogue_has_is_named_and_not_used() {
    let repository = Repository::embedder();
    let right = sha256(repository.weights());
    let entry = |digest: &str| {
        let text = format!(
            "name = \"tiny\"\ntask = \"embed\"\nfamily = \"bert\"\nheads = [\"dense\"]\n\
             dimensions = 8\nmax_tokens = 16\nlanguages = [\"en\"]\n\
             [huggingface]\nid = \"{MODEL}\"\n[sha256]\n\"model.safetensors\" = \"{digest}\"\n"
        );
        Entry::parse(Path::new("tiny.toml"), &text).unwrap()
    };
    let (other, right) = (entry(&"0".repeat(64)), entry(&right));
    for source in [ModelSource::HuggingFace, ModelSource::ModelScope] {
        let root = tempfile::tempdir().unwrap();
        let served = repository.clone();
        let hub = FakeHub::new(move |seen| match source {
            ModelSource::ModelScope => served.modelscope(seen),
            _ => served.hugging_face(seen),
        });
        let of_source = |config| ProvisionConfig {
            model_sources: vec![source],
            ..config
        };
        let online = of_source(config(root.path(), &hub.endpoint()));
        let wanted = |entry| ModelRequest {
            entry: Some(entry),
            ..request(MODEL)
        };
        // The second start must not take what the first has left for a finished download.
        for network in [
            &online,
            &online,
            &of_source(offline(root.path(), "http://x")),
        ] {
            let error = model(network, &wanted(&other), &Progress::silent()).unwrap_err();
            let told = error.to_string();
            let is_named = told.contains("`model.safetensors`") && told.contains(&"0".repeat(64));
            let is_absent = told.contains("no complete copy");
            assert!(is_named || is_absent, "{told}");
            assert_eq!(is_named, network.network == Network::Allowed, "{told}");
        }
        let found = model(&online, &wanted(&right), &Progress::silent()).unwrap();
        assert_eq!(found.origin, ModelOrigin::Fetched(source));
        assert!(found.dir.join("model.safetensors").is_file());
    }
}
