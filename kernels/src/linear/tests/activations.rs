use super::*;

/// The function in double precision.
fn exact(activation: LinearActivation, x: f64) -> f64 {
    match activation {
        LinearActivation::Gelu => x * normal(x),
        LinearActivation::GeluTanh => {
            let z = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x.powi(3));
            0.5 * x * (1.0 + z.tanh())
        }
        LinearActivation::Relu => x.max(0.0),
        LinearActivation::Silu => x / (1.0 + (-x).exp()),
        LinearActivation::Tanh => x.tanh(),
        LinearActivation::Sigmoid => 1.0 / (1.0 + (-x).exp()),
    }
}

/// The normal distribution: its series around 0, its continued fraction in the tails.
fn normal(x: f64) -> f64 {
    let density = (-x * x / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt();
    let a = x.abs();
    let upper = if a < 5.0 {
        let (mut term, mut sum) = (a, a);
        for n in 1..120 {
            term *= a * a / f64::from(2 * n + 1);
            sum += term;
        }
        0.5 - density * sum
    } else {
        let fraction = (1..80).rev().fold(a, |rest, n| a + f64::from(n) / rest);
        density / fraction
    };
    if x < 0.0 { upper } else { 1.0 - upper }
}

/// A layer of one input and one output, whose weight is 1 and whose bias is 0, makes the function
/// visible; beside it stand enough columns for whole registers.
#[test]
fn activations_are_within_some_roundings_of_the_functions() {
    let x: Vec<f32> = (-2400..=2400)
        .map(|at| at as f32 / 200.0)
        .chain([40.0, -40.0, 1e4, -1e4])
        .collect();
    let columns = 67;
    let weight = LinearWeight {
        values: WeightValues::F32(&vec![1.0; columns]),
        out_features: columns,
        in_features: 1,
        bias: None,
    };
    for isa in Isa::combinations() {
        let linear = PackedLinear::pack(LinearKind::Fp32, &weight, isa).unwrap();
        for activation in LinearActivation::ALL {
            let epilogue = Epilogue {
                activation: Some(activation),
                residual: None,
            };
            let mut out = vec![f32::NAN; x.len() * columns];
            linear
                .apply(&x, epilogue, Execution::sequential(isa), &mut out)
                .unwrap();
            for (&x, row) in x.iter().zip(out.chunks(columns)) {
                let expected = exact(activation, f64::from(x));
                let tolerance = 2.5e-7 * f64::from(x.abs()).max(1.0).min(expected.abs() + 1.0);
                for &found in row {
                    let error = (f64::from(found) - expected).abs();
                    assert!(
                        error <= tolerance,
                        "{activation}({x}) is {found} on {isa:?}, not {expected}"
                    );
                }
            }
        }
    }
}
