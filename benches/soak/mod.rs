//! Memory over time: an embedding model and a reranker that take turns, texts of every length, and
//! models that come, sleep and go meanwhile. Says whether memory grows, and draws it.

mod plot;
mod reranker;
mod samples;
mod traffic;
mod trend;

use std::{
    fs,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use crate::{
    client::Connection,
    measure::{Outcome, Table, Targets, processor},
    server::Server,
    subject::Subject,
};

use self::{
    samples::{Log, Sample},
    traffic::{Models, Traffic},
    trend::Slope,
};

/// The flag that says how long; its value follows.
pub const MINUTES: &str = "--minutes";
const MINUTES_DEFAULT: f64 = 30.0;
/// Shorter runs do not replace the picture of the documentation.
const MINUTES_PICTURED: f64 = 15.0;
const EVERY: Duration = Duration::from_secs(1);
/// The system needs a moment to take pages back.
const SETTLED: Duration = Duration::from_secs(3);
/// What is certain to have been left behind by a thousand requests, at most.
const GROWTH_MAX_KIB: f64 = 64.0;
/// Before that a session still meets larger batches than it ever had, and its arena grows to them.
const REQUESTS_JUDGED: usize = 5_000;
const KIBIBYTE: f64 = 1024.0;
const MEBIBYTE: f64 = 1024.0 * KIBIBYTE;

/// Runs the soak and fails when memory grew.
pub fn run(subject: &Subject, targets: &mut Targets) -> Outcome {
    let minutes = minutes(std::env::args())?;
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/soak");
    fs::create_dir_all(&folder)?;
    let models = Models {
        embed: subject.dir.clone(),
        rerank: reranker::checkpoint(subject, &folder.join("reranker"))?,
        tokens: subject.model.info().max_tokens,
    };
    let state = tempfile::NamedTempFile::new()?.into_temp_path();
    let argument = |name: &str, folder: &Path| format!("{name}={}", folder.display());
    let (server, _) = Server::start_with::<std::ffi::OsString>(&[
        "--model".into(),
        argument(traffic::EMBED, &models.embed).into(),
        "--model".into(),
        argument(traffic::RERANK, &models.rerank).into(),
        "--state-file".into(),
        state.join("none").into(),
    ])?;
    let mut stages = Stages::new(&server);
    stages.note("both models loaded, nothing asked yet")?;
    // The server closes a connection that says nothing for minutes, so each stage has its own.
    let manager = || Connection::open(server.address());
    traffic::unload_all(&mut manager()?)?;
    stages.note("unloaded before the traffic")?;
    models.load_all(&mut manager()?)?;
    let traffic = Traffic::new(server.address(), models);
    println!(
        "{minutes} minutes of requests; samples in {} …",
        folder.display()
    );
    let log = under_load(&server, &traffic, minutes)?;
    log.write(&folder.join("soak.csv"))?;
    stages.note("end of the traffic, both loaded and idle")?;
    traffic::unload_all(&mut manager()?)?;
    stages.note("unloaded after the traffic")?;
    let growth = Growth::of(&log)?;
    let pictures = [
        Some(folder.join("soak.png")),
        (minutes >= MINUTES_PICTURED).then(documented),
    ];
    for picture in pictures.into_iter().flatten() {
        plot::draw(&log, &growth, &picture)?;
        println!("drawn: {}", picture.display());
    }
    growth.print(&log);
    stages.print();
    growth.judge(&log, targets)
}

/// Where the documentation has its picture.
fn documented() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/soak.png")
}

/// The value of `--minutes`, or the default.
fn minutes(mut arguments: impl Iterator<Item = String>) -> Outcome<f64> {
    if !arguments.any(|argument| argument == MINUTES) {
        return Ok(MINUTES_DEFAULT);
    }
    let minutes = arguments
        .next()
        .and_then(|value| value.parse::<f64>().ok())
        .filter(|minutes| minutes.is_finite() && *minutes > 0.0);
    minutes.ok_or_else(|| format!("`{MINUTES}` takes a number of minutes, such as 15").into())
}

