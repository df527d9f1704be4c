//! What vLLM's pooling server has to itself.

use serde_json::json;

use super::*;

#[tokio::test]
async fn pooling_gives_what_a_model_is_for() {
    let server = Server::family();
    let ours = vectors(&server.embed(r#"{"input":"the river"}"#).await);
    let body = json!({"model": "fake", "input": "the river"});
    let pooled = server.ok("/pooling", &body).await;
    assert_eq!(pooled["data"][0]["object"], "pooling");
    assert_eq!(pooled["model"], "fake");
    assert_eq!(pooled["usage"]["completion_tokens"], 0);
    let vector: Vec<f32> = serde_json::from_value(pooled["data"][0]["data"].clone()).unwrap();
    assert_eq!(vector, ours[0]);
    let body = json!({"model": "nli", "input": ["a", "a"]});
    let labels = server.ok("/pooling", &body).await;
    let of = |index: usize| -> Vec<f32> {
        serde_json::from_value(labels["data"][index]["data"].clone()).unwrap()
    };
    assert!((of(0).iter().sum::<f32>() - 1.0).abs() < 1e-6);
    assert_eq!(of(0), of(1));
    let body = json!({"model": "m3", "input": "the river", "task": "token_embed"});
    let rows = server.ok("/pooling", &body).await;
    assert_eq!(rows["data"][0]["data"][0].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn errors_have_vllms_shape() {
    let server = Server::family();
    for (body, status, kind) in [
        ("not JSON", 400, "BadRequestError"),
        (r#"{"input":[]}"#, 400, "BadRequestError"),
        (r#"{"input":"a","model":"other"}"#, 404, "NotFoundError"),
        (r#"{"input":[[5]],"model":"nli"}"#, 400, "BadRequestError"),
        (
            r#"{"input":"a","task":"token_classify"}"#,
            400,
            "BadRequestError",
        ),
    ] {
        let answer = server.post("/pooling", body.to_owned()).await;
        assert_eq!(answer.status, status, "{body}: {}", answer.text());
        let error = &answer.json()["error"];
        assert_eq!(
            (&error["type"], &error["code"]),
            (&json!(kind), &json!(status))
        );
        assert!(!error["message"].as_str().unwrap().is_empty());
    }
}

#[tokio::test]
async fn tokens_are_counted_and_put_together_again() {
    let server = Server::family();
    let text = "the river and the boat";
    let body = json!({"prompt": text, "return_token_strs": true});
    let told = server.ok("/tokenize", &body).await;
    let tokens = told["tokens"].as_array().unwrap();
    assert_eq!(told["count"], tokens.len());
    assert_eq!(told["max_model_len"], MAX_TOKENS);
    assert_eq!(told["token_strs"][0], "[CLS]");
    let usage = server.embed(&json!({"input": text}).to_string()).await;
    assert_eq!(usage["usage"]["prompt_tokens"], tokens.len());
    let bare = json!({"prompt": text, "add_special_tokens": false});
    let bare = server.ok("/v1/tokenize", &bare).await;
    assert_eq!(bare["token_strs"], json!(null));
    let back = server
        .ok("/detokenize", &json!({"tokens": bare["tokens"]}))
        .await;
    for key in ["prompt", "content", "text"] {
        assert_eq!(back[key], text);
    }
    assert_eq!(
        server.ok("/detokenize", &json!({"tokens": []})).await["text"],
        ""
    );
    let too_much = "a".repeat((4 << 20) + 1);
    let answer = server
        .post("/tokenize", json!({"prompt": too_much}).to_string())
        .await;
    let message = answer.json()["error"]["message"].to_string();
    assert!(message.contains("4194304"), "{message}");
}

#[tokio::test]
async fn load_counts_requests_that_are_inside() {
    let (server, mut gate) = Server::gated(ApiSettings::default(), limits());
    assert_eq!(server.get("/load").await.json(), json!({"server_load": 0}));
    let body = r#"{"input":"a"}"#.to_owned();
    let waiting = tokio::spawn(server.clone().post_owned("/v1/embeddings", body));
    gate.reached.recv().await.unwrap();
    assert_eq!(server.get("/load").await.json(), json!({"server_load": 1}));
    let slots = server.get("/slots").await.json();
    assert_eq!(slots[0]["is_processing"], true);
    let none_free = server.get("/slots?fail_on_no_slot=1").await;
    assert_eq!(none_free.status, 503);
    assert_eq!(none_free.json()["error"]["type"], "unavailable_error");
    drop(gate);
    assert_eq!(waiting.await.unwrap().status, 200);
    assert_eq!(server.get("/load").await.json(), json!({"server_load": 0}));
    assert_eq!(server.get("/slots?fail_on_no_slot=1").await.status, 200);
}

#[tokio::test]
async fn ping_takes_either_method() {
    let server = Server::new();
    assert_eq!(server.get("/ping").await.status, 200);
    assert_eq!(server.post("/ping", "").await.status, 200);
}
