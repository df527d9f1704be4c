//! Whether memory grows: vectors and rerankings in turn, of random lengths, while the memory of the
//! device is looked at every second; and whether models give it back when they go.

use std::{
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use serde_json::Value;

use super::{options::Options, row, traffic};
use crate::{
    client::{self, Connection},
    measure::{Outcome, processor},
};

const MIB: f64 = (1 << 20) as f64;
/// Callers at the same time.
const CALLERS: u64 = 8;

/// A look at the memory.
struct Sample {
    seconds: f64,
    mib: f64,
}

/// Sends for `--seconds` to the server at `--address`; the first quarter is warming up.
pub fn run(options: &Options) -> Outcome<Vec<Value>> {
    let seconds: f64 = options.or("seconds", 120.0)?;
    let over = AtomicBool::new(false);
    let started = Instant::now();
    let (samples, sent) = std::thread::scope(|scope| {
        let over = &over;
        let callers: Vec<_> = (0..CALLERS)
            .map(|caller| {
                scope.spawn(move || call(options, caller, over).map_err(|error| error.to_string()))
            })
            .collect();
        let mut samples = Vec::new();
        while started.elapsed().as_secs_f64() < seconds {
            let next = Instant::now() + Duration::from_secs(1);
            if let Some(mib) = used(options) {
                let seconds = started.elapsed().as_secs_f64();
                samples.push(Sample { seconds, mib });
            }
            // Parking may end early, for no reason at all.
            while let Some(left) = next.checked_duration_since(Instant::now()) {
                std::thread::park_timeout(left);
            }
        }
        over.store(true, Ordering::Relaxed);
        let mut sent = 0;
        for caller in callers {
            sent += caller
                .join()
                .map_err(|_| "a caller panicked".to_owned())??;
        }
        Ok::<_, String>((samples, sent))
    })?;
    let settled = &samples[samples.len() / 4..];
    let (Some(first), Some(last)) = (settled.first(), settled.last()) else {
        return Err("the memory of the device could not be read".into());
    };
    let mut rows = vec![
        row("requests", f64::from(sent), "requests"),
        row("memory after a quarter of the time", first.mib, "MiB"),
        row("memory at the end", last.mib, "MiB"),
        row("slope of the memory", slope(settled) * 60.0, "MiB/min"),
    ];
    let mut connection = Connection::open(options.address()?)?;
    for model in models(options)? {
        connection.expect(&client::delete(&format!("/v1/models/{model}")))?;
        let left = used(options).ok_or("the memory of the device could not be read")?;
        rows.push(row(format!("memory without `{model}`"), left, "MiB"));
    }
    Ok(rows)
}

/// What is asked for vectors, and what for rankings.
fn models(options: &Options) -> Outcome<[String; 2]> {
    let embedder = options.or("model", "m3".to_owned())?;
    Ok([embedder, options.or("reranker", "rr".to_owned())?])
}

/// Vectors and rerankings in turn, until it is over; how many.
fn call(options: &Options, caller: u64, over: &AtomicBool) -> Outcome<u32> {
    let mut connection = Connection::open(options.address()?)?;
    let longest: u64 = options.or("longest", 8192)?;
    let [embedder, reranker] = models(options)?;
    let mut state = 0x9E37_79B9_7F4A_7C15 ^ (caller + 1);
    let mut sent = 0;
    while !over.load(Ordering::Relaxed) {
        let mut below = |most: u64| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (1 + state % most) as usize
        };
        let seed = below(1_000_000);
        let request = if sent % 2 == 0 {
            let texts: Vec<String> = (0..below(64))
                .map(|n| traffic::text(below(longest / 16).max(3), seed + n))
                .collect();
            traffic::embed(&embedder, &texts)
        } else {
            let length = below(longest.min(512)).max(24);
            traffic::rerank(&reranker, (length, below(50)), seed)
        };
        connection.expect(&request)?;
        sent += 1;
    }
    Ok(sent)
}

/// What all processes use of the device, or, with `--pid`, what a process uses of the host.
fn used(options: &Options) -> Option<f64> {
    if let Ok(pid) = options.text("pid") {
        return Some(processor::memory(pid.parse().ok()?, "VmRSS")? as f64 / MIB);
    }
    let query = ["--query-gpu=memory.used", "--format=csv,noheader,nounits"];
    let output = Command::new("nvidia-smi").args(query).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    text.lines().next()?.trim().parse().ok()
}

/// MiB a second, by least squares.
fn slope(samples: &[Sample]) -> f64 {
    let count = samples.len() as f64;
    let mean = |of: fn(&Sample) -> f64| samples.iter().map(of).sum::<f64>() / count;
    let (seconds, mib) = (mean(|s| s.seconds), mean(|s| s.mib));
    let both = samples
        .iter()
        .map(|s| (s.seconds - seconds) * (s.mib - mib));
    let square = samples.iter().map(|s| (s.seconds - seconds).powi(2));
    both.sum::<f64>() / square.sum::<f64>().max(f64::MIN_POSITIVE)
}
