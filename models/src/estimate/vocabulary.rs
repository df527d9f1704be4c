//! The tables that a tokenizer makes of its file, counted without making them.

use std::fmt;
use std::fs::File;
use std::io::BufReader;
use std::path::Path;

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::error::{Error, Result};

/// Bytes per piece of a vocabulary, by the model it belongs to: measured on those of bert-base
/// (30,522 pieces), RoBERTa (50,265), Qwen2.5 (151,643) and XLM-RoBERTa (250,002). Unigram keeps a
/// trie with a hash map at every node, BPE a table of merges beside two of pieces.
const PIECE_BYTES: [(&str, u64); 2] = [("Unigram", 1180), ("BPE", 470)];
/// Of WordPiece and whatever has no more than two tables of pieces.
const PLAIN_PIECE_BYTES: u64 = 255;

/// Memory of the tokenizer in `dir`; `vocabulary` is its size where `tokenizer.json` is missing.
///
/// # Errors
/// `Error::Checkpoint` when the file cannot be read.
pub(super) fn tokenizer_bytes(dir: &Path, vocabulary: usize) -> Result<u64> {
    let path = dir.join("tokenizer.json");
    if !path.exists() {
        return Ok(vocabulary as u64 * PLAIN_PIECE_BYTES);
    }
    let malformed = |message: String| Error::checkpoint(&path, message);
    let file = File::open(&path).map_err(|error| malformed(error.to_string()))?;
    let found: TokenizerFile = serde_json::from_reader(BufReader::new(file))
        .map_err(|error| malformed(format!("not a tokenizer: {error}")))?;
    // Older files leave the type out; only Unigram has its pieces in a list.
    let kind = match (found.model.kind.as_deref(), &found.model.vocab) {
        (Some(kind), _) => kind,
        (None, Entries::Listed(_)) => "Unigram",
        (None, Entries::Named(_)) if found.model.merges.is_some() => "BPE",
        (None, Entries::Named(_)) => "WordPiece",
    };
    Ok(found.model.vocab.count() * piece_bytes(kind))
}

/// Bytes per piece of a tokenizer's model.
pub(super) fn piece_bytes(kind: &str) -> u64 {
    let known = PIECE_BYTES.iter().find(|(known, _)| *known == kind);
    known.map_or(PLAIN_PIECE_BYTES, |(_, bytes)| *bytes)
}

#[derive(Deserialize)]
struct TokenizerFile {
    model: TokenizerModel,
}

#[derive(Deserialize)]
struct TokenizerModel {
    #[serde(rename = "type")]
    kind: Option<String>,
    vocab: Entries,
    merges: Option<IgnoredAny>,
}

/// How many pieces there are, and how they are written down.
#[derive(Debug, PartialEq, Eq)]
enum Entries {
    Listed(u64),
    Named(u64),
}

impl Entries {
    fn count(&self) -> u64 {
        match self {
            Self::Listed(count) | Self::Named(count) => *count,
        }
    }
}

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Counter;

        impl<'de> Visitor<'de> for Counter {
            type Value = Entries;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a vocabulary")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Entries, A::Error> {
                let mut count = 0;
                while list.next_element::<IgnoredAny>()?.is_some() {
                    count += 1;
                }
                Ok(Entries::Listed(count))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entries, A::Error> {
                let mut count = 0;
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {
                    count += 1;
                }
                Ok(Entries::Named(count))
            }
        }

        from.deserialize_any(Counter)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_counted_as_they_are_written() {
        let dir = tempfile::tempdir().unwrap();
        let check = |model: &str, expected: u64| {
            let text = format!(r#"{{"version": "1.0", "model": {model}, "decoder": null}}"#);
            std::fs::write(dir.path().join("tokenizer.json"), text).unwrap();
            assert_eq!(tokenizer_bytes(dir.path(), 9).unwrap(), expected, "{model}");
        };
        check(
            r#"{"type": "WordPiece", "vocab": {"a": 0, "b": 1}}"#,
            2 * 255,
        );
        check(r#"{"vocab": [["a", -1.5], ["b", 0], ["c", 0]]}"#, 3 * 1180);
        check(r#"{"vocab": {"a": 0}, "merges": []}"#, 470);
        std::fs::remove_file(dir.path().join("tokenizer.json")).unwrap();
        assert_eq!(tokenizer_bytes(dir.path(), 9).unwrap(), 9 * 255);
        std::fs::write(dir.path().join("tokenizer.json"), "{}").unwrap();
        assert!(tokenizer_bytes(dir.path(), 9).is_err());
    }
}
