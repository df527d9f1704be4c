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
                json!({"AutoModel": "someone/other--modeling_lora.XLMRobertaLoRA"}),
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
        ("Alibaba-NLP__gte-multilingual-base", Ok(8192)),
        ("jinaai__jina-embeddings-v2-base-en", Ok(8192)),
        ("Qwen__Qwen3-Reranker-0.6B", Ok(40960)),
        ("Qwen__Qwen2.5-0.5B-Instruct", Err("`qwen2`")),
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

/// The families beyond BERT, each in a configuration as its checkpoints have it.
fn families() -> Vec<(&'static str, Value)> {
    let modern = json!({
        "model_type": "modernbert", "architectures": ["ModernBertForMaskedLM"],
        "hidden_size": 8, "num_attention_heads": 2, "num_hidden_layers": 4,
        "intermediate_size": 12, "vocab_size": 10, "max_position_embeddings": 64,
        "hidden_activation": "gelu", "norm_eps": 1e-5, "local_attention": 8,
        "global_attn_every_n_layers": 3, "global_rope_theta": 160000.0,
        "local_rope_theta": 10000.0, "position_embedding_type": "absolute",
    });
    let distil = json!({
        "model_type": "distilbert", "dim": 8, "n_heads": 2, "n_layers": 1, "hidden_dim": 16,
        "vocab_size": 10, "max_position_embeddings": 12, "activation": "gelu",
        "sinusoidal_pos_embds": false,
    });
    let code = "nomic-ai/nomic-bert-2048--modeling_hf_nomic_bert.NomicBertModel";
    let nomic = json!({
        "model_type": "nomic_bert", "architectures": ["NomicBertModel"],
        "auto_map": {"AutoModel": code}, "activation_function": "swiglu", "n_embd": 8,
        "n_head": 2, "n_layer": 1, "n_inner": 12, "n_positions": 8192, "vocab_size": 10,
        "pad_vocab_size_multiple": 8, "type_vocab_size": 2, "layer_norm_epsilon": 1e-12,
        "rotary_emb_base": 1000, "rotary_emb_fraction": 1.0, "rotary_emb_interleaved": false,
        "rotary_scaling_factor": null, "max_trained_positions": 2048, "prenorm": false,
    });
    let mut jina = bert();
    jina["architectures"] = json!(["JinaBertForMaskedLM"]);
    jina["position_embedding_type"] = json!("alibi");
    jina["feed_forward_type"] = json!("geglu");
    let code = "jinaai/jina-bert-implementation--modeling_bert.JinaBertModel";
    jina["auto_map"] = json!({"AutoModel": code});
    let mut gte = bert();
    gte["model_type"] = json!("new");
    gte["architectures"] = json!(["NewModel"]);
    gte["position_embedding_type"] = json!("rope");
    gte["rope_theta"] = json!(20000);
    gte["rope_scaling"] = json!({"type": "ntk", "factor": 8.0});
    gte["type_vocab_size"] = json!(0);
    gte["auto_map"] = json!({"AutoModel": "Alibaba-NLP/new-impl--modeling.NewModel"});
    let mut mpnet = bert();
    mpnet["model_type"] = json!("mpnet");
    mpnet["architectures"] = json!(["MPNetForMaskedLM"]);
    mpnet["position_embedding_type"] = Value::Null;
    mpnet["relative_attention_num_buckets"] = json!(32);
    let qwen3 = json!({
        "model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"], "hidden_size": 8,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 6,
        "num_hidden_layers": 2, "intermediate_size": 12, "vocab_size": 10,
        "max_position_embeddings": 64, "hidden_act": "silu", "rms_norm_eps": 1e-6,
        "rope_theta": 1000000, "sliding_window": 64, "use_sliding_window": false,
    });
    let mut minicpm = qwen3.clone();
    minicpm["model_type"] = json!("minicpm");
    minicpm["architectures"] = json!(["LayerWiseMiniCPMForCausalLM"]);
    minicpm["head_dim"] = Value::Null;
    minicpm["sliding_window"] = Value::Null;
    minicpm["use_sliding_window"] = Value::Null;
    minicpm["num_hidden_layers"] = json!(4);
    minicpm["scale_emb"] = json!(12);
    minicpm["scale_depth"] = json!(1.5);
    let mut jina_v3 = bert();
    jina_v3["model_type"] = json!("xlm-roberta");
    jina_v3["architectures"] = json!(["XLMRobertaModel"]);
    jina_v3["position_embedding_type"] = json!("rotary");
    jina_v3["rotary_emb_base"] = json!(20000.0);
    jina_v3["lora_adaptations"] = json!(["query", "passage"]);
    jina_v3["lora_rank"] = json!(4);
    jina_v3["lora_alpha"] = json!(1);
    let code = "jinaai/xlm-roberta-flash-implementation--modeling_lora.XLMRobertaLoRA";
    jina_v3["auto_map"] = json!({"AutoModel": code});
    vec![
        ("jina-xlm-roberta", jina_v3),
        ("minicpm", minicpm),
        ("modernbert", modern),
        ("distilbert", distil),
        ("nomic-bert", nomic),
        ("jina-bert", jina),
        ("gte", gte),
        ("mpnet", mpnet),
        ("qwen3", qwen3),
    ]
}

