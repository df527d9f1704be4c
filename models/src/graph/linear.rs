//! The linear layers of an encoder, with what follows each: one operator of this project where the
//! graph is computed in a type that ONNX Runtime has no product for, else `Gemm` and what ONNX has
//! for the rest. Those who ask for a layer need not know which.

use std::collections::HashSet;

use retort_kernels::linear::{LinearActivation, LinearKind};

use super::ops::{Activation, mismatch};
use super::{Attribute, Graph, Node, RETORT, Value};
use crate::checkpoint::weights::Tensor;
use crate::error::Result;

/// A linear layer as PyTorch stores it.
#[derive(Debug, Clone, Copy)]
pub struct Layer<'v> {
    /// `[out, in]`
    pub weight: &'v Value,
    /// `[out]`
    pub bias: Option<&'v Value>,
}

/// What is done to the product.
#[derive(Debug, Clone, Copy)]
pub enum Then<'v> {
    /// Nothing.
    Nothing,
    /// A nonlinearity.
    Activation(Activation),
    /// This is added. `[tokens, out]`
    Residual(&'v Value),
}

/// A linear layer that a graph computes with the kernels of this project: not a weight of the
/// graph, but one that is packed for the kernels.
#[derive(Debug, Clone)]
pub(crate) struct PackedLayer {
    /// In what it is computed.
    pub(crate) kind: LinearKind,
    /// What the graph calls it, and `[out, in]`.
    pub(crate) weight: (String, Tensor),
    /// What it adds, by its name. `[out]`
    pub(crate) bias: Option<(String, Tensor)>,
}

impl Graph<'_> {
    /// `x·Wᵀ + b` and what follows: `[tokens, in]` → `[tokens, out]`
    pub fn layer(&mut self, x: &Value, layer: Layer<'_>, then: Then<'_>) -> Result<Value> {
        if self.is_for_gpu() {
            return self.gpu_layer(x, layer, then);
        }
        let Some(key) = self.packed(x, layer)? else {
            let y = self.linear(x, layer.weight, layer.bias)?;
            return self.then(y, then);
        };
        let shape = [x.shape()[0], layer.weight.shape()[0]];
        let (mut inputs, mut attributes) = (vec![x], vec![("key", Attribute::Text(&key))]);
        let mut left = Then::Nothing;
        match then {
            Then::Nothing => {}
            Then::Residual(residual) if residual.shape() == shape => inputs.push(residual),
            Then::Residual(residual) => return Err(mismatch("Linear", &[x, residual])),
            Then::Activation(activation) => match fused(activation) {
                Some(fused) => attributes.push(("activation", Attribute::Text(fused.name()))),
                None => left = then,
            },
        }
        let node = Node {
            operator: "Linear",
            domain: RETORT,
            inputs: &inputs,
            attributes: &attributes,
        };
        let y = self.node(node, &shape);
        self.then(y, left)
    }

    /// The first half of a gated feed-forward layer (Shazeer 2020), `activation(gate(x)) * up(x)`:
    /// `[tokens, in]` → `[tokens, out]`
    pub fn gated(
        &mut self,
        x: &Value,
        [gate, up]: [Layer<'_>; 2],
        activation: Activation,
    ) -> Result<Value> {
        if gate.weight.shape() != up.weight.shape() {
            return Err(mismatch("GatedLinear", &[gate.weight, up.weight]));
        }
        let keys = match fused(activation) {
            Some(fused) => self
                .packed(x, gate)?
                .zip(self.packed(x, up)?)
                .zip(Some(fused)),
            None => None,
        };
        let Some(((gate_key, up_key), fused)) = keys else {
            // The order of these decides how many buffers a run takes.
            let raised = self.layer(x, up, Then::Nothing)?;
            let gate = self.layer(x, gate, Then::Activation(activation))?;
            return self.multiply(&gate, &raised);
        };
        let shape = [x.shape()[0], up.weight.shape()[0]];
        let node = Node {
            operator: "GatedLinear",
            domain: RETORT,
            inputs: &[x],
            attributes: &[
                ("gate", Attribute::Text(&gate_key)),
                ("up", Attribute::Text(&up_key)),
                ("activation", Attribute::Text(fused.name())),
            ],
        };
        Ok(self.node(node, &shape))
    }

    /// What follows a product, as operators of their own.
    pub(super) fn then(&mut self, y: Value, then: Then<'_>) -> Result<Value> {
        match then {
            Then::Nothing => Ok(y),
            Then::Activation(activation) => Ok(self.activation(&y, activation)),
            Then::Residual(residual) => self.add(residual, &y),
        }
    }

    /// Has a layer packed for the kernels and gives the name that they know it by; `None` where
    /// ONNX Runtime computes it.
    fn packed(&mut self, x: &Value, layer: Layer<'_>) -> Result<Option<String>> {
        let Some(kind) = self.arithmetic.linears else {
            return Ok(None);
        };
        let inputs: Vec<&Value> = [x, layer.weight].into_iter().chain(layer.bias).collect();
        let ([_, inner], [out, weight_inner]) = (x.shape(), layer.weight.shape()) else {
            return Err(mismatch("Linear", &inputs));
        };
        if inner != weight_inner || layer.bias.is_some_and(|bias| bias.shape() != [*out]) {
            return Err(mismatch("Linear", &inputs));
        }
        let Some(weight) = self.stored(layer.weight) else {
            return Ok(None);
        };
        let bias = layer.bias.map(|bias| self.stored(bias));
        if matches!(bias, Some(None)) {
            return Ok(None);
        }
        let key = layer.weight.name.clone();
        if !self.packed.iter().any(|known| known.weight.0 == key) {
            self.packed.push(PackedLayer {
                kind,
                weight,
                bias: bias.flatten(),
            });
        }
        Ok(Some(key))
    }

    /// What only kernels of this project read is none of ONNX Runtime's weights.
    pub(super) fn drop_packed_weights(&mut self) {
        let taken = self.proto.node.iter().flat_map(|node| &node.input);
        let taken: HashSet<&String> = taken.collect();
        let named = |layer: &PackedLayer| {
            [
                Some(layer.weight.0.clone()),
                layer.bias.as_ref().map(|bias| bias.0.clone()),
            ]
        };
        let packed: HashSet<String> = self.packed.iter().flat_map(named).flatten().collect();
        let stays = |name: &String| taken.contains(name) || !packed.contains(name);
        self.tensors.retain(|(name, _)| stays(name));
        self.proto.initializer.retain(|tensor| stays(&tensor.name));
    }

    /// The tensor of the checkpoint that a value is; `None` where it was computed.
    fn stored(&self, value: &Value) -> Option<(String, Tensor)> {
        let mut tensors = self.tensors.iter();
        tensors.find(|(name, _)| *name == value.name).cloned()
    }
}

/// The nonlinearities that the kernels apply to a product while they have it at hand.
fn fused(activation: Activation) -> Option<LinearActivation> {
    match activation {
        Activation::Gelu => Some(LinearActivation::Gelu),
        Activation::GeluTanh => Some(LinearActivation::GeluTanh),
        Activation::Relu => Some(LinearActivation::Relu),
        Activation::Silu => Some(LinearActivation::Silu),
        Activation::Tanh => Some(LinearActivation::Tanh),
        Activation::Sigmoid => None,
    }
}
