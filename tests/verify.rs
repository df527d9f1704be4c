//! `retort verify` and the check at first load: what is right passes, what is wrong never serves.

use std::{
    fs,
    path::{Path, PathBuf},
};

use retort::{
    config::{self, Config, Inputs, Purpose},
    engine::request::ModelState,
    provision::Progress,
    serve::Core,
};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{golden, minilm, runtime, server::run};

/// The text and the vector of a case of the golden file.
fn case(index: usize) -> (String, Vec<f64>) {
    let file = golden("checkpoints/bert-tiny-mean").join("golden.json");
    let golden: Value = serde_json::from_slice(&fs::read(file).unwrap()).unwrap();
    let case = &golden["cases"][index];
    let vector = case["pooled"].as_array().unwrap().iter();
    let text = case["text"].as_str().unwrap().to_owned();
    (text, vector.map(|x| x.as_f64().unwrap()).collect())
}

/// A machine of its own: a catalogue with one model `acme-tiny` whose published numbers are those
/// that transformers gave, its files in the hub's cache, and caches that nothing else writes to.
struct Place(TempDir);

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

impl Place {
    fn new() -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        let entry = r#"
            name = "acme-tiny"
            task = "embed"
            family = "bert"
            heads = ["dense"]
            dimensions = 32
            max_tokens = 512
            languages = ["en"]
            [huggingface]
            id = "acme/tiny"
        "#;
        place.write("catalog/acme-tiny.toml", entry);
        place.publish(0.0);
        place.write("hub/hub/models--acme--tiny/refs/main", COMMIT);
        copy(&golden("checkpoints/bert-tiny-mean"), &place.model());
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn model(&self) -> PathBuf {
        let folder = format!("hub/hub/models--acme--tiny/snapshots/{COMMIT}");
        self.path(&folder)
    }

    /// Publishes vectors of which one number is so much off.
    fn publish(&self, off: f64) {
        let ((first, vector), (second, mut other)) = (case(1), case(2));
        other[7] += off;
        let reference = json!([{
            "model": "acme-tiny",
            "inputs": {"texts": [first, second]},
            "expected": {"kind": "dense", "scale": "raw", "part": "all", "values": [vector, other]},
            "tolerance": {"absolute": 1e-4},
            "source": "transformers",
        }]);
        self.write("catalog/reference/acme-tiny.json", &reference.to_string());
    }

    fn variables(&self) -> Vec<(&'static str, String)> {
        let shown = |name: &str| self.path(name).display().to_string();
        vec![
            ("RETORT_OFFLINE", "1".into()),
            ("ORT_DYLIB_PATH", runtime().library().display().to_string()),
            ("RETORT_CATALOG_DIR", shown("catalog")),
            ("RETORT_CACHE_DIR", shown("cache")),
            ("HF_HOME", shown("hub")),
        ]
    }

    fn run(&self, arguments: &[&str]) -> (i32, String, String) {
        let variables = self.variables();
        let variables: Vec<_> = variables.iter().map(|(n, v)| (*n, v.as_str())).collect();
        run(arguments, &variables, "")
    }

    /// What the service does at start with the model, which need not load for it to start.
    fn load(&self, verify: &str) -> ModelState {
        let text = "[[model]]\nid = \"acme-tiny\"\nrequired = false\n";
        self.write("retort.toml", text);
        let mut variables = self.variables();
        variables.push(("RETORT_VERIFY", verify.into()));
        let variables = variables.iter().map(|(name, value)| (*name, &**value));
        let inputs = Inputs {
            purpose: Purpose::Local,
            flags: Vec::new(),
            file: Some(self.path("retort.toml")),
            environment: variables.collect(),
            directory: self.path(""),
        };
        let loaded = config::load(&inputs).unwrap_or_else(|error| panic!("{error}"));
        loaded_state(&loaded.config)
    }

    /// The passes that are remembered.
    fn remembered(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.path("cache/verified"));
        let entries = entries.into_iter().flatten();
        entries.map(|entry| entry.unwrap().path()).collect()
    }

    /// Turns the sign of a quarter of the weights; neither size nor shape change.
    fn damage(&self) {
        let file = self.model().join("model.safetensors");
        let mut bytes = fs::read(&file).unwrap();
        let first = bytes.len() / 16 * 12;
        // The last byte of a little-endian number has its sign.
        bytes[first..]
            .iter_mut()
            .skip(3)
            .step_by(4)
            .for_each(|byte| *byte ^= 0x80);
        fs::write(file, bytes).unwrap();
    }
}

fn loaded_state(config: &Config) -> ModelState {
    runtime();
    let core = Core::new(config, &Progress::silent()).unwrap_or_else(|e| panic!("{e}"));
    let loaded = core.load();
    loaded.unwrap_or_else(|error| panic!("{error}"));
    core.engine.models()[0].state.clone()
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &target);
        } else {
            fs::copy(&path, &target).unwrap();
        }
    }
}

