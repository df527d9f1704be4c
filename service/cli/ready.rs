//! `retort ps --ready`: whether a running server answers for all models that it must, for scripts
//! that wait for it.

use std::time::{Duration, Instant};

use serde::Deserialize;
use ureq::Agent;

use super::Failure;

/// Longer than a server tries before it calls a model not ready.
pub const PATIENCE: Duration = Duration::from_secs(15);

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(500);

/// What a server says of itself.
#[derive(Debug, PartialEq, Eq)]
enum Answer {
    /// It computes; these are its models.
    Ready(String),
    /// Not now, and why.
    NotYet(String),
    /// It is none that could ever say so.
    Never(String),
}

/// The answer of `/readyz`.
#[derive(Debug, Deserialize)]
struct Readiness {
    detail: Option<String>,
    models: Vec<Model>,
}

#[derive(Debug, Deserialize)]
struct Model {
    model: String,
    ready: bool,
    reason: Option<String>,
}

/// Asks until the server is ready, for at most `limit`; the models of the ready server, for people.
///
/// # Errors
/// When it is not ready at the end, or no such server.
pub fn wait(agent: &Agent, url: &str, limit: Duration) -> Result<String, Failure> {
    let until = Instant::now() + limit;
    // Nobody wakes this thread; the server has no way to call back.
    let pause = || std::thread::park_timeout(PAUSE);
    let more = || (Instant::now() < until).then(pause).is_some();
    outcome(url, || ask(agent, url), more)
}

/// Looks until it is settled or there is no more time.
fn outcome(
    url: &str,
    mut look: impl FnMut() -> Answer,
    mut more: impl FnMut() -> bool,
) -> Result<String, Failure> {
    loop {
        match look() {
            Answer::Ready(models) => return Ok(models),
            Answer::Never(why) => {
                return Err(Failure::new(format!("`{url}` is not a Retort: {why}"))
                    .with_hint("name one with `--url`, `--host` or `--port`"));
            }
            Answer::NotYet(why) if !more() => {
                return Err(
                    Failure::new(format!("the server at `{url}` is not ready: {why}"))
                        .with_hint("`--wait=SECONDS` waits longer"),
                );
            }
            Answer::NotYet(_) => {}
        }
    }
}

fn ask(agent: &Agent, url: &str) -> Answer {
    match agent.get(format!("{url}/readyz")).call() {
        Err(error) => Answer::NotYet(format!("it does not answer: {error}")),
        Ok(mut response) => {
            let body = response.body_mut().read_to_string().unwrap_or_default();
            read(response.status().as_u16(), &body)
        }
    }
}

fn read(status: u16, body: &str) -> Answer {
    let Ok(told) = serde_json::from_str::<Readiness>(body) else {
        return Answer::Never(format!("`/readyz` answered with status {status}"));
    };
    let names: Vec<String> = told.models.iter().map(|m| m.model.clone()).collect();
    if status == 200 {
        return Answer::Ready(names.join(", "));
    }
    let missing = told.models.iter().filter(|model| !model.ready);
    let reasons: Vec<String> = missing
        .map(|m| {
            format!(
                "`{}`: {}",
                m.model,
                m.reason.as_deref().unwrap_or("not ready")
            )
        })
        .collect();
    Answer::NotYet(match reasons[..] {
        [] => told.detail.unwrap_or_else(|| format!("status {status}")),
        _ => reasons.join("; "),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const READY: &str =
        r#"{"status":"ready","models":[{"model":"m","device":"cpu","ready":true}]}"#;
    const LOADING: &str = r#"{"status":"not ready","detail":"not ready: m","models":
        [{"model":"m","device":"none","ready":false,"reason":"still loading"},
         {"model":"n","device":"cpu","ready":true}]}"#;

    #[test]
    fn an_answer_says_what_is_missing() {
        assert_eq!(read(200, READY), Answer::Ready("m".into()));
        let not_yet = Answer::NotYet("`m`: still loading".into());
        assert_eq!(read(503, LOADING), not_yet);
        let leaving =
            r#"{"status":"not ready","detail":"the server is shutting down","models":[]}"#;
        let not_yet = Answer::NotYet("the server is shutting down".into());
        assert_eq!(read(503, leaving), not_yet);
        assert!(matches!(read(404, "<html>"), Answer::Never(_)));
    }

    #[test]
    fn a_server_that_loads_is_waited_for_until_the_time_is_up() {
        let mut answers = [read(503, LOADING), read(200, READY)].into_iter();
        let ready = outcome("u", || answers.next().expect("an answer"), || true);
        assert_eq!(ready.as_deref(), Ok("m"));

        let mut pauses = 2;
        let mut looks = 0;
        let look = || {
            looks += 1;
            read(503, LOADING)
        };
        let more = || {
            pauses -= 1;
            pauses > 0
        };
        let failure = outcome("u", look, more).expect_err("not ready");
        assert!(failure.message.contains("still loading"), "{failure}");
        assert_eq!(looks, 2);
        let never = outcome("u", || read(404, ""), || panic!("no use in waiting"));
        assert!(never.is_err());
    }
}
