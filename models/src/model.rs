//! A loaded checkpoint: what it is, its tokenizer, and as many encoders as are wanted.

mod facts;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use retort_kernels::{Isa, Pooling};

use self::facts::{
    given_marks, given_prompts, given_tasks, label_names, matryoshka, max_tokens,
    refuse_cutoff_layer,
};
use crate::architectures::{self, Architecture, Sizes};
use crate::catalog::Task;
use crate::checkpoint::{Checkpoint, Weights};
use crate::encoder::{BatchBounds, Encode, PackedEncoder, PackedInterface};
use crate::error::{Error, Result};
use crate::given::{Family, GivenModel, Meaning};
use crate::graph::heads::output;
use crate::graph::{BuiltGraph, blocks};
use crate::heads::Heads;
use crate::heads::judgement::{Opened, ScorePlan};
use crate::heads::late_interaction::LateInteraction;
use crate::heads::outputs::{PackedOutputs, SparseOutput};
use crate::heads::plan::{HeadPlan, SparsePlan};
use crate::matryoshka::Matryoshka;
use crate::prompts::Prompts;
use crate::reranking;
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
}

impl LoadOptions {
    /// Everything as the checkpoint says.
    pub fn new(runtime: Runtime) -> Self {
        Self {
            runtime,
            max_tokens: None,
            pooling: None,
            task: None,
            cutoff_layer: None,
            matryoshka: None,
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
    /// Type that is computed in.
    pub dtype: String,
    /// Where it is computed.
    pub device: String,
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
    /// The instruction set that this project's own kernels use here.
    pub isa: &'static str,
}

/// A loaded checkpoint. Shared by the threads of a service; each makes an encoder of its own.
pub struct EncoderModel {
    info: EncoderInfo,
    tokenizer: Arc<Tokenizer>,
    late_interaction: Option<LateInteraction>,
    graph: ModelGraph,
}

enum ModelGraph {
    Built {
        graph: SharedGraph,
        interface: Arc<PackedInterface>,
    },
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
        let mut checkpoint = Checkpoint::open(path)?;
        let (architecture, mut sizes) =
            architectures::resolve(&checkpoint).map_err(|error| with_way_out(error, path))?;
        if let Some(adapters) = &sizes.adapters {
            checkpoint.prompts.add(&adapters.instructions);
        }
        let tokenizer = Tokenizer::load(path)?;
        let mut weights = Weights::open(path).map_err(|error| with_way_out(error, path))?;
        let opened = Opened {
            architecture,
            checkpoint: &checkpoint,
            tokenizer: &tokenizer,
            weights: &weights,
        };
        let score = ScorePlan::of_decoder(&opened, &options.into())?;
        let plan = HeadPlan::of_built(score, &checkpoint, options.pooling, &mut weights)?;
        plan.check(architecture)?;
        sizes.layers = plan.cutoff_layer().unwrap_or(sizes.layers);
        let head_inputs = (&plan, &checkpoint.config);
        let graph = blocks::encoder(architecture, &sizes, &weights, head_inputs)?;
        let limit = sizes.max_tokens;
        let dimensions = graph.width(output::DENSE).unwrap_or(0);
        let labels = graph.width(output::SCORES).unwrap_or(0);
        let pair_template = reranking::pair_template(architecture, &plan, labels);
        let info = EncoderInfo {
            heads: plan.heads(),
            dimensions,
            token_dimensions: graph.width(output::MULTI_VECTOR).unwrap_or(0),
            labels,
            label_names: label_names(&checkpoint, labels)?,
            pooling: plan.dense.as_ref().map(|dense| dense.pooling),
            max_tokens: max_tokens(&checkpoint, limit, options)?,
            matryoshka: matryoshka(&checkpoint, dimensions, options),
            prompts: checkpoint.prompts.clone(),
            pair_template,
            instruction: reranking::instruction(&checkpoint, pair_template)?,
            cutoff_layer: plan.cutoff_layer(),
            ..built_info(architecture, &sizes, &graph)
        };
        let outputs = outputs(&plan, &graph, &tokenizer, &checkpoint)?;
        let late_interaction = outputs.late_interaction.clone();
        let bounds = BatchBounds {
            vocab_size: sizes.vocabulary,
            token_types: sizes.token_types,
            max_positions: limit,
        };
        let interface = PackedInterface {
            bounds,
            positions: sizes.position_ids,
            adapters: info.tasks.clone(),
            outputs,
        };
        let graph = ModelGraph::Built {
            graph: SharedGraph::new(&options.runtime, graph)?,
            interface: Arc::new(interface),
        };
        Ok(Self {
            info,
            tokenizer: Arc::new(tokenizer),
            late_interaction,
            graph,
        })
    }

    fn load_given(file: &Path, dir: &Path, options: &LoadOptions) -> Result<Self> {
        refuse_cutoff_layer(options)?;
        let checkpoint = Checkpoint::open(dir)?;
        let tokenizer = Tokenizer::load(dir)?;
        let config = &checkpoint.config;
        // Only a known family tells where positions start.
        let positions = architectures::position_ids(config)?;
        let adapters = architectures::adapters(config)?;
        let family = Family::new(positions, adapters.as_ref());
        let mut weights = Weights::none(dir);
        let plan = HeadPlan::read_given(&checkpoint, options.pooling, &mut weights)?;
        let mut given = GivenModel::open(file, &options.runtime, family)?;
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
        let max_tokens = max_tokens(&checkpoint, limit, options)?;
        if max_tokens == usize::MAX {
            return Err(Error::checkpoint(
                dir,
                "does not say how long an input may be; set the longest length in tokens yourself",
            ));
        }
        let architecture = config.optional_text("model_type")?.unwrap_or("onnx");
        let tasks = given_tasks(&probed, adapters.as_ref(), file)?;
        let info = EncoderInfo {
            architecture: architecture.to_owned(),
            heads: probed.heads,
            dimensions: probed.dimensions,
            token_dimensions: probed.token_dimensions,
            labels: probed.labels,
            label_names: label_names(&checkpoint, probed.labels)?,
            max_tokens,
            pooling: probed.pooling,
            vocab_size,
            parameters: 0,
            weights_bytes: given.bytes(),
            checkpoint_dtype: probed.dtype.clone(),
            dtype: probed.dtype,
            device: "cpu".to_owned(),
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
            info,
            tokenizer: Arc::new(tokenizer),
            late_interaction,
            graph: ModelGraph::Given(given.bounded(bounds)),
        })
    }

