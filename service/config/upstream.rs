//! Servers elsewhere to which chats with certain models are passed on: `[[upstream]]` tables.

use std::collections::BTreeSet;

use serde::Deserialize;

use super::model::ModelEntry;
use super::{Error, Secret};

/// The section's name.
pub const UPSTREAM: &str = "upstream";

/// A server elsewhere.
#[derive(Debug, Clone)]
pub struct UpstreamConfig {
    /// Where its `/v1` is, without that and without a slash at the end.
    pub url: String,
    /// The models that are its business, by the names it knows them by.
    pub models: Vec<String>,
    /// What it is shown as a key.
    pub api_key: Option<Secret>,
}

/// A table as typed.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawUpstream {
    url: String,
    models: Vec<String>,
    #[serde(default)]
    api_key: String,
}

/// Checks all of them.
///
/// # Errors
/// When an address is none, or a name is served twice.
pub fn upstreams(raw: &[RawUpstream], own: &[ModelEntry]) -> Result<Vec<UpstreamConfig>, Error> {
    let own = own
        .iter()
        .flat_map(|model| std::iter::once(&model.name).chain(&model.aliases));
    let mut taken: BTreeSet<&str> = own.map(String::as_str).collect();
    let mut all = Vec::new();
    for upstream in raw {
        let url = upstream.url.trim_end_matches('/').trim_end_matches("/v1");
        let uri: Option<http::Uri> = url.parse().ok();
        let is_http = uri.is_some_and(|uri| {
            matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some()
        });
        if !is_http {
            return Err(Error::new(format!(
                "`url` = `{}` of an `[[upstream]]` is no address",
                upstream.url
            ))
            .with_hint("write it as in `url = \"http://10.0.0.5:8000\"`"));
        }
        if upstream.models.is_empty() {
            return Err(
                Error::new(format!("`models` of the upstream `{url}` is empty"))
                    .with_hint("name the models whose chats go there, as that server calls them"),
            );
        }
        for name in &upstream.models {
            if name.trim().is_empty() || !taken.insert(name) {
                return Err(Error::new(format!(
                    "the upstream `{url}` has the model `{name}`, which is empty or served already"
                ))
                .with_hint("give every model one place"));
            }
        }
        let key = upstream.api_key.trim();
        if !key.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(Error::new(format!(
                "`api_key` of the upstream `{url}` has a character that no HTTP header may have"
            ))
            .with_hint("take the key as its server gave it, on one line, without blanks"));
        }
        all.push(UpstreamConfig {
            url: url.to_owned(),
            models: upstream.models.clone(),
            api_key: (!key.is_empty()).then(|| Secret::new(key)),
        });
    }
    Ok(all)
}
