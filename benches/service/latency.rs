//! What one short request on an idle machine takes beyond its forward pass, and where it goes.

use std::time::Instant;

use super::check_answer;
use crate::{
    client::{self, Connection, Format},
    measure::{
        Outcome, Side, Table, Targets, interleave, median,
        processor::{self, Watch},
        quantile,
    },
    server::Server,
    subject::Subject,
    texts::Texts,
};

const ROUNDS: usize = 20;
/// Requests a round: enough to be warm, as in a stream of lone requests.
const REQUESTS: usize = 50;
const WORDS: usize = 8;
const SEED: u64 = 31;
const OVERHEAD_MAX_S: f64 = 1e-3;

/// One connection and one request at a time, in turn with the bare session on all cores.
pub fn run(subject: &Subject, targets: &mut Targets) -> Outcome {
    let (server, _) = Server::start()?;
    let text = Texts::new(SEED).words(WORDS);
    check_answer(subject, &server, &text)?;
    let tokens = subject.tokens(&text)?;
    let batch = subject
        .batches(std::slice::from_ref(&text), usize::MAX)?
        .swap_remove(0);
    let mut encoder = subject.model.encoder(processor::cores())?;
    let mut connection = Connection::open(server.address())?;
    let mut second = Connection::open(server.address())?;
    let [base64, float] = [Format::Base64, Format::Float]
        .map(|format| client::embeddings(std::slice::from_ref(&text), format));
    let mut times = [const { Vec::new() }; 3];
    let [bare, service, in_json] = &mut times;
    let before = Parts::read(&server)?;
    let watch = Watch::start(server.id());
    let sides: [Side<'_>; 3] = [
        Box::new(|| timed(bare, || Ok(encoder.encode(&batch).map(drop)?))),
        Box::new(|| timed(service, || connection.expect(&base64).map(drop))),
        Box::new(|| timed(in_json, || second.expect(&float).map(drop))),
    ];
    interleave(ROUNDS, sides)?;
    let shares = watch.shares();
    let parts = Parts::read(&server)?.since(&before);

    let mut table = Table::new(
        format!("### One request of {WORDS} words ({tokens} tokens) at a time, µs"),
        &["what", "p50", "p95", "p50 over the bare session"],
    );
    let p50 = times.each_ref().map(|series| median(series));
    let names = [
        "bare session on all cores",
        "service, base64",
        "service, numbers in JSON",
    ];
    for ((name, series), middle) in names.iter().zip(&times).zip(p50) {
        let micros = |seconds: f64| format!("{:.0}", seconds * 1e6);
        table.row(
            *name,
            [middle, quantile(series, 0.95), middle - p50[0]].map(micros),
        );
    }
    table.print();
    parts.print();
    if let Some(shares) = shares {
        println!("\nOver the whole comparison: {shares}.");
    }
    // What most clients ask for decides, not the cheaper form.
    let overhead = p50[2] - p50[0];
    targets.note(
        "p50 overhead of a single short request, numbers in JSON",
        format!("{:.2} ms", overhead * 1e3),
        "< 1 ms",
        (overhead < OVERHEAD_MAX_S).into(),
    );
    Ok(())
}

/// Does something a number of times, notes each duration, and returns the middle one.
fn timed(times: &mut Vec<f64>, mut work: impl FnMut() -> Outcome) -> Outcome<f64> {
    let before = times.len();
    for _ in 0..REQUESTS {
        let started = Instant::now();
        work()?;
        times.push(started.elapsed().as_secs_f64());
    }
    Ok(median(&times[before..]))
}

/// The service's own account of where time goes: sums of its histograms.
#[derive(Debug, Clone, Copy)]
struct Parts {
    requests: f64,
    seconds: [f64; PARTS.len()],
}

/// Stages of a request in order, and the whole of it inside the service.
const PARTS: [(&str, &str); 4] = [
    (
        "tokenize, its thread included",
        "retort_tokenize_duration_seconds_sum",
    ),
    ("wait in the queue", "retort_queue_duration_seconds_sum"),
    ("forward pass", "retort_inference_duration_seconds_sum"),
    (
        "whole request, as the service sees it",
        "retort_request_duration_seconds_sum",
    ),
];

impl Parts {
    fn read(server: &Server) -> Outcome<Self> {
        let body = Connection::open(server.address())?.expect(&client::get("/metrics"))?;
        let text = String::from_utf8(body)?;
        // A line is `name{labels} value`; requests for metrics are no embeddings.
        let sum = |name: &str| -> f64 {
            let lines = text.lines().filter(|line| line.starts_with(name));
            let ours = lines.filter(|line| !line.contains("task=") || line.contains("\"embed\""));
            ours.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
                .sum()
        };
        let requests = sum("retort_request_duration_seconds_count");
        Ok(Self {
            requests,
            seconds: PARTS.map(|(_, name)| sum(name)),
        })
    }

    fn since(&self, before: &Self) -> Self {
        let mut parts = *self;
        parts.requests -= before.requests;
        parts
            .seconds
            .iter_mut()
            .zip(before.seconds)
            .for_each(|(part, before)| *part -= before);
        parts
    }

    fn print(&self) {
        let mut table = Table::new(
            "### Where it goes, mean by the service's own metrics, µs",
            &["part", "mean"],
        );
        for ((name, _), seconds) in PARTS.iter().zip(self.seconds) {
            table.row(*name, [format!("{:.0}", 1e6 * seconds / self.requests)]);
        }
        table.print();
    }
}
