//! The outermost layer: gives each request an id, draws its error, logs and counts it once.

use std::{
    convert::Infallible,
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use axum::{
    extract::{FromRequestParts, Request, State},
    middleware::Next,
    response::Response,
};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, request::Parts};

use super::{
    Route,
    errors::{self, Dialect, NATIVE},
    rate::Meter,
};
use crate::{
    engine::{
        lane::{Caller, Lane},
        request::{Timings, Usage},
    },
    error::Error,
    telemetry::{Outcome, RequestFacts, Telemetry},
};

/// The header that carries the id of a request, both ways.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Nginx's number for a client that left before it was answered.
const CLIENT_CLOSED_REQUEST: u16 = 499;

/// What is known of the current request; handlers add to it, the outermost layer tells it.
#[derive(Debug, Clone)]
pub struct RequestLog {
    started: Instant,
    entry: Arc<Mutex<Entry>>,
}

#[derive(Debug)]
struct Entry {
    facts: RequestFacts,
    caller: Caller,
    dialect: Option<&'static Dialect>,
    /// None for callers without limits.
    meter: Option<Meter>,
}

impl RequestLog {
    fn new(id: String) -> Self {
        let facts = RequestFacts {
            id,
            dialect: "none",
            task: "none",
            lane: "none",
            ..RequestFacts::default()
        };
        let entry = Arc::new(Mutex::new(Entry {
            facts,
            caller: Caller::default(),
            dialect: None,
            meter: None,
        }));
        Self {
            started: Instant::now(),
            entry,
        }
    }

    /// When the head of the request had arrived.
    pub fn started(&self) -> Instant {
        self.started
    }

    /// The request has found its row of the route table.
    pub fn routed(&self, route: &'static Route) {
        self.with(|entry| {
            entry.dialect = Some(route.dialect);
            entry.facts.dialect = route.dialect.name;
            entry.facts.task = route.task;
        });
    }

    /// Who asks, and how urgently.
    pub fn called_by(&self, caller: Caller) {
        self.with(|entry| entry.caller = caller);
    }

    /// The body of the request has a wish about its lane; one in a header goes before it.
    pub fn prefers(&self, lane: Option<Lane>) {
        self.with(|entry| entry.caller.lane = entry.caller.lane.or(lane));
    }

    /// What [`RequestLog::called_by`] and [`RequestLog::prefers`] were told.
    pub fn caller(&self) -> Caller {
        self.with(|entry| entry.caller)
    }

    /// So many inputs are to be worked on.
    pub fn asked(&self, inputs: usize) {
        self.with(|entry| entry.facts.inputs = inputs);
    }

    /// The served model that the request is about.
    pub fn about(&self, model: &str) {
        self.with(|entry| model.clone_into(&mut entry.facts.model));
    }

    /// The request is speaking another dialect than its route usually does.
    pub fn speaks(&self, dialect: &'static Dialect) {
        self.with(|entry| {
            entry.dialect = Some(dialect);
            entry.facts.dialect = dialect.name;
        });
    }

    /// The work is done: by which model, on what, and when.
    pub fn answered(&self, model: &str, usage: Usage, timings: Timings) {
        self.with(|entry| {
            let facts = &mut entry.facts;
            model.clone_into(&mut facts.model);
            facts.tokens = usage.prompt_tokens;
            facts.inputs_cut = usage.cut_inputs;
            facts.queue = timings.queue;
            facts.inference = timings.inference;
            facts.lane = timings.lane.map_or("none", Lane::name);
            facts.cached = timings.cached;
            facts.coalesced = timings.coalesced;
        });
    }

    /// What its tokens are taken from.
    pub fn metered(&self, meter: Meter) {
        self.with(|entry| entry.meter = Some(meter));
    }

    /// So many tokens were written, told once when nothing more is; the head of the answer, and
    /// with it the line of the log, may be long gone.
    pub fn wrote(&self, tokens: usize) {
        if let Some(meter) = self.with(|entry| entry.meter.clone()) {
            meter.spend(tokens);
        }
    }

    /// How many tokens were worked on.
    pub fn tokens(&self) -> usize {
        self.with(|entry| entry.facts.tokens)
    }

    fn with<T>(&self, change: impl FnOnce(&mut Entry) -> T) -> T {
        // A panic while a field is assigned leaves nothing half done, so poison means nothing.
        change(&mut self.entry.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl<S: Sync> FromRequestParts<S> for RequestLog {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Infallible> {
        // Outside this layer, as in a test of a lone handler, nobody reads the log.
        Ok(parts
            .extensions
            .get()
            .cloned()
            .unwrap_or_else(|| Self::new(String::new())))
    }
}

/// The layer itself.
pub async fn observe(
    State(telemetry): State<Telemetry>,
    mut request: Request,
    next: Next,
) -> Response {
    let id = request_id(request.headers());
    let log = RequestLog::new(id.clone());
    request.extensions_mut().insert(log.clone());
    let pending = Pending {
        telemetry,
        log,
        told: false,
    };
    let mut response = next.run(request).await;
    let error = response.extensions_mut().remove::<Error>();
    if let Some(error) = &error {
        let dialect = pending.log.with(|entry| entry.dialect).unwrap_or(&NATIVE);
        response = errors::draw(response, error, dialect);
    }
    if let Ok(id) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(REQUEST_ID, id);
    }
    pending.finished(response.status(), error.as_ref());
    response
}

/// A request that has not been answered. Dropping it unfinished means that its client left,
/// because that is when the server drops the future of a handler.
struct Pending {
    telemetry: Telemetry,
    log: RequestLog,
    told: bool,
}

impl Pending {
    fn finished(mut self, status: StatusCode, error: Option<&Error>) {
        let error = error.map(ToString::to_string);
        self.tell(status.as_u16(), error.as_deref());
    }

    fn tell(&mut self, status: u16, error: Option<&str>) {
        self.told = true;
        let outcome = Outcome {
            status,
            elapsed: self.log.started.elapsed(),
            error,
        };
        self.log
            .with(|entry| self.telemetry.request_finished(&entry.facts, &outcome));
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if !self.told {
            self.tell(
                CLIENT_CLOSED_REQUEST,
                Some("the client left before it was answered"),
            );
        }
    }
}

/// The caller's id, when it is one that a log line and a header can carry; else a new one.
fn request_id(headers: &HeaderMap) -> String {
    headers
        .get(REQUEST_ID)
        .and_then(|value| value.to_str().ok())
        .map(str::trim)
        .filter(|id| (1..=128).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_graphic()))
        .map_or_else(|| uuid::Uuid::new_v4().simple().to_string(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_callers_id_is_kept_when_it_is_fit_for_a_log() {
        let id = |value: &[u8]| {
            let mut headers = HeaderMap::new();
            headers.insert(REQUEST_ID, HeaderValue::from_bytes(value).unwrap());
            request_id(&headers)
        };
        assert_eq!(id(b"abc-1"), "abc-1");
        for unfit in [&b""[..], b"two words", b"\xc3\xa4", &[b'x'; 129]] {
            assert_eq!(id(unfit).len(), 32, "{unfit:?}");
        }
    }

    #[test]
    fn a_request_that_is_dropped_counts_as_499() {
        let telemetry = Telemetry::new();
        let log = RequestLog::new("x".into());
        log.about("bge-m3");
        drop(Pending {
            telemetry: telemetry.clone(),
            log,
            told: false,
        });
        let text = telemetry.render(crate::telemetry::TextFormat::Plain);
        assert!(text.contains(r#"model="bge-m3",code="499"} 1"#), "{text}");
    }
}
