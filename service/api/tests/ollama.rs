//! Ollama's routes, as its clients call them.

use serde_json::json;

use super::*;
use crate::keep_alive::KeepAlive;

/// Checks an error in Ollama's shape and returns its sentence.
fn error(answer: &Answer, status: u16) -> String {
    assert_eq!(answer.status, status, "{}", answer.text());
    let body = answer.json();
    assert_eq!(body.as_object().unwrap().len(), 1, "{body}");
    body["error"].as_str().expect("a string").to_owned()
}

#[tokio::test]
async fn the_vectors_are_those_of_the_other_routes() {
    let server = Server::new();
    let texts = json!(["the rain", "", "a boat"]);
    let answer = server
        .ok("/api/embed", &json!({"model": "fake", "input": texts}))
        .await;
    let expected = server.ok("/v1/embeddings", &json!({"input": texts})).await;
    for row in 0..3 {
        assert_eq!(
            answer["embeddings"][row],
            expected["data"][row]["embedding"]
        );
    }
    assert_eq!(answer["model"], "fake");
    assert_eq!(
        answer["prompt_eval_count"],
        expected["usage"]["prompt_tokens"]
    );
    assert!(answer["total_duration"].as_u64().unwrap() > 0);
    assert_eq!(answer["load_duration"], 0);
    let old = json!({"model": "fake", "prompt": "a boat"});
    let old = server.ok("/api/embeddings", &old).await;
    assert_eq!(old, json!({"embedding": answer["embeddings"][2]}));
    let one = server.ok("/api/embed", &json!({"input": "a boat"})).await;
    assert_eq!(one["embeddings"], json!([answer["embeddings"][2]]));
}

#[tokio::test]
async fn a_name_may_have_a_tag() {
    let server = Server::new();
    for name in ["fake", "fake:latest", "org/fake", "org/fake:latest"] {
        let body = json!({"model": name, "input": "a"});
        assert_eq!(server.ok("/api/embed", &body).await["model"], name);
        let show = server.ok("/api/show", &json!({"model": name})).await;
        assert_eq!(show["capabilities"], json!(["embedding"]));
    }
    for (path, more) in [
        ("/api/embed", json!({"input": "a"})),
        ("/api/embed", json!({"input": ""})),
        ("/api/embeddings", json!({"prompt": "a"})),
        ("/api/show", json!({})),
        ("/api/pull", json!({})),
        ("/api/rerank", json!({"query": "a", "documents": ["a"]})),
    ] {
        let mut body = more;
        body["model"] = "fake:other".into();
        let answer = server.post(path, body.to_string()).await;
        let sentence = error(&answer, 404);
        assert!(
            sentence.starts_with("model 'fake:other' not found"),
            "{sentence}"
        );
    }
}

#[tokio::test]
async fn nothing_to_embed_gives_no_vectors() {
    let server = Server::new();
    for input in [json!(""), json!([]), json!(null)] {
        let answer = server
            .ok("/api/embed", &json!({"model": "fake", "input": input}))
            .await;
        assert_eq!(answer["embeddings"], json!([]), "{input}");
    }
    let answer = server.ok("/api/embed", &json!({"model": "fake"})).await;
    assert_eq!(answer["prompt_eval_count"], 0);
    for body in [
        json!({"model": "fake"}),
        json!({"model": "fake", "prompt": ""}),
    ] {
        assert_eq!(
            server.ok("/api/embeddings", &body).await,
            json!({"embedding": []})
        );
    }
    for input in [json!(5), json!({}), json!(["a", 1]), json!(true)] {
        let body = json!({"model": "fake", "input": input}).to_string();
        let sentence = error(&server.post("/api/embed", body).await, 400);
        assert!(sentence.contains("invalid input type"), "{sentence}");
    }
}

#[tokio::test]
async fn options_are_honoured_or_ignored() {
    let server = Server::new();
    let long = "the rain and the river ".repeat(8);
    let body = json!({
        "input": long, "options": {"num_ctx": 4096, "temperature": 0}, "truncate": true,
        "dimensions": 4,
    });
    let answer = server.ok("/api/embed", &body).await;
    assert_eq!(answer["embeddings"][0].as_array().unwrap().len(), 4);
    assert_eq!(answer["prompt_eval_count"], MAX_TOKENS);
    let body = json!({"input": long, "truncate": false}).to_string();
    let sentence = error(&server.post("/api/embed", body).await, 400);
    assert!(
        sentence.starts_with("the input length exceeds the context length"),
        "{sentence}"
    );
    assert_eq!(
        server
            .ok("/api/embed", &json!({"input": "a", "dimensions": 0}))
            .await["embeddings"][0]
            .as_array()
            .unwrap()
            .len(),
        DIMENSIONS
    );
}

