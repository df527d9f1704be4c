//! A hub on this machine that speaks what Hugging Face and ModelScope speak, and misbehaves on
//! demand.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use sha2::{Digest, Sha256};

pub(super) const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
const CONNECTIONS_MAX: usize = 200;

/// A request as it arrived.
#[derive(Debug, Clone)]
pub(super) struct Seen {
    pub method: String,
    /// Path and query.
    pub target: String,
    /// Names in lower case.
    pub headers: BTreeMap<String, String>,
}

impl Seen {
    pub fn asks_for(&self, file: &str) -> bool {
        let path = self.target.split('?').next().unwrap_or_default();
        path.ends_with(&format!("/{file}"))
    }

    /// First byte of the asked range.
    pub fn from(&self) -> Option<usize> {
        self.headers
            .get("range")?
            .strip_prefix("bytes=")?
            .strip_suffix('-')?
            .parse()
            .ok()
    }
}

/// What is sent back.
#[derive(Debug, Clone, Default)]
pub(super) struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// Bytes of the body after which the connection is cut.
    pub cut_at: Option<usize>,
}

impl Answer {
    pub fn status(status: u16) -> Self {
        Self {
            status,
            ..Self::default()
        }
    }

    pub fn ok(body: impl Into<Vec<u8>>) -> Self {
        Self {
            status: 200,
            body: body.into(),
            ..Self::default()
        }
    }

    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The part of this body that the request asks for.
    pub fn ranged(mut self, seen: &Seen) -> Self {
        let Some(from) = seen.from() else { return self };
        let total = self.body.len();
        if from >= total {
            return Self::status(416);
        }
        self.status = 206;
        self.body.drain(..from);
        self.header(
            "Content-Range",
            &format!("bytes {from}-{}/{total}", total - 1),
        )
    }
}

/// A server that answers with a function until it is dropped.
pub(super) struct FakeHub {
    address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    stop: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl FakeHub {
    pub fn new(answer: impl Fn(&Seen) -> Answer + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("a bound listener");
        let seen = Arc::new(Mutex::new(Vec::new()));
        let stop = Arc::new(AtomicBool::new(false));
        let (record, stopped) = (Arc::clone(&seen), Arc::clone(&stop));
        let thread = thread::spawn(move || {
            for stream in listener.incoming().take(CONNECTIONS_MAX) {
                if stopped.load(Ordering::SeqCst) {
                    return;
                }
                let Ok(stream) = stream else { continue };
                let Some(request) = read_request(&stream) else {
                    continue;
                };
                record
                    .lock()
                    .expect("no panic while recording")
                    .push(request.clone());
                send(stream, &request, &answer(&request));
            }
        });
        Self {
            address,
            seen,
            stop,
            thread: Some(thread),
        }
    }

    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().expect("no panic while recording").clone()
    }

    /// The `GET` requests for one file.
    pub fn gets(&self, file: &str) -> Vec<Seen> {
        let is_get = |seen: &Seen| seen.method == "GET" && seen.asks_for(file);
        self.seen().into_iter().filter(is_get).collect()
    }
}

impl Drop for FakeHub {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        // Wakes the thread out of its wait for a connection.
        let _ = TcpStream::connect(self.address);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A repository and how both hubs answer for it.
#[derive(Clone)]
pub(super) struct Repository {
    pub files: BTreeMap<String, Vec<u8>>,
}

impl Repository {
    /// A sentence-transformers model with more files than are needed.
    pub fn embedder() -> Self {
        let weights: Vec<u8> = (0..100_000u32)
            .flat_map(|i| (i * 7).to_le_bytes())
            .collect();
        let modules = r#"[{"path":"","type":"sentence_transformers.models.Transformer"},
            {"path":"1_Pooling","type":"sentence_transformers.models.Pooling"}]"#;
        let files: [(&str, Vec<u8>); 9] = [
            ("README.md", b"# tiny".to_vec()),
            ("config.json", br#"{"model_type":"bert"}"#.to_vec()),
            ("modules.json", modules.into()),
            (
                "1_Pooling/config.json",
                br#"{"pooling_mode_mean_tokens":true}"#.to_vec(),
            ),
            ("tokenizer.json", b"{}".to_vec()),
            ("model.safetensors", weights),
            ("pytorch_model.bin", b"the same again".to_vec()),
            ("tf_model.h5", b"the same again".to_vec()),
            ("onnx/model.onnx", b"the same again".to_vec()),
        ];
        Self {
            files: files
                .into_iter()
                .map(|(name, bytes)| (name.to_owned(), bytes))
                .collect(),
        }
    }

