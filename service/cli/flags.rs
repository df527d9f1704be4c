//! Flags made from the table of settings, so that `--help` names the very variables and defaults
//! that count.

use std::marker::PhantomData;
use std::path::PathBuf;

use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use toml::Value;

use crate::config::{DEFAULTS, Layers, SETTINGS, Scope, Setting, Typed};

/// Flags with a short form, which is that of `xinference-local`.
const SHORT: &[(&str, char)] = &[("host", 'H'), ("port", 'p')];

/// Which part of the table a command takes.
pub trait Group {
    /// The scopes whose settings are flags of the command.
    const SCOPES: &'static [Scope];
}

/// Everything, for commands about the service.
pub struct Service;

impl Group for Service {
    const SCOPES: &'static [Scope] = &[
        Scope::Models,
        Scope::Server,
        Scope::Limits,
        Scope::Inference,
        Scope::Scheduling,
        Scope::Logging,
    ];
}

/// What matters when a model runs without a server.
pub struct Local;

impl Group for Local {
    const SCOPES: &'static [Scope] = &[Scope::Models, Scope::Inference, Scope::Logging];
}

/// What matters when files are fetched or listed.
pub struct Files;

impl Group for Files {
    const SCOPES: &'static [Scope] = &[Scope::Models];
}

/// The settings that were typed for one command.
pub struct Flags<G> {
    /// In the order of the table.
    pub typed: Vec<Typed>,
    /// `--config`.
    pub file: Option<PathBuf>,
    group: PhantomData<G>,
}

impl<G> Flags<G> {
    /// Nothing was typed.
    pub fn none() -> Self {
        Self {
            typed: Vec::new(),
            file: None,
            group: PhantomData,
        }
    }
}

impl<G: Group> clap::Args for Flags<G> {
    fn augment_args(command: Command) -> Command {
        let file = Arg::new("config")
            .long("config")
            .value_name("FILE")
            .value_parser(value_parser!(PathBuf))
            .help(
                "Configuration file [env: RETORT_CONFIG] [default: ./retort.toml, if there is one]",
            );
        // The compiled-in file is covered by a test; without it there is just nothing to show.
        let defaults = Layers::defaults(DEFAULTS).ok();
        let default =
            |setting: &Setting| defaults.as_ref()?.get(setting.key).map(|(v, _)| v.clone());
        rows::<G>().fold(command.arg(file), |command, setting| {
            command.arg(argument(
                setting,
                &default(setting).unwrap_or(Value::String(String::new())),
            ))
        })
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl<G: Group> clap::FromArgMatches for Flags<G> {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let typed = rows::<G>().filter_map(|setting| {
            let values: Vec<String> = matches.get_many(setting.flag)?.cloned().collect();
            Some(Typed { setting, values })
        });
        let file = matches.get_one::<PathBuf>("config").cloned();
        Ok(Self {
            typed: typed.collect(),
            file,
            group: PhantomData,
        })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

fn rows<G: Group>() -> impl Iterator<Item = &'static Setting> {
    let wanted = |s: &&Setting| !s.flag.is_empty() && G::SCOPES.contains(&s.scope);
    SETTINGS.iter().filter(wanted)
}

fn argument(setting: &'static Setting, default: &Value) -> Arg {
    let variable = setting
        .variables
        .first()
        .map(|name| format!(" [env: {name}]"));
    let default_shown = shown(default).map(|text| format!(" [default: {text}]"));
    let notes = [variable, default_shown]
        .into_iter()
        .flatten()
        .collect::<String>();
    let arg = Arg::new(setting.flag)
        .long(setting.flag)
        .value_name(setting.value_name)
        .help(format!("{}{notes}", setting.help))
        .help_heading(setting.scope.heading());
    let arg = match SHORT.iter().find(|(flag, _)| *flag == setting.flag) {
        Some((_, short)) => arg.short(*short),
        None => arg,
    };
    match default {
        Value::Boolean(_) => arg
            .num_args(0..=1)
            .require_equals(true)
            .default_missing_value("true"),
        Value::Array(_) => arg.action(ArgAction::Append),
        // `--threads -1` should be told that it is out of range, not that `-1` is no flag.
        _ => arg.allow_hyphen_values(true),
    }
}

fn shown(default: &Value) -> Option<String> {
    match default {
        Value::String(text) => Some(text.clone()).filter(|text| !text.is_empty()),
        Value::Boolean(value) => value.then(|| "true".into()),
        Value::Array(values) => {
            let member = |value: &Value| {
                value
                    .as_str()
                    .or_else(|| value.get("id")?.as_str())
                    .map(String::from)
            };
            let members: Vec<String> = values.iter().filter_map(member).collect();
            Some(members.join(",")).filter(|text| !text.is_empty())
        }
        other => Some(other.to_string()),
    }
}
