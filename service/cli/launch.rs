//! `retort launch`: has a running server load a model, and watches.

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::remote::{Remote, RemoteArgs, quoted};
use super::{Context, Failure};

/// Between two looks at how far it is.
const PAUSE: Duration = Duration::from_millis(250);

/// Flags of `retort launch`, those of `xinference launch`.
#[derive(Args)]
pub struct LaunchArgs {
    #[command(flatten)]
    remote: RemoteArgs,
    /// A name of the catalogue or a hub id
    #[arg(long, short = 'n', value_name = "NAME")]
    model_name: String,
    /// `embedding` or `rerank`; by default what the catalogue says
    #[arg(long, short = 't', value_name = "TYPE")]
    model_type: Option<String>,
    /// The name to serve it under; by default its own
    #[arg(long, short = 'u', value_name = "UID")]
    model_uid: Option<String>,
    /// A directory of the server's machine that has the files; also `-mp`
    #[arg(long, value_name = "DIR")]
    model_path: Option<String>,
    /// How many times the usual number of sessions
    #[arg(long, short = 'r', value_name = "N", default_value_t = 1)]
    replica: u32,
    /// GPUs to use: a number, `auto` or `none`
    #[arg(long, value_name = "N", default_value = "auto")]
    n_gpu: String,
    /// Which GPUs, by number, with commas between
    #[arg(long, value_name = "N,N", value_delimiter = ',')]
    gpu_idx: Option<Vec<u32>>,
    /// Accepted for scripts of Xinference; also `-en`
    #[arg(long, value_name = "NAME", hide = true)]
    model_engine: Option<String>,
    /// Accepted for scripts of Xinference
    #[arg(long, short = 'f', value_name = "NAME", hide = true)]
    model_format: Option<String>,
    /// Accepted for scripts of Xinference
    #[arg(long, short = 'q', value_name = "NAME", hide = true)]
    quantization: Option<String>,
    /// Accepted for scripts of Xinference
    #[arg(long, short = 's', value_name = "SIZE", hide = true)]
    size_in_billions: Option<String>,
    /// Load it again after a restart of the server
    #[arg(long, short = 'p')]
    persist: bool,
    /// Any option of the model; `--key value` is the same for a key that is no flag
    #[arg(long, value_name = "KEY=VALUE")]
    option: Vec<String>,
    /// Return at once; the server loads on
    #[arg(long)]
    no_wait: bool,
}

/// The answer to a launch.
#[derive(Debug, Deserialize)]
struct Launched {
    model_uid: String,
}

#[derive(Debug, Deserialize)]
struct Instance {
    status: String,
    #[serde(default)]
    replica_statuses: Vec<Replica>,
}

