//! Every metric and every log line about requests, one function each, so that no name is typed
//! at a call site. A `model` label is always a served name, never what a caller typed: that keeps
//! the number of series bounded.

mod connections;
pub mod generate;
mod lanes;
mod life_cycle;
mod series;

use std::{fmt::Write, sync::Arc, time::Duration};

use prometheus_client::{
    encoding::{EncodeLabelSet, text},
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::Registry,
};

pub use connections::OpenConnection;
pub use life_cycle::LoadOutcome;

/// The counters of one server. Cheap to clone; every clone counts into the same place.
#[derive(Debug, Clone)]
pub struct Telemetry(Arc<Metrics>);

/// What one forward pass did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchStats {
    /// Where its jobs waited.
    pub lane: &'static str,
    /// Sequences in the batch.
    pub sequences: usize,
    /// Tokens over all its sequences.
    pub tokens: usize,
    /// The longest wait of any of its jobs.
    pub queue: Duration,
    /// How long the forward pass took.
    pub inference: Duration,
}

/// What is told of a finished request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RequestFacts {
    /// The id that the caller also got.
    pub id: String,
    /// Whose wire format it came in, e.g. `openai`.
    pub dialect: &'static str,
    /// What was asked, e.g. `embed`.
    pub task: &'static str,
    /// The served name, empty while none is known.
    pub model: String,
    /// Inputs of the request.
    pub inputs: usize,
    /// Inputs of which something was cut.
    pub inputs_cut: usize,
    /// Tokens that the model saw.
    pub tokens: usize,
    /// The longest wait of any input.
    pub queue: Duration,
    /// The longest forward pass of any input.
    pub inference: Duration,
    /// Where the inputs waited, `none` where nothing was to be run.
    pub lane: &'static str,
    /// Inputs whose numbers were there already.
    pub cached: usize,
    /// Inputs that were run once together with an equal one.
    pub coalesced: usize,
}

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outcome<'a> {
    /// The HTTP status; 499 when the client left first.
    pub status: u16,
    /// From the first byte of the head to the head of the answer.
    pub elapsed: Duration,
    /// What went wrong, in full, when something did.
    pub error: Option<&'a str>,
}

/// What is constant about a served model.
#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct ModelLabels {
    /// The served name.
    pub model: String,
    /// The family of the checkpoint, e.g. `bert`.
    pub architecture: String,
    /// Where it runs, e.g. `cpu`.
    pub device: String,
    /// The type it computes in, e.g. `float32`.
    pub dtype: String,
}

#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
struct RequestLabels {
    task: &'static str,
    dialect: &'static str,
    model: String,
    code: u16,
}

#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
struct TaskLabels {
    task: &'static str,
    dialect: &'static str,
    model: String,
}

#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ModelLabel {
    model: String,
}

#[derive(Debug)]
struct Metrics {
    registry: Registry,
    requests: Family<RequestLabels, Counter>,
    request_duration: Family<TaskLabels, Histogram>,
    tokenize_duration: Family<ModelLabel, Histogram>,
    request_tokens: Family<ModelLabel, Histogram>,
    batch_tokens: Family<ModelLabel, Histogram>,
    batch_sequences: Family<ModelLabel, Histogram>,
    inference_duration: Family<ModelLabel, Histogram>,
    tokens: Family<ModelLabel, Counter>,
    truncated_inputs: Family<ModelLabel, Counter>,
    bad_outputs: Family<ModelLabel, Counter>,
    dropped_jobs: Family<ModelLabel, Counter>,
    overloaded: Family<ModelLabel, Counter>,
    model_info: Family<ModelLabels, Gauge>,
    connections: connections::Metrics,
    lanes: lanes::Metrics,
    life_cycle: life_cycle::Metrics,
    seen: series::Seen,
    generate: generate::Metrics,
}

impl Default for Telemetry {
    fn default() -> Self {
        Self::new()
    }
}

