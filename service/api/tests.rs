//! The whole edge, from the head of a request to the last byte of its answer, over the real
//! engine with a fake model behind it.

mod access;
mod bad_input;
mod chat;
mod classify;
mod cohere;
mod completions;
mod dify;
mod embeddings;
mod faults;
mod golden;
mod infinity;
mod jina;
mod lanes;
mod limits;
mod llama_cpp;
mod ollama;
mod outputs;
mod rerank;
mod surface;
mod tei;
mod upstream;
mod vllm;
mod xinference;

use std::{
    path::Path,
    sync::{
        Arc,
        mpsc::{Receiver, Sender, channel},
    },
    time::Duration,
};

use axum::{Router, body::Body};
use http::{HeaderMap, Request, StatusCode};
use http_body_util::BodyExt;
use retort_models::{
    Batch, Encode, EncoderInfo, GraphSource, Head, Heads, MultiVector, Output, Pooling, Prompts,
    SparseVector, Tokenizer,
};
use serde_json::Value;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tower::ServiceExt;

use super::{ApiSettings, AppState, router};
use crate::{
    engine::{
        Engine, EngineLimits,
        encode::{Parts, UntrainedDimensions, WorkerKind},
        request::ModelInfo,
    },
    fleet::Fleet,
    telemetry::{Telemetry, TextFormat},
};

/// Length of the fake model's vectors.
const DIMENSIONS: usize = 8;

/// The longest input of the fake model.
const MAX_TOKENS: usize = 16;

/// A model that gives whatever heads are asked for.
struct Fake {
    labels: usize,
    /// Tells that a forward pass has begun.
    reached: UnboundedSender<()>,
    /// Each forward pass waits until this is closed.
    closed: Receiver<()>,
}

/// The other side of [`Fake`]; dropping it lets every forward pass go on.
struct Gate {
    reached: UnboundedReceiver<()>,
    _closed: Sender<()>,
}

impl Encode for Fake {
    fn encode(&mut self, batch: &Batch) -> retort_models::Result<Vec<Output>> {
        let _ = self.reached.send(());
        let _ = self.closed.recv();
        let mut pieces = batch.pool_cu_seqlens.windows(2);
        let mut outputs = Vec::new();
        for (range, count) in batch.ranges().zip(batch.pieces_per_sequence()) {
            let ids = &batch.input_ids[range.clone()];
            let types = &batch.token_type_ids[range];
            let mut output = Output::default();
            let dense = pieces
                .by_ref()
                .take(count)
                .flat_map(|piece| vector(&batch.input_ids[piece[0] as usize..piece[1] as usize]));
            let dense: Vec<f32> = dense.collect();
            for head in batch.heads.iter() {
                match head {
                    Head::Dense => output.dense = Some(dense.clone()),
                    Head::Sparse => output.sparse = Some(lexical(ids)),
                    Head::MultiVector => output.multi_vector = Some(rows(ids)),
                    Head::Score => output.scores = Some(logits(ids, types, self.labels)),
                }
            }
            outputs.push(output);
        }
        Ok(outputs)
    }
}

/// Depends on every token and its place, and is never zero.
fn vector(ids: &[i64]) -> Vec<f32> {
    let mut dense = vec![0.25; DIMENSIONS];
    for (place, id) in ids.iter().enumerate() {
        let sign = if id % 3 == 0 { -1.0 } else { 1.0 };
        dense[(*id as usize + place) % DIMENSIONS] += sign * (1.0 + *id as f32 / 7.0);
    }
    dense
}

/// Every token that is not a special one (those of the tiny tokenizer are below 5) weighs the same.
fn lexical(ids: &[i64]) -> SparseVector {
    let mut ids: Vec<u32> = ids
        .iter()
        .map(|&id| id as u32)
        .filter(|&id| id > 4)
        .collect();
    ids.sort_unstable();
    ids.dedup();
    let weights = vec![0.25; ids.len()];
    SparseVector { ids, weights }
}

/// Each token points along one of two axes.
fn rows(ids: &[i64]) -> MultiVector {
    let row = |id: &i64| if id % 2 == 0 { [1.0, 0.0] } else { [0.0, 1.0] };
    MultiVector {
        width: 2,
        values: ids.iter().flat_map(row).collect(),
    }
}

/// The first label counts the tokens that both texts of a pair have; the others go down from it.
fn logits(ids: &[i64], types: &[i64], labels: usize) -> Vec<f32> {
    let of = |wanted: i64| {
        let both = ids.iter().zip(types);
        let own: Vec<i64> = both
            .filter(|&(id, kind)| *kind == wanted && *id > 4)
            .map(|(id, _)| *id)
            .collect();
        own
    };
    let second = of(1);
    let common = of(0).iter().filter(|id| second.contains(id)).count();
    (0..labels)
        .map(|label| common as f32 * 0.5 - 1.0 - label as f32)
        .collect()
}

