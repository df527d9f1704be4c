//! Processor and memory.

use retort_kernels::Isa;
use retort_kernels::linear::LinearKind;
use sysinfo::{CpuRefreshKind, MemoryRefreshKind, RefreshKind, System};

use super::Finding;
use crate::cli::table::bytes;
use crate::config::Config;

/// Below this, even a small model and its runtime do not fit.
const MEMORY_BYTES_MIN: u64 = 1_000_000_000;

/// What the machine computes with.
pub fn examine(config: &Config) -> Vec<Finding> {
    vec![cpu(config, Isa::detect().name()), memory()]
}

/// The processor's own name; empty when it does not say.
pub fn processor() -> String {
    let wanted = RefreshKind::nothing().with_cpu(CpuRefreshKind::nothing());
    let system = System::new_with_specifics(wanted);
    system
        .cpus()
        .first()
        .map(|cpu| cpu.brand().trim().to_owned())
        .unwrap_or_default()
}

fn cpu(config: &Config, isa: &str) -> Finding {
    let threads = config.cpu.threads;
    let finding = format!(
        "{}; {isa} kernels, fast at {}; threads for inference: {threads}",
        processor(),
        fast_at()
    );
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    if let Some(warning) = distrusted(&finding, Isa::failed()) {
        warning
    } else if isa == "portable" {
        let remedy = "use a processor with AVX2 or NEON; this one computes slowly";
        Finding::warning("cpu", finding, remedy)
    } else if threads > cores {
        let remedy = format!("lower `--threads` to {cores}, the number of cores");
        Finding::warning("cpu", finding, remedy)
    } else {
        Finding::good("cpu", finding)
    }
}

/// What is said where instructions gave wrong numbers.
fn distrusted(finding: &str, failed: &[&str]) -> Option<Finding> {
    let finding = format!("{finding}; not used: {}", failed.join(", "));
    let remedy = "these instructions gave wrong numbers in a self-test and others are used in \
                  their place: the processor, its hypervisor or its emulator is faulty";
    (!failed.is_empty()).then(|| Finding::warning("cpu", finding, remedy))
}

/// The types that linear layers are computed fast in, and the instructions for it.
fn fast_at() -> String {
    let isa = Isa::detect();
    let fast = LinearKind::ALL.into_iter().filter(|kind| kind.is_fast(isa));
    let names: Vec<String> = fast
        .map(|kind| format!("{kind} ({})", kind.path(isa)))
        .collect();
    match names.is_empty() {
        true => "nothing".to_owned(),
        false => names.join(", "),
    }
}

fn memory() -> Finding {
    let wanted = RefreshKind::nothing().with_memory(MemoryRefreshKind::nothing().with_ram());
    let system = System::new_with_specifics(wanted);
    // A container's limit is what counts, where there is one.
    let limits = system
        .cgroup_limits()
        .map(|limits| (limits.total_memory, limits.free_memory));
    let (total, free) = limits.unwrap_or((system.total_memory(), system.available_memory()));
    let finding = format!("{} free of {}", bytes(free), bytes(total));
    if free < MEMORY_BYTES_MIN {
        Finding::warning(
            "memory",
            finding,
            "free some; a model needs its weights' size and more",
        )
    } else {
        Finding::good("memory", finding)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::doctor::Status;

    #[test]
    fn instructions_that_failed_are_named() {
        assert!(distrusted("avx512 kernels", &[]).is_none());
        let warning = distrusted("avx512 kernels", &["amx_bf16", "amx_int8"]);
        let warning = warning.expect("a warning");
        assert_eq!(warning.status, Status::Warning);
        assert!(warning.finding.contains("not used: amx_bf16, amx_int8"));
    }
}