impl Telemetry {
    /// A fresh set of counters, all at zero.
    pub fn new() -> Self {
        let mut all = Names(Registry::with_prefix("retort"));
        Self(Arc::new(Metrics {
            requests: all.add("requests", "Requests answered", Family::default()),
            request_duration: all.add(
                "request_duration_seconds",
                "Time from the head of a request to the head of its answer",
                Family::new_with_constructor(seconds),
            ),
            tokenize_duration: all.add(
                "tokenize_duration_seconds",
                "Time to turn the inputs of a request into token ids",
                Family::new_with_constructor(seconds),
            ),
            request_tokens: all.add(
                "request_tokens",
                "Tokens of a request, over all its inputs",
                Family::new_with_constructor(amounts),
            ),
            batch_tokens: all.add(
                "batch_tokens",
                "Tokens of a forward pass",
                Family::new_with_constructor(amounts),
            ),
            batch_sequences: all.add(
                "batch_sequences",
                "Sequences of a forward pass",
                Family::new_with_constructor(amounts),
            ),
            inference_duration: all.add(
                "inference_duration_seconds",
                "Time of a forward pass",
                Family::new_with_constructor(seconds),
            ),
            tokens: all.add("tokens", "Tokens that a model has run", Family::default()),
            truncated_inputs: all.add(
                "truncated_inputs",
                "Inputs that were cut because they did not fit",
                Family::default(),
            ),
            bad_outputs: all.add(
                "bad_outputs",
                "Vectors withheld because they were not finite or all zero",
                Family::default(),
            ),
            dropped_jobs: all.add(
                "dropped_jobs",
                "Inputs not run because their client had left",
                Family::default(),
            ),
            overloaded: all.add(
                "overloaded",
                "Requests refused because the queue was full",
                Family::default(),
            ),
            model_info: all.add("model_info", "Served models, always 1", Family::default()),
            connections: connections::Metrics::new(&mut all),
            lanes: lanes::Metrics::new(&mut all),
            life_cycle: life_cycle::Metrics::new(&mut all),
            seen: series::Seen::default(),
            generate: generate::Metrics::new(&mut all),
            registry: all.0,
        }))
    }

    /// The models that there are now, in place of those told before.
    pub fn models_listed(&self, models: impl Iterator<Item = ModelLabels>) {
        self.0.model_info.clear();
        for labels in models {
            self.0.model_info.get_or_create(&labels).set(1);
        }
    }

    /// The texts of a request became `tokens` token ids.
    pub fn tokenized(&self, model: &str, took: Duration, tokens: usize) {
        let label = ModelLabel::of(model);
        self.0
            .tokenize_duration
            .get_or_create(&label)
            .observe(took.as_secs_f64());
        self.0
            .request_tokens
            .get_or_create(&label)
            .observe(tokens as f64);
    }

    /// A request was refused because the queue was full.
    pub fn request_refused(&self, model: &str) {
        self.0
            .overloaded
            .get_or_create(&ModelLabel::of(model))
            .inc();
    }

    /// Jobs left the queue without being run: their client had gone.
    pub fn jobs_dropped(&self, model: &str, jobs: usize) {
        self.0
            .dropped_jobs
            .get_or_create(&ModelLabel::of(model))
            .inc_by(jobs as u64);
        tracing::debug!(model, jobs, "jobs dropped: their client has left");
    }

    /// A forward pass is over.
    pub fn batch_finished(&self, model: &str, stats: &BatchStats) {
        let label = ModelLabel::of(model);
        let metrics = &self.0;
        metrics
            .batch_sequences
            .get_or_create(&label)
            .observe(stats.sequences as f64);
        metrics
            .batch_tokens
            .get_or_create(&label)
            .observe(stats.tokens as f64);
        metrics
            .lanes
            .waited(model, stats.lane, stats.queue.as_secs_f64());
        metrics
            .inference_duration
            .get_or_create(&label)
            .observe(stats.inference.as_secs_f64());
        metrics
            .tokens
            .get_or_create(&label)
            .inc_by(stats.tokens as u64);
    }

    /// A vector was withheld because it was not finite or all zero.
    pub fn bad_output(&self, model: &str) {
        self.0
            .bad_outputs
            .get_or_create(&ModelLabel::of(model))
            .inc();
    }

    /// A request is over: one count, one duration and one line of the log.
    pub fn request_finished(&self, facts: &RequestFacts, outcome: &Outcome<'_>) {
        let RequestFacts { task, dialect, .. } = *facts;
        let code = outcome.status;
        let requests = RequestLabels {
            task,
            dialect,
            model: facts.model.clone(),
            code,
        };
        if self.0.requests.get(&requests).is_none() {
            self.0.seen.requests(&requests);
        }
        self.0.requests.get_or_create(&requests).inc();
        let durations = requests.durations();
        let elapsed = outcome.elapsed.as_secs_f64();
        self.0
            .request_duration
            .get_or_create(&durations)
            .observe(elapsed);
        if facts.inputs_cut > 0 {
            let label = ModelLabel::of(&facts.model);
            self.0
                .truncated_inputs
                .get_or_create(&label)
                .inc_by(facts.inputs_cut as u64);
        }
        log_request(facts, outcome);
    }

