//! Limits per API key and minute: a token bucket for requests and one for the tokens that models
//! read and write. What a request costs is known only when it is answered, so tokens are taken
//! afterwards and may leave a debt, which the next requests wait for.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use axum::response::Response;
use http::{HeaderName, HeaderValue};

use super::access::Holder;
use crate::{
    engine::Clock,
    error::{Error, Result},
};

const MINUTE: f64 = 60.0;

/// What each key may ask for; nothing is limited unless it is set.
#[derive(Debug, Clone, Default)]
pub struct RateSettings {
    /// Requests per minute; `None` means any number.
    pub requests_per_minute: Option<u32>,
    /// Tokens per minute, as `usage` counts them; `None` means any number.
    pub tokens_per_minute: Option<u32>,
    /// How the minutes pass.
    pub clock: Clock,
}

/// The buckets of all keys. Without keys all callers share those of one.
#[derive(Debug)]
pub struct RateLimits {
    settings: RateSettings,
    keys: Vec<Mutex<Buckets>>,
}

/// What one key has left.
#[derive(Debug)]
struct Buckets {
    requests: Option<Bucket>,
    tokens: Option<Bucket>,
}

/// Fills at an even rate up to what a minute allows.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Bucket {
    per_minute: f64,
    /// Below 0 for a debt.
    left: f64,
    seen: Instant,
}

/// What a caller has been let in for; takes the tokens when the request is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ticket(usize);

/// Takes tokens that become known after the head of an answer has gone: those of a text that is
/// written piece by piece.
#[derive(Debug, Clone)]
pub struct Meter {
    limits: Arc<RateLimits>,
    ticket: Ticket,
}

impl Meter {
    /// One for a request that was let in.
    pub fn new(limits: Arc<RateLimits>, ticket: Ticket) -> Self {
        Self { limits, ticket }
    }

    /// Takes so many tokens.
    pub fn spend(&self, tokens: usize) {
        self.limits.spend(self.ticket, tokens);
    }
}

impl RateLimits {
    /// Full buckets for so many keys, or `None` when nothing is limited.
    pub fn new(settings: &RateSettings, keys: usize) -> Option<Self> {
        if settings.requests_per_minute.is_none() && settings.tokens_per_minute.is_none() {
            return None;
        }
        let now = settings.clock.now();
        let bucket = |limit: Option<u32>| limit.map(|limit| Bucket::full(limit, now));
        let buckets = || Buckets {
            requests: bucket(settings.requests_per_minute),
            tokens: bucket(settings.tokens_per_minute),
        };
        Some(Self {
            keys: (0..keys.max(1)).map(|_| Mutex::new(buckets())).collect(),
            settings: settings.clone(),
        })
    }

    /// Takes one request from the caller's bucket; `None` for a caller without limits.
    ///
    /// # Errors
    /// [`Error::RateLimited`] when a bucket is empty; nothing is taken then.
    pub fn enter(&self, holder: Holder) -> Result<Option<Ticket>> {
        let key = match holder {
            Holder::Anyone => 0,
            Holder::Key(number) => number,
            Holder::Admin => return Ok(None),
        };
        self.with(key, |buckets| {
            for (bucket, unit) in [(&buckets.requests, "requests"), (&buckets.tokens, "tokens")] {
                if let Some(bucket) = bucket.as_ref().filter(|bucket| bucket.left < 1.0) {
                    return Err(Error::RateLimited {
                        unit,
                        per_minute: bucket.per_minute as u32,
                        retry_after: bucket.until(1.0),
                    });
                }
            }
            if let Some(requests) = &mut buckets.requests {
                requests.left -= 1.0;
            }
            Ok(Some(Ticket(key)))
        })
    }

    /// Takes the tokens of an answered request.
    pub fn spend(&self, Ticket(key): Ticket, tokens: usize) {
        self.with(key, |buckets| {
            if let Some(bucket) = &mut buckets.tokens {
                bucket.left -= tokens as f64;
            }
        });
    }

    /// Writes what the caller has left where `OpenAI`'s clients read it.
    pub fn tell(&self, holder: Holder, response: &mut Response) {
        let key = match holder {
            Holder::Anyone => 0,
            Holder::Key(number) => number,
            Holder::Admin => return,
        };
        let (requests, tokens) = self.with(key, |buckets| (buckets.requests, buckets.tokens));
        for (bucket, [limit, remaining, reset]) in
            [(requests, REQUEST_HEADERS), (tokens, TOKEN_HEADERS)]
        {
            let Some(bucket) = bucket else { continue };
            let headers = response.headers_mut();
            headers.insert(limit, (bucket.per_minute as u64).into());
            headers.insert(remaining, (bucket.left.max(0.0) as u64).into());
            if let Ok(value) = HeaderValue::try_from(written(bucket.until(bucket.per_minute))) {
                headers.insert(reset, value);
            }
        }
    }

    /// Looks at the buckets of one key as they are now.
    fn with<T>(&self, key: usize, look: impl FnOnce(&mut Buckets) -> T) -> T {
        let now = self.settings.clock.now();
        // Numbers are never half changed, so poison means nothing.
        let mut buckets = self.keys[key]
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let Buckets { requests, tokens } = &mut *buckets;
        for bucket in [requests, tokens].into_iter().flatten() {
            bucket.fill(now);
        }
        look(&mut buckets)
    }
}

