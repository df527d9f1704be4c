//! Infinity's routes, under its own root and where others claim the same path.

use serde_json::json;

use super::*;

fn ranking() -> Value {
    json!({"query": "the river", "documents": ["the rain", "the river"], "return_documents": true})
}

#[tokio::test]
async fn a_document_is_a_text_for_infinity_and_an_object_for_others() {
    let server = Server::family();
    let plain = json!("the river");
    let object = json!({"text": "the river"});
    for (path, key, value, expected) in [
        ("/infinity/rerank", "model", json!("judge"), &plain),
        ("/rerank", "raw_scores", json!(false), &plain),
        ("/rerank", "model", json!("default/not-specified"), &plain),
        ("/reranking/", "raw_scores", json!(true), &plain),
        ("/rerank", "model", json!("judge"), &object),
        ("/v1/rerank", "raw_scores", json!(false), &object),
        (
            "/v1/rerank",
            "model",
            json!("default/not-specified"),
            &object,
        ),
        ("/v2/rerank", "raw_scores", json!(false), &object),
        ("/api/rerank", "model", json!("judge"), &plain),
    ] {
        let mut body = ranking();
        body[key] = value;
        let answer = server.ok(path, &body).await;
        assert_eq!(&answer["results"][0]["document"], expected, "{path} {body}");
        let infinitys = expected == &plain && path != "/api/rerank";
        assert_eq!(answer["created"].is_u64(), infinitys, "{path}");
        let id = answer["id"].as_str().unwrap();
        assert_eq!(id.starts_with("infinity-"), infinitys, "{id}");
        assert_eq!(answer["object"], "rerank");
    }
}

#[tokio::test]
async fn labels_come_the_likeliest_first() {
    let server = Server::family();
    let body = json!({"model": "nli", "input": ["the rain", "a boat"], "raw_scores": false});
    for path in ["/infinity/classify", "/classify"] {
        let answer = server.ok(path, &body).await;
        assert_eq!(answer["object"], "classify");
        assert_eq!(answer["data"].as_array().unwrap().len(), 2);
        let labels = answer["data"][0].as_array().unwrap();
        let names: Vec<_> = labels.iter().map(|label| &label["label"]).collect();
        assert_eq!(names, ["yes", "no", "perhaps"]);
        let sum: f64 = labels.iter().map(|l| l["score"].as_f64().unwrap()).sum();
        assert!((sum - 1.0).abs() < 1e-5);
        assert!(answer["usage"]["total_tokens"].as_u64().unwrap() > 0);
    }
    let vllm = server.ok("/v1/classify", &body).await;
    assert_eq!(vllm["data"][0]["num_classes"], 3);
    let vllm = json!({"model": "nli", "input": ["the rain"]});
    assert_eq!(
        server.ok("/classify", &vllm).await["data"][0]["label"],
        "yes"
    );
    let logits = json!({"model": "nli", "input": ["the rain"], "raw_scores": true});
    let logits = server.ok("/infinity/classify", &logits).await;
    assert_eq!(logits["data"][0][0]["score"], -1.0);
}

#[tokio::test]
async fn embeddings_take_what_its_client_sends() {
    let server = Server::new();
    let body = json!({
        "model": "default/not-specified", "input": ["the rain"], "encoding_format": "float",
        "user": null, "dimensions": 0, "modality": "text",
    });
    for path in ["/infinity/embeddings", "/embeddings"] {
        let answer = server.ok(path, &body).await;
        assert_eq!(
            answer["data"][0]["embedding"].as_array().unwrap().len(),
            DIMENSIONS
        );
        assert_eq!(answer["object"], "list");
    }
}

#[tokio::test]
async fn its_errors_have_its_status() {
    let server = Server::new();
    let body = json!({"model": "other", "input": ["a"]}).to_string();
    let sentence = server
        .post("/infinity/embeddings", body.clone())
        .await
        .error(400);
    assert!(sentence.contains("not found"), "{sentence}");
    server.post("/embeddings", body).await.error(404);
}

#[tokio::test]
async fn what_waits_is_told() {
    let (server, mut gate) = Server::gated(ApiSettings::default(), limits());
    let ask = |text: &str| {
        let body = json!({"input": [text]}).to_string();
        tokio::spawn(server.clone().post_owned("/v1/embeddings", body))
    };
    // The first is in a forward pass, which is held, so that the second has to wait.
    let first = ask("the rain");
    gate.reached.recv().await.unwrap();
    let second = ask("a boat");
    let waiting = async {
        loop {
            let models = server.get("/infinity/models").await.json();
            let stats = models["data"][0]["stats"].clone();
            if stats["queue_absolute"] != 0 {
                return stats;
            }
            tokio::task::yield_now().await;
        }
    };
    let patience = Duration::from_secs(60);
    let stats = tokio::time::timeout(patience, waiting).await.unwrap();
    assert_eq!(stats["queue_absolute"], 1);
    let fraction = stats["queue_fraction"].as_f64().unwrap();
    assert!(fraction > 0.0 && fraction < 1.0, "{fraction}");
    drop(gate);
    for asked in [first, second] {
        assert_eq!(asked.await.unwrap().status, 200);
    }
}

#[tokio::test]
async fn its_models_and_health_are_under_its_root() {
    let server = Server::family();
    let models = server.get("/infinity/models").await.json();
    let found = models["data"].as_array().unwrap().iter();
    let found: Vec<_> = found.map(|m| (&m["id"], &m["capabilities"][0])).collect();
    let expected = [
        (&json!("fake"), &json!("embed")),
        (&json!("judge"), &json!("rerank")),
        (&json!("nli"), &json!("classify")),
        (&json!("m3"), &json!("embed")),
    ];
    assert_eq!(found, expected);
    assert_eq!(models["data"][0]["backend"], "onnx");
    let idle = json!({"queue_fraction": 0.0, "queue_absolute": 0});
    assert_eq!(models["data"][0]["stats"], idle);
    let health = server.get("/infinity/health").await.json();
    assert!(health["unix"].as_f64().unwrap() > 1e9);
    let loading = Server::loading(ApiSettings::default(), limits());
    assert_eq!(
        loading.get("/infinity/models").await.json()["data"],
        json!([])
    );
    loading.get("/infinity/health").await.error(503);
}
