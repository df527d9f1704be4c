//! Token vectors that the model compares give the scores that they have when the service does it.

use std::collections::HashSet;

use retort_kernels::max_sim::{PackedVectors, max_sim};
use retort_models::{Encoding, Head, MultiVector, SparseVector};

use super::*;
use crate::engine::request::{
    HybridWeights, LongDocument, Pairs, Scale, ScoreOptions, ScoreRequest, ScoreResponse,
};

/// What a forward pass was asked for.
#[derive(Default)]
struct Pass {
    wanted: Vec<Heads>,
    queries: HashSet<Vec<u32>>,
}

/// A model of three heads whose numbers depend on every token.
struct Three(Sender<Pass>);

impl Encode for Three {
    fn encode(&mut self, batch: &Batch) -> retort_models::Result<Vec<Output>> {
        let mut pass = Pass::default();
        let mut outputs = Vec::new();
        let each = batch.wanted.iter().zip(&batch.queries);
        for (range, (wanted, query)) in batch.ranges().zip(each) {
            let ids = &batch.input_ids[range];
            let mut output = Output {
                dense: Some(unit(ids.iter().sum())),
                sparse: Some(SparseVector {
                    ids: vec![1, 2],
                    weights: unit(ids.len() as i64),
                }),
                ..Output::default()
            };
            match query {
                Some(query) => {
                    output.late_interaction = Some(late_interaction(query, ids));
                    pass.queries.insert(query.input_ids.clone());
                }
                None => output.multi_vector = Some(vectors_of(ids.iter().copied())),
            }
            pass.wanted.push(*wanted);
            outputs.push(output);
        }
        self.0.send(pass).ok();
        Ok(outputs)
    }
}

/// A direction that tells numbers apart.
fn unit(number: i64) -> Vec<f32> {
    let angle = number as f32 * 0.37;
    vec![angle.cos().abs(), angle.sin().abs()]
}

fn vectors_of(ids: impl Iterator<Item = i64>) -> MultiVector {
    MultiVector {
        width: 2,
        values: ids.flat_map(unit).collect(),
    }
}

fn late_interaction(query: &Encoding, document: &[i64]) -> f32 {
    let query: Vec<i64> = query.input_ids.iter().map(|&id| i64::from(id)).collect();
    let ends = [0, query.len() as i32, (query.len() + document.len()) as i32];
    let all = query.iter().chain(document).copied();
    let packed = PackedVectors {
        vectors: &vectors_of(all).values,
        size: 2,
        cu_seqlens: &ends,
        kept: None,
    };
    let mut score = [0.0];
    max_sim(&packed, &[[0, 1]], &mut score).unwrap();
    score[0]
}

struct Comparing {
    pipeline: Pipeline,
    passes: Receiver<Pass>,
}

impl Comparing {
    /// A model that compares token vectors, or one that leaves it to the service.
    fn new(compares: bool) -> Self {
        let (sender, passes) = channel();
        let checkpoint =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/checkpoints/bert-tiny-mean");
        let tokenizer = Arc::new(Tokenizer::load(&checkpoint).unwrap());
        let parts = Parts {
            name: "three".into(),
            info: EncoderInfo {
                heads: Head::ALL
                    .into_iter()
                    .collect::<Heads>()
                    .without(Heads::SCORE),
                token_dimensions: 2,
                max_tokens: 40,
                compares,
                ..fake_info(tokenizer.vocab_size())
            },
            tokenizer,
            late_interaction: None,
            encoders: vec![(WorkerKind::Gpu(0), Box::new(Three(sender)))],
            telemetry: Telemetry::new(),
        };
        let pipeline = Pipeline::start(parts, LIMITS, host(LIMITS.scheduling)).unwrap();
        Self { pipeline, passes }
    }

