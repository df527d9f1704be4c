//! `retort embed`: texts in, vectors out, through the same engine as the service but without a
//! socket. Texts stream through, so that a file may be larger than memory.

mod input;
mod output;

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};

use super::flags::{Flags, Local};
use super::{Context, Failure, logging};
use crate::config::{Config, Loaded, ModelEntry, Origin, Purpose};
use crate::engine::Engine;
use crate::engine::request::{EmbedInput, EmbedRequest, EmbedResponse, Normalize};
use crate::provision::Progress;
use crate::serve::Core;
use input::{InputFormat, Source, Texts};
use output::{OutputFormat, Row, Writer};

/// Texts that are in memory at a time.
const TEXTS_PER_REQUEST: usize = 1024;

/// Flags of `retort embed`.
#[derive(Args)]
pub struct EmbedArgs {
    /// Texts to embed; without any, and without --file, stdin is read
    #[arg(value_name = "TEXT", conflicts_with = "from")]
    texts: Vec<String>,
    /// Read texts from a file, one a line; `-` is stdin
    #[arg(long = "file", value_name = "FILE", id = "from")]
    file: Option<PathBuf>,
    /// What the file holds [default: jsonl for *.jsonl and *.ndjson, else lines]
    #[arg(long, value_name = "FORMAT")]
    input_format: Option<InputFormat>,
    /// What to write [default: by the name of --output, else json]
    #[arg(long, value_name = "FORMAT")]
    format: Option<OutputFormat>,
    /// Write to a file instead of stdout
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Keep the first N components (Matryoshka), normalised again
    #[arg(long, value_name = "N")]
    dimensions: Option<usize>,
    /// Leave vectors as they were pooled, without unit length
    #[arg(long)]
    no_normalize: bool,
    #[command(flatten)]
    flags: Flags<Local>,
}

/// Embeds everything, in order.
pub fn run(args: EmbedArgs, context: &Context) -> Result<ExitCode, Failure> {
    let mut texts = Texts::open(source(&args)?, args.input_format)?;
    let writer = Writer::create(args.output.as_deref(), args.format)?;
    let Loaded {
        mut config, layers, ..
    } = context.load(Purpose::Local, args.flags)?;
    if let Some((_, Origin::Default)) = layers.get("server.log") {
        // Vectors are what is wanted here: unless asked, the log speaks up only about trouble.
        config.server.log = "warn".into();
    }
    logging::start(&config.server, context.colors())?;
    unbounded(&mut config);
    let progress = Progress::stderr();
    let core = Core::new(&config, &progress)?;
    core.load()?;
    let job = Job {
        engine: core.engine.clone(),
        dimensions: args.dimensions,
        normalize: if args.no_normalize {
            Normalize::No
        } else {
            Normalize::Yes
        },
        texts_per_request: config.limits.max_inputs_per_request.min(TEXTS_PER_REQUEST),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(format!("cannot start threads: {error}")))?;
    let cut = job.run(&runtime, &mut texts, writer)?;
    if cut > 0 {
        anstream::eprintln!("warning: {cut} texts were longer than the model reads and were cut");
    }
    Ok(ExitCode::SUCCESS)
}

fn source(args: &EmbedArgs) -> Result<Source, Failure> {
    match &args.file {
        Some(path) if path.as_os_str() == "-" => Ok(Source::Stdin),
        Some(path) => Ok(Source::File(path.clone())),
        None if !args.texts.is_empty() => Ok(Source::Given(args.texts.clone())),
        None if std::io::stdin().is_terminal() => Err(Failure::usage("there is no text to embed")
            .with_hint("give texts, or a file with `--file FILE`, or pipe them in")),
        None => Ok(Source::Stdin),
    }
}

/// One model, no deadline and no queue limit: nobody else waits here.
fn unbounded(config: &mut Config) {
    const DAY: std::time::Duration = std::time::Duration::from_secs(24 * 60 * 60);
    config.server.request_timeout = DAY;
    config.limits.max_queue_tokens = usize::MAX / 2;
    config.models.truncate(1);
    config
        .models
        .iter_mut()
        .for_each(|model: &mut ModelEntry| model.required = true);
}

/// What is done to each portion of texts.
struct Job {
    engine: Engine,
    dimensions: Option<usize>,
    normalize: Normalize,
    texts_per_request: usize,
}

impl Job {
    /// Embeds portion after portion; gives how many texts were cut.
    fn run(
        &self,
        runtime: &tokio::runtime::Runtime,
        texts: &mut Texts,
        mut writer: Writer,
    ) -> Result<usize, Failure> {
        let bar = bar(texts.known_count());
        let mut cut_inputs = 0;
        loop {
            let portion: Vec<String> = texts
                .by_ref()
                .take(self.texts_per_request)
                .collect::<Result<_, _>>()?;
            if portion.is_empty() {
                break;
            }
            let response = runtime.block_on(self.embed(&portion))?;
            cut_inputs += response.usage.cut_inputs;
            for (text, embedding) in portion.iter().zip(&response.embeddings) {
                writer.write(&Row {
                    text,
                    vector: &embedding.vector,
                })?;
            }
            bar.inc(portion.len() as u64);
        }
        bar.finish_and_clear();
        writer.finish()?;
        Ok(cut_inputs)
    }

    async fn embed(&self, texts: &[String]) -> Result<EmbedResponse, Failure> {
        let request = EmbedRequest {
            inputs: texts.iter().cloned().map(EmbedInput::Text).collect(),
            dimensions: self.dimensions,
            normalize: self.normalize,
            ..EmbedRequest::default()
        };
        Ok(self.engine.embed(request).await?)
    }
}

/// How far it has come, where someone is watching and it takes more than one portion.
fn bar(texts: Option<usize>) -> ProgressBar {
    if texts.is_some_and(|count| count <= TEXTS_PER_REQUEST) || !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let (bar, template) = match texts {
        Some(count) => (
            ProgressBar::new(count as u64),
            "embedding {wide_bar} {human_pos} of {human_len} ({per_sec}, {eta} left)",
        ),
        None => (
            ProgressBar::no_length(),
            "embedding {spinner} {human_pos} ({per_sec})",
        ),
    };
    let style = ProgressStyle::with_template(template);
    bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}
