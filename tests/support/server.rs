//! Servers for tests: in this process for speed, or the program itself as a child.

use std::{
    io::{BufRead, BufReader, Read},
    net::SocketAddr,
    process::{Child, Command, ExitStatus, Stdio},
    sync::LazyLock,
    thread::JoinHandle,
    time::{Duration, Instant},
};

use retort::{
    provision::Progress,
    serve::{Core, Door},
};
use tokio::sync::oneshot;

use super::{client::Client, config, golden, minilm};

/// A service in this process, stopped and waited for when dropped.
pub struct Server {
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Starts a service with flags as on the command line, and waits until its models are loaded.
    pub fn start(flags: &[(&str, &str)]) -> Self {
        // The runtime is loaded once for all servers of this process.
        super::runtime();
        let config = config(flags);
        let door = Door::bind(&config).unwrap_or_else(|error| panic!("{error}"));
        let address = door.address();
        let (stop, stopped) = oneshot::channel::<()>();
        let core = Core::new(&config, &Progress::silent()).unwrap_or_else(|e| panic!("{e}"));
        core.fleet.restore();
        core.load().unwrap_or_else(|e| panic!("{e}"));
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Runtime::new().unwrap();
            let shutdown = async move { drop(stopped.await) };
            runtime
                .block_on(door.serve(&core, &config, shutdown))
                .unwrap();
        });
        Self {
            address,
            stop: Some(stop),
            thread: Some(thread),
        }
    }

    /// The one server that most tests share: a tiny model first, then MiniLM. Neither was trained
    /// for shorter vectors, so these have to be allowed for their cut to be tested.
    pub fn shared() -> &'static Self {
        static SERVER: LazyLock<Server> = LazyLock::new(|| {
            let tiny = format!("tiny={}", golden("checkpoints/bert-tiny-mean").display());
            let minilm = format!("minilm={}", minilm().display());
            let allow = ("allow-untrained-dimensions", "true");
            Server::start(&[("model", &tiny), ("model", &minilm), allow])
        });
        &SERVER
    }

    /// A client of this server.
    pub fn client(&self) -> Client {
        Client::new(self.address)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            // It may have stopped by itself.
            let _ = stop.send(());
        }
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

/// The program itself, killed when dropped.
pub struct Program {
    child: Child,
    /// What it printed up to the line that says where it listens.
    pub printed: String,
    /// Where it listens.
    pub address: SocketAddr,
}

impl Program {
    /// Runs `retort` with these arguments and `--port 0`, and waits until it says that it listens.
    pub fn serve(arguments: &[&str], variables: &[(&str, &str)]) -> Self {
        let mut child = command(arguments, variables)
            .args(["--port", "0"])
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut printed = String::new();
        // The report ends with a request to copy, whose address is the real one.
        let address = loop {
            let Some(line) = lines.next() else {
                let _ = child.kill();
                panic!("it ended before it listened; it printed:\n{printed}");
            };
            let line = line.unwrap();
            printed.push_str(&line);
            printed.push('\n');
            if let Some(at) = line.find("curl http://") {
                let address = &line[at + "curl http://".len()..];
                break address.split('/').next().unwrap().parse().unwrap();
            }
        };
        // Its output must be read on, or it would block.
        std::thread::spawn(move || for _ in lines {});
        Self {
            child,
            printed,
            address,
        }
    }

    /// A client of this server.
    pub fn client(&self) -> Client {
        Client::new(self.address)
    }

    /// The number of its process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Asks it to end as an init system does.
    pub fn terminate(&self) {
        let pid = self.child.id().to_string();
        assert!(
            Command::new("kill")
                .args(["-TERM", &pid])
                .status()
                .unwrap()
                .success()
        );
    }

    /// Waits for its end.
    pub fn wait(&mut self, patience: Duration) -> ExitStatus {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(
                Instant::now() < deadline,
                "it still runs after {patience:?}"
            );
            std::thread::yield_now();
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs `retort` to its end; its exit status, standard output and standard error.
pub fn run(arguments: &[&str], variables: &[(&str, &str)], input: &str) -> (i32, String, String) {
    use std::io::Write;
    let mut child = command(arguments, variables)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(input.as_bytes())
        .unwrap();
    let output = child.wait_with_output().unwrap();
    let text = |bytes: Vec<u8>| {
        let mut text = String::new();
        bytes.as_slice().read_to_string(&mut text).unwrap();
        text
    };
    (
        output.status.code().unwrap_or(-1),
        text(output.stdout),
        text(output.stderr),
    )
}

fn command(arguments: &[&str], variables: &[(&str, &str)]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_retort"));
    command
        .args(arguments)
        // As `support::config` has it.
        .env("RETORT_DTYPE", "fp32")
        .envs(variables.iter().copied())
        .env("NO_COLOR", "1")
        // Cargo sets it for tests; the program has to do without.
        .env_remove("ORT_DISABLE_TELEMETRY")
        .env("RETORT_LOG", "warn");
    command
        .current_dir(env!("CARGO_TARGET_TMPDIR"))
        .stdin(Stdio::null());
    command
}
