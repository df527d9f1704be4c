use std::fs;
use std::path::Path;

use prost::Message;
use retort_kernels::Pooling;
use safetensors::tensor::{Dtype, TensorView, serialize};

use super::*;
use crate::architectures::{ARCHITECTURES, PositionIds, Sizes};
use crate::checkpoint::Config;
use crate::heads::plan::HeadPlan;
use ops::{Activation, AttentionShape};

/// Weights that have these tensors, all of them zero.
fn weights(tensors: &[(&str, Dtype, &[usize])]) -> (tempfile::TempDir, Weights) {
    let dir = tempfile::tempdir().unwrap();
    let zeros = [0_u8; 4096];
    let views = tensors.iter().map(|(name, dtype, shape)| {
        let bytes = shape.iter().product::<usize>() * dtype.bitsize() / 8;
        (
            *name,
            TensorView::new(*dtype, shape.to_vec(), &zeros[..bytes]).unwrap(),
        )
    });
    fs::write(
        dir.path().join("model.safetensors"),
        serialize(views, None).unwrap(),
    )
    .unwrap();
    let weights = Weights::open(dir.path()).unwrap();
    (dir, weights)
}

const TOKENS: Dim = Dim::Named("tokens");

#[test]
fn shapes_are_worked_out() {
    let (_dir, weights) = weights(&[
        ("table", Dtype::F32, &[10, 4]),
        ("up", Dtype::F32, &[6, 4]),
        ("bias", Dtype::F32, &[6]),
        ("norm", Dtype::F32, &[6]),
    ]);
    let mut graph = Graph::new("test", &weights);
    let ids = graph.input("ids", ElementType::I64, &[TOKENS]);
    let offsets = graph.input("cu_seqlens", ElementType::I32, &[Dim::Named("offsets")]);
    let table = graph.weight("table", &[10, 4]).unwrap();
    let rows = graph.gather(&table, &ids).unwrap();
    assert_eq!(rows.shape(), [TOKENS, Dim::Fixed(4)]);
    let (up, bias) = (
        graph.weight("up", &[6, 4]).unwrap(),
        graph.weight("bias", &[6]).unwrap(),
    );
    let wide = graph.linear(&rows, &up, Some(&bias)).unwrap();
    assert_eq!(wide.shape(), [TOKENS, Dim::Fixed(6)]);
    let norm = graph.weight("norm", &[6]).unwrap();
    let wide = graph.layer_norm(&wide, &norm, &bias, 1e-5).unwrap();
    let shape = AttentionShape {
        heads: 3,
        scale: 0.5,
    };
    let mixed = graph
        .packed_attention([&wide, &wide, &wide], &offsets, shape)
        .unwrap();
    let sum = graph.add(&mixed, &wide).unwrap();
    let sequences = (&offsets, Dim::Named("sequences"));
    let pooled = graph
        .packed_pooling(&sum, sequences, Pooling::Mean)
        .unwrap();
    assert_eq!(pooled.shape(), [Dim::Named("sequences"), Dim::Fixed(6)]);
    for wrong in [
        graph.gather(&table, &offsets).is_err(),
        graph.linear(&wide, &up, Some(&bias)).is_err(),
        graph.linear(&rows, &up, Some(&table)).is_err(),
        graph.add(&rows, &wide).is_err(),
        graph.layer_norm(&rows, &norm, &bias, 1e-5).is_err(),
        graph
            .packed_attention([&wide, &rows, &wide], &offsets, shape)
            .is_err(),
        graph
            .packed_attention(
                [&rows; 3],
                &offsets,
                AttentionShape {
                    heads: 3,
                    scale: 0.5,
                },
            )
            .is_err(),
        graph
            .packed_pooling(&ids, sequences, Pooling::Mean)
            .is_err(),
    ] {
        assert!(wrong);
    }
}

