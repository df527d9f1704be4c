//! The command line: one file per command, each with its flags and what it does. Texts for people
//! are made by pure functions; this module only chooses the command.

mod cached;
mod cal_model_mem;
mod chat;
mod check;
mod doctor;
mod embed;
mod engine;
mod estimate;
mod failure;
mod flags;
mod launch;
mod list;
mod local;
mod logging;
mod models;
mod notify;
mod print_config;
mod ps;
mod pull;
mod ready;
mod registrations;
mod remote;
mod report;
mod rerank;
mod serve;
mod spelling;
mod stop;
mod table;
mod terminate;
mod verify;

use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

pub use failure::Failure;

use crate::config::{self, Environment, Inputs, Loaded, Purpose};
use flags::{Flags, Group};

const ABOUT: &str = "Embeddings and reranking over HTTP, on ONNX Runtime, for clients of \
                     Xinference, OpenAI, Cohere and others";

const EXAMPLES: &str = "\
Examples:
  retort                                     serve the default model on http://127.0.0.1:9997
  retort --model BAAI/bge-m3 --port 8080     serve another one, elsewhere
  retort pull BAAI/bge-m3                    fetch now, to start fast or offline later
  retort embed 'Hello, world'                embed without a server
  retort embed --file texts.txt --output vectors.npy
  retort rerank 'where is the river' 'a boat' 'the river bank' --model bge-reranker-v2-m3
  retort chat qwen2.5-instruct               talk with a model of a running server
  retort verify bge-m3                       whether it gives the published numbers here
  retort launch -n bge-m3 -t embedding       load one more into a running server
  retort doctor                              what is wrong, and what to do about it

Every flag has a variable (RETORT_PORT) and a key in the configuration file; the flag goes before
the variable, the variable before the file. `retort config` prints what is in force.";

/// The whole command line. Without a command, the service is started.
#[derive(Parser)]
#[command(
    name = "retort",
    version,
    about = ABOUT,
    after_help = EXAMPLES,
    args_conflicts_with_subcommands = true,
    max_term_width = 100
)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    serve: serve::ServeArgs,
}

#[derive(Subcommand)]
enum Command {
    /// Start the service; what happens when no command is given
    Serve(serve::ServeArgs),
    /// Fetch ONNX Runtime and models, and say where they are
    Pull(pull::PullArgs),
    /// Turn texts into vectors without a server
    Embed(embed::EmbedArgs),
    /// Put documents in the order of what they say about a query, without a server
    Rerank(rerank::RerankArgs),
    /// Talk with a model of a running server
    Chat(chat::ChatArgs),
    /// List the known and the configured models, and which are on this machine
    Models(models::ModelsArgs),
    /// Say how much memory models will take, without loading them
    Estimate(estimate::EstimateArgs),
    /// Estimate the GPU memory of a chat model, as Xinference's command of that name
    CalModelMem(cal_model_mem::CalModelMemArgs),
    /// Ask a running server what it serves
    Ps(ps::PsArgs),
    /// Have a running server load a model
    Launch(launch::LaunchArgs),
    /// List the models of a running server in Xinference's columns
    List(list::ListArgs),
    /// Have a running server unload a model
    Terminate(terminate::TerminateArgs),
    /// List what a running server knows by name
    Registrations(registrations::RegistrationsArgs),
    /// Make a model known to a running server
    Register(registrations::RegisterArgs),
    /// Take back what `register` did
    Unregister(registrations::UnregisterArgs),
    /// Say what a running server would run a model with
    Engine(engine::EngineArgs),
    /// List the files of models on the machine of a running server
    Cached(cached::CachedArgs),
    /// Remove files of a model from the machine of a running server
    RemoveCache(cached::RemoveCacheArgs),
    /// End a running server once it has finished what is inside
    #[command(alias = "stop-cluster")]
    Stop(stop::StopArgs),
    /// Examine this machine: what is wrong, and what to do about it
    Doctor(doctor::DoctorArgs),
    /// Load everything as the service would, compute once, and exit
    Check(check::CheckArgs),
    /// Hold the numbers that models give on this machine against the published ones
    Verify(verify::VerifyArgs),
    /// Print the configuration in force and where each value came from
    Config(print_config::ConfigArgs),
}

