use prost::Message;
use safetensors::tensor::{Dtype, TensorView, serialize};

use super::*;
use crate::checkpoint::Weights;
use crate::dtype::Arithmetic;
use crate::graph::onnx::{ModelProto, NodeProto};
use crate::graph::ops::AttentionShape;
use crate::graph::{BuiltGraph, ElementType};
use crate::{CudaOptions, Provider};

const TOKENS: Dim = Dim::Named("tokens");
const WIDE: [Dim; 2] = [TOKENS, Dim::Fixed(4)];

fn weights() -> (tempfile::TempDir, Weights) {
    let dir = tempfile::tempdir().unwrap();
    let zeros = [0_u8; 64];
    let view = |shape: &[usize]| {
        let bytes = shape.iter().product::<usize>() * 4;
        TensorView::new(Dtype::F32, shape.to_vec(), &zeros[..bytes]).unwrap()
    };
    let tensors = [
        ("square", view(&[4, 4])),
        ("bias", view(&[4])),
        ("norm", view(&[4])),
    ];
    let path = dir.path().join("model.safetensors");
    std::fs::write(path, serialize(tensors, None).unwrap()).unwrap();
    let weights = Weights::open(dir.path()).unwrap();
    (dir, weights)
}

fn graph<'w>(weights: &'w Weights, dtype: crate::Dtype) -> Graph<'w> {
    let provider = Provider::Cuda(CudaOptions::default());
    let arithmetic = Arithmetic::on(&provider, dtype, retort_kernels::Isa::PORTABLE);
    Graph::new("test", weights).computed_in(arithmetic)
}

fn nodes(built: &BuiltGraph) -> Vec<NodeProto> {
    let model = ModelProto::decode(&built.model[..]).unwrap();
    model.graph.unwrap().node
}

fn operators(nodes: &[NodeProto]) -> Vec<&str> {
    nodes.iter().map(|node| &*node.op_type).collect()
}

