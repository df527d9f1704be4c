//! One answer as it comes → what a client is told: thoughts, content and calls.

use std::collections::BTreeSet;

use super::calls::{Call, CallForm, CallReader, Piece};
use crate::engine::generate::reasoning::{Begins, Parts, Splitter};

/// What is done with what a model thinks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Thoughts {
    /// It is told apart from the answer.
    #[default]
    Apart,
    /// It stays in the text, tags and all.
    InText,
}

/// How the answers to one request are read.
#[derive(Debug, Clone)]
pub struct Reading {
    /// What is done with thoughts.
    pub thoughts: Thoughts,
    /// Whether the prompt leaves the model thinking.
    pub begins: Begins,
    /// How the model writes calls, where it may make some.
    pub calls: Option<CallForm>,
    /// The functions that it may call.
    pub names: BTreeSet<String>,
}

/// What is new in one answer.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Delta {
    /// What the model thinks.
    pub reasoning: String,
    /// What it answers.
    pub content: String,
    /// What it calls.
    pub calls: Vec<Call>,
}

/// Reads one answer.
#[derive(Debug)]
pub struct Reader {
    thoughts: Option<Splitter>,
    calls: Option<CallReader>,
    /// The text in front of a thought that stays in the text: its tag, which the prompt has.
    opening: Option<&'static str>,
}

impl Reader {
    /// For an answer that is read like this.
    pub fn new(reading: &Reading) -> Self {
        let apart = reading.thoughts == Thoughts::Apart;
        Self {
            thoughts: apart.then(|| Splitter::new(reading.begins)),
            calls: reading
                .calls
                .map(|form| CallReader::new(form, reading.names.clone())),
            opening: (!apart && reading.begins == Begins::Thinking).then_some("<think>\n"),
        }
    }

    /// More of the answer.
    pub fn push(&mut self, text: &str) -> Delta {
        let parts = match &mut self.thoughts {
            Some(splitter) => splitter.push(text),
            None => Parts {
                content: self.opening.take().unwrap_or_default().to_owned() + text,
                ..Parts::default()
            },
        };
        let mut delta = Delta {
            reasoning: parts.reasoning,
            ..Delta::default()
        };
        self.content(&parts.content, &mut delta);
        delta
    }

    /// The answer has ended: what was held back for what might have followed.
    pub fn finish(&mut self) -> Delta {
        let mut delta = Delta::default();
        if let Some(splitter) = &mut self.thoughts {
            let parts = splitter.finish();
            delta.reasoning = parts.reasoning;
            self.content(&parts.content, &mut delta);
        }
        if let Some(calls) = &mut self.calls {
            add(calls.finish(), &mut delta);
        }
        delta
    }

    fn content(&mut self, text: &str, delta: &mut Delta) {
        match &mut self.calls {
            Some(calls) => add(calls.push(text), delta),
            None => delta.content += text,
        }
    }

    /// All of an answer that is there already.
    pub fn read(reading: &Reading, text: &str) -> Delta {
        let mut reader = Self::new(reading);
        let mut all = reader.push(text);
        let rest = reader.finish();
        all.reasoning += &rest.reasoning;
        all.content += &rest.content;
        all.calls.extend(rest.calls);
        all
    }
}

fn add(pieces: Vec<Piece>, delta: &mut Delta) {
    for piece in pieces {
        match piece {
            Piece::Text(text) => delta.content += &text,
            Piece::Call(call) => delta.calls.push(call),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(thoughts: Thoughts) -> Reading {
        Reading {
            thoughts,
            begins: Begins::Thinking,
            calls: Some(CallForm::Tagged),
            names: BTreeSet::new(),
        }
    }

    #[test]
    fn thoughts_content_and_calls_come_apart() {
        let answer = "hm\n</think>\n\nLook:\n<tool_call>{\"name\":\"f\"}</tool_call>";
        let delta = Reader::read(&reading(Thoughts::Apart), answer);
        assert_eq!((&delta.reasoning[..], &delta.content[..]), ("hm", "Look:"));
        assert_eq!(delta.calls[0].name, "f");
        let delta = Reader::read(&reading(Thoughts::InText), answer);
        assert_eq!(delta.content, "<think>\nhm\n</think>\n\nLook:");
        assert_eq!(delta.calls.len(), 1);
    }
}
