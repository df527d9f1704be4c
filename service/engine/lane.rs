//! Lanes: who waits for whom when a device has more work than it can do at once. Here is what a
//! lane is, what a caller may say about it, and the one rule that puts a request into one.

use std::{
    ops::{Index, IndexMut},
    str::FromStr,
    time::{Duration, Instant},
};

/// A class of work. Each has a share of the device that others cannot take from it; what one does
/// not use, the others get.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lane {
    /// Somebody waits for the answer: it goes first.
    Interactive,
    /// Much work that nobody watches: it gets what is left, and never less than its share.
    Bulk,
}

impl Lane {
    /// All of them, the one that goes first in front. A third party, such as the decoding of chat
    /// answers, is one more entry with one more share.
    pub const ALL: [Self; 2] = [Self::Interactive, Self::Bulk];

    /// Its name in headers, metrics and the log.
    pub fn name(self) -> &'static str {
        match self {
            Self::Interactive => "interactive",
            Self::Bulk => "bulk",
        }
    }
}

/// A name that no lane has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnknownLane;

impl FromStr for Lane {
    type Err = UnknownLane;

    fn from_str(text: &str) -> Result<Self, UnknownLane> {
        let named = |lane: &Self| lane.name().eq_ignore_ascii_case(text);
        Self::ALL.into_iter().find(named).ok_or(UnknownLane)
    }
}

/// One value for each lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PerLane<T>([T; Lane::ALL.len()]);

impl<T> PerLane<T> {
    /// What `value` says of each.
    pub fn of(value: impl FnMut(Lane) -> T) -> Self {
        Self(Lane::ALL.map(value))
    }

    /// The values, in the order of [`Lane::ALL`].
    pub fn values(&self) -> impl Iterator<Item = &T> {
        self.0.iter()
    }
}

impl<T> PerLane<Option<T>> {
    /// Nothing for any of them.
    pub const NONE: Self = Self([const { None }; Lane::ALL.len()]);
}

impl<T> Index<Lane> for PerLane<T> {
    type Output = T;

    fn index(&self, lane: Lane) -> &T {
        &self.0[lane as usize]
    }
}

impl<T> IndexMut<Lane> for PerLane<T> {
    fn index_mut(&mut self, lane: Lane) -> &mut T {
        &mut self.0[lane as usize]
    }
}

/// What is known of whoever asks, beyond the request itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Caller {
    /// The lane that was asked for; `None` leaves it to the size of the request.
    pub lane: Option<Lane>,
    /// When the caller stops waiting.
    pub deadline: Option<Instant>,
    /// Whose request it is: what one tenant has computed is never reused for another.
    pub tenant: Tenant,
}

/// A digest of the API key that was shown, or of none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Tenant(pub [u8; 32]);

/// What a request consists of, as far as its lane depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// Texts that are embedded or labelled.
    Texts,
    /// Pairs of a query and a document, which are how somebody's search ends.
    Pairs,
}

/// How the device is shared out.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scheduling {
    /// The most texts of a request that counts as interactive by itself.
    pub interactive_max_inputs: usize,
    /// The most tokens of such a request, over all its texts.
    pub interactive_max_tokens: usize,
    /// The most pairs of a request to rerank that counts as interactive, of any length.
    pub interactive_max_pairs: usize,
    /// The part of the device, between 0 and 1, that is interactive work's while both lanes want
    /// all of it; the rest is bulk's.
    pub interactive_share: f64,
    /// When a request is given up that does not say so itself; `None`: as any other.
    pub deadlines: PerLane<Option<Duration>>,
    /// Bytes of results that are kept for inputs that come again; 0 keeps none.
    pub cache_bytes: usize,
}

impl Default for Scheduling {
    /// As in `config.toml`.
    fn default() -> Self {
        Self {
            interactive_max_inputs: 4,
            interactive_max_tokens: 256,
            interactive_max_pairs: 100,
            interactive_share: 0.8,
            deadlines: PerLane::default(),
            cache_bytes: 0,
        }
    }
}

impl Scheduling {
    /// The lane of a request: the one that was asked for, else the one that its size says.
    pub fn lane(&self, asked: Option<Lane>, work: Work, inputs: usize, tokens: usize) -> Lane {
        let small = match work {
            Work::Texts => {
                inputs <= self.interactive_max_inputs && tokens <= self.interactive_max_tokens
            }
            Work::Pairs => inputs <= self.interactive_max_pairs,
        };
        asked.unwrap_or(if small { Lane::Interactive } else { Lane::Bulk })
    }

    /// The share of each lane; together they are 1.
    pub fn shares(&self) -> PerLane<f64> {
        PerLane::of(|lane| match lane {
            Lane::Interactive => self.interactive_share,
            Lane::Bulk => 1.0 - self.interactive_share,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn size_and_kind_choose_the_lane_unless_the_caller_does() {
        use Lane::{Bulk, Interactive};
        use Work::{Pairs, Texts};
        let rule = Scheduling::default();
        let check = |asked, work, inputs, tokens, expected| {
            assert_eq!(rule.lane(asked, work, inputs, tokens), expected);
        };
        check(None, Texts, 1, 16, Interactive);
        check(None, Texts, 4, 256, Interactive);
        check(None, Texts, 5, 50, Bulk);
        check(None, Texts, 1, 257, Bulk);
        check(None, Pairs, 100, 50_000, Interactive);
        check(None, Pairs, 101, 101, Bulk);
        check(Some(Bulk), Texts, 1, 1, Bulk);
        check(Some(Interactive), Pairs, 2_000, 1 << 20, Interactive);
    }

    #[test]
    fn names_are_read_back() {
        for lane in Lane::ALL {
            assert_eq!(lane.name().to_uppercase().parse(), Ok(lane));
        }
        assert_eq!("express".parse::<Lane>(), Err(UnknownLane));
    }
}
