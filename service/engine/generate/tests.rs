//! The pipeline with a fake generator behind the one seam: what is said, who is computed with
//! whom, what is left when somebody leaves.

mod bounds;

use super::{
    fake::{BOMB, END, Gate, Hands, PANIC, POISON, Rule, Seen, Shape, ids, parts},
    *,
};
use crate::engine::request::{
    Begins, Choice, Constraint, FinishReason, Generated, Grammar, Origin, PromptPiece,
};

const LIMITS: PipelineLimits = PipelineLimits {
    max_queue_tokens: 1_000,
    max_sequences: 8,
    max_prefill_tokens: 8,
};

const ANYBODY: Tenant = Tenant([0; 32]);

struct Bench {
    // Dropped first, so that a step that waits can end.
    hands: Hands,
    pipeline: Pipeline,
}

fn bench(shape: Shape) -> Bench {
    bench_within(shape, LIMITS)
}

fn bench_within(shape: Shape, limits: PipelineLimits) -> Bench {
    let (parts, hands) = parts("fake", shape);
    Bench {
        pipeline: Pipeline::start(parts, limits).unwrap(),
        hands,
    }
}

/// A model that says a text whatever it is asked.
fn saying(text: &str) -> Bench {
    bench(Shape {
        rule: Rule::Says(ids(text)),
        ..Shape::default()
    })
}

/// A request for so many tokens, of the likeliest.
fn request(prompt: &[u32], max_tokens: usize) -> GenerateRequest {
    GenerateRequest {
        max_tokens: Some(max_tokens),
        sampling: Sampling {
            temperature: Some(0.0),
            ..Sampling::default()
        },
        ..GenerateRequest::new(PromptInput::Ids(prompt.to_vec()))
    }
}

/// The same with chance in it.
fn by_chance(prompt: &[u32], max_tokens: usize, seed: u64) -> GenerateRequest {
    GenerateRequest {
        sampling: Sampling {
            temperature: Some(1.2),
            top_p: Some(0.95),
            top_k: Some(50),
            repetition_penalty: Some(1.1),
            frequency_penalty: Some(0.3),
            seed: Some(seed),
            ..Sampling::default()
        },
        ..request(prompt, max_tokens)
    }
}

impl Bench {
    async fn answer(&self, request: &GenerateRequest) -> Generated {
        let stream = self.pipeline.submit(request, ANYBODY).unwrap();
        stream.collect().await.unwrap()
    }

    async fn only(&self, request: &GenerateRequest) -> Choice {
        self.answer(request).await.choices.remove(0)
    }

    fn refused(&self, request: &GenerateRequest) -> Error {
        self.pipeline.submit(request, ANYBODY).err().unwrap()
    }

    /// Lets steps go on one by one until one is like this.
    fn step_until(&self, is: impl Fn(&[Seen]) -> bool) -> Vec<Seen> {
        for _ in 0..200 {
            let seen = self.hands.seen.recv().unwrap();
            if is(&seen) {
                return seen;
            }
            self.hands.gate.send(()).unwrap();
        }
        panic!("no such step");
    }

    fn steps(&self) -> Vec<Vec<Seen>> {
        self.hands.seen.try_iter().collect()
    }
}

#[tokio::test]
async fn it_says_what_it_says_and_stops() {
    let bench = saying("the river 🦀\n");
    let prompt = ids("Hello");
    let generated = bench.answer(&request(&prompt, 100)).await;
    let choice = &generated.choices[0];
    assert_eq!(choice.text, "the river 🦀\n");
    assert_eq!(choice.tokens, ids("the river 🦀\n"));
    assert_eq!(choice.finish.reason, FinishReason::Stop);
    // The token that ends it was generated too.
    assert_eq!(choice.finish.completion_tokens, choice.tokens.len() + 1);
    assert_eq!(generated.usage.prompt_tokens, prompt.len());
    assert_eq!(
        generated.usage.completion_tokens,
        choice.finish.completion_tokens
    );
}

#[tokio::test]
async fn events_are_whole_characters_and_add_up() {
    let bench = saying("水と火 🦀🦀 the boat");
    let mut stream = bench.pipeline.submit(&request(&[5], 100), ANYBODY).unwrap();
    let (mut text, mut tokens, mut ends) = (String::new(), Vec::new(), 0);
    while let Some(event) = stream.next().await {
        let event = event.unwrap();
        assert!(!event.text.contains('\u{FFFD}'));
        text.push_str(&event.text);
        tokens.extend(event.tokens);
        ends += usize::from(event.finish.is_some());
    }
    assert_eq!(text, "水と火 🦀🦀 the boat");
    assert_eq!((tokens, ends), (ids(&text), 1));
    assert!(stream.next().await.is_none());
}

