//! The memory of a model that continues texts: weights, keys and values, and the largest step.

use std::path::Path;

use retort_kernels::KvPool;
use serde::Serialize;

use super::buffers::{self, Lengths};
use super::{ARENA_SLACK, Estimate, NODE_BYTES, THREAD_BYTES, WeightKinds, vocabulary};
use crate::architectures;
use crate::checkpoint::weights::Tensor;
use crate::checkpoint::{Checkpoint, Weights};
use crate::decoder::{DecoderWeights, MAX_STEP_TOKENS, cache, max_context};
use crate::error::Result;
use crate::graph::decoder::decoder;
use crate::graph::weight_only::QuantizedWeight;

/// How a model that continues texts is going to be served, by one generator.
#[derive(Debug, Clone, Default)]
pub struct DecoderLoad {
    /// How weights are kept.
    pub weights: DecoderWeights,
    /// The longest sequence in tokens, instead of what the checkpoint says.
    pub max_context: Option<usize>,
    /// Memory for keys and values; `None` for the default of `DecoderOptions`.
    pub kv_cache_bytes: Option<u64>,
    /// The most tokens of one step.
    pub max_step_tokens: Option<usize>,
    /// Sequences that get logits in one step.
    pub sequences: usize,
    /// Threads of the generator.
    pub threads: usize,
}

/// The memory of one model that continues texts, all sizes in bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DecoderEstimate {
    /// The longest sequence in tokens: what the model and the pool allow.
    pub max_context: usize,
    /// The weights in their files.
    pub weights: u64,
    /// Weights that are used where they lie in the files: pages that the system may drop.
    pub weights_mapped: u64,
    /// Weights that are widened, and copies of matrices as they are multiplied. Those of rounded
    /// ones are made from a file of a `RoundedStore`; without one there is another copy.
    pub weights_kept: u64,
    /// Keys and values of one token.
    pub kv_bytes_per_token: u64,
    /// Keys and values of one sequence as long as it may be.
    pub kv_context: u64,
    /// Keys and values of the whole pool, once sequences have filled it.
    pub kv_cache: u64,
    /// The buffers of the largest step.
    pub activations: u64,
    /// The tokenizer's tables.
    pub tokenizer: u64,
    /// Of `serving`, what the system cannot drop.
    pub private: u64,
    /// The most that it adds to a process, with the pool full.
    pub serving: u64,
    /// The most that a process takes which serves it alone.
    pub total: u64,
}

impl Estimate {
    /// The memory of the model that `DecoderModel::load` would load from a checkpoint directory.
    ///
    /// # Errors
    /// What `DecoderModel::load` refuses of these files.
    pub fn of_decoder(path: &Path, load: &DecoderLoad) -> Result<DecoderEstimate> {
        let checkpoint = Checkpoint::open(path)?;
        let (architecture, sizes) = architectures::resolve_decoder(&checkpoint)?;
        let weights = Weights::open(path)?;
        let sources = (&weights, &checkpoint.config);
        let graph = decoder(architecture, &sizes, sources, load.weights.kept())?;
        let pool = cache(&sizes, load.kv_cache_bytes)?;
        let room = pool.blocks * KvPool::BLOCK_TOKENS;
        let context = max_context(&checkpoint, sizes.max_tokens, load.max_context)?.min(room);
        let mut kinds = WeightKinds::of(&graph);
        for (_, table) in &graph.tables {
            let bytes = table.byte_len() as u64;
            let mut packed = graph.packed.iter();
            let is_tied = |weight: &Tensor| weight.stored_range() == table.stored_range();
            if !packed.any(|layer| is_tied(&layer.weight.1)) {
                kinds.file += bytes;
            }
            kinds.mapped += bytes;
            kinds.tables.push(bytes);
        }
        let rounded: u64 = graph.quantized.iter().map(rounded_bytes).sum();
        let tied = |kept: &&QuantizedWeight| {
            let mut tables = graph.tables.iter().chain(&graph.weights);
            tables.any(|(_, table)| table.stored_range() == kept.tensor.stored_range())
        };
        let own = graph.quantized.iter().filter(|kept| !tied(kept));
        kinds.file += own.map(|kept| kept.tensor.byte_len() as u64).sum::<u64>();
        let lengths = Lengths {
            tokens: load.max_step_tokens.unwrap_or(MAX_STEP_TOKENS),
            sequences: load.sequences.max(1),
        };
        let activations = (buffers::bytes(&graph, lengths) as f64 * ARENA_SLACK) as u64;
        // ONNX Runtime lays the rounded numbers out as it multiplies them; those in the file are
        // given back after that.
        let weights_kept = kinds.owned + kinds.packed + rounded;
        let tokenizer = vocabulary::tokenizer_bytes(path, sizes.vocabulary)?;
        let kv_cache = pool.block_bytes() * pool.blocks as u64;
        let kept = weights_kept + tokenizer + graph.steps.len() as u64 * NODE_BYTES;
        let threads = load.threads as u64 * THREAD_BYTES;
        let private = kept + kv_cache + activations + threads;
        let serving = private + kinds.touched(lengths.tokens);
        Ok(DecoderEstimate {
            max_context: context,
            weights: kinds.file,
            weights_mapped: kinds.mapped,
            weights_kept,
            kv_bytes_per_token: pool.block_bytes() / KvPool::BLOCK_TOKENS as u64,
            kv_context: pool.block_bytes() * context.div_ceil(KvPool::BLOCK_TOKENS) as u64,
            kv_cache,
            activations,
            tokenizer,
            private,
            serving,
            total: Self::PROCESS_TOTAL + serving,
        })
    }
}

