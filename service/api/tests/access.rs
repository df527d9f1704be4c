//! Who may call what: every row of the table with every kind of key.

use http::HeaderValue;

use super::*;
use crate::api::{Access, ApiKeys, ROUTES, Route};

/// The rows that answer without a key when keys are set. Whoever adds one has to write it here.
const OPEN: &[&str] = &[
    "/api/version",
    "/infinity/health",
    "/health",
    "/healthz",
    "/ping",
    "/livez",
    "/readyz",
    "/ready",
    "/metrics",
    "/version",
    "/",
    "/openapi.json",
    "/api-doc/openapi.json",
    "/docs",
    "/docs/{*file}",
    "/tei/{model}",
    "/tei/{model}/health",
    "/tei/{model}/ping",
    "/v1/cluster/auth",
    "/v1/cluster/ui_config",
    "/v1/address",
    "/v1/models/prompts",
    "/v1/models/families",
    "/v1/models/vllm-supported",
    "/status",
    "/token",
];

/// Those of them that also take a POST without a key.
const OPEN_TO_POST: &[&str] = &["/ping", "/token"];

fn locked() -> Server {
    let keys = ApiKeys::new(["right", "other"]).with_admin(["admin"]);
    let server = Server::family_with(ApiSettings {
        keys,
        ..ApiSettings::default()
    });
    chat::add(&server, "x");
    server
}

/// What every route that takes a body finds its fields in.
const BODY: &str = r#"{"input":"a","query":"a","documents":["a"],"text_1":"a","text_2":"a",
    "inputs":"a","ids":[5],"tokens":[5],"texts":["a"],"text":"a","prompt":"a","name":"fake",
    "password":"right","messages":[{"role":"user","content":"a"}]}"#;

fn body(path: &str) -> &'static str {
    match path {
        // Cohere's routes take one of `texts` and `inputs`.
        "/v1/embed" | "/v2/embed" => r#"{"texts":["a"]}"#,
        "/v1/convert_ids_to_tokens" => r#"{"input":["5"]}"#,
        _ if path.ends_with("/similarity") => {
            r#"{"inputs":{"source_sentence":"a","sentences":["a"]}}"#
        }
        _ => BODY,
    }
}

/// A path that the row answers with 200 or a redirect.
fn concrete(path: &str) -> String {
    let model = if path.ends_with("/predict") {
        "nli"
    } else if path.contains("/chat/") {
        "chat"
    } else {
        "m3"
    };
    let query = match path {
        "/embed_all" | "/embed_sparse" => "?model=m3",
        _ => "",
    };
    format!("{path}{query}")
        .replace("{owner}/{name}", "org/fake")
        .replace("{type}/{name}", "embedding/bge-m3")
        .replace("{type}", "embedding")
        .replace("{name}", "bge-m3")
        .replace("{request}", "1")
        .replace("{replica}", "0")
        .replace("{model}", model)
        .replace("{*model}", "org/fake")
        .replace("{*file}", "index.html")
}

