//! Rounded matrices on disk: a model is rounded once, and its numbers are pages of a file that the
//! system may drop. There is one file for each model and choice of bits, in safetensors' form; its
//! header says what it was made of, and what the checksum of the rest is.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use crc32fast::Hasher;
use safetensors::tensor::Dtype;
use serde_json::{Map, Value, json};

use super::quantize;
use crate::checkpoint::weights::{Tensor, Weights};
use crate::error::{Error, Result};
use crate::graph::weight_only::{BLOCK, QuantizedWeight};

/// Raised whenever the same matrix would be rounded to other numbers, or laid out otherwise.
const FORMAT: u32 = 1;
/// Numbers begin on such a boundary, as ONNX Runtime's own do.
const ALIGNMENT: usize = 64;
/// More of a header than any model's is a damaged file.
const HEADER_BYTES_MAX: u64 = 64 << 20;
/// So much of both ends of a matrix tells it from another of the same shape, should a file be
/// replaced by one of equal size and time.
const FINGERPRINT_BYTES: usize = 4 << 10;
/// Where the checksum stands in a header, before it is known.
const NO_CHECKSUM: &str = "00000000";

/// A folder for rounded matrices and nothing else. It is made when something is kept in it; files
/// that were unused the longest give way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoundedStore {
    /// The folder.
    pub dir: PathBuf,
    /// What all files in it may take.
    pub max_bytes: u64,
}

/// Where the rounded matrices of a model are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rounding {
    /// It has none.
    Nothing,
    /// In a file that was there.
    Found,
    /// In a file that was made now.
    Made,
    /// In memory, for this reason.
    InMemory(String),
}

impl RoundedStore {
    /// The rounded matrices by their names, made first if they are not there.
    ///
    /// # Errors
    /// When they cannot be kept.
    pub(crate) fn rounded(&self, weights: &[QuantizedWeight]) -> Result<(Weights, Rounding)> {
        let unreadable = |error: io::Error| Error::checkpoint(&self.dir, error.to_string());
        let origin = origin(weights).map_err(unreadable)?;
        let name = format!("{:08x}.safetensors", crc32fast::hash(origin.as_bytes()));
        let path = self.dir.join(name);
        if let Some(found) = read(&path, &origin, weights) {
            // So that it is not taken for unused; a folder that cannot be written stays as it is.
            let file = File::options().write(true).open(&path);
            let _ = file.and_then(|file| file.set_modified(SystemTime::now()));
            return Ok((found, Rounding::Found));
        }
        let layout = Layout::of(weights, &origin);
        fs::create_dir_all(&self.dir).map_err(unreadable)?;
        self.make_room(&path, layout.file_bytes())
            .map_err(unreadable)?;
        layout.write(&path, weights)?;
        let made = read(&path, &origin, weights);
        let made = made.ok_or_else(|| Error::checkpoint(&path, "is not what was written"))?;
        Ok((made, Rounding::Made))
    }

    /// Removes what was unused the longest, until there is room for a file.
    fn make_room(&self, path: &Path, bytes: u64) -> io::Result<()> {
        if bytes > self.max_bytes {
            return Err(io::Error::other(format!(
                "rounded matrices of {bytes} bytes are more than the {} that may be kept",
                self.max_bytes
            )));
        }
        let mut files = Vec::new();
        // Files that were never finished count as well, or nobody would ever remove them.
        for entry in fs::read_dir(&self.dir)? {
            let entry = entry?;
            let metadata = entry.metadata()?;
            if metadata.is_file() && entry.path() != path {
                files.push((metadata.modified()?, metadata.len(), entry.path()));
            }
        }
        files.sort();
        let mut held: u64 = files.iter().map(|(_, bytes, _)| bytes).sum();
        for (_, freed, path) in files {
            if held + bytes <= self.max_bytes {
                break;
            }
            // Whoever has it mapped keeps it until they are done.
            fs::remove_file(path)?;
            held -= freed;
        }
        Ok(())
    }
}

/// What a file is made of: whatever could change a number in it, in words.
fn origin(weights: &[QuantizedWeight]) -> io::Result<String> {
    let mut text = format!("format {FORMAT}, blocks of {BLOCK}\n");
    for weight in weights {
        let tensor = &weight.tensor;
        let metadata = fs::metadata(tensor.file())?;
        let since = metadata.modified()?.duration_since(UNIX_EPOCH);
        let modified = since.unwrap_or_default().as_nanos();
        let data = tensor.data();
        let ends = data.len().min(FINGERPRINT_BYTES);
        let mut fingerprint = Hasher::new();
        fingerprint.update(&data[..ends]);
        fingerprint.update(&data[data.len() - ends..]);
        let line = format!(
            "{} {} bits of {:?} {:?} at {} in `{}`, {} bytes of {modified}, {:08x}\n",
            weight.numbers,
            weight.bits as usize,
            tensor.shape(),
            tensor.element(),
            tensor.stored_range().start,
            tensor.file().display(),
            metadata.len(),
            fingerprint.finalize(),
        );
        text.push_str(&line);
    }
    Ok(text)
}

/// What is where in a file.
struct Layout {
    header: Vec<u8>,
    data_bytes: usize,
}