/// Numbers and scales of a rounded matrix.
fn rounded_bytes(kept: &QuantizedWeight) -> u64 {
    let [rows, blocks] = kept.shape();
    (rows * blocks * (kept.block_bytes() + size_of::<f32>())) as u64
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn golden(name: &str) -> PathBuf {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/generators");
        root.join(name)
    }

    fn estimate(name: &str, weights: DecoderWeights) -> DecoderEstimate {
        let load = DecoderLoad {
            weights,
            kv_cache_bytes: Some(1 << 20),
            threads: 2,
            ..DecoderLoad::default()
        };
        Estimate::of_decoder(&golden(name), &load).unwrap()
    }

    #[test]
    fn weights_and_caches_are_counted() {
        let fp32 = estimate("qwen3-tiny-generate", DecoderWeights::Fp32);
        assert_eq!(fp32.kv_bytes_per_token, 2 * 16 * 2 * 3 * 4);
        assert_eq!(fp32.kv_context, 128 * fp32.kv_bytes_per_token);
        // Whole blocks only.
        assert!(fp32.kv_cache <= 1 << 20 && fp32.kv_cache > (1 << 20) - 16 * 768);
        assert_eq!(
            fp32.weights, fp32.weights_mapped,
            "all of it is there in 32 bits"
        );
        let [int8, int4] = [DecoderWeights::Int8, DecoderWeights::Int4]
            .map(|weights| estimate("qwen3-tiny-generate", weights));
        assert!(int4.weights_kept < int8.weights_kept);
        assert!(int8.weights_kept < fp32.weights_kept);
        for estimate in [&fp32, &int8, &int4] {
            let held = estimate.weights_kept + estimate.kv_cache + estimate.activations;
            assert!(estimate.private > held && estimate.private <= estimate.serving);
        }
        assert_eq!(fp32.max_context, 128);
        assert!(fp32.total > fp32.serving && fp32.serving > fp32.kv_cache + fp32.weights_kept);
    }

    #[test]
    fn a_narrow_table_stays_in_its_file() {
        let [int4, bf16] = [DecoderWeights::Int4, DecoderWeights::Bf16]
            .map(|weights| estimate("llama-tiny-generate", weights));
        assert_eq!(
            (bf16.weights, bf16.weights_mapped),
            (int4.weights, int4.weights_mapped)
        );
        assert_eq!(int4.weights_mapped, 420 * 32 * 2);
        let file = golden("llama-tiny-generate").join("model.safetensors");
        assert!(int4.weights < std::fs::metadata(file).unwrap().len());
        assert!(int4.weights > 95_000, "{}", int4.weights);
        let longer = DecoderLoad {
            max_context: Some(129),
            ..DecoderLoad::default()
        };
        let error = Estimate::of_decoder(&golden("llama-tiny-generate"), &longer).unwrap_err();
        assert!(error.to_string().contains("`128` positions"), "{error}");
    }
}
