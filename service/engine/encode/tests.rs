//! The pipeline with a fake encoder behind the one seam: order, isolation, bounds, leaving.

mod comparing;
mod devices;
mod sharing;

use std::{
    path::Path,
    sync::mpsc::{Receiver, Sender, channel},
};

use retort_models::{Batch, GraphSource, Heads, Output, Prompts};

use super::*;
use crate::engine::lane::{Caller, Lane, PerLane};
use crate::engine::request::{EmbedInput, EmbedRequest, EmbedResponse, Usage};

/// What the fake model does with a sequence, told by its first own token (id 7 and up are free).
/// Its vector is `[first token id, number of tokens]`.
struct Fake {
    /// One message per forward pass is needed to let it go on; `None` never waits.
    gate: Option<Receiver<()>>,
    /// Tells the sizes of the batches that were run.
    seen: Sender<usize>,
}

const POISON: i64 = 31;
const NOT_FINITE: i64 = 32;
const PANIC: i64 = 33;
const LOST: i64 = 34;
const LARGE: i64 = 35;

impl Encode for Fake {
    fn encode(&mut self, batch: &Batch) -> retort_models::Result<Vec<Output>> {
        if let Some(gate) = &self.gate {
            gate.recv().expect("the test holds the gate");
        }
        self.seen.send(batch.sequences()).ok();
        if batch.input_ids.contains(&POISON) {
            return Err(retort_models::Error::Runtime("poisoned".into()));
        }
        if batch.input_ids.contains(&LOST) {
            return Err(retort_models::Error::Device {
                message: "it read from an illegal address".into(),
                poisoned: true,
            });
        }
        if batch.input_ids.contains(&LARGE) {
            return Err(retort_models::Error::OutOfMemory {
                sequences: batch.sequences(),
                tokens: batch.tokens(),
                message: "not a byte left".into(),
            });
        }
        assert!(!batch.input_ids.contains(&PANIC), "asked to panic");
        let vector = |range: std::ops::Range<usize>| {
            let ids = &batch.input_ids[range];
            if ids[0] == NOT_FINITE {
                return vec![f32::NAN, 1.0];
            }
            vec![ids[0] as f32, ids.len() as f32]
        };
        Ok(batch
            .ranges()
            .map(|range| Output::of_dense(vector(range)))
            .collect())
    }
}

struct Bench {
    pipeline: Arc<Pipeline>,
    gate: Sender<()>,
    seen: Receiver<usize>,
}

/// A pipeline of one worker; with `Gate::Shut` every forward pass needs a message to start.
fn bench(gated: Gate, limits: PipelineLimits) -> Bench {
    let host = host(limits.scheduling);
    bench_with((WorkerKind::Share, limits), gated, host)
}

/// The same on another device.
fn bench_on(kind: WorkerKind, gated: Gate, host: Host) -> Bench {
    bench_with((kind, LIMITS), gated, host)
}

fn bench_with((kind, limits): (WorkerKind, PipelineLimits), gated: Gate, host: Host) -> Bench {
    let (gate, gate_receiver) = channel();
    let (seen_sender, seen) = channel();
    let gate_receiver = (gated == Gate::Shut).then_some(gate_receiver);
    let fake = Fake {
        gate: gate_receiver,
        seen: seen_sender,
    };
    let checkpoint =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/checkpoints/bert-tiny-mean");
    let tokenizer = Arc::new(Tokenizer::load(&checkpoint).unwrap());
    let parts = Parts {
        name: "fake".into(),
        info: fake_info(tokenizer.vocab_size()),
        tokenizer,
        late_interaction: None,
        encoders: vec![(kind, Box::new(fake))],
        telemetry: Telemetry::new(),
    };
    Bench {
        pipeline: Arc::new(Pipeline::start(parts, limits, host).unwrap()),
        gate,
        seen,
    }
}

/// A device of one slot with batches of 16 tokens.
fn host(scheduling: Scheduling) -> Host {
    Host {
        pool: TokenizerPool::new(1).unwrap(),
        device: Device::new(DeviceLimits::of_processor(16, 1), scheduling.shares()),
        gpus: GpuSchedules::new(16, scheduling.shares()),
        faults: Faults::default(),
        cache: Cache::new(scheduling.cache_bytes),
    }
}