/// A server with one model, `fake`, also known as `org/fake`.
#[derive(Clone)]
struct Server {
    router: Router,
    lifetime: Arc<crate::lifetime::Lifetime>,
    fleet: Fleet,
    engine: Engine,
    telemetry: Telemetry,
}

/// What came back.
struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Vec<u8>,
}

impl Server {
    fn new() -> Self {
        Self::with(ApiSettings::default(), limits())
    }

    fn with_settings(settings: ApiSettings) -> Self {
        Self::with(settings, limits())
    }

    /// A server whose model is ready.
    fn with(settings: ApiSettings, limits: EngineLimits) -> Self {
        Self::gated(settings, limits).0
    }

    /// A server whose forward passes wait for the gate to be dropped.
    fn gated(settings: ApiSettings, limits: EngineLimits) -> (Self, Gate) {
        let server = Self::loading(settings, limits);
        let gate = server.open_gated("fake");
        (server, gate)
    }

    /// Adds an embedding model whose forward passes wait for the gate to be dropped.
    fn add_gated(&self, name: &str) -> Gate {
        let info = ModelInfo::loading(name, vec![]);
        self.engine.register(info).unwrap();
        self.open_gated(name)
    }

    fn open_gated(&self, name: &str) -> Gate {
        let (begun, reached) = unbounded_channel();
        let (open, closed) = channel();
        let checkpoint =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/checkpoints/bert-tiny-mean");
        let tokenizer = Tokenizer::load(&checkpoint).unwrap();
        let parts = Parts {
            name: name.into(),
            info: info(tokenizer.vocab_size()),
            tokenizer: Arc::new(tokenizer),
            late_interaction: None,
            encoders: vec![(
                WorkerKind::Share,
                Box::new(Fake {
                    labels: 0,
                    reached: begun,
                    closed,
                }),
            )],
            telemetry: self.telemetry.clone(),
        };
        self.engine.serve_parts(parts).unwrap();
        self.fleet.adopt(name);
        Gate {
            reached,
            _closed: open,
        }
    }

    /// A server whose model is registered and no more.
    fn loading(settings: ApiSettings, limits: EngineLimits) -> Self {
        let telemetry = Telemetry::new();
        let engine = Engine::new(limits, telemetry.clone()).unwrap();
        engine
            .register(ModelInfo {
                origin: "a test".into(),
                ..ModelInfo::loading("fake", vec!["org/fake".into()])
            })
            .unwrap();
        let lifetime = Arc::new(crate::lifetime::Lifetime::begin());
        let fleet = Fleet::over(&engine);
        fleet.adopt("fake");
        let state = AppState {
            lifetime: lifetime.clone(),
            fleet: fleet.clone(),
            engine: engine.clone(),
            settings: Arc::new(settings),
            telemetry: telemetry.clone(),
        };
        Self {
            router: router(state),
            lifetime,
            fleet,
            engine,
            telemetry,
        }
    }

    /// The server of `new`, with a reranker `judge`, a classifier `nli` and a model `m3` of three
    /// kinds of vectors beside its embedding model.
    fn family() -> Self {
        Self::family_with(ApiSettings::default())
    }

    fn family_with(settings: ApiSettings) -> Self {
        let server = Self::with_settings(settings);
        let three = [Head::Dense, Head::Sparse, Head::MultiVector]
            .into_iter()
            .collect();
        for (name, heads, labels) in [
            ("judge", Heads::SCORE, 1),
            ("nli", Heads::SCORE, 3),
            ("m3", three, 0),
        ] {
            let checkpoint = Path::new(env!("CARGO_MANIFEST_DIR"))
                .join("tests/golden/checkpoints/bert-tiny-mean");
            let tokenizer = Tokenizer::load(&checkpoint).unwrap();
            let names = ["yes", "no", "perhaps"].iter().take(labels);
            let has = |head| heads.contains(head);
            let info = EncoderInfo {
                heads,
                labels,
                label_names: names.map(ToString::to_string).collect(),
                dimensions: if has(Head::Dense) { DIMENSIONS } else { 0 },
                token_dimensions: if has(Head::MultiVector) { 2 } else { 0 },
                max_tokens: 40,
                ..info(tokenizer.vocab_size())
            };
            let fake = Fake {
                labels,
                reached: unbounded_channel().0,
                closed: channel().1,
            };
            server
                .engine
                .register(ModelInfo::loading(name, vec![]))
                .unwrap();
            let parts = Parts {
                name: name.into(),
                info,
                tokenizer: Arc::new(tokenizer),
                late_interaction: None,
                encoders: vec![(WorkerKind::Share, Box::new(fake))],
                telemetry: server.telemetry.clone(),
            };
            server.engine.serve_parts(parts).unwrap();
            server.fleet.adopt(name);
        }
        server
    }

