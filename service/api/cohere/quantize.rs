//! The types of vectors that Cohere names: floats, bytes and bits.

use serde::{Deserialize, Serialize, Serializer};

use crate::{
    api::openai::{Encoding, Written},
    engine::request::Embedding,
};

/// One type of vectors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "String")]
pub enum EmbeddingType {
    /// As the model gives them.
    Float,
    /// -127 to 127: the components over the largest of them, times 127. A vector keeps its
    /// direction and loses its length, so these are compared by cosine.
    Int8,
    /// The same, plus 128.
    Uint8,
    /// Signs, eight to a number from -128 to 127.
    Binary,
    /// Signs, eight to a number from 0 to 255.
    Ubinary,
    /// Little-endian float32, in base64.
    Base64,
}

const NAMES: [(&str, EmbeddingType); 6] = [
    ("float", EmbeddingType::Float),
    ("int8", EmbeddingType::Int8),
    ("uint8", EmbeddingType::Uint8),
    ("binary", EmbeddingType::Binary),
    ("ubinary", EmbeddingType::Ubinary),
    ("base64", EmbeddingType::Base64),
];

impl EmbeddingType {
    /// Its name, under which its vectors stand in an answer.
    pub fn name(self) -> &'static str {
        let own = NAMES.iter().find(|(_, kind)| *kind == self);
        own.map_or("", |(name, _)| name)
    }
}

impl TryFrom<String> for EmbeddingType {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        let known = NAMES.iter().find(|(known, _)| *known == name);
        known.map(|(_, kind)| *kind).ok_or_else(|| {
            format!(
                "`{name}` is none of `float`, `int8`, `uint8`, `binary`, `ubinary` and `base64`"
            )
        })
    }
}

/// A vector on its way into JSON.
#[derive(Debug)]
pub enum Vector<'a> {
    /// In a type that `OpenAI`'s and Jina's answers have, too.
    Written(Written<'a>),
    /// A byte a component, moved by this.
    Bytes(&'a [f32], i16),
}

impl<'a> Vector<'a> {
    /// The vector of an embedding.
    pub fn of(embedding: &'a Embedding, kind: EmbeddingType) -> Self {
        let vector = &embedding.vector[..];
        let encoding = match kind {
            EmbeddingType::Int8 => return Self::Bytes(vector, 0),
            EmbeddingType::Uint8 => return Self::Bytes(vector, 128),
            EmbeddingType::Float => Encoding::Float,
            EmbeddingType::Base64 => Encoding::Base64,
            EmbeddingType::Binary => Encoding::Binary,
            EmbeddingType::Ubinary => Encoding::Ubinary,
        };
        Self::Written(Written { vector, encoding })
    }
}

impl Serialize for Vector<'_> {
    fn serialize<S: Serializer>(&self, json: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Written(written) => written.serialize(json),
            Self::Bytes(vector, moved) => json.collect_seq(bytes(vector).map(|byte| byte + moved)),
        }
    }
}

/// Components over the largest of them, times 127.
fn bytes(vector: &[f32]) -> impl Iterator<Item = i16> + '_ {
    let largest = vector.iter().fold(0.0_f32, |most, x| most.max(x.abs()));
    let scale = if largest > 0.0 { 127.0 / largest } else { 0.0 };
    vector.iter().map(move |x| (x * scale).round() as i16)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(vector: &[f32], kind: &str) -> String {
        let embedding = Embedding {
            vector: vector.to_vec(),
            ..Embedding::default()
        };
        let kind = EmbeddingType::try_from(kind.to_owned()).unwrap();
        serde_json::to_string(&Vector::of(&embedding, kind)).unwrap()
    }

    #[test]
    fn every_type_is_written_as_cohere_reads_it() {
        let vector = [0.5, -0.25, 0.1, -0.5];
        for (kind, expected) in [
            ("float", "[0.5,-0.25,0.1,-0.5]"),
            ("int8", "[127,-64,25,-127]"),
            ("uint8", "[255,64,153,1]"),
            ("binary", "[32]"),
            ("ubinary", "[160]"),
            ("base64", "\"AAAAPwAAgL7NzMw9AAAAvw==\""),
        ] {
            assert_eq!(written(&vector, kind), expected, "{kind}");
            let name = EmbeddingType::try_from(kind.to_owned()).unwrap().name();
            assert_eq!(name, kind);
        }
        let unknown = EmbeddingType::try_from("int4".to_owned()).unwrap_err();
        assert!(unknown.contains("`int4`") && unknown.contains("`ubinary`"));
    }

    #[test]
    fn bytes_keep_the_direction() {
        let vector: Vec<f32> = (0..256)
            .map(|i| ((i * 37 % 101) as f32 - 50.0) / 900.0)
            .collect();
        let rounded: Vec<f64> = bytes(&vector).map(f64::from).collect();
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        let exact: Vec<f64> = vector.iter().map(|x| f64::from(*x)).collect();
        let norms = dot(&exact, &exact) * dot(&rounded, &rounded);
        assert!(dot(&exact, &rounded) / norms.sqrt() > 0.9999);
        assert!(bytes(&[0.0, 0.0]).all(|byte| byte == 0));
    }
}
