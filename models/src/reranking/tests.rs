//! Rerankers that are decoders, from a query and a document to the numbers of the references.

mod answers;

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView, serialize};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::given::tests::runtime;
use crate::*;

/// Logits are up to about 10 here.
const LIMIT: f32 = 1e-4;

pub(crate) fn golden(name: &str) -> (PathBuf, Value) {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../tests/golden/checkpoints")
        .join(name);
    let golden = serde_json::from_slice(&fs::read(dir.join("golden.json")).unwrap()).unwrap();
    (dir, golden)
}

pub(crate) fn numbers(value: &Value) -> Vec<f32> {
    let numbers = value.as_array().unwrap().iter();
    numbers
        .map(|number| number.as_f64().unwrap() as f32)
        .collect()
}

pub(crate) fn token_ids(value: &Value) -> Vec<u32> {
    let ids = value.as_array().unwrap().iter();
    ids.map(|id| id.as_u64().unwrap() as u32).collect()
}

/// Runs every encoding alone, all in one batch in three orders, and in pairs, and returns the
/// largest difference from what is expected; `take` reads a row of an output.
pub(crate) fn largest_difference(
    model: &EncoderModel,
    cases: &[(Encoding, Vec<f32>)],
    (heads, take): (Heads, fn(Output) -> Vec<f32>),
) -> f32 {
    let mut orders: Vec<Vec<usize>> = (0..cases.len()).map(|index| vec![index]).collect();
    orders.push((0..cases.len()).collect());
    orders.push((0..cases.len()).rev().collect());
    orders.push((0..cases.len()).map(|i| i * 7 % cases.len()).collect());
    let last = cases.len() - 1;
    orders.extend((0..cases.len()).map(|index| vec![index, last - index, index]));
    let mut largest = 0.0_f32;
    // All of them on one thread, and the largest batches on two.
    let large = orders.iter().filter(|order| order.len() > 3);
    for (threads, orders) in [(1, orders.iter().collect()), (2, large.collect::<Vec<_>>())] {
        let mut encoder = model.encoder(threads).unwrap();
        for order in orders {
            let mut batch = Batch::wanting(heads);
            order.iter().for_each(|&index| batch.push(&cases[index].0));
            for (&index, output) in order.iter().zip(encoder.encode(&batch).unwrap()) {
                let (found, expected) = (take(output), &cases[index].1);
                assert_eq!(found.len(), expected.len());
                for (found, expected) in found.iter().zip(expected) {
                    let off = (found - expected).abs();
                    // A NaN must not pass as small.
                    largest = if off <= largest { largest } else { off };
                }
            }
        }
    }
    largest
}

fn scores(output: Output) -> Vec<f32> {
    output.scores.unwrap()
}

fn options(task: Option<Task>, cutoff_layer: Option<usize>) -> Option<LoadOptions> {
    Some(LoadOptions {
        task,
        cutoff_layer,
        ..LoadOptions::new(runtime()?)
    })
}

