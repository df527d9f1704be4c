//! Rate limits of keys, and what pages of other origins may do.

use std::{
    sync::Mutex,
    time::{Duration, Instant},
};

use super::*;
use crate::{
    api::{ApiKeys, PagesMay, RateSettings},
    engine::Clock,
};

/// A server with the keys `one`, `two` and `admin`, and the hand that moves its clock.
fn limited(requests: Option<u32>, tokens: Option<u32>) -> (Server, Arc<Mutex<Instant>>) {
    let time = Arc::new(Mutex::new(Instant::now()));
    let told = time.clone();
    let settings = ApiSettings {
        keys: ApiKeys::new(["one", "two"]).with_admin(["admin"]),
        rate: RateSettings {
            requests_per_minute: requests,
            tokens_per_minute: tokens,
            clock: Clock::telling(move || *told.lock().unwrap()),
        },
        ..ApiSettings::default()
    };
    (Server::family_with(settings), time)
}

async fn call(server: &Server, path: &str, key: &str) -> Answer {
    const BODY: &str =
        r#"{"input":"the river","inputs":"the river","query":"a","documents":["a"]}"#;
    let request = Request::post(path).header("x-api-key", key);
    server.send(request.body(Body::from(BODY)).unwrap()).await
}

#[tokio::test]
async fn a_key_that_has_had_its_requests_waits_and_others_do_not() {
    let (server, time) = limited(Some(2), None);
    let first = call(&server, "/v1/embeddings", "one").await;
    assert_eq!(first.status, 200);
    assert_eq!(first.header("x-ratelimit-limit-requests"), "2");
    assert_eq!(first.header("x-ratelimit-remaining-requests"), "1");
    assert_eq!(first.header("x-ratelimit-reset-requests"), "30s");
    assert_eq!(first.header("x-ratelimit-limit-tokens"), "");
    assert_eq!(call(&server, "/v1/rerank", "one").await.status, 200);

    let refused = call(&server, "/v1/embeddings", "one").await;
    let detail = refused.error(429);
    assert!(
        detail.starts_with("Rate limit reached") && detail.contains("2 requests per minute"),
        "{detail}"
    );
    assert_eq!(refused.header("retry-after"), "30");
    assert_eq!(refused.header("x-ratelimit-remaining-requests"), "0");
    assert_eq!(refused.json()["error"]["code"], "rate_limit_exceeded");
    assert_eq!(refused.json()["error"]["type"], "rate_limit_error");

    assert_eq!(call(&server, "/v1/embeddings", "two").await.status, 200);
    for _ in 0..4 {
        let unlimited = call(&server, "/v1/embeddings", "admin").await;
        assert_eq!(unlimited.status, 200);
        assert_eq!(unlimited.header("x-ratelimit-limit-requests"), "");
    }
    *time.lock().unwrap() += Duration::from_secs(30);
    assert_eq!(call(&server, "/v1/embeddings", "one").await.status, 200);
}

#[tokio::test]
async fn what_is_written_is_counted_too_streamed_or_not() {
    for streamed in [false, true] {
        let (server, _) = limited(None, Some(600));
        chat::add(&server, "a few words");
        let mut body = chat::hello();
        body["stream"] = streamed.into();
        body["stream_options"] = serde_json::json!({"include_usage": true});
        let request = Request::post("/v1/chat/completions").header("x-api-key", "one");
        let request = request.body(Body::from(body.to_string())).unwrap();
        let answer = server.send(request).await;
        let usage = match streamed {
            true => chat::events(&answer).pop().unwrap()["usage"].clone(),
            false => answer.json()["usage"].clone(),
        };
        assert!(usage["completion_tokens"].as_u64().unwrap() > 3, "{usage}");
        let next = call(&server, "/v1/embeddings", "one").await;
        let read = next.json()["usage"]["total_tokens"].as_u64().unwrap();
        let left = 600 - usage["total_tokens"].as_u64().unwrap() - read;
        let told = next.header("x-ratelimit-remaining-tokens");
        assert_eq!(told, left.to_string(), "streamed: {streamed}");
    }
}

#[tokio::test]
async fn prompts_count_though_one_of_them_cannot_be_gone_on_with() {
    let (server, _) = limited(None, Some(600));
    chat::add(&server, "a few words");
    let left = async |prompts: Value, status: u16| {
        let body = serde_json::json!({"model": "chat", "prompt": prompts, "max_tokens": 1});
        let request = Request::post("/v1/completions").header("x-api-key", "one");
        let answer = server
            .send(request.body(Body::from(body.to_string())).unwrap())
            .await;
        answer.error(status);
        let left = answer.header("x-ratelimit-remaining-tokens");
        left.parse::<usize>().unwrap()
    };
    // Who is refused before anything is computed has nothing to pay.
    assert_eq!(
        left(serde_json::json!([vec![5; 20], [999_999]]), 400).await,
        600
    );
    let broken = serde_json::json!([vec![5; 20], [crate::engine::generate::fake::POISON]]);
    assert!(left(broken, 500).await <= 600 - 21);
}

#[tokio::test]
async fn a_refusal_has_the_shape_of_its_dialect() {
    let (server, _) = limited(Some(1), None);
    assert_eq!(call(&server, "/embed", "one").await.status, 200);
    let tei = call(&server, "/embed", "one").await;
    assert_eq!(
        (tei.status.as_u16(), tei.json()["error_type"].as_str()),
        (429, Some("Overloaded"))
    );
    let ollama = call(&server, "/api/embed", "one").await;
    assert!(
        ollama.json()["error"]
            .as_str()
            .unwrap()
            .starts_with("Rate limit reached")
    );
    let vllm = call(&server, "/pooling", "one").await;
    assert_eq!(vllm.json()["error"]["type"], "RateLimitError");
    for answer in [tei, ollama, vllm] {
        assert_eq!(answer.status, 429);
        assert_eq!(answer.header("retry-after"), "60");
    }
}

