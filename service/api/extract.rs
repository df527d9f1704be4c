//! Reads a JSON body: whatever its content type says, within the size limit, off the async
//! threads when it is big, and with errors that name the field at fault.

use std::time::Duration;

use axum::{
    body::{Body, Bytes},
    extract::{FromRequest, Request},
};
use http::{HeaderMap, header};
use http_body_util::BodyExt;
use serde::de::DeserializeOwned;

use super::AppState;
use crate::error::{Error, Result};

/// Bodies above this many bytes are parsed on a thread that may block.
const BIG_BODY_BYTES: usize = 256 << 10;

/// Lists and objects may nest this deep; real bodies need five levels.
const MAX_DEPTH: usize = 64;

/// The rest of an over-long body is read, and thrown away, up to so many times the limit.
const DISCARD_FACTOR: usize = 8;

/// What is kept of a message that repeats something long of the caller's: its beginning, and its
/// end, where serde says what it expected.
const MESSAGE_CHARS: (usize, usize) = (200, 100);

/// A body that can be read from JSON.
pub trait WireBody: DeserializeOwned + Send + 'static {
    /// The names of its fields, so that an error can say which one is at fault.
    const FIELDS: &'static [&'static str];
}

/// Extracts a [`WireBody`].
pub struct JsonBody<T>(pub T);

/// Extracts a body as it came, within the same limits.
pub struct RawBody(pub Bytes);

impl FromRequest<AppState> for RawBody {
    type Rejection = Error;

    async fn from_request(request: Request, state: &AppState) -> Result<Self> {
        let (head, body) = request.into_parts();
        let limits = BodyLimits {
            max_bytes: state.settings.max_body_bytes,
            timeout: state.settings.request_timeout,
            stall: state.settings.stall_timeout,
        };
        let bytes = read(&head.headers, body, limits).await?;
        Ok(Self(bytes.into()))
    }
}

impl RawBody {
    /// The body as JSON, read off the async threads when it is big.
    ///
    /// # Errors
    /// When it is not what `T` is.
    pub async fn parsed<T: WireBody>(self) -> Result<T> {
        let Self(bytes) = self;
        if bytes.len() <= BIG_BODY_BYTES {
            return parse(&bytes);
        }
        tokio::task::spawn_blocking(move || parse(&bytes))
            .await
            .map_err(|error| Error::Internal(format!("parsing a body: {error}")))?
    }
}

impl<T: WireBody> FromRequest<AppState> for JsonBody<T> {
    type Rejection = Error;

    async fn from_request(request: Request, state: &AppState) -> Result<Self> {
        let body = RawBody::from_request(request, state).await?;
        body.parsed().await.map(Self)
    }
}

#[derive(Debug, Clone, Copy)]
struct BodyLimits {
    max_bytes: usize,
    /// For all of the body.
    timeout: Duration,
    /// For the next piece of it.
    stall: Duration,
}

impl BodyLimits {
    fn too_large(self) -> Error {
        Error::TooLarge {
            limit: self.max_bytes,
        }
    }
}

async fn read(headers: &HeaderMap, body: Body, limits: BodyLimits) -> Result<Vec<u8>> {
    if let Some(length) = content_length(headers)
        && length > limits.max_bytes
    {
        // Whoever waits for `100 Continue`, or sends far too much, need not be read at all.
        let most = limits.max_bytes.saturating_mul(DISCARD_FACTOR);
        if length <= most && !headers.contains_key(header::EXPECT) {
            tokio::spawn(discard(body, limits));
        }
        return Err(limits.too_large());
    }
    tokio::time::timeout(limits.timeout, collect(body, limits))
        .await
        .map_err(|_| Error::SlowBody {
            after: limits.timeout,
        })?
}

async fn collect(mut body: Body, limits: BodyLimits) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    while let Some(data) = piece(&mut body, limits.stall).await? {
        if bytes.len() + data.len() > limits.max_bytes {
            tokio::spawn(discard(body, limits));
            return Err(limits.too_large());
        }
        bytes.extend_from_slice(&data);
    }
    Ok(bytes)
}

/// The next piece of a body; trailers are an empty one.
async fn piece(body: &mut Body, patience: Duration) -> Result<Option<Bytes>> {
    let frame = tokio::time::timeout(patience, body.frame())
        .await
        .map_err(|_| Error::SlowBody { after: patience })?;
    let data = frame.transpose().map_err(|error| Error::InvalidRequest {
        message: format!("the body broke off: {error}"),
        param: None,
    })?;
    Ok(data.map(|frame| frame.into_data().unwrap_or_default()))
}

/// Takes the rest of a refused body while the answer is already on its way: a client that is still
/// sending when its connection closes sees a reset instead.
async fn discard(mut body: Body, limits: BodyLimits) {
    let mut left = limits.max_bytes.saturating_mul(DISCARD_FACTOR);
    let rest = async {
        while let Ok(Some(data)) = piece(&mut body, limits.stall).await {
            left = match left.checked_sub(data.len()) {
                Some(left) => left,
                None => return,
            };
        }
    };
    // Either way it ends here.
    let _ = tokio::time::timeout(limits.timeout, rest).await;
}

fn content_length(headers: &HeaderMap) -> Option<usize> {
    headers
        .get(header::CONTENT_LENGTH)?
        .to_str()
        .ok()?
        .parse()
        .ok()
}

