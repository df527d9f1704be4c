//! The heads of a model: from token vectors to what it was trained to give.

use retort_kernels::Pooling;

use super::blocks::Blocks;
use super::ops::Activation;
use super::{BuiltGraph, Dim, ElementType, Graph, Value};
use crate::architectures::{LanguageModel, Step};
use crate::checkpoint::{Config, Weights};
use crate::error::{Error, Result};
use crate::heads::plan::{HeadPlan, SparsePlan};

/// Outputs of the graphs that this crate builds.
pub(crate) mod output {
    /// `[pieces, dimensions]`
    pub(crate) const DENSE: &str = "sentence_embedding";
    /// A weight per token of the text. `[tokens, 1]`
    pub(crate) const LEXICAL: &str = "token_weights";
    /// A weight per vocabulary entry. `[sequences, vocabulary]`
    pub(crate) const VOCABULARY: &str = "vocabulary_weights";
    /// In 16 bits where the layers are. `[returned, width]`
    pub(crate) const MULTI_VECTOR: &str = "token_embeddings";
    /// Beside token vectors that have length 1 already: why one has not (`RowFault::code`), else 0.
    /// `[vectors]`
    pub(crate) const FAULTS: &str = "token_faults";
    /// How well the token vectors of one sequence match those of another. `[pairs]`
    pub(crate) const LATE_INTERACTION: &str = "late_interaction";
    /// `[sequences, labels]`
    pub(crate) const SCORES: &str = "logits";
}

/// Inputs of `over_token_vectors`.
pub(crate) const TOKEN_VECTORS: &str = "token_vectors";
pub(crate) const PIECES: &str = "pool_cu_seqlens";

/// Inputs of graphs with token vectors. Most requests want none, and those of a GPU are compared
/// there where they can be, so that `[tokens, width]` crosses to the host for who asked for it.
pub(crate) mod input {
    /// The tokens that get a vector. `[vectors]`
    pub(crate) const VECTOR_TOKENS: &str = "vector_tokens";
    /// Where the vectors of each sequence begin, of one or two more than there are; on a GPU.
    /// `[sequences + 2]` or one more
    pub(crate) const VECTOR_CU_SEQLENS: &str = "vector_cu_seqlens";
    /// The sequences that are compared; on a GPU. `[pairs, 2]`
    pub(crate) const PAIRS: &str = "pairs";
    /// The vectors that are given themselves; on a GPU, elsewhere all are. `[returned]`
    pub(crate) const RETURNED: &str = "returned_vectors";
}

/// Where sequences and pooled pieces begin.
pub(super) struct Offsets {
    /// `[sequences + 1]`
    pub(super) cu_seqlens: Value,
    /// `[pieces + 1]`
    pub(super) pool_cu_seqlens: Option<Value>,
}

