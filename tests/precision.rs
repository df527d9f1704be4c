//! Layers in bfloat16 and in 8 bits against the same in 32-bit floating point: how near, whatever
//! the batch, and what is refused. That 32 bits are right is shown by the other tests.

use std::{fs, path::Path};

use retort_models::{
    Batch, Dtype, DtypeChoice, Encode, EncoderModel, Encoding, Fidelity, GraphSource, Head, Heads,
    LoadOptions, Measured, Output, Task, Truncation, TruncationSide,
};
use serde_json::json;

use crate::support::numbers::{Dice, cosine};
use crate::support::server::Server;
use crate::support::{golden, minilm, runtime};

/// Of different lengths, so that batches of them have every kind of neighbour.
const TEXTS: [&str; 7] = [
    "weather",
    "How do I reset my password?",
    "苹果公司昨天发布了新手机，价格比去年的更高。",
    "Bone marrow transplantation lowers the relapse rate in acute myeloid leukaemia (p < 0.01).",
    "The committee met on Tuesday to discuss the budget for the coming year.",
    "fn main() { println!(\"{}\", vec![1, 2, 3].iter().sum::<i32>()); }",
    "A retrieval model turns a text into numbers, so that texts which mean the same are near one \
     another. It must give the same numbers every time, on every machine, whatever other texts \
     happen to be computed with it; otherwise what was indexed yesterday is not found today.",
];

fn options(dtype: DtypeChoice) -> LoadOptions {
    LoadOptions {
        dtype,
        ..LoadOptions::new(runtime())
    }
}

fn encodings(model: &EncoderModel) -> Vec<Encoding> {
    let limit = Truncation {
        max_tokens: model.info().max_tokens,
        side: TruncationSide::End,
    };
    let encode = |text: &&str| model.tokenizer().encode(text, limit).unwrap();
    TEXTS.iter().map(encode).collect()
}

/// The encodings of `members`, in one batch.
fn run(
    encoder: &mut dyn Encode,
    heads: Heads,
    encodings: &[Encoding],
    members: &[usize],
) -> Vec<Output> {
    let mut batch = Batch::wanting(heads);
    members.iter().for_each(|&at| batch.push(&encodings[at]));
    encoder.encode(&batch).unwrap()
}

fn all(model: &EncoderModel) -> Vec<Output> {
    let mut encoder = model.encoder(2).unwrap();
    let members: Vec<usize> = (0..TEXTS.len()).collect();
    run(
        &mut *encoder,
        model.info().heads,
        &encodings(model),
        &members,
    )
}

/// The lowest cosine of vectors, and the largest difference of logits.
fn apart(found: &[Output], expected: &[Output]) -> (f64, f32) {
    let (mut lowest, mut largest) = (1.0_f64, 0.0_f32);
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(expected) {
        let dense = found.dense.as_ref().zip(expected.dense.as_ref());
        let tokens = found
            .multi_vector
            .as_ref()
            .zip(expected.multi_vector.as_ref());
        let tokens = tokens.map(|(a, b)| (&a.values, &b.values));
        for (a, b) in dense.into_iter().chain(tokens) {
            lowest = lowest.min(cosine(a, b));
            assert!(a.iter().all(|value| value.is_finite()));
        }
        let scores = found.scores.iter().zip(&expected.scores);
        for (a, b) in scores.flat_map(|(a, b)| a.iter().zip(b)) {
            let off = (a - b).abs() / b.abs().max(1.0);
            largest = if off <= largest { largest } else { off };
        }
    }
    (lowest, largest)
}