fn family(name: &str, change: (&str, Value)) -> Result<Sizes> {
    let (_, mut values) = families()
        .into_iter()
        .find(|(known, _)| *known == name)
        .unwrap();
    values[change.0] = change.1;
    read(values)
}

#[test]
fn every_family_is_found_and_reads_its_own_names() {
    let mut names = vec!["bert", "xlm-roberta"];
    for (name, values) in families() {
        let config = Config::new(Path::new("config.json"), values.clone()).unwrap();
        assert_eq!(find(&config).unwrap().name, name);
        names.push(name);
        let sizes = read(values).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!((sizes.hidden, sizes.attention.len()), (8, sizes.layers));
    }
    assert!(
        ARCHITECTURES
            .iter()
            .all(|known| names.contains(&known.name))
    );
    let sizes = family("modernbert", ("none", Value::Null)).unwrap();
    let windows: Vec<_> = sizes.attention.iter().map(|layer| layer.window).collect();
    assert_eq!(windows, [None, Some(4), Some(4), None]);
    assert_ne!(sizes.attention[0].rotary, sizes.attention[1].rotary);
    let kinds = json!([
        "sliding_attention",
        "full_attention",
        "full_attention",
        "full_attention"
    ]);
    let listed = family("modernbert", ("layer_types", kinds)).unwrap();
    assert_eq!(listed.attention[0], sizes.attention[1]);
    let sizes = family("nomic-bert", ("none", Value::Null)).unwrap();
    assert_eq!((sizes.vocabulary, sizes.stored_vocabulary), (10, 16));
    assert_eq!(
        (sizes.max_tokens, sizes.activation),
        (8192, Activation::Silu)
    );
    // Beyond the positions of its training the angles would depend on the length of a text.
    let scaled = family("nomic-bert", ("rotary_scaling_factor", json!(2))).unwrap();
    assert_eq!(scaled.max_tokens, 2048);
    let sizes = family("minicpm", ("none", Value::Null)).unwrap();
    let scales = (sizes.embedding_scale, sizes.residual_scale);
    assert_eq!(scales, (Some(12.0), Some(0.75)));
    let sizes = family("qwen3", ("none", Value::Null)).unwrap();
    assert_eq!((sizes.heads, sizes.kv_heads, sizes.head_dim), (4, 2, 6));
    assert_eq!(
        family("gte", ("none", Value::Null)).unwrap().token_types,
        None
    );
    assert_eq!(
        family("mpnet", ("none", Value::Null)).unwrap().buckets,
        Some(32)
    );
}

