use super::*;
use crate::{Execution, Isa, RayonPool};
use proptest::prelude::*;

// Two sequences: [1, 10], [2, 20], [6, -30] and [5, 7].
const HIDDEN: [f32; 8] = [1.0, 10.0, 2.0, 20.0, 6.0, -30.0, 5.0, 7.0];

fn example() -> PackedHidden<'static> {
    PackedHidden {
        hidden: &HIDDEN,
        hidden_size: 2,
        cu_seqlens: &[0, 3, 4],
    }
}

#[test]
fn the_definition_by_hand() {
    let check = |pooling, expected: [f32; 4]| {
        let mut out = [f32::NAN; 4];
        pool_plain(pooling, &example(), &mut out).unwrap();
        assert_eq!(out, expected, "{pooling}");
    };
    check(Pooling::Cls, [1.0, 10.0, 5.0, 7.0]);
    check(Pooling::Mean, [3.0, 0.0, 5.0, 7.0]);
    check(Pooling::Max, [6.0, 20.0, 5.0, 7.0]);
    check(Pooling::LastToken, [6.0, -30.0, 5.0, 7.0]);
    check(
        Pooling::MeanSqrtLen,
        [(9.0 / 3f64.sqrt()) as f32, 0.0, 5.0, 7.0],
    );
    check(Pooling::WeightedMean, [23.0 / 6.0, -40.0 / 6.0, 5.0, 7.0]);
}

#[test]
fn names_are_read_back() {
    for pooling in Pooling::ALL {
        assert_eq!(pooling.name().parse(), Ok(pooling));
    }
    let error = "average".parse::<Pooling>().unwrap_err().to_string();
    assert!(
        error.contains("`average`") && error.contains("`mean`"),
        "{error}"
    );
}

#[test]
fn bad_shapes_are_refused() {
    let check = |packed: PackedHidden<'_>, len, expected: KernelError| {
        let mut out = vec![0.0; len];
        let execution = Execution::sequential(Isa::detect());
        assert_eq!(
            pool_plain(Pooling::Mean, &packed, &mut out),
            Err(expected.clone())
        );
        assert_eq!(
            pool(Pooling::Mean, &packed, execution, &mut out),
            Err(expected)
        );
    };
    check(
        PackedHidden {
            cu_seqlens: &[0, 3, 3, 4],
            ..example()
        },
        6,
        KernelError::EmptySequence { sequence: 1 },
    );
    check(
        PackedHidden {
            cu_seqlens: &[0, 3],
            ..example()
        },
        2,
        KernelError::CuSeqlensEnd { last: 3, tokens: 4 },
    );
    check(
        PackedHidden {
            hidden: &HIDDEN[..7],
            ..example()
        },
        4,
        KernelError::Length {
            name: "hidden",
            found: 7,
            expected: 8,
        },
    );
    check(
        example(),
        3,
        KernelError::Length {
            name: "out",
            found: 3,
            expected: 4,
        },
    );
    check(
        PackedHidden {
            hidden_size: 0,
            ..example()
        },
        4,
        KernelError::Size {
            name: "hidden_size",
            found: 0,
            rule: "at least `1`",
        },
    );
}

#[test]
fn nan_is_never_hidden() {
    for position in 0..3 {
        let mut hidden = HIDDEN;
        hidden[position * 2] = f32::NAN;
        let packed = PackedHidden {
            hidden: &hidden,
            ..example()
        };
        for pooling in [
            Pooling::Mean,
            Pooling::Max,
            Pooling::MeanSqrtLen,
            Pooling::WeightedMean,
        ] {
            for isa in Isa::available() {
                let (mut plain, mut fast) = ([0.0; 4], [0.0; 4]);
                pool_plain(pooling, &packed, &mut plain).unwrap();
                pool(pooling, &packed, Execution::sequential(isa), &mut fast).unwrap();
                assert!(
                    plain[0].is_nan() && fast[0].is_nan(),
                    "{pooling} {position}"
                );
                assert_eq!(plain[1..], fast[1..]);
                assert!(plain[1..].iter().all(|value| value.is_finite()));
            }
        }
    }
}

/// Lengths of the sequences, values per token, and a seed of the values.
fn layouts() -> impl Strategy<Value = (Vec<usize>, usize, u64)> {
    (
        proptest::collection::vec(1usize..40, 0..8),
        1usize..100,
        any::<u64>(),
    )
}

fn boundaries(lengths: &[usize]) -> Vec<i32> {
    let mut cu_seqlens = vec![0];
    for length in lengths {
        cu_seqlens.push(cu_seqlens[cu_seqlens.len() - 1] + *length as i32);
    }
    cu_seqlens
}

fn values(count: usize, mut seed: u64) -> Vec<f32> {
    let mut next = || {
        seed = seed
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (seed >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    (0..count).map(|_| next() * 10.0).collect()
}

fn assert_same_bits(lengths: &[usize], size: usize, seed: u64) {
    let cu_seqlens = boundaries(lengths);
    let hidden = values(lengths.iter().sum::<usize>() * size, seed);
    let packed = PackedHidden {
        hidden: &hidden,
        hidden_size: size,
        cu_seqlens: &cu_seqlens,
    };
    for pooling in Pooling::ALL {
        let mut plain = vec![f32::NAN; lengths.len() * size];
        pool_plain(pooling, &packed, &mut plain).unwrap();
        for isa in Isa::available() {
            let mut fast = vec![f32::NAN; plain.len()];
            let execution = Execution {
                isa,
                parallel: &RayonPool,
            };
            pool(pooling, &packed, execution, &mut fast).unwrap();
            assert_eq!(plain, fast, "{pooling} {} {lengths:?} {size}", isa.name());
        }
    }
}

proptest! {
    // Tolerance: none. Both versions add the same f64 terms in the same order.
    #[test]
    fn the_fast_version_is_the_definition((lengths, size, seed) in layouts()) {
        assert_same_bits(&lengths, size, seed);
    }
}

#[test]
fn spread_over_threads_it_is_still_the_definition() {
    assert_same_bits(&[700, 1, 300, 64, 9], 384, 7);
}
