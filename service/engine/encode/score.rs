//! Queries and documents to scores: a cross-encoder reads each pair at once; vectors of an
//! embedding model are compared. A score depends on nothing but its pair.

use std::time::Instant;

use retort_models::{Encoding, Head, Heads, PairForm};

use super::{
    Ask, Pipeline, Reply,
    job::{Finish, Input, Values},
    similarity,
    tokenize::{self, PairPlan},
};
use crate::{
    engine::{
        lane::{Caller, Work},
        request::{
            LongDocument, Normalize, PairScore, Pairs, Scale, ScoreOptions, ScoreRequest,
            ScoreResponse, Task, Timings, Usage,
        },
    },
    error::{Error, Place, Result},
};

/// What reranking wants of the vectors of an embedding model.
const UNIT: Finish = Finish {
    dimensions: None,
    normalize: Normalize::Yes,
};

/// The replies to the chunks of one document.
pub(super) type Chunks = Vec<Reply>;

impl Pipeline {
    /// Scores for all pairs of a request, in order.
    ///
    /// # Errors
    /// [`Error::UnsupportedTask`] for a model that has no score of relevance; otherwise as
    /// [`Pipeline::embed`].
    pub async fn score(&self, request: ScoreRequest, caller: &Caller) -> Result<ScoreResponse> {
        Task::Rerank.check(&self.name, &self.info)?;
        self.room_for(request.pairs.documents.len())?;
        if self.info.heads.contains(Head::Score) {
            self.cross_encode(request, caller).await
        } else {
            self.compare(request, caller).await
        }
    }

    async fn cross_encode(&self, request: ScoreRequest, caller: &Caller) -> Result<ScoreResponse> {
        let ScoreRequest { pairs, options, .. } = request;
        if options.weights.is_some() {
            return Err(weightless(
                "they are for models with several kinds of vectors",
            ));
        }
        let (plan, pairs) = self.pair_plan(&options, pairs)?;
        let started = Instant::now();
        let texts = self.pool.pairs(plan, pairs).await?;
        let mut timings = self.tokenized(started, texts.iter().flatten());
        let mut scores: Vec<PairScore> = texts.iter().map(|chunks| account(chunks)).collect();
        let inputs = texts
            .into_iter()
            .map(|chunks| Input::all(chunks, Heads::SCORE));
        let replies = self.submit_chunks(inputs.collect(), caller, &mut timings)?;
        for (index, (score, chunks)) in scores.iter_mut().zip(replies).enumerate() {
            let mut logits = Vec::with_capacity(chunks.len());
            for reply in chunks {
                let done = super::answer(Place::Document(index), reply).await?;
                super::note(&mut timings, &done);
                logits.push(self.logit(&done.values)?);
            }
            score.raw = similarity::best(logits.into_iter()).unwrap_or_default();
            score.score = match options.scale {
                Scale::Unit => similarity::sigmoid(score.raw),
                Scale::Raw => score.raw,
            };
        }
        Ok(self.scored(scores, 0, timings))
    }

    fn logit(&self, values: &Values) -> Result<f32> {
        let logits = values.scores.as_deref().unwrap_or_default();
        similarity::relevance(logits).ok_or_else(|| {
            Error::Internal(format!(
                "`{}` gave {} logits where 1 or 2 were expected",
                self.name,
                logits.len()
            ))
        })
    }

    /// How pairs are put together, and the pairs, their queries with an instruction that no
    /// template has a place for.
    fn pair_plan(&self, options: &ScoreOptions, pairs: Pairs) -> Result<(PairPlan, Pairs)> {
        let limit = tokenize::truncation(options.truncate, self.info.max_tokens)?;
        let (overlap, max_chunks) = match options.long {
            LongDocument::Cut => (None, None),
            LongDocument::Chunk {
                overlap,
                max_chunks,
            } => {
                let overlap = tokenize::overlap(overlap, limit.max_tokens);
                (Some(overlap), max_chunks)
            }
        };
        let instruction = options.instruction.as_deref();
        let (instruction, pairs) = match instruction.filter(|text| !text.is_empty()) {
            Some(text) if !self.info.takes_instruction() => (None, instructed(text, pairs)),
            instruction => (instruction, pairs),
        };
        let form = self.info.pair_form(&self.tokenizer, instruction);
        let form: PairForm = form.map_err(|error| Error::invalid("model", error.to_string()))?;
        let wanted = options.truncate.max_tokens;
        let mut truncation = self.info.pair_truncation(&form, wanted, limit.side);
        if let Some(most) = options.document_max_tokens {
            truncation.document_max_tokens = truncation.document_max_tokens.min(most);
        }
        let plan = PairPlan {
            tokenizer: self.tokenizer.clone(),
            form,
            truncation,
            overlap,
            max_chunks,
        };
        Ok((plan, pairs))
    }

    /// Queues all chunks of all texts; the replies are grouped as the texts were.
    pub(super) fn submit_chunks(
        &self,
        texts: Vec<Vec<Input>>,
        caller: &Caller,
        timings: &mut Timings,
    ) -> Result<Vec<Chunks>> {
        let ask = Ask {
            finish: UNIT,
            work: Work::Pairs,
            caller,
        };
        let lengths: Vec<usize> = texts.iter().map(Vec::len).collect();
        let inputs = texts.into_iter().flatten().collect();
        let mut replies = self.submit(inputs, ask, timings)?.into_iter();
        let group = |length| replies.by_ref().take(length).collect();
        Ok(lengths.into_iter().map(group).collect())
    }

    pub(super) fn scored(
        &self,
        scores: Vec<PairScore>,
        query_tokens: usize,
        timings: Timings,
    ) -> ScoreResponse {
        let mut usage = Usage {
            prompt_tokens: query_tokens,
            ..Usage::default()
        };
        for score in &scores {
            usage.add(score.tokens, score.tokens_cut);
        }
        ScoreResponse {
            model: self.name.to_string(),
            scores,
            usage,
            timings,
        }
    }
}

/// Queries with an instruction before each, as Xinference has it for rerankers without a template.
fn instructed(instruction: &str, pairs: Pairs) -> Pairs {
    let with = |query: &String| format!("{instruction} {query}");
    Pairs {
        queries: pairs.queries.iter().map(with).collect(),
        ..pairs
    }
}

pub(super) fn weightless(why: &str) -> Error {
    Error::invalid("weights", format!("`weights` cannot be used: {why}"))
}

/// What is known of a document before it is run.
pub(super) fn account(chunks: &[Encoding]) -> PairScore {
    PairScore {
        tokens: chunks.iter().map(|chunk| chunk.input_ids.len()).sum(),
        tokens_cut: chunks
            .iter()
            .map(|chunk| chunk.tokens_cut)
            .max()
            .unwrap_or(0),
        chunks: chunks.len(),
        ..PairScore::default()
    }
}
