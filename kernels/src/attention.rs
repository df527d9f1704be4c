//! Bidirectional self attention over packed sequences: every token attends to all tokens of its
//! own sequence and to no other. [`attention_plain`] is the definition, [`attention`] the fast
//! version.

mod block;
mod product;
mod schedule;
mod scratch;
mod simd;

#[cfg(target_arch = "aarch64")]
mod neon;
#[cfg(target_arch = "x86_64")]
mod x86;

use self::block::{Block, attend};
use self::schedule::{Piece, Schedule};
use self::scratch::Scratch;
use crate::dispatch::Level;
use crate::parallel::SharedOutput;
use crate::{CuSeqlens, Execution, KernelError, Strided};

/// The arguments of one attention: `softmax(query key^T scale) value` per sequence and head.
///
/// Head `h` is made of the columns `h * head_size..(h + 1) * head_size`.
#[derive(Debug, Clone, Copy)]
pub struct PackedAttention<'a> {
    /// What each token asks for. // [tokens, num_heads * head_size]
    pub query: Strided<'a>,
    /// What each token offers. // [tokens, num_heads * head_size]
    pub key: Strided<'a>,
    /// What is averaged. // [tokens, num_heads * head_size]
    pub value: Strided<'a>,
    /// Where each sequence begins. // [batch + 1]
    pub cu_seqlens: &'a [i32],
    /// Number of heads.
    pub num_heads: usize,
    /// Values per head.
    pub head_size: usize,
    /// Factor of the scores, usually `1 / sqrt(head_size)`.
    pub scale: f32,
}

impl<'a> PackedAttention<'a> {
    /// Values per token, in the output and in what is read of each input row.
    pub fn width(&self) -> usize {
        self.num_heads * self.head_size
    }

    /// Checks everything the kernels rely on; `out_len` is the length of the output.
    fn check(&self, out_len: usize) -> Result<CuSeqlens<'a>, KernelError> {
        let rule = "at least `1`";
        for (name, found) in [("num_heads", self.num_heads), ("head_size", self.head_size)] {
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
        for (name, rows) in [
            ("query", self.query),
            ("key", self.key),
            ("value", self.value),
        ] {
            rows.check(name, tokens, width)?;
        }
        CuSeqlens::new(self.cu_seqlens, tokens)
    }
}

/// Attention as it is written down, one query row at a time and in `f64`: the oracle of the
/// fast version. Needs memory for the scores of one row. // out: [tokens, num_heads * head_size]
pub fn attention_plain(args: &PackedAttention<'_>, out: &mut [f32]) -> Result<(), KernelError> {
    let cu_seqlens = args.check(out.len())?;
    let (width, size) = (args.width(), args.head_size);
    for tokens in cu_seqlens.ranges() {
        for head in 0..args.num_heads {
            let column = head * size;
            for row in tokens.clone() {
                let query = args.query.slice(row, column, size);
                let mut weights: Vec<f64> = tokens
                    .clone()
                    .map(|j| dot(query, args.key.slice(j, column, size)) * f64::from(args.scale))
                    .collect();
                softmax(&mut weights);
                let average = &mut out[row * width + column..][..size];
                for (dimension, average) in average.iter_mut().enumerate() {
                    let term = |(j, weight): (usize, &f64)| {
                        weight * f64::from(args.value.slice(j, column, size)[dimension])
                    };
                    *average = tokens.clone().zip(&weights).map(term).sum::<f64>() as f32;
                }
            }
        }
    }
    Ok(())
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter()
        .zip(b)
        .map(|(&a, &b)| f64::from(a) * f64::from(b))
        .sum()
}

/// Turns scores into weights that sum to 1. The largest score is subtracted first, so that no
/// exponential overflows.
fn softmax(scores: &mut [f64]) {
    let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    for score in &mut *scores {
        *score = (*score - max).exp();
    }
    let sum: f64 = scores.iter().sum();
    for score in scores {
        *score /= sum;
    }
}

/// Attention in vector registers. Agrees with [`attention_plain`] to 2e-6 of the largest value of
/// the sequence while scores stay between -16 and 16; beyond, the rounding of the scores
/// themselves, 6e-8 of the largest, adds to it.
///
/// A sequence gives the same bits alone and in any batch, on any number of threads. The
/// working memory per thread does not grow with the length.
/// // out: [tokens, num_heads * head_size]
pub fn attention(
    args: &PackedAttention<'_>,
    execution: Execution<'_>,
    out: &mut [f32],
) -> Result<(), KernelError> {
    let cu_seqlens = args.check(out.len())?;
    let schedule = Schedule::new(cu_seqlens, args.num_heads, args.head_size);
    let shared = SharedOutput::new(out);
    execution.parallel.run(schedule.tasks.len(), &|task| {
        Scratch::with(|scratch| {
            for piece in &schedule.pieces[schedule.tasks[task].clone()] {
                // SAFETY: `check` made sure that the output has a row of `width` values per
                // token; no two pieces share rows of a head.
                let block = unsafe { block(args, cu_seqlens, piece, shared) };
                run(&block, scratch, execution.isa.0);
            }
        });
    })
}

/// The block of a piece.
///
/// # Safety
/// `shared` points at `[tokens, width]` values and nobody else writes the piece's rows and head.
unsafe fn block(
    args: &PackedAttention<'_>,
    cu_seqlens: CuSeqlens<'_>,
    piece: &Piece,
    shared: SharedOutput,
) -> Block {
    let tokens = cu_seqlens.range(piece.sequence);
    let (column, row) = (piece.head * args.head_size, tokens.start + piece.first);
    // The slice reaches to the end, since the block reads the rows after the first one too.
    let first = |rows: Strided<'_>, row: usize| {
        (
            rows.values[row * rows.stride + column..].as_ptr(),
            rows.stride,
        )
    };
    Block {
        query: first(args.query, row),
        key: first(args.key, tokens.start),
        value: first(args.value, tokens.start),
        // SAFETY: the row and column lie inside the output.
        out: (
            unsafe { shared.at(row * args.width() + column) },
            args.width(),
        ),
        rows: piece.rows,
        keys: tokens.len(),
        head_size: args.head_size,
        scale: args.scale,
    }
}

/// Computes a block with the given instructions.
fn run(block: &Block, scratch: &mut Scratch, level: Level) {
    // SAFETY: a `Level` exists only when the processor has its instructions, and `block` made
    // the pointers from checked rows.
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
unsafe fn attend_avx512(block: &Block, scratch: &mut Scratch) {
    // SAFETY: the caller's promise, and the features are enabled here.
    unsafe { attend::<x86::Avx512>(block, scratch) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn attend_avx2(block: &Block, scratch: &mut Scratch) {
    // SAFETY: as above.
    unsafe { attend::<x86::Avx2>(block, scratch) }
}

#[cfg(test)]
mod tests;
