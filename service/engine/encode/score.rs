//! Queries and documents to scores: a cross-encoder reads each pair at once; vectors of an
//! embedding model are compared. A score depends on nothing but its pair.

use std::{sync::Arc, time::Instant};

use retort_models::{Chunking, Encoding, Head, Heads, PairForm, Truncation, TruncationSide};

use super::{
    Ask, Pipeline, Reply,
    job::{Finish, Values},
    similarity::{self, Shares},
    tokenize::{self, PairPlan, TextPlan},
};
use crate::{
    engine::{
        lane::{Caller, Work},
        request::{
            Conditioning, EmbedInput, HybridWeights, LongDocument, Normalize, PairScore, Pairs,
            PromptWish, Scale, ScoreOptions, ScoreRequest, ScoreResponse, Task, Timings, Usage,
            vector_heads,
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
type Chunks = Vec<Reply>;

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
        let replies = self.submit_chunks(texts, pairs_of(caller, Heads::SCORE), &mut timings)?;
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

    /// As `FlagEmbedding` scores with BGE-M3, and with what a model lacks left out.
    async fn compare(&self, request: ScoreRequest, caller: &Caller) -> Result<ScoreResponse> {
        let ScoreRequest { pairs, options, .. } = request;
        let shares = self.shares(&options)?;
        let (queries, documents) = self.text_plans(&options, shares.heads())?;
        let texts = |texts: &Arc<[String]>| texts.iter().cloned().map(EmbedInput::Text).collect();
        let started = Instant::now();
        let query_texts = self
            .pool
            .texts(queries, texts(&pairs.queries), Place::Query)
            .await?;
        let document_texts = self
            .pool
            .texts(documents, texts(&pairs.documents), Place::Document)
            .await?;
        let all = query_texts.iter().chain(&document_texts).flatten();
        let mut timings = self.tokenized(started, all);
        let query_tokens = query_texts
            .iter()
            .flatten()
            .map(|e| e.input_ids.len())
            .sum();
        let mut scores: Vec<PairScore> = document_texts
            .iter()
            .map(|chunks| account(chunks))
            .collect();
        for (index, score) in scores.iter_mut().enumerate() {
            // What a query has lost counts for each of its pairs.
            let query = &query_texts[pairs.query_of(index)];
            score.tokens_cut += query.iter().map(|chunk| chunk.tokens_cut).sum::<usize>();
        }
        let texts = query_texts.into_iter().chain(document_texts).collect();
        let ask = pairs_of(caller, shares.heads());
        let mut replies = self.submit_chunks(texts, ask, &mut timings)?.into_iter();
        let mut queries = Vec::with_capacity(pairs.queries.len());
        for (index, chunks) in replies.by_ref().take(pairs.queries.len()).enumerate() {
            for reply in chunks {
                let done = super::answer(Place::Query(index), reply).await?;
                super::note(&mut timings, &done);
                queries.push(Arc::new(done.values));
            }
        }
        for (index, (score, chunks)) in scores.iter_mut().zip(replies).enumerate() {
            let query = &queries[pairs.query_of(index)];
            let mut similarities = Vec::with_capacity(chunks.len());
            for reply in chunks {
                let done = super::answer(Place::Document(index), reply).await?;
                super::note(&mut timings, &done);
                similarities.push(self.similarity(query, done.values, shares).await?);
            }
            score.raw = similarity::best(similarities.into_iter()).unwrap_or_default();
            score.score = match options.scale {
                Scale::Unit => score.raw.clamp(0.0, 1.0),
                Scale::Raw => score.raw,
            };
        }
        Ok(self.scored(scores, query_tokens, timings))
    }

    async fn similarity(
        &self,
        query: &Arc<Values>,
        document: Values,
        shares: Shares,
    ) -> Result<f32> {
        if !shares.heads().contains(Head::MultiVector) {
            return Ok(similarity::similarity(query, &document, shares));
        }
        // Every token with every token is too much for an async thread.
        let query = query.clone();
        self.pool
            .compute(move || similarity::similarity(&query, &document, shares))
            .await
    }

    fn shares(&self, options: &ScoreOptions) -> Result<Shares> {
        let own = vector_heads(&self.info);
        let weights = options.weights.unwrap_or_default();
        if let Some(asked) = options.weights {
            check_weights(asked, own)?;
        }
        let shares = Shares::new(weights, own).ok_or_else(|| {
            weightless("each must be at least 0, and one of them more, for a kind that it has")
        })?;
        if options.scale == Scale::Unit && shares.heads() == Head::Sparse.into() {
            return Err(Error::invalid(
                "raw_scores",
                "products of sparse vectors have no upper bound, so they cannot be given on a \
                 scale from 0 to 1; send `\"raw_scores\": true`",
            ));
        }
        Ok(shares)
    }

    /// How the queries and the documents become token ids.
    fn text_plans(&self, options: &ScoreOptions, heads: Heads) -> Result<(TextPlan, TextPlan)> {
        let truncation = tokenize::truncation(options.truncate, self.info.max_tokens)?;
        let condition = |input_type: &str, prompt: Option<PromptWish>| {
            let wish = Conditioning {
                prompt,
                task: None,
                input_type: Some(input_type.into()),
            };
            self.conditions(heads, &wish)
        };
        let instruction = options.instruction.clone().map(PromptWish::Instruction);
        let query = condition("query", instruction)?;
        let document = condition("passage", None)?;
        let most = options.document_max_tokens.unwrap_or(usize::MAX);
        let max_tokens = document.limit(truncation.max_tokens).min(most);
        let (chunking, max_chunks) = match options.long {
            LongDocument::Cut => (None, None),
            LongDocument::Chunk {
                overlap,
                max_chunks,
            } => {
                let overlap = tokenize::overlap(overlap, max_tokens);
                let chunking = Chunking {
                    max_tokens,
                    overlap,
                };
                (Some(chunking), max_chunks)
            }
        };
        let queries = TextPlan {
            tokenizer: self.tokenizer.clone(),
            truncation: Truncation {
                max_tokens: query.limit(truncation.max_tokens),
                side: match truncation.side {
                    TruncationSide::Refuse => TruncationSide::Refuse,
                    // A query always keeps its beginning.
                    TruncationSide::End | TruncationSide::Start => TruncationSide::End,
                },
            },
            conditions: query,
            chunking: None,
            max_chunks: None,
        };
        let documents = TextPlan {
            tokenizer: self.tokenizer.clone(),
            conditions: document,
            truncation: Truncation {
                max_tokens,
                side: truncation.side,
            },
            chunking,
            max_chunks,
        };
        Ok((queries, documents))
    }

    /// Queues all chunks of all texts; the replies are grouped as the texts were.
    fn submit_chunks(
        &self,
        texts: Vec<Vec<Encoding>>,
        ask: Ask<'_>,
        timings: &mut Timings,
    ) -> Result<Vec<Chunks>> {
        let lengths: Vec<usize> = texts.iter().map(Vec::len).collect();
        let encodings = texts.into_iter().flatten().collect();
        let mut replies = self.submit(encodings, ask, timings)?.into_iter();
        let group = |length| replies.by_ref().take(length).collect();
        Ok(lengths.into_iter().map(group).collect())
    }

    fn scored(
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

/// What reranking asks for a caller.
fn pairs_of(caller: &Caller, heads: Heads) -> Ask<'_> {
    Ask {
        heads,
        finish: UNIT,
        work: Work::Pairs,
        caller,
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

fn check_weights(weights: HybridWeights, own: Heads) -> Result<()> {
    let asked = [
        (Head::Dense, weights.dense),
        (Head::Sparse, weights.sparse),
        (Head::MultiVector, weights.multi_vector),
    ];
    for (head, weight) in asked {
        if weight > 0.0 && !own.contains(head) {
            return Err(weightless(&format!(
                "the model gives no {head} vectors (it gives: {own})"
            )));
        }
    }
    Ok(())
}

fn weightless(why: &str) -> Error {
    Error::invalid("weights", format!("`weights` cannot be used: {why}"))
}

/// What is known of a document before it is run.
fn account(chunks: &[Encoding]) -> PairScore {
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
