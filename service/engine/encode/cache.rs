//! Results that are kept for inputs that come again: bounded in bytes, the least recently used go
//! first. Off unless configured. What one tenant has computed is not found by another: the
//! tenant is part of the fingerprint.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, PoisonError},
};

use retort_models::{Heads, Output};

use super::{job::Fingerprint, schedule::ModelId};

/// What an entry takes beside its numbers.
const ENTRY_BYTES: usize = 256;

/// Which input of which loaded model. A model that is loaded again is another one, because its
/// files and its arithmetic may have changed.
pub type Key = (ModelId, Fingerprint);

/// The cache of a server. Cheap to clone.
#[derive(Clone)]
pub struct Cache {
    state: Arc<Mutex<State>>,
    max_bytes: usize,
}

#[derive(Default)]
struct State {
    entries: HashMap<Key, Entry>,
    /// From the least to the most recently used.
    order: BTreeMap<u64, Key>,
    bytes: usize,
    clock: u64,
}

struct Entry {
    output: Arc<Output>,
    heads: Heads,
    bytes: usize,
    used: u64,
}

impl Cache {
    /// One that keeps at most so many bytes; 0 keeps nothing.
    pub fn new(max_bytes: usize) -> Self {
        Self {
            state: Arc::default(),
            max_bytes,
        }
    }

    /// Whether anything is kept at all.
    pub fn is_on(&self) -> bool {
        self.max_bytes > 0
    }

    /// What is known of an input, when it has all of these heads.
    pub fn get(&self, key: &Key, heads: Heads) -> Option<Arc<Output>> {
        if !self.is_on() {
            return None;
        }
        let mut state = self.lock();
        state.clock += 1;
        let clock = state.clock;
        let State { entries, order, .. } = &mut *state;
        let entry = entries.get_mut(key)?;
        if !heads.without(entry.heads).is_empty() {
            return None;
        }
        order.remove(&entry.used);
        order.insert(clock, *key);
        entry.used = clock;
        Some(entry.output.clone())
    }

    /// Keeps what an input gave for these heads.
    pub fn put(&self, key: Key, heads: Heads, output: Arc<Output>) {
        let bytes = ENTRY_BYTES + bytes_of(&output);
        if bytes > self.max_bytes {
            return;
        }
        let mut state = self.lock();
        state.remove(&key);
        while state.bytes + bytes > self.max_bytes {
            let Some((_, oldest)) = state.order.pop_first() else {
                break;
            };
            state.remove(&oldest);
        }
        state.clock += 1;
        let used = state.clock;
        state.bytes += bytes;
        state.order.insert(used, key);
        let entry = Entry {
            output,
            heads,
            bytes,
            used,
        };
        state.entries.insert(key, entry);
    }

    /// Forgets a model that is gone.
    pub fn forget(&self, model: ModelId) {
        if !self.is_on() {
            return;
        }
        let mut state = self.lock();
        let of_model = state.entries.keys().filter(|key| key.0 == model);
        let keys: Vec<Key> = of_model.copied().collect();
        for key in keys {
            state.remove(&key);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        // No code that can panic runs under the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn remove(&mut self, key: &Key) {
        if let Some(entry) = self.entries.remove(key) {
            self.order.remove(&entry.used);
            self.bytes -= entry.bytes;
        }
    }
}

fn bytes_of(output: &Output) -> usize {
    let dense = output.dense.as_ref().map_or(0, Vec::len);
    let sparse = output.sparse.as_ref().map_or(0, |s| 2 * s.ids.len());
    let tokens = output.multi_vector.as_ref().map_or(0, |m| m.values.len());
    let scores = output.scores.as_ref().map_or(0, Vec::len);
    size_of::<f32>() * (dense + sparse + tokens + scores)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use retort_models::{Encoding, Head};

    use super::*;
    use crate::engine::{
        encode::job::{Input, Job},
        lane::Tenant,
    };

    fn key(model: ModelId, id: u32) -> Key {
        let encoding = Encoding {
            input_ids: vec![id],
            ..Encoding::default()
        };
        let job = Job::new(Input::new(encoding, Heads::DENSE), Tenant::default());
        (model, job.fingerprint)
    }

    fn output(length: usize) -> Arc<Output> {
        Arc::new(Output::of_dense(vec![1.0; length]))
    }

    #[test]
    fn the_least_recently_used_go_first() {
        let cache = Cache::new(2 * (ENTRY_BYTES + 40));
        cache.put(key(0, 1), Heads::DENSE, output(10));
        cache.put(key(0, 2), Heads::DENSE, output(10));
        assert!(cache.get(&key(0, 1), Heads::DENSE).is_some());
        cache.put(key(0, 3), Heads::DENSE, output(10));
        let has = |id| cache.get(&key(0, id), Heads::DENSE).is_some();
        assert_eq!((has(1), has(2), has(3)), (true, false, true));
    }

    #[test]
    fn other_models_other_heads_and_forgotten_ones_are_misses() {
        let cache = Cache::new(10_000);
        cache.put(key(0, 1), Heads::DENSE, output(10));
        assert!(cache.get(&key(1, 1), Heads::DENSE).is_none());
        let more = Heads::DENSE | Heads::from(Head::Sparse);
        assert!(cache.get(&key(0, 1), more).is_none());
        cache.forget(0);
        assert!(cache.get(&key(0, 1), Heads::DENSE).is_none());
        assert_eq!(cache.lock().bytes, 0);
    }

    proptest! {
        #[test]
        fn never_more_bytes_than_allowed(
            puts in proptest::collection::vec((0u32..20, 0usize..200), 1..200),
            max_bytes in 0usize..4_000,
        ) {
            let cache = Cache::new(max_bytes);
            for (id, length) in puts {
                cache.put(key(0, id), Heads::DENSE, output(length));
                let state = cache.lock();
                let sum: usize = state.entries.values().map(|entry| entry.bytes).sum();
                prop_assert_eq!(sum, state.bytes);
                prop_assert!(state.bytes <= max_bytes);
                prop_assert_eq!(state.entries.len(), state.order.len());
            }
        }
    }
}
