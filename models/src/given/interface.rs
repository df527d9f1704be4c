//! What a finished graph takes and gives, recognised by name and shape.

use std::borrow::Cow;

use ort::session::{SessionInputValue, SessionOutputs};
use ort::value::{DynValue, Tensor, TensorElementType, TensorRef, ValueRef};
use retort_kernels::Pooling;

use crate::architectures::PositionIds;
use crate::error::{Error, Result};
use crate::session::LoadedSession;

/// Outputs that hold one finished vector per sequence. `pooler_output` is not among them: it is
/// the input of BERT's next-sentence head, not an embedding.
const POOLED: [&str; 8] = [
    "sentence_embedding",
    "sentence_embeddings",
    "text_embeds",
    "text_embeddings",
    "dense_vecs",
    "embeddings",
    "embedding",
    "pooled",
];
/// Outputs that hold one vector per token.
const PER_TOKEN: [&str; 3] = ["last_hidden_state", "token_embeddings", "hidden_states"];
/// Outputs that are no embeddings, whatever their shape.
const OTHER: [&str; 2] = ["pooler_output", "logits"];

/// A pooling that was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// By the operator: the graph must give token vectors.
    Operator(Pooling),
    /// By the checkpoint: for a graph that does not pool itself.
    Checkpoint(Option<Pooling>),
}

/// Which output is used, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum OutputKind {
    /// `[sequences, hidden]`, finished.
    Pooled { name: String },
    /// `[sequences, length, hidden]`, to be pooled here.
    Tokens { name: String, pooling: Pooling },
}

impl OutputKind {
    pub(crate) fn name(&self) -> &str {
        match self {
            Self::Pooled { name } | Self::Tokens { name, .. } => name,
        }
    }

    /// How token vectors are pooled here; `None` when the graph did it.
    pub(crate) fn pooling(&self) -> Option<Pooling> {
        match self {
            Self::Pooled { .. } => None,
            Self::Tokens { pooling, .. } => Some(*pooling),
        }
    }
}

/// What a first run showed.
#[derive(Debug, Clone)]
pub(crate) struct Probed {
    pub(crate) output: OutputKind,
    pub(crate) dimensions: usize,
    /// Element type of the output, such as `float32`.
    pub(crate) dtype: String,
}

/// The tokens of some sequences of one length, row by row. Each `[sequences × length]`
#[derive(Debug, Default)]
pub(super) struct Tokens {
    ids: Vec<i64>,
    types: Vec<i64>,
    positions: Vec<i64>,
    ones: Vec<i64>,
}

impl Tokens {
    /// Appends one sequence.
    pub(super) fn extend(&mut self, ids: &[i64], types: &[i64], positions: PositionIds) {
        self.ids.extend_from_slice(ids);
        self.types.extend_from_slice(types);
        positions.extend(ids, &mut self.positions);
        self.ones.resize(self.ids.len(), 1);
    }
}

/// The inputs of a graph, in its own order.
#[derive(Debug)]
pub(super) struct Inputs {
    inputs: Vec<(String, Role, Width)>,
    /// The graph was exported for one sequence at a time.
    pub(super) single_sequence: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Ids,
    Mask,
    Types,
    Positions,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Width {
    Bits32,
    Bits64,
}

impl Inputs {
    /// Recognises the inputs of a session.
    ///
    /// # Errors
    /// `Error::Unsupported` names an input that is unknown, or exported for one fixed length.
    pub(super) fn find(session: &LoadedSession, positions: Option<PositionIds>) -> Result<Self> {
        let mut found = Self {
            inputs: Vec::new(),
            single_sequence: false,
        };
        for input in session.inputs() {
            let name = input.name();
            let refuse = |what: &str| Err(Error::Unsupported(format!("input `{name}` {what}")));
            let role = match name {
                "input_ids" => Role::Ids,
                "attention_mask" => Role::Mask,
                "token_type_ids" => Role::Types,
                "position_ids" if positions.is_some() => Role::Positions,
                "position_ids" => {
                    return refuse(
                        "needs to know where positions start, which config.json's \
                                   architecture does not tell",
                    );
                }
                _ => {
                    return refuse(
                        "is unknown (known: `input_ids`, `attention_mask`, \
                                   `token_type_ids`, `position_ids`)",
                    );
                }
            };
            let width = match input.dtype().tensor_type() {
                Some(TensorElementType::Int64) => Width::Bits64,
                Some(TensorElementType::Int32) => Width::Bits32,
                _ => return refuse("is not a tensor of 32- or 64-bit integers"),
            };
            if let Some(&[sequences, length]) = input.dtype().tensor_shape().map(|s| &s[..]) {
                if length > 0 {
                    return refuse(&format!(
                        "takes exactly `{length}` tokens; export the graph \
                                            with a dynamic sequence axis"
                    ));
                }
                match sequences {
                    ..=0 => {}
                    1 => found.single_sequence = true,
                    _ => return refuse(&format!("takes exactly `{sequences}` sequences")),
                }
            }
            found.inputs.push((name.to_owned(), role, width));
        }
        if found.inputs.iter().all(|(_, role, _)| *role != Role::Ids) {
            return Err(Error::Unsupported("has no input `input_ids`".to_owned()));
        }
        Ok(found)
    }

