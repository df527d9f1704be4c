//! Python's `json.dumps`, whose spaces models were trained on.

use minijinja::{Value, value::ValueKind};

/// How it is laid out.
#[derive(Debug, Clone, Default)]
pub struct Layout {
    /// Spaces for each level, on lines of their own.
    pub indent: Option<usize>,
    /// Whether objects are in the order of their names, not their own.
    pub sort_keys: bool,
    /// What stands between items.
    pub item: Option<String>,
    /// What stands between a name and its value.
    pub key: Option<String>,
}

/// Values may nest so deep: far from what the stack of a thread holds.
const MAX_DEPTH: usize = 128;

/// A value as JSON. What JSON does not have is a text, and what nests too deep is null.
pub fn dumps(value: &Value, layout: &Layout) -> String {
    let mut writer = Writer {
        text: String::new(),
        layout,
    };
    writer.value(value, 0);
    writer.text
}

/// A value as JSON without a space, for machines.
pub fn compact(value: &Value) -> String {
    let layout = Layout {
        item: Some(",".into()),
        key: Some(":".into()),
        ..Layout::default()
    };
    dumps(value, &layout)
}

struct Writer<'a> {
    text: String,
    layout: &'a Layout,
}

impl Writer<'_> {
    fn value(&mut self, value: &Value, depth: usize) {
        match value.kind() {
            _ if depth > MAX_DEPTH => self.text.push_str("null"),
            ValueKind::Undefined | ValueKind::None => self.text.push_str("null"),
            ValueKind::Bool => self
                .text
                .push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => self.text.push_str(&number(value)),
            ValueKind::Seq | ValueKind::Iterable => {
                let items: Vec<Value> = value.try_iter().into_iter().flatten().collect();
                self.list(['[', ']'], depth, &items, Self::value);
            }
            ValueKind::Map => {
                let keys = value.try_iter().into_iter().flatten();
                let mut pairs: Vec<(String, Value)> = keys
                    .map(|key| (key.to_string(), value.get_item(&key).unwrap_or_default()))
                    .collect();
                if self.layout.sort_keys {
                    pairs.sort_by(|a, b| a.0.cmp(&b.0));
                }
                self.list(['{', '}'], depth, &pairs, |writer, (name, value), depth| {
                    writer.string(name);
                    let colon = writer.layout.key.as_deref().unwrap_or(": ");
                    writer.text.push_str(colon);
                    writer.value(value, depth);
                });
            }
            _ => match value.as_str() {
                Some(text) => self.string(text),
                None => self.string(&value.to_string()),
            },
        }
    }

    fn list<T>(
        &mut self,
        brackets: [char; 2],
        depth: usize,
        items: &[T],
        write: impl Fn(&mut Self, &T, usize),
    ) {
        self.text.push(brackets[0]);
        // With lines of their own, Python leaves no space at the end of any.
        let lines = self.layout.indent.map(|_| ",");
        let comma = self.layout.item.as_deref().or(lines).unwrap_or(", ");
        for (index, item) in items.iter().enumerate() {
            if index > 0 {
                self.text.push_str(comma);
            }
            self.line(depth + 1);
            write(self, item, depth + 1);
        }
        if !items.is_empty() {
            self.line(depth);
        }
        self.text.push(brackets[1]);
    }

    fn line(&mut self, depth: usize) {
        if let Some(indent) = self.layout.indent {
            self.text.push('\n');
            self.text.extend(std::iter::repeat_n(' ', indent * depth));
        }
    }

    fn string(&mut self, text: &str) {
        self.text.push('"');
        for character in text.chars() {
            match character {
                '"' => self.text.push_str("\\\""),
                '\\' => self.text.push_str("\\\\"),
                '\n' => self.text.push_str("\\n"),
                '\r' => self.text.push_str("\\r"),
                '\t' => self.text.push_str("\\t"),
                '\u{8}' => self.text.push_str("\\b"),
                '\u{c}' => self.text.push_str("\\f"),
                c if c < ' ' => self.text.push_str(&format!("\\u{:04x}", u32::from(c))),
                c => self.text.push(c),
            }
        }
        self.text.push('"');
    }
}

/// A number as Python writes it: whole floats keep their `.0`.
fn number(value: &Value) -> String {
    if value.is_integer() {
        return value.to_string();
    }
    match f64::try_from(value.clone()) {
        Ok(number) if number.is_finite() => format!("{number:?}"),
        _ => "null".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_written_as_python_writes_them() {
        let value: Value = serde_json::from_str(
            r#"{"b":[1,2.0,-0.5],"a":{},"c":[],"d":"é\"\\\n\u0001<&","e":null,"f":true}"#,
        )
        .unwrap();
        assert_eq!(
            dumps(&value, &Layout::default()),
            r#"{"b": [1, 2.0, -0.5], "a": {}, "c": [], "d": "é\"\\\n\u0001<&", "e": null, "f": true}"#
        );
        let lines = Layout {
            indent: Some(2),
            sort_keys: true,
            ..Layout::default()
        };
        assert!(dumps(&value, &lines).starts_with("{\n  \"a\": {},\n  \"b\": [\n    1,\n"));
        assert!(compact(&value).starts_with(r#"{"b":[1,2.0,-0.5],"a":{}"#));
    }

    #[test]
    fn what_nests_without_end_is_cut_off() {
        let deep = (0..1000).fold(Value::from(1), |inner, _| [inner].into_iter().collect());
        let text = compact(&deep);
        assert_eq!(text.matches('[').count(), MAX_DEPTH + 1, "{text}");
        assert!(text.contains("[null]"));
    }
}
