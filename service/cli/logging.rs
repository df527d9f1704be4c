//! Where log lines go: to stderr, so that stdout carries only what was asked for.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

use super::Failure;
use crate::config::{LogFormat, ServerConfig};

/// Starts logging for the rest of the process.
///
/// # Errors
/// When the directives cannot be read.
pub fn start(server: &ServerConfig, colors: Colors) -> Result<(), Failure> {
    let filter = EnvFilter::builder().parse(&server.log).map_err(|error| {
        Failure::new(format!(
            "`{}` cannot be used to filter the log: {error}",
            server.log
        ))
        .with_hint("write levels such as `info`, or directives such as `info,retort=debug`")
    })?;
    let ansi = colors == Colors::Allowed && std::io::stderr().is_terminal();
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    // It fails only when something logs already, and then lines do have a place to go.
    let _ = match server.log_format {
        LogFormat::Text => lines.with_ansi(ansi).try_init(),
        LogFormat::Json => lines.json().flatten_event(true).try_init(),
    };
    Ok(())
}

/// Whether lines may be coloured on a terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Colors {
    /// They may.
    Allowed,
    /// `NO_COLOR` is set.
    Refused,
}
