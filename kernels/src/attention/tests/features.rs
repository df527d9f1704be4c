//! Grouped heads, masks and biases, alone and together.

use super::*;
use crate::attention::scratch::Scratch;

const BOTH: [Direction; 2] = [Direction::Bidirectional, Direction::Causal];

/// Which features a case has.
#[derive(Debug, Clone, Copy)]
struct Features {
    mask: Mask,
    alibi: bool,
    /// The farthest distance of the table.
    distance_max: Option<usize>,
}

impl Features {
    fn add_to(self, case: &mut Case) {
        let mut next = numbers(17);
        case.mask = self.mask;
        case.alibi_slopes = self.alibi.then(|| {
            (1..=case.num_heads)
                .map(|h| 0.5f32.powi(h as i32))
                .collect()
        });
        case.distances = self.distance_max.map(|most| {
            (0..case.num_heads * (2 * most + 1))
                .map(|_| next())
                .collect()
        });
    }
}

fn features() -> impl Strategy<Value = Features> {
    let window = proptest::option::of(prop_oneof![0usize..8, 8usize..100, 100usize..400]);
    let distance_max = proptest::option::of(prop_oneof![0usize..4, 4usize..300]);
    (0usize..2, window, any::<bool>(), distance_max).prop_map(
        |(direction, window, alibi, distance_max)| Features {
            mask: Mask {
                direction: BOTH[direction],
                window,
            },
            alibi,
            distance_max,
        },
    )
}

/// Every combination of features, with a window and a table of the given sizes.
fn combinations(window: usize, distance_max: usize) -> Vec<Features> {
    let mut all = Vec::new();
    for direction in BOTH {
        for window in [None, Some(window)] {
            for alibi in [false, true] {
                for distance_max in [None, Some(distance_max)] {
                    all.push(Features {
                        mask: Mask { direction, window },
                        alibi,
                        distance_max,
                    });
                }
            }
        }
    }
    all
}

proptest! {
    #[test]
    fn the_fast_version_is_the_definition_with_features(
        lengths in proptest::collection::vec(
            prop_oneof![0usize..20, 20usize..90, 180usize..320], 0..4),
        kv_num_heads in 1usize..4,
        group in 1usize..4,
        head_size in prop_oneof![Just(32usize), Just(64), 1usize..100],
        features in features(),
        seed in any::<u64>(),
    ) {
        let heads = [kv_num_heads * group, kv_num_heads, head_size];
        let mut case = Case::grouped(&lengths, heads, seed);
        features.add_to(&mut case);
        assert_is_the_definition(&case);
        for case in case.precisions() {
            for isa in paths(case.precision) {
                let alone: Vec<f32> = (0..lengths.len())
                    .flat_map(|sequence| case.alone(sequence).fast(isa))
                    .collect();
                prop_assert_eq!(case.fast(isa), alone);
            }
        }
    }
}

#[test]
fn all_combinations_are_the_definition_at_all_head_sizes() {
    for head_size in [8, 32, 40, 64, 96, 128] {
        for features in combinations(24, 12) {
            let mut case = Case::grouped(&[1, 70, 2], [4, 2, head_size], 3);
            features.add_to(&mut case);
            assert_is_the_definition(&case);
        }
    }
}

#[test]
fn all_combinations_are_the_definition_at_block_and_chunk_borders() {
    for length in [1, 2, 17, 63, 64, 65, 191, 192, 193, 256, 257, 300, 513, 800] {
        for features in combinations(64, 100) {
            let mut case = Case::grouped(&[length, 5], [2, 1, 32], 5);
            features.add_to(&mut case);
            assert_is_the_definition(&case);
        }
    }
}

#[test]
fn windows_around_the_size_of_blocks_are_the_definition() {
    for window in [
        0, 1, 11, 95, 96, 97, 128, 191, 192, 193, 255, 256, 257, 699, 700,
    ] {
        for direction in BOTH {
            let mut case = Case::new(&[700], 1, 32, 7);
            case.mask = Mask {
                direction,
                window: Some(window),
            };
            assert_is_the_definition(&case);
        }
    }
}

