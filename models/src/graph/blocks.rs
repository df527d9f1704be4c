//! Building blocks of encoders, chosen by what an architecture declares. A family that needs
//! something new adds a variant to a declaration's enum and an arm here.

use super::adapters::AdapterMask;
use super::decoder::{CacheInputs, CachedShape};
use super::heads::Offsets;
use super::layouts::{find_layout, layer_name};
use super::linear::{Layer, Then};
use super::ops::{Activation, AttentionShape};
use super::rotary::Angles;
use super::{BuiltGraph, Dim, ElementType, Graph, Value};
use crate::architectures::{
    Architecture, Bias, Distance, FeedForward, Halves, Layout, Linear, Mask, NormKind, NormOrder,
    QkNorm, Qkv, Rotary, Sizes, alibi_slopes, buckets,
};
use crate::checkpoint::{Config, Weights};
use crate::dtype::Arithmetic;
use crate::error::{Error, Result};
use crate::heads::plan::HeadPlan;

/// How the two tensors of a norm may be called; the second is TensorFlow's way, which survives in
/// converted checkpoints.
const NORM_NAMES: [[&str; 2]; 2] = [[".weight", ".bias"], [".gamma", ".beta"]];

/// Axis of all tokens of a batch.
pub(super) const TOKENS: Dim = Dim::Named("tokens");
/// Axis of the places where sequences begin and end.
const OFFSETS: Dim = Dim::Named("offsets");

/// Builds an encoder over packed tokens. Inputs: `input_ids`, `position_ids`, `token_type_ids`
/// `[tokens]`, `cu_seqlens` `[sequences + 1]` and, for vectors, `pool_cu_seqlens` `[pieces + 1]`;
/// `adapter_ids` `[tokens]` where the model has task adapters; outputs: those of `heads::output`
/// that the plan has. Positions are an input, even of a model without any, because ONNX Runtime
/// 1.31 breaks a graph that makes them itself with `Range`.
///
/// # Errors
/// `Error::Checkpoint` when a tensor is missing or has another shape than config.json says.
pub(crate) fn encoder(
    architecture: &Architecture,
    sizes: &Sizes,
    weights: &Weights,
    (plan, config): (&HeadPlan, &Config),
    arithmetic: Arithmetic,
) -> Result<BuiltGraph> {
    let mut blocks = Blocks::new(architecture, sizes, weights);
    blocks.graph = blocks.graph.computed_in(arithmetic);
    let hidden = blocks.token_vectors()?;
    let pool_cu_seqlens = plan.dense.as_ref().map(|_| {
        let pieces = Dim::Named("piece_offsets");
        blocks
            .graph
            .input("pool_cu_seqlens", ElementType::I32, &[pieces])
    });
    let offsets = Offsets {
        cu_seqlens: blocks.inputs.cu_seqlens.clone(),
        pool_cu_seqlens,
    };
    blocks.heads(plan, &hidden, &offsets, config)?;
    Ok(blocks.graph.finish())
}

/// An encoder under construction.
pub(super) struct Blocks<'a> {
    pub(super) graph: Graph<'a>,
    pub(super) architecture: &'a Architecture,
    pub(super) sizes: &'a Sizes,
    pub(super) layout: &'a Layout,
    pub(super) prefix: &'static str,
    pub(super) inputs: Inputs,
    // What all layers of a kind share is computed once per run.
    pub(super) angles: Vec<(&'a Rotary, Angles)>,
    distances: Distances,
    // Which adapter each token has; `None` without any.
    pub(super) adapters: Option<AdapterMask>,
    // Where earlier tokens are; `None` when all tokens of a sequence are there.
    pub(super) cache: Option<CacheInputs>,
}

/// What a run is given, apart from the tokens.
pub(super) struct Inputs {
    /// `[tokens]`
    pub(super) input_ids: Value,
    /// `[tokens]`
    pub(super) position_ids: Value,
    /// `[sequences + 1]`
    pub(super) cu_seqlens: Value,
}

