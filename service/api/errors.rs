//! How an [`Error`] leaves: a handler returns it, it rides in the extensions of an empty response,
//! and the outermost layer has the dialect of the route draw the body.

use axum::{body::Body, response::IntoResponse, response::Response};
use http::{HeaderValue, StatusCode, header};
use serde::Serialize;
use utoipa::ToSchema;

use crate::error::{Error, whole_seconds};

/// A family of wire formats that draws its errors alike.
#[derive(Debug)]
pub struct Dialect {
    /// Its name in logs and metrics.
    pub name: &'static str,
    /// The body of an error.
    pub render_error: fn(&Error) -> Vec<u8>,
    /// The name of the schema of that body.
    pub schema: &'static str,
    /// The status of an error, where it differs from the error's own.
    pub status: fn(&Error) -> StatusCode,
}

/// OpenAI's routes and everything else under `/v1`.
pub const OPENAI: Dialect = Dialect {
    name: "openai",
    render_error: union_body,
    schema: "ErrorBody",
    status: Error::status,
};

/// Xinference's management of models.
pub const XINFERENCE: Dialect = Dialect {
    name: "xinference",
    render_error: union_body,
    schema: "ErrorBody",
    status: Error::status,
};

/// Routes that belong to this server alone: health, metrics, documentation.
pub const NATIVE: Dialect = Dialect {
    name: "native",
    render_error: union_body,
    schema: "ErrorBody",
    status: Error::status,
};

/// text-embeddings-inference's form of `/rerank`.
pub const TEI: Dialect = Dialect {
    name: "tei",
    render_error: tei_body,
    schema: "TeiError",
    status: tei_status,
};

/// vLLM's own routes.
pub const VLLM: Dialect = Dialect {
    name: "vllm",
    render_error: vllm_body,
    schema: "NumberedError",
    status: Error::status,
};

/// llama.cpp's own routes.
pub const LLAMA_CPP: Dialect = Dialect {
    name: "llama.cpp",
    render_error: llama_cpp_body,
    schema: "NumberedError",
    status: Error::status,
};

/// Routes under `/api`, where Ollama's clients call.
pub const OLLAMA: Dialect = Dialect {
    name: "ollama",
    render_error: ollama_body,
    schema: "OllamaError",
    status: Error::status,
};

/// Cohere's routes; its clients raise by status and show `message`, which the union has.
pub const COHERE: Dialect = Dialect {
    name: "cohere",
    render_error: union_body,
    schema: "ErrorBody",
    status: Error::status,
};

/// Infinity's routes, whose errors are `OpenAI`'s but for the status of an unknown model.
pub const INFINITY: Dialect = Dialect {
    name: "infinity",
    render_error: union_body,
    schema: "ErrorBody",
    status: infinity_status,
};

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        let mut response = self.status().into_response();
        response.extensions_mut().insert(self);
        response
    }
}

/// Fills the response that carries `error`, keeping the headers that other layers have set.
pub fn draw(response: Response, error: &Error, dialect: &Dialect) -> Response {
    let (mut parts, _) = response.into_parts();
    parts.status = (dialect.status)(error);
    let headers = &mut parts.headers;
    headers.remove(header::CONTENT_LENGTH);
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    if error.status() == StatusCode::UNAUTHORIZED {
        headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    if let Some(seconds) = retry_after(error) {
        headers.insert(header::RETRY_AFTER, seconds.into());
    }
    Response::from_parts(parts, Body::from((dialect.render_error)(error)))
}

/// Seconds after which it is worth trying again, for errors that pass.
fn retry_after(error: &Error) -> Option<u64> {
    match error {
        Error::Overloaded { retry_after, .. } | Error::WouldBeLate { retry_after, .. } => {
            Some(retry_after.as_secs().max(1))
        }
        Error::RateLimited { retry_after, .. } => Some(whole_seconds(*retry_after)),
        Error::NotReady(_) | Error::InsufficientMemory(_) => Some(30),
        Error::InvalidRequest { .. }
        | Error::Empty(_)
        | Error::AlreadyServed { .. }
        | Error::ServedElsewhere { .. }
        | Error::Unauthorized(_)
        | Error::Forbidden(_)
        | Error::RouteNotFound { .. }
        | Error::MethodNotAllowed { .. }
        | Error::ModelNotFound { .. }
        | Error::UnsupportedTask { .. }
        | Error::ContextLength { .. }
        | Error::InputTooLong { .. }
        | Error::TooLarge { .. }
        | Error::BadOutput { .. }
        | Error::SlowBody { .. }
        | Error::Upstream { .. }
        | Error::Timeout { .. }
        | Error::NotImplemented(_)
        | Error::Internal(_) => None,
    }
}

/// One body for three kinds of readers: `detail` (Xinference's and Jina's clients), `message`
/// (Cohere's) and `error` (OpenAI's, LocalAI's).
#[derive(Debug, Serialize, ToSchema)]
pub struct ErrorBody<'a> {
    /// What was wrong.
    detail: &'a str,
    /// The same sentence.
    message: &'a str,
    error: ErrorObject<'a>,
}

