//! What the service says of itself against what it does: schemathesis sends it thousands of
//! requests made from `/openapi.json`, valid and not.

use std::{collections::BTreeSet, process::Command};

use crate::{
    official_clients::{environment, run},
    support::{golden, runtime, server::Program},
};

const SCHEMATHESIS: &str = "schemathesis==4.32.5";

/// More is found in the first few cases of each kind than in all others.
const EXAMPLES: &str = "6";

const METHODS: [&str; 7] = ["delete", "get", "head", "options", "patch", "post", "put"];

/// Routes that take away what the others are tested on: they stop the service, end the models that
/// it was started with or restart them. They are tested by hand in `xinference.rs`.
const DESTRUCTIVE: [&str; 6] = [
    "DELETE /v1/clusters",
    "DELETE /v1/models/{model}",
    "DELETE /v1/models/{owner}/{name}",
    "DELETE /v1/models/{model}/replicas/{replica}",
    "POST /v1/models/{model}/replicas",
    "POST /v1/models/{model}/cancel",
];

/// Where schemathesis reads the description, and what it therefore does not test.
const DESCRIPTION: &str = "GET /openapi.json";

/// What is always true: no request breaks the service, and every answer has a type and a shape
/// that the description promises.
const CHECKS: &str = "not_a_server_error,response_schema_conformance,content_type_conformance";

#[test]
fn every_answer_is_as_described_and_no_request_breaks_the_service() {
    let python = environment(SCHEMATHESIS, &[&[SCHEMATHESIS]]);
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().display().to_string();
    let model = |name, folder| format!("{name}={}", golden("checkpoints").join(folder).display());
    let models = [
        model("tiny", "bert-tiny-mean"),
        model("judge", "bert-tiny-score"),
        model("nli", "bert-tiny-score3"),
    ];
    // A launch must find its model here or not at all.
    let library = runtime().library().display().to_string();
    let offline = [("RETORT_OFFLINE", "1"), ("ORT_DYLIB_PATH", &*library)];
    let mut arguments = vec!["serve", "--cache-dir", &cache];
    for model in &models {
        arguments.extend(["--model", model]);
    }
    let server = Program::serve(&arguments, &offline);
    let client = server.client();

    let description = client.get("/openapi.json").json();
    let paths = description["paths"].as_object().unwrap();
    let operations: BTreeSet<String> = paths
        .iter()
        .flat_map(|(path, methods)| {
            let keys = methods.as_object().unwrap().keys();
            // A path may also have a description or parameters that its operations share.
            let methods = keys.filter(|key| METHODS.contains(&key.as_str()));
            methods.map(move |method| format!("{} {path}", method.to_uppercase()))
        })
        .collect();
    for name in DESTRUCTIVE.into_iter().chain([DESCRIPTION]) {
        assert!(operations.contains(name), "`{name}` is not described");
    }

    let url = format!("http://{}/openapi.json", server.address);
    let mut command = Command::new(python.with_file_name("schemathesis"));
    command
        .args(["run", &url, "--checks", CHECKS])
        .args(["--phases", "coverage,fuzzing", "-n", EXAMPLES])
        .args(["--generation-deterministic", "--continue-on-failure"])
        .args(["--no-shrink", "--request-timeout", "60", "--no-color"])
        .args(DESTRUCTIVE.iter().flat_map(|name| ["--exclude-name", name]));
    command
        .env("NO_PROXY", "127.0.0.1")
        .env("no_proxy", "127.0.0.1")
        .current_dir(folder.path());
    let report = run(&mut command);
    let line = report
        .lines()
        .find_map(|line| line.trim().strip_prefix("Tested: "));
    let tested: usize = line.and_then(|count| count.parse().ok()).expect("a count");
    let wanted = operations.len() - DESTRUCTIVE.len() - [DESCRIPTION].len();
    assert_eq!(tested, wanted, "operations tested, described:\n{report}");

    assert_eq!(client.get("/readyz").status, 200);
    assert_eq!(client.embed("tiny", &["still here"]).len(), 1);
}
