//! Five times as many requests as the service can answer: how many are answered all the same, and
//! how soon the others are told to come back.

use std::sync::Arc;

use base64::{Engine, prelude::BASE64_STANDARD};

use super::check_answer;
use crate::{
    client::{self, Format, Head, Load},
    measure::{Outcome, Table, Targets, median, processor::Watch, quantile},
    open_loop::{OpenLoad, Reply},
    server::Server,
    subject::Subject,
    texts::Texts,
};

const ROUNDS: usize = 3;
const SEED: u64 = 51;
/// Connections that keep the service busy, without filling its queue.
const CONNECTIONS: usize = 6;
const FACTOR: f64 = 5.0;
const SECONDS: f64 = 8.0;
/// The queue fills first, and is still full when the last request is sent.
const WARM_UP_S: f64 = 2.0;
/// Some seconds of work for this model, as an operator would choose it who cares for latency.
const QUEUE_TOKENS: &str = "8192";
const GOODPUT_MIN: f64 = 0.9;
const REFUSAL_MAX_S: f64 = 0.05;

/// What a request is made of.
struct Case {
    name: &'static str,
    texts: usize,
    /// Requests that differ; they are sent in turn. Enough that none comes again while it is still
    /// in flight: equal inputs are computed once.
    requests: usize,
    /// Rounds of all of them in a run that measures the capacity.
    capacity_runs: usize,
}

const CASES: [Case; 2] = [
    Case {
        name: "1 text",
        texts: 1,
        requests: 1024,
        capacity_runs: 1,
    },
    Case {
        name: "8 texts",
        texts: 8,
        requests: 128,
        capacity_runs: 3,
    },
];

/// Capacity and overload in turn, for small and for larger requests.
pub fn run(subject: &Subject, targets: &mut Targets) -> Outcome {
    let (server, _) = Server::start_with(&["--max-queue-tokens", QUEUE_TOKENS])?;
    check_answer(subject, &server, "the answer that all others depend on")?;
    let mut table = Table::new(
        format!(
            "### {FACTOR} × the capacity for {SECONDS} s, {ROUNDS} rounds, texts of 8 to 128 words"
        ),
        &[
            "a request",
            "capacity/s",
            "offered/s",
            "answered/s",
            "of capacity",
            "refused p50",
            "refused p99",
            "refused p99.9",
            "answered p50",
            "answered p99",
        ],
    );
    let watch = Watch::start(server.id());
    for case in CASES {
        let measured = measure(subject, &server, &case)?;
        measured.tell(&case, &mut table, targets);
    }
    table.print();
    if let Some(shares) = watch.shares() {
        println!("Over the whole comparison: {shares}.");
    }
    Ok(())
}

#[derive(Default)]
struct Measured {
    capacity: Vec<f64>,
    offered: Vec<f64>,
    goodput: Vec<f64>,
    refused: Vec<f64>,
    answered: Vec<f64>,
}

/// The vectors of each request, one after the other, as the unhurried service gives them.
type Vectors = Vec<Vec<f32>>;

fn measure(subject: &Subject, server: &Server, case: &Case) -> Outcome<Measured> {
    let texts = Texts::new(SEED).mix(case.requests * case.texts);
    let requests: Arc<[Vec<u8>]> = texts
        .chunks(case.texts)
        .map(|texts| client::embeddings(texts, Format::Base64))
        .collect();
    let mut connection = client::Connection::open(server.address())?;
    let own: Outcome<Vectors> = requests
        .iter()
        .map(|request| vectors(&connection.expect(request)?))
        .collect();
    let own = own?;
    let tokens: Outcome<Vec<usize>> = texts.iter().map(|text| subject.tokens(text)).collect();
    let tokens: usize = tokens?.iter().sum();
    println!(
        "\n{}: {} tokens a request",
        case.name,
        tokens / case.requests
    );

    let all: Vec<Vec<u8>> = std::iter::repeat_n(&requests, case.capacity_runs)
        .flat_map(|requests| requests.iter().cloned())
        .collect();
    let closed = Load {
        address: server.address(),
        requests: all.into(),
        connections: CONNECTIONS,
    };
    let capacity = || -> Outcome<f64> {
        Ok((case.requests * case.capacity_runs) as f64 / closed.run()?.seconds)
    };
    capacity()?;
    let mut measured = Measured::default();
    let mut before = capacity()?;
    for _ in 0..ROUNDS {
        let per_second = FACTOR * before;
        let open = OpenLoad {
            address: server.address(),
            requests: requests.clone(),
            per_second,
            count: (per_second * SECONDS) as usize,
        };
        let replies = open.run()?;
        if replies.len() != open.count {
            return Err(format!("{} answers for {}", replies.len(), open.count).into());
        }
        let after = capacity()?;
        measured.capacity.push(f64::midpoint(before, after));
        measured.offered.push(per_second);
        measured.note(&replies, &own)?;
        before = after;
    }
    Ok(measured)
}

