//! `retort stop`: ends a running server after it has finished what is inside.

use std::process::ExitCode;

use clap::Args;
use serde_json::Value;

use super::remote::{Remote, RemoteArgs};
use super::{Context, Failure};

/// Flags of `retort stop`, the `xinference stop-cluster` of one machine.
#[derive(Args)]
pub struct StopArgs {
    #[command(flatten)]
    remote: RemoteArgs,
    /// Accepted for scripts of Xinference, which asks otherwise
    #[arg(long, hide = true)]
    check: bool,
}

/// Asks; the server ends by itself.
pub fn run(args: StopArgs, context: &Context) -> Result<ExitCode, Failure> {
    let remote = Remote::new(args.remote, context)?;
    let _: Value = remote.delete("/v1/clusters")?;
    anstream::eprintln!("the server at `{}` is stopping", remote.url());
    Ok(ExitCode::SUCCESS)
}
