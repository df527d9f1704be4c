//! What a log shows of a download.

use super::{super::Progress, Recording};

#[test]
fn a_download_into_a_log_is_a_few_lines() {
    let recording = Recording::default();
    let progress = recording.progress();
    let mut transfer = progress.transfer("model.safetensors", Some(2_000_000), 0);
    for done in (0..=2_000_000).step_by(1000) {
        transfer.set(done);
    }
    transfer.finish();
    let lines = recording.lines();
    assert_eq!(lines.len(), 5, "{lines:#?}");
    assert_eq!(lines[0], "downloading model.safetensors (1.91 MiB)");
    assert_eq!(lines[1], "  model.safetensors: 488.28 KiB (25 %)");
    assert!(
        lines[4].starts_with("downloaded model.safetensors (1.91 MiB in "),
        "{}",
        lines[4]
    );
}

#[test]
fn a_resumed_download_says_so() {
    let recording = Recording::default();
    drop(recording.progress().transfer("a", Some(4 << 20), 1 << 20));
    assert_eq!(
        recording.lines(),
        ["downloading a (4.00 MiB), resuming after 1.00 MiB"]
    );
}

#[test]
fn silence_is_silent() {
    let progress = Progress::silent();
    progress.note("nothing");
    progress.transfer("a", None, 0).finish();
}

#[test]
fn a_small_file_is_one_line() {
    let recording = Recording::default();
    let progress = recording.progress();
    let mut transfer = progress.transfer("config.json", Some(600), 0);
    transfer.set(300);
    transfer.set(600);
    transfer.finish();
    assert_eq!(recording.lines().len(), 1);
}
