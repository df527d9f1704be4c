//! The time of the calendar, as answers and records stamp it. What is measured has `Instant`s.

use std::time::{Duration, SystemTime};

/// The time since the Unix epoch, by this machine's clock; nothing for one that is before it.
pub fn now() -> Duration {
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default()
}
