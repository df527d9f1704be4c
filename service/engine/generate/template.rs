//! The chat template of a checkpoint: messages → the prompt that its model was trained on. A
//! template is a program from the internet: what it may compute, nest and write is bounded, and
//! it sees nothing but the conversation. What people wrote stays apart from what the template says
//! (see `template/control.rs`).

mod control;
mod functions;
pub mod json;

use std::{collections::BTreeMap, io};

pub use minijinja::Value;
use minijinja::{AutoEscape, Environment, ErrorKind, syntax::SyntaxConfig};
use minijinja_contrib::pycompat::unknown_method_callback;
use retort_models::SpecialTokens;

use self::control::{Control, Marking};
use super::super::request::PromptPiece;
use crate::error::{Error, Result};

/// Work that a conversation of no length may take: about so many instructions, or 64 times as many
/// bytes.
const BASE_FUEL: u64 = 200_000;

/// Further work for each message and each tool.
const FUEL_PER_MESSAGE: u64 = 4_000;

/// Blocks, loops and macros may nest so deep: far from what the stack of a thread holds.
const MAX_RECURSION: usize = 150;

/// A prompt may be so much longer than the messages in it.
const BASE_OUTPUT: usize = 1 << 20;

/// How often a template may repeat all of the messages.
const MAX_REPEATS: usize = 4;

/// What people read of the template's own complaint.
const MESSAGE_CHARS: usize = 300;

/// What stands around thoughts and calls in an answer.
const TAGS: [&str; 4] = ["<think>", "</think>", "<tool_call>", "</tool_call>"];

const NAME: &str = "chat_template";

/// A compiled template and what it needs to know of its tokenizer. Immutable, shared.
pub struct ChatTemplate {
    environment: Environment<'static>,
    source: String,
    control: Control,
    special: SpecialTexts,
}

/// What a tokenizer calls its special tokens.
#[derive(Debug, Clone, Default)]
pub struct SpecialTexts {
    /// The beginning of a text; empty where there is none.
    pub bos: String,
    /// The end of a text or turn; empty where there is none.
    pub eos: String,
    /// Everything that the tokenizer takes for a control token.
    pub control: Vec<String>,
}

/// What is to be rendered. The values are whatever JSON has, objects in their order.
#[derive(Debug, Clone, Default)]
pub struct Conversation {
    /// Objects with `role`, `content` and so on, under the names that templates know.
    pub messages: Vec<Value>,
    /// Functions as OpenAI describes them; nothing where none may be called.
    pub tools: Option<Vec<Value>>,
    /// Whether the model is to answer now, or the last message to be gone on with.
    pub ending: Ending,
    /// Further variables, such as `enable_thinking`.
    pub variables: BTreeMap<String, Value>,
}

/// How a prompt ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Ending {
    /// With what opens an answer of the model.
    #[default]
    Answer,
    /// With the last message.
    Message,
}

impl ChatTemplate {
    /// Compiles the text of a template.
    ///
    /// # Errors
    /// Where it stops being one, in words for people.
    pub fn compile(source: &str, special: SpecialTexts) -> Result<Self, String> {
        let mut environment = Environment::new();
        environment.set_auto_escape_callback(|_| AutoEscape::None);
        environment.set_recursion_limit(MAX_RECURSION);
        environment.set_unknown_method_callback(unknown_method_callback);
        // As `transformers` sets Jinja up.
        let syntax = SyntaxConfig::builder()
            .trim_blocks(true)
            .lstrip_blocks(true)
            .build()
            .map_err(|error| error.to_string())?;
        environment.set_syntax(syntax);
        functions::add(&mut environment);
        environment
            .add_template_owned(NAME, functions::without_generation_tags(source))
            .map_err(|error| complaint(&error))?;
        Ok(Self {
            environment,
            control: Control::new(&special.control, source)?,
            source: source.to_owned(),
            special,
        })
    }

    /// Whether its text has this in it: how a template shows what its model was trained on.
    pub fn mentions(&self, text: &str) -> bool {
        self.source.contains(text)
    }

    /// Whether the model may be told of functions.
    pub fn knows_functions(&self) -> bool {
        knows_functions(&self.source)
    }

    /// Whether special tokens must be told in an answer, because the tags of thoughts and calls are
    /// some: most tokenizers have these as ordinary tokens.
    pub fn tags(&self) -> SpecialTokens {
        let is_tag = |text: &String| TAGS.contains(&text.as_str());
        match self.special.control.iter().any(is_tag) {
            true => SpecialTokens::Keep,
            false => SpecialTokens::Skip,
        }
    }

