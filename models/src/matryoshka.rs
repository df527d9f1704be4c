//! The lengths that the vectors of a model were trained to be cut to (Kusupati et al. 2022).

use std::fmt;

use serde::{Deserialize, Serialize};

/// Lengths that the beginning of a vector may be taken in. In a file it is a list, or a table with
/// `min` and `max`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(untagged, deny_unknown_fields)]
pub enum Matryoshka {
    /// Only these, descending; none at all when the list is empty.
    Listed(Vec<usize>),
    /// Every length from one to another, both included, as Qwen3-Embedding has it.
    Range {
        /// The shortest.
        min: usize,
        /// The longest.
        max: usize,
    },
}

impl Matryoshka {
    /// Whether a vector may be cut to this length.
    pub fn allows(&self, dimensions: usize) -> bool {
        match self {
            Self::Listed(lengths) => lengths.contains(&dimensions),
            Self::Range { min, max } => (*min..=*max).contains(&dimensions),
        }
    }

    /// Whether there is no such length.
    pub fn is_empty(&self) -> bool {
        match self {
            Self::Listed(lengths) => lengths.is_empty(),
            Self::Range { min, max } => min > max,
        }
    }

    /// The lengths that are listed one by one; empty for a range.
    pub fn listed(&self) -> &[usize] {
        match self {
            Self::Listed(lengths) => lengths,
            Self::Range { .. } => &[],
        }
    }

    /// The same without zero and without lengths that the vectors of a model do not have.
    #[must_use]
    pub fn within(self, dimensions: usize) -> Self {
        match self {
            Self::Listed(mut lengths) => {
                lengths.retain(|length| (1..=dimensions).contains(length));
                Self::Listed(lengths)
            }
            Self::Range { min, max } => Self::Range {
                min: min.max(1),
                max: max.min(dimensions),
            },
        }
    }
}

impl Default for Matryoshka {
    fn default() -> Self {
        Self::Listed(Vec::new())
    }
}

/// For messages: `512, 256, 128` or `32 to 1024`.
impl fmt::Display for Matryoshka {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            _ if self.is_empty() => f.write_str("none"),
            Self::Listed(lengths) => {
                let lengths: Vec<String> = lengths.iter().map(usize::to_string).collect();
                f.write_str(&lengths.join(", "))
            }
            Self::Range { min, max } => write!(f, "{min} to {max}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize)]
    struct File {
        lengths: Matryoshka,
    }

    fn read(text: &str) -> Option<Matryoshka> {
        let file: Result<File, _> = toml::from_str(&format!("lengths = {text}"));
        file.ok().map(|file| file.lengths)
    }

    #[test]
    fn lengths_are_listed_or_from_one_to_another() {
        let listed = read("[512, 256]").unwrap();
        assert_eq!(listed.to_string(), "512, 256");
        assert!(listed.allows(256) && !listed.allows(300) && !listed.is_empty());
        let range = read("{ min = 32, max = 1024 }").unwrap();
        assert_eq!(range.to_string(), "32 to 1024");
        for (length, allowed) in [
            (31, false),
            (32, true),
            (333, true),
            (1024, true),
            (1025, false),
        ] {
            assert_eq!(range.allows(length), allowed, "{length}");
        }
        assert_eq!(range.listed(), [0; 0]);
        for wrong in [
            "3",
            "{ min = 3 }",
            "{ min = 3, max = 4, step = 1 }",
            "[\"3\"]",
        ] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_model_has_no_lengths_beyond_its_own() {
        let listed = Matryoshka::Listed(vec![512, 64, 0]).within(64);
        assert_eq!(listed, Matryoshka::Listed(vec![64]));
        let range = Matryoshka::Range { min: 32, max: 1024 };
        assert_eq!(range.clone().within(64).to_string(), "32 to 64");
        let none = range.within(16);
        assert!(none.is_empty() && !none.allows(16) && !none.allows(32));
        assert_eq!(none.to_string(), "none");
        assert!(Matryoshka::default().is_empty());
    }
}
