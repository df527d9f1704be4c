//! Tells apart what a model thinks and what it answers. Thinking stands between `<think>` and
//! `</think>`; the first is often written by the template, and the second may come in pieces.

const OPEN: &str = "<think>";
const CLOSE: &str = "</think>";

/// Whether a prompt leaves the model thinking.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Begins {
    /// The prompt ends inside of a `<think>`.
    Thinking,
    /// The model may open one, or may not.
    Freely,
}

impl Begins {
    /// What the end of a prompt says.
    pub fn after(prompt: &str) -> Self {
        match (prompt.rfind(OPEN), prompt.rfind(CLOSE)) {
            // Between them and the answer there is only white space; elsewhere they are quoted.
            (Some(open), close)
                if close.is_none_or(|close| close < open)
                    && prompt[open + OPEN.len()..].trim().is_empty() =>
            {
                Self::Thinking
            }
            _ => Self::Freely,
        }
    }
}

/// What became certain.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Parts {
    /// What the model thinks.
    pub reasoning: String,
    /// What it answers.
    pub content: String,
}

/// Takes one answer as it comes.
#[derive(Debug)]
pub struct Splitter {
    stage: Stage,
    held: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Nothing but white space, or a part of `<think>`, has come.
    Start,
    /// As [`Stage::Start`], but what comes is thinking even without a `<think>`.
    StartThinking,
    /// Nothing but white space has come after `<think>`.
    Opened,
    Thinking,
    /// White space after `</think>`.
    Between,
    Answering,
}

impl Splitter {
    /// For an answer to a prompt that ends like this.
    pub fn new(begins: Begins) -> Self {
        Self {
            stage: match begins {
                Begins::Thinking => Stage::StartThinking,
                Begins::Freely => Stage::Start,
            },
            held: String::new(),
        }
    }

    /// More of the answer.
    pub fn push(&mut self, text: &str) -> Parts {
        let mut parts = Parts::default();
        self.held.push_str(text);
        while self.step(&mut parts) {}
        parts
    }

    /// The answer has ended: what was held back for what might have followed.
    pub fn finish(&mut self) -> Parts {
        let held = std::mem::take(&mut self.held);
        let mut parts = Parts::default();
        match self.stage {
            Stage::Thinking => held.trim_end().clone_into(&mut parts.reasoning),
            Stage::Opened | Stage::StartThinking => held.trim().clone_into(&mut parts.reasoning),
            Stage::Between => {}
            Stage::Start | Stage::Answering => parts.content = held,
        }
        parts
    }

    /// Passes on what is certain; whether the stage has changed.
    fn step(&mut self, parts: &mut Parts) -> bool {
        let before = self.stage;
        match self.stage {
            Stage::Start | Stage::StartThinking => {
                let text = self.held.trim_start();
                if let Some(rest) = text.strip_prefix(OPEN) {
                    self.held = rest.to_owned();
                    self.stage = Stage::Opened;
                } else if !OPEN.starts_with(text) {
                    self.stage = match before {
                        Stage::Start => Stage::Answering,
                        _ => Stage::Opened,
                    };
                }
            }
            Stage::Opened | Stage::Between => {
                let text = self.held.trim_start();
                if !text.is_empty() {
                    self.held = text.to_owned();
                    self.stage = match before {
                        Stage::Opened => Stage::Thinking,
                        _ => Stage::Answering,
                    };
                }
            }
            Stage::Thinking => {
                if let Some(end) = self.held.find(CLOSE) {
                    parts.reasoning.push_str(self.held[..end].trim_end());
                    self.held.drain(..end + CLOSE.len());
                    self.stage = Stage::Between;
                } else {
                    let certain = certain(&self.held, CLOSE);
                    let certain = self.held[..certain].trim_end().len();
                    parts.reasoning.extend(self.held.drain(..certain));
                }
            }
            Stage::Answering => parts.content.push_str(&std::mem::take(&mut self.held)),
        }
        self.stage != before
    }
}

/// How much of a text is certain not to be the beginning of `word`.
pub fn certain(text: &str, word: &str) -> usize {
    let from = text.len().saturating_sub(word.len() - 1);
    let begins = |&at: &usize| text.is_char_boundary(at) && word.starts_with(&text[at..]);
    (from..text.len()).find(begins).unwrap_or(text.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The same, in whatever pieces it comes.
    fn split(begins: Begins, answer: &str) -> (String, String) {
        let whole = pieces(begins, answer, usize::MAX);
        for size in 1..6 {
            assert_eq!(pieces(begins, answer, size), whole, "in pieces of {size}");
        }
        whole
    }

    fn pieces(begins: Begins, answer: &str, size: usize) -> (String, String) {
        let mut splitter = Splitter::new(begins);
        let (mut reasoning, mut content) = (String::new(), String::new());
        let letters: Vec<char> = answer.chars().collect();
        let texts = letters
            .chunks(size)
            .map(|piece| piece.iter().collect::<String>());
        let parts: Vec<Parts> = texts.map(|text| splitter.push(&text)).collect();
        for part in parts.into_iter().chain([splitter.finish()]) {
            reasoning += &part.reasoning;
            content += &part.content;
        }
        (reasoning, content)
    }

    fn both(reasoning: &str, content: &str) -> (String, String) {
        (reasoning.into(), content.into())
    }

    #[test]
    fn thinking_and_answer_are_told_apart() {
        use Begins::{Freely, Thinking};
        assert_eq!(split(Freely, " plain < text "), both("", " plain < text "));
        assert_eq!(
            split(Freely, "<think>\na b\n\nc\n</think>\n\nyes\n"),
            both("a b\n\nc", "yes\n")
        );
        assert_eq!(
            split(Thinking, "a</b\n</think>\n\nyes"),
            both("a</b", "yes")
        );
        // Some templates open it, and the model opens it once more.
        assert_eq!(split(Thinking, "<think>\na</think>b"), both("a", "b"));
        assert_eq!(split(Thinking, "no end <"), both("no end <", ""));
        assert_eq!(split(Freely, "<think></think>ü"), both("", "ü"));
        assert_eq!(split(Freely, "<thinker>"), both("", "<thinker>"));
        assert_eq!(
            split(Freely, "a <think>b</think>"),
            both("", "a <think>b</think>")
        );
        assert_eq!(split(Freely, ""), both("", ""));
    }

    #[test]
    fn the_end_of_a_prompt_says_whether_the_model_thinks() {
        assert_eq!(Begins::after("<|Assistant|><think>\n"), Begins::Thinking);
        assert_eq!(Begins::after("<think>\n\n</think>\n\n"), Begins::Freely);
        assert_eq!(
            Begins::after("what is <think>? <|assistant|>"),
            Begins::Freely
        );
        assert_eq!(Begins::after("hello"), Begins::Freely);
    }
}
