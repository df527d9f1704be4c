//! A reranker of MiniLM's size: its own weights under a head of random numbers. What it says means
//! nothing; what it takes of memory is what a real one takes.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde_json::{Value, json};

use crate::{measure::Outcome, subject::Subject};

const COPIED: [&str; 2] = ["tokenizer.json", "tokenizer_config.json"];

/// Makes the folder anew and returns it.
pub fn checkpoint(subject: &Subject, folder: &Path) -> Outcome<PathBuf> {
    fs::create_dir_all(folder)?;
    for name in COPIED {
        fs::copy(subject.dir.join(name), folder.join(name))?;
    }
    let config = fs::read(subject.dir.join("config.json"))?;
    let mut config: Value = serde_json::from_slice(&config)?;
    config["architectures"] = json!(["BertForSequenceClassification"]);
    config["id2label"] = json!({"0": "LABEL_0"});
    config["label2id"] = json!({"LABEL_0": 0});
    fs::write(folder.join("config.json"), config.to_string())?;
    let weights = fs::read(subject.dir.join("model.safetensors"))?;
    let weights = with_head(&weights, subject.sizes.hidden)?;
    fs::write(folder.join("model.safetensors"), weights)?;
    Ok(folder.to_owned())
}

/// The same tensors under the names that a classifier's have, and a head behind them.
fn with_head(weights: &[u8], hidden: usize) -> Outcome<Vec<u8>> {
    let malformed = "MiniLM's weights are no safetensors file";
    let (length, rest) = weights.split_first_chunk::<8>().ok_or(malformed)?;
    let length = usize::try_from(u64::from_le_bytes(*length))?;
    let (header, numbers) = rest.split_at_checked(length).ok_or(malformed)?;
    let Value::Object(header) = serde_json::from_slice(header)? else {
        return Err(malformed.into());
    };
    let renamed = header
        .into_iter()
        .filter(|(name, _)| name != "__metadata__")
        .map(|(name, tensor)| (format!("bert.{name}"), tensor));
    let mut header: serde_json::Map<String, Value> = renamed.collect();
    let head: Vec<f32> = (0..=hidden as u32).map(random).collect();
    let start = numbers.len();
    let (bias, end) = (start + 4 * hidden, start + 4 * (hidden + 1));
    header.insert(
        "classifier.weight".to_owned(),
        tensor(&[1, hidden], [start, bias]),
    );
    header.insert("classifier.bias".to_owned(), tensor(&[1], [bias, end]));
    let mut header = Value::Object(header).to_string().into_bytes();
    header.resize(header.len().next_multiple_of(8), b' ');
    let head = head.iter().flat_map(|number| number.to_le_bytes());
    Ok((header.len() as u64)
        .to_le_bytes()
        .into_iter()
        .chain(header)
        .chain(numbers.iter().copied())
        .chain(head)
        .collect())
}

fn tensor(shape: &[usize], data_offsets: [usize; 2]) -> Value {
    json!({"dtype": "F32", "shape": shape, "data_offsets": data_offsets})
}

/// From -0.05 to 0.05, scattered by Knuth's multiplicative hash.
fn random(place: u32) -> f32 {
    let hash = (place + 1).wrapping_mul(2_654_435_761);
    (hash as f32 / u32::MAX as f32 - 0.5) * 0.1
}
