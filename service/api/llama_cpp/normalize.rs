//! The ways in which llama.cpp scales a vector, as `--embd-normalize` documents them.

/// A vector scaled: -1 not at all, 0 by its largest component to the range of 16-bit integers,
/// 1 by the taxicab norm, 2 by the Euclidean norm, larger numbers by their p-norm.
pub fn normalized(vector: Vec<f32>, kind: i32) -> Vec<f32> {
    /// What llama.cpp puts the largest component at.
    const LARGEST: f64 = 32760.0;
    let sizes = || vector.iter().map(|x| f64::from(x.abs()));
    let largest = sizes().fold(0.0, f64::max);
    if kind < 0 || largest == 0.0 {
        return vector;
    }
    let norm = match kind {
        0 => largest / LARGEST,
        // In parts of the largest, so that no power overflows.
        p => {
            let powers = sizes().map(|size| (size / largest).powi(p));
            largest * powers.sum::<f64>().powf(1.0 / f64::from(p))
        }
    };
    let scaled = |x: &f32| (f64::from(*x) / norm) as f32;
    vector.iter().map(scaled).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_norm_is_one_of_its_own_kind() {
        let vector = vec![3.0, -4.0];
        for (kind, expected) in [
            (-1, [3.0, -4.0]),
            (0, [24570.0, -32760.0]),
            (1, [3.0 / 7.0, -4.0 / 7.0]),
            (2, [0.6, -0.8]),
            (3, [3.0 / 91_f32.cbrt(), -4.0 / 91_f32.cbrt()]),
        ] {
            let found = normalized(vector.clone(), kind);
            let off = found.iter().zip(expected).map(|(a, b)| (a - b).abs() / 5.0);
            assert!(off.fold(0.0, f32::max) < 1e-6, "{kind}: {found:?}");
        }
        assert_eq!(normalized(vec![0.0, 0.0], 1), [0.0, 0.0]);
        let large = normalized(vec![1e30, 1e30], 1024);
        assert!(large.iter().all(|x| x.is_finite() && *x > 0.9), "{large:?}");
    }
}
