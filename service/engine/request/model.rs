//! What is known of a served model, and what can be asked of it.

use retort_models::{DecoderInfo, EncoderInfo, Head, Heads};

use crate::error::Error;

/// What is known of a served model.
#[derive(Debug, Clone)]
pub struct ModelInfo {
    /// The name it is served under; no `/`, as Dify refuses those.
    pub name: String,
    /// Other names it answers to, its hub id among them.
    pub aliases: Vec<String>,
    /// Loading, ready or failed.
    pub state: ModelState,
    /// Where the files came from, in words for people.
    pub origin: String,
    /// The revision of the files, when the source has one.
    pub revision: Option<String>,
    /// What the checkpoint of an encoder says; present once loaded.
    pub encoder: Option<EncoderInfo>,
    /// What the checkpoint of a model that generates says; present once loaded.
    pub generator: Option<DecoderInfo>,
    /// What it makes of messages; nothing before it is loaded.
    pub chats: Chats,
    /// When loading finished, in seconds since the Unix epoch; 0 before.
    pub created: u64,
    /// Whether the service is not ready without it.
    pub required: bool,
}

impl ModelInfo {
    /// A model of which nothing but its names is known yet.
    pub fn loading(name: &str, aliases: Vec<String>) -> Self {
        Self {
            name: name.to_owned(),
            aliases,
            state: ModelState::Loading,
            origin: String::new(),
            revision: None,
            encoder: None,
            generator: None,
            chats: Chats::default(),
            created: 0,
            required: true,
        }
    }

    /// What it is; unknown before it is loaded.
    pub fn kind(&self) -> Option<ModelKind> {
        let generator = || self.generator.as_ref().map(|_| ModelKind::Generator);
        self.encoder.as_ref().map(ModelKind::of).or_else(generator)
    }

    /// Refuses a task that a loaded model cannot do; of one that is not, nothing is known yet.
    ///
    /// # Errors
    /// [`Error::UnsupportedTask`], which says what the model can do.
    pub fn check(&self, task: Task) -> Result<(), Error> {
        match (&self.encoder, &self.generator) {
            (Some(encoder), _) => task.check(&self.name, encoder),
            (None, Some(_)) if task != Task::Generate => Err(Error::UnsupportedTask {
                model: self.name.clone(),
                kind: ModelKind::Generator.describe(),
                task: task.name().to_owned(),
                can: Task::Generate.name().to_owned(),
            }),
            (None, Some(_) | None) => Ok(()),
        }
    }
}

/// What a model makes of messages, judged by its chat template.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Chats {
    /// Nothing: it has no template.
    #[default]
    No,
    /// An answer.
    Plainly,
    /// An answer, or calls of functions that it is told of.
    WithTools,
}

/// What a model is, judged by its heads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ModelKind {
    /// Text in, vectors out.
    Embedding,
    /// A query and a document in, a score out.
    Reranker,
    /// Text in, scores of more than two labels out.
    Classifier,
    /// A prompt in, text out.
    Generator,
}

impl ModelKind {
    /// What a loaded model is.
    pub fn of(info: &EncoderInfo) -> Self {
        if !vector_heads(info).is_empty() {
            Self::Embedding
        } else if info.labels <= 2 {
            Self::Reranker
        } else {
            Self::Classifier
        }
    }

    /// In words.
    pub fn describe(self) -> &'static str {
        match self {
            Self::Embedding => "an embedding model",
            Self::Reranker => "a reranker",
            Self::Classifier => "a classifier of more than two labels",
            Self::Generator => "a generative model",
        }
    }
}

/// What can be asked of a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Task {
    /// Vectors for texts.
    Embed,
    /// Scores for a query and documents.
    Rerank,
    /// Scores of labels.
    Classify,
    /// Text that continues a prompt.
    Generate,
}

impl Task {
    /// All of them, in the order in which they are listed to people.
    pub const ALL: [Self; 4] = [Self::Embed, Self::Rerank, Self::Classify, Self::Generate];

    /// What it is called.
    pub fn name(self) -> &'static str {
        match self {
            Self::Embed => "embed",
            Self::Rerank => "rerank",
            Self::Classify => "classify",
            Self::Generate => "generate",
        }
    }

    /// Whether an encoder can do it.
    pub fn fits(self, info: &EncoderInfo) -> bool {
        match self {
            Self::Embed => !vector_heads(info).is_empty(),
            Self::Rerank => ModelKind::of(info) != ModelKind::Classifier,
            Self::Classify => info.heads.contains(Head::Score),
            Self::Generate => false,
        }
    }

    /// The kind of model that it is first of all for.
    pub fn best_kind(self) -> ModelKind {
        match self {
            Self::Embed => ModelKind::Embedding,
            Self::Rerank => ModelKind::Reranker,
            Self::Classify => ModelKind::Classifier,
            Self::Generate => ModelKind::Generator,
        }
    }

    /// Refuses a model that cannot do it.
    ///
    /// # Errors
    /// [`Error::UnsupportedTask`], which says what the model can do.
    pub fn check(self, model: &str, info: &EncoderInfo) -> Result<(), Error> {
        if self.fits(info) {
            Ok(())
        } else {
            Err(unsupported(model, info, self.name()))
        }
    }
}

/// The error about a model that lacks what a task needs.
pub fn unsupported(model: &str, info: &EncoderInfo, task: &str) -> Error {
    let can: Vec<&str> = Task::ALL
        .into_iter()
        .filter(|task| task.fits(info))
        .map(Task::name)
        .collect();
    Error::UnsupportedTask {
        model: model.to_owned(),
        kind: ModelKind::of(info).describe(),
        task: task.to_owned(),
        can: format!("{} (it gives: {})", can.join(" and "), info.heads),
    }
}

/// The heads that are vectors.
pub fn vector_heads(info: &EncoderInfo) -> Heads {
    info.heads.without(Heads::SCORE)
}

/// What a rerank score of a model means, in words; `None` when it gives none.
pub fn score_meaning(info: &EncoderInfo) -> Option<&'static str> {
    if !Task::Rerank.fits(info) {
        return None;
    }
    let heads = vector_heads(info);
    let text = match (info.labels, heads.iter().count()) {
        (2, 0) => "probability of the last of two labels (softmax)",
        (_, 0) => "sigmoid of the logit",
        (_, 1) if heads.contains(Head::Dense) => "cosine of the vectors; below 0 counts as 0",
        (_, 1) if heads.contains(Head::MultiVector) => {
            "mean over the query's tokens of the largest cosine with a token of the document; \
             below 0 counts as 0"
        }
        (_, 1) => "product of the sparse vectors; has no upper bound, so it is given as raw score",
        _ => {
            "weighted mean of the cosine of the dense vectors, the product of the sparse vectors \
             and the late interaction; held within 0 to 1"
        }
    };
    Some(text)
}

/// What waits for a model at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Backlog {
    /// Inputs that are in no batch yet.
    pub inputs: usize,
    /// Their tokens.
    pub tokens: usize,
    /// The most tokens that may wait.
    pub max_tokens: usize,
}

/// Where a model stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ModelState {
    /// Files or sessions are being made.
    Loading,
    /// It answers, after it is loaded again if it was unloaded for want of requests.
    Ready,
    /// It did not load; the reason.
    Failed(String),
}
