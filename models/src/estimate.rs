//! How much memory a model will take, from its small files and the headers of its weights, before
//! anything is loaded. Sums of what is known to be kept; the constants were measured, and
//! `cargo bench -- memory` measures them again.

mod buffers;
mod decoder;
mod published;
mod tables;
mod vocabulary;

use std::path::Path;

use retort_kernels::linear::LinearKind;
use retort_kernels::{Isa, Pooling};
use serde::Serialize;

pub use self::decoder::{DecoderEstimate, DecoderLoad};

use crate::architectures::{self, Sizes};
use crate::catalog::{Entry, Task};
use crate::checkpoint::weights::{F32_BYTES, Tensor, Weights};
use crate::checkpoint::{Checkpoint, Config};
use crate::dtype::{Arithmetic, Dtype, DtypeChoice};
use crate::error::Result;
use crate::given::GivenModel;
use crate::graph::linear::PackedLayer;
use crate::graph::{BuiltGraph, blocks};
use crate::heads::judgement::{Opened, ScorePlan, Told};
use crate::heads::outputs::tokens_with_logits;
use crate::heads::plan::{HeadPlan, SparsePlan};
use crate::static_embedding::StaticCheckpoint;
use crate::tokenizer::Tokenizer;
use buffers::Lengths;
use tables::TouchedPages;

const MIB: u64 = 1 << 20;

/// ONNX Runtime's own memory and the service's, buffers of connections included.
pub const PROCESS_BYTES: u64 = 12 * MIB;
/// Pages of the program and of ONNX Runtime's library that are run.
const CODE_BYTES: u64 = 28 * MIB;
/// What a session keeps for each node of its graph.
const NODE_BYTES: u64 = 16 << 10;
/// What a thread keeps for attention; see `attention::scratch` of the kernels.
const THREAD_BYTES: u64 = 600 << 10;
/// What an arena touches beyond the buffers that are in use at once: its chunks have holes.
const ARENA_SLACK: f64 = 1.04;
/// ONNX Runtime packs a matrix in panels of so many columns.
const PANEL_COLUMNS: usize = 16;
/// Short texts have about so many tokens; it decides how many a batch may hold.
const SHORT_TEXT_TOKENS: usize = 8;

/// How a model is going to be served.
#[derive(Debug, Clone)]
pub struct Load {
    /// The most tokens in one forward pass. An input that is longer runs alone.
    pub max_batch_tokens: usize,
    /// Threads of each session.
    pub session_threads: Vec<usize>,
    /// The longest input in tokens, instead of what the checkpoint says.
    pub max_tokens: Option<usize>,
    /// How token vectors become one, instead of what the checkpoint says.
    pub pooling: Option<Pooling>,
    /// What the model is for, where its files leave that open.
    pub task: Option<Task>,
    /// The layer whose score is taken, of a model that has scores after several.
    pub cutoff_layer: Option<usize>,
    /// What its layers are computed in; `Auto` is taken for what is tried first.
    pub dtype: DtypeChoice,
}

/// What an estimate was made from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Basis {
    /// The files of a checkpoint that a graph is built for.
    Checkpoint,
    /// A given graph, whose inside is unknown: a rough upper bound.
    OnnxFile,
    /// A table of token vectors.
    StaticTable,
    /// What the catalogue says; the files are not here: rough.
    Catalogue,
}

/// The memory of one model, all sizes in bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Estimate {
    /// What it was made from.
    pub basis: Basis,
    /// Tokens of the largest forward pass.
    pub batch_tokens: usize,
    /// Sessions, each with an arena of its own.
    pub sessions: usize,
    /// The weights in their files.
    pub weights: u64,
    /// Weights that are used where they lie in the files: pages that the system may drop.
    pub weights_mapped: u64,
    /// Weights that are widened or copied, because the file has them in another form.
    pub weights_owned: u64,
    /// The copies of matrices in the order and the type in which they are multiplied.
    pub packed: u64,
    /// Tables of the mapped weights of which rows are looked up.
    pub embeddings: u64,
    /// Pages of mapped weights that stay in memory once every session ran its largest batch.
    pub weights_touched: u64,
    /// The tokenizer's tables.
    pub tokenizer: u64,
    /// What one session keeps besides its arena.
    pub session: u64,
    /// The buffers of the largest forward pass of one session.
    pub activations_per_session: u64,
    /// What an arena takes for them.
    pub arena_per_session: u64,
    /// Scratch memory of all threads.
    pub threads: u64,
    /// The most at once while it is loaded, without the process.
    pub loading: u64,
    /// When every session runs its largest batch, without the process.
    pub serving: u64,
    /// The part of `serving` that the system cannot drop.
    pub private: u64,
    /// The process itself, whatever it serves.
    pub process: u64,
    /// The most that the process takes when it serves this model alone.
    pub total: u64,
}

