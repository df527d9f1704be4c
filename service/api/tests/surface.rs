//! The surface beside the embeddings: paths, models, health, documentation, metrics, CORS.

use serde_json::json;

use super::*;
use crate::api::ROUTES;

#[tokio::test]
async fn paths_may_be_written_in_many_ways() {
    let server = Server::new();
    for path in [
        "/v1/embeddings",
        "/v1/embeddings/",
        "/embeddings",
        "/embeddings/",
        "//v1//embeddings",
        "/v1/v1/embeddings",
        "/v1/engines/fake/embeddings",
        "/v1/engines/org%2Ffake/embeddings/",
    ] {
        let answer = server.post(path, r#"{"input":"a"}"#).await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
    }
    for path in [
        "/v1/models/fake",
        "/v1/models/fake/",
        "/models/fake",
        "/v1/models/org/fake",
        "/v1/models/org%2Ffake",
    ] {
        let answer = server.get(path).await;
        assert_eq!(answer.json()["id"], "fake", "{path}");
    }
}

#[tokio::test]
async fn the_content_type_does_not_matter() {
    let server = Server::new();
    for kind in [
        "text/plain",
        "application/x-www-form-urlencoded",
        "application/json; charset=x",
    ] {
        let request = Request::post("/v1/embeddings").header("content-type", kind);
        let answer = server
            .send(request.body(Body::from(r#"{"input":"a"}"#)).unwrap())
            .await;
        assert_eq!(answer.status, 200, "{kind}");
        assert_eq!(answer.header("content-type"), "application/json");
    }
}

#[tokio::test]
async fn what_is_not_there_is_json_too() {
    let server = Server::new();
    for path in [
        "/nothing",
        "/v1",
        "/v1/nothing",
        "/docs/nothing.js",
        "/v1/models/%ff",
    ] {
        let answer = server.get(path).await;
        assert!(answer.status.is_client_error(), "{path}");
        answer.error(answer.status.as_u16());
    }
    server
        .get(&format!("/{}", "x".repeat(10_000)))
        .await
        .error(404);
    let answer = server.get("/v1/embeddings").await;
    answer.error(405);
    assert_eq!(answer.header("allow"), "POST");
    server.post("/v1/status", "{}").await.error(404);
    server.post("/status", "{}").await.error(405);
    let detail = server.get("/v1/models/other").await.error(404);
    assert!(detail.contains("not found"), "{detail}");
}

#[tokio::test]
async fn a_model_record_serves_every_reader() {
    let server = Server::new();
    let list = server.get("/v1/models").await.json();
    assert_eq!(list["object"], "list");
    let record = &list["data"][0];
    for (key, value) in [
        ("id", json!("fake")),
        ("object", json!("model")),
        ("model_type", json!("embedding")),
        ("model_name", json!("fake")),
        ("model_engine", json!("onnx")),
        ("model_format", json!("onnx")),
        ("model_ability", json!(["embed"])),
        ("dimensions", json!(DIMENSIONS)),
        ("max_tokens", json!(MAX_TOKENS)),
        ("max_model_len", json!(MAX_TOKENS)),
        ("language", json!([])),
        ("model_hub", json!("huggingface")),
        ("model_revision", json!(null)),
        ("quantization", json!("none")),
        ("replica", json!(1)),
        ("address", json!("127.0.0.1:9997")),
        ("accelerators", json!(null)),
        ("state", json!("ready")),
        ("device", json!("cpu")),
        ("dtype", json!("float32")),
        ("architecture", json!("bert")),
    ] {
        assert_eq!(record.get(key), Some(&value), "{key}");
    }
    assert!(record["created"].as_u64().unwrap() > 0);
    assert_eq!(server.get("/v1/models/fake").await.json(), *record);
}

#[tokio::test]
async fn a_loading_model_is_listed_and_not_healthy() {
    let server = Server::loading(ApiSettings::default(), limits());
    let record = server.get("/v1/models/fake").await.json();
    assert_eq!(record["state"], "loading");
    assert_eq!(record["dimensions"], json!(null));
    assert!(
        server
            .get("/health")
            .await
            .error(503)
            .contains("`fake` is loading")
    );
    let ready = server.get("/readyz").await;
    assert_eq!(ready.status, 503);
    assert_eq!(ready.json()["detail"], "not ready: fake");
    assert_eq!(server.get("/livez").await.status, 200);
    server.engine.failed("fake", "no weights".into());
    assert_eq!(
        server.get("/v1/models/fake").await.json()["state_reason"],
        "no weights"
    );
    assert!(
        server
            .get("/health")
            .await
            .error(503)
            .contains("no weights")
    );
}

#[tokio::test]
async fn a_ready_server_says_so() {
    let server = Server::new();
    for path in ["/health", "/healthz", "/ping"] {
        let health = server.get(path).await.json();
        assert_eq!(health["status"], "ok");
        assert!(health["unix"].as_f64().unwrap() > 1e9);
    }
    for path in ["/readyz", "/ready"] {
        let ready = server.get(path).await;
        assert_eq!(ready.status, 200, "{}", ready.text());
        let model = &ready.json()["models"][0];
        assert_eq!(
            (&model["model"], &model["device"]),
            (&json!("fake"), &json!("cpu"))
        );
        assert!(model["took_ms"].is_number());
    }
    server.engine.drain();
    assert_eq!(server.get("/readyz").await.status, 503);
    assert_eq!(server.get("/livez").await.status, 200);
    server
        .post("/v1/embeddings", r#"{"input":"a"}"#)
        .await
        .error(503);
}

#[tokio::test]
async fn all_models_are_probed_at_once() {
    let two_at_once = EngineLimits {
        threads: 2,
        workers: 2,
        ..limits()
    };
    let (server, mut first) = Server::gated(ApiSettings::default(), two_at_once);
    let mut second = server.add_gated("second");
    let asking = tokio::spawn({
        let server = server.clone();
        async move { server.get("/readyz").await }
    });
    first.reached.recv().await.unwrap();
    second.reached.recv().await.unwrap();
    // One after the other, the first would have run out of time before the second began.
    drop((first, second));
    let ready = asking.await.unwrap();
    assert_eq!(ready.status, 200, "{}", ready.text());
    let names = ready.json()["models"]
        .as_array()
        .unwrap()
        .iter()
        .map(|model| model["model"].clone())
        .collect::<Vec<_>>();
    assert_eq!(names, ["fake", "second"]);
}

#[tokio::test]
async fn a_server_that_leaves_is_not_ready_and_still_answers() {
    let server = Server::new();
    server.lifetime.leave();
    let ready = server.get("/readyz").await;
    assert_eq!(ready.status, 503);
    assert_eq!(ready.json()["detail"], "the server is shutting down");
    assert_eq!(server.get("/livez").await.status, 200);
    server.embed(r#"{"input":"a"}"#).await;
}

#[tokio::test]
async fn head_answers_wherever_get_does() {
    let server = Server::new();
    for path in [
        "/",
        "/health",
        "/v1/models",
        "/v1/models/fake",
        "/metrics",
        "/version",
    ] {
        let answer = server
            .send(Request::head(path).body(Body::empty()).unwrap())
            .await;
        assert_eq!(answer.status, 200, "{path}");
        assert!(answer.body.is_empty(), "{path}");
    }
}

#[tokio::test]
async fn the_id_of_a_request_comes_back() {
    let server = Server::new();
    let request = Request::get("/nothing").header("x-request-id", "abc-1");
    let answer = server.send(request.body(Body::empty()).unwrap()).await;
    assert_eq!(answer.header("x-request-id"), "abc-1");
    let first = server.get("/version").await;
    let second = server.get("/version").await;
    assert_eq!(first.header("x-request-id").len(), 32);
    assert_ne!(first.header("x-request-id"), second.header("x-request-id"));
}

#[tokio::test]
async fn browsers_may_call_unless_told_otherwise() {
    let preflight = || {
        Request::options("/v1/embeddings")
            .header("origin", "https://app.example")
            .header("access-control-request-method", "POST")
            .body(Body::empty())
            .unwrap()
    };
    let open = Server::new();
    let answer = open.send(preflight()).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("access-control-allow-origin"), "*");
    // An error without these headers would be unreadable for the page.
    let request = Request::get("/nothing").header("origin", "https://app.example");
    let answer = open.send(request.body(Body::empty()).unwrap()).await;
    assert_eq!(answer.header("access-control-allow-origin"), "*");

    let listed = |origins: &[&str]| {
        let cors_origins = origins.iter().map(ToString::to_string).collect();
        Server::with_settings(ApiSettings {
            cors_origins,
            ..ApiSettings::default()
        })
    };
    let answer = listed(&["https://app.example"]).send(preflight()).await;
    assert_eq!(
        answer.header("access-control-allow-origin"),
        "https://app.example"
    );
    let answer = listed(&["https://other.example"]).send(preflight()).await;
    assert_eq!(answer.header("access-control-allow-origin"), "");
    listed(&[]).send(preflight()).await.error(405);
}

#[tokio::test]
async fn every_row_is_described() {
    let server = Server::new();
    let description = server.get("/openapi.json").await.json();
    for route in ROUTES {
        for path in route.paths {
            let method = route.method.as_str().to_ascii_lowercase();
            let operation = &description["paths"][path.replace("{*", "{")][&method];
            assert!(operation["responses"]["200"].is_object(), "{method} {path}");
            assert!(operation["summary"].is_string(), "{method} {path}");
        }
    }
    assert!(description["openapi"].as_str().unwrap().starts_with("3.1"));
    let text = description.to_string();
    for reference in text.split("#/components/schemas/").skip(1) {
        let name = reference.split('"').next().unwrap();
        assert!(
            description["components"]["schemas"][name].is_object(),
            "{name} is missing"
        );
    }
    let body = &description["components"]["schemas"]["EmbeddingsBody"];
    assert_eq!(body["required"], json!(["input"]));
    assert!(body["properties"]["truncate"]["oneOf"].is_array());
}

#[tokio::test]
async fn the_page_needs_nothing_from_elsewhere() {
    let server = Server::new();
    let redirect = server.get("/docs").await;
    assert_eq!(
        (redirect.status.as_u16(), redirect.header("location")),
        (303, "docs/")
    );
    let page = server.get("/docs/").await;
    assert_eq!(page.header("content-type"), "text/html");
    let page = page.text();
    for part in page
        .split(['"', '\''])
        .filter(|part| part.starts_with("./"))
    {
        let file = server.get(&format!("/docs/{}", &part[2..])).await;
        assert_eq!(file.status, 200, "{part}");
        assert!(!file.body.is_empty());
    }
    assert!(!page.contains("https://"), "{page}");
    let start = server.get("/docs/swagger-initializer.js").await.text();
    assert!(
        start.contains("../openapi.json") && start.contains("validatorUrl"),
        "{start}"
    );
}

#[tokio::test]
async fn metrics_come_as_either_text() {
    let server = Server::new();
    server.embed(r#"{"input":"a"}"#).await;
    let plain = server.get("/metrics").await;
    assert!(
        plain
            .header("content-type")
            .starts_with("text/plain; version=0.0.4")
    );
    let text = plain.text();
    assert!(
        text.contains("retort_model_info{model=\"fake\",architecture=\"bert\""),
        "{text}"
    );
    assert!(text.contains(
        r#"retort_requests_total{task="embed",dialect="openai",model="fake",code="200"} 1"#
    ));
    let request = Request::get("/metrics").header(
        "accept",
        "application/openmetrics-text;version=1.0.0,text/plain;q=0.5",
    );
    let open = server.send(request.body(Body::empty()).unwrap()).await;
    assert!(
        open.header("content-type")
            .starts_with("application/openmetrics-text")
    );
    assert!(open.text().ends_with("# EOF\n"));
}

#[tokio::test]
async fn the_version_and_the_root_answer() {
    let server = Server::new();
    assert_eq!(
        server.get("/version").await.json()["version"],
        env!("CARGO_PKG_VERSION")
    );
    assert!(server.get("/").await.text().starts_with("Retort"));
}
