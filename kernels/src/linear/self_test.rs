//! Whether a path computes what the portable one does, on this processor: a question that is
//! asked before the path is used.

use super::{LinearKind, LinearWeight, PackedLinear, WeightValues};
use crate::{Epilogue, Execution, Isa, KernelError};

/// Rows, inputs and outputs: tiles of all heights, several panels with a remainder; and, with one
/// row, more than one block of the depth in every kind.
const PROBLEMS: [[usize; 3]; 2] = [[35, 70, 70], [1, 2100, 33]];

/// The largest difference of sums in single precision that is no mistake. The sums are of up to
/// 2100 products below 1, whose order moves them by some 1e-5; one product too many or too few, or
/// numbers that were cut instead of rounded, make 1e-3 and more somewhere.
const TOLERANCE: f32 = 3e-4;

/// Whether `kind` on `isa` gives the numbers of the portable path: in int8 exactly, else but for
/// the order of roundings..
pub(crate) fn reproduces(kind: LinearKind, isa: Isa) -> bool {
    PROBLEMS.into_iter().all(|sizes| {
        let problem = Problem::new(sizes);
        match (problem.run(kind, isa), problem.run(kind, Isa::PORTABLE)) {
            (Ok(found), Ok(expected)) => agree(kind, &found, &expected),
            _ => false,
        }
    })
}

fn agree(kind: LinearKind, found: &[f32], expected: &[f32]) -> bool {
    let mut pairs = found.iter().zip(expected);
    pairs.all(|(found, expected)| match kind {
        // Without a bias there is one rounding, whatever the instructions.
        LinearKind::Int8 => found == expected,
        // Not of a NaN either.
        LinearKind::Fp32 | LinearKind::Bf16 => (found - expected).abs() <= TOLERANCE,
    })
}

/// A weight and rows.
struct Problem {
    values: Vec<f32>, // [out_features, in_features]
    x: Vec<f32>,      // [rows, in_features]
    sizes: [usize; 3],
}

impl Problem {
    /// Of numbers between -1 and 1.
    fn new(sizes: [usize; 3]) -> Self {
        let [rows, inputs, outputs] = sizes;
        let mut state = 1u32;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1u32 << 23) as f32 - 1.0
        };
        let mut take = |count: usize| (0..count).map(|_| next()).collect();
        Self {
            values: take(outputs * inputs),
            x: take(rows * inputs),
            sizes,
        }
    }

    fn run(&self, kind: LinearKind, isa: Isa) -> Result<Vec<f32>, KernelError> {
        let [rows, in_features, out_features] = self.sizes;
        let weight = LinearWeight {
            values: WeightValues::F32(&self.values),
            out_features,
            in_features,
            bias: None,
        };
        let linear = PackedLinear::pack(kind, &weight, isa)?;
        let mut out = vec![f32::NAN; rows * out_features];
        let execution = Execution::sequential(isa);
        linear.apply(&self.x, Epilogue::default(), execution, &mut out)?;
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_mistakes_are_seen() {
        for (sizes, kind) in PROBLEMS.into_iter().flat_map(|sizes| {
            let kinds = LinearKind::ALL.into_iter();
            kinds.map(move |kind| (sizes, kind))
        }) {
            let problem = Problem::new(sizes);
            let right = problem.run(kind, Isa::PORTABLE).unwrap();
            assert!(agree(kind, &right, &right));
            // The last input is forgotten.
            let [rows, inputs, _] = sizes;
            let mut changed = Problem::new(sizes);
            for row in 0..rows {
                changed.x[row * inputs + inputs - 1] = 0.0;
            }
            let wrong = changed.run(kind, Isa::PORTABLE).unwrap();
            assert!(!agree(kind, &wrong, &right), "{kind} {sizes:?}");
            // One value of the output is never written.
            let mut wrong = right.clone();
            wrong[17] = f32::NAN;
            assert!(!agree(kind, &wrong, &right), "{kind} {sizes:?}");
        }
    }

    #[test]
    fn numbers_that_are_cut_instead_of_rounded_are_seen() {
        for sizes in PROBLEMS {
            let mut problem = Problem::new(sizes);
            let right = problem.run(LinearKind::Bf16, Isa::PORTABLE).unwrap();
            for value in &mut problem.x {
                *value = f32::from_bits(value.to_bits() & 0xffff_0000);
            }
            let wrong = problem.run(LinearKind::Bf16, Isa::PORTABLE).unwrap();
            assert!(!agree(LinearKind::Bf16, &wrong, &right), "{sizes:?}");
        }
    }
}
