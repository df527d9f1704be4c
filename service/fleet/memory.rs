//! The memory of one device, shared out among models: who holds how much, and who would have to
//! go for another to fit. Pure arithmetic; the caller does the unloading.

use std::collections::BTreeMap;

/// Bytes promised to the models of one device.
#[derive(Debug, Default)]
pub struct Ledger {
    /// All that models may take together; `None` refuses nothing.
    limit: Option<u64>,
    /// By the id of the member.
    held: BTreeMap<u64, u64>,
}

/// What it takes to fit a model in.
#[derive(Debug, PartialEq, Eq)]
pub enum Fit {
    /// Nothing: the bytes are its own now.
    Reserved,
    /// These must be unloaded, in this order.
    After(Vec<u64>),
    /// It cannot be done.
    Never(Shortage),
}

/// Why a model does not fit.
#[derive(Debug, PartialEq, Eq)]
pub struct Shortage {
    /// What it needs.
    pub needed: u64,
    /// What others hold.
    pub held: u64,
    /// What of that could be freed by unloading idle models.
    pub evictable: u64,
    /// All that there is.
    pub limit: u64,
}

impl Ledger {
    /// A ledger over so many bytes; `None` for no limit.
    pub fn new(limit: Option<u64>) -> Self {
        Self {
            limit,
            held: BTreeMap::new(),
        }
    }

    /// Reserves bytes for a model, or says which of the `idle` ones, least recently used first,
    /// have to go before.
    pub fn fit(&mut self, id: u64, needed: u64, idle: &[u64]) -> Fit {
        // A model that is loaded again gives up what it had.
        self.held.remove(&id);
        let held: u64 = self.held.values().sum();
        let Some(limit) = self.limit.filter(|&limit| held + needed > limit) else {
            self.held.insert(id, needed);
            return Fit::Reserved;
        };
        let mut freed = 0;
        let mut gone = Vec::new();
        for victim in idle {
            if let Some(bytes) = self.held.get(victim) {
                freed += bytes;
                gone.push(*victim);
            }
            if held - freed + needed <= limit {
                return Fit::After(gone);
            }
        }
        Fit::Never(Shortage {
            needed,
            held,
            evictable: freed,
            limit,
        })
    }

    /// Takes back what a model held.
    pub fn release(&mut self, id: u64) {
        self.held.remove(&id);
    }

    /// What all models hold.
    pub fn held(&self) -> u64 {
        self.held.values().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn models_are_counted_beside_each_other() {
        let mut ledger = Ledger::new(Some(100));
        assert_eq!(ledger.fit(1, 60, &[]), Fit::Reserved);
        let shortage = Shortage {
            needed: 50,
            held: 60,
            evictable: 0,
            limit: 100,
        };
        assert_eq!(ledger.fit(2, 50, &[]), Fit::Never(shortage));
        assert_eq!(ledger.fit(2, 40, &[]), Fit::Reserved);
        ledger.release(1);
        assert_eq!(ledger.held(), 40);
    }

    #[test]
    fn the_least_recently_used_go_first_and_no_more_than_needed() {
        let mut ledger = Ledger::new(Some(100));
        for (id, bytes) in [(1, 30), (2, 30), (3, 30)] {
            assert_eq!(ledger.fit(id, bytes, &[]), Fit::Reserved);
        }
        assert_eq!(ledger.fit(4, 40, &[2, 1, 3]), Fit::After(vec![2]));
        assert_eq!(ledger.fit(4, 70, &[2, 1, 3]), Fit::After(vec![2, 1]));
        ledger.release(2);
        ledger.release(1);
        assert_eq!(ledger.fit(4, 70, &[3]), Fit::Reserved);
    }

    #[test]
    fn nobody_is_unloaded_for_a_model_that_would_not_fit_alone() {
        let mut ledger = Ledger::new(Some(100));
        assert_eq!(ledger.fit(1, 30, &[]), Fit::Reserved);
        assert!(matches!(ledger.fit(2, 101, &[1]), Fit::Never(_)));
        assert_eq!(ledger.held(), 30);
    }

    #[test]
    fn a_reload_does_not_count_twice() {
        let mut ledger = Ledger::new(Some(100));
        assert_eq!(ledger.fit(1, 60, &[]), Fit::Reserved);
        assert_eq!(ledger.fit(1, 80, &[]), Fit::Reserved);
        assert_eq!(ledger.held(), 80);
    }

    #[test]
    fn without_a_limit_everything_fits() {
        assert_eq!(Ledger::new(None).fit(1, u64::MAX / 2, &[]), Fit::Reserved);
    }
}
