//! Everything slow is shown here and only here: bars on a terminal, a few plain lines elsewhere.

use std::{
    io::{IsTerminal, Write},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use indicatif::{HumanBytes, HumanDuration, MultiProgress, ProgressBar, ProgressStyle};

/// Lines of one download are at least this share of it apart, unless it is slow.
const LINE_STEP_PERCENT: u64 = 25;
/// A slow download or task still says every so often that it lives.
const LINE_INTERVAL: Duration = Duration::from_secs(30);
/// A file below this size is announced by its end only.
const SMALL_BYTES: u64 = 1024 * 1024;
const SPINNER_INTERVAL: Duration = Duration::from_millis(100);

/// Where progress is drawn; hand the same one to every call so that bars do not overlap. Clones
/// draw in the same place.
#[derive(Clone)]
pub struct Progress {
    drawing: Arc<Drawing>,
    watcher: Option<Arc<dyn Watch>>,
}

/// Somebody besides the terminal who wants to know, and may call it off.
pub trait Watch: Send + Sync {
    /// So many bytes of a file are here.
    fn received(&self, file: &str, bytes: u64, total: Option<u64>);

    /// Whether nobody wants the files any more.
    fn is_cancelled(&self) -> bool;
}

enum Drawing {
    Bars(MultiProgress),
    Lines(Mutex<Box<dyn Write + Send>>),
    Silent,
}

impl Progress {
    /// Bars when stderr is a terminal, plain lines when it is a file, a pipe or a log.
    pub fn stderr() -> Self {
        if std::io::stderr().is_terminal() {
            Self::drawing(Drawing::Bars(MultiProgress::new()))
        } else {
            Self::lines(std::io::stderr())
        }
    }

    /// Plain lines into `writer`.
    pub fn lines(writer: impl Write + Send + 'static) -> Self {
        Self::drawing(Drawing::Lines(Mutex::new(Box::new(writer))))
    }

    /// Draws nothing.
    pub fn silent() -> Self {
        Self::drawing(Drawing::Silent)
    }

    fn drawing(drawing: Drawing) -> Self {
        Self {
            drawing: Arc::new(drawing),
            watcher: None,
        }
    }

    /// The same drawing, told to `watcher` as well.
    pub fn watched(&self, watcher: Arc<dyn Watch>) -> Self {
        Self {
            drawing: self.drawing.clone(),
            watcher: Some(watcher),
        }
    }

    /// Whether nobody wants the files any more.
    pub(super) fn is_cancelled(&self) -> bool {
        self.watcher.as_ref().is_some_and(|w| w.is_cancelled())
    }

    /// Says one line, for example that a source failed and the next is tried.
    pub fn note(&self, line: &str) {
        match &*self.drawing {
            // Drawing is a courtesy: a closed terminal must not stop a download.
            Drawing::Bars(bars) => drop(bars.println(line)),
            Drawing::Lines(writer) => {
                if let Ok(mut writer) = writer.lock() {
                    let _ = writeln!(writer, "{line}").and_then(|()| writer.flush());
                }
            }
            Drawing::Silent => {}
        }
    }

    /// Begins a download of `total` bytes, when that is known, of which `done` are already here.
    pub(super) fn transfer(&self, label: &str, total: Option<u64>, done: u64) -> Transfer<'_> {
        let bar = match &*self.drawing {
            Drawing::Bars(bars) => {
                let bar = bars.add(total.map_or_else(ProgressBar::no_length, ProgressBar::new));
                bar.set_style(bar_style(total));
                bar.set_message(label.to_owned());
                bar.set_position(done);
                bar.reset_eta();
                Some(bar)
            }
            // Its end follows at once, and one line says enough about a small file.
            Drawing::Lines(_) if total.is_some_and(|total| total < SMALL_BYTES) => None,
            Drawing::Lines(_) => {
                let size = total.map_or(String::new(), |total| format!(" ({})", HumanBytes(total)));
                let resumed = match done {
                    0 => String::new(),
                    done => format!(", resuming after {}", HumanBytes(done)),
                };
                self.note(&format!("downloading {label}{size}{resumed}"));
                None
            }
            Drawing::Silent => None,
        };
        if let Some(watcher) = &self.watcher {
            watcher.received(label, done, total);
        }
        let now = Instant::now();
        Transfer {
            progress: self,
            bar,
            label: label.to_owned(),
            total,
            done,
            told: Told {
                percent: percent(done, total),
                at: now,
            },
            started: now,
        }
    }

    /// Begins something slow whose end cannot be foreseen.
    pub(super) fn task(&self, label: &str) -> Task<'_> {
        let bar = match &*self.drawing {
            Drawing::Bars(bars) => {
                let bar = bars.add(ProgressBar::new_spinner());
                bar.set_message(label.to_owned());
                bar.enable_steady_tick(SPINNER_INTERVAL);
                Some(bar)
            }
            Drawing::Lines(_) | Drawing::Silent => {
                self.note(label);
                None
            }
        };
        let now = Instant::now();
        Task {
            progress: self,
            bar,
            label: label.to_owned(),
            told: now,
            started: now,
        }
    }
}

