//! Linear layers whose weights are packed once: `activation(x Wᵀ + bias) + residual` in single
//! precision, in bfloat16 or in bytes, and the product of two of them, one a gate.

mod activation;
mod dot;
mod epilogue;
mod path;
mod peak;
mod rows;
mod schedule;
mod self_test;
mod tile;
mod tiles;
mod weight;

#[cfg(target_arch = "aarch64")]
mod neon;
#[cfg(target_arch = "x86_64")]
mod x86;

pub use self::activation::LinearActivation;
pub use self::peak::peak;
pub(crate) use self::self_test::reproduces;
pub use self::weight::{LinearWeight, WeightValues};

use self::epilogue::{Combine, Stage};
use self::path::Path;
use self::rows::{Layout, Scratch};
use self::schedule::Grid;
use self::tile::Job;
use self::weight::Panels;
use crate::dispatch::Level;
use crate::parallel::SharedOutput;
use crate::{Execution, Isa, KernelError};
use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// All linear layers of a model by the name of their weight.
pub type LinearStore = HashMap<String, Arc<PackedLinear>>;

/// Values of activations that are worth a task of their own: some 20 us.
const CONVERT_TASK_MIN: usize = 1 << 16;

/// The arithmetic of a linear layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LinearKind {
    /// Single precision throughout.
    Fp32,
    /// Weights and activations rounded to the nearest bfloat16, of two the even one; sums in
    /// single precision.
    Bf16,
    /// Steps of -127 to 127, with one scale per output channel of the weights and one per row of
    /// the activations, found when it is computed; exact sums in 32 bits.
    Int8,
}

impl LinearKind {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Fp32, Self::Bf16, Self::Int8];

    /// The name people write: `fp32`, `bf16` or `int8`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Fp32 => "fp32",
            Self::Bf16 => "bf16",
            Self::Int8 => "int8",
        }
    }

    /// Whether there are instructions made for it, so that it is faster than the wider kinds.
    pub fn is_fast(self, isa: Isa) -> bool {
        match self {
            Self::Fp32 => isa.0 != Level::Portable,
            Self::Bf16 => isa.1.bf16,
            Self::Int8 => isa.1.int8,
        }
    }

    /// The instructions it runs on, for people: `avx512_bf16`, `avx2`, `portable` and so on.
    pub fn path(self, isa: Isa) -> &'static str {
        Path::new(self, isa).name
    }

    /// How many values fit into a word of 32 bits.
    fn values_per_word(self) -> usize {
        match self {
            Self::Fp32 => 1,
            Self::Bf16 => 2,
            Self::Int8 => 4,
        }
    }
}

impl fmt::Display for LinearKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for LinearKind {
    type Err = KernelError;

    fn from_str(name: &str) -> Result<Self, KernelError> {
        let found = Self::ALL.into_iter().find(|known| known.name() == name);
        found.ok_or_else(|| KernelError::UnknownLinearKind {
            name: name.to_owned(),
        })
    }
}

/// A weight and its bias, laid out for one kind of arithmetic on one instruction set. Immutable;
/// all sessions and threads may share one.
pub struct PackedLinear {
    kind: LinearKind,
    in_features: usize,
    out_features: usize,
    path: Path,
    panels: Panels,
}

/// What follows the products of a layer. The bias belongs to the weight.
#[derive(Debug, Clone, Copy, Default)]
pub struct Epilogue<'a> {
    /// Applied to each number.
    pub activation: Option<LinearActivation>,
    /// Added last. // [rows, out_features]
    pub residual: Option<&'a [f32]>,
}

impl PackedLinear {
    /// Lays a weight out. Any kind can be had on any instruction set; the portable one defines it.
    ///
    /// # Errors
    /// When a size is 0 or a slice has another length than its sizes say, and for int8 of more
    /// than 65536 inputs, whose sums could overflow.
    pub fn pack(
        kind: LinearKind,
        weight: &LinearWeight<'_>,
        isa: Isa,
    ) -> Result<Self, KernelError> {
        weight.check(kind)?;
        let path = Path::new(kind, isa);
        Ok(Self {
            kind,
            in_features: weight.in_features,
            out_features: weight.out_features,
            path,
            panels: Panels::pack(kind, weight, (path.width, path.granularity.words)),
        })
    }

