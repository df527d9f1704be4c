//! One HTTP request at a time, with redirects followed by hand: only so is it certain that a
//! token goes to the host it was meant for and to no other.

use std::{io::Read, time::Duration};

use ureq::{
    Agent, Body,
    config::Config,
    http::{HeaderMap, Method, Request as HttpRequest, Uri, header},
    tls::{RootCerts, TlsConfig},
};

use super::{config::Timeouts, error::SourceError, secret::Secret};

const REDIRECTS_MAX: usize = 6;
/// Listings of the largest repositories are below 2 MB.
const TEXT_BYTES_MAX: u64 = 32 * 1024 * 1024;
/// For every failure below HTTP: name look-up, connection, encryption, silence.
const UNREACHABLE: &str = "if this machine needs a proxy, set HTTPS_PROXY; if it reaches the hub \
                           only through a mirror, set HF_ENDPOINT";
const UNTRUSTED: &str = "add the authority that signed the server's certificate to those of the \
                         system, or name a file with it in SSL_CERT_FILE";
const USER_AGENT: &str = concat!("retort/", env!("CARGO_PKG_VERSION"));

/// A client with the time limits of one configuration.
pub(super) struct Client {
    agent: Agent,
    timeouts: Timeouts,
}

/// What is asked of a server.
pub(super) struct Request<'a> {
    /// Absolute address.
    pub url: &'a str,
    /// Sent to the host of `url`, and not to hosts it redirects to.
    pub token: Option<&'a Secret>,
    /// First byte wanted; zero for the whole body.
    pub from: u64,
}

/// A server's answer, its body not yet read.
pub(super) struct Reply {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Body,
}

/// Which redirects are followed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Redirects {
    All,
    /// Only those that stay with the same host: what lies behind the others is not asked.
    SameHost,
}

impl Client {
    /// A client; nothing is connected yet.
    pub fn new(timeouts: Timeouts) -> Self {
        // The system's certificates, so that those a company installed are accepted.
        let tls = TlsConfig::builder()
            .root_certs(RootCerts::PlatformVerifier)
            .build();
        let config = Config::builder()
            .tls_config(tls)
            .user_agent(USER_AGENT)
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .timeout_resolve(Some(timeouts.connect))
            .timeout_connect(Some(timeouts.connect))
            .timeout_recv_response(Some(timeouts.idle))
            .timeout_per_read(Some(timeouts.idle))
            .build();
        Self {
            agent: config.into(),
            timeouts,
        }
    }

    /// How long to wait before the first retry.
    pub fn retry_delay(&self) -> Duration {
        self.timeouts.retry_delay
    }

    /// Asks for a body, wherever it is redirected to.
    pub fn get(&self, request: &Request<'_>) -> Result<Reply, SourceError> {
        self.send(&Method::GET, request, Redirects::All)
    }

    /// Asks for the headers that the named host itself answers with.
    pub fn head(&self, request: &Request<'_>) -> Result<Reply, SourceError> {
        self.send(&Method::HEAD, request, Redirects::SameHost)
    }

    fn send(
        &self,
        method: &Method,
        request: &Request<'_>,
        redirects: Redirects,
    ) -> Result<Reply, SourceError> {
        let first = parse(request.url)?;
        let mut uri = first.clone();
        for _ in 0..=REDIRECTS_MAX {
            let token = request.token.filter(|_| same_host(&uri, &first));
            let reply = self.send_once(method, &uri, token, request.from)?;
            let location = match reply.status {
                301 | 302 | 303 | 307 | 308 => reply.headers.get(header::LOCATION),
                _ => None,
            };
            let Some(location) = location.and_then(|value| value.to_str().ok()) else {
                return Ok(reply);
            };
            let next = parse(&join(&uri, location))?;
            // The hub describes a stored file on the redirect to it, not behind it.
            let described = reply.headers.contains_key("x-linked-etag");
            if redirects == Redirects::SameHost && (described || !same_host(&next, &first)) {
                return Ok(reply);
            }
            if uri.scheme_str() == Some("https") && next.scheme_str() != Some("https") {
                let reason = format!(
                    "`{}` redirects to an address that is not encrypted",
                    uri.host().unwrap_or_default()
                );
                return Err(SourceError::new(reason));
            }
            uri = next;
        }
        Err(SourceError::new(format!(
            "`{}` redirects in circles",
            request.url
        )))
    }