#[tokio::test]
async fn keep_alive_is_understood() {
    let server = Server::new();
    let body = json!({"model": "fake", "input": "a", "keep_alive": "5m"});
    server.ok("/api/embed", &body).await;
    let kept = server.fleet.model("fake").unwrap().keep_alive;
    assert_eq!(kept, KeepAlive::For(Duration::from_secs(300)));
    for (path, field) in [("/api/embed", "input"), ("/api/embeddings", "prompt")] {
        for keep in [
            json!(0),
            json!(-1),
            json!(300),
            json!("5m"),
            json!("1h30m"),
            json!(null),
        ] {
            let body = json!({"model": "fake", field: "a", "keep_alive": keep});
            server.ok(path, &body).await;
        }
        for wrong in [json!("soon"), json!([]), json!("5 minutes")] {
            let body = json!({"model": "fake", field: "a", "keep_alive": wrong}).to_string();
            let sentence = error(&server.post(path, body).await, 400);
            assert!(sentence.contains("`keep_alive`"), "{sentence}");
        }
    }
}

#[tokio::test]
async fn models_are_described() {
    let server = Server::family();
    let tags = server.get("/api/tags").await.json();
    let names: Vec<_> = tags["models"]
        .as_array()
        .unwrap()
        .iter()
        .map(|m| &m["name"])
        .collect();
    assert_eq!(
        names,
        ["fake:latest", "judge:latest", "nli:latest", "m3:latest"]
    );
    let first = &tags["models"][0];
    assert_eq!(first["model"], "fake:latest");
    assert_eq!(first["details"]["family"], "bert");
    assert_eq!(first["details"]["quantization_level"], "F32");
    assert_eq!(first["digest"].as_str().unwrap().len(), 64);
    assert!(first["modified_at"].as_str().unwrap().starts_with("20"));
    let ps = server.get("/api/ps").await.json();
    assert_eq!(ps["models"][0]["name"], "fake:latest");
    assert_eq!(ps["models"][0]["context_length"], MAX_TOKENS);
    assert_eq!(ps["models"][0]["size_vram"], 0);
    let until = ps["models"][0]["expires_at"].as_str().unwrap();
    assert!(until.starts_with("21"), "{until}");
    let show = server
        .ok("/api/show", &json!({"name": "judge", "verbose": true}))
        .await;
    assert_eq!(show["capabilities"], json!(["rerank"]));
    assert_eq!(show["model_info"]["bert.context_length"], 40);
    assert_eq!(show["model_info"].get("bert.embedding_length"), None);
    let sentence = error(&server.post("/api/show", "{}").await, 400);
    assert!(sentence.contains("`model` is missing"), "{sentence}");
    let version = server.get("/api/version").await.json();
    assert_eq!(version["version"], "0.5.1");
    assert_eq!(version["retort"], env!("CARGO_PKG_VERSION"));
}

#[tokio::test]
async fn pulling_what_is_served_succeeds_at_once() {
    let server = Server::new();
    let whole = server
        .ok("/api/pull", &json!({"model": "fake", "stream": false}))
        .await;
    assert_eq!(whole, json!({"status": "success"}));
    let lines = server.post("/api/pull", r#"{"name":"fake:latest"}"#).await;
    assert_eq!(lines.header("content-type"), "application/x-ndjson");
    assert_eq!(lines.text(), "{\"status\":\"success\"}\n");
}

#[tokio::test]
async fn a_model_that_loads_is_not_there_yet() {
    let server = Server::loading(ApiSettings::default(), limits());
    assert_eq!(server.get("/api/tags").await.json(), json!({"models": []}));
    assert_eq!(server.get("/api/ps").await.json(), json!({"models": []}));
    for (path, body) in [
        ("/api/show", r#"{"model":"fake"}"#),
        ("/api/embed", r#"{"model":"fake","input":"a"}"#),
        ("/api/embed", r#"{"model":"fake"}"#),
    ] {
        let sentence = error(&server.post(path, body).await, 503);
        assert!(sentence.contains("still loading"), "{sentence}");
    }
}

#[tokio::test]
async fn a_model_that_gives_no_vectors_says_so() {
    let server = Server::family();
    for body in [
        json!({"model": "judge", "input": "a"}),
        json!({"model": "judge"}),
    ] {
        let sentence = error(&server.post("/api/embed", body.to_string()).await, 400);
        assert!(sentence.contains("cannot embed"), "{sentence}");
    }
}

#[tokio::test]
async fn those_who_look_for_ollama_at_the_root_find_it() {
    let server = Server::new();
    assert!(server.get("/").await.text().contains("Ollama is running"));
    let head = Request::head("/").body(Body::empty()).unwrap();
    assert_eq!(server.send(head).await.status, 200);
}
