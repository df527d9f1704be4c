use super::*;
use crate::attention::attention_plain;
use crate::{Bias, Direction, Isa, Mask, PackedAttention, Precision, RayonPool};
use proptest::prelude::*;

/// Whole sequences, and the order in which their tokens are given.
#[derive(Debug, Clone)]
struct Case {
    // Tokens of each sequence in each step; all sequences have as many steps.
    steps: Vec<Vec<usize>>,
    num_heads: usize,
    kv_num_heads: usize,
    head_size: usize,
    seed: u64,
}

fn numbers(mut seed: u64) -> impl FnMut() -> f32 {
    move || {
        seed = seed
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963);
        (seed >> 40) as f32 / (1u64 << 22) as f32 - 2.0
    }
}

/// Queries, keys and values of a sequence.
#[derive(Clone)]
struct Tokens {
    query: Vec<f32>,
    key: Vec<f32>,
    value: Vec<f32>,
}

impl Case {
    fn sequences(&self) -> usize {
        self.steps[0].len()
    }

    fn length(&self, sequence: usize) -> usize {
        self.steps.iter().map(|step| step[sequence]).sum()
    }

    fn width(&self) -> usize {
        self.num_heads * self.head_size
    }

    fn kv_width(&self) -> usize {
        self.kv_num_heads * self.head_size
    }

    fn scale(&self) -> f32 {
        1.0 / (self.head_size as f32).sqrt()
    }

    fn tokens(&self, sequence: usize) -> Tokens {
        let mut next = numbers(self.seed ^ (sequence as u64 + 1) << 7);
        let mut some = |count: usize| (0..count).map(|_| next()).collect();
        let length = self.length(sequence);
        Tokens {
            query: some(length * self.width()),
            key: some(length * self.kv_width()),
            value: some(length * self.kv_width()),
        }
    }

    /// Blocks of the pool, so mixed that no sequence's follow one another.
    fn blocks(&self) -> (KvPool, Vec<Vec<i32>>) {
        let counts: Vec<usize> = (0..self.sequences())
            .map(|s| self.length(s).div_ceil(KvPool::BLOCK_TOKENS))
            .collect();
        let most = counts.iter().copied().max().unwrap_or(0);
        let sequences = self.sequences();
        let tables = (0..sequences)
            .map(|s| {
                (0..most)
                    .rev()
                    .map(|b| (b * sequences + s) as i32)
                    .collect()
            })
            .collect();
        let shape = KvShape {
            layers: 2,
            blocks: (most * sequences).max(1),
            kv_num_heads: self.kv_num_heads,
            head_size: self.head_size,
        };
        (KvPool::new(shape).unwrap(), tables)
    }

    /// The outputs of all tokens of `members`, sequence by sequence, by running all steps.
    fn run(&self, members: &[usize], step: &Runner<'_>) -> Vec<Vec<f32>> {
        let (pool, tables) = self.blocks();
        // What nobody wrote must not be read: it may be anything.
        for number in 0..pool.shape().layers {
            let nan = vec![f32::NAN; self.head_size];
            let mut layer = pool.layer(number).unwrap();
            for at in 0..pool.shape().blocks * self.kv_num_heads * KvPool::BLOCK_TOKENS {
                let slot = at % KvPool::BLOCK_TOKENS;
                let head = at / KvPool::BLOCK_TOKENS;
                let place = [head / self.kv_num_heads, head % self.kv_num_heads, slot];
                layer.store(pool.shape(), place, [&nan, &nan]);
            }
        }
        let tokens: Vec<Tokens> = members.iter().map(|&s| self.tokens(s)).collect();
        let mut done = vec![0; members.len()];
        let mut outputs = vec![Vec::new(); members.len()];
        let columns = tables[0].len();
        for counts in &self.steps {
            let (mut qkv, mut cu_seqlens) = ([const { Vec::new() }; 3], vec![0]);
            let (mut past_lens, mut block_tables) = (Vec::new(), Vec::new());
            for (at, &sequence) in members.iter().enumerate() {
                let range = done[at]..done[at] + counts[sequence];
                let widths = [self.width(), self.kv_width(), self.kv_width()];
                let all = [&tokens[at].query, &tokens[at].key, &tokens[at].value];
                for ((packed, all), width) in qkv.iter_mut().zip(all).zip(widths) {
                    packed.extend_from_slice(&all[range.start * width..range.end * width]);
                }
                past_lens.push(done[at] as i32);
                block_tables.extend_from_slice(&tables[sequence]);
                cu_seqlens.push(cu_seqlens[at] + counts[sequence] as i32);
                done[at] = range.end;
            }
            assert_eq!(block_tables.len(), columns * members.len());
            let args = CachedAttention {
                query: Strided::contiguous(&qkv[0], self.width()),
                key: Strided::contiguous(&qkv[1], self.kv_width()),
                value: Strided::contiguous(&qkv[2], self.kv_width()),
                cu_seqlens: &cu_seqlens,
                past_lens: &past_lens,
                block_tables: &block_tables,
                num_heads: self.num_heads,
                scale: self.scale(),
                layer: 1,
            };
            let mut out = vec![f32::NAN; qkv[0].len()];
            step(&args, &pool, &mut out);
            for (at, output) in outputs.iter_mut().enumerate() {
                let rows = cu_seqlens[at] as usize..cu_seqlens[at + 1] as usize;
                output.extend_from_slice(&out[rows.start * self.width()..rows.end * self.width()]);
            }
        }
        outputs
    }

