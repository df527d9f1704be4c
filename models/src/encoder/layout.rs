//! How a packed batch lies, as ONNX Runtime's `PackedMultiHeadAttention` is told of it.

use crate::batch::Batch;

/// Lengths that this divides let the kernels for attention with a bias load it in whole words: a
/// multiple of 8 numbers in 16 bits and of 16 in 32.
const LONGEST_MULTIPLE: usize = 16;

/// For each sequence where its tokens would be if all were padded to one length: first the places
/// of all tokens, then those of the padding, both ascending. Kept between runs, so that a batch
/// allocates nothing.
#[derive(Debug, Default)]
pub(super) struct PaddedLayout {
    // `[sequences, longest]`
    token_offset: Vec<i32>,
    // 0 to `longest`. `[longest]`
    span: Vec<f32>,
    sequences: usize,
}

impl PaddedLayout {
    /// Describes a batch.
    pub(super) fn describe(&mut self, batch: &Batch) {
        let longest = batch.max_seqlen().next_multiple_of(LONGEST_MULTIPLE);
        self.sequences = batch.sequences();
        self.token_offset.clear();
        let places = |row: usize, from: usize, to: usize| {
            let first = row * longest;
            (first + from..first + to).map(|place| place as i32)
        };
        for (row, tokens) in batch.ranges().enumerate() {
            self.token_offset.extend(places(row, 0, tokens.len()));
        }
        for (row, tokens) in batch.ranges().enumerate() {
            self.token_offset.extend(places(row, tokens.len(), longest));
        }
        // It only ever grows, and a run is given its beginning.
        let known = self.span.len();
        self.span.extend((known..longest).map(|place| place as f32));
    }

    /// The length that all would be padded to.
    fn longest(&self) -> usize {
        self.token_offset.len() / self.sequences.max(1)
    }

    /// The places, and how they are laid out.
    pub(super) fn token_offset(&self) -> ([usize; 2], &[i32]) {
        ([self.sequences, self.longest()], &self.token_offset)
    }

    /// The places in the longest sequence.
    pub(super) fn span(&self) -> ([usize; 1], &[f32]) {
        let longest = self.longest();
        ([longest], &self.span[..longest])
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::batch::Encoding;

    fn batch(lengths: &[usize]) -> Batch {
        let mut batch = Batch::default();
        for &length in lengths {
            batch.push(&Encoding {
                input_ids: vec![7; length],
                token_type_ids: vec![0; length],
                ..Encoding::default()
            });
        }
        batch
    }

    #[test]
    fn places_of_tokens_come_before_those_of_padding() {
        let mut layout = PaddedLayout::default();
        layout.describe(&batch(&[2, 15]));
        let (shape, places) = layout.token_offset();
        assert_eq!(shape, [2, 16]);
        assert_eq!(places[..4], [0, 1, 16, 17]);
        assert_eq!(places[17..20], [2, 3, 4]);
        assert_eq!(places[31], 31);
        assert_eq!(layout.span().1[..3], [0.0, 1.0, 2.0]);
    }

    proptest! {
        /// The definition: scattering tokens to their places, and all others to the rest, fills a
        /// padded tensor in which sequence `row` begins at `row * longest`.
        #[test]
        fn every_place_is_named_once(
            first in proptest::collection::vec(1_usize..40, 1..8),
            second in proptest::collection::vec(1_usize..40, 1..8),
        ) {
            let mut layout = PaddedLayout::default();
            // A second batch must not see the first.
            for lengths in [first, second] {
                let batch = batch(&lengths);
                layout.describe(&batch);
                let ([rows, longest], places) = layout.token_offset();
                prop_assert_eq!(rows, lengths.len());
                prop_assert!(longest >= batch.max_seqlen() && longest.is_multiple_of(16));
                let mut padded = vec![None; rows * longest];
                for (token, &place) in places.iter().enumerate() {
                    let slot = &mut padded[place as usize];
                    prop_assert!(slot.is_none());
                    *slot = Some(token);
                }
                for (row, tokens) in batch.ranges().enumerate() {
                    let found = &padded[row * longest..row * longest + tokens.len()];
                    let expected: Vec<_> = tokens.map(Some).collect();
                    prop_assert_eq!(found, &expected[..]);
                }
                let expected: Vec<f32> = (0..longest).map(|place| place as f32).collect();
                prop_assert_eq!(layout.span(), ([longest], &expected[..]));
            }
        }
    }
}
