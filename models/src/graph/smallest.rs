//! The smallest graph that is run for something else than its result.

use super::onnx::{GraphProto, NodeProto};
use super::proto::{encoded, value_info};
use super::{Dim, ElementType, Value};

/// Its input and its output. `[1]`
pub(crate) const INPUT: &str = "x";
const OUTPUT: &str = "y";

/// One node that changes the sign of one number.
pub(crate) fn negation() -> Vec<u8> {
    let number = |name: &str| {
        value_info(&Value {
            name: name.to_owned(),
            element_type: ElementType::F32,
            shape: vec![Dim::Fixed(1)],
        })
    };
    encoded(GraphProto {
        name: "smallest".to_owned(),
        node: vec![NodeProto {
            input: vec![INPUT.to_owned()],
            output: vec![OUTPUT.to_owned()],
            op_type: "Neg".to_owned(),
            ..NodeProto::default()
        }],
        input: vec![number(INPUT)],
        output: vec![number(OUTPUT)],
        ..GraphProto::default()
    })
}
