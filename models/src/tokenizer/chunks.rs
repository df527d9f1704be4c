//! Long inputs in parts: chunks, each an input of its own, and segments of one input, which the
//! model reads together and pools apart (late chunking, Günther et al. 2024).

use std::ops::Range;

use super::pair::PreparedQuery;
use super::scan::{Joint, Keep, Prompt, Seam, Seamed};
use super::{PIECE_SIZE, TokenSet, Tokenizer, Truncation, TruncationSide};
use crate::batch::Encoding;
use crate::error::{Error, Result};

/// How a long text is cut into chunks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chunking {
    /// The most tokens a chunk may have, special tokens and prompt included.
    pub max_tokens: usize,
    /// The most tokens a chunk has in common with the one before it. It begins with a word, so it
    /// may be fewer.
    pub overlap: usize,
}

impl Tokenizer {
    /// Covers a text of any length with chunks that each have the special tokens and the prompt.
    /// A chunk ends before a word where its second half has a place for that, and otherwise
    /// between two characters.
    ///
    /// # Errors
    /// As `encode_prompted`; and `Error::Tokenize` when the overlap is more than half of the text
    /// of a chunk.
    pub fn encode_chunks(
        &self,
        prompt: &Prompt,
        text: &str,
        chunking: Chunking,
    ) -> Result<Vec<Encoding>> {
        let room = self.room(&self.single, prompt, chunking.max_tokens)?;
        let seamed = self.scan_seams(prompt, text)?;
        let ranges = seamed.ranges(room, chunking.overlap)?;
        let mut chunks = Vec::with_capacity(ranges.len());
        let mut refusal = None;
        for range in ranges {
            let chunk = Encoding {
                prompt_tokens: self.prompt_tokens(prompt),
                ..self.single.fill(&seamed.part(range), &[])
            };
            // A model of bare tokens may know none of those in one chunk.
            match self.kept(chunk) {
                Ok(chunk) => chunks.push(chunk),
                Err(error) => refusal = Some(error),
            }
        }
        match refusal {
            Some(error) if chunks.is_empty() => Err(error),
            _ => Ok(chunks),
        }
    }

    /// As `encode_pair`, but a document that is too long is covered with chunks, each with the
    /// query before it; there are as few as one. Only the query may be cut.
    ///
    /// # Errors
    /// As `encode_pair` and `encode_chunks`.
    pub fn encode_pair_chunks(
        &self,
        query: &PreparedQuery,
        document: &str,
        overlap: usize,
    ) -> Result<Vec<Encoding>> {
        let seamed = self.scan_seams(query.document_label(), document)?;
        let split = query.split(seamed.prompt.len() + seamed.ids.len());
        let whole = split.document == split.document_total;
        if split.query < split.query_total && query.side() == TruncationSide::Refuse {
            return Err(query.too_long(split));
        }
        let capacity = if whole { usize::MAX } else { split.document };
        let overlap = if whole { 0 } else { overlap };
        let fill = |range| Encoding {
            tokens_cut: split.query_total - split.query,
            ..query.fill(split.query, &seamed.part(range))
        };
        let ranges = seamed.ranges(capacity, overlap)?;
        Ok(ranges.into_iter().map(fill).collect())
    }

    /// One encoding of several texts, in which each is a segment (what Jina's interface does with
    /// `late_chunking`). They are read as if joined by spaces; the prompt is before the first.
    /// The first segment has the leading special tokens and the prompt, the last the trailing
    /// ones. Only the last text is cut at its end, or the first at its start.
    ///
    /// # Errors
    /// As `encode_prompted`; `Error::Tokenize` when there is no text or one has no tokens;
    /// `Error::InputTooLong` when cutting would leave one without tokens.
    pub fn encode_joined(
        &self,
        prompt: &Prompt,
        texts: &[&str],
        truncation: Truncation,
    ) -> Result<Encoding> {
        let room = self.room_for_segments(prompt, truncation)?;
        let side = truncation.side;
        // Some tokenizers put a space before a text themselves.
        let space = match self.joint {
            Joint::Kept => " ".to_owned(),
            Joint::Implied => String::new(),
        };
        let space = Prompt {
            text: space,
            ids: Vec::new(),
        };
        let mut parts = Vec::with_capacity(texts.len());
        for (index, text) in texts.iter().enumerate() {
            let before = if index == 0 { prompt } else { &space };
            let part = self.scan(before, text, Keep { room, side }, PIECE_SIZE)?;
            if part.total == part.prompt {
                return Err(Error::Tokenize(format!(
                    "input `{index}` has no tokens, so it has no vector of its own"
                )));
            }
            parts.push(part);
        }
        let total: usize = parts.iter().map(|part| part.total).sum();
        let tokens_cut = total.saturating_sub(room);
        let parted = match side {
            TruncationSide::Start => parts.first_mut(),
            TruncationSide::End | TruncationSide::Refuse => parts.last_mut(),
        };
        let Some(parted) = parted else {
            return Err(Error::Tokenize("no texts".into()));
        };
        let refused = side == TruncationSide::Refuse && tokens_cut > 0;
        if refused || tokens_cut >= parted.total - parted.prompt {
            return Err(Error::InputTooLong {
                tokens: total + self.special_tokens(),
                limit: truncation.max_tokens,
            });
        }
        let room = parted.total - tokens_cut;
        parted.cut(Keep { room, side });
        let ends = parts.iter().scan(0, |end, part| {
            *end += part.ids.len();
            Some(*end)
        });
        let ends = ends.collect();
        let ids: Vec<u32> = parts.into_iter().flat_map(|part| part.ids).collect();
        Ok(Encoding {
            tokens_cut,
            prompt_tokens: self.prompt_tokens(prompt),
            ..self.segmented(&ids, ends)
        })
    }

