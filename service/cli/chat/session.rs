//! A conversation so far, and what may be set of it. Pure: lines in, words and requests out.

use std::collections::BTreeMap;

use serde_json::{Value, json};

/// What may be set with `/set NAME NUMBER`, and what it means.
const OPTIONS: &[(&str, &str)] = &[
    ("temperature", "0 to 2; 0 always takes the likeliest token"),
    (
        "top_p",
        "only the likeliest tokens that together have this probability",
    ),
    ("top_k", "only so many of the likeliest tokens"),
    (
        "min_p",
        "only tokens of at least this part of the likeliest one's probability",
    ),
    ("seed", "the same seed gives the same text"),
    ("num_predict", "the most tokens of an answer"),
    (
        "repeat_penalty",
        "against tokens that are there already; 1 is off",
    ),
];

const HELP: &str = "\
/set system TEXT     what the model is told before everything; without TEXT, nothing
/set NAME NUMBER     an option; /show lists them
/set verbose|quiet   tell how long answers take, or not
/set think|nothink   whether a model that can think does
/show                what is set, and how long the conversation is
/clear               forget the conversation
/bye                 end
\"\"\"                  begins and ends a text of several lines";

/// A conversation.
#[derive(Debug, Default)]
pub struct Session {
    model: Option<String>,
    /// What the model is told before everything.
    pub system: Option<String>,
    /// Whether times are told.
    pub verbose: bool,
    think: Option<bool>,
    options: BTreeMap<&'static str, f64>,
    messages: Vec<Value>,
}

/// What a line leads to.
#[derive(Debug, PartialEq, Eq)]
pub enum Reply {
    /// It was empty.
    Nothing,
    /// The program answers.
    Told(String),
    /// The model is asked.
    Ask(String),
    /// The conversation is over.
    End,
}

impl Session {
    /// A new conversation with a model.
    pub fn new(model: Option<String>) -> Self {
        Self {
            model,
            ..Self::default()
        }
    }

    /// What a line leads to.
    pub fn take(&mut self, line: &str) -> Reply {
        let (word, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        match word {
            "" if rest.trim().is_empty() => Reply::Nothing,
            "/bye" | "/exit" | "/quit" => Reply::End,
            "/?" | "/help" => Reply::Told(HELP.into()),
            "/show" => Reply::Told(self.show()),
            "/set" => Reply::Told(self.set(rest.trim())),
            "/clear" => {
                self.messages.clear();
                Reply::Told("forgotten".into())
            }
            word if word.starts_with('/') => {
                Reply::Told(format!("there is no `{word}`; `/?` lists what there is"))
            }
            _ => Reply::Ask(line.to_owned()),
        }
    }

    fn set(&mut self, what: &str) -> String {
        let (name, value) = what.split_once(char::is_whitespace).unwrap_or((what, ""));
        let value = value.trim();
        match name {
            "system" => {
                self.system = Some(value.to_owned()).filter(|text| !text.is_empty());
            }
            "verbose" => self.verbose = true,
            "quiet" => self.verbose = false,
            "think" => self.think = Some(true),
            "nothink" => self.think = Some(false),
            name => {
                let Some((known, _)) = OPTIONS.iter().find(|(known, _)| *known == name) else {
                    return format!("there is no option `{name}`; `/show` lists what there is");
                };
                match value.parse() {
                    Ok(number) => _ = self.options.insert(known, number),
                    Err(_) if value.is_empty() => _ = self.options.remove(known),
                    Err(_) => return format!("`{value}` is no number"),
                }
            }
        }
        "set".into()
    }

    fn show(&self) -> String {
        let mut lines = vec![
            format!(
                "model        {}",
                self.model.as_deref().unwrap_or("the server's first")
            ),
            format!("system       {}", self.system.as_deref().unwrap_or("")),
            format!("messages     {}", self.messages.len()),
        ];
        lines.extend(OPTIONS.iter().map(|(name, about)| {
            let value = self.options.get(name).map(f64::to_string);
            format!("{name:<16} {:<8} {about}", value.unwrap_or_default())
        }));
        lines.join("\n")
    }

    /// The request for the answer to a prompt.
    pub fn request(&self, prompt: &str) -> Value {
        let system = self
            .system
            .iter()
            .map(|text| json!({"role": "system", "content": text}));
        let asked = json!({"role": "user", "content": prompt});
        let messages = system.chain(self.messages.iter().cloned()).chain([asked]);
        let options = self.options.iter().map(|(name, &number)| {
            // Counts are written without a point.
            let whole = number.fract() == 0.0 && number.abs() < 1e15;
            let number = if whole {
                json!(number as i64)
            } else {
                json!(number)
            };
            ((*name).to_owned(), number)
        });
        let options: serde_json::Map<String, Value> = options.collect();
        json!({
            "model": self.model,
            "messages": messages.collect::<Vec<_>>(),
            "options": options,
            "think": self.think,
            "stream": true,
        })
    }

    /// Remembers a question and its answer.
    pub fn said(&mut self, prompt: &str, answer: &str) {
        self.messages
            .push(json!({"role": "user", "content": prompt}));
        self.messages
            .push(json!({"role": "assistant", "content": answer}));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_conversation_is_sent_along() {
        let mut session = Session::new(Some("chat".into()));
        assert_eq!(session.take(""), Reply::Nothing);
        assert_eq!(session.take("hi there"), Reply::Ask("hi there".into()));
        session.said("hi there", "hello");
        for line in [
            "/set system be brief",
            "/set temperature 0.5",
            "/set seed 7",
            "/set think",
        ] {
            assert_eq!(session.take(line), Reply::Told("set".into()), "{line}");
        }
        let request = session.request("more");
        let roles = request["messages"].as_array().unwrap().iter();
        let roles: Vec<_> = roles.map(|m| m["role"].as_str().unwrap()).collect();
        assert_eq!(roles, ["system", "user", "assistant", "user"]);
        assert_eq!(request["options"], json!({"seed": 7, "temperature": 0.5}));
        assert_eq!(
            (&request["model"], &request["think"]),
            (&json!("chat"), &json!(true))
        );
        session.take("/clear");
        session.take("/set system");
        session.take("/set seed");
        let request = session.request("more");
        assert_eq!(request["messages"].as_array().unwrap().len(), 1);
        assert_eq!(request["options"], json!({"temperature": 0.5}));
    }

    #[test]
    fn what_is_no_command_is_said() {
        let mut session = Session::default();
        let told = |session: &mut Session, line| match session.take(line) {
            Reply::Told(text) => text,
            other => panic!("{other:?}"),
        };
        assert!(told(&mut session, "/sing").contains("no `/sing`"));
        assert!(told(&mut session, "/set colour 5").contains("no option `colour`"));
        assert!(told(&mut session, "/set seed red").contains("`red` is no number"));
        assert!(told(&mut session, "/?").contains("/clear"));
        assert!(told(&mut session, "/show").contains("temperature"));
        assert_eq!(session.take("/bye"), Reply::End);
    }
}
