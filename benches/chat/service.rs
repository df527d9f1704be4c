//! The same model in the service: how long the first token takes over HTTP, and what embeddings
//! lose to conversations beside them.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::Instant,
};

use serde_json::json;

use crate::{
    client::{self, Connection},
    measure::{
        Outcome, Ratio, Side, Table, Targets, interleave, median, processor::Watch, quantile,
    },
    open_loop::OpenLoad,
    server::Server,
    subject::{MODEL, Subject},
    texts::Texts,
};

const SEED: u64 = 77;
const FIRST_TOKEN_PROMPTS: [usize; 3] = [16, 128, 512];
const FIRST_TOKEN_RUNS: u32 = 5;
const QUERY_WORDS: usize = 8;
const QUERIES: usize = 64;
/// As many as a person's search box sends at its busiest.
const QUERIES_PER_SECOND: f64 = 20.0;
const SLICE_S: f64 = 6.0;
const ROUNDS: usize = 4;
const CONVERSATIONS: usize = 4;
const ANSWER_TOKENS: usize = 32;
const PROMPT_TOKENS: u32 = 64;
const P99_AIM: f64 = 2.0;

/// First tokens, then queries with and without conversations.
pub fn run(_: &Subject, folder: &Path, targets: &mut Targets) -> Outcome {
    let chat = format!("chat={}", folder.display());
    let models = ["--model", MODEL, "--model", &chat];
    let options = [&models[..], &["--weights", "int4", "--kv-cache-mib", "256"]].concat();
    let (server, _) = Server::start_with(&options)?;
    first_tokens(&server)?;
    beside_embeddings(&server, targets)
}

/// A request that nobody has sent before, so that nothing of it is known.
fn completion(prompt: u32, tokens: usize, number: u32) -> Vec<u8> {
    let ids: Vec<u32> = (0..prompt)
        .map(|at| 11 + (number * 7919 + at * 13) % 150_000)
        .collect();
    let body = json!({
        "model": "chat", "prompt": ids, "max_tokens": tokens, "temperature": 0,
        "ignore_eos": true,
    });
    client::post("/v1/completions", &body)
}

fn first_tokens(server: &Server) -> Outcome {
    let mut table = Table::new(
        "### Time to the first token over HTTP, int4, nothing else to do",
        &["prompt tokens", "median", "longest"],
    );
    let mut connection = Connection::open(server.address())?;
    let mut number = 0;
    for prompt in FIRST_TOKEN_PROMPTS {
        let mut seconds = Vec::new();
        for _ in 0..FIRST_TOKEN_RUNS {
            number += 1;
            let request = completion(u32::try_from(prompt)?, 1, number);
            let started = Instant::now();
            connection.expect(&request)?;
            seconds.push(started.elapsed().as_secs_f64());
        }
        let millis = |seconds: f64| format!("{:.0} ms", 1e3 * seconds);
        let cells = [millis(median(&seconds)), millis(quantile(&seconds, 1.0))];
        table.row(prompt.to_string(), cells);
    }
    table.print();
    Ok(())
}

