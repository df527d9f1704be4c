//! Whether a loaded model gives the numbers that were published for it, on this very machine, and
//! whether it behaves as a model must. It compares; what follows from it is the caller's affair.

mod compare;
mod plan;
mod properties;
mod run;

use std::fmt;

use crate::catalog::reference::{Expected, Inputs, Reference};
use crate::catalog::{Catalog, CatalogError, Entry};
use crate::encoder::Encode;
use crate::error::Result;
use crate::heads::Output;
use crate::heads::late_interaction::LateInteraction;
use crate::model::{EncoderInfo, EncoderModel};
use crate::tokenizer::{SpecialTokens, Tokenizer};

use self::compare::Comparison;
use self::plan::{Plan, Planner};
use self::run::Runs;

/// What is claimed of a model.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Published {
    /// Its published outputs.
    pub references: Vec<Reference>,
    /// The length of its vectors, where that is known.
    pub dimensions: Option<usize>,
}

impl Published {
    /// What a catalogue says of one of its entries.
    ///
    /// # Errors
    /// When a file of references cannot be read.
    pub fn of(catalog: &Catalog, entry: &Entry) -> Result<Self, CatalogError> {
        Ok(Self {
            references: catalog.references(&entry.name)?,
            dimensions: entry.dimensions,
        })
    }
}

/// What came of comparing a model with what is claimed of it.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Verification {
    /// One per reference, in their order.
    pub references: Vec<Check>,
    /// What every model must keep to, whatever it computes.
    pub properties: Vec<Check>,
}

/// One comparison.
#[derive(Debug, Clone, PartialEq)]
pub struct Check {
    /// What was compared.
    pub what: String,
    /// What should have come out: a few numbers, from where the difference is largest.
    pub expected: String,
    /// What came out, at the same place; or why nothing did.
    pub got: String,
    /// How far apart they are; `None` where there are no numbers to compare.
    pub difference: Option<Difference>,
    /// What that means.
    pub outcome: Outcome,
    /// Who published the numbers; `None` for what needs no publisher.
    pub source: Option<String>,
}

/// How far apart two outputs are and how far they may be.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Difference {
    /// The largest difference; not a number when an output is none.
    pub largest: f32,
    /// The largest one that is right.
    pub limit: f32,
    /// What is measured.
    pub measure: Measure,
}

/// How a difference is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Measure {
    /// Two numbers, subtracted.
    Absolute,
    /// The same, as a share of the expected number or of the largest in its vector.
    Relative,
    /// What the cosine of two vectors lacks to 1.
    Cosine,
}

/// What came of one check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It was compared and is near enough.
    Passed,
    /// It was compared, or tried, and is wrong.
    Failed,
    /// It could not be tried, for this reason; nothing is proven.
    Skipped(String),
}

impl Verification {
    /// How many published outputs were compared.
    pub fn compared(&self) -> usize {
        let is_compared = |check: &&Check| !matches!(check.outcome, Outcome::Skipped(_));
        self.references.iter().filter(is_compared).count()
    }

    /// The checks that failed: references first.
    pub fn failures(&self) -> impl Iterator<Item = &Check> {
        self.checks()
            .filter(|check| check.outcome == Outcome::Failed)
    }

    /// All checks: references first.
    pub fn checks(&self) -> impl Iterator<Item = &Check> {
        self.references.iter().chain(&self.properties)
    }

    /// Whether at least one published output was compared and nothing failed.
    pub fn is_proven(&self) -> bool {
        self.compared() > 0 && self.failures().next().is_none()
    }
}

