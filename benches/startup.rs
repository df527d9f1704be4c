//! From starting the process to the first answer, and the most memory it ever held.

use std::{fs, time::Duration};

use crate::{
    client::{self, Format, Load},
    measure::{Outcome, Table, Targets, median, processor, quantile},
    server::Server,
    subject::Subject,
    texts::Texts,
};

const STARTS: usize = 9;
const READY_MAX_S: f64 = 1.5;
const MEMORY_MAX: f64 = 150e6;
const MEBIBYTE: f64 = (1 << 20) as f64;

/// Starts the service several times, and works the last one hard before looking at its memory.
pub fn run(subject: &Subject, targets: &mut Targets) -> Outcome {
    let (mut listening, mut ready) = (Vec::new(), Vec::new());
    // The first start reads files into memory that the others find there.
    let (mut server, first) = Server::start()?;
    for _ in 0..STARTS {
        // The one before ends first: two of them would share the cores.
        drop(server);
        let (next, took) = Server::start()?;
        server = next;
        listening.push(took.listening.as_secs_f64());
        ready.push(took.ready.as_secs_f64());
    }
    let mut table = Table::new(
        format!("### Start-up from a warm cache, {STARTS} starts, milliseconds"),
        &["until", "median", "fastest", "slowest", "first of all"],
    );
    let cells = |series: &[f64], first: Duration| {
        let quantiles = [0.5, 0.0, 1.0].map(|part| quantile(series, part));
        let shown = quantiles.into_iter().chain([first.as_secs_f64()]);
        shown
            .map(|seconds| format!("{:.0}", seconds * 1e3))
            .collect::<Vec<_>>()
    };
    table.row(
        "a connection is accepted",
        cells(&listening, first.listening),
    );
    table.row("`/readyz` answers 200", cells(&ready, first.ready));
    table.print();
    let ready = median(&ready);
    targets.note(
        "ready from a warm cache",
        format!("{ready:.2} s"),
        "< 1.5 s",
        (ready < READY_MAX_S).into(),
    );
    memory(subject, &server, targets)
}

/// What the process holds when it is ready, and after every kind of load.
fn memory(subject: &Subject, server: &Server, targets: &mut Targets) -> Outcome {
    let weights = fs::metadata(subject.dir.join("model.safetensors"))?.len();
    let mut table = Table::new(
        format!(
            "### Memory of the process, MiB; the weights are {:.1} in their file",
            weights as f64 / MEBIBYTE
        ),
        &[
            "when",
            "peak (VmHWM)",
            "peak − weights",
            "now, own (RssAnon)",
            "now, files (RssFile)",
        ],
    );
    let mut look = |when: &str| -> Outcome<f64> {
        let field = |name: &str| {
            let bytes = processor::memory(server.id(), name);
            bytes
                .map(|bytes| bytes as f64)
                .ok_or("this system does not tell memory by process")
        };
        let peak = field("VmHWM")?;
        let over = peak - weights as f64;
        let bytes = [peak, over, field("RssAnon")?, field("RssFile")?];
        table.row(when, bytes.map(|bytes| format!("{:.1}", bytes / MEBIBYTE)));
        Ok(over)
    };
    look("ready")?;
    let mut texts = Texts::new(11);
    let one = Load {
        address: server.address(),
        requests: texts
            .mix(512)
            .iter()
            .map(|text| request(std::slice::from_ref(text)))
            .collect(),
        connections: 256,
    };
    one.run()?;
    look("after 512 requests of 1 text on 256 connections")?;
    let many = Load {
        address: server.address(),
        requests: texts.mix(512).chunks(32).map(request).collect(),
        connections: 8,
    };
    many.run()?;
    look("after 16 requests of 32 texts on 8 connections")?;
    let long: Outcome<Vec<String>> = (0..64).map(|_| texts.exactly(256, subject)).collect();
    let longest = Load {
        address: server.address(),
        requests: long?.chunks(8).map(request).collect(),
        connections: 8,
    };
    longest.run()?;
    let over = look("after 64 texts of 256 tokens, the longest")?;
    table.print();
    targets.note(
        "peak memory over the size of the weights",
        format!("{:.0} MB", over / 1e6),
        "< 150 MB",
        (over < MEMORY_MAX).into(),
    );
    Ok(())
}

/// As a client that asks for nothing special: numbers in JSON.
fn request(texts: &[String]) -> Vec<u8> {
    client::embeddings(texts, Format::Float)
}
