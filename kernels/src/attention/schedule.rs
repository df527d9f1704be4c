//! Cuts an attention into blocks and gathers the blocks into tasks worth a thread's while.

use super::block::BLOCK_ROWS;
use super::mask::Mask;
use crate::CuSeqlens;
use std::ops::Range;

/// Multiplications below which a task is not worth handing to another thread: some 10 us.
const TASK_COST_MIN: usize = 1 << 18;

/// Rows of a block around the narrowest windows. Fewer would lay out keys more often than they
/// save scores.
const WINDOW_ROWS_MIN: usize = 96;

/// Query rows of one head of one sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) sequence: usize,
    pub(super) head: usize,
    /// The first query row, counted from the start of the sequence.
    pub(super) first: usize,
    pub(super) rows: usize,
}

/// All pieces, and which of them make up each task.
pub(super) struct Schedule {
    pub(super) pieces: Vec<Piece>,
    pub(super) tasks: Vec<Range<usize>>,
}

impl Schedule {
    /// Plans `num_heads` heads of `head_size` values over all sequences.
    pub(super) fn new(
        cu_seqlens: CuSeqlens<'_>,
        mask: Mask,
        [num_heads, head_size]: [usize; 2],
    ) -> Self {
        let (mut pieces, mut tasks) = (Vec::new(), Vec::new());
        let (mut begun, mut cost) = (0, 0usize);
        for (sequence, tokens) in cu_seqlens.ranges().enumerate() {
            let length = tokens.len();
            let rows = block_rows(length, mask);
            for head in 0..num_heads {
                for first in (0..length).step_by(rows) {
                    let rows = rows.min(length - first);
                    pieces.push(Piece {
                        sequence,
                        head,
                        first,
                        rows,
                    });
                    let keys = mask.keys_of(&(first..first + rows), length).len();
                    cost = cost.saturating_add(rows * keys * head_size * 2);
                    if cost >= TASK_COST_MIN {
                        tasks.push(begun..pieces.len());
                        (begun, cost) = (pieces.len(), 0);
                    }
                }
            }
        }
        if begun < pieces.len() {
            tasks.push(begun..pieces.len());
        }
        Self { pieces, tasks }
    }
}

/// Rows per block of a sequence, so that its blocks are about equal and tiles stay full. Around
/// a narrow window blocks are smaller, since each reads the keys that any of its rows sees.
fn block_rows(length: usize, mask: Mask) -> usize {
    let most = match mask.window {
        Some(window) => window.clamp(WINDOW_ROWS_MIN, BLOCK_ROWS),
        None => BLOCK_ROWS,
    };
    let blocks = length.div_ceil(most).max(1);
    length
        .div_ceil(blocks)
        .next_multiple_of(12)
        .clamp(1, BLOCK_ROWS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_is_in_one_piece_and_every_piece_in_one_task() {
        let cu_seqlens = [0, 1, 1, 193, 210, 4210];
        let cu_seqlens = CuSeqlens::new(&cu_seqlens, 4210).unwrap();
        let schedule = Schedule::new(cu_seqlens, Mask::default(), [3, 64]);
        let mut seen = vec![[0; 3]; 4210];
        for piece in &schedule.pieces {
            assert!((1..=BLOCK_ROWS).contains(&piece.rows), "{piece:?}");
            let start = cu_seqlens.range(piece.sequence).start + piece.first;
            for row in &mut seen[start..start + piece.rows] {
                row[piece.head] += 1;
            }
        }
        assert!(seen.iter().all(|heads| *heads == [1; 3]));
        let tasks: Vec<usize> = schedule.tasks.iter().cloned().flatten().collect();
        assert_eq!(tasks, (0..schedule.pieces.len()).collect::<Vec<_>>());
    }

    #[test]
    fn short_sequences_share_a_task() {
        let cu_seqlens: Vec<i32> = (0..=32).map(|i| i * 8).collect();
        let cu_seqlens = CuSeqlens::new(&cu_seqlens, 256).unwrap();
        let schedule = Schedule::new(cu_seqlens, Mask::default(), [12, 64]);
        assert_eq!(schedule.pieces.len(), 32 * 12);
        assert!(schedule.tasks.len() < 32, "{}", schedule.tasks.len());
    }
}
