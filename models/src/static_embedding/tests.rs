use std::collections::HashMap;
use std::fs;

use retort_kernels::Pooling;
use serde_json::{Value, json};

use super::*;
use crate::batch::Encoding;
use crate::model::{EncoderModel, GraphSource, LoadOptions};
use crate::tokenizer::{Truncation, TruncationSide};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

fn golden(name: &str) -> PathBuf {
    Path::new(ROOT).join("../tests/golden/static").join(name)
}

/// Files that are here where this project is developed, and are not ours to pass on.
fn shared(path: &str) -> Option<PathBuf> {
    let path = Path::new(ROOT).join("../../shared/data").join(path);
    if path.exists() {
        return Some(path);
    }
    println!("stepping aside: `{}` is not here", path.display());
    None
}

/// What `EncoderModel` makes of a checkpoint, without the ONNX Runtime that it could need.
struct Loaded {
    tokenizer: Tokenizer,
    encoder: StaticEncoder,
    size: TableSize,
    max_tokens: usize,
    name: &'static str,
}

fn load(dir: &Path) -> Result<Loaded> {
    let found = StaticCheckpoint::find(dir)?.expect("static embeddings");
    let (tokenizer, table) = found.open()?;
    Ok(Loaded {
        size: table.size(),
        encoder: StaticEncoder::new(Arc::new(table)),
        max_tokens: found.max_tokens()?,
        name: found.family.name,
        tokenizer,
    })
}

impl Loaded {
    fn tokens(&self, text: &str) -> Result<Encoding> {
        let limit = Truncation {
            max_tokens: self.max_tokens,
            side: TruncationSide::End,
        };
        self.tokenizer.encode(text, limit)
    }

    fn run(&mut self, encodings: &[Encoding]) -> Vec<Vec<f32>> {
        run(&mut self.encoder, encodings)
    }

    /// The vectors of texts at length 1; zeros for a text without any known token, as model2vec
    /// and the published scores have it. Every processor takes a share.
    fn vectors(&self, texts: &[String]) -> Vec<Vec<f32>> {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let share = |texts: &[String]| -> Vec<Vec<f32>> {
            let mut encoder = StaticEncoder::new(Arc::clone(&self.encoder.table));
            let vector = |text: &String| match self.tokens(text) {
                Ok(encoding) => unit(&run(&mut encoder, &[encoding])[0]),
                Err(Error::Tokenize(_)) => vec![0.0; self.size.dimensions],
                Err(other) => panic!("{text}: {other}"),
            };
            texts.iter().map(vector).collect()
        };
        let share = &share;
        std::thread::scope(|scope| {
            let shares = texts.chunks(texts.len().div_ceil(threads).max(1));
            let running: Vec<_> = shares
                .map(|texts| scope.spawn(move || share(texts)))
                .collect();
            let finished = running.into_iter().map(|thread| thread.join().unwrap());
            finished.flatten().collect()
        })
    }
}

fn run(encoder: &mut StaticEncoder, encodings: &[Encoding]) -> Vec<Vec<f32>> {
    let mut batch = Batch::default();
    encodings.iter().for_each(|encoding| batch.push(encoding));
    let outputs = encoder.encode(&batch).unwrap();
    outputs
        .into_iter()
        .map(|output| output.dense.unwrap())
        .collect()
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    let pairs = a.iter().zip(b);
    pairs.map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}

fn unit(vector: &[f32]) -> Vec<f32> {
    let norm = dot(vector, vector).sqrt();
    vector
        .iter()
        .map(|v| (f64::from(*v) / norm) as f32)
        .collect()
}

fn numbers(value: &Value) -> Vec<f32> {
    let list = value.as_array().expect("a list").iter();
    list.map(|number| number.as_f64().unwrap() as f32).collect()
}

/// The texts of a golden file with the ids and, where there is one, the vector each must get.
fn cases(golden: &Value) -> Vec<(String, Vec<u32>, Option<Vec<f32>>)> {
    let case = |case: &Value| {
        let ids = numbers(&case["input_ids"]).into_iter().map(|id| id as u32);
        let pooled = &case["pooled"];
        let pooled = (!pooled.is_null()).then(|| numbers(pooled));
        (
            case["text"].as_str().unwrap().to_owned(),
            ids.collect(),
            pooled,
        )
    };
    golden["cases"]
        .as_array()
        .unwrap()
        .iter()
        .map(case)
        .collect()
}

