//! Messages as clients write them → the objects that chat templates read.

use serde::Deserialize;
use utoipa::{
    ToSchema,
    openapi::{
        RefOr,
        schema::{ArrayBuilder, ObjectBuilder, OneOfBuilder, Schema, Type},
    },
};

use crate::{
    engine::generate::template::{Value, json},
    error::{Error, Result},
};

/// One message of a conversation.
#[derive(Debug, Clone, Default, Deserialize, ToSchema)]
#[serde(expecting = "a message: an object with `role` and `content`")]
pub struct Message {
    /// `system`, `developer`, `user`, `assistant`, `tool` or `function`.
    #[schema(value_type = String)]
    role: Role,
    /// A text, or a list of `{"type": "text", "text": …}`; may be null where there are calls.
    #[schema(schema_with = content_schema)]
    content: Option<Content>,
    /// Who speaks, or which function has answered.
    name: Option<String>,
    /// The older form of `tool_calls`, for one: an object with `name` and `arguments`.
    #[schema(value_type = Option<Object>)]
    function_call: Option<FunctionCall>,
    /// The calls that this message of the model made.
    tool_calls: Option<Vec<ToolCall>>,
    /// Which call this is the answer to.
    tool_call_id: Option<String>,
    /// What the model thought before it answered.
    reasoning_content: Option<String>,
    /// Ollama's name of `reasoning_content`.
    thinking: Option<String>,
    /// Ollama's name of `name` in the answer of a function.
    tool_name: Option<String>,
    /// Ollama's pictures, of which no model here sees any.
    #[schema(value_type = Option<Vec<String>>)]
    images: Option<Vec<Value>>,
}

/// Who speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(try_from = "String")]
pub enum Role {
    /// Who wrote the program around the model.
    System,
    /// OpenAI's newer name of it.
    Developer,
    /// Who asks.
    #[default]
    User,
    /// The model.
    Assistant,
    /// A function that was called.
    Tool,
}

impl TryFrom<String> for Role {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        match name.as_str() {
            "system" => Ok(Self::System),
            "developer" => Ok(Self::Developer),
            "user" => Ok(Self::User),
            "assistant" => Ok(Self::Assistant),
            "tool" | "function" | "ipython" => Ok(Self::Tool),
            _ => Err(format!(
                "`{}` is none of `system`, `developer`, `user`, `assistant`, `tool` and `function`",
                crate::api::extract::shorten(&name, 50)
            )),
        }
    }
}

#[derive(Debug, Clone, Deserialize)]
#[serde(untagged, expecting = "expected a text or a list of parts")]
enum Content {
    Text(String),
    Parts(Vec<Part>),
}

/// A part of a message.
#[derive(Debug, Clone, Deserialize)]
struct Part {
    r#type: Option<String>,
    text: Option<String>,
    /// Of a `tool_result`, which Dify's LocalAI plugin sends.
    content: Option<String>,
}

/// A call as a message has it.
#[derive(Debug, Clone, Deserialize, ToSchema)]
pub struct ToolCall {
    /// Names it for its answer.
    id: Option<String>,
    function: FunctionCall,
}

/// A function and what it is called with.
#[derive(Debug, Clone, Deserialize, ToSchema)]
pub struct FunctionCall {
    /// The function.
    name: String,
    /// JSON in a text, or the object itself.
    #[schema(value_type = Option<String>)]
    arguments: Option<Value>,
}

/// How a template wants the arguments of calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ArgumentsAs {
    /// As what their JSON says: most templates.
    Objects,
    /// As JSON in a text: DeepSeek's.
    Texts,
}

/// Whether a template has a role of its own for developers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeveloperAs {
    /// It has.
    Developer,
    /// It has not: they speak as the system.
    System,
}

impl Message {
    /// A message that is nothing but a text.
    pub fn text(role: Role, text: String) -> Self {
        Self {
            role,
            content: Some(Content::Text(text)),
            ..Self::default()
        }
    }

    /// The bytes of its text, more or less.
    pub fn bytes(&self) -> usize {
        match &self.content {
            Some(Content::Text(text)) => text.len(),
            Some(Content::Parts(parts)) => {
                let texts = parts.iter().filter_map(|part| part.text.as_ref());
                texts.map(String::len).sum()
            }
            None => 0,
        }
    }

