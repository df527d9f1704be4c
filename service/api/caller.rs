//! What headers say about whoever asks: the lane, the deadline, and whose key it is.

use std::time::{Duration, Instant};

use http::HeaderMap;
use serde::{
    Deserialize, Deserializer,
    de::{self, Visitor},
};

use super::access;
use crate::{
    engine::lane::{Caller, Lane},
    error::{Error, Result},
};

/// The header that chooses a lane.
const LANE: &str = "x-retort-lane";

/// The header that says how long the caller waits: seconds, or a number with `s` or `ms`.
const TIMEOUT: &str = "x-request-timeout";

/// No wait is longer; also what keeps a number of seconds within what a clock can tell.
const LONGEST_S: f64 = 86_400.0;

/// Reads the headers of a request whose head arrived then.
///
/// # Errors
/// When one of them has a value that means nothing.
pub fn read(headers: &HeaderMap, arrived: Instant) -> Result<Caller> {
    let text = |name: &str| headers.get(name).map(|value| value.to_str().unwrap_or("�"));
    let lane = text(LANE).map(lane).transpose()?;
    let patience = text(TIMEOUT).map(patience).transpose()?;
    Ok(Caller {
        lane,
        deadline: patience.map(|patience| arrived + patience),
        tenant: access::tenant(headers),
    })
}

fn lane(text: &str) -> Result<Lane> {
    text.trim().parse().map_err(|_| wrong(LANE, text, &lanes()))
}

fn patience(text: &str) -> Result<Duration> {
    let wanted = "seconds such as `2.5`, or a number with a unit such as `800ms` or `30s`";
    let number = text.trim();
    let (number, unit) = match number.strip_suffix("ms") {
        Some(number) => (number, 1e-3),
        None => (number.strip_suffix('s').unwrap_or(number), 1.0),
    };
    let seconds: f64 = number.trim().parse().unwrap_or(f64::NAN);
    let seconds = seconds * unit;
    if !(seconds.is_finite() && seconds > 0.0) {
        return Err(wrong(TIMEOUT, text, wanted));
    }
    Ok(Duration::from_secs_f64(seconds.min(LONGEST_S)))
}

fn lanes() -> String {
    Lane::ALL
        .map(|lane| format!("`{}`", lane.name()))
        .join(" or ")
}

fn wrong(header: &str, value: &str, wanted: &str) -> Error {
    let value = super::extract::shorten(value, 40);
    Error::InvalidRequest {
        message: format!("header `{header}` is `{value}`; it must be {wanted}"),
        param: None,
    }
}

/// `priority` of a body: the name of a lane, or vLLM's number, where a lower one is more urgent
/// and 0 says nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Priority(pub Option<Lane>);

impl<'de> Deserialize<'de> for Priority {
    fn deserialize<D: Deserializer<'de>>(json: D) -> std::result::Result<Self, D::Error> {
        json.deserialize_any(PriorityVisitor)
    }
}

struct PriorityVisitor;

impl Visitor<'_> for PriorityVisitor {
    type Value = Priority;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}, or a whole number", lanes())
    }

    fn visit_str<E: de::Error>(self, text: &str) -> std::result::Result<Priority, E> {
        let unknown = |_| E::invalid_value(de::Unexpected::Str(text), &self);
        text.parse()
            .map(|lane| Priority(Some(lane)))
            .map_err(unknown)
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> std::result::Result<Priority, E> {
        Ok(Priority(match number {
            ..0 => Some(Lane::Interactive),
            0 => None,
            1.. => Some(Lane::Bulk),
        }))
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> std::result::Result<Priority, E> {
        self.visit_i64(i64::try_from(number).unwrap_or(i64::MAX))
    }

    fn visit_f64<E: de::Error>(self, number: f64) -> std::result::Result<Priority, E> {
        if number.fract() == 0.0 {
            self.visit_i64(number as i64)
        } else {
            Err(E::invalid_value(de::Unexpected::Float(number), &self))
        }
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn caller(name: &'static str, value: &str) -> Result<Caller> {
        let mut headers = HeaderMap::new();
        headers.insert(name, HeaderValue::from_str(value).unwrap());
        read(&headers, Instant::now())
    }

    #[test]
    fn a_lane_is_read_and_an_unknown_one_refused_with_their_names() {
        assert_eq!(caller(LANE, " Bulk ").unwrap().lane, Some(Lane::Bulk));
        let error = caller(LANE, "express").unwrap_err();
        assert_eq!(error.status(), 400);
        let message = error.to_string();
        assert!(message.contains("`interactive` or `bulk`"), "{message}");
    }

    #[test]
    fn a_timeout_is_seconds_unless_it_says_otherwise() {
        let check = |text, expected| assert_eq!(patience(text).unwrap(), expected);
        check("2.5", Duration::from_millis(2_500));
        check("30s", Duration::from_secs(30));
        check(" 800 ms", Duration::from_millis(800));
        check("1e300", Duration::from_secs(86_400));
        for wrong in ["", "0", "-1", "soon", "nan", "inf", "5m"] {
            let error = caller(TIMEOUT, wrong).unwrap_err();
            assert_eq!(error.status(), 400, "{wrong}");
        }
    }

    #[test]
    fn a_priority_is_a_lane_or_a_number() {
        let priority = |json| serde_json::from_str::<Priority>(json).map(|p| p.0);
        assert_eq!(priority("\"bulk\"").unwrap(), Some(Lane::Bulk));
        assert_eq!(priority("-3").unwrap(), Some(Lane::Interactive));
        assert_eq!(priority("0").unwrap(), None);
        assert_eq!(priority("7.0").unwrap(), Some(Lane::Bulk));
        let message = priority("\"high\"").unwrap_err().to_string();
        assert!(message.contains("`interactive` or `bulk`"), "{message}");
        assert!(priority("1.5").is_err());
    }
}
