//! `PackedAttention` with all its inputs and attributes inside a real ONNX Runtime.

use std::sync::Arc;

use ort::session::{Session, SessionInputValue};
use ort::value::TensorRef;
use retort_kernels::attention::attention_plain;
use retort_kernels::operator::{DOMAIN, operator_domain};
use retort_kernels::{Bias, Direction, Isa, Mask, PackedAttention, Precision, Strided};

use crate::support;

const CU_SEQLENS: [i32; 4] = [0, 5, 270, 300];
const TOKENS: usize = 300;
const NUM_HEADS: usize = 4;
const KV_NUM_HEADS: usize = 2;
const HEAD_SIZE: usize = 24;
const SLOPES: [f32; NUM_HEADS] = [0.5, 0.25, 0.125, 0.0];
/// Distances of the table from -9 to 9.
const DISTANCES: usize = 19;

/// A session of one `PackedAttention`, made without a file: ONNX Runtime's model editor knows no
/// custom operators, so the few messages of its protobuf format are written here.
fn session(attributes: Vec<(&str, Value)>, table: TableInput) -> ort::Result<Session> {
    const FLOAT: u64 = 1;
    const INT32: u64 = 6;
    let tensor = |name: &str, element_type: u64, rank: usize| {
        // Dimensions without a value: of any size.
        let shape: Vec<u8> = (0..rank).flat_map(|_| bytes(1, &[])).collect();
        let tensor = [number(1, element_type), bytes(2, &shape)].concat();
        [bytes(1, name.as_bytes()), bytes(2, &bytes(1, &tensor))].concat()
    };
    let mut names = vec!["query", "key", "value", "cu_seqlens"];
    let mut inputs: Vec<Vec<u8>> = names[..3]
        .iter()
        .map(|name| tensor(name, FLOAT, 2))
        .collect();
    inputs.push(tensor("cu_seqlens", INT32, 1));
    match table {
        TableInput::Absent => {}
        TableInput::Empty => names.push(""),
        TableInput::Connected => {
            names.push("distance_bias");
            inputs.push(tensor("distance_bias", FLOAT, 2));
        }
    }
    let mut node: Vec<u8> = names
        .iter()
        .flat_map(|name| bytes(1, name.as_bytes()))
        .collect();
    node.extend([bytes(2, b"out"), bytes(4, b"PackedAttention")].concat());
    for (name, value) in attributes {
        let name = bytes(1, name.as_bytes());
        node.extend(bytes(5, &[name, value.encoded()].concat()));
    }
    node.extend(bytes(7, DOMAIN.as_bytes()));
    let mut graph = [bytes(1, &node), bytes(2, b"graph")].concat();
    graph.extend(inputs.iter().flat_map(|input| bytes(11, input)));
    graph.extend(bytes(12, &tensor("out", FLOAT, 2)));
    let opset = |domain: &str, version| [bytes(1, domain.as_bytes()), number(2, version)].concat();
    let model = [
        number(1, 8),
        bytes(7, &graph),
        bytes(8, &opset("", 17)),
        bytes(8, &opset(DOMAIN, 1)),
    ];
    let runtime = support::runtime();
    Session::builder(runtime.environment())?
        .with_intra_threads(2)?
        .with_operators(operator_domain(Arc::default())?)?
        .commit_from_memory(&model.concat())
}

/// A protobuf varint.
fn varint(mut value: u64) -> Vec<u8> {
    let mut out = Vec::new();
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
    out
}

/// A protobuf field that is an integer.
pub fn number(field: u64, value: u64) -> Vec<u8> {
    [varint(field << 3), varint(value)].concat()
}

/// A protobuf field that is a string or a message.
pub fn bytes(field: u64, value: &[u8]) -> Vec<u8> {
    [&varint(field << 3 | 2), &varint(value.len() as u64), value].concat()
}