#[test]
fn three_tokens_by_hand() {
    // Queries are 0, so that scores are the biases; the values are 8, 4 and 16.
    let case = |features: Features| {
        let mut case = Case {
            qkv: vec![0.0, 1.0, 8.0, 0.0, 1.0, 4.0, 0.0, 1.0, 16.0],
            cu_seqlens: vec![0, 3],
            ..Case::new(&[], 1, 1, 0)
        };
        features.add_to(&mut case);
        case
    };
    let check = |case: &Case, expected: [f32; 3]| {
        assert!(difference(&case.plain(), &expected) < 1e-5);
        for isa in Isa::available() {
            assert!(difference(&case.fast(isa), &expected) < 1e-4);
        }
    };
    let seen = |direction, window| Features {
        mask: Mask { direction, window },
        alibi: false,
        distance_max: None,
    };
    let third = 28.0 / 3.0;
    check(&case(seen(Direction::Causal, None)), [8.0, 6.0, third]);
    check(
        &case(seen(Direction::Bidirectional, Some(1))),
        [6.0, third, 10.0],
    );
    check(&case(seen(Direction::Causal, Some(1))), [8.0, 6.0, 10.0]);
    check(&case(seen(Direction::Causal, Some(0))), [8.0, 4.0, 16.0]);
    // A slope of ln 2 halves the weight per token of distance.
    let mut alibi = case(seen(Direction::Bidirectional, None));
    alibi.alibi_slopes = Some(vec![2f32.ln()]);
    check(
        &alibi,
        [
            14.0 / 1.75,
            (4.0 + 4.0 + 8.0) / 2.0,
            (2.0 + 2.0 + 16.0) / 1.75,
        ],
    );
    // Keys before the query weigh 1, the query itself 2, keys after it 4.
    let mut table = case(seen(Direction::Bidirectional, None));
    table.distances = Some(vec![0.0, 2f32.ln(), 4f32.ln()]);
    check(
        &table,
        [9.6, (8.0 + 8.0 + 64.0) / 7.0, (8.0 + 4.0 + 32.0) / 4.0],
    );
}

#[test]
fn grouped_heads_are_repeated_keys_and_values() {
    let (heads, kv_heads, size) = (6, 2, 40);
    let grouped = Case::grouped(&[30, 7], [heads, kv_heads, size], 21);
    let mut repeated = Case::new(&[30, 7], heads, size, 0);
    for (to, from) in repeated
        .qkv
        .chunks_exact_mut(3 * heads * size)
        .zip(grouped.qkv.chunks_exact(grouped.stride()))
    {
        to[..heads * size].copy_from_slice(&from[..heads * size]);
        for head in 0..2 * heads {
            let kv_head = head * kv_heads / heads;
            let from = &from[(heads + kv_head) * size..][..size];
            to[(heads + head) * size..][..size].copy_from_slice(from);
        }
    }
    for (grouped, repeated) in grouped.precisions().iter().zip(repeated.precisions()) {
        assert_eq!(grouped.plain(), repeated.plain());
        for isa in paths(grouped.precision) {
            assert_eq!(grouped.fast(isa), repeated.fast(isa));
        }
    }
}

#[test]
fn what_shows_everything_changes_no_bit() {
    for open in Case::new(&[1, 300, 65], 2, 64, 8).precisions() {
        let mut wide = open.clone();
        wide.mask.window = Some(usize::MAX);
        let mut flat = open.clone();
        flat.alibi_slopes = Some(vec![0.0; 2]);
        flat.distances = Some(vec![0.0; 2 * 7]);
        for isa in paths(open.precision) {
            assert_eq!(open.fast(isa), wide.fast(isa));
            assert_eq!(open.fast(isa), flat.fast(isa));
        }
    }
}