impl Blocks<'_> {
    /// Adds an output for every head of the plan. `hidden` is `[tokens, hidden]`
    pub(super) fn heads(
        &mut self,
        plan: &HeadPlan,
        hidden: &Value,
        offsets: &Offsets,
        config: &Config,
    ) -> Result<()> {
        let sequences = &offsets.cu_seqlens;
        let pieces = offsets.pool_cu_seqlens.as_ref().unwrap_or(sequences);
        self.graph.token_vector_heads(plan, hidden, pieces)?;
        if plan.sparse == Some(SparsePlan::Vocabulary) {
            let language_model = self.architecture.language_model.ok_or_else(|| {
                Error::Unsupported("this family has no masked language model".to_owned())
            })?;
            let weights = self.vocabulary_weights(language_model, [hidden, sequences], config)?;
            self.graph.output(output::VOCABULARY, &weights);
        }
        if let Some(score) = &plan.score {
            let scores = self.judgement(score, [hidden, sequences], config)?;
            self.graph.output(output::SCORES, &scores);
        }
        Ok(())
    }

    /// The classifier of the family: `[tokens, hidden]` → `[sequences, labels]`
    pub(super) fn scores(
        &mut self,
        [hidden, cu_seqlens]: [&Value; 2],
        config: &Config,
    ) -> Result<Value> {
        let classifier = self
            .architecture
            .classifier
            .ok_or_else(|| Error::Unsupported("this family has no classifier".to_owned()))?;
        let pooling = classifier.pooling.read(config)?;
        let sequences = (cu_seqlens, Dim::Named("sequences"));
        let pooled = self.graph.packed_pooling(hidden, sequences, pooling)?;
        self.in_32_bits(|blocks| blocks.steps(classifier.steps, pooled, config))
    }

    /// SPLADE: the largest `log(1 + relu(logit))` of each vocabulary entry over all tokens.
    fn vocabulary_weights(
        &mut self,
        model: &LanguageModel,
        [hidden, cu_seqlens]: [&Value; 2],
        config: &Config,
    ) -> Result<Value> {
        let hidden = self.steps(model.steps, hidden.clone(), config)?;
        let decoder = if self.graph.has_weight(model.decoder) {
            self.head_weight(model.decoder)?
        } else {
            self.word_embeddings()?
        };
        let bias = model.bias.iter().find(|name| self.graph.has_weight(name));
        let bias = bias.map(|name| self.head_weight(name)).transpose()?;
        let logits = self.graph.linear(&hidden, &decoder, bias.as_ref())?;
        let sequences = (cu_seqlens, Dim::Named("sequences"));
        // Both functions only grow, so the largest logit has the largest weight.
        let largest = self
            .graph
            .packed_pooling(&logits, sequences, Pooling::Max)?;
        let positive = self.graph.activation(&largest, Activation::Relu);
        self.in_32_bits(|blocks| Ok(blocks.graph.log1p(&positive)))
    }

    /// Builds what is computed of pooled vectors. They are few, so that it is done in 32 bits where
    /// the layers are in fewer.
    pub(super) fn in_32_bits<T>(
        &mut self,
        build: impl FnOnce(&mut Self) -> Result<T>,
    ) -> Result<T> {
        let element = self.graph.switch_to(ElementType::F32);
        let built = build(self);
        self.graph.switch_to(element);
        built
    }

    /// The layers of a head, one after the other.
    fn steps(&mut self, steps: &[Step], mut x: Value, config: &Config) -> Result<Value> {
        for step in steps {
            x = match *step {
                Step::Linear(name) => self.head_linear(name, &x)?,
                Step::Activation(activation) => self.graph.activation(&x, activation),
                Step::ActivationSetting(key) => {
                    let activation = Activation::read(config, key)?;
                    let activation = activation.unwrap_or(self.sizes.activation);
                    self.graph.activation(&x, activation)
                }
                Step::Norm(name) => self.head_norm(name, &x)?,
            };
        }
        Ok(x)
    }

    /// A linear layer whose width is told by its weight. `[n, in]` → `[n, out]`
    fn head_linear(&mut self, name: &str, x: &Value) -> Result<Value> {
        let name = self.full_name(name, ".weight");
        self.graph.named_linear(&name, x)
    }

    fn head_norm(&mut self, name: &str, x: &Value) -> Result<Value> {
        let name = self.full_name(name, ".weight");
        self.norm_named(&name, x)
    }

    /// The name with the prefix of the other tensors, when there is a tensor of that name.
    fn full_name(&self, name: &str, suffix: &str) -> String {
        let prefixed = format!("{}{name}", self.prefix);
        if self.graph.has_weight(&format!("{prefixed}{suffix}")) {
            prefixed
        } else {
            name.to_owned()
        }
    }

    fn head_weight(&mut self, name: &str) -> Result<Value> {
        self.graph.whole_weight(name)
    }
}

