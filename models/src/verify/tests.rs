use std::path::Path;

use super::*;
use crate::batch::Batch;
use crate::heads::{Head, Heads, MultiVector, SparseVector};
use crate::model::GraphSource;

/// What is wrong with a fake.
#[derive(Clone, Copy, PartialEq)]
enum Fault {
    None,
    /// Its neighbours change a sequence.
    Leaks,
    /// The same input gives something else each time.
    Wavers,
    /// One input gives no number.
    NotANumber,
    /// It runs nothing that is longer than a few tokens.
    Fails,
    /// One output too few for a batch of several.
    Loses,
}

/// Gives vectors and scores that follow from the token ids alone.
struct Fake {
    fault: Fault,
    runs: f32,
}

impl Encode for Fake {
    fn encode(&mut self, batch: &Batch) -> Result<Vec<Output>> {
        self.runs += 1.0;
        if self.fault == Fault::Fails && batch.tokens() > 4 {
            return Err(crate::Error::Runtime("no memory".into()));
        }
        let of = |index: usize| {
            let batch_of_one = batch.sequence(index);
            let ids = &batch_of_one.input_ids;
            let sum = ids.iter().sum::<i64>() as f32;
            let mut first = sum;
            match self.fault {
                Fault::Leaks if batch.sequences() > 1 => first += 1.0,
                Fault::Wavers => first += self.runs * 1e-3,
                Fault::NotANumber if ids.len() == 2 => first = f32::NAN,
                _ => {}
            }
            Output {
                dense: Some(vec![first, ids.len() as f32]),
                sparse: Some(SparseVector {
                    ids: vec![1, 2],
                    weights: vec![sum, 1.0],
                }),
                multi_vector: Some(MultiVector {
                    width: 2,
                    values: vec![0.6, 0.8],
                }),
                late_interaction: None,
                scores: Some(vec![first / 1000.0]),
            }
        };
        let count = match self.fault {
            Fault::Loses if batch.sequences() > 1 => batch.sequences() - 1,
            _ => batch.sequences(),
        };
        Ok((0..count).map(of).collect())
    }
}

fn tokenizer() -> Tokenizer {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/checkpoints");
    Tokenizer::load(&golden.join("bert-tiny-mean")).unwrap()
}

fn info(heads: Heads) -> EncoderInfo {
    EncoderInfo {
        architecture: "fake".into(),
        heads,
        dimensions: 2,
        token_dimensions: 2,
        labels: 1,
        compares: false,
        label_names: Vec::new(),
        max_tokens: 128,
        pooling: None,
        vocab_size: 100,
        parameters: 0,
        weights_bytes: 0,
        checkpoint_dtype: "float32".into(),
        dtype: "float32".into(),
        fidelity: crate::Fidelity::default(),
        provider: crate::Provider::Cpu,
        device: "cpu".into(),
        device_name: None,
        source: GraphSource::Absent,
        matryoshka: crate::Matryoshka::default(),
        instruction: None,
        cutoff_layer: None,
        prompts: crate::Prompts::default(),
        tasks: Vec::new(),
        pair_template: None,
        isa: "none",
    }
}

fn examined(heads: Heads, fault: Fault, published: &Published) -> Verification {
    let (tokenizer, info) = (tokenizer(), info(heads));
    let subject = Subject {
        info: &info,
        tokenizer: &tokenizer,
        late_interaction: None,
        encoder: &mut Fake { fault, runs: 0.0 },
    };
    subject.examine(published, &mut |done, total| assert!(done <= total))
}

fn all_heads() -> Heads {
    Head::ALL.into_iter().collect()
}

fn reference(rest: &str) -> Reference {
    let text = format!(
        r#"{{"model": "m", "source": "a test", "tolerance": {{"absolute": 0.01}}, {rest}}}"#
    );
    serde_json::from_str(&text).unwrap()
}

fn published(references: &[&str]) -> Published {
    Published {
        references: references.iter().map(|rest| reference(rest)).collect(),
        dimensions: Some(2),
    }
}

/// The dense vector that the fake has for a text.
fn vector(text: &str) -> Vec<f32> {
    let truncation = crate::Truncation {
        max_tokens: 128,
        side: crate::TruncationSide::Refuse,
    };
    let ids = tokenizer().encode(text, truncation).unwrap().input_ids;
    vec![ids.iter().sum::<u32>() as f32, ids.len() as f32]
}

fn of_text(text: &str, values: &[f32]) -> String {
    format!(
        r#""inputs": {{"texts": ["{text}"]}},
           "expected": {{"kind": "dense", "scale": "raw", "part": "all", "values": [{values:?}]}}"#
    )
}

fn failed(verification: &Verification) -> Vec<String> {
    verification.failures().map(|c| c.what.clone()).collect()
}