/// The error object of OpenAI.
#[derive(Debug, Serialize, ToSchema)]
struct ErrorObject<'a> {
    /// What was wrong.
    message: &'a str,
    /// The class of the error, e.g. `invalid_request_error`.
    r#type: &'a str,
    /// The field at fault, when there is one.
    param: Option<&'a str>,
    /// The machine-readable name, e.g. `model_not_found`.
    code: &'a str,
}

fn union_body(error: &Error) -> Vec<u8> {
    let message = error.public_message();
    let object = ErrorObject {
        message: &message,
        r#type: error_type(error.status()),
        param: error.param(),
        code: error.code(),
    };
    let body = ErrorBody {
        detail: &message,
        message: &message,
        error: object,
    };
    serde_json::to_vec(&body).expect("strings always serialise")
}

/// What text-embeddings-inference calls an error, and the status that goes with it.
fn tei_kind(error: &Error) -> (&'static str, StatusCode) {
    let status = error.status();
    match error {
        Error::InvalidRequest { .. }
        | Error::AlreadyServed { .. }
        | Error::ServedElsewhere { .. }
        | Error::InputTooLong { .. }
        | Error::ContextLength { .. } => ("Validation", StatusCode::UNPROCESSABLE_ENTITY),
        Error::Empty(_) => ("Empty", status),
        Error::UnsupportedTask { .. } | Error::BadOutput { .. } | Error::Internal(_) => {
            ("Backend", StatusCode::FAILED_DEPENDENCY)
        }
        Error::Overloaded { .. } | Error::RateLimited { .. } | Error::WouldBeLate { .. } => {
            ("Overloaded", status)
        }
        Error::NotReady(_) | Error::InsufficientMemory(_) => ("Unhealthy", status),
        Error::Upstream { .. } | Error::Timeout { .. } | Error::NotImplemented(_) => {
            ("Backend", status)
        }
        Error::Unauthorized(_)
        | Error::Forbidden(_)
        | Error::RouteNotFound { .. }
        | Error::MethodNotAllowed { .. }
        | Error::ModelNotFound { .. }
        | Error::SlowBody { .. }
        | Error::TooLarge { .. } => ("Validation", status),
    }
}

fn tei_status(error: &Error) -> StatusCode {
    tei_kind(error).1
}

fn tei_body(error: &Error) -> Vec<u8> {
    let (kind, _) = tei_kind(error);
    let body = TeiError {
        error: &error.public_message(),
        error_type: kind,
    };
    serde_json::to_vec(&body).expect("strings always serialise")
}

fn infinity_status(error: &Error) -> StatusCode {
    match error {
        Error::ModelNotFound { .. } => StatusCode::BAD_REQUEST,
        other => other.status(),
    }
}

/// Ollama's own sentences where its clients look for them.
fn ollama_body(error: &Error) -> Vec<u8> {
    let sentence = match error {
        Error::ModelNotFound { model, served } => {
            format!("model '{model}' not found; served here: {served}")
        }
        Error::InputTooLong {
            place,
            tokens,
            limit,
        } => format!(
            "the input length exceeds the context length: {place} has {tokens} tokens, more than \
             the limit of {limit}; shorten it, or send `\"truncate\": true` to have it cut"
        ),
        other => other.public_message(),
    };
    let body = OllamaError { error: &sentence };
    serde_json::to_vec(&body).expect("strings always serialise")
}

fn vllm_body(error: &Error) -> Vec<u8> {
    let status = error.status();
    let kind = match status {
        StatusCode::UNAUTHORIZED => "AuthenticationError",
        StatusCode::FORBIDDEN => "PermissionDeniedError",
        StatusCode::NOT_FOUND => "NotFoundError",
        StatusCode::NOT_IMPLEMENTED => "NotImplementedError",
        StatusCode::TOO_MANY_REQUESTS => "RateLimitError",
        status if status.is_server_error() => "InternalServerError",
        _ => "BadRequestError",
    };
    numbered_body(error, kind)
}

