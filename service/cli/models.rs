//! `retort models`: the configured models and whether their files are on this machine. Looks at
//! caches only; nothing is fetched or loaded.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use serde::Serialize;

use super::flags::{Files, Flags};
use super::table::{bytes, bytes_under, render, table};
use super::{Context, Failure, print};
use crate::config::{Config, ModelEntry, Purpose};
use crate::provision::{self, ModelRequest, Network, Progress, ProvisionConfig, Weights};

/// Flags of `retort models`.
#[derive(Args)]
pub struct ModelsArgs {
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    flags: Flags<Files>,
}

/// Lists the models.
pub fn run(args: ModelsArgs, context: &Context) -> Result<ExitCode, Failure> {
    let config = context.load(Purpose::Local, args.flags)?.config;
    let listed = list(&config);
    if args.json {
        print(&format!("{}\n", serde_json::json!({ "models": listed })))?;
    } else {
        print(&draw(&listed))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// A configured model and its files.
#[derive(Debug, Serialize, PartialEq, Eq)]
struct Listed {
    name: String,
    id: String,
    aliases: Vec<String>,
    cached: bool,
    /// How the files were found; null when they are not here.
    origin: Option<String>,
    revision: Option<String>,
    bytes: Option<u64>,
    path: Option<PathBuf>,
}

fn list(config: &Config) -> Vec<Listed> {
    // Provisioning that may not fetch is a look-up.
    let network = Network::Forbidden {
        by: "retort models".into(),
    };
    let provision = ProvisionConfig {
        network,
        ..config.provision.clone()
    };
    config
        .models
        .iter()
        .map(|model| look_up(&provision, model))
        .collect()
}

fn look_up(provision: &ProvisionConfig, model: &ModelEntry) -> Listed {
    let id = model.location.id();
    let revision = model.revision.as_deref();
    let request = ModelRequest {
        id: &id,
        revision,
        weights: Weights::Checkpoint,
    };
    let files = provision::model(provision, &request, &Progress::silent()).ok();
    Listed {
        name: model.name.clone(),
        aliases: model.aliases.clone(),
        cached: files.is_some(),
        origin: files.as_ref().map(|files| files.origin.to_string()),
        revision: files.as_ref().and_then(|files| files.revision.clone()),
        bytes: files.as_ref().map(|files| bytes_under(&files.dir)),
        path: files.map(|files| files.dir),
        id,
    }
}

fn draw(listed: &[Listed]) -> String {
    let mut rows = table(&["name", "model", "on this machine", "size", "where"]);
    for model in listed {
        rows.add_row([
            model.name.clone(),
            model.id.clone(),
            model
                .origin
                .clone()
                .unwrap_or_else(|| "no; `retort pull` fetches it".into()),
            model.bytes.map(bytes).unwrap_or_default(),
            model
                .path
                .as_ref()
                .map(|path| path.display().to_string())
                .unwrap_or_default(),
        ]);
    }
    render(&rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_that_is_not_here_says_how_to_get_it() {
        let listed = Listed {
            name: "bge-m3".into(),
            id: "BAAI/bge-m3".into(),
            aliases: Vec::new(),
            cached: false,
            origin: None,
            revision: None,
            bytes: None,
            path: None,
        };
        assert!(draw(&[listed]).contains("no; `retort pull` fetches it"));
    }
}
