//! The keys and values of running sequences, in blocks of a few tokens that any sequence may hold
//! (PagedAttention, Kwon et al. 2023, arXiv 2309.06180). Which sequence holds which block is the
//! caller's business; the memory is all here, and never more than the pool was made with.

use crate::KernelError;
use std::error::Error;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// A block begins on a cache line, so that registers are loaded from one line each.
const LINE: usize = 64;

/// What a pool holds, for which model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KvShape {
    /// Layers of the model; each block has keys and values of all of them.
    pub layers: usize,
    /// Blocks of [`KvPool::BLOCK_TOKENS`] tokens.
    pub blocks: usize,
    /// Heads of keys and values.
    pub kv_num_heads: usize,
    /// Values per head.
    pub head_size: usize,
}

impl KvShape {
    /// Values per head as they are kept: whole registers of every instruction set.
    pub(crate) fn padded_head(&self) -> usize {
        self.head_size.next_multiple_of(16)
    }

    /// Values of the keys, and of the values, of one head in one block of one layer.
    pub(crate) fn head_values(&self) -> usize {
        self.padded_head() * KvPool::BLOCK_TOKENS
    }

    /// Memory of one block over all layers, in bytes. Nothing but it grows with `blocks`.
    pub fn block_bytes(&self) -> u64 {
        let values = self.head_values() as u64 * self.kv_num_heads as u64;
        2 * values * self.layers as u64 * size_of::<f32>() as u64
    }
}

/// Why a sequence does not fit a pool. Sequences are counted from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CacheFault {
    /// A number of earlier tokens that is none.
    Past {
        /// Which sequence.
        sequence: usize,
        /// The number found.
        past: i32,
    },
    /// Too few blocks for the tokens.
    Room {
        /// Which sequence.
        sequence: usize,
        /// How many tokens it has with the new ones.
        tokens: usize,
        /// How many its blocks have room for.
        room: usize,
    },
    /// A block that the pool does not have.
    Block {
        /// Which sequence names it.
        sequence: usize,
        /// The number found.
        block: i32,
        /// How many blocks there are.
        blocks: usize,
    },
}

impl fmt::Display for CacheFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Past { sequence, past } => write!(
                f,
                "`past_lens` says `{past}` of sequence `{sequence}`; it must be at least `0`"
            ),
            Self::Room {
                sequence,
                tokens,
                room,
            } => write!(
                f,
                "sequence `{sequence}` has `{tokens}` tokens but blocks for `{room}`; \
                 give it more blocks"
            ),
            Self::Block {
                sequence,
                block,
                blocks,
            } => write!(
                f,
                "sequence `{sequence}` holds block `{block}`; the pool has `0` to `{}`",
                blocks.saturating_sub(1)
            ),
        }
    }
}

impl Error for CacheFault {}

/// Keys and values of all layers. Memory is taken as blocks are first written. Layers are used one
/// at a time, each under a lock of its own, so that a pool can be shared.
#[derive(Debug)]
pub struct KvPool {
    shape: KvShape,
    layers: Vec<Mutex<KvLayer>>,
}

/// Keys and values of one layer.
#[derive(Debug)]
pub(crate) struct KvLayer {
    // [blocks, kv_num_heads, padded_head, BLOCK_TOKENS]: a register holds one column of many keys.
    keys: Region,
    // [blocks, kv_num_heads, BLOCK_TOKENS, padded_head]
    values: Region,
}

impl KvPool {
    /// Tokens per block.
    pub const BLOCK_TOKENS: usize = 16;

    /// Makes an empty pool.
    ///
    /// # Errors
    /// When a size is zero, or all of them together are more than memory has addresses for.
    pub fn new(shape: KvShape) -> Result<Self, KernelError> {
        for (name, found) in [
            ("layers", shape.layers),
            ("blocks", shape.blocks),
            ("kv_num_heads", shape.kv_num_heads),
            ("head_size", shape.head_size),
        ] {
            // No model and no machine has as many of any of them.
            if found == 0 || found > i32::MAX as usize {
                let rule = "at least `1` and less than 2^31";
                return Err(KernelError::Size { name, found, rule });
            }
        }
        let values = shape
            .head_values()
            .checked_mul(shape.kv_num_heads)
            .and_then(|values| values.checked_mul(shape.blocks))
            .filter(|&values| values < isize::MAX as usize / LINE);
        let Some(values) = values else {
            return Err(KernelError::Size {
                name: "blocks",
                found: shape.blocks,
                rule: "few enough for the addresses of memory",
            });
        };
        let layer = |_| {
            Mutex::new(KvLayer {
                keys: Region::zeros(values),
                values: Region::zeros(values),
            })
        };
        Ok(Self {
            shape,
            layers: (0..shape.layers).map(layer).collect(),
        })
    }

    /// What it holds.
    pub fn shape(&self) -> &KvShape {
        &self.shape
    }

