//! What was typed, layer over layer: each setting's value and which layer gave it. Types are
//! checked here, against the defaults; what a value means is checked in `validate.rs`.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use toml::{Table, Value};

use super::settings::{FILE_VARIABLES, MODEL, OTHER_VARIABLES, SETTINGS, Setting};
use super::{Environment, Error, file};

/// Where the value in force came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// The compiled-in `config.toml`.
    Default,
    /// A user's file.
    File(PathBuf),
    /// A variable of the environment, by name.
    Variable(&'static str),
    /// A flag, by name without dashes.
    Flag(&'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Variable(name) => f.write_str(name),
            Self::Flag(name) => write!(f, "--{name}"),
        }
    }
}

/// A flag as it was typed.
#[derive(Clone)]
pub struct Typed {
    /// Which setting.
    pub setting: &'static Setting,
    /// What was typed, once per use of the flag.
    pub values: Vec<String>,
}

/// The value of every setting, and its origin. No `Debug`: the values may be secrets.
pub struct Layers {
    values: BTreeMap<&'static str, (Value, Origin)>,
    model_template: Table,
}

impl Layers {
    /// The lowest layer, from the text of `config.toml`.
    pub fn defaults(text: &str) -> Result<Self, Error> {
        let broken = |what: &str| Error::new(format!("the compiled-in config.toml {what}"));
        let table: Table = text.parse().map_err(|_| broken("is not TOML"))?;
        let mut values = BTreeMap::new();
        for setting in SETTINGS {
            let value = find(&table, setting.key)
                .ok_or_else(|| broken(&format!("lacks `{}`", setting.key)))?;
            values.insert(setting.key, (value.clone(), Origin::Default));
        }
        let first = table[MODEL].get(0).and_then(Value::as_table);
        let mut model_template = first.ok_or_else(|| broken("has no model"))?.clone();
        model_template.insert("id".into(), Value::String(String::new()));
        Ok(Self {
            values,
            model_template,
        })
    }

    /// Lays a user's file over what is there.
    pub fn apply_file(&mut self, path: &Path, text: &str) -> Result<(), Error> {
        for (key, value) in file::read(path, text, self)? {
            self.values.insert(key, (value, Origin::File(path.into())));
        }
        Ok(())
    }

    /// Lays the environment over what is there. Gives warnings about variables that look like
    /// ours and are not.
    pub fn apply_environment(&mut self, environment: &Environment) -> Result<Vec<String>, Error> {
        for setting in SETTINGS {
            let set = setting
                .variables
                .iter()
                .find_map(|&name| Some((name, environment.get(name)?)));
            if let Some((name, text)) = set {
                self.apply_text(setting, &[text.into()], Origin::Variable(name))?;
            }
            let file = FILE_VARIABLES.iter().find(|(key, _)| *key == setting.key);
            let file = file.and_then(|&(_, name)| Some((name, environment.get(name)?)));
            match (file, set) {
                (None, _) => {}
                (Some((file, _)), Some((name, _))) => return Err(both(file, name)),
                (Some((name, path)), None) => {
                    let text = secret_in(name, Path::new(path))?;
                    self.apply_text(setting, &[text], Origin::Variable(name))?;
                }
            }
        }
        Ok(unknown_variables(environment))
    }

    /// Lays flags over what is there.
    pub fn apply_flags(&mut self, flags: &[Typed]) -> Result<(), Error> {
        for Typed { setting, values } in flags {
            self.apply_text(setting, values, Origin::Flag(setting.flag))?;
        }
        Ok(())
    }

    /// The value in force and its origin. Every key of [`SETTINGS`] has one.
    pub fn get(&self, key: &str) -> Option<(&Value, &Origin)> {
        self.values.get(key).map(|(value, origin)| (value, origin))
    }

    /// All keys of a `[[model]]` table with their defaults; the id is empty.
    pub fn model_template(&self) -> &Table {
        &self.model_template
    }

    /// All values as one document, as if they had been written in one file.
    pub fn to_table(&self) -> Table {
        let mut table = Table::new();
        for (key, (value, _)) in &self.values {
            match key.split_once('.') {
                None => _ = table.insert((*key).into(), value.clone()),
                Some((section, key)) => {
                    let section = table.entry(section).or_insert_with(|| Table::new().into());
                    if let Value::Table(section) = section {
                        section.insert(key.into(), value.clone());
                    }
                }
            }
        }
        table
    }

    fn apply_text(
        &mut self,
        setting: &'static Setting,
        texts: &[String],
        origin: Origin,
    ) -> Result<(), Error> {
        let before = &self.values[setting.key].0;
        let value = if setting.key == MODEL {
            self.choose_models(before, &split(texts))
        } else {
            parse(texts, before).map_err(|wanted| wrong_text(setting, texts, &origin, wanted))?
        };
        self.values.insert(setting.key, (value, origin));
        Ok(())
    }

    /// The tables for models named by flag or variable. One that the layers below configure, by
    /// id or by name, keeps what they say of it.
    fn choose_models(&self, configured: &Value, specs: &[String]) -> Value {
        let configured = configured.as_array().map_or(&[][..], Vec::as_slice);
        let choose = |spec: &String| {
            let spec = ModelSpec::parse(spec);
            let is_meant = |table: &&Value| {
                ["id", "name"]
                    .iter()
                    .any(|&key| table[key].as_str() == Some(spec.id))
            };
            let found = configured.iter().find(is_meant).and_then(Value::as_table);
            let mut table = found.unwrap_or(&self.model_template).clone();
            if found.is_none() {
                table.insert("id".into(), Value::String(spec.id.into()));
            }
            for (key, given) in [("name", spec.name), ("revision", spec.revision)] {
                if let Some(given) = given {
                    table.insert(key.into(), Value::String(given.into()));
                }
            }
            Value::Table(table)
        };
        Value::Array(specs.iter().map(choose).collect())
    }
}

