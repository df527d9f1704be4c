//! Reranking and the outputs beside dense vectors over HTTP with real models: the tiny checkpoints
//! whose scores and vectors transformers and FlagEmbedding's formulas gave.

use std::{collections::BTreeMap, sync::LazyLock};

use serde_json::{Value, json};

use crate::support::{golden, server::Server};

/// What float32 on another machine may differ by.
const TOLERANCE: f64 = 2e-5;

const RERANKERS: [&str; 2] = ["bert-tiny-score", "xlmr-tiny-score"];

fn server() -> &'static Server {
    static SERVER: LazyLock<Server> = LazyLock::new(|| {
        let names = ["bert-tiny-mean", "bert-tiny-score3", "bge-m3-tiny"];
        let models: Vec<String> = names
            .iter()
            .chain(&RERANKERS)
            .map(|name| format!("{name}={}", golden("checkpoints").join(name).display()))
            .collect();
        let flags: Vec<(&str, &str)> = models.iter().map(|m| ("model", m.as_str())).collect();
        Server::start(&flags)
    });
    &SERVER
}

fn reference(model: &str) -> Value {
    let file = golden("checkpoints").join(model).join("golden.json");
    serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap()
}

fn numbers(list: &Value) -> Vec<f64> {
    let numbers = list.as_array().expect("a list").iter();
    numbers.map(|number| number.as_f64().unwrap()).collect()
}

/// A document with the logit and the score that transformers gives the pair.
struct Expected {
    document: String,
    tokens: u64,
    logits: Vec<f64>,
    sigmoid: Vec<f64>,
}

/// The cases of a checkpoint by query, without those where `longest_first` cuts another text than
/// a reranker does.
fn by_query(model: &str) -> BTreeMap<String, Vec<Expected>> {
    let reference = reference(model);
    let limit = reference["max_seq_length"].as_u64().unwrap();
    let mut queries: BTreeMap<String, Vec<Expected>> = BTreeMap::new();
    for case in reference["cases"].as_array().unwrap() {
        let text = |key: &str| case[key].as_str().unwrap().to_owned();
        let tokens = case["n_tokens"].as_u64().unwrap();
        let query = text("query");
        if tokens == limit && query.len() > 20 {
            continue;
        }
        queries.entry(query).or_default().push(Expected {
            document: text("document"),
            tokens,
            logits: numbers(&case["logits"]),
            sigmoid: numbers(&case["sigmoid"]),
        });
    }
    queries
}

fn rerank(body: &Value) -> Value {
    let answer = server().client().post("/v1/rerank", body);
    assert_eq!(answer.status, 200, "{}", answer.body);
    answer.json()
}

/// The scores of an answer in the order of the documents; the answer itself is in its own.
fn scores(answer: &Value) -> Vec<f64> {
    let results = answer["results"].as_array().unwrap();
    let mut scores = vec![f64::NAN; results.len()];
    let mut before = f64::INFINITY;
    for result in results {
        let score = result["relevance_score"].as_f64().unwrap();
        assert!(score <= before, "{score} comes after {before}");
        before = score;
        scores[result["index"].as_u64().unwrap() as usize] = score;
    }
    scores
}

fn near(found: f64, expected: f64, what: &str) {
    let off = (found - expected).abs();
    assert!(off <= TOLERANCE, "{what}: {found}, not {expected}");
}

#[test]
fn cross_encoders_give_the_scores_of_transformers() {
    for model in RERANKERS {
        let mut seen = 0;
        for (query, cases) in by_query(model) {
            let documents: Vec<&str> = cases.iter().map(|c| c.document.as_str()).collect();
            let mut body = json!({"model": model, "query": query, "documents": documents,
                "usage_details": true});
            let answer = rerank(&body);
            let found = scores(&answer);
            body["raw_scores"] = true.into();
            let raw = scores(&rerank(&body));
            for (index, case) in cases.iter().enumerate() {
                let what = format!("{model}: `{query}` with `{:.20}`", case.document);
                near(found[index], case.sigmoid[0], &what);
                near(raw[index] / 4.0, case.logits[0] / 4.0, &what);
                let detail = &answer["usage"]["details"][index];
                assert_eq!(detail["tokens"], case.tokens, "{what}");
                seen += 1;
            }
        }
        assert!(seen > 25, "{model} has only {seen} cases");
    }
}