    fn room_for_segments(&self, prompt: &Prompt, truncation: Truncation) -> Result<usize> {
        if self.token_set != TokenSet::Framed {
            return Err(Error::Tokenize(
                "late chunking of a model whose tokens do not know their neighbours; send the \
                 texts apart, the vectors are the same"
                    .into(),
            ));
        }
        self.room(&self.single, prompt, truncation.max_tokens)
    }

    /// Puts the special tokens around, and makes ends in the text ends in the encoding.
    fn segmented(&self, ids: &[u32], mut ends: Vec<usize>) -> Encoding {
        let mut encoding = self.single.fill(ids, &[]);
        for end in &mut ends {
            *end += self.single.before_first();
        }
        if let Some(last) = ends.last_mut() {
            *last = encoding.input_ids.len();
        }
        let end = |end| u32::try_from(end).unwrap_or(u32::MAX);
        encoding.segments = ends.into_iter().map(end).collect();
        encoding
    }
}

impl Seamed {
    /// The prompt and a part of the text.
    fn part(&self, range: Range<usize>) -> Vec<u32> {
        [&self.prompt, &self.ids[range]].concat()
    }

    /// Parts that leave place for the prompt in `room` tokens.
    fn ranges(&self, room: usize, overlap: usize) -> Result<Vec<Range<usize>>> {
        ranges(&self.seams, room.saturating_sub(self.prompt.len()), overlap)
    }
}

/// Parts of at most `capacity` tokens that cover a text; one, if an empty one, at least.
fn ranges(seams: &[Seam], capacity: usize, overlap: usize) -> Result<Vec<Range<usize>>> {
    if capacity == 0 || overlap > capacity / 2 {
        return Err(Error::Tokenize(format!(
            "chunks with place for `{capacity}` tokens of text cannot have an overlap of \
             `{overlap}`; it may be at most half of that, and chunks need place for one"
        )));
    }
    let mut ranges = Vec::new();
    // Where the part begins, and where the one before it ended.
    let (mut start, mut done) = (0, 0);
    while seams.len() - start > capacity {
        let most = start + capacity;
        // An end beyond the overlap makes the next part begin later than this one.
        let window = start + overlap.max(capacity / 2) + 1..most + 1;
        let end = last_at(seams, window.clone(), Seam::Word)
            .or_else(|| last_at(seams, window, Seam::InWord))
            .or_else(|| last_at(seams, done + 1..most + 1, Seam::InWord));
        if end.is_none() && start < done {
            // A long character follows, and without the overlap there is place for more of it.
            start = done;
            continue;
        }
        done = end.unwrap_or(most);
        ranges.push(start..done);
        let again = done.saturating_sub(overlap).max(start + 1)..done;
        let first_at = |least| again.clone().find(|&at| seams[at] >= least);
        start = first_at(Seam::Word)
            .or_else(|| first_at(Seam::InWord))
            .unwrap_or(done);
    }
    ranges.push(start..seams.len());
    Ok(ranges)
}

/// The last place in a range that is at least so good.
fn last_at(seams: &[Seam], mut range: Range<usize>, least: Seam) -> Option<usize> {
    range.rfind(|&at| seams[at] >= least)
}

#[cfg(test)]
mod tests;
