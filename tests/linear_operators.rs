//! `Linear` and `GatedLinear` inside a real ONNX Runtime, with weights that are no inputs.

use std::sync::Arc;

use ort::session::Session;
use ort::value::TensorRef;
use retort_kernels::operator::{DOMAIN, operator_domain};
use retort_kernels::{
    Epilogue, Execution, GatedLinear, Isa, LinearActivation, LinearKind, LinearStore, LinearWeight,
    PackedLinear, WeightValues,
};

use crate::packed_attention::{bytes, number};
use crate::support;

const HIDDEN: usize = 40;
const INNER: usize = 150;

/// A node of one of the operators.
struct Node {
    operator: &'static str,
    inputs: Vec<&'static str>,
    output: &'static str,
    attributes: Vec<(&'static str, &'static str)>,
}

impl Node {
    fn linear(inputs: &[&'static str], output: &'static str, key: &'static str) -> Self {
        Self {
            operator: "Linear",
            inputs: inputs.to_vec(),
            output,
            attributes: vec![("key", key)],
        }
    }

    fn gated(inputs: &[&'static str], output: &'static str, keys: [&'static str; 2]) -> Self {
        Self {
            operator: "GatedLinear",
            inputs: inputs.to_vec(),
            output,
            attributes: vec![("gate", keys[0]), ("up", keys[1]), ("activation", "silu")],
        }
    }

    fn with(mut self, attribute: &'static str, value: &'static str) -> Self {
        self.attributes.push((attribute, value));
        self
    }

    fn encoded(&self) -> Vec<u8> {
        let inputs = self.inputs.iter();
        let mut node: Vec<u8> = inputs.flat_map(|name| bytes(1, name.as_bytes())).collect();
        node.extend(bytes(2, self.output.as_bytes()));
        node.extend(bytes(4, self.operator.as_bytes()));
        for (name, value) in &self.attributes {
            let value = [bytes(4, value.as_bytes()), number(20, 3)].concat();
            node.extend(bytes(5, &[bytes(1, name.as_bytes()), value].concat()));
        }
        node.extend(bytes(7, DOMAIN.as_bytes()));
        node
    }
}

/// A session of these nodes from `x` and `residual` to `out`, matrices of any size.
fn session(nodes: &[Node], store: LinearStore, threads: usize) -> ort::Result<Session> {
    let shape: Vec<u8> = (0..2).flat_map(|_| bytes(1, &[])).collect();
    let matrix = |name: &str| {
        let tensor = [number(1, 1), bytes(2, &shape)].concat();
        [bytes(1, name.as_bytes()), bytes(2, &bytes(1, &tensor))].concat()
    };
    let nodes = nodes.iter().flat_map(|node| bytes(1, &node.encoded()));
    let mut graph: Vec<u8> = nodes.chain(bytes(2, b"graph")).collect();
    graph.extend(bytes(11, &matrix("x")));
    graph.extend(bytes(11, &matrix("residual")));
    graph.extend(bytes(12, &matrix("out")));
    let opset = |domain: &str, version| [bytes(1, domain.as_bytes()), number(2, version)].concat();
    let model = [
        number(1, 8),
        bytes(7, &graph),
        bytes(8, &opset("", 17)),
        bytes(8, &opset(DOMAIN, 1)),
    ];
    let runtime = support::runtime();
    Session::builder(runtime.environment())?
        .with_intra_threads(threads)?
        .with_operators(operator_domain(Arc::new(store))?)?
        .commit_from_memory(&model.concat())
}

/// Values between -1 and 1 that repeat late.
fn values(count: usize, salt: usize) -> Vec<f32> {
    (0..count)
        .map(|i| ((i * 7919 + salt * 104_729) % 2003) as f32 / 1001.0 - 1.0)
        .collect()
}

fn pack(kind: LinearKind, [out_features, in_features]: [usize; 2], salt: usize) -> PackedLinear {
    let weight = LinearWeight {
        values: WeightValues::F32(&values(out_features * in_features, salt)),
        out_features,
        in_features,
        bias: Some(&values(out_features, salt + 1)),
    };
    PackedLinear::pack(kind, &weight, Isa::detect()).unwrap()
}

/// Three layers of a feed-forward block.
fn store(kind: LinearKind) -> LinearStore {
    [
        ("gate", [INNER, HIDDEN], 1),
        ("up", [INNER, HIDDEN], 3),
        ("down", [HIDDEN, INNER], 5),
    ]
    .into_iter()
    .map(|(name, sizes, salt)| (name.to_owned(), Arc::new(pack(kind, sizes, salt))))
    .collect()
}

fn run(session: &mut Session, x: &[f32], width: usize) -> ort::Result<Vec<f32>> {
    let residual = values(x.len(), 9);
    let matrix = |values| TensorRef::from_array_view(([x.len() / width, width], values));
    let outputs = session.run(ort::inputs![
        "x" => matrix(x)?,
        "residual" => matrix(&residual[..])?,
    ])?;
    Ok(outputs["out"].try_extract_tensor::<f32>()?.1.to_vec())
}

#[test]
fn feed_forwards_are_the_bits_of_their_layers_on_any_number_of_threads() {
    for kind in LinearKind::ALL {
        for tokens in [0, 1, 300] {
            let x = values(tokens * HIDDEN, 8);
            let (layers, execution) = (store(kind), Execution::sequential(Isa::detect()));
            let apply = |key: &str, x: &[f32], epilogue: Epilogue<'_>| {
                let mut out = vec![0.0; tokens * layers[key].out_features()];
                layers[key].apply(x, epilogue, execution, &mut out).unwrap();
                out
            };
            let residual = values(x.len(), 9);
            let down = Epilogue {
                residual: Some(&residual),
                ..Epilogue::default()
            };
            let gelu = Epilogue {
                activation: Some(LinearActivation::Gelu),
                residual: None,
            };
            let plain = apply("down", &apply("up", &x, gelu), down);
            let mut inner = vec![0.0; tokens * INNER];
            let gated = GatedLinear {
                gate: &layers["gate"],
                up: &layers["up"],
                activation: LinearActivation::Silu,
            };
            gated.apply(&x, execution, &mut inner).unwrap();
            let gated = apply("down", &inner, down);

            let up = || Node::linear(&["x"], "inner", "up").with("activation", "gelu");
            let pair = || Node::gated(&["x"], "inner", ["gate", "up"]);
            for threads in [1, 2, 4] {
                for (first, expected) in [(up(), &plain), (pair(), &gated)] {
                    let nodes = [first, Node::linear(&["inner", "residual"], "out", "down")];
                    let mut session = session(&nodes, store(kind), threads).unwrap();
                    let found = run(&mut session, &x, HIDDEN).unwrap();
                    assert!(
                        found == *expected,
                        "{kind}, {tokens} tokens, {threads} threads"
                    );
                }
            }
        }
    }
}

#[test]
fn bad_nodes_stop_the_session_from_being_built() {
    let mut layers = store(LinearKind::Fp32);
    let int8 = Arc::new(pack(LinearKind::Int8, [INNER, HIDDEN], 1));
    layers.insert("other".to_owned(), int8);
    let linear = || Node::linear(&["x"], "out", "down");
    let nameless = Node {
        attributes: Vec::new(),
        ..linear()
    };
    let gate_alone = Node {
        attributes: vec![("gate", "gate"), ("activation", "silu")],
        ..Node::gated(&["x"], "out", ["gate", "up"])
    };
    let inactive = Node {
        attributes: vec![("gate", "gate"), ("up", "up")],
        ..Node::gated(&["x"], "out", ["gate", "up"])
    };
    for (node, expected) in [
        (nameless, "`Linear` needs the attribute `key`"),
        (
            Node::linear(&["x"], "out", "sideways"),
            "the weight `sideways`, which is not among the `4` packed ones",
        ),
        (
            linear().with("activation", "selu"),
            "unknown activation `selu`",
        ),
        (gate_alone, "`GatedLinear` needs the attribute `up`"),
        (inactive, "`GatedLinear` needs the attribute `activation`"),
        (
            Node::gated(&["x"], "out", ["gate", "down"]),
            "they must be alike",
        ),
        (
            Node::gated(&["x"], "out", ["gate", "other"]),
            "they must be alike",
        ),
    ] {
        let session = session(&[node], layers.clone(), 1);
        let error = session.map(|_| ()).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn bad_shapes_are_errors_of_the_run() {
    let layers = store(LinearKind::Int8);
    let check = |node: Node, width: usize, expected: &str| {
        let mut session = session(&[node], layers.clone(), 2).unwrap();
        let x = values(3 * width, 8);
        let error = run(&mut session, &x, width).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    };
    let up = |inputs: &[&'static str]| Node::linear(inputs, "out", "up");
    check(
        up(&["x"]),
        HIDDEN + 1,
        "`x` is `[3, 41]`; the weight takes rows of `40` values",
    );
    check(
        up(&["x", "residual"]),
        HIDDEN,
        "`residual` is `[3, 40]`; it must have the shape of the output, `[3, 150]`",
    );
    let gated = Node::gated(&["x"], "out", ["gate", "up"]);
    check(gated, 7, "the weight takes rows of `40` values");
}
