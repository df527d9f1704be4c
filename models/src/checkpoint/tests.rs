mod mutations;

use std::fs;

use proptest::prelude::*;
use retort_kernels::Pooling;
use safetensors::tensor::{Dtype, TensorView, serialize};
use tempfile::TempDir;

use super::weights::F32Values;
use super::*;

fn dir_with(files: &[(&str, &str)]) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    dir
}

const OLD: &str = r#"[{"idx":0,"path":"","type":"sentence_transformers.models.Transformer"},
 {"idx":1,"path":"1_Pooling","type":"sentence_transformers.models.Pooling"},
 {"idx":2,"path":"2_Normalize","type":"sentence_transformers.models.Normalize"}]"#;

fn pooling_of(config: &str) -> Result<Modules> {
    Modules::read(dir_with(&[("modules.json", OLD), ("1_Pooling/config.json", config)]).path())
}

#[test]
fn both_layouts_of_a_pooling_are_read() {
    let mean = r#"{"pooling_mode_cls_token":false,"pooling_mode_mean_tokens":true}"#;
    let expected = Modules {
        pooling: Some(Pooling::Mean),
        normalize: true,
        ..Modules::default()
    };
    assert_eq!(pooling_of(mean).unwrap(), expected);
    assert_eq!(pooling_of(r#"{"pooling_mode":"mean"}"#).unwrap(), expected);
    assert_eq!(
        pooling_of(r#"{"pooling_mode":["mean"]}"#).unwrap(),
        expected
    );
    for pooling in Pooling::ALL {
        let config = format!(r#"{{"pooling_mode":"{pooling}","include_prompt":true}}"#);
        assert_eq!(pooling_of(&config).unwrap().pooling, Some(pooling));
    }
}

#[test]
fn a_pooling_that_is_not_implemented_is_refused() {
    for (config, word) in [
        (
            r#"{"pooling_mode_cls_token":true,"pooling_mode_mean_tokens":true}"#,
            "joins",
        ),
        (r#"{"pooling_mode":["cls","mean"]}"#, "joins"),
        (r#"{"pooling_mode":"attention"}"#, "attention"),
        (
            r#"{"pooling_mode":"mean","include_prompt":false}"#,
            "include_prompt",
        ),
        (r#"{"pooling_mode_cls_token":false}"#, "no pooling"),
    ] {
        let error = pooling_of(config).unwrap_err().to_string();
        assert!(error.contains(word), "{error}");
    }
}

#[test]
fn modules_beyond_the_known_are_refused() {
    let unknown = OLD.replace("models.Normalize", "models.CNN");
    let escaping = OLD.replace("1_Pooling", "../1_Pooling");
    let absolute = OLD.replace("1_Pooling", "/1_Pooling");
    // Releases before 1.0 kept even the transformer in a folder of its own.
    let ancient = OLD.replace(r#""path":"""#, r#""path":"0_Transformer""#);
    for (modules, word) in [
        (unknown, "CNN"),
        (escaping, "leaves"),
        (absolute, "leaves"),
        (ancient, "0_Transformer"),
    ] {
        let pooling = ("1_Pooling/config.json", r#"{"pooling_mode":"mean"}"#);
        let dir = dir_with(&[("modules.json", &modules), pooling]);
        let error = Modules::read(dir.path()).unwrap_err().to_string();
        assert!(error.contains(word), "{error}");
    }
    let scores = r#"{"transformer_task":"sequence-classification"}"#;
    let dir = dir_with(&[("modules.json", OLD), ("sentence_bert_config.json", scores)]);
    // Logits cannot be pooled.
    let error = Modules::read(dir.path()).unwrap_err().to_string();
    assert!(error.contains("module `1`"), "{error}");
}

#[test]
fn a_prompt_before_every_text_is_known() {
    let prompts = r#"{"prompts": {"query": "q: "}, "default_prompt_name": "query"}"#;
    let files = [
        ("config.json", "{}"),
        ("config_sentence_transformers.json", prompts),
    ];
    let checkpoint = Checkpoint::open(dir_with(&files).path()).unwrap();
    assert_eq!(checkpoint.prompts.resolve(None).unwrap(), "q: ");
}

#[test]
fn the_longest_input_is_what_the_nearest_file_says() {
    let tokenizer = ("tokenizer_config.json", r#"{"model_max_length":300}"#);
    let endless = ("tokenizer_config.json", r#"{"model_max_length":1e30}"#);
    let limit = |files: &[(&str, &str)]| max_seq_length(dir_with(files).path());
    let sentence = |text| ("sentence_bert_config.json", text);
    assert_eq!(
        limit(&[sentence(r#"{"max_seq_length":256}"#), tokenizer]).unwrap(),
        Some(256)
    );
    assert_eq!(
        limit(&[sentence(r#"{"max_seq_length":null}"#), tokenizer]).unwrap(),
        Some(300)
    );
    assert_eq!(
        limit(&[("sentence_roberta_config.json", r#"{"max_seq_length":9}"#)]).unwrap(),
        Some(9)
    );
    assert_eq!(limit(&[endless]).unwrap(), None);
    assert!(limit(&[sentence(r#"{"max_seq_length":-1}"#)]).is_err());
}

/// A safetensors file of one tensor.
fn safetensors(name: &str, dtype: Dtype, shape: &[usize], data: &[u8]) -> Vec<u8> {
    let view = TensorView::new(dtype, shape.to_vec(), data).unwrap();
    serialize([(name, view)], None).unwrap()
}

#[test]
fn all_floating_point_types_become_32_bits() {
    let numbers = [0.5_f32, -2.0, 0.0, 1.5];
    let wide: Vec<u8> = numbers.iter().flat_map(|n| n.to_le_bytes()).collect();
    let half: Vec<u8> = numbers
        .iter()
        .flat_map(|&n| half::f16::from_f32(n).to_le_bytes())
        .collect();
    let brain: Vec<u8> = numbers
        .iter()
        .flat_map(|&n| half::bf16::from_f32(n).to_le_bytes())
        .collect();
    for (dtype, data) in [(Dtype::F32, wide), (Dtype::F16, half), (Dtype::BF16, brain)] {
        let dir = tempfile::tempdir().unwrap();
        fs::write(
            dir.path().join("model.safetensors"),
            safetensors("w", dtype, &[2, 2], &data),
        )
        .unwrap();
        let weights = Weights::open(dir.path()).unwrap();
        let values = weights.get("w").unwrap().to_f32().unwrap();
        assert_eq!(values.as_slice(), numbers, "{dtype:?}");
        assert_eq!(matches!(values, F32Values::Mapped(_)), dtype == Dtype::F32);
    }
    let dir = tempfile::tempdir().unwrap();
    let bytes = safetensors("w", Dtype::I64, &[1], &[0; 8]);
    fs::write(dir.path().join("model.safetensors"), bytes).unwrap();
    let error = Weights::open(dir.path())
        .unwrap()
        .get("w")
        .unwrap()
        .to_f32()
        .unwrap_err();
    assert!(error.to_string().contains("I64"), "{error}");
}

#[test]
fn misaligned_numbers_are_copied_right() {
    // The header's length is not padded, so that the data starts at an odd byte.
    let header = br#"{"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#;
    assert!(
        !(header.len() + 8).is_multiple_of(4),
        "the test needs an odd header"
    );
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(header);
    bytes.extend([1.25_f32, -3.0].iter().flat_map(|n| n.to_le_bytes()));
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("model.safetensors"), bytes).unwrap();
    let weights = Weights::open(dir.path()).unwrap();
    let values = weights.get("w").unwrap().to_f32().unwrap();
    assert!(matches!(values, F32Values::Owned(_)));
    assert_eq!(values.as_slice(), [1.25, -3.0]);
}

#[test]
fn what_is_not_weights_is_named() {
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 90868376\n";
    let index = |file: &str| format!(r#"{{"weight_map":{{"w":"{file}"}}}}"#);
    for (name, text, word) in [
        ("model.safetensors", pointer.to_owned(), "Git LFS"),
        ("model.safetensors", String::new(), "not safetensors"),
        ("pytorch_model.bin", String::new(), "not a PyTorch file"),
        ("pytorch_model.bin", pointer.to_owned(), "Git LFS"),
        ("other.txt", String::new(), "no `model.safetensors`"),
        (
            "model.safetensors.index.json",
            index("../w.safetensors"),
            "not a file name",
        ),
        (
            "model.safetensors.index.json",
            index("absent.safetensors"),
            "absent.safetensors",
        ),
        (
            "model.safetensors.index.json",
            "{}".to_owned(),
            "weight_map",
        ),
        (
            "model.safetensors.index.json",
            pointer.to_owned(),
            "Git LFS",
        ),
    ] {
        let dir = dir_with(&[(name, &text)]);
        let error = Weights::open(dir.path()).unwrap_err().to_string();
        assert!(error.contains(word), "{name}: {error}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Whatever the bytes are, opening them ends with an answer, and every tensor it lists can
    /// be read.
    #[test]
    fn broken_files_are_errors_and_not_panics(
        flips in prop::collection::vec((0_usize..200, any::<u8>()), 0..6),
        length in 0_usize..200,
    ) {
        let data: Vec<u8> = (0..24).collect();
        let mut bytes = safetensors("weight", Dtype::F32, &[2, 3], &data);
        for (at, byte) in flips {
            let at = at % bytes.len();
            bytes[at] = byte;
        }
        bytes.truncate(length.max(1));
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("model.safetensors"), bytes).unwrap();
        if let Ok(weights) = Weights::open(dir.path()) {
            for name in weights.names() {
                let tensor = weights.get(name).unwrap();
                if let Ok(values) = tensor.to_f32() {
                    prop_assert_eq!(values.as_slice().len(), tensor.elements());
                }
            }
        }
    }
}

#[test]
fn values_of_the_wrong_kind_are_named() {
    let config = |text: &str| {
        Config::new(
            Path::new("config.json"),
            serde_json::from_str(text).unwrap(),
        )
        .unwrap()
    };
    assert_eq!(config(r#"{"n":3}"#).count("n").unwrap(), 3);
    for text in [
        r#"{}"#,
        r#"{"n":null}"#,
        r#"{"n":0}"#,
        r#"{"n":-1}"#,
        r#"{"n":"3"}"#,
        r#"{"n":1e40}"#,
    ] {
        let error = config(text).count("n").unwrap_err().to_string();
        assert!(
            error.contains("`n`") && error.contains("config.json"),
            "{error}"
        );
    }
    assert!(Config::new(Path::new("config.json"), Value::Array(Vec::new())).is_err());
}
