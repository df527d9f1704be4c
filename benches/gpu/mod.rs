//! The parts of `benches/gpu/run.sh` that are Rust: kernels and stored vectors on a GPU, forward
//! passes, and the service under load. Each is a process of its own and prints one object of JSON.

mod golden;
mod kernels;
mod memory;
mod options;
mod passes;
mod traffic;

use serde_json::{Value, json};

use crate::measure::Outcome;
use options::Options;

/// Says that this process is one part of the proof on a GPU; its name and options follow.
pub const PART: &str = "--gpu";

/// The whole of a process that is one part.
pub fn part(arguments: &[String]) -> Outcome {
    let Some((name, rest)) = arguments.split_first() else {
        return Err("a part needs a name".into());
    };
    let options = Options::read(rest)?;
    let rows = match name.as_str() {
        "kernels" => kernels::run(&options)?,
        "golden" => golden::run(&options)?,
        "passes" => passes::run(&options)?,
        "traffic" => traffic::run(&options)?,
        "memory" => memory::run(&options)?,
        other => return Err(format!("there is no part `{other}`").into()),
    };
    println!("{}", json!({ "rows": rows }));
    Ok(())
}

/// One number of the result.
fn row(name: impl Into<String>, value: f64, unit: &str) -> Value {
    json!({ "name": name.into(), "value": value, "unit": unit })
}

/// One thing that is right or not, and how far from it.
fn verdict(name: impl Into<String>, good: bool, told: &str) -> Value {
    json!({ "name": name.into(), "good": good, "told": told })
}