    /// The answer to a request that must succeed.
    async fn ok(&self, path: &str, body: &Value) -> Value {
        let answer = self.post(path, body.to_string()).await;
        assert_eq!(answer.status, 200, "{body}: {}", answer.text());
        answer.json()
    }

    /// An answer whose body is still to come.
    async fn begin(&self, request: Request<Body>) -> axum::response::Response {
        self.router.clone().oneshot(request).await.unwrap()
    }

    async fn send(&self, request: Request<Body>) -> Answer {
        let (head, body) = self.begin(request).await.into_parts();
        let body = body.collect().await.unwrap().to_bytes().to_vec();
        Answer {
            status: head.status,
            headers: head.headers,
            body,
        }
    }

    async fn get(&self, path: &str) -> Answer {
        self.send(Request::get(path).body(Body::empty()).unwrap())
            .await
    }

    async fn post(&self, path: &str, body: impl Into<Body>) -> Answer {
        self.send(Request::post(path).body(body.into()).unwrap())
            .await
    }

    /// As [`Server::post`], for a task of its own.
    async fn post_owned(self, path: &'static str, body: String) -> Answer {
        self.post(path, body).await
    }

    /// The answer to an embedding request that must succeed.
    async fn embed(&self, body: &str) -> Value {
        let answer = self.post("/v1/embeddings", body.to_owned()).await;
        assert_eq!(answer.status, 200, "{body}: {}", answer.text());
        answer.json()
    }

    fn metrics(&self) -> String {
        self.telemetry.render(TextFormat::Plain)
    }
}

impl Answer {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error} in `{}`", self.text()))
    }

    fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .map_or("", |value| value.to_str().unwrap())
    }

    /// Checks the body that every kind of client can read, and returns its sentence.
    fn error(&self, status: u16) -> String {
        assert_eq!(self.status, status, "{}", self.text());
        assert_eq!(self.header("content-type"), "application/json");
        let body = self.json();
        let detail = body["detail"].as_str().expect("`detail` is a string");
        assert!(!detail.is_empty());
        assert_eq!(body["message"], detail);
        assert_eq!(body["error"]["message"], detail);
        assert!(body["error"]["type"].is_string() && body["error"]["code"].is_string());
        assert!(body["error"]["param"].is_string() || body["error"]["param"].is_null());
        detail.to_owned()
    }
}

fn info(vocab_size: usize) -> EncoderInfo {
    EncoderInfo {
        architecture: "bert".into(),
        heads: Heads::DENSE,
        token_dimensions: 0,
        labels: 0,
        compares: false,
        label_names: Vec::new(),
        dimensions: DIMENSIONS,
        max_tokens: MAX_TOKENS,
        pooling: Some(Pooling::Mean),
        vocab_size,
        parameters: 0,
        weights_bytes: 0,
        checkpoint_dtype: "float32".into(),
        dtype: "float32".into(),
        fidelity: retort_models::Fidelity::default(),
        provider: retort_models::Provider::Cpu,
        device: "cpu".into(),
        device_name: None,
        source: GraphSource::Built,
        matryoshka: retort_models::Matryoshka::Listed(vec![4, 3, 2]),
        prompts: prompts(),
        tasks: Vec::new(),
        pair_template: None,
        instruction: None,
        cutoff_layer: None,
        isa: "plain",
    }
}

fn prompts() -> Prompts {
    let named = [("query", "the "), ("passage", "and ")];
    Prompts {
        named: named
            .map(|(name, text)| (name.to_owned(), text.to_owned()))
            .into(),
        default: None,
    }
}

fn limits() -> EngineLimits {
    EngineLimits {
        max_inputs_per_request: 2048,
        max_batch_tokens: 1024,
        max_gpu_batch_tokens: 1024,
        max_queue_tokens: 1 << 20,
        request_timeout: Duration::from_secs(60),
        untrained_dimensions: UntrainedDimensions::Refused,
        threads: 1,
        workers: 1,
        scheduling: crate::engine::lane::Scheduling::default(),
    }
}

/// The vectors of an answer in floats.
fn vectors(answer: &Value) -> Vec<Vec<f32>> {
    let list = |datum: &Value| {
        let numbers = datum["embedding"].as_array().expect("floats");
        numbers.iter().map(|x| x.as_f64().unwrap() as f32).collect()
    };
    answer["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(list)
        .collect()
}