/// What attention makes of distances.
#[derive(Default)]
struct Distances {
    // `[heads]`, or empty
    slopes: Vec<f32>,
    // `[heads, 2 * reach + 1]`
    bias: Option<Value>,
}

/// Rows of a tensor: all of them, or those of one of the layers that are stored in it.
#[derive(Clone, Copy)]
pub(super) struct Part {
    pub(super) first: usize,
    pub(super) end: usize,
    pub(super) all: usize,
}

/// The weights of a linear layer of a checkpoint.
struct Stored {
    // The name of its matrix.
    matrix: String,
    weight: Value,
    bias: Option<Value>,
}

impl Stored {
    fn layer(&self) -> Layer<'_> {
        Layer {
            weight: &self.weight,
            bias: self.bias.as_ref(),
        }
    }
}

impl Part {
    fn whole(rows: usize) -> Self {
        Self {
            first: 0,
            end: rows,
            all: rows,
        }
    }
}

impl<'a> Blocks<'a> {
    pub(super) fn new(
        architecture: &'a Architecture,
        sizes: &'a Sizes,
        weights: &'a Weights,
    ) -> Self {
        let (layout, prefix) = find_layout(architecture, weights);
        let mut graph = Graph::new(architecture.name, weights);
        let inputs = Inputs {
            input_ids: graph.input("input_ids", ElementType::I64, &[TOKENS]),
            position_ids: graph.input("position_ids", ElementType::I64, &[TOKENS]),
            cu_seqlens: graph.input("cu_seqlens", ElementType::I32, &[OFFSETS]),
        };
        Self {
            graph,
            architecture,
            sizes,
            layout,
            prefix,
            inputs,
            angles: Vec::new(),
            distances: Distances::default(),
            adapters: None,
            cache: None,
        }
    }

    /// From token ids to what the last layer gives. `[tokens, hidden]`
    pub(super) fn token_vectors(&mut self) -> Result<Value> {
        if let Some(adapters) = &self.sizes.adapters {
            self.adapters = Some(self.graph.adapter_mask(adapters, TOKENS)?);
        }
        let mut hidden = self.embeddings()?;
        self.distances = self.distances()?;
        for index in 0..self.sizes.layers {
            hidden = self.layer(index, &hidden)?;
        }
        match self.layout.final_norm {
            Some(name) => self.norm("", name, &hidden),
            None => Ok(hidden),
        }
    }

    fn distances(&mut self) -> Result<Distances> {
        match self.architecture.attention.distance {
            Distance::Ignored => Ok(Distances::default()),
            Distance::Alibi => Ok(Distances {
                slopes: alibi_slopes(self.sizes.heads),
                bias: None,
            }),
            Distance::Buckets { reach, .. } => {
                let count = self.sizes.buckets.unwrap_or_default();
                let name = format!("{}{}", self.prefix, self.layout.relative_positions);
                let table = self.graph.weight(&name, &[count, self.sizes.heads])?;
                let rows = buckets(count, reach);
                let rows = self.graph.integers(&rows, &[rows.len()]);
                // ONNX Runtime computes this once, when a session is opened.
                let bias = self.graph.gather(&table, &rows)?;
                Ok(Distances {
                    slopes: Vec::new(),
                    bias: Some(self.graph.transpose(&bias)?),
                })
            }
        }
    }