/// What a checkpoint would say about the fake model.
pub fn fake_info(vocab_size: usize) -> EncoderInfo {
    EncoderInfo {
        architecture: "fake".into(),
        heads: Heads::DENSE,
        token_dimensions: 0,
        labels: 0,
        compares: false,
        label_names: Vec::new(),
        dimensions: 2,
        max_tokens: 8,
        pooling: None,
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
        matryoshka: retort_models::Matryoshka::Listed(vec![1]),
        instruction: None,
        cutoff_layer: None,
        prompts: Prompts::default(),
        tasks: Vec::new(),
        pair_template: None,
        isa: "portable",
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Gate {
    Open,
    Shut,
}

const LIMITS: PipelineLimits = PipelineLimits {
    max_queue_tokens: 1_000,
    scheduling: Scheduling {
        interactive_max_inputs: 4,
        interactive_max_tokens: 256,
        interactive_max_pairs: 100,
        interactive_share: 0.8,
        deadlines: PerLane::NONE,
        cache_bytes: 0,
    },
    untrained_dimensions: UntrainedDimensions::Refused,
};

/// A request of one sequence of ids each: `ids(&[&[7], &[8, 9]])`.
fn request(inputs: &[&[u32]]) -> EmbedRequest {
    EmbedRequest {
        inputs: inputs
            .iter()
            .map(|ids| EmbedInput::ModelIds(ids.to_vec()))
            .collect(),
        normalize: Normalize::No,
        ..EmbedRequest::default()
    }
}

fn vectors(response: EmbedResponse) -> Vec<Vec<f32>> {
    response.embeddings.into_iter().map(|e| e.vector).collect()
}

#[tokio::test]
async fn answers_come_in_the_order_of_the_inputs() {
    let bench = bench(Gate::Open, LIMITS);
    let inputs: Vec<Vec<u32>> = (0..100)
        .map(|i| vec![40 + i % 50; 1 + i as usize % 8])
        .collect();
    let inputs: Vec<&[u32]> = inputs.iter().map(Vec::as_slice).collect();
    let got = vectors(
        bench
            .pipeline
            .embed(request(&inputs), &ANYONE)
            .await
            .unwrap(),
    );
    let expected: Vec<Vec<f32>> = inputs
        .iter()
        .map(|ids| vec![ids[0] as f32, ids.len() as f32])
        .collect();
    assert_eq!(got, expected);
}

#[tokio::test]
async fn a_long_input_is_cut_and_the_cut_is_counted() {
    let bench = bench(Gate::Open, LIMITS);
    let response = bench
        .pipeline
        .embed(request(&[&[40; 11], &[41; 2]]), &ANYONE)
        .await
        .unwrap();
    assert_eq!(response.embeddings[0].tokens, 8);
    assert_eq!(response.embeddings[0].tokens_cut, 3);
    let expected = Usage {
        prompt_tokens: 10,
        cut_tokens: 3,
        cut_inputs: 1,
    };
    assert_eq!(response.usage, expected);
}

#[tokio::test]
async fn one_bad_sequence_fails_alone() {
    for bad in [POISON, NOT_FINITE, PANIC] {
        let bench = bench(Gate::Shut, LIMITS);
        // The first request occupies the worker so that the next two share a batch.
        let busy = spawn(&bench, &[&[40]]);
        wait_for(&bench.pipeline, |waiting| waiting == 0).await;
        let good = spawn(&bench, &[&[41, 42]]);
        let poisoned = spawn(&bench, &[&[bad as u32, 42]]);
        wait_for(&bench.pipeline, |waiting| waiting == 4).await;
        // At most: the first batch, the shared one, and its two halves again.
        for _ in 0..4 {
            bench.gate.send(()).unwrap();
        }
        busy.await.unwrap().unwrap();
        assert_eq!(vectors(good.await.unwrap().unwrap()), [[41.0, 2.0]]);
        let error = poisoned.await.unwrap().unwrap_err();
        assert_eq!(error.status(), 500, "{error}");
        let batches: Vec<usize> = bench.seen.try_iter().collect();
        assert_eq!(batches[..2], [1, 2], "the two were meant to share a batch");
    }
}

#[tokio::test]
async fn a_full_queue_refuses_and_says_when_to_come_back() {
    let bench = bench(
        Gate::Shut,
        PipelineLimits {
            max_queue_tokens: 10,
            ..LIMITS
        },
    );
    let busy = spawn(&bench, &[&[40, 41]]);
    wait_for(&bench.pipeline, |waiting| waiting == 0).await;
    let waiting = spawn(&bench, &[&[40; 8]]);
    wait_for(&bench.pipeline, |waiting| waiting == 8).await;
    let error = bench
        .pipeline
        .embed(request(&[&[40; 3]]), &ANYONE)
        .await
        .unwrap_err();
    let Error::Overloaded {
        queued: 8,
        requested: 3,
        limit: 10,
        retry_after,
    } = error
    else {
        panic!("{error:?}");
    };
    assert!(retry_after >= Duration::from_secs(1));
    bench.gate.send(()).unwrap();
    bench.gate.send(()).unwrap();
    busy.await.unwrap().unwrap();
    waiting.await.unwrap().unwrap();
}

#[tokio::test]
async fn an_idle_queue_takes_a_request_larger_than_itself() {
    let bench = bench(
        Gate::Open,
        PipelineLimits {
            max_queue_tokens: 10,
            ..LIMITS
        },
    );
    let response = bench
        .pipeline
        .embed(request(&[&[40; 8][..]; 5]), &ANYONE)
        .await
        .unwrap();
    assert_eq!(response.embeddings.len(), 5);
}

#[tokio::test]
async fn jobs_of_a_client_that_left_are_not_run() {
    let bench = bench(Gate::Shut, LIMITS);
    let busy = spawn(&bench, &[&[40]]);
    wait_for(&bench.pipeline, |waiting| waiting == 0).await;
    let leaver = spawn(&bench, &[&[41; 3], &[43; 3]]);
    wait_for(&bench.pipeline, |waiting| waiting == 6).await;
    leaver.abort();
    assert!(leaver.await.unwrap_err().is_cancelled());
    let stayer = spawn(&bench, &[&[42]]);
    wait_for(&bench.pipeline, |waiting| waiting == 7).await;
    bench.gate.send(()).unwrap();
    bench.gate.send(()).unwrap();
    busy.await.unwrap().unwrap();
    assert_eq!(vectors(stayer.await.unwrap().unwrap()), [[42.0, 1.0]]);
    assert_eq!(bench.seen.try_iter().collect::<Vec<_>>(), [1, 1]);
}

#[tokio::test]
async fn closing_finishes_what_waits_and_refuses_what_comes() {
    let bench = bench(Gate::Shut, LIMITS);
    let busy = spawn(&bench, &[&[40]]);
    wait_for(&bench.pipeline, |waiting| waiting == 0).await;
    let waiting = spawn(&bench, &[&[41]]);
    wait_for(&bench.pipeline, |waiting| waiting == 1).await;
    bench.pipeline.close();
    let refused = bench
        .pipeline
        .embed(request(&[&[42]]), &ANYONE)
        .await
        .unwrap_err();
    assert_eq!(refused.status(), 503);
    bench.gate.send(()).unwrap();
    bench.gate.send(()).unwrap();
    busy.await.unwrap().unwrap();
    assert_eq!(vectors(waiting.await.unwrap().unwrap()), [[41.0, 1.0]]);
}

#[tokio::test]
async fn dimensions_are_cut_and_checked() {
    let bench = bench(Gate::Open, LIMITS);
    let mut wanted = request(&[&[40, 41]]);
    (wanted.dimensions, wanted.normalize) = (Some(1), Normalize::Yes);
    assert_eq!(
        vectors(bench.pipeline.embed(wanted, &ANYONE).await.unwrap()),
        [[1.0]]
    );
    for dimensions in [0, 3, usize::MAX] {
        let request = EmbedRequest {
            dimensions: Some(dimensions),
            ..request(&[&[40]])
        };
        let error = bench.pipeline.embed(request, &ANYONE).await.unwrap_err();
        assert_eq!(
            (error.status().as_u16(), error.param()),
            (400, Some("dimensions"))
        );
    }
}

type Answer = tokio::task::JoinHandle<Result<EmbedResponse>>;

fn spawn(bench: &Bench, inputs: &[&[u32]]) -> Answer {
    let (pipeline, request) = (bench.pipeline.clone(), request(inputs));
    tokio::spawn(async move { pipeline.embed(request, &ANYONE).await })
}

/// Yields until so many tokens wait and the worker has taken what it could.
async fn wait_for(pipeline: &Pipeline, enough: impl Fn(usize) -> bool) {
    let patience = Instant::now() + Duration::from_secs(20);
    loop {
        let (waiting, running) = pipeline.queue.waiting_and_running();
        if running > 0 && enough(waiting) {
            return;
        }
        assert!(
            Instant::now() < patience,
            "{waiting} tokens wait, {running} workers run"
        );
        tokio::task::yield_now().await;
    }
}

const ANYONE: Caller = Caller {
    lane: None,
    deadline: None,
    tenant: Tenant([0; 32]),
};
