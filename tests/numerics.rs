//! Vectors against transformers fp32, which the scripts in `tests/golden` ran once.
//!
//! Tolerances: cosine ≥ 0.99999 and largest absolute difference ≤ 1e-4 on normalised vectors.

use std::{fs, path::Path};

use proptest::{
    prelude::RngCore,
    test_runner::{RngAlgorithm, TestRng},
};
use retort_models::{Batch, Encode, EncoderModel, LoadOptions, Truncation, TruncationSide};
use serde_json::Value;

use crate::support::{self, golden};

const MIN_COSINE: f64 = 0.99999;
const MAX_ABS_DIFFERENCE: f64 = 1e-4;

/// A seeded source of small integers, so that a failure shows again: proptest's own generator.
struct Rng(TestRng);

impl Rng {
    fn seeded() -> Self {
        Self(TestRng::deterministic_rng(RngAlgorithm::ChaCha))
    }

    /// Below `bound`.
    fn below(&mut self, bound: usize) -> usize {
        (self.0.next_u64() % bound as u64) as usize
    }
}

/// One text and its reference vector, normalised.
struct Case {
    text: String,
    tokens: usize,
    /// Absent for MiniLM, whose goldens hold counts only.
    input_ids: Option<Vec<u32>>,
    normalized: Vec<f64>,
}

fn load(dir: &Path) -> EncoderModel {
    let options = LoadOptions {
        runtime: support::runtime(),
        max_tokens: None,
        pooling: None,
    };
    EncoderModel::load(dir, &options).unwrap_or_else(|error| panic!("{}: {error}", dir.display()))
}

fn tiny_cases(path: &Path) -> Vec<Case> {
    let file: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    let numbers = |value: &Value| -> Vec<f64> {
        value
            .as_array()
            .unwrap()
            .iter()
            .map(|v| v.as_f64().unwrap())
            .collect()
    };
    let case = |case: &Value| Case {
        text: case["text"].as_str().unwrap().to_owned(),
        tokens: case["n_tokens"].as_u64().unwrap() as usize,
        input_ids: Some(
            numbers(&case["input_ids"])
                .into_iter()
                .map(|id| id as u32)
                .collect(),
        ),
        normalized: numbers(&case["normalized"]),
    };
    file["cases"].as_array().unwrap().iter().map(case).collect()
}

fn minilm_cases() -> Vec<Case> {
    let file: Value =
        serde_json::from_slice(&fs::read(golden("minilm/texts.json")).unwrap()).unwrap();
    let bytes = fs::read(golden("minilm/embeddings.f32")).unwrap();
    let (floats, rest) = bytes.as_chunks::<4>();
    assert!(rest.is_empty());
    let floats: Vec<f64> = floats
        .iter()
        .map(|b| f64::from(f32::from_le_bytes(*b)))
        .collect();
    let texts = file["texts"].as_array().unwrap();
    let dimensions = floats.len() / texts.len();
    let case = |(text, vector): (&Value, &[f64])| Case {
        text: text["text"].as_str().unwrap().to_owned(),
        tokens: text["n_tokens"].as_u64().unwrap() as usize,
        input_ids: None,
        normalized: vector.to_vec(),
    };
    texts
        .iter()
        .zip(floats.chunks(dimensions))
        .map(case)
        .collect()
}

/// Encodes, batches as told and returns one normalised vector per case.
fn vectors(
    model: &EncoderModel,
    encoder: &mut dyn Encode,
    cases: &[&Case],
    batch_sizes: impl Iterator<Item = usize>,
) -> Vec<Vec<f64>> {
    let truncation = Truncation {
        max_tokens: model.info().max_tokens,
        side: TruncationSide::End,
    };
    let mut vectors = Vec::new();
    let mut left = cases;
    for size in batch_sizes {
        let (now, later) = left.split_at(size.min(left.len()));
        left = later;
        let mut batch = Batch::default();
        for case in now {
            let encoding = model.tokenizer().encode(&case.text, truncation).unwrap();
            assert_eq!(
                encoding.input_ids.len(),
                case.tokens,
                "tokens of {:?}",
                case.text
            );
            if let Some(expected) = &case.input_ids {
                assert_eq!(&encoding.input_ids, expected, "ids of {:?}", case.text);
            }
            batch.push(&encoding);
        }
        for output in encoder.encode(&batch).unwrap() {
            let vector: Vec<f64> = output.dense.iter().map(|&x| f64::from(x)).collect();
            let norm = vector.iter().map(|x| x * x).sum::<f64>().sqrt();
            vectors.push(vector.into_iter().map(|x| x / norm).collect());
        }
        if left.is_empty() {
            break;
        }
    }
    vectors
}

