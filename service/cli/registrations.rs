//! `retort registrations`, `register` and `unregister`: the catalogue of a running server.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use serde::Deserialize;
use serde_json::{Value, json};

use super::remote::{Remote, RemoteArgs, quoted};
use super::table::{render, table};
use super::{Context, Failure, print};

/// Flags of `retort registrations`.
#[derive(Args)]
pub struct RegistrationsArgs {
    #[command(flatten)]
    remote: RemoteArgs,
    /// `embedding`, `rerank` or `LLM`; by default both of the first
    #[arg(long, short = 't', value_name = "TYPE")]
    model_type: Option<String>,
}

/// Flags of `retort register`.
#[derive(Args)]
pub struct RegisterArgs {
    #[command(flatten)]
    remote: RemoteArgs,
    /// `embedding` or `rerank`
    #[arg(long, short = 't', value_name = "TYPE")]
    model_type: String,
    /// JSON file with the record of the model
    #[arg(long, short = 'f', value_name = "FILE")]
    file: PathBuf,
    /// Know it after a restart of the server
    #[arg(long, short = 'p')]
    persist: bool,
}

/// Flags of `retort unregister`.
#[derive(Args)]
pub struct UnregisterArgs {
    #[command(flatten)]
    remote: RemoteArgs,
    /// `embedding` or `rerank`
    #[arg(long, short = 't', value_name = "TYPE")]
    model_type: String,
    /// The name in the catalogue
    #[arg(long, short = 'n', value_name = "NAME")]
    model_name: String,
}

/// A model of the catalogue.
#[derive(Debug, Deserialize)]
struct Registration {
    model_name: String,
    is_builtin: bool,
    #[serde(default)]
    language: Vec<String>,
    dimensions: Option<u64>,
}

/// Asks and prints.
pub fn run(args: RegistrationsArgs, context: &Context) -> Result<ExitCode, Failure> {
    let remote = Remote::new(args.remote, context)?;
    let types = match args.model_type {
        Some(one) => vec![one],
        None => vec!["embedding".into(), "rerank".into()],
    };
    let mut listed = Vec::new();
    for model_type in types {
        let path = format!(
            "/v1/model_registrations/{}?detailed=true",
            quoted(&model_type)
        );
        let models: Vec<Registration> = remote.get(&path)?;
        listed.extend(models.into_iter().map(|model| (model_type.clone(), model)));
    }
    print(&draw(&listed))?;
    Ok(ExitCode::SUCCESS)
}

fn draw(listed: &[(String, Registration)]) -> String {
    let mut rows = table(&["type", "name", "language", "dimensions", "is-built-in"]);
    for (model_type, model) in listed {
        rows.add_row([
            model_type.clone(),
            model.model_name.clone(),
            model.language.join(", "),
            model.dimensions.map(|n| n.to_string()).unwrap_or_default(),
            model.is_builtin.to_string(),
        ]);
    }
    render(&rows)
}

/// Sends the record of a model.
pub fn register(args: RegisterArgs, context: &Context) -> Result<ExitCode, Failure> {
    let file = args.file.display().to_string();
    let record = std::fs::read_to_string(&args.file)
        .map_err(|error| Failure::new(format!("cannot read `{file}`: {error}")))?;
    let body = json!({"model": record, "worker_ip": null, "persist": args.persist});
    let path = format!("/v1/model_registrations/{}", quoted(&args.model_type));
    let _: Value = Remote::new(args.remote, context)?.post(&path, &body)?;
    Ok(ExitCode::SUCCESS)
}

/// Takes a registered model out of the catalogue.
pub fn unregister(args: UnregisterArgs, context: &Context) -> Result<ExitCode, Failure> {
    let (model_type, name) = (quoted(&args.model_type), quoted(&args.model_name));
    let path = format!("/v1/model_registrations/{model_type}/{name}");
    let _: Value = Remote::new(args.remote, context)?.delete(&path)?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registration_is_a_row() {
        let models: Vec<Registration> = serde_json::from_value(json!([
            {"model_name": "bge-m3", "is_builtin": true, "language": ["zh", "en"],
             "dimensions": 1024},
            {"model_name": "mine", "is_builtin": false},
        ]))
        .expect("a list");
        let listed: Vec<_> = models
            .into_iter()
            .map(|m| ("embedding".into(), m))
            .collect();
        let text = draw(&listed);
        let lines: Vec<&str> = text.lines().collect();
        assert!(
            lines[1].contains("zh, en") && lines[1].ends_with("true"),
            "{text}"
        );
        assert!(
            lines[2].contains("mine") && lines[2].ends_with("false"),
            "{text}"
        );
    }
}
