//! The one error that callers see, named from their side. A status code is chosen here and
//! nowhere else; a dialect only decides how the body is drawn.

use std::{fmt, time::Duration};

use http::StatusCode;

/// The result of everything the engine does.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a request was not answered with what it asked for.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// The body or a parameter is wrong; sending the same request again cannot succeed.
    #[error("{message}")]
    InvalidRequest {
        /// What was wrong, the value, the limit, and what changes it.
        message: String,
        /// The field at fault, when there is one.
        param: Option<&'static str>,
    },
    /// A list that needs at least one item has none.
    #[error("`{0}` is an empty list; send at least one text")]
    Empty(&'static str),
    /// No key, or a wrong one.
    #[error("Could not validate credentials: {0}")]
    Unauthorized(&'static str),
    /// The key is right but may not do this.
    #[error("{0}")]
    Forbidden(String),
    /// No such path.
    #[error("no route `{method} {path}`; see /docs for what is served")]
    RouteNotFound {
        /// The method of the request.
        method: String,
        /// The path of the request.
        path: String,
    },
    /// The path exists, for other methods.
    #[error("`{method}` is not allowed on `{path}`")]
    MethodNotAllowed {
        /// The method of the request.
        method: String,
        /// The path of the request.
        path: String,
    },
    /// No model is served under this name.
    #[error("Model not found in the model list, uid: {model}; served here: {served}")]
    ModelNotFound {
        /// The name that was asked for.
        model: String,
        /// The names that are served, for the person who mistyped.
        served: String,
    },
    /// The name belongs to another model.
    #[error(
        "Model is already in the model list, uid: {uid}; it serves `{reference}`, so `{wanted}` \
         needs another uid, or terminate it first"
    )]
    AlreadyServed {
        /// The name.
        uid: String,
        /// What is served under it.
        reference: String,
        /// What was to be served under it.
        wanted: String,
    },
    /// The name belongs to a model of a server elsewhere.
    #[error(
        "Model is already in the model list, uid: {uid}; an `[[upstream]]` of the configuration \
         answers for it, so `{wanted}` needs another uid"
    )]
    ServedElsewhere {
        /// The name.
        uid: String,
        /// What was to be served under it.
        wanted: String,
    },
    /// The model does not fit into memory; the message has the numbers.
    #[error("{0}")]
    InsufficientMemory(String),
    /// The model exists but cannot do this.
    #[error("model `{model}` is {kind} and cannot {task}; it can {can}")]
    UnsupportedTask {
        /// The served name.
        model: String,
        /// What it is, e.g. `an embedding model`.
        kind: &'static str,
        /// What was asked of it, e.g. `rerank`.
        task: String,
        /// What it can do instead.
        can: String,
    },
    /// An input has more tokens than fit and the caller asked not to cut it.
    #[error(
        "{place} has {tokens} tokens, more than the limit of {limit}; shorten it, or send \
         `\"truncate\": \"END\"` to have it cut"
    )]
    InputTooLong {
        /// Which text of the request.
        place: Place,
        /// Its tokens, special tokens included.
        tokens: usize,
        /// The most that fit.
        limit: usize,
    },
    /// A prompt fills the context of the model, so that no answer fits.
    #[error(
        "This model's maximum context length is {limit} tokens, and the prompt has at least \
         {tokens}; shorten it"
    )]
    ContextLength {
        /// The field that the prompt was made of.
        field: &'static str,
        /// Tokens of the prompt; where it is far too long, only the fewest that it can have.
        tokens: usize,
        /// The most tokens of a prompt and its answer.
        limit: usize,
    },
    /// The body is over the limit.
    #[error("the request body is larger than {limit} bytes; raise `max_body_bytes` to allow it")]
    TooLarge {
        /// The limit in bytes.
        limit: usize,
    },
    /// The queue is full; nothing of the request was taken.
    #[error(
        "Rate limit reached: {queued} tokens are waiting and {requested} more would exceed \
         `max_queue_tokens` = {limit}; retry after {} s", retry_after.as_secs().max(1)
    )]
    Overloaded {
        /// Tokens that wait already.
        queued: usize,
        /// Tokens of this request.
        requested: usize,
        /// The most that may wait.
        limit: usize,
        /// When the queue will have room, judged by the recent rate.
        retry_after: Duration,
    },
    /// The key has had what it may have of a minute.
    #[error(
        "Rate limit reached: this key may have {per_minute} {unit} per minute; retry after {} s",
        whole_seconds(*retry_after)
    )]
    RateLimited {
        /// `requests` or `tokens`.
        unit: &'static str,
        /// The limit.
        per_minute: u32,
        /// When the next request will be let in.
        retry_after: Duration,
    },
    /// What waits already would take longer than the caller does; nothing of it was taken.
    #[error(
        "Rate limit reached: this would take about {:.1} s and the request allows {:.1} s; \
         retry after {} s", estimate.as_secs_f64(), patience.as_secs_f64(),
        retry_after.as_secs().max(1)
    )]
    WouldBeLate {
        /// When it would be done, judged by the recent rate.
        estimate: Duration,
        /// The time that is left.
        patience: Duration,
        /// When it could be done in time, judged likewise.
        retry_after: Duration,
    },
    /// The model answered with something that is not a vector or not a number.
    #[error("{place}: the model returned numbers that are {fault}; nothing was sent for it")]
    BadOutput {
        /// Which text of the request.
        place: Place,
        /// What is wrong with it.
        fault: String,
    },
    /// The body stopped on its way, or came too slowly.
    #[error(
        "the request body did not come: it stopped, or was not complete, for {} s",
        after.as_secs_f32()
    )]
    SlowBody {
        /// How long it may take.
        after: Duration,
    },
    /// The server elsewhere that answers for a model cannot be reached.
    #[error("the server that answers for model `{model}` cannot be reached: {reason}")]
    Upstream {
        /// The model, as it is configured.
        model: String,
        /// Why.
        reason: String,
    },
    /// The request took longer than its deadline.
    #[error("the request was not finished within {} s", after.as_secs_f32())]
    Timeout {
        /// The deadline.
        after: Duration,
    },
    /// The model is loading, or the server is draining.
    #[error("{0}")]
    NotReady(String),
    /// The feature exists elsewhere but not here.
    #[error("{0}")]
    NotImplemented(String),
    /// A bug or a failing machine. Logged in full, sent without detail.
    #[error("{0}")]
    Internal(String),
}

