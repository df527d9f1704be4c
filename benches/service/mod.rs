//! The service against what it is made of, over HTTP, each comparison inside one run.

pub mod concurrency;
pub mod lanes;
pub mod latency;
pub mod overload;
pub mod throughput;
pub mod traffic;

use serde_json::Value;

use crate::{
    client::{self, Connection, Format},
    measure::Outcome,
    server::Server,
    subject::Subject,
};

/// The service must give what the bare session gives, or comparing their speeds means nothing.
fn check_answer(subject: &Subject, server: &Server, text: &str) -> Outcome {
    let request = client::embeddings(&[text.to_owned()], Format::Float);
    let body = Connection::open(server.address())?.expect(&request)?;
    let answer: Value = serde_json::from_slice(&body)?;
    let embedding = answer["data"][0]["embedding"]
        .as_array()
        .ok_or("an answer has no vector")?;
    let served: Vec<f64> = embedding.iter().filter_map(Value::as_f64).collect();

    let batch = subject
        .batches(&[text.to_owned()], usize::MAX)?
        .swap_remove(0);
    let output = subject.model.encoder(1)?.encode(&batch)?.swap_remove(0);
    let bare: Vec<f64> = output
        .dense
        .iter()
        .flatten()
        .map(|&value| f64::from(value))
        .collect();
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let cosine = dot(&served, &bare) / (dot(&served, &served) * dot(&bare, &bare)).sqrt();
    if served.len() == bare.len() && cosine > 0.99999 {
        return Ok(());
    }
    Err(format!("the service and the bare session disagree: their cosine is {cosine}").into())
}
