//! How long a model stays in memory without requests, as Ollama and Xinference let callers say it.

use std::{fmt, str::FromStr, time::Duration};

/// How long a model stays in memory after its last request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum KeepAlive {
    /// It is never unloaded for want of requests.
    #[default]
    Forever,
    /// It is unloaded after this time; zero means as soon as a request is answered.
    For(Duration),
}

impl KeepAlive {
    /// From seconds, as numbers in a body are meant; negative means for ever. What is longer than
    /// a clock can tell, and what is no number, is for ever as well.
    pub fn from_seconds(seconds: f64) -> Self {
        if seconds < 0.0 {
            return Self::Forever;
        }
        Duration::try_from_secs_f64(seconds).map_or(Self::Forever, Self::For)
    }
}

/// The units of Go's duration strings, which Ollama takes, and days.
const UNITS: &[(&str, f64)] = &[
    ("ns", 1e-9),
    ("us", 1e-6),
    ("µs", 1e-6),
    ("ms", 1e-3),
    ("s", 1.0),
    ("m", 60.0),
    ("h", 3_600.0),
    ("d", 86_400.0),
];

impl FromStr for KeepAlive {
    type Err = String;

    /// Reads seconds (`300`, `-1`) or a duration (`5m`, `1h30m`, `-1m`).
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "`{text}` is not a time to keep a model for; give seconds such as `300`, a \
                 duration such as `5m` or `1h30m`, `0` to unload it after the call, or `-1` to \
                 keep it for ever"
            )
        };
        let trimmed = text.trim();
        if let Ok(seconds) = trimmed.parse::<f64>() {
            return seconds
                .is_finite()
                .then(|| Self::from_seconds(seconds))
                .ok_or_else(wrong);
        }
        let (sign, mut rest) = match trimmed.strip_prefix('-') {
            Some(rest) => (-1.0, rest),
            None => (1.0, trimmed),
        };
        if rest.is_empty() {
            return Err(wrong());
        }
        let mut seconds = 0.0;
        while !rest.is_empty() {
            let digits = rest
                .find(|c: char| !c.is_ascii_digit() && c != '.')
                .ok_or_else(wrong)?;
            let (number, tail) = rest.split_at(digits);
            let unit = tail
                .find(|c: char| c.is_ascii_digit() || c == '.')
                .unwrap_or(tail.len());
            let (unit, tail) = tail.split_at(unit);
            let number: f64 = number.parse().map_err(|_| wrong())?;
            let (_, scale) = UNITS
                .iter()
                .find(|(name, _)| *name == unit)
                .ok_or_else(wrong)?;
            seconds += number * scale;
            rest = tail;
        }
        Ok(Self::from_seconds(sign * seconds))
    }
}

impl fmt::Display for KeepAlive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Forever => f.write_str("-1"),
            Self::For(time) => write!(f, "{}s", time.as_secs_f64()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_and_durations_mean_what_they_do_elsewhere() {
        let check = |text: &str, seconds: f64| {
            let expected = KeepAlive::For(Duration::from_secs_f64(seconds));
            assert_eq!(text.parse(), Ok(expected), "{text}");
        };
        check("300", 300.0);
        check("0", 0.0);
        check("0s", 0.0);
        check("5m", 300.0);
        check("1h30m", 5_400.0);
        check("1.5h", 5_400.0);
        check("250ms", 0.25);
        check(" 2d ", 172_800.0);
        for forever in ["-1", "-1m", "-5h3s", "1e300"] {
            assert_eq!(forever.parse(), Ok(KeepAlive::Forever), "{forever}");
        }
        assert_eq!(KeepAlive::from_seconds(f64::NAN), KeepAlive::Forever);
    }

    #[test]
    fn what_is_no_duration_is_told_with_examples() {
        for wrong in ["", "-", "m", "5 minutes", "5x", "NaN", "inf", "1h30"] {
            let error = wrong.parse::<KeepAlive>().expect_err(wrong);
            assert!(error.contains("`5m`"), "{error}");
        }
    }

    #[test]
    fn what_is_printed_reads_back() {
        for text in ["-1", "0s", "90s", "0.25s"] {
            let keep_alive: KeepAlive = text.parse().unwrap();
            assert_eq!(keep_alive.to_string(), text);
        }
    }
}