impl Graph<'_> {
    /// The heads that need nothing of a family but its token vectors, `[tokens, hidden]`; `pieces`
    /// are the offsets that the vectors of texts are pooled by.
    fn token_vector_heads(
        &mut self,
        plan: &HeadPlan,
        hidden: &Value,
        pieces: &Value,
    ) -> Result<()> {
        if let Some(dense) = &plan.dense {
            let pieces = (pieces, Dim::Named("pieces"));
            let mut vectors = self.packed_pooling(hidden, pieces, dense.pooling)?;
            let element = self.switch_to(ElementType::F32);
            for layer in &dense.layers {
                // A dense module of sentence-transformers: `[pieces, in]` → `[pieces, out]`
                vectors = self.named_linear(&format!("{}linear", layer.prefix), &vectors)?;
                if let Some(activation) = layer.activation {
                    vectors = self.activation(&vectors, activation);
                }
            }
            self.switch_to(element);
            self.output(output::DENSE, &vectors);
        }
        if let Some(SparsePlan::Lexical(name)) = &plan.sparse {
            let weights = self.named_linear(name, hidden)?;
            if weights.width()? != 1 {
                return Err(Error::Unsupported(format!(
                    "`{name}` gives {weights} instead of one weight per token"
                )));
            }
            let weights = self.activation(&weights, Activation::Relu);
            self.output(output::LEXICAL, &weights);
        }
        if let Some(multi_vector) = &plan.multi_vector {
            let tokens = [Dim::Named("vectors")];
            let tokens = self.input(input::VECTOR_TOKENS, ElementType::I64, &tokens);
            let hidden = self.gather(hidden, &tokens)?;
            let mut vectors = self.named_linear(&multi_vector.projection, &hidden)?;
            if self.is_for_gpu() {
                vectors = self.compared_vectors(&vectors)?;
            }
            self.output_as_it_is(output::MULTI_VECTOR, &vectors);
        }
        Ok(())
    }

    /// Scales token vectors to length 1 and compares them; those that are given themselves.
    /// `[vectors, width]` → `[returned, width]`
    fn compared_vectors(&mut self, vectors: &Value) -> Result<Value> {
        let (unit, faults) = self.unit_rows(vectors);
        self.output(output::FAULTS, &faults);
        let offsets = [Dim::Named("vector_offsets")];
        let offsets = self.input(input::VECTOR_CU_SEQLENS, ElementType::I32, &offsets);
        let pairs = [Dim::Named("pairs"), Dim::Fixed(2)];
        let pairs = self.input(input::PAIRS, ElementType::I32, &pairs);
        let scores = self.max_sim(&unit, [&offsets, &pairs]);
        self.output(output::LATE_INTERACTION, &scores);
        let returned = [Dim::Named("returned")];
        let returned = self.input(input::RETURNED, ElementType::I64, &returned);
        self.gather(&unit, &returned)
    }

    /// A linear layer of this full name. `[n, in]` → `[n, out]`
    fn named_linear(&mut self, name: &str, x: &Value) -> Result<Value> {
        let weight = self.whole_weight(&format!("{name}.weight"))?;
        let bias = format!("{name}.bias");
        let bias = self
            .has_weight(&bias)
            .then(|| self.whole_weight(&bias))
            .transpose()?;
        self.linear(x, &weight, bias.as_ref())
    }

    /// A weight in the shape that it has.
    fn whole_weight(&mut self, name: &str) -> Result<Value> {
        let shape = self.weight_shape(name)?;
        self.weight(name, &shape)
    }
}

/// The heads of a checkpoint whose token vectors a given graph makes. Inputs: `token_vectors`
/// `[tokens, width]` and, for vectors of texts, `pool_cu_seqlens` `[pieces + 1]`.
///
/// # Errors
/// `Error::Checkpoint` when a weight is missing, `Error::Unsupported` when it has another width.
pub(crate) fn over_token_vectors(
    plan: &HeadPlan,
    weights: &Weights,
    width: usize,
) -> Result<BuiltGraph> {
    let mut graph = Graph::new("heads", weights);
    let shape = [Dim::Named("tokens"), Dim::Fixed(width)];
    let hidden = graph.input(TOKEN_VECTORS, ElementType::F32, &shape);
    let offsets = [Dim::Named("piece_offsets")];
    // Declared whether or not anything is pooled, so that all runs are alike.
    let pieces = graph.input(PIECES, ElementType::I32, &offsets);
    graph.token_vector_heads(plan, &hidden, &pieces)?;
    Ok(graph.finish())
}
