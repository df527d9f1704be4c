//! `retort cached` and `remove-cache`: files of models on the machine of a running server.

use std::process::ExitCode;

use clap::Args;
use serde::Deserialize;

use super::remote::{Remote, RemoteArgs, quoted};
use super::table::{bytes, render, table};
use super::{Context, Failure, print};

/// Flags of `retort cached`.
#[derive(Args)]
pub struct CachedArgs {
    #[command(flatten)]
    remote: RemoteArgs,
    /// Only this model
    #[arg(long, short = 'n', value_name = "NAME")]
    model_name: Option<String>,
}

/// Flags of `retort remove-cache`.
#[derive(Args)]
pub struct RemoveCacheArgs {
    #[command(flatten)]
    remote: RemoteArgs,
    /// The version that `retort cached` shows, or the name of a model
    #[arg(long, short = 'n', value_name = "VERSION")]
    model_version: String,
    /// Remove without showing what first
    #[arg(long)]
    check: bool,
}

#[derive(Debug, Deserialize)]
struct Cached {
    list: Vec<Row>,
}

#[derive(Debug, Deserialize)]
struct Row {
    model_name: String,
    model_type: Option<String>,
    model_version: Option<String>,
    bytes: Option<u64>,
    path: String,
}

#[derive(Debug, Deserialize)]
struct Files {
    paths: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct Done {
    result: bool,
}

/// Asks and prints.
pub fn run(args: CachedArgs, context: &Context) -> Result<ExitCode, Failure> {
    let name = args.model_name.as_deref().map(quoted);
    let filter = name.map(|name| format!("?model_name={name}"));
    let path = format!("/v1/cache/models{}", filter.unwrap_or_default());
    let cached: Cached = Remote::new(args.remote, context)?.get(&path)?;
    print(&draw(&cached.list))?;
    Ok(ExitCode::SUCCESS)
}

/// Shows what would go; with `--check` it goes.
pub fn remove(args: RemoveCacheArgs, context: &Context) -> Result<ExitCode, Failure> {
    let remote = Remote::new(args.remote, context)?;
    let version = quoted(&args.model_version);
    if !args.check {
        let path = format!("/v1/cache/models/files?model_version={version}");
        let files: Files = remote.get(&path)?;
        for path in &files.paths {
            print(&format!("{path}\n"))?;
        }
        anstream::eprintln!("nothing was removed; add `--check` to remove this");
        return Ok(ExitCode::SUCCESS);
    }
    let done: Done = remote.delete(&format!("/v1/cache/models?model_version={version}"))?;
    match done.result {
        true => Ok(ExitCode::SUCCESS),
        false => Err(Failure::new(format!(
            "the files of `{}` were not removed",
            args.model_version
        ))),
    }
}

fn draw(rows: &[Row]) -> String {
    if rows.is_empty() {
        return "There are no cache files.\n".into();
    }
    let mut drawn = table(&["name", "type", "version", "size", "path"]);
    for row in rows {
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        drawn.add_row([
            row.model_name.clone(),
            text(&row.model_type),
            text(&row.model_version),
            row.bytes.map(bytes).unwrap_or_default(),
            row.path.clone(),
        ]);
    }
    render(&drawn)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_rows_and_none_is_a_sentence() {
        assert_eq!(draw(&[]), "There are no cache files.\n");
        let row: Row = serde_json::from_str(
            r#"{"model_name":"bge-m3","model_version":"v","bytes":1500,"path":"/c/m"}"#,
        )
        .expect("a row");
        let text = draw(&[row]);
        assert!(text.contains("1.5 kB") && text.contains("/c/m"), "{text}");
    }
}
