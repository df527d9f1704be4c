//! An encoder on a GPU: what happens when its memory does not suffice or it fails, and how the
//! threads of a service share it.

use std::sync::{Arc, Mutex, PoisonError};

use super::Encode;
use crate::batch::Batch;
use crate::error::{Error, Result};
use crate::heads::Output;
use crate::provider::device::Gpu;
use crate::provider::fault::Health;

/// An encoder that keeps memory of a device between runs.
pub(crate) trait Reclaim: Encode {
    /// Gives back what it keeps and does not need. `batch` is one that it can run parts of.
    fn reclaim(&mut self, batch: &Batch);
}

/// Where the health of a device is kept.
pub(crate) trait HasHealth: Send + Sync {
    fn health(&self) -> &Health;
}

impl HasHealth for Gpu {
    fn health(&self) -> &Health {
        &self.health
    }
}

/// An encoder with the device that it runs on.
pub(crate) struct OnDevice<E> {
    encoder: E,
    device: Arc<dyn HasHealth>,
}

impl<E: Reclaim> OnDevice<E> {
    pub(crate) fn new(encoder: E, device: Arc<dyn HasHealth>) -> Self {
        Self { encoder, device }
    }

    fn run(&mut self, batch: &Batch) -> Result<Vec<Output>> {
        let done = self.encoder.encode(batch);
        done.map_err(|error| self.device.health().diagnosed(error, batch))
    }
}

impl<E: Reclaim> Encode for OnDevice<E> {
    /// Runs a batch; one that does not fit is run once more, in halves.
    ///
    /// # Errors
    /// `Error::OutOfMemory` when a half does not fit either, `Error::Device` once the device has
    /// failed.
    fn encode(&mut self, batch: &Batch) -> Result<Vec<Output>> {
        self.device.health().check()?;
        match self.run(batch) {
            Err(Error::OutOfMemory { .. }) => {
                // The memory may be there, but in pieces of sizes that were wanted before.
                self.encoder.reclaim(batch);
                let mut outputs = Vec::with_capacity(batch.sequences());
                for half in batch.halves() {
                    outputs.extend(self.run(&half)?);
                }
                Ok(outputs)
            }
            done => done,
        }
    }
}

/// One encoder for all who ask: each session on a device has a copy of the weights, and runs one
/// after the other anyway.
pub(crate) struct SharedEncoder<E>(Arc<Mutex<OnDevice<E>>>);

impl<E: Reclaim + 'static> SharedEncoder<E> {
    pub(crate) fn new(encoder: OnDevice<E>) -> Self {
        Self(Arc::new(Mutex::new(encoder)))
    }

    /// A handle of one thread.
    pub(crate) fn handle(&self) -> Box<dyn Encode> {
        Box::new(Self(Arc::clone(&self.0)))
    }
}

impl<E: Reclaim> Encode for SharedEncoder<E> {
    fn encode(&mut self, batch: &Batch) -> Result<Vec<Output>> {
        // What a panic left behind is only buffers that every run begins anew.
        let mut encoder = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        encoder.encode(batch)
    }
}

#[cfg(test)]
mod tests;
