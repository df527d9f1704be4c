//! Memory over time: two models that alternate, one that sleeps after each request and others that
//! are launched under a new name and terminated; texts of random lengths. In a process of its own,
//! whose memory the system counts. The long form is `cargo bench -- soak`.

use std::{fs, time::Duration};

use proptest::{strategy::Strategy, test_runner::TestRunner};
use serde_json::json;

use crate::support::{golden, runtime, server::Program};

/// What a request may leave behind once all memory has been used before. The allocator's own ups
/// and downs make some 300 bytes of it; a session that is not given back is thousands.
const BYTES_PER_REQUEST_MAX: f64 = 2_048.0;
/// On a busy machine memory was level only after a thousand requests.
const WARM_UP: usize = 1_000;
const MEASURED: usize = 1_000;
const SAMPLE_EVERY: usize = 40;
/// Every so many requests one goes to the model that does not stay.
const PASSING_EVERY: usize = 20;

#[test]
fn alternating_models_that_come_and_go_leave_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("retort.toml");
    let model = |name: &str, checkpoint: &str, keep_alive: &str| {
        let path = golden(&format!("checkpoints/{checkpoint}"));
        format!("[[model]]\nid = {path:?}\nname = \"{name}\"\nkeep_alive = \"{keep_alive}\"\n")
    };
    let models = [
        model("embed", "bert-tiny-mean", "-1"),
        model("score", "bert-tiny-score", "-1"),
        model("passing", "xlmr-tiny-cls", "0"),
    ];
    fs::write(&config, models.concat()).unwrap();
    let library = runtime().library().display().to_string();
    let variables = [("RETORT_OFFLINE", "1"), ("ORT_DYLIB_PATH", &*library)];
    let path = config.display().to_string();
    let mut program = Program::serve(&["serve", "--config", &path], &variables);

    let client = program.client();
    let mut lengths = TestRunner::deterministic();
    let mut text = || {
        let words = (1..120usize).new_tree(&mut lengths).unwrap();
        "memory ".repeat(proptest::strategy::ValueTree::current(&words))
    };
    let mut samples = Vec::new();
    for request in 0..WARM_UP + MEASURED {
        if request % (2 * PASSING_EVERY) == 0 {
            assert_eq!(client.embed("passing", &[&text()]).len(), 1);
        } else if request % PASSING_EVERY == 0 {
            let name = format!("launched-{request}");
            let path = golden("checkpoints/xlmr-tiny-cls");
            let body = json!({"model_name": name, "model_type": "embedding", "model_path": path});
            assert_eq!(client.post("/v1/models", &body).status, 200);
            assert_eq!(client.embed(&name, &[&text()]).len(), 1);
            assert_eq!(client.delete(&format!("/v1/models/{name}")).status, 200);
        } else if request % 2 == 0 {
            assert_eq!(client.embed("embed", &[&text(), &text()]).len(), 2);
        } else {
            let body = json!({"model": "score", "query": text(), "documents": [text(), text()]});
            assert_eq!(client.post("/v1/rerank", &body).status, 200);
        }
        if request >= WARM_UP && request % SAMPLE_EVERY == 0 {
            samples.push((request as f64, anonymous_bytes(program.id())));
        }
    }
    let slope = slope(&samples);
    let metrics = client.get("/metrics").body;
    println!(
        "{slope:.0} bytes a request; samples in KiB: {:?}",
        kibibytes(&samples)
    );
    let cycles = count(&metrics, "retort_model_unloads_total{model=\"passing\"}");
    assert!(
        cycles >= 45,
        "it was unloaded only {cycles} times:\n{metrics}"
    );
    // Names are no end of series: what was terminated is not counted any more.
    assert!(!metrics.contains("launched-"), "{metrics}");
    assert!(
        slope < BYTES_PER_REQUEST_MAX,
        "each request leaves {slope:.0} bytes behind, {BYTES_PER_REQUEST_MAX} is the limit; \
         samples in KiB: {:?}",
        kibibytes(&samples)
    );
    program.terminate();
    assert!(program.wait(Duration::from_secs(60)).success());
}

/// Memory of a process that no file backs.
fn anonymous_bytes(pid: u32) -> f64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:"));
    let kibibytes = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
    kibibytes.expect("the system tells `RssAnon`") * 1024.0
}

/// The median over all pairs (Theil 1950), which single samples do not move.
fn slope(samples: &[(f64, f64)]) -> f64 {
    let later = |at: usize| {
        samples[at + 1..]
            .iter()
            .map(move |right| (samples[at], right))
    };
    let pairs = (0..samples.len()).flat_map(later);
    let mut slopes: Vec<f64> = pairs
        .map(|(left, right)| (right.1 - left.1) / (right.0 - left.0))
        .collect();
    slopes.sort_by(f64::total_cmp);
    slopes[slopes.len() / 2]
}

fn kibibytes(samples: &[(f64, f64)]) -> Vec<u64> {
    samples.iter().map(|s| s.1 as u64 / 1024).collect()
}

fn count(metrics: &str, series: &str) -> u64 {
    let line = metrics.lines().find_map(|line| line.strip_prefix(series));
    line.and_then(|value| value.trim().parse().ok())
        .unwrap_or(0)
}

#[test]
fn a_slope_is_what_each_request_adds() {
    assert_eq!(slope(&[(0.0, 5.0), (1.0, 7.0), (2.0, 9.0)]), 2.0);
    assert_eq!(slope(&[(0.0, 5.0), (1.0, 5.0), (2.0, 5.0)]), 0.0);
    let with_one_off = [(0.0, 0.0), (1.0, 1.0), (2.0, 90.0), (3.0, 3.0), (4.0, 4.0)];
    assert_eq!(slope(&with_one_off), 1.0);
}
