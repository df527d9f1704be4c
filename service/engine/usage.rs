//! Who is inside a loaded model and since when nobody is: what idle unloading and draining ask.

use std::{
    fmt,
    ops::Deref,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use super::{KeepAlive, served::Served};

/// Whoever had a model loaded gets so long to come in before it may be unloaded again.
const FIRST_REQUEST: Duration = Duration::from_secs(10);

/// Tells the time; tests have one that they move.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> Instant + Send + Sync>);

impl Clock {
    /// The real time.
    pub fn system() -> Self {
        Self(Arc::new(Instant::now))
    }

    /// Whatever time `tell` tells.
    pub fn telling(tell: impl Fn() -> Instant + Send + Sync + 'static) -> Self {
        Self(Arc::new(tell))
    }

    /// What time it is.
    pub fn now(&self) -> Instant {
        (self.0)()
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::system()
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Clock")
    }
}

/// Wakes the one thread that looks after idle models.
#[derive(Debug, Default)]
pub struct Alarm {
    rung: Mutex<bool>,
    bell: Condvar,
}

impl Alarm {
    /// Something has changed: look again.
    pub fn ring(&self) {
        *self.rung.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.bell.notify_all();
    }

    /// Waits until it rings, for at most `patience`.
    pub fn wait(&self, patience: Option<Duration>) {
        let rung = self.rung.lock().unwrap_or_else(PoisonError::into_inner);
        let mut rung = match patience {
            None => self
                .bell
                .wait_while(rung, |rung| !*rung)
                .unwrap_or_else(PoisonError::into_inner),
            Some(patience) => {
                let waited = self.bell.wait_timeout_while(rung, patience, |rung| !*rung);
                waited.unwrap_or_else(PoisonError::into_inner).0
            }
        };
        *rung = false;
    }
}

/// The use of one loaded model.
pub struct Usage {
    state: Mutex<State>,
    emptied: Condvar,
    keep_alive: KeepAlive,
    clock: Clock,
    alarm: Arc<Alarm>,
}

struct State {
    inside: usize,
    last: Instant,
    /// Whether nobody has been inside yet.
    unused: bool,
    /// What a request wished for; it holds until the model is unloaded.
    wish: Option<KeepAlive>,
}

/// When a model may be unloaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expiry {
    /// Not for want of requests.
    Never,
    /// When its last request leaves, which rings the alarm.
    OnLeaving,
    /// In this time at the earliest; zero means now.
    In(Duration),
}

impl Usage {
    /// A model that nobody has used yet; its time starts now.
    pub fn new(keep_alive: KeepAlive, clock: Clock, alarm: Arc<Alarm>) -> Self {
        let state = State {
            inside: 0,
            last: clock.now(),
            unused: true,
            wish: None,
        };
        Self {
            state: Mutex::new(state),
            emptied: Condvar::new(),
            keep_alive,
            clock,
            alarm,
        }
    }

    /// Requests inside.
    pub fn inside(&self) -> usize {
        self.lock().inside
    }

    /// How long nobody has been inside; `None` while somebody is.
    pub fn idle(&self) -> Option<Duration> {
        let state = self.lock();
        let idle = self.clock.now().saturating_duration_since(state.last);
        (state.inside == 0).then_some(idle)
    }

    /// How long it stays without requests.
    pub fn keep_alive(&self) -> KeepAlive {
        self.lock().wish.unwrap_or(self.keep_alive)
    }

    /// A request that is about to come in wishes how long it stays.
    pub fn wish(&self, keep_alive: KeepAlive) {
        let mut state = self.lock();
        state.wish = Some(keep_alive);
        if state.inside == 0 {
            state.last = self.clock.now();
            state.unused = true;
        }
        drop(state);
        self.alarm.ring();
    }

    /// When it may be unloaded.
    pub fn expiry(&self) -> Expiry {
        let state = self.lock();
        match state.wish.unwrap_or(self.keep_alive) {
            KeepAlive::Forever => Expiry::Never,
            KeepAlive::For(time) if state.inside > 0 && time.is_zero() => Expiry::OnLeaving,
            // Whoever is inside leaves now at the earliest.
            KeepAlive::For(time) if state.inside > 0 => Expiry::In(time),
            KeepAlive::For(time) => {
                let idle = self.clock.now().saturating_duration_since(state.last);
                let time = if state.unused {
                    time.max(FIRST_REQUEST)
                } else {
                    time
                };
                Expiry::In(time.saturating_sub(idle))
            }
        }
    }

    /// Waits until nobody is inside; whether that came in time.
    pub fn wait_empty(&self, patience: Duration) -> bool {
        let state = self.lock();
        let waited = self
            .emptied
            .wait_timeout_while(state, patience, |state| state.inside > 0)
            .unwrap_or_else(PoisonError::into_inner);
        !waited.1.timed_out()
    }

    fn leave(&self, purpose: Purpose) {
        let mut state = self.lock();
        state.inside -= 1;
        if purpose == Purpose::Request {
            state.last = self.clock.now();
            state.unused = false;
        }
        let empty = state.inside == 0;
        let at_once = state.wish.unwrap_or(self.keep_alive) == KeepAlive::For(Duration::ZERO);
        drop(state);
        if empty {
            self.emptied.notify_all();
        }
        if empty && at_once {
            self.alarm.ring();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No code that can panic runs under the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What somebody is inside for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// A caller's request, which keeps the model alive.
    Request,
    /// A probe, which does not.
    Probe,
}

/// The right to use a loaded model; it is not unloaded before this is dropped.
pub struct Lease<P = Served> {
    // Dropped first: whoever unloads the model must be the last to hold it, because dropping a
    // pipeline waits for its threads, and a request must not.
    pipeline: P,
    inside: Inside,
}

/// The presence of somebody inside a loaded model.
pub struct Inside {
    usage: Arc<Usage>,
    purpose: Purpose,
}

impl Lease {
    /// Goes inside.
    pub fn new(pipeline: &Served, usage: &Arc<Usage>, purpose: Purpose) -> Self {
        usage.lock().inside += 1;
        Self {
            pipeline: pipeline.clone(),
            inside: Inside {
                usage: usage.clone(),
                purpose,
            },
        }
    }
}

impl<P> Lease<P> {
    /// The same right to what `find` finds in the pipeline.
    pub fn narrow<Q>(self, find: impl FnOnce(P) -> Option<Q>) -> Option<Lease<Q>> {
        let inside = self.inside;
        find(self.pipeline).map(|pipeline| Lease { pipeline, inside })
    }

    /// Lets the pipeline go and stays inside: for those who only read what it sends.
    pub fn let_go(self) -> Inside {
        self.inside
    }
}

impl<P> Deref for Lease<P> {
    type Target = P;

    fn deref(&self) -> &P {
        &self.pipeline
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        self.usage.leave(self.purpose);
    }
}

/// A pipeline that was taken out of service; those inside may still finish.
pub struct Retired {
    pipeline: Served,
    usage: Arc<Usage>,
}

impl Retired {
    /// Takes what a registry has let go.
    pub fn new(pipeline: Served, usage: Arc<Usage>) -> Self {
        Self { pipeline, usage }
    }

    /// Waits until those inside have their answers, at most so long, then ends the threads and
    /// frees the memory. Blocks. Whether nobody was cut off.
    pub fn finish(self, patience: Duration) -> bool {
        let answered = self.usage.wait_empty(patience);
        self.pipeline.close();
        drop(self.pipeline);
        answered
    }
}
