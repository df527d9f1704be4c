//! `/v1/classify`: labels and probabilities.

use serde_json::json;

use super::*;

#[tokio::test]
async fn an_input_without_a_text_is_called_empty() {
    let server = Server::family();
    for (input, sentence) in [
        (serde_json::json!([]), "empty list"),
        (serde_json::json!([[]]), "the input is an empty list"),
        (
            serde_json::json!([["a", "b", "c", "d"]]),
            "invalid length 4",
        ),
    ] {
        let body = serde_json::json!({"model": "nli", "input": input}).to_string();
        let detail = server.post("/v1/classify", body).await.error(400);
        assert!(detail.contains(sentence), "{detail}");
    }
}

#[tokio::test]
async fn all_labels_of_each_input_are_given() {
    let server = Server::family();
    let sent = json!({"model": "nli", "input": ["the rain", ["the rain", "the rain"]]});
    let answer = server.ok("/v1/classify", &sent).await;
    assert_eq!(answer["labels"], json!(["yes", "no", "perhaps"]));
    for (index, datum) in answer["data"].as_array().unwrap().iter().enumerate() {
        assert_eq!(
            (&datum["index"], &datum["num_classes"]),
            (&json!(index), &json!(3))
        );
        assert_eq!(datum["label"], "yes");
        let probabilities = datum["probs"].as_array().unwrap().iter();
        let sum: f64 = probabilities.map(|p| p.as_f64().unwrap()).sum();
        assert!((sum - 1.0).abs() < 1e-6);
    }
    let raw = json!({"model": "nli", "input": "the rain", "use_activation": false});
    let raw = server.ok("/classify", &raw).await;
    assert_eq!(raw["data"][0]["probs"], json!([-1.0, -2.0, -3.0]));
}

#[tokio::test]
async fn a_reranker_has_one_label_and_an_embedding_model_none() {
    let server = Server::family();
    let sent = json!({"model": "judge", "input": "the rain"});
    let answer = server.ok("/v1/classify", &sent).await;
    let probability = answer["data"][0]["probs"][0].as_f64().unwrap();
    assert!((probability - 1.0 / (1.0 + 1f64.exp())).abs() < 1e-6);
    // Without a name, the classifier is meant.
    let answer = server
        .ok("/v1/classify", &json!({"input": "the rain"}))
        .await;
    assert_eq!(answer["model"], "nli");
    let refused = server
        .post("/v1/classify", r#"{"model":"fake","input":"a"}"#)
        .await;
    assert!(
        refused
            .error(400)
            .contains("cannot classify; it can embed and rerank")
    );
    for wrong in [
        r#"{"input":[]}"#,
        r#"{"input":[["a","b","c"]]}"#,
        r#"{"input":5}"#,
    ] {
        server.post("/v1/classify", wrong).await.error(400);
    }
}
