//! Memory that ONNX Runtime's arena of a device has to spare, given back. It does that only after a
//! run, so there is a session for it whose run costs nothing.

use std::sync::{Mutex, PoisonError};

use ort::session::builder::SessionBuilder;
use ort::session::{RunOptions, Session};
use ort::value::TensorRef;

use crate::error::Result;
use crate::graph::smallest;

/// Gives back what one arena has to spare.
pub(super) struct Trimmer {
    session: Mutex<Session>,
    options: RunOptions,
}

impl Trimmer {
    /// Opens the session; `arena` is what ONNX Runtime calls the arena, such as `gpu:0`.
    ///
    /// # Errors
    /// `Error::Runtime` when the device cannot run even this.
    pub(super) fn open(mut builder: SessionBuilder, arena: &str) -> Result<Self> {
        Ok(Self {
            session: Mutex::new(builder.commit_from_memory(&smallest::negation())?),
            options: options(arena)?,
        })
    }

    /// Gives back the pieces of memory that nobody has a number in.
    ///
    /// # Errors
    /// `Error::Runtime` when the device has failed.
    pub(super) fn trim(&self) -> Result<()> {
        let input = TensorRef::from_array_view(([1], &[0.0_f32][..]))?;
        let inputs = ort::inputs![smallest::INPUT => input];
        // A panic of another thread leaves nothing behind in a session.
        let mut session = self.session.lock().unwrap_or_else(PoisonError::into_inner);
        session.run_with_options(inputs, &self.options)?;
        Ok(())
    }
}

/// Options of a run after which an arena gives back the pieces of memory that nobody has a number
/// in; `arena` is what ONNX Runtime calls it, such as `cpu:0`.
pub(crate) fn options(arena: &str) -> Result<RunOptions> {
    let mut options = RunOptions::new()?;
    options.set("memory.enable_memory_arena_shrinkage", arena)?;
    Ok(options)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::given::tests::runtime;
    use crate::session::builder;

    #[test]
    fn an_arena_is_asked_for_what_it_can_spare() {
        let Some(runtime) = runtime() else { return };
        let trimmer = Trimmer::open(builder(&runtime, 1).unwrap(), "cpu:0").unwrap();
        trimmer.trim().unwrap();
        trimmer.trim().unwrap();
        // It reaches ONNX Runtime: of an arena that there is not it says so.
        let trimmer = Trimmer::open(builder(&runtime, 1).unwrap(), "gpu:0").unwrap();
        assert!(trimmer.trim().unwrap_err().to_string().contains("gpu:0"));
    }
}
