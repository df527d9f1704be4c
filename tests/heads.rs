//! Every head of every tiny checkpoint against what transformers and sentence-transformers gave,
//! from the token ids of the goldens: alone, packed together, and in random company.

mod cases;

use retort_models::architectures::ARCHITECTURES;
use retort_models::{
    Batch, Encode, EncoderInfo, EncoderModel, Encoding, Error, GraphSource, Head, Heads,
    LoadOptions, Output, Pooling,
};
use serde_json::Value;

use crate::support::numbers::{Dice, close, load, read_json};
use crate::support::{golden, runtime};
use cases::{Case, Worst, check_same, floats};

/// A decoder that scores only where it is told to; `models/src/reranking/tests.rs` proves it.
const TOLD: &str = "qwen3-tiny-reranker";
/// Its golden has a score for each layer that it may be cut off after; it is proven there, too.
const CUT_OFF: &str = "minicpm-layerwise-tiny";

fn run(encoder: &mut dyn Encode, encodings: &[&Encoding], heads: Heads) -> Vec<Output> {
    let mut batch = Batch::wanting(heads);
    encodings.iter().for_each(|encoding| batch.push(encoding));
    let outputs = encoder.encode(&batch).unwrap();
    assert_eq!(outputs.len(), encodings.len());
    outputs
}

/// Every case alone, all together, and in random mixes that want random heads.
fn check_cases(model: &EncoderModel, cases: &[Case], name: &str) -> Worst {
    let all_heads = model.info().heads;
    let mut encoder = model.encoder(1).unwrap();
    let mut worst = Worst::default();
    let alone: Vec<Output> = cases
        .iter()
        .enumerate()
        .map(|(index, case)| {
            let found = run(&mut *encoder, &[&case.encoding], all_heads).remove(0);
            worst.add(&case.check(&found, all_heads, &format!("{name}, alone, case {index}")));
            found
        })
        .collect();
    let together: Vec<&Encoding> = cases.iter().map(|case| &case.encoding).collect();
    for (index, found) in run(&mut *encoder, &together, all_heads).iter().enumerate() {
        let what = format!("{name}, packed, case {index}");
        worst.add(&cases[index].check(found, all_heads, &what));
        check_same(found, &alone[index], &what);
    }
    let mut dice = Dice(7);
    for round in 0..25 {
        let wanted: Heads = all_heads.iter().filter(|_| dice.below(2) == 1).collect();
        let wanted = if wanted.is_empty() { all_heads } else { wanted };
        let picked: Vec<usize> = (0..=dice.below(12))
            .map(|_| dice.below(cases.len()))
            .collect();
        let mixed: Vec<&Encoding> = picked.iter().map(|&at| &cases[at].encoding).collect();
        for (found, &index) in run(&mut *encoder, &mixed, wanted).iter().zip(&picked) {
            let what = format!("{name}, mix {round}, case {index}");
            worst.add(&cases[index].check(found, wanted, &what));
            if wanted == all_heads {
                check_same(found, &alone[index], &what);
            }
        }
    }
    worst
}

/// Asks for every head that is not there, alone and beside one that is.
fn check_missing_heads(model: &EncoderModel, case: &Case, name: &str) {
    let given = model.info().heads;
    let mut encoder = model.encoder(1).unwrap();
    for head in Head::ALL.into_iter().filter(|&head| !given.contains(head)) {
        for wanted in [Heads::from(head), given | head.into()] {
            let mut batch = Batch::wanting(wanted);
            batch.push(&case.encoding);
            let error = encoder.encode(&batch).unwrap_err();
            assert!(
                matches!(error, Error::Unsupported(_)),
                "{name}: {head}: {error}"
            );
            assert!(error.to_string().contains(head.name()), "{name}: {error}");
        }
    }
}

fn check_info(info: &EncoderInfo, golden: &Value, name: &str) {
    let heads = match golden["heads"].as_array() {
        None => Heads::DENSE,
        Some(heads) => heads
            .iter()
            .map(|head| {
                let head = head.as_str().unwrap().replace('_', "-");
                Head::ALL
                    .into_iter()
                    .find(|known| known.name() == head)
                    .expect("a known head")
            })
            .collect(),
    };
    assert_eq!(info.heads, heads, "{name}");
    let family = ARCHITECTURES
        .iter()
        .find(|family| family.name == info.architecture)
        .expect("a declared family");
    let called = golden["architecture"].as_str().unwrap();
    assert!(
        family.name == called || family.model_types.contains(&called),
        "{name} is {}",
        info.architecture
    );
    assert_eq!(info.max_tokens, golden["max_seq_length"], "{name}");
    if heads.contains(Head::Dense) {
        assert_eq!(info.dimensions, golden["dimension"], "{name}");
        assert_eq!(info.pooling.unwrap().name(), golden["pooling"], "{name}");
    }
    if heads.contains(Head::MultiVector) {
        assert_eq!(info.token_dimensions, golden["width"], "{name}");
    }
    if heads.contains(Head::Score) {
        assert_eq!(info.labels, golden["labels"], "{name}");
        let names = golden["id2label"].as_object();
        for (index, label) in info.label_names.iter().enumerate() {
            let known = names.and_then(|names| names.get(&index.to_string()));
            assert!(known.is_none_or(|known| known == label), "{name}: {label}");
        }
    }
}

