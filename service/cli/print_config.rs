//! `retort config`: the configuration in force, as a file, with the origin of every value.

use std::process::ExitCode;

use clap::Args;

use super::flags::{Flags, Service};
use super::{Context, Failure, print};
use crate::config::{DEFAULTS, FILE_VARIABLES, OTHER_VARIABLES, Purpose, SETTINGS, show};

/// Flags of `retort config`.
#[derive(Args)]
pub struct ConfigArgs {
    /// Print the documented defaults instead, to start a file of your own from
    #[arg(long, conflicts_with = "variables")]
    defaults: bool,
    /// Print every environment variable that counts, and what it sets
    #[arg(long)]
    variables: bool,
    #[command(flatten)]
    flags: Flags<Service>,
}

/// Prints what was asked for.
pub fn run(args: ConfigArgs, context: &Context) -> Result<ExitCode, Failure> {
    if args.defaults {
        print(DEFAULTS)?;
    } else if args.variables {
        print(&variables())?;
    } else {
        print(&show(&context.load(Purpose::Local, args.flags)?.layers))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn variables() -> String {
    let mut rows = super::table::table(&["variable", "key", "what for"]);
    for setting in SETTINGS {
        rows.add_row([&setting.variables.join(", "), setting.key, setting.help]);
    }
    for (key, name) in FILE_VARIABLES {
        rows.add_row([
            name,
            key,
            "A file with the value, for secrets that are mounted",
        ]);
    }
    for (name, help) in OTHER_VARIABLES {
        rows.add_row([name, "", help]);
    }
    super::table::render(&rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_variable_is_listed() {
        let text = variables();
        for name in SETTINGS.iter().flat_map(|setting| setting.variables) {
            assert!(text.contains(name), "{name}");
        }
    }
}
