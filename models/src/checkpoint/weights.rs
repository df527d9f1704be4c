//! Tensors of a checkpoint, memory-mapped: one file or several with an index, of safetensors
//! (<https://github.com/huggingface/safetensors#format>) or, where there are none, of PyTorch.

mod stored;

use std::collections::HashMap;
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use half::slice::HalfFloatSliceExt;
use memmap2::Mmap;
use safetensors::tensor::{Dtype, SafeTensors};

use super::{json, torch_file};
use crate::error::{Error, Result};

/// Size of a number as it is computed with.
pub(crate) const F32_BYTES: usize = size_of::<f32>();

/// Where weights may be, best first: the file, or the index of several.
const LAYOUTS: [(&str, &str, Format); 2] = [
    (
        "model.safetensors",
        "model.safetensors.index.json",
        Format::Safetensors,
    ),
    (
        "pytorch_model.bin",
        "pytorch_model.bin.index.json",
        Format::Torch,
    ),
];

#[derive(Debug, Clone, Copy)]
enum Format {
    Safetensors,
    Torch,
}

/// All tensors of a checkpoint, by name. Nothing is read from disk until it is used.
#[derive(Debug)]
pub struct Weights {
    dir: PathBuf,
    tensors: HashMap<String, Tensor>,
    // The first file, whose directory is the one that ONNX Runtime is told of.
    main: Option<Arc<MappedFile>>,
}

/// One tensor in a mapped file.
#[derive(Debug, Clone)]
pub struct Tensor {
    file: Arc<MappedFile>,
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Range<usize>,
    // How the values are taken from the bytes when that is not one after the other.
    order: Option<SideBySide>,
}

/// Some rows of several matrices of one shape, which lie in a file one after the other, as one
/// matrix that has them side by side.
#[derive(Debug, Clone)]
struct SideBySide {
    // `[matrices, rows, width]` in the file
    stored: [usize; 3],
    rows: Range<usize>,
}

#[derive(Debug)]
struct MappedFile {
    // With symbolic links resolved, as ONNX Runtime will look at it.
    path: PathBuf,
    map: Mmap,
}

/// The values of a tensor in 32-bit floating point, and what keeps them alive.
#[derive(Debug)]
pub enum F32Values {
    /// Used where they lie in the file.
    Mapped(Tensor),
    /// Converted from a narrower type, or copied because the file has them misaligned.
    Owned(Vec<f32>),
}

impl Weights {
    /// Finds and maps the weights of the checkpoint in `dir`.
    ///
    /// # Errors
    /// `Error::Checkpoint` when there are none in a form that is read, or a header is malformed.
    pub fn open(dir: &Path) -> Result<Self> {
        let mut weights = Self::none(dir);
        weights.include(dir, "")?;
        Ok(weights)
    }

    /// No tensors yet, for a checkpoint in `dir` whose graph has its own.
    pub(crate) fn none(dir: &Path) -> Self {
        Self {
            dir: dir.to_owned(),
            tensors: HashMap::new(),
            main: None,
        }
    }

    /// Adds the weights in another directory, a module's, with `prefix` before their names.
    ///
    /// # Errors
    /// As `open`, and when there is a tensor of such a name already.
    pub(crate) fn include(&mut self, dir: &Path, prefix: &str) -> Result<()> {
        for (single, index, format) in LAYOUTS {
            let (single, index) = (dir.join(single), dir.join(index));
            if single.exists() {
                return self.add_file(&single, format, prefix);
            }
            if index.exists() {
                for shard in shards(&index)? {
                    self.add_file(&dir.join(shard), format, prefix)?;
                }
                return Ok(());
            }
        }
        let names = LAYOUTS.map(|(single, index, _)| format!("no `{single}` or `{index}`"));
        Err(Error::checkpoint(
            dir,
            format!("has {}", names.join(" and ")),
        ))
    }

    /// Whether `open` finds weights in `dir`, good or bad.
    pub(crate) fn are_in(dir: &Path) -> bool {
        let mut names = LAYOUTS
            .iter()
            .flat_map(|(single, index, _)| [single, index]);
        names.any(|name| dir.join(name).exists())
    }

