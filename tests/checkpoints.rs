//! One tiny checkpoint of each kind over HTTP, as its reference implementation has it: templates,
//! cut-off layers, task adapters, markers, prompts and what is used where a request says nothing.

use std::sync::LazyLock;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{client::Answer, golden, numbers::read_json, server::Server};

/// What float32 on another machine may differ by.
const TOLERANCE: f64 = 3e-5;

/// The models of the one server: checkpoint, and what the operator says of it. A name of its own
/// goes before a second use of a checkpoint.
const MODELS: [(&str, &str, &str); 12] = [
    ("jina-v3-tiny-mean", "jina-v3-tiny-mean", ""),
    ("colbert-tiny", "colbert-tiny", ""),
    (
        "qwen3-tiny-reranker",
        "qwen3-tiny-reranker",
        "task = \"rerank\"",
    ),
    ("minicpm", "minicpm-layerwise-tiny", ""),
    ("minicpm-4", "minicpm-layerwise-tiny", "cutoff_layer = 4"),
    ("jina-reranker-v2-tiny", "jina-reranker-v2-tiny", ""),
    ("gte-tiny-score", "gte-tiny-score", ""),
    (
        "modernbert-tiny-score-mean",
        "modernbert-tiny-score-mean",
        "",
    ),
    ("splade-tiny", "splade-tiny", ""),
    ("gte-tiny-cls", "gte-tiny-cls", ""),
    ("qwen3-tiny-lasttoken", "qwen3-tiny-lasttoken", ""),
    ("bert-tiny-dense-identity", "bert-tiny-dense-identity", ""),
];

fn server() -> &'static Server {
    static SERVER: LazyLock<(Server, TempDir)> = LazyLock::new(|| {
        let tables = MODELS.map(|(name, checkpoint, settings)| {
            let dir = golden("checkpoints").join(checkpoint);
            let id = Value::from(dir.display().to_string());
            format!("[[model]]\nid = {id}\nname = \"{name}\"\n{settings}\n")
        });
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("retort.toml");
        std::fs::write(&file, tables.concat()).unwrap();
        let flags = [("config", file.to_str().unwrap())];
        (Server::start(&flags), directory)
    });
    &SERVER.0
}

fn reference(checkpoint: &str) -> Value {
    read_json(&golden("checkpoints").join(checkpoint).join("golden.json"))
}

fn list<'v>(value: &'v Value, key: &str) -> &'v [Value] {
    value[key].as_array().expect("a list")
}

fn text<'v>(value: &'v Value, key: &str) -> &'v str {
    value[key].as_str().expect("a text")
}

fn numbers(value: &Value) -> Vec<f64> {
    let numbers = value.as_array().expect("a list").iter();
    numbers.map(|number| number.as_f64().unwrap()).collect()
}

fn post(path: &str, body: &Value) -> Answer {
    server().client().post(path, body)
}

/// The items of an answer about vectors.
fn embed(body: &Value) -> Vec<Value> {
    let answer = post("/v1/embeddings", body);
    assert_eq!(answer.status, 200, "{body}: {}", answer.body);
    list(&answer.json(), "data").to_vec()
}

fn near(found: &[f64], expected: &[f64], what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (found, expected) in found.iter().zip(expected) {
        let off = (found - expected).abs();
        assert!(off <= TOLERANCE, "{what}: {found}, not {expected}");
    }
}

/// The vector of a text; `extra` is what else a request says.
fn check_vector(model: &str, case: &Value, extra: &Value) {
    let mut body = json!({"model": model, "input": case["text"]});
    body.as_object_mut()
        .unwrap()
        .extend(extra.as_object().unwrap().clone());
    let found = numbers(&embed(&body)[0]["embedding"]);
    near(&found, &numbers(&case["normalized"]), &body.to_string());
}

fn check_scores(model: &str, body: &mut Value, expected: &[f64]) {
    body["model"] = model.into();
    let answer = post("/v1/rerank", body);
    assert_eq!(answer.status, 200, "{body}: {}", answer.body);
    let mut found = vec![f64::NAN; expected.len()];
    for result in list(&answer.json(), "results") {
        let index = result["index"].as_u64().unwrap() as usize;
        found[index] = result["relevance_score"].as_f64().unwrap();
    }
    near(&found, expected, &body.to_string());
}

