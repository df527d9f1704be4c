//! Whether ONNX Runtime is here and can be loaded, or could be fetched.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use retort_models::Runtime;

use super::{Finding, gpu};
use crate::config::Config;
use crate::provision::{self, Network, Progress, ProvisionConfig};

const PATIENCE: Duration = Duration::from_secs(10);

/// The library, and pip, which fetches it.
pub fn examine(config: &Config) -> Vec<Finding> {
    let pip = pip(&config.provision);
    let offline = config.provision.network != Network::Allowed;
    vec![
        library(config, pip.is_some() && !offline),
        pip_finding(pip, offline),
    ]
}

/// Looks where a start would look, loads what is there, and fetches nothing.
fn library(config: &Config, can_fetch: bool) -> Finding {
    const CHECK: &str = "onnx runtime";
    let provision = gpu::without_network(&config.provision);
    let found = match gpu::library(config) {
        Some(library) => Ok(library),
        None => provision::runtime(&provision, &Progress::silent()),
    };
    let found = match found {
        Ok(found) => found,
        Err(_) if config.provision.runtime_path.is_none() && can_fetch => {
            let finding = format!(
                "not here yet; {} is fetched at the first start",
                provision::RUNTIME_VERSION
            );
            return Finding::warning(CHECK, finding, "fetch it now with `retort pull`");
        }
        Err(error) => {
            let remedy = match &config.provision.runtime_path {
                Some(_) => "correct `--runtime-library`, or leave it out to have one fetched",
                None => {
                    "install python3 with pip and allow the network, or point to a library \
                         with `--runtime-library`"
                }
            };
            return Finding::failure(CHECK, error.to_string(), remedy);
        }
    };
    match Runtime::load(&found.path) {
        Ok(runtime) => {
            let (version, path) = (runtime.version(), found.path.display());
            let providers = runtime.providers().join(", ");
            let finding = format!(
                "{version} ({}), {path}; built with {providers}",
                found.origin
            );
            Finding::good(CHECK, finding)
        }
        Err(error) => Finding::failure(
            CHECK,
            format!("{} cannot be loaded: {error}", found.path.display()),
            format!(
                "use version {}, built for this system",
                provision::RUNTIME_VERSION
            ),
        ),
    }
}

/// The first pip command that runs, and what it says of itself.
fn pip(provision: &ProvisionConfig) -> Option<String> {
    let version = |words: &Vec<String>| {
        let (program, arguments) = words.split_first()?;
        first_line(Command::new(program).args(arguments).arg("--version"))
    };
    provision.pip.iter().find_map(version)
}

fn pip_finding(pip: Option<String>, offline: bool) -> Finding {
    match pip {
        Some(version) => Finding::good("pip", version),
        None if offline => Finding::good("pip", "none, and none is needed offline"),
        None => Finding::warning(
            "pip",
            "no python3 with pip; ONNX Runtime and models on PyPI cannot be fetched",
            "install python3 with pip",
        ),
    }
}

/// What a program prints first, if it succeeds in time; it is stopped when it does not.
pub fn first_line(command: &mut Command) -> Option<String> {
    let command = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    let mut child = command.spawn().ok()?;
    let started = Instant::now();
    let succeeded = loop {
        match child.try_wait() {
            Ok(Some(status)) => break status.success(),
            Ok(None) if started.elapsed() < PATIENCE => {
                std::thread::sleep(Duration::from_millis(10));
            }
            _ => {
                // It may have ended in between, which is as good.
                let _ = child.kill();
                let _ = child.wait();
                return None;
            }
        }
    };
    let output = std::io::read_to_string(child.stdout.take()?).ok()?;
    let line = output
        .lines()
        .next()
        .map(str::trim)
        .filter(|line| !line.is_empty())?;
    succeeded.then(|| line.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(unix)]
    #[test]
    fn only_a_program_that_succeeds_is_believed() {
        assert_eq!(
            first_line(Command::new("echo").arg("one\ntwo")).as_deref(),
            Some("one")
        );
        assert_eq!(first_line(&mut Command::new("false")), None);
        assert_eq!(
            first_line(&mut Command::new("no-such-program-anywhere")),
            None
        );
    }

    #[test]
    fn pip_matters_only_where_something_may_be_fetched() {
        assert_eq!(pip_finding(None, true).remedy, None);
        assert!(pip_finding(None, false).remedy.is_some());
    }
}
