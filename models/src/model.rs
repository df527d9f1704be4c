//! A loaded checkpoint: what it is, its tokenizer, and as many encoders as are wanted.

mod facts;
mod fidelity;
mod parts;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use retort_kernels::{Isa, Pooling};

use self::facts::{
    given_marks, given_prompts, given_tasks, known_max_tokens, label_names, matryoshka,
    refuse_cutoff_layer, refuse_dtype, refuse_gpu,
};
use self::fidelity::{OpenedGraph, Opening, Runs};
use self::parts::Parts;
use crate::architectures;
use crate::catalog::Task;
use crate::checkpoint::{Checkpoint, Weights};
use crate::dtype::{Arithmetic, Dtype, DtypeChoice, Fidelity, Measured};
use crate::encoder::{BatchBounds, Encode, PackedEncoder, PackedInterface};
use crate::error::{Error, Result};
use crate::given::{Family, GivenModel, Meaning};
use crate::heads::Heads;
use crate::heads::late_interaction::LateInteraction;
use crate::heads::plan::HeadPlan;
use crate::matryoshka::Matryoshka;
use crate::prompts::Prompts;
use crate::provider::Provider;
use crate::provider::device::Device;
use crate::runtime::Runtime;
use crate::session::SharedGraph;
use crate::static_embedding::{StaticCheckpoint, StaticEncoder, StaticTable};
use crate::tokenizer::Tokenizer;
use crate::tokenizer::template::PairTemplate;

/// What the operator decides about a checkpoint.
#[derive(Debug, Clone)]
pub struct LoadOptions {
    /// The ONNX Runtime that runs it.
    pub runtime: Runtime,
    /// The longest input in tokens, special tokens included, instead of what the checkpoint says.
    /// No more than the model has positions.
    pub max_tokens: Option<usize>,
    /// How token vectors become one, instead of what the checkpoint says.
    pub pooling: Option<Pooling>,
    /// What the model is for, where its files leave that open: Qwen3-Embedding and Qwen3-Reranker
    /// may be told apart by nothing else.
    pub task: Option<Task>,
    /// The layer whose score is taken, of a model that has scores after several; the layers behind
    /// it are not even built. `None` takes the last.
    pub cutoff_layer: Option<usize>,
    /// Lengths that vectors may be cut to, where config.json does not list them.
    pub matryoshka: Option<Matryoshka>,
    /// Where it is computed.
    pub provider: Provider,
    /// What its layers are computed in.
    pub dtype: DtypeChoice,
    /// Whether narrow types are taken even where the outputs are far from those in 32-bit
    /// floating point.
    pub force_dtype: bool,
    /// What an earlier load of the same files with the same options measured; `None` compares with
    /// 32-bit floating point.
    pub measured: Option<Measured>,
}

impl LoadOptions {
    /// Everything as the checkpoint says, on the processor in 32-bit floating point.
    pub fn new(runtime: Runtime) -> Self {
        Self {
            runtime,
            max_tokens: None,
            pooling: None,
            task: None,
            cutoff_layer: None,
            matryoshka: None,
            provider: Provider::Cpu,
            dtype: DtypeChoice::Fp32,
            force_dtype: false,
            measured: None,
        }
    }
}

/// Where the graph comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GraphSource {
    /// Built from config.json and the weights.
    Built,
    /// Read from this `.onnx` file.
    Given(PathBuf),
    /// There is none: rows of a table are averaged.
    Absent,
}

/// Facts about a loaded encoder.
#[derive(Debug, Clone, PartialEq)]
pub struct EncoderInfo {
    /// The family, such as `bert`.
    pub architecture: String,
    /// What it gives.
    pub heads: Heads,
    /// Length of the vector of a text; 0 when it gives none.
    pub dimensions: usize,
    /// Length of the vector of a token; 0 when it gives none.
    pub token_dimensions: usize,
    /// How many logits a text or pair gets; 0 without a classifier.
    pub labels: usize,
    /// What the logits stand for, in order; empty when the checkpoint does not say, or names
    /// another number of them than there are.
    pub label_names: Vec<String>,
    /// Whether it compares token vectors itself where a batch has a query for them
    /// ([`Batch::queries`](crate::Batch::queries)): on a GPU, where they are far more than the
    /// score. On a processor the query would be computed for every batch of a few documents.
    pub compares: bool,
    /// The longest input in tokens, special tokens included.
    pub max_tokens: usize,
    /// How token vectors become one; `None` when a given graph does it itself.
    pub pooling: Option<Pooling>,
    /// Rows of the word embeddings.
    pub vocab_size: usize,
    /// Numbers in the weights that are used; 0 when a given graph hides them.
    pub parameters: u64,
    /// Size of those weights in their files.
    pub weights_bytes: u64,
    /// Type of the weights in their files, such as `float32`.
    pub checkpoint_dtype: String,
    /// Type that its layers are computed in: `float32`, `float16`, `bfloat16` or `int8`.
    pub dtype: String,
    /// How near that is to 32-bit floating point, where it is another.
    pub fidelity: Fidelity,
    /// Where it is computed.
    pub provider: Provider,
    /// The same for people and labels: `cpu`, or `cuda:0`.
    pub device: String,
    /// What the maker of the GPU calls it; `None` on a processor.
    pub device_name: Option<String>,
    /// Where the graph comes from.
    pub source: GraphSource,
    /// Lengths that the vectors may be cut to.
    pub matryoshka: Matryoshka,
    /// What it wants before texts.
    pub prompts: Prompts,
    /// The tasks that it has adapters for, in the order of their numbers; empty without any.
    pub tasks: Vec<String>,
    /// How it wants a query and a document written; `None` for the tokenizer's own form.
    pub pair_template: Option<&'static PairTemplate>,
    /// The instruction of that template where the caller gives none; `None` for the template's own.
    pub instruction: Option<String>,
    /// The layer whose scores it gives; `None` for a model that has scores only after the last.
    pub cutoff_layer: Option<usize>,
    /// The instructions that this project's own kernels use here.
    pub isa: &'static str,
}

