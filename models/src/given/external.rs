//! A look through the bytes of an `.onnx` file, without decoding its tensors: where it keeps
//! tensors outside the file, and whether its arithmetic depends on the whole batch.

use std::path::{Component, Path, PathBuf};

use prost::Message as _;
use prost::encoding::{decode_varint, encode_varint};

use crate::checkpoint::{json, weights::git_lfs_pointer};
use crate::error::{Error, Result};
use crate::graph::onnx::StringStringEntryProto;

/// Graphs within graphs (`If`, `Loop`) are rarely deeper than two.
const MAX_DEPTH: usize = 64;

/// What the bytes of a file show.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Survey {
    /// The model with the real names of its data files, when it has any.
    pub(super) rewritten: Option<Vec<u8>>,
    /// The directory of the real data files.
    pub(super) data_folder: Option<PathBuf>,
    /// Size of the data files.
    pub(super) data_bytes: u64,
    /// Activations are quantized with one scale for the whole batch, so a sequence would get
    /// another vector depending on its neighbours.
    pub(super) scales_by_batch: bool,
}

/// Looks through a model.
///
/// # Errors
/// `Error::Checkpoint` when the file is malformed, or a data file is missing or lies elsewhere
/// than beside the model.
pub(super) fn survey(file: &Path, model: &[u8]) -> Result<Survey> {
    let mut visitor = Visitor {
        file,
        real: Vec::new(),
        tensor: ExternalTensor::default(),
        survey: Survey::default(),
    };
    let rewritten = visitor.visit(model, Kind::Model, 0)?;
    Ok(Survey {
        rewritten,
        ..visitor.survey
    })
}

/// The messages of `onnx.proto` on the way to tensors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Model,
    Graph,
    Node,
    Attribute,
    Tensor,
    SparseTensor,
    Function,
    Location,
    OperatorName,
}

impl Kind {
    /// What lies in a field of a message.
    fn field(self, number: u64) -> Option<Self> {
        match (self, number) {
            (Self::Model, 7) | (Self::Attribute, 6 | 11) => Some(Self::Graph),
            (Self::Model, 25) => Some(Self::Function),
            (Self::Graph, 1) | (Self::Function, 7) => Some(Self::Node),
            (Self::Graph, 5) | (Self::Attribute, 5 | 10) | (Self::SparseTensor, 1 | 2) => {
                Some(Self::Tensor)
            }
            (Self::Graph, 15) | (Self::Attribute, 22 | 23) => Some(Self::SparseTensor),
            (Self::Node, 4) => Some(Self::OperatorName),
            (Self::Node, 5) => Some(Self::Attribute),
            (Self::Tensor, 13) => Some(Self::Location),
            _ => None,
        }
    }
}

struct Visitor<'a> {
    file: &'a Path,
    // Names of data files as the model has them, and as they really are.
    real: Vec<DataFile>,
    // What is known of the tensor that is being visited.
    tensor: ExternalTensor,
    survey: Survey,
}

/// A file of tensors: its name as the model has it, as it really is, and its size.
struct DataFile {
    name: String,
    real: String,
    bytes: u64,
}

/// Where a tensor says that its numbers are.
#[derive(Debug, Default)]
struct ExternalTensor {
    file_bytes: Option<u64>,
    offset: u64,
    length: u64,
}

