//! `retort list`: what a running server serves, in Xinference's columns.

use std::process::ExitCode;

use clap::Args;
use serde::Deserialize;

use super::remote::{Remote, RemoteArgs};
use super::table::{render, table};
use super::{Context, Failure, print};

/// Flags of `retort list`.
#[derive(Args)]
pub struct ListArgs {
    #[command(flatten)]
    remote: RemoteArgs,
}

#[derive(Debug, Deserialize)]
struct Served {
    data: Vec<Model>,
}

/// A model; fields that only Retort has may be missing.
#[derive(Debug, Deserialize)]
struct Model {
    id: String,
    model_type: Option<String>,
    model_name: Option<String>,
    dimensions: Option<u64>,
    state: Option<String>,
}

/// Asks and prints.
pub fn run(args: ListArgs, context: &Context) -> Result<ExitCode, Failure> {
    let served: Served = Remote::new(args.remote, context)?.get("/v1/models")?;
    print(&draw(&served.data))?;
    Ok(ExitCode::SUCCESS)
}

fn draw(models: &[Model]) -> String {
    let mut rows = table(&["uid", "type", "name", "dimensions", "state"]);
    for model in models {
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        let dimensions = model.dimensions.filter(|&dimensions| dimensions > 0);
        rows.add_row([
            model.id.clone(),
            text(&model.model_type),
            text(&model.model_name),
            dimensions.map(|n| n.to_string()).unwrap_or_default(),
            text(&model.state),
        ]);
    }
    render(&rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn models_are_rows_and_a_reranker_has_no_dimensions() {
        let served: Served = serde_json::from_str(
            r#"{"data":[{"id":"m","model_type":"embedding","model_name":"bge-m3",
                         "dimensions":1024,"state":"ready"},
                        {"id":"r","model_type":"rerank","dimensions":0}]}"#,
        )
        .expect("a list");
        let text = draw(&served.data);
        let lines: Vec<&str> = text.lines().collect();
        assert!(
            lines[0].contains("UID") && lines[1].contains("1024"),
            "{text}"
        );
        assert!(lines[2].trim().ends_with("rerank"), "{text}");
    }
}
