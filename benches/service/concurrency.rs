//! Many clients with one text each against few with many, and numbers in JSON against base64.

use std::sync::Arc;

use super::check_answer;
use crate::{
    client::{self, Format, Load},
    measure::{
        Outcome, Ratio, Side, Table, Targets, interleave, median, processor::Watch, quantile,
    },
    server::Server,
    subject::Subject,
    texts::Texts,
};

const ROUNDS: usize = 5;
const SEED: u64 = 41;
const TEXTS: usize = 768;
const BATCHED: usize = 32;
const AIM: f64 = 0.85;
const COLUMNS: [&str; 4] = [
    "requests",
    "tokens/s",
    "texts/s",
    "against 8 × 32 in base64",
];

/// The same texts every time, cut into requests in three ways.
pub fn run(subject: &Subject, targets: &mut Targets) -> Outcome {
    let (server, _) = Server::start()?;
    let texts = Texts::new(SEED).mix(TEXTS);
    check_answer(subject, &server, &texts[0])?;
    let tokens: Outcome<Vec<usize>> = texts.iter().map(|text| subject.tokens(text)).collect();
    let tokens = tokens?.iter().sum::<usize>() as f64;
    let load = |connections, texts_per_request, format| {
        let requests: Arc<[Vec<u8>]> = texts
            .chunks(texts_per_request)
            .map(|texts| client::embeddings(texts, format))
            .collect();
        Load {
            address: server.address(),
            requests,
            connections,
        }
    };
    let single = load(256, 1, Format::Base64);
    let batched = load(8, BATCHED, Format::Base64);
    let in_json = load(8, BATCHED, Format::Float);
    let mut latencies = Vec::new();
    let watch = Watch::start(server.id());
    let sides: [Side<'_>; 3] = [
        Box::new(|| {
            let answered = single.run()?;
            latencies.extend(answered.latencies);
            Ok(tokens / answered.seconds)
        }),
        Box::new(|| Ok(tokens / batched.run()?.seconds)),
        Box::new(|| Ok(tokens / in_json.run()?.seconds)),
    ];
    let [single, batched, in_json] = interleave(ROUNDS, sides)?;
    let shares = watch.shares();

    let mut table = Table::new(
        format!("### {TEXTS} texts of 8 to 128 words ({tokens:.0} tokens), {ROUNDS} rounds"),
        &COLUMNS,
    );
    let mut row = |name: &str, series: &[f64]| {
        let rate = median(series);
        let texts_per_second = rate / tokens * TEXTS as f64;
        let ratio = Ratio::of(series, &batched);
        table.row(
            name,
            [
                format!("{rate:.0}"),
                format!("{texts_per_second:.1}"),
                ratio.to_string(),
            ],
        );
    };
    row("256 connections × 1 text, base64", &single);
    row("8 connections × 32 texts, base64", &batched);
    row("8 connections × 32 texts, numbers in JSON", &in_json);
    table.print();
    tell_latencies(latencies);
    if let Some(shares) = shares {
        println!("Over the whole comparison: {shares}.");
    }
    let ratio = Ratio::of(&single, &batched).median;
    targets.note(
        "256 clients × 1 text / 8 clients × 32 texts",
        format!("{:.1} %", 100.0 * ratio),
        "≥ 85 %",
        (ratio >= AIM).into(),
    );
    Ok(())
}

fn tell_latencies(mut latencies: Vec<f64>) {
    // The first of these are of the round that only warms up.
    let latencies = latencies.split_off(TEXTS);
    let [p50, p95, p99] =
        [0.50, 0.95, 0.99].map(|part| format!("{:.0} ms", 1e3 * quantile(&latencies, part)));
    let requests = latencies.len();
    println!("\n256 × 1: p50 {p50}, p95 {p95}, p99 {p99} of {requests} requests, none failed.");
}
