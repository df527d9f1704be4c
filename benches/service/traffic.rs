//! What asks a service in one slice of a comparison, all at the same time: queries, bulk requests
//! and conversations; and what each of them got.

use std::{
    io,
    sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

use serde_json::json;

use crate::{
    client::{self, Connection, Format},
    measure::Outcome,
    server::Server,
    subject::Subject,
    texts::Texts,
};

/// Queries come in this often, whether or not the last has been answered by then: one at a time
/// from a client that would wait for each would measure fewer of the slow ones.
pub const EVERY: Duration = Duration::from_millis(50);
/// Connections over which queries are sent, so that a slow one does not keep the next back.
const QUERY_CONNECTIONS: usize = 8;
/// Words of a query.
pub const QUERY_WORDS: usize = 8;
const QUERIES: usize = 256;
const BULK_REQUESTS: usize = 256;
/// Texts of a bulk request.
pub const BULK_TEXTS: usize = 8;
const BULK_CONNECTIONS: usize = 8;
/// Clients that send their next query as soon as they have the answer to the last.
pub const SATURATING: usize = 32;
/// What a conversation asks for: long enough that it mostly writes.
const PROMPT_TOKENS: u32 = 64;
const ANSWER_TOKENS: usize = 32;
/// The model of the conversations.
pub const CHAT: &str = "chat";

/// A service, and what it is asked as bytes made beforehand.
pub struct Traffic {
    /// The service.
    pub server: Server,
    queries: Vec<Vec<u8>>,
    bulk: Vec<Vec<u8>>,
    bulk_tokens: f64,
    prompts: AtomicU32,
}

/// What comes in one slice.
#[derive(Debug, Clone, Copy)]
pub struct Load {
    /// For how long.
    pub slice: Duration,
    /// The short texts, one a request.
    pub queries: Queries,
    /// Whether there are bulk requests, as many as the service can do.
    pub bulk: bool,
    /// Conversations that never pause.
    pub conversations: usize,
}

/// How queries come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Queries {
    /// Not at all.
    None,
    /// One every [`EVERY`].
    Paced,
    /// [`SATURATING`] clients without a pause.
    Saturating,
}

/// What came of it.
#[derive(Debug, Clone, Default)]
pub struct Slice {
    /// Tokens a second of bulk requests.
    pub bulk_per_second: f64,
    /// Tokens a second that conversations wrote.
    pub chat_per_second: f64,
    /// Seconds that each query took.
    pub latencies: Vec<f64>,
}

impl Traffic {
    /// Requests of texts that follow from the seed.
    ///
    /// # Errors
    /// When the texts cannot be counted.
    pub fn new(server: Server, subject: &Subject, seed: u64) -> Outcome<Self> {
        let mut source = Texts::new(seed);
        let texts = source.mix(BULK_REQUESTS * BULK_TEXTS);
        let tokens: Outcome<Vec<usize>> = texts.iter().map(|text| subject.tokens(text)).collect();
        let requests = |texts: &[String]| client::embeddings(texts, Format::Base64);
        let query = |_| requests(&[source.words(QUERY_WORDS)]);
        Ok(Self {
            queries: (0..QUERIES).map(query).collect(),
            bulk: texts.chunks(BULK_TEXTS).map(requests).collect(),
            bulk_tokens: tokens?.iter().sum::<usize>() as f64 / BULK_REQUESTS as f64,
            prompts: AtomicU32::new(0),
            server,
        })
    }

