//! The heads of a model: from token vectors to what it was trained to give.

use retort_kernels::Pooling;

use super::blocks::Blocks;
use super::ops::Activation;
use super::{Dim, Value};
use crate::architectures::{LanguageModel, Step};
use crate::checkpoint::Config;
use crate::checkpoint::modules::DenseModule;
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
    /// `[tokens, width]`
    pub(crate) const MULTI_VECTOR: &str = "token_embeddings";
    /// `[sequences, labels]`
    pub(crate) const SCORES: &str = "logits";
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
        if let Some(dense) = &plan.dense {
            let pieces = offsets.pool_cu_seqlens.as_ref().unwrap_or(sequences);
            let pieces = (pieces, Dim::Named("pieces"));
            let mut vectors = self.graph.packed_pooling(hidden, pieces, dense.pooling)?;
            for layer in &dense.layers {
                vectors = self.dense_layer(layer, &vectors)?;
            }
            self.graph.output(output::DENSE, &vectors);
        }
        match &plan.sparse {
            Some(SparsePlan::Lexical(name)) => {
                let weights = self.head_linear(name, hidden)?;
                let weights = self.graph.activation(&weights, Activation::Relu);
                self.graph.output(output::LEXICAL, &weights);
            }
            Some(SparsePlan::Vocabulary) => {
                let language_model = self.architecture.language_model.ok_or_else(|| {
                    Error::Unsupported("this family has no masked language model".to_owned())
                })?;
                let weights =
                    self.vocabulary_weights(language_model, [hidden, sequences], config)?;
                self.graph.output(output::VOCABULARY, &weights);
            }
            None => {}
        }
        if let Some(multi_vector) = &plan.multi_vector {
            let vectors = self.head_linear(&multi_vector.projection, hidden)?;
            self.graph.output(output::MULTI_VECTOR, &vectors);
        }
        if plan.score.is_some() {
            let scores = self.scores([hidden, sequences], config)?;
            self.graph.output(output::SCORES, &scores);
        }
        Ok(())
    }

    /// The classifier of the family: `[tokens, hidden]` → `[sequences, labels]`
    fn scores(&mut self, [hidden, cu_seqlens]: [&Value; 2], config: &Config) -> Result<Value> {
        let classifier = self
            .architecture
            .classifier
            .ok_or_else(|| Error::Unsupported("this family has no classifier".to_owned()))?;
        let pooling = classifier.pooling.read(config)?;
        let sequences = (cu_seqlens, Dim::Named("sequences"));
        let pooled = self.graph.packed_pooling(hidden, sequences, pooling)?;
        self.steps(classifier.steps, pooled, config)
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
        Ok(self.graph.log1p(&positive))
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

    /// A dense module of sentence-transformers: `[pieces, in]` → `[pieces, out]`
    fn dense_layer(&mut self, layer: &DenseModule, x: &Value) -> Result<Value> {
        let x = self.head_linear(&format!("{}linear", layer.prefix), x)?;
        Ok(match layer.activation {
            Some(activation) => self.graph.activation(&x, activation),
            None => x,
        })
    }

    /// A linear layer whose width is told by its weight. `[n, in]` → `[n, out]`
    fn head_linear(&mut self, name: &str, x: &Value) -> Result<Value> {
        let name = self.full_name(name, ".weight");
        let weight = self.head_weight(&format!("{name}.weight"))?;
        let bias = format!("{name}.bias");
        let bias = self
            .graph
            .has_weight(&bias)
            .then(|| self.head_weight(&bias))
            .transpose()?;
        self.graph.linear(x, &weight, bias.as_ref())
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

    /// A weight in the shape that it has.
    fn head_weight(&mut self, name: &str) -> Result<Value> {
        let shape = self.graph.weight_shape(name)?;
        self.graph.weight(name, &shape)
    }
}
