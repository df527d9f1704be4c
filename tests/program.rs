//! The program as a person runs it: what it prints, how it stops, what its commands do.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{
    golden, minilm, runtime,
    server::{Program, run},
};

/// `--model` for a tiny checkpoint; the environment that keeps the program off the network and
/// gives it the ONNX Runtime that the tests use.
fn tiny() -> String {
    format!("tiny={}", golden("checkpoints/bert-tiny-mean").display())
}

fn offline() -> Vec<(&'static str, String)> {
    let library = runtime().library().display().to_string();
    vec![("RETORT_OFFLINE", "1".into()), ("ORT_DYLIB_PATH", library)]
}

fn serve(arguments: &[&str]) -> Program {
    let variables = offline();
    let variables: Vec<_> = variables.iter().map(|(n, v)| (*n, v.as_str())).collect();
    Program::serve(arguments, &variables)
}

fn command(arguments: &[&str], input: &str) -> (i32, String, String) {
    let variables = offline();
    let variables: Vec<_> = variables.iter().map(|(n, v)| (*n, v.as_str())).collect();
    run(arguments, &variables, input)
}

#[test]
fn it_says_what_runs_where_and_how_to_ask() {
    let minilm = format!("minilm={}", minilm().display());
    let program = serve(&["serve", "--model", &minilm]);
    for told in ["1.31.1", "minilm", "384", "256", "cpu", "/v1/embeddings"] {
        assert!(
            program.printed.contains(told),
            "`{told}` is not in:\n{}",
            program.printed
        );
    }
    assert_eq!(program.client().embed("minilm", &["works"])[0].len(), 384);
}

