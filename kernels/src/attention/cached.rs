//! Causal self attention of the newest tokens of sequences whose earlier keys and values are in a
//! [`KvPool`]. [`cached_attention_plain`] is the definition, [`cached_attention`] the fast version.
//!
//! A step may mix whole prompts, parts of them and single tokens: what a token gets depends on the
//! tokens of its own sequence alone, not on how they were divided into steps.

mod block;
mod plain;

pub use self::plain::cached_attention_plain;

use self::block::{BLOCK_ROWS, Block, attend};
use super::scratch::Scratch;
use super::simd;
use crate::dispatch::Level;
use crate::kv_pool::{KvLayer, KvPool, KvShape};
use crate::parallel::SharedOutput;
use crate::{CacheFault, CuSeqlens, Execution, KernelError, Strided};
use std::ops::Range;

#[cfg(target_arch = "aarch64")]
use super::neon;
#[cfg(target_arch = "x86_64")]
use super::x86;

/// Multiplications below which a task is not worth handing to another thread.
const TASK_COST_MIN: usize = 1 << 18;

/// The arguments of one step of one layer: the new tokens of every sequence, packed. Their keys
/// and values are appended to the sequence's blocks, then each attends to all tokens of its
/// sequence up to itself.
///
/// Heads are those of the pool's shape; query head `h` reads the key and value head
/// `h / (num_heads / kv_num_heads)`.
#[derive(Debug, Clone, Copy)]
pub struct CachedAttention<'a> {
    /// What each new token asks for. // [tokens, num_heads * head_size]
    pub query: Strided<'a>,
    /// What each new token offers. // [tokens, kv_num_heads * head_size]
    pub key: Strided<'a>,
    /// What is averaged. // [tokens, kv_num_heads * head_size]
    pub value: Strided<'a>,
    /// Where the new tokens of each sequence begin. // [batch + 1]
    pub cu_seqlens: &'a [i32],
    /// How many tokens of each sequence are in the pool already. // [batch]
    pub past_lens: &'a [i32],
    /// The blocks that each sequence holds, in the order of its tokens; what is beyond its last
    /// token is not read. // [batch, most blocks]
    pub block_tables: &'a [i32],
    /// Number of query heads, a multiple of the pool's heads.
    pub num_heads: usize,
    /// Factor of the scores, usually `1 / sqrt(head_size)`.
    pub scale: f32,
    /// Which layer of the pool.
    pub layer: usize,
}

/// What a step means once it is checked: every block is the pool's.
struct Step<'a> {
    args: &'a CachedAttention<'a>,
    shape: KvShape,
    sequences: Vec<Sequence<'a>>,
}

/// The new tokens of one sequence.
struct Sequence<'a> {
    /// Their rows.
    rows: Range<usize>,
    /// Tokens before them.
    past: usize,
    /// Blocks of all its tokens.
    blocks: &'a [i32],
}

/// Query rows of one head, or of all heads that read one, that are computed at once.
struct Piece {
    sequence: usize,
    /// The first query head.
    head: usize,
    /// How many query heads: one of many tokens, or all that share keys of one token.
    heads: usize,
    /// The first row, counted from the sequence's first new one, and how many.
    first: usize,
    rows: usize,
}