    /// Attention and feed-forward, each with its residual sum. `[tokens, hidden]` → the same
    fn layer(&mut self, index: usize, hidden: &Value) -> Result<Value> {
        let layout = self.layout;
        let layer = layer_name(layout, index);
        match self.architecture.norm.order {
            NormOrder::Post => {
                let sum = self.attention(index, hidden, hidden)?;
                let mut normed = self.norm(&layer, layout.attention_norm, &sum)?;
                if let Some(second) = layout.second_attention_norm {
                    let sum = self.graph.add(hidden, &normed)?;
                    normed = self.norm(&layer, second, &sum)?;
                }
                let hidden = normed;
                let sum = self.feed_forward(&layer, &hidden, &hidden)?;
                self.norm(&layer, layout.feed_forward_norm, &sum)
            }
            order @ (NormOrder::Pre | NormOrder::PreExceptFirst) => {
                let hidden = if index == 0 && order == NormOrder::PreExceptFirst {
                    self.attention(index, hidden, hidden)?
                } else {
                    let normed = self.norm(&layer, layout.attention_norm, hidden)?;
                    self.attention(index, &normed, hidden)?
                };
                let normed = self.norm(&layer, layout.feed_forward_norm, &hidden)?;
                self.feed_forward(&layer, &normed, &hidden)
            }
        }
    }

    /// Attention of `hidden`, and the residual sum. `[tokens, hidden]`, the same → the same
    fn attention(&mut self, index: usize, hidden: &Value, residual: &Value) -> Result<Value> {
        let (layout, sizes) = (self.layout, self.sizes);
        let layer = layer_name(layout, index);
        let [mut query, mut key, value] = self.qkv(&layer, hidden)?;
        match layout.qk_norm {
            QkNorm::Absent => {}
            QkNorm::PerHead([query_norm, key_norm]) => {
                query = self.norm_of_heads(&layer, query_norm, &query)?;
                key = self.norm_of_heads(&layer, key_norm, &key)?;
            }
            QkNorm::Whole([query_norm, key_norm]) => {
                query = self.norm(&layer, query_norm, &query)?;
                key = self.norm(&layer, key_norm, &key)?;
            }
        }
        if let Some(rotary) = &sizes.attention[index].rotary {
            let angles = self.angles(rotary)?;
            query = self.graph.turn(&query, &angles, sizes.heads)?;
            key = self.graph.turn(&key, &angles, sizes.kv_heads)?;
        }
        let qkv = [&query, &key, &value];
        let mixed = self.mixed(index, qkv)?;
        self.summed(&layer, layout.attention_output, &mixed, residual)
    }

    /// What each token gets of the others. `[tokens, heads * head]` and two of
    /// `[tokens, kv_heads * head]` → `[tokens, heads * head]`
    fn mixed(&mut self, index: usize, qkv: [&Value; 3]) -> Result<Value> {
        let sizes = self.sizes;
        let scale = 1.0 / (sizes.head_dim as f32).sqrt();
        let cu_seqlens = &self.inputs.cu_seqlens;
        if let Some(cache) = &self.cache {
            let shape = CachedShape {
                heads: sizes.heads,
                kv_heads: sizes.kv_heads,
                scale,
                layer: index,
            };
            return self.graph.cached_attention(qkv, (cu_seqlens, cache), shape);
        }
        let shape = AttentionShape {
            heads: sizes.heads,
            kv_heads: sizes.kv_heads,
            scale,
            causal: self.architecture.attention.mask == Mask::Causal,
            window: sizes.attention[index].window,
            alibi_slopes: &self.distances.slopes,
            distance_bias: self.distances.bias.as_ref(),
        };
        self.graph.packed_attention(qkv, cu_seqlens, shape)
    }

    /// `[tokens, hidden]` → `[tokens, heads * head]` and two of `[tokens, kv_heads * head]`
    fn qkv(&mut self, layer: &str, hidden: &Value) -> Result<[Value; 3]> {
        let sizes = self.sizes;
        let (width, kv_width) = (
            sizes.heads * sizes.head_dim,
            sizes.kv_heads * sizes.head_dim,
        );
        let (linears, parts) = match self.layout.qkv {
            Qkv::Separate(linears) => (linears, [width, kv_width, kv_width].map(Part::whole)),
            Qkv::Fused(all) => {
                let ends = [0, width, width + kv_width, width + 2 * kv_width];
                let part = |at: usize| Part {
                    first: ends[at],
                    end: ends[at + 1],
                    all: ends[3],
                };
                ([all; 3], [part(0), part(1), part(2)])
            }
        };
        let [query, key, value] = parts;
        Ok([
            self.linear(layer, (linears[0], query), hidden, Then::Nothing)?,
            self.linear(layer, (linears[1], key), hidden, Then::Nothing)?,
            self.linear(layer, (linears[2], value), hidden, Then::Nothing)?,
        ])
    }

