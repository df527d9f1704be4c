//! `retort ps`: asks a running server, which may be on another machine, what it serves.

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use serde::Deserialize;

use super::flags::{Flags, Service};
use super::report::base_url;
use super::table::{render, table};
use super::{Context, Failure, print, ready};
use crate::config::{Purpose, Secret};

/// How long an answer that needs no work is waited for.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// Flags of `retort ps`.
#[derive(Args)]
pub struct PsArgs {
    /// The server; by default the one that this configuration would start
    #[arg(long, value_name = "URL")]
    url: Option<String>,
    /// Print what the server answers, as JSON
    #[arg(long)]
    json: bool,
    /// Say only whether all models that the server must have answer; the exit code is 0 when they
    /// do, else 1
    #[arg(long, conflicts_with = "json")]
    ready: bool,
    /// With `--ready`, wait until they do, for at most so many seconds, also for the server itself
    #[arg(
        long,
        value_name = "SECONDS",
        requires = "ready",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "600"
    )]
    wait: Option<u32>,
    #[command(flatten)]
    flags: Flags<Service>,
}

/// Asks and prints.
pub fn run(args: PsArgs, context: &Context) -> Result<ExitCode, Failure> {
    let server = context.load(Purpose::Local, args.flags)?.config.server;
    let url = args.url.unwrap_or_else(|| base_url(server.address));
    let url = url.trim_end_matches('/').trim_end_matches("/v1");
    if args.ready {
        let limit = Duration::from_secs(args.wait.unwrap_or(0).into());
        let models = ready::wait(&client(ready::PATIENCE), url, limit)?;
        print(&format!("ready: {models}\n"))?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut keys = server.api_keys.iter().chain(&server.admin_api_keys);
    let body = ask(url, keys.next().map(Secret::expose))?;
    if args.json {
        print(&format!("{body}\n"))?;
    } else {
        print(&draw(&read(url, &body)?))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// A client for servers of one's own: no proxy stands between, and no answer is waited for long.
pub fn client(patience: Duration) -> ureq::Agent {
    let config = ureq::Agent::config_builder()
        .timeout_global(Some(patience))
        .http_status_as_error(false)
        .proxy(None);
    config.build().into()
}

fn ask(url: &str, key: Option<&str>) -> Result<String, Failure> {
    let mut request = client(PATIENCE).get(format!("{url}/v1/models"));
    if let Some(key) = key {
        request = request.header("Authorization", format!("Bearer {key}"));
    }
    let mut response = request.call().map_err(|error| {
        Failure::new(format!("no server answers at `{url}`: {error}")).with_hint(
            "start one with `retort serve`, or name another with `--url`, `--host` or `--port`",
        )
    })?;
    let body = response.body_mut().read_to_string().unwrap_or_default();
    match response.status().as_u16() {
        200 => Ok(body),
        401 | 403 => Err(Failure::new(format!("the server at `{url}` wants a key"))
            .with_hint("give it with `RETORT_API_KEY` or `--api-key`")),
        status => Err(Failure::new(format!(
            "the server at `{url}` answered with status {status}"
        ))
        .with_hint("name a Retort, or another server with `/v1/models`, with `--url`")),
    }
}

/// The answer of `/v1/models`; fields that only Retort has may be missing.
#[derive(Debug, Deserialize)]
struct Served {
    data: Vec<Model>,
}

#[derive(Debug, Deserialize)]
struct Model {
    id: String,
    model_type: Option<String>,
    state: Option<String>,
    state_reason: Option<String>,
    dimensions: Option<u64>,
    max_tokens: Option<u64>,
    device: Option<String>,
    dtype: Option<String>,
    origin: Option<String>,
}

fn read(url: &str, body: &str) -> Result<Vec<Model>, Failure> {
    let served: Result<Served, _> = serde_json::from_str(body);
    served.map(|served| served.data).map_err(|error| {
        Failure::new(format!(
            "the answer of `{url}` is no list of models: {error}"
        ))
        .with_hint("name a Retort, or another server with `/v1/models`, with `--url`")
    })
}

fn draw(models: &[Model]) -> String {
    let mut rows = table(&[
        "name",
        "type",
        "state",
        "dimensions",
        "max tokens",
        "device",
        "dtype",
        "from",
    ]);
    for model in models {
        let number = |value: Option<u64>| value.map(|n| n.to_string()).unwrap_or_default();
        let text = |value: &Option<String>| value.clone().unwrap_or_default();
        let state = match (&model.state, &model.state_reason) {
            (Some(state), Some(reason)) => format!("{state}: {reason}"),
            (state, _) => text(state),
        };
        rows.add_row([
            model.id.clone(),
            text(&model.model_type),
            state,
            number(model.dimensions),
            number(model.max_tokens),
            text(&model.device),
            text(&model.dtype),
            text(&model.origin),
        ]);
    }
    render(&rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_models_becomes_a_table_and_missing_fields_stay_blank() {
        let body = r#"{"object":"list","data":[
            {"id":"bge-m3","model_type":"embedding","state":"ready","dimensions":1024,
             "max_tokens":8192,"device":"cpu","dtype":"float32","origin":"cache (PyPI)"},
            {"id":"other"}]}"#;
        let text = draw(&read("http://x", body).expect("a list"));
        assert!(
            text.lines()
                .nth(1)
                .is_some_and(|line| line.contains("1024")),
            "{text}"
        );
        assert!(
            text.lines()
                .nth(2)
                .is_some_and(|line| line.trim() == "other"),
            "{text}"
        );
    }

    #[test]
    fn another_answer_is_an_error_with_a_hint() {
        let failure = read("http://x", "<html>").expect_err("no list");
        assert!(
            failure
                .message
                .starts_with("the answer of `http://x` is no list of models")
        );
        assert!(failure.hint.is_some());
    }

    #[test]
    fn nobody_at_home_is_an_error_with_a_hint() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let url = base_url(listener.local_addr().expect("an address"));
        drop(listener);
        let failure = ask(&url, None).expect_err("nobody");
        assert!(
            failure
                .message
                .starts_with(&format!("no server answers at `{url}`"))
        );
        assert!(
            failure
                .hint
                .is_some_and(|hint| hint.contains("retort serve"))
        );
    }
}