    /// A tensor of this name, if there is one.
    pub fn get(&self, name: &str) -> Option<&Tensor> {
        self.tensors.get(name)
    }

    /// The names of all tensors, in no order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// The directory the weights come from.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The first file, symbolic links resolved, and its size in bytes.
    pub(crate) fn main_file(&self) -> Option<(&Path, usize)> {
        let main = self.main.as_deref()?;
        Some((&main.path, main.map.len()))
    }

    /// Adds the tensors of one file, a head's, with `prefix` before their names.
    ///
    /// # Errors
    /// `Error::Checkpoint` when it is malformed, or there is a tensor of such a name already.
    pub(crate) fn include_file(&mut self, path: &Path, prefix: &str) -> Result<()> {
        let safe = path.extension().is_some_and(|end| end == "safetensors");
        let format = if safe {
            Format::Safetensors
        } else {
            Format::Torch
        };
        self.add_file(path, format, prefix)
    }

    fn add_file(&mut self, path: &Path, format: Format, prefix: &str) -> Result<()> {
        let file = Arc::new(MappedFile::open(path)?);
        if self.main.is_none() {
            self.main = Some(Arc::clone(&file));
        }
        let malformed = |message: String| Error::checkpoint(path, message);
        let mut add = |name: &str, dtype, shape, bytes| {
            let tensor = Tensor {
                file: Arc::clone(&file),
                dtype,
                shape,
                bytes,
                order: None,
            };
            match self.tensors.insert(format!("{prefix}{name}"), tensor) {
                None => Ok(()),
                Some(_) => Err(malformed(format!("repeats the tensor `{name}`"))),
            }
        };
        match format {
            Format::Safetensors => {
                let length = file.map.len();
                let (header, metadata) =
                    SafeTensors::read_metadata(&file.map).map_err(|error| {
                        malformed(format!("not safetensors ({length} bytes): {error}"))
                    })?;
                let data = header + size_of::<u64>();
                for (name, info) in metadata.tensors() {
                    let (start, end) = info.data_offsets;
                    let bytes = data + start..data + end;
                    add(&name, info.dtype, info.shape.clone(), bytes)?;
                }
            }
            Format::Torch => {
                for tensor in torch_file::read(&file.map).map_err(malformed)? {
                    add(tensor.name, tensor.dtype, tensor.shape, tensor.bytes)?;
                }
            }
        }
        Ok(())
    }
}

impl MappedFile {
    fn open(path: &Path) -> Result<Self> {
        let unreadable = |error: std::io::Error| Error::checkpoint(path, error.to_string());
        let file = File::open(path).map_err(unreadable)?;
        // SAFETY: the map is private and read-only. As with every memory map, nobody may truncate
        // or rewrite the file while the process runs; checkpoints are replaced by renaming.
        let map = unsafe { Mmap::map(&file) }.map_err(unreadable)?;
        if let Some(pointer) = git_lfs_pointer(&map) {
            return Err(Error::checkpoint(path, pointer));
        }
        let path = path.canonicalize().map_err(unreadable)?;
        Ok(Self { path, map })
    }
}

impl Tensor {
    /// Lengths of the axes, outermost first.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The element type, as PyTorch names it where it does (`float32`, `bfloat16`).
    pub fn dtype(&self) -> String {
        match self.dtype {
            Dtype::F32 => "float32".to_owned(),
            Dtype::F16 => "float16".to_owned(),
            Dtype::BF16 => "bfloat16".to_owned(),
            Dtype::F64 => "float64".to_owned(),
            Dtype::I8 => "int8".to_owned(),
            other => format!("{other:?}"),
        }
    }

    /// The element type, for code that reads `data`.
    pub(crate) fn element(&self) -> Dtype {
        self.dtype
    }

    /// Its bytes, row by row, little-endian, where they are mapped; they may lie on any boundary.
    pub(crate) fn data(&self) -> &[u8] {
        &self.file.map[self.bytes.clone()]
    }

