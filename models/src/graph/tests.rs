use std::fs;
use std::path::Path;

use prost::Message;
use retort_kernels::{Isa, Pooling};
use safetensors::tensor::{Dtype, TensorView, serialize};

use super::*;
use crate::architectures::{ARCHITECTURES, LayerAttention, PositionIds, Sizes};
use crate::checkpoint::Config;
use crate::heads::plan::HeadPlan;
use linear::{Layer, Then};
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
    let wide = graph.layer_norm(&wide, &norm, Some(&bias), 1e-5).unwrap();
    let shape = AttentionShape {
        heads: 3,
        kv_heads: 3,
        scale: 0.5,
        causal: false,
        window: None,
        alibi_slopes: &[],
        distance_bias: None,
    };
    let mixed = graph
        .packed_attention([&wide, &wide, &wide], &offsets, shape)
        .unwrap();
    let sum = graph.add(&mixed, &wide).unwrap();
    let pieces = (&offsets, Dim::Named("sequences"));
    let pooled = graph.packed_pooling(&sum, pieces, Pooling::Mean).unwrap();
    assert_eq!(pooled.shape(), [Dim::Named("sequences"), Dim::Fixed(6)]);
    for wrong in [
        graph.gather(&table, &offsets).is_err(),
        graph.linear(&wide, &up, Some(&bias)).is_err(),
        graph.linear(&rows, &up, Some(&table)).is_err(),
        graph.add(&rows, &wide).is_err(),
        graph.layer_norm(&rows, &norm, Some(&bias), 1e-5).is_err(),
        graph
            .packed_attention([&wide, &rows, &wide], &offsets, shape)
            .is_err(),
        graph.packed_attention([&rows; 3], &offsets, shape).is_err(),
        graph.packed_pooling(&ids, pieces, Pooling::Mean).is_err(),
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
    assert_eq!(domains, ["", "retort", "com.microsoft"]);
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
        kv_heads: 2,
        head_dim: 4,
        intermediate: 16,
        vocabulary: 10,
        stored_vocabulary: 10,
        positions: 12,
        position_ids: PositionIds::default(),
        max_tokens: 12,
        token_types: Some(2),
        buckets: None,
        attention: vec![LayerAttention::default()],
        adapters: None,
        embedding_scale: None,
        residual_scale: None,
        norm_epsilon: 1e-12,
        activation: Activation::Gelu,
    };
    let config = Config::new(Path::new("config.json"), serde_json::json!({})).unwrap();
    let plan = HeadPlan::default();
    let built = blocks::encoder(
        ARCHITECTURES[0],
        &sizes,
        &weights,
        (&plan, &config),
        Arithmetic::REFERENCE,
    );
    let error = built.unwrap_err().to_string();
    assert!(
        error.contains("no tensor `bert.embeddings.token_type_embeddings.weight`"),
        "{error}"
    );
}

#[test]
fn attention_takes_fewer_keys_and_what_belongs_to_its_heads() {
    let (_dir, weights) = weights(&[]);
    let mut graph = Graph::new("test", &weights);
    let rows = |width| [TOKENS, Dim::Fixed(width)];
    let query = graph.input("query", ElementType::F32, &rows(8));
    let key = graph.input("key", ElementType::F32, &rows(4));
    let offsets = graph.input("cu_seqlens", ElementType::I32, &[Dim::Named("offsets")]);
    let bias = graph.numbers(&[0.0; 20], &[4, 5]);
    let shape = AttentionShape {
        heads: 4,
        kv_heads: 2,
        scale: 0.5,
        causal: true,
        window: Some(3),
        alibi_slopes: &[0.5, 0.25, 0.125, 0.0625],
        distance_bias: Some(&bias),
    };
    let kv = [&query, &key, &key];
    let mixed = graph.packed_attention(kv, &offsets, shape).unwrap();
    assert_eq!(mixed.shape(), rows(8));
    let few = graph.numbers(&[0.0; 15], &[3, 5]);
    for (wrong, kv) in [
        (
            AttentionShape {
                kv_heads: 4,
                ..shape
            },
            kv,
        ),
        (
            AttentionShape {
                kv_heads: 3,
                ..shape
            },
            kv,
        ),
        (
            AttentionShape {
                alibi_slopes: &[1.0],
                ..shape
            },
            kv,
        ),
        (
            AttentionShape {
                distance_bias: Some(&few),
                ..shape
            },
            kv,
        ),
        (shape, [&query, &key, &query]),
    ] {
        assert!(
            graph.packed_attention(kv, &offsets, wrong).is_err(),
            "{wrong:?}"
        );
    }
    let proto = &graph.proto.node[0];
    assert_eq!(proto.input.len(), 5);
    let slopes = proto
        .attribute
        .iter()
        .find(|found| found.name == "alibi_slopes");
    assert_eq!(slopes.unwrap().floats, shape.alibi_slopes);
}

#[test]
fn angles_turn_no_more_than_a_head() {
    let (_dir, weights) = weights(&[]);
    let mut graph = Graph::new("test", &weights);
    let ids = graph.input("position_ids", ElementType::I64, &[TOKENS]);
    let x = graph.input("x", ElementType::F32, &[TOKENS, Dim::Fixed(12)]);
    let angles = graph.angles(&ids, &[1.0, 0.1], 1.0).unwrap();
    assert_eq!(graph.turn(&x, &angles, 3).unwrap().shape(), x.shape());
    let partly = graph.turn(&x, &angles, 2).unwrap();
    let node = graph
        .proto
        .node
        .iter()
        .rfind(|node| node.domain == MICROSOFT);
    let names: Vec<&str> = node
        .unwrap()
        .attribute
        .iter()
        .map(|found| &*found.name)
        .collect();
    assert_eq!(names, ["num_heads", "rotary_embedding_dim"]);
    assert!(graph.turn(&partly, &angles, 6).is_err());
    assert!(graph.turn(&partly, &angles, 5).is_err());
    assert!(graph.angles(&x, &[1.0], 1.0).is_err());
}

