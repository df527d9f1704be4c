//! Reads a user's file against the defaults: every key must be known and of the default's type.
//! Messages name the line; they never quote it, as it may hold a key.

use std::path::Path;

use toml::de::{DeTable, DeValue};
use toml::{Spanned, Table, Value};

use super::Error;
use super::layers::Layers;
use super::settings::{MODEL, SETTINGS, Setting, setting};
use super::upstream::{RawUpstream, UPSTREAM};

/// The settings that a file gives, as typed; `[[model]]` tables are filled up with defaults.
pub fn read(
    path: &Path,
    text: &str,
    defaults: &Layers,
) -> Result<Vec<(&'static str, Value)>, Error> {
    let place = Place { path, text };
    let document = DeTable::parse(text)
        .map_err(|error| place.error(error.span().map_or(0, |span| span.start), error.message()))?;
    let plain: Table = toml::from_str(text).map_err(|error| place.error(0, error.message()))?;

    let mut given = Vec::new();
    for (name, value) in document.get_ref() {
        let section = name.get_ref().as_ref();
        if section == MODEL {
            check_models(&place, value, defaults)?;
            given.push((MODEL, fill_models(&plain[MODEL], defaults)));
            continue;
        }
        if section == UPSTREAM {
            let tables: Result<Vec<RawUpstream>, _> = plain[UPSTREAM].clone().try_into();
            tables.map_err(|error| place.error(value.span().start, error.message()))?;
            given.push((UPSTREAM, plain[UPSTREAM].clone()));
            continue;
        }
        let keys = keys_of(section);
        if keys.is_empty() {
            return Err(place.unknown(name, "", sections()));
        }
        let Some(table) = value.get_ref().as_table() else {
            return Err(place.wrong_type(value, section, "a table"));
        };
        for (name, value) in table {
            let key = name.get_ref().as_ref();
            let setting = setting(&format!("{section}.{key}"))
                .ok_or_else(|| place.unknown(name, section, keys.iter().copied()))?;
            let default = defaults.get(setting.key).map(|(default, _)| default);
            check_type(&place, setting.key, value, default)?;
            given.push((setting.key, plain[section][key].clone()));
        }
    }
    Ok(given)
}

/// The known word that a mistyped one most resembles, if any does.
pub fn nearest<'a>(typed: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let score = |word: &str| (strsim::jaro_winkler(typed, word) * 1000.0) as u32;
    known
        .map(|word| (score(word), word))
        .filter(|&(score, _)| score >= 800)
        .max()
        .map(|best| best.1)
}

/// A file and its text, for messages.
struct Place<'a> {
    path: &'a Path,
    text: &'a str,
}

impl Place<'_> {
    fn error(&self, offset: usize, message: &str) -> Error {
        let before = self.text.get(..offset).unwrap_or_default();
        let line = 1 + before.matches('\n').count();
        Error::new(format!("{}, line {line}: {message}", self.path.display()))
    }

    fn unknown<'k>(
        &self,
        name: &Spanned<std::borrow::Cow<'_, str>>,
        section: &str,
        known: impl IntoIterator<Item = &'k str>,
    ) -> Error {
        let known: Vec<&str> = known.into_iter().collect();
        let key = name.get_ref().as_ref();
        let at = if section.is_empty() {
            String::new()
        } else {
            format!(" in `[{section}]`")
        };
        let error = self.error(name.span().start, &format!("unknown key `{key}`{at}"));
        let elsewhere = |setting: &&Setting| setting.key.ends_with(&format!(".{key}"));
        if let Some((section, _)) = SETTINGS
            .iter()
            .find(elsewhere)
            .and_then(|setting| setting.key.split_once('.'))
        {
            return error.with_hint(format!("`{key}` belongs under `[{section}]`"));
        }
        let hint = match nearest(key, known.iter().copied()) {
            Some(meant) => format!("did you mean `{meant}`?"),
            None => format!("known here: {}", known.join(", ")),
        };
        error.with_hint(hint)
    }

    fn wrong_type(&self, value: &Spanned<DeValue<'_>>, key: &str, wanted: &str) -> Error {
        let found = value.get_ref().type_str();
        self.error(
            value.span().start,
            &format!("`{key}` must be {wanted}, but is of type {found}"),
        )
    }
}

fn check_type(
    place: &Place<'_>,
    key: &str,
    value: &Spanned<DeValue<'_>>,
    default: Option<&Value>,
) -> Result<(), Error> {
    let strings = |values: &toml::de::DeArray<'_>| values.iter().all(|v| v.get_ref().is_str());
    let (fits, wanted) = match default {
        Some(Value::Integer(_)) => (value.get_ref().is_integer(), "a whole number"),
        Some(Value::Boolean(_)) => (value.get_ref().is_bool(), "`true` or `false`"),
        Some(Value::Array(_)) => (
            value.get_ref().as_array().is_some_and(strings),
            "a list of texts, as in `[\"a\"]`",
        ),
        _ => (value.get_ref().is_str(), "a text in quotes"),
    };
    if fits {
        Ok(())
    } else {
        Err(place.wrong_type(value, key, wanted))
    }
}

fn check_models(
    place: &Place<'_>,
    models: &Spanned<DeValue<'_>>,
    defaults: &Layers,
) -> Result<(), Error> {
    let template = defaults.model_template();
    let wanted = "written as `[[model]]` tables";
    let Some(list) = models.get_ref().as_array() else {
        return Err(place.wrong_type(models, MODEL, wanted));
    };
    for model in list {
        let Some(table) = model.get_ref().as_table() else {
            return Err(place.wrong_type(model, MODEL, wanted));
        };
        if !table.contains_key("id") {
            return Err(place
                .error(model.span().start, "a `[[model]]` has no `id`")
                .with_hint("add its hub id or directory, as in `id = \"BAAI/bge-m3\"`"));
        }
        for (name, value) in table {
            let key = name.get_ref().as_ref();
            if !template.contains_key(key) {
                return Err(place.unknown(name, MODEL, template.keys().map(String::as_str)));
            }
            check_type(place, key, value, template.get(key))?;
        }
    }
    Ok(())
}

fn fill_models(models: &Value, defaults: &Layers) -> Value {
    let fill = |model: &Value| {
        let mut table = defaults.model_template().clone();
        table.extend(model.as_table().cloned().unwrap_or_default());
        Value::Table(table)
    };
    Value::Array(
        models
            .as_array()
            .map(|list| list.iter().map(fill).collect())
            .unwrap_or_default(),
    )
}

fn keys_of(section: &str) -> Vec<&'static str> {
    let split = SETTINGS
        .iter()
        .filter_map(|setting| setting.key.split_once('.'));
    split
        .filter(|(of, _)| *of == section)
        .map(|(_, key)| key)
        .collect()
}

fn sections() -> Vec<&'static str> {
    let name = |setting: &'static Setting| setting.key.split('.').next();
    let mut names: Vec<&str> = SETTINGS.iter().filter_map(name).collect();
    names.sort_unstable();
    names.dedup();
    names
}