async fn call(server: &Server, route: &Route, path: &str, header: Option<(&str, &str)>) -> Answer {
    let mut request = Request::builder()
        .method(route.method.clone())
        .uri(concrete(path));
    if let Some((name, value)) = header {
        request = request.header(name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
    }
    server
        .send(request.body(Body::from(body(path))).unwrap())
        .await
}

/// The sentence of a refusal, where the dialect of the route puts it.
fn refusal(route: &Route, answer: &Answer) -> String {
    assert_eq!(answer.status, 401);
    let error = &answer.json()["error"];
    match route.dialect.name {
        "ollama" | "tei" => error.as_str().unwrap().to_owned(),
        "vllm" | "llama.cpp" => {
            assert_eq!(error["code"], 401);
            error["message"].as_str().unwrap().to_owned()
        }
        _ => {
            assert_eq!(error["code"], "invalid_api_key");
            answer.error(401)
        }
    }
}

/// Whether the caller was let in; what is then wrong with the request is another matter.
fn let_in(answer: &Answer) -> bool {
    !matches!(
        answer.status,
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN
    )
}

fn answered(answer: &Answer) -> bool {
    answer.status.is_success() || answer.status.is_redirection()
}

#[tokio::test]
async fn with_keys_every_row_is_closed_but_those_listed() {
    let server = locked();
    for route in ROUTES {
        for path in route.paths {
            let post = route.method == http::Method::POST;
            let open = OPEN.contains(path) && (!post || OPEN_TO_POST.contains(path));
            assert_eq!(
                open,
                matches!(route.access, Access::Open | Access::Metrics),
                "{path}"
            );
            for refused in [
                None,
                Some(("authorization", "")),
                Some(("authorization", "Bearer None")),
                Some(("authorization", "Bearer wrong")),
                Some(("authorization", "Bearer \u{e4}")),
                Some(("authorization", "right")),
                Some(("x-api-key", "wrong")),
            ] {
                let answer = call(&server, route, path, refused).await;
                if open {
                    assert!(answered(&answer), "{path} {refused:?}: {}", answer.status);
                } else {
                    assert_eq!(answer.header("www-authenticate"), "Bearer");
                    let detail = refusal(route, &answer);
                    assert!(
                        detail.starts_with("Could not validate credentials"),
                        "{detail}"
                    );
                }
            }
            for right in [
                ("authorization", "Bearer right"),
                ("authorization", "bearer  other "),
                ("x-api-key", "right"),
                ("x-api-key", "admin"),
            ] {
                if route.access == Access::Admin {
                    continue;
                }
                let answer = call(&server, route, path, Some(right)).await;
                assert!(answered(&answer), "{path} {right:?}: {}", answer.text());
            }
        }
    }
}

#[tokio::test]
async fn what_changes_the_server_is_for_admin_keys() {
    for route in ROUTES.iter().filter(|route| route.access == Access::Admin) {
        for path in route.paths {
            let server = locked();
            let answer = call(&server, route, path, Some(("x-api-key", "right"))).await;
            assert_eq!(answer.status, 403, "{path}");
            assert!(answer.error(403).contains("admin key"));
            let answer = call(&server, route, path, Some(("x-api-key", "admin"))).await;
            assert!(let_in(&answer), "{path}: {}", answer.text());
        }
    }
}

#[tokio::test]
async fn without_keys_the_headers_are_not_looked_at() {
    let family = Server::family();
    chat::add(&family, "x");
    for route in ROUTES {
        for path in route.paths {
            for sent in [
                None,
                Some(("authorization", "")),
                Some(("authorization", "Bearer None")),
                Some(("authorization", "Bearer 123")),
                Some(("x-api-key", "")),
            ] {
                if route.access == Access::Admin {
                    // What is deleted cannot be asked for again.
                    let answer = call(&Server::family(), route, path, sent).await;
                    assert!(let_in(&answer), "{path} {sent:?}: {}", answer.text());
                    continue;
                }
                let answer = call(&family, route, path, sent).await;
                assert!(answered(&answer), "{path} {sent:?}: {}", answer.text());
            }
        }
    }
}

#[tokio::test]
async fn metrics_can_be_closed() {
    let keys = ApiKeys::new(["right"]);
    let settings = ApiSettings {
        keys,
        metrics_open: false,
        ..ApiSettings::default()
    };
    let server = Server::with_settings(settings);
    server.get("/metrics").await.error(401);
    let request = Request::get("/metrics").header("x-api-key", "right");
    assert_eq!(
        server
            .send(request.body(Body::empty()).unwrap())
            .await
            .status,
        200
    );
}

#[tokio::test]
async fn a_refused_caller_never_reaches_the_body() {
    // The body is not even JSON, and would be a 400 if anybody read it.
    locked()
        .post("/v1/embeddings/", "not JSON")
        .await
        .error(401);
    locked()
        .post("//v1//embeddings", "not JSON")
        .await
        .error(401);
}

#[tokio::test]
async fn no_spelling_of_a_path_gets_around_the_key() {
    let server = locked();
    for path in [
        "/v1/models/",
        "//v1/models",
        "/v1/v1/models",
        "/models//",
        "/v1/models/%66ake",
    ] {
        server.get(path).await.error(401);
        let head = Request::head(path).body(Body::empty()).unwrap();
        assert_eq!(server.send(head).await.status, 401, "HEAD {path}");
    }
}
