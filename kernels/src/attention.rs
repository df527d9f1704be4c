//! Self attention over packed sequences: a token attends to tokens of its own sequence, all of
//! them or those its [`Mask`] shows, and to no other. [`attention_plain`] is the definition,
//! [`attention`] the fast version.

pub mod cached;

mod bias;
mod block;
mod layout;
mod mask;
mod operands;
mod plain;
mod precision;
mod product;
mod schedule;
mod scratch;
mod self_test;
pub(crate) mod simd;

#[cfg(target_arch = "aarch64")]
pub(crate) mod neon;
#[cfg(target_arch = "x86_64")]
pub(crate) mod x86;

pub use self::bias::Bias;
pub use self::mask::{Direction, Mask};
pub use self::plain::attention_plain;
pub use self::precision::Precision;
pub(crate) use self::self_test::reproduces;

use self::block::{Block, attend};
use self::operands::Fp32;
use self::schedule::{Piece, Schedule};
use self::scratch::Scratch;
use crate::dispatch::Level;
use crate::parallel::SharedOutput;
use crate::{CuSeqlens, Execution, KernelError, Strided};

/// The arguments of one attention: `softmax(query key^T scale + bias) value` per sequence and
/// head, over the keys that the mask shows.
///
/// Head `h` of the queries is made of the columns `h * head_size..(h + 1) * head_size`. It reads
/// the key and value head `h / (num_heads / kv_num_heads)`: with fewer of them than query heads
/// this is grouped-query attention (Ainslie et al. 2023, arXiv 2305.13245).
#[derive(Debug, Clone, Copy)]
pub struct PackedAttention<'a> {
    /// What each token asks for. // [tokens, num_heads * head_size]
    pub query: Strided<'a>,
    /// What each token offers. // [tokens, kv_num_heads * head_size]
    pub key: Strided<'a>,
    /// What is averaged. // [tokens, kv_num_heads * head_size]
    pub value: Strided<'a>,
    /// Where each sequence begins. // [batch + 1]
    pub cu_seqlens: &'a [i32],
    /// Number of query heads.
    pub num_heads: usize,
    /// Number of key and value heads, a divisor of `num_heads` and most often the same.
    pub kv_num_heads: usize,
    /// Values per head.
    pub head_size: usize,
    /// Factor of the scores, usually `1 / sqrt(head_size)`.
    pub scale: f32,
    /// Which keys a query sees.
    pub mask: Mask,
    /// What is added to the scaled scores.
    pub bias: Bias<'a>,
    /// The arithmetic of the products, if the processor has instructions for it:
    /// [`Precision::on`] says which one runs.
    pub precision: Precision,
}

impl<'a> PackedAttention<'a> {
    /// Values per token, in the output and in what is read of each query row.
    pub fn width(&self) -> usize {
        self.num_heads * self.head_size
    }

    /// The key and value head that a query head reads.
    fn kv_head(&self, head: usize) -> usize {
        head * self.kv_num_heads / self.num_heads
    }

    /// Checks everything the kernels rely on; `out_len` is the length of the output.
    fn check(&self, out_len: usize) -> Result<CuSeqlens<'a>, KernelError> {
        let rule = "at least `1`";
        for (name, found) in [
            ("num_heads", self.num_heads),
            ("kv_num_heads", self.kv_num_heads),
            ("head_size", self.head_size),
        ] {
            if found == 0 {
                return Err(KernelError::Size { name, found, rule });
            }
        }
        let Some(width) = self.num_heads.checked_mul(self.head_size) else {
            let rule = "small enough to count the values of a row";
            return Err(KernelError::Size {
                name: "num_heads",
                found: self.num_heads,
                rule,
            });
        };
        if !self.num_heads.is_multiple_of(self.kv_num_heads) {
            return Err(KernelError::KvHeads {
                kv_num_heads: self.kv_num_heads,
                num_heads: self.num_heads,
            });
        }
        self.bias.check(self.num_heads)?;
        if !self.scale.is_finite() {
            return Err(KernelError::Scale { found: self.scale });
        }
        if !out_len.is_multiple_of(width) {
            let expected = out_len.div_ceil(width) * width;
            return Err(KernelError::Length {
                name: "out",
                found: out_len,
                expected,
            });
        }
        let tokens = out_len / width;
        let kv_width = self.kv_num_heads * self.head_size;
        for (name, rows, width) in [
            ("query", self.query, width),
            ("key", self.key, kv_width),
            ("value", self.value, kv_width),
        ] {
            rows.check(name, tokens, width)?;
        }
        CuSeqlens::new(self.cu_seqlens, tokens)
    }
}

