//! A load client that costs next to nothing, because it shares the cores with the service: the
//! requests are bytes made beforehand, and of an answer only the head is looked at.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use serde::Serialize;
use serde_json::{Value, json};

use crate::measure::Outcome;

/// No answer takes longer, or something is broken.
const PATIENCE: Duration = Duration::from_secs(300);

/// How the vectors of an answer are written.
#[derive(Debug, Clone, Copy)]
pub enum Format {
    /// Numbers in JSON.
    Float,
    /// Their bytes in base64.
    Base64,
}

/// The bytes of a request for the vectors of `texts`.
pub fn embeddings<T: Serialize>(texts: &[T], format: Format) -> Vec<u8> {
    let format = match format {
        Format::Float => "float",
        Format::Base64 => "base64",
    };
    post(
        "/v1/embeddings",
        &json!({ "input": texts, "encoding_format": format }),
    )
}

/// The bytes of a request for the logits of `documents`.
pub fn rerank(query: &Value, documents: &Value) -> Vec<u8> {
    let body = json!({ "query": query, "documents": documents, "raw_scores": true });
    post("/v1/rerank", &body)
}

/// The bytes of a request with a body.
pub fn post(path: &str, body: &Value) -> Vec<u8> {
    let body = body.to_string();
    let length = body.len();
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
         content-length: {length}\r\n\r\n"
    );
    [head.as_bytes(), body.as_bytes()].concat()
}

/// The bytes of a request to remove something.
pub fn delete(path: &str) -> Vec<u8> {
    format!("DELETE {path} HTTP/1.1\r\nhost: localhost\r\n\r\n").into_bytes()
}

/// The bytes of a request that has no body.
pub fn get(path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n").into_bytes()
}

/// One connection, used by one thread.
pub struct Connection(TcpStream);

/// What came back.
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// All of the body.
    pub body: Vec<u8>,
}

impl Connection {
    /// Connects, without delaying small writes.
    pub fn open(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Self(stream))
    }

    /// Sends a request and reads its answer.
    pub fn exchange(&mut self, request: &[u8]) -> io::Result<Answer> {
        self.0.write_all(request)?;
        let mut bytes = Vec::with_capacity(16 * 1024);
        let mut chunk = [0; 16 * 1024];
        loop {
            if let Some(head) = Head::parse(&bytes)?
                && bytes.len() >= head.end + head.body
            {
                return Ok(Answer {
                    status: head.status,
                    body: bytes.split_off(head.end),
                });
            }
            match self.0.read(&mut chunk) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(read) => bytes.extend_from_slice(&chunk[..read]),
                // The process was stopped for a while, and goes on.
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Sends a request whose answer must be a success, and returns its body.
    pub fn expect(&mut self, request: &[u8]) -> Outcome<Vec<u8>> {
        let Answer { status, body } = self.exchange(request)?;
        match status {
            200 => Ok(body),
            _ => Err(format!("HTTP {status}: {}", String::from_utf8_lossy(&body)).into()),
        }
    }
}

/// Requests that keep a number of connections busy until all are answered.
pub struct Load {
    /// Where the service listens.
    pub address: SocketAddr,
    /// Complete requests, taken in turn.
    pub requests: Arc<[Vec<u8>]>,
    /// Connections; each sends its next request when it has the answer to the last.
    pub connections: usize,
}

/// What a load run took. Every request was answered with a success, or there would be none.
pub struct Answered {
    /// From the first request to the last answer.
    pub seconds: f64,
    /// Of each request, in no order.
    pub latencies: Vec<f64>,
}

impl Load {
    /// Sends every request once.
    ///
    /// # Errors
    /// When any request is refused or fails.
    pub fn run(&self) -> Outcome<Answered> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .build()?;
        runtime.block_on(async {
            let mut streams = Vec::new();
            for _ in 0..self.connections {
                let stream = tokio::net::TcpStream::connect(self.address).await?;
                stream.set_nodelay(true)?;
                streams.push(stream);
            }
            let next = Arc::new(AtomicUsize::new(0));
            let started = Instant::now();
            let mut connections = tokio::task::JoinSet::new();
            for stream in streams {
                connections.spawn(keep_busy(stream, self.requests.clone(), next.clone()));
            }
            let mut latencies = Vec::with_capacity(self.requests.len());
            while let Some(connection) = connections.join_next().await {
                latencies.extend(connection??);
            }
            Ok(Answered {
                seconds: started.elapsed().as_secs_f64(),
                latencies,
            })
        })
    }
}

