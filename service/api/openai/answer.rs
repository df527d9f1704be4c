//! `EmbedResponse` → the body and headers of `/v1/embeddings`.

use std::time::Instant;

use axum::response::Response;
use base64::{display::Base64Display, engine::general_purpose::STANDARD};
use retort_models::{Head, Heads, SparseVector};
use serde::{Deserialize, Serialize, Serializer};
use utoipa::ToSchema;

use super::encodings::{self, Encodings, Rows, Vector};
use crate::{
    api::answer::{self, Headers, InputUsage, UsageBody, new_id, now},
    engine::request::{EmbedResponse, Embedding},
    error::Result,
};

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
        let known = Self::ALL.into_iter().find(|known| known.name() == name);
        known
            .ok_or_else(|| format!("`{name}` is none of `float`, `base64`, `binary` and `ubinary`"))
    }
}

impl Encoding {
    /// Every one.
    pub const ALL: [Self; 4] = [Self::Float, Self::Base64, Self::Binary, Self::Ubinary];

    /// As clients name it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Float => "float",
            Self::Base64 => "base64",
            Self::Binary => "binary",
            Self::Ubinary => "ubinary",
        }
    }
}

/// What of the answer depends on the request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shape {
    /// The model as the caller named it, which the answer repeats.
    pub model: Option<String>,
    /// How vectors are written.
    pub encodings: Encodings,
    /// Whether each output has a key of its own.
    pub named_outputs: bool,
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
    /// `embedding`; `sparse_embedding` or `multi_vector_embedding` where that is all there is and
    /// `output_types` was not given.
    object: &'static str,
    /// The place of the input within this request.
    index: usize,
    /// A list of numbers, or a string with `base64`; by type when several are asked
    /// for; a map or a list of lists for other objects.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(schema_with = encodings::embedding_schema)]
    embedding: Option<Main<'a>>,
    /// Weights by token id.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<std::collections::BTreeMap<String, f32>>)]
    sparse_embedding: Option<Entries<'a>>,
    /// One vector per token.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<Vec<f32>>>)]
    multi_vector_embedding: Option<Rows<'a>>,
}

/// The HTTP response for `response`, whose request arrived at `started`.
pub async fn respond(response: EmbedResponse, shape: Shape, started: Instant) -> Result<Response> {
    let headers = Headers::new(response.usage, response.timings, started);
    let numbers: usize = response.embeddings.iter().map(numbers_of).sum();
    let body = answer::written(numbers, move || write(&response, &shape, numbers)).await?;
    Ok(headers.respond(body))
}

fn numbers_of(embedding: &Embedding) -> usize {
    let sparse = embedding
        .sparse
        .as_ref()
        .map_or(0, |sparse| sparse.ids.len());
    let rows = embedding.multi_vector.as_ref();
    embedding.vector.len() + 2 * sparse + rows.map_or(0, |rows| rows.values.len())
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
        let heads = response.heads;
        let write = |(index, embedding)| Datum::new(index, embedding, heads, shape);
        let inputs = response.embeddings.iter().map(InputUsage::from);
        Self {
            object: "list",
            model: shape.model.as_deref().unwrap_or(&response.model),
            model_replica: format!("{}-0", response.model),
            data: response.embeddings.iter().enumerate().map(write).collect(),
            usage: UsageBody::new(response.usage, shape.usage_details, inputs),
            id: new_id("embd"),
            created: now(),
        }
    }
}

impl<'a> Datum<'a> {
    fn new(index: usize, embedding: &'a Embedding, heads: Heads, shape: &'a Shape) -> Self {
        let encodings = &shape.encodings;
        let vector = heads.contains(Head::Dense).then_some(Vector {
            vector: &embedding.vector,
            encodings,
        });
        let sparse = embedding.sparse.as_ref().map(Entries);
        let rows = embedding.multi_vector.as_ref();
        let rows = rows.map(|vectors| Rows { vectors, encodings });
        let only = |head: Head| !shape.named_outputs && heads == head.into();
        let (object, main, sparse, rows) = match (sparse, rows) {
            (Some(sparse), _) if only(Head::Sparse) => {
                ("sparse_embedding", Some(Main::Sparse(sparse)), None, None)
            }
            (_, Some(rows)) if only(Head::MultiVector) => {
                ("multi_vector_embedding", Some(Main::Rows(rows)), None, None)
            }
            (sparse, rows) => ("embedding", vector.map(Main::Vector), sparse, rows),
        };
        Self {
            object,
            index,
            embedding: main,
            sparse_embedding: sparse,
            multi_vector_embedding: rows,
        }
    }
}

/// What stands under `embedding`.
#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Main<'a> {
    Vector(Vector<'a>),
    Sparse(Entries<'a>),
    Rows(Rows<'a>),
}

/// Weights by token id, the ids as text (Xinference).
#[derive(Debug)]
struct Entries<'a>(&'a SparseVector);

impl Serialize for Entries<'_> {
    fn serialize<S: Serializer>(&self, json: S) -> Result<S::Ok, S::Error> {
        let Self(SparseVector { ids, weights }) = self;
        json.collect_map(ids.iter().zip(weights))
    }
}

/// A vector on its way into JSON.
#[derive(Debug)]
pub struct Written<'a> {
    /// Its components.
    pub vector: &'a [f32],
    /// How they are written.
    pub encoding: Encoding,
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
