//! How much memory models may take, and what of an estimate counts towards that. Who holds how much
//! is the fleet's ledger's business.

use retort_models::Estimate;
use retort_models::estimate::{DecoderEstimate, DecoderLoad, Load};
use sysinfo::{MemoryRefreshKind, RefreshKind, System};

use crate::config::{Config, ModelEntry};
use crate::engine::{self, EngineLimits, generate::MAX_SEQUENCES};
use crate::fleet::found::Need;

const MIB: u64 = 1 << 20;

/// How a model of the configuration will be served.
pub fn load_of(limits: &EngineLimits, entry: &ModelEntry, replicas: usize) -> Load {
    let sessions = engine::worker_threads(limits, replicas);
    Load {
        max_batch_tokens: limits.max_batch_tokens,
        session_threads: sessions.into_iter().map(|(_, threads)| threads).collect(),
        max_tokens: entry.max_tokens,
        pooling: entry.pooling,
        task: entry.task,
        cutoff_layer: entry.cutoff_layer,
        dtype: entry.dtype,
    }
}

/// As [`load_of`], for a model that generates.
pub fn load_to_generate(limits: &EngineLimits, entry: &ModelEntry) -> DecoderLoad {
    DecoderLoad {
        weights: entry.generation.weights,
        max_context: entry.max_tokens,
        kv_cache_bytes: Some(entry.generation.kv_cache_bytes),
        max_step_tokens: None,
        sequences: MAX_SEQUENCES,
        threads: limits.threads,
    }
}

/// `1,234 MiB`, or with a decimal below ten.
pub fn mib(bytes: u64) -> String {
    let mib = bytes as f64 / MIB as f64;
    if bytes > 0 && mib < 9.95 {
        return format!("{mib:.1} MiB");
    }
    let digits = format!("{mib:.0}");
    let (first, rest) = digits.split_at((digits.len() - 1) % 3 + 1);
    let groups = rest.as_bytes().chunks(3).map(String::from_utf8_lossy);
    let grouped = groups.fold(first.to_owned(), |text, group| text + "," + &group);
    format!("{grouped} MiB")
}

/// What may be taken, and of what it is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Limit {
    /// The operator's budget, for the most that the process ever takes.
    Budget(u64),
    /// What the system gives the process at most. Pages of files do not count, since the system
    /// drops them before it refuses memory.
    System(u64),
    /// Nothing is known.
    None,
}

/// The memory that all models together may take.
#[derive(Debug, Clone, Copy)]
pub struct MemoryBudget(Limit);

impl MemoryBudget {
    /// The configured budget, or what this process may use.
    pub fn new(config: &Config) -> Self {
        Self(match config.memory_budget_bytes {
            Some(bytes) => Limit::Budget(bytes),
            None => system_limit().map_or(Limit::None, Limit::System),
        })
    }

    /// The bytes that are for models: without those of the process itself. `None` is no limit.
    pub fn for_models(self) -> Option<u64> {
        match self.0 {
            Limit::Budget(bytes) | Limit::System(bytes) => {
                Some(bytes.saturating_sub(Estimate::PROCESS_TOTAL))
            }
            Limit::None => None,
        }
    }

    /// What a model takes of it at most, as far as it counts, and of what that is the sum.
    pub fn need(self, estimate: &Estimate) -> Option<Need> {
        let bytes = match self.0 {
            Limit::Budget(_) => estimate.added(),
            Limit::System(_) => estimate.private,
            Limit::None => return None,
        };
        let sessions = estimate.sessions as u64;
        let parts = format!(
            "packed weights {}, converted ones {}, the tokenizer {}, {sessions} sessions with {} \
             tokens each {}; loading it takes {} at most; `retort estimate` shows every part",
            mib(estimate.packed),
            mib(estimate.weights_owned),
            mib(estimate.tokenizer),
            estimate.batch_tokens,
            mib(sessions * (estimate.arena_per_session + estimate.session)),
            mib(estimate.loading),
        );
        Some(Need { bytes, parts })
    }

    /// As [`MemoryBudget::need`], of a model that generates.
    pub fn need_to_generate(self, estimate: &DecoderEstimate) -> Option<Need> {
        let bytes = match self.0 {
            Limit::Budget(_) => estimate.serving,
            Limit::System(_) => estimate.private,
            Limit::None => return None,
        };
        let parts = format!(
            "weights {}, keys and values {}, the largest step {}, the tokenizer {}",
            mib(estimate.weights_kept),
            mib(estimate.kv_cache),
            mib(estimate.activations),
            mib(estimate.tokenizer),
        );
        Some(Need { bytes, parts })
    }
}

/// The memory of the machine, or of the container where that is less.
fn system_limit() -> Option<u64> {
    let memory = RefreshKind::nothing().with_memory(MemoryRefreshKind::nothing().with_ram());
    let system = System::new_with_specifics(memory);
    let machine = Some(system.total_memory()).filter(|&bytes| bytes > 0);
    // Without a limit, control groups report one that no machine has.
    let group = system.cgroup_limits().map(|limits| limits.total_memory);
    let group = group.filter(|&bytes| bytes > 0);
    machine.into_iter().chain(group).min()
}

#[cfg(test)]
mod tests {
    use super::*;
    use retort_models::estimate::Basis;

    fn estimate() -> Estimate {
        Estimate {
            basis: Basis::Checkpoint,
            batch_tokens: 256,
            sessions: 3,
            weights: 90 * MIB,
            weights_mapped: 90 * MIB,
            weights_owned: 0,
            packed: 40 * MIB,
            embeddings: 45 * MIB,
            weights_touched: 30 * MIB,
            tokenizer: 8 * MIB,
            session: MIB,
            activations_per_session: 5 * MIB,
            arena_per_session: 5 * MIB,
            threads: 2 * MIB,
            loading: 100 * MIB,
            serving: 98 * MIB,
            private: 68 * MIB,
            process: 40 * MIB,
            total: 140 * MIB,
        }
    }

    #[test]
    fn a_budget_counts_the_most_that_is_ever_taken() {
        let budget = MemoryBudget(Limit::Budget(1000 * MIB));
        let need = budget.need(&estimate()).expect("a limit");
        assert_eq!(need.bytes, 100 * MIB);
        for part in ["40 MiB", "8.0 MiB", "256 tokens", "18 MiB", "100 MiB"] {
            assert!(need.parts.contains(part), "{part}: {}", need.parts);
        }
        let process = Estimate::PROCESS_TOTAL;
        assert_eq!(budget.for_models(), Some(1000 * MIB - process));
        assert_eq!(MemoryBudget(Limit::Budget(1)).for_models(), Some(0));
    }

    #[test]
    fn without_a_budget_only_what_cannot_work_is_refused() {
        let system = MemoryBudget(Limit::System(1000 * MIB));
        assert_eq!(
            system.need(&estimate()).map(|need| need.bytes),
            Some(68 * MIB)
        );
        let unknown = MemoryBudget(Limit::None);
        assert!(unknown.need(&estimate()).is_none() && unknown.for_models().is_none());
        let known = system_limit().is_none_or(|bytes| bytes > 64 * MIB);
        assert!(known, "this machine has more memory than that");
    }

    #[test]
    fn numbers_are_in_mebibytes() {
        assert_eq!(mib(0), "0 MiB");
        assert_eq!(mib(7 * MIB + MIB / 2), "7.5 MiB");
        assert_eq!(mib(10 * MIB), "10 MiB");
        assert_eq!(mib(1_234 * MIB), "1,234 MiB");
        assert_eq!(mib(1_234_567 * MIB), "1,234,567 MiB");
    }
}