impl Layout {
    /// All numbers, then all scales, in the order of the weights.
    fn of(weights: &[QuantizedWeight], origin: &str) -> Self {
        let mut tensors = Map::new();
        let words = json!({"origin": origin, "crc32": NO_CHECKSUM});
        tensors.insert("__metadata__".to_owned(), words);
        let mut data_bytes = 0;
        for part in [Part::Numbers, Part::Scales] {
            for weight in weights {
                let (name, dtype, shape) = part.of(weight);
                let start = data_bytes;
                data_bytes += shape.iter().product::<usize>() * part.element_bytes();
                let offsets = [start, data_bytes];
                let dtype = if dtype == Dtype::U8 { "U8" } else { "F32" };
                let tensor = json!({"dtype": dtype, "shape": shape, "data_offsets": offsets});
                tensors.insert(name.to_owned(), tensor);
            }
        }
        let mut header = Value::Object(tensors).to_string().into_bytes();
        let length = (size_of::<u64>() + header.len()).next_multiple_of(ALIGNMENT);
        header.resize(length - size_of::<u64>(), b' ');
        Self { header, data_bytes }
    }

    fn file_bytes(&self) -> u64 {
        (size_of::<u64>() + self.header.len() + self.data_bytes) as u64
    }

    /// Rounds matrix by matrix into a new file, which gets its name when it is complete.
    fn write(&self, path: &Path, weights: &[QuantizedWeight]) -> Result<()> {
        let unwritable = |error: io::Error| Error::checkpoint(path, error.to_string());
        let nanos = SystemTime::now().duration_since(UNIX_EPOCH);
        let nanos = nanos.unwrap_or_default().subsec_nanos();
        let partial = path.with_extension(format!("{}-{nanos}", std::process::id()));
        let written = self.write_into(&partial, weights);
        let named = written.and_then(|()| fs::rename(&partial, path).map_err(unwritable));
        if named.is_err() {
            // It is what is left of a full disk, perhaps.
            let _ = fs::remove_file(&partial);
        }
        named
    }

    fn write_into(&self, partial: &Path, weights: &[QuantizedWeight]) -> Result<()> {
        let unwritable = |error: io::Error| Error::checkpoint(partial, error.to_string());
        let mut file = File::create_new(partial).map_err(unwritable)?;
        let length = (self.header.len() as u64).to_le_bytes();
        file.write_all(&length).map_err(unwritable)?;
        file.write_all(&self.header).map_err(unwritable)?;
        let mut checksum = Hasher::new();
        let mut all_scales = Vec::new();
        for weight in weights {
            let (numbers, scales) = quantize(&weight.tensor, weight.bits)?;
            checksum.update(&numbers);
            file.write_all(&numbers).map_err(unwritable)?;
            all_scales.extend(scales.into_iter().flat_map(f32::to_le_bytes));
            weight.tensor.release_pages();
        }
        checksum.update(&all_scales);
        file.write_all(&all_scales).map_err(unwritable)?;
        let place = find(&self.header, NO_CHECKSUM.as_bytes()).unwrap_or(0);
        let place = SeekFrom::Start((size_of::<u64>() + place) as u64);
        file.seek(place).map_err(unwritable)?;
        write!(file, "{:08x}", checksum.finalize()).map_err(unwritable)?;
        file.sync_all().map_err(unwritable)
    }
}

/// The place of the quoted checksum; nothing before it in a header has eight zeros in quotes.
fn find(header: &[u8], text: &[u8]) -> Option<usize> {
    let quoted = [b"\"", text, b"\""].concat();
    let found = header.windows(quoted.len()).position(|part| part == quoted);
    found.map(|at| at + 1)
}

/// One of the two tensors that a matrix becomes.
#[derive(Clone, Copy)]
pub(crate) enum Part {
    Numbers,
    Scales,
}

impl Part {
    /// Its name, type and shape.
    pub(crate) fn of(self, weight: &QuantizedWeight) -> (&str, Dtype, Vec<usize>) {
        let [rows, blocks] = weight.shape();
        match self {
            Self::Numbers => {
                let shape = vec![rows, blocks, weight.block_bytes()];
                (&weight.numbers, Dtype::U8, shape)
            }
            Self::Scales => (&weight.scales, Dtype::F32, vec![rows, blocks]),
        }
    }

    fn element_bytes(self) -> usize {
        match self {
            Self::Numbers => 1,
            Self::Scales => size_of::<f32>(),
        }
    }
}

/// The matrices of a file, if it is whole and made of the same.
fn read(path: &Path, origin: &str, weights: &[QuantizedWeight]) -> Option<Weights> {
    if !is_whole(path, origin).unwrap_or(false) {
        return None;
    }
    let mut found = Weights::none(path.parent()?);
    found.include_file(path, "").ok()?;
    let has = |part: Part, weight| {
        let (name, dtype, shape) = part.of(weight);
        let is_so = |tensor: &Tensor| tensor.element() == dtype && tensor.shape() == shape;
        found.get(name).is_some_and(is_so)
    };
    let all = weights
        .iter()
        .all(|weight| has(Part::Numbers, weight) && has(Part::Scales, weight));
    all.then_some(found)
}

/// Whether a file says that it is made of this, and its checksum is right.
fn is_whole(path: &Path, origin: &str) -> io::Result<bool> {
    let mut file = File::open(path)?;
    let mut length = [0; size_of::<u64>()];
    file.read_exact(&mut length)?;
    let length = u64::from_le_bytes(length);
    if length > HEADER_BYTES_MAX {
        return Ok(false);
    }
    let mut header = Vec::new();
    Read::by_ref(&mut file)
        .take(length)
        .read_to_end(&mut header)?;
    let Ok(header) = serde_json::from_slice::<Value>(&header) else {
        return Ok(false);
    };
    let words = &header["__metadata__"];
    if words["origin"] != origin {
        return Ok(false);
    }
    let mut checksum = Hasher::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            read => checksum.update(&buffer[..read]),
        }
    }
    Ok(words["crc32"] == format!("{:08x}", checksum.finalize()))
}

#[cfg(test)]
mod tests;
