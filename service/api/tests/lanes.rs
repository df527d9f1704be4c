//! Lanes and deadlines as callers ask for them.

use serde_json::json;

use super::*;

async fn with_header(server: &Server, name: &str, value: &str) -> Answer {
    let request = Request::post("/v1/embeddings")
        .header(name, value)
        .body(Body::from(r#"{"input":"a"}"#))
        .unwrap();
    server.send(request).await
}

#[tokio::test]
async fn a_header_chooses_the_lane() {
    let server = Server::new();
    for lane in ["interactive", "bulk", "BULK"] {
        let answer = with_header(&server, "x-retort-lane", lane).await;
        assert_eq!(answer.status, 200, "{lane}: {}", answer.text());
    }
    let metrics = server.metrics();
    let counted = |lane, batches| {
        format!(r#"retort_queue_duration_seconds_count{{model="fake",lane="{lane}"}} {batches}"#)
    };
    assert!(metrics.contains(&counted("interactive", 1)), "{metrics}");
    assert!(metrics.contains(&counted("bulk", 2)), "{metrics}");
    let detail = with_header(&server, "x-retort-lane", "express")
        .await
        .error(400);
    assert!(detail.contains("`interactive` or `bulk`"), "{detail}");
}

#[tokio::test]
async fn a_timeout_that_means_nothing_is_refused() {
    let server = Server::new();
    for good in ["30", "1.5", "20000ms"] {
        let answer = with_header(&server, "x-request-timeout", good).await;
        assert_eq!(answer.status, 200, "{good}: {}", answer.text());
    }
    let detail = with_header(&server, "x-request-timeout", "soon")
        .await
        .error(400);
    assert!(detail.contains("x-request-timeout"), "{detail}");
}

#[tokio::test]
async fn who_has_no_time_is_not_kept_waiting() {
    let (server, mut gate) = Server::gated(ApiSettings::default(), limits());
    let busy = r#"{"input":"lorem"}"#.to_owned();
    let running = tokio::spawn(server.clone().post_owned("/v1/embeddings", busy));
    gate.reached.recv().await.unwrap();
    let answer = with_header(&server, "x-request-timeout", "1ms").await;
    answer.error(504);
    drop(gate);
    assert_eq!(running.await.unwrap().status, 200);
}

#[tokio::test]
async fn a_priority_in_the_body_is_a_lane_or_a_number() {
    let server = Server::family();
    for priority in [json!("bulk"), json!(-1), json!(0), json!(3), json!(null)] {
        let body = json!({"input": "a", "model": "fake", "priority": priority});
        server.ok("/v1/embeddings", &body).await;
        let body =
            json!({"query": "a", "documents": ["b"], "model": "judge", "priority": priority});
        server.ok("/v1/rerank", &body).await;
    }
    let body = json!({"input": "a", "model": "fake", "priority": "high"}).to_string();
    let detail = server.post("/v1/embeddings", body).await.error(400);
    assert!(detail.contains("`interactive` or `bulk`"), "{detail}");
}

#[tokio::test]
async fn equal_texts_of_a_request_are_run_once_and_counted_each() {
    let server = Server::new();
    let once = server.embed(r#"{"input":["lorem"]}"#).await;
    let thrice = server.embed(r#"{"input":["lorem","lorem","lorem"]}"#).await;
    let tokens = |answer: &Value| answer["usage"]["prompt_tokens"].as_u64().unwrap();
    assert_eq!(tokens(&thrice), 3 * tokens(&once));
    assert_eq!(
        vectors(&thrice),
        [vectors(&once), vectors(&once), vectors(&once)].concat()
    );
    let metrics = server.metrics();
    let counted = r#"retort_coalesced_inputs_total{model="fake"} 2"#;
    assert!(metrics.contains(counted), "{metrics}");
}