    /// The angles of these frequencies, which are computed once for all layers that have them.
    fn angles(&mut self, rotary: &'a Rotary) -> Result<Angles> {
        if let Some((_, angles)) = self.angles.iter().find(|(known, _)| *known == rotary) {
            return Ok(angles.clone());
        }
        let positions = self.inputs.position_ids.clone();
        let angles = self
            .graph
            .angles(&positions, &rotary.frequencies, rotary.factor)?;
        self.angles.push((rotary, angles.clone()));
        Ok(angles)
    }

    /// The layer after the attention, and the residual sum. `[tokens, hidden]`, the same → the same
    fn feed_forward(&mut self, layer: &str, hidden: &Value, residual: &Value) -> Result<Value> {
        let sizes = self.sizes;
        let inner = sizes.intermediate;
        let whole = Part::whole(inner);
        let (gate, up, down) = match self.layout.feed_forward {
            FeedForward::Plain { up, down } => (None, (up, whole), down),
            FeedForward::Gated { gate, up, down } => (Some((gate, whole)), (up, whole), down),
            FeedForward::GatedFused { both, order, down } => {
                let half = |at: usize| Part {
                    first: at * inner,
                    end: (at + 1) * inner,
                    all: 2 * inner,
                };
                let (gate, up) = match order {
                    Halves::GateUp => (half(0), half(1)),
                    Halves::UpGate => (half(1), half(0)),
                };
                (Some((both, gate)), (both, up), down)
            }
        };
        let activation = sizes.activation;
        let raised = match gate {
            None => self.linear(layer, up, hidden, Then::Activation(activation))?,
            Some(gate) => self.gated(layer, [gate, up], hidden, activation)?,
        };
        self.summed(layer, down, &raised, residual)
    }

    /// The last linear layer of a block and the residual sum. `[tokens, in]`, `[tokens, hidden]`
    fn summed(
        &mut self,
        layer: &str,
        linear: Linear,
        x: &Value,
        residual: &Value,
    ) -> Result<Value> {
        let linear = (linear, Part::whole(self.sizes.hidden));
        if let Some(scale) = self.sizes.residual_scale {
            let added = self.linear(layer, linear, x, Then::Nothing)?;
            let added = self.graph.scale(&added, scale);
            return self.graph.add(residual, &added);
        }
        self.linear(layer, linear, x, Then::Residual(residual))
    }

    /// `activation(gate(x)) * up(x)`: `[tokens, in]` → `[tokens, out]`
    fn gated(
        &mut self,
        layer: &str,
        [gate, up]: [(Linear, Part); 2],
        x: &Value,
        activation: Activation,
    ) -> Result<Value> {
        if self.adapters.is_some() {
            let raised = self.linear(layer, up, x, Then::Nothing)?;
            let gate = self.linear(layer, gate, x, Then::Activation(activation))?;
            return self.graph.multiply(&gate, &raised);
        }
        let width = x.width()?;
        let gate = self.stored(layer, gate, width)?;
        let up = self.stored(layer, up, width)?;
        self.graph.gated(x, [gate.layer(), up.layer()], activation)
    }

