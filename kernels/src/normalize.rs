//! Making vectors unit length, cutting them shorter, and finding those that cannot be.

use crate::{KernelError, RowFault};

/// Scales a vector to Euclidean length 1.
///
/// The squares are summed in `f64`, where no finite `f32` overflows or vanishes. A vector
/// without a direction is reported and left as it is, never turned into NaN.
pub fn l2_normalize(vector: &mut [f32]) -> Result<(), RowFault> {
    let squares = squared_norm(vector);
    if let Some(fault) = fault_of(squares) {
        return Err(fault);
    }
    let inverse = squares.sqrt().recip();
    for value in vector {
        *value = (f64::from(*value) * inverse) as f32;
    }
    Ok(())
}

/// Keeps the first `dimensions` values of a vector and makes them unit length again, as
/// Matryoshka embeddings are shortened (Kusupati et al. 2022, arXiv 2205.13147).
/// On error the vector is as it was.
pub fn cut(vector: &mut Vec<f32>, dimensions: usize) -> Result<(), KernelError> {
    if dimensions == 0 || dimensions > vector.len() {
        return Err(KernelError::Dimensions {
            asked: dimensions,
            available: vector.len(),
        });
    }
    l2_normalize(&mut vector[..dimensions])?;
    vector.truncate(dimensions);
    Ok(())
}

/// Keeps the first values of every row and makes them unit length. A row that has no direction
/// keeps its values, and its number in `faults` says why (`RowFault::code`); sound rows have 0.
/// // rows: [n, width] -> out: [n, dimensions], faults: [n]
pub fn unit_rows(
    rows: &[f32],
    [width, dimensions]: [usize; 2],
    out: &mut [f32],
    faults: &mut [i32],
) -> Result<(), KernelError> {
    if dimensions == 0 || dimensions > width {
        return Err(KernelError::Dimensions {
            asked: dimensions,
            available: width,
        });
    }
    let count = faults.len();
    for (name, found, expected) in [
        ("rows", rows.len(), count * width),
        ("out", out.len(), count * dimensions),
    ] {
        if found != expected {
            return Err(KernelError::Length {
                name,
                found,
                expected,
            });
        }
    }
    let outs = out.chunks_exact_mut(dimensions);
    for ((row, out), fault) in rows.chunks_exact(width).zip(outs).zip(faults) {
        out.copy_from_slice(&row[..dimensions]);
        *fault = l2_normalize(out).map_or_else(RowFault::code, |()| 0);
    }
    Ok(())
}

/// Which rows contain NaN or an infinity, or only zeros: their numbers and what is wrong.
/// A last row that is incomplete counts as a row. // rows: [n, row_size]
pub fn faulty_rows(rows: &[f32], row_size: usize) -> Vec<(usize, RowFault)> {
    rows.chunks(row_size.max(1))
        .enumerate()
        .filter_map(|(index, row)| Some((index, fault_of(squared_norm(row))?)))
        .collect()
}

fn fault_of(squared_norm: f64) -> Option<RowFault> {
    if !squared_norm.is_finite() {
        Some(RowFault::NonFinite)
    } else if squared_norm == 0.0 {
        Some(RowFault::ZeroNorm)
    } else {
        None
    }
}

