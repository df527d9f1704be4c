//! What Jina's and `LocalAI`'s clients send to the shared routes, and what they read.

use serde_json::json;

use super::*;

#[tokio::test]
async fn jinas_fields_mean_what_they_mean_there() {
    let server = Server::new();
    let body = json!({"model": "fake", "input": [{"text": "the rain"}, {"text": "a boat"}],
        "task": "retrieval.passage", "truncate": true, "late_chunking": false});
    let objects = server.ok("/v1/embeddings", &body).await;
    let plain = json!({"model": "fake", "input": ["the rain", "a boat"]});
    let plain = server.ok("/v1/embeddings", &plain).await;
    assert_eq!(objects["data"], plain["data"]);
    assert!(objects["usage"]["total_tokens"].as_u64().unwrap() > 0);

    let mut raw = body.clone();
    raw["normalized"] = false.into();
    let raw = vectors(&server.ok("/v1/embeddings", &raw).await);
    let norm: f32 = raw[0].iter().map(|x| x * x).sum();
    assert!((norm - 1.0).abs() > 0.1, "{norm}");

    let mut bits = body.clone();
    bits["embedding_type"] = "ubinary".into();
    let bits = server.ok("/v1/embeddings", &bits).await;
    let byte = bits["data"][0]["embedding"][0].as_u64().unwrap();
    for (place, x) in vectors(&plain)[0].iter().enumerate() {
        assert_eq!(byte >> (7 - place) & 1 == 1, *x > 0.0);
    }

    let mut late = body;
    late["late_chunking"] = true.into();
    let late = server.ok("/v1/embeddings", &late).await;
    assert_eq!(late["data"].as_array().unwrap().len(), 2);
    assert_ne!(late["data"][1]["embedding"], plain["data"][1]["embedding"]);
}

#[tokio::test]
async fn jinas_rerank_takes_objects() {
    let server = Server::family();
    let body = json!({"model": "judge", "query": {"text": "the river"}, "top_n": 1,
        "documents": [{"text": "the rain"}, {"text": "the river"}], "return_documents": true});
    let answer = server.ok("/v1/rerank", &body).await;
    assert_eq!(answer["results"].as_array().unwrap().len(), 1);
    assert_eq!(answer["results"][0]["document"]["text"], "the river");
    assert!(answer["usage"]["total_tokens"].as_u64().unwrap() > 0);
    assert_eq!(answer["model"], "judge");
}

#[tokio::test]
async fn errors_are_told_apart_by_status_and_read_from_detail() {
    let keys = crate::api::ApiKeys::new(["right"]);
    let server = Server::with_settings(ApiSettings {
        keys,
        ..ApiSettings::default()
    });
    let detail = |answer: &Answer| answer.json()["detail"].as_str().unwrap().to_owned();
    let body = r#"{"model":"fake","input":["a"]}"#;
    let refused = server.post("/v1/embeddings", body).await;
    assert_eq!(refused.status, 401);
    assert!(detail(&refused).contains("credentials"));
    for (body, status) in [
        (r#"{"model":"other","input":["a"]}"#, 404),
        (r#"{"model":"fake","input":[{"image":"x"}]}"#, 400),
        (
            r#"{"model":"fake","input":["a"],"embedding_type":"int4"}"#,
            400,
        ),
    ] {
        let request = Request::post("/v1/embeddings").header("authorization", "Bearer right");
        let answer = server.send(request.body(Body::from(body)).unwrap()).await;
        assert_eq!(answer.status, status, "{body}");
        assert!(!detail(&answer).is_empty());
    }
}

#[tokio::test]
async fn localais_routes_answer_with_and_without_a_version() {
    let server = Server::family();
    let embeddings = json!({"model": "fake", "input": "a boat"});
    let rerank = json!({"model": "judge", "query": "a", "documents": ["a", "b"], "top_n": 1});
    for root in ["", "/v1", "/v1/v1"] {
        let answer = server.ok(&format!("{root}/embeddings"), &embeddings).await;
        assert_eq!(answer["object"], "list");
        let answer = server.ok(&format!("{root}/rerank"), &rerank).await;
        assert_eq!(answer["results"][0].get("document"), None);
        assert_eq!(server.get(&format!("{root}/models")).await.status, 200);
    }
    for probe in ["/healthz", "/readyz"] {
        assert_eq!(server.get(probe).await.status, 200);
    }
}
