//! Queries and bulk work at the same time: what each costs the other, against what each has of an
//! idle service. And the mirror: as many queries as clients can send, and what bulk work keeps.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use super::check_answer;
use crate::{
    client::{self, Connection, Format},
    measure::{Outcome, Ratio, Side, Table, Targets, interleave, median, processor::Watch},
    server::Server,
    subject::Subject,
    texts::Texts,
};

const SEED: u64 = 51;
const ROUNDS: usize = 5;
/// How long each side is measured, each round.
const SLICE: Duration = Duration::from_secs(4);
/// Queries come in this often, whether or not the last has been answered by then: one at a time
/// from a client that would wait for each would measure fewer of the slow ones.
const EVERY: Duration = Duration::from_millis(50);
/// Connections over which queries are sent, so that a slow one does not keep the next back.
const QUERY_CONNECTIONS: usize = 8;
const QUERY_WORDS: usize = 8;
const QUERIES: usize = 256;
const BULK_REQUESTS: usize = 256;
const BULK_TEXTS: usize = 8;
const BULK_CONNECTIONS: usize = 8;
/// Clients that send their next query as soon as they have the answer to the last.
const SATURATING: usize = 32;
const P99_AIM: f64 = 2.0;
const BULK_AIM: f64 = 0.8;
/// What `interactive_share` leaves to bulk work by default.
const MIRROR_AIM: f64 = 0.2;

/// The two kinds of traffic, as bytes made beforehand.
struct Traffic {
    server: Server,
    queries: Arc<[Vec<u8>]>,
    bulk: Arc<[Vec<u8>]>,
    bulk_tokens: f64,
}

/// One slice: what bulk clients and queries got.
#[derive(Debug, Clone, Default)]
struct Slice {
    bulk_per_second: f64,
    latencies: Vec<f64>,
}

