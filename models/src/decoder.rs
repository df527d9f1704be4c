//! A checkpoint that continues texts: what it is, its tokenizer, and generators that run steps of
//! many sequences at once. What to run when, and which token comes next, is the caller's business.

pub mod blocks;
pub mod generate;

mod meant;
mod packed;
mod settings;

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use retort_kernels::{Isa, KvPool, KvShape};

pub use self::settings::GenerationDefaults;

use self::generate::{Generate, GeneratorInfo};
use self::packed::PackedGenerator;
use self::settings::Settings;
use crate::architectures::{self, Sizes};
use crate::checkpoint::{Checkpoint, Weights, json};
use crate::dtype::{Arithmetic, Dtype};
use crate::error::{Error, Result};
use crate::given::decoder::GivenDecoder;
use crate::graph::decoder::{decoder, name};
use crate::graph::weight_only::{Bits, WeightOnly};
use crate::model::GraphSource;
use crate::quantize::store::{RoundedStore, Rounding};
use crate::runtime::Runtime;
use crate::session::SharedGraph;
use crate::tokenizer::Tokenizer;

/// Memory for keys and values where nobody says how much.
const KV_CACHE_BYTES: u64 = 1 << 30;
/// Tokens of one step where nobody says how many: beyond about so many, a step is no faster per
/// token and only keeps others waiting.
pub(crate) const MAX_STEP_TOKENS: usize = 512;

/// What the operator decides about a checkpoint that continues texts.
#[derive(Debug, Clone)]
pub struct DecoderOptions {
    /// The ONNX Runtime that runs it.
    pub runtime: Runtime,
    /// The longest sequence in tokens, prompt included, instead of what the checkpoint says; no
    /// more than the model has positions.
    pub max_context: Option<usize>,
    /// Memory for the keys and values of each generator. Less of it is used until sequences come.
    pub kv_cache_bytes: Option<u64>,
    /// The most tokens of one step.
    pub max_step_tokens: Option<usize>,
    /// How weights are kept.
    pub weights: DecoderWeights,
    /// Where rounded matrices are kept between loads; `None` rounds them each time.
    pub rounded: Option<RoundedStore>,
}

impl DecoderOptions {
    /// Everything as the checkpoint says, weights as they are.
    pub fn new(runtime: Runtime) -> Self {
        Self {
            runtime,
            max_context: None,
            kv_cache_bytes: None,
            max_step_tokens: None,
            weights: DecoderWeights::default(),
            rounded: None,
        }
    }
}

/// How the matrices of a decoder are kept. Fewer bits are less to read per token, which is what a
/// single sequence waits for. The table of word embeddings is never rounded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DecoderWeights {
    /// In 32-bit floating point.
    #[default]
    Fp32,
    /// In bfloat16, sums in 32 bits; slow where the processor has no instructions for it.
    Bf16,
    /// In 8 bits, rounded to nearest, a scale for every 32 of a row.
    Int8,
    /// In 4 bits, likewise; the matrix that makes logits in 8.
    Int4,
}

impl DecoderWeights {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Fp32, Self::Bf16, Self::Int8, Self::Int4];

    /// The name in configurations: `fp32`, `bf16`, `int8` or `int4`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Fp32 => "fp32",
            Self::Bf16 => "bf16",
            Self::Int8 => "int8",
            Self::Int4 => "int4",
        }
    }

    /// How layers are computed, and in how many bits their matrices are kept.
    pub(crate) fn kept(self) -> (Arithmetic, Option<WeightOnly>) {
        let kept = |layers| WeightOnly {
            layers,
            head: Bits::Eight,
        };
        match self {
            Self::Fp32 => (Arithmetic::REFERENCE, None),
            Self::Bf16 => (Arithmetic::of(Dtype::Bf16, Isa::detect()), None),
            Self::Int8 => (Arithmetic::REFERENCE, Some(kept(Bits::Eight))),
            Self::Int4 => (Arithmetic::REFERENCE, Some(kept(Bits::Four))),
        }
    }
}

impl fmt::Display for DecoderWeights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for DecoderWeights {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        let found = Self::ALL.into_iter().find(|known| known.name() == name);
        found.ok_or_else(|| {
            let known = Self::ALL.map(Self::name).join("`, `");
            Error::Unsupported(format!("unknown weights `{name}`; use one of `{known}`"))
        })
    }
}

