//! Task adapters in a graph: what low-rank factors add to linear layers and to rows of tables, for
//! every token those of its own sequence's adapter. The factors of all adapters are multiplied at
//! once, which is thin work, and a mask between them lets one adapter's part through.

use super::ops::mismatch;
use super::{Dim, ElementType, Graph, Value};
use crate::architectures::Adapters;
use crate::error::Result;

/// Which adapter each token of a run has.
#[derive(Debug, Clone)]
pub(super) struct AdapterMask {
    // The number of each token's adapter; that of the last and one more for none. `[tokens]`
    ids: Value,
    // The adapters' scale in the columns of the token's adapter, 0 in all others.
    // `[tokens, adapters * rank]`
    columns: Value,
    /// How many adapters there are.
    pub(super) adapters: usize,
    /// Rows of the first factor of each.
    pub(super) rank: usize,
}

impl Graph<'_> {
    /// Declares the input `adapter_ids` `[tokens]`: the number of each token's adapter, or, for
    /// none, as many as there are adapters.
    pub(super) fn adapter_mask(&mut self, adapters: &Adapters, tokens: Dim) -> Result<AdapterMask> {
        let ids = self.input("adapter_ids", ElementType::I64, &[tokens]);
        let (count, rank) = (adapters.names.len(), adapters.rank);
        let mut table = vec![0.0; (count + 1) * count * rank];
        for adapter in 0..count {
            let first = (adapter * count + adapter) * rank;
            table[first..first + rank].fill(adapters.scale);
        }
        let table = self.numbers(&table, &[count + 1, count * rank]);
        Ok(AdapterMask {
            columns: self.gather(&table, &ids)?,
            ids,
            adapters: count,
            rank,
        })
    }

    /// What adapters add to `x·Wᵀ`. The first factors are stacked, the second side by side:
    /// `[tokens, in]`, `[adapters * rank, in]`, `[out, adapters * rank]` → `[tokens, out]`
    pub(super) fn adapted(
        &mut self,
        x: &Value,
        [first, second]: [&Value; 2],
        mask: &AdapterMask,
    ) -> Result<Value> {
        let narrow = self.linear(x, first, None)?;
        let own = self.multiply(&narrow, &mask.columns)?;
        self.linear(&own, second, None)
    }

    /// What adapters add to rows of a table, both factors stacked: `[adapters * rows, rank]`,
    /// `[adapters * rank, width]`, `[tokens]` → `[tokens, width]`
    pub(super) fn adapted_rows(
        &mut self,
        [first, second]: [&Value; 2],
        ids: &Value,
        mask: &AdapterMask,
    ) -> Result<Value> {
        let &[Dim::Fixed(all), Dim::Fixed(rank)] = first.shape() else {
            return Err(mismatch("Gather", &[first]));
        };
        let ([columns, width], &[tokens]) = (second.shape(), ids.shape()) else {
            return Err(mismatch("MatMul", &[second, ids]));
        };
        let wide = [tokens, Dim::Fixed(mask.adapters * rank)];
        if wide[1] != *columns || mask.columns.shape() != wide {
            return Err(mismatch("MatMul", &[&mask.columns, second]));
        }
        // Without an adapter the row may be any that exists: the mask makes nothing of it.
        let rows = all / mask.adapters;
        let starts = (0..mask.adapters).map(|adapter| (adapter * rows) as i64);
        let starts: Vec<i64> = starts.chain([0]).collect();
        let starts = self.integers(&starts, &[starts.len()]);
        let start = self.whole("Gather", &[&starts, &mask.ids], &[tokens]);
        let row = self.whole("Add", &[&start, ids], &[tokens]);
        let narrow = self.gather(first, &row)?;
        let repeats = self.integers(&[1, mask.adapters as i64], &[2]);
        let repeated = self.onnx("Tile", &[&narrow, &repeats], &[], &wide);
        let own = self.multiply(&repeated, &mask.columns)?;
        Ok(self.onnx("MatMul", &[&own, second], &[], &[tokens, *width]))
    }

    /// A node of ONNX's own domain that gives whole numbers.
    fn whole(&mut self, operator: &'static str, inputs: &[&Value], shape: &[Dim]) -> Value {
        Value {
            element_type: ElementType::I64,
            ..self.onnx(operator, inputs, &[], shape)
        }
    }
}