/// A text of a request, told by what it is there for and its position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// One of the inputs.
    Input(usize),
    /// The query, or one of several.
    Query(usize),
    /// One of the documents.
    Document(usize),
}

impl Place {
    /// The field of a request that has it.
    pub fn field(self) -> &'static str {
        match self {
            Self::Input(_) => "input",
            Self::Query(_) => "query",
            Self::Document(_) => "documents",
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Input(index) => write!(f, "input {index}"),
            Self::Query(index) => write!(f, "query {index}"),
            Self::Document(index) => write!(f, "document {index}"),
        }
    }
}

/// Rounded up, so that who waits so long does not come too early; at least one.
pub fn whole_seconds(duration: Duration) -> u64 {
    (duration.as_secs() + u64::from(duration.subsec_nanos() > 0)).max(1)
}

impl Error {
    /// A field that has to be there is not.
    pub fn missing(field: &'static str) -> Self {
        Self::invalid(field, format!("`{field}` is missing; it is required"))
    }

    /// An [`Error::InvalidRequest`] about one field.
    pub fn invalid(param: &'static str, message: impl Into<String>) -> Self {
        Self::InvalidRequest {
            message: message.into(),
            param: Some(param),
        }
    }

    /// The HTTP status of this error.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::InvalidRequest { .. }
            | Self::Empty(_)
            | Self::AlreadyServed { .. }
            | Self::ServedElsewhere { .. }
            | Self::UnsupportedTask { .. }
            | Self::InputTooLong { .. }
            | Self::ContextLength { .. } => StatusCode::BAD_REQUEST,
            Self::Unauthorized(_) => StatusCode::UNAUTHORIZED,
            Self::Forbidden(_) => StatusCode::FORBIDDEN,
            Self::RouteNotFound { .. } | Self::ModelNotFound { .. } => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed { .. } => StatusCode::METHOD_NOT_ALLOWED,
            Self::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::SlowBody { .. } => StatusCode::REQUEST_TIMEOUT,
            Self::Overloaded { .. } | Self::RateLimited { .. } | Self::WouldBeLate { .. } => {
                StatusCode::TOO_MANY_REQUESTS
            }
            Self::Upstream { .. } => StatusCode::BAD_GATEWAY,
            Self::Timeout { .. } => StatusCode::GATEWAY_TIMEOUT,
            Self::NotReady(_) | Self::InsufficientMemory(_) => StatusCode::SERVICE_UNAVAILABLE,
            Self::NotImplemented(_) => StatusCode::NOT_IMPLEMENTED,
            Self::BadOutput { .. } | Self::Internal(_) => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// The machine-readable name of this error, OpenAI's where OpenAI has one.
    pub fn code(&self) -> &'static str {
        match self {
            Self::InvalidRequest { .. } | Self::Empty(_) => "invalid_request",
            Self::Unauthorized(_) => "invalid_api_key",
            Self::Forbidden(_) => "insufficient_scope",
            Self::RouteNotFound { .. } => "route_not_found",
            Self::MethodNotAllowed { .. } => "method_not_allowed",
            Self::ModelNotFound { .. } => "model_not_found",
            Self::AlreadyServed { .. } | Self::ServedElsewhere { .. } => "model_already_served",
            Self::InsufficientMemory(_) => "insufficient_memory",
            Self::UnsupportedTask { .. } => "unsupported_task",
            Self::InputTooLong { .. } | Self::ContextLength { .. } => "context_length_exceeded",
            Self::TooLarge { .. } => "request_too_large",
            Self::Overloaded { .. } | Self::RateLimited { .. } | Self::WouldBeLate { .. } => {
                "rate_limit_exceeded"
            }
            Self::BadOutput { .. } => "bad_output",
            Self::SlowBody { .. } => "request_timeout",
            Self::Upstream { .. } => "upstream_unreachable",
            Self::Timeout { .. } => "timeout",
            Self::NotReady(_) => "not_ready",
            Self::NotImplemented(_) => "not_implemented",
            Self::Internal(_) => "internal_error",
        }
    }

    /// The field at fault, when the caller can be told one.
    pub fn param(&self) -> Option<&'static str> {
        match self {
            Self::InvalidRequest { param, .. } => *param,
            Self::Empty(field) => Some(field),
            Self::ContextLength { field, .. } => Some(field),
            Self::ModelNotFound { .. }
            | Self::AlreadyServed { .. }
            | Self::ServedElsewhere { .. }
            | Self::UnsupportedTask { .. } => Some("model"),
            Self::InputTooLong { place, .. } | Self::BadOutput { place, .. } => Some(place.field()),
            Self::Unauthorized(_)
            | Self::Forbidden(_)
            | Self::RouteNotFound { .. }
            | Self::MethodNotAllowed { .. }
            | Self::TooLarge { .. }
            | Self::Overloaded { .. }
            | Self::SlowBody { .. }
            | Self::RateLimited { .. }
            | Self::WouldBeLate { .. }
            | Self::Upstream { .. }
            | Self::Timeout { .. }
            | Self::NotReady(_)
            | Self::InsufficientMemory(_)
            | Self::NotImplemented(_)
            | Self::Internal(_) => None,
        }
    }

    /// What a caller may read: the message, or a plain sentence where the message is internal.
    pub fn public_message(&self) -> String {
        match self {
            Self::Internal(_) => {
                "internal error; the server's log has the details under this request's id".into()
            }
            other => other.to_string(),
        }
    }
}
