//! The kernels of this project against their plain definitions, one core unless it says otherwise.

use std::{hint::black_box, time::Duration};

use retort_kernels::{
    Bias, Execution, Isa, Mask, PackedAttention, PackedHidden, Pooling, Precision, RayonPool,
    Strided,
    attention::{attention, attention_plain},
    normalize::l2_normalize,
    pooling::{pool, pool_plain},
};

use crate::{
    linear,
    measure::{Outcome, Ratio, Side, Table, Targets, interleave, median, runs_per_second},
    subject::Subject,
};

const ROUNDS: usize = 5;
const SLICE: Duration = Duration::from_millis(60);

/// Heads and values per head: those of BGE-M3 and its like, and those of MiniLM.
const HEADS: [(usize, usize); 2] = [(16, 64), (12, 32)];
const LENGTHS: [usize; 4] = [32, 128, 512, 2048];
/// The definition is written to be read; beyond this length it would take minutes.
const PLAIN_TOKENS_MAX: usize = 512;

/// Runs all kernels.
pub fn run(subject: &Subject, _targets: &mut Targets) -> Outcome {
    linear::tables(&subject.runtime)?;
    attention_table()?;
    precision_table()?;
    pooling_table()?;
    normalize_table()
}

fn attention_table() -> Outcome {
    let isa = Isa::detect();
    let alone = Execution::sequential(isa);
    let together = Execution {
        isa,
        parallel: &RayonPool,
    };
    let mut table = Table::new(
        format!(
            "### Attention over one sequence, fast path on {}",
            isa.name()
        ),
        &[
            "heads × size, tokens",
            "GFLOP/s",
            "all cores",
            "plain",
            "fast / plain",
        ],
    );
    for (num_heads, head_size) in HEADS {
        for tokens in LENGTHS {
            let case = AttentionCase::new(num_heads, head_size, tokens);
            let args = case.args();
            let (mut out, mut shared, mut plain) = (case.out(), case.out(), case.out());
            let slow = tokens > PLAIN_TOKENS_MAX;
            let sides: [Side<'_>; 3] = [
                Box::new(|| runs_per_second(SLICE, || Ok(attention(&args, alone, &mut out)?))),
                Box::new(|| {
                    runs_per_second(SLICE, || Ok(attention(&args, together, &mut shared)?))
                }),
                Box::new(|| {
                    if slow {
                        return Ok(f64::NAN);
                    }
                    runs_per_second(SLICE, || Ok(attention_plain(&args, &mut plain)?))
                }),
            ];
            let [fast, all_cores, definition] = interleave(ROUNDS, sides)?;
            let gigaflops =
                |series: &[f64]| format!("{:.1}", median(series) * case.operations() / 1e9);
            let (plain, ratio) = match slow {
                true => ("–".to_owned(), "–".to_owned()),
                false => (
                    format!("{:.2}", median(&definition) * case.operations() / 1e9),
                    format!("{:.0}×", Ratio::of(&fast, &definition).median),
                ),
            };
            table.row(
                format!("{num_heads} × {head_size}, {tokens}"),
                [gigaflops(&fast), gigaflops(&all_cores), plain, ratio],
            );
        }
    }
    table.print();
    Ok(())
}

/// The same attention in fp32 and in bf16, in turns; short sequences fill a batch.
fn precision_table() -> Outcome {
    const TOKENS: [usize; 5] = [16, 128, 512, 2048, 8192];
    const BATCH_TOKENS: usize = 256;
    let isa = Isa::detect();
    if !isa.has_bf16() {
        println!("### Attention in bf16: this processor has no instructions for it\n");
        return Ok(());
    }
    let mut table = Table::new(
        format!("### Attention in fp32 and in bf16 on {}", isa.name()),
        &[
            "heads × size, texts × tokens",
            "fp32 GFLOP/s",
            "bf16 GFLOP/s",
            "bf16 / fp32",
            "cosine",
        ],
    );
    for (num_heads, head_size) in HEADS {
        for tokens in TOKENS {
            let texts = (BATCH_TOKENS / tokens).max(1);
            let case = AttentionCase::batch(num_heads, head_size, [texts, tokens]);
            let [exact, rounded] = Precision::ALL.map(|precision| PackedAttention {
                precision,
                ..case.args()
            });
            let (mut fp32, mut bf16) = (case.out(), case.out());
            let execution = Execution::sequential(isa);
            let sides: [Side<'_>; 2] = [
                Box::new(|| {
                    runs_per_second(SLICE, || Ok(attention(&exact, execution, &mut fp32)?))
                }),
                Box::new(|| {
                    runs_per_second(SLICE, || Ok(attention(&rounded, execution, &mut bf16)?))
                }),
            ];
            let [slow, fast] = interleave(ROUNDS, sides)?;
            let gigaflops =
                |series: &[f64]| format!("{:.1}", median(series) * case.operations() / 1e9);
            table.row(
                format!("{num_heads} × {head_size}, {texts} × {tokens}"),
                [
                    gigaflops(&slow),
                    gigaflops(&fast),
                    format!("{:.2}×", Ratio::of(&fast, &slow).median),
                    format!("{:.6}", cosine(&fp32, &bf16)),
                ],
            );
        }
    }
    table.print();
    Ok(())
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| -> f64 {
        let products = a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b));
        products.sum()
    };
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

