//! The service over HTTP with a real model: right answers in the right order for many clients at
//! once, and none of it disturbed by clients that misbehave.

use std::{
    io::Write,
    net::{Shutdown, TcpStream},
    time::Duration,
};

use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::{Value, json};

use crate::support::{golden, server::Server};

const TEXTS: [&str; 6] = [
    "The harbour was quiet before dawn.",
    "Wie viele Äpfel liegen im Korb?",
    "这座桥是去年修好的。",
    "",
    "short",
    "El tren sale a las ocho y llega antes del mediodía, si no nieva en el puerto.",
];

fn closeness(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter()
        .zip(b)
        .map(|(a, b)| (a - b).abs())
        .fold(0.0, f64::max)
}

/// The first texts and vectors of MiniLM's goldens.
fn minilm_goldens(count: usize) -> Vec<(String, Vec<f64>)> {
    let texts: Value =
        serde_json::from_slice(&std::fs::read(golden("minilm/texts.json")).unwrap()).unwrap();
    let bytes = std::fs::read(golden("minilm/embeddings.f32")).unwrap();
    let floats: Vec<f64> = bytes
        .as_chunks::<4>()
        .0
        .iter()
        .map(|b| f64::from(f32::from_le_bytes(*b)))
        .collect();
    let texts = texts["texts"].as_array().unwrap();
    let text = |t: &Value| t["text"].as_str().unwrap().to_owned();
    texts
        .iter()
        .map(text)
        .zip(floats.chunks(384).map(<[f64]>::to_vec))
        .take(count)
        .collect()
}

#[test]
fn one_request_is_answered_as_openai_would() {
    let body = json!({"model": "minilm", "input": TEXTS});
    let answer = Server::shared().client().post("/v1/embeddings", &body);
    assert_eq!(answer.status, 200, "{}", answer.body);
    let json = answer.json();
    assert_eq!(
        (&json["object"], &json["model"]),
        (&json!("list"), &json!("minilm"))
    );
    assert!(json["usage"]["total_tokens"].as_u64().unwrap() > 20);
    for vector in answer.vectors() {
        let norm = vector.iter().map(|x| x * x).sum::<f64>().sqrt();
        assert_eq!(vector.len(), 384);
        assert!((norm - 1.0).abs() < 1e-5, "norm {norm}");
    }
}

#[test]
fn many_clients_with_one_text_each_get_their_own_vector() {
    let goldens = minilm_goldens(96);
    std::thread::scope(|scope| {
        for chunk in goldens.chunks(3) {
            scope.spawn(move || {
                let client = Server::shared().client();
                for (text, expected) in chunk {
                    let got = client.embed("minilm", &[text]);
                    let off = closeness(&got[0], expected);
                    assert!(off < 1e-4, "{text:?} is off by {off:e}");
                }
            });
        }
    });
}

#[test]
fn a_request_of_two_thousand_inputs_is_answered_in_order() {
    let client = Server::shared().client();
    let texts: Vec<String> = (0..2048)
        .map(|i| format!("item {} of {}", i, i % 7))
        .collect();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let all = client.embed("tiny", &texts);
    assert_eq!(all.len(), 2048);
    for index in [0, 1, 1023, 1024, 2000, 2047] {
        let alone = client.embed("tiny", &[texts[index]]);
        assert!(closeness(&all[index], &alone[0]) < 1e-5, "input {index}");
    }
    let mut more = texts;
    more.push("one too many");
    let body = json!({"model": "tiny", "input": more});
    let message = client.post("/v1/embeddings", &body).assert_error(400);
    assert!(
        message.contains("2049") && message.contains("2048"),
        "{message}"
    );
}

#[test]
fn base64_and_dimensions_are_the_same_vector() {
    let client = Server::shared().client();
    let full = client.embed("minilm", &TEXTS);
    let body = json!({"model": "minilm", "input": TEXTS, "encoding_format": "base64"});
    let answer = client.post("/v1/embeddings", &body).json();
    for (item, vector) in answer["data"].as_array().unwrap().iter().zip(&full) {
        let bytes = BASE64_STANDARD
            .decode(item["embedding"].as_str().unwrap())
            .unwrap();
        let decoded: Vec<f64> = bytes
            .as_chunks::<4>()
            .0
            .iter()
            .map(|b| f64::from(f32::from_le_bytes(*b)))
            .collect();
        // Another request may be batched otherwise, which moves the last bit of a float32.
        assert!(closeness(&decoded, vector) < 1e-6);
    }
    let body = json!({"model": "minilm", "input": TEXTS, "dimensions": 64});
    for (cut, full) in client
        .post("/v1/embeddings", &body)
        .vectors()
        .iter()
        .zip(&full)
    {
        let norm = full[..64].iter().map(|x| x * x).sum::<f64>().sqrt();
        let expected: Vec<f64> = full[..64].iter().map(|x| x / norm).collect();
        assert!(closeness(cut, &expected) < 1e-6);
    }
}

