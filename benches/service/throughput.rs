//! Tokens per second of the service against the bare session, and of that against the rate at which
//! the machine multiplies matrices.

use std::{sync::Arc, time::Duration};

use retort_models::Batch;

use super::check_answer;
use crate::{
    client::{self, Format, Load},
    matmul::{Matmul, Product},
    measure::{
        Outcome, Ratio, Side, Table, Targets, interleave, median,
        processor::{self, Watch},
    },
    server::Server,
    subject::{Bare, Subject},
    texts::Texts,
};

const ROUNDS: usize = 7;
const BATCH_TOKENS: usize = 256;
const SEED: u64 = 21;
const MATMUL_SLICE: Duration = Duration::from_millis(250);

/// A product that no cache of one core holds, for comparison.
const LARGE: (usize, usize) = (1024, 4096);

const SERVICE_AIM: f64 = 0.95;
const MATMUL_AIM: f64 = 0.80;

/// How texts come to the service.
struct Case {
    name: &'static str,
    tokens_per_text: usize,
    texts_per_request: usize,
    connections: usize,
    requests: usize,
}

/// All of them fill batches of 256 tokens exactly.
const CASES: &[Case] = &[
    Case {
        name: "8 connections × 1 text of 256",
        tokens_per_text: 256,
        texts_per_request: 1,
        connections: 8,
        requests: 64,
    },
    Case {
        name: "8 connections × 2 texts of 128",
        tokens_per_text: 128,
        texts_per_request: 2,
        connections: 8,
        requests: 64,
    },
    Case {
        name: "8 connections × 32 texts of 256",
        tokens_per_text: 256,
        texts_per_request: 32,
        connections: 8,
        requests: 8,
    },
];

/// Measures every case with its bare session, and the first also with the matrix products.
pub fn run(subject: &Subject, targets: &mut Targets) -> Outcome {
    let (server, _) = Server::start()?;
    let mut bare = Bare::new(subject)?;
    check_answer(subject, &server, &Texts::new(SEED).words(40))?;
    let mut table = Table::new(
        format!("### Throughput in batches of {BATCH_TOKENS} tokens, tokens/s, {ROUNDS} rounds"),
        &["requests", "bare session", "service", "service / bare"],
    );
    let mut least = f64::INFINITY;
    let watch = Watch::start(server.id());
    for case in CASES {
        let prepared = Prepared::new(subject, &server, case)?;
        let sides: [Side<'_>; 2] = [
            Box::new(|| Ok(prepared.tokens / bare.run(&prepared.batches)?)),
            Box::new(|| Ok(prepared.tokens / prepared.load.run()?.seconds)),
        ];
        let [bare, service] = interleave(ROUNDS, sides)?;
        let ratio = Ratio::of(&service, &bare);
        least = least.min(ratio.median);
        let rates = [&bare, &service].map(|series| format!("{:.0}", median(series)));
        table.row(case.name, rates.into_iter().chain([ratio.to_string()]));
    }
    table.print();
    if let Some(shares) = watch.shares() {
        println!("\nOver the whole comparison: {shares}.");
    }
    targets.note(
        "service / bare session, 256-token batches (least of the cases)",
        format!("{:.1} %", 100.0 * least),
        "≥ 95 %",
        (least >= SERVICE_AIM).into(),
    );
    drop(server);
    ceiling(subject, &mut bare, targets)
}

/// A case with everything made beforehand that is not measured.
struct Prepared {
    load: Load,
    batches: Vec<Batch>,
    tokens: f64,
}

impl Prepared {
    fn new(subject: &Subject, server: &Server, case: &Case) -> Outcome<Self> {
        let mut source = Texts::new(SEED);
        let count = case.requests * case.texts_per_request;
        let texts: Outcome<Vec<String>> = (0..count)
            .map(|_| source.exactly(case.tokens_per_text, subject))
            .collect();
        let texts = texts?;
        let requests: Arc<[Vec<u8>]> = texts
            .chunks(case.texts_per_request)
            .map(|texts| client::embeddings(texts, Format::Base64))
            .collect();
        let load = Load {
            address: server.address(),
            requests,
            connections: case.connections,
        };
        let batches = subject.batches(&texts, BATCH_TOKENS)?;
        Ok(Self {
            load,
            batches,
            tokens: (count * case.tokens_per_text) as f64,
        })
    }
}

/// The bare session's operations per second against the best matrix product of any shape.
fn ceiling(subject: &Subject, bare: &mut Bare, targets: &mut Targets) -> Outcome {
    let sizes = subject.sizes;
    let (hidden, intermediate) = (sizes.hidden, sizes.intermediate);
    let products = [
        (hidden, hidden),
        (hidden, intermediate),
        (intermediate, hidden),
        LARGE,
    ]
    .map(|(inner, outer)| Product::new(BATCH_TOKENS, inner, outer));
    let multiplier = |at: usize| Matmul::new(&subject.runtime, products[at]);
    let (mut square, mut up) = (multiplier(0)?, multiplier(1)?);
    let (mut down, mut large) = (multiplier(2)?, multiplier(3)?);
    let mut source = Texts::new(SEED);
    let texts: Outcome<Vec<String>> = (0..24)
        .map(|_| source.exactly(BATCH_TOKENS, subject))
        .collect();
    let texts = texts?;
    let batches = subject.batches(&texts, BATCH_TOKENS)?;
    let operations = sizes.operations(BATCH_TOKENS) * texts.len() as f64;
    let [model, square, up, down, large] = interleave(
        ROUNDS,
        [
            Box::new(|| Ok(operations / bare.run(&batches)?)),
            Box::new(|| square.run(MATMUL_SLICE)),
            Box::new(|| up.run(MATMUL_SLICE)),
            Box::new(|| down.run(MATMUL_SLICE)),
            Box::new(|| large.run(MATMUL_SLICE)),
        ],
    )?;
    let rates = [&square, &up, &down, &large];
    let best = rates
        .into_iter()
        .max_by(|a, b| median(a).total_cmp(&median(b)));
    let ratio = Ratio::of(&model, best.unwrap_or(&large));

    let mut table = Table::new(
        format!(
            "### The bare session against matrix products in fp32, {} cores",
            processor::cores()
        ),
        &["what", "GFLOP/s", "model / this"],
    );
    let gigaflops = |series: &[f64]| format!("{:.1}", median(series) / 1e9);
    let mut row = |name: String, series: &[f64]| {
        table.row(
            name,
            [gigaflops(series), Ratio::of(&model, series).to_string()],
        );
    };
    row(format!("the model, {BATCH_TOKENS} tokens a batch"), &model);
    for (product, series) in products.iter().zip(rates) {
        row(format!("`Gemm` {product}"), series);
    }
    table.print();
    targets.note(
        "bare session / best matrix product, fp32",
        format!("{:.1} %", 100.0 * ratio.median),
        "≥ 80 %",
        (ratio.median >= MATMUL_AIM).into(),
    );
    Ok(())
}
