//! The service as its users run it: the release binary as a process of its own on a free port.

use std::{
    ffi::OsStr,
    fs::File,
    io,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use crate::{
    client::{self, Connection},
    measure::Outcome,
};

/// A service that is not ready by then never will be.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks at a service that is not there yet.
const PAUSE: Duration = Duration::from_millis(1);

/// A running service; it ends when this is dropped.
pub struct Server {
    process: Child,
    address: SocketAddr,
    started: Instant,
}

/// How long a start took.
#[derive(Debug, Clone, Copy)]
pub struct StartUp {
    /// From the start of the process until a connection was accepted.
    pub listening: Duration,
    /// From the start of the process until `/readyz` answered 200, a forward pass included.
    pub ready: Duration,
}

impl Server {
    /// Starts the service with its defaults and waits until it is ready. Its log goes to a file,
    /// as it would on a real machine.
    pub fn start() -> Outcome<(Self, StartUp)> {
        Self::start_with::<&str>(&[])
    }

    /// The same with further options.
    pub fn start_with<O: AsRef<OsStr>>(options: &[O]) -> Outcome<(Self, StartUp)> {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let log = File::create(folder.join("service.log"))?;
        let address = free_address()?;
        let started = Instant::now();
        let process = Command::new(env!("CARGO_BIN_EXE_retort"))
            .args(["serve", "--port", &address.port().to_string()])
            .args(options)
            // A configuration file in the folder of the caller is none of ours.
            .current_dir(folder)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        let mut server = Self {
            process,
            address,
            started,
        };
        let start_up = server.wait()?;
        Ok((server, start_up))
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    fn wait(&mut self) -> Outcome<StartUp> {
        let mut listening = None;
        let readyz = client::get("/readyz");
        while self.started.elapsed() < PATIENCE {
            if let Some(status) = self.process.try_wait()? {
                return Err(
                    format!("the service ended with {status}; see its log, service.log").into(),
                );
            }
            if let Ok(mut connection) = Connection::open(self.address) {
                listening.get_or_insert_with(|| self.started.elapsed());
                if connection
                    .exchange(&readyz)
                    .is_ok_and(|answer| answer.status == 200)
                {
                    let ready = self.started.elapsed();
                    return Ok(StartUp {
                        listening: listening.unwrap_or(ready),
                        ready,
                    });
                }
            }
            thread::park_timeout(PAUSE);
        }
        Err("the service did not become ready; see its log, service.log".into())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already; then there is nothing to end.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A port that was free a moment ago.
fn free_address() -> io::Result<SocketAddr> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()
}
