//! The service under load: tokens per second at each length and on the natural mix, many clients of
//! one text each, and how long a caller waits for a reranking.

use std::{net::SocketAddr, sync::Arc};

use serde_json::{Value, json};

use super::{options::Options, row};
use crate::{
    client::{self, Load},
    measure::{Outcome, quantile},
};

/// Connections that keep a GPU busy.
const CONNECTIONS: usize = 64;
/// Clients of one text each.
const CLIENTS: usize = 256;

/// Words that every made vocabulary has.
const WORDS: usize = 900;

/// So many words of the made vocabulary; two special tokens come on top. Another seed gives another
/// text, since the service would run equal ones only once.
pub fn text(tokens: usize, seed: usize) -> String {
    let word = |place: usize| match place {
        0 => seed % WORDS,
        1 => seed / WORDS % WORDS,
        2 => seed / WORDS / WORDS % WORDS,
        _ => (place * 29 + seed * 31) % WORDS,
    };
    let words = (0..tokens.saturating_sub(2)).map(|place| format!("w{}", word(place)));
    words.collect::<Vec<_>>().join(" ")
}

/// Measures the server at `--address`, each thing with about `--tokens` tokens.
pub fn run(options: &Options) -> Outcome<Vec<Value>> {
    let bench = Bench {
        address: options.address()?,
        tokens: options.or("tokens", 1_500_000)?,
        model: options.or("model", "m3".to_owned())?,
    };
    let longest = options.or("longest", 8192)?;
    let mut rows = Vec::new();
    for length in [32, 128, 512, 2048, 8192]
        .into_iter()
        .filter(|&l| l <= longest)
    {
        let rate = bench.embed(&vec![length; (bench.tokens / length).max(1)])?;
        rows.push(row(format!("HTTP {length} tokens"), rate, "tokens/s"));
    }
    let mix = options.mix()?;
    let mut lengths: Vec<usize> = mix.iter().map(|&length| length.min(longest)).collect();
    let once: usize = lengths.iter().sum();
    lengths = lengths.repeat((bench.tokens / once.max(1)).clamp(1, 20));
    rows.push(row("HTTP natural mix", bench.embed(&lengths)?, "tokens/s"));
    rows.extend(bench.many_clients(32)?);
    if let Ok(reranker) = options.text("reranker") {
        rows.push(bench.rerank(reranker, longest.min(512), options.or("rerankings", 40)?)?);
    }
    Ok(rows)
}

struct Bench {
    address: SocketAddr,
    tokens: usize,
    model: String,
}

impl Bench {
    /// Requests of many texts, about 8,192 tokens each.
    fn embed(&self, lengths: &[usize]) -> Outcome<f64> {
        let mut requests = Vec::new();
        let (mut texts, mut tokens) = (Vec::new(), 0);
        for (seed, &length) in lengths.iter().enumerate() {
            let seed = seed + length * 100_000;
            texts.push(text(length, seed));
            tokens += length;
            if tokens >= 8192 || texts.len() >= 1024 {
                requests.push(self.request(&texts));
                texts.clear();
                tokens = 0;
            }
        }
        if !texts.is_empty() {
            requests.push(self.request(&texts));
        }
        // The first requests find nothing warm, so some of them are sent before.
        self.load(requests.iter().take(8).cloned().collect(), 8)?;
        let seconds = self.load(requests, CONNECTIONS)?.seconds;
        Ok(lengths.iter().sum::<usize>() as f64 / seconds)
    }

    fn many_clients(&self, length: usize) -> Outcome<Vec<Value>> {
        let count = (self.tokens / 8 / length).clamp(CLIENTS, 40_000);
        let request = |seed| self.request(&[text(length, seed + 700_000_000)]);
        let answered = self.load((0..count).map(request).collect(), CLIENTS)?;
        let name = format!("{CLIENTS} clients × 1 text of {length} tokens");
        let part = |share| quantile(&answered.latencies, share) * 1e3;
        Ok(vec![
            row(name.clone(), count as f64 / answered.seconds, "requests/s"),
            row(format!("{name}, p50"), part(0.5), "ms"),
            row(format!("{name}, p99"), part(0.99), "ms"),
        ])
    }

    fn rerank(&self, model: &str, length: usize, times: usize) -> Outcome<Value> {
        let request = |seed: usize| rerank(model, (length, 50), seed);
        self.load((0..3).map(request).collect(), 1)?;
        let answered = self.load((3..times + 3).map(request).collect(), 1)?;
        let name = format!("HTTP rerank of 50 documents of {length} tokens, p50");
        Ok(row(name, quantile(&answered.latencies, 0.5) * 1e3, "ms"))
    }

    fn request(&self, texts: &[String]) -> Vec<u8> {
        embed(&self.model, texts)
    }

    fn load(&self, requests: Vec<Vec<u8>>, connections: usize) -> Outcome<client::Answered> {
        let load = Load {
            address: self.address,
            connections: connections.min(requests.len()),
            requests: Arc::from(requests),
        };
        load.run()
    }
}

/// A request for vectors, as bytes in base64: writing numbers would measure the processor.
pub fn embed(model: &str, texts: &[String]) -> Vec<u8> {
    let body = json!({"model": model, "input": texts, "encoding_format": "base64"});
    client::post("/v1/embeddings", &body)
}

/// A reranking of so many documents so long, the query included.
pub fn rerank(model: &str, (length, count): (usize, usize), seed: usize) -> Vec<u8> {
    let documents: Vec<String> = (0..count)
        .map(|document| text(length.saturating_sub(12), seed * 1000 + document))
        .collect();
    let body = json!({"model": model, "query": text(10, seed), "documents": documents});
    client::post("/v1/rerank", &body)
}
