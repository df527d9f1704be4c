//! One token from one row of logits. Nothing outside the row has a say, so batch mates do not
//! matter; nothing is random but the number that the answer and the place give.

use retort_models::GenerationDefaults;

use super::{
    penalties::{Penalties, PenaltyPlan},
    random::Random,
};
use crate::{
    engine::request::Sampling,
    error::{Error, Result},
};

/// How tokens are chosen, with nothing left open.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SamplingPlan {
    /// 0 takes the likeliest.
    pub temperature: f32,
    /// 0 keeps all.
    pub top_k: usize,
    /// 1 keeps all.
    pub top_p: f32,
    /// 0 keeps all.
    pub min_p: f32,
    /// For tokens that are there already.
    pub penalties: PenaltyPlan,
    /// Where the random numbers come from.
    pub seed: u64,
}

impl SamplingPlan {
    /// What a request means for a model.
    ///
    /// # Errors
    /// When a number is outside its range.
    pub fn new(wish: &Sampling, defaults: &GenerationDefaults) -> Result<Self> {
        let penalty = 2.0;
        Ok(Self {
            temperature: within("temperature", wish.temperature, 0.0, 2.0)?
                .or(match defaults.do_sample {
                    Some(false) => Some(0.0),
                    Some(true) | None => defaults.temperature,
                })
                .unwrap_or(1.0),
            top_k: wish
                .top_k
                .or(defaults.top_k.map(|top_k| top_k as usize))
                .unwrap_or(0),
            top_p: within("top_p", wish.top_p, 0.0, 1.0)?
                .or(defaults.top_p)
                .unwrap_or(1.0),
            min_p: within("min_p", wish.min_p, 0.0, 1.0)?
                .or(defaults.min_p)
                .unwrap_or(0.0),
            penalties: PenaltyPlan {
                repetition: within(
                    "repetition_penalty",
                    wish.repetition_penalty,
                    // Beyond these a logit may leave the range of its type.
                    0.01,
                    100.0,
                )?
                .or(defaults.repetition_penalty)
                .unwrap_or(1.0),
                presence: within("presence_penalty", wish.presence_penalty, -penalty, penalty)?
                    .unwrap_or(0.0),
                frequency: within(
                    "frequency_penalty",
                    wish.frequency_penalty,
                    -penalty,
                    penalty,
                )?
                .unwrap_or(0.0),
            },
            seed: wish
                .seed
                .unwrap_or_else(|| uuid::Uuid::new_v4().as_u64_pair().1),
        })
    }
}

fn within(name: &'static str, value: Option<f32>, min: f32, max: f32) -> Result<Option<f32>> {
    match value {
        // Not a number is not within either.
        Some(value) if !(min..=max).contains(&value) => {
            let message = format!("`{name}` is {value}; it has to be {min} to {max}");
            Err(Error::invalid(name, message))
        }
        value => Ok(value),
    }
}

/// A token and its weight.
type Candidate = (u32, f32);

/// The larger first; of equals, the smaller id.
pub fn descending(a: &Candidate, b: &Candidate) -> std::cmp::Ordering {
    b.1.total_cmp(&a.1).then(a.0.cmp(&b.0))
}

/// What is wrong with a row of logits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// A bug of the model.
    #[error("the model returned logits that are not finite")]
    NotFinite,
    /// A bug of the form.
    #[error("the required form allows no token here")]
    NothingAllowed,
}

/// Chooses the tokens of one answer.
#[derive(Debug, Clone)]
pub struct Sampler {
    plan: SamplingPlan,
    penalties: Penalties,
    random: Random,
    position: usize,
}

impl Sampler {
    /// For one of the answers to a prompt.
    pub fn new(plan: SamplingPlan, prompt: &[u32], choice: usize) -> Self {
        Self {
            plan,
            penalties: Penalties::new(plan.penalties, prompt),
            random: Random::new(plan.seed, choice),
            position: 0,
        }
    }

    /// Refuses what no sampling can make sense of; negative infinity only excludes a token.
    ///
    /// # Errors
    /// [`Fault::NotFinite`].
    pub fn check(logits: &[f32]) -> Result<(), Fault> {
        let bad = |logit: &f32| logit.is_nan() || *logit == f32::INFINITY;
        if logits.iter().any(bad) || !logits.iter().any(|logit| logit.is_finite()) {
            return Err(Fault::NotFinite);
        }
        Ok(())
    }

    /// Changes the logits of tokens that are there already. `[vocab]`
    pub fn penalize(&self, logits: &mut [f32]) {
        self.penalties.apply(logits);
    }

    /// The next token. `logits` is `[vocab]`; negative infinity excludes.
    ///
    /// # Errors
    /// [`Fault::NothingAllowed`] when all are excluded.
    pub fn choose(&mut self, logits: &[f32]) -> Result<u32, Fault> {
        let number = self.random.at(self.position);
        let id = pick(&self.plan, logits, number).ok_or(Fault::NothingAllowed)?;
        self.position += 1;
        self.penalties.note(id);
        Ok(id)
    }
}