#[test]
fn many_clients_at_once_get_the_scores_of_one() {
    let model = RERANKERS[0];
    let queries = by_query(model);
    std::thread::scope(|scope| {
        for (query, cases) in &queries {
            for case in cases {
                scope.spawn(move || {
                    let body = json!({"model": model, "query": query,
                        "documents": [case.document]});
                    near(scores(&rerank(&body))[0], case.sigmoid[0], query);
                });
            }
        }
    });
}

#[test]
fn a_long_document_is_as_good_as_its_best_chunk() {
    for model in RERANKERS {
        let text = "the river and the mountain in the morning rain. ".repeat(40);
        let body = json!({"model": model, "query": "where is the river", "documents": [text],
            "chunk": {"overlap": 4}});
        let answer = rerank(&body);
        let detail = &answer["usage"]["details"][0];
        assert!(detail["chunks"].as_u64().unwrap() > 4, "{detail}");
        assert_eq!(detail["tokens_cut"], 0);
        let cut = json!({"model": model, "query": "where is the river", "documents": [text]});
        let cut = rerank(&cut);
        assert!(cut["usage"]["details"][0]["tokens_cut"].as_u64().unwrap() > 100);
        // The first chunk is what is left of a text that is cut, or a word less.
        assert!(scores(&answer)[0] >= scores(&cut)[0] - 0.05);
    }
}

#[test]
fn three_labels_are_a_classifier() {
    let model = "bert-tiny-score3";
    let reference = reference(model);
    let cases = reference["cases"].as_array().unwrap();
    let pair = |case: &Value| json!([case["query"], case["document"]]);
    let fits = |case: &&Value| case["n_tokens"].as_u64().unwrap() < 96;
    let cases: Vec<&Value> = cases.iter().filter(fits).collect();
    let input: Vec<Value> = cases.iter().map(|case| pair(case)).collect();
    let body = json!({"model": model, "input": input, "use_activation": false});
    let answer = server().client().post("/v1/classify", &body);
    assert_eq!(answer.status, 200, "{}", answer.body);
    let answer = answer.json();
    let labels = json!(["contradiction", "entailment", "neutral"]);
    assert_eq!(answer["labels"], labels);
    for (datum, case) in answer["data"].as_array().unwrap().iter().zip(&cases) {
        let logits = numbers(&case["logits"]);
        for (found, expected) in numbers(&datum["probs"]).into_iter().zip(logits) {
            near(found / 4.0, expected / 4.0, case["query"].as_str().unwrap());
        }
    }
    let body = json!({"model": model, "query": "a", "documents": ["b"]});
    let message = server()
        .client()
        .post("/v1/rerank", &body)
        .assert_error(400);
    assert!(
        message.contains("cannot rerank; it can classify"),
        "{message}"
    );
    let body = json!({"model": RERANKERS[0], "input": "a"});
    let message = server()
        .client()
        .post("/v1/embeddings", &body)
        .assert_error(400);
    assert!(message.contains("is a reranker"), "{message}");
}

/// One text with all that a model of three kinds of vectors gives it.
struct Embedded {
    text: String,
    dense: Vec<f64>,
    sparse: BTreeMap<String, f64>,
    rows: Vec<Vec<f64>>,
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

impl Embedded {
    fn read(case: &Value) -> Self {
        let sparse = &case["sparse"];
        let ids = numbers(&sparse["ids"])
            .into_iter()
            .map(|id| format!("{id}"));
        let width = case["multi_vector"]["shape"][1].as_u64().unwrap() as usize;
        let values = numbers(&case["multi_vector"]["values"]);
        Self {
            text: case["text"].as_str().unwrap().to_owned(),
            dense: numbers(&case["normalized"]),
            sparse: ids.zip(numbers(&sparse["weights"])).collect(),
            rows: values.chunks(width).map(<[f64]>::to_vec).collect(),
        }
    }

