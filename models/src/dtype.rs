//! What the linear layers of a model are computed in: what an operator may choose, and what is
//! computed in the end. Embeddings, norms and heads are always computed in 32-bit floating point.

use std::fmt;
use std::str::FromStr;

use retort_kernels::Isa;
use retort_kernels::linear::LinearKind;

use crate::error::Error;

/// What an operator chooses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum DtypeChoice {
    /// `Bf16` where the processor has instructions for it and the model's outputs stay what they
    /// are, else `Fp32`. Never `Int8`.
    Auto,
    /// 32-bit floating point, as the reference implementations compute.
    #[default]
    Fp32,
    /// Weights and activations in bfloat16, sums in 32 bits.
    Bf16,
    /// Weights in 8 bits with a scale per output, activations with one per token.
    Int8,
}

impl DtypeChoice {
    /// Every choice, in the order in which they are listed to people.
    pub const ALL: [Self; 4] = [Self::Auto, Self::Fp32, Self::Bf16, Self::Int8];

    /// What it is called: `auto`, `fp32`, `bf16` or `int8`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Fp32 => "fp32",
            Self::Bf16 => "bf16",
            Self::Int8 => "int8",
        }
    }

    /// What is tried first. On a processor that is not fast at bfloat16, `Auto` is `Fp32`.
    pub fn tried(self) -> Dtype {
        match self {
            Self::Auto if LinearKind::Bf16.is_fast(Isa::detect()) => Dtype::Bf16,
            Self::Auto | Self::Fp32 => Dtype::Fp32,
            Self::Bf16 => Dtype::Bf16,
            Self::Int8 => Dtype::Int8,
        }
    }
}

impl fmt::Display for DtypeChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for DtypeChoice {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let named = Self::ALL.into_iter().find(|choice| choice.name() == text);
        named.ok_or_else(|| {
            let known = Self::ALL.map(|choice| format!("`{choice}`")).join(", ");
            Error::Unsupported(format!("there is no dtype `{text}`; known are {known}"))
        })
    }
}

/// What is computed in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dtype {
    /// 32-bit floating point.
    Fp32,
    /// bfloat16.
    Bf16,
    /// 8-bit whole numbers.
    Int8,
}

impl Dtype {
    /// As PyTorch names it: `float32`, `bfloat16` or `int8`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Fp32 => "float32",
            Self::Bf16 => "bfloat16",
            Self::Int8 => "int8",
        }
    }

    /// As it is chosen: `fp32`, `bf16` or `int8`.
    pub(crate) fn short_name(self) -> &'static str {
        match self {
            Self::Fp32 => "fp32",
            Self::Bf16 => "bf16",
            Self::Int8 => "int8",
        }
    }
}

/// Who computes the layers of a graph, and in what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Arithmetic {
    /// The kernel of our own that the linear layers run on; `None` leaves them to the `Gemm` of
    /// ONNX Runtime.
    pub(crate) linears: Option<LinearKind>,
    /// The `precision` of attention; `None` for the default, 32 bits.
    pub(crate) attention: Option<&'static str>,
}

impl Arithmetic {
    /// 32-bit floating point with the products of ONNX Runtime, so that what is held against it
    /// shares no product with it.
    pub(crate) const REFERENCE: Self = Self {
        linears: None,
        attention: None,
    };

    /// How models that are computed in `dtype` are served on a processor. In 32 bits our products
    /// are no faster than those of ONNX Runtime, but what follows them is computed while they are
    /// at hand; where that was not measured, they are left to ONNX Runtime.
    pub(crate) fn of(dtype: Dtype, isa: Isa) -> Self {
        match dtype {
            Dtype::Fp32 if LinearKind::Fp32.is_fast(isa) => Self {
                linears: Some(LinearKind::Fp32),
                ..Self::REFERENCE
            },
            Dtype::Fp32 => Self::REFERENCE,
            Dtype::Bf16 => Self {
                linears: Some(LinearKind::Bf16),
                attention: Some("bf16"),
            },
            Dtype::Int8 => Self {
                linears: Some(LinearKind::Int8),
                attention: Some("bf16"),
            },
        }
    }
}

/// How near the outputs of a model are to those in 32-bit floating point, on sentences that are
/// built in.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Fidelity {
    /// The lowest cosine of two outputs that are vectors; `None` where it was not measured.
    pub cosine: Option<f32>,
    /// The largest difference of two logits, as a share of the right one where that is beyond 1.
    pub logit_difference: Option<f32>,
    /// Why `Auto` is `Fp32`, where there was something to choose.
    pub fallback: Option<String>,
}

/// What a load found out about files by running them twice, so that the next load of the same files
/// need not.
#[derive(Debug, Clone, PartialEq)]
pub struct Measured {
    /// What the layers are computed in.
    pub dtype: Dtype,
    /// How near that is to 32-bit floating point.
    pub fidelity: Fidelity,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_choice_is_read_as_it_is_written() {
        for choice in DtypeChoice::ALL {
            assert_eq!(choice.to_string().parse::<DtypeChoice>().unwrap(), choice);
        }
        let error = "fp16".parse::<DtypeChoice>().unwrap_err().to_string();
        assert!(
            error.contains("`fp16`") && error.contains("`bf16`"),
            "{error}"
        );
    }

    #[test]
    fn nothing_is_quantized_unasked() {
        assert_ne!(DtypeChoice::Auto.tried(), Dtype::Int8);
        assert_eq!(DtypeChoice::default().tried(), Dtype::Fp32);
    }
}