/// Four sides in turn, so that all meet the same machine.
pub fn run(subject: &Subject, targets: &mut Targets) -> Outcome {
    let (server, _) = Server::start()?;
    let mut source = Texts::new(SEED);
    check_answer(subject, &server, &source.words(QUERY_WORDS))?;
    let texts = source.mix(BULK_REQUESTS * BULK_TEXTS);
    let tokens: Outcome<Vec<usize>> = texts.iter().map(|text| subject.tokens(text)).collect();
    let requests = |texts: &[String]| client::embeddings(texts, Format::Base64);
    let traffic = Traffic {
        queries: (0..QUERIES)
            .map(|_| requests(&[source.words(QUERY_WORDS)]))
            .collect(),
        bulk: texts.chunks(BULK_TEXTS).map(requests).collect(),
        bulk_tokens: tokens?.iter().sum::<usize>() as f64 / BULK_REQUESTS as f64,
        server,
    };
    let mut slices = [const { Vec::new() }; 4];
    let [idle, bulk, both, mirror] = &mut slices;
    let watch = Watch::start(traffic.server.id());
    let sides: [Side<'_>; 4] = [
        Box::new(|| traffic.slice(idle, Queries::Paced, Bulk::Absent)),
        Box::new(|| traffic.slice(bulk, Queries::None, Bulk::Full)),
        Box::new(|| traffic.slice(both, Queries::Paced, Bulk::Full)),
        Box::new(|| traffic.slice(mirror, Queries::Saturating, Bulk::Full)),
    ];
    interleave(ROUNDS, sides)?;
    let shares = watch.shares();
    tell(&slices.map(|side| side[1..].to_vec()), targets);
    if let Some(shares) = shares {
        println!("\nOver the whole comparison: {shares}.");
    }
    Ok(())
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Queries {
    None,
    Paced,
    Saturating,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Bulk {
    Absent,
    Full,
}

impl Traffic {
    /// Runs both kinds for a while and notes what came of it.
    fn slice(&self, into: &mut Vec<Slice>, queries: Queries, bulk: Bulk) -> Outcome<f64> {
        let stop = AtomicBool::new(false);
        let done = AtomicUsize::new(0);
        let slice = thread::scope(|scope| {
            let clients = if bulk == Bulk::Full {
                BULK_CONNECTIONS
            } else {
                0
            };
            let bulk: Vec<_> = (0..clients)
                .map(|client| {
                    scope.spawn({
                        let (stop, done) = (&stop, &done);
                        move || self.keep_busy(client, stop, done)
                    })
                })
                .collect();
            let started = Instant::now();
            let clients = match queries {
                Queries::None => 0,
                Queries::Paced => QUERY_CONNECTIONS,
                Queries::Saturating => SATURATING,
            };
            let asking: Vec<_> = (0..clients)
                .map(|first| scope.spawn(move || self.ask(started, first, queries)))
                .collect();
            thread::park_timeout(SLICE.saturating_sub(started.elapsed()));
            let finished = done.load(Ordering::Relaxed) as f64;
            let seconds = started.elapsed().as_secs_f64();
            stop.store(true, Ordering::Relaxed);
            let mut latencies = Vec::new();
            for client in asking {
                latencies.extend(client.join().map_err(|_| "a client panicked")??);
            }
            for client in bulk {
                client.join().map_err(|_| "a client panicked")??;
            }
            Ok::<_, Box<dyn std::error::Error>>(Slice {
                bulk_per_second: finished * self.bulk_tokens / seconds,
                latencies,
            })
        })?;
        into.push(slice);
        Ok(0.0)
    }

    /// Sends bulk requests, one after the other.
    fn keep_busy(&self, client: usize, stop: &AtomicBool, done: &AtomicUsize) -> io::Result<()> {
        let mut connection = Connection::open(self.server.address())?;
        let requests = self
            .bulk
            .iter()
            .cycle()
            .skip(client * BULK_REQUESTS / BULK_CONNECTIONS);
        for request in requests {
            if stop.load(Ordering::Relaxed) {
                break;
            }
            succeed(&mut connection, request)?;
            done.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Sends queries until the slice is over; returns how long each took. A paced one counts from
    /// when it was due, not from when its client came to send it.
    fn ask(&self, started: Instant, first: usize, queries: Queries) -> io::Result<Vec<f64>> {
        let mut connection = Connection::open(self.server.address())?;
        let mut latencies = Vec::new();
        let all = self
            .queries
            .iter()
            .cycle()
            .skip(first * QUERIES / SATURATING);
        for (turn, request) in all.enumerate() {
            let due = if queries == Queries::Paced {
                started + EVERY * (turn * QUERY_CONNECTIONS + first) as u32
            } else {
                Instant::now()
            };
            if due >= started + SLICE {
                break;
            }
            thread::park_timeout(due.saturating_duration_since(Instant::now()));
            succeed(&mut connection, request)?;
            latencies.push(due.elapsed().as_secs_f64());
        }
        Ok(latencies)
    }
}

fn succeed(connection: &mut Connection, request: &[u8]) -> io::Result<()> {
    match connection.exchange(request)?.status {
        200 => Ok(()),
        status => Err(io::Error::other(format!("a request got HTTP {status}"))),
    }
}

fn tell(slices: &[Vec<Slice>; 4], targets: &mut Targets) {
    use crate::measure::quantile;
    let latency = |side: &[Slice], part| -> Vec<f64> {
        side.iter()
            .map(|slice| quantile(&slice.latencies, part))
            .collect()
    };
    let rates =
        |side: &[Slice]| -> Vec<f64> { side.iter().map(|slice| slice.bulk_per_second).collect() };
    let [idle, bulk, both, mirror] = slices;
    let mut table = Table::new(
        format!("### Queries of {QUERY_WORDS} words, bulk of {BULK_TEXTS} texts, {ROUNDS} rounds"),
        &[
            "load",
            "queries/s",
            "p50",
            "p99",
            "p99 / idle",
            "bulk tokens/s",
            "bulk / idle",
        ],
    );
    let names = [
        "queries, one every 50 ms",
        "bulk, 8 clients",
        "both",
        "bulk, and 32 clients of queries",
    ];
    for (name, side) in names.iter().zip([idle, bulk, both, mirror]) {
        let asked = side
            .iter()
            .map(|slice| slice.latencies.len())
            .sum::<usize>();
        let per_second = asked as f64 / SLICE.as_secs_f64() / side.len() as f64;
        let has_bulk = rates(side).iter().any(|&rate| rate > 0.0);
        let none = || "–".to_owned();
        let millis = |part| format!("{:.1} ms", 1e3 * median(&latency(side, part)));
        let (mut cells, queried) = (vec![format!("{per_second:.0}")], asked > 0);
        cells.push(if queried { millis(0.5) } else { none() });
        cells.push(if queried { millis(0.99) } else { none() });
        let p99 = || Ratio::of(&latency(side, 0.99), &latency(idle, 0.99)).to_string();
        cells.push(if queried { p99() } else { none() });
        let rate = || format!("{:.0}", median(&rates(side)));
        cells.push(if has_bulk { rate() } else { none() });
        let ratio = || Ratio::of(&rates(side), &rates(bulk)).to_string();
        cells.push(if has_bulk { ratio() } else { none() });
        table.row(*name, cells);
    }
    table.print();
    let p99 = Ratio::of(&latency(both, 0.99), &latency(idle, 0.99)).median;
    let kept = Ratio::of(&rates(both), &rates(bulk)).median;
    let mirrored = Ratio::of(&rates(mirror), &rates(bulk)).median;
    targets.note(
        "query p99 under full bulk load / idle",
        format!("{p99:.2}"),
        "≤ 2",
        (p99 <= P99_AIM).into(),
    );
    targets.note(
        "bulk throughput beside 20 queries/s / idle",
        format!("{:.1} %", 100.0 * kept),
        "≥ 80 %",
        (kept >= BULK_AIM).into(),
    );
    targets.note(
        "bulk throughput beside 32 saturating clients / idle",
        format!("{:.1} %", 100.0 * mirrored),
        "≥ 20 %, its share",
        (mirrored >= MIRROR_AIM).into(),
    );
}
