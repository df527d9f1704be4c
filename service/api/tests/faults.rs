//! A device that is lost: who is inside is told at once, and the server is not ready any more.

use serde_json::json;

use super::*;
use crate::engine::request::ModelInfo;

/// A model whose device is lost with its first forward pass.
struct Lost;

impl Encode for Lost {
    fn encode(&mut self, _: &Batch) -> retort_models::Result<Vec<Output>> {
        Err(retort_models::Error::Device {
            message: "CUDA error 700: an illegal memory access was encountered".into(),
            poisoned: true,
        })
    }
}

#[tokio::test]
async fn a_lost_device_turns_readiness_red_and_answers_those_inside() {
    let (server, gate) = Server::gated(ApiSettings::default(), limits());
    let server = Arc::new(server);
    // Dropped before the server, which waits for its workers.
    let mut gate = gate;
    let checkpoint =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/checkpoints/bert-tiny-mean");
    let tokenizer = Tokenizer::load(&checkpoint).unwrap();
    server
        .engine
        .register(ModelInfo::loading("lost", vec![]))
        .unwrap();
    let parts = Parts {
        name: "lost".into(),
        info: info(tokenizer.vocab_size()),
        tokenizer: Arc::new(tokenizer),
        late_interaction: None,
        encoders: vec![(WorkerKind::Gpu(0), Box::new(Lost))],
        telemetry: server.telemetry.clone(),
    };
    server.engine.serve_parts(parts).unwrap();
    server.fleet.adopt("lost");

    // Inside another model, which is not done.
    let body = |model: &str| json!({"model": model, "input": "the"}).to_string();
    let inside = tokio::spawn({
        let (server, body) = (server.clone(), body("fake"));
        async move { server.post("/v1/embeddings", body).await }
    });
    gate.reached.recv().await.unwrap();
    assert!(!inside.is_finished());

    server.post("/v1/embeddings", body("lost")).await.error(503);
    let detail = inside.await.unwrap().error(503);
    assert!(detail.contains("CUDA error 700"), "{detail}");
    let ready = server.get("/readyz").await;
    assert_eq!(ready.status, 503);
    assert!(ready.text().contains("CUDA error 700"), "{}", ready.text());
    server.get("/health").await.error(503);
    server.post("/v1/embeddings", body("fake")).await.error(503);
    assert_eq!(server.get("/livez").await.status, 200);
}
