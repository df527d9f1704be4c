//! What failures of a device mean for the work that hit them, and for all that follows: too little
//! memory is a matter of one batch, a fault that sticks ends everything on the device.

use std::sync::{Mutex, PoisonError};

use retort_kernels::cuda::{CudaError, Fault};

use crate::batch::Batch;
use crate::error::{Error, Result};

/// Whether a device still works. All sessions on it share one.
#[derive(Debug, Default)]
pub(crate) struct Health {
    // What ended it.
    fault: Mutex<Option<String>>,
}

impl Health {
    /// Refuses to start anything on a device that has failed.
    pub(crate) fn check(&self) -> Result<()> {
        let fault = self.fault.lock().unwrap_or_else(PoisonError::into_inner);
        fault.as_ref().map_or(Ok(()), |fault| Err(lost(fault)))
    }

    /// What an error of a run is in truth. A fault that sticks is remembered.
    pub(crate) fn diagnosed(&self, error: Error, batch: &Batch) -> Error {
        let message = match error {
            Error::Runtime(message) => message,
            other => return other,
        };
        match CudaError::classify(&message) {
            Some(Fault::OutOfMemory) => Error::OutOfMemory {
                sequences: batch.sequences(),
                tokens: batch.tokens(),
                message,
            },
            Some(Fault::Sticky) => self.ended(message),
            None => Error::Runtime(message),
        }
    }

    /// What an error is in truth that a model was not loaded for.
    pub(crate) fn diagnosed_load(&self, error: Error) -> Error {
        let message = match error {
            Error::Runtime(message) => message,
            other => return other,
        };
        match CudaError::classify(&message) {
            Some(Fault::OutOfMemory) => Error::NoRoom(message),
            Some(Fault::Sticky) => self.ended(message),
            None => Error::Runtime(message),
        }
    }

    /// Remembers what ended everything, the first time.
    fn ended(&self, message: String) -> Error {
        let mut fault = self.fault.lock().unwrap_or_else(PoisonError::into_inner);
        lost(fault.get_or_insert(message))
    }
}

fn lost(fault: &str) -> Error {
    Error::Device {
        message: format!("the GPU has failed, and nothing runs on it until a new start: {fault}"),
        poisoned: true,
    }
}

/// An error of the driver, before anything runs.
impl From<CudaError> for Error {
    fn from(error: CudaError) -> Self {
        Self::Device {
            poisoned: error.is_sticky(),
            message: error.to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_that_does_not_fit_harms_nobody() {
        let health = Health::default();
        let full = "BFCArena::Extend Available memory of 7 is smaller than requested bytes of 8";
        let error = health.diagnosed_load(Error::Runtime(full.to_owned()));
        assert!(matches!(error, Error::NoRoom(_)), "{error:?}");
        let message = error.to_string();
        assert!(message.contains(full), "{message}");
        assert!(health.check().is_ok());

        let other = health.diagnosed_load(Error::Runtime("Invalid model".to_owned()));
        assert!(matches!(other, Error::Runtime(_)));
        let lost = Error::Runtime("CUDA failure 719: unspecified launch failure".to_owned());
        let lost = health.diagnosed_load(lost);
        assert!(matches!(lost, Error::Device { poisoned: true, .. }));
        let error = health.check().unwrap_err().to_string();
        assert!(error.contains("719"), "{error}");
    }
}
