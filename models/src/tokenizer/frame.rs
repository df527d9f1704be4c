//! The special tokens around one text or two, learned from the post-processor once. After that,
//! encodings are put together from plain ids, so documents of one query share its work.

use tokenizers::{Encoding as RawEncoding, Token};

use super::guarded;
use crate::batch::Encoding;
use crate::error::{Error, Result};

// Ids that no vocabulary has; they stand for the texts while the post-processor is asked.
const FIRST: u32 = u32::MAX - 1;
const SECOND: u32 = u32::MAX;

/// What one place of a frame holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Slot {
    Special(u32),
    First,
    Second,
}

/// A sequence of special tokens with places for the texts among them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Frame {
    // Each with its token type.
    slots: Vec<(Slot, u8)>,
}

impl Frame {
    /// The places of one text, or of two, as the post-processor of a file puts them.
    ///
    /// # Errors
    /// `Error::Tokenize` when it fails, or leaves out or repeats a text.
    pub fn learn(inner: &tokenizers::Tokenizer, texts: usize) -> Result<Self> {
        let marker = |id| {
            let token = Token::new(id, String::new(), (0, 0));
            RawEncoding::from_tokens(vec![token], 0)
        };
        let second = (texts == 2).then(|| marker(SECOND));
        let whole = guarded(|| inner.post_process(marker(FIRST), second, true))?;
        let slot = |&id: &u32| match id {
            FIRST => Slot::First,
            SECOND => Slot::Second,
            id => Slot::Special(id),
        };
        let types = whole.get_type_ids().iter();
        let types = types.map(|&id| u8::try_from(id).unwrap_or(u8::MAX));
        let slots = whole.get_ids().iter().map(slot).zip(types).collect();
        let frame = Self { slots };
        if frame.count(Slot::First) != 1 || frame.count(Slot::Second) + 1 != texts {
            return Err(Error::Tokenize(format!(
                "its post-processor does not take each of `{texts}` texts once"
            )));
        }
        Ok(frame)
    }

    /// One text and nothing around it.
    pub fn bare() -> Self {
        Self {
            slots: vec![(Slot::First, 0)],
        }
    }

    /// Appends tokens that are always there, of type 0.
    pub fn push_tokens(&mut self, ids: &[u32]) {
        let slots = ids.iter().map(|&id| (Slot::Special(id), 0));
        self.slots.extend(slots);
    }

    /// Appends the place of the first text, of type 0.
    pub fn push_first(&mut self) {
        self.slots.push((Slot::First, 0));
    }

    /// Appends the place of the second text, of type 0.
    pub fn push_second(&mut self) {
        self.slots.push((Slot::Second, 0));
    }

    /// Whether both texts have one place each.
    pub fn is_pair(&self) -> bool {
        self.count(Slot::First) == 1 && self.count(Slot::Second) == 1
    }

    /// Tokens that are not of the texts.
    pub fn special_tokens(&self) -> usize {
        let is_special = |(slot, _): &&(Slot, u8)| matches!(slot, Slot::Special(_));
        self.slots.iter().filter(is_special).count()
    }

    /// Tokens before the first text.
    pub fn before_first(&self) -> usize {
        let mut slots = self.slots.iter();
        slots
            .position(|(slot, _)| *slot == Slot::First)
            .unwrap_or(0)
    }

    /// Puts one text, or two, in their places.
    pub fn fill(&self, first: &[u32], second: &[u32]) -> Encoding {
        let tokens = self.special_tokens() + first.len() + second.len();
        let mut filled = Encoding {
            input_ids: Vec::with_capacity(tokens),
            token_type_ids: Vec::with_capacity(tokens),
            ..Encoding::default()
        };
        for (slot, token_type) in &self.slots {
            match slot {
                Slot::Special(id) => filled.input_ids.push(*id),
                Slot::First => filled.input_ids.extend_from_slice(first),
                Slot::Second => filled.input_ids.extend_from_slice(second),
            }
            let tokens = filled.input_ids.len();
            filled.token_type_ids.resize(tokens, *token_type);
        }
        filled
    }

    fn count(&self, wanted: Slot) -> usize {
        let slots = self.slots.iter();
        slots.filter(|(slot, _)| *slot == wanted).count()
    }
}