    /// A layer, once nobody else uses it; `None` when there is none of this number.
    pub(crate) fn layer(&self, layer: usize) -> Option<MutexGuard<'_, KvLayer>> {
        let layer = self.layers.get(layer)?;
        // A panic elsewhere leaves numbers behind, and any numbers are keys and values.
        Some(layer.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl KvLayer {
    /// Keeps the key and the value of one token for one head. `slot` is the place in the block.
    pub(crate) fn store(
        &mut self,
        shape: &KvShape,
        [block, head, slot]: [usize; 3],
        [key, value]: [&[f32]; 2],
    ) {
        let start = (block * shape.kv_num_heads + head) * shape.head_values();
        let keys = &mut self.keys.values_mut()[start..start + shape.head_values()];
        for (column, &key) in keys.chunks_exact_mut(KvPool::BLOCK_TOKENS).zip(key) {
            column[slot] = key;
        }
        let start = start + slot * shape.padded_head();
        self.values.values_mut()[start..][..shape.head_size].copy_from_slice(value);
    }

    /// The keys of one head in a block. // [padded_head, BLOCK_TOKENS]
    pub(crate) fn keys(&self, shape: &KvShape, [block, head]: [usize; 2]) -> &[f32] {
        let start = (block * shape.kv_num_heads + head) * shape.head_values();
        &self.keys.values()[start..start + shape.head_values()]
    }

    /// The values of one head in a block. // [BLOCK_TOKENS, padded_head]
    pub(crate) fn values(&self, shape: &KvShape, [block, head]: [usize; 2]) -> &[f32] {
        let start = (block * shape.kv_num_heads + head) * shape.head_values();
        &self.values.values()[start..start + shape.head_values()]
    }
}

/// Zeros that begin on a cache line. The system gives their pages when they are first written,
/// which it does for `vec!` but not for an allocation with an alignment.
#[derive(Debug)]
struct Region {
    memory: Vec<f32>,
    start: usize,
    length: usize,
}

impl Region {
    fn zeros(length: usize) -> Self {
        let memory = vec![0.0; length + LINE / size_of::<f32>()];
        let start = memory.as_ptr().align_offset(LINE);
        Self {
            // Where an address cannot be aligned, nothing but speed is lost.
            start: start.min(LINE / size_of::<f32>()),
            memory,
            length,
        }
    }

    fn values(&self) -> &[f32] {
        &self.memory[self.start..self.start + self.length]
    }

    fn values_mut(&mut self) -> &mut [f32] {
        &mut self.memory[self.start..self.start + self.length]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: KvShape = KvShape {
        layers: 2,
        blocks: 3,
        kv_num_heads: 2,
        head_size: 5,
    };

    #[test]
    fn what_is_stored_is_found_and_nothing_else_changes() {
        let pool = KvPool::new(SHAPE).unwrap();
        let key: Vec<f32> = (1..=5).map(|k| k as f32).collect();
        let value: Vec<f32> = key.iter().map(|k| -k).collect();
        let mut layer = pool.layer(1).unwrap();
        layer.store(&SHAPE, [2, 1, 7], [&key, &value]);
        let keys = layer.keys(&SHAPE, [2, 1]);
        assert_eq!(keys[7], 1.0);
        assert_eq!(keys[4 * KvPool::BLOCK_TOKENS + 7], 5.0);
        assert_eq!(keys.iter().sum::<f32>(), 15.0);
        let values = layer.values(&SHAPE, [2, 1]);
        assert_eq!(values[7 * 16..7 * 16 + 5], value);
        assert_eq!(values.iter().sum::<f32>(), -15.0);
        assert_eq!(keys.as_ptr() as usize % LINE, 0);
        for block in [[2, 0], [0, 1], [1, 1]] {
            assert!(layer.keys(&SHAPE, block).iter().all(|&key| key == 0.0));
        }
        drop(layer);
        let other = pool.layer(0).unwrap();
        assert!(other.values(&SHAPE, [2, 1]).iter().all(|&v| v == 0.0));
        assert!(pool.layer(2).is_none());
    }

    #[test]
    fn sizes_are_counted_and_checked() {
        // Two halves of 16 tokens by 16 values, padded from 5, of two heads in two layers.
        assert_eq!(SHAPE.block_bytes(), 2 * 16 * 16 * 2 * 2 * 4);
        for shape in [
            KvShape { blocks: 0, ..SHAPE },
            KvShape { layers: 0, ..SHAPE },
            KvShape {
                blocks: usize::MAX,
                ..SHAPE
            },
            KvShape {
                blocks: i32::MAX as usize,
                kv_num_heads: i32::MAX as usize,
                ..SHAPE
            },
        ] {
            assert!(
                matches!(KvPool::new(shape), Err(KernelError::Size { .. })),
                "{shape:?}"
            );
        }
    }
}
