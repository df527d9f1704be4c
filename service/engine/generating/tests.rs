//! The verb, with a fake model behind it: who is found, who is refused, who counts as present.

use std::{future::Future, task::Poll, time::Duration};

use super::*;
use crate::{
    engine::{
        EngineLimits, Expiry, KeepAlive,
        encode::UntrainedDimensions,
        generate::fake::{self, Gate, Rule, Shape},
        request::{EmbedInput, EmbedRequest, ModelInfo, ModelKind, PromptInput},
    },
    telemetry::Telemetry,
};

fn engine() -> Engine {
    let limits = EngineLimits {
        max_inputs_per_request: 8,
        max_batch_tokens: 64,
        max_gpu_batch_tokens: 64,
        max_queue_tokens: 1_000,
        request_timeout: Duration::from_secs(60),
        untrained_dimensions: UntrainedDimensions::Refused,
        threads: 1,
        workers: 1,
        scheduling: crate::engine::lane::Scheduling::default(),
    };
    Engine::new(limits, Telemetry::new()).unwrap()
}

fn request() -> GenerateRequest {
    GenerateRequest::new(PromptInput::Ids(vec![5]))
}

/// Of the first model that generates.
async fn generate(engine: &Engine, request: GenerateRequest) -> Result<GenerateStream> {
    engine.generator(None).await?.generate(request).await
}

#[tokio::test]
async fn a_model_is_found_by_name_or_by_what_it_can_do() {
    let engine = engine();
    fake::serve_saying(&engine, "talker", "the boat");
    for name in [Some("talker"), None] {
        let generator = engine.generator(name).await.unwrap();
        let stream = generator.generate(request()).await.unwrap();
        let choices = stream.collect().await.unwrap().choices;
        assert_eq!(choices[0].text, "the boat");
    }
    let unknown = engine.generator(Some("nobody")).await.err().unwrap();
    assert_eq!(unknown.status(), 404);
    let info = engine.model("talker").unwrap();
    assert_eq!(info.kind(), Some(ModelKind::Generator));
    assert!(info.generator.is_some() && info.encoder.is_none());
}

#[tokio::test]
async fn a_model_that_generates_does_nothing_else() {
    let engine = engine();
    fake::serve_saying(&engine, "talker", "the boat");
    let embed = EmbedRequest {
        model: Some("talker".into()),
        inputs: vec![EmbedInput::Text("x".into())],
        ..EmbedRequest::default()
    };
    let error = engine.embed(embed).await.err().unwrap();
    assert_eq!(error.status(), 400);
    assert!(error.to_string().contains("it can generate"), "{error}");
    let probes = engine.probe().await;
    assert!(probes[0].outcome.is_ok() && probes[0].device == "cpu");
}

#[tokio::test]
async fn what_goes_wrong_before_the_first_token_is_an_error_at_once() {
    let engine = engine();
    fake::serve_saying(&engine, "talker", "the boat");
    let poisoned = GenerateRequest {
        prompt: PromptInput::Ids(vec![fake::POISON]),
        ..request()
    };
    assert_eq!(
        generate(&engine, poisoned).await.err().unwrap().status(),
        500
    );
    let none = GenerateRequest { n: 0, ..request() };
    assert_eq!(generate(&engine, none).await.err().unwrap().status(), 400);
    engine.drain();
    assert_eq!(
        generate(&engine, request()).await.err().unwrap().status(),
        503
    );
}

#[tokio::test]
async fn several_prompts_are_taken_together_or_not_at_all() {
    let engine = engine();
    let (parts, hands) = fake::parts("talker", Shape::default());
    let loading = ModelInfo::loading("talker", vec![]);
    engine.register(loading).unwrap();
    engine.serve_generator(parts).unwrap();
    let all = async |prompts: &[u32]| {
        let requests = prompts.iter().map(|&id| GenerateRequest {
            prompt: PromptInput::Ids(vec![id]),
            max_tokens: Some(3),
            ..request()
        });
        let generator = engine.generator(None).await.unwrap();
        generator.generate_all(requests.collect()).await
    };
    assert_eq!(all(&[5, 6, 999_999]).await.err().unwrap().status(), 400);
    assert!(hands.seen.try_recv().is_err(), "something was computed");
    let streams = all(&[7, 8, 9]).await.unwrap();
    assert_eq!(engine.in_flight(), 1);
    let first = hands.seen.recv().unwrap();
    assert_eq!(
        first.iter().map(|seen| seen.first).collect::<Vec<_>>(),
        [7, 8, 9]
    );
    for stream in streams {
        assert_eq!(stream.collect().await.unwrap().usage.completion_tokens, 3);
    }
    assert_eq!(engine.in_flight(), 0);
}

