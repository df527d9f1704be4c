//! Token by token to text: whole characters only, the rest is held back until it is complete.

use std::sync::Arc;

use retort_models::{SpecialTokens, Spelling};

/// Writes one answer.
#[derive(Debug, Clone)]
pub struct Detokenizer {
    spelling: Arc<Spelling>,
    special_tokens: SpecialTokens,
    /// The bytes of a character that is not complete, at most three.
    pending: Vec<u8>,
    /// The next word is the first of a text, which is written without its space.
    at_start: bool,
}

impl Detokenizer {
    /// Goes on where a prompt ends.
    pub fn new(spelling: Arc<Spelling>, prompt: &[u32], special_tokens: SpecialTokens) -> Self {
        let silent = |id: &u32| spelling.is_special(*id);
        Self {
            at_start: spelling.strips_first_space() && prompt.iter().all(silent),
            spelling,
            special_tokens,
            pending: Vec::new(),
        }
    }

    /// The text that is complete with this token.
    pub fn push(&mut self, id: u32) -> String {
        if self.spelling.is_special(id) {
            let mut text = self.finish();
            if self.special_tokens == SpecialTokens::Keep {
                text.push_str(&String::from_utf8_lossy(self.spelling.bytes(id)));
            }
            return text;
        }
        let mut bytes = self.spelling.bytes(id);
        if self.at_start && !bytes.is_empty() {
            bytes = bytes.strip_prefix(b" ").unwrap_or(bytes);
            self.at_start = false;
        }
        self.pending.extend_from_slice(bytes);
        let whole = complete(&self.pending);
        let rest = self.pending.split_off(whole);
        let bytes = std::mem::replace(&mut self.pending, rest);
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Whether the beginning of a character is held back.
    pub fn is_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    /// What is left when nothing more comes: U+FFFD for half a character.
    pub fn finish(&mut self) -> String {
        let bytes = std::mem::take(&mut self.pending);
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

/// How many of the bytes are no beginning of a character that more bytes could complete.
fn complete(bytes: &[u8]) -> usize {
    let tail = bytes.len().saturating_sub(3);
    for start in tail..bytes.len() {
        let rest = &bytes[start..];
        let cut = std::str::from_utf8(rest).is_err_and(|error| {
            // No more is wrong with the rest than that it is too short.
            error.valid_up_to() == 0 && error.error_len().is_none()
        });
        if cut {
            return start;
        }
    }
    bytes.len()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use proptest::prelude::*;
    use retort_models::Tokenizer;

    use super::*;

    fn tokenizer() -> Tokenizer {
        let checkpoint = "tests/golden/checkpoints/qwen3-tiny-lasttoken";
        Tokenizer::load(&Path::new(env!("CARGO_MANIFEST_DIR")).join(checkpoint)).unwrap()
    }

    #[test]
    fn characters_come_whole() {
        let tokenizer = tokenizer();
        let spelling = Arc::new(tokenizer.spelling().unwrap());
        let text = "the crab 🦀 and 水";
        let ids = tokenizer.tokens(text, SpecialTokens::Skip).unwrap();
        let mut writer = Detokenizer::new(spelling, &[], SpecialTokens::Skip);
        let mut held = 0;
        let mut all = String::new();
        for token in ids {
            let piece = writer.push(token.id);
            assert!(!piece.contains('\u{FFFD}'), "{piece}");
            held += usize::from(writer.is_pending());
            all.push_str(&piece);
        }
        assert!(held > 0, "the crab is more than one token");
        assert_eq!((all.as_str(), writer.finish().as_str()), (text, ""));
    }

    #[test]
    fn control_tokens_are_written_only_when_asked_for() {
        let spelling = Arc::new(tokenizer().spelling().unwrap());
        let id = (0..).find(|&id| spelling.is_special(id)).unwrap();
        let name = String::from_utf8(spelling.bytes(id).to_vec()).unwrap();
        let write = |keep| Detokenizer::new(spelling.clone(), &[], keep).push(id);
        assert_eq!(write(SpecialTokens::Skip), "");
        assert_eq!(write(SpecialTokens::Keep), name);
    }

    proptest! {
        /// In any pieces, bytes become what they become at once.
        #[test]
        fn holding_back_changes_nothing(
            bytes in proptest::collection::vec(
                prop_oneof![
                    Just(0xF0u8),
                    Just(0x9F),
                    Just(0xE6),
                    Just(0xB0),
                    Just(b'a'),
                    any::<u8>()
                ],
                0..24),
            size in 1usize..5,
        ) {
            let mut pending = Vec::new();
            let mut all = String::new();
            for piece in bytes.chunks(size) {
                pending.extend_from_slice(piece);
                let rest = pending.split_off(complete(&pending));
                prop_assert!(rest.len() <= 3);
                all.push_str(&String::from_utf8_lossy(&pending));
                pending = rest;
            }
            all.push_str(&String::from_utf8_lossy(&pending));
            prop_assert_eq!(all, String::from_utf8_lossy(&bytes));
        }
    }
}
