//! Who runs the tasks of a kernel: this thread, rayon's pool, or a pool the caller brings.
//!
//! A kernel splits its work into tasks whose results do not depend on the split.

use crate::KernelError;
use rayon::iter::{IntoParallelIterator, ParallelIterator};

/// A way to run independent tasks, such as ONNX Runtime's intra-op threads.
pub trait Parallel {
    /// Calls `task` once with every number below `tasks`, in any order and on any thread, and
    /// returns when all calls have. An error means that some calls may not have happened.
    fn run(&self, tasks: usize, task: &(dyn Fn(usize) + Sync)) -> Result<(), KernelError>;
}

/// Runs the tasks one after the other on the calling thread.
#[derive(Debug, Clone, Copy, Default)]
pub struct Sequential;

impl Parallel for Sequential {
    fn run(&self, tasks: usize, task: &(dyn Fn(usize) + Sync)) -> Result<(), KernelError> {
        (0..tasks).for_each(task);
        Ok(())
    }
}

/// Runs the tasks on rayon's current thread pool.
#[derive(Debug, Clone, Copy, Default)]
pub struct RayonPool;

impl Parallel for RayonPool {
    fn run(&self, tasks: usize, task: &(dyn Fn(usize) + Sync)) -> Result<(), KernelError> {
        (0..tasks).into_par_iter().for_each(task);
        Ok(())
    }
}

/// A place in an output that several tasks write, each to its own part.
#[derive(Clone, Copy)]
pub(crate) struct SharedOutput(*mut f32);

// SAFETY: the pointer is only used through `rows`, whose callers write disjoint parts.
unsafe impl Send for SharedOutput {}
// SAFETY: as above.
unsafe impl Sync for SharedOutput {}

impl SharedOutput {
    pub(crate) fn new(out: &mut [f32]) -> Self {
        Self(out.as_mut_ptr())
    }

    /// The address of value `offset`.
    ///
    /// # Safety
    /// `offset` lies in the slice given to `new`, that slice is still borrowed, and no other
    /// task touches the values reached through the pointer.
    pub(crate) unsafe fn at(&self, offset: usize) -> *mut f32 {
        // SAFETY: the caller keeps `offset` inside the allocation.
        unsafe { self.0.add(offset) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn every_task_runs_once() {
        for parallel in [&Sequential as &dyn Parallel, &RayonPool] {
            let calls: Vec<AtomicUsize> = (0..97).map(|_| AtomicUsize::new(0)).collect();
            let task = |i: usize| {
                calls[i].fetch_add(1, Ordering::Relaxed);
            };
            parallel.run(calls.len(), &task).unwrap();
            assert!(calls.iter().all(|count| count.load(Ordering::Relaxed) == 1));
        }
    }
}
