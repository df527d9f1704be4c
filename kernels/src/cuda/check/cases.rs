//! The cases of each kernel. Results are put between bytes that must stay as they are.

use super::super::calls::{
    LexicalCall, Matrix, MaxSimCall, Number, PoolCall, Sequences, UnitRowsCall,
};
use super::super::{Kernel, Launch, Machine, Memory};
use super::numbers::{Chance, Layout, bytes, values};
use super::{CheckError, Deviation};
use crate::lexical::{PackedTokens, lexical_weights};
use crate::max_sim::{PackedVectors, max_sim};
use crate::normalize::unit_rows;
use crate::pooling::pool_plain;
use crate::{KernelError, PackedHidden, Pooling};
use half::f16;

const NUMBERS: [Number; 2] = [Number::F16, Number::F32];
/// Bytes on both sides of a result, and what they and the result hold before: as numbers, NaN.
const GUARD_BYTES: usize = 64;
const GUARD: u8 = 0xff;

/// Sums in double precision, rounded once: a last digit at most.
const ROUNDED_ONCE: f64 = 2.5e-7;
/// The same rounded to 16 bits.
const ROUNDED_TO_HALF: f64 = 5e-4;
/// Sums of up to 1,024 products in single precision.
const SINGLE_PRECISION: f64 = 2e-5;

/// What is compared: the kernel, its tolerance, and how small an expected value may be before
/// differences are no longer relative to it.
#[derive(Clone, Copy)]
struct Yardstick {
    kernel: Kernel,
    tolerance: f64,
    floor: f64,
}

/// A machine at work, and how well it has done so far.
pub(super) struct Bench<'m> {
    machine: &'m dyn Machine,
    chance: Chance,
    deviations: Vec<Deviation>,
    // Inputs of the current case.
    memory: Vec<Box<dyn Memory>>,
}

/// Memory for the results of one launch.
struct Results {
    memory: Box<dyn Memory>,
    bytes: usize,
}

impl Results {
    fn address(&self) -> u64 {
        self.memory.address() + GUARD_BYTES as u64
    }
}

impl<'m> Bench<'m> {
    pub(super) fn new(machine: &'m dyn Machine, seed: u64) -> Self {
        Self {
            machine,
            chance: Chance(seed),
            deviations: Vec::new(),
            memory: Vec::new(),
        }
    }

    pub(super) fn chance(&mut self) -> &mut Chance {
        &mut self.chance
    }

    pub(super) fn deviations(self) -> Vec<Deviation> {
        self.deviations
    }

    /// Puts bytes `shift` bytes behind the beginning of a pack.
    fn upload(&mut self, bytes: &[u8], shift: usize) -> Result<u64, CheckError> {
        let mut shifted = vec![0; shift];
        shifted.extend_from_slice(bytes);
        let memory = self.machine.upload(&shifted)?;
        let address = memory.address() + shift as u64;
        self.memory.push(memory);
        Ok(address)
    }

    /// A matrix; now and then not at the beginning of a pack.
    fn matrix(
        &mut self,
        numbers: &[f32],
        columns: usize,
        number: Number,
    ) -> Result<Matrix, CheckError> {
        let shift = usize::from(self.chance.one_in(4)) * number.bytes();
        Ok(Matrix {
            address: self.upload(&bytes(numbers, number), shift)?,
            rows: numbers.len() / columns,
            columns,
            number,
        })
    }

    fn integers(&mut self, integers: &[i32]) -> Result<u64, CheckError> {
        let bytes: Vec<u8> = integers.iter().flat_map(|i| i.to_ne_bytes()).collect();
        self.upload(&bytes, 0)
    }

    fn sequences(&mut self, cu_seqlens: &[i32]) -> Result<Sequences, CheckError> {
        Ok(Sequences {
            address: self.integers(cu_seqlens)?,
            count: cu_seqlens.len() - 1,
        })
    }

    fn results(&self, bytes: usize) -> Result<Results, CheckError> {
        let memory = self.machine.upload(&vec![GUARD; bytes + 2 * GUARD_BYTES])?;
        Ok(Results { memory, bytes })
    }

