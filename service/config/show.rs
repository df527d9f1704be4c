//! The configuration in force, as a file that would give the same one. Secrets are `***`.

use std::fmt::Write;

use toml::{Table, Value};

use super::layers::Layers;
use super::settings::{MODEL, SETTINGS};
use super::upstream::UPSTREAM;

/// All options as TOML, each with where its value came from.
pub fn show(layers: &Layers) -> String {
    let mut text = String::new();
    let mut sections: Vec<&str> = SETTINGS
        .iter()
        .filter_map(|setting| Some(setting.key.split_once('.')?.0))
        .collect();
    sections.sort_unstable();
    sections.dedup();
    for section in sections {
        let _ = writeln!(text, "[{section}]");
        for setting in SETTINGS {
            let key = setting.key.split_once('.').filter(|(of, _)| *of == section);
            let (Some((_, key)), Some((value, origin))) = (key, layers.get(setting.key)) else {
                continue;
            };
            let shown = if setting.is_secret() {
                hide(value)
            } else {
                value.clone()
            };
            let _ = writeln!(text, "{:<40} # {origin}", format!("{key} = {shown}"));
        }
        text.push('\n');
    }
    for (key, heading) in [(MODEL, "[[model]]"), (UPSTREAM, "[[upstream]]")] {
        let Some((tables, origin)) = layers.get(key) else {
            continue;
        };
        let tables = tables.as_array().into_iter().flatten();
        for table in tables.filter_map(Value::as_table) {
            let _ = writeln!(text, "{heading:<40} # {origin}");
            text.push_str(&fields(table));
            text.push('\n');
        }
    }
    text.truncate(text.trim_end().len());
    text.push('\n');
    text
}

fn fields(table: &Table) -> String {
    // The id identifies the table, so it goes first whatever the alphabet says.
    let (first, rest): (Vec<_>, Vec<_>) = table.iter().partition(|(key, _)| *key == "id");
    first
        .into_iter()
        .chain(rest)
        .map(|(key, value)| match &**key {
            "api_key" => format!("{key} = {}\n", hide(value)),
            _ => format!("{key} = {value}\n"),
        })
        .collect()
}

fn hide(value: &Value) -> Value {
    match value {
        Value::Array(values) => Value::Array(values.iter().map(hide).collect()),
        Value::String(text) if text.is_empty() => value.clone(),
        _ => Value::String("***".into()),
    }
}
