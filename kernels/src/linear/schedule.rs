//! Cuts a layer into tasks: blocks of rows when there are many, of columns when there are few.

use super::tile::BLOCK_ROWS;
use std::ops::Range;

/// Multiplications of a register and a word below which a task is not worth handing to another
/// thread: some 10 us.
const TASK_COST_MIN: usize = 1 << 15;

/// A grid of tasks over rows and panels of columns.
#[derive(Debug, Clone, Copy)]
pub(super) struct Grid {
    rows: usize,
    panels: usize,
    row_blocks: usize,
    column_blocks: usize,
}

impl Grid {
    /// `cost` is what one row of one panel takes, in multiplications of registers.
    pub(super) fn new(rows: usize, panels: usize, cost: usize) -> Self {
        let row_blocks = rows.div_ceil(BLOCK_ROWS);
        let panel_cost = rows.div_ceil(row_blocks.max(1)).saturating_mul(cost);
        let per_task = TASK_COST_MIN.div_ceil(panel_cost.max(1));
        let mut column_blocks = (panels / per_task).max(1);
        // Two or four threads should end together when each has few tasks.
        if (3..8).contains(&column_blocks) {
            column_blocks &= !1;
        }
        Self {
            rows,
            panels,
            row_blocks,
            column_blocks,
        }
    }

    pub(super) fn tasks(&self) -> usize {
        self.row_blocks * self.column_blocks
    }

    /// The rows and panels of a task. Neighbours share their rows.
    pub(super) fn task(&self, task: usize) -> (Range<usize>, Range<usize>) {
        let (row, column) = (task / self.column_blocks, task % self.column_blocks);
        (
            share(self.rows, self.row_blocks, row),
            share(self.panels, self.column_blocks, column),
        )
    }
}

/// Part `at` of so many about equal parts.
fn share(total: usize, parts: usize, at: usize) -> Range<usize> {
    total * at / parts..total * (at + 1) / parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_and_panel_is_in_one_task() {
        for rows in [0, 1, 16, 95, 97, 1000] {
            for (panels, cost) in [(1, 1), (7, 4000), (24, 384), (64, 100_000)] {
                let grid = Grid::new(rows, panels, cost);
                let mut seen = vec![0; rows * panels];
                for task in 0..grid.tasks() {
                    let (rows, columns) = grid.task(task);
                    assert!((1..=BLOCK_ROWS).contains(&rows.len()), "{grid:?}");
                    for row in rows {
                        for panel in columns.clone() {
                            seen[row * panels + panel] += 1;
                        }
                    }
                }
                assert!(seen.iter().all(|&times| times == 1), "{grid:?}");
            }
        }
    }

    #[test]
    fn little_work_is_one_task_and_a_short_query_has_several() {
        assert_eq!(Grid::new(1, 6, 4 * 384).tasks(), 1);
        assert!(Grid::new(16, 24, 4 * 384).tasks() >= 4);
    }
}
