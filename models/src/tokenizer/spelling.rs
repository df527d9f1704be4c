//! What each token writes, as bytes: what text is put together from while it is generated, and
//! what a grammar is matched against. Decoding of whole texts is [`Tokenizer::decode`].

use std::collections::HashMap;

use serde_json::Value;

use super::Tokenizer;
use crate::error::{Error, Result};

/// How the decoder of a `tokenizer.json` writes tokens.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Writing {
    /// Each character of a token stands for a byte, as in GPT-2.
    byte_level: bool,
    /// `<0x0A>` is a byte.
    byte_fallback: bool,
    /// What is written instead of what.
    replacements: Vec<(String, String)>,
    /// The space that the first word of a text is stored with is not written.
    strips_first_space: bool,
}

/// The bytes of every token of a vocabulary.
#[derive(Debug, Clone)]
pub struct Spelling {
    bytes: Vec<u8>,
    /// Where the bytes of each token end. `[vocab]`
    ends: Vec<u32>,
    /// The control tokens, which stand for no text, in order.
    special: Vec<u32>,
    strips_first_space: bool,
    longest: usize,
}

impl Spelling {
    /// The bytes that a token writes; a control token's name; nothing for an unknown id.
    pub fn bytes(&self, id: u32) -> &[u8] {
        let at = id as usize;
        let Some(&end) = self.ends.get(at) else {
            return &[];
        };
        let start = at.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.bytes[start as usize..end as usize]
    }

    /// Whether a token is a control token, such as `<|im_end|>`, that no reader should see.
    pub fn is_special(&self, id: u32) -> bool {
        self.special.binary_search(&id).is_ok()
    }

    /// The control token of this name.
    pub fn special_id(&self, name: &str) -> Option<u32> {
        let mut ids = self.special.iter().copied();
        ids.find(|&id| self.bytes(id) == name.as_bytes())
    }

    /// One more than the largest id.
    pub fn vocab_size(&self) -> usize {
        self.ends.len()
    }

    /// Whether the first word of a text is written without the space that its token has.
    pub fn strips_first_space(&self) -> bool {
        self.strips_first_space
    }

    /// The most bytes that one token writes; at least 1.
    pub fn longest(&self) -> usize {
        self.longest
    }
}

impl Tokenizer {
    /// What each token writes.
    ///
    /// # Errors
    /// `Error::Tokenize` when the tokenizer cannot say how it decodes, or its vocabulary is larger
    /// than a model can be.
    pub fn spelling(&self) -> Result<Spelling> {
        let decoder = serde_json::to_value(self.inner.get_decoder())
            .map_err(|error| Error::Tokenize(error.to_string()))?;
        let writing = Writing::of(&decoder);
        let characters = byte_of_character();
        let mut written: Vec<Vec<u8>> = vec![Vec::new(); self.vocab_size];
        let mut special = Vec::new();
        for (token, id) in self.inner.get_vocab(false) {
            written[id as usize] = writing.write(&token, &characters);
        }
        for (id, token) in self.inner.get_added_tokens_decoder() {
            written[id as usize] = token.content.into_bytes();
            if token.special {
                special.push(id);
            }
        }
        special.sort_unstable();
        let mut bytes = Vec::new();
        let mut ends = Vec::with_capacity(written.len());
        for token in &written {
            bytes.extend_from_slice(token);
            let end = u32::try_from(bytes.len());
            ends.push(end.map_err(|_| Error::Tokenize("its vocabulary is over 4 GiB".into()))?);
        }
        Ok(Spelling {
            bytes,
            ends,
            special,
            strips_first_space: writing.strips_first_space,
            longest: written.iter().map(Vec::len).max().unwrap_or(1).max(1),
        })
    }
}

impl Writing {
    /// Reads a decoder as `tokenizer.json` has it: one step, or a sequence of them.
    fn of(decoder: &Value) -> Self {
        let mut writing = Self::default();
        match decoder["decoders"].as_array() {
            Some(steps) => steps.iter().for_each(|step| writing.add(step)),
            None => writing.add(decoder),
        }
        writing
    }

