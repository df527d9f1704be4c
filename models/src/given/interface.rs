//! What a finished graph takes, recognised by name.

use std::borrow::Cow;

use ort::session::SessionInputValue;
use ort::value::{Tensor, TensorElementType, TensorRef};

use crate::architectures::PositionIds;
use crate::batch::Batch;
use crate::error::{Error, Result};
use crate::session::LoadedSession;

/// The names that an input may have, and what it gets.
const NAMES: [(&str, Role); 6] = [
    ("input_ids", Role::Ids),
    ("attention_mask", Role::Mask),
    ("token_type_ids", Role::Types),
    ("position_ids", Role::Positions),
    ("task_id", Role::Adapter),
    ("task", Role::Adapter),
];

/// The inputs of a graph, in its own order.
#[derive(Debug)]
pub(super) struct Inputs {
    inputs: Vec<Input>,
    /// The graph was exported for one sequence at a time.
    pub(super) single_sequence: bool,
}

#[derive(Debug)]
struct Input {
    name: String,
    role: Role,
    width: Width,
    // Lengths of its axes; -1 where they are free.
    shape: Vec<i64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Ids,
    Mask,
    Types,
    Positions,
    /// The number of a task adapter (jina-embeddings-v3): one for all sequences of a run.
    Adapter,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Width {
    Bits32,
    Bits64,
}

impl Inputs {
    /// Recognises the inputs of a session. `positions` is how its family numbers them, where that
    /// is known.
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
            let known = NAMES.iter().find(|(known, _)| *known == name);
            let Some((_, role)) = known else {
                let known = NAMES.map(|(name, _)| name).join("`, `");
                return refuse(&format!("is unknown (known: `{known}`)"));
            };
            if *role == Role::Positions && positions.is_none() {
                return refuse(
                    "is wanted, but config.json names no architecture that tells where \
                     positions start",
                );
            }
            let width = match input.dtype().tensor_type() {
                Some(TensorElementType::Int64) => Width::Bits64,
                Some(TensorElementType::Int32) => Width::Bits32,
                _ => return refuse("is not a tensor of 32- or 64-bit integers"),
            };
            let shape = input.dtype().tensor_shape();
            let shape = shape.map(|shape| shape.to_vec()).unwrap_or_default();
            match (role, &shape[..]) {
                (Role::Adapter, []) => {}
                (Role::Adapter, &[axis]) if axis <= 1 => {}
                (Role::Adapter, _) => {
                    return refuse(&format!(
                        "has shape `{shape:?}`; known are one number, and one per sequence"
                    ));
                }
                (_, &[sequences, length]) => {
                    if length > 0 {
                        return refuse(&format!(
                            "takes exactly `{length}` tokens; export the graph with a dynamic \
                             sequence axis"
                        ));
                    }
                    match sequences {
                        ..=0 => {}
                        1 => found.single_sequence = true,
                        _ => return refuse(&format!("takes exactly `{sequences}` sequences")),
                    }
                }
                _ => {}
            }
            found.inputs.push(Input {
                name: name.to_owned(),
                role: *role,
                width,
                shape,
            });
        }
        if !found.takes(Role::Ids) {
            return Err(Error::Unsupported("has no input `input_ids`".to_owned()));
        }
        Ok(found)
    }

    fn takes(&self, role: Role) -> bool {
        self.inputs.iter().any(|input| input.role == role)
    }

    /// Whether a run is for one task adapter.
    pub(super) fn takes_adapter(&self) -> bool {
        self.takes(Role::Adapter)
    }

    /// Whether a run is told what is padding.
    pub(super) fn takes_mask(&self) -> bool {
        self.takes(Role::Mask)
    }

    /// Puts sequences of one adapter into the form that the graph takes, `[sequences, length]`
    /// each. Where they are of several lengths, it must take a mask.
    pub(super) fn values<'a>(
        &'a self,
        batch: &'a Batch,
        extra: &'a Extra,
    ) -> Result<Vec<(Cow<'a, str>, SessionInputValue<'a>)>> {
        let shape = vec![batch.sequences(), batch.max_seqlen()];
        let value = |input: &Input| -> Result<SessionInputValue<'a>> {
            let (shape, values) = match input.role {
                Role::Ids => (shape.clone(), extra.padded(&batch.input_ids, &extra.ids)),
                Role::Mask => (shape.clone(), &extra.mask[..]),
                Role::Types => (
                    shape.clone(),
                    extra.padded(&batch.token_type_ids, &extra.types),
                ),
                Role::Positions => (shape.clone(), &extra.positions[..]),
                Role::Adapter => {
                    // A free axis is that of the sequences.
                    let free = input.shape.first().is_some_and(|&axis| axis <= 0);
                    let numbers = if free { batch.sequences() } else { 1 };
                    let shape = input.shape.iter().map(|_| numbers).collect();
                    (shape, &extra.adapters[..numbers])
                }
            };
            match input.width {
                Width::Bits64 => Ok(TensorRef::from_array_view((shape, values))?.into()),
                Width::Bits32 => {
                    let narrow: Vec<i32> = values.iter().map(|&value| value as i32).collect();
                    Ok(Tensor::from_array((shape, narrow))?.into())
                }
            }
        };
        self.inputs
            .iter()
            .map(|input| Ok((Cow::Borrowed(input.name.as_str()), value(input)?)))
            .collect()
    }
}

/// What a graph may want to know of a batch besides what is in it.
#[derive(Debug)]
pub(super) struct Extra {
    // [sequences, length]
    positions: Vec<i64>,
    // 1 for tokens, 0 for padding. [sequences, length]
    mask: Vec<i64>,
    // [sequences]
    adapters: Vec<i64>,
    // Whether sequences are of several lengths. The next two are empty where they are not.
    is_padded: bool,
    // [sequences, length]
    ids: Vec<i64>,
    // [sequences, length]
    types: Vec<i64>,
}

impl Extra {
    /// What is known of a batch that is padded to `length`. Padding may have any id, type and
    /// position that there is, as nothing looks at it.
    pub(super) fn new(batch: &Batch, positions: PositionIds, length: usize) -> Self {
        let padded = batch.sequences() * length;
        let mut extra = Self {
            positions: Vec::with_capacity(padded),
            mask: Vec::with_capacity(padded),
            is_padded: padded != batch.tokens(),
            ids: Vec::new(),
            types: Vec::new(),
            adapters: batch
                .adapters
                .iter()
                .map(|adapter| adapter.map_or(0, i64::from))
                .collect(),
        };
        for (row, range) in batch.ranges().enumerate() {
            let ids = &batch.input_ids[range.clone()];
            positions.extend(ids, &mut extra.positions);
            extra.mask.resize(extra.mask.len() + range.len(), 1);
            let end = (row + 1) * length;
            extra.positions.resize(end, 0);
            extra.mask.resize(end, 0);
            if extra.is_padded {
                extra.ids.extend(ids);
                extra.ids.resize(end, 0);
                extra.types.extend(&batch.token_type_ids[range]);
                extra.types.resize(end, 0);
            }
        }
        extra
    }

    /// Numbers of tokens, with padding where there is some.
    fn padded<'a>(&self, packed: &'a [i64], padded: &'a [i64]) -> &'a [i64] {
        match self.is_padded {
            true => padded,
            false => packed,
        }
    }
}
