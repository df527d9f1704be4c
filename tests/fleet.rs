//! Models that come and go while the service runs, on real checkpoints and in real processes.

use std::{fs, time::Duration};

use retort::{
    config::Config,
    engine::{
        KeepAlive,
        request::{EmbedInput, EmbedRequest},
    },
    fleet::{LaunchSpec, Stage},
    provision::Progress,
    serve::Core,
};

use crate::support::{
    config, golden, runtime,
    server::{Program, run},
};

fn checkpoint(name: &str) -> String {
    golden(&format!("checkpoints/{name}")).display().to_string()
}

/// A service without an edge, with its own state file.
fn core(flags: &[(&str, &str)]) -> (Core, Config) {
    runtime();
    let config = config(flags);
    let core = Core::new(&config, &Progress::silent()).unwrap_or_else(|e| panic!("{e}"));
    (core, config)
}

fn embed(core: &Core, model: &str) -> Result<Vec<f32>, String> {
    let request = EmbedRequest {
        model: Some(model.into()),
        inputs: vec![EmbedInput::Text("models come and go".into())],
        ..EmbedRequest::default()
    };
    let answer = tokio().block_on(core.engine.embed(request));
    let mut answer = answer.map_err(|error| error.to_string())?;
    Ok(answer.embeddings.remove(0).vector)
}

fn tokio() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}

#[test]
fn a_launched_checkpoint_answers_sleeps_wakes_and_goes() {
    let first = format!("first={}", checkpoint("bert-tiny-mean"));
    let (core, _) = core(&[("model", &first)]);
    core.load().unwrap();
    let spec = LaunchSpec {
        uid: Some("second".into()),
        ..core.fleet.spec(checkpoint("xlmr-tiny-cls"))
    };
    core.fleet.launch(spec).unwrap();
    tokio().block_on(core.fleet.wait_ready("second")).unwrap();
    let before = embed(&core, "second").unwrap();
    let model = core.fleet.model("second").unwrap();
    assert!(model.directory.unwrap().ends_with("xlmr-tiny-cls"));
    assert!(model.memory_bytes.unwrap() > 0);

    core.fleet
        .keep_alive("second", KeepAlive::For(Duration::ZERO))
        .unwrap();
    assert_eq!(embed(&core, "second").unwrap(), before);
    // What waits for a thread of the fleet ends with that thread's work.
    while core.fleet.progress("second").unwrap().stage != Stage::Asleep {
        std::thread::yield_now();
    }
    assert_eq!(
        embed(&core, "second").unwrap(),
        before,
        "the same after a sleep"
    );

    tokio().block_on(core.fleet.terminate("second")).unwrap();
    assert!(embed(&core, "second").unwrap_err().contains("first"));
    assert!(embed(&core, "first").is_ok());
}

#[test]
fn replicas_share_the_weights_and_give_the_same() {
    let first = format!("first={}", checkpoint("bert-tiny-mean"));
    let (core, _) = core(&[("model", &first)]);
    core.load().unwrap();
    let one = embed(&core, "first").unwrap();
    core.fleet.scale("first", 3).unwrap();
    // The old sessions or the new ones answer; then the new ones.
    assert_eq!(embed(&core, "first").unwrap(), one);
    tokio().block_on(core.fleet.wait_ready("first")).unwrap();
    assert_eq!(embed(&core, "first").unwrap(), one);
}

#[test]
fn a_failing_optional_model_does_not_stop_the_rest() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("retort.toml");
    let model = |name: &str, id: &str, required: bool| {
        format!("[[model]]\nid = {id:?}\nname = \"{name}\"\nrequired = {required}\n")
    };
    let good = checkpoint("bert-tiny-mean");
    let models = [
        model("broken", "/nowhere/at/all", false),
        model("good", &good, true),
    ];
    fs::write(&path, models.concat()).unwrap();
    let program = serve(&["serve", "--config", &path.display().to_string()]);
    let client = program.client();
    assert_eq!(client.get("/readyz").status, 200);
    assert_eq!(client.embed("good", &["x"]).len(), 1);
    let body = serde_json::json!({"model": "broken", "input": "x"});
    let refused = client.post("/v1/embeddings", &body);
    assert_eq!(refused.status, 503);
    assert!(refused.body.contains("does not exist"), "{}", refused.body);

    fs::write(&path, model("broken", "/nowhere/at/all", true)).unwrap();
    let arguments = [
        "serve",
        "--config",
        &path.display().to_string(),
        "--port",
        "0",
    ];
    let variables = variables();
    let variables: Vec<_> = variables.iter().map(|(n, v)| (*n, v.as_str())).collect();
    let (status, _, errors) = run(&arguments, &variables, "");
    assert_eq!(status, 1, "{errors}");
    assert!(errors.contains("/nowhere/at/all"), "{errors}");
}

#[test]
fn what_was_launched_to_stay_survives_being_killed() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state.json").display().to_string();
    let first = format!("first={}", checkpoint("bert-tiny-mean"));
    let expected = {
        let (core, _) = core(&[("model", &first), ("state-file", &state)]);
        core.load().unwrap();
        let spec = LaunchSpec {
            uid: Some("stays".into()),
            persist: true,
            ..LaunchSpec::of(checkpoint("bert-tiny-cls-h64"))
        };
        core.fleet.launch(spec).unwrap();
        tokio().block_on(core.fleet.wait_ready("stays")).unwrap();
        embed(&core, "stays").unwrap()
    };
    let arguments = ["serve", "--model", &first, "--state-file", &state];
    for _ in 0..2 {
        // Dropping it is a kill -9.
        let program = serve(&arguments);
        let got = program.client().embed("stays", &["models come and go"]);
        let off = got[0]
            .iter()
            .zip(&expected)
            .map(|(a, b)| (a - f64::from(*b)).abs());
        assert!(off.fold(0.0, f64::max) < 1e-6);
    }
    // A damaged file costs what it held and no more.
    fs::write(&state, "{\"version\": 1, \"mod").unwrap();
    let program = serve(&arguments);
    assert_eq!(program.client().embed("first", &["x"]).len(), 1);
    assert!(folder.path().join("state.damaged").exists());
}

fn variables() -> Vec<(&'static str, String)> {
    let library = runtime().library().display().to_string();
    vec![("RETORT_OFFLINE", "1".into()), ("ORT_DYLIB_PATH", library)]
}

fn serve(arguments: &[&str]) -> Program {
    let variables = variables();
    let variables: Vec<_> = variables.iter().map(|(n, v)| (*n, v.as_str())).collect();
    Program::serve(arguments, &variables)
}