/// Queries, keys and values of sequences of one length.
struct AttentionCase {
    values: [Vec<f32>; 3],
    cu_seqlens: Vec<i32>, // [texts + 1]
    num_heads: usize,
    head_size: usize,
}

impl AttentionCase {
    fn new(num_heads: usize, head_size: usize, tokens: usize) -> Self {
        Self::batch(num_heads, head_size, [1, tokens])
    }

    fn batch(num_heads: usize, head_size: usize, [texts, tokens]: [usize; 2]) -> Self {
        let count = texts * tokens * num_heads * head_size;
        Self {
            values: [1, 2, 3].map(|seed| numbers(seed, count)),
            cu_seqlens: (0..=texts).map(|at| (at * tokens) as i32).collect(),
            num_heads,
            head_size,
        }
    }

    fn args(&self) -> PackedAttention<'_> {
        let width = self.num_heads * self.head_size;
        let [query, key, value] = &self.values;
        PackedAttention {
            query: Strided::contiguous(query, width),
            key: Strided::contiguous(key, width),
            value: Strided::contiguous(value, width),
            cu_seqlens: &self.cu_seqlens,
            num_heads: self.num_heads,
            kv_num_heads: self.num_heads,
            head_size: self.head_size,
            scale: 1.0 / (self.head_size as f32).sqrt(),
            mask: Mask::default(),
            bias: Bias::default(),
            precision: Precision::Fp32,
        }
    }

    fn out(&self) -> Vec<f32> {
        vec![0.0; self.values[0].len()]
    }

    /// Both matrix products; the softmax between them is not counted.
    fn operations(&self) -> f64 {
        let tokens = f64::from(self.cu_seqlens[1]);
        let texts = (self.cu_seqlens.len() - 1) as f64;
        4.0 * texts * tokens * tokens * (self.num_heads * self.head_size) as f64
    }
}

fn pooling_table() -> Outcome {
    // Two batches of 256 tokens and a long text.
    const SHAPES: [(&str, usize, usize, usize); 3] = [
        ("16 × 16", 16, 16, 384),
        ("1 × 256", 1, 256, 384),
        ("1 × 8192", 1, 8192, 1024),
    ];
    let execution = Execution::sequential(Isa::detect());
    let mut table = Table::new(
        "### Pooling",
        &[
            "kind, texts × tokens, hidden size",
            "µs",
            "GB/s",
            "plain µs",
            "fast / plain",
        ],
    );
    for (name, texts, tokens, hidden_size) in SHAPES {
        let hidden = numbers(4, texts * tokens * hidden_size);
        let cu_seqlens: Vec<i32> = (0..=texts).map(|at| (at * tokens) as i32).collect();
        let packed = PackedHidden {
            hidden: &hidden,
            hidden_size,
            cu_seqlens: &cu_seqlens,
        };
        let mut outs = [0, 1].map(|_| vec![0.0; texts * hidden_size]);
        for pooling in Pooling::ALL {
            let [out, plain] = &mut outs;
            let sides: [Side<'_>; 2] = [
                Box::new(|| runs_per_second(SLICE, || Ok(pool(pooling, &packed, execution, out)?))),
                Box::new(|| runs_per_second(SLICE, || Ok(pool_plain(pooling, &packed, plain)?))),
            ];
            let [fast, definition] = interleave(ROUNDS, sides)?;
            let rate = median(&fast);
            let read = match pooling {
                Pooling::Cls | Pooling::LastToken => texts * hidden_size,
                _ => hidden.len(),
            };
            table.row(
                format!("{pooling}, {name}, {hidden_size}"),
                [
                    format!("{:.2}", 1e6 / rate),
                    format!("{:.1}", rate * (read * size_of::<f32>()) as f64 / 1e9),
                    format!("{:.2}", 1e6 / median(&definition)),
                    format!("{:.1}×", Ratio::of(&fast, &definition).median),
                ],
            );
        }
    }
    table.print();
    Ok(())
}

fn normalize_table() -> Outcome {
    let mut table = Table::new(
        "### Normalising one vector",
        &["dimensions", "ns", "plain ns", "fast / plain"],
    );
    for dimensions in [384, 1024] {
        let vector = numbers(5, dimensions);
        let mut vectors = [vector.clone(), vector];
        let [fast, plain] = &mut vectors;
        let sides: [Side<'_>; 2] = [
            Box::new(|| runs_per_second(SLICE, || Ok(l2_normalize(black_box(fast))?))),
            Box::new(|| {
                runs_per_second(SLICE, || {
                    normalize_plain(black_box(plain));
                    Ok(())
                })
            }),
        ];
        let [fast, plain] = interleave(ROUNDS, sides)?;
        table.row(
            dimensions.to_string(),
            [
                format!("{:.0}", 1e9 / median(&fast)),
                format!("{:.0}", 1e9 / median(&plain)),
                format!("{:.1}×", Ratio::of(&fast, &plain).median),
            ],
        );
    }
    table.print();
    Ok(())
}

/// Division by the length, summed one square after the other.
fn normalize_plain(vector: &mut [f32]) {
    let squares: f64 = vector.iter().map(|&value| f64::from(value).powi(2)).sum();
    let length = squares.sqrt();
    for value in vector {
        *value = (f64::from(*value) / length) as f32;
    }
}

/// Numbers between -1 and 1 that a seed fixes.
fn numbers(seed: u32, count: usize) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..count).map(|_| next()).collect()
}