#[test]
fn a_missing_or_misshapen_tensor_is_named() {
    let (_dir, weights) = weights(&[("w", Dtype::F32, &[3, 2])]);
    let mut graph = Graph::new("test", &weights);
    let error = graph.weight("absent", &[1]).unwrap_err().to_string();
    assert!(error.contains("no tensor `absent`"), "{error}");
    let error = graph.weight("w", &[2, 3]).unwrap_err().to_string();
    assert!(
        error.contains("`w`") && error.contains("[3, 2]") && error.contains("[2, 3]"),
        "{error}"
    );
}

#[test]
fn the_model_names_its_weights_and_does_not_hold_them() {
    let (dir, weights) = weights(&[
        ("wide", Dtype::F32, &[8, 4]),
        ("narrow", Dtype::BF16, &[8, 4]),
    ]);
    let mut graph = Graph::new("test", &weights);
    let ids = graph.input("ids", ElementType::I64, &[TOKENS]);
    for name in ["wide", "narrow", "wide"] {
        let table = graph.weight(name, &[8, 4]).unwrap();
        let rows = graph.gather(&table, &ids).unwrap();
        let rows = graph.activation(&rows, Activation::GeluTanh);
        graph.output(&format!("{name}_out"), &rows);
    }
    let built = graph.finish();
    let names: Vec<&str> = built
        .weights
        .iter()
        .map(|(name, _)| name.as_str())
        .collect();
    assert_eq!(names, ["wide", "narrow"]);
    assert_eq!(built.data_folder, dir.path().canonicalize().unwrap());
    let model = onnx::ModelProto::decode(&built.model[..]).unwrap();
    let domains: Vec<&str> = model
        .opset_import
        .iter()
        .map(|set| set.domain.as_str())
        .collect();
    assert_eq!(domains, ["", "retort"]);
    let proto = model.graph.unwrap();
    let file = fs::metadata(dir.path().join("model.safetensors"))
        .unwrap()
        .len();
    let offsets: Vec<u64> = proto
        .initializer
        .iter()
        .map(|tensor| {
            assert_eq!(tensor.dims, [8, 4]);
            let value = |key| {
                &tensor
                    .external_data
                    .iter()
                    .find(|e| e.key == key)
                    .unwrap()
                    .value
            };
            assert_eq!(value("location"), "model.safetensors");
            assert_eq!(value("length"), "128");
            value("offset").parse().unwrap()
        })
        .collect();
    // Whoever read the converted tensor from the file would meet its end.
    assert!(
        offsets[0] + 128 <= file && offsets[1] == file,
        "{offsets:?} of {file}"
    );
    let gelu = proto
        .node
        .iter()
        .find(|node| node.op_type == "Gelu")
        .unwrap();
    assert_eq!(gelu.attribute[0].s, b"tanh");
}

#[test]
fn an_encoder_of_incomplete_weights_names_what_is_missing() {
    let (_dir, weights) = weights(&[
        (
            "bert.embeddings.word_embeddings.weight",
            Dtype::F32,
            &[10, 8],
        ),
        (
            "bert.embeddings.position_embeddings.weight",
            Dtype::F32,
            &[12, 8],
        ),
    ]);
    let sizes = Sizes {
        layers: 1,
        hidden: 8,
        heads: 2,
        intermediate: 16,
        vocabulary: 10,
        positions: 12,
        position_ids: PositionIds::default(),
        max_tokens: 12,
        token_types: Some(2),
        norm_epsilon: 1e-12,
        activation: Activation::Gelu,
    };
    let config = Config::new(Path::new("config.json"), serde_json::json!({})).unwrap();
    let plan = HeadPlan::default();
    let built = blocks::encoder(ARCHITECTURES[0], &sizes, &weights, (&plan, &config));
    let error = built.unwrap_err().to_string();
    assert!(
        error.contains("no tensor `bert.embeddings.token_type_embeddings.weight`"),
        "{error}"
    );
}
