//! Faults of a device, by an encoder that has them.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use super::*;
use crate::batch::Encoding;

const TOO_LARGE: &str = "Non-zero status code returned while running Gemm node. Status Message: \
    /bfc_arena.cc:376 void* onnxruntime::BFCArena::AllocateRawInternal(size_t, bool) Failed to \
    allocate memory for requested buffer of size 1207959552";
const LOST: &str = "CUDA failure 700: an illegal memory access was encountered ; GPU=0 ; \
    hostname=a ; file=/cuda_call.cc ; line=121 ; expr=cudaStreamSynchronize(stream); ";

/// A device that holds so many tokens, until a token with the number 13 breaks it.
struct Fake {
    tokens_max: usize,
    device: Arc<FakeDevice>,
    log: Arc<Mutex<Vec<usize>>>,
}

impl Encode for Fake {
    fn encode(&mut self, batch: &Batch) -> Result<Vec<Output>> {
        self.log.lock().unwrap().push(batch.tokens());
        if batch.input_ids.contains(&13) {
            return Err(Error::Runtime(LOST.to_owned()));
        }
        if batch.input_ids.contains(&14) {
            return Err(Error::Runtime("Invalid rank for input".to_owned()));
        }
        let hoarded = self.device.hoarded.load(Ordering::Relaxed);
        if batch.tokens() + hoarded > self.tokens_max {
            return Err(Error::Runtime(TOO_LARGE.to_owned()));
        }
        let first = batch.ranges().map(|range| batch.input_ids[range.start]);
        let outputs = first.map(|id| Output::of_dense(vec![id as f32]));
        Ok(outputs.collect())
    }
}

#[derive(Default)]
struct FakeDevice {
    health: Health,
    // Taken by what ran before, until it is given back.
    hoarded: AtomicUsize,
    trims: AtomicU64,
}

impl CommonDevice for FakeDevice {
    fn health(&self) -> &Health {
        &self.health
    }

    fn trim(&self) {
        self.hoarded.store(0, Ordering::Relaxed);
        self.trims.fetch_add(1, Ordering::Relaxed);
    }

    fn trims(&self) -> u64 {
        self.trims.load(Ordering::Relaxed)
    }
}

struct Bench {
    device: Arc<FakeDevice>,
    log: Arc<Mutex<Vec<usize>>>,
}

impl Bench {
    fn new() -> Self {
        Self {
            device: Arc::default(),
            log: Arc::default(),
        }
    }

    fn encoder(&self, tokens_max: usize, hoarded: usize) -> SharedEncoder<Fake> {
        self.device.hoarded.store(hoarded, Ordering::Relaxed);
        let fake = Fake {
            tokens_max,
            device: Arc::clone(&self.device),
            log: Arc::clone(&self.log),
        };
        let device: Arc<dyn CommonDevice> = Arc::clone(&self.device) as _;
        SharedEncoder::new(OnDevice::new(fake, device))
    }

    /// The tokens of all runs since the last time.
    fn runs(&self) -> Vec<usize> {
        std::mem::take(&mut self.log.lock().unwrap())
    }
}

/// Sequences of so many tokens that are all one number.
fn batch(sequences: &[(u32, usize)]) -> Batch {
    let mut batch = Batch::default();
    for &(id, tokens) in sequences {
        batch.push(&Encoding {
            input_ids: vec![id; tokens],
            token_type_ids: vec![0; tokens],
            ..Encoding::default()
        });
    }
    batch
}

#[test]
fn a_batch_that_does_not_fit_is_run_in_halves() {
    let bench = Bench::new();
    let mut encoder = bench.encoder(10, 0).handle();
    let found = encoder.encode(&batch(&[(1, 4), (2, 4), (3, 2), (4, 6)]));
    let firsts: Vec<f32> = found
        .unwrap()
        .iter()
        .map(|output| output.dense.as_ref().unwrap()[0])
        .collect();
    assert_eq!(firsts, [1.0, 2.0, 3.0, 4.0], "in order");
    assert_eq!(bench.runs(), [16, 8, 8]);
}

