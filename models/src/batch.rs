//! What goes into an encoder: packed token sequences. Padding does not exist at this level; an
//! encoder that needs it adds it itself.

use std::sync::Arc;

use crate::heads::{Head, Heads};

/// Several token sequences laid end to end, as packed attention kernels take them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// Token ids of all sequences, one after the other. `[tokens]`
    pub input_ids: Vec<i64>,
    /// Segment of each token (0 for a single text; 1 for the second of a pair). `[tokens]`
    pub token_type_ids: Vec<i64>,
    /// Where each sequence starts; the last entry is the number of tokens. `[sequences + 1]`
    pub cu_seqlens: Vec<i32>,
    /// Where each pooled piece starts, and the end of the last one. The pieces are the sequences
    /// themselves, or parts of them where an encoding has segments. `[pieces + 1]`
    pub pool_cu_seqlens: Vec<i32>,
    /// The task adapter of each sequence. `[sequences]`
    pub adapters: Vec<Option<u8>>,
    /// What is wanted of all sequences together.
    pub heads: Heads,
    /// What is wanted of each. What costs little to compute or to send may be given to all.
    /// `[sequences]`
    pub wanted: Vec<Heads>,
    /// What the token vectors of a sequence are compared with; then they are not given themselves.
    /// Only for models that compare: `EncoderInfo::compares`. `[sequences]`
    pub queries: Vec<Option<Arc<Encoding>>>,
}

impl Default for Batch {
    fn default() -> Self {
        Self {
            input_ids: Vec::new(),
            token_type_ids: Vec::new(),
            cu_seqlens: vec![0],
            pool_cu_seqlens: vec![0],
            adapters: Vec::new(),
            heads: Heads::DENSE,
            wanted: Vec::new(),
            queries: Vec::new(),
        }
    }
}

impl Batch {
    /// An empty batch that wants these heads of each sequence; `default` wants vectors.
    pub fn wanting(heads: Heads) -> Self {
        Self {
            heads,
            ..Self::default()
        }
    }

    /// Appends one sequence, of which the batch wants what it wants of the others.
    pub fn push(&mut self, encoding: &Encoding) {
        self.push_wanting(encoding, self.heads, None);
    }

    /// Appends one sequence with what is wanted of it, and for late interaction what its token
    /// vectors are compared with.
    pub fn push_wanting(
        &mut self,
        encoding: &Encoding,
        wanted: Heads,
        query: Option<&Arc<Encoding>>,
    ) {
        self.heads = self.heads | wanted;
        self.wanted.push(wanted);
        self.queries.push(query.cloned());
        let start = self.cu_seqlens.last().copied().unwrap_or_default();
        self.input_ids
            .extend(encoding.input_ids.iter().map(|&id| i64::from(id)));
        self.token_type_ids
            .extend(encoding.token_type_ids.iter().map(|&id| i64::from(id)));
        let tokens = i32::try_from(self.input_ids.len()).expect("a batch is far below 2^31 tokens");
        self.cu_seqlens.push(tokens);
        // The last segment ends where the sequence does, which is true of a whole text, too.
        let inner = encoding.segments.split_last().map_or(&[][..], |(_, s)| s);
        let ends = inner.iter().map(|&end| start + end as i32);
        self.pool_cu_seqlens.extend(ends.chain([tokens]));
        self.adapters.push(encoding.adapter);
    }

    /// Number of sequences.
    pub fn sequences(&self) -> usize {
        self.cu_seqlens.len() - 1
    }

    /// Number of tokens over all sequences.
    pub fn tokens(&self) -> usize {
        self.input_ids.len()
    }

