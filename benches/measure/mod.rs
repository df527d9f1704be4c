//! Numbers from repeated runs: medians, ratios of pairs, tables, and who else used the processor.
//! Knows nothing of what is measured.

pub mod processor;
mod table;

use std::{
    error::Error,
    time::{Duration, Instant},
};

pub use table::{Row, Table};

/// What a section of the benchmarks returns.
pub type Outcome<T = ()> = Result<T, Box<dyn Error>>;

/// The value that a share `part` (0 to 1) of all values does not exceed, by nearest rank.
/// Not a number when there are no values.
pub fn quantile(values: &[f64], part: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (part * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.max(1) - 1).copied().unwrap_or(f64::NAN)
}

/// The middle value, or the mean of the two in the middle.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => f64::NAN,
        odd if odd % 2 == 1 => sorted[middle],
        _ => f64::midpoint(sorted[middle - 1], sorted[middle]),
    }
}

/// A quotient of two series that were measured in pairs, one pair a round.
#[derive(Debug, Clone, Copy)]
pub struct Ratio {
    /// Median of the quotients of the rounds: what is quoted.
    pub median: f64,
    /// The smallest quotient of any round.
    pub least: f64,
    /// The largest.
    pub most: f64,
}

impl Ratio {
    /// Divides round by round, so that what slows one round down slows both of its sides.
    pub fn of(numerators: &[f64], denominators: &[f64]) -> Self {
        let quotients: Vec<f64> = numerators
            .iter()
            .zip(denominators)
            .map(|(n, d)| n / d)
            .collect();
        Self {
            median: median(&quotients),
            least: quotients.iter().copied().fold(f64::INFINITY, f64::min),
            most: quotients.iter().copied().fold(f64::NEG_INFINITY, f64::max),
        }
    }
}

impl std::fmt::Display for Ratio {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{:.3} ({:.3} to {:.3})",
            self.median, self.least, self.most
        )
    }
}

/// What the project aims at and what came out.
#[derive(Default)]
pub struct Targets(Vec<Row>);

impl Targets {
    /// Notes one number, how it is written, and whether it reaches its aim.
    pub fn note(&mut self, what: &str, measured: String, aim: &str, verdict: Verdict) {
        let verdict = match verdict {
            Verdict::Met => "yes",
            Verdict::Missed => "**no**",
        };
        self.0.push(vec![
            what.to_owned(),
            measured,
            aim.to_owned(),
            verdict.to_owned(),
        ]);
    }

    /// Prints all that were noted, if any were.
    pub fn print(self) {
        if self.0.is_empty() {
            return;
        }
        let mut table = Table::new("### Aims", &["aim", "measured", "wanted", "met"]);
        for row in self.0 {
            let mut cells = row.into_iter();
            table.row(cells.next().unwrap_or_default(), cells);
        }
        table.print();
    }
}

/// Whether a number reaches its aim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It does.
    Met,
    /// It does not.
    Missed,
}

impl From<bool> for Verdict {
    fn from(met: bool) -> Self {
        if met { Self::Met } else { Self::Missed }
    }
}

/// One side of a comparison: runs once and returns what it measured.
pub type Side<'a> = Box<dyn FnMut() -> Outcome<f64> + 'a>;

/// Runs all sides once to warm up and then once a round, in order in even rounds and backwards in
/// odd ones, so that a machine that grows slower favours nobody. Returns a series for each side.
pub fn interleave<const N: usize>(
    rounds: usize,
    mut sides: [Side<'_>; N],
) -> Outcome<[Vec<f64>; N]> {
    for side in &mut sides {
        side()?;
    }
    let mut series = [const { Vec::new() }; N];
    for round in 0..rounds {
        for step in 0..N {
            let at = if round % 2 == 0 { step } else { N - 1 - step };
            series[at].push(sides[at]()?);
        }
    }
    Ok(series)
}

/// How often `work` runs per second, from as many runs as fit into `time` (at least one).
pub fn runs_per_second(time: Duration, mut work: impl FnMut() -> Outcome) -> Outcome<f64> {
    let started = Instant::now();
    let mut runs = 0u32;
    loop {
        work()?;
        runs += 1;
        let elapsed = started.elapsed();
        if elapsed >= time {
            return Ok(f64::from(runs) / elapsed.as_secs_f64());
        }
    }
}

/// Seconds that `work` takes.
pub fn seconds(work: impl FnOnce() -> Outcome) -> Outcome<f64> {
    let started = Instant::now();
    work()?;
    Ok(started.elapsed().as_secs_f64())
}