/// Facts about a loaded decoder.
#[derive(Debug, Clone, PartialEq)]
pub struct DecoderInfo {
    /// The family, such as `qwen2`.
    pub architecture: String,
    /// Token ids are below it: the smaller of the tokenizer's and the table's number of them.
    pub vocab_size: usize,
    /// The longest sequence in tokens, prompt included.
    pub max_context: usize,
    /// The tokens after which a text ends, ascending.
    pub eos_token_ids: Vec<u32>,
    /// The token that texts begin with, where there is one.
    pub bos_token_id: Option<u32>,
    /// Layers.
    pub layers: usize,
    /// Heads of keys and values.
    pub kv_heads: usize,
    /// Values per head.
    pub head_size: usize,
    /// Numbers in the weights that are used.
    pub parameters: u64,
    /// Size of those weights in their files.
    pub weights_bytes: u64,
    /// Memory that the keys and values of one token take.
    pub kv_bytes_per_token: u64,
    /// Blocks of keys and values of each generator.
    pub kv_blocks: usize,
    /// Tokens per block.
    pub kv_block_tokens: usize,
    /// The most tokens of one step.
    pub max_step_tokens: usize,
    /// Type of the weights in their files, such as `bfloat16`.
    pub checkpoint_dtype: String,
    /// How the weights are kept.
    pub weights: DecoderWeights,
    /// Where the rounded ones are.
    pub rounding: Rounding,
    /// Where it is computed.
    pub device: String,
    /// Where the graph comes from.
    pub source: GraphSource,
    /// The instruction set that this project's own kernels use here.
    pub isa: &'static str,
}

impl DecoderInfo {
    /// What steps of its generators must keep to.
    pub fn bounds(&self) -> GeneratorInfo {
        GeneratorInfo {
            vocab_size: self.vocab_size,
            max_context: self.max_context,
            kv_blocks: self.kv_blocks,
            kv_block_tokens: self.kv_block_tokens,
            max_step_tokens: self.max_step_tokens,
        }
    }
}

/// A loaded checkpoint that continues texts.
pub struct DecoderModel {
    info: DecoderInfo,
    tokenizer: Arc<Tokenizer>,
    defaults: GenerationDefaults,
    chat_template: Option<String>,
    graph: ModelGraph,
}

enum ModelGraph {
    Built {
        graph: SharedGraph,
        cache: KvShape,
        // Rows of the word embeddings.
        embeddings: usize,
    },
    Given(Box<GivenDecoder>),
}

impl DecoderModel {
    /// Loads a checkpoint directory, or an `.onnx` file that lies in one. A directory with weights
    /// gets a graph built; one with only an `.onnx` file gets that, one sequence at a time.
    ///
    /// # Errors
    /// `Error::Unsupported` when the architecture is unknown or a setting is not implemented, or
    /// the options ask for more than there is; `Error::Checkpoint` when a file is missing or
    /// malformed.
    pub fn load(path: &Path, options: &DecoderOptions) -> Result<Self> {
        if let Some((file, dir)) = find_given(path)? {
            return Self::load_given(&file, &dir, options);
        }
        let checkpoint = Checkpoint::open(path)?;
        let (architecture, sizes) = architectures::resolve_decoder(&checkpoint)?;
        let tokenizer = Tokenizer::load(path)?;
        let settings = Settings::read(path)?;
        let weights = Weights::open(path)?;
        let sources = (&weights, &checkpoint.config);
        let graph = decoder(architecture, &sizes, sources, options.weights.kept())?;
        let stored = Stored::of(&graph);
        let columns = graph.width(name::LOGITS).unwrap_or(sizes.vocabulary);
        let cache = cache(&sizes, options.kv_cache_bytes)?;
        let room = cache.blocks * KvPool::BLOCK_TOKENS;
        let store = options.rounded.as_ref();
        let (graph, rounding) = SharedGraph::rounded_in(&options.runtime, graph, store)?;
        let info = DecoderInfo {
            architecture: architecture.name.to_owned(),
            vocab_size: tokenizer.vocab_size().min(columns).min(sizes.vocabulary),
            max_context: max_context(&checkpoint, sizes.max_tokens, options.max_context)?.min(room),
            eos_token_ids: settings.ends(&checkpoint, &tokenizer),
            bos_token_id: settings.start(&checkpoint, &tokenizer),
            layers: sizes.layers,
            kv_heads: sizes.kv_heads,
            head_size: sizes.head_dim,
            parameters: stored.parameters,
            weights_bytes: stored.bytes,
            kv_bytes_per_token: cache.block_bytes() / KvPool::BLOCK_TOKENS as u64,
            kv_blocks: cache.blocks,
            kv_block_tokens: KvPool::BLOCK_TOKENS,
            max_step_tokens: options.max_step_tokens.unwrap_or(MAX_STEP_TOKENS).max(1),
            checkpoint_dtype: stored.dtype,
            weights: options.weights,
            rounding,
            device: "cpu".to_owned(),
            source: GraphSource::Built,
            isa: Isa::detect().name(),
        };
        Ok(Self {
            info,
            defaults: settings.defaults(),
            chat_template: settings.chat_template(path)?,
            tokenizer: Arc::new(tokenizer),
            graph: ModelGraph::Built {
                graph,
                cache,
                embeddings: sizes.vocabulary,
            },
        })
    }