    /// Puts tokens into the form that the graph takes: `[sequences, length]` each.
    pub(super) fn values<'a>(
        &'a self,
        tokens: &'a Tokens,
        shape: [usize; 2],
    ) -> Result<Vec<(Cow<'a, str>, SessionInputValue<'a>)>> {
        let value = |role, width| -> Result<SessionInputValue<'a>> {
            let values = match role {
                Role::Ids => &tokens.ids,
                Role::Mask => &tokens.ones,
                Role::Types => &tokens.types,
                Role::Positions => &tokens.positions,
            };
            match width {
                Width::Bits64 => Ok(TensorRef::from_array_view((shape, &values[..]))?.into()),
                Width::Bits32 => {
                    let narrow: Vec<i32> = values.iter().map(|&value| value as i32).collect();
                    Ok(Tensor::from_array((shape, narrow))?.into())
                }
            }
        };
        self.inputs
            .iter()
            .map(|(name, role, width)| Ok((Cow::Borrowed(name.as_str()), value(*role, *width)?)))
            .collect()
    }
}

/// Chooses the output to use by what a run of `[sequences, length]` gave.
pub(super) fn choose(
    run: &SessionOutputs<'_>,
    wanted: Wanted,
    shape: [usize; 2],
) -> Result<Probed> {
    let [sequences, length] = shape.map(|size| size as i64);
    let (mut pooled, mut per_token, mut seen) = (Vec::new(), Vec::new(), Vec::new());
    for (name, value) in run.keys().zip(run.values()) {
        let shape = value
            .dtype()
            .tensor_shape()
            .map(|shape| shape.to_vec())
            .unwrap_or_default();
        seen.push(format!("`{name}` {shape:?}"));
        match shape[..] {
            _ if OTHER.contains(&name) || dtype(&value).is_none() => {}
            [rows, _] if rows == sequences => pooled.push((name, value)),
            [rows, tokens, _] if rows == sequences && tokens == length => {
                per_token.push((name, value));
            }
            _ => {}
        }
    }
    let pooled = pick(&pooled, &POOLED);
    let per_token = pick(&per_token, &PER_TOKEN);
    let (value, output) = match (wanted, pooled, per_token) {
        (Wanted::Checkpoint(_), Some((name, value)), _) => (
            value,
            OutputKind::Pooled {
                name: (*name).to_owned(),
            },
        ),
        (Wanted::Operator(pooling) | Wanted::Checkpoint(Some(pooling)), _, Some((name, value))) => {
            (
                value,
                OutputKind::Tokens {
                    name: (*name).to_owned(),
                    pooling,
                },
            )
        }
        (Wanted::Checkpoint(None), None, Some((name, _))) => {
            return Err(Error::Unsupported(format!(
                "gives token vectors (`{name}`) and the checkpoint does not say how to pool them; \
                 set the pooling yourself, such as `cls` or `mean`"
            )));
        }
        (Wanted::Operator(pooling), Some((name, _)), None) => {
            return Err(Error::Unsupported(format!(
                "pools by itself (`{name}`), so `{pooling}` pooling cannot be applied"
            )));
        }
        (_, None, None) => {
            return Err(Error::Unsupported(format!(
                "has no output that is an embedding; it gives {}",
                seen.join(", ")
            )));
        }
    };
    let dimensions = value
        .dtype()
        .tensor_shape()
        .and_then(|shape| shape.last().copied());
    Ok(Probed {
        output,
        dimensions: dimensions
            .and_then(|d| usize::try_from(d).ok())
            .unwrap_or_default(),
        dtype: dtype(value).unwrap_or_default().to_owned(),
    })
}

/// An output and its name.
type Named<'r> = (&'r str, ValueRef<'r>);

/// The first of `names` that is there, else the only output there is.
fn pick<'a, 'r>(found: &'a [Named<'r>], names: &[&str]) -> Option<&'a Named<'r>> {
    let named = names
        .iter()
        .find_map(|name| found.iter().find(|(found, _)| found == name));
    named.or(if let [only] = found { Some(only) } else { None })
}

/// The element type of a floating-point output.
fn dtype(value: &DynValue) -> Option<&'static str> {
    match value.dtype().tensor_type() {
        Some(TensorElementType::Float32) => Some("float32"),
        Some(TensorElementType::Float16) => Some("float16"),
        _ => None,
    }
}

/// Shape and values of an output, in 32-bit floating point.
pub(super) fn extract(value: &DynValue) -> Result<(Vec<i64>, Cow<'_, [f32]>)> {
    if dtype(value) == Some("float16") {
        let (shape, narrow) = value.try_extract_tensor::<half::f16>()?;
        let wide = narrow.iter().map(|value| value.to_f32()).collect();
        return Ok((shape.to_vec(), Cow::Owned(wide)));
    }
    let (shape, values) = value.try_extract_tensor::<f32>()?;
    Ok((shape.to_vec(), Cow::Borrowed(values)))
}
