//! The `retort` program: quiets ONNX Runtime, and hands over.

use std::process::ExitCode;

fn main() -> ExitCode {
    // Published builds of ONNX Runtime note every process in a database below the cache directory
    // and send it to their maker. They ask only this variable, when the library is loaded; turning
    // telemetry off through their interface comes too late.
    // SAFETY: this thread is the only one yet, so nobody else reads the environment meanwhile.
    unsafe { std::env::set_var("ORT_DISABLE_TELEMETRY", "1") };
    retort::cli::main()
}
