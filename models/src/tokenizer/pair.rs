//! A query and a document in one input, as cross-encoders read them. The query is tokenized once
//! for all its documents, and the document is what gives way when both do not fit.

use super::scan::{Keep, Prompt, Scanned};
use super::template::PairForm;
use super::{PIECE_SIZE, Tokenizer, TruncationSide};
use crate::batch::Encoding;
use crate::error::{Error, Result};

/// How far a pair may reach and what gives way: the document, and of the query only what is beyond
/// its share. This is `only_second` of transformers after the query was cut to its share, as
/// FlagEmbedding does for its rerankers, except that a query keeps more than its share where the
/// document leaves room for it and `query_limit_tokens` allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PairTruncation {
    /// The most tokens a pair may have, special tokens and template included.
    pub max_tokens: usize,
    /// Which end of the document is cut. A query always keeps its beginning.
    pub side: TruncationSide,
    /// So many tokens of the query stay, however long the document is.
    pub query_max_tokens: usize,
    /// No more tokens of the query stay, however short the document is.
    pub query_limit_tokens: usize,
    /// No more tokens of the document stay, however short the query is.
    pub document_max_tokens: usize,
}

impl PairTruncation {
    /// With the share that FlagEmbedding leaves a query: three quarters of the limit.
    pub fn new(max_tokens: usize, side: TruncationSide) -> Self {
        Self {
            max_tokens,
            side,
            query_max_tokens: max_tokens - max_tokens.div_ceil(4),
            query_limit_tokens: usize::MAX,
            document_max_tokens: usize::MAX,
        }
    }
}

/// A query, tokenized, with the form in which its documents are put beside it.
#[derive(Debug, Clone)]
pub struct PreparedQuery {
    form: PairForm,
    truncation: PairTruncation,
    // At most `max_tokens` of the query's, its label first.
    scanned: Scanned,
    // What a pair leaves for the query and the document.
    room: usize,
}

/// How many tokens of both sides stay.
#[derive(Debug, Clone, Copy)]
pub(super) struct Split {
    pub query: usize,
    pub query_total: usize,
    pub document: usize,
    pub document_total: usize,
}

impl Tokenizer {
    /// Tokenizes a query, to be put before documents.
    ///
    /// # Errors
    /// `Error::Tokenize` when the form and the labels alone do not fit or the tokenizer fails.
    pub fn prepare_query(
        &self,
        form: &PairForm,
        query: &str,
        truncation: PairTruncation,
    ) -> Result<PreparedQuery> {
        let limit = truncation.max_tokens;
        let fixed = form.frame.special_tokens() + form.labels();
        if fixed > limit {
            return Err(Error::Tokenize(format!(
                "a limit of `{limit}` tokens leaves no room for the `{fixed}` that are around a \
                 query and a document"
            )));
        }
        let keep = Keep {
            room: limit,
            side: TruncationSide::End,
        };
        let tail = &form.query_tail.text;
        let scanned = if tail.is_empty() {
            self.scan(&form.query_label, query, keep, PIECE_SIZE)?
        } else {
            let query = [query, tail].concat();
            self.scan(&form.query_label, &query, keep, PIECE_SIZE)?
        };
        Ok(PreparedQuery {
            form: form.clone(),
            truncation,
            scanned,
            room: limit - form.frame.special_tokens(),
        })
    }

    /// Puts a document beside a query. Token types are those of the tokenizer's post-processor: 1
    /// for the second text of BERT, 0 throughout for RoBERTa and XLM-RoBERTa.
    ///
    /// # Errors
    /// `Error::InputTooLong` when the pair must not be cut; `Error::Tokenize` when the tokenizer
    /// fails.
    pub fn encode_pair(&self, query: &PreparedQuery, document: &str) -> Result<Encoding> {
        let side = query.side();
        let keep = Keep {
            room: query.split(usize::MAX).document,
            side,
        };
        let mut scanned = self.scan(query.document_label(), document, keep, PIECE_SIZE)?;
        let split = query.split(scanned.total);
        let tokens_cut = split.query_total - split.query + split.document_total - split.document;
        if tokens_cut > 0 && side == TruncationSide::Refuse {
            return Err(query.too_long(split));
        }
        let room = split.document;
        scanned.cut(Keep { room, side });
        Ok(Encoding {
            tokens_cut,
            ..query.fill(split.query, &scanned.ids)
        })
    }
}

impl PreparedQuery {
    pub(super) fn side(&self) -> TruncationSide {
        self.truncation.side
    }

    pub(super) fn document_label(&self) -> &Prompt {
        &self.form.document_label
    }

    /// Shares the room between the query and a document of so many tokens, label included.
    pub(super) fn split(&self, document_total: usize) -> Split {
        let query_total = self.scanned.total;
        let room = self.room;
        let wanted = document_total.min(self.truncation.document_max_tokens);
        // The labels always stay, and so does a token of the document where there is room.
        let labels = self.form.query_labels();
        let document_least = (self.form.document_label.tokens() + 1).min(wanted);
        let share = self.truncation.query_max_tokens.max(labels);
        let share = share.min(room.saturating_sub(document_least)).max(labels);
        let most = self.truncation.query_limit_tokens.max(labels);
        let query = share.max(room.saturating_sub(wanted)).min(most);
        let query = query_total.min(query);
        Split {
            query,
            query_total,
            document: wanted.min(room.saturating_sub(query)),
            document_total,
        }
    }

    /// The pair, with so many tokens of the query.
    pub(super) fn fill(&self, query_tokens: usize, document: &[u32]) -> Encoding {
        let ids = &self.scanned.ids;
        if query_tokens == self.scanned.total {
            return self.form.frame.fill(ids, document);
        }
        let tail = &self.form.query_tail.ids;
        let query = &ids[..query_tokens.saturating_sub(tail.len())];
        self.form.frame.fill(&[query, tail].concat(), document)
    }

    pub(super) fn too_long(&self, split: Split) -> Error {
        let special = self.form.frame.special_tokens();
        Error::InputTooLong {
            tokens: special + split.query_total + split.document_total,
            limit: special + split.query + split.document,
        }
    }
}

#[cfg(test)]
mod tests;