    /// Packed causal attention over the whole of one sequence.
    fn expected(&self, sequence: usize) -> Vec<f32> {
        let tokens = self.tokens(sequence);
        let cu_seqlens = [0, self.length(sequence) as i32];
        let args = PackedAttention {
            query: Strided::contiguous(&tokens.query, self.width()),
            key: Strided::contiguous(&tokens.key, self.kv_width()),
            value: Strided::contiguous(&tokens.value, self.kv_width()),
            cu_seqlens: &cu_seqlens,
            num_heads: self.num_heads,
            kv_num_heads: self.kv_num_heads,
            head_size: self.head_size,
            scale: self.scale(),
            mask: Mask {
                direction: Direction::Causal,
                window: None,
            },
            bias: Bias::default(),
            precision: Precision::Fp32,
        };
        let mut out = vec![0.0; tokens.query.len()];
        attention_plain(&args, &mut out).unwrap();
        out
    }

    /// The same tokens of each sequence, all in one step.
    fn at_once(&self) -> Self {
        let lengths = (0..self.sequences()).map(|s| self.length(s)).collect();
        Self {
            steps: vec![lengths],
            ..self.clone()
        }
    }
}

type Runner<'a> = dyn Fn(&CachedAttention<'_>, &KvPool, &mut [f32]) + 'a;

fn fast(execution: Execution<'_>) -> impl Fn(&CachedAttention<'_>, &KvPool, &mut [f32]) + '_ {
    move |args, pool, out| cached_attention(args, pool, execution, out).unwrap()
}

fn plain(args: &CachedAttention<'_>, pool: &KvPool, out: &mut [f32]) {
    cached_attention_plain(args, pool, out).unwrap();
}

fn close(found: &[f32], expected: &[f32], limit: f32) {
    assert_eq!(found.len(), expected.len());
    for (at, (a, b)) in found.iter().zip(expected).enumerate() {
        assert!((a - b).abs() <= limit, "value {at}: {a} instead of {b}");
    }
}

fn bits(outputs: &[f32]) -> Vec<u32> {
    outputs.iter().map(|value| value.to_bits()).collect()
}

fn check(case: &Case) {
    let all: Vec<usize> = (0..case.sequences()).collect();
    let expected: Vec<Vec<f32>> = all.iter().map(|&s| case.expected(s)).collect();
    for (found, expected) in case.run(&all, &plain).iter().zip(&expected) {
        close(found, expected, 1e-6);
    }
    for isa in Isa::available() {
        let step = fast(Execution::sequential(isa));
        let found = case.run(&all, &step);
        for (found, expected) in found.iter().zip(&expected) {
            close(found, expected, 4e-6);
        }
        let threads = Execution {
            isa,
            parallel: &RayonPool,
        };
        let others = [
            case.run(&all, &fast(threads)),
            case.at_once().run(&all, &step),
            all.iter().flat_map(|&s| case.run(&[s], &step)).collect(),
        ];
        for other in others {
            for (a, b) in other.iter().zip(&found) {
                assert_eq!(bits(a), bits(b), "{}", isa.name());
            }
        }
    }
}

