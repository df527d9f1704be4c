//! The policy alone: what is computed is what is there, everybody gets on, nothing is lost.

use std::collections::{HashMap, HashSet};

use proptest::prelude::*;

use super::*;

const LIMITS: SchedulerLimits = SchedulerLimits {
    max_sequences: 4,
    max_step_tokens: 16,
    max_prefill_tokens: 8,
};

fn scheduler(blocks: usize) -> Scheduler {
    Scheduler::new(LIMITS, BlockPool::new(blocks, 4))
}

fn arrival(id: SequenceId, prompt: &[u32]) -> Arrival {
    Arrival {
        id,
        prompt: prompt.to_vec(),
        owner: [0; 32],
        after: None,
        ahead: 0,
    }
}

/// Runs a step: whoever has logits gets `token`. What was computed, as `(id, past, tokens)`.
fn run(scheduler: &mut Scheduler, token: u32) -> Vec<(SequenceId, usize, usize)> {
    let step = scheduler.plan();
    for part in &step.parts {
        scheduler.computed(part);
        if part.wants_logits {
            scheduler.append(part.id, token);
        }
    }
    step.parts
        .iter()
        .map(|part| (part.id, part.past, part.tokens))
        .collect()
}

#[test]
fn a_long_prompt_comes_in_chunks_and_others_write_meanwhile() {
    let mut scheduler = scheduler(64);
    scheduler.push(arrival(1, &[7]));
    assert_eq!(run(&mut scheduler, 9), [(1, 0, 1)]);
    scheduler.push(arrival(2, &[8; 40]));
    for step in 0..5 {
        let expected = [(1, 1 + step, 1), (2, 8 * step, 8)];
        assert_eq!(run(&mut scheduler, 9), expected);
    }
    // It writes from here on.
    assert_eq!(run(&mut scheduler, 9), [(1, 6, 1), (2, 40, 1)]);
}

#[test]
fn with_nobody_writing_a_prompt_gets_whole_steps() {
    let mut scheduler = scheduler(64);
    scheduler.push(arrival(1, &[7; 40]));
    assert_eq!(run(&mut scheduler, 9), [(1, 0, 16)]);
    // A short prompt that comes later overtakes it.
    scheduler.push(arrival(2, &[8; 5]));
    assert_eq!(run(&mut scheduler, 9), [(1, 16, 11), (2, 0, 5)]);
    assert_eq!(run(&mut scheduler, 9), [(1, 27, 8), (2, 5, 1)]);
}

#[test]
fn who_does_not_fit_waits_in_the_order_of_arrival() {
    let mut scheduler = scheduler(5);
    scheduler.push(arrival(1, &[1; 12]));
    scheduler.push(arrival(2, &[2; 12]));
    scheduler.push(arrival(3, &[3; 2]));
    assert_eq!(run(&mut scheduler, 9), [(1, 0, 12)]);
    assert_eq!((scheduler.running(), scheduler.waiting_tokens()), (1, 14));
    scheduler.remove(1);
    assert_eq!(scheduler.plan().admitted, [(2, 0), (3, 0)]);
}

#[test]
fn the_last_to_come_gives_way_and_is_computed_again() {
    let mut scheduler = scheduler(4);
    scheduler.push(arrival(1, &[1; 7]));
    assert_eq!(run(&mut scheduler, 9), [(1, 0, 7)]);
    scheduler.push(arrival(2, &[2; 3]));
    assert_eq!(run(&mut scheduler, 9), [(1, 7, 1), (2, 0, 3)]);
    // The first needs its third block here, and the second its second two steps later.
    assert_eq!(run(&mut scheduler, 9), [(1, 8, 1), (2, 3, 1)]);
    let mut steps = 0;
    let step = loop {
        let step = scheduler.plan();
        if !step.preempted.is_empty() {
            break step;
        }
        for part in &step.parts {
            scheduler.computed(part);
            scheduler.append(part.id, 9);
        }
        steps += 1;
        assert!(steps < 20, "nobody gave way");
    };
    assert_eq!(step.preempted, [2]);
    assert_eq!(step.parts.len(), 1);
    scheduler.remove(1);
    let again = scheduler.plan();
    assert_eq!(again.admitted.len(), 1);
    let (id, cached) = again.admitted[0];
    assert_eq!(id, 2);
    // What it had computed in whole blocks may be there still.
    assert_eq!(again.parts[0].past, cached);
    assert!(again.parts[0].wants_logits);
}

