//! The cases of golden files, and comparing an output with one of them.

use retort_models::{Encoding, Head, Heads, MultiVector, Output, SparseVector};
use serde_json::Value;

use crate::support::numbers::close;

/// Of the largest component.
const LIMIT: f32 = 2e-5;
/// Of a logit, or of 1 if that is larger.
const LOGIT_LIMIT: f32 = 1e-4;

/// Token ids and what they must become.
pub struct Case {
    pub encoding: Encoding,
    expected: Output,
    /// How far off a vector may be, as a share of its largest component.
    pub limit: f32,
}

/// The numbers of a list.
pub fn floats(value: &Value) -> Vec<f32> {
    let numbers = value.as_array().unwrap().iter();
    numbers
        .map(|number| number.as_f64().unwrap() as f32)
        .collect()
}

fn whole(value: &Value) -> Vec<u32> {
    let numbers = value.as_array().unwrap().iter();
    numbers
        .map(|number| number.as_u64().unwrap() as u32)
        .collect()
}

impl Case {
    /// `dense` is the key of the vector of the text.
    pub fn read(case: &Value, dense: &str) -> Self {
        let input_ids = whole(&case["input_ids"]);
        let types = match &case["token_type_ids"] {
            Value::Null => vec![0; input_ids.len()],
            types => whole(types).iter().map(|&kind| kind as u8).collect(),
        };
        let there = |key: &str| (!case[key].is_null()).then(|| &case[key]);
        let adapter = there("adapter").map(|number| number.as_u64().unwrap() as u8);
        Self {
            encoding: Encoding {
                input_ids,
                token_type_ids: types,
                adapter,
                ..Encoding::default()
            },
            expected: Output {
                dense: there(dense).map(floats),
                sparse: there("sparse").map(|sparse| SparseVector {
                    ids: whole(&sparse["ids"]),
                    weights: floats(&sparse["weights"]),
                }),
                late_interaction: None,
                multi_vector: there("multi_vector").map(|vectors| MultiVector {
                    width: vectors["shape"][1].as_u64().unwrap() as usize,
                    values: floats(&vectors["values"]),
                }),
                scores: there("logits").map(floats),
            },
            limit: LIMIT,
        }
    }

    /// All cases of a golden: of texts, of pairs, of the two sides of late interaction.
    pub fn all(golden: &Value, dense: &str) -> Vec<Self> {
        let lists = ["cases", "prompted", "adapted"].map(|key| golden[key].as_array());
        let mut cases = Vec::new();
        for case in lists.into_iter().flatten().flatten() {
            let sides = [&case["document"], &case["query"]];
            if sides[0].is_object() {
                cases.extend(sides.map(|side| Self::read(side, dense)));
            } else {
                cases.push(Self::read(case, dense));
            }
        }
        assert!(cases.len() > 5, "too few cases to prove anything");
        cases
    }

    /// Compares the heads that are wanted, and sees to it that no other is there.
    pub fn check(&self, found: &Output, wanted: Heads, what: &str) -> Worst {
        let mut worst = Worst::default();
        assert_eq!(found_heads(found), wanted, "{what}");
        if let (Some(found), Some(expected)) = (&found.dense, &self.expected.dense) {
            worst.dense = close(found, expected, self.limit, what);
        }
        if let (Some(found), Some(expected)) = (&found.sparse, &self.expected.sparse) {
            worst.sparse = check_sparse(found, expected, self.limit, what);
        }
        if let (Some(found), Some(expected)) = (&found.multi_vector, &self.expected.multi_vector) {
            let rows: Vec<&[f32]> = found.rows().collect();
            let expected: Vec<&[f32]> = expected.rows().collect();
            assert_eq!(rows.len(), expected.len(), "{what}: token vectors");
            for (found, expected) in rows.iter().zip(&expected) {
                worst.multi_vector = worst
                    .multi_vector
                    .max(close(found, expected, self.limit, what));
            }
        }
        if let (Some(found), Some(expected)) = (&found.scores, &self.expected.scores) {
            assert_eq!(found.len(), expected.len(), "{what}: labels");
            for (found, expected) in found.iter().zip(expected) {
                let off = (found - expected).abs() / expected.abs().max(1.0);
                assert!(
                    off <= LOGIT_LIMIT,
                    "{what}: logit {found} for {expected}, off by {off:e}"
                );
                worst.scores = worst.scores.max(off);
            }
        }
        worst
    }
}