#[tokio::test]
async fn a_seed_gives_the_same_text_alone_and_in_company() {
    let bench = bench(Shape::default());
    let prompts: Vec<Vec<u32>> = (0..8).map(|n| (n..3 * n + 5).collect()).collect();
    let requests: Vec<GenerateRequest> = (0..)
        .zip(&prompts)
        .map(|(seed, prompt)| by_chance(prompt, 24, seed))
        .collect();
    let mut alone = Vec::new();
    for request in &requests {
        alone.push(bench.only(request).await);
    }
    let streams: Vec<GenerateStream> = requests
        .iter()
        .map(|request| bench.pipeline.submit(request, ANYBODY).unwrap())
        .collect();
    for (stream, alone) in streams.into_iter().zip(&alone) {
        let together = stream.collect().await.unwrap();
        assert_eq!(&together.choices[0], alone);
    }
    let steps = bench.steps();
    assert!(steps.iter().any(|step| step.len() == 8), "never in company");
    assert_ne!(bench.only(&by_chance(&prompts[0], 24, 99)).await, alone[0]);
}

#[tokio::test]
async fn answers_to_one_prompt_differ_and_share_it() {
    let bench = bench(Shape::default());
    let prompt: Vec<u32> = (10..31).collect();
    let request = GenerateRequest {
        n: 3,
        ..by_chance(&prompt, 8, 1)
    };
    let generated = bench.answer(&request).await;
    assert_eq!(generated.choices.len(), 3);
    assert_ne!(generated.choices[0].tokens, generated.choices[1].tokens);
    assert_ne!(generated.choices[1].tokens, generated.choices[2].tokens);
    assert_eq!(generated.usage.completion_tokens, 24);
    // The prompt was computed once; of the others' only the last block, which is not full.
    let steps = bench.steps().concat();
    let computed: usize = steps.iter().filter(|s| s.past < 21).map(|s| s.tokens).sum();
    assert_eq!(computed, 21 + 1 + 1);
    // The first answer is what a request for one gets.
    assert_eq!(
        bench.only(&by_chance(&prompt, 8, 1)).await,
        generated.choices[0]
    );
}

#[tokio::test]
async fn a_known_beginning_is_not_computed_again() {
    let bench = bench(Shape::default());
    let prompt: Vec<u32> = (10..40).collect();
    let first = bench.answer(&request(&prompt, 5)).await;
    assert_eq!(first.usage.cached_tokens, 0);
    let longer: Vec<u32> = (10..50).collect();
    let second = bench.answer(&request(&longer, 5)).await;
    assert_eq!(second.usage.cached_tokens, 28);
    let fresh = self::bench(Shape::default());
    assert_eq!(
        fresh.answer(&request(&longer, 5)).await.choices,
        second.choices
    );
}

#[tokio::test]
async fn a_beginning_is_known_to_whoever_sent_it_and_to_nobody_else() {
    let bench = bench(Shape::default());
    let prompt = request(&[5; 30], 4);
    let mut cached = Vec::new();
    for tenant in [Tenant([1; 32]), Tenant([2; 32]), Tenant([1; 32])] {
        let stream = bench.pipeline.submit(&prompt, tenant).unwrap();
        let generated = stream.collect().await.unwrap();
        cached.push(generated.usage.cached_tokens);
    }
    assert_eq!(cached, [0, 0, 28]);
}

#[tokio::test]
async fn a_long_prompt_does_not_stall_who_writes() {
    let bench = bench(Shape {
        gate: Gate::Shut,
        ..Shape::default()
    });
    let _writer = bench.pipeline.submit(&request(&[7], 400), ANYBODY).unwrap();
    bench.step_until(|seen| seen[0].past == 2);
    let long: Vec<u32> = std::iter::once(8).chain(100..180).collect();
    let _reader = bench.pipeline.submit(&request(&long, 4), ANYBODY).unwrap();
    bench.hands.gate.send(()).unwrap();
    let first = bench.step_until(|seen| seen.len() == 2);
    let mut past = first[0].past;
    let mut computed = first[1].tokens;
    while computed < long.len() {
        bench.hands.gate.send(()).unwrap();
        let seen = bench.hands.seen.recv().unwrap();
        past += 1;
        // The writer has its token in every step, and the prompt no more than its chunk.
        assert_eq!((seen[0].first, seen[0].past, seen[0].tokens), (7, past, 1));
        assert_eq!((seen[1].first, seen[1].past), (8, computed));
        assert!(seen[1].tokens <= LIMITS.max_prefill_tokens);
        computed += seen[1].tokens;
    }
}

#[tokio::test]
async fn who_leaves_is_gone_before_the_next_step() {
    let bench = bench(Shape {
        gate: Gate::Shut,
        ..Shape::default()
    });
    let leaver = bench
        .pipeline
        .submit(&request(&[7, 7, 7], 400), ANYBODY)
        .unwrap();
    let stayer = bench
        .pipeline
        .submit(&request(&[8, 8, 8], 6), ANYBODY)
        .unwrap();
    bench.step_until(|seen| seen.len() == 2);
    drop(leaver);
    bench.hands.gate.send(()).unwrap();
    let seen = bench.hands.seen.recv().unwrap();
    assert_eq!(seen.iter().map(|s| s.first).collect::<Vec<_>>(), [8]);
    (0..20).for_each(|_| bench.hands.gate.send(()).unwrap());
    assert_eq!(stayer.collect().await.unwrap().choices[0].tokens.len(), 6);
}

