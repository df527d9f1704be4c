//! Rerankers that answer a question with one of two words.

use super::*;

/// As sentence-transformers 6.2 saves a `CrossEncoder` of a language model.
fn logit_score() -> Vec<(&'static str, Option<Vec<u8>>)> {
    let (_, golden) = golden("qwen3-tiny-reranker");
    let class = "sentence_transformers.cross_encoder.modules.logit_score.LogitScore";
    let modules = json!([
        {"path": "", "type": "sentence_transformers.base.modules.transformer.Transformer"},
        {"path": "1_LogitScore", "type": class},
    ]);
    let transformer = json!({
        "transformer_task": "text-generation", "module_output_name": "causal_logits",
        "modality_config": {"text": {"method": "forward", "method_output_name": "logits"}},
    });
    let answers = json!({
        "true_token_id": golden["yes_token"], "false_token_id": golden["no_token"],
        "module_input_name": "causal_logits",
    });
    let prompts = json!({"prompts": {"web": "Find the weather"}, "default_prompt_name": "web"});
    vec![
        ("modules.json", text(&modules)),
        ("sentence_bert_config.json", text(&transformer)),
        ("1_LogitScore/config.json", text(&answers)),
        ("config_sentence_transformers.json", text(&prompts)),
    ]
}

#[test]
fn sentence_transformers_says_which_answers_are_compared() {
    let Some(options) = options(None, None) else {
        return;
    };
    let name = "qwen3-tiny-reranker";
    let mut files = logit_score();
    let dir = copy(name, &files);
    let model = EncoderModel::load(dir.path(), &options).unwrap();
    assert_eq!(
        model.info().instruction.as_deref(),
        Some("Find the weather")
    );
    assert_ne!(
        model.pair_form(None).unwrap(),
        model.pair_form(Some("Find the sea")).unwrap()
    );
    // Without a prompt of its own it is what the model card describes.
    files.pop();
    files.push((
        "chat_template.jinja",
        Some(b"<Document>: {{ document }}".to_vec()),
    ));
    let dir = copy(name, &files);
    let model = EncoderModel::load(dir.path(), &options).unwrap();
    check(&model, &golden(name).1, "LogitScore");
    // One answer alone.
    let (_, golden) = golden(name);
    let one = json!({"true_token_id": golden["yes_token"], "false_token_id": null});
    let path = dir.path().join("1_LogitScore/config.json");
    fs::write(&path, one.to_string()).unwrap();
    let model = EncoderModel::load(dir.path(), &options).unwrap();
    let (found, _) = pairs(&model, &golden, None);
    let yes = |case: &Value| vec![case["yes_logit"].as_f64().unwrap() as f32];
    let found: Vec<_> = found
        .into_iter()
        .map(|(pair, case)| (pair, yes(case)))
        .collect();
    let off = largest_difference(&model, &found, (Heads::SCORE, scores));
    assert!(off <= LIMIT, "off by {off:e}");
    // What is not a token id, is outside the vocabulary, or belongs to another template.
    for (wrong, words) in [
        (
            json!({"true_token_id": "yes"}),
            "`true_token_id` is `\"yes\"`",
        ),
        (json!({"true_token_id": 5000}), "[5000..5001]"),
    ] {
        fs::write(&path, wrong.to_string()).unwrap();
        let error = refusal(dir.path(), &options);
        assert!(error.contains(words), "{error}");
    }
    fs::write(&path, one.to_string()).unwrap();
    fs::write(dir.path().join("chat_template.jinja"), "{{ messages }}").unwrap();
    let error = refusal(dir.path(), &options);
    assert!(error.contains("has no `<Document>:`"), "{error}");
    let told = LoadOptions {
        task: Some(Task::Rerank),
        ..options
    };
    assert!(EncoderModel::load(dir.path(), &told).is_ok());
    // Answers are compared only by a model that writes text.
    fs::remove_file(dir.path().join("sentence_bert_config.json")).unwrap();
    let error = refusal(dir.path(), &told);
    assert!(error.contains("module `1` is"), "{error}");
}

#[test]
fn output_embeddings_may_be_a_table_of_their_own() {
    let Some(options) = options(Some(Task::Rerank), None) else {
        return;
    };
    let name = "qwen3-tiny-reranker";
    let (dir, golden) = golden(name);
    let mut config = checkpoint::json::read(&dir.join("config.json")).unwrap();
    config["tie_word_embeddings"] = json!(false);
    let config = text(&config);
    // Half the embeddings give half the logits.
    let mut stored = tensors(name);
    let (shape, values) = stored["model.embed_tokens.weight"].clone();
    let halves = values.iter().map(|value| value / 2.0).collect();
    stored.insert("lm_head.weight".to_owned(), (shape, halves));
    let weights = ("model.safetensors", Some(f32_file(&stored)));
    let untied = copy(name, &[("config.json", config.clone()), weights.clone()]);
    let tied = copy(name, &[weights]);
    for (dir, factor) in [(untied.path(), 0.5), (tied.path(), 1.0)] {
        let model = EncoderModel::load(dir, &options).unwrap();
        let (pairs, _) = pairs(&model, &golden, None);
        let expected = |case: &Value| vec![numbers(&case["logits"])[0] * factor];
        let pairs: Vec<_> = pairs
            .into_iter()
            .map(|(pair, case)| (pair, expected(case)))
            .collect();
        let off = largest_difference(&model, &pairs, (Heads::SCORE, scores));
        assert!(off <= LIMIT, "{factor}: off by {off:e}");
    }
    let lacking = copy(name, &[("config.json", config)]);
    let error = refusal(lacking.path(), &options);
    assert!(error.contains("no tensor `lm_head.weight`"), "{error}");
}

#[test]
fn layers_may_share_a_head() {
    let Some(options) = options(None, Some(4)) else {
        return;
    };
    let name = "minicpm-layerwise-tiny";
    let (dir, golden) = golden(name);
    let mut config = checkpoint::json::read(&dir.join("config.json")).unwrap();
    config["head_multi"] = json!(false);
    let mut stored = tensors(name);
    let head = stored["lm_head.2.linear_head.weight"].clone();
    stored.retain(|name, _| !name.starts_with("lm_head"));
    stored.insert("lm_head.linear_head.weight".to_owned(), head);
    let weights = ("model.safetensors", Some(f32_file(&stored)));
    let shared = copy(name, &[("config.json", text(&config)), weights]);
    let model = EncoderModel::load(shared.path(), &options).unwrap();
    let (pairs, _) = pairs(&model, &golden, Some(64));
    let expected = |case: &Value| vec![numbers(&case["logits"])[1]];
    let pairs: Vec<_> = pairs
        .into_iter()
        .map(|(pair, case)| (pair, expected(case)))
        .collect();
    let off = largest_difference(&model, &pairs, (Heads::SCORE, scores));
    assert!(off <= LIMIT, "off by {off:e}");
    config["head_multi"] = json!(true);
    config["head_type"] = json!("raw");
    let raw = copy(name, &[("config.json", text(&config))]);
    assert!(refusal(raw.path(), &options).contains("`head_type` is `\"raw\"`"));
    config["head_type"] = json!("simple");
    config["start_layer"] = json!(7);
    let late = copy(name, &[("config.json", text(&config))]);
    assert!(refusal(late.path(), &options).contains("`start_layer` is `7`"));
}
