//! What the files of a checkpoint say, before anything is opened: the family, its sizes, the heads,
//! and where the weights are. Graphs are built from it.

use std::path::Path;

use retort_kernels::Isa;

use super::facts::{label_names, matryoshka, max_tokens};
use super::{EncoderInfo, GraphSource, LoadOptions};
use crate::architectures::{self, Architecture, Sizes};
use crate::checkpoint::{Checkpoint, Weights};
use crate::dtype::{Arithmetic, Dtype, Fidelity};
use crate::encoder::{BatchBounds, PackedInterface};
use crate::error::{Error, Result};
use crate::graph::heads::output;
use crate::graph::{BuiltGraph, blocks};
use crate::heads::judgement::{Opened, ScorePlan};
use crate::heads::late_interaction::LateInteraction;
use crate::heads::outputs::{PackedOutputs, SparseOutput};
use crate::heads::plan::{HeadPlan, SparsePlan};
use crate::provider::Provider;
use crate::reranking;
use crate::tokenizer::Tokenizer;

/// A checkpoint that graphs can be built for.
pub(super) struct Parts {
    architecture: &'static Architecture,
    sizes: Sizes,
    checkpoint: Checkpoint,
    weights: Weights,
    plan: HeadPlan,
    pub(super) tokenizer: Tokenizer,
}

impl Parts {
    /// Reads the files of a checkpoint, of the weights only where they are.
    ///
    /// # Errors
    /// As `EncoderModel::load`.
    pub(super) fn read(path: &Path, options: &LoadOptions) -> Result<Self> {
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
        Ok(Self {
            architecture,
            sizes,
            checkpoint,
            weights,
            plan,
            tokenizer,
        })
    }

    /// The graph whose layers are computed in this way.
    pub(super) fn graph(&self, arithmetic: Arithmetic) -> Result<BuiltGraph> {
        let head_inputs = (&self.plan, &self.checkpoint.config);
        let (sizes, weights) = (&self.sizes, &self.weights);
        blocks::encoder(self.architecture, sizes, weights, head_inputs, arithmetic)
    }

    /// What such a graph is run with.
    pub(super) fn interface(&self, graph: &BuiltGraph) -> Result<PackedInterface> {
        let bounds = BatchBounds {
            vocab_size: self.sizes.vocabulary,
            token_types: self.sizes.token_types,
            max_positions: self.sizes.max_tokens,
        };
        Ok(PackedInterface {
            bounds,
            positions: self.sizes.position_ids,
            adapters: self.tasks(),
            outputs: outputs(&self.plan, graph, &self.tokenizer, &self.checkpoint)?,
        })
    }

    fn tasks(&self) -> Vec<String> {
        let adapters = self.sizes.adapters.as_ref();
        adapters.map_or_else(Vec::new, |adapters| adapters.names.clone())
    }

    /// The facts, of a model whose graph has all its weights as ONNX Runtime takes them.
    pub(super) fn info(&self, graph: &BuiltGraph, options: &LoadOptions) -> Result<EncoderInfo> {
        let (plan, checkpoint) = (&self.plan, &self.checkpoint);
        let dimensions = graph.width(output::DENSE).unwrap_or(0);
        let labels = graph.width(output::SCORES).unwrap_or(0);
        let pair_template = reranking::pair_template(self.architecture, plan, labels);
        let weights = graph.weights.iter().map(|(_, tensor)| tensor);
        Ok(EncoderInfo {
            architecture: self.architecture.name.to_owned(),
            heads: plan.heads(),
            dimensions,
            token_dimensions: graph.width(output::MULTI_VECTOR).unwrap_or(0),
            labels,
            compares: false,
            label_names: label_names(checkpoint, labels)?,
            max_tokens: max_tokens(checkpoint, self.sizes.max_tokens, options)?,
            pooling: plan.dense.as_ref().map(|dense| dense.pooling),
            vocab_size: self.sizes.vocabulary,
            parameters: weights.clone().map(|tensor| tensor.elements() as u64).sum(),
            weights_bytes: weights.map(|tensor| tensor.byte_len() as u64).sum(),
            checkpoint_dtype: stored_dtype(graph),
            dtype: Dtype::Fp32.name().to_owned(),
            fidelity: Fidelity::default(),
            provider: Provider::Cpu,
            device: Provider::Cpu.to_string(),
            device_name: None,
            source: GraphSource::Built,
            matryoshka: matryoshka(checkpoint, dimensions, options),
            prompts: checkpoint.prompts.clone(),
            tasks: self.tasks(),
            pair_template,
            instruction: reranking::instruction(checkpoint, pair_template)?,
            cutoff_layer: plan.cutoff_layer(),
            isa: Isa::detect().name(),
        })
    }
}

/// A checkpoint may mix types; the one with the most numbers names it.
fn stored_dtype(graph: &BuiltGraph) -> String {
    let mut by_dtype: Vec<(String, usize)> = Vec::new();
    for (_, tensor) in &graph.weights {
        let dtype = tensor.dtype();
        match by_dtype.iter_mut().find(|(known, _)| *known == dtype) {
            Some((_, elements)) => *elements += tensor.elements(),
            None => by_dtype.push((dtype, tensor.elements())),
        }
    }
    let most = by_dtype.into_iter().max_by_key(|(_, elements)| *elements);
    most.map(|(dtype, _)| dtype).unwrap_or_default()
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
