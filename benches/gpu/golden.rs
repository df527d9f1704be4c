//! Checkpoints whose outputs are stored, computed again: vectors by their cosine, logits and
//! weights of tokens by their difference.

use std::{fs, path::Path, sync::Arc};

use retort_models::{
    Batch, DtypeChoice, Encoding, Head, Heads, MultiVector, Output, Task, Truncation,
    TruncationSide,
};
use serde_json::Value;

use super::{
    options::{Machine, Options},
    verdict,
};
use crate::measure::Outcome;

/// How near outputs have to be.
struct Limits {
    /// The worst vector.
    cosine: f64,
    /// The vector in the middle.
    middle: f64,
    /// Of logits and weights, relative where they are beyond 1.
    difference: f64,
}

/// What was compared.
struct Compared {
    outputs: usize,
    cosines: Vec<f64>,
    /// The largest.
    difference: f64,
}

/// Half precision of a model that was trained.
const IN_HALF: Limits = Limits {
    cosine: 0.9999,
    middle: 0.9999,
    difference: 0.02,
};

/// Half precision of tiny random weights, which have nothing to level a rounding out: transformers
/// itself, in 16 bits, is off by a cosine of 0.9998 for one of them.
const TINY_IN_HALF: Limits = Limits {
    cosine: 0.999,
    middle: 0.9999,
    difference: 0.05,
};

/// Compares every folder of `--checkpoints` that has a `golden.json`, and MiniLM when `--minilm`
/// and `--minilm-golden` say where it and its vectors are.
pub fn run(options: &Options) -> Outcome<Vec<Value>> {
    let machine = Machine::new(options)?;
    let exact = Limits {
        cosine: 0.999_999,
        middle: 0.999_999,
        difference: 1e-3,
    };
    let (dtype, tiny, whole) = match &*options.or("dtype", "fp16".to_owned())? {
        "fp32" => (DtypeChoice::Fp32, &exact, &exact),
        _ => (machine.half(), &TINY_IN_HALF, &IN_HALF),
    };
    let mut folders: Vec<_> = fs::read_dir(options.path("checkpoints")?)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|folder| folder.join("golden.json").is_file())
        .collect();
    folders.sort();
    let mut rows = Vec::new();
    for folder in &folders {
        let name = folder.file_name().unwrap_or_default().to_string_lossy();
        let found = compare(&machine, dtype, folder);
        rows.push(judged(format!("{name} in {dtype}"), found, tiny));
    }
    if let Some(folder) = options.optional_path("minilm") {
        let found = minilm(&machine, dtype, &folder, options.path("minilm-golden")?);
        rows.push(judged(format!("MiniLM in {dtype}"), found, whole));
    }
    Ok(rows)
}

fn judged(name: String, found: Outcome<Compared>, limits: &Limits) -> Value {
    match found {
        Ok(compared) if compared.outputs == 0 => verdict(name, false, "nothing could be compared"),
        Ok(mut compared) => {
            let cosines = &mut compared.cosines;
            cosines.sort_by(f64::total_cmp);
            let worst = cosines.first().copied().unwrap_or(1.0);
            let middle = cosines.get(cosines.len() / 2).copied().unwrap_or(1.0);
            let difference = compared.difference;
            let good = worst >= limits.cosine
                && middle >= limits.middle
                && difference <= limits.difference;
            let told = format!(
                "{} outputs, cosine {worst:.6} at least, {middle:.6} in the middle, difference \
                 {difference:.2e} at most",
                compared.outputs
            );
            verdict(name, good, &told)
        }
        Err(error) => verdict(name, false, &error.to_string()),
    }
}

fn compare(machine: &Machine, dtype: DtypeChoice, folder: &Path) -> Outcome<Compared> {
    let golden: Value = serde_json::from_slice(&fs::read(folder.join("golden.json"))?)?;
    // A language model that answers yes or no looks like any other.
    let task = golden["yes_token"].is_number() || golden["yes_token"].is_string();
    let model = machine.load_for(folder, dtype, task.then_some(Task::Rerank))?;
    let mut encoder = model.encoder(1)?;
    let mut compared = Compared::none();
    let mut first = None;
    for case in golden["cases"].as_array().into_iter().flatten() {
        let parts = [case, &case["document"], &case["query"]];
        for part in parts
            .into_iter()
            .filter(|part| part["input_ids"].is_array())
        {
            let ids = numbers(&part["input_ids"]);
            let types = numbers(&part["token_type_ids"]);
            let encoding = Encoding {
                token_type_ids: match types.is_empty() {
                    true => vec![0; ids.len()],
                    false => types.iter().map(|&kind| kind as u8).collect(),
                },
                input_ids: ids.iter().map(|&id| id as u32).collect(),
                ..Encoding::default()
            };
            let mut batch = Batch::wanting(model.info().heads);
            batch.push(&encoding);
            let output = encoder.encode(&batch)?.pop().ok_or("no output")?;
            compared.see(
                &output,
                part,
                model.info().heads.contains(Head::MultiVector),
            );
            if let (Some(vectors), true) = (output.multi_vector, model.info().compares) {
                let (query, query_vectors) =
                    first.get_or_insert_with(|| (Arc::new(encoding.clone()), vectors.clone()));
                let mut batch = Batch::wanting(Heads::NONE);
                batch.push_wanting(&encoding, Head::MultiVector.into(), Some(query));
                let output = encoder.encode(&batch)?.pop().ok_or("no output")?;
                let found = output.late_interaction.ok_or("nothing was compared")?;
                compared.values(&[found], &[late_interaction(query_vectors, &vectors)]);
            }
        }
    }
    Ok(compared)
}