#[test]
fn a_cut_is_told() {
    let long = "word ".repeat(1000);
    let body = json!({"model": "minilm", "input": ["short", long]});
    let answer = Server::shared().client().post("/v1/embeddings", &body);
    assert_eq!(answer.status, 200);
    let header = answer
        .headers
        .get("x-retort-truncated")
        .expect("the header");
    assert!(header.to_str().unwrap().contains("746"), "{header:?}");
    let details = &answer.json()["usage"]["details"];
    assert_eq!(details[0]["tokens_cut"], 0);
    assert_eq!(
        (&details[1]["tokens"], &details[1]["tokens_cut"]),
        (&json!(256), &json!(746))
    );
    let body = json!({"model": "minilm", "input": ["short", long], "truncate": "NONE"});
    let refused = Server::shared().client().post("/v1/embeddings", &body);
    let message = refused.assert_error(400);
    assert!(
        message.contains("1002") && message.contains("256"),
        "{message}"
    );
    assert_eq!(refused.json()["error"]["code"], "context_length_exceeded");
}

#[test]
fn bad_requests_get_a_clear_answer_and_harm_nobody() {
    let client = Server::shared().client();
    let nested = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let table: &[(&[u8], &str)] = &[
        (b"", "empty"),
        (b"not json", "not JSON"),
        (b"{\"input\": NaN}", "NaN"),
        (b"{\"input\": \"\xff\xfe\"}", "bad UTF-8"),
        (b"[]", "not an object"),
        (b"{}", "no input"),
        (b"{\"model\":\"tiny\",\"input\":[]}", "empty list"),
        (b"{\"model\":\"tiny\",\"input\":null}", "null input"),
        (b"{\"model\":\"tiny\",\"input\":[1.5]}", "fractional id"),
        (
            b"{\"model\":\"tiny\",\"input\":[[4000000000]]}",
            "absurd id",
        ),
        (b"{\"model\":\"tiny\",\"input\":[-1]}", "negative id"),
        (
            b"{\"model\":\"tiny\",\"input\":\"x\",\"dimensions\":1000000}",
            "huge dimensions",
        ),
        (
            b"{\"model\":\"tiny\",\"input\":\"x\",\"encoding_format\":\"xml\"}",
            "odd format",
        ),
        (nested.as_bytes(), "deep nesting"),
    ];
    for (body, what) in table {
        let answer = client.post_bytes("/v1/embeddings", body);
        let message = answer.assert_error(400);
        assert!(!message.is_empty(), "{what}");
    }
    let unknown = json!({"model": "nobody", "input": "x"});
    let message = client.post("/v1/embeddings", &unknown).assert_error(404);
    assert!(
        message.contains("not found") && message.contains("tiny"),
        "{message}"
    );
    client.get("/v1/nothing").assert_error(404);
    client.get("/v1/embeddings").assert_error(405);
    assert_eq!(client.embed("tiny", &["still here"]).len(), 1);
}

#[test]
fn a_body_over_the_limit_is_refused() {
    let client = Server::shared().client();
    let message = client
        .post_bytes("/v1/embeddings", &vec![b'['; 100 << 20])
        .assert_error(413);
    assert!(message.contains("max_body_bytes"), "{message}");
    assert_eq!(client.embed("tiny", &["still here"]).len(), 1);
}

#[test]
fn clients_that_hang_up_cost_the_others_nothing() {
    let server = Server::shared();
    let whole = json!({"model": "minilm", "input": vec!["a text to be embedded"; 64]}).to_string();
    let head = format!(
        "POST /v1/embeddings HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n",
        whole.len()
    );
    for cut in [
        10,
        head.len(),
        head.len() + whole.len() / 2,
        head.len() + whole.len(),
    ] {
        for _ in 0..5 {
            let mut stream = TcpStream::connect(server.address()).unwrap();
            let bytes = format!("{head}{whole}");
            stream.write_all(&bytes.as_bytes()[..cut]).unwrap();
            stream.shutdown(Shutdown::Both).unwrap();
        }
    }
    for garbage in [
        &b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc"[..],
        b"GET\r\n\r\n",
        &[0; 4096],
    ] {
        server.client().raw(garbage);
    }
    assert_eq!(server.client().embed("minilm", &["still here"]).len(), 1);
}

