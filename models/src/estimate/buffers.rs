//! The buffers of one forward pass, as ONNX Runtime's allocation planner lays them out: a tensor
//! takes over its input's buffer where the operator can work in place, else a free buffer of its
//! own shape, else a new one. Buffers of another shape are never shared, so each shape costs as
//! many as are in use at once. What only views its input has no buffer.

use std::collections::HashMap;

use crate::checkpoint::weights::F32_BYTES;
use crate::graph::{BuiltGraph, Dim, Step};

/// Operators whose kernels on CPU may write over an input. `Gelu` and `LayerNormalization` do not.
const IN_PLACE: [&str; 6] = ["Add", "Log", "Mul", "Relu", "Sigmoid", "Tanh"];

/// Operators that give their first input's numbers another shape, where they lie.
const VIEWS: [&str; 3] = ["Reshape", "Squeeze", "Unsqueeze"];
/// The axis of all heads of all tokens.
const HEADS_OF_TOKENS: Dim = Dim::Named("heads_of_tokens");

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
        // Every token may get a vector, and be asked for it.
        Dim::Named("tokens" | "vectors" | "returned") => lengths.tokens,
        Dim::Named(_) => lengths.sequences,
    }
}

/// Outputs are other names for what nodes gave.
fn is_output(step: &Step) -> bool {
    step.operator == "Identity"
}

fn is_view(step: &Step) -> bool {
    VIEWS.contains(&step.operator)
}

/// Whose numbers every name means, and the shapes of the buffers that they are in.
struct Seen<'a> {
    viewed: HashMap<&'a str, &'a str>,
    shapes: HashMap<&'a str, Vec<Dim>>,
}

impl<'a> Seen<'a> {
    fn of(steps: &'a [Step]) -> Self {
        let mut seen = Self {
            viewed: HashMap::new(),
            shapes: HashMap::new(),
        };
        for step in steps {
            let from = step.inputs.first().map(|input| seen.through(input));
            match from {
                Some(from) if is_view(step) => _ = seen.viewed.insert(&step.output, from),
                _ => {
                    let shape = seen.shape(step, from);
                    seen.shapes.insert(&step.output, shape);
                }
            }
        }
        seen
    }

    /// The name under which the numbers of this one were made.
    fn through(&self, name: &'a str) -> &'a str {
        self.viewed.get(name).copied().unwrap_or(name)
    }

    /// How many heads of all tokens there are follows from the numbers that became them.
    fn shape(&self, step: &Step, from: Option<&str>) -> Vec<Dim> {
        let from = from.and_then(|name| self.shapes.get(name));
        match (&step.shape[..], from.map(Vec::as_slice)) {
            (&[HEADS_OF_TOKENS, Dim::Fixed(head)], Some(&[tokens, Dim::Fixed(width)])) => {
                vec![tokens, Dim::Fixed(width / head), Dim::Fixed(head)]
            }
            _ => step.shape.clone(),
        }
    }
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
        let seen = Seen::of(steps);
        for (index, step) in steps.iter().enumerate() {
            // An output stays until the caller has read it.
            let until = if is_output(step) { steps.len() } else { index };
            for input in &step.inputs {
                let last = last_use.entry(seen.through(input)).or_default();
                *last = until.max(*last);
            }
        }
        for (index, step) in steps.iter().enumerate() {
            if is_output(step) || is_view(step) {
                continue;
            }
            let inputs = step.inputs.iter().map(|input| seen.through(input));
            let mut dying: Vec<&str> = inputs.collect();
            dying.retain(|&name| seen.shapes.contains_key(name) && last_use[name] == index);
            dying.sort_unstable();
            dying.dedup();
            let shape = &seen.shapes[&*step.output];
            let in_place = IN_PLACE.contains(&step.operator);
            let fits = |name: &&str| in_place && seen.shapes[*name] == *shape;
            match dying.iter().position(fits) {
                Some(taken) => _ = dying.remove(taken),
                None => plan.take(shape),
            }
            for name in dying {
                plan.buffers(&seen.shapes[name]).free += 1;
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

    fn shaped(step: Step, shape: &[Dim]) -> Step {
        Step {
            shape: shape.to_vec(),
            ..step
        }
    }

    #[test]
    fn a_view_has_no_buffer_and_keeps_what_it_views() {
        let tokens = Dim::Named("tokens");
        let whole = [Dim::Fixed(1), tokens, Dim::Fixed(8)];
        let steps = [
            step("Gemm", &["x", "w"], "q", 8),
            shaped(step("Unsqueeze", &["q", "0"], "rows", 8), &whole),
            shaped(step("RotaryEmbedding", &["rows"], "turned", 8), &whole),
            step("Squeeze", &["turned", "0"], "query", 8),
            step("Gemm", &["x", "v"], "value", 8),
            step("PackedAttention", &["query", "value"], "y", 8),
            step("Identity", &["y"], "out", 8),
        ];
        // The value takes the buffer of `q`; `turned` lives on as `query`, so attention needs
        // another of the first shape.
        assert_eq!(made(&steps), [2, 1]);
    }

    #[test]
    fn heads_of_tokens_are_as_many_as_were_reshaped() {
        let heads = [HEADS_OF_TOKENS, Dim::Fixed(4)];
        let normed = |name: &str, from: &str| {
            let rows = format!("{from} of heads");
            let norm = step("SimplifiedLayerNormalization", &[&*rows], name, 0);
            [
                shaped(step("Reshape", &[from, "lengths"], &rows, 0), &heads),
                shaped(norm, &heads),
            ]
        };
        let mut steps = vec![
            step("Gemm", &["x", "w"], "q", 16),
            step("Gemm", &["x", "v"], "k", 8),
        ];
        steps.extend(normed("normed q", "q"));
        steps.extend(normed("normed k", "k"));
        steps.push(step("PackedAttention", &["normed q", "normed k"], "y", 16));
        let plan = Plan::of(&steps);
        let lengths = Lengths {
            tokens: 3,
            sequences: 1,
        };
        let sizes = plan.shapes.iter().map(|(shape, buffers)| {
            let axes = shape.iter().map(|dim| length(dim, lengths));
            axes.product::<usize>() * buffers.made
        });
        // Queries, keys, both normed; `y` takes the buffer of `q`.
        assert_eq!(sizes.collect::<Vec<_>>(), [3 * 16, 3 * 8, 3 * 16, 3 * 8]);
    }

    #[test]
    fn vectors_are_as_many_as_tokens_at_most() {
        let lengths = Lengths {
            tokens: 7,
            sequences: 2,
        };
        for (name, expected) in [
            ("tokens", 7),
            ("vectors", 7),
            ("returned", 7),
            ("pieces", 2),
        ] {
            assert_eq!(length(&Dim::Named(name), lengths), expected, "{name}");
        }
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
