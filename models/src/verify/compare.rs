//! The outputs of one reference's inputs against its expected values. Pure; whatever does not
//! belong together is an error and never a pass.

use std::collections::BTreeMap;

use retort_kernels::normalize::l2_normalize;

use super::{Difference, Measure};
use crate::catalog::reference::{Activation, Expected, Inputs, Part, Reference, Scale, Tolerance};
use crate::heads::{MultiVector, Output, SparseVector};

/// Numbers that are shown of each side.
const SHOWN: usize = 3;

/// How two sides compare.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Comparison {
    pub expected: String,
    pub got: String,
    pub difference: Difference,
}

/// Numbers that belong together, such as those of one vector.
#[derive(Debug, Default)]
struct Row {
    expected: Vec<f32>,
    got: Vec<f32>,
}

impl Comparison {
    /// The one that is further off.
    pub fn worse(self, other: Self) -> Self {
        // What is not a number is worse than anything.
        if self.difference.largest.is_nan() || other.difference.largest <= self.difference.largest {
            self
        } else {
            other
        }
    }
}

/// Compares; `text_of` gives the text of a token.
pub(super) fn compare(
    reference: &Reference,
    outputs: &[&Output],
    text_of: &dyn Fn(u32) -> Option<String>,
) -> Result<Comparison, String> {
    let rows = match &reference.expected {
        Expected::Dense { values, .. } => {
            let vector = |(expected, output): (&Vec<f32>, &&Output)| {
                dense_row(&reference.expected, expected, output)
            };
            paired(values, outputs)?.map(vector).collect()
        }
        Expected::DenseSum { values } => paired(values, outputs)?
            .map(|(&expected, output)| Ok(Row::one(expected, sum(&unit(output)?))))
            .collect(),
        Expected::Similarity { values } => grid(reference, values, outputs, &|query, document| {
            Ok(dot(&unit(query)?, &unit(document)?))
        }),
        Expected::Sparse { part, values } => paired(values, outputs)?
            .map(|(expected, output)| sparse_row(*part, expected, sparse(output)?))
            .collect(),
        Expected::SparseByToken { values } => paired(values, outputs)?
            .map(|(expected, output)| Ok(token_row(expected, &by_token(sparse(output)?, text_of)?)))
            .collect(),
        Expected::Lexical { values } => grid(reference, values, outputs, &|query, document| {
            Ok(lexical(sparse(query)?, sparse(document)?))
        }),
        Expected::LateInteraction { values } => {
            grid(reference, values, outputs, &|query, document| {
                late_interaction(multi_vector(query)?, multi_vector(document)?)
            })
        }
        Expected::Scores {
            activation, values, ..
        } => values
            .iter()
            .map(|&(index, expected)| {
                let output = outputs
                    .get(index)
                    .ok_or_else(|| format!("the reference has a score but no input `{index}`"))?;
                Ok(Row::one(expected, score(*activation, output)?))
            })
            .collect(),
    };
    let rows: Vec<Row> = rows.and_then(checked)?;
    match reference.tolerance {
        Tolerance::Absolute(limit) => Ok(by_number(&rows, Measure::Absolute, limit)),
        Tolerance::Relative(limit) => Ok(by_number(&rows, Measure::Relative, limit)),
        Tolerance::Cosine(least) => by_cosine(&reference.expected, &rows, least),
    }
}

/// Each expected value with its output.
fn paired<'a, T>(
    values: &'a [T],
    outputs: &'a [&'a Output],
) -> Result<impl Iterator<Item = (&'a T, &'a &'a Output)>, String> {
    if values.len() == outputs.len() {
        return Ok(values.iter().zip(outputs));
    }
    Err(format!(
        "the reference has values for `{}` inputs and `{}` inputs",
        values.len(),
        outputs.len()
    ))
}

type Match<'a> = dyn Fn(&Output, &Output) -> Result<f32, String> + 'a;

/// A value for each query and document.
fn grid(
    reference: &Reference,
    values: &[Vec<f32>],
    outputs: &[&Output],
    compute: &Match<'_>,
) -> Result<Vec<Row>, String> {
    let Inputs::Grid { queries, documents } = &reference.inputs else {
        return Err("the reference has no queries and documents".to_owned());
    };
    if outputs.len() != queries.len() + documents.len() {
        return Err("the reference has more inputs than outputs".to_owned());
    }
    let (queries, documents) = outputs.split_at(queries.len());
    let row = |(expected, query): (&Vec<f32>, &&Output)| {
        let got: Result<Vec<f32>, String> = documents
            .iter()
            .map(|document| compute(query, document))
            .collect();
        Ok(Row {
            expected: expected.clone(),
            got: got?,
        })
    };
    paired(values, queries)?.map(row).collect()
}

