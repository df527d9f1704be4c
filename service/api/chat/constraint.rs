//! What an answer must look like: JSON, JSON of a schema, or a call of a function.

use std::collections::BTreeSet;

use serde::Deserialize;

use super::calls::CallForm;
use crate::{
    engine::{
        generate::{
            template::{Value, json},
            with_short_gaps,
        },
        request::Grammar,
    },
    error::{Error, Result},
};

/// Functions beyond any that a model could choose from.
const MAX_TOOLS: usize = 256;

/// What keeps an object to the properties that it names.
const NO_MORE: &str = r#""additionalProperties":false"#;

/// The form of an answer.
#[derive(Debug, Clone, Default, PartialEq)]
pub enum Format {
    /// Any.
    #[default]
    Text,
    /// Some JSON object.
    JsonObject,
    /// JSON that this schema describes.
    JsonSchema(Value),
}

/// `response_format`.
#[derive(Debug, Clone, Deserialize)]
#[serde(expecting = "an object with `type`")]
pub struct ResponseFormat {
    r#type: String,
    json_schema: Option<NamedSchema>,
    /// llama.cpp's place for it.
    schema: Option<Value>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(expecting = "an object with `schema`")]
struct NamedSchema {
    schema: Option<Value>,
}

impl ResponseFormat {
    /// What is meant.
    ///
    /// # Errors
    /// When the type is unknown, or a schema is missing.
    pub fn format(self) -> Result<Format> {
        let schema = self.json_schema.and_then(|named| named.schema);
        let schema = schema.or(self.schema).filter(|schema| !schema.is_none());
        match (self.r#type.as_str(), schema) {
            ("text", _) => Ok(Format::Text),
            ("json_object", None) => Ok(Format::JsonObject),
            ("json_object" | "json_schema", Some(schema)) => Ok(Format::JsonSchema(schema)),
            ("json_schema", None) => Err(Error::invalid(
                "response_format",
                "`response_format.json_schema.schema` is missing",
            )),
            (other, _) => Err(Error::invalid(
                "response_format",
                format!(
                    "`response_format.type` is `{}`; it must be `text`, `json_object` or \
                     `json_schema`",
                    crate::api::extract::shorten(other, 50)
                ),
            )),
        }
    }
}

impl Format {
    /// The grammar of such an answer.
    pub fn grammar(&self) -> Option<Grammar> {
        match self {
            Self::Text => None,
            Self::JsonObject => Some(Grammar::JsonObject),
            Self::JsonSchema(schema) => Some(Grammar::JsonSchema(json::compact(schema))),
        }
    }
}

/// `tool_choice`: whether the model calls functions.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Value")]
pub enum ToolChoice {
    /// As it likes.
    #[default]
    Auto,
    /// It is not told of any.
    Never,
    /// It must, whichever.
    Required,
    /// It must, this one.
    Named(String),
}

impl TryFrom<Value> for ToolChoice {
    type Error = String;

    fn try_from(value: Value) -> Result<Self, String> {
        let wrong = || {
            "expected `auto`, `none`, `required` or `{\"type\": \"function\", \"function\": \
             {\"name\": …}}`"
                .to_owned()
        };
        match value.as_str() {
            Some("auto" | "") => Ok(Self::Auto),
            Some("none") => Ok(Self::Never),
            Some("required" | "any") => Ok(Self::Required),
            Some(_) => Err(wrong()),
            None if value.is_none() => Ok(Self::Auto),
            None => {
                let function = value.get_attr("function").map_err(|_| wrong())?;
                let name = function.get_attr("name").map_err(|_| wrong())?;
                let name = name.as_str().ok_or_else(wrong)?;
                Ok(Self::Named(name.to_owned()))
            }
        }
    }
}

/// `function_call`, the older form of [`ToolChoice`].
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Value")]
pub struct FunctionChoice(ToolChoice);

impl TryFrom<Value> for FunctionChoice {
    type Error = String;

    fn try_from(value: Value) -> Result<Self, String> {
        let wrong = || "expected `auto`, `none` or `{\"name\": …}`".to_owned();
        match value.as_str() {
            Some("auto" | "") => Ok(Self(ToolChoice::Auto)),
            Some("none") => Ok(Self(ToolChoice::Never)),
            Some(_) => Err(wrong()),
            None => {
                let name = value.get_attr("name").map_err(|_| wrong())?;
                let name = name.as_str().ok_or_else(wrong)?;
                Ok(Self(ToolChoice::Named(name.to_owned())))
            }
        }
    }
}

impl FunctionChoice {
    /// The newer form.
    pub fn into_choice(self) -> ToolChoice {
        self.0
    }
}

/// The functions of a request, by name.
///
/// # Errors
/// When one has no name, or there are too many.
pub fn names(tools: &[Value]) -> Result<BTreeSet<String>> {
    if tools.len() > MAX_TOOLS {
        let count = tools.len();
        return Err(Error::invalid(
            "tools",
            format!("`tools` has {count} functions, more than the limit of {MAX_TOOLS}"),
        ));
    }
    let name = |(index, tool): (usize, &Value)| {
        let name = tool.get_attr("function").and_then(|f| f.get_attr("name"));
        let name = name.ok().and_then(|name| name.as_str().map(str::to_owned));
        name.filter(|name| !name.is_empty()).ok_or_else(|| {
            Error::invalid(
                "tools",
                format!(
                    "`tools[{index}]` has no name; a function is `{{\"type\": \"function\", \
                     \"function\": {{\"name\": …, \"parameters\": …}}}}`"
                ),
            )
        })
    };
    tools.iter().enumerate().map(name).collect()
}