    pub fn weights(&self) -> &[u8] {
        &self.files["model.safetensors"]
    }

    /// Answers as Hugging Face: weights by LFS, the rest by git.
    pub fn hugging_face(&self, seen: &Seen) -> Answer {
        if seen.target.starts_with("/api/models/") {
            return Answer::ok(self.hugging_face_listing());
        }
        let Some((_, name)) = seen.target.split_once(&format!("/resolve/{COMMIT}/")) else {
            return Answer::status(404).header("X-Error-Code", "RepoNotFound");
        };
        let Some(content) = self.files.get(name) else {
            return Answer::status(404).header("X-Error-Code", "EntryNotFound");
        };
        let etag = if is_lfs(name) {
            sha256(content)
        } else {
            git_blob(content)
        };
        Answer::ok(content.clone())
            .header("ETag", &format!("\"{etag}\""))
            .ranged(seen)
    }

    fn hugging_face_listing(&self) -> String {
        let siblings: Vec<_> = self
            .files
            .iter()
            .map(|(name, content)| {
                let lfs = is_lfs(name).then(|| {
                    serde_json::json!({
                        "sha256": sha256(content), "size": content.len(), "pointerSize": 134
                    })
                });
                serde_json::json!({"rfilename": name, "size": content.len(), "lfs": lfs})
            })
            .collect();
        serde_json::json!({"id": super::MODEL, "sha": COMMIT, "siblings": siblings}).to_string()
    }

    /// Answers as ModelScope.
    pub fn modelscope(&self, seen: &Seen) -> Answer {
        if seen.target.starts_with("/api/v1/models/") {
            return Answer::ok(self.modelscope_listing());
        }
        let name = seen
            .target
            .split_once("/resolve/master/")
            .map(|(_, name)| name);
        match name.and_then(|name| self.files.get(name)) {
            Some(content) => Answer::ok(content.clone()).ranged(seen),
            None => Answer::status(404),
        }
    }

    fn modelscope_listing(&self) -> String {
        let mut files: Vec<_> = self
            .files
            .iter()
            .map(|(name, content)| {
                serde_json::json!({
                    "Path": name, "Size": content.len(), "Sha256": sha256(content),
                    "Type": "blob", "IsLFS": is_lfs(name)
                })
            })
            .collect();
        let folder =
            serde_json::json!({"Path": "1_Pooling", "Size": 0, "Sha256": "", "Type": "tree"});
        files.push(folder);
        serde_json::json!({"Code": 200, "Data": {"Files": files}}).to_string()
    }
}

pub(super) fn sha256(content: &[u8]) -> String {
    hex(&Sha256::digest(content))
}

pub(super) fn git_blob(content: &[u8]) -> String {
    let mut hasher = sha1::Sha1::new();
    hasher.update(format!("blob {}\0", content.len()));
    hasher.update(content);
    hex(&hasher.finalize())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn is_lfs(name: &str) -> bool {
    [".safetensors", ".bin", ".h5", ".onnx"]
        .iter()
        .any(|suffix| name.ends_with(suffix))
}

fn read_request(stream: &TcpStream) -> Option<Seen> {
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    let mut lines = BufReader::new(stream.take(64 * 1024))
        .lines()
        .map_while(Result::ok);
    let first = lines.next()?;
    let mut words = first.split(' ');
    let (method, target) = (words.next()?.to_owned(), words.next()?.to_owned());
    let headers = lines
        .take_while(|line| !line.is_empty())
        .filter_map(|line| {
            let (name, value) = line.split_once(':')?;
            Some((name.to_ascii_lowercase(), value.trim().to_owned()))
        })
        .collect();
    Some(Seen {
        method,
        target,
        headers,
    })
}

/// Sends an answer; that the client hangs up in the middle is its right.
fn send(mut stream: TcpStream, request: &Seen, answer: &Answer) {
    let mut head = format!(
        "HTTP/1.1 {} Status\r\nContent-Length: {}\r\nConnection: close\r\n",
        answer.status,
        answer.body.len()
    );
    for (name, value) in &answer.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n");
    let end = answer
        .cut_at
        .unwrap_or(answer.body.len())
        .min(answer.body.len());
    let body = if request.method == "HEAD" {
        &[][..]
    } else {
        &answer.body[..end]
    };
    let _ = stream
        .write_all(head.as_bytes())
        .and_then(|()| stream.write_all(body));
}
