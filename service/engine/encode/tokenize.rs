//! Text to token ids, in parallel and off the async threads.
//! Decides nothing about batches; knows the meaning of each kind of input.

use std::sync::Arc;

use rayon::prelude::*;
use retort_models::{
    Chunking, Encoding, PairForm, PairTruncation, PreparedQuery, Prompt, Tokenizer, Truncation,
    TruncationSide,
};
use tiktoken_rs::cl100k_base_singleton;
use tokio::sync::oneshot;

use super::{classify, conditioning::Conditions};
use crate::{
    engine::request::{ClassifyInput, EmbedInput, Pairs, Truncate},
    error::{Error, Place, Result},
};

/// The threads that all models share for tokenization, and for the arithmetic of scores.
#[derive(Clone)]
pub struct TokenizerPool(Arc<rayon::ThreadPool>);

/// How texts become token ids.
pub struct TextPlan {
    /// Of the model.
    pub tokenizer: Arc<Tokenizer>,
    /// The prompt or the marker, and the adapter.
    pub conditions: Conditions,
    /// How far a text may reach.
    pub truncation: Truncation,
    /// How a longer one is read; `None` cuts it.
    pub chunking: Option<Chunking>,
    /// No more chunks are read than this.
    pub max_chunks: Option<usize>,
}

/// How pairs become token ids.
pub struct PairPlan {
    /// Of the model.
    pub tokenizer: Arc<Tokenizer>,
    /// How a query and a document are put together.
    pub form: PairForm,
    /// How far a pair may reach.
    pub truncation: PairTruncation,
    /// The overlap of the chunks in which a longer document is read; `None` cuts it.
    pub overlap: Option<usize>,
    /// No more chunks are read than this.
    pub max_chunks: Option<usize>,
}

/// How texts and pairs to be given labels become token ids.
pub struct LabelPlan {
    /// Of the model.
    pub tokenizer: Arc<Tokenizer>,
    /// How two texts are put together; needed only where there are pairs.
    pub form: Option<PairForm>,
    /// How far an input may reach.
    pub truncation: Truncation,
}

impl TokenizerPool {
    /// A pool of so many threads.
    ///
    /// # Errors
    /// When the operating system refuses the threads.
    pub fn new(threads: usize) -> Result<Self> {
        rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .thread_name(|i| format!("tokenize-{i}"))
            .build()
            .map(|pool| Self(Arc::new(pool)))
            .map_err(|error| Error::Internal(format!("tokenizer threads: {error}")))
    }

    /// Encodes all texts, in order; each gives one encoding, or several chunks.
    ///
    /// # Errors
    /// The first (by position) text that is too long or not valid.
    pub async fn texts(
        &self,
        plan: TextPlan,
        texts: Vec<EmbedInput>,
        place: fn(usize) -> Place,
    ) -> Result<Vec<Vec<Encoding>>> {
        let count = texts.len();
        let work = move |plan: &(TextPlan, Prompt), index: usize| {
            let (plan, prompt) = plan;
            let mut chunks = encode_text(plan, prompt, &texts[index])
                .map_err(|error| at(place(index), error))?;
            let overhead = plan.tokenizer.special_tokens() + prompt.tokens();
            keep_chunks(&mut chunks, plan.max_chunks, overhead);
            for chunk in &mut chunks {
                chunk.adapter = plan.conditions.adapter;
            }
            Ok(chunks)
        };
        self.each(count, move || with_prompt(plan), work).await
    }

    /// Encodes all texts as one, of which each is a segment.
    ///
    /// # Errors
    /// When one is not a text or has no tokens, or they do not fit together.
    pub async fn joined(&self, plan: TextPlan, texts: Vec<EmbedInput>) -> Result<Encoding> {
        let work = move |plan: &(TextPlan, Prompt), _| {
            let (plan, prompt) = plan;
            let texts: Vec<&str> = texts
                .iter()
                .map(|text| match text {
                    EmbedInput::Text(text) => Ok(text.as_str()),
                    EmbedInput::Cl100kIds(_) | EmbedInput::ModelIds(_) => Err(Error::invalid(
                        "late_chunking",
                        "`late_chunking` joins texts; token ids cannot be joined",
                    )),
                })
                .collect::<Result<_>>()?;
            let mut encoding = plan
                .tokenizer
                .encode_joined(prompt, &texts, plan.truncation)
                .map_err(|error| at(Place::Input(texts.len() - 1), error))?;
            encoding.adapter = plan.conditions.adapter;
            Ok(encoding)
        };
        let mut encodings = self.each(1, move || with_prompt(plan), work).await?;
        encodings
            .pop()
            .ok_or_else(|| Error::Internal("nothing was encoded".into()))
    }

