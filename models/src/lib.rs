//! A checkpoint directory becomes something that runs on ONNX Runtime.
//! This crate knows files, graphs and sessions; it knows no HTTP, no async and no clock but
//! the times of files.

// Weight files are little-endian and their numbers are used in place.
#[cfg(target_endian = "big")]
compile_error!("big-endian machines are not supported");

pub mod architectures;
pub mod batch;
pub mod catalog;
pub mod checkpoint;
pub mod decoder;
pub mod dtype;
pub mod encoder;
pub mod error;
pub mod estimate;
pub mod given;
pub mod graph;
pub mod heads;
pub mod matryoshka;
mod memory;
pub mod model;
mod packing;
pub mod prompts;
pub mod provider;
mod quantize;
mod reranking;
pub mod runtime;
pub mod session;
mod static_embedding;
pub mod tokenizer;
pub mod verify;

pub use batch::{Batch, Encoding};
pub use catalog::{Catalog, CatalogError, Task};
pub use decoder::blocks::{BlockPool, Owner as BlockOwner};
pub use decoder::generate::{Generate, GeneratorInfo, SequenceStep, StepLogits};
pub use decoder::{DecoderInfo, DecoderModel, DecoderOptions, DecoderWeights, GenerationDefaults};
pub use dtype::{Dtype, DtypeChoice, Fidelity, Measured};
pub use encoder::Encode;
pub use error::{Error, Result};
pub use estimate::{DecoderEstimate, DecoderLoad, Estimate};
pub use heads::late_interaction::{LateInteraction, Side};
pub use heads::{Head, Heads, MultiVector, Output, SparseVector};
pub use matryoshka::Matryoshka;
pub use memory::release_unused_memory;
pub use model::{EncoderInfo, EncoderModel, GraphSource, LoadOptions};
pub use prompts::{PromptChoice, Prompts};
pub use provider::{CudaOptions, Provider};
pub use quantize::store::{RoundedStore, Rounding};
pub use retort_kernels::Pooling;
pub use runtime::Runtime;
pub use tokenizer::chunks::Chunking;
pub use tokenizer::pair::{PairTruncation, PreparedQuery};
pub use tokenizer::rendered::{ControlTokens, RenderedPart};
pub use tokenizer::spelling::Spelling;
pub use tokenizer::template::{PairForm, PairTemplate};
pub use tokenizer::tokens::{Source, Token};
pub use tokenizer::{Prompt, SpecialTokens, TokenSet, Tokenizer, Truncation, TruncationSide};
