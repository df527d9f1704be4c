//! A file of `torch.save`, version 1.6 or later: a zip file whose entry `data.pkl` says which
//! tensors there are, and whose entries `data/<key>` hold the numbers. They are used in place.

use std::collections::HashMap;
use std::ops::Range;

use safetensors::tensor::Dtype;

use super::pickle::{self, StateTensor};
use super::zip;

/// A tensor of a file and where its numbers are.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TorchTensor<'a> {
    pub(super) name: &'a str,
    pub(super) dtype: Dtype,
    pub(super) shape: Vec<usize>,
    /// Bytes in the file.
    pub(super) bytes: Range<usize>,
}

const ADVICE: &str = "convert the checkpoint to `model.safetensors`";

/// Lists the tensors of a file.
///
/// # Errors
/// A message when the file has another form, holds more than tensors, or has a tensor whose
/// numbers are not in the order in which they are used.
pub(super) fn read(file: &[u8]) -> Result<Vec<TorchTensor<'_>>, String> {
    if !file.starts_with(b"PK\x03\x04") {
        let length = file.len();
        // Before 1.6 a file was a sequence of pickles, and before 0.1.10 a tar file.
        let is_old = file.starts_with(b"\x80\x02\x8a\x0a") || file.get(257..262) == Some(b"ustar");
        return Err(if is_old {
            format!("was saved in the form of PyTorch before 1.6, which is not read; {ADVICE}")
        } else {
            format!("is not a PyTorch file ({length} bytes)")
        });
    }
    let entries = zip::stored_entries(file).map_err(|message| format!("{message}; {ADVICE}"))?;
    let folder = folder(&entries)?;
    let entry = |name: &str| entries.get(format!("{folder}/{name}").as_str()).cloned();
    // Releases before 2.1 did not write it, and ran on little-endian machines.
    if let Some(order) = entry("byteorder")
        && file[order.clone()] != *b"little"
    {
        return Err(format!(
            "holds numbers that are not little-endian; {ADVICE}"
        ));
    }
    let pickle = entry("data.pkl").ok_or("has no entry `data.pkl`")?;
    let tensors = pickle::read(&file[pickle])?;
    tensors
        .into_iter()
        .map(|tensor| {
            let name = tensor.name;
            let data = entry(&format!("data/{}", tensor.storage.key));
            data.ok_or_else(|| format!("has no entry `data/{}`", tensor.storage.key))
                .and_then(|data| located(tensor, &data))
                .map_err(|message| format!("tensor `{name}`: {message}"))
        })
        .collect()
}

/// The one folder that all entries are in; its name is up to who saved the file.
fn folder<'a>(entries: &HashMap<&'a str, Range<usize>>) -> Result<&'a str, String> {
    let mut folders = entries
        .keys()
        .filter_map(|name| name.strip_suffix("/data.pkl"));
    match (folders.next(), folders.next()) {
        (Some(folder), None) => Ok(folder),
        (None, _) => Err("is a zip file without an entry `data.pkl`".to_owned()),
        (Some(_), Some(_)) => Err("has several entries `data.pkl`".to_owned()),
    }
}

/// Where a tensor's numbers are, given where its storage is.
fn located<'a>(tensor: StateTensor<'a>, data: &Range<usize>) -> Result<TorchTensor<'a>, String> {
    let StateTensor {
        name,
        storage,
        offset,
        shape,
        strides,
    } = tensor;
    let width = storage.dtype.bitsize() / 8;
    if storage.elements.checked_mul(width) != Some(data.len()) {
        return Err(format!(
            "storage `{}` has `{}` bytes, not `{}` numbers of `{width}` bytes",
            storage.key,
            data.len(),
            storage.elements
        ));
    }
    let elements = shape
        .iter()
        .try_fold(1_usize, |product, &length| product.checked_mul(length));
    let range = elements.and_then(|elements| Some(offset..offset.checked_add(elements)?));
    let Some(range) = range.filter(|range| range.end <= storage.elements) else {
        return Err(format!(
            "shape `{shape:?}` from element `{offset}` on is more than the `{}` elements of \
             storage `{}`",
            storage.elements, storage.key
        ));
    };
    if !is_row_major(&shape, &strides) {
        return Err(format!(
            "its numbers lie in another order than row by row (shape `{shape:?}`, strides \
             `{strides:?}`); {ADVICE}"
        ));
    }
    Ok(TorchTensor {
        name,
        dtype: storage.dtype,
        bytes: data.start + range.start * width..data.start + range.end * width,
        shape,
    })
}

/// Whether neighbours along the innermost axis are neighbours in memory, and so on outwards. The
/// step along an axis of length 1 is never taken.
fn is_row_major(shape: &[usize], strides: &[usize]) -> bool {
    let mut step = 1_usize;
    let fits = |(&length, &stride): (&usize, &usize)| {
        let fits = length == 1 || stride == step;
        step = step.saturating_mul(length);
        fits
    };
    let empty = shape.contains(&0);
    shape.len() == strides.len() && (empty || shape.iter().zip(strides).rev().all(fits))
}

#[cfg(test)]
mod tests;
