//! `retort doctor`: examines the machine and says, for whatever is wrong, why and what to do.
//! It fetches nothing; with `--offline` it also asks nobody.

mod gpu;
mod machine;
mod network;
mod runtime;
mod storage;

use std::process::ExitCode;

use clap::Args;
use comfy_table::{Cell, Color};
use serde::Serialize;

pub use machine::processor;

use super::flags::{Flags, Service};
use super::table::{render, table};
use super::{Context, Failure, print};
use crate::config::Purpose;

/// Flags of `retort doctor`.
#[derive(Args)]
pub struct DoctorArgs {
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    flags: Flags<Service>,
}

/// Examines and reports. Exits with 1 when something would keep the service from working.
pub fn run(args: DoctorArgs, context: &Context) -> Result<ExitCode, Failure> {
    let loaded = context.load(Purpose::Local, args.flags)?;
    let config = &loaded.config;
    let mut findings = vec![match &loaded.file {
        Some(path) => Finding::good("configuration", path.display().to_string()),
        None => Finding::good("configuration", "no file; defaults, environment and flags"),
    }];
    findings.extend(runtime::examine(config));
    findings.extend(machine::examine(config));
    findings.extend(gpu::examine(config, &context.environment));
    findings.extend(network::examine(config, &context.environment));
    findings.extend(storage::examine(config));
    if args.json {
        print(&format!(
            "{}\n",
            serde_json::json!({ "findings": findings })
        ))?;
    } else {
        print(&draw(&findings, Drawn::Colored))?;
    }
    let is_bad = |finding: &Finding| finding.status == Status::Failure;
    Ok(if findings.iter().any(is_bad) {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

/// What was found about one thing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    check: String,
    status: Status,
    finding: String,
    /// What to do about it; absent when nothing need be done.
    #[serde(skip_serializing_if = "Option::is_none")]
    remedy: Option<String>,
}

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// As it should be.
    Good,
    /// The service works, but not as well as it could, or not in every case.
    Warning,
    /// The service does not work.
    Failure,
}

impl Finding {
    fn good(check: &str, finding: impl Into<String>) -> Self {
        let (check, finding) = (check.into(), finding.into());
        Self {
            check,
            status: Status::Good,
            finding,
            remedy: None,
        }
    }

    fn warning(check: &str, finding: impl Into<String>, remedy: impl Into<String>) -> Self {
        let remedy = Some(remedy.into());
        Self {
            status: Status::Warning,
            remedy,
            ..Self::good(check, finding)
        }
    }

    fn failure(check: &str, finding: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            status: Status::Failure,
            ..Self::warning(check, finding, remedy)
        }
    }
}

/// Whether the signs of a table are coloured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Drawn {
    /// For `anstream`, which takes colours out again where they cannot be seen.
    Colored,
    /// For tests.
    #[cfg(test)]
    Plain,
}

fn draw(findings: &[Finding], drawn: Drawn) -> String {
    let mut rows = table(&["", "check", "finding", "remedy"]);
    if drawn == Drawn::Colored {
        rows.enforce_styling();
    }
    for finding in findings {
        let (sign, color) = match finding.status {
            Status::Good => ("✓", Color::Green),
            Status::Warning => ("!", Color::Yellow),
            Status::Failure => ("✗", Color::Red),
        };
        let sign = Cell::new(sign);
        rows.add_row([
            if drawn == Drawn::Colored {
                sign.fg(color)
            } else {
                sign
            },
            Cell::new(&finding.check),
            Cell::new(&finding.finding),
            Cell::new(finding.remedy.as_deref().unwrap_or_default()),
        ]);
    }
    let count = |status| {
        findings
            .iter()
            .filter(|finding| finding.status == status)
            .count()
    };
    let (warnings, failures) = (count(Status::Warning), count(Status::Failure));
    let verdict = match (failures, warnings) {
        (0, 0) => "everything is as it should be".to_owned(),
        (0, warnings) => format!("it works; worth a look: {warnings}"),
        (failures, _) => format!("it will not work; to be mended: {failures}"),
    };
    format!("{}\n{verdict}\n", render(&rows))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings() -> Vec<Finding> {
        vec![
            Finding::good("onnx runtime", "1.31.1"),
            Finding::warning("token", "none", "set HF_TOKEN"),
            Finding::failure("port", "9997 is taken", "use `--port`"),
        ]
    }

    #[test]
    fn the_table_has_a_sign_a_reason_and_a_remedy() {
        let expected = "
    CHECK         FINDING        REMEDY
 ✓  onnx runtime  1.31.1
 !  token         none           set HF_TOKEN
 ✗  port          9997 is taken  use `--port`

it will not work; to be mended: 1
";
        assert_eq!(draw(&findings(), Drawn::Plain), expected[1..]);
        let colored = draw(&findings(), Drawn::Colored);
        assert_ne!(colored, expected[1..]);
        assert_eq!(
            anstream::adapter::strip_str(&colored).to_string(),
            expected[1..]
        );
    }

    #[test]
    fn the_verdict_follows_the_worst_finding() {
        let verdict = |count| draw(&findings()[..count], Drawn::Plain);
        assert!(verdict(1).ends_with("\neverything is as it should be\n"));
        assert!(verdict(2).ends_with("\nit works; worth a look: 1\n"));
    }

    #[test]
    fn json_names_the_status_and_leaves_out_what_is_not_there() {
        let json = serde_json::to_string(&findings()[0]).expect("JSON");
        assert_eq!(
            json,
            r#"{"check":"onnx runtime","status":"good","finding":"1.31.1"}"#
        );
    }
}
