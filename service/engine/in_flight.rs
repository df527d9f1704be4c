//! How many requests are inside the engine.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

/// Counts a request for as long as it is worked on, also when its client leaves.
pub struct InFlight(Arc<AtomicUsize>);

impl InFlight {
    /// Counts one from now on.
    pub fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count.clone())
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
