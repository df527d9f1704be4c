//! The weights of a graph as ONNX Runtime values over memory that this crate owns.

use std::ffi::c_void;
use std::ptr::NonNull;
use std::sync::Arc;

use ort::AsPointer;
use ort::memory::{Allocator, MemoryInfo};
use ort::value::{DynValue, Tensor as OwnedTensor, TensorElementType};

use crate::checkpoint::halves::F16Values;
use crate::checkpoint::weights::{F32Values, Tensor};
use crate::error::{Error, Result};
use crate::graph::weight_only::QuantizedWeight;
use crate::quantize::quantize;
use crate::quantize::store::{Part, RoundedStore, Rounding};

/// Weights as ONNX Runtime values that point into memory owned by this struct.
///
/// The values must not outlive `tensors`. Only the module above has them, for the
/// sessions of `SharedGraph`, and `LoadedSession` keeps this struct alive until after its session
/// is gone (fields drop in the order they are declared, here as there), but for a session that has
/// copied the numbers when it was opened.
pub(super) struct Initializers {
    pub(super) values: Vec<(String, Arc<DynValue>)>,
    tensors: Vec<F32Values>,
    halves: Vec<F16Values>,
}

impl Initializers {
    pub(super) fn new(weights: Vec<(String, Tensor)>) -> Result<Self> {
        let mut initializers = Self {
            values: Vec::new(),
            tensors: Vec::new(),
            halves: Vec::new(),
        };
        for (name, tensor) in weights {
            let shape: Vec<i64> = tensor.shape().iter().map(|&length| length as i64).collect();
            let values = tensor.to_f32()?;
            // SAFETY: the numbers lie in a mapped file or on the heap, so they stay where they
            // are when `values` moves into `tensors`, and `Initializers` keeps them long enough.
            let value = unsafe {
                let numbers = values.as_slice();
                let bytes = (numbers.as_ptr().cast(), size_of_val(numbers));
                borrowed_value(bytes, &shape, TensorElementType::Float32)
            }?;
            initializers.values.push((name, Arc::new(value)));
            initializers.tensors.push(values);
        }
        Ok(initializers)
    }

    /// Adds tables that stay in the file in the type that they have there.
    pub(super) fn add_tables(&mut self, tables: Vec<(String, Tensor)>) -> Result<()> {
        for (name, tensor) in tables {
            let shape: Vec<i64> = tensor.shape().iter().map(|&length| length as i64).collect();
            let element_type = match &*tensor.dtype() {
                "float16" => TensorElementType::Float16,
                _ => TensorElementType::Bfloat16,
            };
            let bytes = (tensor.data().as_ptr(), tensor.data().len());
            // SAFETY: the bytes lie in a mapped file that the tensor, which is kept, keeps.
            let value = unsafe { borrowed_value(bytes, &shape, element_type) }?;
            self.values.push((name, Arc::new(value)));
            self.tensors.push(F32Values::Mapped(tensor));
        }
        Ok(())
    }

    /// Adds matrices in few bits: as they lie in the store, or in memory where that cannot keep
    /// them.
    pub(super) fn add_rounded(
        &mut self,
        weights: &[QuantizedWeight],
        store: Option<&RoundedStore>,
    ) -> Result<Rounding> {
        if weights.is_empty() {
            return Ok(Rounding::Nothing);
        }
        let stored = match store.map(|store| store.rounded(weights)) {
            Some(Ok(stored)) => stored,
            kept => {
                let reason = match kept {
                    Some(Err(error)) => error.to_string(),
                    Some(Ok(_)) | None => "no folder was given for them".to_owned(),
                };
                self.round(weights)?;
                return Ok(Rounding::InMemory(reason));
            }
        };
        let (files, rounding) = stored;
        for weight in weights {
            for (part, element_type) in [
                (Part::Numbers, TensorElementType::Uint8),
                (Part::Scales, TensorElementType::Float32),
            ] {
                let (name, _, shape) = part.of(weight);
                let missing = || Error::Runtime(format!("`{name}` is not where it was kept"));
                let tensor = files.get(name).ok_or_else(missing)?.clone();
                let shape: Vec<i64> = shape.into_iter().map(|length| length as i64).collect();
                let bytes = (tensor.data().as_ptr(), tensor.data().len());
                // SAFETY: the bytes lie in a mapped file that the tensor, which is kept, keeps; the
                // store has made sure of their type and number.
                let value = unsafe { borrowed_value(bytes, &shape, element_type) }?;
                self.values.push((name.to_owned(), Arc::new(value)));
                self.tensors.push(F32Values::Mapped(tensor));
            }
        }
        Ok(rounding)
    }

