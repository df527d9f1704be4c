//! Tokens per second of the service against the bare session, and of that against what the
//! processor can multiply.

use std::{
    sync::Arc,
    thread::{self, ScopedJoinHandle},
    time::{Duration, Instant},
};

use retort_kernels::{Isa, LinearKind, linear::peak};
use retort_models::{Batch, DtypeChoice};

use super::check_answer;
use crate::{
    client::{self, Format, Load},
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
const CEILING_SLICE: Duration = Duration::from_millis(250);

const SERVICE_AIM: f64 = 0.95;

/// Every type, its arithmetic, and the share of the ceiling that is wanted.
const CEILINGS: &[(DtypeChoice, LinearKind, f64)] = &[
    (DtypeChoice::Fp32, LinearKind::Fp32, 0.85),
    (DtypeChoice::Bf16, LinearKind::Bf16, 0.75),
    (DtypeChoice::Int8, LinearKind::Int8, 0.60),
];

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
    ceilings(subject, targets)
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

/// The bare session's operations per second in every type against what the processor multiplies of
/// it on registers alone.
fn ceilings(subject: &Subject, targets: &mut Targets) -> Outcome {
    let mut source = Texts::new(SEED);
    let texts: Outcome<Vec<String>> = (0..24)
        .map(|_| source.exactly(BATCH_TOKENS, subject))
        .collect();
    let texts = texts?;
    let batches = subject.batches(&texts, BATCH_TOKENS)?;
    let operations = subject.sizes.operations(BATCH_TOKENS) * texts.len() as f64;
    let mut table = Table::new(
        format!(
            "### The bare session against products on registers, {BATCH_TOKENS} tokens a batch, \
             {} cores",
            processor::cores()
        ),
        &["type", "GFLOP/s", "ceiling", "share"],
    );
    for &(dtype, kind, aim) in CEILINGS {
        let model = subject.computed_in(dtype)?;
        let mut bare = Bare::of(&model)?;
        let [ours, ceiling] = interleave(
            ROUNDS,
            [
                Box::new(|| Ok(operations / bare.run(&batches)?)),
                Box::new(|| Ok(registers(kind))),
            ],
        )?;
        let share = Ratio::of(&ours, &ceiling);
        let gigaflops = |series: &[f64]| format!("{:.1}", median(series) / 1e9);
        let cells = [gigaflops(&ours), gigaflops(&ceiling), share.to_string()];
        table.row(kind.to_string(), cells);
        targets.note(
            &format!("bare session / ceiling, {kind}"),
            format!("{:.1} %", 100.0 * share.median),
            &format!("≥ {:.0} %", 100.0 * aim),
            (share.median >= aim).into(),
        );
    }
    table.print();
    Ok(())
}

/// Operations per second of all cores together that load and store nothing.
fn registers(kind: LinearKind) -> f64 {
    const PIECE: usize = 25_000;
    let isa = Isa::detect();
    let started = Instant::now();
    let operations: f64 = thread::scope(|scope| {
        let work = || {
            let mut operations = 0.0;
            while started.elapsed() < CEILING_SLICE {
                operations += peak(kind, isa, PIECE);
            }
            operations
        };
        let threads: Vec<_> = (0..processor::cores()).map(|_| scope.spawn(work)).collect();
        let joined = threads.into_iter().map(ScopedJoinHandle::join);
        joined
            .map(|operations| operations.unwrap_or(f64::NAN))
            .sum()
    });
    operations / started.elapsed().as_secs_f64()
}