#[tokio::test]
async fn whoever_reads_is_inside_until_the_end() {
    let engine = engine();
    fake::serve_saying(&engine, "talker", "the boat");
    engine
        .wish_keep_alive("talker", KeepAlive::For(Duration::ZERO))
        .unwrap();
    let usage = engine.uses().remove(0).usage.unwrap();
    let stream = generate(&engine, request()).await.unwrap();
    assert_eq!((usage.inside(), engine.in_flight()), (1, 1));
    assert_eq!(usage.expiry(), Expiry::OnLeaving);
    assert!(engine.put_to_sleep("talker").is_none());
    drop(stream);
    assert_eq!((usage.inside(), engine.in_flight()), (0, 0));
    let retired = engine.put_to_sleep("talker").unwrap();
    assert!(retired.finish(Duration::ZERO));
}

#[tokio::test]
async fn unloading_cuts_off_who_still_reads() {
    let engine = engine();
    let shape = Shape {
        // Each of its tokens is whole characters, so the first is an event.
        rule: Rule::Says(fake::ids("the boat")),
        gate: Gate::Shut,
        ..Shape::default()
    };
    let (parts, hands) = fake::parts("talker", shape);
    engine
        .register(ModelInfo::loading("talker", vec![]))
        .unwrap();
    engine.serve_generator(parts).unwrap();
    hands.gate.send(()).unwrap();
    let mut stream = generate(&engine, request()).await.unwrap();
    let retired = engine.remove("talker").unwrap();
    drop(hands);
    assert!(!retired.finish(Duration::ZERO));
    let error = loop {
        match stream.next().await {
            Some(Err(error)) => break error,
            Some(Ok(_)) => {}
            None => panic!("it ended"),
        }
    };
    assert_eq!(error.status(), 503);
}

#[tokio::test]
async fn a_caller_who_gives_up_before_the_first_token_leaves_nothing_behind() {
    let engine = engine();
    let shape = Shape {
        gate: Gate::Shut,
        ..Shape::default()
    };
    let (parts, hands) = fake::parts("talker", shape);
    engine
        .register(ModelInfo::loading("talker", vec![]))
        .unwrap();
    engine.serve_generator(parts).unwrap();
    let mut waiting = Box::pin(generate(&engine, request()));
    // Its step has begun and waits at the gate.
    std::future::poll_fn(|context| {
        assert!(waiting.as_mut().poll(context).is_pending());
        match hands.seen.try_recv() {
            Ok(_) => Poll::Ready(()),
            Err(_) => {
                context.waker().wake_by_ref();
                Poll::Pending
            }
        }
    })
    .await;
    assert_eq!(engine.in_flight(), 1);
    drop(waiting);
    assert_eq!(engine.in_flight(), 0);
    let usage = engine.uses().remove(0).usage.unwrap();
    // What the caller left may still be on its way to it, from the thread that has tokenized.
    while usage.inside() > 0 {
        tokio::task::yield_now().await;
    }
    hands.gate.send(()).unwrap();
    // No further step is begun for it: the next that is seen is another's.
    let mut other = Box::pin(generate(
        &engine,
        GenerateRequest {
            prompt: PromptInput::Ids(vec![9]),
            ..request()
        },
    ));
    let seen = std::future::poll_fn(|context| {
        assert!(other.as_mut().poll(context).is_pending());
        match hands.seen.try_recv() {
            Ok(seen) => Poll::Ready(seen),
            Err(_) => {
                context.waker().wake_by_ref();
                Poll::Pending
            }
        }
    })
    .await;
    assert_eq!((seen.len(), seen[0].first), (1, 9));
}
