//! What every model must keep to, whatever it was trained for: the same answer twice, the same
//! among others, finite numbers, vectors that can have length 1, an answer to the empty text.

use retort_kernels::normalize::{faulty_rows, l2_normalize};

use super::plan::{Planner, Refusal};
use super::run::Runs;
use super::{Check, Difference, Measure, Outcome};
use crate::batch::Encoding;
use crate::heads::{Head, Heads, MultiVector, Output, SparseVector};

/// Neighbours may change the order of a sum, nothing more: this share of the largest component.
const NEIGHBOURS_LIMIT: f32 = 1e-4;
/// How far the length of a token vector may be from 1.
const UNIT_LIMIT: f32 = 1e-4;

/// Texts of different lengths and scripts, beside the empty one.
const TEXTS: [&str; 3] = [
    "Paris is the capital of France.",
    "Wo liegt Zürich? 東京はどこですか。 Где находится Москва?",
    "A retrieval model turns a text into numbers, so that texts that mean the same are near one \
     another. It must give the same numbers every time, on every machine, whatever other texts \
     happen to be computed with it; otherwise what was indexed yesterday is not found today.",
];

/// Inputs that belong to no reference.
pub(super) struct Probes {
    /// Where they are among all inputs.
    pub inputs: Vec<usize>,
    /// The one of the empty text, or why it has none.
    empty: Result<usize, Refusal>,
}

/// What is known of the model.
pub(super) struct Claims {
    pub heads: Heads,
    pub dimensions: Option<usize>,
}

/// Adds the inputs that the checks need, for all heads of the model.
pub(super) fn probes(planner: &mut Planner<'_>) -> Probes {
    let heads = planner.heads();
    let mut add = |text: &str| -> Result<usize, Refusal> {
        let encoding = probe(planner, text)?;
        Ok(planner.add(encoding, heads))
    };
    let empty = add("");
    // A text that the operator's limit is too short for is no reason to fail.
    let inputs: Vec<usize> = TEXTS.iter().filter_map(|text| add(text).ok()).collect();
    Probes { inputs, empty }
}

/// A pair for models that judge pairs, else a text.
fn probe(planner: &Planner<'_>, text: &str) -> Result<Encoding, Refusal> {
    match planner.pair_form(None) {
        Ok(form) if planner.heads() == Heads::SCORE => planner.pair(&form, "where is it?", text),
        _ => planner.text(text),
    }
}

/// All checks, in the order in which they are listed.
pub(super) fn check(claims: &Claims, probes: &Probes, runs: &Runs) -> Vec<Check> {
    if runs.alone.is_empty() {
        // A table of a few token vectors may know no word of them.
        let reason = "the model has no tokens for any of the texts".to_owned();
        return vec![skipped("properties", reason)];
    }
    let mut checks = vec![
        same_twice(probes, runs),
        same_among_others(runs),
        finite(runs),
    ];
    checks.extend(length(claims, runs));
    checks.extend(unit_length(claims, runs));
    checks.push(empty_text(probes, runs));
    checks
}

fn property(what: &str, expected: &str, got: Result<String, String>) -> Check {
    let outcome = match &got {
        Ok(_) => Outcome::Passed,
        Err(_) => Outcome::Failed,
    };
    Check {
        what: what.to_owned(),
        expected: expected.to_owned(),
        got: got.unwrap_or_else(|wrong| wrong),
        difference: None,
        outcome,
        source: None,
    }
}

fn skipped(what: &str, reason: String) -> Check {
    Check {
        outcome: Outcome::Skipped(reason),
        ..property(what, "", Ok(String::new()))
    }
}

fn same_twice(probes: &Probes, runs: &Runs) -> Check {
    let what = "same input twice";
    if probes.inputs.is_empty() {
        return skipped(what, "the model has no tokens for the texts".to_owned());
    }
    let firsts = probes.inputs.iter().map(|&index| &runs.alone[index]);
    let differing = firsts.zip(&runs.again).filter(|(first, second)| {
        let bits = |output: &Output| numbers(output).map(f32::to_bits).collect::<Vec<u32>>();
        let ids = |output: &Output| output.sparse.as_ref().map(|sparse| sparse.ids.clone());
        match (first, second) {
            (Ok(a), Ok(b)) => bits(a) != bits(b) || ids(a) != ids(b),
            _ => true,
        }
    });
    let got = match differing.count() {
        0 => Ok("the same bits".to_owned()),
        count => Err(format!("other bits for `{count}` inputs")),
    };
    property(what, "the same bits", got)
}

fn same_among_others(runs: &Runs) -> Check {
    let mut largest = 0.0_f32;
    for (alone, together) in runs.alone.iter().zip(&runs.together) {
        let off = match (alone, together) {
            (Ok(alone), Ok(together)) => difference(alone, together),
            (Err(error), _) | (_, Err(error)) => {
                return property(
                    "alone and among others",
                    "the same numbers",
                    Err(error.clone()),
                );
            }
        };
        // What is not a number stays.
        if off.is_nan() || off > largest {
            largest = off;
        }
        if largest.is_nan() {
            break;
        }
    }
    let difference = Difference {
        largest,
        limit: NEIGHBOURS_LIMIT,
        measure: Measure::Relative,
    };
    Check {
        outcome: difference.outcome(),
        difference: Some(difference),
        ..property(
            "alone and among others",
            "the same numbers",
            Ok(format!("{} inputs", runs.alone.len())),
        )
    }
}

fn finite(runs: &Runs) -> Check {
    let all = runs.alone.iter().chain(&runs.together).flatten();
    let (mut count, mut faulty) = (0_usize, 0_usize);
    for number in all.flat_map(numbers) {
        count += 1;
        faulty += usize::from(!number.is_finite());
    }
    let got = match (faulty, count) {
        (0, 0) => Err("no numbers at all".to_owned()),
        (0, count) => Ok(format!("{count} numbers")),
        (faulty, count) => Err(format!("`{faulty}` of {count} are not finite")),
    };
    property("every number is finite", "finite numbers", got)
}