/// JSON text → `T`.
fn parse<T: WireBody>(bytes: &[u8]) -> Result<T> {
    let malformed = |message: String| Error::InvalidRequest {
        message,
        param: None,
    };
    let text = std::str::from_utf8(bytes).map_err(|error| {
        malformed(format!(
            "the body is not UTF-8: bad byte at offset {}",
            error.valid_up_to()
        ))
    })?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if text.trim_ascii().is_empty() {
        return Err(malformed(
            "the body is empty; a JSON object is expected".into(),
        ));
    }
    if depth(text.as_bytes()) > MAX_DEPTH {
        return Err(malformed(format!(
            "the body nests deeper than {MAX_DEPTH} levels"
        )));
    }
    let mut json = serde_json::Deserializer::from_str(text);
    // A derived `Deserialize` would take a list for the fields in their order.
    if text.trim_ascii_start().starts_with('[') {
        return Err(malformed(
            "the body is a list; a JSON object is expected".into(),
        ));
    }
    let value = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let path = error.path().to_string();
        wrong_json::<T>(&path, error.inner())
    })?;
    json.end().map_err(|error| wrong_json::<T>(".", &error))?;
    Ok(value)
}

/// A body that was read as any JSON already → `T`.
///
/// # Errors
/// When it is not what `T` is.
pub fn reread<T: WireBody>(body: serde_json::Value) -> Result<T> {
    serde_path_to_error::deserialize(body)
        .map_err(|error| wrong_json::<T>(&error.path().to_string(), error.inner()))
}

/// Names the field when the JSON is well formed but not what is expected.
fn wrong_json<T: WireBody>(path: &str, error: &serde_json::Error) -> Error {
    let text = error.to_string();
    if !error.is_data() {
        let message = format!("the body is not JSON: {}", abridge(&text));
        return Error::InvalidRequest {
            message,
            param: None,
        };
    }
    // With the field named, line and column of what may be one long line help nobody.
    let what = text
        .rfind(" at line ")
        .map_or(&text[..], |end| &text[..end]);
    let what = abridge(what);
    let field = path.split(['.', '[']).next().unwrap_or_default();
    let param = T::FIELDS.iter().copied().find(|&name| name == field);
    let message = match param {
        Some(_) => format!("`{path}`: {what}"),
        None => format!("the body: {what}"),
    };
    Error::InvalidRequest { message, param }
}

/// How deep lists and objects nest, brackets inside strings not counted.
fn depth(json: &[u8]) -> usize {
    let (mut depth, mut deepest) = (0_usize, 0);
    let mut bytes = json.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => skip_string(&mut bytes),
            b'[' | b'{' => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

fn skip_string(bytes: &mut std::slice::Iter<'_, u8>) {
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => return,
            b'\\' => {
                bytes.next();
            }
            _ => {}
        }
    }
}

/// The text, or its beginning and its end when it is long.
fn abridge(text: &str) -> String {
    let (head, tail) = MESSAGE_CHARS;
    match text.char_indices().nth_back(tail) {
        Some((end, _)) if text.chars().count() > head + tail => shorten(text, head) + &text[end..],
        _ => text.to_owned(),
    }
}

/// The text, or its beginning when it is longer than `max_chars`.
pub fn shorten(text: &str, max_chars: usize) -> String {
    match text.char_indices().nth(max_chars) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    struct Sample {
        numbers: Vec<u32>,
        flag: Option<bool>,
    }

    impl WireBody for Sample {
        const FIELDS: &'static [&'static str] = &["numbers", "flag"];
    }

    fn refusal(json: &str) -> (String, Option<&'static str>) {
        match parse::<Sample>(json.as_bytes()).unwrap_err() {
            Error::InvalidRequest { message, param } => (message, param),
            other => panic!("{other}"),
        }
    }

    #[test]
    fn an_error_names_the_element_and_what_it_is() {
        let (message, param) = refusal(r#"{"numbers":[1,"x"]}"#);
        assert_eq!(
            message,
            r#"`numbers[1]`: invalid type: string "x", expected u32"#
        );
        assert_eq!(param, Some("numbers"));
        let (message, param) = refusal(r#"{"flag":true}"#);
        assert_eq!(
            (message.as_str(), param),
            ("the body: missing field `numbers`", None)
        );
    }

    #[test]
    fn a_message_does_not_repeat_a_long_value() {
        let (message, _) = refusal(&format!(r#"{{"numbers":"{}"}}"#, "x".repeat(1 << 20)));
        assert!(message.chars().count() < 400, "{}", message.len());
    }

    #[test]
    fn null_is_not_given_and_unknown_fields_and_a_byte_order_mark_are_ignored() {
        let sample: Sample =
            parse("\u{feff}{\"numbers\":[1],\"flag\":null,\"user\":{\"a\":[]}}".as_bytes())
                .unwrap();
        assert_eq!((sample.numbers, sample.flag), (vec![1], None));
    }

    #[test]
    fn depth_counts_brackets_outside_of_strings() {
        assert_eq!(depth(br#"{"a":[[1],[2]]}"#), 3);
        assert_eq!(depth(br#"["[[[[", "\"[[[", {}]"#), 2);
        assert_eq!(depth(b"]]][["), 2);
        assert_eq!(depth(b"\"\\"), 0);
    }

    #[tokio::test]
    async fn a_body_is_taken_up_to_the_limit_and_refused_above_it() {
        let limits = BodyLimits {
            max_bytes: 4,
            timeout: Duration::from_secs(60),
            stall: Duration::from_secs(60),
        };
        let none = HeaderMap::new();
        assert_eq!(
            read(&none, Body::from("1234"), limits).await.unwrap(),
            b"1234"
        );
        for long in ["12345", "123456789012345678901234567890123456789"] {
            let refused = read(&none, Body::from(long), limits).await.unwrap_err();
            assert!(matches!(refused, Error::TooLarge { limit: 4 }), "{refused}");
        }
    }
}