    /// Some of its rows as a tensor of their own, which lies in the same memory; `None` when it
    /// does not have them.
    pub fn rows(&self, rows: Range<usize>) -> Option<Self> {
        let (&all, rest) = self.shape.split_first()?;
        if rows.start > rows.end || rows.end > all || self.order.is_some() {
            return None;
        }
        let width = self.bytes.len() / all.max(1);
        let start = self.bytes.start + rows.start * width;
        let shape = [&[rows.len()], rest].concat();
        Some(Self {
            file: Arc::clone(&self.file),
            dtype: self.dtype,
            shape,
            bytes: start..start + rows.len() * width,
            order: None,
        })
    }

    /// Matrices that are stored one after the other, `[matrices, rows, width]`, as one of
    /// `[matrices * rows, width]` in the same memory; `None` when it has not three axes.
    pub(crate) fn stacked(&self) -> Option<Self> {
        let &[matrices, rows, width] = &self.shape[..] else {
            return None;
        };
        let shape = vec![matrices * rows, width];
        self.order.is_none().then(|| Self {
            shape,
            ..self.clone()
        })
    }

    /// The same side by side, and only some rows of each: `[rows, matrices * width]`. The numbers
    /// are copied when they are read.
    pub(crate) fn side_by_side(&self, rows: Range<usize>) -> Option<Self> {
        let &[matrices, all, width] = &self.shape[..] else {
            return None;
        };
        if rows.start > rows.end || rows.end > all || self.order.is_some() {
            return None;
        }
        Some(Self {
            shape: vec![rows.len(), matrices * width],
            order: Some(SideBySide {
                stored: [matrices, all, width],
                rows,
            }),
            ..self.clone()
        })
    }

    /// Number of elements.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// Bytes in the file.
    pub fn byte_len(&self) -> usize {
        match &self.order {
            Some(order) => self.bytes.len() / order.stored[1].max(1) * order.rows.len(),
            None => self.bytes.len(),
        }
    }

    /// The file it is in, symbolic links resolved.
    pub fn file(&self) -> &Path {
        &self.file.path
    }

    /// Where its bytes are in the file, when they are 32-bit floating point; else `None`.
    pub fn f32_range(&self) -> Option<Range<usize>> {
        let as_stored = self.dtype == Dtype::F32 && self.order.is_none();
        as_stored.then(|| self.bytes.clone())
    }

    /// The same of 16-bit floating point.
    pub(crate) fn f16_range(&self) -> Option<Range<usize>> {
        let as_stored = self.dtype == Dtype::F16 && self.order.is_none();
        as_stored.then(|| self.bytes.clone())
    }

    /// Where its bytes are in the file.
    pub(crate) fn stored_range(&self) -> Range<usize> {
        self.bytes.clone()
    }

    /// Where its bytes are in the file, when `to_f32` would use them there.
    pub(crate) fn mapped_range(&self) -> Option<Range<usize>> {
        // The map begins on a page, so the place in the file tells the alignment.
        self.f32_range()
            .filter(|bytes| bytes.start.is_multiple_of(align_of::<f32>()))
    }

    /// Size of the file it is in.
    pub fn file_len(&self) -> usize {
        self.file.map.len()
    }

    /// The values in 32-bit floating point, without a copy where the file already has them so.
    ///
    /// # Errors
    /// `Error::Unsupported` for a type that is not a plain floating-point type.
    pub fn to_f32(&self) -> Result<F32Values> {
        if let Some(order) = &self.order {
            let stored = Self {
                order: None,
                ..self.clone()
            };
            let stored = stored.to_f32()?;
            return Ok(F32Values::Owned(order.collect(stored.as_slice())));
        }
        let data = &self.file.map[self.bytes.clone()];
        match self.dtype {
            Dtype::F32 if as_f32(data).is_some() => Ok(F32Values::Mapped(self.clone())),
            Dtype::F32 => {
                let value = |b: &[u8]| f32::from_le_bytes([b[0], b[1], b[2], b[3]]);
                Ok(F32Values::Owned(data.chunks_exact(4).map(value).collect()))
            }
            Dtype::F16 => Ok(F32Values::Owned(widen(data, half::f16::from_le_bytes))),
            Dtype::BF16 => Ok(F32Values::Owned(widen(data, half::bf16::from_le_bytes))),
            _ => Err(Error::Unsupported(format!(
                "`{}`: a weight has type `{:?}`; known are `F32`, `F16` and `BF16`",
                self.file.path.display(),
                self.dtype
            ))),
        }
    }