    /// Launches what a call comes to, which is something in every case here.
    fn run(&self, launch: Option<Launch>) -> Result<Launch, CheckError> {
        let launch = launch.ok_or(KernelError::Size {
            name: "blocks",
            found: 0,
            rule: "at least `1`",
        })?;
        // SAFETY: the addresses are of memory in `self.memory` and of results, uploaded for the
        // shapes that the call was made of; reading the results waits for the launch.
        unsafe { self.machine.launch(self.machine.stream(), &launch) }?;
        Ok(launch)
    }

    /// The bytes of results, once those around them are as they were.
    fn read(&self, kernel: Kernel, results: &Results) -> Result<Vec<u8>, CheckError> {
        let mut all = vec![0; results.bytes + 2 * GUARD_BYTES];
        results.memory.read(&mut all)?;
        let (before, rest) = all.split_at(GUARD_BYTES);
        let (found, after) = rest.split_at(results.bytes);
        let touched = before.iter().chain(after).any(|&byte| byte != GUARD);
        if touched {
            return Err(CheckError::Wrong {
                kernel,
                message: "it wrote beside its results".to_owned(),
            });
        }
        Ok(found.to_vec())
    }

    /// Compares and remembers the largest difference.
    fn compare(
        &mut self,
        yardstick: Yardstick,
        found: &[f32],
        expected: &[f32],
    ) -> Result<(), CheckError> {
        let Yardstick {
            kernel,
            tolerance,
            floor,
        } = yardstick;
        if found.len() != expected.len() {
            return Err(CheckError::Wrong {
                kernel,
                message: format!("{} values instead of {}", found.len(), expected.len()),
            });
        }
        let mut largest = 0.0f64;
        for (at, (&found, &expected)) in found.iter().zip(expected).enumerate() {
            let same = found == expected || (found.is_nan() && expected.is_nan());
            let scale = f64::from(expected).abs().max(floor);
            let difference = (f64::from(found) - f64::from(expected)).abs() / scale;
            // Also when it is not a number.
            if !same && (difference.is_nan() || difference > tolerance) {
                return Err(CheckError::Wrong {
                    kernel,
                    message: format!("value {at} is `{found}` instead of `{expected}`"),
                });
            }
            largest = largest.max(if same { 0.0 } else { difference });
        }
        let known = self.deviations.iter_mut().find(|d| d.kernel == kernel);
        match known {
            Some(known) => {
                known.values += expected.len();
                known.largest = known.largest.max(largest);
            }
            None => self.deviations.push(Deviation {
                kernel,
                values: expected.len(),
                largest,
                tolerance,
            }),
        }
        Ok(())
    }

    /// Pools once and returns what came out.
    fn pool(&mut self, call: PoolCall) -> Result<(Kernel, Vec<f32>), CheckError> {
        let results = self.results(call.sequences.count * call.hidden.columns * 4)?;
        let call = PoolCall {
            out: results.address(),
            ..call
        };
        let launch = self.run(call.launch()?)?;
        let found = self.read(launch.kernel(), &results)?;
        Ok((launch.kernel(), values(&found, Number::F32)))
    }