    fn add(&mut self, step: &Value) {
        let text = |value: &Value| value.as_str().map(str::to_owned);
        match step["type"].as_str() {
            Some("ByteLevel") => self.byte_level = true,
            Some("ByteFallback") => self.byte_fallback = true,
            Some("Replace") => {
                let from = text(&step["pattern"]["String"]);
                self.replacements.extend(from.zip(text(&step["content"])));
            }
            Some("Metaspace") => {
                let from = text(&step["replacement"]).unwrap_or_else(|| "▁".into());
                self.replacements.push((from, " ".into()));
                self.strips_first_space |= step["prepend_scheme"].as_str() != Some("never");
            }
            Some("Strip") => {
                let spaces = step["content"].as_str() == Some(" ");
                self.strips_first_space |= spaces && step["start"].as_u64() > Some(0);
            }
            _ => {}
        }
    }

    fn write(&self, token: &str, characters: &HashMap<char, u8>) -> Vec<u8> {
        if self.byte_level {
            let mut bytes = Vec::with_capacity(token.len());
            for character in token.chars() {
                match characters.get(&character) {
                    Some(&byte) => bytes.push(byte),
                    None => bytes.extend(character.to_string().bytes()),
                }
            }
            return bytes;
        }
        if self.byte_fallback
            && let Some(byte) = fallback_byte(token)
        {
            return vec![byte];
        }
        let replaced = |token: String, (from, to): &(String, String)| token.replace(from, to);
        let text = self.replacements.iter().fold(token.to_owned(), replaced);
        text.into_bytes()
    }
}

/// The byte that `<0x0A>` stands for.
fn fallback_byte(token: &str) -> Option<u8> {
    let digits = token.strip_prefix("<0x")?.strip_suffix('>')?;
    (digits.len() == 2).then(|| u8::from_str_radix(digits, 16).ok())?
}

/// The bytes that the characters of a byte-level vocabulary stand for: those that can be seen
/// stand for themselves, the others are counted up from U+0100 (GPT-2's `bytes_to_unicode`).
fn byte_of_character() -> HashMap<char, u8> {
    let is_seen = |byte: &u8| matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    let seen = (0..=u8::MAX).filter(is_seen);
    let unseen = (0..=u8::MAX).filter(|byte| !is_seen(byte));
    let counted = ('\u{100}'..).zip(unseen);
    seen.map(|byte| (char::from(byte), byte))
        .chain(counted)
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::SpecialTokens;
    use super::super::tests::of_golden;
    use super::*;

    #[test]
    fn the_bytes_of_the_tokens_are_the_text() {
        let tokenizer = of_golden("qwen3-tiny-lasttoken");
        let spelling = tokenizer.spelling().unwrap();
        for text in ["the river, the boat", "Ärger im 水 🦀\n\n  x"] {
            let ids = tokenizer.tokens(text, SpecialTokens::Skip).unwrap();
            let bytes: Vec<u8> = ids
                .iter()
                .flat_map(|token| spelling.bytes(token.id).to_vec())
                .collect();
            assert_eq!(String::from_utf8(bytes).unwrap(), text);
        }
        assert_eq!(spelling.vocab_size(), tokenizer.vocab_size());
        assert_eq!(spelling.bytes(u32::MAX), b"");
    }

    #[test]
    fn control_tokens_are_found_by_name() {
        let spelling = of_golden("qwen3-tiny-lasttoken").spelling().unwrap();
        let special: Vec<u32> = (0..spelling.vocab_size() as u32)
            .filter(|&id| spelling.is_special(id))
            .collect();
        assert!(!special.is_empty());
        for id in special {
            let name = String::from_utf8(spelling.bytes(id).to_vec()).unwrap();
            assert_eq!(spelling.special_id(&name), Some(id));
        }
        assert_eq!(spelling.special_id("the"), None);
    }

    #[test]
    fn a_sentencepiece_decoder_writes_spaces_and_bytes() {
        let decoder = json!({"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
            {"type": "ByteFallback"}, {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0},
        ]});
        let writing = Writing::of(&decoder);
        let characters = byte_of_character();
        assert!(writing.strips_first_space);
        assert_eq!(writing.write("▁the▁x", &characters), b" the x");
        assert_eq!(writing.write("<0x0A>", &characters), b"\n");
        assert_eq!(writing.write("<0xZZ>", &characters), b"<0xZZ>");
        assert_eq!(characters.len(), 256);
        assert_eq!(characters[&'Ġ'], b' ');
    }
}