    /// Tells the kernel that the pages of this tensor need not stay in memory. They are read from
    /// the file again when somebody touches them.
    pub(crate) fn release_pages(&self) {
        // Whole pages only: the neighbours may be in use.
        const PAGE: usize = 4096;
        let start = self.bytes.start.next_multiple_of(PAGE);
        let end = self.bytes.end / PAGE * PAGE;
        if end > start {
            #[cfg(unix)]
            // SAFETY: the map is read-only and backed by the file, so dropped pages come back with
            // the same contents.
            let _ = unsafe {
                let advice = memmap2::UncheckedAdvice::DontNeed;
                self.file
                    .map
                    .unchecked_advise_range(advice, start, end - start)
            };
        }
    }
}

impl SideBySide {
    fn collect(&self, stored: &[f32]) -> Vec<f32> {
        let [matrices, all, width] = self.stored;
        let row = |row: usize, matrix: usize| {
            let start = (matrix * all + row) * width;
            &stored[start..start + width]
        };
        let rows = self.rows.clone();
        rows.flat_map(|at| (0..matrices).flat_map(move |matrix| row(at, matrix)))
            .copied()
            .collect()
    }
}

impl F32Values {
    /// The values, row by row.
    pub fn as_slice(&self) -> &[f32] {
        match self {
            Self::Mapped(tensor) => {
                as_f32(&tensor.file.map[tensor.bytes.clone()]).unwrap_or_default()
            }
            Self::Owned(values) => values,
        }
    }
}

/// Views bytes as numbers; `None` when they do not lie on a boundary of four.
fn as_f32(bytes: &[u8]) -> Option<&[f32]> {
    // SAFETY: every bit pattern is a valid `f32`. (Both sides are little-endian: see lib.rs.)
    let (before, values, after) = unsafe { bytes.align_to::<f32>() };
    (before.is_empty() && after.is_empty()).then_some(values)
}

/// Converts 16-bit floating point of either kind.
fn widen<T: Copy + Default>(data: &[u8], from_bytes: impl Fn([u8; 2]) -> T) -> Vec<f32>
where
    [T]: HalfFloatSliceExt,
{
    const BLOCK: usize = 4096;
    let mut narrow = [T::default(); BLOCK];
    let mut wide = vec![0.0; data.len() / 2];
    for (out, bytes) in wide.chunks_mut(BLOCK).zip(data.chunks(BLOCK * 2)) {
        let block = &mut narrow[..out.len()];
        for (value, pair) in block.iter_mut().zip(bytes.chunks_exact(2)) {
            *value = from_bytes([pair[0], pair[1]]);
        }
        block.convert_to_f32_slice(out);
    }
    wide
}

/// The files that an index names, each once.
fn shards(index: &Path) -> Result<Vec<String>> {
    let value = json::read(index)?;
    let map = value["weight_map"].as_object();
    let map = map.ok_or_else(|| Error::checkpoint(index, "has no `weight_map`"))?;
    let mut files: Vec<String> = Vec::new();
    for file in map.values() {
        let name = file.as_str().unwrap_or_default();
        let plain = Path::new(name)
            .file_name()
            .is_some_and(|plain| plain == name);
        if !plain {
            return Err(Error::checkpoint(
                index,
                format!("`{file}` is not a file name"),
            ));
        }
        if !files.iter().any(|known| known == name) {
            files.push(name.to_owned());
        }
    }
    files.sort_unstable();
    Ok(files)
}

/// What to say when a file is only the pointer that git keeps in place of a large file.
pub(crate) fn git_lfs_pointer(bytes: &[u8]) -> Option<String> {
    let head = bytes
        .get(..bytes.len().min(1024))
        .filter(|_| bytes.len() <= 1024)?;
    head.starts_with(b"version https://git-lfs").then(|| {
        "is a Git LFS pointer, not the file itself; run `git lfs pull` in the checkpoint".to_owned()
    })
}
