//! `retort check`: does everything that `serve` does before it listens, computes once on every
//! model, and says what came of it.

use std::process::ExitCode;

use clap::Args;

use super::flags::{Flags, Service};
use super::table::{render, table};
use super::{Context, Failure, logging, print};
use crate::config::Purpose;
use crate::engine::Probe;
use crate::provision::Progress;
use crate::serve::Core;

/// Flags of `retort check`.
#[derive(Args)]
pub struct CheckArgs {
    #[command(flatten)]
    flags: Flags<Service>,
}

/// Loads and computes. Exits with 1 when a model does not answer.
pub fn run(args: CheckArgs, context: &Context) -> Result<ExitCode, Failure> {
    let config = context.load(Purpose::Serve, args.flags)?.config;
    logging::start(&config.server, context.colors())?;
    let progress = Progress::stderr();
    let core = Core::new(&config, &progress)?;
    core.load()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(format!("cannot start threads: {error}")))?;
    let probes = runtime.block_on(core.engine.probe());
    print(&draw(&probes))?;
    let all_answer = probes
        .iter()
        .all(|probe| matches!(probe.outcome, Ok(Some(_))));
    Ok(if all_answer {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn draw(probes: &[Probe]) -> String {
    let mut rows = table(&["model", "device", "one forward pass"]);
    for probe in probes {
        let outcome = match &probe.outcome {
            Ok(Some(took)) => format!("{:.1} ms", took.as_secs_f64() * 1e3),
            Ok(None) => "asleep".to_owned(),
            Err(error) => format!("failed: {error}"),
        };
        rows.add_row([probe.model.clone(), probe.device.clone(), outcome]);
    }
    render(&rows)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::error::Error;

    #[test]
    fn a_model_that_fails_says_why() {
        let probe = |model: &str, outcome| Probe {
            model: model.into(),
            device: "cpu".into(),
            outcome,
        };
        let text = draw(&[
            probe("a", Ok(Some(Duration::from_micros(1_500)))),
            probe("b", Err(Error::NotReady("still loading".into()))),
        ]);
        assert!(
            text.contains("1.5 ms") && text.contains("failed: still loading"),
            "{text}"
        );
    }
}
