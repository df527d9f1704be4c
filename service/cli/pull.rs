//! `retort pull`: fetches ONNX Runtime and models and loads neither.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;

use super::flags::{Files, Flags};
use super::table::{bytes, bytes_under, render, table};
use super::{Context, Failure, print};
use crate::config::{Purpose, Typed, setting};
use crate::provision::{
    self, CUDA_VERSION, Fetch, ModelRequest, Progress, ProvisionConfig, Weights,
};

/// Flags of `retort pull`.
#[derive(Args)]
pub struct PullArgs {
    /// What to fetch, as `name` or `id[@revision]`; the configured models when none is named
    #[arg(value_name = "MODEL")]
    models: Vec<String>,
    /// Fetch only models, not ONNX Runtime
    #[arg(long)]
    no_runtime: bool,
    /// Fetch ONNX Runtime for NVIDIA GPUs and the libraries of CUDA that it loads, whether there is
    /// a GPU here or not; implied where the configuration says `device = "cuda"`
    #[arg(long, conflicts_with = "no_runtime")]
    cuda: bool,
    #[command(flatten)]
    flags: Flags<Files>,
}

/// Fetches and tells where everything is.
pub fn run(mut args: PullArgs, context: &Context) -> Result<ExitCode, Failure> {
    if !args.models.is_empty() {
        let typed = setting("model").map(|setting| Typed {
            setting,
            values: args.models,
        });
        args.flags.typed.extend(typed);
    }
    let config = context.load(Purpose::Local, args.flags)?.config;
    let progress = Progress::stderr();
    let mut pulled = Vec::new();
    if !args.no_runtime {
        let wants_gpu = args.cuda || config.device.wants_gpu();
        pulled.extend(runtimes(&config.provision, wants_gpu, &progress)?);
    }
    for model in &config.models {
        let id = model.location.id();
        let revision = model.revision.as_deref();
        let request = ModelRequest {
            id: &id,
            revision,
            weights: Weights::Checkpoint,
            entry: model.published(),
        };
        let files = provision::model(&config.provision, &request, &progress)?;
        pulled.push(Pulled {
            origin: files.origin.to_string(),
            bytes: bytes_under(&files.dir),
            path: files.dir,
            what: id,
        });
    }
    print(&draw(&pulled))?;
    Ok(ExitCode::SUCCESS)
}

/// ONNX Runtime, for GPUs together with what it loads.
fn runtimes(
    config: &ProvisionConfig,
    wants_gpu: bool,
    progress: &Progress,
) -> Result<Vec<Pulled>, Failure> {
    let library = match wants_gpu {
        true => provision::cuda_runtime(config, Fetch::Missing, progress)?,
        false => None,
    };
    let library = match library {
        Some(library) => library,
        None => provision::runtime(config, progress)?,
    };
    let size = |path: &Path| std::fs::metadata(path).map_or(0, |file| file.len());
    let version = library
        .version
        .unwrap_or_else(|| provision::RUNTIME_VERSION.into());
    let mut pulled = vec![Pulled {
        what: format!("ONNX Runtime {version}"),
        origin: library.origin.to_string(),
        bytes: size(&library.path),
        path: library.path,
    }];
    if let Some(cuda) = library.cuda {
        let folder = cuda.files.first().and_then(|file| file.parent());
        pulled.push(Pulled {
            what: format!("CUDA {CUDA_VERSION} libraries"),
            origin: cuda.origin.to_string(),
            bytes: cuda.files.iter().map(|file| size(file)).sum(),
            path: folder.map(Path::to_path_buf).unwrap_or_default(),
        });
    }
    Ok(pulled)
}

/// Something that is on this machine now.
struct Pulled {
    what: String,
    origin: String,
    bytes: u64,
    path: PathBuf,
}

fn draw(pulled: &[Pulled]) -> String {
    let mut rows = table(&["what", "from", "size", "where"]);
    for Pulled {
        what,
        origin,
        bytes: size,
        path,
    } in pulled
    {
        rows.add_row([what, origin, &bytes(*size), &path.display().to_string()]);
    }
    render(&rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_says_what_is_where() {
        let text = draw(&[Pulled {
            what: "BAAI/bge-m3".into(),
            origin: "fetched from PyPI".into(),
            bytes: 2_271_000_000,
            path: "/cache/bge-m3".into(),
        }]);
        let words: Vec<&str> = text
            .lines()
            .nth(1)
            .unwrap_or_default()
            .split("  ")
            .collect();
        let cells: Vec<&str> = words
            .into_iter()
            .map(str::trim)
            .filter(|w| !w.is_empty())
            .collect();
        assert_eq!(
            cells,
            [
                "BAAI/bge-m3",
                "fetched from PyPI",
                "2.3 GB",
                "/cache/bge-m3"
            ]
        );
    }
}
