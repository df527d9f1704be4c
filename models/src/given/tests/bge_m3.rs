//! The official export of BAAI/bge-m3 with its real heads beside it, where it is at hand. Its
//! weights are not; a file of the same length stands in for them, nearly all of it a hole.

use std::io::{Seek, SeekFrom, Write};

use super::*;
use crate::checkpoint::weights::F32Values;
use crate::{EncoderModel, Encoding, LoadOptions};

const DATA_BYTES: u64 = 2_266_820_608;
/// `<s>`, three words, one of them twice, a word that is `<unk>`, and `</s>`.
const IDS: [u32; 7] = [0, 9, 70, 9, 3, 8, 2];
const HIDDEN: usize = 1024;

const TOKENIZER: &str = r#"{"version": "1.0", "added_tokens": [], "pre_tokenizer": null, "model":
    {"type": "WordLevel", "vocab": {"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3},
     "unk_token": "<unk>"}}"#;
const TOKENIZER_CONFIG: &str = r#"{"cls_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>",
    "unk_token": "<unk>", "model_max_length": 8192}"#;
const CONFIG: &str = r#"{"model_type": "xlm-roberta", "architectures": ["XLMRobertaModel"],
    "vocab_size": 250002, "max_position_embeddings": 8194, "pad_token_id": 1,
    "type_vocab_size": 1}"#;

/// The folder as it is published, with weights that make the token vectors various.
fn folder() -> Option<tempfile::TempDir> {
    let source =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data/models/bge-m3-graph");
    if !source.exists() {
        println!("stepping aside: `{}` is not here", source.display());
        return None;
    }
    let dir = tempfile::tempdir().unwrap();
    for name in ["model.onnx", "sparse_linear.pt", "colbert_linear.pt"] {
        fs::write(dir.path().join(name), fs::read(source.join(name)).unwrap()).unwrap();
    }
    fs::write(dir.path().join("config.json"), CONFIG).unwrap();
    fs::write(dir.path().join("tokenizer.json"), TOKENIZER).unwrap();
    fs::write(dir.path().join("tokenizer_config.json"), TOKENIZER_CONFIG).unwrap();
    let model = ModelProto::decode(&fs::read(source.join("model.onnx")).unwrap()[..]).unwrap();
    let mut data = File::create(dir.path().join("model.onnx_data")).unwrap();
    data.set_len(DATA_BYTES).unwrap();
    let mut write = |at: u64, numbers: &[f32]| {
        let bytes: Vec<u8> = numbers.iter().flat_map(|n| n.to_le_bytes()).collect();
        data.seek(SeekFrom::Start(at)).unwrap();
        data.write_all(&bytes).unwrap();
    };
    for initializer in model.graph.unwrap().initializer {
        let mut entries = initializer.external_data.iter();
        let offset = entries.find(|entry| entry.key == "offset");
        let offset: u64 = offset.map_or(0, |entry| entry.value.parse().unwrap());
        if initializer.name.ends_with("LayerNorm.weight") {
            write(offset, &[1.0; HIDDEN]);
        }
        if initializer.name.ends_with("word_embeddings.weight") {
            for id in IDS {
                let noise = |at: usize| ((at as f32 + 1.7) * (id as f32 + 0.3)).sin();
                let row: Vec<f32> = (0..HIDDEN).map(noise).collect();
                write(offset + u64::from(id) * 4 * HIDDEN as u64, &row);
            }
        }
    }
    Some(dir)
}

/// The weight and the bias of one of the heads, widened.
fn linear(dir: &Path, name: &str) -> (F32Values, F32Values) {
    let mut weights = Weights::none(dir);
    weights
        .include_file(&dir.join(format!("{name}.pt")), "")
        .unwrap();
    let values = |name: &str| weights.get(name).unwrap().to_f32().unwrap();
    (values("weight"), values("bias"))
}