#[derive(Debug, Deserialize)]
struct Replica {
    error_message: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Progress {
    progress: f64,
    stage: Option<String>,
}

/// Asks, watches, and prints the name that it is served under.
pub fn run(args: LaunchArgs, context: &Context) -> Result<ExitCode, Failure> {
    let body = body(&args)?;
    let wait = !args.no_wait;
    let remote = Remote::new(args.remote, context)?;
    let launched: Launched = remote.post("/v1/models?wait_ready=false", &body)?;
    let uid = launched.model_uid;
    if wait {
        watch(&remote, &uid)?;
    }
    anstream::eprintln!("Model uid: {uid}");
    Ok(ExitCode::SUCCESS)
}

fn body(args: &LaunchArgs) -> Result<Value, Failure> {
    let mut body = Map::new();
    for option in &args.option {
        let (key, value) = option.split_once('=').ok_or_else(|| {
            Failure::usage(format!("the option `{option}` has no value"))
                .with_hint("write `--key value` or `--option key=value`")
        })?;
        body.insert(key.trim().replace('-', "_"), typed(value));
    }
    let texts = [
        ("model_name", Some(&args.model_name)),
        ("model_type", args.model_type.as_ref()),
        ("model_uid", args.model_uid.as_ref()),
        ("model_path", args.model_path.as_ref()),
        ("model_engine", args.model_engine.as_ref()),
        ("model_format", args.model_format.as_ref()),
        ("quantization", args.quantization.as_ref()),
        ("model_size_in_billions", args.size_in_billions.as_ref()),
    ];
    for (key, value) in texts {
        if let Some(value) = value {
            body.insert(key.into(), value.clone().into());
        }
    }
    body.insert("replica".into(), args.replica.into());
    body.insert("n_gpu".into(), typed(&args.n_gpu));
    if let Some(gpus) = &args.gpu_idx {
        body.insert("gpu_idx".into(), gpus.clone().into());
    }
    if args.persist {
        body.insert("persist".into(), true.into());
    }
    Ok(body.into())
}

/// What a typed value means: `true`, `none`, a number, or itself.
fn typed(text: &str) -> Value {
    match text.to_ascii_lowercase().as_str() {
        "true" => true.into(),
        "false" => false.into(),
        "none" | "null" => Value::Null,
        _ => match serde_json::from_str(text) {
            Ok(Value::Number(number)) => Value::Number(number),
            _ => text.into(),
        },
    }
}

fn watch(remote: &Remote, uid: &str) -> Result<(), Failure> {
    let style = ProgressStyle::with_template("{msg} {bar:40} {percent}%");
    let bar = ProgressBar::new(1000);
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    let uid_quoted = quoted(uid);
    loop {
        let instances: Vec<Instance> =
            remote.get(&format!("/v1/models/instances?model_uid={uid_quoted}"))?;
        match outcome(uid, &instances) {
            Some(Ok(())) => break bar.finish_and_clear(),
            Some(Err(failure)) => {
                bar.finish_and_clear();
                return Err(failure);
            }
            None => {}
        }
        let progress: Progress = remote.get(&format!("/v1/models/{uid_quoted}/progress"))?;
        bar.set_message(progress.stage.unwrap_or_default());
        bar.set_position((progress.progress.clamp(0.0, 1.0) * 1000.0) as u64);
        // Nobody wakes this thread; the server has no way to call back.
        std::thread::park_timeout(PAUSE);
    }
    Ok(())
}

/// How a launch ended; `None` while it has not.
fn outcome(uid: &str, instances: &[Instance]) -> Option<Result<(), Failure>> {
    let Some(instance) = instances.first() else {
        return Some(Err(Failure::new(format!(
            "model `{uid}` was terminated before it was ready"
        ))));
    };
    match instance.status.as_str() {
        "READY" => Some(Ok(())),
        "ERROR" | "TERMINATED" => {
            let mut reasons = instance.replica_statuses.iter();
            let reason = reasons.find_map(|replica| replica.error_message.as_deref());
            let reason = reason.unwrap_or("the server's log says why");
            Some(Err(Failure::new(format!(
                "model `{uid}` cannot be served: {reason}"
            ))))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn values_are_what_they_look_like() {
        assert_eq!(typed("True"), json!(true));
        assert_eq!(typed("none"), Value::Null);
        assert_eq!(typed("8"), json!(8));
        assert_eq!(typed("0.5"), json!(0.5));
        assert_eq!(typed("auto"), json!("auto"));
        assert_eq!(typed("[1]"), json!("[1]"));
    }

    #[test]
    fn a_launch_ends_ready_or_with_a_reason() {
        let instances = |json: Value| serde_json::from_value::<Vec<Instance>>(json).unwrap();
        assert!(outcome("m", &instances(json!([{"status": "LOADING"}]))).is_none());
        assert!(
            outcome("m", &instances(json!([{"status": "READY"}])))
                .unwrap()
                .is_ok()
        );
        let failed = json!([{"status": "ERROR", "replica_statuses": [{"error_message": "why"}]}]);
        let failure = outcome("m", &instances(failed)).unwrap().unwrap_err();
        assert_eq!(failure.message, "model `m` cannot be served: why");
        assert!(outcome("m", &[]).unwrap().is_err());
    }
}
