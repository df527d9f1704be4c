//! Numbers of a model to scores, as pure functions of one pair: a score never depends on what else
//! is in the request.

use retort_models::{Head, Heads, MultiVector, SparseVector};

use super::job::Values;
use crate::engine::request::HybridWeights;

/// The logistic function: a logit to a probability.
pub fn sigmoid(logit: f32) -> f32 {
    // In float64, so that it is exact to the last digit of what leaves.
    (1.0 / (1.0 + (-f64::from(logit)).exp())) as f32
}

/// Logits of labels that exclude each other to probabilities.
pub fn softmax(logits: &[f32]) -> Vec<f32> {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let powers: Vec<f64> = logits
        .iter()
        .map(|logit| f64::from(logit - largest).exp())
        .collect();
    let total: f64 = powers.iter().sum();
    powers.iter().map(|power| (power / total) as f32).collect()
}

/// The logit of relevance: that of a single label, or what the last of two labels has over the
/// first, whose sigmoid is the softmax probability of the last. `None` for more labels.
pub fn relevance(logits: &[f32]) -> Option<f32> {
    match logits {
        [logit] => Some(*logit),
        [first, last] => Some(last - first),
        _ => None,
    }
}

/// The largest of the scores of chunks.
pub fn best(scores: impl Iterator<Item = f32>) -> Option<f32> {
    scores.reduce(f32::max)
}

/// What each of the heads of a model counts, as parts of 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Shares {
    dense: f32,
    sparse: f32,
    multi_vector: f32,
}

impl Shares {
    /// Shares out among the heads of a model; those that it lacks have none. `None` when nothing
    /// is left to share, or a weight is below zero or no number.
    pub fn new(weights: HybridWeights, heads: Heads) -> Option<Self> {
        let of = |head, weight: f32| if heads.contains(head) { weight } else { 0.0 };
        let parts = [
            of(Head::Dense, weights.dense),
            of(Head::Sparse, weights.sparse),
            of(Head::MultiVector, weights.multi_vector),
        ];
        let total: f32 = parts.iter().sum();
        let sound = parts.iter().all(|part| *part >= 0.0) && total > 0.0 && total.is_finite();
        sound.then(|| Self {
            dense: parts[0] / total,
            sparse: parts[1] / total,
            multi_vector: parts[2] / total,
        })
    }

    /// The heads that count.
    pub fn heads(self) -> Heads {
        let counts = |share: f32, head: Head| (share > 0.0).then_some(head);
        [
            counts(self.dense, Head::Dense),
            counts(self.sparse, Head::Sparse),
            counts(self.multi_vector, Head::MultiVector),
        ]
        .into_iter()
        .flatten()
        .collect()
    }
}

/// How alike a query and a document are, with `shares` of each kind of similarity; token vectors
/// may have been compared by the model already. This is the score that FlagEmbedding computes for
/// BGE-M3 (Chen et al. 2024, section 3.3).
pub fn similarity(query: &Values, document: &Values, shares: Shares) -> f32 {
    let dense = match (&query.dense[..], &document.dense[..]) {
        // Unit vectors, so this is the cosine.
        ([query], [document]) => dot(query, document),
        _ => 0.0,
    };
    let sparse = both(&query.sparse, &document.sparse, lexical);
    let multi_vector = document.late_interaction.unwrap_or_else(|| {
        both(
            &query.multi_vector,
            &document.multi_vector,
            late_interaction,
        )
    });
    shares.dense * dense + shares.sparse * sparse + shares.multi_vector * multi_vector
}

fn both<T>(query: &Option<T>, document: &Option<T>, score: impl Fn(&T, &T) -> f32) -> f32 {
    match (query, document) {
        (Some(query), Some(document)) => score(query, document),
        _ => 0.0,
    }
}

/// The sum, over the entries that both have, of the products of their weights.
pub fn lexical(query: &SparseVector, document: &SparseVector) -> f32 {
    let mut entries = document.ids.iter().zip(&document.weights).peekable();
    let mut sum = 0.0;
    for (id, weight) in query.ids.iter().zip(&query.weights) {
        while entries.next_if(|(other, _)| *other < id).is_some() {}
        if let Some((_, other)) = entries.next_if(|(other, _)| *other == id) {
            sum += weight * other;
        }
    }
    sum
}

/// The mean, over the tokens of the query, of the largest product with a token of the document
/// (`ColBERT`'s `MaxSim`, Khattab & Zaharia 2020, over the length of the query, as BGE-M3 has it).
pub fn late_interaction(query: &MultiVector, document: &MultiVector) -> f32 {
    let tokens = query.rows().len();
    if tokens == 0 || document.rows().len() == 0 {
        return 0.0;
    }
    let sum: f32 = query
        .rows()
        .map(|token| {
            document
                .rows()
                .map(|other| dot(token, other))
                .fold(f32::MIN, f32::max)
        })
        .sum();
    sum / tokens as f32
}

