//! Whether a machine computes what the functions for the processor define: random packed layouts
//! through every kernel, with the largest difference told.

mod cases;
mod numbers;

use super::{CudaError, Kernel, Machine};
use crate::KernelError;
use numbers::Layout;
use std::error::Error;
use std::fmt;

/// How far one kernel was from its definition.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Deviation {
    /// Which kernel.
    pub kernel: Kernel,
    /// How many values were compared.
    pub values: usize,
    /// The largest difference, relative to the expected value or to what is usual beside it.
    pub largest: f64,
    /// What it may be at most.
    pub tolerance: f64,
}

/// Why a machine is not to be trusted with a kernel.
#[derive(Debug, Clone, PartialEq)]
pub enum CheckError {
    /// It failed to run one.
    Machine(CudaError),
    /// The definition refused the case; the check itself is wrong then.
    Definition(KernelError),
    /// It computed something else.
    Wrong {
        /// Which kernel.
        kernel: Kernel,
        /// Where, and what instead of what.
        message: String,
    },
}

impl fmt::Display for CheckError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Machine(error) => write!(f, "{error}"),
            Self::Definition(error) => write!(f, "the definition refuses the case: {error}"),
            Self::Wrong { kernel, message } => write!(f, "`{}`: {message}", kernel.name()),
        }
    }
}

impl Error for CheckError {}

impl From<CudaError> for CheckError {
    fn from(error: CudaError) -> Self {
        Self::Machine(error)
    }
}

impl From<KernelError> for CheckError {
    fn from(error: KernelError) -> Self {
        Self::Definition(error)
    }
}

/// Runs every kernel on `rounds` layouts that follow from the seed, and on the ones that no chance
/// would find: rows with faults, boundaries that lie, all numbers of 16 bits, a batch as large as
/// those of real models.
///
/// # Errors
/// `CheckError` at the first kernel that is wrong.
pub fn check_kernels(
    machine: &dyn Machine,
    seed: u64,
    rounds: usize,
) -> Result<Vec<Deviation>, CheckError> {
    let mut bench = cases::Bench::new(machine, seed);
    bench.all_halves()?;
    bench.lying_boundaries()?;
    for round in 0..=rounds {
        let layout = match round {
            0 => Layout::large(),
            _ => Layout::random(bench.chance()),
        };
        bench.pooling(&layout)?;
        bench.unit_rows(&layout)?;
        bench.lexical(&layout)?;
        bench.max_sim(&layout)?;
    }
    Ok(bench.deviations())
}