#[test]
fn a_full_queue_answers_429_and_loses_nothing() {
    let tiny = format!("tiny={}", golden("checkpoints/bert-tiny-cls-h64").display());
    let server = Server::start(&[("model", &tiny), ("max-queue-tokens", "512")]);
    // Equal texts would be run once.
    let texts: Vec<String> = (1..=40).map(|n| "the quick red train ".repeat(n)).collect();
    let (mut served, mut refused) = (0, 0);
    let answers: Vec<_> = std::thread::scope(|scope| {
        let ask = || {
            server
                .client()
                .post("/v1/embeddings", &json!({"input": texts}))
        };
        let threads: Vec<_> = (0..24).map(|_| scope.spawn(ask)).collect();
        threads.into_iter().map(|t| t.join().unwrap()).collect()
    });
    for answer in answers {
        match answer.status {
            200 => {
                assert_eq!(answer.vectors().len(), 40);
                served += 1;
            }
            _ => {
                let message = answer.assert_error(429);
                assert!(message.contains("max_queue_tokens"), "{message}");
                let seconds: u64 = answer.headers["retry-after"]
                    .to_str()
                    .unwrap()
                    .parse()
                    .unwrap();
                assert!((1..=300).contains(&seconds));
                refused += 1;
            }
        }
    }
    assert!(
        served > 0 && refused > 0,
        "{served} served, {refused} refused"
    );
}

#[test]
fn a_service_tells_how_it_is() {
    let client = Server::shared().client();
    for path in [
        "/health",
        "/livez",
        "/readyz",
        "/version",
        "/docs",
        "/openapi.json",
    ] {
        assert_eq!(client.get(path).status, 200, "{path}");
    }
    let models = client.get("/v1/models").json();
    let names: Vec<_> = models["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|m| &m["id"])
        .collect();
    assert_eq!(names, ["tiny", "minilm"]);
    let minilm = client.get("/v1/models/minilm").json();
    assert_eq!(
        (&minilm["dimensions"], &minilm["max_tokens"]),
        (&json!(384), &json!(256))
    );
    assert_eq!(minilm["model_type"], "embedding");
    client.embed("minilm", &["counted"]);
    let metrics = client.get("/metrics").body;
    for name in [
        "retort_requests_total",
        "retort_batch_tokens",
        "retort_queue_tokens",
    ] {
        assert!(metrics.contains(name), "{name} is not in /metrics");
    }
}

#[test]
fn keys_are_asked_for_when_there_are_any() {
    let tiny = format!("tiny={}", golden("checkpoints/bert-tiny-mean").display());
    let server = Server::start(&[("model", &tiny), ("api-key", "s3cret")]);
    let body = json!({"input": "x"});
    for client in [server.client(), server.client().with_key("wrong")] {
        let answer = client.post("/v1/embeddings", &body);
        answer.assert_error(401);
        assert_eq!(answer.headers["www-authenticate"], "Bearer");
        assert_eq!(client.get("/health").status, 200);
    }
    assert_eq!(
        server
            .client()
            .with_key("s3cret")
            .post("/v1/embeddings", &body)
            .status,
        200
    );
}

#[test]
fn a_slow_body_does_not_hold_up_the_others() {
    let server = Server::shared();
    let mut slow = TcpStream::connect(server.address()).unwrap();
    slow.set_read_timeout(Some(Duration::from_secs(60)))
        .unwrap();
    let body = json!({"model": "tiny", "input": "slow"}).to_string();
    let head = format!(
        "POST /v1/embeddings HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\
         Content-Length: {}\r\n\r\n",
        body.len()
    );
    slow.write_all(head.as_bytes()).unwrap();
    for byte in body.as_bytes() {
        slow.write_all(&[*byte]).unwrap();
        slow.flush().unwrap();
        assert_eq!(server.client().embed("tiny", &["quick"]).len(), 1);
    }
    let mut back = String::new();
    std::io::Read::read_to_string(&mut slow, &mut back).unwrap();
    assert!(back.starts_with("HTTP/1.1 200"), "{back}");
}
