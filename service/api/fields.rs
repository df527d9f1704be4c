//! The small fields that several dialects share: the model's name, whole numbers with an error
//! for people, and truncation.

use std::fmt;

use retort_models::TruncationSide;
use serde::{Deserialize, Deserializer, de};
use utoipa::openapi::{
    RefOr,
    schema::{ObjectBuilder, OneOfBuilder, Schema, Type},
};

use super::contested::UNNAMED_MODEL;
use crate::{
    engine::request::Truncate,
    error::{Error, Result},
};

/// Names are short; an error that repeats one must be, too.
const MAX_MODEL_CHARS: usize = 256;

/// The model that is named; an empty name is none.
///
/// # Errors
/// When it is longer than any name.
pub fn named_model(model: Option<String>) -> Result<Option<String>> {
    let named = model.filter(|name| !name.is_empty() && name != UNNAMED_MODEL);
    if named
        .as_ref()
        .is_some_and(|name| name.len() > MAX_MODEL_CHARS)
    {
        return Err(Error::invalid(
            "model",
            format!("`model` is longer than {MAX_MODEL_CHARS} bytes; no model has such a name"),
        ));
    }
    Ok(named)
}

/// An integer, of which no message says `i64`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WholeNumber(pub i64);

impl WholeNumber {
    /// The number as a count.
    ///
    /// # Errors
    /// When it is below `least`.
    pub fn at_least(self, least: i64, field: &'static str) -> Result<usize> {
        if self.0 < least {
            let message = format!("`{field}` is `{}`; it must be at least {least}", self.0);
            return Err(Error::invalid(field, message));
        }
        Ok(usize::try_from(self.0).unwrap_or(usize::MAX))
    }
}

impl<'de> Deserialize<'de> for WholeNumber {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = WholeNumber;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a whole number")
            }

            fn visit_i64<E: de::Error>(self, number: i64) -> Result<WholeNumber, E> {
                Ok(WholeNumber(number))
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<WholeNumber, E> {
                // What does not fit is above every limit that it will meet.
                Ok(WholeNumber(i64::try_from(number).unwrap_or(i64::MAX)))
            }
        }
        json.deserialize_any(Visitor)
    }
}

/// What `truncate` says: a boolean (Jina) or a word in any case (NIM, Cohere).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cut(TruncationSide);

impl<'de> Deserialize<'de> for Cut {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Cut;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("`true`, `false`, `\"END\"`, `\"START\"` or `\"NONE\"`")
            }

            fn visit_bool<E: de::Error>(self, cut: bool) -> Result<Cut, E> {
                Ok(Cut(if cut {
                    TruncationSide::End
                } else {
                    TruncationSide::Refuse
                }))
            }

            fn visit_str<E: de::Error>(self, word: &str) -> Result<Cut, E> {
                match word.to_ascii_uppercase().as_str() {
                    "END" => Ok(Cut(TruncationSide::End)),
                    "START" => Ok(Cut(TruncationSide::Start)),
                    "NONE" => Ok(Cut(TruncationSide::Refuse)),
                    _ => Err(E::invalid_value(de::Unexpected::Str(word), &self)),
                }
            }
        }
        json.deserialize_any(Visitor)
    }
}

/// How a request wants its long inputs handled: by default, cut from the right to the model's
/// maximum. `truncate` says which end, `truncate_prompt_tokens` to how many tokens; together they
/// do both, so that `NONE` with a number refuses what is longer than that.
pub fn truncate(max_tokens: Option<WholeNumber>, cut: Option<Cut>) -> Result<Truncate> {
    let max_tokens = token_limit(max_tokens, "truncate_prompt_tokens")?;
    let side = cut.map_or(Truncate::default().side, |Cut(side)| side);
    Ok(Truncate { max_tokens, side })
}

/// A number of tokens to keep, of which -1 means as many as fit.
///
/// # Errors
/// When it is anything else below 1.
pub fn token_limit(tokens: Option<WholeNumber>, field: &'static str) -> Result<Option<usize>> {
    match tokens {
        None | Some(WholeNumber(-1)) => Ok(None),
        Some(WholeNumber(number)) if number < 1 => {
            let message = format!("`{field}` is `{number}`; it must be -1 or at least 1");
            Err(Error::invalid(field, message))
        }
        Some(number) => number.at_least(1, field).map(Some),
    }
}

/// The description of [`Cut`].
pub fn cut_schema() -> RefOr<Schema> {
    let word = ObjectBuilder::new()
        .schema_type(Type::String)
        .enum_values(Some(["END", "START", "NONE"]));
    let schema = OneOfBuilder::new()
        .item(ObjectBuilder::new().schema_type(Type::Boolean))
        .item(word);
    Schema::OneOf(schema.build()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn truncation_is_written_in_many_ways() {
        use TruncationSide::{End, Refuse, Start};
        for (json, side) in [
            ("true", End),
            ("false", Refuse),
            (r#""END""#, End),
            (r#""end""#, End),
            (r#""Start""#, Start),
            (r#""NONE""#, Refuse),
        ] {
            let cut: Cut = serde_json::from_str(json).unwrap();
            assert_eq!(truncate(None, Some(cut)).unwrap().side, side, "{json}");
        }
        let error = serde_json::from_str::<Cut>(r#""left""#)
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("\"left\"") && error.contains("START"),
            "{error}"
        );
    }

    #[test]
    fn the_number_of_tokens_is_at_least_one_or_minus_one() {
        let most = |n| truncate(Some(WholeNumber(n)), None).map(|t| t.max_tokens);
        assert_eq!(most(5).unwrap(), Some(5));
        assert_eq!(most(-1).unwrap(), None);
        assert!(most(0).is_err());
        assert!(most(-2).is_err());
    }

    #[test]
    fn numbers_are_whole() {
        let number = |json| serde_json::from_str::<WholeNumber>(json);
        assert_eq!(number("7").unwrap(), WholeNumber(7));
        assert_eq!(
            number("18446744073709551615").unwrap(),
            WholeNumber(i64::MAX)
        );
        for wrong in ["1.5", "true", "\"7\"", "[]", "1e3"] {
            let error = number(wrong).unwrap_err().to_string();
            assert!(error.contains("expected a whole number"), "{error}");
        }
    }
}