fn check_golden(name: &str) {
    let dir = golden(name);
    let golden: Value =
        serde_json::from_slice(&fs::read(dir.join("golden.json")).unwrap()).unwrap();
    let mut model = load(&dir).unwrap();
    assert_eq!(model.name, golden["architecture"]);
    assert_eq!(model.size.dtype, golden["dtype"]);
    assert_eq!(golden["dimensions"], model.size.dimensions);
    let limit = golden["max_tokens"].as_u64().unwrap_or(1_000_000);
    assert_eq!(model.max_tokens as u64, limit);
    assert_eq!(model.tokenizer.special_tokens(), 0);

    let (mut encodings, mut alone) = (Vec::new(), Vec::new());
    let mut without = 0;
    for (text, ids, expected) in cases(&golden) {
        let Some(expected) = expected else {
            let error = model.tokens(&text).unwrap_err().to_string();
            assert!(error.contains("no token that the model knows"), "{error}");
            without += 1;
            continue;
        };
        let encoding = model.tokens(&text).unwrap();
        assert_eq!(encoding.input_ids, ids, "{name}: `{text}`");
        assert_eq!(encoding.token_type_ids.len(), ids.len());
        let found = model.run(std::slice::from_ref(&encoding)).remove(0);
        let largest = expected.iter().fold(0.0f32, |max, v| max.max(v.abs()));
        for (found, expected) in found.iter().zip(&expected) {
            let off = (found - expected).abs() / largest;
            assert!(off <= 2e-6, "{name}: `{text}` is off by {off:e}");
        }
        assert_eq!(found.len(), expected.len());
        encodings.push(encoding);
        alone.push(found);
    }
    assert!(without >= 1 && alone.len() > 5, "too few cases");
    assert_eq!(
        model.run(&encodings),
        alone,
        "{name}: company changes a vector"
    );
    encodings.reverse();
    alone.reverse();
    assert_eq!(model.run(&encodings), alone);
}

#[test]
fn vectors_are_those_of_model2vec() {
    for name in ["f32", "f16-unigram", "int8", "int8-shared"] {
        check_golden(name);
    }
}

#[test]
fn a_table_of_sentence_transformers_keeps_unknown_tokens() {
    check_golden("nested");
}

#[test]
fn ids_of_the_caller_lose_unknown_tokens_too() {
    let model = load(&golden("int8")).unwrap();
    let limit = Truncation {
        max_tokens: 8,
        side: TruncationSide::Refuse,
    };
    let unknown = 1;
    let encoding = model.tokenizer.encode_ids(&[7, unknown, 8], limit).unwrap();
    assert_eq!(encoding.input_ids, [7, 8]);
    assert_eq!(encoding.token_type_ids, [0, 0]);
    assert!(model.tokenizer.encode_ids(&[unknown], limit).is_err());
    let tokenizer = model.tokenizer.with_silent([7].into());
    assert!(tokenizer.encode_ids(&[7, unknown, 7], limit).is_err());
    assert!(tokenizer.encode_ids(&[7, 8], limit).is_ok());
}

#[test]
fn a_batch_outside_the_table_is_refused() {
    let mut model = load(&golden("int8-shared")).unwrap();
    assert!(model.encoder.encode(&Batch::default()).unwrap().is_empty());
    let mut batch = Batch::default();
    let last = model.size.vocabulary as u32 - 1;
    for (id, fits) in [(last, true), (last + 1, false)] {
        batch.push(&Encoding {
            input_ids: vec![id],
            token_type_ids: vec![0],
            ..Encoding::default()
        });
        assert_eq!(model.encoder.encode(&batch).is_ok(), fits);
    }
}

#[test]
fn facts_are_those_of_the_files() {
    let shared = load(&golden("int8-shared")).unwrap().size;
    let tokens = shared.vocabulary as u64;
    assert_eq!(shared.parameters, 40 * 20 + 2 * tokens);
    assert_eq!(shared.bytes, 40 * 20 + 8 * tokens);
    let half = load(&golden("f16-unigram")).unwrap().size;
    assert_eq!(half.bytes, 2 * half.parameters);
}

/// A copy of a golden checkpoint whose config.json has one more setting.
fn changed(name: &str, key: &str, value: Value) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(golden(name)).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), dir.path().join(entry.file_name())).unwrap();
    }
    let path = dir.path().join("config.json");
    let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    config[key] = value;
    fs::write(&path, config.to_string()).unwrap();
    dir
}

