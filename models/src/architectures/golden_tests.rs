//! Every family against the tiny checkpoints of `tests/golden`: alone, packed, and mixed.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::batch::{Batch, Encoding};
use crate::checkpoint::{Weights, json};
use crate::encoder::Encode;
use crate::given::tests::runtime;
use crate::heads::{Head, Heads, Output};
use crate::model::{EncoderModel, LoadOptions};
use crate::prompts::PromptChoice;
use crate::tokenizer::{Prompt, Truncation, TruncationSide};

fn folder(name: &str) -> PathBuf {
    let checkpoints = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/checkpoints");
    checkpoints.join(name)
}

/// A checkpoint with what it must give; `None` where ONNX Runtime is not at hand.
struct Golden {
    model: EncoderModel,
    values: Value,
}

impl Golden {
    fn open(name: &str) -> Option<Self> {
        let options = LoadOptions::new(runtime()?);
        let model = EncoderModel::load(&folder(name), &options);
        Some(Self {
            model: model.unwrap_or_else(|error| panic!("{name}: {error}")),
            values: json::read(&folder(name).join("golden.json")).unwrap(),
        })
    }

    fn cases(&self, key: &str) -> &[Value] {
        let cases = self.values[key].as_array().unwrap();
        assert!(cases.len() > 5, "too few cases to prove anything");
        cases
    }

    fn encode(&self, prompt: &Prompt, text: &Value, max_tokens: Option<usize>) -> Encoding {
        let truncation = Truncation {
            max_tokens: max_tokens.unwrap_or(self.model.info().max_tokens),
            side: TruncationSide::End,
        };
        let text = text.as_str().unwrap();
        let tokenizer = self.model.tokenizer();
        tokenizer.encode_prompted(prompt, text, truncation).unwrap()
    }

    fn encoder(&self) -> Box<dyn Encode> {
        self.model.encoder(1).unwrap()
    }
}

fn numbers(value: &Value) -> Vec<f32> {
    let numbers = value.as_array().unwrap().iter();
    numbers
        .map(|number| number.as_f64().unwrap() as f32)
        .collect()
}

fn ids(value: &Value) -> Vec<u32> {
    numbers(value).into_iter().map(|id| id as u32).collect()
}

/// Each case alone, then all in one batch, then every third in another order: which output there
/// is for which case.
fn run(encoder: &mut dyn Encode, encodings: &[Encoding], head: Head) -> Vec<(usize, Output)> {
    let all: Vec<usize> = (0..encodings.len()).collect();
    let mixed: Vec<usize> = all.iter().rev().copied().step_by(3).collect();
    let alone = all.iter().map(|&index| vec![index]);
    let mut found = Vec::new();
    for members in alone.chain([all.clone(), mixed]) {
        let mut batch = Batch::wanting(Heads::from(head));
        members
            .iter()
            .for_each(|&index| batch.push(&encodings[index]));
        found.extend(members.into_iter().zip(encoder.encode(&batch).unwrap()));
    }
    found
}

/// The largest difference; not a number where one of them is none.
fn difference(found: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(found.len(), expected.len());
    let pairs = found.iter().zip(expected);
    pairs
        .map(|(a, b)| (a - b).abs())
        .fold(0.0, |max: f32, d| if d <= max { max } else { d })
}

fn largest(values: &[f32]) -> f32 {
    values
        .iter()
        .fold(f32::MIN_POSITIVE, |max, value| max.max(value.abs()))
}

/// Compares what `expected` says of each case; the limit is a share of the largest component.
fn check<'c>(
    name: &str,
    found: &'c [(usize, Output)],
    limit: f32,
    pair: impl Fn(usize, &'c Output) -> (&'c [f32], Vec<f32>),
) {
    let mut worst = 0.0_f32;
    for (index, output) in found {
        let (found, expected) = pair(*index, output);
        let off = difference(found, &expected) / largest(&expected);
        // A difference that is no number must not pass.
        assert!(off <= limit, "{name}, case {index}: off by {off}");
        worst = worst.max(off);
    }
    println!("{name}: off by {worst:.1e} of the largest component at most");
}