#[tokio::test]
async fn tokens_are_counted_when_they_are_known() {
    let (server, time) = limited(None, Some(6));
    let first = call(&server, "/v1/embeddings", "one").await;
    let tokens = first.json()["usage"]["total_tokens"].as_u64().unwrap();
    assert_eq!(tokens, 4);
    assert_eq!(first.header("x-ratelimit-remaining-tokens"), "2");
    let second = call(&server, "/v1/embeddings", "one").await;
    assert_eq!(second.status, 200, "there was something left");
    assert_eq!(second.header("x-ratelimit-remaining-tokens"), "0");
    let refused = call(&server, "/v1/embeddings", "one").await;
    assert!(refused.error(429).contains("6 tokens per minute"));
    // A debt of two, and one to go on with, at a token every ten seconds.
    assert_eq!(refused.header("retry-after"), "30");
    *time.lock().unwrap() += Duration::from_secs(30);
    assert_eq!(call(&server, "/v1/embeddings", "one").await.status, 200);
}

#[tokio::test]
async fn looking_and_managing_are_free_and_wrong_keys_take_nothing() {
    let (server, _) = limited(Some(1), None);
    for _ in 0..3 {
        assert_eq!(server.get("/v1/cluster/auth").await.status, 200);
        assert_eq!(server.get("/health").await.status, 200);
        let request = Request::get("/v1/models").header("x-api-key", "one");
        let list = server.send(request.body(Body::empty()).unwrap()).await;
        assert_eq!(list.status, 200);
        let cancel = call(&server, "/v1/models/fake/cancel", "admin").await;
        assert_ne!(cancel.status, 429);
        assert_eq!(call(&server, "/v1/embeddings", "wrong").await.status, 401);
    }
    assert_eq!(call(&server, "/v1/embeddings", "one").await.status, 200);
    assert_eq!(call(&server, "/v1/embeddings", "one").await.status, 429);
}

#[tokio::test]
async fn without_keys_all_callers_are_one() {
    let rate = RateSettings {
        requests_per_minute: Some(1),
        ..RateSettings::default()
    };
    let server = Server::with_settings(ApiSettings {
        rate,
        ..ApiSettings::default()
    });
    assert_eq!(call(&server, "/v1/embeddings", "a").await.status, 200);
    assert_eq!(call(&server, "/v1/embeddings", "b").await.status, 429);
}

/// A request of a page of another origin.
fn page(method: &str, path: &str) -> http::request::Builder {
    Request::builder()
        .method(method)
        .uri(path)
        .header("host", "127.0.0.1:9997")
        .header("origin", "https://app.example")
}

/// What a browser asks before it lets a page send `method`.
async fn preflight(server: &Server, method: &str, path: &str) -> Answer {
    let request = page("OPTIONS", path).header("access-control-request-method", method);
    server.send(request.body(Body::empty()).unwrap()).await
}

const ALLOWED: &str = "access-control-allow-origin";

#[tokio::test]
async fn pages_infer_and_do_not_manage() {
    let server = Server::family();
    for route in crate::api::ROUTES {
        for path in route.paths {
            let path = path
                .replace("{*file}", "index.html")
                .replace(['{', '}'], "");
            let answer = preflight(&server, route.method.as_str(), &format!("{path}/")).await;
            let manages = route.access == crate::api::Access::Admin;
            assert_eq!(
                answer.header(ALLOWED).is_empty(),
                manages,
                "{} {path}",
                route.method
            );
        }
    }
    // A browser sends such a request without asking, because anybody's form could.
    let launch = page("POST", "/v1/models").header("content-type", "text/plain");
    let body = r#"{"model_name":"bge-m3"}"#;
    let refused = server.send(launch.body(Body::from(body)).unwrap()).await;
    assert!(refused.error(403).contains("cors_admin"));
    assert_eq!(refused.header(ALLOWED), "");
    let embed = page("POST", "/v1/embeddings").body(Body::from(r#"{"input":"a"}"#));
    let embed = server.send(embed.unwrap()).await;
    assert_eq!((embed.status.as_u16(), embed.header(ALLOWED)), (200, "*"));
    // The page of this server's own documentation.
    let own = Request::post("/v1/models/fake/cancel")
        .header("host", "127.0.0.1:9997")
        .header("origin", "http://127.0.0.1:9997");
    let own = server.send(own.body(Body::empty()).unwrap()).await;
    assert_eq!(
        own.status,
        400,
        "it is let in, and has nothing to cancel: {}",
        own.text()
    );
}

#[tokio::test]
async fn pages_manage_where_that_was_allowed() {
    let server = Server::with_settings(ApiSettings {
        pages_may: PagesMay::Manage,
        ..ApiSettings::default()
    });
    let answer = preflight(&server, "DELETE", "/v1/models/fake").await;
    assert_eq!(answer.header(ALLOWED), "*");
    let cancel = page("POST", "/v1/models/fake/cancel").body(Body::empty());
    let cancel = server.send(cancel.unwrap()).await;
    assert_eq!(
        (cancel.status.as_u16(), cancel.header(ALLOWED)),
        (400, "*"),
        "it is let in, and has nothing to cancel"
    );
}
