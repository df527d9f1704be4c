//! One text, of any length, to plain token ids: in pieces, so that memory stays bounded, and with
//! only as many ids kept as are wanted. The prompt in front of a text is never cut.

use std::borrow::Cow;

use super::pieces::{PieceSize, pieces};
use super::{Tokenizer, TruncationSide, guarded};
use crate::error::Result;

/// A prompt that goes before texts, tokenized once for all of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Prompt {
    // Empty where the prompt is a token that texts do not become.
    pub(super) text: String,
    // Its tokens when it stands alone. The last may be another where a text follows: a byte-level
    // tokenizer joins the space at its end with the text's first word.
    pub(super) ids: Vec<u32>,
}

impl Prompt {
    /// What is put before each text.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// How many tokens it has alone, without special ones.
    pub fn tokens(&self) -> usize {
        self.ids.len()
    }
}

/// The tokens of a text that were asked for, and how many there are.
#[derive(Debug, Clone, Default)]
pub(super) struct Scanned {
    /// Those of the prompt, then those of the text that were kept.
    pub ids: Vec<u32>,
    /// How many of them are the prompt's alone.
    pub prompt: usize,
    /// All that the prompt and the text have.
    pub total: usize,
}

/// Which tokens are kept.
#[derive(Debug, Clone, Copy)]
pub(super) struct Keep {
    pub room: usize,
    pub side: TruncationSide,
}

impl Scanned {
    /// Leaves `room` tokens, the prompt's among them.
    pub fn cut(&mut self, keep: Keep) {
        let Some(surplus) = self.ids.len().checked_sub(keep.room) else {
            return;
        };
        match keep.side {
            TruncationSide::End | TruncationSide::Refuse => self.ids.truncate(keep.room),
            TruncationSide::Start => {
                let text = self.prompt.min(keep.room);
                self.ids.drain(text..text + surplus);
            }
        }
    }
}

/// How good a place between two tokens is to part a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Seam {
    /// The tokens share a character.
    InCharacter,
    /// The tokens share a word.
    InWord,
    /// A word begins.
    Word,
}

/// All tokens of a text, with the places where it may be parted.
#[derive(Debug, Default)]
pub(super) struct Seamed {
    /// The tokens of the prompt alone, which belong before each part of the text.
    pub prompt: Vec<u32>,
    /// The tokens of the text.
    pub ids: Vec<u32>,
    /// What is before each token. `[tokens]`
    pub seams: Vec<Seam>,
}

impl Tokenizer {
    /// Tokenizes a prompt, to be put before texts.
    ///
    /// # Errors
    /// `Error::Tokenize` when the tokenizer fails.
    pub fn prepare_prompt(&self, text: &str) -> Result<Prompt> {
        let keep = Keep {
            room: usize::MAX,
            side: TruncationSide::End,
        };
        let scanned = self.scan(&Prompt::default(), text, keep, super::PIECE_SIZE)?;
        Ok(Prompt {
            text: text.to_owned(),
            ids: scanned.ids,
        })
    }

    /// The tokens of a prompt and a text, as if they were one text, of which some are kept.
    pub(super) fn scan(
        &self,
        prompt: &Prompt,
        text: &str,
        keep: Keep,
        size: PieceSize,
    ) -> Result<Scanned> {
        let text = self.prepared(prompt, text);
        let mut found = Scanned::default();
        // A prompt without a text is tokens that no text becomes; they are put there as they are.
        let mut in_prompt = !prompt.text.is_empty();
        if !in_prompt {
            found.ids.clone_from(&prompt.ids);
            (found.prompt, found.total) = (found.ids.len(), found.ids.len());
        }
        for piece in self.pieces(&text, size) {
            let piece = guarded(|| self.inner.encode_fast(piece, false))?;
            let ids = piece.get_ids();
            if in_prompt {
                let same = shared_start(ids, &prompt.ids[found.prompt..]);
                found.prompt += same;
                in_prompt = same == ids.len();
            }
            found.total += ids.len();
            let room = keep.room;
            if keep.side == TruncationSide::Start {
                found.ids.extend_from_slice(ids);
                // Moving the kept end forward costs its length, so it is not done at each piece.
                if found.ids.len() / 2 > room {
                    found.cut(keep);
                }
            } else {
                // Once the beginning is full, what follows is only counted.
                let left = room.saturating_sub(found.ids.len());
                found.ids.extend_from_slice(&ids[..ids.len().min(left)]);
            }
        }
        found.cut(keep);
        Ok(found)
    }

