//! A checkpoint with the sizes of Qwen2.5-0.5B, random numbers and a tokenizer of numbered words,
//! and how much of it a step reads.

use std::{fs, path::PathBuf};

use retort_models::DecoderWeights;
use serde_json::{Map, Value, json};

use crate::{full_size, measure::Outcome};

const LAYERS: usize = 24;
const HIDDEN: usize = 896;
const INNER: usize = 4864;
const HEADS: usize = 14;
const KV_HEADS: usize = 2;
const HEAD: usize = HIDDEN / HEADS;
const VOCABULARY: usize = 151_936;
/// Numbers of a row that share a scale of 32 bits.
const BLOCK: f64 = 32.0;

/// Its folder, made once.
pub fn folder() -> Outcome<PathBuf> {
    let config = json!({
        "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "hidden_act": "silu",
        "hidden_size": HIDDEN, "intermediate_size": INNER, "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS, "vocab_size": VOCABULARY,
        "max_position_embeddings": 32_768, "rms_norm_eps": 1e-6, "rope_theta": 1_000_000.0,
        "tie_word_embeddings": true, "use_sliding_window": false, "eos_token_id": VOCABULARY - 1,
    });
    let folder = full_size::folder("qwen2.5-0.5b", &config, None, &tensors())?;
    let vocabulary: Map<String, Value> = (0..VOCABULARY)
        .map(|id| (format!("w{id}"), id.into()))
        .collect();
    let tokenizer = json!({
        "version": "1.0", "added_tokens": [], "pre_tokenizer": {"type": "WhitespaceSplit"},
        "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "w0"},
    });
    fs::write(folder.join("tokenizer.json"), tokenizer.to_string())?;
    Ok(folder)
}

/// Names and shapes, as transformers saves them.
fn tensors() -> Vec<(String, Vec<usize>)> {
    let mut tensors = vec![(
        "model.embed_tokens.weight".to_owned(),
        vec![VOCABULARY, HIDDEN],
    )];
    let kv = KV_HEADS * HEAD;
    for layer in 0..LAYERS {
        let mut add = |name: &str, shape: &[usize]| {
            tensors.push((format!("model.layers.{layer}.{name}"), shape.to_vec()));
        };
        for (name, width) in [("q", HIDDEN), ("k", kv), ("v", kv)] {
            add(&format!("self_attn.{name}_proj.weight"), &[width, HIDDEN]);
            add(&format!("self_attn.{name}_proj.bias"), &[width]);
        }
        add("self_attn.o_proj.weight", &[HIDDEN, HIDDEN]);
        add("mlp.gate_proj.weight", &[INNER, HIDDEN]);
        add("mlp.up_proj.weight", &[INNER, HIDDEN]);
        add("mlp.down_proj.weight", &[HIDDEN, INNER]);
        add("input_layernorm.weight", &[HIDDEN]);
        add("post_attention_layernorm.weight", &[HIDDEN]);
    }
    tensors.push(("model.norm.weight".to_owned(), vec![HIDDEN]));
    tensors
}

/// Bytes that a step with one token of each sequence has to read: every matrix once, and the keys
/// and values of all sequences, whose prompts have so many tokens together.
pub fn bytes_a_step(weights: DecoderWeights, sequences: usize, prompts: usize) -> f64 {
    let kv = KV_HEADS * HEAD;
    let layer = 2 * HIDDEN * HIDDEN + 2 * kv * HIDDEN + 3 * INNER * HIDDEN;
    let scale = (8 * size_of::<f32>()) as f64 / BLOCK;
    let (layers, head) = match weights {
        DecoderWeights::Fp32 => (32.0, 32.0),
        DecoderWeights::Bf16 => (16.0, 16.0),
        DecoderWeights::Int8 => (8.0 + scale, 8.0 + scale),
        DecoderWeights::Int4 => (4.0 + scale, 8.0 + scale),
    };
    let matrices =
        (LAYERS * layer) as f64 * layers / 8.0 + (VOCABULARY * HIDDEN) as f64 * head / 8.0;
    let per_token = LAYERS * 2 * kv * size_of::<f32>();
    // Halfway through an answer.
    let tokens = prompts + sequences * super::ANSWER_TOKENS / 2;
    matrices + (tokens * per_token) as f64
}
