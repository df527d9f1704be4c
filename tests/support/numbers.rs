//! Numbers against numbers: loading what is compared, and how close is close enough.

use std::path::Path;

use retort_models::{EncoderModel, LoadOptions};
use serde_json::Value;

use super::runtime;

/// A model with nothing decided by the operator.
pub fn load(path: &Path) -> EncoderModel {
    let options = LoadOptions::new(runtime());
    EncoderModel::load(path, &options).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// A golden file.
pub fn read_json(path: &Path) -> Value {
    let bytes = std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_slice(&bytes).unwrap()
}

/// Largest difference, as a share of the largest component.
pub fn difference(found: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(found.len(), expected.len());
    let largest = expected
        .iter()
        .fold(f32::MIN_POSITIVE, |max, value| max.max(value.abs()));
    let pairs = found.iter().zip(expected);
    // A NaN must not pass as small.
    pairs
        .map(|(a, b)| (a - b).abs())
        .fold(0.0, |max: f32, d| if d <= max { max } else { d })
        / largest
}

/// 1 for the same direction.
pub fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |x: &[f32], y: &[f32]| -> f64 {
        x.iter()
            .zip(y)
            .map(|(x, y)| f64::from(*x) * f64::from(*y))
            .sum()
    };
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

/// The largest component counts: `limit` is a share of it.
pub fn close(found: &[f32], expected: &[f32], limit: f32, what: &str) -> f32 {
    let off = difference(found, expected);
    assert!(
        off <= limit,
        "{what}: off by {off:e} of the largest component, limit {limit:e}"
    );
    let cosine = cosine(found, expected);
    assert!(cosine >= 0.99999, "{what}: cosine {cosine}");
    off
}

/// Numbers that only have to be various and the same every time.
pub struct Dice(pub u64);

impl Dice {
    /// A number from 0 to `bound - 1`.
    pub fn below(&mut self, bound: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % bound
    }
}
