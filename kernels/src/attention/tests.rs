use super::*;
use crate::{Isa, Parallel, RayonPool};
use proptest::prelude::*;

/// Queries, keys and values side by side, as one projection would leave them.
#[derive(Clone)]
struct Case {
    qkv: Vec<f32>, // [tokens, (num_heads + 2 * kv_num_heads) * head_size]
    cu_seqlens: Vec<i32>,
    num_heads: usize,
    kv_num_heads: usize,
    head_size: usize,
    scale: f32,
    mask: Mask,
    alibi_slopes: Option<Vec<f32>>,
    distances: Option<Vec<f32>>,
    precision: Precision,
}

/// Numbers uniform between -2 and 2, so that scores of a head of 64 spread over about +-10.
fn numbers(mut seed: u64) -> impl FnMut() -> f32 {
    move || {
        seed = seed
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963);
        (seed >> 40) as f32 / (1u64 << 22) as f32 - 2.0
    }
}

impl Case {
    fn new(lengths: &[usize], num_heads: usize, head_size: usize, seed: u64) -> Self {
        Self::grouped(lengths, [num_heads, num_heads, head_size], seed)
    }

    fn grouped(
        lengths: &[usize],
        [num_heads, kv_num_heads, head_size]: [usize; 3],
        seed: u64,
    ) -> Self {
        let mut cu_seqlens = vec![0];
        for &length in lengths {
            cu_seqlens.push(cu_seqlens[cu_seqlens.len() - 1] + length as i32);
        }
        let tokens: usize = lengths.iter().sum();
        let mut next = numbers(seed);
        let qkv = (0..tokens * (num_heads + 2 * kv_num_heads) * head_size)
            .map(|_| next())
            .collect();
        Self {
            qkv,
            cu_seqlens,
            num_heads,
            kv_num_heads,
            head_size,
            scale: 1.0 / (head_size as f32).sqrt(),
            mask: Mask::default(),
            alibi_slopes: None,
            distances: None,
            precision: Precision::Fp32,
        }
    }

    /// The same attention in each precision.
    fn precisions(&self) -> [Self; 2] {
        Precision::ALL.map(|precision| Self {
            precision,
            ..self.clone()
        })
    }

    /// Values per token.
    fn stride(&self) -> usize {
        (self.num_heads + 2 * self.kv_num_heads) * self.head_size
    }

    fn args(&self) -> PackedAttention<'_> {
        let part = |head: usize| Strided {
            values: self.qkv.get(head * self.head_size..).unwrap_or(&[]),
            stride: self.stride(),
        };
        PackedAttention {
            query: part(0),
            key: part(self.num_heads),
            value: part(self.num_heads + self.kv_num_heads),
            cu_seqlens: &self.cu_seqlens,
            num_heads: self.num_heads,
            kv_num_heads: self.kv_num_heads,
            head_size: self.head_size,
            scale: self.scale,
            mask: self.mask,
            bias: Bias {
                alibi_slopes: self.alibi_slopes.as_deref(),
                distances: self.distances.as_deref(),
            },
            precision: self.precision,
        }
    }

    /// The same attention over one of the sequences alone.
    fn alone(&self, sequence: usize) -> Self {
        let tokens = self.cu_seqlens[sequence] as usize..self.cu_seqlens[sequence + 1] as usize;
        Self {
            qkv: self.qkv[tokens.start * self.stride()..tokens.end * self.stride()].to_vec(),
            cu_seqlens: vec![0, tokens.len() as i32],
            ..self.clone()
        }
    }

    fn out(&self) -> Vec<f32> {
        let tokens = self.cu_seqlens[self.cu_seqlens.len() - 1] as usize;
        vec![f32::NAN; tokens * self.num_heads * self.head_size]
    }

    fn plain(&self) -> Vec<f32> {
        let mut out = self.out();
        attention_plain(&self.args(), &mut out).unwrap();
        out
    }

    fn fast(&self, isa: Isa) -> Vec<f32> {
        self.run(Execution::sequential(isa))
    }

    fn run(&self, execution: Execution<'_>) -> Vec<f32> {
        let mut out = self.out();
        attention(&self.args(), execution, &mut out).unwrap();
        out
    }
}

/// The largest difference, NaN when one has NaN.
fn difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).fold(0.0, |most, (a, b)| {
        let difference = (a - b).abs();
        if difference > most || difference.is_nan() {
            difference
        } else {
            most
        }
    })
}

/// Relative to the largest value, which is 2 here.
const TOLERANCE: f32 = 2e-6;

/// The same in bf16, where the last bit of a score may decide which way its weight is rounded:
/// half a unit in the last place more or less, twice 2^-8 of the weight.
const TOLERANCE_BF16: f32 = 1.0 / 128.0;

/// The processor's paths that compute in this precision.
fn paths(precision: Precision) -> impl Iterator<Item = Isa> {
    let all = Isa::available().into_iter();
    all.filter(move |isa| precision.on(*isa) == precision)
}