/// A loaded checkpoint. Shared by the threads of a service; each makes an encoder of its own.
pub struct EncoderModel {
    info: EncoderInfo,
    tokenizer: Arc<Tokenizer>,
    late_interaction: Option<LateInteraction>,
    graph: ModelGraph,
    runtime: Runtime,
}

enum ModelGraph {
    Built(OpenedGraph, Arc<PackedInterface>),
    Given(GivenModel),
    Absent(Arc<StaticTable>),
}

impl EncoderModel {
    /// Loads a checkpoint directory, or an `.onnx` file that lies in one. A directory with weights
    /// gets a graph built, unless they are a table of token vectors, which needs none; one with
    /// only an `.onnx` file gets that.
    ///
    /// # Errors
    /// `Error::Unsupported` when the architecture is unknown or a setting is not implemented,
    /// `Error::Checkpoint` when a file is missing or malformed.
    pub fn load(path: &Path, options: &LoadOptions) -> Result<Self> {
        if let Some(table) = StaticCheckpoint::find(path)? {
            return Self::load_static(&table, options);
        }
        if let Some((file, dir)) = crate::given::find(path)? {
            return Self::load_given(&file, &dir, options);
        }
        let device = Device::open(&options.runtime, &options.provider)?;
        let parts = Parts::read(path, options)?;
        let reference = parts.graph(Arithmetic::REFERENCE)?;
        let interface = Arc::new(parts.interface(&reference)?);
        let info = parts.info(&reference, options)?;
        let opening = Opening {
            device: &device,
            options,
            parts: &parts,
            info: &info,
            interface: &interface,
        };
        let opened = opening.open(reference)?;
        Ok(Self {
            info: device.described(opened.described(info)),
            tokenizer: Arc::new(parts.tokenizer),
            late_interaction: interface.outputs.late_interaction.clone(),
            graph: ModelGraph::Built(opened, interface),
            runtime: options.runtime.clone(),
        })
    }

    fn load_given(file: &Path, dir: &Path, options: &LoadOptions) -> Result<Self> {
        refuse_cutoff_layer(options)?;
        refuse_dtype(options, "a graph that is given is computed as it is")?;
        let checkpoint = Checkpoint::open(dir)?;
        let tokenizer = Tokenizer::load(dir)?;
        let config = &checkpoint.config;
        // Only a known family tells where positions start.
        let positions = architectures::position_ids(config)?;
        let adapters = architectures::adapters(config)?;
        let family = Family::new(positions, adapters.as_ref());
        let mut weights = Weights::none(dir);
        let plan = HeadPlan::read_given(&checkpoint, options.pooling, &mut weights)?;
        let device = Device::open(&options.runtime, &options.provider)?;
        let mut given = GivenModel::open(file, &options.runtime, family)?.on(device.clone());
        let marks = LateInteraction::read(dir, &tokenizer)?;
        let probed = given.probe(Meaning {
            plan,
            weights: &weights,
            pooling: options.pooling,
            left_out: tokenizer.frame_tokens(dir)?,
            late_interaction: marks.clone(),
        })?;
        let late_interaction = given_marks(&probed, marks, config)?;
        let positions = positions.unwrap_or_default();
        let limit = positions.limit(config)?.unwrap_or(usize::MAX);
        let vocab_size = config
            .optional_count("vocab_size")?
            .unwrap_or(tokenizer.vocab_size());
        let architecture = config.optional_text("model_type")?.unwrap_or("onnx");
        let tasks = given_tasks(&probed, adapters.as_ref(), file)?;
        let info = EncoderInfo {
            architecture: architecture.to_owned(),
            heads: probed.heads,
            dimensions: probed.dimensions,
            token_dimensions: probed.token_dimensions,
            labels: probed.labels,
            compares: false,
            label_names: label_names(&checkpoint, probed.labels)?,
            max_tokens: known_max_tokens(&checkpoint, limit, options)?,
            pooling: probed.pooling,
            vocab_size,
            parameters: 0,
            weights_bytes: given.bytes(),
            checkpoint_dtype: probed.dtype.clone(),
            dtype: probed.dtype,
            fidelity: Fidelity::default(),
            provider: Provider::Cpu,
            device: Provider::Cpu.to_string(),
            device_name: None,
            source: GraphSource::Given(file.to_owned()),
            matryoshka: matryoshka(&checkpoint, probed.dimensions, options),
            prompts: given_prompts(&checkpoint, adapters.as_ref()),
            tasks,
            pair_template: None,
            instruction: None,
            cutoff_layer: None,
            isa: Isa::detect().name(),
        };
        let bounds = BatchBounds {
            vocab_size,
            token_types: config.optional_count("type_vocab_size")?,
            max_positions: limit,
        };
        Ok(Self {
            info: device.described(info),
            tokenizer: Arc::new(tokenizer),
            late_interaction,
            graph: ModelGraph::Given(given.bounded(bounds)),
            runtime: options.runtime.clone(),
        })
    }

