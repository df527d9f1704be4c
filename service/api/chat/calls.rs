//! Function calls in the text of an answer, as models were taught to write them, read back as they
//! come. What turns out to be no call is text again.

use std::collections::BTreeSet;

use crate::engine::generate::{
    reasoning::certain,
    template::{Value, json},
};

const OPEN: &str = "<tool_call>";
const CLOSE: &str = "</tool_call>";

/// What Llama puts in front of a call, where the tokenizer shows it.
const PYTHON_TAG: &str = "<|python_tag|>";

/// How a model writes calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallForm {
    /// `<tool_call>{"name": …, "arguments": …}</tool_call>`, any number of them, text in front:
    /// Hermes and Qwen.
    Tagged,
    /// The whole answer is `{"name": …, "parameters": …}`, or several apart by `;`: Llama 3.
    Bare,
}

/// One call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// The function.
    pub name: String,
    /// JSON of an object.
    pub arguments: String,
}

/// What became certain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// Text that is no call.
    Text(String),
    /// A call, complete.
    Call(Call),
}

/// Takes one answer as it comes.
#[derive(Debug)]
pub struct CallReader {
    form: CallForm,
    names: BTreeSet<String>,
    held: String,
    stage: Stage,
    /// Whether nothing but white space has come since the last call.
    behind_call: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Text, or nothing yet.
    Text,
    /// Inside of a call.
    Call,
    /// No call can come any more.
    Plain,
}

impl CallReader {
    /// For answers that may call these functions.
    pub fn new(form: CallForm, names: BTreeSet<String>) -> Self {
        Self {
            form,
            names,
            held: String::new(),
            stage: Stage::Text,
            behind_call: false,
        }
    }

    /// More of the answer.
    pub fn push(&mut self, text: &str) -> Vec<Piece> {
        self.held.push_str(text);
        let mut pieces = Vec::new();
        match self.form {
            CallForm::Tagged => while self.tagged(&mut pieces) {},
            CallForm::Bare => self.bare(&mut pieces),
        }
        pieces
    }

    /// The answer has ended: what was held back for what might have followed.
    pub fn finish(&mut self) -> Vec<Piece> {
        let held = std::mem::take(&mut self.held);
        let calls = match (self.form, self.stage) {
            (CallForm::Tagged, Stage::Call) => call(&held).map(|call| vec![call]),
            (CallForm::Bare, Stage::Call) => self.bare_calls(&held),
            (_, Stage::Text | Stage::Plain) => None,
        };
        let text = match (self.form, self.stage) {
            (CallForm::Tagged, Stage::Call) => format!("{OPEN}{held}"),
            // White space behind the last call belongs to it as that in front does.
            _ if self.behind_call && held.trim().is_empty() => String::new(),
            _ => held,
        };
        match calls {
            Some(calls) => calls.into_iter().map(Piece::Call).collect(),
            None if text.is_empty() => Vec::new(),
            None => vec![Piece::Text(text)],
        }
    }

    /// One step; whether there may be another.
    fn tagged(&mut self, pieces: &mut Vec<Piece>) -> bool {
        if self.stage == Stage::Call {
            let Some(end) = self.held.find(CLOSE) else {
                return false;
            };
            let call = call(&self.held[..end]);
            self.behind_call = call.is_some();
            pieces.push(match call {
                Some(call) => Piece::Call(call),
                None => Piece::Text(format!("{OPEN}{}", &self.held[..end + CLOSE.len()])),
            });
            self.held.drain(..end + CLOSE.len());
            self.stage = Stage::Text;
            return true;
        }
        let open = self.held.find(OPEN);
        let text = open.unwrap_or_else(|| certain(&self.held, OPEN));
        // White space in front of a call belongs to it.
        let text = self.held[..text].trim_end().len();
        if text > 0 {
            self.behind_call = false;
            pieces.push(Piece::Text(self.held[..text].to_owned()));
        }
        match open {
            Some(start) => {
                self.held.drain(..start + OPEN.len());
                self.stage = Stage::Call;
            }
            None => drop(self.held.drain(..text)),
        }
        open.is_some()
    }

    fn bare(&mut self, pieces: &mut Vec<Piece>) {
        if self.stage == Stage::Text {
            let text = self.held.trim_start();
            if text.starts_with('{') || text.starts_with(PYTHON_TAG) {
                self.stage = Stage::Call;
            } else if !PYTHON_TAG.starts_with(text) {
                self.stage = Stage::Plain;
            }
        }
        if self.stage == Stage::Plain && !self.held.is_empty() {
            pieces.push(Piece::Text(std::mem::take(&mut self.held)));
        }
    }

