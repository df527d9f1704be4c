//! A fault that no model of this process survives: a GPU whose context is lost answers nothing any
//! more, and only a new process gets another one. Who is inside is told at once, and so is whoever
//! ends the process.

use std::sync::Arc;

use tokio::sync::watch;

use crate::error::Error;

/// The first such fault, if there was one. Clones tell the same.
#[derive(Clone, Debug)]
pub struct Faults(Arc<watch::Sender<Option<Arc<str>>>>);

impl Default for Faults {
    fn default() -> Self {
        Self(Arc::new(watch::channel(None).0))
    }
}

impl Faults {
    /// Notes a fault; later ones follow from the first and are left out.
    pub fn report(&self, reason: &str) {
        let first = self.0.send_if_modified(|fault| {
            let first = fault.is_none();
            fault.get_or_insert_with(|| reason.into());
            first
        });
        if first {
            tracing::error!(
                reason,
                "a device is lost: the process has to be started again"
            );
        }
    }

    /// What happened, if something did.
    pub fn current(&self) -> Option<Arc<str>> {
        self.0.borrow().clone()
    }

    /// Resolves once something has happened, and says what.
    pub async fn happened(&self) -> Arc<str> {
        let mut news = self.0.subscribe();
        loop {
            if let Some(reason) = self.current() {
                return reason;
            }
            // The sender lives as long as `self` does.
            let _ = news.changed().await;
        }
    }

    /// What callers are told.
    pub fn error(reason: &str) -> Error {
        Error::NotReady(format!(
            "a device has failed and the server is being restarted; send the request again in a \
             moment ({reason})"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_first_fault_is_the_one_that_is_told() {
        let faults = Faults::default();
        assert_eq!(faults.current(), None);
        faults.clone().report("CUDA error 700");
        faults.report("CUDA error 1");
        assert_eq!(&*faults.happened().await, "CUDA error 700");
        assert_eq!(faults.current().as_deref(), Some("CUDA error 700"));
    }
}
