//! Queries and bulk work at the same time: what each costs the other, against what each has of an
//! idle service. And the mirror: as many queries as clients can send, and what bulk work keeps.

use std::time::Duration;

use super::{
    check_answer,
    traffic::{BULK_TEXTS, Load, QUERY_WORDS, Queries, Slice, Traffic},
};
use crate::{
    measure::{
        Outcome, Ratio, Side, Table, Targets, interleave, median, processor::Watch, quantile,
    },
    server::Server,
    subject::Subject,
};

const SEED: u64 = 51;
const ROUNDS: usize = 5;
/// How long each side is measured, each round.
const SLICE: Duration = Duration::from_secs(4);
const P99_AIM: f64 = 2.0;
const BULK_AIM: f64 = 0.8;
/// What `interactive_share` leaves to bulk work by default.
const MIRROR_AIM: f64 = 0.2;

/// Four sides in turn, so that all meet the same machine.
pub fn run(subject: &Subject, targets: &mut Targets) -> Outcome {
    let (server, _) = Server::start()?;
    check_answer(subject, &server, "what is packed attention?")?;
    let traffic = Traffic::new(server, subject, SEED)?;
    let mut slices = [const { Vec::new() }; 4];
    let [idle, bulk, both, mirror] = &mut slices;
    let watch = Watch::start(traffic.server.id());
    let run = |into: &mut Vec<Slice>, queries, bulk| {
        into.push(traffic.slice(Load {
            slice: SLICE,
            queries,
            bulk,
            conversations: 0,
        })?);
        Ok(0.0)
    };
    let sides: [Side<'_>; 4] = [
        Box::new(|| run(idle, Queries::Paced, false)),
        Box::new(|| run(bulk, Queries::None, true)),
        Box::new(|| run(both, Queries::Paced, true)),
        Box::new(|| run(mirror, Queries::Saturating, true)),
    ];
    interleave(ROUNDS, sides)?;
    let shares = watch.shares();
    tell(&slices.map(|side| side[1..].to_vec()), targets);
    if let Some(shares) = shares {
        println!("\nOver the whole comparison: {shares}.");
    }
    Ok(())
}

fn tell(slices: &[Vec<Slice>; 4], targets: &mut Targets) {
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
