//! What can be wrong with the arguments of a kernel, said for people.

use crate::kv_pool::CacheFault;
use crate::{LinearActivation, LinearKind, Pooling};
use std::error::Error;
use std::fmt;

/// Why a kernel refused its arguments. Nothing was written to the output, unless it says so.
#[derive(Debug, Clone, PartialEq)]
pub enum KernelError {
    /// `cu_seqlens` has no entries at all; even an empty batch has the entry `0`.
    CuSeqlensEmpty,
    /// `cu_seqlens` does not begin with `0`.
    CuSeqlensStart {
        /// The entry found instead.
        first: i32,
    },
    /// An entry of `cu_seqlens` is smaller than the one before it.
    CuSeqlensDecrease {
        /// Which sequence would have a negative length, counted from 0.
        sequence: usize,
        /// Where it begins.
        start: i32,
        /// Where it ends.
        end: i32,
    },
    /// `cu_seqlens` does not end at the number of tokens.
    CuSeqlensEnd {
        /// The last entry.
        last: i32,
        /// How many tokens there are.
        tokens: usize,
    },
    /// A sequence without tokens, which has no pooled vector.
    EmptySequence {
        /// Which sequence, counted from 0.
        sequence: usize,
    },
    /// A buffer whose length does not follow from the shape.
    Length {
        /// Name of the buffer.
        name: &'static str,
        /// How many values it holds.
        found: usize,
        /// How many it must hold.
        expected: usize,
    },
    /// A size or a stride that makes no sense.
    Size {
        /// Name of the argument.
        name: &'static str,
        /// Its value.
        found: usize,
        /// What it must be, as the end of the sentence "it must be …".
        rule: &'static str,
    },
    /// A scale that is not a finite number.
    Scale {
        /// The value found.
        found: f32,
    },
    /// Query heads that cannot be shared out evenly among the key and value heads.
    KvHeads {
        /// How many key and value heads there are.
        kv_num_heads: usize,
        /// How many query heads there are.
        num_heads: usize,
    },
    /// More or fewer ALiBi slopes than heads.
    AlibiSlopes {
        /// How many slopes there are.
        found: usize,
        /// How many query heads there are.
        num_heads: usize,
    },
    /// A table of distance biases that is not `[num_heads, 2 * D + 1]` for any `D`.
    DistanceBias {
        /// How many values it holds.
        found: usize,
        /// How many query heads there are.
        num_heads: usize,
    },
    /// A bias that is not a finite number.
    NonFiniteBias {
        /// Name of the bias.
        name: &'static str,
        /// The value found.
        found: f32,
    },
    /// A sequence that does not fit the pool of keys and values.
    Cache(CacheFault),
    /// A pooling name that is none of [`Pooling::ALL`](crate::Pooling::ALL).
    UnknownPooling {
        /// The name found.
        name: String,
    },
    /// A name that is none of [`LinearKind::ALL`](crate::LinearKind::ALL).
    UnknownLinearKind {
        /// The name found.
        name: String,
    },
    /// A name that is none of [`LinearActivation::ALL`](crate::LinearActivation::ALL).
    UnknownActivation {
        /// The name found.
        name: String,
    },
    /// Two layers that cannot be multiplied with each other.
    Gate {
        /// What the gate is.
        gate: String,
        /// What the other layer is.
        up: String,
    },
    /// A vector cut to more dimensions than it has, or to none.
    Dimensions {
        /// How many were asked for.
        asked: usize,
        /// How many there are.
        available: usize,
    },
    /// A vector that cannot be normalised.
    Row(RowFault),
    /// The thread pool of the caller failed; the output is incomplete.
    Parallel {
        /// What the pool said.
        message: String,
    },
}

/// Why a vector has no direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowFault {
    /// It contains NaN or an infinity.
    NonFinite,
    /// All its values are zero.
    ZeroNorm,
}

/// A name that is none of the known ones.
fn unknown(f: &mut fmt::Formatter<'_>, [what, name]: [&str; 2], known: &[&str]) -> fmt::Result {
    let known = known.join("`, `");
    write!(f, "unknown {what} `{name}`; use one of `{known}`")
}