    fn load_given(file: &Path, dir: &Path, options: &DecoderOptions) -> Result<Self> {
        if options.weights != DecoderWeights::default() {
            return Err(Error::Unsupported(format!(
                "the weights of `{}` are as they are in it; leave `{}` out, or give a directory \
                 with safetensors",
                file.display(),
                options.weights
            )));
        }
        let checkpoint = Checkpoint::open(dir)?;
        let tokenizer = Tokenizer::load(dir)?;
        let settings = Settings::read(dir)?;
        let given = GivenDecoder::open(file, &options.runtime)?;
        let layout = given.layout();
        let config = &checkpoint.config;
        let limit = config.optional_count("max_position_embeddings")?;
        let limit = limit.map_or_else(|| config.optional_count("n_positions"), |n| Ok(Some(n)))?;
        let limit = limit.ok_or_else(|| config.error("max_position_embeddings", "is missing"))?;
        let per_token = layout.kv_bytes_per_token();
        let blocks = kv_blocks(
            per_token * KvPool::BLOCK_TOKENS as u64,
            options.kv_cache_bytes,
        )?;
        let room = blocks * KvPool::BLOCK_TOKENS;
        let info = DecoderInfo {
            architecture: config
                .optional_text("model_type")?
                .unwrap_or("onnx")
                .to_owned(),
            vocab_size: tokenizer.vocab_size().min(layout.columns),
            max_context: max_context(&checkpoint, limit, options.max_context)?.min(room),
            eos_token_ids: settings.ends(&checkpoint, &tokenizer),
            bos_token_id: settings.start(&checkpoint, &tokenizer),
            layers: layout.layers,
            kv_heads: layout.kv_heads,
            head_size: layout.head_size,
            parameters: 0,
            weights_bytes: given.bytes(),
            kv_bytes_per_token: per_token,
            kv_blocks: blocks,
            kv_block_tokens: KvPool::BLOCK_TOKENS,
            max_step_tokens: options.max_step_tokens.unwrap_or(MAX_STEP_TOKENS).max(1),
            checkpoint_dtype: layout.dtype().to_owned(),
            weights: options.weights,
            rounding: Rounding::Nothing,
            device: "cpu".to_owned(),
            source: GraphSource::Given(file.to_owned()),
            isa: Isa::PORTABLE.name(),
        };
        Ok(Self {
            info,
            defaults: settings.defaults(),
            chat_template: settings.chat_template(dir)?,
            tokenizer: Arc::new(tokenizer),
            graph: ModelGraph::Given(Box::new(given)),
        })
    }

    /// Facts about the model.
    pub fn info(&self) -> &DecoderInfo {
        &self.info
    }

    /// Its tokenizer.
    pub fn tokenizer(&self) -> &Arc<Tokenizer> {
        &self.tokenizer
    }

    /// How its authors sample from it.
    pub fn generation_defaults(&self) -> &GenerationDefaults {
        &self.defaults
    }

    /// How it wants conversations written, a Jinja template, where it says so.
    pub fn chat_template(&self) -> Option<&str> {
        self.chat_template.as_deref()
    }

