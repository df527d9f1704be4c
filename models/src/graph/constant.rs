//! Constants that are written into a graph: few and short, unlike weights.

use super::{Dim, ElementType, Graph, Value, onnx};

impl Graph<'_> {
    /// Numbers, row by row, in the type of the weights that are taken now.
    pub fn numbers(&mut self, numbers: &[f32], shape: &[usize]) -> Value {
        let bytes: Vec<u8> = match self.element {
            ElementType::F16 => {
                let narrow = numbers.iter().map(|&number| half::f16::from_f32(number));
                narrow.flat_map(half::f16::to_le_bytes).collect()
            }
            _ => numbers.iter().flat_map(|n| n.to_le_bytes()).collect(),
        };
        self.constant(self.element, bytes, shape)
    }

    /// One number, which fits to any shape.
    pub fn scalar(&mut self, number: f32) -> Value {
        self.numbers(&[number], &[])
    }

    /// Whole numbers, row by row.
    pub fn integers(&mut self, numbers: &[i64], shape: &[usize]) -> Value {
        let bytes = numbers.iter().flat_map(|number| number.to_le_bytes());
        self.constant(ElementType::I64, bytes.collect(), shape)
    }

    /// Equal ones are one.
    fn constant(&mut self, element_type: ElementType, raw_data: Vec<u8>, shape: &[usize]) -> Value {
        let dims: Vec<i64> = shape.iter().map(|&length| length as i64).collect();
        let known = self.proto.initializer.iter().find(|known| {
            known.data_location == 0
                && known.data_type == element_type as i32
                && known.dims == dims
                && known.raw_data == raw_data
        });
        let name = match known {
            Some(known) => known.name.clone(),
            None => {
                let name = format!("constant_{}", self.proto.initializer.len());
                self.proto.initializer.push(onnx::TensorProto {
                    dims,
                    data_type: element_type as i32,
                    name: name.clone(),
                    raw_data,
                    ..Default::default()
                });
                name
            }
        };
        Value {
            name,
            element_type,
            shape: shape.iter().map(|&length| Dim::Fixed(length)).collect(),
        }
    }
}