/// The pairs of a golden file as this crate tokenizes them, and how many differ from the golden's.
/// The numbers are always of the golden's own.
fn pairs<'a>(
    model: &EncoderModel,
    golden: &'a Value,
    limit: Option<usize>,
) -> (Vec<(Encoding, &'a Value)>, Vec<usize>) {
    let form = model.pair_form(None).unwrap();
    let truncation = model
        .info()
        .pair_truncation(&form, limit, TruncationSide::End);
    let mut others = Vec::new();
    let cases = golden["cases"].as_array().unwrap();
    assert!(cases.len() > 20);
    let pair = |(index, case): (usize, &'_ Value)| {
        let [query, document] = ["query", "document"].map(|key| case[key].as_str().unwrap());
        let query = model.tokenizer().prepare_query(&form, query, truncation);
        let mut found = model
            .tokenizer()
            .encode_pair(&query.unwrap(), document)
            .unwrap();
        let expected = token_ids(&case["input_ids"]);
        if found.input_ids != expected {
            others.push(index);
            found.token_type_ids = vec![0; expected.len()];
            found.input_ids = expected;
        }
        found
    };
    let encodings: Vec<Encoding> = cases.iter().enumerate().map(pair).collect();
    (encodings.into_iter().zip(cases).collect(), others)
}

fn check(model: &EncoderModel, golden: &Value, name: &str) {
    let (pairs, others) = pairs(model, golden, None);
    let whole_query =
        |index: &usize| golden["cases"][*index]["query"].as_str().unwrap().len() < 1000;
    // The reference cuts the end of query and document as one text, down to no document at all;
    // here a query longer than its share gives way first.
    assert!(!others.iter().any(whole_query), "{name}: ids of {others:?}");
    assert_eq!(others.len(), 2, "{name}");
    let pairs: Vec<(Encoding, Vec<f32>)> = pairs
        .into_iter()
        .map(|(encoding, case)| (encoding, numbers(&case["logits"])))
        .collect();
    let off = largest_difference(model, &pairs, (Heads::SCORE, scores));
    println!("{name}: off by {off:e}");
    assert!(off <= LIMIT, "{name}: off by {off:e}");
}

#[test]
fn qwen3_rerankers_score_as_the_reference() {
    let (Some(told), Some(silent)) = (options(Some(Task::Rerank), None), options(None, None))
    else {
        return;
    };
    for (name, options) in [("qwen3-tiny-reranker", told), ("qwen3-tiny-score", silent)] {
        let (dir, golden) = golden(name);
        let model = EncoderModel::load(&dir, &options).unwrap();
        let info = model.info();
        assert_eq!(
            (info.heads, info.labels, info.dimensions),
            (Heads::SCORE, 1, 0)
        );
        assert!(info.takes_instruction());
        assert_eq!((info.max_tokens, info.cutoff_layer), (224, None));
        check(&model, &golden, name);
    }
}

#[test]
fn an_instruction_is_part_of_the_pair() {
    let Some(options) = options(Some(Task::Rerank), None) else {
        return;
    };
    let (dir, _) = golden("qwen3-tiny-reranker");
    let model = EncoderModel::load(&dir, &options).unwrap();
    let tokens = |instruction: Option<&str>| {
        let form = model.pair_form(instruction).unwrap();
        let limits = model
            .info()
            .pair_truncation(&form, None, TruncationSide::End);
        let query = model.tokenizer().prepare_query(&form, "rain", limits);
        let pair = model.tokenizer().encode_pair(&query.unwrap(), "").unwrap();
        model
            .tokenizer()
            .decode(&pair.input_ids, SpecialTokens::Keep)
            .unwrap()
    };
    let found = tokens(Some("Find the weather"));
    let written = "<Instruct>: Find the weather\n<Query>: rain\n<Document>: <|im_end|>\n";
    assert!(found.contains(written), "{found}");
    assert!(tokens(None).contains("<Instruct>: Given a web search query, retrieve"));
    // A cross-encoder of another family has the form of its tokenizer, and an embedder has none.
    let options = LoadOptions::new(options.runtime);
    let encoder = EncoderModel::load(&golden("bert-tiny-score").0, &options).unwrap();
    assert_eq!(
        encoder.pair_form(None).unwrap(),
        encoder.tokenizer().pair_form().unwrap()
    );
    assert!(!encoder.info().takes_instruction());
    assert!(encoder.pair_form(Some("Find")).is_err());
    for name in ["bert-tiny-mean", "qwen3-tiny-lasttoken"] {
        let embedder = EncoderModel::load(&golden(name).0, &options).unwrap();
        let error = embedder.pair_form(None).unwrap_err().to_string();
        assert!(error.contains("`dense`, not scores"), "{error}");
        assert!(!embedder.info().takes_instruction());
    }
}

#[test]
fn minicpm_scores_after_every_layer_that_has_a_head() {
    let (dir, golden) = golden("minicpm-layerwise-tiny");
    let cutoffs = token_ids(&golden["cutoff_layers"]);
    let mut parameters = Vec::new();
    let load = |layer| {
        let options = options(None, layer)?;
        Some(EncoderModel::load(&dir, &options))
    };
    for (column, &layer) in cutoffs.iter().enumerate() {
        let layer = layer as usize;
        let Some(model) = load(Some(layer)) else {
            return;
        };
        let model = model.unwrap();
        assert_eq!(model.info().cutoff_layer, Some(layer));
        parameters.push((layer, model.info().parameters));
        let limit = golden["max_seq_length"]
            .as_u64()
            .map(|limit| limit as usize);
        let (pairs, others) = pairs(&model, &golden, limit);
        assert_eq!(others, [0; 0], "ids at layer {layer}");
        let pairs: Vec<(Encoding, Vec<f32>)> = pairs
            .into_iter()
            .map(|(encoding, case)| (encoding, vec![numbers(&case["logits"])[column]]))
            .collect();
        let off = largest_difference(&model, &pairs, (Heads::SCORE, scores));
        println!("minicpm-layerwise-tiny at layer {layer}: off by {off:e}");
        assert!(off <= LIMIT, "layer {layer}: off by {off:e}");
    }
    // The layers behind the cut-off are not there: four projections of 32 by 32, three of the
    // feed-forward layer, 32 by 48, and two norms each.
    let per_layer = 4 * 32 * 32 + 3 * 32 * 48 + 2 * 32;
    for pair in parameters.windows(2) {
        let layers = pair[1].0 - pair[0].0;
        assert_eq!(pair[1].1 - pair[0].1, (layers * per_layer) as u64);
    }
    // Without a cut-off it is the last layer, as the reference has it.
    let whole = load(None).unwrap().unwrap();
    assert_eq!(whole.info().cutoff_layer, Some(6));
    assert!(load(Some(3)).unwrap().is_ok());
    for layer in [0, 1, 7] {
        let error = load(Some(layer)).unwrap().err().unwrap().to_string();
        let range = format!("`{layer}` is outside the range of `2` to `6`");
        assert!(error.contains(&range), "{error}");
    }
    // Nothing exceeds the positions, whatever a caller allows.
    let form = whole.pair_form(None).unwrap();
    for limit in [None, Some(320), Some(5000)] {
        let truncation = whole
            .info()
            .pair_truncation(&form, limit, TruncationSide::End);
        assert_eq!(truncation.max_tokens, 320);
    }
}

/// A copy of a golden checkpoint with some files written anew; `None` leaves one out.
pub(crate) fn copy(name: &str, files: &[(&str, Option<Vec<u8>>)]) -> TempDir {
    let (from, _) = golden(name);
    let dir = tempfile::tempdir().unwrap();
    for file in fs::read_dir(from).unwrap().map(Result::unwrap) {
        if file.path().is_file() {
            fs::copy(file.path(), dir.path().join(file.file_name())).unwrap();
        } else {
            fs::create_dir(dir.path().join(file.file_name())).unwrap();
            for inner in fs::read_dir(file.path()).unwrap().map(Result::unwrap) {
                let to = dir.path().join(file.file_name()).join(inner.file_name());
                fs::copy(inner.path(), to).unwrap();
            }
        }
    }
    for (file, bytes) in files {
        let path = dir.path().join(file);
        match bytes {
            Some(bytes) => {
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, bytes).unwrap();
            }
            None => fs::remove_file(path).unwrap(),
        }
    }
    dir
}