    /// Makes a generator that computes on `threads` threads, its caller's included. It has keys and
    /// values of its own; all generators share the weights.
    pub fn generator(&self, threads: usize) -> Result<Box<dyn Generate>> {
        let bounds = self.info.bounds();
        match &self.graph {
            ModelGraph::Built {
                graph,
                cache,
                embeddings,
            } => {
                let session = graph.session_over(threads, KvPool::new(*cache)?)?;
                Ok(Box::new(PackedGenerator::new(session, bounds, *embeddings)))
            }
            ModelGraph::Given(given) => given.generator(threads, bounds),
        }
    }
}

/// The `.onnx` file that `path` means, and the directory around it: the one that the settings of
/// onnxruntime-genai name, else as of any model. `None` when there are weights that a graph is
/// built for.
fn find_given(path: &Path) -> Result<Option<(PathBuf, PathBuf)>> {
    if path.is_dir() && !Weights::are_in(path) {
        let settings = json::read_optional(&path.join("genai_config.json"))?;
        if let Some(name) = settings["model"]["decoder"]["filename"].as_str() {
            return Ok(Some((path.join(name), path.to_owned())));
        }
    }
    crate::given::find(path)
}

/// The pool of keys and values that a budget allows.
pub(crate) fn cache(sizes: &Sizes, budget: Option<u64>) -> Result<KvShape> {
    let shape = KvShape {
        layers: sizes.layers,
        blocks: 1,
        kv_num_heads: sizes.kv_heads,
        head_size: sizes.head_dim,
    };
    let blocks = kv_blocks(shape.block_bytes(), budget)?;
    Ok(KvShape { blocks, ..shape })
}

/// How many blocks of so many bytes a budget allows.
fn kv_blocks(block_bytes: u64, budget: Option<u64>) -> Result<usize> {
    let budget = budget.unwrap_or(KV_CACHE_BYTES);
    match budget / block_bytes.max(1) {
        0 => Err(Error::Unsupported(format!(
            "`{budget}` bytes for keys and values hold no block of `{}` tokens, which takes \
             `{block_bytes}` of this model; allow more",
            KvPool::BLOCK_TOKENS
        ))),
        blocks => Ok(usize::try_from(blocks)
            .unwrap_or(usize::MAX)
            .min(i32::MAX as usize)),
    }
}

/// The operator's limit, which must not be more than the model's, else the model's. What a
/// tokenizer says is often that of another model in the family, and is not asked.
pub(crate) fn max_context(
    checkpoint: &Checkpoint,
    limit: usize,
    wanted: Option<usize>,
) -> Result<usize> {
    match wanted {
        Some(wanted) if wanted > limit || wanted == 0 => Err(Error::Unsupported(format!(
            "a context of `{wanted}` tokens is not between `1` and the `{limit}` positions that \
             `{}` has",
            checkpoint.dir().display()
        ))),
        Some(wanted) => Ok(wanted),
        None => Ok(limit),
    }
}

/// What the files keep of a graph's weights.
struct Stored {
    parameters: u64,
    bytes: u64,
    dtype: String,
}

impl Stored {
    fn of(graph: &crate::graph::BuiltGraph) -> Self {
        let mut stored = Self {
            parameters: 0,
            bytes: 0,
            dtype: String::new(),
        };
        let mut largest = 0;
        let mut seen: Vec<&str> = Vec::new();
        let given = graph.weights.iter().map(|(name, tensor)| (&**name, tensor));
        let kept = graph
            .quantized
            .iter()
            .map(|kept| (&*kept.numbers, &kept.tensor));
        let tables = graph.tables.iter().map(|(name, tensor)| (&**name, tensor));
        let others = kept
            .chain(tables)
            .map(|(name, tensor)| (name.rsplit_once('.').map_or(name, |(name, _)| name), tensor));
        let packed = graph.packed.iter().flat_map(|layer| {
            let parts = [Some(&layer.weight), layer.bias.as_ref()];
            parts
                .into_iter()
                .flatten()
                .map(|(name, tensor)| (&**name, tensor))
        });
        for (name, tensor) in given.chain(packed).chain(others) {
            // A tied table is there as it is and in few bits, but stored once.
            if seen.contains(&name) {
                continue;
            }
            seen.push(name);
            stored.parameters += tensor.elements() as u64;
            stored.bytes += tensor.byte_len() as u64;
            if tensor.elements() > largest {
                largest = tensor.elements();
                stored.dtype = tensor.dtype();
            }
        }
        stored
    }
}

#[cfg(test)]
mod tests;