    /// The prompt, in pieces by who wrote them. It has the template's own first token, so that it
    /// must be tokenized without another.
    ///
    /// # Errors
    /// [`Error::InvalidRequest`] when the template refuses the messages, or does too much.
    pub fn render(&self, conversation: &Conversation) -> Result<Vec<PromptPiece>> {
        let marking = Marking::new(&self.control, conversation);
        let mut environment = self.environment.clone();
        let bytes = marking.bytes();
        let entries = conversation.messages.len() + conversation.tools.as_ref().map_or(0, Vec::len);
        let fuel = BASE_FUEL + bytes as u64 + FUEL_PER_MESSAGE * entries as u64;
        environment.set_fuel(Some(fuel));
        let mut output = Bounded {
            text: Vec::new(),
            most: BASE_OUTPUT + MAX_REPEATS * bytes,
        };
        let context = self.context(conversation, &marking);
        environment
            .get_template(NAME)
            .and_then(|template| template.render_captured_to(context, &mut output).map(drop))
            .map_err(|error| refusal(&error))?;
        let text = String::from_utf8(output.text)
            .map_err(|error| Error::Internal(format!("a chat template: {error}")))?;
        Ok(marking.pieces(&text))
    }

    fn context(&self, conversation: &Conversation, marking: &Marking<'_>) -> Value {
        let mut context: BTreeMap<String, Value> = conversation
            .variables
            .iter()
            .map(|(name, value)| (name.clone(), marking.value(value)))
            .collect();
        let messages = conversation.messages.iter();
        let messages: Value = messages.map(|message| marking.message(message)).collect();
        let tools = conversation.tools.as_ref();
        let tools: Option<Value> =
            tools.map(|tools| tools.iter().map(|tool| marking.value(tool)).collect());
        for (name, value) in [
            ("messages", messages),
            ("tools", tools.unwrap_or(Value::from(()))),
            ("bos_token", Value::from(self.special.bos.as_str())),
            ("eos_token", Value::from(self.special.eos.as_str())),
            (
                "add_generation_prompt",
                Value::from(conversation.ending == Ending::Answer),
            ),
        ] {
            context.insert(name.to_owned(), value);
        }
        Value::from(context)
    }
}

impl std::fmt::Debug for ChatTemplate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ChatTemplate({} bytes)", self.source.len())
    }
}

/// Takes no more than it should.
struct Bounded {
    text: Vec<u8>,
    most: usize,
}

impl io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.text.len() + bytes.len() > self.most {
            return Err(io::Error::other(format!(
                "the prompt is longer than {} bytes",
                self.most
            )));
        }
        self.text.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Whether a template with this text tells a model of functions.
pub fn knows_functions(source: &str) -> bool {
    source.contains("tools") || source.contains("<tool_call>")
}

/// What a template that did not finish means for the caller.
fn refusal(error: &minijinja::Error) -> Error {
    let message = match error.kind() {
        ErrorKind::OutOfFuel => "the model's chat template does more work than these messages can \
                                 need; it was stopped"
            .into(),
        ErrorKind::WriteFailure => "the model's chat template writes more than these messages \
                                    can need; it was stopped"
            .into(),
        _ => format!(
            "the model's chat template refuses this: {}",
            complaint(error)
        ),
    };
    Error::invalid("messages", message)
}

