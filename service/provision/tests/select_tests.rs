//! Which files of a repository are needed.

use std::path::Path;

use super::{
    super::{
        Weights,
        files::{Completeness, completeness, select},
    },
    write,
};

#[track_caller]
fn check(weights: Weights, listed: &str, wanted: &str) {
    let names: Vec<_> = listed.split_whitespace().collect();
    let mut wanted: Vec<_> = wanted.split_whitespace().collect();
    wanted.sort_unstable();
    assert_eq!(select(&names, weights).unwrap(), wanted);
}

#[test]
fn safetensors_are_preferred_and_other_formats_left_out() {
    check(
        Weights::Checkpoint,
        "README.md .gitattributes config.json tokenizer.json vocab.txt model.safetensors \
         pytorch_model.bin rust_model.ot tf_model.h5 flax_model.msgpack onnx/model.onnx \
         openvino/openvino_model.bin modules.json 1_Pooling/config.json \
         sentence_bert_config.json model.fp16.safetensors train_script.py",
        "config.json tokenizer.json vocab.txt model.safetensors modules.json \
         1_Pooling/config.json sentence_bert_config.json",
    );
}

#[test]
fn sharded_safetensors_come_with_their_index() {
    check(
        Weights::Checkpoint,
        "config.json model-00001-of-00002.safetensors model-00002-of-00002.safetensors \
         model.safetensors.index.json merges.txt vocab.json consolidated.safetensors",
        "config.json model-00001-of-00002.safetensors model-00002-of-00002.safetensors \
         model.safetensors.index.json merges.txt vocab.json",
    );
}

#[test]
fn without_safetensors_pytorch_weights_and_heads_are_taken() {
    check(
        Weights::Checkpoint,
        "config.json pytorch_model.bin colbert_linear.pt sparse_linear.pt onnx/model.onnx \
         onnx/model.onnx_data sentencepiece.bpe.model imgs/bge.jpg",
        "config.json pytorch_model.bin colbert_linear.pt sparse_linear.pt sentencepiece.bpe.model",
    );
}

#[test]
fn heads_and_dense_modules_belong_to_the_checkpoint() {
    check(
        Weights::Checkpoint,
        "config.json model.safetensors sparse_linear.pt 2_Dense/config.json \
         2_Dense/model.safetensors 2_Dense/pytorch_model.bin 3_Normalize/keep training_args.bin",
        "config.json model.safetensors sparse_linear.pt 2_Dense/config.json \
         2_Dense/model.safetensors 3_Normalize/keep",
    );
}

#[test]
fn old_repositories_keep_the_encoder_in_a_module_folder() {
    check(
        Weights::Checkpoint,
        "modules.json 0_Transformer/config.json 0_Transformer/pytorch_model.bin \
         0_Transformer/vocab.txt 1_Pooling/config.json",
        "modules.json 0_Transformer/config.json 0_Transformer/pytorch_model.bin \
         0_Transformer/vocab.txt 1_Pooling/config.json",
    );
}

#[test]
fn an_onnx_graph_is_taken_without_its_quantized_copies() {
    check(
        Weights::Onnx,
        "config.json tokenizer.json model.safetensors onnx/model.onnx onnx/model.onnx_data \
         onnx/model_O4.onnx onnx/model_qint8_avx512.onnx",
        "config.json tokenizer.json onnx/model.onnx onnx/model.onnx_data",
    );
}

#[test]
fn a_repository_without_weights_is_refused() {
    for weights in [Weights::Checkpoint, Weights::Onnx] {
        let error = select(&["config.json", "model.gguf"], weights).unwrap_err();
        assert!(error.reason.contains("has no"), "{error:?}");
    }
}

#[test]
fn completeness_is_judged_by_what_the_files_say() {
    let root = tempfile::tempdir().unwrap();
    let file = |name: &str, content: &str| write(&root.path().join(name), content);
    let judge = |folder: &Path| completeness(folder, Weights::Checkpoint);
    assert_eq!(judge(root.path()), Completeness::Missing);
    file("config.json", "{}");
    file("tokenizer.json", "{}");
    file(
        "model.safetensors.index.json",
        r#"{"weight_map":{"a":"one.safetensors"}}"#,
    );
    assert_eq!(judge(root.path()), Completeness::Missing);
    file("one.safetensors", "");
    assert_eq!(judge(root.path()), Completeness::Unknown);
    file(
        "modules.json",
        r#"[{"path":"1_Pooling","type":"Pooling"},{"path":"2_N","type":"Normalize"}]"#,
    );
    assert_eq!(judge(root.path()), Completeness::Missing);
    file("1_Pooling/config.json", "{}");
    assert_eq!(judge(root.path()), Completeness::Complete);
    assert_eq!(
        completeness(root.path(), Weights::Onnx),
        Completeness::Missing
    );
}