#[test]
fn rows_of_a_tensor_are_a_tensor_in_the_same_place() {
    let dir = tempfile::tempdir().unwrap();
    let numbers: Vec<u8> = (0..12_u8)
        .flat_map(|n| f32::from(n).to_le_bytes())
        .collect();
    let view = TensorView::new(Dtype::F32, vec![4, 3], &numbers).unwrap();
    let file = serialize([("all", view)], None).unwrap();
    fs::write(dir.path().join("model.safetensors"), file).unwrap();
    let weights = Weights::open(dir.path()).unwrap();
    let mut graph = Graph::new("test", &weights);
    let middle = graph.weight_rows("all", &[4, 3], 1..3).unwrap();
    assert_eq!(middle.shape(), [Dim::Fixed(2), Dim::Fixed(3)]);
    graph.weight_rows("all", &[4, 3], 1..3).unwrap();
    assert!(graph.weight_rows("all", &[4, 3], 3..5).is_err());
    assert!(graph.weight_rows("all", &[3, 3], 0..1).is_err());
    let built = graph.finish();
    let [(name, tensor)] = &built.weights[..] else {
        panic!("{:?}", built.weights);
    };
    assert_eq!(name, "all[1..3]");
    let values = tensor.to_f32().unwrap();
    assert!(matches!(
        values,
        crate::checkpoint::weights::F32Values::Mapped(_)
    ));
    assert_eq!(values.as_slice(), [3.0, 4.0, 5.0, 6.0, 7.0, 8.0]);
}

#[test]
fn equal_constants_are_one() {
    let (_dir, weights) = weights(&[]);
    let mut graph = Graph::new("test", &weights);
    let pair = graph.integers(&[1, 2], &[2]);
    assert_eq!(graph.integers(&[1, 2], &[2]), pair);
    assert_ne!(graph.integers(&[1, 2], &[1, 2]), pair);
    assert_ne!(graph.scalar(1.0), graph.scalar(2.0));
    assert_eq!(graph.proto.initializer.len(), 4);
}

/// An up and a down layer, gated, with a residual sum, and a table that the first one shares.
fn feed_forward(arithmetic: Arithmetic, weights: &Weights) -> BuiltGraph {
    let mut graph = Graph::new("test", weights).computed_in(arithmetic);
    let ids = graph.input("ids", ElementType::I64, &[TOKENS]);
    let up = graph.weight("up", &[6, 4]).unwrap();
    let x = graph.gather(&up, &ids).unwrap();
    let bias = graph.weight("bias", &[6]).unwrap();
    let gate = graph.weight_rows("both", &[12, 4], 6..12).unwrap();
    let layer = |weight, bias| Layer { weight, bias };
    let layers = [layer(&gate, None), layer(&up, Some(&bias))];
    let raised = graph.gated(&x, layers, Activation::Silu).unwrap();
    let down = graph.weight("down", &[4, 6]).unwrap();
    let sum = graph.layer(&raised, layer(&down, None), Then::Residual(&x));
    let then = Then::Activation(Activation::Gelu);
    let raised = graph.layer(&sum.unwrap(), layer(&up, Some(&bias)), then);
    let raised = raised.unwrap();
    assert!(graph.layer(&raised, layer(&up, None), then).is_err());
    let wrong = graph.layer(&x, layer(&up, Some(&bias)), Then::Residual(&x));
    assert!(wrong.is_err(), "the residual is narrower");
    graph.output("out", &raised);
    graph.finish()
}

#[test]
fn layers_of_our_own_bring_their_weights_themselves() {
    let (_dir, weights) = weights(&[
        ("up", Dtype::F32, &[6, 4]),
        ("bias", Dtype::F32, &[6]),
        ("both", Dtype::BF16, &[12, 4]),
        ("down", Dtype::F16, &[4, 6]),
    ]);
    let operators = |built: &BuiltGraph| -> Vec<&str> {
        built.steps.iter().map(|step| step.operator).collect()
    };
    let names = |built: &BuiltGraph| -> Vec<String> {
        built.weights.iter().map(|(name, _)| name.clone()).collect()
    };
    let plain = feed_forward(Arithmetic::REFERENCE, &weights);
    assert_eq!(names(&plain), ["up", "bias", "both[6..12]", "down"]);
    assert!(plain.packed.is_empty());
    for operator in ["Gemm", "Gelu", "Mul", "Add"] {
        assert!(operators(&plain).contains(&operator), "{operator}");
    }
    let packed = feed_forward(Arithmetic::of(crate::Dtype::Int8, Isa::PORTABLE), &weights);
    let expected = ["Gather", "GatedLinear", "Linear", "Linear", "Identity"];
    assert_eq!(operators(&packed)[..5], expected);
    // The table is looked up as well; the others are no weights of ONNX Runtime any more.
    assert_eq!(names(&packed), ["up"]);
    let keys: Vec<&str> = packed.packed.iter().map(|layer| &*layer.weight.0).collect();
    assert_eq!(keys, ["both[6..12]", "up", "down"], "each once");
    let biased = packed.packed.iter().map(|layer| layer.bias.is_some());
    assert_eq!(biased.collect::<Vec<_>>(), [false, true, false]);
}
