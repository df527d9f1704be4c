//! How long the kernels take on a device, at the sizes of a large encoder: 8,192 tokens of 1,024
//! values of 16 bits, in many short sequences and in one long one.

use super::calls::{LexicalCall, Matrix, MaxSimCall, Number, PoolCall, Sequences, UnitRowsCall};
use super::{CudaDevice, CudaError, Kernel, Launch, Machine, Memory};
use crate::{KernelError, Pooling};
use std::time::Instant;

const TOKENS: usize = 8192;
const WIDTH: usize = 1024;
/// Launches of one measurement, and how many measurements the best is taken of.
const LAUNCHES: u32 = 50;
const ROUNDS: usize = 5;

/// How long one kernel took.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Timing {
    /// Which kernel.
    pub kernel: Kernel,
    /// Into how many sequences the tokens were packed.
    pub sequences: usize,
    /// Seconds of one launch among many: the best of some rounds.
    pub seconds: f64,
    /// What it must at least read and write, in bytes.
    pub bytes: usize,
}

/// Memory for all of them. Zeros are numbers like all others to most kernels; tokens that are all
/// alike are the quickest for `lexical`, so there they are all different.
struct Buffers {
    hidden: Box<dyn Memory>,
    ids: Box<dyn Memory>,
    out: Box<dyn Memory>,
    faults: Box<dyn Memory>,
}

/// What is launched again and again, and how much memory it has to go through.
struct Work {
    launch: Result<Option<Launch>, KernelError>,
    sequences: usize,
    bytes: usize,
}

/// Measures one kernel of each kind. The device should have nothing else to do.
///
/// # Errors
/// What the device refuses; `CudaError::OutOfMemory` below some 100 MB of free memory.
pub fn measure_kernels(device: &CudaDevice) -> Result<Vec<Timing>, CudaError> {
    let ids: Vec<u8> = (0..TOKENS as i64).flat_map(i64::to_ne_bytes).collect();
    let buffers = Buffers {
        hidden: device.upload(&vec![0; TOKENS * WIDTH * 2])?,
        ids: device.upload(&ids)?,
        out: device.upload(&vec![0; TOKENS * WIDTH * 2])?,
        faults: device.upload(&vec![0; TOKENS * 4])?,
    };
    let integers = |values: Vec<i32>| {
        let bytes: Vec<u8> = values.into_iter().flat_map(i32::to_ne_bytes).collect();
        device.upload(&bytes)
    };
    let mut timings = Vec::new();
    for sequences in [64, 1] {
        let ends = (0..=sequences).map(|at| (at * TOKENS / sequences) as i32);
        let ends = integers(ends.collect())?;
        let packed = Sequences {
            address: ends.address(),
            count: sequences,
        };
        for work in buffers.over(packed) {
            timings.extend(time(device, work)?);
        }
        if sequences > 1 {
            // The first sequence with each, itself among them.
            let pairs = (0..sequences).flat_map(|at| [0, at as i32]);
            let pairs = integers(pairs.collect())?;
            timings.extend(time(device, buffers.compared(packed, pairs.address()))?);
        }
    }
    Ok(timings)
}

impl Buffers {
    fn matrix(&self, columns: usize) -> Matrix {
        Matrix {
            address: self.hidden.address(),
            rows: TOKENS,
            columns,
            number: Number::F16,
        }
    }

    /// What goes through all tokens once.
    fn over(&self, packed: Sequences) -> [Work; 3] {
        let pool = PoolCall {
            pooling: Pooling::Mean,
            hidden: self.matrix(WIDTH),
            sequences: packed,
            out: self.out.address(),
        };
        let unit = UnitRowsCall {
            rows: self.matrix(WIDTH),
            dimensions: WIDTH,
            out_number: Number::F16,
            out: self.out.address(),
            faults: self.faults.address(),
        };
        let lexical = LexicalCall {
            weights: self.matrix(1),
            ids: self.ids.address(),
            sequences: packed,
            left_out: (0, 0),
            out: self.out.address(),
        };
        let states = TOKENS * WIDTH * 2;
        let work = |launch, bytes| Work {
            launch,
            sequences: packed.count,
            bytes,
        };
        [
            work(pool.launch(), states + packed.count * WIDTH * 4),
            work(unit.launch(), 2 * states),
            work(lexical.launch(), TOKENS * (2 + 8 + 4)),
        ]
    }

    /// As many pairs as there are sequences.
    fn compared(&self, packed: Sequences, pairs: u64) -> Work {
        let call = MaxSimCall {
            vectors: self.matrix(WIDTH),
            sequences: packed,
            kept: 0,
            pairs: (pairs, packed.count),
            out: self.out.address(),
        };
        Work {
            launch: call.launch(),
            sequences: packed.count,
            bytes: TOKENS * WIDTH * 2,
        }
    }
}

/// `None` when there is nothing to launch.
fn time(device: &CudaDevice, work: Work) -> Result<Option<Timing>, CudaError> {
    // The sizes here are constants; a call that refuses them is told of all the same.
    let launch = work.launch.map_err(|error| CudaError::Other {
        code: 1,
        message: error.to_string(),
    })?;
    let Some(launch) = launch else {
        return Ok(None);
    };
    let mut best = f64::INFINITY;
    for _ in 0..=ROUNDS {
        let start = Instant::now();
        for _ in 0..LAUNCHES {
            // SAFETY: the memory is that of `measure_kernels`, as large as its calls say, and it
            // is there until `wait` returns.
            unsafe { device.launch(device.stream(), &launch) }?;
        }
        device.wait()?;
        best = best.min(start.elapsed().as_secs_f64() / f64::from(LAUNCHES));
    }
    Ok(Some(Timing {
        kernel: launch.kernel(),
        sequences: work.sequences,
        seconds: best,
        bytes: work.bytes,
    }))
}