#[test]
fn what_a_family_does_not_build_is_refused() {
    for (name, key, value) in [
        ("nomic-bert", "prenorm", json!(true)),
        ("nomic-bert", "num_experts", json!(8)),
        ("nomic-bert", "rotary_emb_scale_base", json!(512)),
        ("nomic-bert", "scale_attn_weights", json!(false)),
        ("nomic-bert", "activation_function", json!("relu2")),
        ("jina-bert", "position_embedding_type", Value::Null),
        ("jina-bert", "feed_forward_type", json!("original")),
        ("gte", "position_embedding_type", json!("absolute")),
        ("gte", "layer_norm_type", json!("rms_norm")),
        ("gte", "logn_attention_scale", json!(true)),
        (
            "gte",
            "rope_scaling",
            json!({"type": "longrope", "factor": 8.0}),
        ),
        ("gte", "rope_scaling", json!({"type": "ntk"})),
        (
            "gte",
            "rope_scaling",
            json!({"type": "ntk", "factor": 8.0, "other": 1}),
        ),
        ("qwen3", "use_sliding_window", json!(true)),
        (
            "qwen3",
            "layer_types",
            json!(["full_attention", "sliding_attention"]),
        ),
        ("qwen3", "num_experts", json!(8)),
        (
            "modernbert",
            "layer_types",
            json!(vec!["chunked_attention"; 4]),
        ),
        ("mpnet", "rope_theta", json!(10000)),
        ("distilbert", "architectures", json!(["BertModel"])),
        ("jina-xlm-roberta", "rotary_emb_fraction", json!(0.5)),
        ("jina-xlm-roberta", "use_reg_tokens", json!(true)),
    ] {
        let error = family(name, (key, value.clone())).unwrap_err();
        assert!(
            matches!(error, Error::Unsupported(_)),
            "{name} {key}: {error:?}"
        );
        let named = key == "architectures" || error.to_string().contains(key);
        assert!(named, "{name} {key} {value}: {error}");
    }
    // Without its positions it is an XLM-RoBERTa, which has no adapters.
    let plain = family(
        "jina-xlm-roberta",
        ("position_embedding_type", json!("absolute")),
    );
    let error = plain.unwrap_err().to_string();
    assert!(error.contains("`lora_adaptations`"), "{error}");
    for (name, key, value) in [
        ("qwen3", "num_key_value_heads", json!(3)),
        ("qwen3", "head_dim", json!(5)),
        ("modernbert", "layer_types", json!(["full_attention"])),
        ("modernbert", "local_attention", Value::Null),
        ("modernbert", "num_hidden_layers", json!(2_000_000_000)),
        ("nomic-bert", "rotary_emb_fraction", json!(0.2)),
    ] {
        assert!(
            family(name, (key, value.clone())).is_err(),
            "{name} {key} {value}"
        );
    }
}

#[test]
fn only_the_code_of_a_family_is_accepted() {
    for (name, code, known) in [
        ("gte", "modeling.NewModel", true),
        ("gte", "someone/new-impl--modeling.NewModel", false),
        ("gte", "modeling.OtherModel", false),
        (
            "jina-bert",
            "jinaai/jina-bert-v2-qk-post-norm--modeling_bert.JinaBertModel",
            true,
        ),
        (
            "jina-bert",
            "jinaai/xlm-roberta-flash-implementation--modeling_bert.JinaBert",
            false,
        ),
        (
            "nomic-bert",
            "nomic-ai/nomic-xlm--modeling_hf_nomic_bert.NomicBertModel",
            false,
        ),
        ("qwen3", "modeling_qwen.Qwen3Model", false),
    ] {
        let found = family(name, ("auto_map", json!({"AutoModel": code})));
        assert_eq!(found.is_ok(), known, "{name} {code}");
    }
    let listed = json!({"AutoTokenizer": ["modeling.NewModel", null]});
    assert!(family("gte", ("auto_map", listed)).is_err());
    assert!(family("gte", ("auto_map", json!("modeling.NewModel"))).is_err());
}