/// The token that a random number means: temperature, then min-p, top-k and top-p in the order of
/// vLLM; among what is left, the ids in their order share the numbers from 0 to 1.
fn pick(plan: &SamplingPlan, logits: &[f32], number: f64) -> Option<u32> {
    let all = (0u32..).zip(logits.iter().copied());
    let (best, max) = all.clone().min_by(descending)?;
    if max == f32::NEG_INFINITY {
        return None;
    }
    if plan.temperature == 0.0 || plan.top_k == 1 {
        return Some(best);
    }
    let weight = |(id, logit): Candidate| (id, ((logit - max) / plan.temperature).exp());
    let min = plan.min_p.max(f32::MIN_POSITIVE);
    let kept = all.map(weight).filter(|(_, weight)| *weight >= min);
    let mut kept: Vec<Candidate> = kept.collect();
    keep_most(&mut kept, plan.top_k);
    keep_mass(&mut kept, plan.top_p);
    kept.sort_unstable_by_key(|(id, _)| *id);
    let mut left = number * mass(&kept);
    for (id, weight) in &kept {
        left -= f64::from(*weight);
        if left < 0.0 {
            return Some(*id);
        }
    }
    // Rounding may leave a little.
    kept.last().map(|(id, _)| *id)
}

fn mass(kept: &[Candidate]) -> f64 {
    kept.iter().map(|(_, weight)| f64::from(*weight)).sum()
}

/// Keeps the `top_k` heaviest; 0 keeps all.
fn keep_most(kept: &mut Vec<Candidate>, top_k: usize) {
    if top_k > 0 && top_k < kept.len() {
        kept.select_nth_unstable_by(top_k - 1, descending);
        kept.truncate(top_k);
    }
}

