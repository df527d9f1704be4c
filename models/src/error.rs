//! Everything that can go wrong between a checkpoint folder and a vector, worded for people.

use std::path::{Path, PathBuf};

/// The result of everything in this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of this crate.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file of the checkpoint is missing, unreadable or malformed.
    #[error("`{path}`: {message}")]
    Checkpoint {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, and what to do when that is known.
        message: String,
    },
    /// The checkpoint asks for something that Retort does not implement.
    #[error("{0}")]
    Unsupported(String),
    /// The text cannot be turned into token ids.
    #[error("tokenizer: {0}")]
    Tokenize(String),
    /// The input has more tokens than the limit and the caller asked not to cut it.
    #[error("the input has {tokens} tokens, more than the limit of {limit}")]
    InputTooLong {
        /// Tokens of the input, special tokens included.
        tokens: usize,
        /// The most the model, or the caller, allows.
        limit: usize,
    },
    /// ONNX Runtime refused a graph or failed to run it.
    #[error("ONNX Runtime: {0}")]
    Runtime(String),
    /// The device that computes has failed. Once it is poisoned, which no error of one input does,
    /// nothing runs on it any more until the process is started anew.
    #[error("{message}")]
    Device {
        /// What the device, its driver or ONNX Runtime said, and what to do when that is known.
        message: String,
        /// Whether everything else on the device fails from now on, too.
        poisoned: bool,
    },
    /// The device has not memory enough for a batch, not even in halves.
    #[error(
        "the device has not memory enough for `{tokens}` tokens in `{sequences}` sequences at \
         once: {message}"
    )]
    OutOfMemory {
        /// Sequences of the part that did not fit.
        sequences: usize,
        /// Their tokens.
        tokens: usize,
        /// What was asked for, as ONNX Runtime or the driver says it.
        message: String,
    },
    /// The device has not memory enough for a model, beside those that are on it.
    #[error("the device has not memory enough for the model: {0}")]
    NoRoom(String),
    /// A kernel refused its input.
    #[error(transparent)]
    Kernel(#[from] retort_kernels::KernelError),
}

impl Error {
    /// An error about one file of a checkpoint.
    pub fn checkpoint(path: &Path, message: impl Into<String>) -> Self {
        Self::Checkpoint {
            path: path.to_owned(),
            message: message.into(),
        }
    }
}

impl<R> From<ort::Error<R>> for Error {
    fn from(error: ort::Error<R>) -> Self {
        Self::Runtime(error.to_string())
    }
}
