use super::*;
use crate::config::{DEFAULTS, SETTINGS};

/// The flags of a command line, as `key=value,value`.
fn typed(arguments: &[&str]) -> Result<Vec<String>, clap::Error> {
    let arguments = std::iter::once("retort").chain(arguments.iter().copied());
    let cli = parse(arguments.map(OsString::from))?;
    let typed = match cli.command.unwrap_or(Command::Serve(cli.serve)) {
        Command::Serve(args) => args.typed(),
        _ => Vec::new(),
    };
    Ok(typed
        .iter()
        .map(|typed| format!("{}={}", typed.setting.key, typed.values.join(",")))
        .collect())
}

#[test]
fn the_command_line_is_well_formed() {
    command().debug_assert();
}

#[test]
fn every_setting_with_a_flag_is_a_flag_of_serve_with_its_variable_in_the_help() {
    let command = command();
    for command in [&command, command.find_subcommand("serve").expect("serve")] {
        for setting in SETTINGS.iter().filter(|setting| !setting.flag.is_empty()) {
            let arg = command
                .get_arguments()
                .find(|arg| arg.get_long() == Some(setting.flag));
            let help = arg.and_then(|arg| arg.get_help()).map(ToString::to_string);
            let variable = format!("[env: {}]", setting.variables[0]);
            assert!(
                help.is_some_and(|help| help.contains(&variable)),
                "{}",
                setting.key
            );
        }
    }
}

#[test]
fn no_command_means_serve() {
    assert_eq!(
        typed(&["--port", "1"]).ok(),
        typed(&["serve", "--port", "1"]).ok()
    );
    assert_eq!(
        typed(&["--port", "1"]).ok(),
        Some(vec!["server.port=1".into()])
    );
    assert!(
        typed(&["--port", "1", "pull"]).is_err(),
        "flags of serve do not go before a command"
    );
}

#[test]
fn switches_take_a_value_only_after_an_equals_sign() {
    let offline = |arguments: &[&str]| typed(arguments).ok();
    assert_eq!(
        offline(&["--offline"]),
        Some(vec!["models.offline=true".into()])
    );
    assert_eq!(
        offline(&["--offline=false"]),
        Some(vec!["models.offline=false".into()])
    );
}

#[test]
fn models_and_keys_may_be_repeated() {
    let both = typed(&["--model", "a/b", "--model", "c/d"]).ok();
    assert_eq!(both, Some(vec!["model=a/b,c/d".into()]));
    assert!(
        typed(&["--port", "1", "--port", "2"]).is_err(),
        "a single value may not"
    );
}

#[test]
fn a_mistyped_flag_is_a_usage_error_that_names_the_right_one() {
    let error = typed(&["--prot", "1"]).expect_err("no such flag");
    assert_eq!(error.exit_code(), 2);
    assert!(error.to_string().contains("--port"), "{error}");
}

#[test]
fn help_names_the_commands_the_defaults_and_examples() {
    let help = command().render_long_help().to_string();
    for part in [
        "doctor",
        "[default: 9997]",
        "Examples:",
        "Models and where they come from:",
    ] {
        assert!(help.contains(part), "{part} is missing:\n{help}");
    }
    assert!(DEFAULTS.contains("port = 9997"));
}
