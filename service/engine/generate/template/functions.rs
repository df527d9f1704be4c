//! What `transformers` lets templates call beyond Jinja itself.

use minijinja::{
    Environment, Error, ErrorKind, State, Value,
    value::{Kwargs, ValueKind},
};

use super::json::{self, Layout};
use crate::unix_time;

/// Adds them.
pub fn add(environment: &mut Environment<'static>) {
    environment.add_filter("tojson", tojson);
    environment.add_function("raise_exception", raise_exception);
    environment.add_function("strftime_now", strftime_now);
    environment.set_formatter(|output, state, value| match value.kind() {
        // As Python writes them.
        ValueKind::None => output.write_str("None").map_err(Error::from),
        ValueKind::Bool => {
            let text = if value.is_true() { "True" } else { "False" };
            output.write_str(text).map_err(Error::from)
        }
        _ => minijinja::escape_formatter(output, state, value),
    });
}

/// Python's `json.dumps` with `ensure_ascii=False`, as templates of checkpoints expect it; Jinja's
/// own filter escapes what HTML cannot have.
#[expect(
    clippy::needless_pass_by_value,
    reason = "Jinja hands the options over"
)]
fn tojson(state: &State<'_, '_>, value: &Value, options: Kwargs) -> Result<String, Error> {
    let indent: Option<usize> = options.get("indent")?;
    let sort_keys: Option<bool> = options.get("sort_keys")?;
    let _: Option<bool> = options.get("ensure_ascii")?;
    let separators: Option<Value> = options.get("separators")?;
    options.assert_all_used()?;
    let separator = |at: usize| {
        let pair = separators.as_ref()?;
        pair.get_item_by_index(at).ok()?.as_str().map(str::to_owned)
    };
    let layout = Layout {
        indent: indent.map(|width| width.min(16)),
        sort_keys: sort_keys == Some(true),
        item: separator(0),
        key: separator(1),
    };
    let text = json::dumps(value, &layout);
    state.consume_fuel(text.len() as u64 / 64)?;
    Ok(text)
}

/// A template's way to refuse messages.
fn raise_exception(message: String) -> Result<Value, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, message))
}

/// The date, in UTC: the server's place says nothing about the reader's.
fn strftime_now(format: &str) -> String {
    unix_time::strftime(format, unix_time::now().as_secs())
}

/// `{% generation %}` marks what a model is trained on and means nothing here.
pub fn without_generation_tags(source: &str) -> String {
    let mut text = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find("{%") {
        let Some(length) = rest[start..].find("%}") else {
            break;
        };
        let tag = &rest[start..start + length + 2];
        text.push_str(&rest[..start]);
        let word = tag.trim_matches(['{', '%', '}', '-', '+', ' ']);
        match word {
            "generation" => text.push_str(&tag.replace(word, "if true")),
            "endgeneration" => text.push_str(&tag.replace(word, "endif")),
            _ => text.push_str(tag),
        }
        rest = &rest[start + length + 2..];
    }
    text + rest
}