    /// Every number of 16 bits, NaN and infinities among them, as one state.
    pub(super) fn all_halves(&mut self) -> Result<(), CheckError> {
        let states: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_ne_bytes).collect();
        let expected: Vec<f32> = (0..=u16::MAX).map(|b| f16::from_bits(b).to_f32()).collect();
        for shift in [0, 2] {
            let hidden = Matrix {
                address: self.upload(&states, shift)?,
                rows: 1,
                columns: expected.len(),
                number: Number::F16,
            };
            let call = PoolCall {
                pooling: Pooling::LastToken,
                hidden,
                sequences: self.sequences(&[0, 1])?,
                out: 0,
            };
            let (kernel, found) = self.pool(call)?;
            self.compare(exact(kernel), &found, &expected)?;
        }
        self.memory.clear();
        Ok(())
    }

    /// Boundaries that no batch has: nothing outside may be read, and a sequence without tokens
    /// must not look like a vector.
    pub(super) fn lying_boundaries(&mut self) -> Result<(), CheckError> {
        let states = [1.0f32; 4 * 8];
        for number in NUMBERS {
            for pooling in Pooling::ALL {
                let call = PoolCall {
                    pooling,
                    hidden: self.matrix(&states, 8, number)?,
                    sequences: self.sequences(&[-5, 2, 1, 1_000_000, 2_000_000])?,
                    out: 0,
                };
                let (kernel, found) = self.pool(call)?;
                let square = |tokens: f64| match pooling {
                    Pooling::MeanSqrtLen => tokens.sqrt() as f32,
                    _ => 1.0,
                };
                // Tokens 0 and 1; none; 1 to 3; none.
                let rows = [square(2.0), f32::NAN, square(3.0), f32::NAN];
                let expected: Vec<f32> = rows.iter().flat_map(|&row| [row; 8]).collect();
                self.compare(summed(kernel), &found, &expected)?;
            }
        }
        self.memory.clear();
        Ok(())
    }

    pub(super) fn pooling(&mut self, layout: &Layout) -> Result<(), CheckError> {
        let columns = layout.columns;
        let mut hidden = self.chance.values(layout.tokens() * columns);
        if self.chance.one_in(3) {
            let at = self.chance.between(0, hidden.len() - 1);
            hidden[at] = f32::NAN;
        }
        let packed = PackedHidden {
            hidden: &hidden,
            hidden_size: columns,
            cu_seqlens: &layout.cu_seqlens,
        };
        for pooling in Pooling::ALL {
            let mut expected = vec![0.0; layout.sequences() * columns];
            pool_plain(pooling, &packed, &mut expected)?;
            for number in NUMBERS {
                let call = PoolCall {
                    pooling,
                    hidden: self.matrix(&hidden, columns, number)?,
                    sequences: self.sequences(&layout.cu_seqlens)?,
                    out: 0,
                };
                let (kernel, found) = self.pool(call)?;
                self.compare(summed(kernel), &found, &expected)?;
            }
        }
        self.memory.clear();
        Ok(())
    }

    pub(super) fn unit_rows(&mut self, layout: &Layout) -> Result<(), CheckError> {
        let (count, width) = (layout.tokens(), layout.columns);
        let dimensions = match self.chance.one_in(2) {
            true => width,
            false => self.chance.between(1, width),
        };
        let mut rows = self.chance.values(count * width);
        for row in rows.chunks_exact_mut(width) {
            match self.chance.between(0, 9) {
                0 => row.fill(0.0),
                1 => row[self.chance.between(0, width - 1)] = f32::INFINITY,
                2 => row[self.chance.between(0, width - 1)] = f32::NAN,
                _ => {}
            }
        }
        let (mut expected, mut expected_faults) = (vec![0.0; count * dimensions], vec![0; count]);
        unit_rows(
            &rows,
            [width, dimensions],
            &mut expected,
            &mut expected_faults,
        )?;
        let variants = [
            (Number::F16, Number::F32),
            (Number::F32, Number::F32),
            (Number::F16, Number::F16),
        ];
        for (number, out_number) in variants {
            let out = self.results(count * dimensions * out_number.bytes())?;
            let faults = self.results(count * 4)?;
            let call = UnitRowsCall {
                rows: self.matrix(&rows, width, number)?,
                dimensions,
                out_number,
                out: out.address(),
                faults: faults.address(),
            };
            let launch = self.run(call.launch()?)?;
            let kernel = launch.kernel();
            let found = values(&self.read(kernel, &out)?, out_number);
            let found_faults = self.read(kernel, &faults)?;
            let expected_bytes = expected_faults.iter().flat_map(|fault| fault.to_ne_bytes());
            if !expected_bytes.eq(found_faults) {
                return Err(CheckError::Wrong {
                    kernel,
                    message: format!("the faults are not `{expected_faults:?}`"),
                });
            }
            let yardstick = match out_number {
                Number::F16 => Yardstick {
                    kernel,
                    tolerance: ROUNDED_TO_HALF,
                    floor: 1e-4,
                },
                Number::F32 => summed(kernel),
            };
            self.compare(yardstick, &found, &expected)?;
        }
        self.memory.clear();
        Ok(())
    }

    pub(super) fn lexical(&mut self, layout: &Layout) -> Result<(), CheckError> {
        let tokens = layout.tokens();
        let mut weights = self.chance.values(tokens);
        if self.chance.one_in(3) {
            weights[self.chance.between(0, tokens - 1)] = f32::NAN;
        }
        let ids: Vec<i64> = (0..tokens)
            .map(|_| self.chance.between(0, 30) as i64)
            .collect();
        let left_out: &[i64] = if self.chance.one_in(3) {
            &[]
        } else {
            &[0, 2, 7]
        };
        let packed = PackedTokens {
            ids: &ids,
            cu_seqlens: &layout.cu_seqlens,
            left_out,
        };
        let mut expected = vec![0.0; tokens];
        lexical_weights(&weights, &packed, &mut expected)?;
        for number in NUMBERS {
            let out = self.results(tokens * 4)?;
            let ids: Vec<u8> = ids.iter().flat_map(|id| id.to_ne_bytes()).collect();
            let left_out: Vec<i32> = left_out.iter().map(|&id| id as i32).collect();
            let call = LexicalCall {
                weights: self.matrix(&weights, 1, number)?,
                ids: self.upload(&ids, 0)?,
                sequences: self.sequences(&layout.cu_seqlens)?,
                left_out: (self.integers(&left_out)?, left_out.len()),
                out: out.address(),
            };
            let launch = self.run(call.launch()?)?;
            let found = values(&self.read(launch.kernel(), &out)?, Number::F32);
            self.compare(exact(launch.kernel()), &found, &expected)?;
        }
        self.memory.clear();
        Ok(())
    }

    pub(super) fn max_sim(&mut self, layout: &Layout) -> Result<(), CheckError> {
        let (tokens, size) = (layout.tokens(), layout.columns);
        let vectors = self.chance.values(tokens * size);
        let kept: Vec<bool> = (0..tokens).map(|_| !self.chance.one_in(3)).collect();
        let kept = self.chance.one_in(2).then_some(&kept[..]);
        let packed = PackedVectors {
            vectors: &vectors,
            size,
            cu_seqlens: &layout.cu_seqlens,
            kept,
        };
        let mut expected = vec![0.0; layout.pairs.len()];
        max_sim(&packed, &layout.pairs, &mut expected)?;
        // A pair that is not there, which the definition refuses.
        expected.push(f32::NAN);
        let mut pairs: Vec<i32> = layout.pairs.as_flattened().to_vec();
        pairs.extend([0, layout.sequences() as i32]);
        for number in NUMBERS {
            let out = self.results(expected.len() * 4)?;
            let kept = match kept {
                Some(kept) => {
                    let bytes: Vec<u8> = kept.iter().map(|&kept| u8::from(kept)).collect();
                    self.upload(&bytes, 0)?
                }
                None => 0,
            };
            let call = MaxSimCall {
                vectors: self.matrix(&vectors, size, number)?,
                sequences: self.sequences(&layout.cu_seqlens)?,
                kept,
                pairs: (self.integers(&pairs)?, expected.len()),
                out: out.address(),
            };
            let launch = self.run(call.launch()?)?;
            let found = values(&self.read(launch.kernel(), &out)?, Number::F32);
            let yardstick = Yardstick {
                kernel: launch.kernel(),
                tolerance: SINGLE_PRECISION,
                // Products of such vectors are about that large; they may cancel out.
                floor: 100.0,
            };
            self.compare(yardstick, &found, &expected)?;
        }
        self.memory.clear();
        Ok(())
    }
}

fn exact(kernel: Kernel) -> Yardstick {
    Yardstick {
        kernel,
        tolerance: 0.0,
        floor: 1.0,
    }
}

fn summed(kernel: Kernel) -> Yardstick {
    Yardstick {
        kernel,
        tolerance: ROUNDED_ONCE,
        floor: 1e-6,
    }
}
