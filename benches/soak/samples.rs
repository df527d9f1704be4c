//! What the system says of the service's memory, second by second, and the file of it.

use std::{
    fs::File,
    io::{BufWriter, Write},
    path::Path,
};

use super::traffic::Counts;
use crate::measure::{Outcome, processor};

/// The service at one moment, in bytes.
#[derive(Debug, Clone, Copy)]
pub struct Sample {
    /// Since the first request.
    pub seconds: f64,
    /// What was done by then.
    pub counts: Counts,
    /// All that is in memory, pages of files included.
    pub resident: f64,
    /// Of that, what no file backs: what a leak would be made of.
    pub anonymous: f64,
    /// Pages written to that nobody else has.
    pub private_dirty: f64,
}

impl Sample {
    /// Asks the system about a process.
    pub fn take(process: u32, seconds: f64, counts: Counts) -> Outcome<Self> {
        let field = |file: &str, name: &str| {
            let bytes = processor::memory_in(process, file, name);
            let bytes = bytes.ok_or_else(|| format!("/proc/{process}/{file} has no `{name}`"));
            bytes.map(|bytes| bytes as f64)
        };
        Ok(Self {
            seconds,
            counts,
            resident: field("status", "VmRSS")?,
            anonymous: field("status", "RssAnon")?,
            private_dirty: field("smaps_rollup", "Private_Dirty")?,
        })
    }
}

/// The samples of a run in order.
#[derive(Default)]
pub struct Log(Vec<Sample>);

impl Log {
    /// Appends one.
    pub fn push(&mut self, sample: Sample) {
        self.0.push(sample);
    }

    /// All of them.
    pub fn samples(&self) -> &[Sample] {
        &self.0
    }

    /// The second half, without the moments at which other models than usual were in memory.
    pub fn settled(&self) -> Vec<Sample> {
        let half = self.0.last().map_or(0.0, |last| last.seconds / 2.0);
        let usual = |sample: &&Sample| sample.seconds >= half && !sample.counts.cycling;
        self.0.iter().filter(usual).copied().collect()
    }

    /// The largest value of a column.
    pub fn highest(&self, column: impl Fn(&Sample) -> f64) -> f64 {
        self.0.iter().map(column).fold(0.0, f64::max)
    }

    /// Writes a table with a head line.
    pub fn write(&self, path: &Path) -> Outcome {
        let mut file = BufWriter::new(File::create(path)?);
        writeln!(
            file,
            "seconds,requests,cycles,cycling,resident_bytes,anonymous_bytes,private_dirty_bytes"
        )?;
        for sample in &self.0 {
            let counts = sample.counts;
            writeln!(
                file,
                "{:.1},{},{},{},{},{},{}",
                sample.seconds,
                counts.requests,
                counts.cycles,
                u8::from(counts.cycling),
                sample.resident,
                sample.anonymous,
                sample.private_dirty
            )?;
        }
        Ok(file.flush()?)
    }
}
