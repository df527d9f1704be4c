//! When the service began, and the way for a client to end it.

use std::time::{Duration, Instant};

use tokio::sync::Notify;

/// The life of one server.
#[derive(Debug)]
pub struct Lifetime {
    began: Instant,
    ended: Notify,
}

impl Lifetime {
    /// A life that begins now.
    pub fn begin() -> Self {
        Self {
            began: Instant::now(),
            ended: Notify::new(),
        }
    }

    /// How long it has lasted.
    pub fn uptime(&self) -> Duration {
        self.began.elapsed()
    }

    /// Has the server finish what is inside, and stop.
    pub fn end(&self) {
        // The permit stays when nobody waits yet.
        self.ended.notify_one();
    }

    /// Resolves once [`Lifetime::end`] was called.
    pub async fn ended(&self) {
        self.ended.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_end_is_noticed_by_who_waits_only_later() {
        let life = Lifetime::begin();
        life.end();
        life.ended().await;
    }
}
