//! Queries and documents to scores by comparing what an embedding model makes of each. Token
//! vectors are compared here on a processor, where they lie, and by the model on a GPU, where they
//! would have to be fetched; then a document is run beside its query.

use std::{sync::Arc, time::Instant};

use retort_models::{Chunking, Encoding, Head, Heads, Truncation, TruncationSide};

use super::{
    Pipeline,
    job::{Input, Values},
    score::{account, weightless},
    similarity::{self, Shares},
    tokenize::{self, TextPlan},
};
use crate::{
    engine::{
        lane::Caller,
        request::{
            Conditioning, EmbedInput, HybridWeights, LongDocument, PairScore, Pairs, PromptWish,
            Scale, ScoreOptions, ScoreRequest, ScoreResponse, vector_heads,
        },
    },
    error::{Error, Place, Result},
};

/// What is run for a request: queries and documents, the chunks of each text together.
struct Sides {
    queries: Vec<Vec<Input>>,
    documents: Vec<Vec<Input>>,
}

impl Pipeline {
    /// As `FlagEmbedding` scores with BGE-M3, and with what a model lacks left out.
    pub(super) async fn compare(
        &self,
        request: ScoreRequest,
        caller: &Caller,
    ) -> Result<ScoreResponse> {
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
        let mut scores = accounts(&query_texts, &document_texts, &pairs);
        let sides = self.sides(query_texts, document_texts, (&pairs, shares.heads()));
        let query_count = sides.queries.len();
        let inputs = sides.queries.into_iter().chain(sides.documents).collect();
        let mut replies = self
            .submit_chunks(inputs, caller, &mut timings)?
            .into_iter();
        let mut queries = Vec::with_capacity(query_count);
        for (index, chunks) in replies.by_ref().take(query_count).enumerate() {
            let mut values = Values::default();
            for reply in chunks {
                let done = super::answer(Place::Query(index), reply).await?;
                super::note(&mut timings, &done);
                values = done.values;
            }
            queries.push(Arc::new(values));
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

    /// What has to be run. A query whose token vectors the model compares is run for the heads that
    /// are left, or not at all.
    fn sides(
        &self,
        queries: Vec<Vec<Encoding>>,
        documents: Vec<Vec<Encoding>>,
        (pairs, heads): (&Pairs, Heads),
    ) -> Sides {
        let late = Heads::from(Head::MultiVector) & heads;
        if !self.info.compares || late.is_empty() {
            let inputs = |texts: Vec<Vec<Encoding>>| {
                let texts = texts.into_iter();
                texts.map(|chunks| Input::all(chunks, heads)).collect()
            };
            return Sides {
                queries: inputs(queries),
                documents: inputs(documents),
            };
        }
        let left = heads.without(late);
        let mut compared = Vec::with_capacity(queries.len());
        let mut run = Vec::with_capacity(queries.len());
        for chunks in queries {
            // A query is never cut into chunks.
            compared.extend(chunks.first().cloned().map(Arc::new));
            run.push(match left.is_empty() {
                true => Vec::new(),
                false => Input::all(chunks, left),
            });
        }
        let beside = |(index, chunks): (usize, Vec<Encoding>)| {
            let query = compared.get(pairs.query_of(index));
            let input = |encoding| Input {
                query: query.cloned(),
                ..Input::new(encoding, heads)
            };
            chunks.into_iter().map(input).collect()
        };
        Sides {
            queries: run,
            documents: documents.into_iter().enumerate().map(beside).collect(),
        }
    }

    async fn similarity(
        &self,
        query: &Arc<Values>,
        document: Values,
        shares: Shares,
    ) -> Result<f32> {
        if document.multi_vector.is_none() {
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
}

/// What is known of the pairs before anything is run.
fn accounts(
    queries: &[Vec<Encoding>],
    documents: &[Vec<Encoding>],
    pairs: &Pairs,
) -> Vec<PairScore> {
    let account = |(index, chunks): (usize, &Vec<Encoding>)| {
        let mut score = account(chunks);
        // What a query has lost counts for each of its pairs.
        let query = &queries[pairs.query_of(index)];
        score.tokens_cut += query.iter().map(|chunk| chunk.tokens_cut).sum::<usize>();
        score
    };
    documents.iter().enumerate().map(account).collect()
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