impl KernelError {
    /// What is wrong with the boundaries of sequences.
    fn fmt_cu_seqlens(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CuSeqlensStart { first } => {
                write!(f, "`cu_seqlens` starts at `{first}`; it must start at `0`")
            }
            Self::CuSeqlensDecrease {
                sequence,
                start,
                end,
            } => write!(
                f,
                "sequence `{sequence}` starts at token `{start}` and ends at `{end}`; \
                 `cu_seqlens` must never decrease"
            ),
            Self::CuSeqlensEnd { last, tokens } => write!(
                f,
                "`cu_seqlens` ends at `{last}` but there are `{tokens}` tokens; \
                 its last entry must be the number of tokens"
            ),
            // Only boundaries come here; of them the empty ones are left.
            _ => f.write_str(
                "`cu_seqlens` is empty; it needs one entry more than sequences, first `0`",
            ),
        }
    }
}

impl fmt::Display for KernelError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CuSeqlensEmpty
            | Self::CuSeqlensStart { .. }
            | Self::CuSeqlensDecrease { .. }
            | Self::CuSeqlensEnd { .. } => self.fmt_cu_seqlens(f),
            Self::EmptySequence { sequence } => write!(
                f,
                "sequence `{sequence}` has no tokens; pooling needs at least one per sequence"
            ),
            Self::Length {
                name,
                found,
                expected,
            } => write!(
                f,
                "`{name}` holds `{found}` values; its shape asks for `{expected}`"
            ),
            Self::Size { name, found, rule } => {
                write!(f, "`{name}` is `{found}`; it must be {rule}")
            }
            Self::Scale { found } => write!(f, "`scale` is `{found}`; it must be a finite number"),
            Self::KvHeads {
                kv_num_heads,
                num_heads,
            } => write!(
                f,
                "`kv_num_heads` is `{kv_num_heads}` with `{num_heads}` heads; \
                 `num_heads` must be a multiple of it"
            ),
            Self::AlibiSlopes { found, num_heads } => write!(
                f,
                "`alibi_slopes` holds `{found}` values; it needs one per head, `{num_heads}`"
            ),
            Self::DistanceBias { found, num_heads } => write!(
                f,
                "`distance_bias` holds `{found}` values; with `{num_heads}` heads it must be \
                 `[{num_heads}, 2 * D + 1]`, an odd number of distances per head"
            ),
            Self::NonFiniteBias { name, found } => {
                write!(f, "`{name}` holds `{found}`; biases must be finite numbers")
            }
            Self::Cache(fault) => write!(f, "{fault}"),
            Self::UnknownPooling { name } => {
                unknown(f, ["pooling", name], &Pooling::ALL.map(Pooling::name))
            }
            Self::UnknownLinearKind { name } => {
                let known = LinearKind::ALL.map(LinearKind::name);
                unknown(f, ["kind of arithmetic", name], &known)
            }
            Self::UnknownActivation { name } => {
                let known = LinearActivation::ALL.map(LinearActivation::name);
                unknown(f, ["activation", name], &known)
            }
            Self::Gate { gate, up } => write!(
                f,
                "the gate is `{gate}` but what it multiplies is `{up}`; they must be alike"
            ),
            Self::Dimensions { asked, available } => write!(
                f,
                "cannot cut a vector of `{available}` dimensions to `{asked}`; \
                 ask for 1 to `{available}`"
            ),
            Self::Row(fault) => write!(f, "{fault}"),
            Self::Parallel { message } => write!(f, "the thread pool failed: {message}"),
        }
    }
}

impl Error for KernelError {}

impl From<CacheFault> for KernelError {
    fn from(fault: CacheFault) -> Self {
        Self::Cache(fault)
    }
}

impl From<RowFault> for KernelError {
    fn from(fault: RowFault) -> Self {
        Self::Row(fault)
    }
}

impl RowFault {
    /// The number that stands for it beside many rows; 0 is a row without a fault.
    pub fn code(self) -> i32 {
        match self {
            Self::NonFinite => 1,
            Self::ZeroNorm => 2,
        }
    }

    /// What a number of `code` stands for. No other numbers are made; a row that has one cannot
    /// be trusted either.
    pub fn of_code(code: i32) -> Option<Self> {
        match code {
            0 => None,
            2 => Some(Self::ZeroNorm),
            _ => Some(Self::NonFinite),
        }
    }
}

impl fmt::Display for RowFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NonFinite => write!(f, "the vector contains NaN or an infinity"),
            Self::ZeroNorm => write!(f, "all values of the vector are zero"),
        }
    }
}

impl Error for RowFault {}
