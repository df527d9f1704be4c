//! A checkpoint with rotary positions, of the size that people run: nomic-embed-text's layout with
//! random numbers.

use std::path::PathBuf;

use retort_models::Pooling;
use serde_json::json;

use crate::{full_size, measure::Outcome};

const LAYERS: usize = 12;
const HIDDEN: usize = 768;
const HEADS: usize = 12;
const INNER: usize = 3072;
const VOCABULARY: usize = 30_528;

/// Its folder, made once.
pub fn checkpoint() -> Outcome<PathBuf> {
    let config = json!({
        "architectures": ["NomicBertModel"], "model_type": "nomic_bert",
        "activation_function": "swiglu", "n_embd": HIDDEN, "n_head": HEADS, "n_inner": INNER,
        "n_layer": LAYERS, "n_positions": 8192, "max_trained_positions": 8192,
        "vocab_size": VOCABULARY, "pad_vocab_size_multiple": 64, "type_vocab_size": 2,
        "layer_norm_epsilon": 1e-12, "causal": false, "prenorm": false, "parallel_block": false,
        "use_rms_norm": false, "qkv_proj_bias": false, "mlp_fc1_bias": false,
        "mlp_fc2_bias": false, "rotary_emb_base": 1000, "rotary_emb_fraction": 1.0,
        "rotary_emb_interleaved": false, "rotary_emb_scale_base": null,
        "rotary_scaling_factor": null,
    });
    full_size::folder("nomic-base", &config, Some(Pooling::Mean), &tensors())
}

/// Names and shapes of the tensors, as the model's authors save them.
fn tensors() -> Vec<(String, Vec<usize>)> {
    let mut tensors = Vec::new();
    let mut add = |name: String, shape: &[usize]| tensors.push((name, shape.to_vec()));
    let table = |name: &str| format!("embeddings.{name}_embeddings.weight");
    add(table("word"), &[VOCABULARY, HIDDEN]);
    add(table("token_type"), &[2, HIDDEN]);
    let mut norm = |name: &str| {
        add(format!("{name}.weight"), &[HIDDEN]);
        add(format!("{name}.bias"), &[HIDDEN]);
    };
    norm("emb_ln");
    for layer in 0..LAYERS {
        for name in ["norm1", "norm2"] {
            norm(&format!("encoder.layers.{layer}.{name}"));
        }
    }
    for layer in 0..LAYERS {
        for (name, shape) in [
            ("attn.Wqkv", [3 * HIDDEN, HIDDEN]),
            ("attn.out_proj", [HIDDEN, HIDDEN]),
            ("mlp.fc11", [INNER, HIDDEN]),
            ("mlp.fc12", [INNER, HIDDEN]),
            ("mlp.fc2", [HIDDEN, INNER]),
        ] {
            add(format!("encoder.layers.{layer}.{name}.weight"), &shape);
        }
    }
    tensors
}