    /// As FlagEmbedding computes the three scores of BGE-M3.
    fn similarities(&self, other: &Self) -> [f64; 3] {
        let sparse = self.sparse.iter();
        let common = sparse.filter_map(|(id, weight)| Some(weight * other.sparse.get(id)?));
        let best = |row: &Vec<f64>| {
            let products = other.rows.iter().map(|other| dot(row, other));
            products.fold(f64::NEG_INFINITY, f64::max)
        };
        let late: f64 = self.rows.iter().map(best).sum();
        [
            dot(&self.dense, &other.dense),
            common.sum(),
            late / self.rows.len() as f64,
        ]
    }
}

/// The texts of the tiny BGE-M3 that fit and have tokens.
fn embedded() -> Vec<Embedded> {
    let reference = reference("bge-m3-tiny");
    let limit = reference["max_seq_length"].as_u64().unwrap();
    let cases = reference["cases"].as_array().unwrap().iter();
    let fits = |case: &&Value| (3..limit).contains(&case["n_tokens"].as_u64().unwrap());
    let whole = |case: &&Value| case["multi_vector"].is_object();
    cases
        .filter(fits)
        .filter(whole)
        .map(Embedded::read)
        .collect()
}

#[test]
fn three_outputs_of_one_pass_are_those_of_the_reference() {
    let texts = embedded();
    assert!(texts.len() > 5);
    let input: Vec<&str> = texts.iter().map(|text| text.text.as_str()).collect();
    let body = json!({"model": "bge-m3-tiny", "input": input,
        "output_types": ["dense", "sparse", "colbert"]});
    let answer = server().client().post("/v1/embeddings", &body);
    assert_eq!(answer.status, 200, "{}", answer.body);
    for (datum, expected) in answer.json()["data"].as_array().unwrap().iter().zip(&texts) {
        for (found, number) in numbers(&datum["embedding"]).iter().zip(&expected.dense) {
            near(*found, *number, &expected.text);
        }
        let sparse = datum["sparse_embedding"].as_object().unwrap();
        assert_eq!(sparse.len(), expected.sparse.len(), "{}", expected.text);
        for (id, weight) in &expected.sparse {
            near(sparse[id].as_f64().unwrap(), *weight, &expected.text);
        }
        let rows = datum["multi_vector_embedding"].as_array().unwrap();
        assert_eq!(rows.len(), expected.rows.len(), "{}", expected.text);
        for (row, expected_row) in rows.iter().zip(&expected.rows) {
            for (found, number) in numbers(row).iter().zip(expected_row) {
                near(*found, *number, &expected.text);
            }
        }
    }
}

#[test]
fn the_hybrid_score_is_the_weighted_mean_of_three() {
    let texts = embedded();
    let query = &texts[0];
    let documents: Vec<&str> = texts.iter().map(|text| text.text.as_str()).collect();
    let usual = [0.4, 0.2, 0.4];
    for weights in [usual, [1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 2.0]] {
        let mut body = json!({"model": "bge-m3-tiny", "query": query.text,
            "documents": documents, "raw_scores": true});
        if weights != usual {
            body["weights"] = json!(weights);
        }
        let found = scores(&rerank(&body));
        let total: f64 = weights.iter().sum();
        for (found, document) in found.into_iter().zip(&texts) {
            let expected = dot(&weights, &query.similarities(document)) / total;
            // Sparse products are in the tens here.
            let scale = expected.abs().max(1.0);
            near(found / scale, expected / scale, &document.text);
        }
    }
    let body = json!({"model": "bge-m3-tiny", "query": query.text, "documents": documents});
    let unit = scores(&rerank(&body));
    assert!(unit.iter().all(|score| (0.0..=1.0).contains(score)));
}

#[test]
fn late_chunking_is_one_pass_over_all_texts() {
    let client = server().client();
    let texts = ["the river and the rain", "a boat in the morning"];
    let ask = |body: Value| {
        let answer = client.post("/v1/embeddings", &body);
        assert_eq!(answer.status, 200, "{}", answer.body);
        answer
    };
    let model = "bert-tiny-mean";
    let joined = ask(json!({"model": model, "input": texts, "late_chunking": true})).vectors();
    let apart = ask(json!({"model": model, "input": texts})).vectors();
    assert_eq!(joined.len(), 2);
    for (joined, apart) in joined.iter().zip(&apart) {
        let cosine = dot(joined, apart);
        assert!((0.3..0.9999).contains(&cosine), "{cosine}");
    }
    // The texts pooled over their tokens are the parts of the whole.
    let raw = |body: Value| {
        let mut body = body;
        body["normalize"] = false.into();
        body["usage_details"] = true.into();
        let answer = ask(body);
        let details = answer.json()["usage"]["details"].clone();
        let tokens: Vec<f64> = details
            .as_array()
            .unwrap()
            .iter()
            .map(|d| d["tokens"].as_f64().unwrap())
            .collect();
        (answer.vectors(), tokens)
    };
    let (parts, tokens) = raw(json!({"model": model, "input": texts, "late_chunking": true}));
    let (whole, all) = raw(json!({"model": model, "input": [texts.join(" ")]}));
    assert_eq!(tokens.iter().sum::<f64>(), all[0]);
    for (place, number) in whole[0].iter().enumerate() {
        let mean = (parts[0][place] * tokens[0] + parts[1][place] * tokens[1]) / all[0];
        near(mean, *number, "the mean of the parts");
    }
}
