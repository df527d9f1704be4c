//! Which keys of its own sequence a query sees: always one range around the query itself.

use std::ops::Range;

/// Whether a token sees what comes after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Direction {
    /// A token sees both sides, as in encoders.
    #[default]
    Bidirectional,
    /// A token sees itself and what is before it, as in decoders.
    Causal,
}

/// Which tokens of its sequence a token sees; by default all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Mask {
    /// The sides that are seen.
    pub direction: Direction,
    /// How many tokens to a side are seen, beside the token itself; `None`: all of that side.
    pub window: Option<usize>,
}

impl Mask {
    /// The keys that query `row` sees in a sequence of `length` tokens: those `j` with
    /// `|row - j| <= window`, and `j <= row` when causal. Never empty.
    pub fn keys(self, row: usize, length: usize) -> Range<usize> {
        let (before, after) = self.reach();
        row.saturating_sub(before)..length.min(row.saturating_add(after).saturating_add(1))
    }

    /// The keys that at least one of `rows` sees; `rows` is not empty.
    pub(super) fn keys_of(self, rows: &Range<usize>, length: usize) -> Range<usize> {
        self.keys(rows.start, length).start..self.keys(rows.end - 1, length).end
    }

    /// Those of `rows` that see at least one of `keys`, which is not empty.
    pub(super) fn rows_of(self, keys: &Range<usize>, rows: &Range<usize>) -> Range<usize> {
        // What sees a key is what the key would see with the two sides exchanged.
        let (before, after) = self.reach();
        let start = rows.start.max(keys.start.saturating_sub(after));
        start..rows.end.min(keys.end.saturating_add(before)).max(start)
    }

    /// Whether each of `rows` sees each of `keys`; neither is empty.
    pub(super) fn is_open(self, keys: &Range<usize>, rows: &Range<usize>) -> bool {
        let (before, after) = self.reach();
        (rows.end - 1).saturating_sub(before) <= keys.start
            && keys.end - 1 <= rows.start.saturating_add(after)
    }

    /// How far a token sees, to the left and to the right.
    fn reach(self) -> (usize, usize) {
        let before = self.window.unwrap_or(usize::MAX);
        match self.direction {
            Direction::Bidirectional => (before, before),
            Direction::Causal => (before, 0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn masks() -> impl Strategy<Value = Mask> {
        let direction = prop_oneof![Just(Direction::Bidirectional), Just(Direction::Causal)];
        let window = proptest::option::of(0usize..20);
        (direction, window).prop_map(|(direction, window)| Mask { direction, window })
    }

    proptest! {
        #[test]
        fn ranges_are_what_the_pairs_say(
            mask in masks(),
            length in 1usize..40,
            cuts in (0usize..40, 0usize..40, 0usize..40, 0usize..40),
        ) {
            let range = |a: usize, b: usize| {
                let first = a % length;
                first..first + 1 + b % (length - first)
            };
            let (rows, keys) = (range(cuts.0, cuts.1), range(cuts.2, cuts.3));
            let sees = |i: usize, j: usize| {
                mask.window.is_none_or(|window| i.abs_diff(j) <= window)
                    && (mask.direction == Direction::Bidirectional || j <= i)
            };
            for i in 0..length {
                let seen: Vec<usize> = (0..length).filter(|&j| sees(i, j)).collect();
                prop_assert_eq!(mask.keys(i, length).collect::<Vec<_>>(), seen);
            }
            let any: Vec<usize> =
                (0..length).filter(|&j| rows.clone().any(|i| sees(i, j))).collect();
            prop_assert_eq!(mask.keys_of(&rows, length).collect::<Vec<_>>(), any);
            let any: Vec<usize> =
                rows.clone().filter(|&i| keys.clone().any(|j| sees(i, j))).collect();
            prop_assert_eq!(mask.rows_of(&keys, &rows).collect::<Vec<_>>(), any);
            let all = rows.clone().all(|i| keys.clone().all(|j| sees(i, j)));
            prop_assert_eq!(mask.is_open(&keys, &rows), all);
        }
    }

    #[test]
    fn windows_of_any_size_do_not_overflow() {
        for direction in [Direction::Bidirectional, Direction::Causal] {
            let window = Some(usize::MAX);
            let (narrow, wide) = (
                Mask {
                    direction,
                    window: None,
                },
                Mask { direction, window },
            );
            for row in [0, 6, 8191] {
                assert_eq!(narrow.keys(row, 8192), wide.keys(row, 8192));
            }
        }
    }
}