    /// Memory held, in bytes.
    pub fn bytes(&self) -> usize {
        self.panels.bytes()
    }

    /// Numbers that go in for each row.
    pub fn in_features(&self) -> usize {
        self.in_features
    }

    /// Numbers that come out for each row.
    pub fn out_features(&self) -> usize {
        self.out_features
    }

    /// The arithmetic.
    pub fn kind(&self) -> LinearKind {
        self.kind
    }

    /// The instructions it runs on: [`LinearKind::path`].
    pub fn path(&self) -> &'static str {
        self.path.name
    }

    /// Computes `activation(x Wᵀ + bias) + residual`.
    ///
    /// A row gives the same bits whatever the other rows are, and on any number of threads. NaN
    /// and infinities in a row of `x` make NaN or infinities of its results. The instructions are
    /// those the weight was packed for; of `execution` only the threads matter.
    /// // x: [rows, in_features], out: [rows, out_features]
    ///
    /// # Errors
    /// When a slice does not fit the sizes, or the threads fail.
    pub fn apply(
        &self,
        x: &[f32],
        epilogue: Epilogue<'_>,
        execution: Execution<'_>,
        out: &mut [f32],
    ) -> Result<(), KernelError> {
        let stage = Stage {
            activation: epilogue.activation,
            combine: Combine::Replace,
        };
        let layers = [(&self.panels, stage)];
        self.run(&layers, (x, epilogue.residual), execution, out)
    }

    /// Computes one or two layers of the sizes of this one.
    fn run(
        &self,
        layers: &[(&Panels, Stage)],
        (x, residual): (&[f32], Option<&[f32]>),
        execution: Execution<'_>,
        out: &mut [f32],
    ) -> Result<(), KernelError> {
        let rows = self.check(x, residual, out.len())?;
        if rows == 0 {
            return Ok(());
        }
        let job = Job {
            rows: x.as_ptr().cast(),
            stride: self.in_features,
            steps: std::ptr::null(),
            layers,
            residual: residual.map_or(std::ptr::null(), <[f32]>::as_ptr),
            out: SharedOutput::new(out),
            out_features: self.out_features,
        };
        if self.path.layout == Layout::F32 {
            return self.multiply(&job, rows, execution);
        }
        // An odd number of cache lines, so that rows do not compete for the same ones.
        let words = self.panels.words * self.path.layout.words();
        let stride = words.div_ceil(16) / 2 * 32 + 16;
        // What a path reads behind the last row is nobody's, but it has to be there.
        let padded = rows + self.path.granularity.rows - 1;
        Scratch::with(padded * stride + rows, |scratch| {
            let (converted, steps) = scratch.split_at_mut(padded * stride);
            self.convert(x, (converted, stride), steps, execution)?;
            let job = Job {
                rows: converted.as_ptr(),
                stride,
                steps: steps.as_ptr().cast(),
                ..job
            };
            self.multiply(&job, rows, execution)
        })
    }

    /// Checks the lengths and returns the number of rows.
    fn check(
        &self,
        x: &[f32],
        residual: Option<&[f32]>,
        out_len: usize,
    ) -> Result<usize, KernelError> {
        let rows = x.len() / self.in_features;
        let expected = rows * self.out_features;
        for (name, found, expected) in [
            (
                "x",
                x.len(),
                x.len().div_ceil(self.in_features) * self.in_features,
            ),
            ("out", out_len, expected),
            (
                "residual",
                residual.map_or(expected, <[f32]>::len),
                expected,
            ),
        ] {
            if found != expected {
                return Err(KernelError::Length {
                    name,
                    found,
                    expected,
                });
            }
        }
        Ok(rows)
    }

    /// Brings the activations into the form of the path.
    fn convert(
        &self,
        x: &[f32],
        (converted, stride): (&mut [u32], usize),
        steps: &mut [u32],
        execution: Execution<'_>,
    ) -> Result<(), KernelError> {
        let rows = x.len() / self.in_features;
        let words = self.panels.words * self.path.layout.words();
        let (converted, steps) = (SharedWords::new(converted), SharedWords::new(steps));
        let tasks = (x.len() / CONVERT_TASK_MIN).clamp(1, rows);
        execution.parallel.run(tasks, &|task| {
            for row in task * rows / tasks..(task + 1) * rows / tasks {
                let values = &x[row * self.in_features..][..self.in_features];
                // SAFETY: the path belongs to this processor; every row is in one task, and its
                // words lie within those of the scratch memory.
                unsafe {
                    let step = (self.path.convert)(values, converted.slice(row * stride, words));
                    steps.slice(row, 1)[0] = step.to_bits();
                }
            }
        })
    }

    /// Computes all tasks of a job.
    fn multiply(
        &self,
        job: &Job<'_>,
        rows: usize,
        execution: Execution<'_>,
    ) -> Result<(), KernelError> {
        let panels = self.out_features.div_ceil(self.path.width);
        let cost = self.panels.words * self.path.registers * job.layers.len();
        let cost = cost.div_ceil(self.path.granularity.speed);
        let grid = Grid::new(rows, panels, cost);
        execution.parallel.run(grid.tasks(), &|task| {
            let (rows, panels) = grid.task(task);
            // SAFETY: the path belongs to this processor, the sizes were checked, and no two
            // tasks share both rows and panels.
            unsafe { (self.path.multiply)(job, &rows, panels) }
        })
    }
}