/// Attention in vector registers. Agrees with [`attention_plain`] to 2e-6 of the largest value of
/// the sequence while scores stay between -16 and 16; beyond, the rounding of the scores
/// themselves, 6e-8 of the largest, adds to it.
///
/// In bf16 it agrees, where no rounding of a weight is decided by the last bits of its score, to
/// the same; each weight that is may differ by 2^-7 of itself, so that all together make less
/// than 2^-7 of the largest value.
///
/// A sequence gives the same bits alone and in any batch, on any number of threads. Keys that
/// the mask hides from all rows of a block are neither read nor multiplied, so a window costs
/// `O(tokens * window)`. The working memory per thread is that of a block of at most 192 query
/// rows and 256 keys, some 0.5 MiB for heads of 64 values, and does not grow with the length.
///
/// A NaN or an infinity stays in its sequence, but may spread there to rows near it whose mask
/// hides it. // out: [tokens, num_heads * head_size]
pub fn attention(
    args: &PackedAttention<'_>,
    execution: Execution<'_>,
    out: &mut [f32],
) -> Result<(), KernelError> {
    let cu_seqlens = args.check(out.len())?;
    let schedule = Schedule::new(cu_seqlens, args.mask, [args.num_heads, args.head_size]);
    let shared = SharedOutput::new(out);
    let precision = args.precision.on(execution.isa);
    execution.parallel.run(schedule.tasks.len(), &|task| {
        Scratch::with(|scratch| {
            for piece in &schedule.pieces[schedule.tasks[task].clone()] {
                // SAFETY: `check` made sure that the output has a row of `width` values per
                // token; no two pieces share rows of a head.
                let block = unsafe { block(args, cu_seqlens, piece, shared) };
                let precision = precision.for_length(block.length);
                run(&block, scratch, (execution.isa.0, precision));
            }
        });
    })
}

/// The block of a piece.
///
/// # Safety
/// `shared` points at `[tokens, width]` values and nobody else writes the piece's rows and head.
unsafe fn block<'a>(
    args: &PackedAttention<'a>,
    cu_seqlens: CuSeqlens<'_>,
    piece: &Piece,
    shared: SharedOutput,
) -> Block<'a> {
    let tokens = cu_seqlens.range(piece.sequence);
    let (column, row) = (piece.head * args.head_size, tokens.start + piece.first);
    let kv_column = args.kv_head(piece.head) * args.head_size;
    // The slice reaches to the end, since the block reads the rows after the first one too.
    let first = |rows: Strided<'_>, row: usize, column: usize| {
        (
            rows.values[row * rows.stride + column..].as_ptr(),
            rows.stride,
        )
    };
    Block {
        query: first(args.query, row, column),
        key: first(args.key, tokens.start, kv_column),
        value: first(args.value, tokens.start, kv_column),
        // SAFETY: the row and column lie inside the output.
        out: (
            unsafe { shared.at(row * args.width() + column) },
            args.width(),
        ),
        rows: piece.first..piece.first + piece.rows,
        length: tokens.len(),
        head_size: args.head_size,
        scale: args.scale,
        mask: args.mask,
        bias: args.bias.head(piece.head, args.num_heads),
    }
}

/// Computes a block with the given instructions.
fn run(block: &Block<'_>, scratch: &mut Scratch, path: (Level, Precision)) {
    match block.has_features() {
        true => run_as::<true>(block, scratch, path),
        false => run_as::<false>(block, scratch, path),
    }
}

/// Computes a block whose features, if it has any, are among `FEATURES`.
fn run_as<const FEATURES: bool>(
    block: &Block<'_>,
    scratch: &mut Scratch,
    path: (Level, Precision),
) {
    // SAFETY: a `Level` exists only when the processor has its instructions, `Precision::on`
    // leaves bf16 only where it has those for it, and `block` made the pointers from checked rows.
    unsafe {
        match path {
            #[cfg(target_arch = "x86_64")]
            (Level::Avx512, Precision::Bf16) => attend_avx512_bf16::<FEATURES>(block, scratch),
            #[cfg(target_arch = "x86_64")]
            (Level::Avx512, Precision::Fp32) => attend_avx512::<FEATURES>(block, scratch),
            #[cfg(target_arch = "x86_64")]
            (Level::Avx2, _) => attend_avx2::<FEATURES>(block, scratch),
            #[cfg(target_arch = "aarch64")]
            (Level::Neon, Precision::Bf16) => attend_neon_bf16::<FEATURES>(block, scratch),
            #[cfg(target_arch = "aarch64")]
            (Level::Neon, Precision::Fp32) => attend::<neon::Neon, Fp32, FEATURES>(block, scratch),
            (Level::Portable, _) => attend::<simd::Portable, Fp32, FEATURES>(block, scratch),
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma")]
unsafe fn attend_avx512_bf16<const FEATURES: bool>(block: &Block<'_>, scratch: &mut Scratch) {
    // SAFETY: the caller's promise, and the features are enabled here.
    unsafe { attend::<x86::Avx512, x86::Bf16, FEATURES>(block, scratch) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx2,fma")]
unsafe fn attend_avx512<const FEATURES: bool>(block: &Block<'_>, scratch: &mut Scratch) {
    // SAFETY: as above.
    unsafe { attend::<x86::Avx512, Fp32, FEATURES>(block, scratch) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn attend_avx2<const FEATURES: bool>(block: &Block<'_>, scratch: &mut Scratch) {
    // SAFETY: as above.
    unsafe { attend::<x86::Avx2, Fp32, FEATURES>(block, scratch) }
}

#[cfg(target_arch = "aarch64")]
#[target_feature(enable = "neon,bf16")]
unsafe fn attend_neon_bf16<const FEATURES: bool>(block: &Block<'_>, scratch: &mut Scratch) {
    // SAFETY: as above.
    unsafe { attend::<neon::Neon, neon::Bf16, FEATURES>(block, scratch) }
}

#[cfg(test)]
mod tests;