fn llama_cpp_body(error: &Error) -> Vec<u8> {
    let kind = match error.status() {
        StatusCode::UNAUTHORIZED => "authentication_error",
        StatusCode::FORBIDDEN => "permission_error",
        StatusCode::NOT_FOUND => "not_found_error",
        StatusCode::NOT_IMPLEMENTED => "not_supported_error",
        StatusCode::SERVICE_UNAVAILABLE => "unavailable_error",
        status if status.is_server_error() => "server_error",
        _ => "invalid_request_error",
    };
    numbered_body(error, kind)
}

/// An error object whose code is the status.
fn numbered_body(error: &Error, kind: &str) -> Vec<u8> {
    let body = NumberedError {
        error: NumberedObject {
            message: &error.public_message(),
            r#type: kind,
            param: error.param(),
            code: error.status().as_u16(),
        },
    };
    serde_json::to_vec(&body).expect("strings and numbers always serialise")
}

/// The errors of vLLM and llama.cpp.
#[derive(Serialize, ToSchema)]
pub struct NumberedError<'a> {
    error: NumberedObject<'a>,
}

#[derive(Serialize, ToSchema)]
struct NumberedObject<'a> {
    /// What was wrong.
    message: &'a str,
    /// The class of the error.
    r#type: &'a str,
    /// The field at fault, when there is one.
    param: Option<&'a str>,
    /// The status.
    code: u16,
}

/// The errors of text-embeddings-inference.
#[derive(Serialize, ToSchema)]
pub struct TeiError<'a> {
    /// What was wrong.
    error: &'a str,
    /// The class of the error, e.g. `Validation`.
    error_type: &'a str,
}

/// The errors of Ollama.
#[derive(Serialize, ToSchema)]
pub struct OllamaError<'a> {
    /// What was wrong.
    error: &'a str,
}

/// OpenAI's class of an error, which follows from the status.
fn error_type(status: StatusCode) -> &'static str {
    match status {
        StatusCode::UNAUTHORIZED => "authentication_error",
        StatusCode::FORBIDDEN => "permission_error",
        StatusCode::TOO_MANY_REQUESTS => "rate_limit_error",
        status if status.is_server_error() => "server_error",
        _ => "invalid_request_error",
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn every_reader_finds_its_key() {
        let error = Error::ModelNotFound {
            model: "foo".into(),
            served: "`bge-m3`".into(),
        };
        let body: serde_json::Value = serde_json::from_slice(&union_body(&error)).unwrap();
        let sentence = "Model not found in the model list, uid: foo; served here: `bge-m3`";
        assert_eq!(body["detail"], sentence);
        assert_eq!(body["message"], sentence);
        assert_eq!(body["error"]["message"], sentence);
        assert_eq!(body["error"]["type"], "invalid_request_error");
        assert_eq!(body["error"]["param"], "model");
        assert_eq!(body["error"]["code"], "model_not_found");
    }

    #[test]
    fn errors_that_pass_say_when() {
        let overloaded = Error::Overloaded {
            queued: 9,
            requested: 2,
            limit: 10,
            retry_after: Duration::from_millis(200),
        };
        let drawn = draw(overloaded.clone().into_response(), &overloaded, &OPENAI);
        assert_eq!(drawn.status(), 429);
        assert_eq!(drawn.headers()["retry-after"], "1");
        let loading = Error::NotReady("bge-m3 is loading".into());
        let drawn = draw(loading.clone().into_response(), &loading, &OPENAI);
        assert_eq!(drawn.status(), 503);
        assert_eq!(drawn.headers()["retry-after"], "30");
    }

    #[test]
    fn ollamas_clients_find_ollamas_sentences() {
        let text = |error: &Error| String::from_utf8(ollama_body(error)).unwrap();
        let missing = Error::ModelNotFound {
            model: "x".into(),
            served: "bge-m3".into(),
        };
        assert!(text(&missing).starts_with(r#"{"error":"model 'x' not found"#));
        let long = Error::InputTooLong {
            place: crate::error::Place::Input(0),
            tokens: 9,
            limit: 8,
        };
        assert!(text(&long).contains("the input length exceeds the context length"));
        assert_eq!(infinity_status(&missing), 400);
        assert_eq!(infinity_status(&long), 400);
    }

    #[test]
    fn internals_stay_inside() {
        let body = union_body(&Error::Internal("secret path /srv/x".into()));
        assert!(!String::from_utf8(body).unwrap().contains("/srv/x"));
    }
}