    /// Rounds in memory.
    fn round(&mut self, weights: &[QuantizedWeight]) -> Result<()> {
        for weight in weights {
            let (numbers, scales) = quantize(&weight.tensor, weight.bits)?;
            let (_, _, shape) = Part::Numbers.of(weight);
            let numbers = OwnedTensor::from_array((shape, numbers))?;
            let scales = OwnedTensor::from_array((weight.shape(), scales))?;
            let values = &mut self.values;
            values.push((weight.numbers.clone(), Arc::new(numbers.into_dyn())));
            values.push((weight.scales.clone(), Arc::new(scales.into_dyn())));
            weight.tensor.release_pages();
        }
        Ok(())
    }

    /// Adds tensors in 16-bit floating point.
    pub(super) fn add_halves(&mut self, halves: Vec<(String, Tensor)>) -> Result<()> {
        for (name, tensor) in halves {
            let shape: Vec<i64> = tensor.shape().iter().map(|&length| length as i64).collect();
            let values = tensor.to_f16()?;
            // SAFETY: the numbers lie on the heap or in a mapped file, and are kept.
            let value = unsafe {
                let numbers = values.as_slice();
                let bytes = (numbers.as_ptr().cast(), size_of_val(numbers));
                borrowed_value(bytes, &shape, TensorElementType::Float16)
            }?;
            self.values.push((name, Arc::new(value)));
            self.halves.push(values);
        }
        Ok(())
    }

    /// Makes an end of all numbers in memory of this process, so that nobody can still read them.
    #[cfg(test)]
    pub(super) fn overwrite(&mut self) {
        for values in &mut self.tensors {
            if let F32Values::Owned(values) = values {
                values.fill(f32::NAN);
            }
        }
        for values in &mut self.halves {
            if let F16Values::Owned(values) = values {
                values.fill(half::f16::NAN);
            }
        }
    }

    /// Once a session is open ONNX Runtime has its own packed copy of the large matrices; the
    /// originals need not stay in memory. What is still used, such as rows of the embeddings,
    /// comes back from the file cache when it is touched.
    pub(super) fn release_pages(&self) {
        for tensor in &self.tensors {
            if let F32Values::Mapped(tensor) = tensor {
                tensor.release_pages();
            }
        }
        for values in &self.halves {
            values.release_pages();
        }
    }
}

impl Drop for Initializers {
    fn drop(&mut self) {
        self.release_pages();
    }
}

/// An ONNX Runtime value over numbers that it does not own. (`ort` has safe constructors for
/// owned and for borrowed values, but sessions accept only owned ones.)
///
/// # Safety
/// The bytes must hold as many numbers as the shape says, and stay where they are, unchanged, until
/// the value and every session that was given it are dropped.
unsafe fn borrowed_value(
    (bytes, length): (*const u8, usize),
    shape: &[i64],
    element_type: TensorElementType,
) -> Result<DynValue> {
    let info = MemoryInfo::default();
    let mut value = std::ptr::null_mut();
    // SAFETY: all pointers are valid for the call; the data holds as many numbers as the length
    // in bytes says. ONNX Runtime takes a mutable pointer for every tensor but writes only to the
    // outputs of nodes, and an initializer is none.
    let status = unsafe {
        (ort::api().CreateTensorWithDataAsOrtValue)(
            info.ptr(),
            bytes.cast_mut().cast::<c_void>(),
            length,
            shape.as_ptr(),
            shape.len(),
            element_type.into(),
            &mut value,
        )
    };
    // SAFETY: the status comes from the call above and is consumed once.
    unsafe { ort::Error::result_from_status(status) }?;
    let value = NonNull::new(value)
        .ok_or_else(|| Error::Runtime("created no tensor for a weight".to_owned()))?;
    // SAFETY: the pointer is a fresh tensor that nobody else owns. It has no allocator of its own
    // because its data is borrowed; the default one is only kept alive beside it.
    Ok(unsafe { DynValue::from_ptr(value, Some(&Allocator::default())) })
}
