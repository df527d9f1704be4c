//! Our vectors against those of transformers in fp32, which the scripts in `tests/golden` ran once:
//! tiny checkpoints in every layout, given `.onnx` files, and the real all-MiniLM-L6-v2.

use std::path::PathBuf;

use retort_models::{
    Batch, Encode, EncoderModel, Encoding, GraphSource, LoadOptions, Output, Truncation,
    TruncationSide,
};
use serde_json::Value;

use crate::support::numbers::{Dice, close, cosine, load, read_json};
use crate::support::{golden, minilm, runtime};

/// One text, its token ids and the vector it must get.
struct Case {
    text: String,
    input_ids: Vec<u32>,
    expected: Vec<f32>,
}

fn cases(golden: &Value, vector: &str) -> Vec<Case> {
    let numbers = |value: &Value| -> Vec<f64> {
        value
            .as_array()
            .unwrap()
            .iter()
            .map(|number| number.as_f64().unwrap())
            .collect()
    };
    let case = |case: &Value| Case {
        text: case["text"].as_str().unwrap().to_owned(),
        input_ids: numbers(&case["input_ids"])
            .into_iter()
            .map(|id| id as u32)
            .collect(),
        expected: numbers(&case[vector])
            .into_iter()
            .map(|number| number as f32)
            .collect(),
    };
    let cases: Vec<Case> = golden["cases"]
        .as_array()
        .unwrap()
        .iter()
        .map(case)
        .collect();
    assert!(cases.len() > 5, "too few cases to prove anything");
    cases
}

fn encode_text(model: &EncoderModel, text: &str) -> Encoding {
    let limit = Truncation {
        max_tokens: model.info().max_tokens,
        side: TruncationSide::End,
    };
    model.tokenizer().encode(text, limit).unwrap()
}

fn run(encoder: &mut dyn Encode, encodings: &[&Encoding]) -> Vec<Output> {
    let mut batch = Batch::default();
    encodings.iter().for_each(|encoding| batch.push(encoding));
    let outputs = encoder.encode(&batch).unwrap();
    assert_eq!(outputs.len(), encodings.len());
    outputs
}

/// Runs every case alone, all in one batch, and in random mixes, and compares each time.
fn check_cases(model: &EncoderModel, cases: &[Case], limit: f32, name: &str) {
    let mut encoder = model.encoder(1).unwrap();
    let encodings: Vec<Encoding> = cases
        .iter()
        .map(|case| {
            let encoding = encode_text(model, &case.text);
            assert_eq!(
                encoding.input_ids, case.input_ids,
                "{name}: ids of `{}`",
                case.text
            );
            encoding
        })
        .collect();
    let alone: Vec<Vec<f32>> = encodings
        .iter()
        .map(|encoding| run(&mut *encoder, &[encoding]).remove(0).dense.unwrap())
        .collect();
    for (found, case) in alone.iter().zip(cases) {
        assert_eq!(found.len(), model.info().dimensions);
        close(
            found,
            &case.expected,
            limit,
            &format!("{name}, alone, `{}`", case.text),
        );
    }
    let all: Vec<&Encoding> = encodings.iter().collect();
    for (found, case) in run(&mut *encoder, &all).iter().zip(cases) {
        close(
            found.dense.as_ref().unwrap(),
            &case.expected,
            limit,
            &format!("{name}, packed, `{}`", case.text),
        );
    }
    let mut dice = Dice(7);
    for round in 0..25 {
        let picked: Vec<usize> = (0..=dice.below(12))
            .map(|_| dice.below(encodings.len()))
            .collect();
        let mixed: Vec<&Encoding> = picked.iter().map(|&index| &encodings[index]).collect();
        for (found, &index) in run(&mut *encoder, &mixed).iter().zip(&picked) {
            let what = format!("{name}, mix {round}, case {index}");
            close(
                found.dense.as_ref().unwrap(),
                &cases[index].expected,
                limit,
                &what,
            );
            // Neighbours may change the order of a sum, nothing more.
            close(
                found.dense.as_ref().unwrap(),
                &alone[index],
                1e-6,
                &format!("{what} against alone"),
            );
        }
    }
}

