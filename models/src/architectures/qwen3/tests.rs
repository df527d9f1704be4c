//! Qwen3-Embedding: from texts, with and without their instruction, to the vectors of the
//! reference, however the same weights are stored.

use std::collections::HashMap;

use half::{bf16, f16};
use safetensors::tensor::{Dtype, TensorView, serialize};
use serde_json::{Value, json};

use crate::given::tests::runtime;
use crate::reranking::tests::{
    copy, golden, largest_difference, numbers, tensors, text, token_ids,
};
use crate::*;

const NAME: &str = "qwen3-tiny-lasttoken";
/// Of vectors of length 1, as in the folder of golden references.
const LIMIT: f32 = 5e-6;

fn unit_vector(output: Output) -> Vec<f32> {
    let mut vector = output.dense.unwrap();
    retort_kernels::normalize::l2_normalize(&mut vector).unwrap();
    vector
}

fn cases(model: &EncoderModel, golden: &Value) -> Vec<(Encoding, Vec<f32>)> {
    let truncation = Truncation {
        max_tokens: model.info().max_tokens,
        side: TruncationSide::End,
    };
    let lists = [&golden["cases"], &golden["prompted"]].map(|list| list.as_array().unwrap());
    assert!(lists[0].len() > 10 && lists[1].len() > 5);
    let case = |case: &Value| {
        let prompt = case["prompt"].as_str().unwrap_or_default();
        let tokenizer = model.tokenizer();
        let prompt = tokenizer.prepare_prompt(prompt).unwrap();
        let text = case["text"].as_str().unwrap();
        let found = tokenizer
            .encode_prompted(&prompt, text, truncation)
            .unwrap();
        assert_eq!(found.input_ids, token_ids(&case["input_ids"]), "{text}");
        (found, numbers(&case["normalized"]))
    };
    lists.into_iter().flatten().map(case).collect()
}

fn difference(dir: &std::path::Path, options: &LoadOptions) -> f32 {
    let model = EncoderModel::load(dir, options).unwrap();
    assert_eq!(model.info().pooling, Some(Pooling::LastToken));
    let cases = cases(&model, &golden(NAME).1);
    largest_difference(&model, &cases, (Heads::DENSE, unit_vector))
}

#[test]
fn texts_and_instructed_queries_get_the_vectors_of_the_reference() {
    let Some(runtime) = runtime() else {
        return;
    };
    let off = difference(&golden(NAME).0, &LoadOptions::new(runtime));
    println!("{NAME}: off by {off:e}");
    assert!(off <= LIMIT, "off by {off:e}");
}

/// Shape and bytes of tensors by their names.
type Shard = HashMap<String, (Vec<usize>, Vec<u8>)>;

/// Two shards under the names that `Qwen3ForCausalLM` saves, in another type.
fn sharded(dtype: Dtype, bytes: fn(f32) -> Vec<u8>) -> tempfile::TempDir {
    let mut weight_map = serde_json::Map::new();
    let mut shards: [Shard; 2] = Default::default();
    let mut stored: Vec<_> = tensors(NAME).into_iter().collect();
    stored.sort_unstable_by(|a, b| a.0.cmp(&b.0));
    for (index, (name, (shape, values))) in stored.into_iter().enumerate() {
        let name = format!("model.{name}");
        let file = format!("model-0000{}-of-00002.safetensors", index % 2 + 1);
        weight_map.insert(name.clone(), json!(file));
        let values = values.into_iter().flat_map(bytes).collect();
        shards[index % 2].insert(name, (shape, values));
    }
    let file = |shard: &Shard| {
        let views = shard.iter().map(|(name, (shape, bytes))| {
            let view = TensorView::new(dtype, shape.clone(), bytes.as_slice());
            (name, view.unwrap())
        });
        serialize(views, None).unwrap()
    };
    copy(
        NAME,
        &[
            ("model.safetensors", None),
            ("model-00001-of-00002.safetensors", Some(file(&shards[0]))),
            ("model-00002-of-00002.safetensors", Some(file(&shards[1]))),
            (
                "model.safetensors.index.json",
                text(&json!({"metadata": {}, "weight_map": weight_map})),
            ),
        ],
    )
}

#[test]
fn shards_other_names_and_half_precision_are_read() {
    let Some(runtime) = runtime() else {
        return;
    };
    let options = LoadOptions::new(runtime);
    let whole = sharded(Dtype::F32, |value| value.to_le_bytes().to_vec());
    let off = difference(whole.path(), &options);
    assert!(off <= LIMIT, "off by {off:e}");
    // Numbers that lost some bits: close, and not equal.
    let half = sharded(Dtype::F16, |value| {
        f16::from_f32(value).to_le_bytes().to_vec()
    });
    let off = difference(half.path(), &options);
    assert!((LIMIT..0.01).contains(&off), "off by {off:e}");
    let brain = sharded(Dtype::BF16, |value| {
        bf16::from_f32(value).to_le_bytes().to_vec()
    });
    let off = difference(brain.path(), &options);
    assert!((LIMIT..0.1).contains(&off), "off by {off:e}");
}

#[test]
fn every_length_of_a_range_is_allowed() {
    let Some(runtime) = runtime() else {
        return;
    };
    let options = LoadOptions {
        matryoshka: Some(Matryoshka::Range { min: 8, max: 1024 }),
        ..LoadOptions::new(runtime)
    };
    let model = EncoderModel::load(&golden(NAME).0, &options).unwrap();
    let lengths = &model.info().matryoshka;
    assert!(lengths.allows(8) && lengths.allows(31) && !lengths.allows(33));
    // What config.json lists goes before that.
    let path = golden(NAME).0.join("config.json");
    let mut config = checkpoint::json::read(&path).unwrap();
    config["matryoshka_dimensions"] = json!([8, 16, 64]);
    let dir = copy(NAME, &[("config.json", text(&config))]);
    let model = EncoderModel::load(dir.path(), &options).unwrap();
    assert_eq!(model.info().matryoshka.listed(), [16, 8]);
}