/// Keeps the fewest of the heaviest that together have `top_p` of all weight (Holtzman et al.
/// 2020); at least one.
fn keep_mass(kept: &mut Vec<Candidate>, top_p: f32) {
    if top_p >= 1.0 {
        return;
    }
    let wanted = f64::from(top_p) * mass(kept);
    // Few are needed as a rule, so not all are sorted.
    let mut sorted = 64;
    loop {
        if sorted < kept.len() {
            kept.select_nth_unstable_by(sorted - 1, descending);
        }
        let end = sorted.min(kept.len());
        kept[..end].sort_unstable_by(descending);
        let mut sum = 0.0;
        let reached = kept[..end].iter().position(|(_, weight)| {
            sum += f64::from(*weight);
            sum >= wanted
        });
        if let Some(last) = reached {
            kept.truncate(last + 1);
            return;
        }
        if end == kept.len() {
            return;
        }
        sorted *= 8;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PLAIN: SamplingPlan = SamplingPlan {
        temperature: 1.0,
        top_k: 0,
        top_p: 1.0,
        min_p: 0.0,
        penalties: PenaltyPlan::NONE,
        seed: 0,
    };

    /// The definition: everything sorted, everything a probability.
    fn plainly(plan: &SamplingPlan, logits: &[f32], number: f64) -> Option<u32> {
        let mut all: Vec<(u32, f64)> = (0..)
            .zip(logits.iter().map(|&l| f64::from(l)))
            .filter(|(_, logit)| *logit > f64::NEG_INFINITY)
            .collect();
        all.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        if plan.temperature == 0.0 {
            return all.first().map(|(id, _)| *id);
        }
        let max = all.first()?.1;
        let weigh =
            |(id, logit): (u32, f64)| (id, ((logit - max) / f64::from(plan.temperature)).exp());
        let mut all: Vec<(u32, f64)> = all.into_iter().map(weigh).collect();
        all.retain(|(_, weight)| *weight >= f64::from(plan.min_p));
        if plan.top_k > 0 {
            all.truncate(plan.top_k);
        }
        let total: f64 = all.iter().map(|(_, weight)| weight).sum();
        let mut sum = 0.0;
        let enough = all.iter().position(|(_, weight)| {
            sum += weight;
            plan.top_p < 1.0 && sum >= f64::from(plan.top_p) * total
        });
        all.truncate(enough.map_or(all.len(), |last| last + 1));
        all.sort_by_key(|(id, _)| *id);
        let total: f64 = all.iter().map(|(_, weight)| weight).sum();
        let mut sum = 0.0;
        let hit = all.iter().find(|(_, weight)| {
            sum += weight / total;
            number < sum
        });
        hit.or(all.last()).map(|(id, _)| *id)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(400))]
        /// The fast way and the definition agree, but for numbers that lie on an edge.
        #[test]
        fn the_definition(
            logits in proptest::collection::vec(
                prop_oneof![9 => -6.0f32..6.0, 1 => Just(f32::NEG_INFINITY)], 1..200),
            temperature in prop_oneof![Just(0.0f32), 0.05f32..2.0],
            top_k in prop_oneof![Just(0usize), 1usize..250],
            top_p in prop_oneof![Just(1.0f32), 0.0f32..1.0],
            min_p in prop_oneof![Just(0.0f32), 0.0f32..0.5],
            number in 0.0f64..1.0,
        ) {
            let plan = SamplingPlan { temperature, top_k, top_p, min_p, ..PLAIN };
            let close = [number - 1e-5, number, number + 1e-5]
                .map(|number| plainly(&plan, &logits, number.clamp(0.0, 1.0)));
            let picked = pick(&plan, &logits, number);
            // A cut at top_p or min_p that lies within rounding moves the others a little.
            let nudged = [1.0 - 1e-5, 1.0 + 1e-5].map(|nudge| {
                let plan = SamplingPlan { top_p: top_p * nudge, min_p: min_p * nudge, ..plan };
                plainly(&plan, &logits, number)
            });
            prop_assert!(close.contains(&picked) || nudged.contains(&picked),
                "{picked:?} {close:?} {nudged:?}");
        }
    }

    #[test]
    fn frequencies_are_the_probabilities() {
        let logits: Vec<f32> = [0.5f32, 0.3, 0.2].map(f32::ln).to_vec();
        let random = Random::new(11, 0);
        let mut counts = [0usize; 3];
        for at in 0..20_000 {
            counts[pick(&PLAIN, &logits, random.at(at)).unwrap() as usize] += 1;
        }
        for (count, expected) in counts.into_iter().zip([10_000usize, 6_000, 4_000]) {
            assert!(count.abs_diff(expected) < 450, "{counts:?}");
        }
    }

    #[test]
    fn the_same_seed_chooses_the_same() {
        let logits: Vec<f32> = (0..50).map(|i| (i as f32 * 0.7).sin()).collect();
        let run = |seed, choice| -> Vec<u32> {
            let plan = SamplingPlan { seed, ..PLAIN };
            let mut sampler = Sampler::new(plan, &[], choice);
            (0..20).map(|_| sampler.choose(&logits).unwrap()).collect()
        };
        assert_eq!(run(1, 0), run(1, 0));
        assert_ne!(run(1, 0), run(2, 0));
        assert_ne!(run(1, 0), run(1, 1));
    }

    #[test]
    fn rows_without_sense_are_refused() {
        assert_eq!(Sampler::check(&[0.0, f32::NAN]), Err(Fault::NotFinite));
        assert_eq!(Sampler::check(&[0.0, f32::INFINITY]), Err(Fault::NotFinite));
        assert_eq!(Sampler::check(&[f32::NEG_INFINITY]), Err(Fault::NotFinite));
        assert_eq!(Sampler::check(&[0.0, f32::NEG_INFINITY]), Ok(()));
        let mut sampler = Sampler::new(PLAIN, &[], 0);
        let none = sampler.choose(&[f32::NEG_INFINITY; 3]);
        assert_eq!(none, Err(Fault::NothingAllowed));
    }

    #[test]
    fn what_is_not_given_is_the_checkpoints_and_ranges_are_kept() {
        let defaults = GenerationDefaults {
            temperature: Some(0.7),
            top_p: Some(0.8),
            top_k: Some(20),
            repetition_penalty: Some(1.1),
            ..GenerationDefaults::default()
        };
        let plan = SamplingPlan::new(&Sampling::default(), &defaults).unwrap();
        assert_eq!((plan.temperature, plan.top_k), (0.7, 20));
        assert_eq!((plan.top_p, plan.penalties.repetition), (0.8, 1.1));
        let check = |wish: Sampling, field: &str| {
            let error = SamplingPlan::new(&wish, &defaults).unwrap_err();
            assert_eq!(error.param(), Some(field), "{error}");
        };
        let none = Sampling::default();
        check(
            Sampling {
                temperature: Some(2.1),
                ..none
            },
            "temperature",
        );
        check(
            Sampling {
                temperature: Some(f32::NAN),
                ..none
            },
            "temperature",
        );
        check(
            Sampling {
                top_p: Some(-0.1),
                ..none
            },
            "top_p",
        );
        check(
            Sampling {
                min_p: Some(1.1),
                ..none
            },
            "min_p",
        );
        check(
            Sampling {
                repetition_penalty: Some(0.0),
                ..none
            },
            "repetition_penalty",
        );
        check(
            Sampling {
                presence_penalty: Some(-3.0),
                ..none
            },
            "presence_penalty",
        );
        check(
            Sampling {
                frequency_penalty: Some(3.0),
                ..none
            },
            "frequency_penalty",
        );
    }
}