    /// Whether a template could get into trouble with the arguments of its calls.
    pub fn has_calls(&self) -> bool {
        self.tool_calls.is_some() || self.function_call.is_some()
    }

    /// As templates read it.
    ///
    /// # Errors
    /// When it has what no model here can see.
    pub fn value(&self, developer: DeveloperAs, arguments: ArgumentsAs) -> Result<Value> {
        if self
            .images
            .as_ref()
            .is_some_and(|images| !images.is_empty())
        {
            return Err(unseen("images"));
        }
        let text = |text: &str| Value::from(text);
        let mut pairs = vec![(text("role"), text(self.role_name(developer)))];
        let content = match &self.content {
            None => Value::from(()),
            Some(content) => Value::from(content.text()?),
        };
        pairs.push((text("content"), content));
        let name = self.name.as_ref().or(self.tool_name.as_ref());
        let thoughts = self.reasoning_content.as_ref().or(self.thinking.as_ref());
        for (key, value) in [
            ("name", name),
            ("tool_call_id", self.tool_call_id.as_ref()),
            (
                "reasoning_content",
                thoughts.filter(|text| !text.is_empty()),
            ),
        ] {
            if let Some(value) = value {
                pairs.push((text(key), text(value)));
            }
        }
        let listed = self.tool_calls.iter().flatten();
        let listed = listed.map(|call| (call.id.as_deref(), &call.function));
        let older = self.function_call.iter().map(|call| (None, call));
        let calls: Vec<Value> = listed
            .chain(older)
            .map(|(id, function)| function.value(id, arguments))
            .collect();
        if !calls.is_empty() {
            pairs.push((text("tool_calls"), Value::from(calls)));
        }
        Ok(Value::from_pairs(pairs))
    }

    fn role_name(&self, developer: DeveloperAs) -> &'static str {
        match (self.role, developer) {
            (Role::Developer, DeveloperAs::Developer) => "developer",
            (Role::System | Role::Developer, _) => "system",
            (Role::User, _) => "user",
            (Role::Assistant, _) => "assistant",
            (Role::Tool, _) => "tool",
        }
    }
}

impl FunctionCall {
    fn value(&self, id: Option<&str>, form: ArgumentsAs) -> Value {
        let none = || Value::from_pairs(Vec::<(Value, Value)>::new());
        let given = self.arguments.clone().unwrap_or_else(none);
        let arguments = match (form, given.as_str()) {
            (ArgumentsAs::Objects, Some("")) => none(),
            (ArgumentsAs::Objects, Some(text)) => serde_json::from_str(text).unwrap_or(given),
            (ArgumentsAs::Texts, None) => json::dumps(&given, &json::Layout::default()).into(),
            _ => given,
        };
        let function = [
            (Value::from("name"), Value::from(self.name.as_str())),
            (Value::from("arguments"), arguments),
        ];
        let mut pairs = vec![
            (Value::from("type"), Value::from("function")),
            (Value::from("function"), Value::from_pairs(function)),
        ];
        if let Some(id) = id {
            pairs.push((Value::from("id"), Value::from(id)));
        }
        Value::from_pairs(pairs)
    }
}

impl Content {
    /// The texts of all parts, on lines of their own.
    fn text(&self) -> Result<String> {
        let parts = match self {
            Self::Text(text) => return Ok(text.clone()),
            Self::Parts(parts) => parts,
        };
        let mut texts = Vec::with_capacity(parts.len());
        for part in parts {
            match part.r#type.as_deref() {
                None | Some("text" | "input_text" | "output_text" | "tool_result" | "refusal") => {
                    texts.extend(part.text.as_deref().or(part.content.as_deref()));
                }
                Some(other) => return Err(unseen(&crate::api::extract::shorten(other, 50))),
            }
        }
        Ok(texts.join("\n"))
    }
}

fn unseen(what: &str) -> Error {
    Error::invalid(
        "messages",
        format!("a message has `{what}`; the models here read text only"),
    )
}

fn content_schema() -> RefOr<Schema> {
    let text = || ObjectBuilder::new().schema_type(Type::String);
    let part = ObjectBuilder::new()
        .schema_type(Type::Object)
        .property("type", text().enum_values(Some(["text"])))
        .property("text", text());
    let either = OneOfBuilder::new()
        .item(text())
        .item(ArrayBuilder::new().items(part))
        .item(ObjectBuilder::new().schema_type(Type::Null));
    Schema::OneOf(either.build()).into()
}