    /// All metrics as Prometheus text.
    pub fn render(&self, format: TextFormat) -> String {
        let mut text = String::new();
        // Writing to a string cannot fail; a failing metric would leave a shorter page.
        let _ = text::encode(&mut text, &self.0.registry);
        match format {
            TextFormat::OpenMetrics => text,
            TextFormat::Plain => plain(&text),
        }
    }
}

/// The two texts that Prometheus reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TextFormat {
    /// OpenMetrics 1.0, sent to those who ask for it.
    OpenMetrics,
    /// The older text format 0.0.4, which everything reads.
    Plain,
}

impl TextFormat {
    /// The `Content-Type` of this format.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Plain => "text/plain; version=0.0.4; charset=utf-8",
        }
    }
}

/// OpenMetrics → text format 0.0.4: there a counter's name includes `_total`, and no end is marked.
fn plain(open_metrics: &str) -> String {
    let counters: Vec<&str> = open_metrics
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.strip_suffix(" counter"))
        .collect();
    let mut text = String::with_capacity(open_metrics.len());
    for line in open_metrics.lines().filter(|line| *line != "# EOF") {
        let mut words = line.splitn(4, ' ');
        let parts = (words.next(), words.next(), words.next(), words.next());
        let (Some("#"), Some(kind), Some(name), Some(rest)) = parts else {
            text.push_str(line);
            text.push('\n');
            continue;
        };
        let total = if counters.contains(&name) {
            "_total"
        } else {
            ""
        };
        let _ = writeln!(text, "# {kind} {name}{total} {rest}");
    }
    text
}

fn log_request(facts: &RequestFacts, outcome: &Outcome<'_>) {
    if outcome.status == 500 {
        tracing::error!(id = facts.id, error = outcome.error, "internal error");
    }
    // Probes and scrapes come every few seconds for ever; they are counted but would drown the log.
    if ["probe", "metrics"].contains(&facts.task) && outcome.status < 400 {
        tracing::debug!(
            id = facts.id,
            status = outcome.status,
            task = facts.task,
            "request"
        );
        return;
    }
    tracing::info!(
        id = facts.id,
        dialect = facts.dialect,
        task = facts.task,
        model = facts.model,
        inputs = facts.inputs,
        cut = facts.inputs_cut,
        tokens = facts.tokens,
        lane = facts.lane,
        cached = facts.cached,
        coalesced = facts.coalesced,
        queue_ms = millis(facts.queue),
        inference_ms = millis(facts.inference),
        total_ms = millis(outcome.elapsed),
        status = outcome.status,
        error = outcome.error,
        "request"
    );
}

fn millis(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}

impl RequestLabels {
    /// What the time is counted under.
    fn durations(&self) -> TaskLabels {
        TaskLabels {
            task: self.task,
            dialect: self.dialect,
            model: self.model.clone(),
        }
    }
}

impl ModelLabel {
    fn of(model: &str) -> Self {
        Self {
            model: model.to_owned(),
        }
    }
}

/// Registers metrics under their names while they are built.
struct Names(Registry);

impl Names {
    fn add<M>(&mut self, name: &str, help: &str, metric: M) -> M
    where
        M: prometheus_client::registry::Metric + Clone,
    {
        self.0.register(name, help, metric.clone());
        metric
    }
}

/// 0.5 ms to 65 s, doubling.
fn seconds() -> Histogram {
    Histogram::new(exponential_buckets(0.0005, 2.0, 18))
}

