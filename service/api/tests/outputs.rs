//! `/v1/embeddings` beyond OpenAI: other outputs, prompts, chunks, lengths.

use serde_json::json;

use super::*;

#[tokio::test]
async fn sparse_weights_are_xinferences_map() {
    let server = Server::family();
    let sent = json!({"model": "m3", "input": ["the rain", ""], "return_sparse": true});
    let answer = server.ok("/v1/embeddings", &sent).await;
    let datum = &answer["data"][0];
    assert_eq!(datum["object"], "sparse_embedding");
    let weights = datum["embedding"].as_object().unwrap();
    assert!(!weights.is_empty());
    assert!(
        weights
            .iter()
            .all(|(id, weight)| id.parse::<u32>().is_ok() && *weight == 0.25)
    );
    assert_eq!(answer["data"][1]["embedding"], json!({}));
    let detail = server
        .post(
            "/v1/embeddings",
            r#"{"model":"fake","input":"a","return_sparse":true}"#,
        )
        .await
        .error(400);
    assert!(detail.contains("cannot give sparse vectors"), "{detail}");
}

#[tokio::test]
async fn all_outputs_come_from_one_pass() {
    let server = Server::family();
    let types = ["dense", "sparse", "colbert"];
    let sent = json!({"model": "m3", "input": "the rain", "output_types": types});
    let passes = || {
        let text = server.metrics();
        let line = text
            .lines()
            .find(|l| l.starts_with("retort_batch_tokens_count{model=\"m3\"}"));
        line.map_or(0, |line| {
            line.rsplit(' ').next().unwrap().parse::<u32>().unwrap()
        })
    };
    let before = passes();
    let answer = server.ok("/v1/embeddings", &sent).await;
    assert_eq!(passes(), before + 1);
    let datum = &answer["data"][0];
    assert_eq!(datum["object"], "embedding");
    assert_eq!(datum["embedding"].as_array().unwrap().len(), DIMENSIONS);
    assert!(datum["sparse_embedding"].is_object());
    let rows = datum["multi_vector_embedding"].as_array().unwrap();
    assert_eq!(json!(rows.len()), answer["usage"]["total_tokens"]);
    let only = json!({"model": "m3", "input": "the rain", "output_types": ["colbert"]});
    let only = server.ok("/v1/embeddings", &only).await;
    assert!(only["data"][0].get("embedding").is_none());
    assert_eq!(only["data"][0]["multi_vector_embedding"], json!(rows));
}

#[tokio::test]
async fn prompts_go_before_texts() {
    let server = Server::new();
    let vector = async |body: Value| server.ok("/v1/embeddings", &body).await["data"].clone();
    let prompted = vector(json!({"input": "the rain"})).await;
    for asked in [
        json!({"input": "rain", "prompt_name": "query"}),
        json!({"input": "rain", "prompt": "the "}),
        json!({"input": "rain", "instruction": "the "}),
        json!({"input": "rain", "input_type": "search_query"}),
    ] {
        assert_eq!(vector(asked.clone()).await, prompted, "{asked}");
    }
    assert_ne!(vector(json!({"input": "rain"})).await, prompted);
    let wrong = json!({"input": "rain", "prompt_name": "poem"}).to_string();
    let detail = server.post("/v1/embeddings", wrong).await.error(400);
    assert!(
        detail.contains("`query`") && detail.contains("`passage`"),
        "{detail}"
    );
}

#[tokio::test]
async fn a_long_text_is_read_in_chunks_when_asked() {
    let server = Server::new();
    let long = "the rain and the river ".repeat(6);
    for pooling in ["mean", "max", "late"] {
        let sent = json!({"input": [long, "rain"], "chunk": pooling});
        let answer = server.ok("/v1/embeddings", &sent).await;
        let details = &answer["usage"]["details"];
        assert!(details[0]["chunks"].as_u64().unwrap() > 1, "{pooling}");
        assert_eq!(
            (&details[0]["tokens_cut"], &details[1]["chunks"]),
            (&json!(0), &json!(1))
        );
        let norm: f32 = vectors(&answer)[0].iter().map(|x| x * x).sum();
        assert!((norm - 1.0).abs() < 1e-5);
        let alone = server.ok("/v1/embeddings", &json!({"input": "rain"})).await;
        assert_eq!(vectors(&answer)[1], vectors(&alone)[0]);
    }
    let wrong = json!({"input": long, "chunk": {"overlap": 99}}).to_string();
    let detail = server.post("/v1/embeddings", wrong).await.error(400);
    assert!(detail.contains("overlap"), "{detail}");
}

#[tokio::test]
async fn late_chunking_gives_each_text_its_vector_in_context() {
    let server = Server::new();
    let texts = ["the rain", "the boat"];
    let apart = vectors(&server.ok("/v1/embeddings", &json!({"input": texts})).await);
    let sent = json!({"input": texts, "late_chunking": true, "usage_details": true});
    let answer = server.ok("/v1/embeddings", &sent).await;
    let joined = vectors(&answer);
    assert_eq!(joined.len(), 2);
    assert_ne!(joined, apart);
    let details = answer["usage"]["details"].as_array().unwrap();
    let sum: u64 = details.iter().map(|d| d["tokens"].as_u64().unwrap()).sum();
    assert_eq!(json!(sum), answer["usage"]["total_tokens"]);
    for wrong in [
        json!({"input": [[15339], [14957]], "late_chunking": true}),
        json!({"input": texts, "late_chunking": true, "chunk": true}),
        json!({"input": ["rain ".repeat(30), "boat"], "late_chunking": true}),
    ] {
        server
            .post("/v1/embeddings", wrong.to_string())
            .await
            .error(400);
    }
}

#[tokio::test]
async fn only_trained_lengths_are_given_unless_the_operator_allows_others() {
    let server = Server::new();
    let length = async |server: &Server, dimensions: usize| {
        let sent = json!({"input": "rain", "dimensions": dimensions}).to_string();
        let answer = server.post("/v1/embeddings", sent).await;
        match answer.status.as_u16() {
            200 => Ok(vectors(&answer.json())[0].len()),
            _ => Err(answer.error(400)),
        }
    };
    for trained in [2, 3, 4, DIMENSIONS] {
        assert_eq!(length(&server, trained).await, Ok(trained));
    }
    let detail = length(&server, 5).await.unwrap_err();
    assert!(
        detail.contains("8, and 4, 3, 2") && detail.contains("allow_untrained"),
        "{detail}"
    );
    let generous = EngineLimits {
        untrained_dimensions: UntrainedDimensions::Allowed,
        ..limits()
    };
    let server = Server::with(ApiSettings::default(), generous);
    assert_eq!(length(&server, 5).await, Ok(5));
    assert!(length(&server, 9).await.is_err());
}

#[tokio::test]
async fn a_record_tells_what_a_model_gives() {
    let server = Server::family();
    let record = server.get("/v1/models/m3").await.json();
    assert_eq!(record["heads"], json!(["dense", "sparse", "multi-vector"]));
    assert_eq!(record["tasks"], json!(["embed", "rerank"]));
    let judge = server.get("/v1/models/judge").await.json();
    for (key, value) in [
        ("model_type", json!("rerank")),
        ("type", json!("normal")),
        ("model_ability", json!(["rerank"])),
        ("labels", json!(["yes"])),
        ("score_meaning", json!("sigmoid of the logit")),
    ] {
        assert_eq!(judge[key], value, "{key}");
    }
    let nli = server.get("/v1/models/nli").await.json();
    assert_eq!(
        (&nli["score_meaning"], &nli["tasks"]),
        (&json!(null), &json!(["classify"]))
    );
}