/// Weights by token; one that is next to nothing may be on one side only.
fn check_sparse(found: &SparseVector, expected: &SparseVector, limit: f32, what: &str) -> f32 {
    assert!(
        found.ids.is_sorted_by(|a, b| a < b),
        "{what}: ids not ascending"
    );
    assert_eq!(found.ids.len(), found.weights.len(), "{what}");
    let mut ids: Vec<u32> = [&found.ids[..], &expected.ids[..]].concat();
    ids.sort_unstable();
    ids.dedup();
    let weights = |sparse: &SparseVector| -> Vec<f32> {
        let weight = |id| sparse.ids.binary_search(id).map(|at| sparse.weights[at]);
        ids.iter()
            .map(|id| weight(id).unwrap_or_default())
            .collect()
    };
    if expected.ids.is_empty() {
        assert!(
            found.weights.iter().all(|&weight| weight < 1e-6),
            "{what}: {found:?}"
        );
        return 0.0;
    }
    close(&weights(found), &weights(expected), limit, what)
}

/// The largest differences seen, each as it is limited.
#[derive(Debug, Default)]
pub struct Worst {
    dense: f32,
    sparse: f32,
    multi_vector: f32,
    scores: f32,
}

impl Worst {
    /// Keeps the larger of each.
    pub fn add(&mut self, other: &Self) {
        self.dense = self.dense.max(other.dense);
        self.sparse = self.sparse.max(other.sparse);
        self.multi_vector = self.multi_vector.max(other.multi_vector);
        self.scores = self.scores.max(other.scores);
    }
}

fn found_heads(output: &Output) -> Heads {
    let Output {
        dense,
        sparse,
        multi_vector,
        scores,
        late_interaction: _,
    } = output;
    [
        dense.as_ref().map(|_| Head::Dense),
        sparse.as_ref().map(|_| Head::Sparse),
        multi_vector.as_ref().map(|_| Head::MultiVector),
        scores.as_ref().map(|_| Head::Score),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// Neighbours may change the order of a sum, nothing more.
pub fn check_same(found: &Output, alone: &Output, what: &str) {
    let what = format!("{what}, against alone");
    let close = |found: &[f32], alone: &[f32]| close(found, alone, 1e-6, &what);
    match (&found.dense, &alone.dense) {
        (Some(found), Some(alone)) => _ = close(found, alone),
        (found, alone) => assert_eq!(found, alone, "{what}"),
    }
    match (&found.sparse, &alone.sparse) {
        (Some(found), Some(alone)) => _ = check_sparse(found, alone, 1e-6, &what),
        (found, alone) => assert_eq!(found, alone, "{what}"),
    }
    match (&found.multi_vector, &alone.multi_vector) {
        (Some(found), Some(alone)) => {
            assert_eq!(found.values.len(), alone.values.len(), "{what}");
            for (found, alone) in found.rows().zip(alone.rows()) {
                close(found, alone);
            }
        }
        (found, alone) => assert_eq!(found, alone, "{what}"),
    }
    match (&found.scores, &alone.scores) {
        (Some(found), Some(alone)) => {
            let near = |(a, b): (&f32, &f32)| (a - b).abs() <= 1e-5 * b.abs().max(1.0);
            assert!(
                found.iter().zip(alone).all(near),
                "{what}: {found:?} {alone:?}"
            );
        }
        (found, alone) => assert_eq!(found, alone, "{what}"),
    }
}