    /// The calls that a text consists of. Without a tag, only known functions make it one.
    fn bare_calls(&self, text: &str) -> Option<Vec<Call>> {
        let text = text.trim();
        let text = text.strip_prefix(PYTHON_TAG).unwrap_or(text);
        let mut calls = Vec::new();
        let mut rest = text.trim();
        while !rest.is_empty() {
            let mut values = serde_json::Deserializer::from_str(rest).into_iter::<Value>();
            let call = call_of(&values.next()?.ok()?)?;
            if !self.names.contains(&call.name) {
                return None;
            }
            calls.push(call);
            rest = rest[values.byte_offset()..].trim_start_matches([';', '\n', ' ']);
        }
        (!calls.is_empty()).then_some(calls)
    }
}

fn call(text: &str) -> Option<Call> {
    call_of(&serde_json::from_str(text.trim()).ok()?)
}

fn call_of(value: &Value) -> Option<Call> {
    let field = |name| value.get_attr(name).ok().filter(|v| !v.is_undefined());
    let name = field("name")?.as_str()?.to_owned();
    let arguments = field("arguments").or_else(|| field("parameters"));
    let arguments = match arguments {
        None => "{}".to_owned(),
        // Already a text, as OpenAI has it.
        Some(value) => match value.as_str() {
            Some(text) => text.to_owned(),
            None => json::dumps(&value, &json::Layout::default()),
        },
    };
    Some(Call { name, arguments })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Text and calls, the same in whatever pieces the answer comes.
    fn read(form: CallForm, answer: &str) -> (String, Vec<(String, String)>) {
        let whole = read_in(form, answer, usize::MAX);
        for size in 1..7 {
            assert_eq!(read_in(form, answer, size), whole, "in pieces of {size}");
        }
        whole
    }

    fn read_in(form: CallForm, answer: &str, size: usize) -> (String, Vec<(String, String)>) {
        let names = ["weather", "time"].map(String::from).into();
        let mut reader = CallReader::new(form, names);
        let letters: Vec<char> = answer.chars().collect();
        let texts = letters.chunks(size).map(|c| c.iter().collect::<String>());
        let mut pieces: Vec<Piece> = texts.flat_map(|text| reader.push(&text)).collect();
        pieces.extend(reader.finish());
        let (mut text, mut calls) = (String::new(), Vec::new());
        for piece in pieces {
            match piece {
                Piece::Text(more) => text += &more,
                Piece::Call(call) => calls.push((call.name, call.arguments)),
            }
        }
        (text, calls)
    }

    fn calls(all: &[(&str, &str)]) -> Vec<(String, String)> {
        let owned = |&(name, arguments): &(&str, &str)| (name.into(), arguments.into());
        all.iter().map(owned).collect()
    }

    #[test]
    fn tagged_calls_are_read_between_texts() {
        use CallForm::Tagged;
        let weather = "<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"z\": 1, \"a\": \"ü\"}}\n\
                       </tool_call>";
        let expected = ("weather", r#"{"z": 1, "a": "ü"}"#);
        assert_eq!(read(Tagged, weather), (String::new(), calls(&[expected])));
        let two = format!("Let me see.\n{weather}\n{weather}");
        let both = calls(&[expected, expected]);
        assert_eq!(read(Tagged, &two), ("Let me see.".into(), both));
        // White space behind the last call is no text; behind text it is.
        let ended = format!("{weather}\n\n");
        assert_eq!(read(Tagged, &ended), (String::new(), calls(&[expected])));
        let more = format!("{weather}\nThat is all.\n");
        let text = "\nThat is all.\n".into();
        assert_eq!(read(Tagged, &more), (text, calls(&[expected])));
        assert_eq!(read(Tagged, "a\n"), ("a\n".into(), vec![]));
        assert_eq!(read(Tagged, "a < b <tool"), ("a < b <tool".into(), vec![]));
        // Its end is a special token that no text has, or the tokens ran out.
        let open = "<tool_call>{\"name\":\"time\"}";
        assert_eq!(
            read(Tagged, open),
            (String::new(), calls(&[("time", "{}")]))
        );
        for no_call in ["<tool_call>{oops}</tool_call>", "<tool_call>{\"name\": 5"] {
            assert_eq!(read(Tagged, no_call), (no_call.into(), vec![]));
        }
    }

    #[test]
    fn a_bare_object_is_a_call_of_a_known_function() {
        use CallForm::Bare;
        let call = r#"{"name": "weather", "parameters": {"city": "Rome"}}"#;
        let expected = ("weather", r#"{"city": "Rome"}"#);
        assert_eq!(read(Bare, call), (String::new(), calls(&[expected])));
        let two = format!("<|python_tag|>{call}; {call}");
        assert_eq!(
            read(Bare, &two),
            (String::new(), calls(&[expected, expected]))
        );
        for text in [
            "Hello",
            "{\"name\": \"other\", \"parameters\": {}}",
            "{\"a\":1}",
            "{",
            "",
        ] {
            assert_eq!(read(Bare, text), (text.into(), vec![]), "{text}");
        }
    }
}
