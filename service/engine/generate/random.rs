//! Random numbers by counting: the number of a place depends on the seed, the answer and the place
//! alone. So an answer is the same whoever is computed beside it, and when it is computed again.

/// The random numbers of one answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Random(u64);

impl Random {
    /// The numbers of one of the answers to a request.
    pub fn new(seed: u64, choice: usize) -> Self {
        Self(mix(seed ^ mix(choice as u64 + 1)))
    }

    /// The number at a place, at least 0 and under 1.
    pub fn at(self, position: usize) -> f64 {
        let bits = mix(self
            .0
            .wrapping_add(GOLDEN.wrapping_mul(position as u64 + 1)));
        // The 53 bits that a double holds.
        (bits >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// 2⁶⁴ divided by the golden ratio.
const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;

/// SplitMix64's finalizer (Steele et al. 2014).
fn mix(mut bits: u64) -> u64 {
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    bits ^ (bits >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_spread_evenly_and_differ_by_seed_and_answer() {
        for random in [Random::new(0, 0), Random::new(0, 1), Random::new(7, 0)] {
            let mut tenths = [0usize; 10];
            for position in 0..10_000 {
                tenths[(random.at(position) * 10.0) as usize] += 1;
            }
            // Six standard deviations of a binomial distribution.
            assert!(
                tenths.iter().all(|&n| n.abs_diff(1_000) < 180),
                "{tenths:?}"
            );
        }
        assert_ne!(Random::new(0, 0), Random::new(0, 1));
        assert_ne!(Random::new(0, 0), Random::new(1, 0));
        let numbers = [0, 1, 2].map(|at| Random::new(5, 3).at(at));
        assert_eq!(numbers, [0, 1, 2].map(|at| Random::new(5, 3).at(at)));
    }
}