impl Row {
    fn one(expected: f32, got: f32) -> Self {
        Self {
            expected: vec![expected],
            got: vec![got],
        }
    }
}

/// There are numbers, and as many on both sides.
fn checked(rows: Vec<Row>) -> Result<Vec<Row>, String> {
    for row in &rows {
        let (expected, got) = (row.expected.len(), row.got.len());
        if expected != got {
            return Err(format!("`{got}` numbers where `{expected}` were published"));
        }
    }
    if rows.iter().all(|row| row.expected.is_empty()) {
        return Err("the reference has no numbers".to_owned());
    }
    Ok(rows)
}

fn dense(output: &Output) -> Result<&[f32], String> {
    let vector = output.dense.as_deref();
    vector.ok_or_else(|| "no vector".to_owned())
}

/// The vector at length 1.
fn unit(output: &Output) -> Result<Vec<f32>, String> {
    let mut vector = dense(output)?.to_vec();
    l2_normalize(&mut vector).map_err(|fault| format!("a vector that is {fault}"))?;
    Ok(vector)
}

/// Cut first, scaled then, and of that the published part.
fn dense_row(how: &Expected, expected: &[f32], output: &Output) -> Result<Row, String> {
    let Expected::Dense {
        scale,
        part,
        dimensions,
        ..
    } = how
    else {
        return Err("the reference has no vectors".to_owned());
    };
    let whole = dense(output)?;
    let length = dimensions.unwrap_or(whole.len());
    let cut = whole.get(..length).ok_or_else(|| {
        let found = whole.len();
        format!("a vector of `{found}` numbers, fewer than the `{length}` it should be cut to")
    })?;
    let vector = match scale {
        Scale::Raw => cut.to_vec(),
        Scale::Unit => unit(&Output::of_dense(cut.to_vec()))?,
    };
    let (found, published) = (vector.len(), expected.len());
    let fits = match part {
        Part::All => found == published,
        Part::First => found >= published,
        Part::Ends => found >= published && published.is_multiple_of(2),
    };
    if !fits {
        return Err(format!(
            "a vector of `{found}` numbers where `{published}` were published"
        ));
    }
    let got = match part {
        Part::All => vector,
        Part::First => vector[..published].to_vec(),
        Part::Ends => [&vector[..published / 2], &vector[found - published / 2..]].concat(),
    };
    Ok(Row {
        expected: expected.to_vec(),
        got,
    })
}

fn sparse(output: &Output) -> Result<&SparseVector, String> {
    let weights = output.sparse.as_ref();
    weights.ok_or_else(|| "no sparse weights".to_owned())
}

/// Weights of the same tokens; a token that one side lacks weighs nothing there.
fn sparse_row(part: Part, expected: &[(u32, f32)], got: &SparseVector) -> Result<Row, String> {
    let last = match (part, expected.last()) {
        (Part::Ends, _) => return Err("the ends of sparse weights have no meaning".to_owned()),
        (Part::First, Some(&(last, _))) => last,
        (Part::First | Part::All, _) => u32::MAX,
    };
    let found = got.ids.iter().copied().zip(got.weights.iter().copied());
    let found: BTreeMap<u32, f32> = found.filter(|&(id, _)| id <= last).collect();
    Ok(token_row(&expected.iter().copied().collect(), &found))
}

fn by_token(
    weights: &SparseVector,
    text_of: &dyn Fn(u32) -> Option<String>,
) -> Result<BTreeMap<String, f32>, String> {
    let mut by_token: BTreeMap<String, f32> = BTreeMap::new();
    for (&id, &weight) in weights.ids.iter().zip(&weights.weights) {
        let text = text_of(id).ok_or_else(|| format!("a weight for `{id}`, which is no token"))?;
        // Tokens with and without a space before them have the same text; the heavier one counts.
        let known = by_token.entry(text).or_insert(weight);
        if weight > *known || weight.is_nan() {
            *known = weight;
        }
    }
    Ok(by_token)
}

/// The weights of all tokens that either side has.
fn token_row<K: Ord>(expected: &BTreeMap<K, f32>, got: &BTreeMap<K, f32>) -> Row {
    let mut row = Row::default();
    let surplus = got.keys().filter(|&token| !expected.contains_key(token));
    for token in expected.keys().chain(surplus) {
        let weight = |side: &BTreeMap<K, f32>| side.get(token).copied().unwrap_or(0.0);
        row.expected.push(weight(expected));
        row.got.push(weight(got));
    }
    row
}

/// The sum of the products of the weights of shared tokens (Chen et al. 2024, section 3.2).
fn lexical(query: &SparseVector, document: &SparseVector) -> f32 {
    let weights: BTreeMap<u32, f32> = entries(document).collect();
    entries(query)
        .filter_map(|(id, weight)| Some(weight * weights.get(&id)?))
        .sum()
}