#[test]
fn every_tiny_checkpoint_gives_the_vectors_of_transformers() {
    let mut seen = 0;
    for entry in std::fs::read_dir(golden("checkpoints")).unwrap() {
        let dir = entry.unwrap().path();
        let reference = read_json(&dir.join("golden.json"));
        let dense = match reference["heads"].as_array() {
            Some(heads) => heads.iter().any(|head| head == "dense"),
            None => true,
        };
        if !dense {
            continue;
        }
        let model = load(&dir);
        let info = model.info();
        let name = reference["model"].as_str().unwrap();
        assert_eq!(info.source, GraphSource::Built);
        assert_eq!(
            info.pooling.unwrap().name(),
            reference["pooling"].as_str().unwrap(),
            "{name}"
        );
        assert_eq!(
            info.max_tokens as u64,
            reference["max_seq_length"].as_u64().unwrap(),
            "{name}"
        );
        check_cases(&model, &cases(&reference, "pooled"), 2e-5, name);
        seen += 1;
    }
    assert!(
        seen >= 8,
        "only {seen} checkpoints in tests/golden/checkpoints"
    );
}

#[test]
fn given_onnx_files_give_the_same_vectors() {
    let reference = read_json(&golden("checkpoints/bert-tiny-mean/golden.json"));
    let onnx = golden("onnx");
    // This graph gives token vectors, so the checkpoint's pooling is applied here.
    let model = load(&onnx.join("bert-tiny-hidden"));
    assert_eq!(
        model.info().pooling.map(retort_models::Pooling::name),
        Some("mean")
    );
    check_cases(
        &model,
        &cases(&reference, "pooled"),
        2e-5,
        "bert-tiny-hidden",
    );
    // This one pools and normalises by itself, and must not be pooled twice.
    let model = load(&onnx.join("bert-tiny-pooled"));
    assert_eq!(model.info().pooling, None);
    check_cases(
        &model,
        &cases(&reference, "normalized"),
        2e-5,
        "bert-tiny-pooled",
    );
    // Told to pool all the same, it is taken by its token vectors.
    let file = onnx.join("bert-tiny-pooled").join("model.onnx");
    let options = LoadOptions {
        pooling: Some(retort_models::Pooling::Mean),
        ..LoadOptions::new(runtime())
    };
    let model = EncoderModel::load(&file, &options).unwrap();
    assert_eq!(model.info().source, GraphSource::Given(file));
    check_cases(
        &model,
        &cases(&reference, "pooled"),
        2e-5,
        "bert-tiny-pooled, by its tokens",
    );
}

#[test]
fn encoders_of_a_model_agree_whatever_their_threads() {
    let model = load(&golden("checkpoints/bert-tiny-cls-h64"));
    let texts = [
        "one",
        "two longer words here",
        "",
        "a fourth text that is longer than the rest",
    ];
    let encodings: Vec<Encoding> = texts.iter().map(|text| encode_text(&model, text)).collect();
    let encodings: Vec<&Encoding> = encodings.iter().collect();
    let mut first = model.encoder(1).unwrap();
    let expected = run(&mut *first, &encodings);
    let mut second = model.encoder(2).unwrap();
    drop(first);
    for (found, expected) in run(&mut *second, &encodings).iter().zip(&expected) {
        close(
            found.dense.as_ref().unwrap(),
            expected.dense.as_ref().unwrap(),
            1e-6,
            "two threads",
        );
    }
    // An encoder outlives the model it came from: its weights stay mapped.
    drop(model);
    for (found, expected) in run(&mut *second, &encodings).iter().zip(&expected) {
        close(
            found.dense.as_ref().unwrap(),
            expected.dense.as_ref().unwrap(),
            1e-6,
            "after the model is gone",
        );
    }
}

#[test]
fn a_batch_that_does_not_fit_the_model_is_refused() {
    for name in ["checkpoints/bert-tiny-head32", "onnx/bert-tiny-hidden"] {
        let model = load(&golden(name));
        let mut encoder = model.encoder(1).unwrap();
        assert_eq!(encoder.encode(&Batch::default()).unwrap(), []);
        let encoding = |ids: Vec<u32>, kind: u8| Encoding {
            token_type_ids: vec![kind; ids.len()],
            input_ids: ids,
            ..Encoding::default()
        };
        let vocabulary = model.info().vocab_size as u32;
        let bad = [
            encoding(vec![2, vocabulary, 3], 0),
            encoding(vec![2, 3], 9),
            encoding(vec![], 0),
            encoding(vec![5; 4000], 0),
        ];
        for encoding in bad {
            let mut batch = Batch::default();
            batch.push(&encoding);
            let error = encoder.encode(&batch).unwrap_err().to_string();
            assert!(
                !error.contains("ONNX Runtime"),
                "{name}: not caught before the run: {error}"
            );
        }
        let mut uneven = Batch::default();
        uneven.push(&encoding(vec![2, 3], 0));
        uneven.cu_seqlens = vec![0, 5];
        assert!(encoder.encode(&uneven).is_err());
    }
}

