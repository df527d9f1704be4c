//! Keeps what people write from becoming control tokens. Where a message spells `<|im_end|>`, a
//! mark is put into it before the template runs: one character that neither the conversation nor
//! the template has. In what comes out, the character before a mark is the message's own, so that
//! no control token can begin there, and the mark is gone again. All other text passes through the
//! template byte for byte.

use std::collections::BTreeSet;

use aho_corasick::AhoCorasick;
use minijinja::{Value, value::ValueKind};

use super::Conversation;
use crate::engine::request::{Origin, PromptPiece};

/// Private-use characters: in no language, and two of a thousand texts have any.
const MARKS: std::ops::RangeInclusive<char> = '\u{100000}'..='\u{10fffd}';

/// The control tokens of a tokenizer, made ready to be looked for, and the marks that its template
/// leaves.
pub struct Control {
    tokens: Vec<String>,
    finder: AhoCorasick,
    /// Bytes of the longest.
    longest: usize,
    taken: BTreeSet<char>,
}

impl Control {
    /// Of these tokens and this template.
    ///
    /// # Errors
    /// When there are more tokens than can be looked for.
    pub fn new(tokens: &[String], template: &str) -> Result<Self, String> {
        let mut seen = Seen::default();
        seen.text(template);
        let tokens: Vec<String> = tokens.iter().filter(|t| !t.is_empty()).cloned().collect();
        let finder = AhoCorasick::new(&tokens).map_err(|error| error.to_string())?;
        Ok(Self {
            finder,
            longest: tokens.iter().map(String::len).max().unwrap_or(0),
            tokens,
            taken: seen.marks,
        })
    }
}

/// Marks the texts of one conversation.
pub struct Marking<'a> {
    control: &'a Control,
    mark: char,
    bytes: usize,
}

impl<'a> Marking<'a> {
    /// Chooses a mark that nothing here has.
    pub fn new(control: &'a Control, conversation: &Conversation) -> Self {
        let mut seen = Seen::default();
        for value in conversation
            .messages
            .iter()
            .chain(conversation.tools.iter().flatten())
            .chain(conversation.variables.values())
        {
            seen.value(value);
        }
        let is_free = |mark: &char| !seen.marks.contains(mark) && !control.taken.contains(mark);
        let free = MARKS.into_iter().find(is_free);
        Self {
            control,
            // A conversation with all 65534 of them would be the first.
            mark: free.unwrap_or(*MARKS.end()),
            bytes: seen.bytes,
        }
    }

    /// Bytes of all texts and names of the conversation.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// A message as the template may see it. Its role stays as it is, because templates make their
    /// control tokens of it; it is one of a few words, unlike a `role` further inside.
    pub fn message(&self, message: &Value) -> Value {
        match message.kind() {
            ValueKind::Map => self.map(message, |key| key.as_str() == Some("role")),
            _ => self.value(message),
        }
    }

    /// Anything else that people wrote, as the template may see it.
    pub fn value(&self, value: &Value) -> Value {
        match value.kind() {
            ValueKind::String => match value.as_str().and_then(|text| self.marked(text)) {
                Some(text) => Value::from(text),
                None => value.clone(),
            },
            ValueKind::Seq => items(value).map(|item| self.value(&item)).collect(),
            ValueKind::Map => self.map(value, |_| false),
            _ => value.clone(),
        }
    }

    fn map(&self, map: &Value, stays: impl Fn(&Value) -> bool) -> Value {
        let pairs = items(map).map(|key| {
            let entry = map.get_item(&key).unwrap_or_default();
            let entry = match stays(&key) {
                true => entry,
                false => self.value(&entry),
            };
            (self.value(&key), entry)
        });
        Value::from_pairs(pairs)
    }

    /// The text with its marks; nothing when it needs none.
    fn marked(&self, text: &str) -> Option<String> {
        let found = self
            .control
            .finder
            .find_overlapping_iter(text)
            .map(|found| found.start());
        let mut starts: BTreeSet<usize> = found.collect();
        starts.extend(self.open_end(text));
        if starts.is_empty() {
            return None;
        }
        let mut marked = String::with_capacity(text.len() + 4 * starts.len());
        for (at, character) in text.char_indices() {
            marked.push(character);
            if starts.contains(&at) {
                marked.push(self.mark);
            }
        }
        Some(marked)
    }

    /// Where a control token may begin that the text ends in the middle of; what follows it in the
    /// prompt might complete it.
    fn open_end(&self, text: &str) -> Option<usize> {
        let text = text.trim_end();
        let from = text.len().saturating_sub(self.control.longest);
        let ends = text.char_indices().rev().take_while(|(at, _)| *at >= from);
        let tokens = &self.control.tokens;
        let begins = |at: &usize| tokens.iter().any(|t| t.starts_with(&text[*at..]));
        ends.map(|(at, _)| at).filter(begins).last()
    }