    /// Every linear layer of the layers; what a task adapter adds to one (LoRA) is added here.
    /// `[tokens, in]` → `[tokens, out]`
    fn linear(
        &mut self,
        layer: &str,
        (linear, part): (Linear, Part),
        x: &Value,
        then: Then<'_>,
    ) -> Result<Value> {
        let stored = self.stored(layer, (linear, part), x.width()?)?;
        let Some(mask) = self.adapters.clone() else {
            return self.graph.layer(x, stored.layer(), then);
        };
        let [first, second] = self.factors(&stored.matrix)?;
        let shape = [mask.adapters, mask.rank, x.width()?];
        let first = self.graph.weight_stacked(&first, shape)?;
        let shape = [mask.adapters, part.all, mask.rank];
        let rows = part.first..part.end;
        let second = self.graph.weight_side_by_side(&second, shape, rows)?;
        let y = self.graph.layer(x, stored.layer(), Then::Nothing)?;
        let added = self.graph.adapted(x, [&first, &second], &mask)?;
        let sum = self.graph.add(&y, &added)?;
        self.graph.then(sum, then)
    }

    /// The weights of a linear layer, `in` wide.
    fn stored(
        &mut self,
        layer: &str,
        (linear, part): (Linear, Part),
        width: usize,
    ) -> Result<Stored> {
        let name = format!("{}{layer}{}", self.prefix, linear.name);
        let matrix = format!("{name}{}", self.layout.weight);
        let weight = self.rows(&matrix, &[part.all, width], part)?;
        let bias = format!("{name}.bias");
        let bias = match linear.bias {
            Bias::AsStored if !self.graph.has_weight(&bias) => None,
            Bias::AsStored | Bias::Required => Some(self.rows(&bias, &[part.all], part)?),
        };
        Ok(Stored {
            matrix,
            weight,
            bias,
        })
    }

    /// The names of what adapters add to a matrix.
    pub(super) fn factors(&self, matrix: &str) -> Result<[String; 2]> {
        Layout::factors(matrix).ok_or_else(|| {
            Error::Unsupported(format!(
                "config.json names task adapters, but `{matrix}` is stored without any"
            ))
        })
    }

    pub(super) fn rows(&mut self, name: &str, shape: &[usize], part: Part) -> Result<Value> {
        let rows = part.first..part.end;
        if rows.len() == part.all {
            self.graph.weight(name, shape)
        } else {
            self.graph.weight_rows(name, shape, rows)
        }
    }

    /// `[tokens, width]` → the same
    pub(super) fn norm(&mut self, layer: &str, name: &str, x: &Value) -> Result<Value> {
        let name = format!("{}{layer}{name}", self.prefix);
        self.norm_named(&name, x)
    }

    /// A norm of the family's kind under a full name. `[rows, width]` → the same
    pub(super) fn norm_named(&mut self, name: &str, x: &Value) -> Result<Value> {
        let known = |[weight, _]: &[&str; 2]| self.graph.has_weight(&format!("{name}{weight}"));
        let [weight, bias] = NORM_NAMES.into_iter().find(known).unwrap_or(NORM_NAMES[0]);
        let width = x.width()?;
        let weight = self.graph.weight(&format!("{name}{weight}"), &[width])?;
        let epsilon = self.sizes.norm_epsilon;
        if self.architecture.norm.kind == NormKind::RmsNorm {
            return self.graph.rms_norm(x, &weight, epsilon);
        }
        let bias = format!("{name}{bias}");
        let bias = match self.layout.norm_bias {
            Bias::AsStored if !self.graph.has_weight(&bias) => None,
            Bias::AsStored | Bias::Required => Some(self.graph.weight(&bias, &[width])?),
        };
        self.graph.layer_norm(x, &weight, bias.as_ref(), epsilon)
    }

    /// A norm of each head apart. `[tokens, heads * head]` → the same
    fn norm_of_heads(&mut self, layer: &str, name: &str, x: &Value) -> Result<Value> {
        let width = x.width()?;
        let heads = Dim::Named("heads_of_tokens");
        let rows = self.graph.rows_of(x, heads, self.sizes.head_dim);
        let normed = self.norm(layer, name, &rows)?;
        Ok(self.graph.rows_of(&normed, TOKENS, width))
    }
}