    async fn score(&self, request: &ScoreRequest) -> (ScoreResponse, Pass) {
        let response = self.pipeline.score(request.clone(), &ANYONE).await.unwrap();
        let mut all = Pass::default();
        for pass in self.passes.try_iter() {
            all.wanted.extend(pass.wanted);
            all.queries.extend(pass.queries);
        }
        (response, all)
    }
}

fn of(queries: &[&str], documents: &[&str], options: ScoreOptions) -> ScoreRequest {
    let texts = |texts: &[&str]| texts.iter().map(ToString::to_string).collect();
    ScoreRequest {
        model: None,
        pairs: Pairs {
            queries: texts(queries),
            documents: texts(documents),
        },
        options: ScoreOptions {
            scale: Scale::Raw,
            ..options
        },
    }
}

const DOCUMENTS: [&str; 4] = ["one two", "a rather longer one", "three", "one two"];

fn requests() -> Vec<ScoreRequest> {
    let weighing = |dense, sparse, multi_vector| ScoreOptions {
        weights: Some(HybridWeights {
            dense,
            sparse,
            multi_vector,
        }),
        ..ScoreOptions::default()
    };
    let long = "word after word after word and so on ".repeat(20);
    let in_chunks = ScoreOptions {
        long: LongDocument::Chunk {
            overlap: None,
            max_chunks: None,
        },
        ..ScoreOptions::default()
    };
    let queries = ["one", "two three", "one", "something else"];
    vec![
        of(&["two"], &DOCUMENTS, ScoreOptions::default()),
        of(&queries, &DOCUMENTS, ScoreOptions::default()),
        of(&["two"], &DOCUMENTS, weighing(0.0, 0.0, 1.0)),
        of(&queries, &DOCUMENTS, weighing(1.0, 0.0, 1.0)),
        of(&["two"], &DOCUMENTS, weighing(1.0, 1.0, 0.0)),
        of(&["two"], &["short", &long], in_chunks),
    ]
}

#[tokio::test]
async fn scores_are_the_same_wherever_token_vectors_are_compared() {
    let (model, service) = (Comparing::new(true), Comparing::new(false));
    for request in requests() {
        let (by_model, _) = model.score(&request).await;
        let (by_service, asked) = service.score(&request).await;
        assert!(asked.queries.is_empty());
        assert_eq!(by_model.usage, by_service.usage);
        let pairs = by_model.scores.iter().zip(&by_service.scores);
        for (model, service) in pairs {
            assert!((model.raw - service.raw).abs() < 1e-6, "{request:?}");
            assert_eq!(
                (model.tokens, model.chunks),
                (service.tokens, service.chunks)
            );
        }
        let scores: HashSet<u32> = by_model.scores.iter().map(|s| s.raw.to_bits()).collect();
        assert!(scores.len() > 1, "{request:?}");
    }
}

#[tokio::test]
async fn a_model_that_compares_is_not_asked_for_vectors_of_tokens() {
    let late = Heads::from(Head::MultiVector);
    let model = Comparing::new(true);
    let requests = requests();
    // The query once, for the other heads, and each different document beside it.
    let (_, pass) = model.score(&requests[0]).await;
    let all = Heads::DENSE | Head::Sparse.into() | late;
    let mut wanted = pass.wanted;
    wanted.sort_by_key(|heads| heads.contains(Head::MultiVector));
    assert_eq!(wanted, [all.without(late), all, all, all]);
    assert_eq!(pass.queries.len(), 1);
    // Equal documents of different queries are different jobs.
    let (_, pass) = model.score(&requests[1]).await;
    let beside = pass.wanted.iter().filter(|heads| **heads == all).count();
    assert_eq!((beside, pass.queries.len()), (4, 3));
    // A query of which nothing else is wanted is not run by itself.
    let (_, pass) = model.score(&requests[2]).await;
    assert_eq!(pass.wanted, [late; 3]);
    // Without a share for token vectors there is nothing to compare.
    let (_, pass) = model.score(&requests[4]).await;
    assert!(pass.queries.is_empty() && pass.wanted.len() == 4);
}
