//! What the service costs beyond its model, and what the model costs beyond its arithmetic.
//! `cargo bench` measures everything; `cargo bench -- SECTION` only what is named. See README.md.

mod chat;
mod client;
mod full_size;
mod gpu;
mod kernels;
mod linear;
mod matmul;
mod measure;
mod memory;
mod open_loop;
mod peers;
mod rotary;
mod server;
mod service;
mod soak;
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
    /// Runs when no section is named, too.
    always: bool,
    run: fn(&Subject, &mut Targets) -> Outcome,
}

/// In the order in which they run.
const SECTIONS: &[Section] = &[
    Section {
        name: "kernels",
        always: true,
        run: kernels::run,
    },
    Section {
        name: "tokenization",
        always: true,
        run: tokenization::run,
    },
    Section {
        name: "startup",
        always: true,
        run: startup::run,
    },
    Section {
        name: "throughput",
        always: true,
        run: service::throughput::run,
    },
    Section {
        name: "latency",
        always: true,
        run: service::latency::run,
    },
    Section {
        name: "concurrency",
        always: true,
        run: service::concurrency::run,
    },
    Section {
        name: "overload",
        always: true,
        run: service::overload::run,
    },
    Section {
        name: "lanes",
        always: true,
        run: service::lanes::run,
    },
    Section {
        name: "full-size",
        // It takes 5 GB of disk and several minutes.
        always: false,
        run: full_size::run,
    },
    Section {
        name: "chat",
        // It takes 3 GB of disk and several minutes.
        always: false,
        run: chat::run,
    },
    Section {
        name: "peers",
        // It fetches the peers, several gigabytes of Python packages.
        always: false,
        run: peers::run,
    },
    Section {
        name: "memory",
        // It takes 3 GB of disk, as much memory, and minutes.
        always: false,
        run: memory::run,
    },
    Section {
        name: "soak",
        // It takes half an hour.
        always: false,
        run: soak::run,
    },
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [full_size::CASE, ..] = arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        return finish(full_size::case(&arguments[1..]));
    }
    if let [memory::CASE, ..] = arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        return finish(memory::case(&arguments[1..]));
    }
    if let [gpu::PART, ..] = arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        return finish(gpu::part(&arguments[1..]));
    }
    let (flags, names) = flags_and_names(arguments);
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
    finish(measure_all(&names))
}

/// Flags, without the value of the one that has one, and the names of sections.
fn flags_and_names(arguments: Vec<String>) -> (Vec<String>, Vec<String>) {
    let mut is_value = false;
    let rest = arguments
        .into_iter()
        .filter(|argument| !std::mem::replace(&mut is_value, argument == soak::MINUTES));
    rest.partition(|argument| argument.starts_with('-'))
}

fn finish(outcome: Outcome) -> ExitCode {
    match outcome {
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
        let all = names.is_empty() && section.always;
        if all || names.iter().any(|name| name == section.name) {
            (section.run)(&subject, &mut targets)?;
        }
    }
    targets.print();
    Ok(())
}
