//! Linear layers of each kind beside what the processor can multiply at most, and beside ONNX
//! Runtime's `Gemm`. A layer that waits for another process says nothing about its arithmetic, so
//! the fastest call of several rounds counts on every side.

use std::time::{Duration, Instant};

use retort_kernels::{
    Epilogue, Execution, Isa, LinearKind, LinearWeight, PackedLinear, RayonPool, WeightValues,
    linear::peak,
};
use retort_models::Runtime;

use crate::{
    matmul::{Gemm, Product},
    measure::{Outcome, Side, Table, interleave, processor},
};

const ROUNDS: usize = 4;
const SLICE: Duration = Duration::from_millis(30);

/// Values in and out: feed-forwards of small, base and large encoders.
const SHAPES: [(usize, usize); 3] = [(384, 1536), (768, 3072), (1024, 4096)];
const ROWS: [usize; 6] = [1, 4, 16, 64, 128, 512];

/// Rounds of the ceiling: some 100 us.
const PEAK_ROUNDS: usize = 25_000;

/// Prints a table for one core and one for all, and one for every lesser processor whose
/// instructions this one has. ONNX Runtime takes the best instructions in all of them.
pub fn tables(runtime: &Runtime) -> Outcome {
    let paths = Isa::available();
    let (best, lesser) = paths.split_first().ok_or("no instructions are known")?;
    table(runtime, 1, Execution::sequential(*best))?;
    if processor::cores() > 1 {
        let execution = Execution {
            isa: *best,
            parallel: &RayonPool,
        };
        table(runtime, processor::cores(), execution)?;
    }
    let vectorised = lesser.iter().filter(|isa| **isa != Isa::PORTABLE);
    for isa in vectorised {
        table(runtime, 1, Execution::sequential(*isa))?;
    }
    Ok(())
}

fn table(runtime: &Runtime, threads: usize, execution: Execution<'_>) -> Outcome {
    let isa = execution.isa;
    let mut table = Table::new(
        format!(
            "### Linear layers on {}, GFLOP/s and share of its ceiling, threads: {threads}",
            isa.name()
        ),
        &[
            "in × out, rows",
            "fp32",
            "bf16",
            "int8",
            "ONNX Runtime Gemm, fp32",
            "fp32 / Gemm",
        ],
    );
    for (inputs, outputs) in SHAPES {
        let layers = Layers::pack(isa, [inputs, outputs])?;
        for rows in ROWS {
            let product = Product::new(rows, inputs, outputs);
            let mut gemm = Gemm::new(runtime, product, threads)?;
            let [ours, ceilings, theirs] = layers.measure(rows, execution, (&mut gemm, threads))?;
            let operations = product.operations();
            let cells = (0..3).map(|kind| {
                let rate = ours[kind] * operations;
                let share = 100.0 * rate / ceilings[kind];
                format!("{:.0}, {share:.0} %", rate / 1e9)
            });
            let share = 100.0 * theirs[0] * operations / ceilings[0];
            table.row(
                format!("{inputs} × {outputs}, {rows}"),
                cells.chain([
                    format!("{:.0}, {share:.0} %", theirs[0] * operations / 1e9),
                    format!("{:.2}", ours[0] / theirs[0]),
                ]),
            );
        }
    }
    table.print();
    let names = LinearKind::ALL.map(|kind| format!("{kind} {}", path(kind, isa)));
    println!("\nPaths: {}.", names.join(", "));
    Ok(())
}

/// The instructions a kind runs on.
fn path(kind: LinearKind, isa: Isa) -> &'static str {
    let weight = LinearWeight {
        values: WeightValues::F32(&[0.0]),
        out_features: 1,
        in_features: 1,
        bias: None,
    };
    PackedLinear::pack(kind, &weight, isa).map_or("unknown", |layer| layer.path())
}

/// One weight in all kinds.
struct Layers([PackedLinear; 3]);

impl Layers {
    fn pack(isa: Isa, [inputs, outputs]: [usize; 2]) -> Outcome<Self> {
        let values = numbers(inputs * outputs);
        let weight = LinearWeight {
            values: WeightValues::F32(&values),
            out_features: outputs,
            in_features: inputs,
            bias: None,
        };
        let [fp32, bf16, int8] = LinearKind::ALL.map(|kind| PackedLinear::pack(kind, &weight, isa));
        Ok(Self([fp32?, bf16?, int8?]))
    }

    /// Calls per second of each kind, operations per second at most, and calls of the `Gemm`.
    fn measure(
        &self,
        rows: usize,
        execution: Execution<'_>,
        (gemm, threads): (&mut Gemm, usize),
    ) -> Outcome<[[f64; 3]; 3]> {
        let x = numbers(rows * self.0[0].in_features());
        let mut outs = [(); 3].map(|()| vec![0.0; rows * self.0[0].out_features()]);
        let [fp32, bf16, int8] = &mut outs;
        let layer = |kind: usize, out: &mut Vec<f32>| {
            fastest(|| Ok(self.0[kind].apply(&x, Epilogue::default(), execution, out)?))
        };
        let ceiling = |kind: usize| {
            let kind = LinearKind::ALL[kind];
            let operations = peak(kind, execution.isa, 1) * (PEAK_ROUNDS * threads) as f64;
            let run = |_| {
                peak(kind, execution.isa, PEAK_ROUNDS);
            };
            Ok(operations * fastest(|| Ok(execution.parallel.run(threads, &run)?))?)
        };
        let sides: [Side<'_>; 7] = [
            Box::new(|| layer(0, fp32)),
            Box::new(|| layer(1, bf16)),
            Box::new(|| layer(2, int8)),
            Box::new(|| ceiling(0)),
            Box::new(|| ceiling(1)),
            Box::new(|| ceiling(2)),
            Box::new(|| fastest(|| gemm.run())),
        ];
        let best = |series: Vec<f64>| series.into_iter().fold(0.0, f64::max);
        let [a, b, c, d, e, f, theirs] = interleave(ROUNDS, sides)?.map(best);
        Ok([[a, b, c], [d, e, f], [theirs; 3]])
    }
}

/// Calls per second if all were as fast as the fastest in a slice of time.
fn fastest(mut work: impl FnMut() -> Outcome) -> Outcome<f64> {
    let started = Instant::now();
    let mut least = f64::INFINITY;
    while started.elapsed() < SLICE {
        let call = Instant::now();
        work()?;
        least = least.min(call.elapsed().as_secs_f64());
    }
    Ok(1.0 / least)
}

/// Numbers between -0.5 and 0.5.
fn numbers(count: usize) -> Vec<f32> {
    (0..count)
        .map(|at| (at.wrapping_mul(2_654_435_761) % 1009) as f32 / 1009.0 - 0.5)
        .collect()
}
