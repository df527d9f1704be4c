//! The tokens of a text for people to look at: with what each stands for and where. Nothing that
//! a model reads goes this way.

use super::{PIECE_SIZE, Prompt, SpecialTokens, Tokenizer, guarded};
use crate::error::Result;

/// One token as a model would read it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// Its number in the vocabulary.
    pub id: u32,
    /// How the vocabulary writes it, such as `##ing` or `▁the`.
    pub piece: String,
    /// What it stands for; `None` for the special tokens put around a text.
    pub source: Option<Source>,
}

/// A part of a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// The characters themselves, as the tokenizer was given them.
    pub text: String,
    /// Where they begin and end, counted in characters.
    pub span: (usize, usize),
}

impl Tokenizer {
    /// All tokens of a text; nothing is cut.
    ///
    /// # Errors
    /// `Error::Tokenize` when the tokenizer fails.
    pub fn tokens(&self, text: &str, special_tokens: SpecialTokens) -> Result<Vec<Token>> {
        let text = self.prepared(&Prompt::default(), text);
        let mut tokens = Vec::new();
        // Where the piece before began, in bytes and in characters.
        let (mut byte, mut character) = (0, 0);
        for piece in self.pieces(&text, PIECE_SIZE) {
            let start = piece.as_ptr().addr() - text.as_ptr().addr();
            character += text[byte..start].chars().count();
            byte = start;
            let encoding = guarded(|| self.inner.encode(piece, false))?;
            // Offsets in bytes come in order or not at all, so characters are counted once.
            let mut counted = (0, 0);
            for (&id, &(from, to)) in encoding.get_ids().iter().zip(encoding.get_offsets()) {
                if self.dropped == Some(id) {
                    continue;
                }
                let source = piece.get(from..to).unwrap_or_default();
                if from < counted.0 {
                    counted = (0, 0);
                }
                let skipped = piece.get(counted.0..from).unwrap_or_default();
                counted = (from, counted.1 + skipped.chars().count());
                let begins = character + counted.1;
                tokens.push(Token {
                    id,
                    piece: self.piece(id),
                    source: Some(Source {
                        text: source.to_owned(),
                        span: (begins, begins + source.chars().count()),
                    }),
                });
            }
        }
        Ok(match special_tokens {
            SpecialTokens::Keep => self.framed(tokens),
            SpecialTokens::Skip => tokens,
        })
    }

    /// Puts the special tokens around those of a text.
    fn framed(&self, tokens: Vec<Token>) -> Vec<Token> {
        let special = |&id: &u32| Token {
            id,
            piece: self.piece(id),
            source: None,
        };
        let frame = self.single.fill(&[], &[]).input_ids;
        let (before, after) = frame.split_at(self.single.before_first());
        let before = before.iter().map(special);
        let after = after.iter().map(special);
        before.chain(tokens).chain(after).collect()
    }

    fn piece(&self, id: u32) -> String {
        self.id_to_token(id).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::of_golden;
    use super::super::{Truncation, TruncationSide};
    use super::*;

    #[test]
    fn tokens_are_those_that_a_model_reads() {
        let long = "the river and the boat in the rain ".repeat(4000);
        for checkpoint in ["bert-tiny-mean", "xlmr-tiny-score", "qwen3-tiny-lasttoken"] {
            let tokenizer = of_golden(checkpoint);
            for text in ["the river, the boat", "", "Ärger im 水 ", long.as_str()] {
                let everything = Truncation {
                    max_tokens: usize::MAX,
                    side: TruncationSide::Refuse,
                };
                let read = tokenizer.encode(text, everything).unwrap().input_ids;
                let tokens = tokenizer.tokens(text, SpecialTokens::Keep).unwrap();
                let ids: Vec<u32> = tokens.iter().map(|token| token.id).collect();
                assert_eq!(ids, read, "{checkpoint}");
            }
        }
    }

    #[test]
    fn a_token_knows_its_characters() {
        let tokenizer = of_golden("bert-tiny-mean");
        let text = format!("{}the river 水 the boat", "the rain ".repeat(2000));
        let characters: Vec<char> = text.chars().collect();
        let tokens = tokenizer.tokens(&text, SpecialTokens::Keep).unwrap();
        let (first, last) = (tokens.first().unwrap(), tokens.last().unwrap());
        assert_eq!((first.piece.as_str(), &first.source), ("[CLS]", &None));
        assert_eq!((last.piece.as_str(), &last.source), ("[SEP]", &None));
        let sources: Vec<&Source> = tokens.iter().filter_map(|t| t.source.as_ref()).collect();
        assert_eq!(sources.len() + 2, tokens.len());
        for source in &sources {
            let (from, to) = source.span;
            let there: String = characters[from..to].iter().collect();
            assert_eq!(there, source.text);
        }
        assert!("boat".ends_with(&sources.last().unwrap().text));
        let bare = tokenizer.tokens("the", SpecialTokens::Skip).unwrap();
        assert_eq!(bare.len(), 1);
    }
}
