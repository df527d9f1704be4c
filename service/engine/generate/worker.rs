//! The thread that owns a generator: before each step it lets in who has come and lets go who has
//! left, then computes, chooses a token for everybody who is due, and sends it.

use std::{
    collections::HashMap,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::{Duration, Instant},
};

use retort_models::{Generate, SequenceStep, StepLogits};

use super::{
    answer::{Answer, Outcome},
    inbox::{self, Inbox, Load, Request, Taken},
    scheduler::{Arrival, Part, Scheduler, SequenceId, Step},
};
use crate::{
    error::{Error, Result},
    telemetry::{BatchStats, Telemetry, generate::LANE},
};

/// Everything the worker thread holds.
pub struct Worker {
    model: Arc<str>,
    inbox: Arc<Inbox>,
    generator: Box<dyn Generate>,
    scheduler: Scheduler,
    telemetry: Telemetry,
    answers: HashMap<SequenceId, Member>,
    next_id: SequenceId,
}

/// What a worker is made of.
pub struct WorkerParts {
    /// The served name of the model, for the metrics.
    pub model: Arc<str>,
    /// Where work comes from.
    pub inbox: Arc<Inbox>,
    /// The model.
    pub generator: Box<dyn Generate>,
    /// Who is computed when.
    pub scheduler: Scheduler,
    /// Where counts go.
    pub telemetry: Telemetry,
}

/// An answer on this worker.
struct Member {
    answer: Answer,
    arrived: Instant,
}

/// The logits that one part has, or why it has none.
type Logits<'a> = Result<(&'a StepLogits, usize), &'a str>;

impl Worker {
    /// Nobody is there yet.
    pub fn new(parts: WorkerParts) -> Self {
        Self {
            model: parts.model,
            inbox: parts.inbox,
            generator: parts.generator,
            scheduler: parts.scheduler,
            telemetry: parts.telemetry,
            answers: HashMap::new(),
            next_id: 0,
        }
    }

    /// Works until the inbox is closed and everybody has an answer, or until it is cut off.
    pub fn run(mut self) {
        while let Taken::Requests(requests) = self.inbox.take(self.scheduler.is_idle()) {
            requests
                .into_iter()
                .for_each(|request| self.let_in(request));
            self.let_go();
            if !self.scheduler.is_idle() {
                self.step();
            }
            self.report();
        }
    }

    fn let_in(&mut self, request: Request) {
        let mut leader = None;
        for (at, answer) in request.answers.into_iter().enumerate() {
            let id = self.next_id;
            self.next_id += 1;
            self.scheduler.push(Arrival {
                id,
                prompt: request.prompt.clone(),
                owner: request.tenant.0,
                after: leader,
                ahead: request.ahead + at,
            });
            leader.get_or_insert(id);
            let arrived = request.arrived;
            self.answers.insert(id, Member { answer, arrived });
        }
    }

    /// Frees what those hold whose readers have left.
    fn let_go(&mut self) {
        let gone: Vec<SequenceId> = self
            .answers
            .iter()
            .filter(|(_, member)| member.answer.is_abandoned())
            .map(|(&id, _)| id)
            .collect();
        if !gone.is_empty() {
            self.telemetry.jobs_dropped(&self.model, gone.len());
        }
        gone.into_iter().for_each(|id| self.remove(id));
    }

    fn remove(&mut self, id: SequenceId) {
        self.scheduler.remove(id);
        self.answers.remove(&id);
    }

    fn step(&mut self) {
        let step = self.scheduler.plan();
        let tokens: usize = step.parts.iter().map(|part| part.tokens).sum();
        if tokens == 0 {
            return;
        }
        // A step takes long, and whoever asks meanwhile has to know who waits.
        self.report();
        let started = Instant::now();
        let waited = self.note(&step, started);
        let computed = self.compute(&step.parts);
        let inference = started.elapsed();
        self.inbox.finished(tokens, inference);
        self.telemetry.batch_finished(
            &self.model,
            &BatchStats {
                lane: LANE,
                sequences: step.parts.len(),
                tokens,
                queue: waited,
                inference,
            },
        );
        let mut results = computed.iter().flat_map(Computed::parts);
        for part in &step.parts {
            if let Some(logits) = results.next() {
                self.advance(part, logits);
            }
        }
    }

    /// Tells who came in and who was put back; the longest that anybody has waited.
    fn note(&mut self, step: &Step, started: Instant) -> Duration {
        let mut longest = Duration::ZERO;
        for (id, cached) in &step.admitted {
            if let Some(member) = self.answers.get(id) {
                longest = longest.max(started.saturating_duration_since(member.arrived));
                member.answer.started(*cached, started);
            }
        }
        if !step.preempted.is_empty() {
            let preempted = step.preempted.len();
            self.telemetry.sequences_preempted(&self.model, preempted);
        }
        longest
    }