#[test]
fn answers_to_one_prompt_share_it() {
    let mut scheduler = scheduler(64);
    let prompt = [5; 11];
    scheduler.push(arrival(1, &prompt));
    for id in [2, 3] {
        scheduler.push(Arrival {
            after: Some(1),
            ..arrival(id, &prompt)
        });
    }
    assert_eq!(run(&mut scheduler, 9), [(1, 0, 11)]);
    let step = scheduler.plan();
    assert_eq!(step.admitted, [(2, 8), (3, 8)]);
    assert_eq!(scheduler.blocks(), (2 + 3, 64));
    // A leader that leaves lets the others go.
    let mut scheduler = self::scheduler(64);
    scheduler.push(arrival(1, &prompt));
    scheduler.push(Arrival {
        after: Some(1),
        ..arrival(2, &prompt)
    });
    scheduler.remove(1);
    assert_eq!(scheduler.plan().admitted, [(2, 0)]);
}

#[test]
fn who_leaves_frees_everything_at_once() {
    let mut scheduler = scheduler(8);
    scheduler.push(arrival(1, &[1; 9]));
    scheduler.push(arrival(2, &[2; 9]));
    run(&mut scheduler, 9);
    scheduler.remove(1);
    scheduler.remove(2);
    assert!(scheduler.is_idle());
    assert_eq!(scheduler.blocks().0, 0);
}

#[test]
fn a_budget_is_shared_out() {
    assert_eq!(equal_parts(12, &[2, 100, 100]), [2, 5, 5]);
    assert_eq!(equal_parts(2, &[9, 9, 9]), [1, 1, 0]);
    assert_eq!(equal_parts(100, &[3, 4]), [3, 4]);
    assert_eq!(equal_parts(5, &[]), [] as [usize; 0]);
}

/// A sequence of the property test: what it shall become, and when it leaves by itself.
#[derive(Debug, Clone)]
struct Plan {
    prompt: Vec<u32>,
    answer: usize,
    arrives: usize,
    leaves: Option<usize>,
}

fn plans() -> impl Strategy<Value = Vec<Plan>> {
    let plan = (
        proptest::collection::vec(0u32..2, 1..24),
        1usize..20,
        0usize..30,
        proptest::option::weighted(0.2, 0usize..60),
    );
    let plan = plan.prop_map(|(prompt, answer, arrives, leaves)| Plan {
        prompt,
        answer,
        arrives,
        leaves,
    });
    proptest::collection::vec(plan, 1..14)
}