#[test]
fn vectors_of_every_family_are_those_of_the_reference() {
    for name in [
        "distilbert-tiny-mean",
        "modernbert-tiny-cls",
        "jina-bert-tiny-mean",
        "jina-code-tiny-mean",
        "jina-v3-tiny-mean",
        "nomic-tiny-mean",
        "gte-tiny-cls",
        "gte-en-tiny-cls",
        "mpnet-tiny-mean",
    ] {
        let Some(golden) = Golden::open(name) else {
            return;
        };
        let cases = golden.cases("cases");
        let encodings: Vec<Encoding> = cases
            .iter()
            .map(|case| golden.encode(&Prompt::default(), &case["text"], None))
            .collect();
        for (case, encoding) in cases.iter().zip(&encodings) {
            assert_eq!(encoding.input_ids, ids(&case["input_ids"]), "{name}");
        }
        let found = run(&mut *golden.encoder(), &encodings, Head::Dense);
        // The reference itself, which is in 32 bits, is up to 1.5e-5 off in this one.
        let noisy = name == "gte-en-tiny-cls";
        let limit = if noisy { 3e-5 } else { 1e-5 };
        check(name, &found, limit, |index, output| {
            let dense = output.dense.as_deref().unwrap();
            (dense, numbers(&cases[index]["pooled"]))
        });
    }
}

#[test]
fn logits_of_every_family_are_those_of_the_reference() {
    for name in [
        "bert-tiny-score",
        "bert-tiny-score3",
        "xlmr-tiny-score",
        "distilbert-tiny-score",
        "modernbert-tiny-score-mean",
        "modernbert-tiny-score-cls",
        "gte-tiny-score",
        "jina-reranker-v1-tiny",
        "jina-reranker-v2-tiny",
        "mpnet-tiny-score",
    ] {
        let Some(golden) = Golden::open(name) else {
            return;
        };
        let cases = golden.cases("cases");
        let encoding = |case: &Value| {
            let input_ids = ids(&case["input_ids"]);
            let types = &case["token_type_ids"];
            let types = if types.is_null() {
                vec![0; input_ids.len()]
            } else {
                ids(types)
            };
            Encoding {
                token_type_ids: types.into_iter().map(|id| id as u8).collect(),
                input_ids,
                ..Encoding::default()
            }
        };
        let encodings: Vec<Encoding> = cases.iter().map(encoding).collect();
        let found = run(&mut *golden.encoder(), &encodings, Head::Score);
        let mut worst = 0.0_f32;
        for (index, output) in &found {
            let expected = numbers(&cases[*index]["logits"]);
            let off = difference(output.scores.as_deref().unwrap(), &expected);
            assert!(off <= 1e-4, "{name}, case {index}: off by {off}");
            worst = worst.max(off);
        }
        println!("{name}: off by {worst:.1e} at most");
    }
}

#[test]
fn weights_of_vocabularies_are_those_of_the_reference() {
    for name in [
        "splade-tiny",
        "distilbert-tiny-splade",
        "modernbert-tiny-splade",
    ] {
        let Some(golden) = Golden::open(name) else {
            return;
        };
        let cases = golden.cases("cases");
        let encoding = |case: &Value| golden.encode(&Prompt::default(), &case["text"], None);
        let encodings: Vec<Encoding> = cases.iter().map(encoding).collect();
        let spread = |ids: &[u32], weights: &[f32]| {
            let mut all = vec![0.0; golden.values["dimension"].as_u64().unwrap() as usize];
            for (&id, &weight) in ids.iter().zip(weights) {
                all[id as usize] = weight;
            }
            all
        };
        // The reference itself, which is in 32 bits, is up to 1.2e-5 off in this one.
        let noisy = name == "modernbert-tiny-splade";
        let limit = if noisy { 3e-5 } else { 1e-5 };
        let mut worst = 0.0_f32;
        for (index, output) in run(&mut *golden.encoder(), &encodings, Head::Sparse) {
            let found = output.sparse.unwrap();
            let found = spread(&found.ids, &found.weights);
            let expected = &cases[index]["sparse"];
            let expected = spread(&ids(&expected["ids"]), &numbers(&expected["weights"]));
            let off = difference(&found, &expected) / largest(&expected);
            assert!(off <= limit, "{name}, case {index}: off by {off}");
            worst = worst.max(off);
        }
        println!("{name}: off by {worst:.1e} of the largest weight at most");
    }
}