/// The grammar of an answer that is nothing but calls of these functions.
///
/// # Errors
/// When the chosen function is none of them.
pub fn must_call(choice: &ToolChoice, tools: &[Value], form: CallForm) -> Result<Option<Grammar>> {
    let wanted = match choice {
        ToolChoice::Auto | ToolChoice::Never => return Ok(None),
        ToolChoice::Required => None,
        ToolChoice::Named(name) => Some(name.as_str()),
    };
    let key = match form {
        CallForm::Tagged => "arguments",
        CallForm::Bare => "parameters",
    };
    let mut forms = Vec::new();
    for tool in tools {
        let function = tool.get_attr("function").unwrap_or_default();
        let name = function.get_attr("name").unwrap_or_default();
        if wanted.is_some_and(|wanted| name.as_str() != Some(wanted)) {
            continue;
        }
        let schema = function.get_attr("parameters").unwrap_or_default();
        let parameters = match schema.is_undefined() || schema.is_none() {
            true => r#"{"type":"object"}"#.to_owned(),
            false => json::compact(&schema),
        };
        let properties = format!(
            r#""name":{{"const":{}}},"{key}":{parameters}"#,
            json::compact(&name)
        );
        let required = format!(r#""required":["name","{key}"]"#);
        forms.push(format!(
            r#"{{"type":"object","properties":{{{properties}}},{required},{NO_MORE}}}"#,
        ));
    }
    if forms.is_empty() {
        let name = wanted.unwrap_or_default();
        return Err(Error::invalid(
            "tool_choice",
            format!(
                "`tool_choice` wants the function `{}`, which `tools` does not have",
                crate::api::extract::shorten(name, 100)
            ),
        ));
    }
    let schema = format!(r#"{{"anyOf":[{}]}}"#, forms.join(","));
    Ok(Some(match form {
        CallForm::Bare => Grammar::JsonSchema(schema),
        CallForm::Tagged => Grammar::Lark(format!(
            "start: \"<tool_call>\\n\" call \"\\n</tool_call>\"\ncall: %json {}\n",
            with_short_gaps(&schema)
        )),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(json: &str) -> Value {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn formats_are_read() {
        let format = |json: &str| {
            serde_json::from_str::<ResponseFormat>(json)
                .unwrap()
                .format()
        };
        assert_eq!(format(r#"{"type":"text"}"#).unwrap(), Format::Text);
        assert_eq!(
            format(r#"{"type":"json_object"}"#).unwrap(),
            Format::JsonObject
        );
        let schema = r#"{"type":"json_schema","json_schema":{"name":"a","schema":{"z":1,"a":2}}}"#;
        let grammar = format(schema).unwrap().grammar();
        assert_eq!(
            grammar,
            Some(Grammar::JsonSchema(r#"{"z":1,"a":2}"#.into()))
        );
        for wrong in [r#"{"type":"json_schema"}"#, r#"{"type":"yaml"}"#] {
            assert!(format(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn choices_are_read() {
        let choice = |json: &str| serde_json::from_str::<ToolChoice>(json).ok();
        assert_eq!(choice("\"auto\""), Some(ToolChoice::Auto));
        assert_eq!(choice("\"none\""), Some(ToolChoice::Never));
        let named = r#"{"type":"function","function":{"name":"f"}}"#;
        assert_eq!(choice(named), Some(ToolChoice::Named("f".into())));
        for wrong in ["\"f\"", "5", "{}", "[]", r#"{"function":{"name":5}}"#] {
            assert_eq!(choice(wrong), None, "{wrong}");
        }
        let older = |json: &str| {
            let choice = serde_json::from_str::<FunctionChoice>(json).ok();
            choice.map(FunctionChoice::into_choice)
        };
        assert_eq!(older("\"auto\""), Some(ToolChoice::Auto));
        assert_eq!(older("\"none\""), Some(ToolChoice::Never));
        assert_eq!(
            older(r#"{"name":"f"}"#),
            Some(ToolChoice::Named("f".into()))
        );
        for wrong in ["\"required\"", "\"f\"", "5", "{}", r#"{"name":5}"#] {
            assert_eq!(older(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_required_call_is_a_grammar() {
        let tools = [
            value(
                r#"{"type":"function","function":{"name":"a\"b","parameters":{"type":"object"}}}"#,
            ),
            value(r#"{"type":"function","function":{"name":"time"}}"#),
        ];
        assert_eq!(names(&tools).unwrap().len(), 2);
        let grammar = |choice, form| must_call(choice, &tools, form).unwrap();
        assert_eq!(grammar(&ToolChoice::Auto, CallForm::Tagged), None);
        let Some(Grammar::JsonSchema(schema)) = grammar(&ToolChoice::Required, CallForm::Bare)
        else {
            panic!("a schema");
        };
        let schema = serde_json::from_str::<serde_json::Value>(&schema).unwrap();
        assert_eq!(schema["anyOf"].as_array().unwrap().len(), 2);
        assert_eq!(schema["anyOf"][0]["properties"]["name"]["const"], "a\"b");
        let time = ToolChoice::Named("time".into());
        let Some(Grammar::Lark(grammar)) = grammar(&time, CallForm::Tagged) else {
            panic!("a grammar");
        };
        assert!(
            grammar.starts_with("start: \"<tool_call>\\n\" call"),
            "{grammar}"
        );
        assert!(must_call(&ToolChoice::Named("x".into()), &tools, CallForm::Bare).is_err());
        assert!(names(&[value("{}")]).is_err());
    }
}
