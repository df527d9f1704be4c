//! How good a ranking is; also for the tests of the models crate.

use std::collections::HashMap;

/// Normalised discounted cumulative gain of the ten best documents (Järvelin and Kekäläinen 2002):
/// linear gain, the logarithm of rank + 1 as discount, ties by the order of the corpus.
/// `similarities` has one number per document; `gains` those of the judged ones by their place.
pub fn ndcg_at_10(similarities: &[f64], gains: &HashMap<usize, f64>) -> f64 {
    let mut order: Vec<usize> = (0..similarities.len()).collect();
    order.sort_by(|&a, &b| similarities[b].total_cmp(&similarities[a]));
    let ranked = order.iter().map(|place| *gains.get(place).unwrap_or(&0.0));
    let mut ideal: Vec<f64> = gains.values().copied().collect();
    ideal.sort_by(|a, b| b.total_cmp(a));
    discounted(ranked) / discounted(ideal.into_iter())
}

fn discounted(gains: impl Iterator<Item = f64>) -> f64 {
    let ranked = gains.take(10).enumerate();
    ranked
        .map(|(rank, gain)| gain / (rank as f64 + 2.0).log2())
        .sum()
}
