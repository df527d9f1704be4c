//! One model of the fleet: how it was launched, how far it is, and whether it is still wanted.

use std::{
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio::sync::watch;

use super::{FileProgress, FoundFiles, LaunchProgress, LaunchSpec, Stage, StartError};
use crate::{config::ModelEntry, provision::Watch, unix_time};

/// Share of the progress bar that fetching gets; the rest is loading.
const FETCHED: f64 = 0.7;

/// A model of the fleet. Shared by its loading thread and whoever asks how far it is.
pub struct Member {
    id: u64,
    entry: ModelEntry,
    launched: u64,
    state: Mutex<State>,
    cancelled: AtomicBool,
    /// Held by who loads or unloads the model, so that only one thread does.
    pub(super) busy: Mutex<()>,
    news: watch::Sender<()>,
}

struct State {
    spec: LaunchSpec,
    stage: Stage,
    fraction: f64,
    files: Vec<FileProgress>,
    error: Option<StartError>,
    short_of_memory: bool,
    directory: Option<PathBuf>,
    memory_bytes: Option<u64>,
    /// What the last load that succeeded was made from.
    kept: Option<FoundFiles>,
}

impl Member {
    /// A model whose turn has not come.
    pub fn new(id: u64, spec: LaunchSpec, entry: ModelEntry) -> Arc<Self> {
        Arc::new(Self {
            id,
            entry,
            launched: unix_time::now().as_secs(),
            state: Mutex::new(State {
                spec,
                stage: Stage::Queued,
                fraction: 0.0,
                files: Vec::new(),
                error: None,
                short_of_memory: false,
                directory: None,
                memory_bytes: None,
                kept: None,
            }),
            cancelled: AtomicBool::new(false),
            busy: Mutex::new(()),
            news: watch::channel(()).0,
        })
    }

    /// Tells it apart from another launch under the same name.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// The name it is served under.
    pub fn uid(&self) -> &str {
        &self.entry.name
    }

    /// Where it is and what overrides its checkpoint.
    pub fn entry(&self) -> &ModelEntry {
        &self.entry
    }

    /// When it was launched, in seconds since the Unix epoch.
    pub fn launched(&self) -> u64 {
        self.launched
    }

    /// How it was launched.
    pub fn spec(&self) -> LaunchSpec {
        self.lock().spec.clone()
    }

    /// Changes how it was launched.
    pub fn respec(&self, change: impl FnOnce(&mut LaunchSpec)) {
        change(&mut self.lock().spec);
    }

    /// Where it stands.
    pub fn stage(&self) -> Stage {
        self.lock().stage
    }

    /// Takes the first turn of a model; `false` when somebody has taken it.
    pub fn take_turn(&self) -> bool {
        let mut state = self.lock();
        let first = state.stage == Stage::Queued;
        if first {
            state.stage = Stage::Fetching;
        }
        first
    }

    /// A new load begins: what the last one said is forgotten.
    pub fn begin(&self) {
        let mut state = self.lock();
        state.fraction = 0.0;
        state.files.clear();
        state.error = None;
        state.short_of_memory = false;
        drop(state);
        self.reach(Stage::Fetching);
    }

    /// Says where it stands now.
    pub fn reach(&self, stage: Stage) {
        let mut state = self.lock();
        state.stage = stage;
        let fraction = match stage {
            Stage::Queued | Stage::Fetching => 0.0,
            Stage::Loading => FETCHED,
            Stage::Verifying => 0.9,
            Stage::Warming => 0.95,
            Stage::Ready | Stage::Asleep => 1.0,
            Stage::Failed | Stage::Terminating => state.fraction,
        };
        state.fraction = state.fraction.max(fraction);
        drop(state);
        self.news.send_replace(());
    }

    /// Notes what was found.
    pub fn found(&self, found: &FoundFiles) {
        let mut state = self.lock();
        state.directory = Some(found.dir.clone());
        state.memory_bytes = found.need.as_ref().map(|need| need.bytes);
    }

    /// Notes that it serves from these files, for when it wakes up.
    pub fn keep(&self, found: FoundFiles) {
        let found = FoundFiles {
            served: true,
            ..found
        };
        self.lock().kept = Some(found);
    }

    /// The files that it last served from, if they are still the same.
    pub fn kept(&self) -> Option<FoundFiles> {
        let kept = self.lock().kept.clone();
        kept.filter(FoundFiles::are_unchanged)
    }

    /// The next load looks its files up and estimates it anew.
    pub fn look_again(&self) {
        self.lock().kept = None;
    }

    /// Notes the size of the weights where no better number is known.
    pub fn weighs(&self, bytes: u64) {
        self.lock().memory_bytes.get_or_insert(bytes);
    }

    /// Notes that it did not load, and where that leaves it.
    pub fn failed(&self, error: StartError, stage: Stage) {
        self.lock().error = Some(error);
        self.reach(stage);
    }

    /// Notes that there is no room for it.
    pub fn no_room(&self) {
        self.lock().short_of_memory = true;
    }

    /// Whether it failed for want of memory.
    pub fn is_short_of_memory(&self) -> bool {
        self.lock().short_of_memory
    }

    /// Why it did not load.
    pub fn error(&self) -> Option<StartError> {
        self.lock().error.clone()
    }

    /// Where its files are.
    pub fn directory(&self) -> Option<PathBuf> {
        self.lock().directory.clone()
    }

    /// What it takes of memory.
    pub fn memory_bytes(&self) -> Option<u64> {
        self.lock().memory_bytes
    }

    /// Calls its load off; the loading thread notices.
    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::Relaxed);
        self.news.send_replace(());
    }

    /// Moves when there is news.
    pub fn news(&self) -> watch::Receiver<()> {
        self.news.subscribe()
    }

    /// How far it is.
    pub fn progress(&self) -> LaunchProgress {
        let state = self.lock();
        let bytes = state.files.iter().map(|file| file.bytes).sum();
        let totals: Option<Vec<u64>> = state.files.iter().map(|file| file.bytes_total).collect();
        LaunchProgress {
            fraction: state.fraction,
            stage: state.stage,
            bytes,
            bytes_total: totals.map(|totals| totals.iter().sum()),
            files: state.files.clone(),
            error: state.error.as_ref().map(|error| error.message.clone()),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No code that can panic runs under the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Watch for Member {
    fn received(&self, name: &str, bytes: u64, total: Option<u64>) {
        let mut state = self.lock();
        match state.files.iter_mut().find(|file| file.name == name) {
            Some(file) => (file.bytes, file.bytes_total) = (bytes, total),
            None => state.files.push(FileProgress {
                name: name.to_owned(),
                bytes,
                bytes_total: total,
            }),
        }
        let here: u64 = state.files.iter().map(|file| file.bytes).sum();
        let known = |file: &FileProgress| file.bytes_total.unwrap_or(file.bytes);
        let all: u64 = state.files.iter().map(known).sum();
        // Files that are listed later make the share smaller; the bar stays where it is.
        let share = FETCHED * here as f64 / all.max(1) as f64;
        state.fraction = state.fraction.max(share.min(FETCHED));
    }

    fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::{super::tests::entry, *};

    #[test]
    fn progress_follows_the_bytes_and_never_goes_back() {
        let member = Member::new(1, LaunchSpec::of("/a"), entry("a"));
        member.begin();
        member.received("config.json", 50, Some(100));
        assert_eq!(member.progress().fraction, 0.35);
        member.received("config.json", 100, Some(100));
        member.received("model.safetensors", 0, Some(900));
        let progress = member.progress();
        assert_eq!(progress.fraction, 0.7);
        assert_eq!((progress.bytes, progress.bytes_total), (100, Some(1_000)));
        member.reach(Stage::Loading);
        member.reach(Stage::Ready);
        assert_eq!(member.progress().fraction, 1.0);
        member.begin();
        assert_eq!(member.progress().fraction, 0.0);
        assert_eq!(member.progress().files, []);
    }
}