#[test]
fn a_model_that_gives_what_was_published_passes() {
    let text = "the quick red train";
    let published = published(&[&of_text(text, &vector(text))]);
    let found = examined(all_heads(), Fault::None, &published);
    assert_eq!(failed(&found), Vec::<String>::new(), "{found:#?}");
    assert_eq!((found.compared(), found.is_proven()), (1, true));
    assert!(found.properties.len() >= 5);
}

#[test]
fn other_numbers_fail_and_name_both() {
    let text = "the quick red train";
    let mut other = vector(text);
    other[0] += 1.0;
    let found = examined(
        all_heads(),
        Fault::None,
        &published(&[&of_text(text, &other)]),
    );
    assert_eq!(failed(&found), ["dense, 1 text"]);
    assert!(!found.is_proven());
    let told = found.references[0].to_string();
    for part in [
        &format!("expected `{:.5}", other[0]),
        "absolute difference `1.00e0`",
        "limit `1.0e-2`",
        "(a test)",
    ] {
        assert!(told.contains(part), "`{part}` is not in: {told}");
    }
}

#[test]
fn prompts_go_before_texts_and_queries_only() {
    let prompted = of_text("the train", &vector("quick: the train"));
    let grid = r#""inputs": {"queries": ["the train"], "documents": ["the red train"]},
        "expected": {"kind": "similarity", "values": [[VALUE]]}"#;
    let (query, document) = (vector("quick: the train"), vector("the red train"));
    let dot = |a: &[f32], b: &[f32]| -> f32 { a.iter().zip(b).map(|(a, b)| a * b).sum() };
    let cosine = dot(&query, &document) / (dot(&query, &query) * dot(&document, &document)).sqrt();
    let grid = grid.replace("VALUE", &cosine.to_string());
    let mut published = published(&[&prompted, &grid]);
    let unprompted = examined(all_heads(), Fault::None, &published);
    assert!(failed(&unprompted).contains(&"dense, 1 text".to_owned()));
    for reference in &mut published.references {
        reference.prompt = Some("quick: ".into());
    }
    let found = examined(all_heads(), Fault::None, &published);
    assert_eq!(failed(&found), Vec::<String>::new(), "{found:#?}");
}

const PAIR: &str = r#""inputs": {"pairs": [["the train", "quick red"]]},
    "expected": {"kind": "scores", "activation": "none", "values": [[0, VALUE]]}"#;

#[test]
fn pairs_are_read_as_the_tokenizer_writes_them() {
    let tokenizer = tokenizer();
    let form = tokenizer.pair_form().unwrap();
    let truncation = crate::PairTruncation::new(128, crate::TruncationSide::Refuse);
    let query = tokenizer
        .prepare_query(&form, "the train", truncation)
        .unwrap();
    let pair = tokenizer.encode_pair(&query, "quick red").unwrap();
    let score = pair.input_ids.iter().sum::<u32>() as f32 / 1000.0;
    let right = published(&[&PAIR.replace("VALUE", &score.to_string())]);
    assert!(examined(Heads::SCORE, Fault::None, &right).is_proven());
    let wrong = published(&[&PAIR.replace("VALUE", &(score + 0.02).to_string())]);
    let found = examined(Heads::SCORE, Fault::None, &wrong);
    assert_eq!(failed(&found), ["scores, 1 pair"]);
}

