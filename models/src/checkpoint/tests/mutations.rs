//! Files that are damaged or made up: loading them must end in a model or an error. Nothing is
//! allocated by a number in a file, only by the length of one, so memory needs no watching; a
//! number that was believed would end the test with an allocation that fails.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::given::tests::runtime;
use crate::{Batch, EncoderModel, Encoding, Error, LoadOptions, Output, Result, Runtime};

/// Numbers that only have to be various and the same every time.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % bound.max(1)
    }

    fn pick<T: Clone>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())].clone()
    }

    /// Changes a few bytes.
    fn bytes(&mut self, bytes: &mut Vec<u8>) {
        for _ in 0..=self.below(3) {
            let at = self.below(bytes.len());
            match self.below(5) {
                _ if bytes.is_empty() => return,
                0 => bytes[at] = self.below(256) as u8,
                1 => bytes[at] ^= 1 << self.below(8),
                2 => bytes.insert(at, self.pick(b"\0\"{}[],:-9e\xff")),
                3 => bytes.truncate(at),
                _ => _ = bytes.drain(at..bytes.len().min(at + 3)),
            }
        }
    }

    /// Changes one value somewhere in a tree, or the tree itself.
    fn json(&mut self, value: &mut Value) {
        let children = match value {
            Value::Array(list) => list.len(),
            Value::Object(map) => map.len(),
            _ => 0,
        };
        // One in eight stops on the way down.
        if children == 0 || self.below(8) == 0 {
            *value = self.value();
            return;
        }
        let at = self.below(children);
        match value {
            Value::Array(list) => self.json(&mut list[at]),
            Value::Object(map) => {
                let key = map.keys().nth(at).cloned().unwrap_or_default();
                match self.below(12) {
                    0 => _ = map.remove(&key),
                    1 => _ = map.insert("\u{0}".to_owned(), json!(1)),
                    _ => self.json(&mut map[&key]),
                }
            }
            _ => {}
        }
    }

    fn value(&mut self) -> Value {
        let deep = (0..100).fold(json!(1), |inner, _| json!([inner]));
        let values = [
            Value::Null,
            json!(true),
            json!(0),
            json!(1),
            json!(-1),
            json!(3),
            json!(u64::MAX),
            json!(i64::MIN),
            json!(1u64 << 40),
            json!(f64::MAX),
            json!(0.5),
            json!(""),
            json!("../../.."),
            json!("gelu"),
            json!("F64"),
            json!([]),
            json!([u64::MAX, u64::MAX]),
            json!({}),
            json!({"0": "a", "7": "b"}),
            deep,
        ];
        self.pick(&values)
    }
}

/// The files of a tiny checkpoint that are needed to load it.
fn files(name: &str) -> BTreeMap<String, Vec<u8>> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/checkpoints");
    let dir = dir.join(name);
    let mut found = BTreeMap::new();
    let mut folders = vec![PathBuf::new()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(dir.join(&folder)).unwrap() {
            let entry = entry.unwrap();
            let path = folder.join(entry.file_name());
            if entry.path().is_dir() {
                folders.push(path);
            } else if entry.file_name() != "golden.json" {
                let bytes = fs::read(entry.path()).unwrap();
                found.insert(path.to_string_lossy().into_owned(), bytes);
            }
        }
    }
    found
}

/// How many loads went well and how many did not.
#[derive(Debug, Default)]
struct Seen {
    good: usize,
    bad: usize,
}

/// Loads a checkpoint again and again, each time with another change to one of its files.
fn load_changed(
    runtime: &Runtime,
    name: &str,
    targets: &[&str],
    mut change: impl FnMut(&mut Dice, Vec<u8>) -> Vec<u8>,
) -> Seen {
    let options = LoadOptions::new(runtime.clone());
    let dir = tempfile::tempdir().unwrap();
    let files = files(name);
    for (path, bytes) in &files {
        let path = dir.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
    let mut seen = Seen::default();
    let mut dice = Dice(5);
    for target in targets {
        let path = dir.path().join(target);
        for _ in 0..ROUNDS {
            fs::write(&path, change(&mut dice, files[*target].clone())).unwrap();
            match EncoderModel::load(dir.path(), &options) {
                Ok(model) => {
                    seen.good += 1;
                    // What loads either runs or says why not.
                    let _ = encode(&model);
                }
                Err(Error::Checkpoint { .. } | Error::Unsupported(_)) => seen.bad += 1,
                Err(other) => panic!("{name}, {target}: {other}"),
            }
        }
        fs::write(&path, &files[*target]).unwrap();
    }
    println!("{name}: {seen:?}");
    seen
}

fn encode(model: &EncoderModel) -> Result<Vec<Output>> {
    let mut batch = Batch::wanting(model.info().heads);
    batch.push(&Encoding {
        input_ids: vec![2, 7, 3],
        token_type_ids: vec![0; 3],
        ..Encoding::default()
    });
    model.encoder(1)?.encode(&batch)
}

const ROUNDS: usize = 60;
/// Small files of each checkpoint.
const SMALL: [(&str, &[&str]); 4] = [
    ("bert-tiny-score3", &["config.json"]),
    (
        "bge-m3-tiny",
        &["config.json", "modules.json", "1_Pooling/config.json"],
    ),
    (
        "bert-tiny-dense-tanh",
        &["2_Dense/config.json", "sentence_bert_config.json"],
    ),
    (
        "splade-tiny",
        &["modules.json", "1_SpladePooling/config.json"],
    ),
];

#[test]
fn changed_values_in_small_files_give_a_model_or_an_error() {
    let Some(runtime) = runtime() else {
        return;
    };
    for (name, targets) in SMALL {
        let seen = load_changed(&runtime, name, targets, |dice, bytes| {
            let mut value: Value = serde_json::from_slice(&bytes).unwrap();
            dice.json(&mut value);
            value.to_string().into_bytes()
        });
        assert!(seen.bad > 0, "{name}: every change went unnoticed");
    }
}

#[test]
fn changed_bytes_in_small_files_give_a_model_or_an_error() {
    let Some(runtime) = runtime() else {
        return;
    };
    for (name, targets) in SMALL {
        let seen = load_changed(&runtime, name, targets, |dice, mut bytes| {
            dice.bytes(&mut bytes);
            bytes
        });
        assert!(seen.bad > 0, "{name}: every change went unnoticed");
    }
}

#[test]
fn changed_headers_of_weights_give_a_model_or_an_error() {
    let Some(runtime) = runtime() else {
        return;
    };
    let target = ["model.safetensors"];
    let header = |bytes: &[u8]| {
        let length = u64::from_le_bytes(bytes[..8].try_into().unwrap());
        8..8 + length as usize
    };
    let seen = load_changed(&runtime, "bert-tiny-score", &target, |dice, mut bytes| {
        let header = header(&bytes);
        let mut changed = bytes[..header.end].to_vec();
        dice.bytes(&mut changed);
        bytes.splice(..header.end, changed);
        bytes
    });
    assert!(seen.bad > 0);
    // The header is whole again, and says something else.
    let seen = load_changed(&runtime, "bert-tiny-score", &target, |dice, bytes| {
        let header = header(&bytes);
        let mut value: Value = serde_json::from_slice(&bytes[header.clone()]).unwrap();
        dice.json(&mut value);
        let text = value.to_string().into_bytes();
        let length = (text.len() as u64).to_le_bytes();
        [&length[..], &text, &bytes[header.end..]].concat()
    });
    assert!(seen.bad > 0);
}