impl fmt::Debug for PackedLinear {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PackedLinear")
            .field("kind", &self.kind)
            .field("in_features", &self.in_features)
            .field("out_features", &self.out_features)
            .field("path", &self.path.name)
            .finish_non_exhaustive()
    }
}

/// A gated feed-forward: `activation(x Wgᵀ + bg) (x Wuᵀ + bu)`, element by element
/// (Shazeer 2020, arXiv 2002.05202).
#[derive(Debug, Clone, Copy)]
pub struct GatedLinear<'a> {
    /// The layer that goes through the activation.
    pub gate: &'a PackedLinear,
    /// The layer it is multiplied with, of the same kind and sizes.
    pub up: &'a PackedLinear,
    /// Of the gate.
    pub activation: LinearActivation,
}

impl GatedLinear<'_> {
    /// Checks that the two layers go together.
    ///
    /// # Errors
    /// When their sizes, kinds or instructions differ.
    pub fn check(&self) -> Result<(), KernelError> {
        let describe = |layer: &PackedLinear| {
            let (rows, columns) = (layer.out_features, layer.in_features);
            format!("{} [{rows}, {columns}] on {}", layer.kind, layer.path.name)
        };
        let (gate, up) = (describe(self.gate), describe(self.up));
        if gate == up && self.gate.path.width == self.up.path.width {
            return Ok(());
        }
        Err(KernelError::Gate { gate, up })
    }

    /// Computes the product, with the promises of [`PackedLinear::apply`].
    /// // x: [rows, in_features], out: [rows, out_features]
    ///
    /// # Errors
    /// As [`check`](Self::check), and when a slice does not fit the sizes or the threads fail.
    pub fn apply(
        &self,
        x: &[f32],
        execution: Execution<'_>,
        out: &mut [f32],
    ) -> Result<(), KernelError> {
        self.check()?;
        let gate = Stage {
            activation: Some(self.activation),
            combine: Combine::Replace,
        };
        let up = Stage {
            activation: None,
            combine: Combine::Multiply,
        };
        let layers = [(&self.gate.panels, gate), (&self.up.panels, up)];
        self.gate.run(&layers, (x, None), execution, out)
    }
}

/// Words that several tasks write, each its own.
#[derive(Clone, Copy)]
struct SharedWords(*mut u32);

// SAFETY: the pointer is only used through `slice`, whose callers write disjoint parts.
unsafe impl Sync for SharedWords {}

impl SharedWords {
    fn new(words: &mut [u32]) -> Self {
        Self(words.as_mut_ptr())
    }

    /// Some of the words.
    ///
    /// # Safety
    /// They lie in the slice given to `new`, which is still borrowed, and are nobody else's.
    #[expect(clippy::mut_from_ref, reason = "each task asks for words of its own")]
    unsafe fn slice(&self, first: usize, count: usize) -> &mut [u32] {
        // SAFETY: the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.0.add(first), count) }
    }
}

#[cfg(test)]
mod tests;
