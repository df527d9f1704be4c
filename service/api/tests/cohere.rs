//! Cohere's routes: every type of vector, both versions, tokens.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde_json::json;

use super::*;

/// The vectors under a pointer of an answer.
fn rows(answer: &Value, pointer: &str) -> Vec<Vec<f64>> {
    let rows = answer.pointer(pointer).and_then(Value::as_array);
    let numbers = |row: &Value| {
        let numbers = row.as_array().expect("a list of numbers").iter();
        numbers.map(|x| x.as_f64().expect("a number")).collect()
    };
    rows.unwrap_or_else(|| panic!("no `{pointer}` in {answer}"))
        .iter()
        .map(numbers)
        .collect()
}

#[tokio::test]
async fn the_first_version_gives_plain_floats_unless_types_are_asked_for() {
    let server = Server::new();
    let texts = json!(["the rain", "a boat"]);
    let body = json!({"model": "fake", "texts": texts, "input_type": "other"});
    let plain = server.ok("/v1/embed", &body).await;
    assert_eq!(plain["response_type"], "embeddings_floats");
    assert_eq!(plain["texts"], texts);
    assert_eq!(plain["meta"]["api_version"]["version"], "1");
    assert!(
        plain["meta"]["billed_units"]["input_tokens"]
            .as_u64()
            .unwrap()
            > 0
    );
    assert!(plain["id"].is_string());
    let same = json!({"model": "fake", "input": texts});
    let expected = server.ok("/v1/embeddings", &same).await;
    assert_eq!(plain["embeddings"][1], expected["data"][1]["embedding"]);

    let mut typed = body;
    typed["embedding_types"] = json!(["float"]);
    let typed = server.ok("/v1/embed", &typed).await;
    assert_eq!(typed["response_type"], "embeddings_by_type");
    assert_eq!(typed["embeddings"], json!({"float": plain["embeddings"]}));
}

#[tokio::test]
async fn all_types_say_the_same() {
    let server = Server::new();
    let types = ["float", "int8", "uint8", "binary", "ubinary", "base64"];
    let body = json!({"model": "fake", "texts": ["the rain", "a boat"], "embedding_types": types});
    for path in ["/v1/embed", "/v2/embed"] {
        let answer = server.ok(path, &body).await;
        assert_eq!(answer["embeddings"].as_object().unwrap().len(), types.len());
        let floats = rows(&answer, "/embeddings/float");
        let int8 = rows(&answer, "/embeddings/int8");
        let uint8 = rows(&answer, "/embeddings/uint8");
        for (row, vector) in floats.iter().enumerate() {
            let bytes = answer["embeddings"]["base64"][row].as_str().unwrap();
            let bytes = BASE64_STANDARD.decode(bytes).unwrap();
            let decoded: Vec<f64> = bytes
                .as_chunks::<4>()
                .0
                .iter()
                .map(|b| f64::from(f32::from_le_bytes(*b)))
                .collect();
            for (a, b) in decoded.iter().zip(vector) {
                assert!((a - b).abs() < 1e-6);
            }
            let largest = vector.iter().fold(0.0_f64, |most, x| most.max(x.abs()));
            for (place, x) in vector.iter().enumerate() {
                assert!((int8[row][place] - x / largest * 127.0).abs() <= 0.5 + 1e-4);
                assert_eq!(int8[row][place] + 128.0, uint8[row][place]);
            }
            let bits = answer["embeddings"]["ubinary"][row][0].as_u64().unwrap();
            for (place, x) in vector.iter().enumerate() {
                assert_eq!(bits >> (7 - place) & 1 == 1, *x > 0.0);
            }
            let signed = answer["embeddings"]["binary"][row][0].as_i64().unwrap();
            assert_eq!(signed + 128, i64::try_from(bits).unwrap());
        }
    }
}

#[tokio::test]
async fn the_second_version_is_always_by_type() {
    let server = Server::new();
    let texts = json!({"texts": ["the rain", "a boat"]});
    let texts = server.ok("/v2/embed", &texts).await;
    assert_eq!(texts["response_type"], "embeddings_by_type");
    assert_eq!(texts["meta"]["api_version"]["version"], "2");
    let content = |text: &str| json!({"content": [{"type": "text", "text": text}]});
    let inputs = json!({"inputs": [content("the rain"), content("a boat")]});
    let inputs = server.ok("/v2/embed", &inputs).await;
    assert_eq!(inputs["embeddings"], texts["embeddings"]);
    let body = json!({"texts": ["the rain"], "output_dimension": 4});
    let short = rows(&server.ok("/v2/embed", &body).await, "/embeddings/float");
    let norm: f64 = short[0].iter().map(|x| x * x).sum();
    assert_eq!(short[0].len(), 4);
    assert!((norm - 1.0).abs() < 1e-5);
}

#[tokio::test]
async fn what_the_text_is_for_chooses_its_prompt() {
    let server = Server::new();
    let embedded = async |kind: &str| {
        let body = json!({"texts": ["rain"], "input_type": kind});
        server.ok("/v2/embed", &body).await["embeddings"].clone()
    };
    let prompted = async |text: &str| {
        let body = json!({"texts": [text]});
        server.ok("/v2/embed", &body).await["embeddings"].clone()
    };
    assert_eq!(embedded("search_query").await, prompted("the rain").await);
    assert_eq!(
        embedded("search_document").await,
        prompted("and rain").await
    );
    assert_eq!(embedded("clustering").await, prompted("rain").await);
}

