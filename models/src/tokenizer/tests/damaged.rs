//! Damaged files: whatever they say, loading and encoding end with a result.

use std::fs;

use super::*;
use crate::prompts::Prompts;

const CASES: u32 = 250;
const FILES: [&str; 3] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "config_sentence_transformers.json",
];
const NAMES: [&str; 3] = ["bert-tiny-mean", "roberta-tiny-mean", "xlmr-tiny-cls"];

/// Loads and uses what it can.
fn use_all(dir: &Path) {
    let _ = Prompts::read(dir).map(|prompts| prompts.resolve(None).map(str::len));
    let Ok(tokenizer) = Tokenizer::load(dir) else {
        return;
    };
    let text = "The harbour's [SEP] <mask> lights: 这座 🦀 é, \n ﷺ";
    let truncation = cut(64, TruncationSide::Start);
    if let Ok(encoding) = tokenizer.encode(text, truncation) {
        assert!(encoding.input_ids.len() <= 64);
        let _ = tokenizer.decode(&encoding.input_ids, SpecialTokens::Skip);
    }
    let chunking = chunks::Chunking {
        max_tokens: 16,
        overlap: 2,
    };
    let _ = tokenizer.encode_chunks(&Prompt::default(), text, chunking);
    let _ = tokenizer.pair_form().and_then(|form| {
        let truncation = pair::PairTruncation::new(32, TruncationSide::End);
        let query = tokenizer.prepare_query(&form, text, truncation)?;
        tokenizer.encode_pair(&query, text)
    });
}

/// A copy of the files of a checkpoint that tokenization reads.
fn copy(name: &str) -> tempfile::TempDir {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/checkpoints");
    let dir = tempfile::tempdir().unwrap();
    for file in FILES {
        let from = golden.join(name).join(file);
        if from.exists() {
            fs::copy(from, dir.path().join(file)).unwrap();
        }
    }
    let prompts = r#"{"prompts": {"query": "q: "}, "default_prompt_name": "query"}"#;
    fs::write(dir.path().join(FILES[2]), prompts).unwrap();
    dir
}

/// Puts `new` in place of one value, chosen by a path of numbers.
fn replace(value: &mut Value, path: &[u16], new: &Value) {
    let Some((&step, rest)) = path.split_first() else {
        *value = new.clone();
        return;
    };
    let inner = match value {
        Value::Array(values) if !values.is_empty() => {
            let at = usize::from(step) % values.len();
            values.get_mut(at)
        }
        Value::Object(values) if !values.is_empty() => {
            let at = usize::from(step) % values.len();
            values.values_mut().nth(at)
        }
        _ => None,
    };
    match inner {
        Some(inner) => replace(inner, rest, new),
        None => *value = new.clone(),
    }
}

fn odd_values() -> impl Strategy<Value = Value> {
    prop::sample::select(vec![
        Value::Null,
        Value::Bool(true),
        serde_json::json!(-1),
        serde_json::json!(0),
        serde_json::json!(u32::MAX),
        serde_json::json!(u64::MAX),
        serde_json::json!(1e300),
        serde_json::json!(""),
        serde_json::json!("a"),
        serde_json::json!("BPE"),
        serde_json::json!("Unigram"),
        serde_json::json!([]),
        serde_json::json!({}),
        serde_json::json!([["a", 0], ["b", -1e300]]),
        serde_json::json!({"type": "FixedLength", "length": 0}),
        serde_json::json!({"type": "Replace", "pattern": {"String": ""}, "content": "xx"}),
        serde_json::json!({"type": "Precompiled", "precompiled_charsmap": "/////w=="}),
        serde_json::json!({"type": "TemplateProcessing", "single": ["[NONE]:0", "$A:0"],
            "pair": ["$A:0", "$A:0"], "special_tokens": {}}),
    ])
}

proptest! {
    #![proptest_config(ProptestConfig {
        rng_seed: prop::test_runner::RngSeed::Fixed(7),
        ..ProptestConfig::with_cases(CASES)
    })]

    #[test]
    fn damaged_bytes_never_panic(
        name in prop::sample::select(&NAMES[..]),
        file in prop::sample::select(&FILES[..]),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        length in prop::option::weighted(0.2, any::<prop::sample::Index>()),
    ) {
        let dir = copy(name);
        let path = dir.path().join(file);
        let mut bytes = fs::read(&path).unwrap();
        for (at, byte) in changes {
            // Other printable characters keep more of the file readable.
            let at = at.index(bytes.len());
            bytes[at] = if byte < 128 { b' ' + byte % 95 } else { byte };
        }
        if let Some(length) = length {
            bytes.truncate(length.index(bytes.len()));
        }
        fs::write(&path, bytes).unwrap();
        use_all(dir.path());
    }

    #[test]
    fn odd_values_never_panic(
        name in prop::sample::select(&NAMES[..]),
        file in prop::sample::select(&FILES[..]),
        path in prop::collection::vec(any::<u16>(), 0..5),
        new in odd_values(),
    ) {
        let dir = copy(name);
        let file = dir.path().join(file);
        let mut value = json::read(&file).unwrap();
        replace(&mut value, &path, &new);
        fs::write(&file, value.to_string()).unwrap();
        use_all(dir.path());
    }
}

#[test]
fn a_panic_of_the_tokenizer_is_an_error() {
    let dir = copy("bert-tiny-mean");
    let file = dir.path().join("tokenizer.json");
    let mut value = json::read(&file).unwrap();
    value["post_processor"] = serde_json::json!({
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "[NONE]", "type_id": 0}},
            {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}],
        "special_tokens": {},
    });
    fs::write(&file, value.to_string()).unwrap();
    let error = Tokenizer::load(dir.path()).unwrap_err().to_string();
    assert!(error.contains("tokenizer.json"), "{error}");
}