/// Random weights amplify every rounding, so these lose more than trained ones: most keep 0.999 in
/// bfloat16, the worst 0.991, and the logits of one move by 0.7. What is far from that is wrong.
/// Models with a task that their files leave open are told it.
#[test]
fn every_family_computes_in_bfloat16_what_it_computes_in_32_bits() {
    let (mut compared, mut far) = (0, Vec::new());
    for entry in fs::read_dir(golden("checkpoints")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let open = |dtype| {
            let task = name.contains("reranker").then_some(Task::Rerank);
            let options = LoadOptions {
                task,
                force_dtype: true,
                ..options(dtype)
            };
            let model = EncoderModel::load(&path, &options);
            model.unwrap_or_else(|error| panic!("{name}: {error}"))
        };
        let exact = open(DtypeChoice::Fp32);
        if exact.info().source != GraphSource::Built {
            continue;
        }
        let expected = all(&exact);
        for (dtype, called, cosine_min, apart_max) in [
            (DtypeChoice::Bf16, "bfloat16", 0.99, 0.75),
            (DtypeChoice::Int8, "int8", 0.95, 1.0),
        ] {
            let narrow = open(dtype);
            assert_eq!(narrow.info().dtype, called, "{name}");
            let own = &narrow.info().fidelity;
            let (lowest, largest) = apart(&all(&narrow), &expected);
            // Sparse vectors are among what the model compared itself.
            let lowest = lowest.min(own.cosine.map_or(1.0, f64::from));
            let found = format!("{name} {dtype}: cosine {lowest:.6}, logits {largest:.4} apart");
            println!("{found}");
            let near = lowest >= cosine_min && largest <= apart_max;
            if !near {
                far.push(found);
            }
            let vectors = narrow.info().heads != Heads::SCORE;
            assert_eq!(own.cosine.is_some(), vectors, "{name}");
            assert_eq!(
                own.logit_difference.is_some(),
                narrow.info().heads.contains(Head::Score),
                "{name}"
            );
        }
        compared += 1;
    }
    assert!(compared > 30, "only {compared} checkpoints");
    assert!(far.is_empty(), "{far:#?}");
}

#[test]
fn minilm_keeps_its_vectors() {
    let exact = EncoderModel::load(&minilm(), &options(DtypeChoice::Fp32)).unwrap();
    assert_eq!(
        exact.info().fidelity.cosine,
        None,
        "nothing to compare with"
    );
    let expected = all(&exact);
    for (dtype, cosine_min) in [(DtypeChoice::Bf16, 0.9999), (DtypeChoice::Int8, 0.99)] {
        let narrow = EncoderModel::load(&minilm(), &options(dtype)).unwrap();
        let (lowest, _) = apart(&all(&narrow), &expected);
        let shown = narrow.info().fidelity.cosine.unwrap();
        println!("MiniLM {dtype}: cosine {lowest:.6}, {shown:.6} on the built-in sentences");
        assert!(
            lowest >= cosine_min && f64::from(shown) >= cosine_min,
            "{lowest}"
        );
        assert_ne!(all(&narrow), expected, "{dtype} is computed");
        // The weights are the same ones, whatever is computed in.
        let mut reference = narrow.reference_encoder(1).unwrap();
        let members: Vec<usize> = (0..TEXTS.len()).collect();
        let heads = narrow.info().heads;
        let found = run(&mut *reference, heads, &encodings(&narrow), &members);
        assert!(apart(&found, &expected).0 >= 0.999_999);
    }
}

/// In 32 bits, too, the layers are kernels of this project where the processor is one that they are
/// made for; ONNX Runtime's products are what they are held against.
#[test]
fn in_32_bits_the_kernels_give_what_onnx_runtime_gives() {
    let tiny = golden("checkpoints/modernbert-tiny-cls");
    for path in [minilm(), tiny] {
        let model = EncoderModel::load(&path, &options(DtypeChoice::Fp32)).unwrap();
        let heads = model.info().heads;
        let members: Vec<usize> = (0..TEXTS.len()).collect();
        let mut reference = model.reference_encoder(1).unwrap();
        let expected = run(&mut *reference, heads, &encodings(&model), &members);
        let (lowest, _) = apart(&all(&model), &expected);
        println!("{}: cosine {lowest:.9}", path.display());
        assert!(lowest >= 0.999_999_9, "{}: {lowest}", path.display());
    }
}

/// What a load measured spares the next one the comparison.
#[test]
fn a_type_that_was_measured_is_taken() {
    let options = options(DtypeChoice::Bf16);
    let first = EncoderModel::load(&minilm(), &options).unwrap();
    let measured = first.measured().unwrap();
    assert!(measured.fidelity.cosine.is_some());
    let told = LoadOptions {
        measured: Some(measured.clone()),
        ..options.clone()
    };
    let second = EncoderModel::load(&minilm(), &told).unwrap();
    assert_eq!(second.info(), first.info());
    assert_eq!(all(&second), all(&first));
    // Nothing is measured: what is told comes back, even where it is not so.
    let fallback = Some("told so".to_owned());
    let told = LoadOptions {
        measured: Some(Measured {
            dtype: Dtype::Fp32,
            fidelity: Fidelity {
                fallback: fallback.clone(),
                ..Fidelity::default()
            },
        }),
        ..options
    };
    let third = EncoderModel::load(&minilm(), &told).unwrap();
    assert_eq!(third.info().dtype, "float32");
    assert_eq!(third.info().fidelity.fallback, fallback);
}