fn assert_is_the_definition(case: &Case) {
    for (case, tolerance) in case.precisions().iter().zip([TOLERANCE, TOLERANCE_BF16]) {
        let plain = case.plain();
        for isa in paths(case.precision) {
            let found = difference(&plain, &case.fast(isa));
            let heads = (case.num_heads, case.kv_num_heads, case.head_size);
            let shape = (&case.cu_seqlens, heads, case.mask);
            assert!(
                found <= 2.0 * tolerance,
                "{} {} {shape:?}: {found:e}",
                isa.name(),
                case.precision
            );
        }
    }
}

proptest! {
    #[test]
    fn the_fast_version_is_the_definition(
        lengths in proptest::collection::vec(0usize..90, 0..5),
        num_heads in 1usize..4,
        head_size in 1usize..100,
        seed in any::<u64>(),
    ) {
        assert_is_the_definition(&Case::new(&lengths, num_heads, head_size, seed));
    }
}

#[test]
fn head_sizes_in_use_and_chunk_borders_are_the_definition() {
    for head_size in [8, 24, 32, 40, 64, 80, 96, 128, 160, 256] {
        assert_is_the_definition(&Case::new(&[1, 70], 2, head_size, 3));
    }
    for length in [15, 16, 17, 191, 192, 193, 255, 256, 257, 511, 512, 513, 800] {
        assert_is_the_definition(&Case::new(&[length], 1, 32, 5));
    }
}

#[test]
fn two_tokens_by_hand() {
    // Scores ln 3 and 0 for both tokens, so the weights are 3/4 and 1/4.
    let ln3 = 3f32.ln();
    let qkv = [1.0, ln3, 8.0, 1.0, 0.0, 4.0];
    let case = Case {
        qkv: qkv.to_vec(),
        cu_seqlens: vec![0, 2],
        scale: 1.0,
        ..Case::new(&[], 1, 1, 0)
    };
    assert_eq!(case.plain(), [7.0, 7.0]);
    for isa in Isa::available() {
        assert!(difference(&case.fast(isa), &[7.0, 7.0]) <= 7.0 * TOLERANCE);
    }
    // In bf16, which takes longer sequences, here ten times the two tokens, the score is 1.5921
    // in units of ln 2, so the weights are 0.75390625 and 0.25.
    let case = Case {
        qkv: qkv.repeat(10),
        cu_seqlens: vec![0, 20],
        precision: Precision::Bf16,
        ..case
    };
    let expected = (0.753_906_25 * 8.0 + 0.25 * 4.0) / (0.753_906_25 + 0.25);
    assert!(difference(&case.plain(), &[expected; 20]) <= 1e-6);
    for isa in paths(Precision::Bf16) {
        assert!(difference(&case.fast(isa), &[expected; 20]) <= 7.0 * TOLERANCE);
    }
}

/// Runs the tasks backwards, two at a time from both ends.
struct Backwards;

impl Parallel for Backwards {
    fn run(&self, tasks: usize, task: &(dyn Fn(usize) + Sync)) -> Result<(), KernelError> {
        (0..tasks).rev().for_each(task);
        Ok(())
    }
}

#[test]
fn alone_or_in_a_batch_the_bits_are_the_same() {
    let lengths = [5, 300, 16, 1, 0, 77, 1000];
    for batch in Case::new(&lengths, 4, 48, 11).precisions() {
        for isa in paths(batch.precision) {
            let together = batch.fast(isa);
            for parallel in [&RayonPool as &dyn Parallel, &Backwards] {
                assert_eq!(together, batch.run(Execution { isa, parallel }));
            }
            let alone: Vec<f32> = (0..lengths.len())
                .flat_map(|sequence| batch.alone(sequence).fast(isa))
                .collect();
            assert_eq!(together, alone);
        }
    }
}

#[test]
fn equal_queries_give_equal_rows_wherever_they_stand() {
    let mut case = Case::new(&[401], 1, 64, 2);
    let query = case.qkv[..64].to_vec();
    for row in case.qkv.chunks_exact_mut(3 * 64) {
        row[..64].copy_from_slice(&query);
    }
    for case in case.precisions() {
        for isa in paths(case.precision) {
            let out = case.fast(isa);
            let equal = out.chunks_exact(64).all(|row| *row == out[..64]);
            assert!(equal, "{} {}", isa.name(), case.precision);
        }
    }
}

#[test]
fn large_scores_do_not_overflow() {
    let mut case = Case::new(&[300], 1, 64, 9);
    case.scale = 1e3;
    // Scores reach thousands, where their own rounding is about 1e-3: only one key counts.
    for case in case.precisions() {
        let plain = case.plain();
        for isa in paths(case.precision) {
            let found = case.fast(isa);
            assert!(found.iter().all(|value| value.is_finite()));
            assert!(difference(&plain, &found) < 1e-1, "{}", isa.name());
        }
    }
    case.scale = -0.125;
    assert_is_the_definition(&case);
    case.scale = 0.0;
    assert_is_the_definition(&case);
}

