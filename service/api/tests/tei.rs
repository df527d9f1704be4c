//! text-embeddings-inference's routes: one model an address, its options, its headers, its errors.

use serde_json::json;

use super::*;

/// Checks an error in text-embeddings-inference's shape and returns its sentence.
fn refusal(answer: &Answer, status: u16, kind: &str) -> String {
    assert_eq!(answer.status, status, "{}", answer.text());
    let body = answer.json();
    assert_eq!(body["error_type"], kind, "{body}");
    body["error"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_root_shows_one_model_of_one_kind() {
    let server = Server::family();
    for (model, kind) in [
        ("fake", "embedding"),
        ("org%2Ffake", "embedding"),
        ("m3", "embedding"),
        ("judge", "reranker"),
        ("nli", "classifier"),
    ] {
        let info = server.get(&format!("/tei/{model}/info")).await.json();
        let kinds: Vec<&String> = info["model_type"].as_object().unwrap().keys().collect();
        assert_eq!(kinds, [kind], "{info}");
        let health = server.get(&format!("/tei/{model}/health")).await;
        assert_eq!((health.status.as_u16(), health.text().as_str()), (200, ""));
        assert_eq!(server.get(&format!("/tei/{model}/")).await.status, 200);
    }
    let names = |info: Value| info["served_model_name"].as_str().unwrap().to_owned();
    assert_eq!(names(server.get("/info").await.json()), "fake");
    let by_query = server.get("/info?a=b&model=judge").await.json();
    assert_eq!(names(by_query), "judge");
    refusal(&server.get("/tei/other/health").await, 404, "Validation");
    refusal(&server.get("/tei/%ff/info").await, 422, "Validation");
    let loading = Server::loading(ApiSettings::default(), limits());
    for path in ["/info", "/tei/fake/info", "/tei/fake/health"] {
        refusal(&loading.get(path).await, 503, "Unhealthy");
    }
}

#[tokio::test]
async fn the_limits_that_info_tells_are_those_that_hold() {
    let settings = ApiSettings {
        max_inputs_per_request: 3,
        ..ApiSettings::default()
    };
    let server = Server::family_with(settings);
    let info = server.get("/tei/m3/info").await.json();
    assert_eq!(info["max_client_batch_size"], 3);
    assert_eq!(info["max_input_length"], 40);
    assert_eq!(info["max_batch_tokens"], 1024);
    assert_eq!(info["max_concurrent_requests"], (1 << 20) / 40);
    let three = json!({"inputs": ["a", "a", "a"]});
    server.ok("/tei/m3/embed", &three).await;
    let four = json!({"inputs": ["a", "a", "a", "a"]}).to_string();
    for path in ["/embed", "/embed_sparse", "/tokenize"] {
        let refused = server.post(&format!("/tei/m3{path}"), four.clone()).await;
        let message = refusal(&refused, 422, "Validation");
        assert_eq!(message, "batch size 4 > maximum allowed batch size 3");
    }
}

#[tokio::test]
async fn vectors_are_those_of_openais_route() {
    let server = Server::family();
    let texts = json!(["the river", "a boat in the rain"]);
    let ours = server.embed(&json!({"input": texts}).to_string()).await;
    let body = json!({"inputs": texts});
    let rows = |json: &Value| -> Vec<Vec<f32>> { serde_json::from_value(json.clone()).unwrap() };
    let theirs = rows(&server.ok("/embed", &body).await);
    assert_eq!(theirs, vectors(&ours));
    for path in ["/tei/fake", "/tei/fake/invocations", "/", "/invocations"] {
        assert_eq!(rows(&server.ok(path, &body).await), theirs, "{path}");
    }
    // A model in the body is ours; the address goes before it.
    let named = json!({"inputs": texts, "model": "fake"});
    assert_eq!(rows(&server.ok("/embed", &named).await), theirs);
    let named = json!({"inputs": texts, "model": "judge"});
    assert_eq!(rows(&server.ok("/tei/fake/embed", &named).await), theirs);
    let answer = server.post("/embed", named.to_string()).await;
    refusal(&answer, 424, "Backend");
}

#[tokio::test]
async fn similarities_are_cosines() {
    let server = Server::family();
    let texts = ["the river", "the river", "a boat"];
    let rows = server.ok("/embed", &json!({"inputs": texts})).await;
    let rows: Vec<Vec<f32>> = serde_json::from_value(rows).unwrap();
    let cosine = |other: &[f32]| rows[0].iter().zip(other).map(|(a, b)| a * b).sum::<f32>();
    let body = json!({"inputs": {"source_sentence": texts[0], "sentences": texts[1..]}});
    let found = server.ok("/tei/fake/similarity", &body).await;
    let found: Vec<f32> = serde_json::from_value(found).unwrap();
    for (found, row) in found.iter().zip(&rows[1..]) {
        assert!((found - cosine(row)).abs() < 1e-5, "{found}");
    }
    assert!((found[0] - 1.0).abs() < 1e-5);
    let none = json!({"inputs": {"source_sentence": "a", "sentences": []}}).to_string();
    refusal(&server.post("/similarity", none).await, 400, "Empty");
    let judge = server.post("/tei/judge/similarity", body.to_string()).await;
    refusal(&judge, 424, "Backend");
}

#[tokio::test]
async fn headers_tell_what_it_cost() {
    let server = Server::family();
    let answer = server
        .post("/embed", r#"{"inputs":["the ä","a"]}"#.to_owned())
        .await;
    assert_eq!(answer.header("x-compute-type"), "cpu");
    assert_eq!(answer.header("x-compute-characters"), "6");
    let tokens: usize = answer.header("x-compute-tokens").parse().unwrap();
    assert!(tokens >= 6, "{tokens}");
    for name in [
        "x-compute-time",
        "x-total-time",
        "x-tokenization-time",
        "x-queue-time",
        "x-inference-time",
    ] {
        assert!(answer.header(name).parse::<u64>().is_ok(), "{name}");
    }
}

#[tokio::test]
async fn every_failure_has_its_kind() {
    let settings = ApiSettings {
        max_body_bytes: 100,
        ..ApiSettings::default()
    };
    let server = Server::family_with(settings);
    for (path, body, status, kind) in [
        ("/embed", "not JSON", 422, "Validation"),
        ("/embed", "{}", 422, "Validation"),
        (
            "/embed",
            r#"{"inputs":"a","dimensions":0}"#,
            422,
            "Validation",
        ),
        (
            "/embed",
            r#"{"inputs":"a","truncation_direction":"up"}"#,
            422,
            "Validation",
        ),
        ("/embed_sparse", r#"{"inputs":"a"}"#, 424, "Backend"),
        ("/embed_all", r#"{"inputs":"a"}"#, 424, "Backend"),
        ("/predict", r#"{"inputs":[]}"#, 400, "Empty"),
        ("/decode", r#"{"ids":[]}"#, 400, "Empty"),
        ("/decode", r#"{"ids":["a"]}"#, 422, "Validation"),
        ("/tei/judge", r#"{"inputs":"a"}"#, 424, "Backend"),
    ] {
        let answer = server.post(path, body.to_owned()).await;
        refusal(&answer, status, kind);
    }
    let long = format!(r#"{{"inputs":"{}"}}"#, "a".repeat(200));
    refusal(&server.post("/embed", long).await, 413, "Validation");
}

#[tokio::test]
async fn a_full_queue_is_overloaded() {
    let tight = EngineLimits {
        max_queue_tokens: 8,
        max_batch_tokens: 4,
        ..limits()
    };
    let (server, mut gate) = Server::gated(ApiSettings::default(), tight);
    // Equal texts would be run once.
    let texts: Vec<String> = (1..=20).map(|n| "lorem ".repeat(n)).collect();
    let busy = json!({"inputs": texts}).to_string();
    let waiting = tokio::spawn(server.clone().post_owned("/embed", busy));
    gate.reached.recv().await.unwrap();
    let refused = server.post("/tei/fake/embed", r#"{"inputs":"a"}"#).await;
    refusal(&refused, 429, "Overloaded");
    assert!(!refused.header("retry-after").is_empty());
    drop(gate);
    assert_eq!(waiting.await.unwrap().status, 200);
}

#[tokio::test]
async fn tokens_lead_back_to_their_text() {
    let server = Server::family();
    let text = "the river and the boat";
    let lists = server.ok("/tokenize", &json!({"inputs": text})).await;
    let tokens = lists[0].as_array().unwrap();
    assert_eq!(tokens[0]["special"], true);
    assert_eq!(tokens[0]["start"], json!(null));
    for token in &tokens[1..tokens.len() - 1] {
        let place = |key: &str| token[key].as_u64().unwrap() as usize;
        assert_eq!(&text[place("start")..place("stop")], token["text"]);
    }
    let ids: Vec<&Value> = tokens.iter().map(|token| &token["id"]).collect();
    let decoded = server.ok("/decode", &json!({"ids": ids})).await;
    assert_eq!(decoded, json!([text]));
    let kept = json!({"ids": ids, "skip_special_tokens": false});
    let kept = server.ok("/decode", &kept).await;
    assert_eq!(kept, json!([format!("[CLS] {text} [SEP]")]));
}

#[test]
fn every_route_is_at_the_root_and_below_each_model() {
    let paths: Vec<&str> = crate::api::ROUTES
        .iter()
        .flat_map(|route| route.paths.iter().copied())
        .collect();
    for path in [
        "/embed",
        "/embed_all",
        "/embed_sparse",
        "/rerank",
        "/predict",
        "/similarity",
        "/tokenize",
        "/decode",
        "/info",
        "/embeddings",
        "/v1/embeddings",
        "/health",
        "/ping",
        "/invocations",
    ] {
        assert!(paths.contains(&path), "{path}");
        let below = format!("/tei/{{model}}{path}");
        assert!(paths.contains(&below.as_str()), "{below}");
    }
}