#[test]
fn adapters_of_one_batch_do_not_mix() {
    let Some(golden) = Golden::open("jina-v3-tiny-mean") else {
        return;
    };
    let names = &golden.model.info().tasks;
    assert_eq!(names.len(), 5);
    let adapted = golden.cases("adapted").iter();
    let cases: Vec<&Value> = adapted.chain(golden.cases("cases")).collect();
    let encoding = |case: &&Value| {
        let Some(adapter) = case["adapter"].as_u64() else {
            return golden.encode(&Prompt::default(), &case["text"], None);
        };
        let task = case["task"].as_str().unwrap();
        assert_eq!(names[adapter as usize], task);
        let text = golden
            .model
            .info()
            .prompts
            .resolve(Some(PromptChoice::Named(task)));
        let text = text.unwrap();
        assert_eq!(text, case["prompt"].as_str().unwrap());
        let prompt = golden.model.tokenizer().prepare_prompt(text).unwrap();
        Encoding {
            adapter: Some(adapter as u8),
            ..golden.encode(&prompt, &case["text"], None)
        }
    };
    let encodings: Vec<Encoding> = cases.iter().map(encoding).collect();
    for (case, encoding) in cases.iter().zip(&encodings) {
        assert_eq!(encoding.input_ids, ids(&case["input_ids"]));
    }
    let mut encoder = golden.encoder();
    let found = run(&mut *encoder, &encodings, Head::Dense);
    check("jina-v3, adapted", &found, 1e-5, |index, output| {
        let dense = output.dense.as_deref().unwrap();
        (dense, numbers(&cases[index]["pooled"]))
    });

    let mut batch = Batch::default();
    batch.push(&Encoding {
        adapter: Some(5),
        ..encodings[0].clone()
    });
    let error = encoder.encode(&batch).unwrap_err().to_string();
    assert!(
        error.contains("`5`") && error.contains("`4` is `text-matching`"),
        "{error}"
    );
}

#[test]
fn queries_and_documents_of_colbert_are_told_apart() {
    let Some(golden) = Golden::open("colbert-tiny") else {
        return;
    };
    let sides = golden.model.late_interaction().unwrap();
    let mut batches = Vec::new();
    for (name, side) in [("document", &sides.document), ("query", &sides.query)] {
        for case in golden.cases("cases") {
            let encoding = golden.encode(&side.prompt, &case["text"], side.max_tokens);
            assert_eq!(encoding.input_ids, ids(&case[name]["input_ids"]), "{case}");
            batches.push((encoding, &case[name]["multi_vector"]));
        }
    }
    let encodings: Vec<Encoding> = batches
        .iter()
        .map(|(encoding, _)| encoding.clone())
        .collect();
    let found = run(&mut *golden.encoder(), &encodings, Head::MultiVector);
    check("colbert-tiny", &found, 1e-5, |index, output| {
        let vectors = output.multi_vector.as_ref().unwrap();
        let expected = batches[index].1;
        assert_eq!(expected["shape"][1], vectors.width);
        (&vectors.values[..], numbers(&expected["values"]))
    });
}

#[test]
fn a_token_classifier_beside_a_pooling_gives_lexical_weights() {
    let name = "gte-tiny-cls";
    let Some(golden) = Golden::open(name) else {
        return;
    };
    let weights = Weights::open(&folder(name)).unwrap();
    let values = |name: &str| weights.get(name).unwrap().to_f32().unwrap();
    let (weight, bias) = (values("classifier.weight"), values("classifier.bias"));
    let hidden = &golden.values["last_hidden_state"];
    let width = hidden["shape"][1].as_u64().unwrap() as usize;
    let vectors = numbers(&hidden["values"]);
    let encoding = golden.encode(&Prompt::default(), &hidden["text"], None);
    assert_eq!(vectors.len(), encoding.input_ids.len() * width);

    // FlagEmbedding's way, which the model's own script has too: the largest weight of each token
    // above 0, without `<s>`, `<pad>`, `</s>` and `<unk>`.
    let mut expected = std::collections::BTreeMap::new();
    for (&id, vector) in encoding.input_ids.iter().zip(vectors.chunks_exact(width)) {
        let products = vector.iter().zip(weight.as_slice()).map(|(a, b)| a * b);
        let logit = products.sum::<f32>() + bias.as_slice()[0];
        if logit > 0.0 && id > 3 {
            let known = expected.entry(id).or_insert(0.0_f32);
            *known = known.max(logit);
        }
    }
    assert!(expected.len() > 1, "{expected:?}");
    for (_, output) in run(&mut *golden.encoder(), &[encoding], Head::Sparse) {
        let sparse = output.sparse.unwrap();
        assert!(
            sparse.ids.iter().eq(expected.keys()),
            "{sparse:?} {expected:?}"
        );
        let expected: Vec<f32> = expected.values().copied().collect();
        let off = difference(&sparse.weights, &expected);
        assert!(off <= 1e-4, "off by {off}");
    }
}
