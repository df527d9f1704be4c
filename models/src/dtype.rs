//! What the linear layers of a model are computed in: what an operator may choose, and what is
//! computed in the end. Embeddings, norms and heads are always computed in 32-bit floating point.

use std::fmt;
use std::str::FromStr;

use retort_kernels::Isa;
use retort_kernels::linear::LinearKind;

use crate::error::Error;
use crate::graph::ElementType;
use crate::provider::Provider;

/// What an operator chooses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum DtypeChoice {
    /// On a processor `Bf16` where it has instructions for it, on a GPU `Fp16`, if the model's
    /// outputs stay what they are; else `Fp32`. Never `Int8`.
    Auto,
    /// 32-bit floating point, as the reference implementations compute.
    #[default]
    Fp32,
    /// 16-bit floating point, on a GPU only; sums, norms and poolings in 32 bits.
    Fp16,
    /// Weights and activations in bfloat16, sums in 32 bits.
    Bf16,
    /// Weights in 8 bits with a scale per output, activations with one per token.
    Int8,
}

impl DtypeChoice {
    /// Every choice, in the order in which they are listed to people.
    pub const ALL: [Self; 5] = [Self::Auto, Self::Fp32, Self::Fp16, Self::Bf16, Self::Int8];

    /// What it is called: `auto`, `fp32`, `fp16`, `bf16` or `int8`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Fp32 => "fp32",
            Self::Fp16 => "fp16",
            Self::Bf16 => "bf16",
            Self::Int8 => "int8",
        }
    }

    /// What is tried first on a provider.
    ///
    /// # Errors
    /// `Error::Unsupported` for a type that the provider does not compute in.
    pub fn tried_on(self, provider: &Provider) -> Result<Dtype, Error> {
        let refuse = |why: &str| Err(Error::Unsupported(format!("dtype `{self}` {why}")));
        match (provider, self) {
            (Provider::Cpu, Self::Fp16) => refuse("is for GPUs; take `auto` or `bf16`"),
            (Provider::Cpu, _) => Ok(self.tried()),
            (Provider::Cuda(_), Self::Auto | Self::Fp16) => Ok(Dtype::Fp16),
            (Provider::Cuda(_), Self::Fp32) => Ok(Dtype::Fp32),
            (Provider::Cuda(_), Self::Bf16 | Self::Int8) => {
                refuse("is for processors; on a GPU take `auto`, `fp16` or `fp32`")
            }
        }
    }

    /// What is tried first on a processor. On one that is not fast at bfloat16, `Auto` is `Fp32`.
    pub fn tried(self) -> Dtype {
        match self {
            Self::Auto if LinearKind::Bf16.is_fast(Isa::detect()) => Dtype::Bf16,
            Self::Auto | Self::Fp32 => Dtype::Fp32,
            Self::Fp16 => Dtype::Fp16,
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
    /// 16-bit floating point.
    Fp16,
    /// bfloat16.
    Bf16,
    /// 8-bit whole numbers.
    Int8,
}

impl Dtype {
    /// As PyTorch names it: `float32`, `float16`, `bfloat16` or `int8`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Fp32 => "float32",
            Self::Fp16 => "float16",
            Self::Bf16 => "bfloat16",
            Self::Int8 => "int8",
        }
    }

    /// As it is chosen: `fp32`, `fp16`, `bf16` or `int8`.
    pub(crate) fn short_name(self) -> &'static str {
        match self {
            Self::Fp32 => "fp32",
            Self::Fp16 => "fp16",
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
    /// What a GPU computes in, with the operators that ONNX Runtime has for it; `None` on a
    /// processor. Then the other two are `None`.
    pub(crate) gpu: Option<ElementType>,
}

impl Arithmetic {
    /// 32-bit floating point with the products of ONNX Runtime, so that what is held against it
    /// shares no product with it.
    pub(crate) const REFERENCE: Self = Self {
        linears: None,
        attention: None,
        gpu: None,
    };

    /// How a graph is computed that a provider runs in `dtype`.
    pub(crate) fn on(provider: &Provider, dtype: Dtype, isa: Isa) -> Self {
        match provider {
            Provider::Cpu => Self::of(dtype, isa),
            Provider::Cuda(_) => Self::on_gpu(dtype),
        }
    }

    /// How models are served on a GPU.
    fn on_gpu(dtype: Dtype) -> Self {
        let element = match dtype {
            Dtype::Fp16 => ElementType::F16,
            Dtype::Fp32 | Dtype::Bf16 | Dtype::Int8 => ElementType::F32,
        };
        Self {
            gpu: Some(element),
            ..Self::REFERENCE
        }
    }

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
            Dtype::Fp16 => Self::on_gpu(dtype),
            Dtype::Bf16 => Self {
                linears: Some(LinearKind::Bf16),
                attention: Some("bf16"),
                ..Self::REFERENCE
            },
            Dtype::Int8 => Self {
                linears: Some(LinearKind::Int8),
                attention: Some("bf16"),
                ..Self::REFERENCE
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
        let error = "fp8".parse::<DtypeChoice>().unwrap_err().to_string();
        assert!(
            error.contains("`fp8`") && error.contains("`bf16`"),
            "{error}"
        );
    }

    #[test]
    fn each_provider_has_types_of_its_own() {
        let gpu = Provider::Cuda(crate::CudaOptions::default());
        for (choice, on_processor, on_gpu) in [
            (DtypeChoice::Fp32, Some(Dtype::Fp32), Some(Dtype::Fp32)),
            (DtypeChoice::Fp16, None, Some(Dtype::Fp16)),
            (DtypeChoice::Bf16, Some(Dtype::Bf16), None),
            (DtypeChoice::Int8, Some(Dtype::Int8), None),
        ] {
            assert_eq!(choice.tried_on(&Provider::Cpu).ok(), on_processor);
            assert_eq!(choice.tried_on(&gpu).ok(), on_gpu);
        }
        assert_eq!(DtypeChoice::Auto.tried_on(&gpu).unwrap(), Dtype::Fp16);
        let error = DtypeChoice::Fp16.tried_on(&Provider::Cpu).unwrap_err();
        assert_eq!(
            error.to_string(),
            "dtype `fp16` is for GPUs; take `auto` or `bf16`"
        );
    }

    #[test]
    fn nothing_is_quantized_unasked() {
        assert_ne!(DtypeChoice::Auto.tried(), Dtype::Int8);
        assert_eq!(DtypeChoice::default().tried(), Dtype::Fp32);
    }
}