#[test]
fn onnx_runtime_keeps_no_record_of_the_process() {
    let cache = tempfile::tempdir().unwrap();
    let home = cache.path().display().to_string();
    let mut variables = offline();
    variables.extend(["HOME", "XDG_CACHE_HOME"].map(|name| (name, home.clone())));
    let variables: Vec<_> = variables.iter().map(|(n, v)| (*n, v.as_str())).collect();
    let program = Program::serve(&["serve", "--model", &tiny()], &variables);
    assert_eq!(program.client().embed("tiny", &["works"]).len(), 1);
    let left: Vec<_> = std::fs::read_dir(cache.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert!(left.is_empty(), "{left:?} was made in the cache directory");
}

#[test]
fn sigterm_finishes_what_is_inside_and_exits_cleanly() {
    let minilm = format!("minilm={}", minilm().display());
    let mut program = serve(&["serve", "--model", &minilm]);
    let client = program.client();
    let text = "a long text that takes a while ".repeat(40);
    let body = json!({"input": vec![text; 48]});
    let answer = std::thread::scope(|scope| {
        let asking = scope.spawn(|| client.post("/v1/embeddings", &body));
        // The request is inside once its tokens are counted.
        while !client
            .get("/metrics")
            .body
            .contains("retort_request_tokens_count{model=\"minilm\"} 1")
        {
            assert!(
                !asking.is_finished(),
                "it was answered before it could be interrupted"
            );
        }
        program.terminate();
        asking.join().unwrap()
    });
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert_eq!(answer.vectors().len(), 48);
    assert!(program.wait(Duration::from_secs(60)).success());
}

#[test]
fn a_taken_port_is_told_before_anything_else() {
    let program = serve(&["serve", "--model", &tiny()]);
    let port = program.address.port().to_string();
    let (status, _, errors) = command(&["serve", "--model", &tiny(), "--port", &port], "");
    assert_eq!(status, 1);
    assert!(
        errors.contains("cannot listen") && errors.contains("--port"),
        "{errors}"
    );
}

#[test]
fn a_door_to_the_world_needs_a_key() {
    let (status, _, errors) = command(&["serve", "--model", &tiny(), "--host", "0.0.0.0"], "");
    assert_ne!(status, 0);
    assert!(
        errors.contains("--allow-public") && errors.contains("api-key"),
        "{errors}"
    );
}

#[test]
fn embed_prints_the_vectors_that_the_service_gives() {
    let texts = ["the quick red train", "", "Ελληνικά"];
    let program = serve(&["serve", "--model", &tiny()]);
    let expected = program.client().embed("tiny", &texts);
    let arguments = [
        "embed",
        "--model",
        &tiny(),
        "--input-format",
        "jsonl",
        "--format",
        "jsonl",
        "--file",
        "-",
    ];
    let lines: Vec<String> = texts
        .iter()
        .map(|t| json!({"text": t}).to_string())
        .collect();
    let (status, output, errors) = command(&arguments, &lines.join("\n"));
    assert_eq!(status, 0, "{errors}");
    let got: Vec<Value> = output
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(got.len(), texts.len(), "{output}");
    for (line, expected) in got.iter().zip(&expected) {
        let vector: Vec<f64> = line["embedding"]
            .as_array()
            .unwrap()
            .iter()
            .map(|x| x.as_f64().unwrap())
            .collect();
        let off = vector
            .iter()
            .zip(expected)
            .map(|(a, b)| (a - b).abs())
            .fold(0.0, f64::max);
        assert!(
            vector.len() == expected.len() && off < 1e-5,
            "off by {off:e}"
        );
    }
}

/// A model's own kind of vectors, of queries and of documents; weights by id; never the wrong ones.
#[test]
fn embed_gives_every_kind_of_vectors() {
    let embed = |model: &str, more: &[&str]| {
        let model = golden("checkpoints").join(model).display().to_string();
        let mut arguments = vec!["embed", "--model", &model, "--format", "jsonl"];
        arguments.extend(more);
        arguments.push("hello, world");
        command(&arguments, "")
    };
    let line = |(status, output, errors): (i32, String, String)| -> Value {
        assert_eq!(status, 0, "{errors}");
        serde_json::from_str(&output).unwrap()
    };
    let rows = |line: &Value| line["multi_vector_embedding"].as_array().unwrap().len();
    let model = "colbert-tiny";
    // A comma is a token of a query, and no vector of a document.
    assert_eq!(rows(&line(embed(model, &[]))), 5);
    assert_eq!(rows(&line(embed(model, &["--input-type", "query"]))), 6);
    let sparse = line(embed("bge-m3-tiny", &["--head", "sparse"]));
    assert!(!sparse["sparse_embedding"].as_object().unwrap().is_empty());
    assert!(sparse.get("embedding").is_none());
    let (status, _, errors) = embed(model, &["--head", "dense"]);
    assert_eq!(status, 1);
    assert!(errors.contains("dense"), "{errors}");
}

#[test]
fn rerank_prints_the_order_that_the_golden_has() {
    let name = "bert-tiny-score";
    let model = golden("checkpoints").join(name);
    let golden: Value =
        serde_json::from_slice(&std::fs::read(model.join("golden.json")).unwrap()).unwrap();
    let model = model.display().to_string();
    let query = golden["cases"][0]["query"].as_str().unwrap();
    let cases = golden["cases"].as_array().unwrap().iter();
    // An empty argument is a document like any other, but an empty line of a table shows nothing.
    let of_query: Vec<(&str, f64)> = cases
        .filter(|case| case["query"] == query && case["document"] != "")
        .map(|case| {
            let document = case["document"].as_str().unwrap();
            (document, case["logits"][0].as_f64().unwrap())
        })
        .collect();
    let best = of_query.iter().max_by(|a, b| a.1.total_cmp(&b.1)).unwrap();
    let mut arguments = vec!["rerank", "--model", &model, "--raw-scores", query];
    arguments.extend(of_query.iter().map(|(document, _)| *document));
    let (status, table, errors) = command(&arguments, "");
    assert_eq!(status, 0, "{errors}");
    let first = table.lines().nth(1).unwrap().trim_start();
    let score = format!("{:.4}", best.1);
    assert!(first.starts_with('1') && first.contains(&score), "{table}");
    arguments.extend(["--json", "--top-n", "2"]);
    let (status, json, errors) = command(&arguments, "");
    assert_eq!(status, 0, "{errors}");
    let answer: Value = serde_json::from_str(&json).unwrap();
    let results = answer["results"].as_array().unwrap();
    assert_eq!(results.len(), 2);
    assert_eq!(results[0]["document"], best.0);
    let piped = ["rerank", "--model", &model, query];
    let (status, table, _) = command(&piped, "one\ntwo\n");
    assert_eq!((status, table.lines().count()), (0, 3), "{table}");
    let (status, _, errors) = command(&piped, "");
    assert_eq!(status, 2);
    assert!(errors.contains("no document to rank"), "{errors}");
}

#[test]
fn mistakes_on_the_command_line_are_explained() {
    let (status, _, errors) = command(&["serve", "--modle", "x"], "");
    assert_eq!(status, 2);
    assert!(errors.contains("--model"), "{errors}");
    let (status, _, errors) = command(&["serve", "--model", "./no-such-folder"], "");
    assert_eq!(status, 1);
    assert!(errors.contains("no-such-folder"), "{errors}");
    let (status, _, errors) = command(&["embed", "--model", "nobody/nothing", "x"], "");
    assert_eq!(status, 1);
    assert!(errors.contains("RETORT_OFFLINE"), "{errors}");
}

#[test]
fn help_and_the_other_commands_answer() {
    let (status, help, _) = command(&["--help"], "");
    assert_eq!(status, 0);
    for name in ["serve", "pull", "embed", "rerank", "models", "ps", "doctor"] {
        assert!(help.contains(name), "`{name}` is not in:\n{help}");
    }
    let program = serve(&["serve", "--model", &tiny()]);
    let url = format!("http://{}", program.address);
    let (status, table, errors) = command(&["ps", "--url", &url], "");
    assert_eq!(status, 0, "{errors}");
    assert!(table.contains("tiny"), "{table}");
    let (_, report, _) = command(&["doctor", "--port", "0"], "");
    for checked in ["ONNX Runtime", "1.31.1", "python"] {
        assert!(report.contains(checked), "`{checked}` is not in:\n{report}");
    }
}
