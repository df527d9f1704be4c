//! Whether the models fit into memory: an estimate of each before it is loaded, added to what the
//! models before it take.

use retort_models::Estimate;
use retort_models::estimate::Load;
use sysinfo::{MemoryRefreshKind, RefreshKind, System};

use crate::config::{Config, ModelEntry, Setting, setting};
use crate::engine::{self, EngineLimits};
use crate::serve::StartError;

const MIB: u64 = 1 << 20;

/// How a model of the configuration will be served.
pub fn load_of(limits: &EngineLimits, entry: &ModelEntry) -> Load {
    let sessions = engine::worker_threads(limits);
    Load {
        max_batch_tokens: limits.max_batch_tokens,
        session_threads: sessions.into_iter().map(|(_, threads)| threads).collect(),
        max_tokens: entry.max_tokens,
        pooling: entry.pooling,
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

/// The memory that the models may take, and what those that are loaded take already.
#[derive(Debug, Clone)]
pub struct MemoryBudget {
    limit: Limit,
    taken: u64,
}

impl MemoryBudget {
    /// The configured budget, or what this process may use.
    pub fn new(config: &Config) -> Self {
        let limit = match config.memory_budget_bytes {
            Some(bytes) => Limit::Budget(bytes),
            None => system_limit().map_or(Limit::None, Limit::System),
        };
        Self { limit, taken: 0 }
    }

    /// Checks whether a model fits beside those that were added.
    ///
    /// # Errors
    /// When it does not; the error has the numbers and what would lower them.
    pub fn check(&self, name: &str, estimate: &Estimate) -> Result<(), StartError> {
        let (limit, limited_by, needed) = match self.limit {
            Limit::Budget(limit) => (limit, "the memory budget is", estimate.added()),
            Limit::System(limit) => (limit, "this process may use", estimate.private),
            Limit::None => return Ok(()),
        };
        let beside = self.taken + estimate.process;
        if beside + needed <= limit {
            return Ok(());
        }
        let sessions = estimate.sessions as u64;
        let message = format!(
            "model `{name}` does not fit into memory: it takes about {} beside {} of the process \
             and other models, and {limited_by} {}. Packed weights take {}, converted ones {}, \
             the tokenizer {}, {sessions} sessions with {} tokens each {}; loading it takes {} at \
             most",
            mib(needed),
            mib(beside),
            mib(limit),
            mib(estimate.packed),
            mib(estimate.weights_owned),
            mib(estimate.tokenizer),
            estimate.batch_tokens,
            mib(sessions * (estimate.arena_per_session + estimate.session)),
            mib(estimate.loading),
        );
        let ways = setting("models.memory_budget_mib").map(Setting::ways);
        let raise = match self.limit {
            Limit::Budget(_) => format!("raise it with {}", ways.unwrap_or_default()),
            _ => "choose a smaller model".to_owned(),
        };
        let hint = format!(
            "{raise}, or lower `--workers`, `--max-batch-tokens` or the model's `max_tokens`; \
             `retort estimate` shows every part"
        );
        Err(StartError {
            message,
            hint: Some(hint),
        })
    }

    /// Counts a model that was loaded.
    pub fn add(&mut self, estimate: &Estimate) {
        self.taken += match self.limit {
            Limit::Budget(_) => estimate.serving,
            Limit::System(_) | Limit::None => estimate.private,
        };
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

    fn budget(limit: Limit) -> MemoryBudget {
        MemoryBudget { limit, taken: 0 }
    }

    #[test]
    fn a_budget_counts_the_most_that_is_ever_taken() {
        let fits = |mib: u64| budget(Limit::Budget(mib * MIB)).check("m", &estimate());
        assert!(fits(140).is_ok());
        let error = fits(139).expect_err("one MiB short");
        for number in [
            "100 MiB",
            "139 MiB",
            "40 MiB",
            "8.0 MiB",
            "256 tokens",
            "18 MiB",
        ] {
            assert!(
                error.message.contains(number),
                "{number}: {}",
                error.message
            );
        }
        let hint = error.hint.expect("a hint");
        assert!(hint.contains("--memory-budget-mib"), "{hint}");
    }

    #[test]
    fn models_are_counted_beside_each_other_and_the_process_once() {
        let mut both = budget(Limit::Budget(238 * MIB));
        both.add(&estimate());
        assert!(both.check("second", &estimate()).is_ok());
        both.add(&estimate());
        let error = both.check("third", &estimate()).expect_err("too many");
        assert!(
            error.message.contains("236 MiB of the process"),
            "{}",
            error.message
        );
    }

    #[test]
    fn without_a_budget_only_what_cannot_work_is_refused() {
        assert!(
            budget(Limit::System(108 * MIB))
                .check("m", &estimate())
                .is_ok()
        );
        assert!(
            budget(Limit::System(107 * MIB))
                .check("m", &estimate())
                .is_err()
        );
        assert!(budget(Limit::None).check("m", &estimate()).is_ok());
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