/// Two linear layers, the first with an activation, a residual sum and its norm; what is made of
/// the norm and the sum is up to `rest`.
fn block(rest: impl Fn(&mut Graph<'_>, &Value, &Value) -> Value) -> Vec<NodeProto> {
    let (_dir, weights) = weights();
    let mut graph = graph(&weights, crate::Dtype::Fp32);
    let x = graph.input("x", ElementType::F32, &WIDE);
    let weight = graph.weight("square", &[4, 4]).unwrap();
    let bias = graph.weight("bias", &[4]).unwrap();
    let layer = Layer {
        weight: &weight,
        bias: Some(&bias),
    };
    let raised = graph
        .layer(&x, layer, Then::Activation(Activation::Gelu))
        .unwrap();
    let sum = graph.layer(&raised, layer, Then::Residual(&x)).unwrap();
    let norm = graph.weight("norm", &[4]).unwrap();
    let normed = graph.layer_norm(&sum, &norm, Some(&norm), 1e-5).unwrap();
    let out = rest(&mut graph, &normed, &sum);
    graph.output("out", &out);
    nodes(&graph.finish())
}

#[test]
fn sums_are_computed_by_the_norms_behind_them() {
    let found = block(|_, normed, _| normed.clone());
    let expected = [
        "Gemm",
        "BiasGelu",
        "Gemm",
        "SkipLayerNormalization",
        "Identity",
    ];
    assert_eq!(operators(&found), expected);
    assert_eq!(found[0].input.len(), 2, "the activation adds the bias");
    let norm = &found[3];
    assert_eq!(norm.input[..4], [&*found[2].output[0], "x", "norm", "norm"]);
    assert_eq!(norm.input[4], "bias");
    assert_eq!(norm.output.len(), 1, "nobody wants the sum");
}

#[test]
fn a_sum_that_is_wanted_later_is_written_by_its_norm() {
    let found = block(|graph, normed, sum| {
        let more = graph.activation(normed, Activation::Relu);
        graph.multiply(&more, sum).unwrap()
    });
    let norm = found
        .iter()
        .find(|node| node.op_type == "SkipLayerNormalization");
    let norm = norm.unwrap();
    assert_eq!(norm.output.len(), 4);
    assert_eq!(norm.output[1..3], ["", ""]);
    let product = found.iter().find(|node| node.op_type == "Mul").unwrap();
    assert_eq!(product.input[1], norm.output[3]);
    assert!(!operators(&found).contains(&"Add"));
}

#[test]
fn a_sum_without_a_norm_is_added_up() {
    let (_dir, weights) = weights();
    let mut graph = graph(&weights, crate::Dtype::Fp16);
    let x = graph.input("x", ElementType::F16, &WIDE);
    let weight = graph.weight("square", &[4, 4]).unwrap();
    let bias = graph.weight("bias", &[4]).unwrap();
    let layer = Layer {
        weight: &weight,
        bias: Some(&bias),
    };
    let sum = graph.layer(&x, layer, Then::Residual(&x)).unwrap();
    let sum = graph.add(&sum, &sum).unwrap();
    graph.output("out", &sum);
    let built = graph.finish();
    let found = nodes(&built);
    // The product and its bias, the residual, the second sum, and 32 bits for whoever reads it.
    let expected = ["Gemm", "Add", "Add", "Add", "Cast", "Identity"];
    assert_eq!(operators(&found), expected);
    let names: Vec<&str> = built.halves.iter().map(|(name, _)| &**name).collect();
    assert_eq!(names, ["square", "bias"]);
    assert!(built.weights.is_empty());
}

#[test]
fn one_bias_serves_all_layers_that_see_alike() {
    let (_dir, weights) = weights();
    let mut graph = graph(&weights, crate::Dtype::Fp16);
    let mut x = graph.input("x", ElementType::F16, &WIDE);
    let cu_seqlens = graph.input("cu_seqlens", ElementType::I32, &[Dim::Named("offsets")]);
    let slopes = [0.5, 0.25];
    let plain = AttentionShape {
        heads: 2,
        kv_heads: 2,
        scale: 0.5,
        causal: false,
        window: None,
        alibi_slopes: &[],
        distance_bias: None,
    };
    let sloped = AttentionShape {
        alibi_slopes: &slopes,
        ..plain
    };
    let windowed = AttentionShape {
        window: Some(3),
        ..plain
    };
    for shape in [plain, sloped, windowed, sloped, windowed] {
        x = graph
            .packed_attention([&x, &x, &x], &cu_seqlens, shape)
            .unwrap();
    }
    graph.output("out", &x);
    let model = ModelProto::decode(&graph.finish().model[..]).unwrap();
    let built = model.graph.unwrap();
    let inputs: Vec<&str> = built.input.iter().map(|input| &*input.name).collect();
    assert_eq!(inputs, ["x", "cu_seqlens", "token_offset", "span"]);
    let attentions = built
        .node
        .iter()
        .filter(|n| n.op_type == "PackedMultiHeadAttention");
    let biases: Vec<Option<&String>> = attentions.map(|node| node.input.get(6)).collect();
    assert_eq!(biases[0], None);
    assert!(biases[1].is_some() && biases[2].is_some() && biases[1] != biases[2]);
    assert_eq!(biases[3..], biases[1..3]);
    let count = |operator: &str| built.node.iter().filter(|n| n.op_type == operator).count();
    assert_eq!((count("Unsqueeze"), count("Sub")), (4, 2), "each once");
}

#[test]
fn types_do_not_mix() {
    let (_dir, weights) = weights();
    let mut graph = graph(&weights, crate::Dtype::Fp16);
    let x = graph.input("x", ElementType::F16, &WIDE);
    let narrow = graph.weight("square", &[4, 4]).unwrap();
    graph.switch_to(ElementType::F32);
    let wide = graph.weight("square", &[4, 4]).unwrap();
    assert_ne!(narrow, wide);
    assert!(graph.linear(&x, &narrow, None).is_ok());
    assert!(graph.linear(&x, &wide, None).is_err());
    let widened = graph.cast(&x, ElementType::F32);
    let y = graph.linear(&widened, &wide, None).unwrap();
    graph.output("out", &y);
    let built = graph.finish();
    assert_eq!(built.weights[0].0, "square.wide");
    assert_eq!(built.halves[0].0, "square");
}