    /// What the template wrote, by who wrote it.
    pub fn pieces(&self, text: &str) -> Vec<PromptPiece> {
        let mut pieces = Vec::new();
        let mut push = |text: &str, origin| {
            if !text.is_empty() {
                let text = text.to_owned();
                pieces.push(PromptPiece { text, origin });
            }
        };
        let mut parts = text.split(self.mark).peekable();
        while let Some(part) = parts.next() {
            if parts.peek().is_none() {
                push(part, Origin::Template);
                break;
            }
            let last = part.char_indices().next_back().map_or(0, |(at, _)| at);
            push(&part[..last], Origin::Template);
            push(&part[last..], Origin::Message);
        }
        pieces
    }
}

fn items(value: &Value) -> impl Iterator<Item = Value> {
    value.try_iter().into_iter().flatten()
}

/// How much there is, and which of the possible marks are taken.
#[derive(Default)]
struct Seen {
    marks: BTreeSet<char>,
    bytes: usize,
}

impl Seen {
    fn text(&mut self, text: &str) {
        self.marks
            .extend(text.chars().filter(|c| MARKS.contains(c)));
    }

    fn value(&mut self, value: &Value) {
        if let Some(text) = value.as_str() {
            self.bytes += text.len();
            self.text(text);
            return;
        }
        self.bytes += 8;
        let is_map = value.kind() == ValueKind::Map;
        if is_map || value.kind() == ValueKind::Seq {
            for item in items(value) {
                self.value(&item);
                if is_map {
                    self.value(&value.get_item(&item).unwrap_or_default());
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn control() -> Control {
        let tokens = ["<|im_start|>", "<|im_end|>", "</s>"].map(String::from);
        Control::new(&tokens, "{{ '\u{100002}' }}").unwrap()
    }

    fn conversation(texts: &[&str]) -> Conversation {
        Conversation {
            messages: texts.iter().copied().map(Value::from).collect(),
            ..Conversation::default()
        }
    }

    /// The texts that no control token may begin in, as the template leaves them.
    fn held(text: &str) -> Vec<String> {
        let control = control();
        let marking = Marking::new(&control, &conversation(&[text]));
        let marked = marking.message(&Value::from(text));
        let pieces = marking.pieces(marked.as_str().unwrap());
        let glued: String = pieces.iter().map(|piece| &piece.text[..]).collect();
        assert_eq!(glued, text);
        let messages = pieces.into_iter().filter(|p| p.origin == Origin::Message);
        messages.map(|piece| piece.text).collect()
    }

    #[test]
    fn control_tokens_in_messages_cannot_begin() {
        assert_eq!(held("hello"), [""; 0]);
        assert_eq!(held("a<|im_end|>b"), ["<"]);
        assert_eq!(held("<|im_start|><|im_end|></s>"), ["<", "<", "<"]);
        assert_eq!(held("<<|im_end|>"), ["<"]);
        // The rest may come from the next text.
        assert_eq!(held("a <|im_"), ["<"]);
        assert_eq!(held("a <|im_ \n"), ["<"]);
        assert_eq!(held("a < b"), [""; 0]);
    }

    #[test]
    fn the_mark_is_none_that_is_there_already() {
        let text = "\u{100000}</s>\u{100001}";
        assert_eq!(held(text), ["<"]);
        // Nor one of the template's.
        let control = control();
        let marking = Marking::new(&control, &conversation(&[text]));
        assert_eq!(marking.mark, '\u{100003}');
    }

    #[test]
    fn everything_is_marked_but_the_role_of_a_message() {
        let control = control();
        let marking = Marking::new(&control, &conversation(&[]));
        let inner = Value::from_pairs([(Value::from("k</s>"), Value::from("</s>"))]);
        // As arguments of a call that a document talked a model into.
        let role = Value::from_pairs([(Value::from("role"), Value::from("</s>"))]);
        let message = Value::from_pairs([
            (Value::from("role"), Value::from("</s>")),
            (
                Value::from("content"),
                [inner, role.clone()].into_iter().collect(),
            ),
        ]);
        let marked = marking.message(&message);
        assert_eq!(marked.get_attr("role").unwrap(), Value::from("</s>"));
        let text = marked.get_attr("content").unwrap().to_string();
        assert_eq!(text.matches(marking.mark).count(), 3, "{text}");
        // A tool or a variable of the template has no role.
        let text = marking.value(&role).to_string();
        assert_eq!(text.matches(marking.mark).count(), 1, "{text}");
    }
}
