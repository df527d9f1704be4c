//! Weights in the type of their file, for those who can compute with it: nothing is widened.

use retort_kernels::linear::WeightValues;
use safetensors::tensor::Dtype;

use super::{F32Values, Tensor, as_f32};
use crate::error::Result;

/// The values of a tensor in the floating-point type of its file.
#[derive(Debug)]
pub(crate) enum StoredValues<'t> {
    /// Where they lie in the file.
    Mapped(WeightValues<'t>),
    /// Copied because the file has them misaligned or in another order.
    Owned(Vec<f32>),
}

impl StoredValues<'_> {
    pub(crate) fn borrowed(&self) -> WeightValues<'_> {
        match self {
            Self::Mapped(values) => *values,
            Self::Owned(values) => WeightValues::F32(values),
        }
    }
}

impl Tensor {
    /// The values as they are stored, without a copy where the file has them in order and aligned.
    ///
    /// # Errors
    /// As `to_f32`.
    pub(crate) fn stored_values(&self) -> Result<StoredValues<'_>> {
        let data = self.data();
        let mapped = match self.dtype {
            _ if self.order.is_some() => None,
            Dtype::F32 => as_f32(data).map(WeightValues::F32),
            Dtype::F16 => as_u16(data).map(WeightValues::F16),
            Dtype::BF16 => as_u16(data).map(WeightValues::Bf16),
            _ => None,
        };
        match mapped {
            Some(values) => Ok(StoredValues::Mapped(values)),
            None => Ok(StoredValues::Owned(self.to_f32()?.into_vec())),
        }
    }
}

impl F32Values {
    fn into_vec(self) -> Vec<f32> {
        match self {
            Self::Mapped(_) => self.as_slice().to_vec(),
            Self::Owned(values) => values,
        }
    }
}

/// Views bytes as 16-bit numbers; `None` when they do not lie on a boundary of two.
fn as_u16(bytes: &[u8]) -> Option<&[u16]> {
    // SAFETY: every bit pattern is a valid `u16`.
    let (before, values, after) = unsafe { bytes.align_to::<u16>() };
    (before.is_empty() && after.is_empty()).then_some(values)
}