/// 1 to 131 072, doubling.
fn amounts() -> Histogram {
    Histogram::new(exponential_buckets(1.0, 2.0, 18))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn busy() -> Telemetry {
        let telemetry = Telemetry::new();
        telemetry.queue_changed("m", "bulk", 12);
        telemetry.request_would_be_late("m", "interactive");
        telemetry.jobs_late("m", 4);
        telemetry.inputs_coalesced("m", 5);
        telemetry.inputs_cached("m", 6);
        telemetry.tokenized("m", Duration::from_millis(2), 7);
        telemetry.batch_finished(
            "m",
            &BatchStats {
                lane: "interactive",
                sequences: 3,
                tokens: 40,
                queue: Duration::from_millis(1),
                inference: Duration::from_millis(9),
            },
        );
        telemetry.jobs_dropped("m", 2);
        telemetry.bad_output("m");
        telemetry.request_refused("m");
        telemetry.models_listed(std::iter::once(ModelLabels {
            model: "m".into(),
            architecture: "bert".into(),
            device: "cpu".into(),
            dtype: "float32".into(),
        }));
        let facts = RequestFacts {
            dialect: "openai",
            task: "embed",
            model: "m".into(),
            inputs: 3,
            inputs_cut: 2,
            ..RequestFacts::default()
        };
        let elapsed = Duration::from_millis(20);
        telemetry.request_finished(
            &facts,
            &Outcome {
                status: 200,
                elapsed,
                error: None,
            },
        );
        telemetry
    }

    #[test]
    fn every_metric_appears_under_its_name() {
        let text = busy().render(TextFormat::OpenMetrics);
        for sample in [
            r#"retort_requests_total{task="embed",dialect="openai",model="m",code="200"} 1"#,
            r#"retort_request_duration_seconds_count{task="embed",dialect="openai",model="m"} 1"#,
            r#"retort_queue_tokens{model="m",lane="bulk"} 12"#,
            r#"retort_queue_duration_seconds_count{model="m",lane="interactive"} 1"#,
            r#"retort_refused_by_deadline_total{model="m",lane="interactive"} 1"#,
            r#"retort_late_jobs_total{model="m"} 4"#,
            r#"retort_coalesced_inputs_total{model="m"} 5"#,
            r#"retort_cached_inputs_total{model="m"} 6"#,
            r#"retort_tokenize_duration_seconds_count{model="m"} 1"#,
            r#"retort_request_tokens_sum{model="m"} 7.0"#,
            r#"retort_batch_tokens_sum{model="m"} 40.0"#,
            r#"retort_batch_sequences_sum{model="m"} 3.0"#,
            r#"retort_inference_duration_seconds_count{model="m"} 1"#,
            r#"retort_tokens_total{model="m"} 40"#,
            r#"retort_truncated_inputs_total{model="m"} 2"#,
            r#"retort_bad_outputs_total{model="m"} 1"#,
            r#"retort_dropped_jobs_total{model="m"} 2"#,
            r#"retort_overloaded_total{model="m"} 1"#,
            r#"retort_model_info{model="m",architecture="bert",device="cpu",dtype="float32"} 1"#,
        ] {
            assert!(
                text.lines().any(|line| line == sample),
                "no `{sample}` in\n{text}"
            );
        }
    }

    #[test]
    fn plain_text_types_each_counter_by_the_name_of_its_sample() {
        let text = busy().render(TextFormat::Plain);
        assert!(
            text.contains("# TYPE retort_tokens_total counter\n"),
            "{text}"
        );
        assert!(text.contains("# HELP retort_tokens_total "), "{text}");
        assert!(
            text.contains("# TYPE retort_queue_tokens gauge\n"),
            "{text}"
        );
        assert!(!text.contains("# EOF"), "{text}");
    }

    #[test]
    fn a_model_that_went_takes_its_series_along() {
        let telemetry = busy();
        for model in ["m", "other"] {
            telemetry.model_loaded(model, Duration::from_secs(1), Some(5));
            telemetry.model_unloaded(model, "it was terminated");
            telemetry.load_ended(model, Duration::ZERO, LoadOutcome::Cancelled);
            telemetry.load_ended(model, Duration::ZERO, LoadOutcome::Failed(&"a reason"));
        }
        let unnamed = Outcome {
            status: 404,
            elapsed: Duration::ZERO,
            error: None,
        };
        telemetry.request_finished(&RequestFacts::default(), &unnamed);
        telemetry.models_listed(std::iter::empty());
        telemetry.keep_models(&HashSet::from(["other"]));
        let text = telemetry.render(TextFormat::Plain);
        assert!(!text.contains(r#"model="m""#), "{text}");
        assert!(text.contains(r#"model="other""#), "{text}");
        assert!(text.contains(r#"model="",code="404""#), "{text}");
    }

    #[test]
    fn two_servers_count_apart() {
        let first = busy();
        let second = Telemetry::new();
        assert!(
            first
                .render(TextFormat::Plain)
                .contains("retort_tokens_total{")
        );
        assert!(
            !second
                .render(TextFormat::Plain)
                .contains("retort_tokens_total{")
        );
    }
}