    /// First and one-past-last token of each sequence.
    pub fn ranges(&self) -> impl Iterator<Item = std::ops::Range<usize>> + '_ {
        self.cu_seqlens
            .windows(2)
            .map(|w| w[0] as usize..w[1] as usize)
    }

    /// One sequence of this batch as a batch of its own.
    pub fn sequence(&self, index: usize) -> Self {
        let (start, end) = (self.cu_seqlens[index], self.cu_seqlens[index + 1]);
        let range = start as usize..end as usize;
        let pieces = self.pool_cu_seqlens[self.pieces(index)].iter();
        Self {
            input_ids: self.input_ids[range.clone()].to_vec(),
            token_type_ids: self.token_type_ids[range].to_vec(),
            cu_seqlens: vec![0, end - start],
            pool_cu_seqlens: [0]
                .into_iter()
                .chain(pieces.map(|&end| end - start))
                .collect(),
            adapters: vec![self.adapters[index]],
            heads: self.wanted[index],
            wanted: vec![self.wanted[index]],
            queries: vec![self.queries[index].clone()],
        }
    }

    /// Which entries of `pool_cu_seqlens` are the ends of the pieces of one sequence.
    fn pieces(&self, index: usize) -> std::ops::Range<usize> {
        let before = |end: i32| self.pool_cu_seqlens.partition_point(|&piece| piece <= end);
        before(self.cu_seqlens[index])..before(self.cu_seqlens[index + 1])
    }

    /// How many pieces each sequence is pooled in; 1 without segments.
    pub fn pieces_per_sequence(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.sequences()).map(|index| self.pieces(index).len())
    }

    /// The same sequences in batches of at most so many tokens; one that is longer goes alone.
    pub fn parts(&self, max_tokens: usize) -> Vec<Self> {
        let mut parts: Vec<Self> = Vec::new();
        for sequence in (0..self.sequences()).map(|index| self.sequence(index)) {
            match parts.last_mut() {
                Some(last) if last.tokens() + sequence.tokens() <= max_tokens => {
                    last.append(sequence);
                }
                _ => parts.push(sequence),
            }
        }
        parts
    }

    /// The same sequences in two batches of about as many tokens; one that has only one sequence
    /// stays whole.
    pub(crate) fn halves(&self) -> Vec<Self> {
        let half = self.tokens().div_ceil(2);
        let ends = &self.cu_seqlens[1..];
        let first = 1 + ends.partition_point(|&end| (end as usize) < half);
        // Neither may be empty.
        let first = first.min(self.sequences().saturating_sub(1)).max(1);
        let all: Vec<usize> = (0..self.sequences()).collect();
        let (first, second) = all.split_at(first.min(all.len()));
        let parts = [first, second].into_iter().filter(|part| !part.is_empty());
        parts.map(|part| self.select(part)).collect()
    }

    /// Some sequences of this batch as a batch of their own, in the order given.
    pub(crate) fn select(&self, sequences: &[usize]) -> Self {
        let mut selected = Self::wanting(Heads::NONE);
        for &index in sequences {
            selected.append(self.sequence(index));
        }
        selected
    }

    fn append(&mut self, other: Self) {
        let start = self.tokens() as i32;
        self.input_ids.extend(other.input_ids);
        self.token_type_ids.extend(other.token_type_ids);
        let moved = |ends: Vec<i32>| ends.into_iter().skip(1).map(move |end| start + end);
        self.cu_seqlens.extend(moved(other.cu_seqlens));
        self.pool_cu_seqlens.extend(moved(other.pool_cu_seqlens));
        self.adapters.extend(other.adapters);
        self.heads = self.heads | other.heads;
        self.wanted.extend(other.wanted);
        self.queries.extend(other.queries);
    }

    /// The sequences, followed by each different query once, of which nothing is wanted; and which
    /// query, as a sequence, is compared with which sequence. `None` without queries.
    pub(crate) fn with_queries(&self) -> Option<(Self, Vec<[i32; 2]>)> {
        let mut known: Vec<&Arc<Encoding>> = Vec::new();
        let mut pairs = Vec::new();
        for (document, query) in self.compared() {
            let same = |other: &&Arc<Encoding>| Arc::ptr_eq(other, query) || **other == *query;
            let at = known.iter().position(same).unwrap_or_else(|| {
                known.push(query);
                known.len() - 1
            });
            pairs.push([(self.sequences() + at) as i32, document as i32]);
        }
        if pairs.is_empty() {
            return None;
        }
        let mut all = self.clone();
        for query in known {
            all.push_wanting(query, Heads::NONE, None);
        }
        Some((all, pairs))
    }

    /// The sequences whose token vectors are compared, and with what.
    pub(crate) fn compared(&self) -> impl Iterator<Item = (usize, &Arc<Encoding>)> {
        let wanted = self.wanted.iter().zip(&self.queries).enumerate();
        wanted.filter_map(|(index, (wanted, query))| {
            let query = query.as_ref()?;
            wanted.contains(Head::MultiVector).then_some((index, query))
        })
    }

    /// The sequences whose token vectors are wanted themselves.
    pub(crate) fn vectors_wanted(&self) -> impl Iterator<Item = bool> {
        let wanted = self.wanted.iter().zip(&self.queries);
        wanted.map(|(wanted, query)| wanted.contains(Head::MultiVector) && query.is_none())
    }

    /// Length of the longest sequence, in tokens.
    pub fn max_seqlen(&self) -> usize {
        self.ranges().map(|r| r.len()).max().unwrap_or(0)
    }
}