    fn load_static(found: &StaticCheckpoint, options: &LoadOptions) -> Result<Self> {
        refuse_cutoff_layer(options)?;
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
            label_names: Vec::new(),
            max_tokens: options.max_tokens.map_or_else(|| found.max_tokens(), Ok)?,
            pooling: Some(pooling),
            vocab_size: size.vocabulary,
            parameters: size.parameters,
            weights_bytes: size.bytes,
            checkpoint_dtype: size.dtype,
            dtype: "float32".to_owned(),
            device: "cpu".to_owned(),
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
        })
    }

    /// Facts about the model.
    pub fn info(&self) -> &EncoderInfo {
        &self.info
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
    /// weights.
    pub fn encoder(&self, threads: usize) -> Result<Box<dyn Encode>> {
        match &self.graph {
            ModelGraph::Built { graph, interface } => {
                let session = graph.session(threads)?;
                Ok(Box::new(PackedEncoder::new(session, Arc::clone(interface))))
            }
            ModelGraph::Given(given) => given.encoder(threads),
            ModelGraph::Absent(table) => Ok(Box::new(StaticEncoder::new(Arc::clone(table)))),
        }
    }
}

/// Points at the finished graph of a checkpoint that no graph can be built for.
fn with_way_out(error: Error, dir: &Path) -> Error {
    let Some(file) = crate::given::beside(dir) else {
        return error;
    };
    let way_out = format!(
        "; naming the file `{}` instead of its directory loads that",
        file.display()
    );
    match error {
        Error::Unsupported(message) => Error::Unsupported(message + &way_out),
        Error::Checkpoint { path, message } => Error::Checkpoint {
            path,
            message: message + &way_out,
        },
        other => other,
    }
}