/// `[name=]id[@revision]`; the revision of a directory cannot be chosen.
#[derive(Debug, PartialEq, Eq)]
struct ModelSpec<'a> {
    name: Option<&'a str>,
    id: &'a str,
    revision: Option<&'a str>,
}

impl<'a> ModelSpec<'a> {
    fn parse(spec: &'a str) -> Self {
        let named = spec
            .split_once('=')
            .filter(|(name, _)| !name.contains(['/', '\\']));
        let (name, rest) = named.map_or((None, spec), |(name, rest)| (Some(name), rest));
        let revised = rest
            .split_once('@')
            .filter(|_| !super::model::is_directory(rest));
        let (id, revision) = revised.map_or((rest, None), |(id, revision)| (id, Some(revision)));
        Self { name, id, revision }
    }
}

fn find<'a>(table: &'a Table, key: &str) -> Option<&'a Value> {
    match key.split_once('.') {
        None => table.get(key),
        Some((section, key)) => table.get(section)?.get(key),
    }
}

/// Reads text as the type that the default has; the error says what was wanted.
fn parse(texts: &[String], like: &Value) -> Result<Value, &'static str> {
    let last = texts.last().map_or("", |text| text.trim());
    match like {
        Value::Integer(_) => last
            .replace('_', "")
            .parse()
            .map(Value::Integer)
            .map_err(|_| "a whole number"),
        Value::Boolean(_) => match last.to_ascii_lowercase().as_str() {
            "1" | "true" | "yes" | "on" => Ok(Value::Boolean(true)),
            "0" | "false" | "no" | "off" => Ok(Value::Boolean(false)),
            _ => Err("`true` or `false`"),
        },
        Value::Array(_) => Ok(Value::Array(
            split(texts).into_iter().map(Value::String).collect(),
        )),
        _ => Ok(Value::String(last.into())),
    }
}

/// What a mounted secret holds; each line is a value, as each comma begins one.
fn secret_in(variable: &str, path: &Path) -> Result<String, Error> {
    let hint = format!("`{variable}` must name a file with the secret and nothing else");
    let text = std::fs::read_to_string(path).map_err(|error| {
        Error::new(format!(
            "cannot read `{}`, which `{variable}` names: {error}",
            path.display()
        ))
        .with_hint(&hint)
    })?;
    let lines: Vec<&str> = text.split_whitespace().collect();
    if lines.is_empty() {
        let message = format!("the file `{}` is empty", path.display());
        return Err(Error::new(message).with_hint(hint));
    }
    Ok(lines.join(","))
}

fn both(file: &str, name: &str) -> Error {
    Error::new(format!("both `{name}` and `{file}` are set"))
        .with_hint("leave one of them out, so that it is clear which one counts")
}

/// Commas separate the members of a list.
fn split(texts: &[String]) -> Vec<String> {
    let members = texts.iter().flat_map(|text| text.split(',')).map(str::trim);
    members
        .filter(|member| !member.is_empty())
        .map(String::from)
        .collect()
}

fn wrong_text(setting: &Setting, texts: &[String], origin: &Origin, wanted: &str) -> Error {
    let shown = if setting.is_secret() {
        "***".into()
    } else {
        texts.join(",")
    };
    Error::new(format!("`{origin}` must be {wanted}, not `{shown}`"))
        .with_hint(format!("{}: {}", setting.key, setting.help))
}

fn unknown_variables(environment: &Environment) -> Vec<String> {
    let known: Vec<&str> = SETTINGS
        .iter()
        .flat_map(|setting| setting.variables.iter().copied())
        .chain(OTHER_VARIABLES.iter().map(|&(name, _)| name))
        .chain(FILE_VARIABLES.iter().map(|&(_, name)| name))
        .collect();
    let ours = environment
        .names()
        .filter(|name| name.starts_with("RETORT_"));
    let unknown = ours.filter(|name| !known.contains(name));
    unknown
        .map(|name| {
            let meant = file::nearest(name, known.iter().copied());
            let hint = meant
                .map(|meant| format!("; did you mean `{meant}`?"))
                .unwrap_or_default();
            format!("the variable `{name}` sets nothing{hint}")
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_on_the_command_line_may_have_a_name_and_a_revision() {
        let parse = |spec| {
            let ModelSpec { name, id, revision } = ModelSpec::parse(spec);
            (name, id, revision)
        };
        assert_eq!(parse("BAAI/bge-m3"), (None, "BAAI/bge-m3", None));
        assert_eq!(
            parse("m3=BAAI/bge-m3@v1"),
            (Some("m3"), "BAAI/bge-m3", Some("v1"))
        );
        assert_eq!(parse("./a=b@c"), (None, "./a=b@c", None));
        assert_eq!(parse("x=/models/a@b"), (Some("x"), "/models/a@b", None));
    }

    #[test]
    fn text_becomes_the_type_of_the_default() {
        let parse = |text: &str, like: Value| parse(&[text.into()], &like);
        assert_eq!(parse("1_000", Value::Integer(0)), Ok(Value::Integer(1000)));
        assert_eq!(parse("ON", Value::Boolean(false)), Ok(Value::Boolean(true)));
        assert_eq!(
            parse("maybe", Value::Boolean(false)),
            Err("`true` or `false`")
        );
        let list = Value::Array(vec!["a".into(), "b".into()]);
        assert_eq!(parse("a, b,", Value::Array(Vec::new())), Ok(list));
    }
}
