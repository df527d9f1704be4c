//! Rotary positions as ONNX nodes: angles once per run, then a turn of every query and key.
//! ONNX Runtime's own operator turns them; ONNX has one from operator set 23 on, which its CPU
//! provider computes the same way.

use super::ops::mismatch;
use super::{Attribute, Dim, ElementType, Graph, MICROSOFT, Node, Value};
use crate::error::Result;

/// What a run turns its tokens by.
#[derive(Debug, Clone)]
pub struct Angles {
    // Both `[tokens, turned / 2]`.
    cosines: Value,
    sines: Value,
}

impl Graph<'_> {
    /// The angles of all tokens: position times frequency. The cosines and sines are multiplied
    /// with `factor`. `[tokens]`, `[turned / 2]` → two of `[tokens, turned / 2]`
    pub fn angles(
        &mut self,
        positions: &Value,
        frequencies: &[f32],
        factor: f32,
    ) -> Result<Angles> {
        let &[tokens] = positions.shape() else {
            return Err(mismatch("RotaryEmbedding", &[positions]));
        };
        // The angle of a late position has more digits than 16 bits hold; its cosine has not.
        let element = self.switch_to(ElementType::F32);
        let positions = self.cast(positions, ElementType::F32);
        let last = self.integers(&[-1], &[1]);
        let column = [tokens, Dim::Fixed(1)];
        let positions = self.onnx("Unsqueeze", &[&positions, &last], &[], &column);
        let shape = [tokens, Dim::Fixed(frequencies.len())];
        let frequencies = self.numbers(frequencies, &[1, frequencies.len()]);
        let angles = self.onnx("Mul", &[&positions, &frequencies], &[], &shape);
        let mut wave = |operator| {
            let wave = self.onnx(operator, &[&angles], &[], &shape);
            if factor == 1.0 {
                wave
            } else {
                self.scale(&wave, factor)
            }
        };
        let (cosines, sines) = (wave("Cos"), wave("Sin"));
        self.switch_to(element);
        Ok(Angles {
            cosines: self.cast(&cosines, element),
            sines: self.cast(&sines, element),
        })
    }

    /// Turns each head of each row, its first half against its second; what is wider than the
    /// angles stays. `[tokens, heads * head]` → the same
    pub fn turn(&mut self, x: &Value, angles: &Angles, heads: usize) -> Result<Value> {
        let (width, half) = (x.width()?, angles.cosines.width()?);
        let fits = width.is_multiple_of(heads) && half * 2 <= width / heads;
        let &[tokens, _] = x.shape() else {
            return Err(mismatch("RotaryEmbedding", &[x]));
        };
        if !fits || angles.cosines.shape()[0] != tokens {
            return Err(mismatch("RotaryEmbedding", &[x, &angles.cosines]));
        }
        let batch = self.integers(&[0], &[1]);
        let shape = [Dim::Fixed(1), tokens, Dim::Fixed(width)];
        let rows = self.onnx("Unsqueeze", &[x, &batch], &[], &shape);
        let mut attributes = vec![("num_heads", Attribute::Int(heads as i64))];
        if half * 2 < width / heads {
            attributes.push(("rotary_embedding_dim", Attribute::Int(half as i64 * 2)));
        }
        // The tables have a row per token instead of one per position, so the row of the first
        // token is 0 and the others follow.
        let node = Node {
            operator: "RotaryEmbedding",
            domain: MICROSOFT,
            inputs: &[&rows, &batch, &angles.cosines, &angles.sines],
            attributes: &attributes,
        };
        let turned = self.node(node, &shape);
        Ok(self.onnx("Squeeze", &[&turned, &batch], &[], x.shape()))
    }
}
