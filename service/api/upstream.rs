//! Chats that a server elsewhere answers: the body goes there as it came, and the answer comes
//! back as it goes, so that one address serves small models here and large ones there.

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use axum::{
    body::{Body, Bytes},
    response::Response,
};
use http::{HeaderName, HeaderValue, Request, header};
use http_body_util::Full;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde::Deserialize;
use tower_http::timeout::TimeoutBody;

use super::{fields, generation};
use crate::{
    config::{Secret, UpstreamConfig},
    error::{Error, Result},
};

/// How long a connection may take.
const CONNECT_PATIENCE: Duration = Duration::from_secs(5);

/// What of an answer's head is passed on; the rest is between two servers.
const HEADERS: [HeaderName; 4] = [
    header::CONTENT_TYPE,
    header::CONTENT_ENCODING,
    header::RETRY_AFTER,
    header::CACHE_CONTROL,
];

/// All servers elsewhere. Cheap to clone.
#[derive(Clone, Default)]
pub struct Upstreams(Option<Arc<Inner>>);

type HttpClient = Client<HttpsConnector<HttpConnector>, Full<Bytes>>;

struct Inner {
    client: HttpClient,
    by_model: BTreeMap<String, Target>,
}

struct Target {
    url: String,
    authorization: Option<HeaderValue>,
}

/// A server elsewhere, for one model that it has.
pub struct Upstream<'a> {
    client: &'a HttpClient,
    model: &'a str,
    target: &'a Target,
}

/// All that is read of a body that goes elsewhere.
#[derive(Deserialize)]
struct Named {
    model: Option<String>,
}

impl Upstreams {
    /// These servers.
    pub fn new(configured: &[UpstreamConfig]) -> Self {
        let mut by_model = BTreeMap::new();
        for upstream in configured {
            for model in &upstream.models {
                let key = upstream.api_key.as_ref().map(Secret::expose);
                // The configuration takes no key that a header cannot have.
                let key = key.and_then(|key| HeaderValue::try_from(format!("Bearer {key}")).ok());
                let target = Target {
                    url: upstream.url.clone(),
                    authorization: key.map(|mut key| {
                        key.set_sensitive(true);
                        key
                    }),
                };
                by_model.insert(model.clone(), target);
            }
        }
        if by_model.is_empty() {
            return Self(None);
        }
        let mut http = HttpConnector::new();
        http.enforce_http(false);
        http.set_nodelay(true);
        http.set_connect_timeout(Some(CONNECT_PATIENCE));
        let connector = HttpsConnectorBuilder::new()
            .with_platform_verifier()
            .https_or_http()
            .enable_http1()
            .wrap_connector(http);
        let client = Client::builder(TokioExecutor::new()).build(connector);
        Self(Some(Arc::new(Inner { client, by_model })))
    }

    /// The models that are served elsewhere.
    pub fn models(&self) -> impl Iterator<Item = &str> {
        let inner = self.0.iter().flat_map(|inner| inner.by_model.keys());
        inner.map(String::as_str)
    }

    /// Whether this model is.
    pub fn has(&self, model: &str) -> bool {
        let inner = self.0.as_ref();
        inner.is_some_and(|inner| inner.by_model.contains_key(model))
    }

    /// The server that has the model which a body names; `None` where none has.
    ///
    /// # Errors
    /// When the name is too long to be one.
    pub fn of(&self, body: &[u8]) -> Result<Option<Upstream<'_>>> {
        let Some(inner) = &self.0 else {
            return Ok(None);
        };
        // What is no JSON is told so by whoever reads all of it.
        let named = serde_json::from_slice::<Named>(body).ok();
        let named = fields::named_model(named.and_then(|named| named.model))?;
        let found = named.and_then(|name| inner.by_model.get_key_value(&name));
        Ok(found.map(|(model, target)| Upstream {
            client: &inner.client,
            model,
            target,
        }))
    }
}

impl Upstream<'_> {
    /// What its model is called.
    pub fn model(&self) -> &str {
        self.model
    }

    /// Passes a body on. A client who hangs up ends it there, too.
    ///
    /// # Errors
    /// When the server cannot be reached, or does not begin to answer within `patience`. An answer
    /// that then stops for as long breaks off.
    pub async fn pass(
        &self,
        path: &'static str,
        body: Bytes,
        patience: Duration,
    ) -> Result<Response> {
        let answer = self.client.request(self.target.request(path, body)?);
        let answer = tokio::time::timeout(patience, answer)
            .await
            .map_err(|_| Error::Timeout { after: patience })?
            .map_err(|error| Error::Upstream {
                model: self.model.to_owned(),
                reason: reason(&error),
            })?;
        let (head, body) = answer.into_parts();
        let mut response = Response::new(Body::new(TimeoutBody::new(patience, body)));
        *response.status_mut() = head.status;
        for name in HEADERS {
            if let Some(value) = head.headers.get(&name) {
                response.headers_mut().insert(name, value.clone());
            }
        }
        let kind = head.headers.get(header::CONTENT_TYPE);
        if kind.is_some_and(|kind| kind.as_bytes().starts_with(b"text/event-stream")) {
            generation::send_at_once(response.headers_mut());
        }
        Ok(response)
    }
}

impl Target {
    fn request(&self, path: &str, body: Bytes) -> Result<Request<Full<Bytes>>> {
        let mut request = Request::post(format!("{}{path}", self.url))
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::ACCEPT, "application/json, text/event-stream");
        if let Some(key) = &self.authorization {
            request = request.header(header::AUTHORIZATION, key);
        }
        request
            .body(Full::new(body))
            .map_err(|error| Error::Internal(format!("a request to `{}`: {error}", self.url)))
    }
}

impl fmt::Debug for Upstreams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.models()).finish()
    }
}

/// The innermost cause: "connection refused" and the like.
fn reason(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}
