//! `retort verify`: runs a model on this machine and holds its numbers against the published ones.
//! Exits with 0 only when something was compared and all of it is right.

mod show;

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use retort_models::DtypeChoice;
use retort_models::verify::{Published, verify};

use super::flags::{Flags, Local};
use super::{Context, Failure, logging, print};
use crate::config::{Config, Loaded, ModelEntry, Origin, Purpose, Typed, setting};
use crate::provision::Progress;
use crate::serve::Core;
use show::Verified;

/// Flags of `retort verify`.
#[derive(Args)]
pub struct VerifyArgs {
    /// Name, hub id or directory; the configured models when none is named
    #[arg(value_name = "MODEL")]
    models: Vec<String>,
    /// Compare with the published numbers of this model of the catalogue
    #[arg(long = "as", value_name = "NAME")]
    published_as: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    flags: Flags<Local>,
}

/// Fetches, loads, compares and prints. Exits with 1 when a number is wrong or none was compared.
pub fn run(mut args: VerifyArgs, context: &Context) -> Result<ExitCode, Failure> {
    if !args.models.is_empty() {
        let typed = setting("model").map(|setting| Typed {
            setting,
            values: args.models,
        });
        args.flags.typed.extend(typed);
    }
    let Loaded {
        mut config, layers, ..
    } = context.load(Purpose::Local, args.flags)?;
    if let Some(name) = &args.published_as {
        take_for(&mut config, name)?;
    }
    if !matches!(layers.get("models.dtype"), Some((_, Origin::Flag(_)))) {
        // The published numbers were computed in 32 bits, whatever the service computes in.
        let models = config.models.iter_mut();
        models.for_each(|model| model.dtype = DtypeChoice::Fp32);
    }
    if let Some((_, Origin::Default)) = layers.get("server.log") {
        // The table says it all: unless asked, the log speaks up only about trouble.
        config.server.log = "warn".into();
    }
    logging::start(&config.server, context.colors())?;
    let progress = Progress::stderr();
    let core = Core::new(&config, &progress)?;
    let mut verified = Vec::new();
    for entry in &config.models {
        verified.push(verify_one(&core, &config, entry, &progress)?);
    }
    print(&match args.json {
        true => show::json(&verified, &core.runtime.version()),
        false => show::tables(&verified, show::Drawn::Colored),
    })?;
    Ok(if verified.iter().all(|model| model.found.is_proven()) {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Takes the one model for an entry of the catalogue.
fn take_for(config: &mut Config, name: &str) -> Result<(), Failure> {
    let known = config
        .catalog
        .find(name)
        .map_err(|error| Failure::usage(error.to_string()))?;
    let known = known.clone();
    match &mut config.models[..] {
        [model] => {
            model.known = Some(known);
            Ok(())
        }
        models => Err(Failure::usage(format!(
            "`--as {name}` goes with one model, not with `{}`",
            models.len()
        ))
        .with_hint("name the one model that is to be compared")),
    }
}

fn verify_one(
    core: &Core,
    config: &Config,
    entry: &ModelEntry,
    progress: &Progress,
) -> Result<Verified, Failure> {
    let files = core.loader.fetch(entry, progress)?;
    let model = core.loader.read(&files.dir, entry, None)?;
    let published = match &entry.known {
        Some(known) => {
            Published::of(&config.catalog, known).map_err(|e| Failure::new(e.to_string()))?
        }
        None => Published::default(),
    };
    let bar = bar(&entry.name);
    let found = verify(
        &model,
        &published,
        config.cpu.threads,
        &mut |done, total| {
            bar.set_length(total as u64);
            bar.set_position(done as u64);
        },
    )
    .map_err(|error| Failure::new(format!("model `{}`: {error}", entry.name)))?;
    bar.finish_and_clear();
    Ok(Verified {
        name: entry.name.clone(),
        published_as: entry.known.as_ref().map(|known| known.name.clone()),
        origin: files.origin.to_string(),
        revision: files.revision,
        path: files.dir,
        found,
    })
}

/// How far it has come, where someone is watching.
fn bar(name: &str) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("computing {msg} {wide_bar} {pos} of {len}");
    ProgressBar::new(1)
        .with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
        .with_message(name.to_owned())
}
