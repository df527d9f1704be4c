//! Tensors in 16-bit floating point, as a GPU is given them.

use half::f16;
use half::slice::HalfFloatSliceExt;

use super::weights::{F32Values, Tensor};
use crate::error::{Error, Result};

/// Numbers that are narrowed at once.
const BLOCK: usize = 4096;

/// The values of a tensor in 16-bit floating point, and what keeps them alive.
#[derive(Debug)]
pub(crate) enum F16Values {
    /// Used where they lie in the file.
    Mapped(Tensor),
    /// Converted from another type, or copied because the file has them misaligned.
    Owned(Vec<f16>),
}

impl F16Values {
    /// The values, row by row.
    pub(crate) fn as_slice(&self) -> &[f16] {
        match self {
            Self::Mapped(tensor) => as_f16(tensor.data()).unwrap_or_default(),
            Self::Owned(values) => values,
        }
    }

    /// Tells the system that the pages of the file need not stay in memory.
    pub(crate) fn release_pages(&self) {
        if let Self::Mapped(tensor) = self {
            tensor.release_pages();
        }
    }
}

impl Tensor {
    /// The values in 16-bit floating point, each the nearest that there is, without a copy where
    /// the file already has them so.
    ///
    /// # Errors
    /// `Error::Unsupported` for a number that is beyond 16 bits, and for a type that is not a plain
    /// floating-point type.
    pub(crate) fn to_f16(&self) -> Result<F16Values> {
        if self.f16_range().is_some() && as_f16(self.data()).is_some() {
            return Ok(F16Values::Mapped(self.clone()));
        }
        let wide = self.to_f32()?;
        let mut narrow = vec![f16::ZERO; wide.as_slice().len()];
        for (out, numbers) in narrow.chunks_mut(BLOCK).zip(wide.as_slice().chunks(BLOCK)) {
            out.convert_from_f32_slice(numbers);
            let pairs = out.iter().zip(numbers);
            let lost = |(narrow, wide): &(&f16, &f32)| narrow.is_infinite() && wide.is_finite();
            if let Some((_, number)) = pairs.clone().find(lost) {
                return Err(Error::Unsupported(format!(
                    "`{}`: a weight is `{number}`, more than 16-bit floating point holds; take \
                     `fp32`",
                    self.file().display()
                )));
            }
        }
        if let F32Values::Mapped(tensor) = &wide {
            tensor.release_pages();
        }
        Ok(F16Values::Owned(narrow))
    }
}

/// Views bytes as numbers; `None` when they do not lie on a boundary of two.
fn as_f16(bytes: &[u8]) -> Option<&[f16]> {
    // SAFETY: every bit pattern is a valid `f16`. (Both sides are little-endian: see lib.rs.)
    let (before, values, after) = unsafe { bytes.align_to::<f16>() };
    (before.is_empty() && after.is_empty()).then_some(values)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use safetensors::tensor::{Dtype, TensorView, serialize};

    use super::*;
    use crate::checkpoint::Weights;

    #[test]
    fn numbers_become_the_nearest_of_16_bits_or_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let wide: Vec<u8> = [1.0_f32, 2049.0, -0.1].map(f32::to_le_bytes).concat();
        let half: Vec<u8> = [0.5_f32, -3.0]
            .map(|n| f16::from_f32(n).to_le_bytes())
            .concat();
        let huge = 1e5_f32.to_le_bytes();
        let view =
            |dtype, shape: &[usize], bytes| TensorView::new(dtype, shape.to_vec(), bytes).unwrap();
        let tensors = [
            ("wide", view(Dtype::F32, &[3], &wide)),
            ("half", view(Dtype::F16, &[2], &half)),
            ("huge", view(Dtype::F32, &[1], &huge)),
        ];
        let path = dir.path().join("model.safetensors");
        fs::write(path, serialize(tensors, None).unwrap()).unwrap();
        let weights = Weights::open(dir.path()).unwrap();
        let values = |name: &str| weights.get(name).unwrap().to_f16();

        let wide = values("wide").unwrap();
        // 2049 lies between 2048 and 2050, of which the even one is taken.
        let expected = [1.0, 2048.0, -0.1].map(f16::from_f32);
        assert_eq!(wide.as_slice(), expected);
        let half = values("half").unwrap();
        assert_eq!(half.as_slice(), [0.5, -3.0].map(f16::from_f32));
        assert!(
            matches!(half, F16Values::Mapped(_)),
            "it lies there already"
        );
        let error = values("huge").unwrap_err().to_string();
        assert!(
            error.contains("`100000`") && error.contains("`fp32`"),
            "{error}"
        );
    }
}