/// The mean over the rows of the first of the largest product with a row of the second.
fn late_interaction(query: &MultiVector, document: &MultiVector) -> f64 {
    let product = |a: &[f32], b: &[f32]| -> f64 {
        let products = a.iter().zip(b);
        products.map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
    };
    let best = |row: &[f32]| {
        let products = document.rows().map(|other| product(row, other));
        products.fold(f64::NEG_INFINITY, f64::max)
    };
    query.rows().map(best).sum::<f64>() / query.rows().len() as f64
}

fn minilm(
    machine: &Machine,
    dtype: DtypeChoice,
    folder: &Path,
    golden: &Path,
) -> Outcome<Compared> {
    let golden_texts: Value = serde_json::from_slice(&fs::read(golden.join("texts.json"))?)?;
    let texts = golden_texts["texts"].as_array();
    let texts: Vec<&str> = texts
        .into_iter()
        .flatten()
        .filter_map(|text| text["text"].as_str())
        .collect();
    let stored = fs::read(golden.join("embeddings.f32"))?;
    let stored = stored
        .chunks_exact(4)
        .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
    let stored: Vec<f64> = stored.map(f64::from).collect();
    let model = machine.load(folder, dtype)?;
    let mut encoder = model.encoder(1)?;
    let truncation = Truncation {
        max_tokens: model.info().max_tokens,
        side: TruncationSide::End,
    };
    let mut compared = Compared::none();
    let width = model.info().dimensions;
    if texts.len() * width != stored.len() {
        let (texts, numbers) = (texts.len(), stored.len());
        return Err(format!("{texts} texts of {width} dimensions have {numbers} numbers").into());
    }
    for (text, expected) in texts.iter().zip(stored.chunks(width)) {
        let mut batch = Batch::wanting(model.info().heads);
        batch.push(&model.tokenizer().encode(text, truncation)?);
        let output = encoder.encode(&batch)?.pop().ok_or("no output")?;
        compared.vector(&output.dense.unwrap_or_default(), expected);
    }
    Ok(compared)
}

impl Compared {
    fn none() -> Self {
        Self {
            outputs: 0,
            cosines: Vec::new(),
            difference: 0.0,
        }
    }

    fn see(&mut self, output: &Output, stored: &Value, has_multi_vector: bool) {
        if let (Some(dense), true) = (&output.dense, stored["pooled"].is_array()) {
            self.vector(dense, &numbers(&stored["pooled"]));
        }
        if let (Some(scores), true) = (&output.scores, stored["logits"].is_array()) {
            let expected = numbers(&stored["logits"]);
            // Of a model with scores after several layers, the last ones are given.
            let given = expected.len().saturating_sub(scores.len());
            self.values(scores, &expected[given..]);
        }
        let multi = &stored["multi_vector"];
        if let (Some(vectors), true) = (&output.multi_vector, has_multi_vector && multi.is_object())
        {
            let expected = numbers(&multi["values"]);
            // What is left out of a document is decided behind the model.
            if vectors.values.len() == expected.len() {
                self.vector(&vectors.values, &expected);
            }
        }
        if let (Some(sparse), true) = (&output.sparse, stored["sparse"].is_object()) {
            let ids = numbers(&stored["sparse"]["ids"]);
            let expected = numbers(&stored["sparse"]["weights"]);
            for (id, weight) in ids.iter().zip(&expected) {
                let found = sparse.ids.iter().position(|&found| f64::from(found) == *id);
                let found = found.map_or(0.0, |at| sparse.weights[at]);
                self.values(&[found], &[*weight]);
            }
        }
    }

    fn vector(&mut self, found: &[f32], expected: &[f64]) {
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        let found: Vec<f64> = found.iter().copied().map(f64::from).collect();
        let lengths = dot(&found, &found).sqrt() * dot(expected, expected).sqrt();
        let same_size = found.len() == expected.len() && !found.is_empty();
        let cosine = if same_size {
            dot(&found, expected) / lengths
        } else {
            0.0
        };
        self.outputs += 1;
        // What is not a number is no cosine either.
        let cosine = if cosine.is_nan() { 0.0 } else { cosine };
        self.cosines.push(cosine);
    }

    fn values(&mut self, found: &[f32], expected: &[f64]) {
        self.outputs += 1;
        let same_size = found.len() == expected.len();
        let apart = found.iter().zip(expected).map(|(found, expected)| {
            (f64::from(*found) - expected).abs() / expected.abs().max(1.0)
        });
        let apart = if same_size {
            apart.fold(0.0, f64::max)
        } else {
            f64::INFINITY
        };
        self.difference = if apart.is_nan() {
            f64::INFINITY
        } else {
            self.difference.max(apart)
        };
    }
}

fn numbers(list: &Value) -> Vec<f64> {
    let list = list.as_array().into_iter().flatten();
    list.filter_map(Value::as_f64).collect()
}
