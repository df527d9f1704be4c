//! Which tokens of which sequences are computed next: continuous batching over a paged cache, with
//! prompts in chunks. Pure policy: no clock, no lock, no tensor, no text.
//!
//! Everybody who is writing gets a token in every step. What a step has left goes to the prompts,
//! in equal parts, so that a short one overtakes a long one and a long one is never starved.
//! Prompts are admitted when the cache has room for all of them, and calls take turns at that: of a
//! call with many prompts one a round, so that nobody stands behind all of them.
//! An answer that finds no block for its next token takes those of the sequence that was admitted
//! last, which waits at the head of the queue and is computed again.

use std::collections::VecDeque;

use retort_models::{BlockOwner, BlockPool};

/// A sequence, for as long as it is here.
pub type SequenceId = u64;

/// Bounds of the policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SchedulerLimits {
    /// The most sequences that are computed at the same time.
    pub max_sequences: usize,
    /// The most tokens of a step.
    pub max_step_tokens: usize,
    /// The most tokens of prompts in a step in which somebody writes: what bounds the time between
    /// two tokens of an answer.
    pub max_prefill_tokens: usize,
}

/// A sequence that comes in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arrival {
    /// Its number, which nobody else has.
    pub id: SequenceId,
    /// Its prompt, never empty.
    pub prompt: Vec<u32>,
    /// Whose it is: beginnings are shared with no other's.
    pub owner: BlockOwner,
    /// A sequence of the same prompt: this one waits until that has computed it, and finds it.
    pub after: Option<SequenceId>,
    /// How many sequences of the same call go before it.
    pub ahead: usize,
}

/// What one step computes of one sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// Which sequence.
    pub id: SequenceId,
    /// Tokens that are computed already.
    pub past: usize,
    /// Tokens to compute, at least one.
    pub tokens: usize,
    /// Whether these are the last it has: the next is to be chosen.
    pub wants_logits: bool,
}

/// One step.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Step {
    /// What is computed; empty when nobody is there.
    pub parts: Vec<Part>,
    /// Who came in, and how many tokens of each were in the cache.
    pub admitted: Vec<(SequenceId, usize)>,
    /// Who had to give up its blocks.
    pub preempted: Vec<SequenceId>,
}

/// All sequences of one model, and its cache.
#[derive(Debug)]
pub struct Scheduler {
    limits: SchedulerLimits,
    pool: BlockPool,
    /// In the order of their rounds.
    waiting: VecDeque<Sequence>,
    /// In the order of admission.
    running: Vec<Sequence>,
    /// The latest of which somebody was admitted.
    round: u64,
}

#[derive(Debug)]
struct Sequence {
    id: SequenceId,
    owner: BlockOwner,
    /// The prompt and what was written so far.
    ids: Vec<u32>,
    prompt: usize,
    /// Tokens whose keys and values are in the blocks.
    computed: usize,
    blocks: Vec<u32>,
    after: Option<SequenceId>,
    /// When it has its turn: each round has one sequence of every call that waits
    /// (start-time fair queueing, Goyal et al. 1996, with each sequence of one cost).
    round: u64,
}

impl Sequence {
    fn remaining(&self) -> usize {
        self.ids.len() - self.computed
    }
}

impl Scheduler {
    /// Nobody is there yet.
    pub fn new(limits: SchedulerLimits, pool: BlockPool) -> Self {
        let max_step_tokens = limits.max_step_tokens.max(1);
        let limits = SchedulerLimits {
            // Whoever is in must get a token in each step.
            max_sequences: limits.max_sequences.clamp(1, max_step_tokens),
            max_step_tokens,
            max_prefill_tokens: limits.max_prefill_tokens.clamp(1, max_step_tokens),
        };
        Self {
            limits,
            pool,
            waiting: VecDeque::new(),
            running: Vec::new(),
            round: 0,
        }
    }

    /// The most tokens that one sequence may ever have computed.
    pub fn capacity(&self) -> usize {
        self.pool.blocks() * self.pool.block_tokens()
    }

    /// Takes a sequence in. Its prompt must fit into an empty cache.
    pub fn push(&mut self, arrival: Arrival) {
        let round = self.round + 1 + arrival.ahead as u64;
        let sequence = Sequence {
            id: arrival.id,
            owner: arrival.owner,
            prompt: arrival.prompt.len(),
            ids: arrival.prompt,
            computed: 0,
            blocks: Vec::new(),
            after: arrival.after,
            round,
        };
        // Who had to give its blocks up has had its turn, so it stays in front.
        let before = self.waiting.iter().rposition(|each| each.round <= round);
        self.waiting.insert(before.map_or(0, |at| at + 1), sequence);
    }