#[test]
fn the_real_minilm_gives_its_published_numbers() {
    let place = Place::new();
    let minilm = minilm().display().to_string();
    let (status, table, errors) = place.run(&["verify", &minilm, "--as", "all-MiniLM-L6-v2"]);
    assert_eq!(status, 0, "{table}{errors}");
    assert!(table.contains("all 6 published outputs"), "{table}");
    assert!(!table.contains("FAILED"), "{table}");
    let arguments = ["verify", &minilm, "--as", "all-MiniLM-L6-v2", "--json"];
    let (status, document, _) = place.run(&arguments);
    let document: Value = serde_json::from_str(&document).unwrap();
    let model = &document["models"][0];
    assert_eq!((status, &model["passed"]), (0, &json!(true)), "{model}");
    assert_eq!(model["references_compared"], 6);
    let checks = model["checks"].as_array().unwrap();
    assert!(checks.iter().all(|check| check["result"] == "passed"));
}

#[test]
fn another_model_under_its_name_fails() {
    let tiny = golden("checkpoints/bert-tiny-mean").display().to_string();
    let arguments = ["verify", &tiny, "--as", "all-MiniLM-L6-v2"];
    let (status, table, _) = Place::new().run(&arguments);
    assert_eq!(status, 1, "{table}");
    for told in [
        "FAILED",
        "`32` numbers where `384`",
        "384",
        "7 of 12 checks",
    ] {
        assert!(table.contains(told), "`{told}` is not in:\n{table}");
    }
}

#[test]
fn nothing_to_compare_with_is_no_proof() {
    let tiny = golden("checkpoints/bert-tiny-mean").display().to_string();
    let place = Place::new();
    let (status, table, _) = place.run(&["verify", &tiny]);
    assert_eq!(status, 1, "{table}");
    assert!(
        table.contains("NOT PROVEN") && table.contains("--as"),
        "{table}"
    );
    let (status, _, errors) = place.run(&["verify", &tiny, "--as", "all-MiniLM-L7-v2"]);
    assert_eq!(status, 2, "{errors}");
    assert!(errors.contains("all-MiniLM-L6-v2"), "{errors}");
    let (status, _, errors) = place.run(&["verify", &tiny, "acme-tiny", "--as", "acme-tiny"]);
    assert_eq!(status, 2, "{errors}");
}

#[test]
fn a_users_catalogue_may_publish_numbers_too() {
    let place = Place::new();
    let (status, table, errors) = place.run(&["verify", "acme-tiny"]);
    assert_eq!(status, 0, "{table}{errors}");
    place.publish(2e-4);
    let (status, table, _) = place.run(&["verify", "acme-tiny"]);
    assert_eq!(status, 1, "{table}");
    assert!(
        table.contains("2.0e-4") && table.contains("1.0e-4"),
        "{table}"
    );
}

#[test]
fn the_first_load_is_checked_and_remembered() {
    let place = Place::new();
    assert_eq!(place.load("first-load"), ModelState::Ready);
    let [record] = &place.remembered()[..] else {
        panic!("{:?}", place.remembered());
    };
    // A check writes the record anew, which shows whether there was one.
    fs::write(record, "mark").unwrap();
    let is_marked = || fs::read_to_string(record).unwrap() == "mark";
    assert_eq!(place.load("first-load"), ModelState::Ready);
    assert!(is_marked(), "the same files were checked twice");
    assert_eq!(place.load("always"), ModelState::Ready);
    assert!(!is_marked(), "`always` did not check");
    place.damage();
    let ModelState::Failed(reason) = place.load("first-load") else {
        panic!("damaged weights were served");
    };
    for told in [
        "acme-tiny",
        "expected `",
        "got `",
        "limit `1.0e-4`",
        "(transformers)",
    ] {
        assert!(reason.contains(told), "`{told}` is not in: {reason}");
    }
    assert_eq!(
        place.remembered().len(),
        1,
        "a failure was remembered as a pass"
    );
    assert_eq!(place.load("off"), ModelState::Ready);
}

#[test]
fn numbers_that_were_never_published_are_not_served() {
    let place = Place::new();
    place.publish(0.1);
    let is_failed = |state| matches!(state, ModelState::Failed(_));
    assert!(is_failed(place.load("first-load")));
    assert!(
        is_failed(place.load("first-load")),
        "a failure is checked again"
    );
    assert_eq!(place.remembered().len(), 0);
    // A model that the service needs stops it.
    let (status, _, errors) = place.run(&["check", "--model", "acme-tiny"]);
    assert_eq!(status, 1);
    for told in [
        "does not give the published numbers of `acme-tiny`: ",
        "expected `",
        "limit `",
        "hint",
        "retort verify",
        "--verify off",
    ] {
        assert!(errors.contains(told), "`{told}` is not in:\n{errors}");
    }
    let (status, _, errors) = place.run(&["check", "--model", "acme-tiny", "--verify", "off"]);
    assert_eq!(status, 0, "{errors}");
    let (status, _, errors) = place.run(&["check", "--model", "acme-tiny", "--verify", "maybe"]);
    assert_ne!(status, 0);
    assert!(
        errors.contains("`first-load`, `always` or `off`"),
        "{errors}"
    );
}