/// An attribute's value.
enum Value {
    Int(i64),
    Float(f32),
    Floats(Vec<f32>),
    Text(&'static str),
}

impl Value {
    /// The fields of an `AttributeProto` beside its name.
    fn encoded(&self) -> Vec<u8> {
        match self {
            Self::Int(value) => [number(3, *value as u64), number(20, 2)].concat(),
            Self::Float(value) => [
                &varint(2 << 3 | 5)[..],
                &value.to_le_bytes(),
                &number(20, 1),
            ]
            .concat(),
            Self::Floats(values) => {
                let values: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
                [bytes(7, &values), number(20, 6)].concat()
            }
            Self::Text(text) => [bytes(4, text.as_bytes()), number(20, 3)].concat(),
        }
    }
}

/// How a node has its optional input.
#[derive(Clone, Copy)]
enum TableInput {
    Absent,
    Empty,
    Connected,
}

/// Values between -1 and 1 that repeat late.
fn values(count: usize, salt: usize) -> Vec<f32> {
    (0..count)
        .map(|i| ((i * 7919 + salt * 104_729) % 2003) as f32 / 1001.0 - 1.0)
        .collect()
}

/// Runs the session on matrices of the given shapes.
fn run(session: &mut Session, shapes: &[[usize; 2]]) -> ort::Result<Vec<f32>> {
    let names = ["query", "key", "value", "distance_bias"];
    let data: Vec<Vec<f32>> = shapes
        .iter()
        .enumerate()
        .map(|(salt, [rows, columns])| values(rows * columns, salt))
        .collect();
    let mut inputs: Vec<(&str, SessionInputValue<'_>)> = Vec::new();
    for ((name, data), &shape) in names.into_iter().zip(&data).zip(shapes) {
        inputs.push((name, TensorRef::from_array_view((shape, &data[..]))?.into()));
    }
    let cu_seqlens = TensorRef::from_array_view(([CU_SEQLENS.len()], &CU_SEQLENS[..]))?;
    inputs.push(("cu_seqlens", cu_seqlens.into()));
    let outputs = session.run(inputs)?;
    let (_, out) = outputs["out"].try_extract_tensor::<f32>()?;
    Ok(out.to_vec())
}

/// Which features a node has: whether it has each.
type Features = [bool; 4];

fn check([causal, window, alibi, table]: Features, kv_num_heads: usize, asked: Option<Precision>) {
    let (width, kv_width) = (NUM_HEADS * HEAD_SIZE, kv_num_heads * HEAD_SIZE);
    let mut attributes = vec![("num_heads", Value::Int(NUM_HEADS as i64))];
    if kv_num_heads != NUM_HEADS {
        attributes.push(("kv_num_heads", Value::Int(kv_num_heads as i64)));
    }
    attributes.push(("causal", Value::Int(causal.into())));
    attributes.push(("window", Value::Int(if window { 7 } else { -1 })));
    if alibi {
        attributes.push(("alibi_slopes", Value::Floats(SLOPES.to_vec())));
    }
    if let Some(precision) = asked {
        attributes.push(("precision", Value::Text(precision.name())));
    }
    let precision = asked.unwrap_or_default().on(Isa::detect());
    let mut shapes = vec![[TOKENS, width], [TOKENS, kv_width], [TOKENS, kv_width]];
    let input = match (table, causal) {
        (true, _) => TableInput::Connected,
        (false, true) => TableInput::Empty,
        (false, false) => TableInput::Absent,
    };
    if table {
        shapes.push([NUM_HEADS, DISTANCES]);
    }
    let found = run(&mut session(attributes, input).unwrap(), &shapes).unwrap();

    let [query, key, value, distances] = [width, kv_width, kv_width, 0].map(|width| width * TOKENS);
    let data = [query, key, value, distances + NUM_HEADS * DISTANCES];
    let salts = [0, 1, 2, 3];
    let [query, key, value, distances] = salts.map(|salt| values(data[salt], salt));
    let args = PackedAttention {
        query: Strided::contiguous(&query, width),
        key: Strided::contiguous(&key, kv_width),
        value: Strided::contiguous(&value, kv_width),
        cu_seqlens: &CU_SEQLENS,
        num_heads: NUM_HEADS,
        kv_num_heads,
        head_size: HEAD_SIZE,
        scale: 1.0 / (HEAD_SIZE as f32).sqrt(),
        mask: Mask {
            direction: match causal {
                true => Direction::Causal,
                false => Direction::Bidirectional,
            },
            window: window.then_some(7),
        },
        bias: Bias {
            alibi_slopes: alibi.then_some(&SLOPES),
            distances: table.then_some(&distances),
        },
        precision,
    };
    let mut expected = vec![0.0; TOKENS * width];
    attention_plain(&args, &mut expected).unwrap();
    assert_eq!(found.len(), expected.len());
    let tolerance = match precision {
        Precision::Fp32 => 2e-6,
        // A rounding of a weight may go the other way.
        Precision::Bf16 => 1.0 / 128.0,
    };
    for (found, expected) in found.iter().zip(&expected) {
        assert!((found - expected).abs() < tolerance, "{found} {expected}");
    }
}

#[test]
fn all_combinations_of_attributes_compute_the_definition() {
    for kv_num_heads in [NUM_HEADS, KV_NUM_HEADS] {
        for bits in 0..16u8 {
            let features = [1, 2, 4, 8].map(|bit| bits & bit != 0);
            for precision in [None, Some(Precision::Fp32), Some(Precision::Bf16)] {
                check(features, kv_num_heads, precision);
            }
        }
    }
}

#[test]
fn bad_shapes_are_errors_of_the_run() {
    let attributes = vec![
        ("num_heads", Value::Int(4)),
        ("kv_num_heads", Value::Int(2)),
    ];
    let mut session = session(attributes, TableInput::Connected).unwrap();
    let good = [[300, 96], [300, 48], [300, 48], [4, 19]];
    for (at, shape, expected) in [
        (
            0,
            [300, 98],
            "rows of `98` values cannot be split into `4` heads",
        ),
        (
            1,
            [300, 96],
            "`key` is `[300, 96]` but `query` is `[300, 96]`; with `num_heads` `4` and \
             `kv_num_heads` `2` it must be `[300, 48]`",
        ),
        (
            2,
            [299, 48],
            "`value` is `[299, 48]` but `query` is `[300, 96]`",
        ),
        (
            3,
            [4, 18],
            "`distance_bias` is `[4, 18]`; with `4` heads it must be `[4, 2 * D + 1]`",
        ),
        (3, [2, 19], "`distance_bias` is `[2, 19]`; with `4` heads"),
        (3, [4, 0], "`distance_bias` is `[4, 0]`; with `4` heads"),
    ] {
        let mut shapes = good;
        shapes[at] = shape;
        let error = run(&mut session, &shapes).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
    assert!(run(&mut session, &good).is_ok());
}

#[test]
fn bad_attributes_stop_the_session_from_being_built() {
    for (name, value, expected) in [
        (
            "num_heads",
            Value::Int(0),
            "`num_heads` is `0`; it must be at least `1`",
        ),
        (
            "kv_num_heads",
            Value::Int(-2),
            "`kv_num_heads` is `-2`; it must be at least `1`",
        ),
        (
            "kv_num_heads",
            Value::Int(3),
            "`kv_num_heads` is `3` with `4` heads",
        ),
        (
            "scale",
            Value::Float(f32::NAN),
            "`scale` is `NaN`; it must be a finite number",
        ),
        (
            "causal",
            Value::Int(2),
            "`causal` is `2`; it must be `0` or `1`",
        ),
        (
            "window",
            Value::Int(-2),
            "`window` is `-2`; it must be a number of tokens",
        ),
        (
            "alibi_slopes",
            Value::Floats(vec![0.5; 3]),
            "`alibi_slopes` holds `3` values; it needs one per head, `4`",
        ),
        (
            "alibi_slopes",
            Value::Floats(vec![0.5, 0.5, 0.5, f32::INFINITY]),
            "`alibi_slopes` holds `inf`; biases must be finite numbers",
        ),
        (
            "precision",
            Value::Text("fp16"),
            "unknown precision `fp16`; use one of `fp32`, `bf16`",
        ),
    ] {
        let mut attributes = vec![("num_heads", Value::Int(4))];
        attributes.retain(|(other, _)| *other != name);
        attributes.push((name, value));
        let session = session(attributes, TableInput::Absent);
        let error = session.map(|_| ()).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}
