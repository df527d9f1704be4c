use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::*;
use crate::graph::ops::Activation;

fn bert() -> Value {
    json!({
        "model_type": "bert", "architectures": ["BertModel"], "hidden_act": "gelu",
        "hidden_size": 8, "num_attention_heads": 2, "num_hidden_layers": 1,
        "intermediate_size": 16, "vocab_size": 10, "max_position_embeddings": 12,
        "type_vocab_size": 2, "layer_norm_eps": 1e-12, "position_embedding_type": "absolute",
        "pruned_heads": {}, "is_decoder": false, "use_cache": true, "rope_scaling": null,
    })
}

fn read(values: Value) -> Result<Sizes> {
    let config = Config::new(Path::new("config.json"), values)?;
    let architecture = find(&config)?;
    settings::check(architecture, &config)?;
    Sizes::read(architecture, &config)
}

fn with(key: &str, value: Value) -> Result<Sizes> {
    let mut values = bert();
    values[key] = value;
    read(values)
}

#[test]
fn sizes_are_read() {
    let sizes = read(bert()).unwrap();
    assert_eq!(
        (sizes.layers, sizes.hidden, sizes.heads, sizes.intermediate),
        (1, 8, 2, 16)
    );
    assert_eq!(
        (sizes.vocabulary, sizes.positions, sizes.token_types),
        (10, 12, Some(2))
    );
    assert_eq!(sizes.activation, Activation::Gelu);
    assert_eq!((sizes.position_ids.first(), sizes.max_tokens), (0, 12));
    for (name, activation) in Activation::NAMES {
        assert_eq!(
            with("hidden_act", json!(name)).unwrap().activation,
            *activation
        );
    }
    // Configurations from before 2020 name no `model_type`.
    assert_eq!(with("model_type", Value::Null).unwrap(), sizes);
}

#[test]
fn roberta_starts_its_positions_after_padding() {
    for (model_type, class) in [
        ("roberta", "RobertaForMaskedLM"),
        ("xlm-roberta", "XLMRobertaModel"),
        ("camembert", "CamembertModel"),
    ] {
        let mut values = bert();
        values["model_type"] = json!(model_type);
        values["architectures"] = json!([class]);
        values["type_vocab_size"] = json!(1);
        values["pad_token_id"] = json!(1);
        let sizes = read(values.clone()).unwrap();
        assert_eq!((sizes.positions, sizes.token_types), (12, Some(1)));
        assert_eq!((sizes.position_ids.first(), sizes.max_tokens), (2, 10));
        for (key, value, word) in [
            ("max_position_embeddings", json!(2), "first position is `2`"),
            ("max_position_embeddings", json!(0), "at least `1`"),
            ("position_embedding_type", json!("relative_key"), "relative"),
            ("architectures", json!(["BertModel"]), "`BertModel`"),
            (
                "architectures",
                json!(["XLMRobertaXLModel"]),
                "`XLMRobertaXLModel`",
            ),
            (
                "auto_map",
                json!({"AutoModel": "modeling_lora.XLMRobertaLoRA"}),
                "auto_map",
            ),
        ] {
            let mut values = values.clone();
            values[key] = value;
            let error = read(values).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
    }
}

#[test]
fn settings_that_change_the_arithmetic_are_refused() {
    for (key, value) in [
        ("hidden_act", json!("quick_gelu")),
        ("position_embedding_type", json!("alibi")),
        ("position_embedding_type", json!("relative_key")),
        ("is_decoder", json!(true)),
        ("add_cross_attention", json!(true)),
        ("pruned_heads", json!({"0": [1]})),
        ("quantization_config", json!({"bits": 4})),
        ("rope_theta", json!(10000)),
        ("rope_scaling", json!({"type": "ntk"})),
        ("feed_forward_type", json!("geglu")),
        ("embedding_size", json!(4)),
        ("num_key_value_heads", json!(1)),
        ("sliding_window", json!(128)),
        ("auto_map", json!({"AutoModel": "modeling.Other"})),
    ] {
        let error = with(key, value.clone()).unwrap_err();
        assert!(matches!(error, Error::Unsupported(_)), "{key}: {error:?}");
        let error = error.to_string();
        assert!(
            error.contains(key) && error.contains(&value.to_string()),
            "{error}"
        );
    }
    assert!(with("num_key_value_heads", json!(2)).is_ok());
}

#[test]
fn impossible_sizes_are_errors() {
    for (key, value) in [
        ("num_attention_heads", json!(3)),
        ("num_attention_heads", json!(0)),
        ("hidden_size", json!("8")),
        ("vocab_size", Value::Null),
        ("type_vocab_size", json!(0)),
        ("layer_norm_eps", json!(-1.0)),
        ("layer_norm_eps", Value::Null),
        ("num_hidden_layers", json!(1e18)),
    ] {
        assert!(with(key, value.clone()).is_err(), "{key} = {value}");
    }
}

#[test]
fn a_stranger_is_named_and_the_known_are_listed() {
    for (key, value, name) in [
        ("model_type", json!("xlm-roberta-xl"), "`xlm-roberta-xl`"),
        (
            "architectures",
            json!(["JinaBertForMaskedLM"]),
            "`JinaBertForMaskedLM`",
        ),
        (
            "architectures",
            json!(["NomicBertModel"]),
            "`NomicBertModel`",
        ),
    ] {
        let error = with(key, value).unwrap_err().to_string();
        assert!(
            error.starts_with(&format!("unknown architecture {name}")),
            "{error}"
        );
        assert!(error.contains("known: `bert`"), "{error}");
    }
    let error = read(json!({})).unwrap_err().to_string();
    assert!(error.contains("known: `bert`"), "{error}");
}

/// Published configurations, which are here where this project is developed.
#[test]
fn published_configurations_are_read_or_refused_for_a_reason() {
    let dir: PathBuf =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data/model-configs");
    if !dir.exists() {
        println!("stepping aside: `{}` is not here", dir.display());
        return;
    }
    for (name, expected) in [
        ("BAAI__bge-large-en-v1.5", Ok(512)),
        ("BAAI__bge-large-zh-v1.5", Ok(512)),
        ("Xenova__all-MiniLM-L6-v2", Ok(512)),
        ("cross-encoder__ms-marco-MiniLM-L-6-v2", Ok(512)),
        ("BAAI__bge-m3", Ok(8192)),
        ("BAAI__bge-reranker-base", Ok(512)),
        ("BAAI__bge-reranker-large", Ok(512)),
        ("BAAI__bge-reranker-v2-m3", Ok(8192)),
        ("Alibaba-NLP__gte-multilingual-base", Err("`new`")),
        (
            "jinaai__jina-embeddings-v2-base-en",
            Err("`JinaBertForMaskedLM`"),
        ),
        ("Qwen__Qwen3-Reranker-0.6B", Err("`qwen3`")),
    ] {
        let values = crate::checkpoint::json::read(&dir.join(name).join("config.json")).unwrap();
        match (read(values), expected) {
            (Ok(sizes), Ok(limit)) => assert_eq!(sizes.max_tokens, limit, "{name}"),
            (Err(error), Err(expected)) => {
                let error = error.to_string();
                let start = format!("unknown architecture {expected}");
                assert!(error.starts_with(&start), "{name}: {error}");
            }
            (found, _) => panic!("{name}: {found:?}"),
        }
    }
}