/// Compares a model with what is claimed of it, on `threads` threads. Every input is run alone and
/// again among all others. `progress` is told how many runs are done, and of how many.
///
/// # Errors
/// When the model cannot be opened to compute; whatever fails later is a failed check.
pub fn verify(
    model: &EncoderModel,
    published: &Published,
    threads: usize,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Verification> {
    examine(model, published, &mut *model.encoder(threads)?, progress)
}

/// The same of a model's weights, whatever it is computed in: its numbers in 32-bit floating point.
///
/// # Errors
/// As `verify`.
pub fn verify_weights(
    model: &EncoderModel,
    published: &Published,
    threads: usize,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Verification> {
    let mut encoder = model.reference_encoder(threads)?;
    examine(model, published, &mut *encoder, progress)
}

fn examine(
    model: &EncoderModel,
    published: &Published,
    encoder: &mut dyn Encode,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Verification> {
    let subject = Subject {
        info: model.info(),
        tokenizer: model.tokenizer(),
        late_interaction: model.late_interaction(),
        encoder,
    };
    Ok(subject.examine(published, progress))
}

/// The parts of a model that are examined; tests put a fake encoder here.
struct Subject<'a> {
    info: &'a EncoderInfo,
    tokenizer: &'a Tokenizer,
    late_interaction: Option<&'a LateInteraction>,
    encoder: &'a mut dyn Encode,
}

impl Subject<'_> {
    fn examine(
        self,
        published: &Published,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Verification {
        let mut planner = Planner::new(self.info, self.tokenizer, self.late_interaction);
        let plans: Vec<Plan> = published
            .references
            .iter()
            .map(|reference| planner.plan(reference))
            .collect();
        let probes = properties::probes(&mut planner);
        let inputs = planner.into_inputs();
        let runs = Runs::of(self.encoder, &inputs, &probes, progress);
        let checks = published.references.iter().zip(plans);
        let references = checks
            .map(|(reference, plan)| check(reference, plan, &runs, self.tokenizer))
            .collect();
        let claims = properties::Claims {
            heads: self.info.heads,
            dimensions: published.dimensions,
        };
        Verification {
            references,
            properties: properties::check(&claims, &probes, &runs),
        }
    }
}

/// The worse of both runs of a reference's inputs.
fn check(reference: &Reference, plan: Plan, runs: &Runs, tokenizer: &Tokenizer) -> Check {
    let blank = Check {
        what: described(reference),
        expected: String::new(),
        got: String::new(),
        difference: None,
        outcome: Outcome::Failed,
        source: Some(reference.source.clone()),
    };
    let inputs = match plan {
        Plan::Run(inputs) => inputs,
        Plan::Skipped(reason) => {
            let outcome = Outcome::Skipped(reason);
            return Check { outcome, ..blank };
        }
        Plan::Failed(got) => return Check { got, ..blank },
    };
    let text_of = |id| tokenizer.decode(&[id], SpecialTokens::Keep).ok();
    let compared = |outputs: &[Result<Output, String>]| -> Result<Comparison, String> {
        let outputs: Vec<&Output> = inputs
            .iter()
            .map(|&index| outputs[index].as_ref().map_err(Clone::clone))
            .collect::<Result<_, _>>()?;
        compare::compare(reference, &outputs, &text_of)
    };
    let alone = compared(&runs.alone);
    let together = compared(&runs.together);
    match alone.and_then(|alone| Ok(alone.worse(together?))) {
        Ok(comparison) => Check {
            outcome: comparison.difference.outcome(),
            expected: comparison.expected,
            got: comparison.got,
            difference: Some(comparison.difference),
            ..blank
        },
        Err(got) => Check { got, ..blank },
    }
}

impl Difference {
    /// Whether it is small enough; what is not a number never is.
    fn outcome(self) -> Outcome {
        if self.largest <= self.limit {
            Outcome::Passed
        } else {
            Outcome::Failed
        }
    }
}

impl fmt::Display for Measure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Absolute => "absolute",
            Self::Relative => "relative",
            Self::Cosine => "cosine",
        })
    }
}

/// One line for a log or an error: what, expected, got, difference, limit, source.
impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.what)?;
        if let Outcome::Skipped(reason) = &self.outcome {
            return write!(f, ": skipped, {reason}");
        }
        if !self.expected.is_empty() {
            write!(f, ": expected `{}`", self.expected)?;
        }
        write!(f, ", got `{}`", self.got)?;
        if let Some(Difference {
            largest,
            limit,
            measure,
        }) = self.difference
        {
            write!(
                f,
                ", {measure} difference `{largest:.2e}`, limit `{limit:.1e}`"
            )?;
        }
        match &self.source {
            Some(source) => write!(f, " ({source})"),
            None => Ok(()),
        }
    }
}

/// What a reference compares, in a few words.
fn described(reference: &Reference) -> String {
    let kind = match &reference.expected {
        Expected::Dense { dimensions, .. } => match dimensions {
            Some(dimensions) => format!("dense cut to {dimensions}"),
            None => "dense".to_owned(),
        },
        Expected::DenseSum { .. } => "dense, summed".to_owned(),
        Expected::Similarity { .. } => "similarity".to_owned(),
        Expected::Sparse { .. } => "sparse".to_owned(),
        Expected::SparseByToken { .. } => "sparse by token".to_owned(),
        Expected::Lexical { .. } => "lexical match".to_owned(),
        Expected::LateInteraction { .. } => "late interaction".to_owned(),
        Expected::Scores { layer: None, .. } => "scores".to_owned(),
        Expected::Scores {
            layer: Some(layer), ..
        } => format!("scores of layer {layer}"),
    };
    let counted = |count: usize, noun: &str| match count {
        1 => format!("1 {noun}"),
        many => format!("{many} {noun}s"),
    };
    let inputs = match &reference.inputs {
        Inputs::Texts { texts } => counted(texts.len(), "text"),
        Inputs::Pairs { pairs } => counted(pairs.len(), "pair"),
        Inputs::Grid { queries, documents } => {
            format!("{} by {}", queries.len(), documents.len())
        }
    };
    let prompt = match &reference.prompt {
        Some(_) => ", prompted",
        None => "",
    };
    let adapter = match &reference.adapter {
        Some(adapter) => format!(", {adapter}"),
        None => String::new(),
    };
    format!("{kind}, {inputs}{prompt}{adapter}")
}

#[cfg(test)]
mod tests;
