//! The checkpoint of stories260K (karpathy/tinyllamas), made of the two files that llama2.c reads.
//! Also read by the unit tests of the models.

use std::path::Path;

use safetensors::tensor::{Dtype, TensorView, serialize};
use serde_json::{Value, json};

/// Writes the checkpoint into a folder.
pub fn write_checkpoint(weights: &Path, pieces: &Path, dir: &Path) {
    write_weights(weights, dir);
    write_tokenizer(pieces, dir);
}

/// The numbers of a file, from a place on.
struct Reader {
    bytes: Vec<u8>,
    at: usize,
}

impl Reader {
    fn open(path: &Path) -> Self {
        let bytes = std::fs::read(path).unwrap();
        Self { bytes, at: 0 }
    }

    fn bytes(&mut self, count: usize) -> &[u8] {
        self.at += count;
        &self.bytes[self.at - count..self.at]
    }

    fn integer(&mut self) -> usize {
        i32::from_le_bytes(self.bytes(4).try_into().unwrap()) as usize
    }

    fn float(&mut self) -> f32 {
        f32::from_le_bytes(self.bytes(4).try_into().unwrap())
    }
}

/// llama2.c turns pairs of neighbours, transformers the first half of a head against the second:
/// the rows of a head, each pair's first, then each pair's second.
fn halves(bytes: &[u8], heads: usize) -> Vec<u8> {
    let head = bytes.len() / heads;
    let mut out = Vec::with_capacity(bytes.len());
    for rows in bytes.chunks_exact(head) {
        // Eight rows of a head of this model.
        let row = head / 8;
        for second in [0, 1] {
            for pair in 0..4 {
                out.extend_from_slice(&rows[(2 * pair + second) * row..][..row]);
            }
        }
    }
    out
}

fn write_weights(from: &Path, dir: &Path) {
    let mut file = Reader::open(from);
    let [dim, hidden, layers, heads, kv_heads, vocabulary, positions]: [usize; 7] =
        std::array::from_fn(|_| file.integer());
    assert_eq!((dim, heads, dim / heads), (64, 8, 8));
    let kv = dim / heads * kv_heads;
    let mut tensors: Vec<(String, Vec<usize>, Vec<u8>)> = Vec::new();
    let mut take = |name: &str, count: usize, shape: &[usize]| {
        for layer in 0..count {
            let name = name.replace("{}", &layer.to_string());
            let bytes = file.bytes(4 * shape.iter().product::<usize>()).to_vec();
            let bytes = match name.contains("q_proj") || name.contains("k_proj") {
                true => halves(&bytes, shape[0] / 8),
                false => bytes,
            };
            tensors.push((format!("model.{name}.weight"), shape.to_vec(), bytes));
        }
    };
    take("embed_tokens", 1, &[vocabulary, dim]);
    take("layers.{}.input_layernorm", layers, &[dim]);
    take("layers.{}.self_attn.q_proj", layers, &[dim, dim]);
    take("layers.{}.self_attn.k_proj", layers, &[kv, dim]);
    take("layers.{}.self_attn.v_proj", layers, &[kv, dim]);
    take("layers.{}.self_attn.o_proj", layers, &[dim, dim]);
    take("layers.{}.post_attention_layernorm", layers, &[dim]);
    take("layers.{}.mlp.gate_proj", layers, &[hidden, dim]);
    take("layers.{}.mlp.down_proj", layers, &[dim, hidden]);
    take("layers.{}.mlp.up_proj", layers, &[hidden, dim]);
    take("norm", 1, &[dim]);
    let views = tensors.iter().map(|(name, shape, bytes)| {
        let view = TensorView::new(Dtype::F32, shape.clone(), bytes);
        (name.as_str(), view.unwrap())
    });
    let file = serialize(views, None).unwrap();
    std::fs::write(dir.join("model.safetensors"), file).unwrap();
    let config = json!({
        "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_act": "silu",
        "hidden_size": dim, "intermediate_size": hidden, "num_hidden_layers": layers,
        "num_attention_heads": heads, "num_key_value_heads": kv_heads, "vocab_size": vocabulary,
        "max_position_embeddings": positions, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
        "tie_word_embeddings": true, "bos_token_id": 1, "eos_token_id": 2,
    });
    std::fs::write(dir.join("config.json"), config.to_string()).unwrap();
}

/// SentencePiece's tokenizer of pairs that are merged in the order of their scores.
fn write_tokenizer(from: &Path, dir: &Path) {
    let mut file = Reader::open(from);
    file.integer();
    let mut pieces: Vec<String> = Vec::new();
    while file.at < file.bytes.len() {
        file.float();
        let length = file.integer();
        let piece = String::from_utf8(file.bytes(length).to_vec()).unwrap();
        pieces.push(match pieces.len() {
            0 => "<unk>".to_owned(),
            1 => "<s>".to_owned(),
            2 => "</s>".to_owned(),
            _ => piece.replace(' ', "\u{2581}"),
        });
    }
    let mut merges = Vec::new();
    // Scores fall with the number, so the numbers are the order.
    for piece in &pieces[259..] {
        for (at, _) in piece.char_indices().skip(1) {
            let (left, right) = piece.split_at(at);
            if [left, right]
                .iter()
                .all(|part| pieces.iter().any(|known| known == part))
            {
                merges.push(json!([left, right]));
            }
        }
    }
    let vocabulary: serde_json::Map<String, Value> = pieces
        .iter()
        .enumerate()
        .map(|(id, piece)| (piece.clone(), json!(id)))
        .collect();
    let special = |id: usize| {
        json!({"id": id, "content": pieces[id], "special": true, "single_word": false,
               "lstrip": false, "rstrip": false, "normalized": false})
    };
    let replace = |from: &str, to: &str| {
        let pattern = json!({"String": from});
        json!({"type": "Replace", "pattern": pattern, "content": to})
    };
    let framed = |part: &str| json!({"Sequence": {"id": part, "type_id": 0}});
    let start = json!({"SpecialToken": {"id": "<s>", "type_id": 0}});
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": [special(0), special(1), special(2)],
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "\u{2581}"}, replace(" ", "\u{2581}"),
        ]},
        "pre_tokenizer": null,
        "post_processor": {"type": "TemplateProcessing", "single": [start, framed("A")],
            "pair": [start, framed("A"), start, framed("B")],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}},
        "decoder": {"type": "Sequence", "decoders": [
            replace("\u{2581}", " "), {"type": "ByteFallback"}, {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0},
        ]},
        "model": {"type": "BPE", "dropout": null, "unk_token": "<unk>",
            "continuing_subword_prefix": null, "end_of_word_suffix": null, "fuse_unk": true,
            "byte_fallback": true, "vocab": vocabulary, "merges": merges},
    });
    std::fs::write(dir.join("tokenizer.json"), tokenizer.to_string()).unwrap();
    let settings = json!({"bos_token": "<s>", "eos_token": "</s>"});
    std::fs::write(dir.join("tokenizer_config.json"), settings.to_string()).unwrap();
}