    /// All tokens of a prompt and a text, as if they were one text, with the places between those
    /// of the text.
    pub(super) fn scan_seams(&self, prompt: &Prompt, text: &str) -> Result<Seamed> {
        let text = self.prepared(prompt, text);
        let mut found = Seamed::default();
        for piece in self.pieces(&text, super::PIECE_SIZE) {
            let piece = guarded(|| self.inner.encode(piece, false))?;
            found.ids.extend_from_slice(piece.get_ids());
            let (words, places) = (piece.get_word_ids(), piece.get_offsets());
            for at in 0..piece.len() {
                let seam = match at.checked_sub(1) {
                    None => Seam::Word,
                    Some(before) if places[before].1 > places[at].0 => Seam::InCharacter,
                    Some(before) if words[before].is_some() && words[before] == words[at] => {
                        Seam::InWord
                    }
                    Some(_) => Seam::Word,
                };
                found.seams.push(seam);
            }
        }
        if prompt.text.is_empty() {
            found.prompt.clone_from(&prompt.ids);
            return Ok(found);
        }
        let same = shared_start(&found.ids, &prompt.ids);
        found.prompt = found.ids.drain(..same).collect();
        found.seams.drain(..same);
        Ok(found)
    }

    /// The prompt and the text as the tokenizer takes them.
    pub(super) fn prepared<'t>(&self, prompt: &Prompt, text: &'t str) -> Cow<'t, str> {
        let whole = if prompt.text.is_empty() {
            Cow::Borrowed(text)
        } else {
            Cow::Owned([&prompt.text, text].concat())
        };
        if self.lowercases {
            Cow::Owned(whole.to_lowercase())
        } else {
            whole
        }
    }

    pub(super) fn pieces<'t>(
        &self,
        text: &'t str,
        size: PieceSize,
    ) -> impl Iterator<Item = &'t str> {
        let joint = self.joint;
        pieces(text, size).enumerate().map(move |(index, piece)| {
            // The space at which the text was parted.
            match piece.strip_prefix(' ') {
                Some(rest) if index > 0 && joint == Joint::Implied => rest,
                _ => piece,
            }
        })
    }
}

/// What a tokenizer makes of a space at the beginning of a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Joint {
    /// What it makes of it between two words.
    Kept,
    /// It puts one there itself, as those of Llama do.
    Implied,
}

impl Joint {
    /// Tries it out; a tokenizer that does neither is taken for `Kept`.
    pub fn learn(inner: &tokenizers::Tokenizer) -> Result<Self> {
        let ids = |text: &'static str| -> Result<Vec<u32>> {
            let encoding = guarded(|| inner.encode_fast(text, false))?;
            Ok(encoding.get_ids().to_vec())
        };
        let whole = ids("a b")?;
        let first = ids("a")?;
        let kept = [&first[..], &ids(" b")?].concat();
        let implied = [&first[..], &ids("b")?].concat();
        if kept != whole && implied == whole {
            return Ok(Self::Implied);
        }
        Ok(Self::Kept)
    }
}

/// How many ids two lists have in common at their beginnings.
pub(super) fn shared_start(one: &[u32], other: &[u32]) -> usize {
    one.iter().zip(other).take_while(|(a, b)| a == b).count()
}