impl Estimate {
    /// The memory of the model that `EncoderModel::load` would load from `path`. `known` says what
    /// the checkpoint may leave out.
    ///
    /// # Errors
    /// What `EncoderModel::load` refuses of these files, but not what only ONNX Runtime would.
    pub fn of_files(path: &Path, load: &Load, known: Option<&Entry>) -> Result<Self> {
        if let Some(table) = StaticCheckpoint::find(path)? {
            return tables::static_table(&table, load);
        }
        if let Some((file, dir)) = crate::given::find(path)? {
            return of_given(&file, &dir, load);
        }
        of_checkpoint(path, load, known)
    }

    /// The memory of a model whose files are not here, from what the catalogue says of it; `None`
    /// when that is too little.
    pub fn of_entry(entry: &Entry, load: &Load) -> Option<Self> {
        published::estimate(entry, load)
    }

    /// What a process takes before it has a model.
    pub const PROCESS_TOTAL: u64 = PROCESS_BYTES + CODE_BYTES;

    /// The most that it adds to a process that serves others already.
    pub fn added(&self) -> u64 {
        self.loading.max(self.serving)
    }

    /// The sums that follow from the parts.
    fn summed(self, while_loading: u64) -> Self {
        let sessions = self.sessions as u64;
        let kept = self.weights_owned + self.packed + self.tokenizer + sessions * self.session;
        let private = kept + sessions * self.arena_per_session + self.threads;
        let loading = kept + while_loading;
        let serving = private + self.weights_touched;
        let process = Self::PROCESS_TOTAL;
        Self {
            loading,
            serving,
            private,
            process,
            total: process + loading.max(serving),
            ..self
        }
    }

    fn empty(basis: Basis, load: &Load) -> Self {
        Self {
            basis,
            batch_tokens: load.max_batch_tokens,
            sessions: load.session_threads.len(),
            weights: 0,
            weights_mapped: 0,
            weights_owned: 0,
            packed: 0,
            embeddings: 0,
            weights_touched: 0,
            tokenizer: 0,
            session: 0,
            activations_per_session: 0,
            arena_per_session: 0,
            threads: load.session_threads.iter().sum::<usize>() as u64 * THREAD_BYTES,
            loading: 0,
            serving: 0,
            private: 0,
            process: 0,
            total: 0,
        }
    }
}

