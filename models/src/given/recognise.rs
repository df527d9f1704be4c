//! What a finished graph gives, recognised by the names and shapes of its outputs.

use ort::session::SessionOutputs;
use retort_kernels::Pooling;

use super::outputs::{GivenOutputs, SparseForm, Used, dtype};
use crate::error::{Error, Result};
use crate::heads::late_interaction::LateInteraction;
use crate::heads::plan::{HeadPlan, SparsePlan};

/// Outputs that hold one finished vector per sequence. `pooler_output` is not among them: it is
/// the input of BERT's next-sentence head, not an embedding.
const POOLED: [&str; 9] = [
    "sentence_embedding",
    "sentence_embeddings",
    "text_embeds",
    "text_embeddings",
    "dense_vecs",
    "dense_embeddings",
    "embeddings",
    "embedding",
    "pooled",
];
/// Outputs that hold one vector per token. jina-embeddings-v3 calls them `text_embeds`.
const PER_TOKEN: [&str; 4] = [
    "last_hidden_state",
    "token_embeddings",
    "hidden_states",
    "text_embeds",
];
/// Outputs that hold a weight per token or per vocabulary entry, as people export BGE-M3.
const SPARSE: [&str; 3] = ["sparse_vecs", "sparse_weights", "sparse_embeddings"];
/// Outputs that hold a vector per token for late interaction, as people export BGE-M3 and
/// colbertv2.0 (`contextual`).
const MULTI_VECTOR: [&str; 4] = [
    "colbert_vecs",
    "colbert_vectors",
    "colbert_embeddings",
    COLBERT,
];
/// The one of them that is of a model with markers before queries and documents.
const COLBERT: &str = "contextual";
/// The output of a classifier or a language model.
const LOGITS: &str = "logits";
/// An output that is no embedding, whatever its shape.
const POOLER: &str = "pooler_output";

/// The floating-point outputs of a first run, and every output for messages.
struct Seen {
    floats: Vec<(Used, Vec<i64>)>,
    all: Vec<String>,
    sequences: i64,
    length: i64,
}

impl Seen {
    fn new(run: &SessionOutputs<'_>, [sequences, length]: [usize; 2]) -> Self {
        let mut seen = Self {
            floats: Vec::new(),
            all: Vec::new(),
            sequences: sequences as i64,
            length: length as i64,
        };
        for (name, value) in run.keys().zip(run.values()) {
            let shape = value.dtype().tensor_shape();
            let shape = shape.map(|shape| shape.to_vec()).unwrap_or_default();
            seen.all.push(format!("`{name}` {shape:?}"));
            let width = shape.last().copied().unwrap_or_default();
            if let (Some(dtype), Ok(width)) = (dtype(&value), usize::try_from(width)) {
                let name = name.to_owned();
                seen.floats.push((Used { name, width, dtype }, shape));
            }
        }
        seen
    }

    /// The first output of these names whose shape is right.
    fn named(&self, names: &[&str], fits: impl Fn(&[i64]) -> bool) -> Option<&(Used, Vec<i64>)> {
        let find = |name: &&str| {
            let mut floats = self.floats.iter();
            floats.find(|(used, shape)| used.name == *name && fits(shape))
        };
        names.iter().find_map(find)
    }

    /// The only output whose shape is right and that is not known for something else.
    fn only(&self, fits: impl Fn(&[i64]) -> bool) -> Option<&Used> {
        let other = |name: &str| {
            let known = [POOLER, LOGITS];
            let mut known = known.iter().chain(&SPARSE).chain(&MULTI_VECTOR);
            known.any(|known| *known == name)
        };
        let fitting = |(used, shape): &&(Used, Vec<i64>)| !other(&used.name) && fits(shape);
        let mut found = self.floats.iter().filter(fitting);
        match (found.next(), found.next()) {
            (Some((used, _)), None) => Some(used),
            _ => None,
        }
    }

    fn per_sequence(&self, shape: &[i64]) -> bool {
        matches!(shape, [rows, width] if *rows == self.sequences && *width > 0)
    }

    fn per_token(&self, shape: &[i64]) -> bool {
        matches!(shape, [rows, tokens, width]
            if *rows == self.sequences && *tokens == self.length && *width > 0)
    }

    fn logits(&self) -> Option<Used> {
        let found = self.named(&[LOGITS], |shape| self.per_sequence(shape));
        found.map(|(used, _)| used.clone())
    }

    fn token_vectors(&self) -> Option<Used> {
        let fits = |shape: &[i64]| self.per_token(shape);
        let named = self.named(&PER_TOKEN, fits).map(|(used, _)| used);
        named.or_else(|| self.only(fits)).cloned()
    }

