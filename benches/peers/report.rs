//! The numbers of one scenario: a table, and what they say of the aims.

use super::{
    peer::{Measured, is_served, served},
    scenario::{Aim, Measure, Scenario},
};
use crate::measure::{Ratio, Table, Targets, median, quantile};

/// The outputs that cosines are taken to: the reference's own, in the reference's own precision.
const REFERENCE: &str = "sentence-transformers fp32";

const MIB: f64 = 1024.0 * 1024.0;

/// Everything measured in one scenario, by candidate.
pub struct Report {
    /// What was measured.
    pub scenario: &'static Scenario,
    tokens: f64,
    names: Vec<String>,
    rounds: Vec<Vec<Measured>>,
}

impl Report {
    /// Nothing measured yet.
    pub fn new(scenario: &'static Scenario, tokens: f64, names: Vec<String>) -> Self {
        let rounds = names.iter().map(|_| Vec::new()).collect();
        Self {
            scenario,
            tokens,
            names,
            rounds,
        }
    }

    /// Adds a round of one candidate.
    pub fn add(&mut self, candidate: usize, measured: Measured) {
        self.rounds[candidate].push(measured);
    }

    /// What decides, for each candidate: its name and how many times as good as the best peer in
    /// fp32 it is, round by round.
    pub fn against_best(&self) -> Vec<(&str, Ratio)> {
        let best = self.best(&self.peers("fp32"));
        let names = self.names.iter().map(String::as_str);
        names
            .enumerate()
            .map(|(at, name)| (name, self.ratio(at, best)))
            .collect()
    }

    /// Prints the table.
    pub fn print(&self) {
        let columns = [
            "who",
            "tokens/s",
            "p50 ms",
            "p95 ms",
            "p99 ms",
            "as good as the best fp32 peer",
            "CPU s",
            "peak MiB",
            "cosine to fp32",
        ];
        let (name, tokens) = (self.scenario.name, self.tokens);
        let title = format!("### {name} ({tokens:.0} tokens)");
        let mut table = Table::new(title, &columns);
        for (at, (name, ratio)) in self.against_best().into_iter().enumerate() {
            let rounds = &self.rounds[at];
            let of = |value: fn(&Measured) -> f64| {
                median(&rounds.iter().map(value).collect::<Vec<f64>>())
            };
            let latencies: Vec<f64> = rounds
                .iter()
                .flat_map(|measured| measured.latencies.iter().copied())
                .collect();
            let latency = |part| format!("{:.1}", 1e3 * quantile(&latencies, part));
            let cells = [
                format!("{:.0}", self.tokens / of(|measured| measured.seconds)),
                latency(0.50),
                latency(0.95),
                latency(0.99),
                format!(
                    "{:.2} ({:.2} to {:.2})",
                    ratio.median, ratio.least, ratio.most
                ),
                format!("{:.2}", of(|measured| measured.cpu_seconds)),
                format!("{:.0}", of(|measured| measured.peak_bytes as f64) / MIB),
                format!("{:.5}", self.cosine(at)),
            ];
            table.row(name, cells);
        }
        table.print();
    }

    /// Notes what the project wants of the scenario.
    pub fn note(&self, targets: &mut Targets) {
        for aim in self.scenario.aims {
            let (Aim::Times { dtype, .. } | Aim::Latency { dtype, .. }) = *aim;
            let own = served(dtype);
            let Some(at) = self.names.iter().position(|name| *name == own) else {
                continue;
            };
            let scenario = self.scenario.name;
            match *aim {
                Aim::Times {
                    peers, at_least, ..
                } => {
                    let best = self.best(&self.peers(peers));
                    let ratio = self.ratio(at, best);
                    let what = format!("{scenario}: {dtype} / {}", self.names[best]);
                    let met = ratio.median >= at_least;
                    targets.note(
                        &what,
                        ratio.to_string(),
                        &format!("≥ {at_least}"),
                        met.into(),
                    );
                }
                Aim::Latency { at_most, .. } => {
                    let rounds = self.rounds[at].iter();
                    let medians: Vec<f64> = rounds
                        .map(|measured| 1e3 * median(&measured.latencies))
                        .collect();
                    let p50 = median(&medians);
                    let what = format!("{scenario}: {dtype}, p50");
                    let wanted = format!("≤ {at_most} ms");
                    let met = p50 <= at_most;
                    targets.note(&what, format!("{p50:.2} ms"), &wanted, met.into());
                }
            }
        }
    }

    /// How many times as good `candidate` is as `other`, round by round.
    fn ratio(&self, candidate: usize, other: usize) -> Ratio {
        let (ours, theirs) = (self.series(candidate), self.series(other));
        match self.scenario.measure {
            Measure::TokensPerSecond => Ratio::of(&ours, &theirs),
            Measure::Latency => Ratio::of(&theirs, &ours),
        }
    }

    /// What decides, round by round.
    fn series(&self, candidate: usize) -> Vec<f64> {
        let value = |measured: &Measured| match self.scenario.measure {
            Measure::TokensPerSecond => self.tokens / measured.seconds,
            Measure::Latency => median(&measured.latencies),
        };
        self.rounds[candidate].iter().map(value).collect()
    }

    /// The peers whose names end with a precision.
    fn peers(&self, precision: &str) -> Vec<usize> {
        let peers = self.names.iter().enumerate();
        peers
            .filter(|(_, name)| !is_served(name) && name.ends_with(precision))
            .map(|(at, _)| at)
            .collect()
    }

    fn best(&self, among: &[usize]) -> usize {
        let value = |at: usize| match self.scenario.measure {
            Measure::TokensPerSecond => median(&self.series(at)),
            Measure::Latency => -median(&self.series(at)),
        };
        let best = among
            .iter()
            .copied()
            .max_by(|&a, &b| value(a).total_cmp(&value(b)));
        best.unwrap_or(0)
    }

    /// Of the sample to the reference's.
    fn cosine(&self, candidate: usize) -> f64 {
        let sample = |at: usize| self.rounds[at].last().map(|measured| &measured.sample[..]);
        let reference = self.names.iter().position(|name| name == REFERENCE);
        match (sample(candidate), reference.and_then(sample)) {
            (Some(ours), Some(theirs)) => cosine(ours, theirs),
            _ => f64::NAN,
        }
    }
}

fn cosine(a: &[f64], b: &[f64]) -> f64 {
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}
