//! `EmbedResponse` → the body and headers of `/v1/embeddings`.

use std::time::{Duration, Instant, SystemTime};

use axum::{
    body::Body,
    response::{IntoResponse, Response},
};
use base64::{display::Base64Display, engine::general_purpose::STANDARD};
use http::{HeaderName, HeaderValue, header};
use serde::{Deserialize, Serialize, Serializer};
use utoipa::ToSchema;

use crate::{
    engine::request::{EmbedResponse, Embedding, Usage},
    error::{Error, Result},
};

/// Answers with more numbers than this are written on a thread that may block.
const BIG_ANSWER_NUMBERS: usize = 64 << 10;

/// How a vector is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, ToSchema)]
#[serde(try_from = "String")]
#[schema(rename_all = "lowercase")]
pub enum Encoding {
    /// A list of numbers.
    #[default]
    Float,
    /// Little-endian float32, in base64 with padding.
    Base64,
    /// One bit per component, set where it is above 0; eight to a number, the first in its highest
    /// bit, minus 128: what sentence-transformers calls `binary`.
    Binary,
    /// The same without the offset: 0 to 255.
    Ubinary,
}

impl TryFrom<String> for Encoding {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        match name.as_str() {
            "float" => Ok(Self::Float),
            "base64" => Ok(Self::Base64),
            "binary" => Ok(Self::Binary),
            "ubinary" => Ok(Self::Ubinary),
            _ => Err(format!(
                "`{name}` is none of `float`, `base64`, `binary` and `ubinary`"
            )),
        }
    }
}

/// What of the answer depends on the request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shape {
    /// The model as the caller named it, which the answer repeats.
    pub model: Option<String>,
    /// How vectors are written.
    pub encoding: Encoding,
    /// Whether the account of each input was asked for.
    pub usage_details: bool,
}

/// The body of an answer.
#[derive(Debug, Serialize, ToSchema)]
pub struct EmbeddingsAnswer<'a> {
    /// Always `list`.
    object: &'static str,
    /// The model as the caller named it.
    model: &'a str,
    /// The replica that answered, as Xinference names it.
    model_replica: String,
    /// One per input, in order.
    data: Vec<Datum<'a>>,
    usage: UsageBody,
    /// Made up for this answer.
    id: String,
    /// Seconds since the Unix epoch.
    created: u64,
}

#[derive(Debug, Serialize, ToSchema)]
struct Datum<'a> {
    /// Always `embedding`.
    object: &'static str,
    /// The place of the input within this request.
    index: usize,
    /// A list of numbers, or a string with `base64`.
    #[schema(value_type = Vec<f32>)]
    embedding: Written<'a>,
}

/// Tokens of the request, special tokens included.
#[derive(Debug, Serialize, ToSchema)]
struct UsageBody {
    /// Tokens that the model saw.
    prompt_tokens: usize,
    /// The same number: there are no others.
    total_tokens: usize,
    /// One per input, when asked for or when something was cut.
    #[serde(skip_serializing_if = "Option::is_none")]
    details: Option<Vec<InputUsage>>,
}

#[derive(Debug, Serialize, ToSchema)]
struct InputUsage {
    /// The place of the input within this request.
    index: usize,
    /// Tokens that the model saw.
    tokens: usize,
    /// Tokens that were cut because they did not fit.
    tokens_cut: usize,
}

/// The HTTP response for `response`, whose request arrived at `started`.
pub async fn respond(response: EmbedResponse, shape: Shape, started: Instant) -> Result<Response> {
    let headers = Headers::of(&response);
    let numbers: usize = response.embeddings.iter().map(|e| e.vector.len()).sum();
    let body = if numbers <= BIG_ANSWER_NUMBERS {
        write(&response, &shape, numbers)
    } else {
        tokio::task::spawn_blocking(move || write(&response, &shape, numbers))
            .await
            .map_err(|error| Error::Internal(format!("writing an answer: {error}")))?
    };
    Ok(headers.respond(body, started.elapsed()))
}

fn write(response: &EmbedResponse, shape: &Shape, numbers: usize) -> Vec<u8> {
    // A component takes 10 to 13 bytes as text, and base64 is shorter.
    let mut body = Vec::with_capacity(256 + numbers * 12 + response.embeddings.len() * 48);
    let answer = EmbeddingsAnswer::new(response, shape);
    serde_json::to_writer(&mut body, &answer).expect("numbers and strings always serialise");
    body
}

impl<'a> EmbeddingsAnswer<'a> {
    fn new(response: &'a EmbedResponse, shape: &'a Shape) -> Self {
        let now = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        let write = |(index, embedding): (usize, &'a Embedding)| Datum {
            object: "embedding",
            index,
            embedding: Written {
                vector: &embedding.vector,
                encoding: shape.encoding,
            },
        };
        Self {
            object: "list",
            model: shape.model.as_deref().unwrap_or(&response.model),
            model_replica: format!("{}-0", response.model),
            data: response.embeddings.iter().enumerate().map(write).collect(),
            usage: UsageBody::new(response, shape),
            id: format!("embd-{}", uuid::Uuid::new_v4().simple()),
            created: now.as_secs(),
        }
    }
}

