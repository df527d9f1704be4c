//! What the service costs beyond its model, and what the model costs beyond its arithmetic.
//! `cargo bench` measures everything; `cargo bench -- SECTION` only what is named. See README.md.

mod client;
mod kernels;
mod matmul;
mod measure;
mod server;
mod service;
mod startup;
mod subject;
mod texts;
mod tokenization;

use std::process::ExitCode;

use measure::{Outcome, Targets, processor};
use subject::Subject;

/// A part of the benchmarks that can be asked for by name.
struct Section {
    name: &'static str,
    run: fn(&Subject, &mut Targets) -> Outcome,
}

/// In the order in which they run.
const SECTIONS: &[Section] = &[
    Section {
        name: "kernels",
        run: kernels::run,
    },
    Section {
        name: "tokenization",
        run: tokenization::run,
    },
    Section {
        name: "startup",
        run: startup::run,
    },
    Section {
        name: "throughput",
        run: service::throughput::run,
    },
    Section {
        name: "latency",
        run: service::latency::run,
    },
    Section {
        name: "concurrency",
        run: service::concurrency::run,
    },
];

fn main() -> ExitCode {
    let (flags, names): (Vec<String>, Vec<String>) = std::env::args()
        .skip(1)
        .partition(|argument| argument.starts_with('-'));
    // `cargo test --all-targets` runs this program too, without the flag that `cargo bench` adds.
    if !flags.iter().any(|flag| flag == "--bench") {
        println!("nothing is measured here; run `cargo bench`");
        return ExitCode::SUCCESS;
    }
    let known: Vec<&str> = SECTIONS.iter().map(|section| section.name).collect();
    if let Some(unknown) = names.iter().find(|name| !known.contains(&name.as_str())) {
        eprintln!(
            "error: no section is called `{unknown}`\nhint: choose from {}",
            known.join(", ")
        );
        return ExitCode::FAILURE;
    }
    match measure_all(&names) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Runs the sections that are asked for, or all.
fn measure_all(names: &[String]) -> Outcome {
    let subject = Subject::open()?;
    let (cores, processor) = (processor::cores(), processor::name());
    println!(
        "{cores} cores of {}; ONNX Runtime {}; {}, kernels on {}",
        processor.as_deref().unwrap_or("an unnamed processor"),
        subject.runtime.version(),
        subject::MODEL,
        subject.model.info().isa
    );
    let mut targets = Targets::default();
    for section in SECTIONS {
        if names.is_empty() || names.iter().any(|name| name == section.name) {
            (section.run)(&subject, &mut targets)?;
        }
    }
    targets.print();
    Ok(())
}