#[test]
fn hidden_tokens_change_nothing() {
    let mut case = Case::new(&[600], 1, 32, 12);
    case.mask = Mask {
        direction: Direction::Causal,
        window: Some(40),
    };
    for case in case.precisions() {
        let mut changed = case.clone();
        for value in &mut changed.qkv[300 * 96..301 * 96] {
            *value = -*value * 3.0;
        }
        for isa in paths(case.precision) {
            let (before, after) = (case.fast(isa), changed.fast(isa));
            for row in 0..600 {
                let same = before[row * 32..][..32] == after[row * 32..][..32];
                assert_eq!(same, !(300..=340).contains(&row), "{} {row}", isa.name());
            }
        }
    }
}

#[test]
fn nan_is_seen_by_all_who_see_it_and_never_leaves_its_sequence() {
    for features in combinations(30, 12) {
        for part in 0..3 {
            let mut case = Case::new(&[20, 300, 20], 1, 32, 4);
            features.add_to(&mut case);
            case.qkv[150 * 96 + part * 32] = f32::NAN;
            for case in case.precisions() {
                let plain = case.plain();
                for isa in paths(case.precision) {
                    let fast = case.fast(isa);
                    for (row, (plain, fast)) in plain.chunks(32).zip(fast.chunks(32)).enumerate() {
                        let mut pairs = plain.iter().zip(fast);
                        let hidden = pairs.any(|(plain, fast)| plain.is_nan() && !fast.is_nan());
                        assert!(!hidden, "{} {features:?} part {part} row {row}", isa.name());
                        let inside = (20..320).contains(&row);
                        assert!(inside || fast.iter().all(|value| value.is_finite()));
                    }
                }
            }
        }
    }
}

#[test]
fn a_window_costs_in_proportion_to_the_length() {
    let window = 64;
    for direction in BOTH {
        let mask = Mask {
            direction,
            window: Some(window),
        };
        let cu_seqlens = [0, 8192];
        let cu_seqlens = CuSeqlens::new(&cu_seqlens, 8192).unwrap();
        let schedule = Schedule::new(cu_seqlens, mask, [1, 64]);
        let mut scores = 0;
        for piece in &schedule.pieces {
            let rows = piece.first..piece.first + piece.rows;
            let keys = mask.keys_of(&rows, 8192);
            assert!(keys.len() <= piece.rows + 2 * window, "{piece:?} {keys:?}");
            scores += piece.rows * keys.len();
        }
        assert!(scores <= 8192 * 4 * window, "{direction:?} {scores}");
    }
}

#[test]
fn causal_blocks_read_no_key_after_their_last_row() {
    let mask = Mask {
        direction: Direction::Causal,
        window: None,
    };
    let cu_seqlens = [0, 8192];
    let cu_seqlens = CuSeqlens::new(&cu_seqlens, 8192).unwrap();
    for piece in Schedule::new(cu_seqlens, mask, [1, 64]).pieces {
        let rows = piece.first..piece.first + piece.rows;
        assert_eq!(mask.keys_of(&rows, 8192), 0..rows.end);
    }
}

#[test]
fn working_memory_does_not_grow_with_the_length() {
    // A test has a thread of its own, and so working memory of its own.
    let mut bytes = Vec::new();
    // Both are cut into blocks of the most rows.
    for length in [1152, 8192] {
        for features in combinations(64, 128) {
            let mut case = Case::new(&[length], 1, 64, 6);
            features.add_to(&mut case);
            for case in case.precisions() {
                let out = case.fast(Isa::detect());
                assert!(out.iter().all(|value| value.is_finite()));
            }
        }
        bytes.push(Scratch::with(|scratch| scratch.bytes()));
    }
    assert_eq!(bytes[0], bytes[1]);
    assert!(bytes[1] <= 512 << 10, "{bytes:?}");
}