fn length(claims: &Claims, runs: &Runs) -> Option<Check> {
    let published = claims.dimensions?;
    let vectors = runs.alone.iter().flatten().filter_map(|o| o.dense.as_ref());
    let lengths: Vec<usize> = vectors.map(Vec::len).collect();
    let first = *lengths.first()?;
    let wrong = lengths.iter().find(|&&length| length != published);
    let got = match wrong {
        Some(length) => Err(length.to_string()),
        None => Ok(first.to_string()),
    };
    let expected = published.to_string();
    Some(property("length of the vectors", &expected, got))
}

/// Pooled vectors can be scaled to length 1; token vectors have it.
fn unit_length(claims: &Claims, runs: &Runs) -> Option<Check> {
    let dense = claims.heads.contains(Head::Dense);
    if !dense && !claims.heads.contains(Head::MultiVector) {
        return None;
    }
    let mut largest = 0.0_f32;
    let mut count = 0;
    for output in runs.alone.iter().flatten() {
        let scaled = output.dense.clone().map(|mut vector| {
            let scaled = l2_normalize(&mut vector);
            scaled.map(|()| vector).unwrap_or_default()
        });
        let tokens = output.multi_vector.iter().flat_map(MultiVector::rows);
        for vector in scaled.iter().map(Vec::as_slice).chain(tokens) {
            let squares = vector.iter().map(|&x| f64::from(x) * f64::from(x));
            let off = (squares.sum::<f64>().sqrt() - 1.0).abs() as f32;
            count += 1;
            if off.is_nan() || off > largest {
                largest = off;
            }
        }
    }
    let difference = Difference {
        largest,
        limit: UNIT_LIMIT,
        measure: Measure::Absolute,
    };
    let none = "no vector".to_owned();
    let got = if count == 0 { Err(none) } else { Ok(()) };
    let checked = property(
        "scaled vectors have length 1",
        "1",
        got.map(|()| format!("{count} vectors")),
    );
    Some(match checked.outcome {
        Outcome::Passed => Check {
            outcome: difference.outcome(),
            difference: Some(difference),
            ..checked
        },
        _ => checked,
    })
}

fn empty_text(probes: &Probes, runs: &Runs) -> Check {
    let what = "empty text";
    let expected = "finite numbers";
    let index = match &probes.empty {
        Ok(index) => *index,
        // A table of token vectors has nothing to average for it, and says so.
        Err(Refusal::Skip(reason) | Refusal::Fail(reason)) => {
            return skipped(what, reason.clone());
        }
    };
    let got = runs.alone[index].clone().and_then(|output| {
        let faulty = output
            .dense
            .as_ref()
            .is_some_and(|vector| !faulty_rows(vector, vector.len().max(1)).is_empty());
        if faulty || !numbers(&output).all(f32::is_finite) {
            return Err("a vector that is none".to_owned());
        }
        Ok("an answer".to_owned())
    });
    property(what, expected, got)
}

/// Every number of an output.
fn numbers(output: &Output) -> impl Iterator<Item = f32> {
    let dense = output.dense.iter().flatten();
    let sparse = output.sparse.iter().flat_map(|sparse| &sparse.weights);
    let tokens = output.multi_vector.iter().flat_map(|m| &m.values);
    let scores = output.scores.iter().flatten();
    dense.chain(sparse).chain(tokens).chain(scores).copied()
}

/// How far apart two outputs are, head by head, as a share of the largest number of the first.
/// What only the second has was not asked of the first.
fn difference(alone: &Output, together: &Output) -> f32 {
    let heads = [
        lists(alone.dense.as_deref(), together.dense.as_deref()),
        lists(alone.scores.as_deref(), together.scores.as_deref()),
        lists(
            alone.multi_vector.as_ref().map(|m| &*m.values),
            together.multi_vector.as_ref().map(|m| &*m.values),
        ),
        weights(alone.sparse.as_ref(), together.sparse.as_ref()),
    ];
    worst(heads)
}

fn lists(alone: Option<&[f32]>, together: Option<&[f32]>) -> f32 {
    let (Some(alone), Some(together)) = (alone, together) else {
        return if alone.is_none() { 0.0 } else { f32::INFINITY };
    };
    if alone.len() != together.len() {
        return f32::INFINITY;
    }
    let off = worst(alone.iter().zip(together).map(|(a, b)| (a - b).abs()));
    let scale = worst(alone.iter().map(|a| a.abs()));
    if off == 0.0 { 0.0 } else { off / scale }
}

fn weights(alone: Option<&SparseVector>, together: Option<&SparseVector>) -> f32 {
    let (Some(alone), Some(together)) = (alone, together) else {
        return if alone.is_none() { 0.0 } else { f32::INFINITY };
    };
    let weight = |side: &SparseVector, id: u32| {
        let place = side.ids.binary_search(&id);
        place.map_or(0.0, |place| side.weights[place])
    };
    let ids: Vec<u32> = alone.ids.iter().chain(&together.ids).copied().collect();
    let of = |side: &SparseVector| -> Vec<f32> { ids.iter().map(|&id| weight(side, id)).collect() };
    lists(Some(&of(alone)), Some(&of(together)))
}

/// The largest, where what is not a number is larger than any.
fn worst(values: impl IntoIterator<Item = f32>) -> f32 {
    values.into_iter().fold(0.0, |worst: f32, value| {
        if worst.is_nan() || value <= worst {
            worst
        } else {
            value
        }
    })
}