/// One text as the model sees it, with an account of what was cut to make it fit.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Encoding {
    /// Token ids with the special tokens of the model. `[tokens]`
    pub input_ids: Vec<u32>,
    /// Segment of each token. `[tokens]`
    pub token_type_ids: Vec<u8>,
    /// How many tokens of the input were left out to keep within the limit.
    pub tokens_cut: usize,
    /// Where the pieces end that are pooled apart, in tokens, the last being the end of the
    /// sequence (late chunking, Günther et al. 2024); empty when the whole text is one piece.
    pub segments: Vec<u32>,
    /// The number of the task adapter to run with; `None` runs without any.
    pub adapter: Option<u8>,
    /// How many tokens at the beginning are the prompt's and special ones before it; 0 without a
    /// prompt. A pooling that leaves the prompt out begins after them.
    pub prompt_tokens: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoding(tokens: u32, segments: &[u32]) -> Encoding {
        Encoding {
            input_ids: (0..tokens).collect(),
            token_type_ids: vec![0; tokens as usize],
            segments: segments.to_vec(),
            ..Encoding::default()
        }
    }

    #[test]
    fn pieces_follow_the_segments_and_leave_with_their_sequence() {
        let mut batch = Batch::default();
        batch.push(&encoding(3, &[]));
        batch.push(&encoding(6, &[1, 4, 6]));
        batch.push(&encoding(2, &[2]));
        assert_eq!(batch.cu_seqlens, [0, 3, 9, 11]);
        assert_eq!(batch.pool_cu_seqlens, [0, 3, 4, 7, 9, 11]);
        assert!(batch.pieces_per_sequence().eq([1, 3, 1]));
        let middle = batch.sequence(1);
        assert_eq!(middle.pool_cu_seqlens, [0, 1, 4, 6]);
        assert_eq!(middle.input_ids, [0, 1, 2, 3, 4, 5]);
        assert_eq!(batch.sequence(2).pool_cu_seqlens, [0, 2]);

        let parts = batch.parts(8);
        assert_eq!(parts.len(), 2);
        assert_eq!(parts[0].cu_seqlens, [0, 3]);
        assert_eq!(parts[1].cu_seqlens, [0, 6, 8]);
        assert_eq!(parts[1].pool_cu_seqlens, [0, 1, 4, 6, 8]);
        assert_eq!(batch.parts(11), [batch.clone()]);
        assert_eq!(batch.select(&[0, 1, 2]), batch);
        assert_eq!(batch.select(&[2, 1]).pool_cu_seqlens, [0, 2, 3, 6, 8]);
        assert_eq!(batch.parts(1).len(), 3);
    }

    #[test]
    fn each_query_comes_once_whatever_part_of_the_batch_it_is_for() {
        let both = Heads::DENSE | Head::MultiVector.into();
        let query = Arc::new(encoding(2, &[]));
        let same = Arc::new(encoding(2, &[]));
        let other = Arc::new(encoding(4, &[]));
        let mut batch = Batch::wanting(Heads::NONE);
        batch.push_wanting(&encoding(3, &[]), both, Some(&query));
        batch.push_wanting(&encoding(5, &[]), Heads::DENSE, None);
        batch.push_wanting(&encoding(6, &[]), both, Some(&other));
        batch.push_wanting(&encoding(7, &[]), both, Some(&same));
        batch.push_wanting(&encoding(1, &[]), both, None);
        assert_eq!(batch.heads, both);
        assert!(
            batch
                .vectors_wanted()
                .eq([false, false, false, false, true])
        );
        let (all, pairs) = batch.with_queries().unwrap();
        assert_eq!(all.cu_seqlens, [0, 3, 8, 14, 21, 22, 24, 28]);
        assert_eq!(pairs, [[5, 0], [6, 2], [5, 3]]);
        assert!(all.wanted[5..].iter().all(|wanted| wanted.is_empty()));

        let (all, pairs) = batch.select(&[3, 1]).with_queries().unwrap();
        assert_eq!(all.cu_seqlens, [0, 7, 12, 14]);
        assert_eq!(pairs, [[2, 0]]);
        assert_eq!(batch.sequence(1).with_queries(), None);
        assert_eq!(batch.sequence(1).heads, Heads::DENSE);
    }

    #[test]
    fn halves_have_about_as_many_tokens_and_are_never_empty() {
        for (lengths, expected) in [
            (&[5][..], &[&[5][..]][..]),
            (&[5, 1], &[&[5], &[1]]),
            (&[1, 5], &[&[1], &[5]]),
            (&[4, 4, 2, 6], &[&[4, 4], &[2, 6]]),
            (&[1, 1, 9], &[&[1, 1], &[9]]),
            (&[9, 1, 1], &[&[9], &[1, 1]]),
        ] {
            let mut batch = Batch::default();
            for &length in lengths {
                batch.push(&encoding(length, &[]));
            }
            let halves = batch.halves();
            let found: Vec<Vec<u32>> = halves
                .iter()
                .map(|half| half.ranges().map(|range| range.len() as u32).collect())
                .collect();
            assert_eq!(found, expected);
        }
    }
}
