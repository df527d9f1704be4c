//! `keep_alive`: how long a model is to stay loaded after a request, as Ollama's clients write it:
//! seconds as a number, or a duration in a text.

use std::fmt;

use serde::{Deserialize, Deserializer, de};

use crate::keep_alive::KeepAlive;

/// The field of a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wish(pub KeepAlive);

impl<'de> Deserialize<'de> for Wish {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Wish;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number of seconds or a duration such as \"5m\" or \"1h30m\"")
            }

            fn visit_f64<E: de::Error>(self, seconds: f64) -> Result<Wish, E> {
                Ok(Wish(KeepAlive::from_seconds(seconds)))
            }

            fn visit_i64<E: de::Error>(self, seconds: i64) -> Result<Wish, E> {
                self.visit_f64(seconds as f64)
            }

            fn visit_u64<E: de::Error>(self, seconds: u64) -> Result<Wish, E> {
                self.visit_f64(seconds as f64)
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Wish, E> {
                text.parse().map(Wish).map_err(E::custom)
            }
        }
        json.deserialize_any(Visitor)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn numbers_are_seconds_and_texts_are_durations() {
        let read = |json: &str| serde_json::from_str::<Wish>(json).map(|wish| wish.0);
        let seconds = |seconds| KeepAlive::For(Duration::from_secs(seconds));
        assert_eq!(read("0").unwrap(), seconds(0));
        assert_eq!(read("300").unwrap(), seconds(300));
        assert_eq!(read("\"1h30m\"").unwrap(), seconds(5400));
        assert_eq!(read("-1").unwrap(), KeepAlive::Forever);
        assert_eq!(read("\"-1m\"").unwrap(), KeepAlive::Forever);
        for wrong in ["\"\"", "\"5x\"", "\"--1\"", "true", "[]"] {
            let error = read(wrong).unwrap_err().to_string();
            assert!(error.contains("1h30m"), "{wrong}: {error}");
        }
    }
}