#[tokio::test]
async fn a_cache_that_is_too_small_costs_time_and_changes_nothing() {
    let small = Shape {
        kv_blocks: 12,
        ..Shape::default()
    };
    let (roomy, tight) = (bench(Shape::default()), bench(small));
    let prompts: Vec<Vec<u32>> = (0..5).map(|n| vec![50 + n; 6]).collect();
    let requests: Vec<GenerateRequest> = (0..)
        .zip(&prompts)
        .map(|(seed, prompt)| by_chance(prompt, 30, seed))
        .collect();
    let streams: Vec<GenerateStream> = requests
        .iter()
        .map(|request| tight.pipeline.submit(request, ANYBODY).unwrap())
        .collect();
    for (stream, request) in streams.into_iter().zip(&requests) {
        let generated = stream.collect().await.unwrap();
        assert_eq!(generated.choices[0], roomy.only(request).await);
    }
    // Somebody had to begin again with more than its prompt.
    let steps = tight.steps().concat();
    let again = steps
        .iter()
        .any(|seen| seen.tokens > 1 && seen.past + seen.tokens > 6);
    assert!(again, "nobody gave way");
}

#[tokio::test]
async fn more_than_may_wait_is_refused_with_a_time() {
    let limits = PipelineLimits {
        max_queue_tokens: 20,
        max_sequences: 1,
        ..LIMITS
    };
    let shape = Shape {
        gate: Gate::Shut,
        ..Shape::default()
    };
    let bench = bench_within(shape, limits);
    let _runs = bench
        .pipeline
        .submit(&request(&[7; 8], 100), ANYBODY)
        .unwrap();
    bench.hands.seen.recv().unwrap();
    let waits = bench
        .pipeline
        .submit(&request(&[8; 12], 5), ANYBODY)
        .unwrap();
    let _also = bench
        .pipeline
        .submit(&request(&[9; 8], 5), ANYBODY)
        .unwrap();
    assert_eq!(bench.pipeline.backlog().tokens, 20);
    assert_eq!(bench.pipeline.backlog().inputs, 2);
    let error = bench.refused(&request(&[9; 3], 5));
    assert_eq!(error.status(), 429);
    assert!(matches!(
        error,
        Error::Overloaded {
            queued: 20,
            requested: 3,
            limit: 20,
            ..
        }
    ));
    // Who leaves while waiting makes room at once, or after the step that runs.
    drop(waits);
    bench.hands.gate.send(()).unwrap();
    bench.hands.seen.recv().unwrap();
    assert!(bench.pipeline.submit(&request(&[9; 3], 5), ANYBODY).is_ok());
}

#[tokio::test]
async fn a_prompt_larger_than_all_that_may_wait_is_taken_when_nothing_waits() {
    let limits = PipelineLimits {
        max_queue_tokens: 4,
        ..LIMITS
    };
    let bench = bench_within(Shape::default(), limits);
    assert_eq!(bench.only(&request(&[7; 40], 3)).await.tokens.len(), 3);
}

#[tokio::test]
async fn stop_texts_are_never_seen() {
    let bench = saying("the rain and\nthe river and the boat");
    for (stop, expected) in [
        (vec!["\nthe river"], "the rain and"),
        (vec!["boats", " and the b"], "the rain and\nthe river"),
        (vec!["the"], ""),
        (vec!["never"], "the rain and\nthe river and the boat"),
    ] {
        let request = GenerateRequest {
            stop: stop.iter().map(|&s| s.into()).collect(),
            logprobs: Some(0),
            ..request(&[5], 100)
        };
        let mut stream = bench.pipeline.submit(&request, ANYBODY).unwrap();
        let mut text = String::new();
        let (mut tokens, mut logprobs) = (0, 0);
        while let Some(event) = stream.next().await {
            let event = event.unwrap();
            text.push_str(&event.text);
            assert!(expected.starts_with(&text), "{stop:?}: {text}");
            tokens += event.tokens.len();
            logprobs += event.logprobs.len();
        }
        assert_eq!(text, expected, "{stop:?}");
        assert_eq!(tokens, logprobs);
        assert!(tokens <= ids("the rain and\nthe river and the boat").len());
    }
}

#[tokio::test]
async fn the_name_of_a_control_token_stops_by_the_token() {
    let mut script = ids("the boat");
    script.push(416);
    script.extend(ids(" in the rain"));
    let bench = bench(Shape {
        rule: Rule::Says(script),
        ..Shape::default()
    });
    assert_eq!(
        bench.only(&request(&[5], 50)).await.text,
        "the boat in the rain"
    );
    let stopped = GenerateRequest {
        stop: vec!["<|im_start|>".into()],
        ..request(&[5], 50)
    };
    assert_eq!(bench.only(&stopped).await.text, "the boat");
    let told = GenerateRequest {
        special_tokens: SpecialTokens::Keep,
        ..request(&[5], 50)
    };
    let text = bench.only(&told).await.text;
    assert_eq!(text, "the boat<|im_start|> in the rain");
}
