//! Who used the processor: this process, another one, everybody else. Read from Linux's `/proc`;
//! elsewhere nothing is known and nothing is said.

use std::{fs, time::Instant};

/// Linux counts processor time in hundredths of a second on every architecture.
const TICKS_PER_SECOND: f64 = 100.0;

/// Cores that this process may use.
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// The processor's name, where the system tells it.
pub fn name() -> Option<String> {
    let text = fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

/// A line such as `VmHWM` of a process's status, in bytes.
pub fn memory(process: u32, field: &str) -> Option<u64> {
    memory_in(process, "status", field)
}

/// A line of one of a process's files about memory, `status` or `smaps_rollup`, in bytes.
pub fn memory_in(process: u32, file: &str, field: &str) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{process}/{file}")).ok()?;
    let value = text
        .lines()
        .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))?;
    Some(
        value
            .trim()
            .strip_suffix("kB")?
            .trim()
            .parse::<u64>()
            .ok()?
            * 1024,
    )
}

/// Processor seconds since boot (`everybody`) or since a process began.
#[derive(Debug, Clone, Copy)]
struct Used {
    everybody: f64,
    own: f64,
    server: f64,
}

/// A look at the counters, to be compared with a later one.
pub struct Watch {
    server: u32,
    started: Instant,
    used: Option<Used>,
}

/// Shares of all cores over a stretch of time; together with what was idle they make 1.
#[derive(Debug, Clone, Copy)]
pub struct Shares {
    /// This process: the load client, or a bare session.
    pub own: f64,
    /// The watched process.
    pub server: f64,
    /// Every other process: what makes a measurement doubtful.
    pub others: f64,
}

impl Watch {
    /// Starts to watch this process and `server`.
    pub fn start(server: u32) -> Self {
        Self {
            server,
            started: Instant::now(),
            used: used(server),
        }
    }

    /// Who used how much since the start.
    pub fn shares(&self) -> Option<Shares> {
        let (before, after) = (self.used?, used(self.server)?);
        let available = self.started.elapsed().as_secs_f64() * cores() as f64;
        let own = (after.own - before.own) / available;
        let server = (after.server - before.server) / available;
        let everybody = (after.everybody - before.everybody) / available;
        Some(Shares {
            own,
            server,
            others: (everybody - own - server).max(0.0),
        })
    }
}

impl std::fmt::Display for Shares {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let percent = |share: f64| share * 100.0;
        write!(
            f,
            "the service {:.1} %, this process {:.1} %, everything else {:.1} % of all cores",
            percent(self.server),
            percent(self.own),
            percent(self.others)
        )
    }
}

/// Processor seconds that a process has used on all cores since it began.
pub fn seconds(id: u32) -> Option<f64> {
    process(&id.to_string())
}

fn used(server: u32) -> Option<Used> {
    Some(Used {
        everybody: everybody()?,
        own: process("self")?,
        server: seconds(server)?,
    })
}

/// User, nice, system, interrupt and stolen time of all cores: all columns but idle and waiting.
fn everybody() -> Option<f64> {
    let text = fs::read_to_string("/proc/stat").ok()?;
    let columns = text
        .lines()
        .next()?
        .strip_prefix("cpu ")?
        .split_whitespace();
    let busy = columns
        .take(8)
        .enumerate()
        .filter(|(at, _)| !matches!(at, 3 | 4));
    let ticks: f64 = busy
        .filter_map(|(_, ticks)| ticks.parse::<f64>().ok())
        .sum();
    Some(ticks / TICKS_PER_SECOND)
}

/// User and system time of all threads of a process.
fn process(id: &str) -> Option<f64> {
    let text = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    // The second column is the program's name in parentheses and may contain anything.
    let mut columns = text.rsplit_once(')')?.1.split_whitespace().skip(11);
    let user: f64 = columns.next()?.parse().ok()?;
    let system: f64 = columns.next()?.parse().ok()?;
    Some((user + system) / TICKS_PER_SECOND)
}
