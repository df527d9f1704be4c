//! Chats with models that servers elsewhere have.

use std::{
    io::{Read, Write},
    net::TcpListener,
};

use serde_json::json;

use super::{
    chat::{add, hello},
    *,
};
use crate::{api::upstream::Upstreams, config::UpstreamConfig};

fn upstream(url: String, model: &str) -> UpstreamConfig {
    UpstreamConfig {
        url,
        models: vec![model.into()],
        api_key: Some(crate::config::Secret::new("s3cret")),
    }
}

fn in_front_of(upstreams: &[UpstreamConfig]) -> ApiSettings {
    ApiSettings {
        upstreams: Upstreams::new(upstreams),
        ..ApiSettings::default()
    }
}

/// A server elsewhere that answers everything with what it was sent, in two pieces.
async fn elsewhere() -> String {
    let echo = async |headers: HeaderMap, body: String| {
        let key = headers["authorization"].to_str().unwrap().to_owned();
        let events = format!("data: {key}\n\ndata: {body}\n\n");
        ([("content-type", "text/event-stream")], events)
    };
    let router = Router::new()
        .route("/v1/chat/completions", axum::routing::post(echo))
        .route(
            "/v1/completions",
            axum::routing::post(async || StatusCode::IM_A_TEAPOT),
        );
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await });
    format!("http://{address}")
}

#[tokio::test]
async fn chats_with_models_elsewhere_are_passed_on() {
    let closed = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let nobody = format!("http://{}", closed.local_addr().unwrap());
    drop(closed);
    let there = elsewhere().await;
    let upstreams = [upstream(there.clone(), "large"), upstream(nobody, "gone")];
    let server = Server::with_settings(in_front_of(&upstreams));
    add(&server, "here");
    // Nothing of the body is understood here, and nothing of it is lost.
    let body = r#"{"model":"large","messages":5, "stream":true,"new":{"a":[]}}"#;
    let answer = server.post("/v1/chat/completions", body).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.header("content-type"), "text/event-stream");
    assert_eq!(answer.header("x-accel-buffering"), "no");
    assert_eq!(
        answer.text(),
        format!("data: Bearer s3cret\n\ndata: {body}\n\n")
    );
    let teapot = server.post("/completions", body).await;
    assert_eq!(
        (teapot.status.as_u16(), teapot.header("x-accel-buffering")),
        (418, "")
    );
    let gone = server
        .post("/v1/chat/completions", r#"{"model":"gone"}"#)
        .await;
    let told = gone.error(502);
    assert!(
        told.contains("`gone` cannot be reached") && !told.contains("127.0.0.1"),
        "{told}"
    );
    let here = server.ok("/v1/chat/completions", &hello()).await;
    assert_eq!(here["choices"][0]["message"]["content"], "here");
    assert!(server.metrics().contains(r#"model="large",code="200""#));
    let list = server.get("/v1/models").await.json();
    let models = list["data"].as_array().unwrap().iter();
    let ids: Vec<&str> = models.map(|model| model["id"].as_str().unwrap()).collect();
    assert_eq!(ids, ["fake", "chat", "gone", "large"]);
    let large = server.get("/v1/models/large").await.json();
    assert_eq!(large["model_ability"], json!(["generate", "chat"]));
    assert_eq!(large["state"], "upstream");
    let there = there.trim_start_matches("http://");
    assert!(!large.to_string().contains(there), "{large}");
}

#[tokio::test]
async fn a_model_that_is_here_or_in_the_address_is_not_asked_for_elsewhere() {
    let there = elsewhere().await;
    let upstreams = [upstream(there.clone(), "chat"), upstream(there, "org/chat")];
    let server = Server::with_settings(in_front_of(&upstreams));
    let path = "/v1/chat/completions";
    assert!(
        server
            .post(path, hello().to_string())
            .await
            .text()
            .contains("s3cret")
    );
    add(&server, "here");
    let content = async |path: &str, model: &str| {
        let mut body = hello();
        body["model"] = model.into();
        server.post(path, body.to_string()).await.text()
    };
    assert!(content(path, "chat").await.contains(r#""content":"here""#));
    // The upstream's own name goes before what a model here is called besides.
    assert!(content(path, "org/chat").await.contains("s3cret"));
    for addressed in [
        "/tei/chat/v1/chat/completions",
        "/v1/chat/completions?model=chat",
    ] {
        let answer = content(addressed, "org/chat").await;
        assert!(
            answer.contains(r#""content":"here""#),
            "{addressed}: {answer}"
        );
    }
}

#[tokio::test]
async fn no_model_is_launched_under_the_name_of_one_elsewhere() {
    let upstreams = [upstream("http://127.0.0.1:1".into(), "bge-m3")];
    let server = Server::with_settings(in_front_of(&upstreams));
    for body in [
        json!({"model_name": "bge-m3"}),
        json!({"model_name": "BAAI/bge-m3"}),
        json!({"model_name": "bge-small-en-v1.5", "model_uid": "bge-m3"}),
    ] {
        let answer = server.post("/v1/models", body.to_string()).await;
        let told = answer.error(400);
        assert!(
            told.starts_with("Model is already in the model list, uid: bge-m3; an `[[upstream]]`"),
            "{told}"
        );
        assert_eq!(answer.json()["error"]["code"], "model_already_served");
    }
}

#[tokio::test]
async fn an_answer_that_stands_still_elsewhere_is_ended() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let there = std::thread::spawn(move || {
        let (mut connection, _) = listener.accept().unwrap();
        connection
            .set_read_timeout(Some(Duration::from_secs(30)))
            .unwrap();
        let mut bytes = [0; 4096];
        assert!(connection.read(&mut bytes).unwrap() > 0);
        let answer = "HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\na piece";
        connection.write_all(answer.as_bytes()).unwrap();
        // What is left of the request, then nothing, once the other side has hung up.
        while connection.read(&mut bytes).unwrap() > 0 {}
    });
    let settings = ApiSettings {
        request_timeout: Duration::from_millis(500),
        ..in_front_of(&[upstream(url, "slow")])
    };
    let server = Server::with_settings(settings);
    let body = Body::from(r#"{"model":"slow"}"#);
    let request = Request::post("/v1/completions").body(body);
    let response = server.begin(request.unwrap()).await;
    assert_eq!(response.status(), 200);
    let read = tokio::time::timeout(Duration::from_secs(30), response.into_body().collect());
    assert!(read.await.expect("it ends").is_err());
    tokio::task::spawn_blocking(|| there.join().unwrap())
        .await
        .unwrap();
}