    /// All of a load for its slice.
    ///
    /// # Errors
    /// When a request does not succeed.
    pub fn slice(&self, load: Load) -> Outcome<Slice> {
        let stop = AtomicBool::new(false);
        let done = AtomicUsize::new(0);
        thread::scope(|scope| {
            let (stop, done) = (&stop, &done);
            let bulk_clients = if load.bulk { BULK_CONNECTIONS } else { 0 };
            let bulk =
                (0..bulk_clients).map(|at| scope.spawn(move || self.keep_busy(at, stop, done)));
            let talk = (0..load.conversations).map(|_| scope.spawn(move || self.talk(stop)));
            let busy: Vec<_> = bulk.chain(talk).collect();
            let written_before = self.written(load)?;
            let started = Instant::now();
            let clients = match load.queries {
                Queries::None => 0,
                Queries::Paced => QUERY_CONNECTIONS,
                Queries::Saturating => SATURATING,
            };
            let asking: Vec<_> = (0..clients)
                .map(|first| scope.spawn(move || self.ask(started, first, load)))
                .collect();
            // A thread of an earlier slice may have left a wake-up behind.
            while let Some(left) = load.slice.checked_sub(started.elapsed()) {
                thread::park_timeout(left);
            }
            let finished = done.load(Ordering::Relaxed) as f64;
            let written = self.written(load)? - written_before;
            if load.conversations > 0 && written <= 0.0 {
                return Err("the service tells of no token that conversations wrote".into());
            }
            let seconds = started.elapsed().as_secs_f64();
            stop.store(true, Ordering::Relaxed);
            let mut latencies = Vec::new();
            for client in asking {
                latencies.extend(client.join().map_err(|_| "a client panicked")??);
            }
            for client in busy {
                client.join().map_err(|_| "a client panicked")??;
            }
            Ok(Slice {
                bulk_per_second: finished * self.bulk_tokens / seconds,
                chat_per_second: written / seconds,
                latencies,
            })
        })
    }

    /// Sends bulk requests, one after the other.
    fn keep_busy(&self, client: usize, stop: &AtomicBool, done: &AtomicUsize) -> io::Result<()> {
        let mut connection = Connection::open(self.server.address())?;
        let skipped = client * BULK_REQUESTS / BULK_CONNECTIONS;
        for request in self.bulk.iter().cycle().skip(skipped) {
            if stop.load(Ordering::Relaxed) {
                break;
            }
            succeed(&mut connection, request)?;
            done.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    /// One conversation after the other.
    fn talk(&self, stop: &AtomicBool) -> io::Result<()> {
        let mut connection = Connection::open(self.server.address())?;
        while !stop.load(Ordering::Relaxed) {
            let number = self.prompts.fetch_add(1, Ordering::Relaxed);
            let request = completion(PROMPT_TOKENS, ANSWER_TOKENS, 1_000 + number);
            succeed(&mut connection, &request)?;
        }
        Ok(())
    }

    /// Sends queries until the slice is over; returns how long each took. A paced one counts from
    /// when it was due, not from when its client came to send it.
    fn ask(&self, started: Instant, first: usize, load: Load) -> io::Result<Vec<f64>> {
        let mut connection = Connection::open(self.server.address())?;
        let mut latencies = Vec::new();
        let all = self.queries.iter().cycle();
        for (turn, request) in all.skip(first * QUERIES / SATURATING).enumerate() {
            let due = match load.queries {
                Queries::Paced => started + EVERY * (turn * QUERY_CONNECTIONS + first) as u32,
                _ => Instant::now(),
            };
            if due >= started + load.slice {
                break;
            }
            thread::park_timeout(due.saturating_duration_since(Instant::now()));
            succeed(&mut connection, request)?;
            latencies.push(due.elapsed().as_secs_f64());
        }
        Ok(latencies)
    }

    /// The tokens that the service says were generated. An answer that goes on when the slice ends
    /// counts with what it has by then.
    fn written(&self, load: Load) -> Outcome<f64> {
        if load.conversations == 0 {
            return Ok(0.0);
        }
        let metrics = Connection::open(self.server.address())?.expect(&client::get("/metrics"))?;
        let metrics = String::from_utf8(metrics)?;
        let written = metrics.lines().find_map(|line| {
            let value = line.strip_prefix("retort_generated_tokens_total{")?;
            value.split_once("} ")?.1.parse().ok()
        });
        Ok(written.unwrap_or_default())
    }
}

/// A request that nobody has sent before, so that nothing of it is known.
pub fn completion(prompt: u32, tokens: usize, number: u32) -> Vec<u8> {
    let ids: Vec<u32> = (0..prompt)
        .map(|at| 11 + (number * 7919 + at * 13) % 150_000)
        .collect();
    let body = json!({
        "model": CHAT, "prompt": ids, "max_tokens": tokens, "temperature": 0,
        "ignore_eos": true,
    });
    client::post("/v1/completions", &body)
}

fn succeed(connection: &mut Connection, request: &[u8]) -> io::Result<()> {
    match connection.exchange(request)?.status {
        200 => Ok(()),
        status => Err(io::Error::other(format!("a request got HTTP {status}"))),
    }
}
