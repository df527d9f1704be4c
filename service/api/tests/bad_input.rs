//! What is wrong with a request is told in one shape, and the server goes on serving.

use serde_json::json;

use super::*;

/// Body → status, and what the sentence must contain.
#[tokio::test]
async fn the_table_of_bad_bodies() {
    let server = Server::new();
    let deep = format!(
        r#"{{"input":{}1{}}}"#,
        "[".repeat(100_000),
        "]".repeat(100_000)
    );
    let deep_elsewhere = format!(r#"{{"input":"a","x":{}}}"#, "[".repeat(100_000));
    let long_model = json!({"model": "m".repeat(100_000), "input": "a"}).to_string();
    let many = json!({"input": vec!["a"; 2049]}).to_string();
    let long_type = json!({"input": "a", "dimensions": "9".repeat(1 << 20)}).to_string();
    let table: &[(&[u8], u16, &str)] = &[
        (b"", 400, "empty"),
        (b"  \n", 400, "empty"),
        (b"hello", 400, "not JSON"),
        (b"{\"input\":\"a\"", 400, "not JSON"),
        (b"{\"input\":\"a\"} x", 400, "not JSON"),
        (b"{\"input\":\"a\",}", 400, "not JSON"),
        (b"{'input':'a'}", 400, "not JSON"),
        (b"{\"input\":NaN}", 400, "not JSON"),
        (
            b"{\"input\":\"a\",\"dimensions\":Infinity}",
            400,
            "not JSON",
        ),
        (
            b"{\"input\":\"a\",\"dimensions\":1e999}",
            400,
            "number out of range",
        ),
        (
            b"{\"input\":\"\xff\xfe\"}",
            400,
            "not UTF-8: bad byte at offset 10",
        ),
        (b"{\"input\":\"\\ud800\"}", 400, "not JSON"),
        (b"{\"input\":\"a\x00b\"}", 400, "control character"),
        (b"[]", 400, "a JSON object"),
        (b"[1,2]", 400, "a JSON object"),
        (b"\"text\"", 400, "a JSON object"),
        (b"null", 400, "a JSON object"),
        (b"{}", 400, "missing field `input`"),
        (b"{\"input\":null}", 400, "`input`: invalid type: null"),
        (b"{\"input\":5}", 400, "`input`: invalid type: integer `5`"),
        (b"{\"input\":true}", 400, "`input`: invalid type: boolean"),
        (b"{\"input\":{}}", 400, "`input`: missing field `text`"),
        (b"{\"input\":[]}", 400, "empty list"),
        (
            b"{\"input\":[\"a\",null]}",
            400,
            "`input[1]`: invalid type: null",
        ),
        (
            b"{\"input\":[\"a\",\"b\",\"c\",5]}",
            400,
            "`input[3]`: invalid type: integer `5`",
        ),
        (
            b"{\"input\":[1,\"a\"]}",
            400,
            "`input[1]`: invalid type: string \"a\"",
        ),
        (b"{\"input\":[[]]}", 400, "`input[0]`"),
        (b"{\"input\":[[1],[\"a\"]]}", 400, "`input[1][0]`"),
        (b"{\"input\":[[[1]]]}", 400, "`input[0][0]`"),
        (
            b"{\"input\":[{\"image\":\"x\"}]}",
            400,
            "`input[0]`: missing field `text`",
        ),
        (
            b"{\"input\":[-1]}",
            400,
            "`input[0]`: invalid value: integer `-1`",
        ),
        (
            b"{\"input\":[1.5]}",
            400,
            "`input[0]`: invalid type: floating point",
        ),
        (b"{\"input\":[4294967296]}", 400, "expected a token id"),
        (b"{\"input\":[4294967295]}", 400, "4294967295"),
        (b"{\"input\":[[1,100277000]]}", 400, "100277000"),
        (b"{\"input\":\"a\",\"input\":\"b\"}", 400, "duplicate field"),
        (
            b"{\"input\":\"a\",\"model\":5}",
            400,
            "`model`: invalid type",
        ),
        (b"{\"input\":\"a\",\"model\":\"other\"}", 404, "not found"),
        (
            b"{\"input\":\"a\",\"encoding_format\":\"hex\"}",
            400,
            "`encoding_format`: `hex` is none of",
        ),
        (
            b"{\"input\":\"a\",\"embedding_type\":[\"hex\"]}",
            400,
            "`embedding_type[0]`: `hex` is none of",
        ),
        (
            b"{\"input\":\"a\",\"embedding_type\":[]}",
            400,
            "the list of types is empty",
        ),
        (
            b"{\"input\":\"a\",\"dimensions\":-1}",
            400,
            "`dimensions` is `-1`",
        ),
        (b"{\"input\":\"a\",\"dimensions\":9}", 400, "dimensions"),
        (
            b"{\"input\":\"a\",\"dimensions\":99999999999999999999}",
            400,
            "dimensions",
        ),
        (
            b"{\"input\":\"a\",\"dimensions\":18446744073709551615}",
            400,
            "dimensions",
        ),
        (
            b"{\"input\":\"a\",\"dimensions\":2.5}",
            400,
            "`dimensions`: invalid type",
        ),
        (
            b"{\"input\":\"a\",\"dimensions\":\"2\"}",
            400,
            "expected a whole number",
        ),
        (
            b"{\"input\":\"a\",\"truncate_prompt_tokens\":0}",
            400,
            "truncate_prompt_tokens",
        ),
        (
            b"{\"input\":\"a\",\"truncate_prompt_tokens\":-2}",
            400,
            "truncate_prompt_tokens",
        ),
        (
            b"{\"input\":\"a\",\"truncate\":\"MIDDLE\"}",
            400,
            "`truncate`: invalid value",
        ),
        (
            b"{\"input\":\"a\",\"truncate\":1}",
            400,
            "`truncate`: invalid type",
        ),
        (
            b"{\"input\":\"a\",\"normalize\":\"yes\"}",
            400,
            "`normalize`: invalid type",
        ),
        (b"{\"input\":\"a\",\"return_sparse\":true}", 400, "dense"),
        (
            b"{\"input\":\"a\",\"modality\":\"image\"}",
            400,
            "`modality` is `image`",
        ),
        (deep.as_bytes(), 400, "nests deeper"),
        (deep_elsewhere.as_bytes(), 400, "nests deeper"),
        (long_model.as_bytes(), 400, "`model` is longer"),
        (long_type.as_bytes(), 400, "expected a whole number"),
        (
            many.as_bytes(),
            400,
            "2049 items, more than the limit of 2048",
        ),
    ];
    for (body, status, expected) in table {
        let shown = String::from_utf8_lossy(&body[..body.len().min(80)]).into_owned();
        let answer = server.post("/v1/embeddings", body.to_vec()).await;
        let detail = answer.error(*status);
        assert!(detail.contains(expected), "{shown}: {detail}");
        assert!(detail.len() < 1000, "{shown}: {} bytes", detail.len());
    }
    server.embed(r#"{"input":"still here"}"#).await;
}

#[tokio::test]
async fn the_field_at_fault_is_named_for_machines() {
    let server = Server::new();
    for (body, param) in [
        (r#"{"input":[1,"a"]}"#, "input"),
        (r#"{"input":"a","dimensions":"x"}"#, "dimensions"),
        (r#"{"input":"a","model":"other"}"#, "model"),
        (r#"{"input":"a","dimensions":-5}"#, "dimensions"),
    ] {
        let answer = server.post("/v1/embeddings", body).await;
        assert_eq!(answer.json()["error"]["param"], param, "{body}");
    }
}

#[tokio::test]
async fn a_body_over_the_limit_is_a_413() {
    let settings = ApiSettings {
        max_body_bytes: 1000,
        ..ApiSettings::default()
    };
    let server = Server::with_settings(settings);
    let long = json!({"input": "x".repeat(2000)}).to_string();
    for announced in [None, Some(long.len()), Some(100 << 20)] {
        let mut request = Request::post("/v1/embeddings");
        if let Some(length) = announced {
            request = request.header("content-length", length);
        }
        let answer = server
            .send(request.body(Body::from(long.clone())).unwrap())
            .await;
        let detail = answer.error(413);
        assert!(
            detail.contains("1000") && detail.contains("max_body_bytes"),
            "{detail}"
        );
    }
    server.embed(r#"{"input":"still here"}"#).await;
}

#[tokio::test]
async fn a_hundred_megabytes_are_refused() {
    let server = Server::new();
    let body = json!({"input": "x".repeat(100 << 20)}).to_string();
    server.post("/v1/embeddings", body).await.error(413);
    server.embed(r#"{"input":"still here"}"#).await;
}

#[tokio::test]
async fn a_full_queue_is_a_429_that_says_when_to_come_back() {
    let tight = EngineLimits {
        max_queue_tokens: 8,
        max_batch_tokens: 4,
        ..limits()
    };
    let (server, mut gate) = Server::gated(ApiSettings::default(), tight);
    // Equal texts would be run once.
    let texts: Vec<String> = (1..=20).map(|n| "lorem ".repeat(n)).collect();
    let busy = json!({"input": texts}).to_string();
    let waiting = tokio::spawn(server.clone().post_owned("/v1/embeddings", busy));
    gate.reached.recv().await.unwrap();
    let answer = server.post("/v1/embeddings", r#"{"input":"a"}"#).await;
    let detail = answer.error(429);
    assert!(detail.starts_with("Rate limit reached"), "{detail}");
    assert!(answer.header("retry-after").parse::<u64>().unwrap() >= 1);
    assert!(server.metrics().contains(r#"code="429"} 1"#));
    drop(gate);
    assert_eq!(waiting.await.unwrap().status, 200);
    server.embed(r#"{"input":"a"}"#).await;
}

#[tokio::test]
async fn a_client_that_leaves_is_logged_as_499_and_the_server_goes_on() {
    let (server, mut gate) = Server::gated(ApiSettings::default(), limits());
    let body = r#"{"model":"fake","input":"a"}"#.to_owned();
    let leaving = tokio::spawn(server.clone().post_owned("/v1/embeddings", body));
    gate.reached.recv().await.unwrap();
    leaving.abort();
    assert!(leaving.await.is_err_and(|error| error.is_cancelled()));
    assert!(
        server
            .metrics()
            .contains(r#"task="embed",dialect="openai",model="fake",code="499"} 1"#)
    );
    drop(gate);
    server.embed(r#"{"input":"still here"}"#).await;
}

#[tokio::test]
async fn a_model_that_loads_is_a_503_that_says_when_to_come_back() {
    let server = Server::loading(ApiSettings::default(), limits());
    let answer = server.post("/v1/embeddings", r#"{"input":"a"}"#).await;
    assert!(answer.error(503).contains("loading"));
    assert_eq!(answer.header("retry-after"), "30");
}

#[tokio::test]
async fn what_callers_type_is_no_label_of_a_metric() {
    let server = Server::new();
    server
        .post(
            "/v1/embeddings",
            r#"{"model":"typed-by-caller","input":"a"}"#,
        )
        .await
        .error(404);
    server.get("/typed-by-caller").await.error(404);
    let metrics = server.metrics();
    assert!(!metrics.contains("typed-by-caller"), "{metrics}");
    assert!(metrics.contains(r#"{task="embed",dialect="openai",model="",code="404"} 1"#));
}

#[tokio::test]
async fn a_panic_in_a_handler_is_a_500_without_its_text() {
    let routes = Router::new().route("/", axum::routing::get(broken));
    let mut server = Server::new();
    let telemetry = server.telemetry.clone();
    server.router = super::super::layered(routes, &ApiSettings::default(), telemetry);
    let detail = server.get("/").await.error(500);
    assert!(!detail.contains("secret"), "{detail}");
    assert!(server.metrics().contains(r#"code="500"} 1"#));
}

async fn broken() {
    panic!("a secret of the server");
}