/// The sum of products, in lanes that a compiler turns into vector instructions.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    const LANES: usize = 16;
    let (a, a_rest) = a.as_chunks::<LANES>();
    let (b, b_rest) = b.as_chunks::<LANES>();
    let mut lanes = [0.0_f32; LANES];
    for (a, b) in a.iter().zip(b) {
        for lane in 0..LANES {
            lanes[lane] += a[lane] * b[lane];
        }
    }
    let rest: f32 = a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum();
    lanes.iter().sum::<f32>() + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sparse(entries: &[(u32, f32)]) -> SparseVector {
        let (ids, weights) = entries.iter().copied().unzip();
        SparseVector { ids, weights }
    }

    fn vectors(values: &[f32]) -> MultiVector {
        MultiVector {
            width: 2,
            values: values.to_vec(),
        }
    }

    #[test]
    fn logits_become_probabilities_also_far_from_zero() {
        assert!((sigmoid(0.634_520_5) - 0.653_513_8).abs() < 1e-6);
        assert_eq!(
            (sigmoid(0.0), sigmoid(200.0), sigmoid(-200.0) < 1e-30),
            (0.5, 1.0, true)
        );
        assert!((0.0..1e-30).contains(&sigmoid(-200.0)));
        let probabilities = softmax(&[1000.0, 1001.0, -1000.0]);
        assert!((probabilities.iter().sum::<f32>() - 1.0).abs() < 1e-6);
        assert!((probabilities[1] - 0.731_058_6).abs() < 1e-6);
    }

    #[test]
    fn the_last_of_two_labels_is_relevance() {
        assert_eq!(relevance(&[0.5]), Some(0.5));
        let two = [0.25, 1.5];
        let probability = sigmoid(relevance(&two).unwrap());
        assert!((probability - softmax(&two)[1]).abs() < 1e-6);
        assert_eq!((relevance(&[1.0, 2.0, 3.0]), relevance(&[])), (None, None));
    }

    #[test]
    fn sparse_vectors_meet_at_common_entries() {
        let query = sparse(&[(1, 0.5), (7, 2.0), (9, 1.0)]);
        let document = sparse(&[(0, 9.0), (1, 0.5), (8, 9.0), (9, 0.25), (10, 1.0)]);
        assert_eq!(lexical(&query, &document), 0.5);
        assert_eq!(lexical(&query, &sparse(&[])), 0.0);
    }

    #[test]
    fn each_token_of_the_query_meets_its_best() {
        let query = vectors(&[1.0, 0.0, 0.0, 1.0]);
        let document = vectors(&[0.5, -1.0, 0.25, 0.75]);
        assert_eq!(late_interaction(&query, &document), (0.5 + 0.75) / 2.0);
        assert_eq!(late_interaction(&query, &vectors(&[])), 0.0);
    }

    #[test]
    fn heads_that_a_model_lacks_leave_their_weight_to_the_others() {
        let heads = |list: &[Head]| Heads::from_iter(list.iter().copied());
        let all = heads(&[Head::Dense, Head::Sparse, Head::MultiVector]);
        let weights = HybridWeights::default();
        let query = Values {
            dense: vec![vec![1.0, 0.0]],
            sparse: Some(sparse(&[(3, 0.5)])),
            multi_vector: Some(vectors(&[1.0, 0.0])),
            ..Values::default()
        };
        let document = Values {
            dense: vec![vec![0.6, 0.8]],
            sparse: Some(sparse(&[(3, 1.0)])),
            multi_vector: Some(vectors(&[0.8, 0.6])),
            ..Values::default()
        };
        let score = |heads| similarity(&query, &document, Shares::new(weights, heads).unwrap());
        let near = |found: f32, expected: f32| assert!((found - expected).abs() < 1e-6, "{found}");
        near(score(all), 0.4 * 0.6 + 0.2 * 0.5 + 0.4 * 0.8);
        near(score(Heads::DENSE), 0.6);
        near(score(Head::MultiVector.into()), 0.8);
        // What a model has compared itself is not compared again.
        let compared = Values {
            multi_vector: None,
            late_interaction: Some(0.3),
            ..document.clone()
        };
        let shares = Shares::new(weights, all).unwrap();
        near(
            similarity(&query, &compared, shares),
            0.4 * 0.6 + 0.2 * 0.5 + 0.4 * 0.3,
        );
        let only = |dense, sparse, multi_vector| HybridWeights {
            dense,
            sparse,
            multi_vector,
        };
        let shares = Shares::new(only(0.0, 3.0, 0.0), all).unwrap();
        assert_eq!(shares.heads(), Head::Sparse.into());
        for wrong in [
            only(0.0, 0.0, 0.0),
            only(-1.0, 2.0, 0.0),
            only(f32::NAN, 1.0, 1.0),
        ] {
            assert_eq!(Shares::new(wrong, all), None);
        }
        assert_eq!(Shares::new(only(1.0, 0.0, 0.0), Head::Sparse.into()), None);
    }

    #[test]
    fn products_of_every_length_are_exact() {
        for length in [0, 1, 15, 16, 17, 40] {
            let ones = vec![1.0; length];
            assert_eq!(dot(&ones, &ones), length as f32);
        }
    }
}