/// All five tasks and none of them, from as many clients as there are texts, so that batches mix
/// them; each gets what the reference gives the task alone.
#[test]
fn adapters_are_chosen_by_task_in_one_batch() {
    let model = "jina-v3-tiny-mean";
    let reference = reference(model);
    let mut tasks: Vec<&str> = list(&reference, "adapted")
        .iter()
        .map(|case| text(case, "task"))
        .collect();
    tasks.sort_unstable();
    tasks.dedup();
    assert_eq!(tasks.len(), 5);
    std::thread::scope(|scope| {
        for case in list(&reference, "adapted") {
            scope.spawn(move || check_vector(model, case, &json!({"task": case["task"]})));
        }
        for case in list(&reference, "cases") {
            scope.spawn(move || check_vector(model, case, &json!({})));
        }
    });
    // What other dialects call the same.
    for case in list(&reference, "adapted") {
        for (name, hint) in [
            ("retrieval.query", json!({"input_type": "query"})),
            ("retrieval.passage", json!({"task": "document"})),
            ("separation", json!({"task": "clustering"})),
        ] {
            if case["task"] == name {
                check_vector(model, case, &hint);
            }
        }
    }
    let body = json!({"model": model, "input": "a", "task": "poetry"});
    let message = post("/v1/embeddings", &body).assert_error(400);
    assert!(message.contains("no task `poetry`"), "{message}");
    for task in tasks {
        assert!(message.contains(&format!("`{task}`")), "{message}");
    }
}

fn rows(value: &Value) -> Vec<Vec<f64>> {
    let width = value["shape"][1].as_u64().unwrap() as usize;
    let values = numbers(&value["values"]);
    values.chunks(width).map(<[f64]>::to_vec).collect()
}

#[test]
fn queries_and_documents_of_a_late_interaction_model_are_marked() {
    let model = "colbert-tiny";
    let reference = reference(model);
    let cases = list(&reference, "cases");
    let texts: Vec<&Value> = cases.iter().map(|case| &case["text"]).collect();
    for (side, extra) in [
        ("document", json!({})),
        ("document", json!({"input_type": "document"})),
        ("document", json!({"prompt_name": "passage"})),
        ("query", json!({"input_type": "query"})),
        ("query", json!({"prompt_name": "query"})),
        ("query", json!({"task": "retrieval.query"})),
    ] {
        let mut body = json!({"model": model, "input": texts, "output_types": ["colbert"]});
        body.as_object_mut()
            .unwrap()
            .extend(extra.as_object().unwrap().clone());
        for (found, case) in embed(&body).iter().zip(cases) {
            let found: Vec<Vec<f64>> = list(found, "multi_vector_embedding")
                .iter()
                .map(numbers)
                .collect();
            let what = format!("{side} {}", case["text"]);
            let expected = rows(&case[side]["multi_vector"]);
            near(&found.concat(), &expected.concat(), &what);
        }
    }
    for wrong in [
        json!({"prompt": "query: "}),
        json!({"instruction": "Find code"}),
        json!({"prompt_name": "poetry"}),
    ] {
        let mut body = json!({"model": model, "input": "a", "output_types": ["colbert"]});
        body.as_object_mut()
            .unwrap()
            .extend(wrong.as_object().unwrap().clone());
        let message = post("/v1/embeddings", &body).assert_error(400);
        assert!(message.contains("query"), "{message}");
    }
}

/// `ColBERT`'s `MaxSim` over the length of the query, of marked queries and marked documents.
#[test]
fn late_interaction_ranks_marked_texts() {
    let reference = reference("colbert-tiny");
    let cases = list(&reference, "cases");
    let documents: Vec<&Value> = cases.iter().map(|case| &case["text"]).collect();
    let dot = |a: &[f64], b: &[f64]| -> f64 { a.iter().zip(b).map(|(a, b)| a * b).sum() };
    for query in cases {
        let tokens = rows(&query["query"]["multi_vector"]);
        let score = |case: &Value| {
            let document = rows(&case["document"]["multi_vector"]);
            let best = |token: &Vec<f64>| {
                let products = document.iter().map(|other| dot(token, other));
                products.fold(f64::NEG_INFINITY, f64::max)
            };
            tokens.iter().map(best).sum::<f64>() / tokens.len() as f64
        };
        let expected: Vec<f64> = cases.iter().map(score).collect();
        let mut body = json!({"query": query["text"], "documents": documents,
            "raw_scores": true});
        check_scores("colbert-tiny", &mut body, &expected);
    }
}