fn cases() -> impl Strategy<Value = Case> {
    let count = prop_oneof![Just(1usize), Just(0), 0usize..40];
    let heads = prop_oneof![
        Just([1, 1]),
        Just([4, 2]),
        Just([7, 1]),
        Just([8, 4]),
        Just([3, 3])
    ];
    let sizes = prop_oneof![Just(8usize), Just(12), Just(16), Just(64), Just(80)];
    (1usize..4, 1usize..6, heads, sizes, any::<u64>())
        .prop_flat_map(move |(sequences, steps, heads, head_size, seed)| {
            let step = proptest::collection::vec(count.clone(), sequences);
            let steps = proptest::collection::vec(step, steps);
            (steps, Just(heads), Just(head_size), Just(seed))
        })
        .prop_map(|(steps, [num_heads, kv_num_heads], head_size, seed)| Case {
            steps,
            num_heads,
            kv_num_heads,
            head_size,
            seed,
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn steps_give_what_whole_sequences_get(case in cases()) {
        check(&case);
    }
}

#[test]
fn long_sequences_cross_chunks_and_blocks() {
    for (num_heads, kv_num_heads, head_size) in [(4, 2, 64), (14, 2, 16), (2, 1, 128)] {
        check(&Case {
            steps: vec![
                vec![255, 3],
                vec![1, 97],
                vec![1, 1],
                vec![300, 200],
                vec![1, 1],
            ],
            num_heads,
            kv_num_heads,
            head_size,
            seed: 5,
        });
    }
}

#[test]
fn a_shared_prefix_is_read_by_both() {
    let shape = KvShape {
        layers: 1,
        blocks: 4,
        kv_num_heads: 1,
        head_size: 8,
    };
    let pool = KvPool::new(shape).unwrap();
    let mut next = numbers(3);
    let tokens: Vec<f32> = (0..18 * 8).map(|_| next()).collect();
    let step = |first: usize, count: usize, past: &[i32], tables: &[i32]| {
        let values = &tokens[first * 8..(first + count) * 8];
        let rows = Strided::contiguous(values, 8);
        let per = count / past.len();
        let cu_seqlens: Vec<i32> = (0..=past.len()).map(|i| (i * per) as i32).collect();
        let args = CachedAttention {
            query: rows,
            key: rows,
            value: rows,
            cu_seqlens: &cu_seqlens,
            past_lens: past,
            block_tables: tables,
            num_heads: 1,
            scale: 1.0,
            layer: 0,
        };
        let mut out = vec![0.0; values.len()];
        let execution = Execution::sequential(Isa::detect());
        cached_attention(&args, &pool, execution, &mut out).unwrap();
        out
    };
    step(0, 16, &[0], &[3]);
    // The 17th token, and another 17th token in its own block.
    let both = step(16, 2, &[16, 16], &[3, 0, 3, 1]);
    let again = step(17, 1, &[16], &[3, 2]);
    assert_eq!(bits(&both[8..]), bits(&again));
    assert_ne!(bits(&both[..8]), bits(&again));
}

#[test]
fn wrong_arguments_are_refused_before_anything_is_written() {
    let shape = KvShape {
        layers: 1,
        blocks: 2,
        kv_num_heads: 2,
        head_size: 4,
    };
    let pool = KvPool::new(shape).unwrap();
    let values = vec![1.0; 3 * 16];
    let good = CachedAttention {
        query: Strided::contiguous(&values, 16),
        key: Strided::contiguous(&values, 8),
        value: Strided::contiguous(&values, 8),
        cu_seqlens: &[0, 2, 3],
        past_lens: &[15, 0],
        block_tables: &[0, 1, 1, -1],
        num_heads: 4,
        scale: 1.0,
        layer: 0,
    };
    let run = |args: &CachedAttention<'_>| {
        let mut out = vec![0.0; 3 * 16];
        cached_attention(args, &pool, Execution::sequential(Isa::detect()), &mut out)
    };
    let refused = |args: CachedAttention<'_>, words: &str| {
        let error = run(&args).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
        let layer = pool.layer(0).unwrap();
        assert!(layer.keys(&shape, [1, 0]).iter().all(|&key| key == 0.0));
    };
    refused(
        CachedAttention {
            past_lens: &[-1, 0],
            ..good
        },
        "`past_lens` says `-1`",
    );
    refused(
        CachedAttention {
            past_lens: &[31, 0],
            ..good
        },
        "`33` tokens but blocks for `32`",
    );
    refused(
        CachedAttention {
            block_tables: &[0, 2, 1, 0],
            ..good
        },
        "block `2`; the pool has `0` to `1`",
    );
    refused(
        CachedAttention {
            block_tables: &[0, 1, 1],
            ..good
        },
        "`block_tables` holds `3`",
    );
    refused(CachedAttention { layer: 1, ..good }, "`layer` is `1`");
    refused(
        CachedAttention {
            num_heads: 3,
            ..good
        },
        "`kv_num_heads` is `2` with `3` heads",
    );
    refused(
        CachedAttention {
            scale: f32::NAN,
            ..good
        },
        "`scale`",
    );
    refused(
        CachedAttention {
            past_lens: &[0],
            ..good
        },
        "`past_lens` holds `1`",
    );
    run(&good).unwrap();
}
