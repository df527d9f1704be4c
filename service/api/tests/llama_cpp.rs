//! What llama.cpp's server has to itself.

use serde_json::json;

use super::*;

#[tokio::test]
async fn a_vector_is_scaled_as_asked() {
    let server = Server::family();
    let vector = |answer: &Value| -> Vec<f32> {
        serde_json::from_value(answer[0]["embedding"][0].clone()).unwrap()
    };
    let ours = vectors(&server.embed(r#"{"input":"the river"}"#).await);
    let usual = server
        .ok("/embedding", &json!({"content": "the river"}))
        .await;
    assert_eq!(vector(&usual), ours[0]);
    let body = |kind: i32| json!({"content": ["the river"], "embd_normalize": kind});
    for (kind, norm) in [(0, 32760.0), (1, 1.0), (2, 1.0), (3, 1.0)] {
        let scaled = vector(&server.ok("/embedding", &body(kind)).await);
        let sizes = scaled.iter().map(|x| f64::from(x.abs()));
        let found = match kind {
            0 => sizes.fold(0.0, f64::max),
            p => sizes
                .map(|x| x.powi(p))
                .sum::<f64>()
                .powf(1.0 / f64::from(p)),
        };
        assert!((found / norm - 1.0).abs() < 1e-5, "{kind}: {found}");
    }
    let raw = vector(&server.ok("/embedding", &body(-1)).await);
    let length = raw.iter().map(|x| x * x).sum::<f32>().sqrt();
    assert!(
        raw.iter()
            .zip(&ours[0])
            .all(|(r, o)| (r / length - o).abs() < 1e-5)
    );
}

#[tokio::test]
async fn errors_have_llama_cpps_shape() {
    let server = Server::family();
    for body in ["not JSON", "{}", r#"{"content":[]}"#, r#"{"content":5}"#] {
        let answer = server.post("/embedding", body).await;
        assert_eq!(answer.status, 400, "{}", answer.text());
        let error = &answer.json()["error"];
        assert_eq!(
            (&error["code"], &error["type"]),
            (&json!(400), &json!("invalid_request_error"))
        );
    }
    let loading = Server::loading(ApiSettings::default(), limits());
    let answer = loading.post("/embedding", r#"{"content":"a"}"#).await;
    assert_eq!(answer.json()["error"]["type"], "unavailable_error");
    assert_eq!(answer.status, 503);
}

#[tokio::test]
async fn its_model_is_told() {
    let server = Server::family();
    let props = server.get("/props").await.json();
    assert_eq!(props["model_alias"], "fake");
    assert_eq!(props["default_generation_settings"]["n_ctx"], MAX_TOKENS);
    assert_eq!(props["total_slots"], 1);
    let judge = server.get("/props?model=judge").await.json();
    assert_eq!(judge["default_generation_settings"]["n_ctx"], 40);
    let unknown = server.get("/props?model=other").await;
    assert_eq!(unknown.status, 404);
    assert_eq!(unknown.json()["error"]["type"], "not_found_error");
}

#[tokio::test]
async fn the_body_tells_whose_tokens_are_wanted() {
    let server = Server::family();
    let ids = server
        .ok("/tokenize", &json!({"content": "the river"}))
        .await;
    let told = json!({"content": "the river", "add_special": true, "with_pieces": true});
    let told = server.ok("/tokenize", &told).await;
    let told: Vec<&Value> = told["tokens"].as_array().unwrap().iter().collect();
    assert_eq!(told[0]["piece"], "[CLS]");
    let inner: Vec<&Value> = told[1..told.len() - 1].iter().map(|t| &t["id"]).collect();
    assert_eq!(json!(inner), ids["tokens"]);
    let inputs = json!({"inputs": "the river", "content": null});
    assert!(server.ok("/tokenize", &inputs).await[0].is_array());
    let prompt = json!({"prompt": "the river", "content": null});
    assert!(server.ok("/tokenize", &prompt).await["count"].is_number());
    let message = server.post("/tokenize", "{}").await.error(400);
    assert!(message.contains("`inputs`, `prompt`"), "{message}");
}
