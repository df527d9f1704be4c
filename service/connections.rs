//! The connections: how many there may be, how long each may stand still, and how they end.
//! Knows nothing of what is asked over them.

mod patience;

use std::{
    io::{self, Read, Write},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{Router, body::Body};
use http::Request;
use http_body_util::BodyExt;
use hyper::{
    body::Incoming,
    service::{Service, service_fn},
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{conn::auto, graceful::GracefulShutdown},
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};

use self::patience::PatientStream;
use crate::telemetry::Telemetry;

/// Files that a service has open besides its connections, and those that loading a model needs.
const OTHER_FILES: u64 = 256;

/// Until the next attempt when the system has no file or memory for another connection.
const PAUSE: Duration = Duration::from_millis(100);

/// What one connection more than allowed is told.
const REFUSAL: &str = "{\"detail\":\"too many connections\",\"message\":\"too many connections\",\
    \"error\":{\"message\":\"too many connections\",\"type\":\"server_error\",\"param\":null,\
    \"code\":\"too_many_connections\"}}";

/// Bounds of the connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConnectionLimits {
    /// The most at the same time; one more is told so and closed.
    pub max_connections: usize,
    /// How long a connection may be without a request.
    pub idle_timeout: Duration,
    /// How long the head of a request may take from its first byte on, and how long a caller may
    /// take nothing of its answer.
    pub stall_timeout: Duration,
}

impl ConnectionLimits {
    /// The same bounds, lowered to what the system lets this process open. A soft limit on files,
    /// which is often 1,024, is raised first.
    #[must_use]
    pub fn within_system(self) -> Self {
        let Some(files) = raise_file_limit(self.max_connections as u64 + OTHER_FILES) else {
            return self;
        };
        let room = files.saturating_sub(OTHER_FILES).max(16);
        let max_connections = self
            .max_connections
            .min(usize::try_from(room).unwrap_or(usize::MAX));
        if max_connections < self.max_connections {
            let wanted = self.max_connections;
            tracing::warn!(
                "this process may open {files} files: {max_connections} connections at most \
                 instead of {wanted}"
            );
        }
        Self {
            max_connections,
            ..self
        }
    }
}

/// What both ends of a connection know of it: the socket below HTTP, and the service above it.
#[derive(Debug, Default)]
struct Activity {
    /// Requests that have begun, ever.
    begun: AtomicUsize,
    /// Requests whose answer is not yet handed over in full.
    running: AtomicUsize,
}

/// A request between its head and the last byte of its answer.
struct Running(Arc<Activity>);

impl Running {
    fn begin(activity: &Arc<Activity>) -> Self {
        activity.begun.fetch_add(1, Ordering::Relaxed);
        activity.running.fetch_add(1, Ordering::Relaxed);
        Self(activity.clone())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Answers requests of all connections until `stop` resolves; then takes no more of them, and
/// returns when those that are under way are answered.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    limits: ConnectionLimits,
    telemetry: Telemetry,
    stop: impl Future<Output = ()>,
) {
    let slots = Arc::new(Semaphore::new(limits.max_connections));
    let graceful = GracefulShutdown::new();
    let mut stop = std::pin::pin!(stop);
    loop {
        let stream = tokio::select! {
            stream = accept(&listener) => stream,
            () = &mut stop => break,
        };
        let Ok(slot) = slots.clone().try_acquire_owned() else {
            telemetry.connection_refused();
            refuse(stream);
            continue;
        };
        // Answers are written in one piece; waiting for more would only delay them.
        drop(stream.set_nodelay(true));
        let activity = Arc::new(Activity::default());
        let io = PatientStream::new(stream, limits, activity.clone(), telemetry.clone());
        let service = counted(router.clone(), activity);
        let watcher = graceful.watcher();
        let opened = telemetry.connection_opened();
        tokio::spawn(async move {
            let mut builder = auto::Builder::new(TokioExecutor::new());
            // The stream is the stricter one, but without this nothing is read between an answer
            // and the next request, and so no time is kept.
            let longest = limits.idle_timeout + limits.stall_timeout;
            let http1 = &mut builder.http1();
            http1.timer(TokioTimer::new()).header_read_timeout(longest);
            let connection = builder.serve_connection(TokioIo::new(io), service);
            if let Err(error) = watcher.watch(connection).await {
                tracing::debug!(error, "a connection ended");
            }
            drop((slot, opened));
        });
    }
    drop(listener);
    graceful.shutdown().await;
}

/// The service, telling `activity` what is under way.
fn counted(
    router: Router,
    activity: Arc<Activity>,
) -> impl Service<
    Request<Incoming>,
    Response = http::Response<Body>,
    Error = std::convert::Infallible,
    Future = impl Future<Output = Result<http::Response<Body>, std::convert::Infallible>> + Send,
> {
    let router = TowerToHyperService::new(router);
    service_fn(move |request: Request<Incoming>| {
        let running = Running::begin(&activity);
        let answer = router.call(request);
        async move {
            let answer = answer.await?;
            // The body keeps it, and with it the length that is known of it.
            Ok(answer.map(|body| {
                Body::new(body.map_err(move |error| {
                    let _until_the_end = &running;
                    error
                }))
            }))
        }
    })
}

async fn accept(listener: &TcpListener) -> TcpStream {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return stream,
            // Whoever called has left again.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::ConnectionRefused
                        | io::ErrorKind::ConnectionAborted
                        | io::ErrorKind::ConnectionReset
                ) => {}
            Err(error) => {
                tracing::error!(%error, "cannot accept a connection");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// Says that there are too many connections, without waiting for anything.
fn refuse(stream: TcpStream) {
    let Ok(mut stream) = stream.into_std() else {
        return;
    };
    // Closing a socket with something unread would take the answer back.
    let _ = stream.read(&mut [0; 16 << 10]);
    let length = REFUSAL.len();
    let answer = format!(
        "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\nretry-after: 1\r\n\
         connection: close\r\ncontent-length: {length}\r\n\r\n{REFUSAL}"
    );
    let _ = stream.write_all(answer.as_bytes());
    let _ = stream.shutdown(std::net::Shutdown::Write);
}

/// How many files this process may open, raised to `wanted` where the system lets it; `None` where
/// nothing is known of it.
#[cfg(unix)]
fn raise_file_limit(wanted: u64) -> Option<u64> {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    let soft = limit.current?;
    let reachable = limit.maximum.map_or(wanted, |hard| wanted.min(hard));
    if soft >= reachable {
        return Some(soft);
    }
    limit.current = Some(reachable);
    Some(setrlimit(Resource::Nofile, limit).map_or(soft, |()| reachable))
}

#[cfg(not(unix))]
fn raise_file_limit(_wanted: u64) -> Option<u64> {
    None
}
