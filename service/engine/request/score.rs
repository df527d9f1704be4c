//! Queries and documents to scores: what is asked and what comes back.

use std::{cmp::Ordering, sync::Arc};

use super::{Timings, Truncate, Usage};

/// Documents to be ordered by what they say about a query.
#[derive(Debug, Clone, Default)]
pub struct RerankRequest {
    /// The model as the caller named it; `None` means the only (or first) reranker.
    pub model: Option<String>,
    /// What is asked.
    pub query: String,
    /// What may answer it.
    pub documents: Arc<[String]>,
    /// How many of the best are wanted; `None` or more than there are means all.
    pub top_n: Option<usize>,
    /// How scores are made.
    pub options: ScoreOptions,
}

/// Pairs to be scored, each by itself.
#[derive(Debug, Clone, Default)]
pub struct ScoreRequest {
    /// The model as the caller named it; `None` means the only (or first) reranker.
    pub model: Option<String>,
    /// The pairs.
    pub pairs: Pairs,
    /// How scores are made.
    pub options: ScoreOptions,
}

/// One query for all documents, or one for each.
#[derive(Debug, Clone, Default)]
pub struct Pairs {
    /// One, or as many as there are documents.
    pub queries: Arc<[String]>,
    /// In the order of the answer.
    pub documents: Arc<[String]>,
}

impl Pairs {
    /// The place of the query that goes with a document.
    pub fn query_of(&self, document: usize) -> usize {
        if self.queries.len() == 1 { 0 } else { document }
    }
}

/// How scores are made.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ScoreOptions {
    /// What a score is measured on.
    pub scale: Scale,
    /// What the model is told to judge by: the instruction of a reranker with a template, else put
    /// before the query.
    pub instruction: Option<String>,
    /// How far a pair may reach (a document alone, for embedding models) and which end of the
    /// document is cut.
    pub truncate: Truncate,
    /// No more tokens of a document are read than this; `None` means what fits.
    pub document_max_tokens: Option<usize>,
    /// What is done with a document that is longer.
    pub long: LongDocument,
    /// What each kind of vector counts, for models that have several; `None` means the defaults.
    pub weights: Option<HybridWeights>,
}

/// What a score is measured on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Scale {
    /// From 0 to 1, whatever else is in the request.
    #[default]
    Unit,
    /// As the model gives it: the logit, or the similarity.
    Raw,
}

/// What is done with a document that is longer than fits beside the query.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LongDocument {
    /// It is cut, or refused, as [`Truncate`] says.
    #[default]
    Cut,
    /// It is read in chunks and gets the score of its best.
    Chunk {
        /// The most tokens a chunk has in common with the one before it; `None` lets the engine
        /// choose.
        overlap: Option<usize>,
        /// No more chunks are read than this; what is beyond is cut.
        max_chunks: Option<usize>,
    },
}

/// What each kind of vector counts in the score of a model that has several.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct HybridWeights {
    /// Of the cosine of the dense vectors.
    pub dense: f32,
    /// Of the product of the sparse vectors.
    pub sparse: f32,
    /// Of the late interaction.
    pub multi_vector: f32,
}

impl Default for HybridWeights {
    /// What `FlagEmbedding` documents for BGE-M3.
    fn default() -> Self {
        Self {
            dense: 0.4,
            sparse: 0.2,
            multi_vector: 0.4,
        }
    }
}

/// The answer to a [`ScoreRequest`].
#[derive(Debug, Clone)]
pub struct ScoreResponse {
    /// The name under which the model is served.
    pub model: String,
    /// One per document, in order.
    pub scores: Vec<PairScore>,
    /// Tokens over all pairs.
    pub usage: Usage,
    /// Where the time went.
    pub timings: Timings,
}

/// The score of one pair and what was done to its document. It depends on nothing but the pair.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct PairScore {
    /// Finite; on the scale that was asked for.
    pub score: f32,
    /// What the order goes by: the score before it was brought to a scale.
    pub raw: f32,
    /// Tokens that the model saw, over all chunks: those of the pair, or of the document alone
    /// where the query is read once for all (embedding models).
    pub tokens: usize,
    /// Tokens of the pair that were cut because they did not fit.
    pub tokens_cut: usize,
    /// In how many chunks the document was read.
    pub chunks: usize,
}

/// The answer to a [`RerankRequest`].
#[derive(Debug, Clone)]
pub struct RerankResponse {
    /// The best first; ties in the order of the request.
    pub results: Vec<Ranked>,
    /// All documents, in the order of the request, and the account of the whole.
    pub scored: ScoreResponse,
}

/// One document of a ranking.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ranked {
    /// Its place in the request.
    pub index: usize,
    /// Its score.
    pub score: f32,
}

impl RerankResponse {
    /// Orders scored documents; `None` keeps all.
    pub fn new(scored: ScoreResponse, top_n: Option<usize>) -> Self {
        let mut order: Vec<usize> = (0..scored.scores.len()).collect();
        // A stable sort leaves ties in the order of the request.
        let raw = |index: usize| scored.scores[index].raw;
        order.sort_by(|&a, &b| raw(b).partial_cmp(&raw(a)).unwrap_or(Ordering::Equal));
        order.truncate(top_n.unwrap_or(usize::MAX));
        let ranked = |index: usize| Ranked {
            index,
            score: scored.scores[index].score,
        };
        Self {
            results: order.into_iter().map(ranked).collect(),
            scored,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_is_first_and_ties_keep_their_order() {
        let scores = [0.5, 0.9, 0.5, -0.0, 0.0, 0.9].map(|raw| PairScore {
            score: raw,
            raw,
            ..PairScore::default()
        });
        let scored = ScoreResponse {
            model: "m".into(),
            scores: scores.to_vec(),
            usage: Usage::default(),
            timings: Timings::default(),
        };
        let order = |top_n| {
            let response = RerankResponse::new(scored.clone(), top_n);
            let places: Vec<usize> = response.results.iter().map(|r| r.index).collect();
            places
        };
        assert_eq!(order(None), [1, 5, 0, 2, 3, 4]);
        assert_eq!(order(Some(2)), [1, 5]);
        assert_eq!(order(Some(99)).len(), 6);
    }
}