impl Measured {
    /// Sorts the answers of a run, after a look at each of them.
    fn note(&mut self, replies: &[Reply], own: &Vectors) -> Outcome {
        let mut answered = 0;
        for reply in replies {
            let head = Head::parse(&reply.bytes)?.ok_or("half an answer")?;
            let body = &reply.bytes[head.end..];
            let at = reply.due + reply.latency;
            match head.status {
                200 => {
                    check_vectors(&vectors(body)?, &own[reply.request])?;
                    self.answered.push(reply.latency);
                    answered += usize::from((WARM_UP_S..SECONDS).contains(&at));
                }
                429 if has_retry_after(&reply.bytes[..head.end]) => {
                    self.refused.push(reply.latency);
                }
                status => return Err(format!("a request got HTTP {status}").into()),
            }
        }
        self.goodput.push(answered as f64 / (SECONDS - WARM_UP_S));
        Ok(())
    }

    fn tell(&self, case: &Case, table: &mut Table, targets: &mut Targets) {
        let shares: Vec<f64> = self
            .goodput
            .iter()
            .zip(&self.capacity)
            .map(|(goodput, capacity)| goodput / capacity)
            .collect();
        let share = median(&shares);
        let rate = |series: &[f64]| format!("{:.0}", median(series));
        let millis = |series: &[f64], part| format!("{:.1} ms", 1e3 * quantile(series, part));
        let late = quantile(&self.refused, 0.99);
        table.row(
            case.name,
            [
                rate(&self.capacity),
                rate(&self.offered),
                rate(&self.goodput),
                format!("{:.1} %", 100.0 * share),
                millis(&self.refused, 0.5),
                millis(&self.refused, 0.99),
                millis(&self.refused, 0.999),
                millis(&self.answered, 0.5),
                millis(&self.answered, 0.99),
            ],
        );
        let name = case.name;
        targets.note(
            &format!("answered at {FACTOR} × the capacity, {name} a request"),
            format!("{:.1} %", 100.0 * share),
            "≥ 90 %",
            (share >= GOODPUT_MIN).into(),
        );
        targets.note(
            &format!("p99 of a refusal then, {name} a request"),
            format!("{:.1} ms", 1e3 * late),
            "< 50 ms",
            (late < REFUSAL_MAX_S).into(),
        );
    }
}

fn has_retry_after(head: &[u8]) -> bool {
    let head = String::from_utf8_lossy(head).to_ascii_lowercase();
    head.contains("\r\nretry-after: ")
}

/// All vectors of an answer, one after the other.
fn vectors(body: &[u8]) -> Outcome<Vec<f32>> {
    let answer: serde_json::Value = serde_json::from_slice(body)?;
    let mut values = Vec::new();
    for item in answer["data"].as_array().ok_or("an answer has no data")? {
        let text = item["embedding"].as_str().ok_or("a vector is no text")?;
        let bytes = BASE64_STANDARD.decode(text)?;
        let floats = bytes.as_chunks::<4>().0.iter();
        values.extend(floats.map(|bytes| f32::from_le_bytes(*bytes)));
    }
    Ok(values)
}

/// Another batch moves the last bits of a vector; another text would move all of it.
fn check_vectors(found: &[f32], own: &[f32]) -> Outcome {
    let pairs = found.iter().zip(own);
    let off = pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    if found.len() == own.len() && off < 1e-4 {
        return Ok(());
    }
    Err(format!("a request got vectors of another one: they are off by {off}").into())
}