/// `x·Wᵀ + b` as one reads it.
fn apply((weight, bias): &(F32Values, F32Values), x: &[f32]) -> Vec<f32> {
    let rows = weight.as_slice().chunks_exact(x.len());
    let dot = |row: &[f32]| -> f64 {
        let pairs = row.iter().zip(x);
        pairs.map(|(w, x)| f64::from(*w) * f64::from(*x)).sum()
    };
    rows.zip(bias.as_slice())
        .map(|(row, bias)| (dot(row) + f64::from(*bias)) as f32)
        .collect()
}

fn assert_close(found: &[f32], expected: &[f32]) {
    assert_eq!(found.len(), expected.len());
    let largest = expected.iter().fold(0.0_f32, |max, x| max.max(x.abs()));
    for (found, expected) in found.iter().zip(expected) {
        let off = (found - expected).abs();
        assert!(off <= 1e-5 * largest, "{found} for {expected}");
    }
}

fn unit(vector: &[f32]) -> Vec<f32> {
    let norm = vector.iter().map(|x| x * x).sum::<f32>().sqrt();
    vector.iter().map(|x| x / norm).collect()
}

#[test]
fn the_official_export_gives_all_three_heads() {
    let (Some(runtime), Some(dir)) = (runtime(), folder()) else {
        return;
    };
    let load = |pooling| {
        let options = LoadOptions {
            pooling,
            ..LoadOptions::new(runtime.clone())
        };
        EncoderModel::load(dir.path(), &options).unwrap()
    };
    let heads: Heads = [Head::Dense, Head::Sparse, Head::MultiVector]
        .into_iter()
        .collect();
    let encoding = Encoding {
        input_ids: IDS.to_vec(),
        token_type_ids: vec![0; IDS.len()],
        ..Encoding::default()
    };
    let run = |model: &EncoderModel, encoding: &Encoding| {
        assert_eq!(model.info().heads, heads);
        let mut batch = Batch::wanting(heads);
        batch.push(encoding);
        let mut outputs = model.encoder(1).unwrap().encode(&batch).unwrap();
        outputs.remove(0)
    };
    let model = load(None);
    let info = model.info();
    assert_eq!((info.dimensions, info.token_dimensions), (HIDDEN, HIDDEN));
    assert_eq!((info.max_tokens, info.pooling), (8192, None));
    assert!(info.weights_bytes > DATA_BYTES);
    let found = run(&model, &encoding);
    // One model of this size in memory at a time.
    drop(model);

    // Pooled token by token, the vectors are the token vectors themselves.
    let apart = Encoding {
        segments: (1..=IDS.len() as u32).collect(),
        ..encoding
    };
    let by_token = run(&load(Some(Pooling::Mean)), &apart);
    assert_eq!(by_token.sparse, found.sparse);
    let tokens = by_token.dense.unwrap();
    let tokens: Vec<&[f32]> = tokens.chunks_exact(HIDDEN).collect();
    assert_eq!(tokens.len(), IDS.len());
    assert_close(found.dense.as_ref().unwrap(), &unit(tokens[0]));

    let vectors = found.multi_vector.unwrap();
    let colbert = linear(dir.path(), "colbert_linear");
    assert_eq!(vectors.rows().len(), IDS.len() - 1);
    for (found, token) in vectors.rows().zip(&tokens[1..]) {
        assert_close(found, &unit(&apply(&colbert, token)));
    }
    let sparse = linear(dir.path(), "sparse_linear");
    let mut expected = std::collections::BTreeMap::<u32, f32>::new();
    for (id, token) in IDS.into_iter().zip(tokens) {
        let weight = apply(&sparse, token)[0];
        if id > 3 && weight > 0.0 {
            let known = expected.entry(id).or_default();
            *known = known.max(weight);
        }
    }
    let found = found.sparse.unwrap();
    assert!(!expected.is_empty() && found.ids.iter().eq(expected.keys()));
    assert_close(&found.weights, &expected.into_values().collect::<Vec<_>>());
}