proptest! {
    /// Whoever comes, whenever they leave, with a cache that is much too small: steps are within
    /// bounds, whoever writes is in every step, what is read was written by the same text, and
    /// everybody is answered.
    #[test]
    fn everybody_is_answered_and_nobody_is_mixed_up(plans in plans(), blocks in 11usize..30) {
        let mut scheduler = scheduler(blocks);
        // The text that each place of the cache was computed for.
        let mut cache: HashMap<(u32, usize), Vec<u32>> = HashMap::new();
        let mut texts: HashMap<SequenceId, Vec<u32>> = HashMap::new();
        let mut open: HashSet<SequenceId> = HashSet::new();
        let mut answered = 0;
        for now in 0.. {
            prop_assert!(now < 3_000, "it goes on for ever");
            for (id, plan) in (0..).zip(&plans) {
                if plan.arrives == now {
                    scheduler.push(arrival(id, &plan.prompt));
                    texts.insert(id, plan.prompt.clone());
                    open.insert(id);
                }
                if plan.leaves == Some(now) && open.remove(&id) {
                    scheduler.remove(id);
                }
            }
            if open.is_empty() && now > 60 {
                break;
            }
            let before: Vec<(SequenceId, usize)> =
                scheduler.running.iter().map(|s| (s.id, s.remaining())).collect();
            let step = scheduler.plan();
            let tokens: usize = step.parts.iter().map(|part| part.tokens).sum();
            prop_assert!(tokens <= LIMITS.max_step_tokens);
            prop_assert!(scheduler.running() <= LIMITS.max_sequences);
            prop_assert!(open.is_empty() || tokens > 0, "nobody gets on");
            for (id, remaining) in before {
                let is_in = step.parts.iter().any(|part| part.id == id);
                prop_assert!(remaining > 1 || is_in || step.preempted.contains(&id));
            }
            let mut written = HashSet::new();
            for part in &step.parts {
                let text = &texts[&part.id];
                let (ids, blocks) = scheduler.inputs(part).unwrap();
                prop_assert_eq!(ids, &text[part.past..part.past + part.tokens]);
                for at in 0..part.past {
                    let place = (blocks[at / 4], at % 4);
                    prop_assert_eq!(cache.get(&place).map(Vec::as_slice), Some(&text[..=at]));
                }
                for at in part.past..part.past + part.tokens {
                    let place = (blocks[at / 4], at % 4);
                    prop_assert!(written.insert(place), "two write to one place");
                    cache.insert(place, text[..=at].to_vec());
                }
            }
            for part in &step.parts {
                scheduler.computed(part);
                if !part.wants_logits {
                    continue;
                }
                let text = texts.get_mut(&part.id).unwrap();
                let plan = &plans[usize::try_from(part.id).unwrap()];
                text.push(u32::try_from(text.len() % 2).unwrap());
                if text.len() == plan.prompt.len() + plan.answer {
                    scheduler.remove(part.id);
                    open.remove(&part.id);
                    answered += 1;
                } else {
                    scheduler.append(part.id, text[text.len() - 1]);
                }
            }
        }
        let left = plans.iter().filter(|plan| plan.leaves.is_some()).count();
        prop_assert!(answered + left >= plans.len());
        prop_assert_eq!(scheduler.blocks().0, 0);
        prop_assert!(scheduler.is_idle());
    }
}

/// A call of many prompts, of which each is done as soon as it is computed.
fn call(scheduler: &mut Scheduler, ids: std::ops::Range<SequenceId>) {
    for (ahead, id) in ids.enumerate() {
        scheduler.push(Arrival {
            ahead,
            ..arrival(id, &[7; 8])
        });
    }
}

fn admitted(scheduler: &mut Scheduler) -> Vec<SequenceId> {
    let step = scheduler.plan();
    for part in &step.parts {
        scheduler.computed(part);
    }
    for part in step.parts.iter().filter(|part| part.wants_logits) {
        scheduler.remove(part.id);
    }
    step.admitted.iter().map(|(id, _)| *id).collect()
}

#[test]
fn nobody_stands_behind_all_prompts_of_a_call() {
    let mut scheduler = Scheduler::new(
        SchedulerLimits {
            max_sequences: 2,
            ..LIMITS
        },
        BlockPool::new(64, 4),
    );
    call(&mut scheduler, 0..20);
    assert_eq!(admitted(&mut scheduler), [0, 1]);
    // Behind the third, which has the same round, and before the fourth.
    scheduler.push(arrival(100, &[9; 8]));
    assert_eq!(admitted(&mut scheduler), [2, 100]);
    // Nor does the call stand behind all who come: each has half of the places.
    for id in 3..20 {
        scheduler.push(arrival(200 + id, &[9; 8]));
        assert_eq!(admitted(&mut scheduler), [id, 200 + id]);
    }
    assert!(scheduler.is_idle());
}
