//! Provisioning against servers on this machine; nothing here needs the network.

mod cache_tests;
mod config_tests;
#[cfg(unix)]
mod cuda_tests;
mod fake_hub;
mod hub_tests;
mod model_tests;
mod modelscope_tests;
#[cfg(unix)]
mod pip_tests;
mod progress_tests;
mod runtime_tests;
mod select_tests;

use std::{
    io::Write,
    net::TcpListener,
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use super::{
    CudaPlaces, HuggingFaceConfig, ModelRequest, ModelScopeConfig, ModelSource, Network, Progress,
    ProvisionConfig, Timeouts, Weights,
};

const MODEL: &str = "acme/tiny-embedder";

/// A configuration whose every folder is under `root` and whose every endpoint is `endpoint`.
fn config(root: &Path, endpoint: &str) -> ProvisionConfig {
    ProvisionConfig {
        runtime_path: None,
        cache_dir: root.join("retort"),
        network: Network::Allowed,
        model_sources: vec![ModelSource::HuggingFace],
        hugging_face: HuggingFaceConfig {
            endpoint: endpoint.to_owned(),
            token: None,
            token_file: None,
            cache_dir: root.join("hub"),
        },
        modelscope: ModelScopeConfig {
            endpoint: endpoint.to_owned(),
            cache_dir: root.join("modelscope"),
        },
        pip: vec![vec![root.join("no-such-python").display().to_string()]],
        timeouts: Timeouts {
            connect: Duration::from_secs(5),
            idle: Duration::from_secs(5),
            retry_delay: Duration::ZERO,
        },
        cuda: CudaPlaces::default(),
    }
}

fn offline(root: &Path, endpoint: &str) -> ProvisionConfig {
    let network = Network::Forbidden {
        by: "--offline".to_owned(),
    };
    ProvisionConfig {
        network,
        ..config(root, endpoint)
    }
}

fn request(id: &str) -> ModelRequest<'_> {
    ModelRequest {
        id,
        revision: None,
        weights: Weights::Checkpoint,
        entry: None,
    }
}

/// A port that counts as reached when anything connects to it.
struct Tripwire(TcpListener);

impl Tripwire {
    fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        listener
            .set_nonblocking(true)
            .expect("a mode every listener has");
        Self(listener)
    }

    fn endpoint(&self) -> String {
        format!("http://{}", self.0.local_addr().expect("a bound listener"))
    }

    fn assert_untouched(&self) {
        let accepted = self.0.accept().map(drop).map_err(|error| error.kind());
        assert_eq!(
            accepted,
            Err(std::io::ErrorKind::WouldBlock),
            "a socket was opened"
        );
    }
}

/// Progress into a text that a test can look at.
#[derive(Clone, Default)]
struct Recording(Arc<Mutex<Vec<u8>>>);

impl Recording {
    fn progress(&self) -> Progress {
        Progress::lines(self.clone())
    }

    fn lines(&self) -> Vec<String> {
        let bytes = self.0.lock().expect("no panic while writing").clone();
        String::from_utf8(bytes)
            .expect("UTF-8")
            .lines()
            .map(str::to_owned)
            .collect()
    }
}

impl Write for Recording {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0
            .lock()
            .expect("no panic while writing")
            .extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn write(path: &Path, content: impl AsRef<[u8]>) {
    std::fs::create_dir_all(path.parent().expect("a folder above")).expect("a writable folder");
    std::fs::write(path, content).expect("a writable folder");
}