fn of_checkpoint(path: &Path, load: &Load, known: Option<&Entry>) -> Result<Estimate> {
    let checkpoint = Checkpoint::open(path)?;
    let (architecture, mut sizes) = architectures::resolve(&checkpoint)?;
    let (pooling, max_tokens) = known.map_or((None, None), |entry| entry.unsaid(&checkpoint));
    let mut weights = Weights::open(path)?;
    let pooling = load.pooling.or(pooling);
    // Only a decoder's heads depend on its vocabulary, and a tokenizer takes long to load.
    let score = match architecture.reranker {
        None => None,
        Some(_) => {
            let told = Told {
                task: load.task.or(known.map(|entry| entry.task)),
                pooling,
                cutoff_layer: load.cutoff_layer.or(known.and_then(|e| e.cutoff_layer)),
            };
            let opened = Opened {
                architecture,
                checkpoint: &checkpoint,
                tokenizer: &Tokenizer::load(path)?,
                weights: &weights,
            };
            ScorePlan::of_decoder(&opened, &told)?
        }
    };
    let plan = HeadPlan::of_built(score, &checkpoint, pooling, &mut weights)?;
    plan.check(architecture)?;
    sizes.layers = plan.cutoff_layer().unwrap_or(sizes.layers);
    let head_inputs = (&plan, &checkpoint.config);
    let build = |how| blocks::encoder(architecture, &sizes, &weights, head_inputs, how);
    let graph = build(Arithmetic::of(load.dtype.tried(), Isa::detect()))?;
    let stated = load.max_tokens.or(max_tokens).or(checkpoint.max_seq_length);
    let longest = stated.unwrap_or(sizes.max_tokens).min(sizes.max_tokens);
    let lengths = lengths(&plan, &sizes, load.max_batch_tokens.max(longest));
    let kinds = WeightKinds::of(&graph);
    let activations = buffers::bytes(&graph, lengths);
    let parts = Estimate {
        batch_tokens: lengths.tokens,
        weights: kinds.file,
        weights_mapped: kinds.mapped,
        weights_owned: kinds.owned,
        packed: kinds.packed,
        embeddings: kinds.tables.iter().sum(),
        weights_touched: kinds.touched(lengths.tokens * load.session_threads.len()),
        tokenizer: vocabulary::tokenizer_bytes(path, sizes.vocabulary)?,
        session: graph.steps.len() as u64 * NODE_BYTES,
        activations_per_session: activations,
        arena_per_session: (activations as f64 * ARENA_SLACK) as u64,
        ..Estimate::empty(Basis::Checkpoint, load)
    };
    // Widening reads everything before the first session packs anything; packing reads what is
    // mapped, and only then are its pages let go.
    let widening = kinds.converted.saturating_sub(kinds.packed);
    let probing = match load.dtype.tried() {
        Dtype::Fp32 => 0,
        // The same in 32 bits comes and goes before anything is packed.
        Dtype::Fp16 | Dtype::Bf16 | Dtype::Int8 => {
            let wide = WeightKinds::of(&build(Arithmetic::REFERENCE)?);
            let all = wide.packed_mapped + wide.owned + wide.converted;
            all.saturating_sub(kinds.owned + kinds.packed)
        }
    };
    Ok(parts.summed(kinds.packed_mapped.max(widening).max(probing)))
}

/// How long the axes of the largest forward pass are.
fn lengths(plan: &HeadPlan, sizes: &Sizes, tokens: usize) -> Lengths {
    let most = match plan.sparse {
        Some(SparsePlan::Vocabulary) => tokens_with_logits(sizes.vocabulary),
        _ => tokens,
    };
    let tokens = tokens.min(most);
    Lengths {
        tokens,
        sequences: tokens.div_ceil(SHORT_TEXT_TOKENS),
    }
}

/// The weights of a graph, by what becomes of them.
#[derive(Default)]
struct WeightKinds {
    file: u64,
    mapped: u64,
    owned: u64,
    // Bytes in the files of what is owned.
    converted: u64,
    packed: u64,
    packed_mapped: u64,
    // The mapped tables of which rows are looked up.
    tables: Vec<u64>,
    // Pages of small mapped tensors: biases and norms.
    small: TouchedPages,
}

impl WeightKinds {
    fn of(graph: &BuiltGraph) -> Self {
        let mut kinds = Self::default();
        let is_input = |operator: &[&str], place: usize, name: &str| {
            let mut steps = graph.steps.iter();
            steps.any(|step| {
                operator.contains(&step.operator)
                    && step.inputs.get(place).is_some_and(|input| input == name)
            })
        };
        for (name, tensor) in &graph.weights {
            let is_matrix = is_input(&["Gemm", "MatMul"], 1, name);
            let is_table = is_input(&["Gather"], 0, name);
            kinds.add(tensor, [is_matrix, is_table]);
        }
        for layer in &graph.packed {
            kinds.add_layer(layer);
        }
        kinds
    }