    /// Encodes all pairs, in the order of the documents; each gives one encoding, or several
    /// chunks of the document with the query before each.
    ///
    /// # Errors
    /// The first (by position) document that is too long or not valid.
    pub async fn pairs(&self, plan: PairPlan, pairs: Pairs) -> Result<Vec<Vec<Encoding>>> {
        let count = pairs.documents.len();
        let queries = pairs.queries.clone();
        let prepare = move || {
            // One for all documents is tokenized once; one for each, with its document.
            let shared = match &queries[..] {
                [query] => Some(prepare_query(&plan, query, 0)?),
                _ => None,
            };
            Ok((plan, shared))
        };
        let work = move |(plan, shared): &(PairPlan, Option<PreparedQuery>), index: usize| {
            let own;
            let query = if let Some(query) = shared {
                query
            } else {
                let number = pairs.query_of(index);
                own = prepare_query(plan, &pairs.queries[number], number)?;
                &own
            };
            encode_pair(plan, query, &pairs.documents[index])
                .map_err(|error| at(Place::Document(index), error))
        };
        self.each(count, prepare, work).await
    }

    /// Encodes all texts and pairs that are to be given labels, in order.
    ///
    /// # Errors
    /// The first (by position) input that is too long or not valid.
    pub async fn labelled(
        &self,
        plan: LabelPlan,
        inputs: Vec<ClassifyInput>,
    ) -> Result<Vec<Encoding>> {
        let work = move |plan: &(LabelPlan, Vec<ClassifyInput>), index: usize| {
            let (plan, inputs) = plan;
            let form = plan.form.as_ref();
            classify::encode(&plan.tokenizer, form, &inputs[index], plan.truncation)
                .map_err(|error| at(Place::Input(index), error))
        };
        let count = inputs.len();
        self.each(count, move || Ok((plan, inputs)), work).await
    }

    /// Runs something short that is too long for an async thread.
    ///
    /// # Errors
    /// When it panics.
    pub async fn compute<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T> {
        let (reply, result) = oneshot::channel();
        self.0.spawn(move || {
            let _ = reply.send(work());
        });
        result
            .await
            .map_err(|_| Error::Internal("a computation panicked".into()))
    }

    /// Prepares once, then does the same for `0..count`, in parallel.
    async fn each<C, T>(
        &self,
        count: usize,
        prepare: impl FnOnce() -> Result<C> + Send + 'static,
        work: impl Fn(&C, usize) -> Result<T> + Send + Sync + 'static,
    ) -> Result<Vec<T>>
    where
        C: Sync + 'static,
        T: Send + 'static,
    {
        let (reply, results) = oneshot::channel();
        self.0.spawn(move || {
            let one = |prepared: &C, index: usize| {
                // When the client has left, the rest of a long list is not worth the time.
                if reply.is_closed() {
                    return Err(Error::Internal("the client left".into()));
                }
                work(prepared, index)
            };
            let results = prepare().and_then(|prepared| {
                let results: Vec<Result<T>> = match count {
                    1 => vec![one(&prepared, 0)],
                    _ => (0..count)
                        .into_par_iter()
                        .map(|index| one(&prepared, index))
                        .collect(),
                };
                results.into_iter().collect::<Result<Vec<T>>>()
            });
            // Nobody to tell means that the client has left.
            let _ = reply.send(results);
        });
        results
            .await
            .map_err(|_| Error::Internal("the tokenizer panicked".into()))?
    }
}

fn with_prompt(plan: TextPlan) -> Result<(TextPlan, Prompt)> {
    let prompt = match (&plan.conditions.side, plan.conditions.prompt.as_str()) {
        (Some(side), _) => side.prompt.clone(),
        (None, "") => Prompt::default(),
        (None, text) => plan
            .tokenizer
            .prepare_prompt(text)
            .map_err(|error| Error::invalid("prompt", error.to_string()))?,
    };
    Ok((plan, prompt))
}

fn prepare_query(plan: &PairPlan, query: &str, number: usize) -> Result<PreparedQuery> {
    plan.tokenizer
        .prepare_query(&plan.form, query, plan.truncation)
        .map_err(|error| at(Place::Query(number), error))
}