/// With a template of the model's own, the layer it was cut at, and its adapters by name.
#[test]
fn layers_and_adapters_of_the_loaded_model_are_compared() {
    let tokenizer = tokenizer();
    let mut info = info(all_heads());
    info.cutoff_layer = Some(28);
    info.tasks = vec!["query".into(), "separation".into()];
    let adapter = r#""adapter": "separation", "inputs": {"texts": ["the train"]},
        "expected": {"kind": "dense-sum", "values": [1]}"#;
    let layer = PAIR.replace(r#""none""#, r#""none", "layer": 28"#);
    let other = layer.replace("28", "24").replace("VALUE", "1");
    let published = published(&[adapter, &layer.replace("VALUE", "1"), &other]);
    let mut planner = Planner::new(&info, &tokenizer, None);
    let plans: Vec<Plan> = published
        .references
        .iter()
        .map(|reference| planner.plan(reference))
        .collect();
    assert_eq!(plans[..2], [Plan::Run(vec![0]), Plan::Run(vec![1])]);
    let Plan::Skipped(reason) = &plans[2] else {
        panic!("{:?}", plans[2]);
    };
    assert!(reason.contains("`28`, not of layer `24`"), "{reason}");
    assert_eq!(planner.into_inputs()[0].encoding.adapter, Some(1));
}

/// Queries and documents of a late-interaction model are marked and cut as it was trained.
#[test]
fn both_sides_of_a_late_interaction_are_marked() {
    let dir =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/checkpoints/colbert-tiny");
    let tokenizer = Tokenizer::load(&dir).unwrap();
    let known = LateInteraction::read(&dir, &tokenizer).unwrap().unwrap();
    let info = info(Head::MultiVector.into());
    let long = "the river ".repeat(50);
    let grid = r#""inputs": {"queries": ["LONG"], "documents": ["LONG"]},
        "expected": {"kind": "late-interaction", "values": [[1]]}"#;
    let mut planner = Planner::new(&info, &tokenizer, Some(&known));
    let plan = planner.plan(&reference(&grid.replace("LONG", &long)));
    assert_eq!(plan, Plan::Run(vec![0, 1]));
    let inputs = planner.into_inputs();
    let of = |input: &plan::Input| {
        let ids = &input.encoding.input_ids;
        (ids.len(), ids[1])
    };
    assert_eq!((of(&inputs[0]), of(&inputs[1])), ((16, 1), (64, 2)));
}

#[test]
fn what_cannot_be_run_is_skipped_and_proves_nothing() {
    let adapter = r#""adapter": "separation", "inputs": {"texts": ["a"]},
        "expected": {"kind": "dense-sum", "values": [1]}"#;
    let long = "train ".repeat(200);
    let layer = PAIR.replace(r#""none""#, r#""none", "layer": 28"#);
    for (heads, rest, reason) in [
        (
            Heads::DENSE,
            PAIR.replace("VALUE", "1"),
            "gives `dense`, not `score`",
        ),
        (all_heads(), adapter.to_owned(), "`separation`"),
        (all_heads(), layer.replace("VALUE", "1"), "layer `28`"),
        (
            all_heads(),
            of_text(&long, &[1.0, 2.0]),
            "more than the limit of 128",
        ),
        (
            all_heads(),
            r#""inputs": {"pairs": [["a", "b"]]},
               "expected": {"kind": "dense-sum", "values": [1]}"#
                .to_owned(),
            "has no meaning",
        ),
    ] {
        let found = examined(heads, Fault::None, &published(&[&rest]));
        let Outcome::Skipped(why) = &found.references[0].outcome else {
            panic!("{rest}: {found:#?}");
        };
        assert!(why.contains(reason), "{why}");
        assert_eq!((found.compared(), found.is_proven()), (0, false));
    }
}

#[test]
fn a_model_without_references_is_not_proven() {
    let found = examined(all_heads(), Fault::None, &Published::default());
    assert_eq!(failed(&found), Vec::<String>::new(), "{found:#?}");
    assert!(!found.is_proven());
}

#[test]
fn each_fault_fails_its_property() {
    let text = "the quick red train";
    let published = published(&[&of_text(text, &vector(text))]);
    let check = |fault: Fault, properties: &[&str]| {
        let found = examined(all_heads(), fault, &published);
        let failed = failed(&found);
        for property in properties {
            assert!(failed.iter().any(|what| what == property), "{failed:?}");
        }
        assert!(!found.is_proven());
    };
    check(Fault::Leaks, &["alone and among others", "dense, 1 text"]);
    check(Fault::Wavers, &["same input twice"]);
    check(
        Fault::NotANumber,
        &[
            "every number is finite",
            "empty text",
            "alone and among others",
        ],
    );
    check(
        Fault::Fails,
        &[
            "alone and among others",
            "dense, 1 text",
            "same input twice",
        ],
    );
    check(Fault::Loses, &["alone and among others", "dense, 1 text"]);
}

#[test]
fn vectors_of_another_length_fail() {
    let published = Published {
        dimensions: Some(384),
        ..Published::default()
    };
    let found = examined(all_heads(), Fault::None, &published);
    assert_eq!(failed(&found), ["length of the vectors"]);
}

#[test]
fn inputs_that_references_share_are_run_once() {
    let text = "the quick red train";
    let same = of_text(text, &vector(text));
    let runs = |references: &[&str]| {
        let (tokenizer, info) = (tokenizer(), info(all_heads()));
        let mut fake = Fake {
            fault: Fault::None,
            runs: 0.0,
        };
        let subject = Subject {
            info: &info,
            tokenizer: &tokenizer,
            late_interaction: None,
            encoder: &mut fake,
        };
        assert!(
            subject
                .examine(&published(references), &mut |_, _| ())
                .is_proven()
        );
        fake.runs
    };
    assert_eq!(runs(&[&same, &same]), runs(&[&same]));
}

#[test]
fn a_model_that_knows_no_word_has_nothing_to_show() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/static/f32");
    let bare = Tokenizer::load_for(&golden, crate::TokenSet::Known).unwrap();
    let bare = bare.with_silent((0..10_000).collect());
    let info = info(Heads::DENSE);
    let subject = Subject {
        info: &info,
        tokenizer: &bare,
        late_interaction: None,
        encoder: &mut Fake {
            fault: Fault::None,
            runs: 0.0,
        },
    };
    let found = subject.examine(&Published::default(), &mut |_, _| ());
    assert!(matches!(&found.properties[..], [check] if check.outcome != Outcome::Passed));
    assert_eq!((failed(&found).len(), found.is_proven()), (0, false));
}