/// One slice: how long queries took, and the tokens that were written meanwhile.
#[derive(Debug, Default)]
struct Slice {
    latencies: Vec<f64>,
    tokens_per_second: f64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Chat {
    Absent,
    Busy,
}

fn beside_embeddings(server: &Server, targets: &mut Targets) -> Outcome {
    let mut source = Texts::new(SEED);
    let query = |text: String| {
        let body = json!({"model": MODEL, "input": [text], "encoding_format": "base64"});
        client::post("/v1/embeddings", &body)
    };
    let queries: Arc<[Vec<u8>]> = (0..QUERIES)
        .map(|_| query(source.words(QUERY_WORDS)))
        .collect();
    let mut slices = [const { Vec::new() }; 2];
    let [idle, busy] = &mut slices;
    let number = AtomicUsize::new(1_000);
    let watch = Watch::start(server.id());
    let run = |into: &mut Vec<Slice>, chat| {
        into.push(slice(server, &queries, (chat, &number))?);
        Ok(0.0)
    };
    let sides: [Side<'_>; 2] = [
        Box::new(|| run(idle, Chat::Absent)),
        Box::new(|| run(busy, Chat::Busy)),
    ];
    interleave(ROUNDS, sides)?;
    let shares = watch.shares();
    tell(&slices, targets);
    if let Some(shares) = shares {
        println!("\nOver the whole comparison: {shares}.");
    }
    Ok(())
}

/// Queries at their pace, beside conversations that never pause or beside none.
fn slice(
    server: &Server,
    queries: &Arc<[Vec<u8>]>,
    (chat, number): (Chat, &AtomicUsize),
) -> Outcome<Slice> {
    let (stop, written) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        let clients = if chat == Chat::Busy { CONVERSATIONS } else { 0 };
        let started = Instant::now();
        let talking: Vec<_> = (0..clients)
            .map(|_| scope.spawn(|| talk(server, &stop, (number, &written))))
            .collect();
        let load = OpenLoad {
            address: server.address(),
            requests: queries.clone(),
            per_second: QUERIES_PER_SECOND,
            count: (SLICE_S * QUERIES_PER_SECOND) as usize,
        };
        let replies = load.run();
        stop.store(true, Ordering::Relaxed);
        for client in talking {
            client.join().map_err(|_| "a client panicked")??;
        }
        let seconds = started.elapsed().as_secs_f64();
        let replies = replies?;
        for reply in &replies {
            if !reply.bytes.starts_with(b"HTTP/1.1 200") {
                return Err(String::from_utf8_lossy(&reply.bytes).into_owned().into());
            }
        }
        Ok(Slice {
            latencies: replies.iter().map(|reply| reply.latency).collect(),
            tokens_per_second: written.load(Ordering::Relaxed) as f64 / seconds,
        })
    })
}

/// One conversation after the other.
fn talk(
    server: &Server,
    stop: &AtomicBool,
    (number, written): (&AtomicUsize, &AtomicUsize),
) -> Result<(), String> {
    let told = |error: &dyn std::fmt::Display| error.to_string();
    let mut connection = Connection::open(server.address()).map_err(|e| told(&e))?;
    while !stop.load(Ordering::Relaxed) {
        let number = number.fetch_add(1, Ordering::Relaxed);
        let number = u32::try_from(number).map_err(|e| told(&e))?;
        let request = completion(PROMPT_TOKENS, ANSWER_TOKENS, number);
        connection.expect(&request).map_err(|e| told(&e))?;
        written.fetch_add(ANSWER_TOKENS, Ordering::Relaxed);
    }
    Ok(())
}

fn tell([idle, busy]: &[Vec<Slice>; 2], targets: &mut Targets) {
    let latency = |side: &[Slice], part| -> Vec<f64> {
        let of = |slice: &Slice| quantile(&slice.latencies, part);
        // The first was there to warm up.
        side[1..].iter().map(of).collect()
    };
    let mut table = Table::new(
        format!(
            "### {QUERIES_PER_SECOND} queries/s of {QUERY_WORDS} words, beside {CONVERSATIONS} \
             conversations with the model in int4, {ROUNDS} rounds"
        ),
        &["load", "p50", "p99", "p99 / idle", "chat tokens/s"],
    );
    for (name, side) in [("queries", idle), ("and conversations", busy)] {
        let millis = |part| format!("{:.1} ms", 1e3 * median(&latency(side, part)));
        let written: Vec<f64> = side[1..].iter().map(|s| s.tokens_per_second).collect();
        let ratio = Ratio::of(&latency(side, 0.99), &latency(idle, 0.99));
        table.row(
            name,
            [
                millis(0.5),
                millis(0.99),
                ratio.to_string(),
                format!("{:.1}", median(&written)),
            ],
        );
    }
    table.print();
    let p99 = Ratio::of(&latency(busy, 0.99), &latency(idle, 0.99)).median;
    targets.note(
        "query p99 beside conversations / idle",
        format!("{p99:.2}"),
        "≤ 2",
        (p99 <= P99_AIM).into(),
    );
}
