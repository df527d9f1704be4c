//! `/v1/embeddings`: every form of every field.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::json;

use super::*;
use crate::api::TokenIds;

#[tokio::test]
async fn the_answer_has_every_key_that_a_client_reads() {
    let server = Server::new();
    let answer = server
        .embed(r#"{"model":"fake","input":["lorem","ipsum dolor"]}"#)
        .await;
    assert_eq!(answer["object"], "list");
    assert_eq!(answer["model"], "fake");
    assert_eq!(answer["model_replica"], "fake-0");
    assert!(answer["id"].as_str().unwrap().starts_with("embd-"));
    assert!(answer["created"].as_u64().unwrap() > 0);
    for (i, datum) in answer["data"].as_array().unwrap().iter().enumerate() {
        assert_eq!(datum["object"], "embedding");
        assert_eq!(datum["index"], i);
        assert_eq!(datum["embedding"].as_array().unwrap().len(), DIMENSIONS);
    }
    assert!(answer["usage"]["total_tokens"].as_u64().unwrap() > 0);
    assert_eq!(
        answer["usage"]["prompt_tokens"],
        answer["usage"]["total_tokens"]
    );
    assert!(answer["usage"].get("details").is_none());
}

#[tokio::test]
async fn every_form_of_input_means_the_same_texts() {
    let server = Server::new();
    let expected = vectors(&server.embed(r#"{"input":["hello","world"]}"#).await);
    for input in [
        json!(["hello", {"text": "world"}]),
        json!([{"text": "hello", "id": 3}, {"text": "world"}]),
        // The cl100k_base ids of the two words.
        json!([[15339], [14957]]),
        json!(["hello", [14957]]),
    ] {
        let body = json!({"model": "fake", "input": input}).to_string();
        assert_eq!(vectors(&server.embed(&body).await), expected, "{input}");
    }
    for one in [json!("hello"), json!({"text": "hello"}), json!([15339])] {
        let body = json!({"input": one}).to_string();
        assert_eq!(vectors(&server.embed(&body).await), expected[..1], "{one}");
    }
}

#[tokio::test]
async fn a_setting_makes_integers_the_models_own_ids() {
    let settings = ApiSettings {
        token_ids: TokenIds::Model,
        ..ApiSettings::default()
    };
    let answer = Server::with_settings(settings)
        .embed(r#"{"input":[[7,8,9],[10]]}"#)
        .await;
    assert_eq!(answer["data"].as_array().unwrap().len(), 2);
    assert_eq!(answer["usage"]["total_tokens"], 4);
}

#[tokio::test]
async fn an_empty_text_gives_a_vector_and_counts_its_special_tokens() {
    let answer = Server::new().embed(r#"{"input":["",""]}"#).await;
    assert_eq!(answer["usage"]["total_tokens"], 4);
    assert!(vectors(&answer).iter().flatten().all(|x| x.is_finite()));
}

#[tokio::test]
async fn base64_and_floats_are_the_same_numbers() {
    let server = Server::new();
    let floats = vectors(&server.embed(r#"{"input":["lorem","ipsum"]}"#).await);
    for field in ["encoding_format", "embedding_type"] {
        let body = json!({"input": ["lorem", "ipsum"], field: "base64"}).to_string();
        let answer = server.embed(&body).await;
        for (datum, expected) in answer["data"].as_array().unwrap().iter().zip(&floats) {
            let bytes = STANDARD
                .decode(datum["embedding"].as_str().unwrap())
                .unwrap();
            let decoded: Vec<f32> = bytes
                .chunks_exact(4)
                .map(|four| f32::from_le_bytes(four.try_into().unwrap()))
                .collect();
            assert_eq!(&decoded, expected);
        }
    }
}

#[tokio::test]
async fn bits_are_the_signs_of_the_floats() {
    let server = Server::new();
    let floats = vectors(&server.embed(r#"{"input":"lorem ipsum"}"#).await);
    let byte = floats[0]
        .iter()
        .fold(0_i64, |byte, x| byte * 2 + i64::from(*x > 0.0));
    let bits = server
        .embed(r#"{"input":"lorem ipsum","embedding_type":"ubinary"}"#)
        .await;
    assert_eq!(bits["data"][0]["embedding"], json!([byte]));
    let bits = server
        .embed(r#"{"input":"lorem ipsum","embedding_type":"binary"}"#)
        .await;
    assert_eq!(bits["data"][0]["embedding"], json!([byte - 128]));
}

#[tokio::test]
async fn fewer_dimensions_are_cut_and_then_normalised() {
    let server = Server::new();
    let whole = vectors(&server.embed(r#"{"input":"lorem","normalize":false}"#).await);
    let cut = vectors(&server.embed(r#"{"input":"lorem","dimensions":3}"#).await);
    let norm = whole[0][..3].iter().map(|x| x * x).sum::<f32>().sqrt();
    assert_eq!(cut[0].len(), 3);
    for (cut, whole) in cut[0].iter().zip(&whole[0]) {
        assert!((cut - whole / norm).abs() < 1e-6, "{cut} {whole}");
    }
    // Infinity's clients send 0 when they want all of them.
    let all = vectors(&server.embed(r#"{"input":"lorem","dimensions":0}"#).await);
    assert_eq!(all[0].len(), DIMENSIONS);
}

#[tokio::test]
async fn each_name_of_normalisation_is_heard() {
    let server = Server::new();
    let length = |answer: &Value| vectors(answer)[0].iter().map(|x| x * x).sum::<f32>().sqrt();
    for name in ["normalize_embeddings", "normalize", "normalized"] {
        let raw = server
            .embed(&json!({"input": "lorem", name: false}).to_string())
            .await;
        assert!((length(&raw) - 1.0).abs() > 0.1, "{name}");
        let unit = server
            .embed(&json!({"input": "lorem", name: true}).to_string())
            .await;
        assert!((length(&unit) - 1.0).abs() < 1e-6, "{name}");
    }
}

#[tokio::test]
async fn what_was_cut_is_told_per_input_and_in_a_header() {
    let server = Server::new();
    let long = "lorem ".repeat(40);
    let body = json!({"input": ["lorem", long]}).to_string();
    let answer = server.post("/v1/embeddings", body.clone()).await;
    let usage = &answer.json()["usage"];
    assert_eq!(usage["details"][0]["tokens_cut"], 0);
    assert_eq!(usage["details"][1]["index"], 1);
    assert_eq!(usage["details"][1]["tokens"], MAX_TOKENS);
    let cut = usage["details"][1]["tokens_cut"].as_u64().unwrap();
    assert!(cut > 0);
    assert_eq!(
        answer.header("x-retort-truncated"),
        format!("1; tokens_cut={cut}")
    );
    assert!(
        server
            .metrics()
            .contains(r#"retort_truncated_inputs_total{model="fake"} 1"#)
    );
}

#[tokio::test]
async fn the_account_of_inputs_comes_when_asked_for() {
    let server = Server::new();
    let answer = server
        .embed(r#"{"input":["lorem",""],"usage_details":true}"#)
        .await;
    assert_eq!(
        answer["usage"]["details"][1],
        json!({"index": 1, "tokens": 2, "tokens_cut": 0, "chunks": 1})
    );
    let request = Request::post("/v1/embeddings").header("x-retort-details", "1");
    let answer = server
        .send(request.body(Body::from(r#"{"input":"a"}"#)).unwrap())
        .await;
    assert_eq!(
        answer.json()["usage"]["details"].as_array().unwrap().len(),
        1
    );
    assert_eq!(answer.header("x-retort-truncated"), "");
}

#[tokio::test]
async fn truncation_follows_the_request() {
    let server = Server::new();
    let long = "lorem ipsum dolor ".repeat(20);
    let tokens = |body: Value| {
        let server = &server;
        async move {
            server.embed(&body.to_string()).await["usage"]["total_tokens"]
                .as_u64()
                .unwrap()
        }
    };
    assert_eq!(tokens(json!({"input": long})).await, MAX_TOKENS as u64);
    assert_eq!(
        tokens(json!({"input": long, "truncate_prompt_tokens": 5})).await,
        5
    );
    assert_eq!(
        tokens(json!({"input": long, "truncate_prompt_tokens": -1})).await,
        16
    );
    assert_eq!(tokens(json!({"input": long, "truncate": true})).await, 16);
    let ends = vectors(
        &server
            .embed(&json!({"input": long, "truncate": "END"}).to_string())
            .await,
    );
    let body = json!({"input": long, "truncate": "start"}).to_string();
    assert_ne!(vectors(&server.embed(&body).await), ends);
    for refuse in [json!(false), json!("NONE")] {
        let body = json!({"input": ["a", long], "truncate": refuse}).to_string();
        let answer = server.post("/v1/embeddings", body).await;
        let detail = answer.error(400);
        assert!(detail.contains("input 1"), "{detail}");
        assert_eq!(answer.json()["error"]["code"], "context_length_exceeded");
    }
}

#[tokio::test]
async fn null_is_not_given_and_what_is_not_known_is_ignored() {
    let server = Server::new();
    let expected = vectors(&server.embed(r#"{"input":"lorem"}"#).await);
    let nulls = json!({
        "input": "lorem", "model": null, "encoding_format": null, "embedding_type": null,
        "dimensions": null, "truncate_prompt_tokens": null, "truncate": null,
        "normalize_embeddings": null, "normalize": null, "normalized": null,
        "return_sparse": null, "modality": null, "usage_details": null, "user": null,
        "output_types": null, "task": null, "prompt_name": null, "prompt": null,
        "instruction": null, "input_type": null, "late_chunking": null, "chunk": null,
    });
    let extras = json!({
        "input": "lorem", "model": "", "user": "u", "task": "retrieval.query",
        "prompt_name": "", "prompt": "", "instruction": "", "late_chunking": false,
        "input_type": "image", "output_types": [], "chunk": false,
        "modality": "text", "priority": 1, "request_id": "r",
        "add_special_tokens": true, "batch_size": 8, "return_sparse": false,
        "chat_template_kwargs": {"a": [1, {"b": null}]},
    });
    for body in [nulls, extras] {
        assert_eq!(
            vectors(&server.embed(&body.to_string()).await),
            expected,
            "{body}"
        );
    }
}

#[tokio::test]
async fn the_model_goes_by_many_names_and_the_answer_repeats_the_one_used() {
    let server = Server::new();
    for name in ["fake", "org/fake", "fake:latest"] {
        let answer = server
            .embed(&json!({"model": name, "input": "a"}).to_string())
            .await;
        assert_eq!(answer["model"], name);
    }
    for unnamed in [
        json!({"input": "a"}),
        json!({"model": "default/not-specified", "input": "a"}),
    ] {
        assert_eq!(server.embed(&unnamed.to_string()).await["model"], "fake");
    }
}

#[tokio::test]
async fn the_headers_tell_where_the_time_went() {
    let answer = Server::new()
        .post("/v1/embeddings", r#"{"input":"lorem"}"#)
        .await;
    for name in [
        "x-total-time",
        "x-tokenization-time",
        "x-queue-time",
        "x-inference-time",
    ] {
        assert!(answer.header(name).parse::<u64>().is_ok(), "{name}");
    }
}

#[tokio::test]
async fn big_bodies_and_big_answers_are_the_same_as_small_ones() {
    let server = Server::new();
    let expected = vectors(&server.embed(r#"{"input":"lorem"}"#).await);
    let texts = vec![json!({"text": "lorem", "ignored": "x".repeat(200)}); 2048];
    let answer = server.embed(&json!({"input": texts}).to_string()).await;
    let got = vectors(&answer);
    assert_eq!(got.len(), 2048);
    assert!(got.iter().all(|vector| *vector == expected[0]));
}