impl UsageBody {
    fn new(response: &EmbedResponse, shape: &Shape) -> Self {
        let Usage {
            prompt_tokens,
            cut_tokens,
            ..
        } = response.usage;
        let account = |(index, embedding): (usize, &Embedding)| InputUsage {
            index,
            tokens: embedding.tokens,
            tokens_cut: embedding.tokens_cut,
        };
        let details = (shape.usage_details || cut_tokens > 0).then(|| {
            response
                .embeddings
                .iter()
                .enumerate()
                .map(account)
                .collect()
        });
        Self {
            prompt_tokens,
            total_tokens: prompt_tokens,
            details,
        }
    }
}

/// A vector on its way into JSON.
#[derive(Debug)]
struct Written<'a> {
    vector: &'a [f32],
    encoding: Encoding,
}

impl Serialize for Written<'_> {
    fn serialize<S: Serializer>(&self, json: S) -> Result<S::Ok, S::Error> {
        match self.encoding {
            Encoding::Float => self.vector.serialize(json),
            Encoding::Base64 => {
                let bytes: Vec<u8> = self.vector.iter().flat_map(|x| x.to_le_bytes()).collect();
                json.collect_str(&Base64Display::new(&bytes, &STANDARD))
            }
            Encoding::Binary => {
                json.collect_seq(sign_bits(self.vector).map(|byte| i16::from(byte) - 128))
            }
            Encoding::Ubinary => json.collect_seq(sign_bits(self.vector)),
        }
    }
}

/// Eight components a byte, the first in the highest bit; the last byte is filled with zeros.
fn sign_bits(vector: &[f32]) -> impl Iterator<Item = u8> + '_ {
    vector.chunks(8).map(|eight| {
        eight
            .iter()
            .enumerate()
            .fold(0, |byte, (i, x)| byte | (u8::from(*x > 0.0) << (7 - i)))
    })
}

/// What the headers tell: the same names as text-embeddings-inference has, and what was cut.
struct Headers {
    timings: [(&'static str, Duration); 3],
    truncated: Option<String>,
}

impl Headers {
    fn of(response: &EmbedResponse) -> Self {
        let Usage {
            cut_inputs,
            cut_tokens,
            ..
        } = response.usage;
        Self {
            timings: [
                ("x-tokenization-time", response.timings.tokenize),
                ("x-queue-time", response.timings.queue),
                ("x-inference-time", response.timings.inference),
            ],
            truncated: (cut_inputs > 0).then(|| format!("{cut_inputs}; tokens_cut={cut_tokens}")),
        }
    }

    fn respond(self, body: Vec<u8>, total: Duration) -> Response {
        let mut response = Body::from(body).into_response();
        let headers = response.headers_mut();
        let json = HeaderValue::from_static("application/json");
        headers.insert(header::CONTENT_TYPE, json);
        for (name, took) in [("x-total-time", total)].into_iter().chain(self.timings) {
            let millis = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
            headers.insert(HeaderName::from_static(name), millis.into());
        }
        if let Some(Ok(value)) = self.truncated.map(HeaderValue::try_from) {
            headers.insert(HeaderName::from_static("x-retort-truncated"), value);
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(vector: &[f32], encoding: Encoding) -> String {
        serde_json::to_string(&Written { vector, encoding }).unwrap()
    }

    #[test]
    fn floats_are_the_shortest_text_that_reads_back_the_same() {
        let vector = [
            0.1,
            -1.0 / 3.0,
            1e-30,
            f32::MIN_POSITIVE,
            16_777_216.0,
            -0.0,
        ];
        let text = written(&vector, Encoding::Float);
        assert!(text.starts_with("[0.1,-0.33333334,"), "{text}");
        let read: Vec<f32> = serde_json::from_str(&text).unwrap();
        assert_eq!(read.map_bits(), vector.to_vec().map_bits());
    }

    trait MapBits {
        fn map_bits(self) -> Vec<u32>;
    }

    impl MapBits for Vec<f32> {
        fn map_bits(self) -> Vec<u32> {
            self.into_iter().map(f32::to_bits).collect()
        }
    }

    #[test]
    fn base64_is_little_endian_and_padded() {
        assert_eq!(written(&[1.0, -2.0], Encoding::Base64), "\"AACAPwAAAMA=\"");
        assert_eq!(written(&[1.0], Encoding::Base64), "\"AACAPw==\"");
    }

    #[test]
    fn signs_are_packed_from_the_highest_bit() {
        let vector = [1.0, -1.0, 0.0, 0.5, -0.5, 2.0, 3.0, 4.0, 1.0];
        assert_eq!(written(&vector, Encoding::Ubinary), "[151,128]");
        assert_eq!(written(&vector, Encoding::Binary), "[23,0]");
    }
}
