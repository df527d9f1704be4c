//! One weight per token of a text, out of one per place: BGE-M3's sparse vectors.

use crate::{CuSeqlens, KernelError};
use std::collections::HashMap;

/// The places of a packed batch and the tokens there.
#[derive(Debug, Clone, Copy)]
pub struct PackedTokens<'a> {
    /// The tokens. // [tokens]
    pub ids: &'a [i64],
    /// Where each sequence begins. // [sequences + 1]
    pub cu_seqlens: &'a [i32],
    /// Tokens that get no weight, such as `<s>` and `</s>`.
    pub left_out: &'a [i64],
}

/// The largest weight of each token in its sequence (Chen et al. 2024, arXiv 2402.03216,
/// section 3.2), at the first place where the token is; 0 at its other places, for weights below 0
/// and for tokens that are left out. NaN stays NaN, so that it cannot pass for none.
/// // weights: [tokens] -> out: [tokens]
pub fn lexical_weights(
    weights: &[f32],
    tokens: &PackedTokens<'_>,
    out: &mut [f32],
) -> Result<(), KernelError> {
    let cu_seqlens = CuSeqlens::new(tokens.cu_seqlens, tokens.ids.len())?;
    for (name, found) in [("weights", weights.len()), ("out", out.len())] {
        let expected = cu_seqlens.tokens();
        if found != expected {
            return Err(KernelError::Length {
                name,
                found,
                expected,
            });
        }
    }
    out.fill(0.0);
    for sequence in cu_seqlens.ranges() {
        let mut first_places = HashMap::new();
        for place in sequence {
            let id = tokens.ids[place];
            if tokens.left_out.contains(&id) {
                continue;
            }
            let first = *first_places.entry(id).or_insert(place);
            let largest = &mut out[first];
            if weights[place] > *largest || weights[place].is_nan() {
                *largest = weights[place];
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_has_its_largest_weight_once_in_each_sequence() {
        let tokens = PackedTokens {
            ids: &[0, 9, 5, 9, 7, 2, 0, 9, 9, 2],
            cu_seqlens: &[0, 6, 10],
            left_out: &[0, 2],
        };
        let weights = [3.0, 0.5, 0.25, 0.75, -1.0, 1.0, 3.0, 0.5, f32::NAN, 1.0];
        let mut out = [9.0; 10];
        lexical_weights(&weights, &tokens, &mut out).unwrap();
        assert_eq!(out[..7], [0.0, 0.75, 0.25, 0.0, 0.0, 0.0, 0.0]);
        assert!(out[7].is_nan());
        assert_eq!(out[8..], [0.0, 0.0]);
    }

    #[test]
    fn bad_shapes_are_refused() {
        let tokens = PackedTokens {
            ids: &[1, 2],
            cu_seqlens: &[0, 2],
            left_out: &[],
        };
        assert!(lexical_weights(&[1.0], &tokens, &mut [0.0; 2]).is_err());
        assert!(lexical_weights(&[1.0; 2], &tokens, &mut [0.0]).is_err());
        let cut = PackedTokens {
            cu_seqlens: &[0, 1],
            ..tokens
        };
        assert!(lexical_weights(&[1.0; 2], &cut, &mut [0.0; 2]).is_err());
    }
}
