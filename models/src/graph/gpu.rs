//! What a graph for a GPU has otherwise: ONNX Runtime's fused operators, which its CUDA provider
//! has fast kernels for, and attention over packed tokens. Everything else is the same graph.
//! Conditions and inputs: `docs/ContribOperators.md` of ONNX Runtime.

pub(crate) mod attention;

use super::linear::{Layer, Then};
use super::ops::{Activation, mismatch};
use super::proto::node_proto;
use super::{Attribute, Dim, ElementType, Graph, MICROSOFT, Node, RETORT, Step, Value};
use crate::error::Result;
use attention::AttentionInputs;

/// What a graph for a GPU has on its way.
#[derive(Debug, Default)]
pub(super) struct GpuNodes {
    // Sums that no node computes yet, because the norm behind them can.
    sums: Vec<Sum>,
    // The sums that norms compute.
    normed_sums: Vec<String>,
    attention: Option<AttentionInputs>,
}

/// A residual sum: two tensors of one shape, and a bias. Its own name is that of `total`.
#[derive(Debug, Clone)]
struct Sum {
    total: Value,
    parts: [Value; 2],
    bias: Option<Value>,
}

impl Graph<'_> {
    /// A linear layer and what follows it. A bias goes to the next operator that takes one: a
    /// product with a bias would be two kernels.
    pub(super) fn gpu_layer(
        &mut self,
        x: &Value,
        layer: Layer<'_>,
        then: Then<'_>,
    ) -> Result<Value> {
        match (then, layer.bias) {
            (Then::Residual(residual), bias) => {
                let product = self.linear(x, layer.weight, None)?;
                if product.shape() != residual.shape()
                    || bias.is_some_and(|bias| bias.shape()[..] != product.shape()[1..])
                {
                    return Err(mismatch("SkipLayerNormalization", &[&product, residual]));
                }
                Ok(self.residual_sum([&product, residual], bias))
            }
            (Then::Activation(Activation::Gelu), Some(bias)) => {
                self.biased("BiasGelu", x, [layer.weight, bias])
            }
            (Then::Activation(Activation::GeluTanh), Some(bias)) => {
                self.biased("FastGelu", x, [layer.weight, bias])
            }
            (then, bias) => {
                let y = self.linear(x, layer.weight, bias)?;
                self.then(y, then)
            }
        }
    }

    /// An activation that adds the bias itself.
    fn biased(
        &mut self,
        operator: &'static str,
        x: &Value,
        [weight, bias]: [&Value; 2],
    ) -> Result<Value> {
        let product = self.linear(x, weight, None)?;
        if bias.shape()[..] != product.shape()[1..] {
            return Err(mismatch(operator, &[&product, bias]));
        }
        Ok(self.microsoft(operator, &[&product, bias], &[]))
    }

    /// `x·sigmoid(x)` in one operator (Hendrycks & Gimpel 2016 with a factor of 1).
    pub(super) fn quick_gelu(&mut self, x: &Value) -> Value {
        self.microsoft("QuickGelu", &[x], &[("alpha", Attribute::Float(1.0))])
    }

    /// Whether the graph is for a GPU.
    pub(super) fn is_for_gpu(&self) -> bool {
        self.arithmetic.gpu.is_some()
    }

    /// Rows scaled to length 1, in as many bits as they have, and what is wrong with those that
    /// cannot be: `[rows, width]` → the same, `[rows]`
    pub(super) fn unit_rows(&mut self, rows: &Value) -> (Value, Value) {
        self.settle(&[rows]);
        let operator = match rows.element_type {
            ElementType::F16 => "HalfUnitRows",
            _ => "UnitRows",
        };
        let unit = Value {
            name: self.node_name(operator),
            ..rows.clone()
        };
        let faults = Value {
            name: format!("{}_faults", unit.name),
            element_type: ElementType::I32,
            shape: rows.shape[..1].to_vec(),
        };
        let node = Node {
            operator,
            domain: RETORT,
            inputs: &[rows],
            attributes: &[],
        };
        let outputs = vec![unit.name.clone(), faults.name.clone()];
        self.proto.node.push(node_proto(&node, outputs));
        for value in [&unit, &faults] {
            self.steps.push(step(&node, value));
        }
        (unit, faults)
    }

    /// Late interaction of pairs of sequences: `[vectors, width]`, `[sequences + 1]`,
    /// `[pairs, 2]` → `[pairs]`
    pub(super) fn max_sim(&mut self, vectors: &Value, [offsets, pairs]: [&Value; 2]) -> Value {
        let node = Node {
            operator: "MaxSim",
            domain: RETORT,
            inputs: &[vectors, offsets, pairs],
            attributes: &[],
        };
        let scores = self.node(node, &[pairs.shape[0]]);
        Value {
            element_type: ElementType::F32,
            ..scores
        }
    }

    /// A sum of two tensors of one shape that is computed when something needs it: by the norm that
    /// follows, else by nodes of its own.
    pub(super) fn residual_sum(&mut self, parts: [&Value; 2], bias: Option<&Value>) -> Value {
        self.settle(&parts);
        let total = Value {
            name: self.node_name("Sum"),
            ..parts[0].clone()
        };
        self.gpu.sums.push(Sum {
            total: total.clone(),
            parts: parts.map(Clone::clone),
            bias: bias.cloned(),
        });
        total
    }

    /// A norm together with the sum that it is of; `None` where it is of something else. The first
    /// input is what is normalised, the others are its weights.
    pub(super) fn norm_of_sum(
        &mut self,
        operator: &str,
        inputs: &[&Value],
        epsilon: f32,
    ) -> Option<Value> {
        let (x, weights) = inputs.split_first()?;
        let mut sums = self.gpu.sums.iter();
        let Sum { total, parts, bias } = {
            let at = sums.position(|sum| sum.total.name == x.name)?;
            self.gpu.sums.remove(at)
        };
        let absent = Value::absent();
        let bias = bias.as_ref().unwrap_or(&absent);
        let (operator, weights) = match operator {
            "SimplifiedLayerNormalization" => {
                ("SkipSimplifiedLayerNormalization", vec![weights[0]])
            }
            _ => {
                let shift = weights.get(1).copied().unwrap_or(&absent);
                ("SkipLayerNormalization", vec![weights[0], shift])
            }
        };
        let inputs = [&parts[0], &parts[1]].into_iter().chain(weights);
        let node = Node {
            operator,
            domain: MICROSOFT,
            inputs: &inputs.chain([bias]).collect::<Vec<_>>(),
            attributes: &[("epsilon", Attribute::Float(epsilon))],
        };
        let normed = Value {
            name: self.node_name(operator),
            ..total.clone()
        };
        // The second and third output are for training.
        let outputs = [&*normed.name, "", "", &*total.name].map(str::to_owned);
        self.proto.node.push(node_proto(&node, outputs.into()));
        for value in [&normed, &total] {
            self.steps.push(step(&node, value));
        }
        self.gpu.normed_sums.push(total.name);
        Some(normed)
    }

    /// Sees to it that sums which are wanted now are computed.
    pub(super) fn settle(&mut self, wanted: &[&Value]) {
        for value in wanted {
            let mut sums = self.gpu.sums.iter();
            let Some(at) = sums.position(|sum| sum.total.name == value.name) else {
                continue;
            };
            let Sum { total, parts, bias } = self.gpu.sums.remove(at);
            let [mut left, right] = parts;
            if let Some(bias) = bias {
                left = self.onnx("Add", &[&left, &bias], &[], left.shape());
            }
            let node = Node {
                operator: "Add",
                domain: "",
                inputs: &[&left, &right],
                attributes: &[],
            };
            self.proto
                .node
                .push(node_proto(&node, vec![total.name.clone()]));
            self.steps.push(step(&node, &total));
        }
    }

    /// A sum that only its norm wanted is not written to memory.
    pub(super) fn drop_unused_sums(&mut self) {
        for sum in std::mem::take(&mut self.gpu.normed_sums) {
            let nodes = &mut self.proto.node;
            if nodes.iter().any(|node| node.input.contains(&sum)) {
                continue;
            }
            self.steps.retain(|step| step.output != sum);
            let of_norm = |node: &&mut super::onnx::NodeProto| node.output.contains(&sum);
            if let Some(node) = nodes.iter_mut().find(of_norm) {
                node.output.truncate(1);
            }
        }
    }

    /// A node of ONNX Runtime's own domain whose result has the shape of its first input.
    fn microsoft(
        &mut self,
        operator: &'static str,
        inputs: &[&Value],
        attributes: &[(&'static str, Attribute<'_>)],
    ) -> Value {
        let node = Node {
            operator,
            domain: MICROSOFT,
            inputs,
            attributes,
        };
        self.node(node, inputs[0].shape())
    }
}

impl Value {
    /// An optional input that is not there.
    fn absent() -> Self {
        Self {
            name: String::new(),
            element_type: ElementType::I64,
            shape: Vec::<Dim>::new(),
        }
    }
}

fn step(node: &Node<'_>, output: &Value) -> Step {
    Step {
        operator: node.operator,
        inputs: node.inputs.iter().map(|value| value.name.clone()).collect(),
        output: output.name.clone(),
        shape: output.shape.clone(),
    }
}

#[cfg(test)]
mod tests;