/// Sum of squares, infinite or NaN exactly when a value is: the square of the largest `f32` is
/// 1e77, far from the limit of `f64`. Eight partial sums let the compiler use wide registers.
fn squared_norm(vector: &[f32]) -> f64 {
    const LANES: usize = 8;
    let mut sums = [0.0f64; LANES];
    let (chunks, rest) = vector.as_chunks::<LANES>();
    for chunk in chunks {
        for (sum, &value) in sums.iter_mut().zip(chunk) {
            *sum += f64::from(value) * f64::from(value);
        }
    }
    for (sum, &value) in sums.iter_mut().zip(rest) {
        *sum += f64::from(value) * f64::from(value);
    }
    sums.iter().sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn extreme_magnitudes_are_normalised() {
        for magnitude in [f32::MAX, 1.0, f32::MIN_POSITIVE, f32::from_bits(1)] {
            let mut vector = vec![magnitude, -magnitude, 0.0, magnitude, magnitude];
            l2_normalize(&mut vector).unwrap();
            assert_eq!(vector, [0.5, -0.5, 0.0, 0.5, 0.5]);
        }
    }

    #[test]
    fn vectors_without_direction_are_reported_and_kept() {
        for (value, fault) in [
            (0.0, RowFault::ZeroNorm),
            (f32::NAN, RowFault::NonFinite),
            (f32::INFINITY, RowFault::NonFinite),
            (f32::NEG_INFINITY, RowFault::NonFinite),
        ] {
            let mut vector = [0.0, value, 0.0];
            assert_eq!(l2_normalize(&mut vector), Err(fault));
            assert_eq!(vector[1].to_bits(), value.to_bits());
        }
        assert_eq!(l2_normalize(&mut []), Err(RowFault::ZeroNorm));
    }

    #[test]
    fn cutting_renormalises() {
        let mut vector = vec![3.0, 4.0, 12.0];
        cut(&mut vector, 2).unwrap();
        assert_eq!(vector, [0.6, 0.8]);
        for asked in [0, 3] {
            let error = KernelError::Dimensions {
                asked,
                available: 2,
            };
            assert_eq!(cut(&mut vector, asked), Err(error));
        }
        let mut vector = vec![0.0, 0.0, 1.0];
        assert_eq!(cut(&mut vector, 2), Err(RowFault::ZeroNorm.into()));
        assert_eq!(vector, [0.0, 0.0, 1.0]);
    }

    #[test]
    fn rows_are_cut_and_their_faults_told() {
        let rows = [3.0, 4.0, 9.0, 0.0, 0.0, 1.0, f32::NAN, 1.0, 0.0];
        let (mut out, mut faults) = ([0.0; 6], [-1; 3]);
        unit_rows(&rows, [3, 2], &mut out, &mut faults).unwrap();
        assert_eq!(out[..4], [0.6, 0.8, 0.0, 0.0]);
        assert!(out[4].is_nan() && out[5] == 1.0);
        let found = faults.map(RowFault::of_code);
        let expected = [None, Some(RowFault::ZeroNorm), Some(RowFault::NonFinite)];
        assert_eq!(found, expected);
        for fault in expected.into_iter().flatten() {
            assert_eq!(RowFault::of_code(fault.code()), Some(fault));
        }
        for sizes in [[3, 0], [3, 4], [2, 2]] {
            assert!(unit_rows(&rows, sizes, &mut out, &mut faults).is_err());
        }
        assert_eq!(unit_rows(&[], [3, 2], &mut [], &mut []), Ok(()));
    }

    #[test]
    fn faulty_rows_are_named() {
        let rows = [
            1.0,
            2.0,
            0.0,
            0.0,
            f32::NAN,
            1.0,
            0.0,
            1e-30,
            0.0,
            f32::INFINITY,
        ];
        assert_eq!(
            faulty_rows(&rows, 2),
            [
                (1, RowFault::ZeroNorm),
                (2, RowFault::NonFinite),
                (4, RowFault::NonFinite)
            ]
        );
        assert_eq!(faulty_rows(&[], 2), []);
    }

    proptest! {
        // Rounding each value once moves the length by at most 6e-8 of it.
        #[test]
        fn length_becomes_one(mut vector in proptest::collection::vec(-1e3f32..1e3, 1..200)) {
            prop_assume!(vector.iter().any(|&value| value != 0.0));
            l2_normalize(&mut vector).unwrap();
            let length = vector.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>().sqrt();
            prop_assert!((length - 1.0).abs() < 1e-7, "{length}");
        }
    }
}
