use super::*;
use crate::{Parallel, RayonPool, Sequential};
use proptest::prelude::*;

mod activations;

/// A weight, its bias, rows and residuals for them.
#[derive(Debug, Clone)]
struct Case {
    values: Vec<f32>, // [out_features, in_features]
    bias: Vec<f32>,
    x: Vec<f32>, // [rows, in_features]
    residual: Vec<f32>,
    sizes: [usize; 3], // rows, in_features, out_features
}

/// Numbers uniform between -1 and 1.
fn numbers(mut seed: u64) -> impl FnMut() -> f32 {
    move || {
        seed = seed
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963);
        (seed >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }
}

impl Case {
    fn new(sizes: [usize; 3], seed: u64) -> Self {
        let [rows, inputs, outputs] = sizes;
        let mut next = numbers(seed);
        let mut take = |count: usize| (0..count).map(|_| next()).collect();
        Self {
            values: take(outputs * inputs),
            bias: take(outputs),
            x: take(rows * inputs),
            residual: take(rows * outputs),
            sizes,
        }
    }

    fn weight(&self) -> LinearWeight<'_> {
        LinearWeight {
            values: WeightValues::F32(&self.values),
            out_features: self.sizes[2],
            in_features: self.sizes[1],
            bias: Some(&self.bias),
        }
    }

    fn pack(&self, kind: LinearKind, isa: Isa) -> PackedLinear {
        PackedLinear::pack(kind, &self.weight(), isa).unwrap()
    }

    fn out(&self) -> Vec<f32> {
        vec![f32::NAN; self.sizes[0] * self.sizes[2]]
    }

    fn run(&self, linear: &PackedLinear, parallel: &dyn Parallel) -> Vec<f32> {
        let execution = Execution {
            isa: Isa::PORTABLE,
            parallel,
        };
        let mut out = self.out();
        let epilogue = Epilogue::default();
        linear
            .apply(&self.x, epilogue, execution, &mut out)
            .unwrap();
        out
    }

    /// Some of the rows alone.
    fn rows(&self, rows: std::ops::Range<usize>) -> Self {
        let [_, inputs, outputs] = self.sizes;
        Self {
            x: self.x[rows.start * inputs..rows.end * inputs].to_vec(),
            residual: self.residual[rows.start * outputs..rows.end * outputs].to_vec(),
            sizes: [rows.len(), inputs, outputs],
            ..self.clone()
        }
    }

    /// The definition in double precision, and for each value the sum of the magnitudes added.
    fn naive(&self, kind: LinearKind) -> Vec<(f64, f64)> {
        let [rows, inputs, outputs] = self.sizes;
        let values = rounded(kind, &self.values, inputs);
        let x = rounded(kind, &self.x, inputs);
        let mut results = Vec::new();
        for row in 0..rows {
            for column in 0..outputs {
                let bias = f64::from(self.bias[column]);
                let (mut sum, mut magnitude) = (bias, bias.abs());
                for at in 0..inputs {
                    let product = x[row * inputs + at] * values[column * inputs + at];
                    sum += product;
                    magnitude += product.abs();
                }
                results.push((sum, magnitude));
            }
        }
        results
    }
}

/// The numbers that a kind makes of rows of numbers.
fn rounded(kind: LinearKind, values: &[f32], row: usize) -> Vec<f64> {
    let nearest = |value: f32, steps: f64| (f64::from(value) / steps).round_ties_even() * steps;
    let mut all = Vec::new();
    for row in values.chunks(row) {
        let most = row.iter().fold(0f32, |most, value| most.max(value.abs()));
        all.extend(row.iter().map(|&value| match kind {
            LinearKind::Fp32 => f64::from(value),
            // Seven bits follow the first of a bfloat16.
            LinearKind::Bf16 if value == 0.0 => 0.0,
            LinearKind::Bf16 => nearest(value, 2f64.powi(value.abs().log2().floor() as i32 - 7)),
            LinearKind::Int8 => nearest(value, f64::from(most.max(1e-30)) / 127.0),
        }));
    }
    all
}

