//! `retort engine`: what a running server would run a model with.

use std::collections::BTreeMap;
use std::process::ExitCode;

use clap::Args;
use serde::Deserialize;
use serde_json::Value;

use super::remote::{Remote, RemoteArgs, quoted};
use super::table::{render, table};
use super::{Context, Failure, print};

/// Flags of `retort engine`.
#[derive(Args)]
pub struct EngineArgs {
    #[command(flatten)]
    remote: RemoteArgs,
    /// A name of the catalogue
    #[arg(long, short = 'n', value_name = "NAME")]
    model_name: String,
    /// Only this engine; also `-en`
    #[arg(long, value_name = "NAME")]
    model_engine: Option<String>,
}

#[derive(Debug, Deserialize)]
struct EngineOption {
    model_format: String,
    model_size_in_billions: Option<Value>,
    quantizations: Vec<String>,
}

/// An engine that cannot run says why in place of a list.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Options {
    List(Vec<EngineOption>),
    Refused(String),
}

/// Asks and prints.
pub fn run(args: EngineArgs, context: &Context) -> Result<ExitCode, Failure> {
    let path = format!("/v1/engines/{}", quoted(&args.model_name));
    let mut engines: BTreeMap<String, Options> = Remote::new(args.remote, context)?.get(&path)?;
    if let Some(wanted) = &args.model_engine {
        engines.retain(|name, _| name.eq_ignore_ascii_case(wanted));
        if engines.is_empty() {
            return Err(Failure::new(format!(
                "no engine `{wanted}` runs `{}`",
                args.model_name
            )));
        }
    }
    print(&draw(&args.model_name, &engines))?;
    Ok(ExitCode::SUCCESS)
}

fn draw(model: &str, engines: &BTreeMap<String, Options>) -> String {
    let mut rows = table(&[
        "name",
        "engine",
        "format",
        "size (in billions)",
        "quantization",
    ]);
    for (engine, options) in engines {
        match options {
            Options::List(options) => {
                for option in options {
                    let size = match &option.model_size_in_billions {
                        Some(Value::String(size)) => size.clone(),
                        Some(size) => size.to_string(),
                        None => String::new(),
                    };
                    let quantizations = option.quantizations.join(", ");
                    let format = &option.model_format;
                    rows.add_row([model, engine, format, &size, &quantizations]);
                }
            }
            Options::Refused(reason) => _ = rows.add_row([model, engine, reason, "", ""]),
        }
    }
    render(&rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_engine_is_a_row_and_one_that_cannot_run_says_why() {
        let engines = serde_json::from_str(
            r#"{"onnx":[{"model_format":"pytorch","model_size_in_billions":"0_568",
                         "quantizations":["none"]}], "vllm": "not installed"}"#,
        )
        .expect("engines");
        let text = draw("bge-m3", &engines);
        assert!(
            text.contains("0_568") && text.contains("not installed"),
            "{text}"
        );
    }
}
