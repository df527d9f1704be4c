use super::*;
use crate::checkpoint::Weights;
use crate::given::tests::runtime;
use crate::graph::ops::Activation;
use crate::graph::{Dim, ElementType, Graph};

const PROCESSOR: &str = "CPUExecutionProvider";

/// A graph with a heavy node and a light one.
fn model() -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let weights = Weights::none(dir.path());
    let mut graph = Graph::new("test", &weights);
    let shape = [Dim::Named("tokens"), Dim::Fixed(4)];
    let x = graph.input("x", ElementType::F32, &shape);
    let heavy = graph.activation(&x, Activation::Gelu);
    let light = graph.rows_of(&heavy, Dim::Named("others"), 2);
    graph.output("out", &light);
    graph.finish().model
}

#[test]
fn a_session_tells_where_its_nodes_are() {
    let Some(runtime) = runtime() else { return };
    let builder = crate::session::builder(&runtime, 1).unwrap();
    let session = recorded(builder).unwrap().commit_from_memory(&model());
    let nodes = nodes(&session.unwrap()).unwrap();
    let operators: Vec<&str> = nodes.iter().map(|node| &*node.operator).collect();
    assert!(
        operators.contains(&"Gelu") && operators.contains(&"Reshape"),
        "{operators:?}"
    );
    assert!(
        nodes.iter().all(|node| node.provider == PROCESSOR),
        "{nodes:?}"
    );

    assert!(check(&nodes, PROCESSOR).is_ok());
    let error = check(&nodes, "CUDAExecutionProvider")
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("all but 1 `Gelu`,") && !error.contains("Reshape"),
        "{error}"
    );
}

#[test]
fn a_session_that_was_not_told_to_remember_is_no_proof() {
    let Some(runtime) = runtime() else { return };
    let mut builder = crate::session::builder(&runtime, 1).unwrap();
    let session = builder.commit_from_memory(&model()).unwrap();
    assert!(nodes(&session).is_err());
}

#[test]
fn only_what_computes_shapes_may_be_elsewhere() {
    let node = |operator: &str, provider: &str| PlacedNode {
        operator: operator.to_owned(),
        provider: provider.to_owned(),
    };
    let gpu = "CUDAExecutionProvider";
    let mixed = [
        node("Gemm", gpu),
        node("Shape", PROCESSOR),
        node("Concat", PROCESSOR),
    ];
    assert!(check(&mixed, gpu).is_ok());
    // Nothing but shapes on the processor and nothing on the device is no model on the device.
    let error = check(&mixed[1..], gpu).unwrap_err().to_string();
    assert!(error.contains("none of its nodes"), "{error}");
    let strays = [
        node("MatMul", PROCESSOR),
        node("Gemm", gpu),
        node("MatMul", PROCESSOR),
        node("Erf", PROCESSOR),
    ];
    let error = check(&strays, gpu).unwrap_err().to_string();
    assert!(error.contains("1 `Erf`, 2 `MatMul`"), "{error}");
}
