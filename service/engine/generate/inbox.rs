//! Where handlers leave requests and the worker finds them: the one lock of this path, held for
//! moments only. What may wait is bounded in tokens.

use std::{
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use super::answer::Answer;
use crate::{
    engine::{lane::Tenant, request::Backlog},
    error::{Error, Result},
};

/// A prompt, and all answers to it.
pub struct Request {
    /// Token ids, at least one.
    pub prompt: Vec<u32>,
    /// At least one.
    pub answers: Vec<Answer>,
    /// Answers of the same call that go before these.
    pub ahead: usize,
    /// Whose it is.
    pub tenant: Tenant,
    /// Since when it waits.
    pub arrived: Instant,
}

impl Request {
    /// Tokens that it has to have computed, as far as is known before.
    pub fn tokens(&self) -> usize {
        self.prompt.len() * self.answers.len()
    }
}

/// What everybody is told once the worker has failed.
pub fn lost() -> Error {
    let what = "the thread that computes this model's answers has failed; launch the model again, \
                or restart the server";
    Error::NotReady(what.into())
}

/// Handlers push, one worker takes.
pub struct Inbox {
    state: Mutex<State>,
    bell: Condvar,
    max_tokens: usize,
}

struct State {
    requests: Vec<Request>,
    /// Tokens of `requests`.
    new_tokens: usize,
    /// What the worker holds, as of its last report.
    load: Load,
    /// Tokens a second, of late.
    rate: f64,
    last_finished: Option<Instant>,
    door: Door,
}

/// What the worker holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Load {
    /// Tokens of sequences that wait.
    pub waiting_tokens: usize,
    /// Sequences that are being computed.
    pub running: usize,
    /// Sequences that wait.
    pub waiting: usize,
}

/// Who may come in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Door {
    Open,
    /// Nobody; those inside are finished.
    Closed,
    /// Nobody, and nobody stays.
    Cut,
    /// Nobody: the worker is gone, and was not asked to go.
    Lost,
}

/// What the worker finds.
pub enum Taken {
    /// New requests, perhaps none.
    Requests(Vec<Request>),
    /// It is time to go.
    Over,
}

impl Inbox {
    /// Holds requests of so many tokens.
    pub fn new(max_tokens: usize) -> Self {
        Self {
            state: Mutex::new(State {
                requests: Vec::new(),
                new_tokens: 0,
                load: Load::default(),
                rate: 0.0,
                last_finished: None,
                door: Door::Open,
            }),
            bell: Condvar::new(),
            max_tokens,
        }
    }

    /// Leaves requests, all of them or none.
    ///
    /// Such as are larger than all that may wait are taken when nothing else does: refusing them
    /// now would mean refusing them for ever.
    ///
    /// # Errors
    /// [`Error::Overloaded`] when there is no room, [`Error::NotReady`] after [`Inbox::close`].
    pub fn push(&self, requests: Vec<Request>) -> Result<usize> {
        let tokens = requests.iter().map(Request::tokens).sum();
        let mut state = self.lock();
        self.admit(&state, tokens)?;
        state.new_tokens += tokens;
        state.requests.extend(requests);
        let waiting = state.waiting_tokens();
        drop(state);
        self.bell.notify_one();
        Ok(waiting)
    }

    /// Whether so many more tokens would be taken now, asked before any work is done for them.
    ///
    /// # Errors
    /// As [`Inbox::push`].
    pub fn check_room(&self, tokens: usize) -> Result<()> {
        self.admit(&self.lock(), tokens)
    }

    fn admit(&self, state: &State, requested: usize) -> Result<()> {
        match state.door {
            Door::Open => {}
            Door::Closed | Door::Cut => {
                return Err(Error::NotReady("the server is shutting down".into()));
            }
            Door::Lost => return Err(lost()),
        }
        let queued = state.waiting_tokens();
        if queued > 0 && queued + requested > self.max_tokens {
            let excess = (queued + requested - self.max_tokens).min(queued);
            let seconds = match state.rate > 0.0 {
                true => excess as f64 / state.rate,
                false => 1.0,
            };
            return Err(Error::Overloaded {
                queued,
                requested,
                limit: self.max_tokens,
                retry_after: Duration::from_secs_f64(seconds.clamp(1.0, 300.0).ceil()),
            });
        }
        Ok(())
    }

    /// Takes all requests; waits for one when the worker has nothing else to do.
    pub fn take(&self, is_idle: bool) -> Taken {
        let mut state = self.lock();
        while is_idle && state.requests.is_empty() && state.door == Door::Open {
            state = self
                .bell
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
        let nothing_left = is_idle && state.requests.is_empty();
        let is_over = match state.door {
            Door::Open => false,
            Door::Closed => nothing_left,
            Door::Cut | Door::Lost => true,
        };
        if is_over {
            return Taken::Over;
        }
        let requests = std::mem::take(&mut state.requests);
        // Until the worker's next report.
        state.load.waiting_tokens += std::mem::take(&mut state.new_tokens);
        state.load.waiting += requests.iter().map(|r| r.answers.len()).sum::<usize>();
        Taken::Requests(requests)
    }

    /// Tells what the worker holds now.
    pub fn report(&self, load: Load) {
        self.lock().load = load;
    }

    /// Tells that a step of so many tokens was done.
    pub fn finished(&self, tokens: usize, elapsed: Duration) {
        let mut state = self.lock();
        let rate = tokens as f64 / elapsed.as_secs_f64().max(1e-6);
        state.rate = match state.rate > 0.0 {
            true => 0.9 * state.rate + 0.1 * rate,
            false => rate,
        };
        state.last_finished = Some(Instant::now());
    }

    /// Refuses new requests; those inside are finished.
    pub fn close(&self) {
        let mut state = self.lock();
        if state.door == Door::Open {
            state.door = Door::Closed;
        }
        drop(state);
        self.bell.notify_all();
    }

    /// Refuses new requests and gives up those inside.
    pub fn cut(&self) {
        let mut state = self.lock();
        if state.door != Door::Lost {
            state.door = Door::Cut;
        }
        drop(state);
        self.bell.notify_all();
    }

    /// Refuses new requests because nobody is there to take them.
    pub fn lose(&self) {
        self.lock().door = Door::Lost;
    }

    /// What is left when the worker goes.
    pub fn drain(&self) -> Vec<Request> {
        let mut state = self.lock();
        state.new_tokens = 0;
        state.load = Load::default();
        std::mem::take(&mut state.requests)
    }

    /// What waits now.
    pub fn backlog(&self) -> Backlog {
        let state = self.lock();
        let new: usize = state.requests.iter().map(|r| r.answers.len()).sum();
        Backlog {
            inputs: state.load.waiting + new,
            tokens: state.waiting_tokens(),
            max_tokens: self.max_tokens,
        }
    }

    /// Whether anything is being computed, as of the last report.
    pub fn is_at_work(&self) -> bool {
        self.lock().load.running > 0
    }

    /// How long ago a step was last done; `None` if none ever was.
    pub fn since_last_finished(&self) -> Option<Duration> {
        self.lock().last_finished.map(|at| at.elapsed())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // The state stays consistent across a panic: no code that can panic runs under the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn waiting_tokens(&self) -> usize {
        self.new_tokens + self.load.waiting_tokens
    }
}
