//! Every kernel on random packed layouts against its definition. compute-sanitizer runs this, too.

use retort_kernels::cuda::{CudaDevice, check::check_kernels};
use serde_json::Value;

use super::{options::Options, verdict};
use crate::measure::Outcome;

/// Runs `--rounds` rounds from `--seed`.
pub fn run(options: &Options) -> Outcome<Vec<Value>> {
    let device = CudaDevice::open(options.or("ordinal", 0)?)?;
    let (seed, rounds) = (options.or("seed", 1)?, options.or("rounds", 20)?);
    let deviations = check_kernels(&device, seed, rounds)?;
    let rows = deviations.iter().map(|deviation| {
        let told = format!(
            "largest difference {:.2e} of {:.2e} over {} values",
            deviation.largest, deviation.tolerance, deviation.values
        );
        let name = format!("kernel {}", deviation.kernel.name());
        verdict(name, deviation.largest <= deviation.tolerance, &told)
    });
    Ok(rows.collect())
}
