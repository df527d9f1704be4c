//! What is taken from the logits of tokens that are there already.

use std::collections::{HashMap, HashSet};

/// How much is taken.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PenaltyPlan {
    /// Divides positive and multiplies negative logits of tokens of the prompt and the answer; 1
    /// changes nothing (Keskar et al. 2019).
    pub repetition: f32,
    /// Taken once from the tokens of the answer.
    pub presence: f32,
    /// Taken from the tokens of the answer for each time that it has them.
    pub frequency: f32,
}

impl PenaltyPlan {
    /// Changes nothing.
    pub const NONE: Self = Self {
        repetition: 1.0,
        presence: 0.0,
        frequency: 0.0,
    };
}

/// The penalties of one answer.
#[derive(Debug, Clone)]
pub struct Penalties {
    plan: PenaltyPlan,
    /// Tokens of the prompt; not filled where nothing asks for them.
    prompt: HashSet<u32>,
    /// Tokens of the answer, and how often.
    answer: HashMap<u32, u32>,
}

impl Penalties {
    /// An answer that has nothing yet.
    pub fn new(plan: PenaltyPlan, prompt: &[u32]) -> Self {
        let prompt = match plan.repetition == 1.0 {
            true => HashSet::new(),
            false => prompt.iter().copied().collect(),
        };
        Self {
            plan,
            prompt,
            answer: HashMap::new(),
        }
    }

    /// The answer has one more token.
    pub fn note(&mut self, id: u32) {
        if self.plan != PenaltyPlan::NONE {
            *self.answer.entry(id).or_default() += 1;
        }
    }

    /// Changes logits, `[vocab]`: repetition first, then frequency and presence.
    pub fn apply(&self, logits: &mut [f32]) {
        let plan = self.plan;
        let only_prompt = self
            .prompt
            .iter()
            .filter(|id| !self.answer.contains_key(id));
        for &id in only_prompt.chain(self.answer.keys()) {
            if let Some(logit) = logits.get_mut(id as usize) {
                *logit = match *logit > 0.0 {
                    true => *logit / plan.repetition,
                    false => *logit * plan.repetition,
                };
            }
        }
        for (&id, &count) in &self.answer {
            if let Some(logit) = logits.get_mut(id as usize) {
                *logit -= plan.frequency * count as f32 + plan.presence;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// As the papers and OpenAI's documentation define them, token by token.
        #[test]
        fn as_defined(
            logits in proptest::collection::vec(-5.0f32..5.0, 8),
            prompt in proptest::collection::vec(0u32..10, 0..6),
            answer in proptest::collection::vec(0u32..10, 0..6),
            repetition in 0.5f32..2.0,
            presence in -2.0f32..2.0,
            frequency in -2.0f32..2.0,
        ) {
            let plan = PenaltyPlan { repetition, presence, frequency };
            let mut penalties = Penalties::new(plan, &prompt);
            answer.iter().for_each(|&id| penalties.note(id));
            let mut changed = logits.clone();
            penalties.apply(&mut changed);
            for (id, (&before, &after)) in logits.iter().zip(&changed).enumerate() {
                let count = answer.iter().filter(|&&t| t as usize == id).count();
                let seen = count > 0 || prompt.contains(&(id as u32));
                let mut expected = before;
                if seen {
                    let factor = if before > 0.0 { 1.0 / repetition } else { repetition };
                    expected *= factor;
                }
                expected -= frequency * count as f32;
                expected -= if count > 0 { presence } else { 0.0 };
                prop_assert!((after - expected).abs() < 1e-4, "{} {}", after, expected);
            }
        }
    }

    #[test]
    fn nothing_is_taken_by_default() {
        let mut penalties = Penalties::new(PenaltyPlan::NONE, &[0]);
        penalties.note(1);
        let mut logits = [1.0, -1.0];
        penalties.apply(&mut logits);
        assert_eq!(logits, [1.0, -1.0]);
    }
}