/// A reranker of the server and what its golden file calls its scores.
struct Reranker {
    model: &'static str,
    checkpoint: &'static str,
    /// Which of the scores of a case it gives.
    place: usize,
    /// What a pair may have at most, where a request has to say it.
    max_tokens: Option<u64>,
    /// Pairs with a longer query are cut in another order than the reference's.
    query_chars_max: usize,
}

const fn reranker(model: &'static str) -> Reranker {
    Reranker {
        model,
        checkpoint: model,
        place: 0,
        max_tokens: None,
        query_chars_max: 100,
    }
}

#[test]
fn rerankers_of_every_family_give_the_scores_of_their_references() {
    let minicpm = |model, place| Reranker {
        model,
        checkpoint: "minicpm-layerwise-tiny",
        place,
        max_tokens: Some(64),
        query_chars_max: usize::MAX,
    };
    for Reranker {
        model,
        checkpoint,
        place,
        max_tokens,
        query_chars_max,
    } in [
        reranker("qwen3-tiny-reranker"),
        minicpm("minicpm", 2),
        minicpm("minicpm-4", 1),
        reranker("jina-reranker-v2-tiny"),
        reranker("gte-tiny-score"),
        reranker("modernbert-tiny-score-mean"),
    ] {
        let reference = reference(checkpoint);
        let mut seen = 0;
        for case in list(&reference, "cases") {
            if text(case, "query").len() > query_chars_max {
                continue;
            }
            let mut body = json!({"query": case["query"], "documents": [case["document"]]});
            if let Some(tokens) = max_tokens {
                body["max_tokens"] = tokens.into();
            }
            check_scores(model, &mut body, &[numbers(&case["sigmoid"])[place]]);
            seen += 1;
        }
        assert!(seen >= 28, "{model}: {seen} pairs");
    }
}

#[test]
fn the_record_of_a_model_says_how_it_judges() {
    let record = |model: &str| {
        let answer = server().client().get(&format!("/v1/models/{model}"));
        answer.json()
    };
    let (four, last) = (record("minicpm-4"), record("minicpm"));
    assert_eq!(
        (&four["cutoff_layer"], &last["cutoff_layer"]),
        (&4.into(), &6.into())
    );
    assert!(text(&four, "instruction").starts_with("Given a query A and a passage B"));
    assert_eq!(record("gte-tiny-score")["instruction"], Value::Null);
    assert_eq!(list(&record("jina-v3-tiny-mean"), "task_adapters").len(), 5);
}

/// The weights of vocabulary entries, by id; FlagEmbedding's and SPLADE's.
#[test]
fn sparse_vectors_are_those_of_the_references() {
    for (model, outputs) in [
        ("splade-tiny", json!(["sparse"])),
        ("gte-tiny-cls", json!(["dense", "sparse"])),
    ] {
        let reference = reference(model);
        for case in list(&reference, "cases") {
            let body = json!({"model": model, "input": case["text"], "output_types": outputs});
            let found = &embed(&body)[0];
            let what = body.to_string();
            let sparse = found["sparse_embedding"].as_object().unwrap();
            let ids = list(&case["sparse"], "ids");
            assert_eq!(sparse.len(), ids.len(), "{what}");
            let weights: Vec<f64> = ids
                .iter()
                .map(|id| sparse[&id.to_string()].as_f64().unwrap())
                .collect();
            near(&weights, &numbers(&case["sparse"]["weights"]), &what);
            if model == "gte-tiny-cls" {
                let dense = numbers(&found["embedding"]);
                near(&dense, &numbers(&case["normalized"]), &what);
            }
        }
    }
}

#[test]
fn prompts_are_the_checkpoints_own() {
    let qwen = reference("qwen3-tiny-lasttoken");
    for case in list(&qwen, "prompted") {
        for wish in [
            json!({"prompt_name": "query"}),
            json!({"input_type": "query"}),
        ] {
            check_vector("qwen3-tiny-lasttoken", case, &wish);
        }
    }
    // This one has a prompt that is used unless another is asked for.
    let bert = reference("bert-tiny-dense-identity");
    for case in list(&bert, "prompted") {
        let name = text(case, "prompt_name");
        check_vector(
            "bert-tiny-dense-identity",
            case,
            &json!({"prompt_name": name}),
        );
        if name == "query" {
            check_vector("bert-tiny-dense-identity", case, &json!({}));
        }
    }
    for case in list(&bert, "cases") {
        check_vector("bert-tiny-dense-identity", case, &json!({"prompt": ""}));
    }
}
