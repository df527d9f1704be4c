//! An answer as its lines come in: what is printed of each, and the times at the end. Pure.

use std::time::Duration;

use serde::Deserialize;

use crate::cli::Failure;

/// An answer so far.
#[derive(Debug, Default)]
pub struct Answer {
    /// What the model said.
    pub content: String,
    /// When all of it is there.
    pub timings: Option<Timings>,
    thinks: bool,
}

/// A line of the server.
#[derive(Debug, Deserialize)]
struct Line {
    error: Option<String>,
    message: Option<Message>,
    #[serde(flatten)]
    timings: Option<Timings>,
}

#[derive(Debug, Deserialize)]
struct Message {
    content: Option<String>,
    thinking: Option<String>,
}

/// Counts, and times in nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub struct Timings {
    total_duration: u64,
    prompt_eval_count: u64,
    prompt_eval_duration: u64,
    eval_count: u64,
    eval_duration: u64,
}

impl Answer {
    /// Takes a line; what is to be printed.
    pub fn line(&mut self, line: &str) -> Result<String, Failure> {
        if line.trim().is_empty() {
            return Ok(String::new());
        }
        let line: Line = serde_json::from_str(line)
            .map_err(|error| Failure::new(format!("the answer is not understood: {error}")))?;
        if let Some(error) = line.error {
            return Err(Failure::new(error));
        }
        self.timings = line.timings.or(self.timings);
        let Some(message) = line.message else {
            return Ok(String::new());
        };
        let content = message.content.unwrap_or_default();
        let thinking = message.thinking.unwrap_or_default();
        let mut shown = String::new();
        if !thinking.is_empty() {
            if !self.thinks {
                shown += "(thinking) ";
            }
            self.thinks = true;
            shown += &thinking;
        }
        if !content.is_empty() {
            if std::mem::take(&mut self.thinks) {
                shown += "\n(done thinking)\n\n";
            }
            shown += &content;
        }
        self.content += &content;
        Ok(shown)
    }
}

impl Timings {
    /// As people read them.
    pub fn table(&self) -> String {
        let rate = |count: u64, nanoseconds: u64| match nanoseconds {
            0 => String::new(),
            time => format!(" ({:.1} tokens/s)", count as f64 / (time as f64 / 1e9)),
        };
        let time = |nanoseconds| {
            let time = Duration::from_nanos(nanoseconds);
            format!("{:.2} s", time.as_secs_f64())
        };
        format!(
            "total    {}\nprompt   {} tokens in {}{}\nanswer   {} tokens in {}{}\n",
            time(self.total_duration),
            self.prompt_eval_count,
            time(self.prompt_eval_duration),
            rate(self.prompt_eval_count, self.prompt_eval_duration),
            self.eval_count,
            time(self.eval_duration),
            rate(self.eval_count, self.eval_duration),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_shown_as_they_come() {
        let mut answer = Answer::default();
        let mut shown = String::new();
        for line in [
            r#"{"message":{"role":"assistant","content":"","thinking":"hm"},"done":false}"#,
            r#"{"message":{"role":"assistant","content":"","thinking":"?"},"done":false}"#,
            r#"{"message":{"role":"assistant","content":"He"},"done":false}"#,
            "",
            r#"{"message":{"role":"assistant","content":"llo"},"done":false}"#,
            r#"{"message":{"role":"assistant","content":""},"done":true,"total_duration":2000000000,
                "prompt_eval_count":10,"prompt_eval_duration":500000000,"eval_count":4,
                "eval_duration":1000000000,"load_duration":0}"#,
        ] {
            shown += &answer.line(line).unwrap_or_else(|_| panic!("{line}"));
        }
        assert_eq!(shown, "(thinking) hm?\n(done thinking)\n\nHello");
        assert_eq!(answer.content, "Hello");
        let table = answer.timings.unwrap().table();
        assert!(
            table.contains("10 tokens in 0.50 s (20.0 tokens/s)"),
            "{table}"
        );
        assert!(answer.line("{\"error\":\"poisoned\"}").is_err());
        assert!(answer.line("<html>").is_err());
    }
}
