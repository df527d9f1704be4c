//! An encoder on a GPU: what happens when its memory does not suffice or it fails, and how the
//! threads of a service share it.

use std::sync::{Arc, Mutex, PoisonError};

use super::Encode;
use crate::batch::Batch;
use crate::error::{Error, Result};
use crate::heads::Output;
use crate::provider::device::Gpu;
use crate::provider::fault::Health;

/// What all encoders on a device have in common.
pub(crate) trait CommonDevice: Send + Sync {
    /// Whether it still works.
    fn health(&self) -> &Health;

    /// Gives back the memory that it keeps and does not need.
    fn trim(&self);

    /// How often that was done.
    fn trims(&self) -> u64;
}

impl CommonDevice for Gpu {
    fn health(&self) -> &Health {
        &self.health
    }

    fn trim(&self) {
        self.trim();
    }

    fn trims(&self) -> u64 {
        self.trims()
    }
}

/// An encoder with the device that it runs on.
pub(crate) struct OnDevice<E> {
    encoder: E,
    device: Arc<dyn CommonDevice>,
    // The batch of the most tokens so far.
    largest: Option<Batch>,
    // How often memory had been given back when the last batch ran.
    trims: u64,
}

impl<E: Encode> OnDevice<E> {
    pub(crate) fn new(encoder: E, device: Arc<dyn CommonDevice>) -> Self {
        Self {
            trims: device.trims(),
            encoder,
            device,
            largest: None,
        }
    }

    /// Has the memory of the largest batch again after it was given back, before smaller ones take
    /// it in pieces that the next large one cannot use: so memory would grow.
    fn refill(&mut self, batch: &Batch) {
        let trims = self.device.trims();
        if self.trims == trims {
            return;
        }
        self.trims = trims;
        let Some(largest) = self.largest.take() else {
            return;
        };
        // What is wrong is wrong with the next batch as well, or there is less room than there was.
        if batch.tokens() >= largest.tokens() || self.run(&largest).is_ok() {
            self.largest = Some(largest);
        }
    }

    fn run(&mut self, batch: &Batch) -> Result<Vec<Output>> {
        let done = self.encoder.encode(batch);
        done.map_err(|error| self.device.health().diagnosed(error, batch))
    }
}

impl<E: Encode> Encode for OnDevice<E> {
    /// Runs a batch; one that does not fit is run once more, in halves.
    ///
    /// # Errors
    /// `Error::OutOfMemory` when a half does not fit either, `Error::Device` once the device has
    /// failed.
    fn encode(&mut self, batch: &Batch) -> Result<Vec<Output>> {
        self.device.health().check()?;
        self.refill(batch);
        self.device.health().check()?;
        match self.run(batch) {
            Err(Error::OutOfMemory { .. }) => {
                // The memory may be there, but in pieces of sizes that were wanted before.
                self.device.trim();
                self.trims = self.device.trims();
                let mut outputs = Vec::with_capacity(batch.sequences());
                for half in batch.halves() {
                    outputs.extend(self.run(&half)?);
                }
                Ok(outputs)
            }
            Ok(outputs) => {
                let most = self.largest.as_ref().map_or(0, Batch::tokens);
                if batch.tokens() > most {
                    self.largest = Some(batch.clone());
                }
                Ok(outputs)
            }
            failed => failed,
        }
    }
}

/// One encoder for all who ask: each session on a device has a copy of the weights, and runs one
/// after the other anyway.
pub(crate) struct SharedEncoder<E>(Arc<Mutex<OnDevice<E>>>);

impl<E: Encode + 'static> SharedEncoder<E> {
    pub(crate) fn new(encoder: OnDevice<E>) -> Self {
        Self(Arc::new(Mutex::new(encoder)))
    }

    /// A handle of one thread.
    pub(crate) fn handle(&self) -> Box<dyn Encode> {
        Box::new(Self(Arc::clone(&self.0)))
    }
}

impl<E: Encode> Encode for SharedEncoder<E> {
    fn encode(&mut self, batch: &Batch) -> Result<Vec<Output>> {
        // What a panic left behind is only buffers that every run begins anew.
        let mut encoder = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        encoder.encode(batch)
    }
}

#[cfg(test)]
mod tests;