#[test]
fn neighbours_change_no_bit() {
    let tiny = golden("checkpoints/modernbert-tiny-cls");
    for path in [minilm(), tiny] {
        for dtype in [DtypeChoice::Fp32, DtypeChoice::Bf16, DtypeChoice::Int8] {
            let options = LoadOptions {
                // Random weights lose more than is taken otherwise.
                force_dtype: true,
                ..options(dtype)
            };
            let model = EncoderModel::load(&path, &options).unwrap();
            let encodings = encodings(&model);
            let heads = model.info().heads;
            let mut alone = model.encoder(1).unwrap();
            let each = |at| run(&mut *alone, heads, &encodings, &[at]).remove(0);
            let expected: Vec<Output> = (0..encodings.len()).map(each).collect();
            let mut dice = Dice(7);
            for threads in [1, 2] {
                let mut encoder = model.encoder(threads).unwrap();
                for _ in 0..8 {
                    let count = 1 + dice.below(12);
                    let members: Vec<usize> =
                        (0..count).map(|_| dice.below(encodings.len())).collect();
                    let found = run(&mut *encoder, heads, &encodings, &members);
                    for (found, &at) in found.iter().zip(&members) {
                        let what = format!("{} {dtype}, text {at} of {members:?}", path.display());
                        assert_eq!(found, &expected[at], "{what}");
                    }
                }
            }
        }
    }
}

#[test]
fn what_has_no_layers_to_compute_is_told() {
    let given = golden("checkpoints/bert-tiny-mean/model.onnx");
    let given = if given.exists() { given } else { given_onnx() };
    for dtype in [DtypeChoice::Bf16, DtypeChoice::Int8] {
        let error = EncoderModel::load(&given, &options(dtype)).err().unwrap();
        let error = error.to_string();
        assert!(
            error.contains(&format!("`{dtype}`")) && error.contains("`auto`"),
            "{error}"
        );
    }
    let model = EncoderModel::load(&given, &options(DtypeChoice::Auto)).unwrap();
    assert_eq!(model.info().dtype, "float32");
}

/// A graph that is given, of which the tests have several.
fn given_onnx() -> std::path::PathBuf {
    fn find(folder: &Path) -> Option<std::path::PathBuf> {
        let paths = fs::read_dir(folder)
            .ok()?
            .flatten()
            .map(|entry| entry.path());
        let paths: Vec<_> = paths.collect();
        let is_model = |path: &&std::path::PathBuf| {
            path.extension().is_some_and(|end| end == "onnx")
                && path.with_file_name("config.json").exists()
        };
        let here = paths.iter().find(is_model).cloned();
        here.or_else(|| paths.iter().find_map(|path| find(path)))
    }
    find(&golden("")).expect("a given graph among the goldens")
}

#[test]
fn the_service_chooses_and_tells() {
    let minilm = format!("minilm={}", minilm().display());
    let server = Server::start(&[("model", &minilm), ("dtype", "auto")]);
    let client = server.client();
    let record = client.get("/v1/models/minilm").json();
    let fast = DtypeChoice::Auto.tried().name();
    assert_eq!(record["dtype"], fast, "{record}");
    assert_eq!(record["dtype_cosine"].is_number(), fast == "bfloat16");
    let own = client.embed("minilm", &TEXTS);
    let exact = Server::shared().client().embed("minilm", &TEXTS);
    for (own, exact) in own.iter().zip(&exact) {
        let dot: f64 = own.iter().zip(exact).map(|(a, b)| a * b).sum();
        assert!(dot >= 0.9999, "cosine {dot}");
    }
    let wrong =
        json!({"model_name": "all-minilm-l6-v2", "model_type": "embedding", "dtype": "fp8"});
    let message = client.post("/v1/models", &wrong).assert_error(400);
    assert!(
        message.contains("`fp8`") && message.contains("int8"),
        "{message}"
    );
}