/// The Hugging Face cache keeps `snapshots/<commit>/<name>` as links to `blobs/<hash>`.
#[cfg(unix)]
#[test]
fn a_checkpoint_of_links_loads() {
    let source = golden("checkpoints/bert-tiny-bf16-sharded");
    let cache = tempfile::tempdir().unwrap();
    let (blobs, snapshot) = (cache.path().join("blobs"), cache.path().join("snapshots/0"));
    std::fs::create_dir_all(&blobs).unwrap();
    std::fs::create_dir_all(snapshot.join("1_Pooling")).unwrap();
    let mut files: Vec<PathBuf> = vec!["1_Pooling/config.json".into()];
    for entry in std::fs::read_dir(&source).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_file() {
            files.push(entry.file_name().into());
        }
    }
    for (number, file) in files.iter().enumerate() {
        let blob = blobs.join(format!("{number:040x}"));
        std::fs::copy(source.join(file), &blob).unwrap();
        std::os::unix::fs::symlink(&blob, snapshot.join(file)).unwrap();
    }
    let reference = read_json(&source.join("golden.json"));
    check_cases(
        &load(&snapshot),
        &cases(&reference, "pooled"),
        1e-5,
        "links",
    );
}

/// MiniLM's goldens are normalised; so are the vectors compared with them.
fn normalized(output: &Output) -> Vec<f32> {
    let vector = output.dense.as_deref().unwrap();
    let norm = vector.iter().map(|value| value * value).sum::<f32>().sqrt();
    vector.iter().map(|value| value / norm).collect()
}

#[test]
fn all_minilm_l6_v2_gives_the_vectors_of_transformers() {
    let texts = read_json(&golden("minilm/texts.json"));
    let texts = texts["texts"].as_array().unwrap();
    assert!(texts.len() >= 200, "only {} texts", texts.len());
    let bytes = std::fs::read(golden("minilm/embeddings.f32")).unwrap();
    let numbers: Vec<f32> = bytes
        .as_chunks::<4>()
        .0
        .iter()
        .map(|bytes| f32::from_le_bytes(*bytes))
        .collect();
    let model = load(&minilm());
    let info = model.info();
    // The published tokenizer.json cuts at 128 and pads to 128; both are overridden.
    assert_eq!((info.dimensions, info.max_tokens), (384, 256));
    let encode = |text: &Value| {
        let encoding = encode_text(&model, text["text"].as_str().unwrap());
        assert_eq!(
            encoding.input_ids.len() as u64,
            text["n_tokens"].as_u64().unwrap()
        );
        encoding
    };
    let encodings: Vec<Encoding> = texts.iter().map(encode).collect();
    assert_eq!(numbers.len(), texts.len() * info.dimensions);
    let expected: Vec<&[f32]> = numbers.chunks(info.dimensions).collect();

    let mut encoder = model.encoder(2).unwrap();
    let mut furthest = 0.0_f32;
    for (index, encoding) in encodings.iter().enumerate() {
        let found = normalized(&run(&mut *encoder, &[encoding])[0]);
        let off = found
            .iter()
            .zip(expected[index])
            .map(|(a, b)| (a - b).abs())
            .fold(0.0, f32::max);
        assert!(off <= 1e-4, "text {index}: off by {off:e}");
        assert!(cosine(&found, expected[index]) >= 0.99999, "text {index}");
        furthest = furthest.max(off);
    }
    println!(
        "MiniLM: {} texts, largest difference {furthest:.1e}",
        texts.len()
    );

    let mut dice = Dice(11);
    for round in 0..20 {
        let picked: Vec<usize> = (0..=dice.below(12))
            .map(|_| dice.below(encodings.len()))
            .collect();
        let mixed: Vec<&Encoding> = picked.iter().map(|&index| &encodings[index]).collect();
        for (output, &index) in run(&mut *encoder, &mixed).iter().zip(&picked) {
            let what = format!("mix {round}, text {index}");
            close(&normalized(output), expected[index], 5e-5, &what);
        }
    }
}
