//! `retort embed`: texts in, vectors out, through the same engine as the service but without a
//! socket. Texts stream through, so that a file may be larger than memory.

pub(super) mod input;
mod output;

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};

use retort_models::{Head, Heads};

use super::flags::{Flags, Local};
use super::local::LocalModel;
use super::{Context, Failure};
use crate::engine::Engine;
use crate::engine::request::{
    Conditioning, EmbedInput, EmbedRequest, EmbedResponse, Embedding, Normalize,
};
use input::{InputFormat, Source, Texts};
use output::{OutputFormat, Row, Values, Writer};

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
    /// Which vectors are wanted [default: dense, or what the model gives instead]
    #[arg(long, value_name = "HEAD")]
    head: Option<HeadName>,
    /// What the texts are for: `query`, `document`, or a task of the model
    #[arg(long, value_name = "TYPE")]
    input_type: Option<String>,
    /// Keep the first N components (Matryoshka), normalised again
    #[arg(long, value_name = "N")]
    dimensions: Option<usize>,
    /// Leave vectors as they were pooled, without unit length
    #[arg(long)]
    no_normalize: bool,
    #[command(flatten)]
    flags: Flags<Local>,
}

/// The vectors that a model may give.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum HeadName {
    /// One vector a text
    Dense,
    /// Weights of vocabulary entries
    Sparse,
    /// One vector a token
    MultiVector,
}

impl HeadName {
    fn head(self) -> Head {
        match self {
            Self::Dense => Head::Dense,
            Self::Sparse => Head::Sparse,
            Self::MultiVector => Head::MultiVector,
        }
    }
}

/// Embeds everything, in order.
pub fn run(args: EmbedArgs, context: &Context) -> Result<ExitCode, Failure> {
    let mut texts = Texts::open(source(&args)?, args.input_format)?;
    let writer = Writer::create(args.output.as_deref(), args.format)?;
    let LocalModel { engine, runtime } = LocalModel::load(context, args.flags)?;
    let job = Job {
        engine,
        heads: args.head.map_or(Heads::NONE, |name| name.head().into()),
        input_type: args.input_type,
        dimensions: args.dimensions,
        normalize: if args.no_normalize {
            Normalize::No
        } else {
            Normalize::Yes
        },
    };
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

/// What is done to each portion of texts.
struct Job {
    engine: Engine,
    heads: Heads,
    input_type: Option<String>,
    dimensions: Option<usize>,
    normalize: Normalize,
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
                .take(TEXTS_PER_REQUEST)
                .collect::<Result<_, _>>()?;
            if portion.is_empty() {
                break;
            }
            let response = runtime.block_on(self.embed(&portion))?;
            cut_inputs += response.usage.cut_inputs;
            for (text, embedding) in portion.iter().zip(&response.embeddings) {
                writer.write(&Row {
                    text,
                    vector: vector(embedding),
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
            heads: self.heads,
            conditioning: Conditioning {
                input_type: self.input_type.clone(),
                ..Conditioning::default()
            },
            dimensions: self.dimensions,
            normalize: self.normalize,
            ..EmbedRequest::default()
        };
        Ok(self.engine.embed(request).await?)
    }
}

/// The vectors of a text; of several kinds, which only a request for none of them gives, the first.
fn vector(embedding: &Embedding) -> Values<'_> {
    match (&embedding.sparse, &embedding.multi_vector) {
        (Some(sparse), _) if embedding.vector.is_empty() => Values::Sparse(sparse),
        (None, Some(vectors)) if embedding.vector.is_empty() => Values::MultiVector(vectors),
        _ => Values::Dense(&embedding.vector),
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