/// What went wrong, and in which line.
fn complaint(error: &minijinja::Error) -> String {
    let what = error
        .detail()
        .map_or_else(|| error.kind().to_string(), str::to_owned);
    let what: String = what.chars().take(MESSAGE_CHARS).collect();
    match error.line() {
        Some(line) => format!("{what} (line {line} of the template)"),
        None => what,
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;
    use crate::engine::request::Origin;

    /// Real templates and what they give. They are here where this project is developed, and are
    /// not ours to pass on.
    fn shared(name: &str) -> Option<String> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let path = root.join("../shared/data/chat-templates").join(name);
        if path.exists() {
            return Some(fs::read_to_string(path).unwrap());
        }
        println!("stepping aside: `{}` is not here", path.display());
        None
    }

    fn field(value: &Value, name: &str) -> Option<Value> {
        let found = value.get_attr(name).ok()?;
        (!found.is_undefined() && !found.is_none()).then_some(found)
    }

    fn text(value: &Value, name: &str) -> String {
        field(value, name).map_or_else(String::new, |text| text.as_str().unwrap().to_owned())
    }

    fn list(value: &Value) -> Vec<Value> {
        value.try_iter().unwrap().collect()
    }

    fn template(source: &str, case: &Value) -> ChatTemplate {
        let special = SpecialTexts {
            bos: text(case, "bos_token"),
            eos: text(case, "eos_token"),
            control: ["<|im_start|>", "<|im_end|>", "<|eot_id|>", "</s>"]
                .map(String::from)
                .into(),
        };
        ChatTemplate::compile(source, special).unwrap()
    }

    fn glued(pieces: &[PromptPiece]) -> String {
        pieces.iter().map(|piece| &piece.text[..]).collect()
    }

    fn ending(case: &Value) -> Ending {
        match field(case, "add_generation_prompt") {
            Some(wanted) if !wanted.is_true() => Ending::Message,
            _ => Ending::Answer,
        }
    }

    #[test]
    fn real_templates_give_what_transformers_gives() {
        let Some(all) = shared("target-golden.json") else {
            return;
        };
        let all: Value = serde_json::from_str(&all).unwrap();
        let files = all.get_attr("templates").unwrap();
        let cases = list(&all.get_attr("cases").unwrap());
        assert!(cases.len() > 30, "{}", cases.len());
        for case in cases {
            let model = text(&case, "model");
            let file = text(&files.get_attr(&model).unwrap(), "file");
            let thinking = field(&case, "enable_thinking");
            let conversation = Conversation {
                messages: list(&case.get_attr("messages").unwrap()),
                tools: field(&case, "tools").as_ref().map(list),
                ending: ending(&case),
                variables: thinking
                    .map(|value| ("enable_thinking".to_owned(), value))
                    .into_iter()
                    .collect(),
            };
            let source = shared(&file).unwrap();
            let pieces = template(&source, &case).render(&conversation);
            let name = format!("{model}, {}", text(&case, "case"));
            let pieces = pieces.unwrap_or_else(|error| panic!("{name}: {error}"));
            assert_eq!(glued(&pieces), text(&case, "expected"), "{name}");
            let held = pieces.iter().any(|piece| piece.origin == Origin::Message);
            assert_eq!(
                held,
                text(&case, "case") == "special-token-injection",
                "{name}"
            );
        }
    }

    #[test]
    fn published_templates_give_what_llama_cpp_expects() {
        let Some(all) = shared("llamacpp-golden.json") else {
            return;
        };
        let all: Value = serde_json::from_str(&all).unwrap();
        let messages = list(&all.get_attr("messages").unwrap());
        for case in list(&all.get_attr("cases").unwrap()) {
            let conversation = Conversation {
                messages: messages.clone(),
                ending: ending(&all),
                ..Conversation::default()
            };
            let name = text(&case, "name");
            let pieces = template(&text(&case, "template"), &case).render(&conversation);
            let pieces = pieces.unwrap_or_else(|error| panic!("{name}: {error}"));
            assert_eq!(glued(&pieces), text(&case, "expected"), "{name}");
        }
    }

    fn rendered(source: &str) -> Result<String> {
        let conversation: Vec<Value> =
            serde_json::from_str(r#"[{"role":"user","content":"hi"}]"#).unwrap();
        let conversation = Conversation {
            messages: conversation,
            ..Conversation::default()
        };
        let template = ChatTemplate::compile(source, SpecialTexts::default());
        let template = template.map_err(|reason| Error::invalid("model", reason))?;
        template.render(&conversation).map(|pieces| glued(&pieces))
    }

    #[test]
    fn a_malicious_template_is_stopped() {
        let doubling = format!(
            "{{% set x = 'aaaaaaaa' %}}{}{{{{ x }}}}",
            "{% set x = x ~ x %}".repeat(60)
        );
        let nested = format!("{}1{}", "[".repeat(5000), "]".repeat(5000));
        for (what, source) in [
            (
                "a loop in a loop",
                "{% for a in range(9999) %}{% for b in range(9999) %}x{% endfor %}{% endfor %}",
            ),
            (
                "a macro that calls itself",
                "{% macro a(n) %}{{ a(n + 1) }}{% endmacro %}{{ a(0) }}",
            ),
            (
                "a loop over itself",
                "{% for a in [1] recursive %}{{ loop([1]) }}{% endfor %}",
            ),
            ("a text that doubles", &doubling),
            ("a long text at once", "{{ 'x' * 90000000 }}"),
            (
                "much output",
                "{% for a in range(90000) %}{{ 'x' * 50 }}{% endfor %}",
            ),
            ("a deep expression", &format!("{{{{ {nested} }}}}")),
            ("a file", "{% include '/etc/passwd' %}"),
        ] {
            let error = rendered(source).expect_err(what).to_string();
            assert!(error.len() < 500, "{what}: {error}");
        }
        assert_eq!(rendered("{{ messages[0].content * 3 }}").unwrap(), "hihihi");
    }

    #[test]
    fn a_template_says_why_it_refuses() {
        let error = rendered("{{ raise_exception('only one system message') }}").unwrap_err();
        assert_eq!(error.status(), 400);
        assert!(
            error.to_string().contains("only one system message"),
            "{error}"
        );
        let error = rendered("\n{% if %}").unwrap_err().to_string();
        assert!(error.contains("line 2"), "{error}");
    }

    #[test]
    fn what_transformers_adds_is_there() {
        assert_eq!(
            rendered("a{% generation %}b{%- endgeneration -%} c").unwrap(),
            "abc"
        );
        let year = rendered("{{ strftime_now('%Y') }}").unwrap();
        assert!(year.parse::<u32>().unwrap() >= 2026, "{year}");
        assert_eq!(
            rendered(
                "{% for a in [1,2,3] %}{% if a == 2 %}{% break %}{% endif %}{{ a }}{% endfor %}"
            )
            .unwrap(),
            "1"
        );
        assert_eq!(
            rendered("{{ [1, 'é<'] | tojson }} {{ {'b': 1, 'a': none} | tojson(sort_keys=true) }}")
                .unwrap(),
            r#"[1, "é<"] {"a": null, "b": 1}"#
        );
        assert_eq!(
            rendered("{{ true }} {{ none }} {{ 1.0 }}").unwrap(),
            "True None 1.0"
        );
        assert_eq!(
            rendered("{{ ' Ab '.strip().upper().startswith('A') }}{{ {'a': 1}.get('b', 2) }}")
                .unwrap(),
            "True2"
        );
    }
}