    fn send_once(
        &self,
        method: &Method,
        uri: &Uri,
        token: Option<&Secret>,
        from: u64,
    ) -> Result<Reply, SourceError> {
        let mut request = HttpRequest::builder().method(method).uri(uri);
        // A compressed body would have neither the length nor the hash of the file.
        request = request.header(header::ACCEPT_ENCODING, "identity");
        if let Some(token) = token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {}", token.expose()));
        }
        if from > 0 {
            request = request.header(header::RANGE, format!("bytes={from}-"));
        }
        let request = request.body(()).map_err(|_| unusable_request(uri))?;
        let mut config = self.agent.configure_request(request);
        if is_loopback(uri) {
            config = config.proxy(None);
        }
        let sent = self.agent.run(config.build());
        let (parts, body) = sent
            .map_err(|error| self.describe(&error, uri))?
            .into_parts();
        Ok(Reply {
            status: parts.status.as_u16(),
            headers: parts.headers,
            body,
        })
    }

    /// A failure in words; the address is left to the caller, who knows what it is for.
    fn describe(&self, error: &ureq::Error, uri: &Uri) -> SourceError {
        let host = uri.host().unwrap_or_default();
        let reason = match error {
            ureq::Error::Timeout(ureq::Timeout::Connect | ureq::Timeout::Resolve) => {
                format!(
                    "no connection to `{host}` within {:?}",
                    self.timeouts.connect
                )
            }
            ureq::Error::Timeout(_) => {
                format!("`{host}` was silent for {:?}", self.timeouts.idle)
            }
            ureq::Error::HostNotFound => format!("the host `{host}` is not known"),
            ureq::Error::ConnectionFailed => format!("no connection to `{host}`"),
            ureq::Error::Io(error) => format!("connection to `{host}`: {error}"),
            error => format!("`{host}`: {error}"),
        };
        let hint = if reason.contains("certificate") {
            UNTRUSTED
        } else {
            UNREACHABLE
        };
        SourceError::new(reason).with_hint(hint)
    }
}

impl Reply {
    /// A header's text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The length the server states for this body.
    pub fn content_length(&self) -> Option<u64> {
        self.header("content-length")?.parse().ok()
    }

    /// First byte and total length out of a `Content-Range: bytes 5-9/10`.
    pub fn content_range(&self) -> Option<(u64, Option<u64>)> {
        let (range, total) = self
            .header("content-range")?
            .strip_prefix("bytes ")?
            .split_once('/')?;
        let (first, _) = range.split_once('-')?;
        Some((first.parse().ok()?, total.parse().ok()))
    }

    /// The whole body as JSON.
    pub fn json<T: serde::de::DeserializeOwned>(self) -> Result<T, SourceError> {
        let mut text = Vec::new();
        let mut reader = self.body.into_with_config().limit(TEXT_BYTES_MAX).reader();
        reader
            .read_to_end(&mut text)
            .map_err(|error| SourceError::new(format!("the answer broke off: {error}")))?;
        serde_json::from_slice(&text)
            .map_err(|error| SourceError::new(format!("the answer is not understood: {error}")))
    }
}

/// Encodes a text for one segment of a path or one value of a query.
pub(super) fn encode_segment(text: &str) -> String {
    use std::fmt::Write as _;
    text.bytes()
        .fold(String::with_capacity(text.len()), |mut encoded, byte| {
            if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
                encoded.push(char::from(byte));
            } else {
                let _ = write!(encoded, "%{byte:02X}");
            }
            encoded
        })
}

/// Encodes a path, keeping its slashes.
pub(super) fn encode_path(path: &str) -> String {
    path.split('/')
        .map(encode_segment)
        .collect::<Vec<_>>()
        .join("/")
}

fn parse(url: &str) -> Result<Uri, SourceError> {
    let uri = url.parse::<Uri>().ok();
    uri.filter(|uri| matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some())
        .ok_or_else(|| {
            SourceError::new(format!("`{url}` is not an address"))
                .with_hint("write endpoints as `https://host`")
        })
}

/// The address a `Location` header means, seen from `base` (RFC 3986, section 5.2).
fn join(base: &Uri, location: &str) -> String {
    let scheme = base.scheme_str().unwrap_or("https");
    let authority = base.authority().map_or("", |authority| authority.as_str());
    if location.contains("://") {
        location.to_owned()
    } else if location.starts_with("//") {
        format!("{scheme}:{location}")
    } else if location.starts_with('/') {
        format!("{scheme}://{authority}{location}")
    } else {
        let folder = base
            .path()
            .rsplit_once('/')
            .map_or("", |(folder, _)| folder);
        format!("{scheme}://{authority}{folder}/{location}")
    }
}

fn same_host(one: &Uri, other: &Uri) -> bool {
    let port = |uri: &Uri| uri.port_u16().or_else(|| default_port(uri));
    let host = |uri: &Uri| uri.host().map(str::to_ascii_lowercase);
    one.scheme() == other.scheme() && host(one) == host(other) && port(one) == port(other)
}

fn default_port(uri: &Uri) -> Option<u16> {
    match uri.scheme_str() {
        Some("http") => Some(80),
        Some("https") => Some(443),
        _ => None,
    }
}

/// A hub on this very machine is never behind the proxy of the environment.
fn is_loopback(uri: &Uri) -> bool {
    let host = uri.host().unwrap_or_default();
    host == "localhost" || host == "[::1]" || host.starts_with("127.")
}

fn unusable_request(uri: &Uri) -> SourceError {
    SourceError::new(format!(
        "no request can be made for `{uri}`; is the token one line of text?"
    ))
}
