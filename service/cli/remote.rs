//! A running server, as the commands that manage its models reach it.

use std::io::{BufRead, BufReader};
use std::time::Duration;

use clap::Args;
use serde::de::DeserializeOwned;
use serde_json::Value;
use ureq::Agent;

use super::flags::{Flags, Service};
use super::report::base_url;
use super::{Context, Failure};
use crate::config::{Purpose, Secret};

/// Longer than a model takes to finish what is inside and go.
const PATIENCE: Duration = Duration::from_secs(120);

/// Which server, with Xinference's flags and variable.
#[derive(Args)]
pub struct RemoteArgs {
    /// The server [env: XINFERENCE_ENDPOINT]; by default the one that this configuration would
    /// start
    #[arg(long, short = 'e', value_name = "URL")]
    endpoint: Option<String>,
    /// A key that may manage models, also `-ak`; by default the configured one
    #[arg(long = "api-key", value_name = "KEY")]
    api_key: Option<String>,
}

/// A server and the key for it.
pub struct Remote {
    agent: Agent,
    url: String,
    key: Option<String>,
}

impl Remote {
    /// The server that is meant. Nothing is asked of it yet.
    pub fn new(args: RemoteArgs, context: &Context) -> Result<Self, Failure> {
        let named = context.environment.get("XINFERENCE_ENDPOINT");
        let named = args.endpoint.or_else(|| named.map(String::from));
        let (url, key) = match (named, args.api_key) {
            (Some(url), Some(key)) => (url, Some(key)),
            (url, key) => {
                let loaded = context.load(Purpose::Local, Flags::<Service>::none())?;
                let server = loaded.config.server;
                // Most of what is asked from here takes the greater right.
                let mut keys = server.admin_api_keys.iter().chain(&server.api_keys);
                let configured = keys.next().map(Secret::expose);
                (
                    url.unwrap_or_else(|| base_url(server.address)),
                    key.or_else(|| configured.map(String::from)),
                )
            }
        };
        // No proxy stands between, and errors are answers that have something to say.
        let config = Agent::config_builder()
            .timeout_global(Some(PATIENCE))
            .http_status_as_error(false)
            .proxy(None);
        let url = url.trim_end_matches('/').trim_end_matches("/v1");
        Ok(Self {
            agent: config.build().into(),
            url: url.to_owned(),
            key,
        })
    }

    /// Where it is.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// GETs a path.
    pub fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        let request = self.agent.get(format!("{}{path}", self.url));
        self.read(self.signed(request).call())
    }

    /// POSTs JSON to a path.
    pub fn post<T: DeserializeOwned>(&self, path: &str, body: &Value) -> Result<T, Failure> {
        let request = self.agent.post(format!("{}{path}", self.url));
        self.read(self.signed(request).send_json(body))
    }

    /// POSTs JSON to a path whose answer is lines that come one after another, for as long as that
    /// takes.
    pub fn lines(
        &self,
        path: &str,
        body: &Value,
    ) -> Result<impl Iterator<Item = std::io::Result<String>> + use<>, Failure> {
        let request = self.agent.post(format!("{}{path}", self.url));
        let request = request.config().timeout_global(None).build();
        let mut response = self.answered(self.signed(request).send_json(body))?;
        let status = response.status();
        if !status.is_success() {
            let body = response.body_mut().read_to_string().unwrap_or_default();
            return Err(refusal(&self.url, status.as_u16(), &body));
        }
        Ok(BufReader::new(response.into_body().into_reader()).lines())
    }

    /// DELETEs a path.
    pub fn delete<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        let request = self.agent.delete(format!("{}{path}", self.url));
        self.read(self.signed(request).call())
    }

    fn signed<B>(&self, request: ureq::RequestBuilder<B>) -> ureq::RequestBuilder<B> {
        match &self.key {
            Some(key) => request.header("Authorization", format!("Bearer {key}")),
            None => request,
        }
    }

    fn answered(
        &self,
        answer: Result<http::Response<ureq::Body>, ureq::Error>,
    ) -> Result<http::Response<ureq::Body>, Failure> {
        let url = &self.url;
        answer.map_err(|error| {
            Failure::new(format!("no server answers at `{url}`: {error}"))
                .with_hint("start one with `retort serve`, or name another with `--endpoint`")
        })
    }

    fn read<T: DeserializeOwned>(
        &self,
        answer: Result<http::Response<ureq::Body>, ureq::Error>,
    ) -> Result<T, Failure> {
        let url = &self.url;
        let mut response = self.answered(answer)?;
        let status = response.status();
        let body = response.body_mut().read_to_string().unwrap_or_default();
        if !status.is_success() {
            return Err(refusal(url, status.as_u16(), &body));
        }
        serde_json::from_str(&body).map_err(|error| {
            Failure::new(format!("the answer of `{url}` is not understood: {error}"))
                .with_hint("name a Retort or a Xinference with `--endpoint`")
        })
    }
}

/// What a server that refuses has to say.
fn refusal(url: &str, status: u16, body: &str) -> Failure {
    let body: Value = serde_json::from_str(body).unwrap_or_default();
    let told = body["detail"].as_str().or_else(|| body["error"].as_str());
    let failure = match told {
        Some(detail) => Failure::new(detail),
        None => Failure::new(format!(
            "the server at `{url}` answered with status {status}"
        )),
    };
    match status {
        401 | 403 => failure.with_hint("give a key with `--api-key` or `RETORT_API_KEY`"),
        _ => failure,
    }
}

/// A name as a part of a path.
pub fn quoted(name: &str) -> String {
    let fits = |b: u8| b.is_ascii_alphanumeric() || b"-._~".contains(&b);
    let quoted = name.bytes().map(|b| match fits(b) {
        true => char::from(b).to_string(),
        false => format!("%{b:02X}"),
    });
    quoted.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_keeps_to_its_part_of_the_path() {
        assert_eq!(quoted("bge-m3"), "bge-m3");
        assert_eq!(quoted("BAAI/bge m3?"), "BAAI%2Fbge%20m3%3F");
    }

    #[test]
    fn a_refusal_is_the_servers_own_sentence() {
        let failure = refusal("http://x", 400, r#"{"detail":"Model not found"}"#);
        assert_eq!(failure.message, "Model not found");
        let failure = refusal("http://x", 403, "<html>");
        assert_eq!(
            failure.message,
            "the server at `http://x` answered with status 403"
        );
        assert!(failure.hint.is_some_and(|hint| hint.contains("--api-key")));
    }
}
