//! Every family of decoders against the tiny checkpoints of `tests/golden`: alone, all together
//! and in pieces.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::*;
use crate::checkpoint::json;
use crate::given::tests::runtime;

const NAMES: [&str; 4] = [
    "llama-tiny-generate",
    "qwen2-tiny-generate",
    "qwen3-tiny-generate",
    "mistral-tiny-generate",
];

pub(super) fn folder(name: &str) -> PathBuf {
    let checkpoints = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/generators");
    checkpoints.join(name)
}

fn ids(value: &Value) -> Vec<u32> {
    let list = value.as_array().unwrap().iter();
    list.map(|id| id.as_u64().unwrap() as u32).collect()
}

struct Case {
    prompt: Vec<u32>,
    continued: Vec<u32>,
    first_logits: Vec<f32>,
    last_logits: Vec<f32>,
}

fn cases(name: &str) -> Vec<Case> {
    let golden = json::read(&folder(name).join("golden.json")).unwrap();
    let numbers = |value: &Value| -> Vec<f32> {
        let list = value.as_array().unwrap().iter();
        list.map(|number| number.as_f64().unwrap() as f32).collect()
    };
    let cases = golden["cases"].as_array().unwrap();
    assert!(cases.len() > 5, "too few cases to prove anything");
    let case = |case: &Value| Case {
        prompt: ids(&case["prompt"]),
        continued: ids(&case["continued"]),
        first_logits: numbers(&case["first_logits"]),
        last_logits: numbers(&case["last_logits"]),
    };
    cases.iter().map(case).collect()
}

fn model(name: &str, weights: DecoderWeights) -> Option<DecoderModel> {
    let options = DecoderOptions {
        kv_cache_bytes: Some(16 << 20),
        weights,
        ..DecoderOptions::new(runtime()?)
    };
    let model = DecoderModel::load(&folder(name), &options);
    Some(model.unwrap_or_else(|error| panic!("{name}: {error}")))
}

/// The largest difference as a share of the largest logit.
fn off(found: &[f32], expected: &[f32]) -> f32 {
    let largest = expected
        .iter()
        .fold(0.0, |most: f32, value| most.max(value.abs()));
    let pairs = found.iter().zip(expected);
    pairs.fold(0.0, |most: f32, (a, b)| {
        let off = (a - b).abs() / largest;
        if off <= most { most } else { off }
    })
}

fn cosine(a: &[f32], b: &[f32]) -> f32 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

#[test]
fn texts_go_on_as_those_of_the_reference() {
    for name in NAMES {
        let Some(model) = model(name, DecoderWeights::Fp32) else {
            return;
        };
        let cases = cases(name);
        for (members, chunk) in [
            (cases.iter().map(std::slice::from_ref).collect(), 512),
            (vec![&cases[..]], 512),
            (vec![&cases[..]], 7),
        ] {
            let mut generator = model.generator(2).unwrap();
            let info = generator.info();
            let mut pool = BlockPool::new(info.kv_blocks, info.kv_block_tokens);
            for cases in members {
                let mut texts: Vec<Running> = cases
                    .iter()
                    .map(|case| Running::new(&case.prompt))
                    .collect();
                let lengths: Vec<usize> = cases
                    .iter()
                    .map(|case| case.prompt.len() + case.continued.len())
                    .collect();
                for step in 0..lengths.iter().copied().max().unwrap() {
                    // Texts leave as they are finished.
                    let length = step + 1;
                    let mut running: Vec<usize> = (0..texts.len()).collect();
                    running.retain(|&at| texts[at].ids.len() < length.min(lengths[at]));
                    let mut some: Vec<Running> =
                        running.iter().map(|&at| texts[at].clone()).collect();
                    let batch = (&mut some[..], chunk);
                    continue_greedily(&mut *generator, &mut pool, batch, length);
                    for (at, text) in running.into_iter().zip(some) {
                        texts[at] = text;
                    }
                }
                for (text, case) in texts.iter().zip(cases) {
                    let length = case.prompt.len();
                    assert_eq!(text.ids[length..], case.continued, "{name} after {length}");
                    pool.release(&text.blocks);
                }
            }
        }
    }
}

/// The logits after the prompt of each case and after all but its last token.
fn logits(model: &DecoderModel, cases: &[Case]) -> Vec<[Vec<f32>; 2]> {
    let mut generator = model.generator(1).unwrap();
    let blocks: Vec<u32> = (0..8).collect();
    let mut run = |ids: &[u32]| {
        let step = SequenceStep {
            input_ids: ids,
            past: 0,
            blocks: &blocks,
            wants_logits: true,
        };
        generator.step(&[step]).unwrap().row(0).to_vec()
    };
    let of = |case: &Case| {
        let all = [&case.prompt[..], &case.continued[..]].concat();
        [run(&case.prompt), run(&all[..all.len() - 1])]
    };
    cases.iter().map(of).collect()
}