fn entries(weights: &SparseVector) -> impl Iterator<Item = (u32, f32)> {
    let ids = weights.ids.iter().copied();
    ids.zip(weights.weights.iter().copied())
}

fn multi_vector(output: &Output) -> Result<&MultiVector, String> {
    let vectors = output.multi_vector.as_ref();
    vectors.ok_or_else(|| "no token vectors".to_owned())
}

/// The mean over the query's tokens of the best match (`ColBERT`'s sum, as FlagEmbedding means it).
fn late_interaction(query: &MultiVector, document: &MultiVector) -> Result<f32, String> {
    if query.width != document.width || query.values.is_empty() || document.values.is_empty() {
        return Err("token vectors that cannot be multiplied".to_owned());
    }
    let best = |token: &[f32]| {
        document.rows().map(|other| dot(token, other)).fold(
            f32::NEG_INFINITY,
            // `max` would lose what is not a number.
            |best, dot| if dot <= best { best } else { dot },
        )
    };
    let sum: f32 = query.rows().map(best).sum();
    Ok(sum / query.rows().len() as f32)
}

fn score(activation: Activation, output: &Output) -> Result<f32, String> {
    let logits = output.scores.as_deref().unwrap_or_default();
    let &[logit] = logits else {
        let found = logits.len();
        return Err(format!("`{found}` scores where one was published"));
    };
    Ok(match activation {
        Activation::None => logit,
        Activation::Sigmoid => 1.0 / (1.0 + (-logit).exp()),
    })
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    let products = a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b));
    products.sum::<f64>() as f32
}

fn sum(values: &[f32]) -> f32 {
    values.iter().map(|&value| f64::from(value)).sum::<f64>() as f32
}

/// The largest difference of two numbers, and what is there.
fn by_number(rows: &[Row], measure: Measure, limit: f32) -> Comparison {
    let mut worst = (0.0, 0, 0);
    for (row_index, row) in rows.iter().enumerate() {
        for (index, (expected, got)) in row.expected.iter().zip(&row.got).enumerate() {
            let off = (expected - got).abs();
            let off = match measure {
                // Nothing is expected and nothing found: not a number otherwise.
                Measure::Relative if off == 0.0 => 0.0,
                Measure::Relative => off / expected.abs(),
                Measure::Absolute | Measure::Cosine => off,
            };
            // What is not a number stays the worst.
            let is_worse = off.is_nan() || off > worst.0;
            if is_worse && !f32::is_nan(worst.0) {
                worst = (off, row_index, index);
            }
        }
    }
    let (largest, row, index) = worst;
    let shown = |numbers: &[f32]| {
        // The worst one, with the numbers after it.
        let first = index.min(numbers.len().saturating_sub(SHOWN));
        listed(&numbers[first..])
    };
    Comparison {
        expected: shown(&rows[row].expected),
        got: shown(&rows[row].got),
        difference: Difference {
            largest,
            limit,
            measure,
        },
    }
}

/// The first numbers, to be read by people.
fn listed(numbers: &[f32]) -> String {
    let shown: Vec<String> = numbers
        .iter()
        .take(SHOWN)
        .map(|number| format!("{number:.5}"))
        .collect();
    shown.join(" ")
}

/// What the least cosine lacks to 1.
fn by_cosine(expected: &Expected, rows: &[Row], least: f32) -> Result<Comparison, String> {
    let are_vectors = matches!(
        expected,
        Expected::Dense { .. } | Expected::Sparse { .. } | Expected::SparseByToken { .. }
    );
    if !are_vectors || rows.iter().any(|row| row.expected.len() < 2) {
        return Err("the reference wants a cosine of what is no vector".to_owned());
    }
    let mut worst: f64 = 1.0;
    for row in rows {
        let product = |a: &[f32], b: &[f32]| -> f64 {
            let products = a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b));
            products.sum()
        };
        let norms = product(&row.expected, &row.expected) * product(&row.got, &row.got);
        let cosine = product(&row.expected, &row.got) / norms.sqrt();
        if cosine.is_nan() || cosine < worst {
            worst = cosine;
        }
        if worst.is_nan() {
            break;
        }
    }
    Ok(Comparison {
        expected: format!("cosine {least} or more"),
        got: format!("cosine {worst:.6}"),
        difference: Difference {
            largest: (1.0 - worst) as f32,
            // In the precision in which 1 and the least cosine differ.
            limit: (1.0 - f64::from(least)) as f32,
            measure: Measure::Cosine,
        },
    })
}

#[cfg(test)]
mod tests;
