//! The service beside what else embeds texts on a CPU and installs from PyPI: the same texts, the
//! same weights, in turn, in one run. Peers run as libraries in processes of their own, without
//! HTTP, which favours them; the service is asked over HTTP as always.

mod environment;
mod peer;
mod picture;
mod report;
mod scenario;

use std::path::Path;

use self::{
    environment::Environment,
    peer::{Candidate, Library, Served},
    report::Report,
    scenario::{SCENARIOS, Scenario, Task},
};
use crate::{
    measure::{Outcome, Targets},
    subject::Subject,
};

/// How often every candidate runs a task that counts.
const ROUNDS: usize = 5;

/// The service's own kinds of arithmetic.
const DTYPES: &[&str] = &["fp32", "bf16", "int8"];

/// Measures all scenarios, prints a table for each, and draws them into `docs/peers.svg`.
pub fn run(subject: &Subject, targets: &mut Targets) -> Outcome {
    let environment = Environment::make(&subject.dir)?;
    let mut reports = Vec::new();
    for model in scenario::models() {
        let mut candidates = candidates(&environment, model)?;
        let wanted = |scenario: &&Scenario| scenario.model == model;
        for scenario in SCENARIOS.iter().filter(wanted) {
            let report = measure(scenario, subject, &mut candidates)?;
            report.print();
            report.note(targets);
            reports.push(report);
        }
    }
    let picture = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/peers.svg");
    std::fs::write(&picture, picture::draw(&reports))?;
    println!("\nThe picture is in `docs/peers.svg`.");
    Ok(())
}

/// All that can run a model, the service first; each is loaded and waits.
fn candidates(environment: &Environment, model: &str) -> Outcome<Vec<Box<dyn Candidate>>> {
    let folder = environment.model(model);
    let mut candidates: Vec<Box<dyn Candidate>> = Vec::new();
    for dtype in DTYPES {
        candidates.push(Box::new(Served::start(&folder, dtype)?));
    }
    for peer in environment.peers() {
        candidates.push(Box::new(Library::start(peer, &folder)?));
    }
    Ok(candidates)
}

/// Every candidate once to warm up, and once a round, in order and backwards in turn.
fn measure(
    scenario: &'static Scenario,
    subject: &Subject,
    candidates: &mut [Box<dyn Candidate>],
) -> Outcome<Report> {
    let task: Task = (scenario.task)(subject)?;
    let names = candidates.iter().map(|candidate| candidate.name());
    let mut report = Report::new(scenario, task.tokens, names.collect());
    for candidate in candidates.iter_mut() {
        candidate.run(&task)?;
    }
    for round in 0..ROUNDS {
        for step in 0..candidates.len() {
            let at = if round % 2 == 0 {
                step
            } else {
                candidates.len() - 1 - step
            };
            report.add(at, candidates[at].run(&task)?);
        }
    }
    Ok(report)
}