    /// All parts at once; when that fails, each alone, so that one that cannot be computed costs
    /// its neighbours nothing but time.
    fn compute(&mut self, parts: &[Part]) -> Vec<Computed> {
        match self.try_compute(parts) {
            Ok(logits) => vec![Computed::new(parts, Ok(logits))],
            Err(error) if parts.len() == 1 => vec![Computed::new(parts, Err(error))],
            Err(error) => {
                let model = &*self.model;
                tracing::warn!(model, %error, "a step failed; running it one by one");
                let alone = |part| {
                    let part = std::slice::from_ref(part);
                    let logits = self.try_compute(part);
                    Computed::new(part, logits)
                };
                parts.iter().map(alone).collect()
            }
        }
    }

    fn try_compute(&mut self, parts: &[Part]) -> Result<StepLogits, String> {
        let scheduler = &self.scheduler;
        let input = |part: &Part| {
            let (input_ids, blocks) = scheduler.inputs(part)?;
            Some(SequenceStep {
                input_ids,
                past: part.past,
                blocks,
                wants_logits: part.wants_logits,
            })
        };
        let steps: Option<Vec<SequenceStep<'_>>> = parts.iter().map(input).collect();
        let steps = steps.ok_or("a sequence is not where it was planned")?;
        // A panic in a forward pass is a bug, but it must not take the other requests with it.
        let generator = &mut self.generator;
        let logits = catch_unwind(AssertUnwindSafe(|| generator.step(&steps)))
            .map_err(|_| "the forward pass panicked".to_owned())?
            .map_err(|error| error.to_string())?;
        let wanted = parts.iter().filter(|part| part.wants_logits).count();
        if logits.rows() == wanted {
            Ok(logits)
        } else {
            Err(format!("{} rows of logits for {wanted}", logits.rows()))
        }
    }

    fn advance(&mut self, part: &Part, logits: Option<Logits<'_>>) {
        let id = part.id;
        let outcome = match logits {
            Some(Err(error)) => {
                tracing::error!(model = %self.model, %error, "a step failed");
                Err(Error::Internal(error.to_owned()))
            }
            None => {
                self.scheduler.computed(part);
                return;
            }
            Some(Ok((rows, row))) => {
                self.scheduler.computed(part);
                let Some(member) = self.answers.get_mut(&id) else {
                    return;
                };
                if member.answer.is_new() {
                    let elapsed = member.arrived.elapsed();
                    self.telemetry.first_token(&self.model, elapsed);
                }
                self.telemetry.token_generated(&self.model);
                // As above: what goes wrong for one answer is not the others' business.
                let answer = &mut member.answer;
                catch_unwind(AssertUnwindSafe(|| answer.go_on(rows.row(row))))
                    .unwrap_or_else(|_| Err(Error::Internal("choosing a token panicked".into())))
            }
        };
        match outcome {
            Ok(Outcome::Open(token)) => self.scheduler.append(id, token),
            Ok(Outcome::Ended) => self.remove(id),
            Err(error) => {
                if let Some(member) = self.answers.get(&id) {
                    member.answer.fail(error);
                }
                self.remove(id);
            }
        }
    }

    fn report(&self) {
        let load = Load {
            waiting_tokens: self.scheduler.waiting_tokens(),
            running: self.scheduler.running(),
            waiting: self.answers.len() - self.scheduler.running(),
        };
        self.inbox.report(load);
        self.telemetry
            .queue_changed(&self.model, LANE, load.waiting_tokens);
        let (used, total) = self.scheduler.blocks();
        self.telemetry.cache_blocks(&self.model, used, total);
    }
}

impl Drop for Worker {
    /// Tells those who are still here that nothing more comes. A panic that nothing has caught ends
    /// here, too, and whoever comes later must not wait for a thread that is gone.
    fn drop(&mut self) {
        let why = if std::thread::panicking() {
            self.inbox.lose();
            inbox::lost()
        } else {
            Error::NotReady("the model is being unloaded".into())
        };
        for member in self.answers.values() {
            member.answer.fail(why.clone());
        }
        let never_begun = self.inbox.drain();
        for answer in never_begun.iter().flat_map(|request| &request.answers) {
            answer.fail(why.clone());
        }
    }
}

/// What came of some parts of a step.
struct Computed {
    logits: Result<StepLogits, String>,
    /// For each part, the row that is its own; `None` where it wants none.
    rows: Vec<Option<usize>>,
}

impl Computed {
    fn new(parts: &[Part], logits: Result<StepLogits, String>) -> Self {
        let mut row = 0..;
        let rows = parts
            .iter()
            .map(|part| part.wants_logits.then(|| row.next())?)
            .collect();
        Self { logits, rows }
    }

    /// For each part its row, nothing where none is wanted, or why it failed.
    fn parts(&self) -> impl Iterator<Item = Option<Logits<'_>>> {
        self.rows.iter().map(|row| match &self.logits {
            Ok(logits) => row.map(|row| Ok((logits, row))),
            Err(error) => Some(Err(error.as_str())),
        })
    }
}