#[test]
fn logits_are_those_of_the_reference() {
    for name in NAMES {
        let cases = cases(name);
        for (weights, limit, least) in [
            (DecoderWeights::Fp32, 2e-5, 0.999_999),
            (DecoderWeights::Bf16, 0.15, 0.995),
        ] {
            let Some(model) = model(name, weights) else {
                return;
            };
            let (mut worst, mut lowest) = (0.0_f32, 1.0_f32);
            for (case, found) in cases.iter().zip(logits(&model, &cases)) {
                let expected = [&case.first_logits, &case.last_logits];
                for (found, expected) in found.iter().zip(expected) {
                    assert_eq!(found.len(), expected.len());
                    worst = worst.max(off(found, expected));
                    lowest = lowest.min(cosine(found, expected));
                }
            }
            println!(
                "{name}, {weights}: off by {worst:.1e} of the largest, cosine at least {lowest}"
            );
            assert!(
                worst <= limit && lowest >= least,
                "{name}, {weights}: {worst} {lowest}"
            );
        }
    }
}

#[test]
fn facts_are_those_of_the_files() {
    let info = |name| model(name, DecoderWeights::Fp32).map(|model| model.info().clone());
    let [Some(llama), Some(qwen2), Some(qwen3), Some(mistral)] = NAMES.map(info) else {
        return;
    };
    for (info, name) in [(&llama, "llama"), (&qwen2, "qwen2"), (&qwen3, "qwen3")] {
        assert_eq!((&*info.architecture, info.max_context), (name, 128));
        assert_eq!(info.eos_token_ids, [415, 417]);
        assert_eq!((info.vocab_size, info.layers, info.kv_heads), (420, 3, 2));
    }
    assert_eq!(
        (llama.head_size, qwen2.head_size, qwen3.head_size),
        (16, 8, 12)
    );
    assert_eq!(
        (&*llama.checkpoint_dtype, &*qwen3.checkpoint_dtype),
        ("bfloat16", "float32")
    );
    // Heads of 12 are kept as 16: keys and values of 2 heads in 3 layers.
    assert_eq!(qwen3.kv_bytes_per_token, 2 * 16 * 2 * 3 * 4);
    assert_eq!(
        mistral.max_context, 64,
        "beyond its window it would see less"
    );
    let model = model(NAMES[1], DecoderWeights::Int4).unwrap();
    assert_eq!(model.info().parameters, qwen2.parameters);
    let defaults = model.generation_defaults();
    assert_eq!(
        (defaults.temperature, defaults.top_p),
        (Some(0.6), Some(0.95))
    );
    assert_eq!(model.chat_template(), None);
}

#[test]
fn what_cannot_be_is_refused() {
    let Some(runtime) = runtime() else {
        return;
    };
    let options = DecoderOptions::new(runtime);
    let refused = |name: &str, options: DecoderOptions, words: &str| {
        let error = DecoderModel::load(&folder(name), &options)
            .err()
            .unwrap()
            .to_string();
        assert!(error.contains(words), "{error}");
    };
    let long = Some(129);
    refused(
        NAMES[0],
        DecoderOptions {
            max_context: long,
            ..options.clone()
        },
        "`128` positions",
    );
    let small = Some(1000);
    refused(
        NAMES[0],
        DecoderOptions {
            kv_cache_bytes: small,
            ..options.clone()
        },
        "allow more",
    );
    refused(
        "../checkpoints/bert-tiny-mean",
        options.clone(),
        "known: `llama`, `qwen2`, `qwen3`, `mistral`",
    );
    let budget = DecoderOptions {
        kv_cache_bytes: Some(64 << 10),
        ..options
    };
    let model = DecoderModel::load(&folder(NAMES[0]), &budget).unwrap();
    let info = model.info();
    assert_eq!(
        info.kv_blocks as u64 * 16 * info.kv_bytes_per_token,
        60 << 10
    );
    assert_eq!(
        info.max_context,
        info.kv_blocks * 16,
        "no more than there is room for"
    );
}

#[test]
fn a_pool_of_another_model_is_refused() {
    let Some(model) = model(NAMES[0], DecoderWeights::Fp32) else {
        return;
    };
    let ModelGraph::Built { graph, cache, .. } = &model.graph else {
        panic!("no graph was built");
    };
    let shape = |layers, kv_num_heads| KvShape {
        layers,
        kv_num_heads,
        ..*cache
    };
    for (shape, words) in [
        (shape(2, 2), "`layer` is `2`"),
        (
            shape(3, 1),
            "`kv_num_heads` is `2` but the pool of keys and values has `1`",
        ),
    ] {
        let opened = graph.session_over(1, KvPool::new(shape).unwrap());
        let error = opened.err().unwrap().to_string();
        assert!(error.contains(words), "{error}");
    }
    assert!(
        graph.session(1).is_err(),
        "a graph with a cache needs a pool"
    );
    let other = KvShape {
        head_size: 8,
        ..*cache
    };
    let session = graph.session_over(1, KvPool::new(other).unwrap()).unwrap();
    let mut generator = PackedGenerator::new(session, model.info().bounds(), 420);
    let step = SequenceStep {
        input_ids: &[1],
        past: 0,
        blocks: &[0],
        wants_logits: true,
    };
    let error = generator.step(&[step]).unwrap_err().to_string();
    assert!(
        error.contains("`query` is `[1, 64]`") && error.contains("`[1, 32]`"),
        "{error}"
    );
}
