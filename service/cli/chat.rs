//! `retort chat`: a conversation in the terminal with a model of a running server. What is said so
//! far is kept here and sent along; lines that begin with `/` are for this program.

mod answer;
mod session;

use std::io::{BufRead, IsTerminal, Read};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use indicatif::ProgressBar;

use super::remote::{Remote, RemoteArgs};
use super::{Context, Failure, print};
use answer::{Answer, Timings};
use session::{Reply, Session};

/// How often the spinner turns.
const TURN: Duration = Duration::from_millis(100);

/// What opens and closes a text of several lines.
const QUOTES: &str = "\"\"\"";

/// Flags of `retort chat`.
#[derive(Args)]
pub struct ChatArgs {
    /// The model; without one, the first of the server that generates
    #[arg(value_name = "MODEL")]
    model: Option<String>,
    /// Ask this, print the answer and end; without, a conversation begins, or stdin is the question
    #[arg(value_name = "PROMPT")]
    prompt: Option<String>,
    /// The model, as Xinference's flag has it
    #[arg(
        long,
        short = 'u',
        value_name = "UID",
        hide = true,
        conflicts_with = "model"
    )]
    model_uid: Option<String>,
    /// What the model is told before everything
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
    /// Tell how long it took after each answer
    #[arg(long)]
    verbose: bool,
    #[command(flatten)]
    remote: RemoteArgs,
}

/// Talks until there is nothing more to say.
pub fn run(args: ChatArgs, context: &Context) -> Result<ExitCode, Failure> {
    let mut session = Session::new(args.model.or(args.model_uid));
    session.system = args.system;
    session.verbose = args.verbose;
    let chat = Chat {
        remote: Remote::new(args.remote, context)?,
    };
    let stdin = std::io::stdin();
    let prompt = match args.prompt {
        Some(prompt) => Some(prompt),
        None if stdin.is_terminal() => None,
        None => {
            let mut text = String::new();
            stdin.lock().read_to_string(&mut text)?;
            Some(text)
        }
    };
    match prompt {
        Some(prompt) => chat.ask(&mut session, &prompt)?,
        None => chat.converse(&mut session, &mut stdin.lock())?,
    }
    Ok(ExitCode::SUCCESS)
}

/// A conversation with one server.
struct Chat {
    remote: Remote,
}

impl Chat {
    fn converse(&self, session: &mut Session, lines: &mut impl BufRead) -> Result<(), Failure> {
        anstream::eprintln!("Say something; `/?` helps, `/bye` or Ctrl-D ends.");
        loop {
            print(">>> ")?;
            let Some(text) = read(lines)? else {
                print("\n")?;
                return Ok(());
            };
            match session.take(&text) {
                Reply::Nothing => {}
                Reply::Told(told) => print(&format!("{told}\n"))?,
                Reply::End => return Ok(()),
                // What failed once may work the next time, and the conversation is not lost.
                Reply::Ask(prompt) => {
                    if let Err(failure) = self.ask(session, &prompt) {
                        failure.print();
                    }
                }
            }
        }
    }

    /// Asks and prints what comes, as it comes.
    fn ask(&self, session: &mut Session, prompt: &str) -> Result<(), Failure> {
        let spinner = spinner();
        let lines = self.remote.lines("/api/chat", &session.request(prompt));
        let lines = lines.inspect_err(|_| spinner.finish_and_clear())?;
        let mut answer = Answer::default();
        for line in lines {
            let shown = answer.line(&line?)?;
            spinner.finish_and_clear();
            print(&shown)?;
        }
        spinner.finish_and_clear();
        print("\n")?;
        if session.verbose
            && let Some(timings) = answer.timings
        {
            anstream::eprint!("{}", Timings::table(&timings));
        }
        session.said(prompt, &answer.content);
        Ok(())
    }
}

/// Turns while the model loads and reads.
fn spinner() -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let spinner = ProgressBar::new_spinner();
    spinner.enable_steady_tick(TURN);
    spinner
}

/// A line, or all lines between `"""`; nothing at the end of everything.
fn read(lines: &mut impl BufRead) -> Result<Option<String>, Failure> {
    let mut text = String::new();
    if lines.read_line(&mut text)? == 0 {
        return Ok(None);
    }
    let Some(first) = text.trim_start().strip_prefix(QUOTES) else {
        return Ok(Some(text.trim().to_owned()));
    };
    let mut text = first.to_owned();
    while !text.trim_end().ends_with(QUOTES) {
        print("... ")?;
        if lines.read_line(&mut text)? == 0 {
            break;
        }
    }
    let text = text.trim_end();
    Ok(Some(text.strip_suffix(QUOTES).unwrap_or(text).to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_lines_stand_between_quotes() {
        let mut lines = "hi \n\"\"\"a\nb\n\"\"\"\n\"\"\"c\"\"\"\n\"\"\"open\n".as_bytes();
        let mut texts = Vec::new();
        while let Ok(Some(text)) = read(&mut lines) {
            texts.push(text);
        }
        assert_eq!(texts, ["hi", "a\nb\n", "c", "open"]);
    }
}