#[test]
fn what_is_not_finite_stays_in_its_sequence_and_is_not_hidden() {
    // The last one is finite, but rounded to bf16 it is not.
    for odd in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX] {
        for part in 0..3 {
            let mut case = Case::new(&[20, 300, 20], 1, 32, 4);
            case.qkv[100 * 96 + part * 32] = odd;
            for case in case.precisions() {
                let plain = case.plain();
                for isa in paths(case.precision) {
                    let fast = case.fast(isa);
                    for (row, (plain, fast)) in plain.chunks(32).zip(fast.chunks(32)).enumerate() {
                        let inside = (20..320).contains(&row);
                        assert!(inside || fast.iter().all(|value| value.is_finite()));
                        // Scores of the largest `f32` overflow only where sums are `f32`.
                        for (plain, fast) in plain.iter().zip(fast).filter(|_| odd != f32::MAX) {
                            let same = plain.is_finite() == fast.is_finite();
                            let place = format!("{} part {part} row {row}", isa.name());
                            assert!(same, "{} {place} {odd}: {plain} {fast}", case.precision);
                        }
                    }
                    let all = fast.iter().all(|value| value.is_finite());
                    let rounded = part == 2 && case.precision == Precision::Bf16;
                    assert!(!all || odd == f32::MAX && !rounded, "{odd} {part}");
                }
            }
        }
    }
}

#[test]
fn bad_arguments_are_refused() {
    let case = Case::new(&[3, 4], 2, 8, 1);
    let check = |args: PackedAttention<'_>, len: usize, expected: KernelError| {
        let mut out = vec![0.0; len];
        assert_eq!(attention_plain(&args, &mut out), Err(expected.clone()));
        let execution = Execution::sequential(Isa::detect());
        assert_eq!(attention(&args, execution, &mut out), Err(expected));
    };
    let args = case.args();
    let rule = "at least `1`";
    check(
        PackedAttention {
            num_heads: 0,
            ..args
        },
        112,
        KernelError::Size {
            name: "num_heads",
            found: 0,
            rule,
        },
    );
    check(
        PackedAttention {
            head_size: 0,
            ..args
        },
        112,
        KernelError::Size {
            name: "head_size",
            found: 0,
            rule,
        },
    );
    for (kv_num_heads, expected) in [
        (
            0,
            KernelError::Size {
                name: "kv_num_heads",
                found: 0,
                rule,
            },
        ),
        (
            3,
            KernelError::KvHeads {
                kv_num_heads: 3,
                num_heads: 2,
            },
        ),
    ] {
        check(
            PackedAttention {
                kv_num_heads,
                ..args
            },
            112,
            expected,
        );
    }
    check(
        PackedAttention {
            scale: f32::INFINITY,
            ..args
        },
        112,
        KernelError::Scale {
            found: f32::INFINITY,
        },
    );
    check(
        args,
        111,
        KernelError::Length {
            name: "out",
            found: 111,
            expected: 112,
        },
    );
    check(args, 96, KernelError::CuSeqlensEnd { last: 7, tokens: 6 });
    let short = Strided {
        values: &case.qkv[..300],
        stride: 48,
    };
    check(
        PackedAttention { key: short, ..args },
        112,
        KernelError::Length {
            name: "key",
            found: 300,
            expected: 304,
        },
    );
}

#[test]
fn bad_biases_are_refused() {
    let case = Case::new(&[3, 4], 2, 8, 1);
    let check = |bias: Bias<'_>, expected: KernelError| {
        let args = PackedAttention {
            bias,
            ..case.args()
        };
        let mut out = case.out();
        assert_eq!(attention_plain(&args, &mut out), Err(expected.clone()));
        let execution = Execution::sequential(Isa::detect());
        assert_eq!(attention(&args, execution, &mut out), Err(expected));
    };
    let slopes = |values| Bias {
        alibi_slopes: Some(values),
        distances: None,
    };
    let table = |values| Bias {
        alibi_slopes: None,
        distances: Some(values),
    };
    let num_heads = 2;
    let found = 3;
    check(
        slopes(&[0.5; 3]),
        KernelError::AlibiSlopes { found, num_heads },
    );
    // No distance, a share of one, and an even number of them per head.
    for (values, found) in [(&[0.0; 0][..], 0), (&[0.0; 3], 3), (&[0.0; 4], 4)] {
        check(
            table(values),
            KernelError::DistanceBias { found, num_heads },
        );
    }
    let found = f32::NEG_INFINITY;
    for (bias, name) in [
        (slopes(&[0.5, found]), "alibi_slopes"),
        (table(&[0.5, found]), "distance_bias"),
    ] {
        check(bias, KernelError::NonFiniteBias { name, found });
    }
}

mod bf16;
mod features;