impl CachedAttention<'_> {
    /// Checks everything the kernels rely on; `out_len` is the length of the output.
    fn check(&self, pool: &KvPool, out_len: usize) -> Result<Step<'_>, KernelError> {
        let shape = *pool.shape();
        let (num_heads, kv_num_heads) = (self.num_heads, shape.kv_num_heads);
        if num_heads == 0 || !num_heads.is_multiple_of(kv_num_heads) {
            return Err(KernelError::KvHeads {
                kv_num_heads,
                num_heads,
            });
        }
        if !self.scale.is_finite() {
            return Err(KernelError::Scale { found: self.scale });
        }
        if self.layer >= shape.layers {
            return Err(KernelError::Size {
                name: "layer",
                found: self.layer,
                rule: "less than the layers of the pool of keys and values",
            });
        }
        let width = num_heads.saturating_mul(shape.head_size);
        let tokens = out_len / width;
        let length = |name, found, expected| KernelError::Length {
            name,
            found,
            expected,
        };
        if !out_len.is_multiple_of(width) {
            return Err(length("out", out_len, (tokens + 1) * width));
        }
        self.query.check("query", tokens, width)?;
        let kv_width = kv_num_heads * shape.head_size;
        self.key.check("key", tokens, kv_width)?;
        self.value.check("value", tokens, kv_width)?;
        let cu_seqlens = CuSeqlens::new(self.cu_seqlens, tokens)?;
        let batch = cu_seqlens.batch();
        if self.past_lens.len() != batch {
            return Err(length("past_lens", self.past_lens.len(), batch));
        }
        let table = self.block_tables.len();
        let columns = table.checked_div(batch).unwrap_or(0);
        if columns * batch != table {
            return Err(length("block_tables", table, (columns + 1) * batch));
        }
        let sequences = cu_seqlens.ranges().enumerate().map(|(at, rows)| {
            let blocks = &self.block_tables[at * columns..(at + 1) * columns];
            Sequence::check((at, rows), self.past_lens[at], blocks, shape.blocks)
        });
        Ok(Step {
            args: self,
            shape,
            sequences: sequences.collect::<Result<_, _>>()?,
        })
    }
}

impl<'a> Sequence<'a> {
    fn check(
        (sequence, rows): (usize, Range<usize>),
        past: i32,
        blocks: &'a [i32],
        most: usize,
    ) -> Result<Self, KernelError> {
        let Ok(before) = usize::try_from(past) else {
            return Err(CacheFault::Past { sequence, past }.into());
        };
        let tokens = before + rows.len();
        let room = blocks.len() * KvPool::BLOCK_TOKENS;
        // A sequence without new tokens reads nothing.
        let needed = if rows.is_empty() {
            0
        } else {
            tokens.div_ceil(KvPool::BLOCK_TOKENS)
        };
        let Some(blocks) = blocks.get(..needed) else {
            return Err(CacheFault::Room {
                sequence,
                tokens,
                room,
            }
            .into());
        };
        let is_known = |block: &i32| usize::try_from(*block).is_ok_and(|block| block < most);
        match blocks.iter().find(|block| !is_known(block)) {
            Some(&block) => Err(CacheFault::Block {
                sequence,
                block,
                blocks: most,
            }
            .into()),
            None => Ok(Self {
                rows,
                past: before,
                blocks,
            }),
        }
    }
}