#[tokio::test]
async fn long_texts_are_cut_at_either_end_or_refused() {
    let server = Server::new();
    let long = "the rain and the river ".repeat(8);
    let cut = async |truncate: Value| {
        let body = json!({"texts": [long], "truncate": truncate, "max_tokens": 8});
        server.post("/v1/embed", body.to_string()).await
    };
    let (end, start) = (cut(json!("END")).await, cut(json!("START")).await);
    assert_eq!((end.status.as_u16(), start.status.as_u16()), (200, 200));
    assert_ne!(end.json()["embeddings"], start.json()["embeddings"]);
    assert_eq!(
        cut(json!(null)).await.json()["embeddings"],
        end.json()["embeddings"]
    );
    let refusal = cut(json!("NONE")).await.error(400);
    assert!(refusal.contains("limit of 8"), "{refusal}");
    assert!(end.header("x-retort-truncated").starts_with('1'));
}

#[tokio::test]
async fn what_is_wrong_is_told() {
    let server = Server::family();
    for (path, body, status, expected) in [
        ("/v1/embed", json!({}), 400, "`texts` is missing"),
        (
            "/v2/embed",
            json!({"texts": []}),
            400,
            "`texts` is missing or empty",
        ),
        (
            "/v2/embed",
            json!({"texts": ["a"], "inputs": ["a"]}),
            400,
            "one of them",
        ),
        ("/v2/embed", json!({"images": ["data:"]}), 400, "`images`"),
        ("/v1/embed", json!({"texts": "a"}), 400, "a list of texts"),
        (
            "/v1/embed",
            json!({"texts": ["a"], "embedding_types": ["int4"]}),
            400,
            "`int4`",
        ),
        (
            "/v1/embed",
            json!({"texts": ["a"], "truncate": "MIDDLE"}),
            400,
            "MIDDLE",
        ),
        (
            "/v1/embed",
            json!({"texts": ["a"], "output_dimension": 5}),
            400,
            "dimensions",
        ),
        (
            "/v1/embed",
            json!({"texts": ["a"], "output_dimension": -1}),
            400,
            "at least 1",
        ),
        (
            "/v1/embed",
            json!({"texts": ["a"], "model": "none"}),
            404,
            "not found",
        ),
        (
            "/v1/embed",
            json!({"texts": ["a"], "model": "judge"}),
            400,
            "cannot embed",
        ),
        ("/v1/tokenize", json!({}), 400, "none of: `inputs`"),
        ("/tokenize", json!({"text": 5}), 400, "`text`"),
        (
            "/v1/tokenize",
            json!({"text": "a", "model": "none"}),
            404,
            "not found",
        ),
        ("/v1/detokenize", json!({}), 400, "`tokens` is missing"),
        (
            "/v1/detokenize",
            json!({"tokens": [4_000_000]}),
            400,
            "4000000",
        ),
        (
            "/v1/detokenize",
            json!({"tokens": [-1]}),
            400,
            "`tokens[0]`",
        ),
        (
            "/v2/rerank",
            json!({"query": "a", "documents": []}),
            400,
            "empty list",
        ),
    ] {
        let message = server.post(path, body.to_string()).await.error(status);
        assert!(message.contains(expected), "{path} {body}: {message}");
    }
}

#[tokio::test]
async fn tokens_go_there_and_back() {
    let server = Server::new();
    let body = json!({"model": "fake", "text": "the river and the boat"});
    let answer = server.ok("/v1/tokenize", &body).await;
    assert_eq!(server.ok("/tokenize", &body).await, answer);
    let tokens = answer["tokens"].as_array().unwrap();
    assert_eq!(
        answer["token_strings"].as_array().unwrap().len(),
        tokens.len()
    );
    assert!(
        !answer["token_strings"].to_string().contains("CLS"),
        "{answer}"
    );
    assert!(answer["meta"].is_object());
    let back = json!({"model": "fake", "tokens": tokens});
    for path in ["/v1/detokenize", "/detokenize"] {
        let text = &server.ok(path, &back).await["text"];
        assert_eq!(text, "the river and the boat", "{path}");
    }
    let empty = server.ok("/v1/tokenize", &json!({"text": ""})).await;
    assert_eq!(empty["tokens"], json!([]));
    let empty = server.ok("/v1/detokenize", &json!({"tokens": []})).await;
    assert_eq!(empty["text"], "");
}

#[tokio::test]
async fn rerank_takes_what_cohere_sends_and_counts_search_units() {
    let server = Server::family();
    let body = |documents: usize| {
        json!({
            "model": "judge", "query": "the river", "documents": vec!["a boat"; documents],
            "rank_fields": ["text"], "max_chunks_per_doc": 10, "return_documents": true,
            "max_tokens_per_doc": 4096, "priority": 0, "top_n": 1,
        })
    };
    for (documents, units) in [(1, 1), (100, 1), (101, 2)] {
        let answer = server.ok("/v2/rerank", &body(documents)).await;
        assert_eq!(answer["meta"]["billed_units"]["search_units"], units);
        assert_eq!(answer["meta"]["api_version"]["version"], "2");
        assert_eq!(answer["results"].as_array().unwrap().len(), 1);
    }
    let first = server.ok("/v1/rerank", &body(1)).await;
    assert_eq!(first["results"][0]["document"], json!({"text": "a boat"}));
    // What Xinference's clients are used to, and Cohere's accept.
    assert_eq!(first["meta"]["api_version"], json!(null));
}
