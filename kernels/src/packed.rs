//! The layout of a packed batch: which rows belong to which sequence. Checked here, once.

use crate::KernelError;
use std::ops::Range;

/// Checked sequence boundaries, as attention kernels call them: sequence `i` is made of the
/// tokens `cu_seqlens[i]..cu_seqlens[i + 1]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CuSeqlens<'a>(&'a [i32]); // [batch + 1]

impl<'a> CuSeqlens<'a> {
    /// Checks that the boundaries start at 0, never decrease and end at `tokens`.
    /// Sequences without tokens are allowed.
    pub fn new(values: &'a [i32], tokens: usize) -> Result<Self, KernelError> {
        let (Some(&first), Some(&last)) = (values.first(), values.last()) else {
            return Err(KernelError::CuSeqlensEmpty);
        };
        if first != 0 {
            return Err(KernelError::CuSeqlensStart { first });
        }
        for (sequence, bounds) in values.windows(2).enumerate() {
            if bounds[1] < bounds[0] {
                let (start, end) = (bounds[0], bounds[1]);
                return Err(KernelError::CuSeqlensDecrease {
                    sequence,
                    start,
                    end,
                });
            }
        }
        if usize::try_from(last) != Ok(tokens) {
            return Err(KernelError::CuSeqlensEnd { last, tokens });
        }
        Ok(Self(values))
    }

    /// How many sequences there are.
    pub fn batch(&self) -> usize {
        self.0.len() - 1
    }

    /// How many tokens there are in all sequences together.
    pub fn tokens(&self) -> usize {
        self.0[self.batch()] as usize
    }

    /// The tokens of one sequence. Panics if `sequence` is not below [`batch`](Self::batch).
    pub fn range(&self, sequence: usize) -> Range<usize> {
        self.0[sequence] as usize..self.0[sequence + 1] as usize
    }

    /// The tokens of each sequence in turn.
    pub fn ranges(self) -> impl Iterator<Item = Range<usize>> + 'a {
        self.0
            .windows(2)
            .map(|bounds| bounds[0] as usize..bounds[1] as usize)
    }
}

/// Hidden states of a packed batch, the argument of pooling.
#[derive(Debug, Clone, Copy)]
pub struct PackedHidden<'a> {
    /// The states. // [tokens, hidden_size]
    pub hidden: &'a [f32],
    /// Values per token.
    pub hidden_size: usize,
    /// Where each sequence begins. // [batch + 1]
    pub cu_seqlens: &'a [i32],
}

/// Rows that may lie further apart than they are wide, so that queries, keys and values can be
/// parts of one projection's output.
#[derive(Debug, Clone, Copy)]
pub struct Strided<'a> {
    /// The values from the first row's first one on; what follows the last row is not read.
    pub values: &'a [f32],
    /// Distance from the start of one row to the start of the next, in values.
    pub stride: usize,
}

impl<'a> Strided<'a> {
    /// Rows that touch each other. // [rows, width]
    pub fn contiguous(values: &'a [f32], width: usize) -> Self {
        Self {
            values,
            stride: width,
        }
    }

    /// `width` values of row `row` from column `column` on. Panics when they are out of bounds.
    pub fn slice(&self, row: usize, column: usize, width: usize) -> &'a [f32] {
        &self.values[row * self.stride + column..][..width]
    }

    /// Checks that `rows` rows of `width` values fit.
    pub(crate) fn check(
        &self,
        name: &'static str,
        rows: usize,
        width: usize,
    ) -> Result<(), KernelError> {
        if rows == 0 {
            return Ok(());
        }
        if rows > 1 && self.stride < width {
            let rule = "at least the width of a row, the number of its heads times `head_size`";
            return Err(KernelError::Size {
                name,
                found: self.stride,
                rule,
            });
        }
        let expected = (rows - 1).saturating_mul(self.stride).saturating_add(width);
        if self.values.len() < expected {
            return Err(KernelError::Length {
                name,
                found: self.values.len(),
                expected,
            });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boundaries_are_checked() {
        let check = |values: &[i32], tokens| CuSeqlens::new(values, tokens).map(|_| ());
        assert_eq!(check(&[0, 2, 2, 5], 5), Ok(()));
        assert_eq!(check(&[0], 0), Ok(()));
        assert_eq!(check(&[], 0), Err(KernelError::CuSeqlensEmpty));
        assert_eq!(
            check(&[1, 2], 2),
            Err(KernelError::CuSeqlensStart { first: 1 })
        );
        assert_eq!(
            check(&[0, 3, 2], 2),
            Err(KernelError::CuSeqlensDecrease {
                sequence: 1,
                start: 3,
                end: 2
            })
        );
        assert_eq!(
            check(&[0, 3], 4),
            Err(KernelError::CuSeqlensEnd { last: 3, tokens: 4 })
        );
        assert_eq!(
            check(&[0, -1], 4),
            Err(KernelError::CuSeqlensDecrease {
                sequence: 0,
                start: 0,
                end: -1
            })
        );
    }

    #[test]
    fn ranges_follow_the_boundaries() {
        let cu_seqlens = CuSeqlens::new(&[0, 2, 2, 5], 5).unwrap();
        assert_eq!(cu_seqlens.batch(), 3);
        assert_eq!(cu_seqlens.tokens(), 5);
        assert_eq!(cu_seqlens.ranges().collect::<Vec<_>>(), [0..2, 2..2, 2..5]);
        assert_eq!(cu_seqlens.range(2), 2..5);
    }

    #[test]
    fn strided_rows_must_fit() {
        let values = [0.0; 11];
        let rows = Strided {
            values: &values,
            stride: 4,
        };
        assert_eq!(rows.check("key", 3, 3), Ok(()));
        assert_eq!(
            rows.check("key", 3, 4),
            Err(KernelError::Length {
                name: "key",
                found: 11,
                expected: 12
            })
        );
        assert!(matches!(
            rows.check("key", 2, 5),
            Err(KernelError::Size { name: "key", .. })
        ));
        assert_eq!(rows.check("key", 0, 99), Ok(()));
    }
}