impl Step<'_> {
    /// Appends the keys and values of the new tokens. Blocks that two sequences hold are meant for
    /// tokens before these; where they are not, the later sequence's are kept.
    fn append(&self, layer: &mut KvLayer) {
        let size = self.shape.head_size;
        for sequence in &self.sequences {
            for (position, row) in (sequence.past..).zip(sequence.rows.clone()) {
                let block = sequence.blocks[position / KvPool::BLOCK_TOKENS] as usize;
                let slot = position % KvPool::BLOCK_TOKENS;
                for head in 0..self.shape.kv_num_heads {
                    let key = self.args.key.slice(row, head * size, size);
                    let value = self.args.value.slice(row, head * size, size);
                    layer.store(&self.shape, [block, head, slot], [key, value]);
                }
            }
        }
    }

    /// All pieces, and which of them make up each task.
    fn schedule(&self) -> (Vec<Piece>, Vec<Range<usize>>) {
        let group = self.args.num_heads / self.shape.kv_num_heads;
        let (mut pieces, mut tasks) = (Vec::new(), Vec::new());
        let (mut begun, mut cost) = (0, 0usize);
        for (number, sequence) in self.sequences.iter().enumerate() {
            let tokens = sequence.rows.len();
            // All heads of a single token that read the same keys go together.
            let heads = if tokens == 1 {
                group.min(BLOCK_ROWS)
            } else {
                1
            };
            for kv_head in 0..self.shape.kv_num_heads {
                for head in (0..group).step_by(heads) {
                    for first in (0..tokens).step_by(BLOCK_ROWS) {
                        let heads = heads.min(group - head);
                        let rows = BLOCK_ROWS.min(tokens - first);
                        pieces.push(Piece {
                            sequence: number,
                            head: kv_head * group + head,
                            heads,
                            first,
                            rows,
                        });
                        let keys = sequence.past + first + rows;
                        let products = 2 * rows * heads * self.shape.padded_head();
                        cost = cost.saturating_add(keys.saturating_mul(products));
                        if cost >= TASK_COST_MIN {
                            tasks.push(begun..pieces.len());
                            (begun, cost) = (pieces.len(), 0);
                        }
                    }
                }
            }
        }
        if begun < pieces.len() {
            tasks.push(begun..pieces.len());
        }
        (pieces, tasks)
    }

    /// The block of a piece.
    ///
    /// # Safety
    /// `shared` points at `[tokens, num_heads * head_size]` values and nobody else writes the
    /// piece's rows and heads.
    unsafe fn block<'b>(
        &'b self,
        piece: &Piece,
        layer: &'b KvLayer,
        shared: SharedOutput,
    ) -> Block<'b> {
        let sequence = &self.sequences[piece.sequence];
        let (size, width) = (
            self.shape.head_size,
            self.args.num_heads * self.shape.head_size,
        );
        let (row, column) = (sequence.rows.start + piece.first, piece.head * size);
        let query = self.args.query;
        let is_group = piece.heads > 1;
        Block {
            query: (
                query.values[row * query.stride + column..].as_ptr(),
                if is_group { size } else { query.stride },
            ),
            // SAFETY: the row and column lie inside the output.
            out: (
                unsafe { shared.at(row * width + column) },
                if is_group { size } else { width },
            ),
            rows: piece.rows * piece.heads,
            position: sequence.past + piece.first,
            advance: if is_group { 0 } else { 1 },
            blocks: sequence.blocks,
            kv_head: piece.head * self.shape.kv_num_heads / self.args.num_heads,
            layer,
            shape: &self.shape,
            scale: self.args.scale,
        }
    }
}

/// Attention in vector registers; appends to `pool` first. Agrees with [`cached_attention_plain`]
/// as [`attention`](super::attention) does with its definition.
///
/// A token gets the same bits alone and in any batch, in a step of its own or with others of its
/// sequence, on any number of threads. // out: [tokens, num_heads * head_size]
pub fn cached_attention(
    args: &CachedAttention<'_>,
    pool: &KvPool,
    execution: Execution<'_>,
    out: &mut [f32],
) -> Result<(), KernelError> {
    let step = args.check(pool, out.len())?;
    let Some(mut layer) = pool.layer(args.layer) else {
        return Ok(());
    };
    step.append(&mut layer);
    let layer = &*layer;
    let (pieces, tasks) = step.schedule();
    let shared = SharedOutput::new(out);
    execution.parallel.run(tasks.len(), &|task| {
        Scratch::with(|scratch| {
            for piece in &pieces[tasks[task].clone()] {
                // SAFETY: `check` made sure that the output has a row per token; no two pieces
                // share rows of a head.
                let block = unsafe { step.block(piece, layer, shared) };
                run(&block, scratch, execution.isa.0);
            }
        });
    })
}

/// Computes a block with the given instructions.
fn run(block: &Block<'_>, scratch: &mut Scratch, level: Level) {
    // SAFETY: a `Level` exists only when the processor has its instructions, and `Step::block`
    // made the pointers from checked rows.
    unsafe {
        match level {
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => attend_avx512(block, scratch),
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => attend_avx2(block, scratch),
            #[cfg(target_arch = "aarch64")]
            Level::Neon => attend::<neon::Neon>(block, scratch),
            Level::Portable => attend::<simd::Portable>(block, scratch),
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx2,fma")]
unsafe fn attend_avx512(block: &Block<'_>, scratch: &mut Scratch) {
    // SAFETY: the caller's promise, and the features are enabled here.
    unsafe { attend::<x86::Avx512>(block, scratch) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn attend_avx2(block: &Block<'_>, scratch: &mut Scratch) {
    // SAFETY: as above.
    unsafe { attend::<x86::Avx2>(block, scratch) }
}

#[cfg(test)]
mod tests;