fn encode_pair(
    plan: &PairPlan,
    query: &PreparedQuery,
    document: &str,
) -> Result<Vec<Encoding>, retort_models::Error> {
    let Some(overlap) = plan.overlap else {
        return Ok(vec![plan.tokenizer.encode_pair(query, document)?]);
    };
    let mut chunks = plan
        .tokenizer
        .encode_pair_chunks(query, document, overlap)?;
    if plan.max_chunks.is_some_and(|most| most < chunks.len()) {
        let bare = plan.tokenizer.encode_pair(query, "")?;
        keep_chunks(&mut chunks, plan.max_chunks, bare.input_ids.len());
    }
    Ok(chunks)
}

/// Leaves at most so many chunks, and counts what is in the others as cut. `overhead` are the
/// tokens of a chunk that are not its text's.
fn keep_chunks(chunks: &mut Vec<Encoding>, most: Option<usize>, overhead: usize) {
    let most = most.unwrap_or(usize::MAX).max(1);
    let dropped: usize = chunks
        .iter()
        .skip(most)
        .map(|chunk| chunk.input_ids.len().saturating_sub(overhead))
        .sum();
    chunks.truncate(most);
    if let Some(first) = chunks.first_mut() {
        first.tokens_cut += dropped;
    }
}

fn encode_text(
    plan: &TextPlan,
    prompt: &Prompt,
    input: &EmbedInput,
) -> Result<Vec<Encoding>, retort_models::Error> {
    let encode = |text: &str| match plan.chunking {
        Some(chunking) => plan.tokenizer.encode_chunks(prompt, text, chunking),
        None => {
            let encoding = plan
                .tokenizer
                .encode_prompted(prompt, text, plan.truncation)?;
            Ok(vec![encoding])
        }
    };
    match input {
        EmbedInput::Text(text) => encode(text),
        EmbedInput::ModelIds(ids) => {
            let mut truncation = plan.truncation;
            if plan.chunking.is_some() {
                // There are no words to part ids at, and cutting is not what was asked for.
                truncation.side = TruncationSide::Refuse;
            }
            Ok(vec![plan.tokenizer.encode_ids(ids, truncation)?])
        }
        EmbedInput::Cl100kIds(ids) => {
            let bytes = cl100k_base_singleton().decode_bytes(ids).map_err(|error| {
                retort_models::Error::Tokenize(format!(
                    "token arrays are read as `cl100k_base` ids, as OpenAI clients send them, and \
                     this one is not: {error}; set `token_ids = \"model\"` to have them read as \
                     the model's own ids"
                ))
            })?;
            // A cut through the middle of a character leaves bytes that are no character.
            encode(&String::from_utf8_lossy(&bytes))
        }
    }
}

/// Says which text an error is about, in the caller's terms.
fn at(place: Place, error: retort_models::Error) -> Error {
    match error {
        retort_models::Error::InputTooLong { tokens, limit } => Error::InputTooLong {
            place,
            tokens,
            limit,
        },
        other => {
            let message = match place {
                Place::Input(index) => format!("input[{index}]: {other}"),
                Place::Query(_) => format!("query: {other}"),
                Place::Document(index) => format!("documents[{index}]: {other}"),
            };
            Error::invalid(place.field(), message)
        }
    }
}

/// The model's limit and the caller's wish, as one rule for the tokenizer.
///
/// # Errors
/// When the caller asks to keep no tokens, or refuses cutting and allows more than the model has.
pub fn truncation(wish: Truncate, model_max_tokens: usize) -> Result<Truncation> {
    match wish.max_tokens {
        Some(0) => Err(Error::invalid(
            "truncate_prompt_tokens",
            "`truncate_prompt_tokens` is 0; it must be at least 1, or -1 for the model's maximum",
        )),
        Some(wanted) => Ok(Truncation {
            max_tokens: wanted.min(model_max_tokens),
            side: wish.side,
        }),
        None => Ok(Truncation {
            max_tokens: model_max_tokens,
            side: wish.side,
        }),
    }
}

/// The overlap of chunks unless one is asked for: small beside a chunk, and none in tiny ones.
pub fn overlap(asked: Option<usize>, max_tokens: usize) -> usize {
    const SHARE: usize = 16;
    const TINY: usize = 64;
    let usual = if max_tokens < TINY {
        0
    } else {
        max_tokens / SHARE
    };
    asked.unwrap_or(usual)
}