/// Whether numbers are those of the definition, but for roundings. In int8 a number halfway
/// between two steps may fall to either side: then one product differs by a step.
fn check(kind: LinearKind, found: &[f32], expected: &[(f64, f64)], inputs: usize) {
    assert_eq!(found.len(), expected.len());
    for (at, (&found, &(value, magnitude))) in found.iter().zip(expected).enumerate() {
        let tolerance = match kind {
            LinearKind::Int8 => 2e-6 * magnitude + 0.017,
            _ => 1.2e-7 * (inputs as f64).sqrt().max(2.0) * magnitude,
        };
        let error = (f64::from(found) - value).abs();
        assert!(
            error <= tolerance,
            "{kind} value {at}: {found}, expected {value}"
        );
    }
}

fn sizes() -> impl Strategy<Value = [usize; 3]> {
    let deep = prop_oneof![4 => 1usize..70, 1 => 500usize..1100];
    (1usize..40, deep, 1usize..150).prop_map(|(rows, inputs, outputs)| [rows, inputs, outputs])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn every_path_computes_the_definition(sizes in sizes(), seed in any::<u64>()) {
        let case = Case::new(sizes, seed);
        for kind in LinearKind::ALL {
            let expected = case.naive(kind);
            for isa in Isa::combinations() {
                let found = case.run(&case.pack(kind, isa), &Sequential);
                check(kind, &found, &expected, sizes[1]);
            }
        }
    }

    #[test]
    fn rows_do_not_depend_on_their_neighbours(sizes in sizes(), seed in any::<u64>()) {
        let case = Case::new(sizes, seed);
        let rows = sizes[0];
        let parts = [0..rows / 3, rows / 3..rows / 3 + 1, rows / 3 + 1..rows];
        for kind in LinearKind::ALL {
            for isa in Isa::combinations() {
                let linear = case.pack(kind, isa);
                let together = case.run(&linear, &Sequential);
                let alone = parts
                    .iter()
                    .filter(|part| part.end <= rows)
                    .flat_map(|part| case.rows(part.clone()).run(&linear, &Sequential));
                prop_assert!(bits(&together) == alone.map(f32::to_bits).collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn int8_sums_are_the_same_on_every_path(sizes in sizes(), seed in any::<u64>()) {
        let case = Case::new(sizes, seed);
        let portable = case.run(&case.pack(LinearKind::Int8, Isa::PORTABLE), &Sequential);
        for isa in Isa::combinations() {
            let found = case.run(&case.pack(LinearKind::Int8, isa), &Sequential);
            for (found, expected) in found.iter().zip(&portable) {
                // One multiply-add or a product and a sum.
                let tolerance = 3e-7 * expected.abs().max(1.0) * sizes[1] as f32;
                prop_assert!((found - expected).abs() <= tolerance, "{found} {expected}");
            }
        }
    }
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

#[test]
fn threads_do_not_change_a_bit() {
    // Many rows, many columns, and a depth of more than one block.
    for sizes in [[300, 96, 200], [5, 700, 1000], [130, 1100, 70]] {
        let case = Case::new(sizes, 7);
        for kind in LinearKind::ALL {
            for isa in Isa::combinations() {
                let linear = case.pack(kind, isa);
                let alone = bits(&case.run(&linear, &Sequential));
                assert_eq!(
                    alone,
                    bits(&case.run(&linear, &RayonPool)),
                    "{kind} {isa:?}"
                );
                let single = case.rows(2..3).run(&linear, &RayonPool);
                let columns = sizes[2];
                assert_eq!(
                    alone[2 * columns..3 * columns],
                    bits(&single),
                    "{kind} {isa:?}"
                );
            }
        }
    }
}

#[test]
fn sums_of_whole_numbers_are_exact_beyond_one_block_of_depth() {
    for depth in [511, 512, 513, 2048, 4100] {
        let mut case = Case::new([7, depth, 70], 5);
        for value in case.values.iter_mut().chain(&mut case.x) {
            *value = (*value * 3.0).round();
        }
        for kind in [LinearKind::Fp32, LinearKind::Bf16] {
            let expected = case.naive(kind);
            for isa in Isa::combinations() {
                let found = case.run(&case.pack(kind, isa), &Sequential);
                for (found, (expected, _)) in found.iter().zip(&expected) {
                    assert!(
                        (f64::from(*found) - expected).abs() < 1e-3,
                        "{kind} {depth}"
                    );
                }
            }
        }
    }
}

#[test]
fn residuals_and_gates_are_what_separate_layers_make() {
    for sizes in [[1, 5, 3], [17, 40, 130], [97, 64, 64]] {
        let (case, other) = (Case::new(sizes, 1), Case::new(sizes, 2));
        for kind in LinearKind::ALL {
            for isa in Isa::combinations() {
                let (gate, up) = (case.pack(kind, isa), other.pack(kind, isa));
                let run = |linear: &PackedLinear, activation, residual| {
                    let mut out = case.out();
                    let epilogue = Epilogue {
                        activation,
                        residual,
                    };
                    let execution = Execution::sequential(isa);
                    linear
                        .apply(&case.x, epilogue, execution, &mut out)
                        .unwrap();
                    out
                };
                let activation = LinearActivation::Silu;
                let plain = run(&gate, None, None);
                let activated = run(&gate, Some(activation), None);
                let sum: Vec<f32> = plain
                    .iter()
                    .zip(&case.residual)
                    .map(|(a, b)| a + b)
                    .collect();
                assert_eq!(bits(&run(&gate, None, Some(&case.residual))), bits(&sum));

                let product = activated
                    .iter()
                    .zip(run(&up, None, None))
                    .map(|(a, b)| a * b);
                let mut gated = case.out();
                let pair = GatedLinear {
                    gate: &gate,
                    up: &up,
                    activation,
                };
                pair.apply(&case.x, Execution::sequential(isa), &mut gated)
                    .unwrap();
                let product: Vec<f32> = product.collect();
                assert_eq!(bits(&gated), bits(&product), "{kind} {isa:?}");
            }
        }
    }
}

#[test]
fn what_is_not_finite_stays_visible_in_its_row_and_only_there() {
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut case = Case::new([9, 37, 70], 3);
        let clean = case.clone();
        case.x[4 * 37 + 11] = bad;
        for kind in LinearKind::ALL {
            for isa in Isa::combinations() {
                let linear = case.pack(kind, isa);
                for activation in LinearActivation::ALL.map(Some).into_iter().chain([None]) {
                    let run = |case: &Case| {
                        let mut out = case.out();
                        let epilogue = Epilogue {
                            activation,
                            residual: None,
                        };
                        let execution = Execution::sequential(isa);
                        linear
                            .apply(&case.x, epilogue, execution, &mut out)
                            .unwrap();
                        out
                    };
                    let (found, expected) = (run(&case), run(&clean));
                    for (row, (found, expected)) in
                        found.chunks(70).zip(expected.chunks(70)).enumerate()
                    {
                        match row {
                            4 => assert!(
                                found.iter().all(|value| !value.is_finite()),
                                "{kind} {isa:?} {activation:?} {found:?}"
                            ),
                            _ => assert_eq!(bits(found), bits(expected)),
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn rows_of_zeros_give_the_bias_and_huge_values_do_not_become_ordinary_ones() {
    let mut case = Case::new([3, 9, 20], 4);
    case.x[..9].fill(0.0);
    case.x[9..18].fill(f32::MAX);
    case.x[18..].fill(f32::from_bits(1));
    for kind in LinearKind::ALL {
        for isa in Isa::combinations() {
            let out = case.run(&case.pack(kind, isa), &Sequential);
            assert_eq!(out[..20], case.bias, "{kind} {isa:?}");
            assert!(
                out[20..40]
                    .iter()
                    .all(|value| value.is_nan() || value.abs() >= 1e30),
                "{kind} {isa:?}"
            );
            for (found, bias) in out[40..].iter().zip(&case.bias) {
                assert!((found - bias).abs() < 1e-30, "{kind} {isa:?}");
            }
        }
    }
}

#[test]
fn weights_are_read_in_every_format() {
    let mut case = Case::new([4, 7, 9], 6);
    // Multiples of 1/8 below 1 are exact in all three.
    for value in &mut case.values {
        *value = (*value * 8.0).round() / 8.0;
    }
    let bf16: Vec<u16> = case
        .values
        .iter()
        .map(|value| (value.to_bits() >> 16) as u16)
        .collect();
    let f16: Vec<u16> = case.values.iter().map(|&value| f16_bits(value)).collect();
    for kind in LinearKind::ALL {
        let isa = Isa::detect();
        let expected = case.run(&case.pack(kind, isa), &Sequential);
        for values in [WeightValues::Bf16(&bf16), WeightValues::F16(&f16)] {
            let weight = LinearWeight {
                values,
                ..case.weight()
            };
            let linear = PackedLinear::pack(kind, &weight, isa).unwrap();
            assert_eq!(
                case.run(&linear, &Sequential),
                expected,
                "{kind} {values:?}"
            );
        }
    }
}

/// The half precision of a multiple of 1/8.
fn f16_bits(value: f32) -> u16 {
    let bits = value.to_bits();
    match value == 0.0 {
        true => 0,
        false => (bits >> 16 & 0x8000) as u16 | ((bits >> 13 & 0x3_ffff) as u16 - (112 << 10)),
    }
}

#[test]
fn bad_arguments_are_refused() {
    let isa = Isa::detect();
    let values = [0.0; 6];
    let weight = |out_features, in_features, bias| LinearWeight {
        values: WeightValues::F32(&values),
        out_features,
        in_features,
        bias,
    };
    let pack = |weight: LinearWeight<'_>| {
        let packed = PackedLinear::pack(LinearKind::Int8, &weight, isa);
        packed.map(|_| ()).unwrap_err().to_string()
    };
    assert!(pack(weight(2, 0, None)).contains("`in_features` is `0`"));
    assert!(pack(weight(0, 3, None)).contains("`out_features` is `0`"));
    assert!(pack(weight(2, 4, None)).contains("`values` holds `6` values"));
    assert!(pack(weight(2, 3, Some(&[0.0; 3]))).contains("`bias` holds `3` values"));
    assert!(pack(weight(1, 65_537, None)).contains("`65536` for int8"));

    let linear = |kind, weight| PackedLinear::pack(kind, &weight, isa).unwrap();
    let (fp32, int8) = (
        linear(LinearKind::Fp32, weight(2, 3, None)),
        linear(LinearKind::Int8, weight(2, 3, None)),
    );
    let apply = |x: &[f32], residual, out: &mut [f32]| {
        let epilogue = Epilogue {
            activation: None,
            residual,
        };
        fp32.apply(x, epilogue, Execution::sequential(isa), out)
    };
    assert!(apply(&[0.0; 4], None, &mut [0.0; 2]).is_err());
    assert!(apply(&[0.0; 6], None, &mut [0.0; 2]).is_err());
    assert!(apply(&[0.0; 3], Some(&[0.0; 3]), &mut [0.0; 2]).is_err());
    assert_eq!(apply(&[], None, &mut []), Ok(()));

    let activation = LinearActivation::Gelu;
    let pair = GatedLinear {
        gate: &fp32,
        up: &int8,
        activation,
    };
    let error = pair.check().unwrap_err().to_string();
    assert!(error.contains("they must be alike"), "{error}");
}

#[test]
fn names_are_parsed_as_they_are_written() {
    for kind in LinearKind::ALL {
        assert_eq!(kind.to_string().parse(), Ok(kind));
    }
    for activation in LinearActivation::ALL {
        assert_eq!(activation.to_string().parse(), Ok(activation));
    }
    let error = "fp16".parse::<LinearKind>().unwrap_err().to_string();
    assert!(
        error.contains("use one of `fp32`, `bf16`, `int8`"),
        "{error}"
    );
    let error = "selu".parse::<LinearActivation>().unwrap_err().to_string();
    assert!(error.contains("unknown activation `selu`"), "{error}");
}
