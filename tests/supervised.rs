//! What a supervisor and its scripts ask of the program: to be told when it is ready and when it
//! ends, to be waited for, and to lose no request while the end is noticed.

use std::{os::unix::net::UnixDatagram, time::Duration};

use serde_json::json;

use crate::support::{
    golden, runtime,
    server::{Program, run},
};

/// The next datagram that has `word`.
fn told(socket: &UnixDatagram, word: &str) -> String {
    let mut buffer = [0; 512];
    for _ in 0..16 {
        let length = socket.recv(&mut buffer).expect("to be told");
        let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
        if text.contains(word) {
            return text;
        }
    }
    panic!("`{word}` was never told");
}

#[test]
fn a_supervisor_is_told_and_scripts_can_wait() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket
        .set_read_timeout(Some(Duration::from_secs(60)))
        .unwrap();
    let keys = directory.path().join("keys");
    std::fs::write(&keys, "mounted\n").unwrap();

    let tiny = format!("tiny={}", golden("checkpoints/bert-tiny-mean").display());
    let library = runtime().library().display().to_string();
    let [path, keys] = [path, keys].map(|path| path.display().to_string());
    let program = Program::serve(
        &["serve", "--model", &tiny, "--drain-delay-s", "3600"],
        &[
            ("RETORT_OFFLINE", "1"),
            ("ORT_DYLIB_PATH", &library),
            ("NOTIFY_SOCKET", &path),
            ("RETORT_API_KEY_FILE", &keys),
        ],
    );
    assert!(told(&socket, "READY=1").contains("STATUS=serving on"));

    let url = format!("http://{}", program.address);
    let (code, output, errors) = run(&["ps", "--ready", "--wait=60", "--url", &url], &[], "");
    assert_eq!((code, output.as_str()), (0, "ready: tiny\n"), "{errors}");
    let client = program.client();
    let body = json!({"model": "tiny", "input": "a"});
    client.post("/v1/embeddings", &body).assert_error(401);
    let client = client.with_key("mounted");
    assert_eq!(client.post("/v1/embeddings", &body).status, 200);

    program.terminate();
    told(&socket, "STOPPING=1");
    let noticed = (0..10_000).any(|_| client.get("/readyz").status == 503);
    assert!(noticed, "it still says that it is ready");
    assert_eq!(client.post("/v1/embeddings", &body).status, 200);
    let (code, _, errors) = run(&["ps", "--ready", "--url", &url], &[], "");
    assert_eq!(code, 1);
    assert!(errors.contains("the server is shutting down"), "{errors}");
}

#[test]
fn the_memory_of_a_chat_model_is_told_without_a_server() {
    let line = "cal-model-mem -s 7 -q Int4 -f gptq -c 16384 -n qwen1.5-chat";
    let arguments: Vec<&str> = line.split(' ').collect();
    let (code, output, errors) = run(&arguments, &[], "");
    assert_eq!(code, 0, "{errors}");
    assert!(output.ends_with("  total: 30005 MB (30 GB)\n"), "{output}");
    let (code, _, errors) = run(
        &[
            "cal-model-mem",
            "-s",
            "7",
            "-f",
            "gptq",
            "-c",
            "1",
            "-n",
            "x",
        ],
        &[],
        "",
    );
    assert_eq!(code, 1);
    assert!(errors.contains("llama-3.1-instruct"), "{errors}");
}