const REQUEST_HEADERS: [HeaderName; 3] = [
    HeaderName::from_static("x-ratelimit-limit-requests"),
    HeaderName::from_static("x-ratelimit-remaining-requests"),
    HeaderName::from_static("x-ratelimit-reset-requests"),
];

const TOKEN_HEADERS: [HeaderName; 3] = [
    HeaderName::from_static("x-ratelimit-limit-tokens"),
    HeaderName::from_static("x-ratelimit-remaining-tokens"),
    HeaderName::from_static("x-ratelimit-reset-tokens"),
];

impl Bucket {
    fn full(per_minute: u32, now: Instant) -> Self {
        Self {
            per_minute: f64::from(per_minute),
            left: f64::from(per_minute),
            seen: now,
        }
    }

    fn fill(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.seen).as_secs_f64();
        self.left = (self.left + passed * self.per_minute / MINUTE).min(self.per_minute);
        self.seen = now;
    }

    /// How long until so much is in it.
    fn until(&self, wanted: f64) -> Duration {
        let seconds = (wanted - self.left).max(0.0) * MINUTE / self.per_minute;
        // Rounded up to what is written, so that who waits that long does not come too early.
        Duration::from_millis((seconds * 1e3).ceil() as u64)
    }
}

/// A duration as `OpenAI` writes it: `120ms`, `8.64s`, `6m0s`.
fn written(duration: Duration) -> String {
    let millis = duration.as_millis();
    let (minutes, rest) = (millis / 60_000, millis % 60_000);
    let seconds = rest as f64 / 1e3;
    match (minutes, millis) {
        (0, 0..1_000) => format!("{millis}ms"),
        (0, _) => format!("{seconds}s"),
        _ => format!("{minutes}m{seconds}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Limits and the hand that moves their clock.
    fn limits(requests: u32, tokens: u32) -> (RateLimits, Arc<Mutex<Instant>>) {
        let time = Arc::new(Mutex::new(Instant::now()));
        let told = time.clone();
        let settings = RateSettings {
            requests_per_minute: Some(requests).filter(|&n| n > 0),
            tokens_per_minute: Some(tokens).filter(|&n| n > 0),
            clock: Clock::telling(move || *told.lock().unwrap()),
        };
        (RateLimits::new(&settings, 2).unwrap(), time)
    }

    fn pass(time: &Mutex<Instant>, millis: u64) {
        *time.lock().unwrap() += Duration::from_millis(millis);
    }

    fn refusal(limits: &RateLimits, holder: Holder) -> (&'static str, Duration) {
        match limits.enter(holder).unwrap_err() {
            Error::RateLimited {
                unit, retry_after, ..
            } => (unit, retry_after),
            other => panic!("{other}"),
        }
    }

    #[test]
    fn nothing_is_limited_unless_it_is_set() {
        assert!(RateLimits::new(&RateSettings::default(), 1).is_none());
    }

    #[test]
    fn a_minute_of_requests_may_come_at_once_and_then_one_at_a_time() {
        let (limits, time) = limits(30, 0);
        for _ in 0..30 {
            assert!(limits.enter(Holder::Key(0)).is_ok());
        }
        let (unit, wait) = refusal(&limits, Holder::Key(0));
        assert_eq!((unit, wait), ("requests", Duration::from_secs(2)));
        pass(&time, 1_999);
        refusal(&limits, Holder::Key(0));
        pass(&time, 1);
        assert!(limits.enter(Holder::Key(0)).is_ok());
        refusal(&limits, Holder::Key(0));
        pass(&time, 3_600_000);
        let let_in = (0..100).filter(|_| limits.enter(Holder::Key(0)).is_ok());
        assert_eq!(
            let_in.count(),
            30,
            "an idle hour saves up no more than a minute"
        );
    }

    #[test]
    fn a_request_of_many_tokens_leaves_a_debt() {
        let (limits, time) = limits(0, 600);
        let ticket = limits.enter(Holder::Key(1)).unwrap().unwrap();
        limits.spend(ticket, 700);
        let (unit, wait) = refusal(&limits, Holder::Key(1));
        assert_eq!((unit, wait), ("tokens", Duration::from_millis(10_100)));
        pass(&time, 10_100);
        assert!(limits.enter(Holder::Key(1)).is_ok());
    }

    #[test]
    fn keys_do_not_share_and_administrators_have_no_limit() {
        let (limits, _) = limits(1, 0);
        assert!(limits.enter(Holder::Key(0)).is_ok());
        refusal(&limits, Holder::Key(0));
        assert!(limits.enter(Holder::Key(1)).is_ok());
        for _ in 0..3 {
            assert_eq!(limits.enter(Holder::Admin).unwrap(), None);
        }
    }

    #[test]
    fn durations_are_written_as_openai_does() {
        for (millis, text) in [
            (0, "0ms"),
            (120, "120ms"),
            (8_640, "8.64s"),
            (60_000, "1m0s"),
            (72_500, "1m12.5s"),
        ] {
            assert_eq!(written(Duration::from_millis(millis)), text);
        }
    }
}