    fn sparse(&self) -> Option<(Used, SparseForm)> {
        let (used, shape) = self.named(&SPARSE, |_| true)?;
        let form = match shape[..] {
            [rows, tokens] | [rows, tokens, 1]
                if rows == self.sequences && tokens == self.length =>
            {
                SparseForm::Tokens
            }
            _ if self.per_sequence(shape) => SparseForm::Vocabulary,
            _ => return None,
        };
        Some((used.clone(), form))
    }

    fn multi_vector(&self) -> Option<(Used, usize)> {
        let (used, shape) = self.named(&MULTI_VECTOR, |_| true)?;
        match shape[..] {
            _ if self.per_token(shape) => Some((used.clone(), 0)),
            // The vector of `<s>` is left to the dense head.
            [rows, tokens, _] if rows == self.sequences && tokens == self.length - 1 => {
                Some((used.clone(), 1))
            }
            _ => None,
        }
    }

    fn refuse<T>(&self, message: &str) -> Result<T> {
        let all = self.all.join(", ");
        Err(Error::Unsupported(format!("{message}; it gives {all}")))
    }
}

/// Chooses outputs by what a run of `[sequences, length]` gave. What the graph itself does is taken
/// out of the plan; the rest has to be done with its token vectors. `pooling` is the operator's.
///
/// # Errors
/// `Error::Unsupported` when the graph does not give what the checkpoint is for.
pub(super) fn choose(
    run: &SessionOutputs<'_>,
    shape: [usize; 2],
    plan: &mut HeadPlan,
    pooling: Option<Pooling>,
) -> Result<GivenOutputs> {
    let seen = Seen::new(run, shape);
    let mut found = GivenOutputs::default();
    if plan.score.is_some() {
        found.scores = seen.logits();
        if found.scores.is_none() {
            return seen.refuse("is of a classifier but has no output `logits` per sequence");
        }
        *plan = HeadPlan::default();
        return Ok(found);
    }
    if plan.sparse == Some(SparsePlan::Vocabulary) {
        let fits = |shape: &[i64]| seen.per_token(shape);
        let logits = seen.named(&[LOGITS], fits).map(|(used, _)| used);
        let logits = logits.or_else(|| seen.only(fits)).cloned();
        let logits = logits.map(|used| (used, SparseForm::Logits));
        found.sparse = seen.sparse().or(logits);
        if found.sparse.is_none() {
            return seen.refuse("is of a SPLADE model but has no logits of its vocabulary");
        }
        *plan = HeadPlan::default();
        return Ok(found);
    }
    found.sparse = seen.sparse();
    found.multi_vector = seen.multi_vector();
    let token_vectors = seen.token_vectors();
    if found.sparse.is_some() || token_vectors.is_none() {
        plan.sparse = None;
    }
    if found.multi_vector.is_some() || token_vectors.is_none() {
        plan.multi_vector = None;
    }
    found.dense = dense(&seen, token_vectors.as_ref(), plan, pooling)?;
    if found.dense.is_some() || token_vectors.is_none() {
        plan.dense = None;
    }
    if !plan.heads().is_empty() {
        found.token_vectors = token_vectors;
    } else if found.heads().is_empty() {
        if let Some(Used { name, .. }) = token_vectors {
            return Err(Error::Unsupported(format!(
                "gives token vectors (`{name}`) and the checkpoint does not say how to pool them; \
                 set the pooling yourself, such as `cls` or `mean`"
            )));
        }
        found.scores = seen.logits();
        if found.scores.is_none() {
            return seen.refuse("has no output that is an embedding or the logits of a classifier");
        }
    }
    Ok(found)
}

/// Refuses a graph of ColBERT's without its markers: its vectors would silently be other ones.
pub(super) fn check_marks(found: &GivenOutputs, marks: Option<&LateInteraction>) -> Result<()> {
    match &found.multi_vector {
        Some((Used { name, .. }, _)) if name == COLBERT && marks.is_none() => Err(
            LateInteraction::unmarked(&format!("has the output `{name}`")),
        ),
        _ => Ok(()),
    }
}

/// The finished vector of a text, unless it is to be pooled from token vectors here.
fn dense(
    seen: &Seen,
    token_vectors: Option<&Used>,
    plan: &HeadPlan,
    pooling: Option<Pooling>,
) -> Result<Option<Used>> {
    let fits = |shape: &[i64]| seen.per_sequence(shape);
    let named = seen.named(&POOLED, fits).map(|(used, _)| used);
    if let Some(pooling) = pooling {
        return match (token_vectors, named.or_else(|| seen.only(fits))) {
            (None, Some(Used { name, .. })) => Err(Error::Unsupported(format!(
                "pools by itself (`{name}`), so `{pooling}` pooling cannot be applied"
            ))),
            _ => Ok(None),
        };
    }
    if named.is_some() {
        return Ok(named.cloned());
    }
    // An unknown name is trusted less than token vectors with a known way to pool them.
    match token_vectors {
        Some(_) if plan.dense.is_some() => Ok(None),
        _ => Ok(seen.only(fits).cloned()),
    }
}
