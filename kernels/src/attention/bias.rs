//! What is added to the scores, a function of the distance from the query to the key alone.

use crate::KernelError;

/// Position biases of all heads; by default none. Both kinds add up.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Bias<'a> {
    /// Symmetric ALiBi: the score of query `i` and key `j` gets `-slope * |i - j|` (Press et al.
    /// 2021, arXiv 2108.12409; both directions as in JinaBERT, arXiv 2310.19923). // [num_heads]
    pub alibi_slopes: Option<&'a [f32]>,
    /// Column `D + clamp(j - i, -D, D)` of a head's row is added to the score of query `i` and
    /// key `j` (relative positions as in T5 and MPNet, arXiv 2004.09297).
    /// // [num_heads, 2 * D + 1]
    pub distances: Option<&'a [f32]>,
}

impl<'a> Bias<'a> {
    /// Checks the shapes and that all values are finite.
    pub(crate) fn check(&self, num_heads: usize) -> Result<(), KernelError> {
        if let Some(slopes) = self.alibi_slopes
            && slopes.len() != num_heads
        {
            return Err(KernelError::AlibiSlopes {
                found: slopes.len(),
                num_heads,
            });
        }
        if let Some(table) = self.distances {
            let columns = table.len() / num_heads;
            if !table.len().is_multiple_of(num_heads) || columns.is_multiple_of(2) {
                return Err(KernelError::DistanceBias {
                    found: table.len(),
                    num_heads,
                });
            }
        }
        for (name, values) in [
            ("alibi_slopes", self.alibi_slopes),
            ("distance_bias", self.distances),
        ] {
            let odd = values.and_then(|values| values.iter().find(|value| !value.is_finite()));
            if let Some(&found) = odd {
                return Err(KernelError::NonFiniteBias { name, found });
            }
        }
        Ok(())
    }

    /// The bias of one head, `None` without any. The shapes are checked.
    pub(super) fn head(&self, head: usize, num_heads: usize) -> Option<HeadBias<'a>> {
        if self.alibi_slopes.is_none() && self.distances.is_none() {
            return None;
        }
        let row = |table: &'a [f32]| {
            let columns = table.len() / num_heads;
            &table[head * columns..][..columns]
        };
        Some(HeadBias {
            slope: self.alibi_slopes.map_or(0.0, |slopes| slopes[head]),
            distances: self.distances.map(row),
        })
    }
}

/// The bias of one head.
#[derive(Debug, Clone, Copy)]
pub(super) struct HeadBias<'a> {
    slope: f32,
    distances: Option<&'a [f32]>, // [2 * D + 1]
}

impl HeadBias<'_> {
    /// What the score of a query gets for the key `distance` tokens after it.
    pub(super) fn at(&self, distance: isize) -> f64 {
        let table = self.distances.map_or(0.0, |table| {
            let most = (table.len() / 2) as isize;
            f64::from(table[(most + distance.clamp(-most, most)) as usize])
        });
        table - f64::from(self.slope) * distance.unsigned_abs() as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slopes_and_clamped_distances_add_up() {
        let bias = Bias {
            alibi_slopes: Some(&[0.0, 0.5]),
            distances: Some(&[0.0, 0.0, 0.0, 1.0, 2.0, 4.0]),
        };
        assert_eq!(bias.check(2), Ok(()));
        let head = bias.head(1, 2).unwrap();
        let found = [-3, -1, 0, 1, 3].map(|distance| head.at(distance));
        assert_eq!(found, [1.0 - 1.5, 1.0 - 0.5, 2.0, 4.0 - 0.5, 4.0 - 1.5]);
        assert!(Bias::default().head(0, 2).is_none());
    }

    #[test]
    fn a_table_of_one_column_is_a_constant() {
        let bias = Bias {
            distances: Some(&[3.0]),
            ..Bias::default()
        };
        let head = bias.head(0, 1).unwrap();
        assert_eq!([-9, 0, 9].map(|distance| head.at(distance)), [3.0; 3]);
    }
}