/// The smallest cosine and the largest difference over all cases; panics beyond the tolerance.
fn check(name: &str, cases: &[&Case], got: &[Vec<f64>]) -> (f64, f64) {
    assert_eq!(cases.len(), got.len());
    let (mut min_cosine, mut max_difference) = (1.0f64, 0.0f64);
    for (case, got) in cases.iter().zip(got) {
        assert_eq!(case.normalized.len(), got.len(), "{name}: dimensions");
        let pairs = || case.normalized.iter().zip(got);
        let norm = case.normalized.iter().map(|x| x * x).sum::<f64>().sqrt();
        let cosine = pairs().map(|(a, b)| a * b).sum::<f64>() / norm;
        let difference = pairs().map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        assert!(
            cosine >= MIN_COSINE && difference <= MAX_ABS_DIFFERENCE,
            "{name}: cosine {cosine}, difference {difference:e} for {:?}",
            case.text
        );
        min_cosine = min_cosine.min(cosine);
        max_difference = max_difference.max(difference);
    }
    (min_cosine, max_difference)
}

/// Alone, all at once, and in random mixes, on one thread and on two.
fn check_model(name: &str, dir: &Path, cases: &[Case]) {
    let model = load(dir);
    let mut order: Vec<&Case> = cases.iter().collect();
    let mut rng = Rng::seeded();
    for threads in [1, 2] {
        let mut encoder = model.encoder(threads).unwrap();
        let alone = vectors(&model, &mut *encoder, &order, std::iter::repeat(1));
        let (cosine, difference) = check(name, &order, &alone);
        println!(
            "{name}: {} texts, cosine ≥ {cosine:.9}, difference ≤ {difference:.1e}",
            cases.len()
        );
        let together = vectors(&model, &mut *encoder, &order, std::iter::once(order.len()));
        check(name, &order, &together);
        for at in (1..order.len()).rev() {
            order.swap(at, rng.below(at + 1));
        }
        let sizes: Vec<usize> = order.iter().map(|_| 1 + rng.below(9)).collect();
        let mixed = vectors(&model, &mut *encoder, &order, sizes.into_iter());
        check(name, &order, &mixed);
    }
}

#[test]
fn tiny_checkpoints_match_transformers() {
    let mut checked = 0;
    for entry in fs::read_dir(golden("checkpoints")).unwrap() {
        let dir = entry.unwrap().path();
        let name = dir.file_name().unwrap().to_string_lossy().into_owned();
        check_model(&name, &dir, &tiny_cases(&dir.join("golden.json")));
        checked += 1;
    }
    assert!(
        checked >= 6,
        "only {checked} checkpoints in tests/golden/checkpoints"
    );
}

#[test]
fn given_onnx_files_match_transformers() {
    let cases = tiny_cases(&golden("checkpoints/bert-tiny-mean/golden.json"));
    for name in ["bert-tiny-hidden", "bert-tiny-pooled"] {
        check_model(name, &golden("onnx").join(name), &cases);
    }
}

#[test]
fn minilm_matches_transformers() {
    let cases = minilm_cases();
    assert!(cases.len() >= 200, "{} texts", cases.len());
    let longest = cases.iter().map(|case| case.tokens).max();
    assert_eq!(longest, Some(256), "the texts reach the model's limit");
    check_model("all-MiniLM-L6-v2", &support::minilm(), &cases);
}

#[test]
fn a_vector_does_not_depend_on_its_neighbours() {
    let model = load(&support::minilm());
    let cases = minilm_cases();
    let mut encoder = model.encoder(1).unwrap();
    let mut rng = Rng::seeded();
    let subject: Vec<&Case> = cases.iter().step_by(24).collect();
    let alone = vectors(&model, &mut *encoder, &subject, std::iter::repeat(1));
    for (case, alone) in subject.into_iter().zip(alone) {
        let mut company: Vec<&Case> = (0..1 + rng.below(6))
            .map(|_| &cases[rng.below(cases.len())])
            .collect();
        let seat = rng.below(company.len() + 1);
        company.insert(seat, case);
        let got = vectors(
            &model,
            &mut *encoder,
            &company,
            std::iter::once(company.len()),
        );
        let worst = got[seat]
            .iter()
            .zip(&alone)
            .map(|(a, b)| (a - b).abs())
            .fold(0.0, f64::max);
        assert!(
            worst <= 1e-6,
            "{:?} moved by {worst:e} in a batch of {}",
            case.text,
            company.len()
        );
    }
}
