//! A small HTTP client over `ureq` whose errors are answers, and raw sockets for what no
//! well-behaved client sends.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use serde_json::Value;

/// Talks to one server.
#[derive(Clone)]
pub struct Client {
    agent: ureq::Agent,
    address: SocketAddr,
    key: Option<String>,
}

/// Status, headers and body of an answer.
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The headers.
    pub headers: http::HeaderMap,
    /// The body.
    pub body: String,
}

impl Client {
    /// A client without a key.
    pub fn new(address: SocketAddr) -> Self {
        let config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(Duration::from_secs(300)))
            .max_idle_connections_per_host(64)
            .build();
        Self {
            agent: config.into(),
            address,
            key: None,
        }
    }

    /// The same client with a key.
    pub fn with_key(&self, key: &str) -> Self {
        Self {
            key: Some(key.into()),
            ..self.clone()
        }
    }

    /// GETs a path.
    pub fn get(&self, path: &str) -> Answer {
        let mut request = self.agent.get(self.url(path));
        if let Some(key) = &self.key {
            request = request.header("Authorization", format!("Bearer {key}"));
        }
        answer(request.call())
    }

    /// DELETEs a path.
    pub fn delete(&self, path: &str) -> Answer {
        let mut request = self.agent.delete(self.url(path));
        if let Some(key) = &self.key {
            request = request.header("Authorization", format!("Bearer {key}"));
        }
        answer(request.call())
    }

    /// POSTs JSON to a path.
    pub fn post(&self, path: &str, body: &Value) -> Answer {
        self.post_bytes(path, body.to_string().as_bytes())
    }

    /// POSTs any bytes as if they were JSON.
    pub fn post_bytes(&self, path: &str, body: &[u8]) -> Answer {
        let mut request = self
            .agent
            .post(self.url(path))
            .header("Content-Type", "application/json");
        if let Some(key) = &self.key {
            request = request.header("Authorization", format!("Bearer {key}"));
        }
        answer(request.send(body))
    }

    /// Embeds texts with a model; the vectors.
    pub fn embed(&self, model: &str, texts: &[&str]) -> Vec<Vec<f64>> {
        let body = serde_json::json!({"model": model, "input": texts});
        let answer = self.post("/v1/embeddings", &body);
        assert_eq!(answer.status, 200, "{}", answer.body);
        answer.vectors()
    }

    /// Sends bytes as they are and closes the sending half; whatever comes back.
    pub fn raw(&self, bytes: &[u8]) -> Vec<u8> {
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(60)))
            .unwrap();
        // The server may refuse before everything is sent; then writing fails, which is fine.
        let _ = stream
            .write_all(bytes)
            .and_then(|()| stream.shutdown(std::net::Shutdown::Write));
        let mut back = Vec::new();
        let _ = stream.read_to_end(&mut back);
        back
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }
}

impl Answer {
    /// The body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.body))
    }

    /// The vectors of an OpenAI embeddings answer, after a check of their numbering.
    pub fn vectors(&self) -> Vec<Vec<f64>> {
        let body = self.json();
        let data = body["data"].as_array().unwrap();
        assert!(
            data.iter().enumerate().all(|(i, item)| item["index"] == i),
            "{}",
            self.body
        );
        let numbers = |item: &Value| {
            item["embedding"]
                .as_array()
                .unwrap()
                .iter()
                .map(|x| x.as_f64().unwrap())
                .collect()
        };
        data.iter().map(numbers).collect()
    }

    /// Panics unless this is an error of this status in the shape that all clients read.
    pub fn assert_error(&self, status: u16) -> String {
        assert_eq!(self.status, status, "{}", self.body);
        let body = self.json();
        let message = body["error"]["message"].as_str().expect("error.message");
        assert_eq!(body["detail"].as_str(), Some(message), "detail is a string");
        assert_eq!(body["message"].as_str(), Some(message));
        assert!(body["error"]["type"].is_string() && body["error"]["code"].is_string());
        message.to_owned()
    }
}

fn answer(result: Result<http::Response<ureq::Body>, ureq::Error>) -> Answer {
    let response = result.unwrap_or_else(|error| panic!("no answer: {error}"));
    let (head, mut body) = response.into_parts();
    let body = body.with_config().limit(1 << 30).read_to_string().unwrap();
    Answer {
        status: head.status.as_u16(),
        headers: head.headers,
        body,
    }
}