/// A sample a second for as long as asked, or until a request fails.
fn under_load(server: &Server, traffic: &Traffic, minutes: f64) -> Outcome<Log> {
    let mut log = Log::default();
    let started = Instant::now();
    let end = started + Duration::from_secs_f64(60.0 * minutes);
    traffic.during(|running| {
        while Instant::now() < end && running() {
            thread::park_timeout(EVERY);
            let counts = traffic.counts();
            let seconds = started.elapsed().as_secs_f64();
            log.push(Sample::take(server.id(), seconds, counts)?);
        }
        Ok(())
    })?;
    Ok(log)
}

/// What memory does once everything has been used before: over the second half of the run.
struct Growth {
    /// Bytes an hour.
    hourly: Slope,
    /// Bytes a request.
    per_request: Slope,
}

impl Growth {
    fn of(log: &Log) -> Outcome<Self> {
        let settled = log.settled();
        let slope = |at: fn(&Sample) -> f64| {
            let points: Vec<(f64, f64)> = settled.iter().map(|s| (at(s), s.anonymous)).collect();
            trend::slope(&points).ok_or("the run was too short to tell a slope")
        };
        Ok(Self {
            hourly: slope(|sample| sample.seconds / 3600.0)?,
            per_request: slope(|sample| sample.counts.requests as f64)?,
        })
    }

    fn print(&self, log: &Log) {
        let mut table = Table::new(
            "### Anonymous memory over the second half, models that come and go left out",
            &["growth", "Theil-Sen", "95 % from", "to"],
        );
        let rows = [
            ("MiB an hour", self.hourly, MEBIBYTE),
            ("KiB per 1,000 requests", self.per_request, KIBIBYTE / 1e3),
        ];
        for (name, slope, unit) in rows {
            let numbers = [slope.middle, slope.least, slope.most];
            table.row(name, numbers.map(|number| format!("{:+.2}", number / unit)));
        }
        table.print();
        if let Some(last) = log.samples().last() {
            println!(
                "\n{} requests, {} times a model came or slept and went, {:.0} minutes; highest: \
                 {:.0} MiB resident, {:.0} MiB of it anonymous.",
                last.counts.requests,
                last.counts.cycles,
                last.seconds / 60.0,
                log.highest(|sample| sample.resident) / MEBIBYTE,
                log.highest(|sample| sample.anonymous) / MEBIBYTE,
            );
        }
    }

    fn judge(&self, log: &Log, targets: &mut Targets) -> Outcome {
        let requests = log.samples().last().map_or(0, |last| last.counts.requests);
        if requests < REQUESTS_JUDGED {
            println!(
                "\nNot judged: {requests} requests were answered, {REQUESTS_JUDGED} are wanted; \
                 run longer, or on a machine that is not busy."
            );
            return Ok(());
        }
        let unit = KIBIBYTE / 1e3;
        let certain = self.per_request.least / unit;
        let met = certain <= GROWTH_MAX_KIB;
        targets.note(
            "memory that 1,000 requests certainly leave behind",
            format!("{:.1} KiB", certain.max(0.0)),
            &format!("≤ {GROWTH_MAX_KIB} KiB"),
            met.into(),
        );
        if met {
            return Ok(());
        }
        Err(format!(
            "memory grows: 1,000 requests leave {:.0} KiB behind, at least {certain:.0} KiB; \
             {GROWTH_MAX_KIB} KiB is the limit",
            self.per_request.middle / unit
        )
        .into())
    }
}

/// Memory at the turns of a run.
struct Stages<'a> {
    server: &'a Server,
    table: Table,
}

impl<'a> Stages<'a> {
    fn new(server: &'a Server) -> Self {
        let columns = ["MiB", "anonymous", "private dirty", "resident"];
        Self {
            server,
            table: Table::new("### Unloading returns memory", &columns),
        }
    }

    fn note(&mut self, stage: &str) -> Outcome {
        thread::park_timeout(SETTLED);
        let field = |file, field| {
            let bytes = processor::memory_in(self.server.id(), file, field);
            bytes.map(|bytes| format!("{:.1}", bytes as f64 / MEBIBYTE))
        };
        let cells = [
            field("status", "RssAnon"),
            field("smaps_rollup", "Private_Dirty"),
            field("status", "VmRSS"),
        ];
        let unknown = "the system does not tell what memory a process has";
        let cells: Option<Vec<String>> = cells.into_iter().collect();
        self.table.row(stage, cells.ok_or(unknown)?);
        Ok(())
    }

    fn print(&self) {
        self.table.print();
    }
}