#[test]
fn every_head_of_every_tiny_checkpoint_gives_what_its_golden_has() {
    let options = LoadOptions::new(runtime());
    let mut seen = Heads::NONE;
    let mut entries: Vec<_> = std::fs::read_dir(golden("checkpoints"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    entries.sort_unstable();
    for dir in entries {
        let name = dir.file_name().unwrap().to_string_lossy().into_owned();
        let model = match (EncoderModel::load(&dir, &options), &*name) {
            (Ok(_), CUT_OFF) | (Err(Error::Checkpoint { .. } | Error::Unsupported(_)), TOLD) => {
                continue;
            }
            (Ok(model), _) => model,
            (Err(error), _) => panic!("{name} does not load: {error}"),
        };
        let golden = read_json(&dir.join("golden.json"));
        check_info(model.info(), &golden, &name);
        let cases = Case::all(&golden, "pooled");
        let worst = check_cases(&model, &cases, &name);
        println!("{name}: {} cases, {worst:?}", cases.len());
        check_missing_heads(&model, &cases[1], &name);
        seen = seen | model.info().heads;
    }
    assert_eq!(seen, Head::ALL.into_iter().collect(), "heads without proof");
}

/// Finished graphs of the same checkpoints, which `make_onnx_heads.py` exported: with the heads
/// inside, or beside the graph.
#[test]
fn given_graphs_give_the_heads_inside_and_beside_them() {
    let m3 = Heads::from_iter([Head::Dense, Head::Sparse, Head::MultiVector]);
    for (name, file, heads) in [
        ("bge-m3-tiny", "model.onnx", m3),
        ("bge-m3-tiny", "vecs.onnx", m3),
        ("bert-tiny-score3", "model.onnx", Heads::SCORE),
        ("splade-tiny", "model.onnx", Head::Sparse.into()),
    ] {
        let dir = golden("checkpoints").join(name);
        let golden = read_json(&dir.join("golden.json"));
        let path = dir.join("onnx").join(file);
        let model = load(&path);
        let info = model.info();
        let name = format!("{name}/{file}");
        assert_eq!(info.source, GraphSource::Given(path.clone()), "{name}");
        assert_eq!(info.heads, heads, "{name}");
        assert_eq!(info.label_names.len(), info.labels, "{name}");
        if heads == m3 {
            assert_eq!((info.dimensions, info.token_dimensions), (32, 32), "{name}");
            assert_eq!(info.pooling, None, "{name}");
        }
        // These graphs scale the vector of the text to length 1 themselves.
        let mut cases = Case::all(&golden, "normalized");
        for case in &mut cases {
            case.limit = 2e-5;
        }
        let worst = check_cases(&model, &cases, &name);
        println!("{name}: {worst:?}");
        check_missing_heads(&model, &cases[1], &name);
        if heads != m3 {
            continue;
        }
        let mut batch = Batch::wanting(heads);
        batch.push(&Encoding {
            segments: vec![1, cases[1].encoding.input_ids.len() as u32],
            ..cases[1].encoding.clone()
        });
        let error = model.encoder(1).unwrap().encode(&batch).unwrap_err();
        assert!(error.to_string().contains("pools by itself"), "{error}");
    }
}

/// A given graph may pool by itself; told how to, it is taken by its token vectors, and those can
/// be pooled in pieces.
#[test]
fn a_given_graph_told_how_to_pool_pools_segments() {
    let dir = golden("checkpoints/bge-m3-tiny");
    let options = LoadOptions {
        pooling: Some(Pooling::Mean),
        ..LoadOptions::new(runtime())
    };
    let model = EncoderModel::load(&dir.join("onnx/model.onnx"), &options).unwrap();
    assert_eq!(model.info().pooling, Some(Pooling::Mean));
    assert!(model.info().heads.contains(Head::Sparse));
    let golden = read_json(&dir.join("golden.json"));
    let hidden = &golden["last_hidden_state"];
    let values = floats(&hidden["values"]);
    let vectors: Vec<&[f32]> = values.chunks_exact(32).collect();
    let whole = Case::read(hidden, "pooled").encoding;
    let tokens = whole.input_ids.len();
    let cut = Encoding {
        segments: vec![2, tokens as u32],
        ..whole.clone()
    };
    let mut encoder = model.encoder(1).unwrap();
    let outputs = run(&mut *encoder, &[&cut, &whole], Heads::DENSE);
    let found = outputs[0].dense.as_ref().unwrap();
    let mean = |vectors: &[&[f32]]| pooled(Pooling::Mean, vectors);
    close(&found[..32], &mean(&vectors[..2]), 2e-5, "first piece");
    close(&found[32..], &mean(&vectors[2..]), 2e-5, "second piece");
    let found = outputs[1].dense.as_ref().unwrap();
    close(found, &mean(&vectors), 2e-5, "the whole text");
}

/// Pooling written to be read. `vectors` has a row per token.
fn pooled(pooling: Pooling, vectors: &[&[f32]]) -> Vec<f32> {
    let tokens = vectors.len() as f32;
    let sum = |factor: &dyn Fn(usize) -> f32| -> Vec<f32> {
        let column = |at: usize| {
            let rows = vectors.iter().enumerate();
            rows.map(|(token, row)| factor(token) * row[at]).sum()
        };
        (0..vectors[0].len()).map(column).collect()
    };
    match pooling {
        Pooling::Cls => vectors[0].to_vec(),
        Pooling::LastToken => vectors[vectors.len() - 1].to_vec(),
        Pooling::Mean => sum(&|_| 1.0 / tokens),
        Pooling::MeanSqrtLen => sum(&|_| 1.0 / tokens.sqrt()),
        Pooling::WeightedMean => sum(&|token| (token + 1) as f32 / (tokens * (tokens + 1.0) / 2.0)),
        Pooling::Max => {
            let largest = |at: usize| vectors.iter().map(|row| row[at]).fold(f32::MIN, f32::max);
            (0..vectors[0].len()).map(largest).collect()
        }
    }
}

/// Late chunking: one forward pass over the whole text, pooled in pieces.
#[test]
fn segments_are_pooled_out_of_one_forward_pass() {
    let (mut poolings, mut dice) = (Vec::new(), Dice(3));
    for entry in std::fs::read_dir(golden("checkpoints")).unwrap() {
        let dir = entry.unwrap().path();
        let name = dir.file_name().unwrap().to_string_lossy().into_owned();
        let golden = read_json(&dir.join("golden.json"));
        let hidden = &golden["last_hidden_state"];
        // What follows the pooling would hide it.
        if hidden.is_null() || !golden["dense_module"].is_null() {
            continue;
        }
        let model = load(&dir);
        let pooling = model.info().pooling.unwrap();
        poolings.push(pooling.name());
        let width = hidden["shape"][1].as_u64().unwrap() as usize;
        let values = floats(&hidden["values"]);
        let vectors: Vec<&[f32]> = values.chunks_exact(width).collect();
        let whole = Case::read(hidden, "pooled").encoding;
        let tokens = whole.input_ids.len();
        assert_eq!(vectors.len(), tokens, "{name}");
        let mut encoder = model.encoder(1).unwrap();
        for round in 0..8 {
            let mut segments: Vec<u32> =
                (1..tokens as u32).filter(|_| dice.below(3) == 0).collect();
            segments.push(tokens as u32);
            let cut = Encoding {
                segments: segments.clone(),
                ..whole.clone()
            };
            let outputs = run(&mut *encoder, &[&whole, &cut, &whole], Heads::DENSE);
            let found = outputs[1].dense.as_ref().unwrap();
            assert_eq!(found.len(), segments.len() * width, "{name}");
            let mut start = 0;
            for (piece, &end) in segments.iter().enumerate() {
                let expected = pooled(pooling, &vectors[start..end as usize]);
                let found = &found[piece * width..(piece + 1) * width];
                close(
                    found,
                    &expected,
                    2e-5,
                    &format!("{name}, round {round}, piece {piece}"),
                );
                start = end as usize;
            }
            for neighbour in [0, 2] {
                let expected = pooled(pooling, &vectors);
                close(
                    outputs[neighbour].dense.as_ref().unwrap(),
                    &expected,
                    2e-5,
                    &name,
                );
            }
        }
        let beyond = Encoding {
            segments: vec![1, 1, tokens as u32],
            ..whole.clone()
        };
        let mut batch = Batch::default();
        batch.push(&beyond);
        assert!(encoder.encode(&batch).is_err(), "{name}: an empty piece");
    }
    poolings.sort_unstable();
    poolings.dedup();
    assert!(poolings.len() >= 6, "only {poolings:?}");
}