fn refusal(dir: &Path) -> String {
    match load(dir) {
        Ok(_) => panic!("this should not load"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn what_would_mean_other_vectors_is_refused() {
    let head = changed("f32", "head_config", json!({"n_layers": 1}));
    assert!(refusal(head.path()).contains("head_config"));
    let class = changed("f32", "architectures", json!(["OtherModel"]));
    assert!(refusal(class.path()).contains("OtherModel"));
    let other = changed("f32", "model_type", json!("model3vec"));
    fs::remove_file(other.path().join("modules.json")).unwrap();
    assert!(StaticCheckpoint::find(other.path()).unwrap().is_none());
    let limit = changed("f32", "max_length", json!(0));
    assert!(refusal(limit.path()).contains("max_length"));
}

/// Writes a table in place of the one of `f32` and says what loading answers.
fn with_table(tensors: &[(&str, Dtype, &[usize], &[u8])]) -> String {
    let dir = changed("f32", "hidden_dim", json!(2));
    let view = |&(name, dtype, shape, data): &(&str, Dtype, &[usize], &'static [u8])| {
        let view = safetensors::tensor::TensorView::new(dtype, shape.to_vec(), data);
        (name.to_owned(), view.unwrap())
    };
    let owned: Vec<(&str, Dtype, &[usize], &'static [u8])> = tensors
        .iter()
        .map(|&(name, dtype, shape, data)| (name, dtype, shape, &*data.to_vec().leak()))
        .collect();
    let views: HashMap<_, _> = owned.iter().map(view).collect();
    let bytes = safetensors::serialize(views, None).unwrap();
    fs::write(dir.path().join("model.safetensors"), bytes).unwrap();
    refusal(dir.path())
}

#[test]
fn malformed_tables_are_refused() {
    let table = ("embeddings", Dtype::I8, &[2, 2][..], &[1u8, 2, 3, 4][..]);
    let strange = ("codebook", Dtype::I8, &[1][..], &[1][..]);
    let beyond = (
        "mapping",
        Dtype::I32,
        &[2][..],
        &[0, 0, 0, 0, 2, 0, 0, 0][..],
    );
    let negative = ("mapping", Dtype::I32, &[1][..], &[255, 255, 255, 255][..]);
    let short = ("weights", Dtype::F32, &[1][..], &[0, 0, 128, 63][..]);
    let bytes = ("embeddings", Dtype::U8, &[2, 2][..], &[1, 2, 3, 4][..]);
    for (tensors, word) in [
        (vec![table], "its tokenizer has"),
        (vec![table, strange], "`codebook`"),
        (vec![table, beyond], "below `2`"),
        (vec![table, negative], "below `2`"),
        (vec![table, short], "`weights`"),
        (vec![bytes], "`U8`"),
        (vec![strange], "no tensor `embeddings`"),
    ] {
        let error = with_table(&tensors);
        assert!(error.contains(word), "{word}: {error}");
    }
}

#[test]
fn a_model_is_chosen_by_its_files() {
    let Some(runtime) = crate::given::tests::runtime() else {
        return;
    };
    let options = LoadOptions::new(runtime);
    let model = EncoderModel::load(&golden("int8"), &options).unwrap();
    let info = model.info();
    assert_eq!(info.source, GraphSource::Absent);
    assert_eq!(info.architecture, "model2vec");
    assert_eq!(info.pooling, Some(Pooling::Mean));
    assert_eq!(info.checkpoint_dtype, "int8");
    assert_eq!((info.max_tokens, info.dimensions), (1_000_000, 32));
    let limit = Truncation {
        max_tokens: 64,
        side: TruncationSide::End,
    };
    let mut batch = Batch::default();
    batch.push(&model.tokenizer().encode("hello world", limit).unwrap());
    let mut encoder = model.encoder(1).unwrap();
    assert_eq!(
        encoder.encode(&batch).unwrap()[0]
            .dense
            .as_ref()
            .unwrap()
            .len(),
        32
    );
    let options = LoadOptions {
        pooling: Some(Pooling::Cls),
        ..options
    };
    let error = EncoderModel::load(&golden("int8"), &options).err().unwrap();
    assert!(error.to_string().contains("`cls`"), "{error}");
}

mod potion;

/// Late chunking of static embeddings: the pieces are averaged apart.
#[test]
fn segments_are_averaged_apart() {
    let mut loaded = load(&golden("f32")).unwrap();
    let encoding = |ids: &[u32], segments: &[u32]| Encoding {
        input_ids: ids.to_vec(),
        token_type_ids: vec![0; ids.len()],
        segments: segments.to_vec(),
        ..Encoding::default()
    };
    let apart = [
        encoding(&[5], &[]),
        encoding(&[7, 6], &[]),
        encoding(&[9, 8, 7], &[]),
    ];
    let expected = loaded.run(&apart);
    let together = [encoding(&[5, 7, 6], &[1, 3]), apart[2].clone()];
    let found = loaded.run(&together);
    assert_eq!(found, [expected[..2].concat(), expected[2].clone()]);
}
