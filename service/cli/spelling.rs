//! Flags as Xinference's command line spells them: short ones of two letters, underscores, and
//! options of a model that no command line can know. Rewritten before anything else reads them.

use std::ffi::OsString;

use clap::Command;

/// Short flags of more than one letter, which are not ours to define.
const LONG_FOR: &[(&str, &str)] = &[
    ("-ak", "--api-key"),
    ("-en", "--model-engine"),
    ("-mp", "--model-path"),
    ("--model_name", "--model-name"),
    ("--model_uid", "--model-uid"),
    ("--model_type", "--model-type"),
    ("--model_path", "--model-path"),
    ("--model_engine", "--model-engine"),
    ("--model_format", "--model-format"),
    ("--model_version", "--model-version"),
    ("--gpu_idx", "--gpu-idx"),
    ("--n_gpu", "--n-gpu"),
];

/// The flag that takes what a command does not know.
pub const OPTION: &str = "option";

/// Rewrites the arguments of a command that talks to a server, and leaves others alone. A command
/// with the flag [`OPTION`] gets each unknown `--key value` as `--option=key=value`.
pub fn familiar(arguments: Vec<OsString>, commands: &Command) -> Vec<OsString> {
    let name = arguments.get(1).and_then(|name| name.to_str());
    let Some(command) = name.and_then(|name| commands.find_subcommand(name)) else {
        return arguments;
    };
    let is_remote = command.get_arguments().any(|a| a.get_id() == "endpoint");
    if !is_remote {
        return arguments;
    }
    let takes_options = command.get_arguments().any(|a| a.get_id() == OPTION);
    let mut rest = arguments.into_iter();
    let mut rewritten: Vec<OsString> = rest.by_ref().take(2).collect();
    while let Some(argument) = rest.next() {
        let Some(text) = argument.to_str() else {
            rewritten.push(argument);
            continue;
        };
        let (flag, value) = match text.split_once('=') {
            Some((flag, value)) => (flag, Some(value)),
            None => (text, None),
        };
        let known = LONG_FOR.iter().find(|(short, _)| *short == flag);
        let flag = known.map_or(flag, |(_, long)| long);
        match flag.strip_prefix("--") {
            Some(key) if takes_options && !key.is_empty() && !has(command, key) => {
                let next = || {
                    rest.next()
                        .map(|value| value.to_string_lossy().into_owned())
                };
                let value = value.map(String::from).or_else(next);
                rewritten.push(option(key, value));
            }
            _ => {
                rewritten.push(match value {
                    Some(value) => format!("{flag}={value}").into(),
                    None => flag.into(),
                });
                // A value is a value, whatever it looks like.
                if value.is_none() && takes_value(command, flag) {
                    rewritten.extend(rest.next());
                }
            }
        }
    }
    rewritten
}

fn option(key: &str, value: Option<String>) -> OsString {
    match value {
        Some(value) => format!("--{OPTION}={key}={value}").into(),
        None => format!("--{OPTION}={key}").into(),
    }
}

fn has(command: &Command, key: &str) -> bool {
    let own = command.get_arguments().any(|a| a.get_long() == Some(key));
    own || ["help", "version"].contains(&key)
}

fn takes_value(command: &Command, flag: &str) -> bool {
    let mut arguments = command.get_arguments();
    let found = arguments.find(|argument| {
        let long = argument.get_long().map(|long| format!("--{long}"));
        let short = argument.get_short().map(|short| format!("-{short}"));
        long.as_deref() == Some(flag) || short.as_deref() == Some(flag)
    });
    found.is_some_and(|argument| argument.get_action().takes_values())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(arguments: &str, expected: &str) {
        let arguments = arguments.split(' ').map(OsString::from).collect();
        let rewritten = familiar(arguments, &super::super::command());
        let texts: Vec<_> = rewritten.iter().map(|a| a.to_string_lossy()).collect();
        assert_eq!(texts.join(" "), expected);
    }

    #[test]
    fn xinferences_spellings_become_ours() {
        check(
            "retort launch -n bge-m3 -t embedding -en onnx -ak KEY --model_path /m",
            "retort launch -n bge-m3 -t embedding --model-engine onnx --api-key KEY --model-path /m",
        );
        check(
            "retort cached --model_name x",
            "retort cached --model-name x",
        );
    }

    #[test]
    fn unknown_pairs_go_along_wherever_they_stand() {
        check(
            "retort launch --batch_size 8 -n bge-m3 --use_fp16=true --model-type embedding",
            "retort launch --option=batch_size=8 -n bge-m3 --option=use_fp16=true \
             --model-type embedding",
        );
        check("retort launch -n --odd", "retort launch -n --odd");
    }

    #[test]
    fn other_commands_keep_their_flags() {
        check("retort serve --port 1", "retort serve --port 1");
        check("retort --prot 1", "retort --prot 1");
        check("retort list --prot 1", "retort list --prot 1");
    }
}
