//! `retort terminate`: has a running server unload a model and forget it.

use std::process::ExitCode;

use clap::Args;
use serde_json::Value;

use super::remote::{Remote, RemoteArgs, quoted};
use super::{Context, Failure};

/// Flags of `retort terminate`.
#[derive(Args)]
pub struct TerminateArgs {
    #[command(flatten)]
    remote: RemoteArgs,
    /// The name that it is served under
    #[arg(long, short = 'u', value_name = "UID")]
    model_uid: String,
}

/// Asks, and returns when the model is gone.
pub fn run(args: TerminateArgs, context: &Context) -> Result<ExitCode, Failure> {
    let uid = quoted(&args.model_uid);
    let _: Value = Remote::new(args.remote, context)?.delete(&format!("/v1/models/{uid}"))?;
    Ok(ExitCode::SUCCESS)
}
