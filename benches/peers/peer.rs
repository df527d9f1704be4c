//! Who is compared: the service over HTTP, and libraries behind `worker.py`.

use std::{
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    environment::{Peer, here},
    scenario::Task,
};
use crate::{
    client::{self, Connection, Format, Load},
    measure::{Outcome, processor},
    server::Server,
};

/// What the service is called beside the others.
const OURS: &str = "Retort";

/// Somebody who can do a task.
pub trait Candidate {
    /// As the tables have it.
    fn name(&self) -> String;

    /// Does all calls of a task once.
    ///
    /// # Errors
    /// When any call fails.
    fn run(&mut self, task: &Task) -> Outcome<Measured>;
}

/// What a task took.
#[derive(Debug, Deserialize)]
pub struct Measured {
    /// From the first call to the last result.
    pub seconds: f64,
    /// Of each call, in seconds.
    pub latencies: Vec<f64>,
    /// Time on all cores, without that of a load client.
    pub cpu_seconds: f64,
    /// The most memory that the process has had since it began.
    pub peak_bytes: u64,
    /// The vector of the first text, or the logits of the first call.
    pub sample: Vec<f64>,
}

/// The service's name in the tables.
pub fn served(dtype: &str) -> String {
    format!("{OURS} {dtype}")
}

/// Whether a name is one of the service's.
pub fn is_served(name: &str) -> bool {
    name.starts_with(OURS)
}

/// The service, computing in one type.
pub struct Served {
    server: Server,
    dtype: &'static str,
}

impl Served {
    /// Starts it on a checkpoint.
    pub fn start(folder: &Path, dtype: &'static str) -> Outcome<Self> {
        let model = folder.to_string_lossy();
        let (server, _) = Server::start_with(&["--model", &model, "--dtype", dtype])?;
        Ok(Self { server, dtype })
    }

    fn sample(&self, call: &Value) -> Outcome<Vec<f64>> {
        let body =
            Connection::open(self.server.address())?.expect(&request(call, Format::Float))?;
        let answer: Value = serde_json::from_slice(&body)?;
        if let Some(results) = answer["results"].as_array() {
            let mut scores = vec![0.0; results.len()];
            for result in results {
                let (index, score) = (&result["index"], &result["relevance_score"]);
                let at = index.as_u64().ok_or("a result has no index")? as usize;
                scores[at] = score.as_f64().ok_or("a result has no score")?;
            }
            return Ok(scores);
        }
        let numbers = answer["data"][0]["embedding"].as_array();
        let numbers = numbers.ok_or("an answer has no vector")?;
        Ok(numbers.iter().filter_map(Value::as_f64).collect())
    }
}

/// The bytes of a call as the service takes it.
fn request(call: &Value, format: Format) -> Vec<u8> {
    match call {
        Value::Array(texts) => client::embeddings(texts, format),
        call => client::rerank(&call["query"], &call["documents"]),
    }
}

impl Candidate for Served {
    fn name(&self) -> String {
        served(self.dtype)
    }

    fn run(&mut self, task: &Task) -> Outcome<Measured> {
        let requests = task.calls.iter();
        let load = Load {
            address: self.server.address(),
            requests: requests.map(|call| request(call, Format::Base64)).collect(),
            connections: task.clients,
        };
        let id = self.server.id();
        let used = processor::seconds(id).unwrap_or(f64::NAN);
        let answered = load.run()?;
        Ok(Measured {
            seconds: answered.seconds,
            latencies: answered.latencies,
            cpu_seconds: processor::seconds(id).unwrap_or(f64::NAN) - used,
            peak_bytes: processor::memory(id, "VmHWM").unwrap_or(0),
            sample: self.sample(&task.calls[0])?,
        })
    }
}

/// A library in a Python process of its own; it ends when this is dropped.
pub struct Library {
    name: &'static str,
    process: Child,
    tasks: ChildStdin,
    results: BufReader<ChildStdout>,
}

impl Library {
    /// Starts it and waits until the model is loaded.
    pub fn start(peer: Peer, folder: &Path) -> Outcome<Self> {
        let log = Path::new(env!("CARGO_TARGET_TMPDIR")).join("peers.log");
        let mut process = Command::new(peer.python)
            .arg(here("worker.py"))
            .arg(peer.name)
            .arg(folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(std::fs::File::create(log)?)
            .spawn()?;
        let (tasks, results) = (process.stdin.take(), process.stdout.take());
        let mut library = Self {
            name: peer.name,
            process,
            tasks: tasks.ok_or("a peer has no input")?,
            results: BufReader::new(results.ok_or("a peer has no output")?),
        };
        library.line()?;
        Ok(library)
    }

    fn line(&mut self) -> Outcome<String> {
        let mut line = String::new();
        if self.results.read_line(&mut line)? == 0 {
            return Err(format!("`{}` ended; see peers.log", self.name).into());
        }
        Ok(line)
    }
}

impl Candidate for Library {
    fn name(&self) -> String {
        self.name.to_owned()
    }

    fn run(&mut self, task: &Task) -> Outcome<Measured> {
        let line = json!({ "clients": task.clients, "calls": task.calls });
        writeln!(self.tasks, "{line}")?;
        self.tasks.flush()?;
        Ok(serde_json::from_str(&self.line()?)?)
    }
}

impl Drop for Library {
    fn drop(&mut self) {
        // It may have ended already; then there is nothing to end.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