/// What config.json and the weights say about a built graph.
fn built_info(architecture: &Architecture, sizes: &Sizes, graph: &BuiltGraph) -> EncoderInfo {
    let weights = graph.weights.iter().map(|(_, tensor)| tensor);
    // A checkpoint may mix types; the one with the most numbers names it.
    let mut by_dtype: Vec<(String, usize)> = Vec::new();
    for tensor in weights.clone() {
        let dtype = tensor.dtype();
        match by_dtype.iter_mut().find(|(known, _)| *known == dtype) {
            Some((_, elements)) => *elements += tensor.elements(),
            None => by_dtype.push((dtype, tensor.elements())),
        }
    }
    let most = by_dtype.into_iter().max_by_key(|(_, elements)| *elements);
    EncoderInfo {
        architecture: architecture.name.to_owned(),
        heads: Heads::NONE,
        dimensions: 0,
        token_dimensions: 0,
        labels: 0,
        label_names: Vec::new(),
        max_tokens: 0,
        pooling: None,
        vocab_size: sizes.vocabulary,
        parameters: weights.clone().map(|tensor| tensor.elements() as u64).sum(),
        weights_bytes: weights.map(|tensor| tensor.byte_len() as u64).sum(),
        checkpoint_dtype: most.map(|(dtype, _)| dtype).unwrap_or_default(),
        dtype: "float32".to_owned(),
        device: "cpu".to_owned(),
        source: GraphSource::Built,
        matryoshka: Matryoshka::default(),
        prompts: Prompts::default(),
        tasks: sizes
            .adapters
            .as_ref()
            .map(|adapters| adapters.names.clone())
            .unwrap_or_default(),
        pair_template: None,
        instruction: None,
        cutoff_layer: None,
        isa: Isa::detect().name(),
    }
}

/// What the outputs of a built graph mean.
fn outputs(
    plan: &HeadPlan,
    graph: &BuiltGraph,
    tokenizer: &Tokenizer,
    checkpoint: &Checkpoint,
) -> Result<PackedOutputs> {
    let sparse = match plan.sparse {
        Some(SparsePlan::Lexical(_)) => Some(SparseOutput::Lexical {
            left_out: tokenizer.frame_tokens(checkpoint.dir())?,
        }),
        Some(SparsePlan::Vocabulary) => Some(SparseOutput::Vocabulary {
            entries: graph.width(output::VOCABULARY).unwrap_or(0),
        }),
        None => None,
    };
    let mut late_interaction = None;
    if plan.multi_vector.is_some() {
        late_interaction = LateInteraction::read(checkpoint.dir(), tokenizer)?;
        LateInteraction::check(late_interaction.as_ref(), &checkpoint.config)?;
    }
    Ok(PackedOutputs {
        heads: plan.heads(),
        sparse,
        skipped: plan.multi_vector.as_ref().map_or(0, |plan| plan.skipped),
        late_interaction,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checkpoint(files: &[(&str, &str)]) -> (tempfile::TempDir, Checkpoint) {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        let checkpoint = Checkpoint::open(dir.path()).unwrap();
        (dir, checkpoint)
    }

    #[test]
    fn a_finished_graph_is_pointed_at() {
        let (dir, _) = checkpoint(&[("config.json", "{}"), ("pytorch_model.bin", "damaged")]);
        let error = || Weights::open(dir.path()).unwrap_err();
        assert!(
            !with_way_out(error(), dir.path())
                .to_string()
                .contains("naming")
        );
        std::fs::write(dir.path().join("model.onnx"), "").unwrap();
        let error = with_way_out(error(), dir.path()).to_string();
        assert!(
            error.contains("not a PyTorch file") && error.contains("naming the file"),
            "{error}"
        );
    }
}
