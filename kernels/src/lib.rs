//! Arithmetic that ONNX Runtime lacks: packed attention, linear layers in bfloat16 and bytes,
//! pooling, normalisation, late interaction; and what of it runs on NVIDIA devices.
//!
//! Everything works on packed batches: the tokens of all sequences one after the other, and
//! `cu_seqlens` says where each begins. The crate knows no model and no checkpoint.

pub mod pooling;

pub mod attention;

pub mod linear;

pub mod normalize;

pub mod lexical;

pub mod max_sim;

pub mod operator;

pub mod cuda;

pub mod dispatch;

mod error;
mod kv_pool;
mod packed;
mod parallel;

pub use attention::cached::CachedAttention;
pub use attention::{Bias, Direction, Mask, PackedAttention, Precision};
pub use dispatch::{Execution, Isa};
pub use error::{KernelError, RowFault};
pub use kv_pool::{CacheFault, KvPool, KvShape};
pub use linear::{
    Epilogue, GatedLinear, LinearActivation, LinearKind, LinearStore, LinearWeight, PackedLinear,
    WeightValues,
};
pub use packed::{CuSeqlens, PackedHidden, Strided};
pub use parallel::{Parallel, RayonPool, Sequential};
pub use pooling::Pooling;