/// What every command is given besides its flags.
struct Context {
    environment: Environment,
    directory: PathBuf,
}

impl Context {
    /// The configuration for a command. Warnings go to stderr.
    fn load<G: Group>(&self, purpose: Purpose, flags: Flags<G>) -> Result<Loaded, Failure> {
        let loaded = config::load(&Inputs {
            purpose,
            flags: flags.typed,
            file: flags.file,
            environment: self.environment.clone(),
            directory: self.directory.clone(),
        })?;
        for warning in &loaded.warnings {
            anstream::eprintln!("warning: {warning}");
        }
        Ok(loaded)
    }

    fn colors(&self) -> logging::Colors {
        match self.environment.get("NO_COLOR") {
            Some(_) => logging::Colors::Refused,
            None => logging::Colors::Allowed,
        }
    }
}

/// The program: reads the command line and the environment, runs the command, and turns its
/// failure into `error: …`, `hint: …` and an exit code (2 for a wrong command line, else 1).
pub fn main() -> ExitCode {
    let context = Context {
        environment: Environment::of_process(),
        directory: std::env::current_dir().unwrap_or_default(),
    };
    let cli = match parse(std::env::args_os()) {
        Ok(cli) => cli,
        // clap knows whether it is help on stdout or an error on stderr.
        Err(error) => error.exit(),
    };
    match run(cli, &context) {
        Ok(code) => code,
        Err(failure) => {
            failure.print();
            ExitCode::from(failure.exit_code)
        }
    }
}

fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Cli, clap::Error> {
    let arguments = spelling::familiar(arguments.into_iter().collect(), &command());
    let matches = command().try_get_matches_from(arguments)?;
    Cli::from_arg_matches(&matches)
}

fn command() -> clap::Command {
    Cli::command()
}

/// Writes to stdout. Colours are taken out where they cannot be seen, and a reader who has left,
/// as in `retort models | head -1`, is an error and no panic.
fn print(text: &str) -> Result<(), Failure> {
    let mut stdout = anstream::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    Ok(stdout.flush()?)
}

fn run(cli: Cli, context: &Context) -> Result<ExitCode, Failure> {
    match cli.command.unwrap_or(Command::Serve(cli.serve)) {
        Command::Serve(args) => serve::run(args, context),
        Command::Pull(args) => pull::run(args, context),
        Command::Embed(args) => embed::run(args, context),
        Command::Rerank(args) => rerank::run(args, context),
        Command::Chat(args) => chat::run(args, context),
        Command::Models(args) => models::run(args, context),
        Command::Estimate(args) => estimate::run(args, context),
        Command::CalModelMem(args) => cal_model_mem::run(&args, context),
        Command::Ps(args) => ps::run(args, context),
        Command::Launch(args) => launch::run(args, context),
        Command::List(args) => list::run(args, context),
        Command::Terminate(args) => terminate::run(args, context),
        Command::Registrations(args) => registrations::run(args, context),
        Command::Register(args) => registrations::register(args, context),
        Command::Unregister(args) => registrations::unregister(args, context),
        Command::Engine(args) => engine::run(args, context),
        Command::Cached(args) => cached::run(args, context),
        Command::RemoveCache(args) => cached::remove(args, context),
        Command::Stop(args) => stop::run(args, context),
        Command::Doctor(args) => doctor::run(args, context),
        Command::Check(args) => check::run(args, context),
        Command::Verify(args) => verify::run(args, context),
        Command::Config(args) => print_config::run(args, context),
    }
}

#[cfg(test)]
mod tests;