/// A download in progress; dropping it unfinished removes its bar.
pub(super) struct Transfer<'a> {
    progress: &'a Progress,
    bar: Option<ProgressBar>,
    label: String,
    total: Option<u64>,
    done: u64,
    told: Told,
    started: Instant,
}

/// What the last plain line said, so that the next one waits its turn.
struct Told {
    percent: u64,
    at: Instant,
}

impl Transfer<'_> {
    /// Sets how many bytes are here; fewer than before after a restart.
    pub fn set(&mut self, done: u64) {
        self.done = done;
        if let Some(watcher) = &self.progress.watcher {
            watcher.received(&self.label, done, self.total);
        }
        if let Some(bar) = &self.bar {
            bar.set_position(done);
            return;
        }
        let percent = percent(done, self.total);
        let small = self.total.is_some_and(|total| total < SMALL_BYTES);
        let stepped = !small && percent >= self.told.percent + LINE_STEP_PERCENT && percent < 100;
        if stepped || self.told.at.elapsed() >= LINE_INTERVAL {
            let share = self
                .total
                .map_or(String::new(), |_| format!(" ({percent} %)"));
            self.progress
                .note(&format!("  {}: {}{share}", self.label, HumanBytes(done)));
            self.told = Told {
                percent,
                at: Instant::now(),
            };
        }
    }

    /// Whether nobody wants the file any more.
    pub fn is_cancelled(&self) -> bool {
        self.progress.is_cancelled()
    }

    /// Says that all bytes are here and verified.
    pub fn finish(self) {
        let (bytes, time) = (HumanBytes(self.done), elapsed(self.started));
        self.progress
            .note(&format!("downloaded {} ({bytes} in {time})", self.label));
    }
}

impl Drop for Transfer<'_> {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// Something slow without a length; dropping it removes its spinner.
pub(super) struct Task<'a> {
    progress: &'a Progress,
    bar: Option<ProgressBar>,
    label: String,
    told: Instant,
    started: Instant,
}

impl Task<'_> {
    /// To be called now and then while waiting, so that a plain log is not silent for long.
    pub fn tick(&mut self) {
        if self.bar.is_none() && self.told.elapsed() >= LINE_INTERVAL {
            let line = format!(
                "{}: still at it after {}",
                self.label,
                elapsed(self.started)
            );
            self.progress.note(&line);
            self.told = Instant::now();
        }
    }

    /// Says what has been reached.
    pub fn finish(self, what: &str) {
        let line = format!("{what} in {}", elapsed(self.started));
        self.progress.note(&line);
    }
}

impl Drop for Task<'_> {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn bar_style(total: Option<u64>) -> ProgressStyle {
    let template = match total {
        Some(_) => "{msg:>24.24} [{bar:28}] {bytes}/{total_bytes} {bytes_per_sec} eta {eta}",
        None => "{msg:>24.24} {spinner} {bytes} {bytes_per_sec}",
    };
    let style = ProgressStyle::default_bar().progress_chars("=> ");
    // The template is fixed text; the default style is what remains should it ever be wrong.
    style
        .template(template)
        .unwrap_or_else(|_| ProgressStyle::default_bar())
}

fn percent(done: u64, total: Option<u64>) -> u64 {
    match total {
        Some(total) if total > 0 => done.saturating_mul(100) / total,
        _ => 0,
    }
}

fn elapsed(since: Instant) -> String {
    let elapsed = since.elapsed();
    if elapsed < Duration::from_secs(60) {
        format!("{:.1} s", elapsed.as_secs_f64())
    } else {
        HumanDuration(elapsed).to_string()
    }
}
