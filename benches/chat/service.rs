//! The same model in the service: how long the first token takes over HTTP, and what conversations,
//! queries and bulk work leave each other.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use crate::{
    client::Connection,
    measure::{
        Outcome, Ratio, Side, Table, Targets, interleave, median, processor::Watch, quantile,
    },
    server::Server,
    service::traffic::{
        CHAT, EVERY, Load, QUERY_WORDS, Queries, SATURATING, Slice, Traffic, completion,
    },
    subject::{MODEL, Subject},
};

const SEED: u64 = 77;
const FIRST_TOKEN_PROMPTS: [usize; 3] = [16, 128, 512];
const FIRST_TOKEN_RUNS: u32 = 5;
const SLICE: Duration = Duration::from_secs(6);
const ROUNDS: usize = 4;
const CONVERSATIONS: usize = 4;
const P99_AIM: f64 = 2.0;
/// What each keeps of its speed beside as much of the other as comes: a third of the machine, which
/// a fair half comes down to when two kinds of work share its caches and memory, too.
const FAIR_AIM: f64 = 0.33;
/// What conversations keep beside queries without a pause, which go before everything.
const LEAST_AIM: f64 = 0.05;

/// First tokens, then all that can come at once.
pub fn run(subject: &Subject, folder: &Path, targets: &mut Targets) -> Outcome {
    let chat = format!("{CHAT}={}", folder.display());
    let models = ["--model", MODEL, "--model", &chat];
    let options = [&models[..], &["--weights", "int4", "--kv-cache-mib", "256"]].concat();
    let (server, _) = Server::start_with(&options)?;
    first_tokens(&server)?;
    beside_embeddings(&Traffic::new(server, subject, SEED)?, targets)
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

/// What comes at once: each alone, then conversations beside each of the others.
const SIDES: [(&str, Queries, bool, usize); 6] = [
    ("queries", Queries::Paced, false, 0),
    ("bulk", Queries::None, true, 0),
    ("conversations", Queries::None, false, CONVERSATIONS),
    (
        "conversations and queries",
        Queries::Paced,
        false,
        CONVERSATIONS,
    ),
    ("conversations and bulk", Queries::None, true, CONVERSATIONS),
    (
        "conversations and queries without a pause",
        Queries::Saturating,
        false,
        CONVERSATIONS,
    ),
];

fn beside_embeddings(traffic: &Traffic, targets: &mut Targets) -> Outcome {
    let mut slices = [const { Vec::new() }; SIDES.len()];
    let watch = Watch::start(traffic.server.id());
    let mut kept = slices.iter_mut();
    let sides = SIDES.map(|(_, queries, bulk, conversations)| {
        let into: &mut Vec<Slice> = kept.next().expect("one for each side");
        let side: Side<'_> = Box::new(move || {
            into.push(traffic.slice(Load {
                slice: SLICE,
                queries,
                bulk,
                conversations,
            })?);
            Ok(0.0)
        });
        side
    });
    interleave(ROUNDS, sides)?;
    let shares = watch.shares();
    // The first was there to warm up.
    tell(&slices.map(|side| side[1..].to_vec()), targets);
    if let Some(shares) = shares {
        println!("\nOver the whole comparison: {shares}.");
    }
    Ok(())
}

/// Slices, one a round.
type Rounds = [Slice];

fn latency(side: &Rounds, part: f64) -> Vec<f64> {
    let of = |slice: &Slice| quantile(&slice.latencies, part);
    side.iter().map(of).collect()
}

fn bulk(side: &Rounds) -> Vec<f64> {
    side.iter().map(|slice| slice.bulk_per_second).collect()
}

fn chat(side: &Rounds) -> Vec<f64> {
    side.iter().map(|slice| slice.chat_per_second).collect()
}

fn tell(slices: &[Vec<Slice>; SIDES.len()], targets: &mut Targets) {
    let [queries_alone, bulk_alone, chat_alone, ..] = slices;
    let mut table = Table::new(
        format!(
            "### Queries of {QUERY_WORDS} words every {} ms or from {SATURATING} clients, bulk \
             work, {CONVERSATIONS} conversations with the model in int4, {ROUNDS} rounds",
            EVERY.as_millis()
        ),
        &[
            "load",
            "p50",
            "p99",
            "p99 / alone",
            "bulk tokens/s",
            "bulk / alone",
            "chat tokens/s",
            "chat / alone",
        ],
    );
    for ((name, queries, has_bulk, conversations), side) in SIDES.into_iter().zip(slices) {
        let cell = |there: bool, told: &dyn Fn() -> String| match there {
            true => told(),
            false => "–".to_owned(),
        };
        let millis = |part| format!("{:.1} ms", 1e3 * median(&latency(side, part)));
        let late = || Ratio::of(&latency(side, 0.99), &latency(queries_alone, 0.99)).to_string();
        let (asked, talked) = (queries != Queries::None, conversations > 0);
        let cells = [
            cell(asked, &|| millis(0.5)),
            cell(asked, &|| millis(0.99)),
            cell(asked, &late),
            cell(has_bulk, &|| format!("{:.0}", median(&bulk(side)))),
            cell(has_bulk, &|| {
                Ratio::of(&bulk(side), &bulk(bulk_alone)).to_string()
            }),
            cell(talked, &|| format!("{:.1}", median(&chat(side)))),
            cell(talked, &|| {
                Ratio::of(&chat(side), &chat(chat_alone)).to_string()
            }),
        ];
        table.row(name, cells);
    }
    table.print();
    aims(slices, targets);
}

fn aims(slices: &[Vec<Slice>; SIDES.len()], targets: &mut Targets) {
    let [
        queries_alone,
        bulk_alone,
        chat_alone,
        with_queries,
        with_bulk,
        mirror,
    ] = slices;
    let p99 = Ratio::of(&latency(with_queries, 0.99), &latency(queries_alone, 0.99)).median;
    targets.note(
        "query p99 beside conversations / alone",
        format!("{p99:.2}"),
        "≤ 2",
        (p99 <= P99_AIM).into(),
    );
    let mut at_least = |what: &str, (side, alone): (Vec<f64>, Vec<f64>), aim: f64| {
        let kept = Ratio::of(&side, &alone).median;
        let wanted = format!("≥ {:.0} %", 100.0 * aim);
        targets.note(
            what,
            format!("{:.1} %", 100.0 * kept),
            &wanted,
            (kept >= aim).into(),
        );
    };
    let fair = "bulk throughput beside conversations / alone";
    at_least(fair, (bulk(with_bulk), bulk(bulk_alone)), FAIR_AIM);
    let fair = "conversations beside full bulk load / alone";
    at_least(fair, (chat(with_bulk), chat(chat_alone)), FAIR_AIM);
    let least = "conversations beside queries without a pause / alone";
    at_least(least, (chat(mirror), chat(chat_alone)), LEAST_AIM);
}
