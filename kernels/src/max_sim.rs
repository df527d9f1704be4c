//! Late interaction: how well the vectors of a text's tokens find their like in another text.

use crate::{CuSeqlens, KernelError};

/// The vectors of packed sequences.
#[derive(Debug, Clone, Copy)]
pub struct PackedVectors<'a> {
    /// The vectors of tokens. // [tokens, size]
    pub vectors: &'a [f32],
    /// Values of a vector.
    pub size: usize,
    /// Where each sequence begins. // [sequences + 1]
    pub cu_seqlens: &'a [i32],
    /// Which tokens count; `None` means all. // [tokens]
    pub kept: Option<&'a [bool]>,
}

/// ColBERT's MaxSim (Khattab & Zaharia 2020, arXiv 2004.12832) for pairs of sequences, over the
/// length of the first as BGE-M3 has it: the mean, over the tokens of the first, of the largest
/// product with a token of the second. 0 where one of them has no tokens; NaN is never hidden.
/// // pairs: [n] -> out: [n]
pub fn max_sim(
    packed: &PackedVectors<'_>,
    pairs: &[[i32; 2]],
    out: &mut [f32],
) -> Result<(), KernelError> {
    let (size, found) = (packed.size, packed.vectors.len());
    if size == 0 {
        let rule = "at least `1`";
        let name = "size";
        return Err(KernelError::Size {
            name,
            found: size,
            rule,
        });
    }
    let tokens = found / size;
    let cu_seqlens = CuSeqlens::new(packed.cu_seqlens, tokens)?;
    let kept = packed.kept.map_or(tokens, <[bool]>::len);
    for (name, found, expected) in [
        ("vectors", found, tokens * size),
        ("kept", kept, tokens),
        ("out", out.len(), pairs.len()),
    ] {
        if found != expected {
            return Err(KernelError::Length {
                name,
                found,
                expected,
            });
        }
    }
    let sequence = |index: i32| -> Result<Vec<&[f32]>, KernelError> {
        let index = usize::try_from(index).ok();
        let Some(index) = index.filter(|&index| index < cu_seqlens.batch()) else {
            return Err(KernelError::Size {
                name: "a sequence of a pair",
                found: index.unwrap_or(usize::MAX),
                rule: "less than the number of sequences",
            });
        };
        let places = cu_seqlens.range(index);
        let counts = |place: &usize| packed.kept.is_none_or(|kept| kept[*place]);
        let vector = |place: usize| &packed.vectors[place * size..(place + 1) * size];
        Ok(places.filter(counts).map(vector).collect())
    };
    for (score, &[query, document]) in out.iter_mut().zip(pairs) {
        *score = score_of(&sequence(query)?, &sequence(document)?);
    }
    Ok(())
}

/// Products are summed in `f64` and rounded once at the end.
fn score_of(query: &[&[f32]], document: &[&[f32]]) -> f32 {
    if query.is_empty() || document.is_empty() {
        return 0.0;
    }
    let best = |token: &&[f32]| {
        let products = document.iter().map(|other| dot(token, other));
        products.fold(f64::NEG_INFINITY, |best, product| {
            if product > best || product.is_nan() {
                product
            } else {
                best
            }
        })
    };
    (query.iter().map(best).sum::<f64>() / query.len() as f64) as f32
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    let products = a.iter().zip(b);
    products.map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    // Three sequences of vectors of 2 values: two tokens, one, none.
    const PACKED: PackedVectors<'_> = PackedVectors {
        vectors: &[1.0, 0.0, 0.0, 1.0, 0.5, 0.75],
        size: 2,
        cu_seqlens: &[0, 2, 3, 3],
        kept: None,
    };

    fn scores(packed: &PackedVectors<'_>, pairs: &[[i32; 2]]) -> Result<Vec<f32>, KernelError> {
        let mut out = vec![f32::NAN; pairs.len()];
        max_sim(packed, pairs, &mut out).map(|()| out)
    }

    #[test]
    fn each_token_counts_its_nearest() {
        let found = scores(&PACKED, &[[0, 1], [1, 0], [0, 2], [2, 0]]).unwrap();
        assert_eq!(found, [(0.5 + 0.75) / 2.0, 0.75, 0.0, 0.0]);
        let kept = PackedVectors {
            kept: Some(&[true, false, true]),
            ..PACKED
        };
        assert_eq!(scores(&kept, &[[0, 1], [1, 0]]).unwrap(), [0.5, 0.5]);
    }

    #[test]
    fn nan_is_never_hidden() {
        let vectors = [f32::NAN, 0.0, 0.0, 1.0, 0.5, 0.75];
        let packed = PackedVectors {
            vectors: &vectors,
            ..PACKED
        };
        let found = scores(&packed, &[[0, 1], [1, 0], [1, 1]]).unwrap();
        assert!(found[0].is_nan() && found[1].is_nan() && found[2].is_finite());
    }

    #[test]
    fn sequences_that_are_not_there_are_refused() {
        for pair in [[0, 3], [-1, 0]] {
            let error = scores(&PACKED, &[pair]).unwrap_err().to_string();
            assert!(error.contains("pair"), "{error}");
        }
        let odd = PackedVectors {
            vectors: &PACKED.vectors[..5],
            ..PACKED
        };
        assert!(scores(&odd, &[]).is_err());
    }
}