async fn keep_busy(
    stream: tokio::net::TcpStream,
    requests: Arc<[Vec<u8>]>,
    next: Arc<AtomicUsize>,
) -> io::Result<Vec<f64>> {
    let mut latencies = Vec::new();
    let mut buffer = vec![0; 64 * 1024];
    while let Some(request) = requests.get(next.fetch_add(1, Ordering::Relaxed)) {
        let started = Instant::now();
        match exchange(&stream, request, &mut buffer).await? {
            200 => latencies.push(started.elapsed().as_secs_f64()),
            status => return Err(io::Error::other(format!("a request got HTTP {status}"))),
        }
    }
    Ok(latencies)
}

/// Sends a request and reads its answer to the end, keeping nothing but the status.
async fn exchange(
    stream: &tokio::net::TcpStream,
    request: &[u8],
    buffer: &mut [u8],
) -> io::Result<u16> {
    let mut sent = 0;
    while sent < request.len() {
        stream.writable().await?;
        sent += or_later(stream.try_write(&request[sent..]))?;
    }
    // The head comes in the first read or two; of the body only its length matters.
    let (mut read, mut head) = (0, None);
    loop {
        stream.readable().await?;
        let space = if head.is_none() { read } else { 0 };
        match stream.try_read(&mut buffer[space..]) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            result => read += or_later(result)?,
        }
        if head.is_none() {
            head = Head::parse(&buffer[..read])?;
        }
        if let Some(head) = &head
            && read >= head.end + head.body
        {
            return Ok(head.status);
        }
    }
}

/// Sends a request and reads its answer to the end: head and body.
pub async fn exchange_whole(stream: &tokio::net::TcpStream, request: &[u8]) -> io::Result<Vec<u8>> {
    let mut sent = 0;
    while sent < request.len() {
        stream.writable().await?;
        sent += or_later(stream.try_write(&request[sent..]))?;
    }
    let mut bytes = Vec::with_capacity(16 * 1024);
    loop {
        stream.readable().await?;
        match stream.try_read_buf(&mut bytes) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            result => or_later(result)?,
        };
        if let Some(head) = Head::parse(&bytes)?
            && bytes.len() >= head.end + head.body
        {
            return Ok(bytes);
        }
    }
}

/// A socket that is not ready after all has moved no bytes.
fn or_later(moved: io::Result<usize>) -> io::Result<usize> {
    match moved {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
        moved => moved,
    }
}

/// The part of an answer before its body.
pub struct Head {
    /// The HTTP status.
    pub status: u16,
    /// Where the body starts.
    pub end: usize,
    /// Bytes of the body.
    pub body: usize,
}

impl Head {
    /// Reads a head, or nothing while it is incomplete.
    pub fn parse(bytes: &[u8]) -> io::Result<Option<Self>> {
        let Some(end) = bytes.windows(4).position(|bytes| bytes == b"\r\n\r\n") else {
            return Ok(None);
        };
        let text = String::from_utf8_lossy(&bytes[..end]);
        let malformed = || io::Error::other(format!("an answer begins with `{text}`"));
        let status = text.get(9..12).and_then(|status| status.parse().ok());
        let length = text.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("content-length")
                .then(|| value.trim().parse().ok())?
        });
        let (status, body) = status.zip(length).ok_or_else(malformed)?;
        Ok(Some(Self {
            status,
            end: end + 4,
            body,
        }))
    }
}