    fn load_static(found: &StaticCheckpoint, options: &LoadOptions) -> Result<Self> {
        refuse_cutoff_layer(options)?;
        refuse_gpu(options)?;
        refuse_dtype(options, "static embeddings have no layers to compute")?;
        let pooling = options.pooling.unwrap_or(Pooling::Mean);
        if pooling != Pooling::Mean {
            return Err(Error::Unsupported(format!(
                "pooling `{pooling}` of static embeddings, which are averaged; set `mean` or none"
            )));
        }
        let (tokenizer, table) = found.open()?;
        let size = table.size();
        let info = EncoderInfo {
            architecture: found.family.name.to_owned(),
            heads: Heads::DENSE,
            dimensions: size.dimensions,
            token_dimensions: 0,
            labels: 0,
            compares: false,
            label_names: Vec::new(),
            max_tokens: options.max_tokens.map_or_else(|| found.max_tokens(), Ok)?,
            pooling: Some(pooling),
            vocab_size: size.vocabulary,
            parameters: size.parameters,
            weights_bytes: size.bytes,
            checkpoint_dtype: size.dtype,
            dtype: Dtype::Fp32.name().to_owned(),
            fidelity: Fidelity::default(),
            provider: Provider::Cpu,
            device: Provider::Cpu.to_string(),
            device_name: None,
            source: GraphSource::Absent,
            matryoshka: matryoshka(&found.checkpoint, size.dimensions, options),
            prompts: found.checkpoint.prompts.clone(),
            tasks: Vec::new(),
            pair_template: None,
            instruction: None,
            cutoff_layer: None,
            isa: Isa::PORTABLE.name(),
        };
        Ok(Self {
            info,
            tokenizer: Arc::new(tokenizer),
            late_interaction: None,
            graph: ModelGraph::Absent(Arc::new(table)),
            runtime: options.runtime.clone(),
        })
    }

    /// Facts about the model.
    pub fn info(&self) -> &EncoderInfo {
        &self.info
    }

    /// What loading it measured, for [`LoadOptions::measured`]; `None` where nothing is.
    pub fn measured(&self) -> Option<Measured> {
        match &self.graph {
            ModelGraph::Built(opened, _) => Some(opened.measured()),
            ModelGraph::Given(_) | ModelGraph::Absent(_) => None,
        }
    }

    /// How queries and documents are marked for it, when it compares token vectors and says so.
    pub fn late_interaction(&self) -> Option<&LateInteraction> {
        self.late_interaction.as_ref()
    }

    /// Its tokenizer.
    pub fn tokenizer(&self) -> &Arc<Tokenizer> {
        &self.tokenizer
    }

    /// Makes an encoder that computes on `threads` threads, its caller's included; averaging rows
    /// of a table takes only the caller's. The encoders of a built graph or a table share its
    /// weights; on a GPU they are one, which runs for one thread at a time.
    pub fn encoder(&self, threads: usize) -> Result<Box<dyn Encode>> {
        match &self.graph {
            ModelGraph::Built(opened, interface) => {
                let graph = match &opened.runs {
                    Runs::OnGpu(shared) => return Ok(shared.handle()),
                    Runs::OnProcessor(graph) => graph,
                };
                let session = graph.session(threads)?;
                Ok(Box::new(PackedEncoder::new(session, Arc::clone(interface))))
            }
            ModelGraph::Given(given) => given.encoder(threads),
            ModelGraph::Absent(table) => Ok(Box::new(StaticEncoder::new(Arc::clone(table)))),
        }
    }

    /// Makes an encoder over the same weights that computes in 32-bit floating point, as the
    /// reference implementations do, whatever the others compute in. It is meant for a comparison:
    /// opened in no time, a little slower, and dropped afterwards. Weights of a narrower type are
    /// widened for as long as it lives.
    ///
    /// # Errors
    /// As `encoder`.
    pub fn reference_encoder(&self, threads: usize) -> Result<Box<dyn Encode>> {
        let ModelGraph::Built(opened, interface) = &self.graph else {
            return self.encoder(threads);
        };
        let Some(reference) = &opened.reference else {
            return self.encoder(threads);
        };
        let graph = SharedGraph::new(&self.runtime, reference.clone())?;
        let session = graph.passing_session(threads)?;
        Ok(Box::new(PackedEncoder::new(session, Arc::clone(interface))))
    }
}

#[cfg(test)]
mod gpu_graph_tests;