pub(crate) fn text(value: &Value) -> Option<Vec<u8>> {
    Some(value.to_string().into_bytes())
}

/// The tensors of a golden checkpoint of 32-bit numbers.
pub(crate) fn tensors(name: &str) -> HashMap<String, (Vec<usize>, Vec<f32>)> {
    let bytes = fs::read(golden(name).0.join("model.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let tensor = |(name, view): (String, TensorView<'_>)| {
        assert_eq!(view.dtype(), Dtype::F32);
        let values = view.data().chunks_exact(4);
        let values = values.map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap()));
        (name, (view.shape().to_vec(), values.collect()))
    };
    tensors.tensors().into_iter().map(tensor).collect()
}

fn f32_file(tensors: &HashMap<String, (Vec<usize>, Vec<f32>)>) -> Vec<u8> {
    let bytes: Vec<(&String, &Vec<usize>, Vec<u8>)> = tensors
        .iter()
        .map(|(name, (shape, values))| {
            let bytes = values.iter().flat_map(|value| value.to_le_bytes());
            (name, shape, bytes.collect())
        })
        .collect();
    let views = bytes.iter().map(|(name, shape, bytes)| {
        let view = TensorView::new(Dtype::F32, (*shape).clone(), bytes).unwrap();
        (name.as_str(), view)
    });
    serialize(views, None).unwrap()
}

fn refusal(dir: &Path, options: &LoadOptions) -> String {
    let error = EncoderModel::load(dir, options).err().expect("a refusal");
    error.to_string()
}

#[test]
fn a_language_model_is_a_reranker_where_something_says_so() {
    let Some(silent) = options(None, None) else {
        return;
    };
    let told = |task| LoadOptions {
        task: Some(task),
        ..silent.clone()
    };
    let (reranker, embedder) = (
        golden("qwen3-tiny-reranker").0,
        golden("qwen3-tiny-lasttoken").0,
    );
    let error = refusal(&reranker, &silent);
    assert!(error.contains("set the task to `rerank`"), "{error}");
    let error = refusal(&reranker, &told(Task::Embed));
    assert!(error.contains("how to pool"), "{error}");
    let error = refusal(&embedder, &told(Task::Rerank));
    assert!(error.contains("set the task to `embed`"), "{error}");
    let pooled = LoadOptions {
        pooling: Some(Pooling::LastToken),
        ..silent.clone()
    };
    let model = EncoderModel::load(&reranker, &pooled).unwrap();
    assert_eq!(model.info().heads, Heads::DENSE);
    let model = EncoderModel::load(&embedder, &told(Task::Embed)).unwrap();
    assert_eq!(model.info().heads, Heads::DENSE);
    let cut = LoadOptions {
        cutoff_layer: Some(2),
        ..told(Task::Rerank)
    };
    for dir in [&reranker, &golden("bert-tiny-mean").0] {
        let error = refusal(dir, &cut);
        assert!(error.contains("leave the cut-off layer out"), "{error}");
    }
    let model = EncoderModel::load(&reranker, &told(Task::Rerank)).unwrap();
    let error = model
        .tokenizer()
        .word_id("yes or no")
        .unwrap_err()
        .to_string();
    assert!(error.contains("tokens to this tokenizer"), "{error}");
}
