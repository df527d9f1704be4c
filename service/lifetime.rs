//! When the service began, and the way for a client to end it.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use tokio::sync::Notify;

/// The life of one server.
#[derive(Debug)]
pub struct Lifetime {
    began: Instant,
    ended: Notify,
    leaving: AtomicBool,
}

impl Lifetime {
    /// A life that begins now.
    pub fn begin() -> Self {
        Self {
            began: Instant::now(),
            ended: Notify::new(),
            leaving: AtomicBool::new(false),
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

    /// The end has begun: requests are still answered, and whoever shares them out should send
    /// none here any more.
    pub fn leave(&self) {
        self.leaving.store(true, Ordering::Relaxed);
    }

    /// Whether the end has begun.
    pub fn is_leaving(&self) -> bool {
        self.leaving.load(Ordering::Relaxed)
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
