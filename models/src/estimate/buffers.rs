//! The buffers of one forward pass, as ONNX Runtime's allocation planner lays them out: a tensor
//! takes over its input's buffer where the operator can work in place, else a free buffer of its
//! own shape, else a new one. Buffers of another shape are never shared, so each shape costs as
//! many as are in use at once.

use std::collections::HashMap;

use crate::checkpoint::weights::F32_BYTES;
use crate::graph::{BuiltGraph, Dim, Step};

/// Operators whose kernels on CPU may write over an input. `Gelu` and `LayerNormalization` do not.
const IN_PLACE: [&str; 6] = ["Add", "Log", "Mul", "Relu", "Sigmoid", "Tanh"];

/// How long the axes of a forward pass are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Lengths {
    pub(super) tokens: usize,
    pub(super) sequences: usize,
}

/// Bytes of all buffers of one run, and of the copies of its outputs that the caller gets.
pub(super) fn bytes(graph: &BuiltGraph, lengths: Lengths) -> u64 {
    let size = |shape: &[Dim]| {
        shape
            .iter()
            .map(|dim| length(dim, lengths))
            .product::<usize>()
    };
    let planned: usize = Plan::of(&graph.steps)
        .shapes
        .iter()
        .map(|(shape, buffers)| size(shape) * buffers.made)
        .sum();
    let outputs = graph.steps.iter().filter(|step| is_output(step));
    let copied: usize = outputs.map(|step| size(&step.shape)).sum();
    ((planned + copied) * F32_BYTES) as u64
}

fn length(dim: &Dim, lengths: Lengths) -> usize {
    match dim {
        Dim::Fixed(length) => *length,
        Dim::Named("tokens") => lengths.tokens,
        Dim::Named(_) => lengths.sequences,
    }
}

/// Outputs are other names for what nodes gave.
fn is_output(step: &Step) -> bool {
    step.operator == "Identity"
}

/// Buffers of one shape.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Buffers {
    made: usize,
    free: usize,
}

#[derive(Debug, Default)]
struct Plan {
    shapes: Vec<(Vec<Dim>, Buffers)>,
}

impl Plan {
    fn of(steps: &[Step]) -> Self {
        let mut plan = Self::default();
        let mut last_use: HashMap<&str, usize> = HashMap::new();
        for (index, step) in steps.iter().enumerate() {
            // An output stays until the caller has read it.
            let until = if is_output(step) { steps.len() } else { index };
            for input in &step.inputs {
                let last = last_use.entry(input).or_default();
                *last = until.max(*last);
            }
        }
        let shape_of: HashMap<&str, &[Dim]> = steps
            .iter()
            .map(|step| (&*step.output, &*step.shape))
            .collect();
        for (index, step) in steps
            .iter()
            .enumerate()
            .filter(|(_, step)| !is_output(step))
        {
            let mut dying: Vec<&str> = step.inputs.iter().map(String::as_str).collect();
            dying.retain(|&name| shape_of.contains_key(name) && last_use[name] == index);
            dying.sort_unstable();
            dying.dedup();
            let in_place = IN_PLACE.contains(&step.operator);
            let fits = |name: &&str| in_place && shape_of[*name] == step.shape;
            match dying.iter().position(fits) {
                Some(taken) => _ = dying.remove(taken),
                None => plan.take(&step.shape),
            }
            for name in dying {
                plan.buffers(shape_of[name]).free += 1;
            }
        }
        plan
    }

    fn take(&mut self, shape: &[Dim]) {
        let buffers = self.buffers(shape);
        match buffers.free {
            0 => buffers.made += 1,
            _ => buffers.free -= 1,
        }
    }

    fn buffers(&mut self, shape: &[Dim]) -> &mut Buffers {
        let known = self.shapes.iter().position(|(known, _)| known == shape);
        let index = known.unwrap_or_else(|| {
            self.shapes.push((shape.to_vec(), Buffers::default()));
            self.shapes.len() - 1
        });
        &mut self.shapes[index].1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(operator: &'static str, inputs: &[&str], output: &str, width: usize) -> Step {
        Step {
            operator,
            inputs: inputs.iter().map(ToString::to_string).collect(),
            output: output.to_owned(),
            shape: vec![Dim::Named("tokens"), Dim::Fixed(width)],
        }
    }

    fn made(steps: &[Step]) -> Vec<usize> {
        let plan = Plan::of(steps);
        plan.shapes
            .iter()
            .map(|(_, buffers)| buffers.made)
            .collect()
    }

    #[test]
    fn a_sum_writes_over_its_input_and_a_shape_keeps_its_buffers() {
        let steps = [
            step("Gather", &["table", "ids"], "a", 2),
            step("Gather", &["table", "ids"], "b", 2),
            step("Add", &["a", "b"], "c", 2),
            step("Gemm", &["c", "w"], "up", 8),
            step("Gelu", &["up"], "g", 8),
            step("Gemm", &["g", "v"], "d", 2),
            step("Add", &["d", "c"], "e", 2),
            step("Identity", &["e"], "out", 2),
        ];
        assert_eq!(made(&steps), [2, 2]);
    }

    #[test]
    fn what_is_used_again_is_not_written_over() {
        let steps = [
            step("Gather", &["table", "ids"], "a", 2),
            step("Relu", &["a"], "b", 2),
            step("Add", &["a", "b"], "c", 2),
            step("Identity", &["c"], "out", 2),
        ];
        assert_eq!(made(&steps), [2]);
        let doubled = [
            step("Gather", &["table", "ids"], "a", 2),
            step("Add", &["a", "a"], "b", 2),
            step("Identity", &["b"], "out", 2),
        ];
        assert_eq!(made(&doubled), [1]);
    }
}