#[test]
fn what_does_not_fit_in_halves_fails_and_the_device_goes_on() {
    let bench = Bench::new();
    let mut encoder = bench.encoder(10, 0).handle();
    let error = encoder
        .encode(&batch(&[(1, 20), (2, 3), (3, 3)]))
        .unwrap_err();
    assert!(
        matches!(
            error,
            Error::OutOfMemory {
                sequences: 1,
                tokens: 20,
                ..
            }
        ),
        "{error:?}"
    );
    assert!(
        error.to_string().contains("`20` tokens in `1` sequences"),
        "{error}"
    );
    assert_eq!(bench.runs(), [26, 20], "split once and no further");
    assert_eq!(encoder.encode(&batch(&[(2, 3), (3, 3)])).unwrap().len(), 2);
}

#[test]
fn one_sequence_is_tried_again_once_memory_was_given_back() {
    let bench = Bench::new();
    let mut encoder = bench.encoder(10, 8).handle();
    assert_eq!(encoder.encode(&batch(&[(1, 9)])).unwrap().len(), 1);
    assert_eq!(bench.runs(), [9, 9]);
    let error = encoder.encode(&batch(&[(1, 11)])).unwrap_err();
    assert!(
        matches!(error, Error::OutOfMemory { tokens: 11, .. }),
        "{error:?}"
    );
    assert_eq!(bench.runs(), [11, 11]);
}

#[test]
fn what_the_largest_batch_took_is_had_again_after_it_was_given_back() {
    let bench = Bench::new();
    let mut encoder = bench.encoder(10, 0).handle();
    let mut run = |tokens| encoder.encode(&batch(&[(1, tokens)])).map(|_| bench.runs());
    assert_eq!(run(3).unwrap(), [3]);
    assert_eq!(run(9).unwrap(), [9]);
    assert_eq!(run(2).unwrap(), [2]);
    // Another model has come or gone.
    bench.device.trim();
    assert_eq!(run(2).unwrap(), [9, 2]);
    assert_eq!(run(2).unwrap(), [2]);
    // A batch that is as large needs no other before it.
    bench.device.trim();
    assert_eq!(run(9).unwrap(), [9]);
    assert_eq!(run(2).unwrap(), [2]);
    // What was too large does not come again, and is no reason to run what fitted.
    assert!(run(11).is_err());
    assert_eq!(bench.runs(), [11, 11]);
    assert_eq!(run(2).unwrap(), [2]);
    // Nor does what fitted once and fits no more.
    bench.device.trim();
    bench.device.hoarded.store(5, Ordering::Relaxed);
    assert_eq!(run(2).unwrap(), [9, 2]);
    bench.device.trim();
    assert_eq!(run(2).unwrap(), [2]);
}

#[test]
fn a_fault_that_sticks_ends_everything_on_the_device() {
    let bench = Bench::new();
    let (mut encoder, mut other) = (bench.encoder(10, 0).handle(), bench.encoder(10, 0).handle());
    let ended = |error: Error| match error {
        Error::Device { message, poisoned } => poisoned && message.contains("700"),
        _ => false,
    };
    assert!(ended(
        encoder.encode(&batch(&[(13, 1), (1, 1)])).unwrap_err()
    ));
    assert_eq!(bench.runs(), [2], "not tried again");
    // Neither this encoder nor another one on the device runs anything more.
    for encoder in [&mut encoder, &mut other] {
        assert!(ended(encoder.encode(&batch(&[(1, 1)])).unwrap_err()));
    }
    assert!(bench.runs().is_empty());
    // A device beside it does.
    assert!(
        Bench::new()
            .encoder(10, 0)
            .handle()
            .encode(&batch(&[(1, 1)]))
            .is_ok()
    );
}

#[test]
fn a_fault_in_a_half_sticks_as_well() {
    let bench = Bench::new();
    let mut encoder = bench.encoder(3, 0).handle();
    let error = encoder.encode(&batch(&[(1, 2), (13, 2)])).unwrap_err();
    // The whole has the number that breaks the device, so the first run ends it.
    assert!(
        matches!(error, Error::Device { poisoned: true, .. }),
        "{error:?}"
    );
}

#[test]
fn other_errors_stay_what_they_are() {
    let bench = Bench::new();
    let mut encoder = bench.encoder(10, 0).handle();
    let error = encoder.encode(&batch(&[(14, 1)])).unwrap_err();
    assert!(matches!(error, Error::Runtime(_)), "{error:?}");
    assert!(encoder.encode(&batch(&[(1, 1)])).is_ok());
}