    /// A layer is packed from where it lies in the file, whose pages are let go at once.
    fn add_layer(&mut self, layer: &PackedLayer) {
        let (_, weight) = &layer.weight;
        let tensors = std::iter::once(&layer.weight).chain(&layer.bias);
        let in_file = tensors.map(|(_, tensor)| tensor.byte_len() as u64);
        self.file += in_file.sum::<u64>();
        let per_number = match layer.kind {
            LinearKind::Fp32 => F32_BYTES,
            LinearKind::Bf16 => 2,
            LinearKind::Int8 => 1,
        };
        self.packed += packed_bytes(weight.shape()) / F32_BYTES as u64 * per_number as u64;
        // Of every output: what is added, and in 8 bits its scale and its sum.
        let outputs = weight.shape().first().copied().unwrap_or_default();
        let per_output = usize::from(layer.bias.is_some())
            + match layer.kind {
                LinearKind::Fp32 | LinearKind::Bf16 => 0,
                LinearKind::Int8 => 2,
            };
        self.packed += (per_output * outputs * F32_BYTES) as u64;
        self.packed_mapped = self.packed_mapped.max(weight.byte_len() as u64);
    }

    fn add(&mut self, tensor: &Tensor, [is_matrix, is_table]: [bool; 2]) {
        let bytes = (tensor.elements() * F32_BYTES) as u64;
        let mapped = tensor.mapped_range();
        self.file += tensor.byte_len() as u64;
        match mapped {
            Some(_) => self.mapped += bytes,
            None => {
                self.owned += bytes;
                self.converted += tensor.byte_len() as u64;
            }
        }
        if is_matrix {
            self.packed += packed_bytes(tensor.shape());
            self.packed_mapped += if mapped.is_some() { bytes } else { 0 };
        }
        match mapped {
            Some(_) if is_table => self.tables.push(bytes),
            Some(range) if !is_matrix => self.small.touch(tensor.file(), range),
            _ => {}
        }
    }

    /// Pages in memory after rows of so many tokens were looked up in every table.
    fn touched(&self, tokens: usize) -> u64 {
        let rows = self
            .tables
            .iter()
            .map(|&table| tables::touched(table, tokens));
        rows.sum::<u64>() + self.small.bytes()
    }
}

/// The packed form of a matrix `[out, in]`, as MLAS has it: whole panels of columns.
fn packed_bytes(shape: &[usize]) -> u64 {
    let inner = shape.last().copied().unwrap_or(0);
    let outer = shape.iter().rev().skip(1).product::<usize>();
    (outer.next_multiple_of(PANEL_COLUMNS) * inner * F32_BYTES) as u64
}

/// Every session of a given graph has weights of its own. What is computed is guessed from the
/// sizes that most encoders share.
fn of_given(file: &Path, dir: &Path, load: &Load) -> Result<Estimate> {
    let checkpoint = Checkpoint::open(dir)?;
    let bytes = GivenModel::size(file)?;
    let config = &checkpoint.config;
    let vocabulary = config.optional_count("vocab_size")?.unwrap_or(0);
    let longest = load.max_tokens.or(checkpoint.max_seq_length).unwrap_or(0);
    let tokens = crate::given::TOKENS_PER_RUN.max(longest);
    let activations = padded_activations(config, tokens)?;
    let parts = Estimate {
        batch_tokens: tokens,
        weights: bytes,
        packed: bytes * load.session_threads.len() as u64,
        tokenizer: vocabulary::tokenizer_bytes(dir, vocabulary)?,
        activations_per_session: activations,
        arena_per_session: (activations as f64 * ARENA_SLACK) as u64,
        ..Estimate::empty(Basis::OnnxFile, load)
    };
    // The file, and the message it is parsed into.
    Ok(parts.summed(2 * bytes))
}

/// Two buffers of the feed-forward layer, five of the width of a token, and the scores of all
/// pairs of tokens before and after their softmax.
fn padded_activations(config: &Config, tokens: usize) -> Result<u64> {
    let count = |key: &str| Ok::<_, crate::Error>(config.optional_count(key)?.unwrap_or(0));
    let hidden = count("hidden_size")?;
    let inner = count("intermediate_size")?;
    let pairs = count("num_attention_heads")? * tokens * tokens;
    Ok(((tokens * (2 * inner + 5 * hidden) + 2 * pairs) * F32_BYTES) as u64)
}

#[cfg(test)]
mod tests;