impl Visitor<'_> {
    /// Goes through one message; gives its new bytes when something in it had to change.
    fn visit(&mut self, message: &[u8], kind: Kind, depth: usize) -> Result<Option<Vec<u8>>> {
        match kind {
            _ if depth > MAX_DEPTH => return Err(self.malformed("is nested too deeply")),
            Kind::Location => return self.location(message),
            Kind::Tensor => self.tensor = ExternalTensor::default(),
            Kind::OperatorName => {
                self.survey.scales_by_batch |= message.starts_with(b"DynamicQuantize");
                return Ok(None);
            }
            _ => {}
        }
        let mut changed: Option<Vec<u8>> = None;
        let (mut copied, mut at) = (0, 0);
        while at < message.len() {
            let field = self.field(message, at)?;
            at = field.end;
            let (Some(kind), Some(body)) = (kind.field(field.number), field.body) else {
                continue;
            };
            if let Some(new) = self.visit(&message[body.clone()], kind, depth + 1)? {
                let out = changed.get_or_insert_default();
                out.extend_from_slice(&message[copied..field.after_tag]);
                encode_varint(new.len() as u64, out);
                out.extend_from_slice(&new);
                copied = body.end;
            }
        }
        if let Some(out) = &mut changed {
            out.extend_from_slice(&message[copied..]);
        }
        if kind == Kind::Tensor {
            self.check_range()?;
        }
        Ok(changed)
    }

    /// Reads the field that starts at `at`.
    /// Encoding: <https://protobuf.dev/programming-guides/encoding/>.
    fn field(&self, message: &[u8], at: usize) -> Result<Field> {
        let malformed = || self.malformed("is not a protobuf message");
        let mut rest = &message[at..];
        let tag = decode_varint(&mut rest).map_err(|_| malformed())?;
        let after_tag = message.len() - rest.len();
        let skipped = match tag & 7 {
            0 => {
                decode_varint(&mut rest).map_err(|_| malformed())?;
                0
            }
            1 => 8,
            2 => decode_varint(&mut rest).map_err(|_| malformed())?,
            5 => 4,
            _ => return Err(malformed()),
        };
        let skipped = usize::try_from(skipped)
            .ok()
            .filter(|&length| length <= rest.len());
        let start = message.len() - rest.len();
        let end = start + skipped.ok_or_else(malformed)?;
        Ok(Field {
            number: tag >> 3,
            after_tag,
            body: (tag & 7 == 2).then_some(start..end),
            end,
        })
    }

    /// Refuses a tensor that would be read beyond the end of its file.
    fn check_range(&self) -> Result<()> {
        let ExternalTensor { offset, length, .. } = self.tensor;
        let end = offset.checked_add(length);
        match self.tensor.file_bytes {
            Some(bytes) if end.is_none_or(|end| end > bytes) => Err(self.malformed(&format!(
                "a tensor of `{length}` bytes begins at byte `{offset}` of a file of `{bytes}` \
                 bytes; is the file complete"
            ))),
            _ => Ok(()),
        }
    }

    /// Puts the real name of a data file into a `StringStringEntryProto`, and takes note of the
    /// numbers in others.
    fn location(&mut self, message: &[u8]) -> Result<Option<Vec<u8>>> {
        let entry = StringStringEntryProto::decode(message);
        let entry = entry.map_err(|error| self.malformed(&error.to_string()))?;
        let number = || {
            entry.value.parse::<u64>().map_err(|_| {
                let StringStringEntryProto { key, value } = &entry;
                self.malformed(&format!(
                    "the {key} `{value}` of a tensor is no whole number"
                ))
            })
        };
        match entry.key.as_str() {
            "location" => {}
            "offset" => {
                self.tensor.offset = number()?;
                return Ok(None);
            }
            "length" => {
                self.tensor.length = number()?;
                return Ok(None);
            }
            _ => return Ok(None),
        }
        let known = self.real.iter().position(|data| data.name == entry.value);
        let index = match known {
            Some(index) => index,
            None => {
                let data = self.resolve(&entry.value)?;
                self.real.push(data);
                self.real.len() - 1
            }
        };
        let data = &self.real[index];
        self.tensor.file_bytes = Some(data.bytes);
        let value = data.real.clone();
        Ok(Some(
            StringStringEntryProto { value, ..entry }.encode_to_vec(),
        ))
    }

    /// Finds a data file beside the model.
    fn resolve(&mut self, name: &str) -> Result<DataFile> {
        let refuse = |what: &str| {
            Err(Error::checkpoint(
                self.file,
                format!("keeps tensors in `{name}`, which {what}"),
            ))
        };
        let relative = Path::new(name);
        let plain = relative
            .components()
            .all(|part| matches!(part, Component::Normal(_)));
        if name.is_empty() || !plain {
            return refuse("is not a path inside its directory");
        }
        let beside = self.file.parent().unwrap_or(Path::new("")).join(relative);
        let Ok(real) = beside.canonicalize() else {
            return refuse("does not exist");
        };
        let metadata = real.metadata().ok().filter(std::fs::Metadata::is_file);
        let Some(metadata) = metadata else {
            return refuse("is not a file");
        };
        let bytes = metadata.len();
        if bytes <= 1024 && git_lfs_pointer(&json::read_bytes(&real)?).is_some() {
            return refuse("is a Git LFS pointer, not the file itself; run `git lfs pull`");
        }
        let (Some(folder), Some(file)) = (real.parent(), real.file_name()) else {
            return refuse("is not a file");
        };
        if self
            .survey
            .data_folder
            .as_deref()
            .is_some_and(|known| known != folder)
        {
            return refuse("lies in another directory than the data file before it");
        }
        self.survey.data_folder = Some(folder.to_owned());
        self.survey.data_bytes += bytes;
        Ok(DataFile {
            name: name.to_owned(),
            real: file.to_string_lossy().into_owned(),
            bytes,
        })
    }

    fn malformed(&self, message: &str) -> Error {
        Error::checkpoint(self.file, format!("not an ONNX model: {message}"))
    }
}

/// One field of a message: where its tag ends, where its body is, when it has a length, and where
/// it ends.
struct Field {
    number: u64,
    after_tag: usize,
    body: Option<std::ops::Range<usize>>,
    end: usize,
}

#[cfg(test)]
mod tests;
