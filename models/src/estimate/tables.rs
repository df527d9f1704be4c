//! Mapped tables: how much of one is in memory after some of its rows were read, and static
//! embeddings, which are nothing but a table.

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::{Path, PathBuf};

use super::{Basis, Estimate, Load, vocabulary};
use crate::error::Result;
use crate::static_embedding::StaticCheckpoint;

/// A read of one byte maps the file around it, as far as it is in the file cache: Linux's
/// `fault_around_bytes`. Kernels that keep a file in larger pieces map more, which they drop again
/// when memory is short.
const WINDOW_BYTES: usize = 64 << 10;

/// Bytes kept per entry of a static table beside its vector: a factor and a row number.
const STATIC_ENTRY_BYTES: u64 = 12;

/// The expected bytes of a table in memory after `rows` rows at random places were read.
pub(super) fn touched(table_bytes: u64, rows: usize) -> u64 {
    let windows = (table_bytes as f64 / WINDOW_BYTES as f64).max(1.0);
    let share = 1.0 - (-(rows as f64) / windows).exp();
    (table_bytes as f64 * share) as u64
}

/// The pieces of files that the reads of small tensors map.
#[derive(Debug, Default)]
pub(super) struct TouchedPages {
    windows: BTreeSet<(PathBuf, usize)>,
}

impl TouchedPages {
    /// Counts a tensor that is read as a whole.
    pub(super) fn touch(&mut self, file: &Path, bytes: Range<usize>) {
        let windows = bytes.start / WINDOW_BYTES..bytes.end.div_ceil(WINDOW_BYTES);
        let windows = windows.map(|window| (file.to_owned(), window));
        self.windows.extend(windows);
    }

    pub(super) fn bytes(&self) -> u64 {
        (self.windows.len() * WINDOW_BYTES) as u64
    }
}

/// A table is read where it lies, all of it once to find its empty rows, and nothing is computed
/// that would need memory worth counting.
pub(super) fn static_table(found: &StaticCheckpoint, load: &Load) -> Result<Estimate> {
    let size = found.size()?;
    let parts = Estimate {
        weights: size.bytes,
        weights_mapped: size.bytes,
        weights_owned: size.vocabulary as u64 * STATIC_ENTRY_BYTES,
        embeddings: size.bytes,
        weights_touched: size.bytes,
        tokenizer: vocabulary::tokenizer_bytes(found.folder(), size.vocabulary)?,
        threads: 0,
        ..Estimate::empty(Basis::StaticTable, load)
    };
    Ok(parts.summed(size.bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_rows_touch_a_window_each_and_many_the_whole_table() {
        let table = 1 << 30;
        let few = touched(table, 10);
        assert!((640 << 10) * 99 / 100 < few && few <= 640 << 10, "{few}");
        assert!(touched(table, 1 << 20) > table / 1000 * 999);
        assert!(touched(1000, 5) <= 1000);
    }

    #[test]
    fn neighbours_share_a_window() {
        let mut pages = TouchedPages::default();
        pages.touch(Path::new("a"), 0..10);
        pages.touch(Path::new("a"), 100..200);
        assert_eq!(pages.bytes(), 64 << 10);
        pages.touch(Path::new("b"), 65_000..66_000);
        assert_eq!(pages.bytes(), 3 * (64 << 10));
    }
}