    /// Whether there is nothing to do.
    pub fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.running.is_empty()
    }

    /// Sequences that are being computed.
    pub fn running(&self) -> usize {
        self.running.len()
    }

    /// Tokens of the sequences that are not.
    pub fn waiting_tokens(&self) -> usize {
        self.waiting.iter().map(|each| each.ids.len()).sum()
    }

    /// Blocks in use, and all.
    pub fn blocks(&self) -> (usize, usize) {
        let total = self.pool.blocks();
        (total - self.pool.free(), total)
    }

    /// Decides on the next step.
    pub fn plan(&mut self) -> Step {
        let mut step = Step::default();
        self.admit(&mut step);
        self.make_room(&mut step);
        let writing = self.running.iter().filter(|each| each.remaining() == 1);
        let writing = writing.count();
        let left = self.limits.max_step_tokens - writing.min(self.limits.max_step_tokens);
        let left = match writing {
            0 => left,
            _ => left.min(self.limits.max_prefill_tokens),
        };
        let remaining = |each: &Sequence| Some(each.remaining()).filter(|&tokens| tokens > 1);
        let wanted: Vec<usize> = self.running.iter().filter_map(remaining).collect();
        let mut chunks = equal_parts(left, &wanted).into_iter();
        for each in &self.running {
            let tokens = match each.remaining() {
                1 => 1,
                _ => chunks.next().unwrap_or_default(),
            };
            if tokens > 0 {
                step.parts.push(Part {
                    id: each.id,
                    past: each.computed,
                    tokens,
                    wants_logits: tokens == each.remaining(),
                });
            }
        }
        step
    }

    /// Lets in whoever is next, while there is room.
    fn admit(&mut self, step: &mut Step) {
        let mut at = 0;
        while at < self.waiting.len() && self.running.len() < self.limits.max_sequences {
            if self.is_ahead(self.waiting[at].after) {
                at += 1;
                continue;
            }
            let Some(cached) = self.reserve(at) else {
                return;
            };
            if let Some(sequence) = self.waiting.remove(at) {
                step.admitted.push((sequence.id, cached));
                self.round = self.round.max(sequence.round);
                self.running.push(sequence);
            }
        }
    }

    /// Whether a sequence is still busy with its prompt.
    fn is_ahead(&self, leader: Option<SequenceId>) -> bool {
        let is = |each: &&Sequence| Some(each.id) == leader;
        let all = self.running.iter().chain(&self.waiting);
        all.into_iter()
            .find(is)
            .is_some_and(|leader| leader.computed < leader.prompt)
    }

    /// Blocks for all that a waiting sequence has, shared ones first; how many tokens of it need
    /// not be computed again.
    fn reserve(&mut self, at: usize) -> Option<usize> {
        let sequence = &mut self.waiting[at];
        let (found, cached) = self.pool.find_prefix(sequence.owner, &sequence.ids);
        let more = self.pool.blocks_for(sequence.ids.len()) - found.len();
        // Everybody inside may need a block soon: whoever comes in should not be thrown out at
        // once.
        if more + self.running.len() > self.pool.free() {
            self.pool.release(&found);
            return None;
        }
        let Some(new) = self.pool.allocate(more) else {
            self.pool.release(&found);
            return None;
        };
        sequence.blocks = [found, new].concat();
        sequence.computed = cached;
        Some(cached)
    }

    /// A block for the next token of each, at the cost of those who came last.
    fn make_room(&mut self, step: &mut Step) {
        let mut at = 0;
        while at < self.running.len() {
            let each = &self.running[at];
            // Prompts have theirs from their admission.
            let needed = self.pool.blocks_for(each.ids.len());
            if needed <= each.blocks.len() {
                at += 1;
                continue;
            }
            match self.pool.allocate(needed - each.blocks.len()) {
                Some(new) => self.running[at].blocks.extend(new),
                // It may be its own turn to leave.
                None => self.preempt_last(step),
            }
        }
    }

    fn preempt_last(&mut self, step: &mut Step) {
        let Some(mut last) = self.running.pop() else {
            return;
        };
        self.pool.release(&std::mem::take(&mut last.blocks));
        last.computed = 0;
        step.admitted.retain(|(id, _)| *id != last.id);
        step.preempted.push(last.id);
        self.waiting.push_front(last);
    }

    /// The tokens of a part, and the blocks of its sequence.
    pub fn inputs(&self, part: &Part) -> Option<(&[u32], &[u32])> {
        let sequence = self.running.iter().find(|each| each.id == part.id)?;
        let ids = sequence.ids.get(part.past..part.past + part.tokens)?;
        Some((ids, &sequence.blocks))
    }

    /// Tells that a part was computed.
    pub fn computed(&mut self, part: &Part) {
        let Some(sequence) = self.running.iter_mut().find(|each| each.id == part.id) else {
            return;
        };
        let block_tokens = self.pool.block_tokens();
        let before = sequence.computed / block_tokens;
        sequence.computed = part.past + part.tokens;
        let full = sequence.computed / block_tokens;
        if full > before {
            let ids = &sequence.ids[..full * block_tokens];
            let blocks = &sequence.blocks[..full];
            self.pool.remember_prefix(sequence.owner, ids, blocks);
        }
    }

    /// Adds the token that was chosen for a sequence.
    pub fn append(&mut self, id: SequenceId, token: u32) {
        if let Some(sequence) = self.running.iter_mut().find(|each| each.id == id) {
            sequence.ids.push(token);
        }
    }

    /// Lets a sequence go, wherever it stands; its blocks are free at once.
    pub fn remove(&mut self, id: SequenceId) {
        if let Some(at) = self.running.iter().position(|each| each.id == id) {
            let sequence = self.running.remove(at);
            self.pool.release(&sequence.blocks);
        }
        self.waiting.retain(|each| each.id != id);
    }
}

/// Shares a budget out: equal parts, but nobody gets more than they want. Who comes first gets the
/// remainder.
fn equal_parts(budget: usize, wanted: &[usize]) -> Vec<usize> {
    let mut parts = vec![0; wanted.len()];
    let mut left = budget;
    loop {
        let hungry: Vec<usize> = (0..wanted.len())
            .filter(|&at| parts[at] < wanted[at])
            .collect();
        if left == 0 || hungry.is_empty() {
            return parts;
        }
        let each = (left / hungry.len()).max(1);
        for at in hungry {
            let more = each.min(wanted[at] - parts[at]).min(left);
            parts[at] += more;
            left -= more;
        }
    }
}

#[cfg(test)]
mod tests;
