//! Requests that come when they come, whether or not the last ones are answered: what a service has
//! to live with when many clients call at once. Keeps the answers, to be looked at afterwards.

use std::{
    collections::VecDeque,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use tokio::{net::TcpStream, task::JoinSet};

use crate::{client, measure::Outcome};

/// No answer takes longer, or something is broken.
const PATIENCE: Duration = Duration::from_secs(60);

/// Requests at a constant rate.
pub struct OpenLoad {
    /// Where the service listens.
    pub address: SocketAddr,
    /// Complete requests, taken in turn, over and over.
    pub requests: Arc<[Vec<u8>]>,
    /// Requests in a second.
    pub per_second: f64,
    /// Requests in all.
    pub count: usize,
}

/// What came back for one request.
pub struct Reply {
    /// Which request it was.
    pub request: usize,
    /// When it was due, in seconds since the start.
    pub due: f64,
    /// Seconds from then to the last byte of the answer.
    pub latency: f64,
    /// Head and body.
    pub bytes: Vec<u8>,
}

/// Connections without a request; the one used last is used first.
type Idle = Arc<Mutex<VecDeque<TcpStream>>>;

impl OpenLoad {
    /// Sends all requests when they are due, each on a connection of its own while it lasts.
    ///
    /// # Errors
    /// When a request gets no answer.
    pub fn run(&self) -> Outcome<Vec<Reply>> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        runtime.block_on(async {
            let idle = Idle::default();
            let started = Instant::now();
            let mut replies = JoinSet::new();
            for at in 0..self.count {
                let due = started + Duration::from_secs_f64(at as f64 / self.per_second);
                tokio::time::sleep_until(due.into()).await;
                let request = at % self.requests.len();
                let (requests, idle) = (self.requests.clone(), idle.clone());
                let address = self.address;
                replies.spawn(async move {
                    let exchange = exchange(address, &requests[request], &idle);
                    let bytes = tokio::time::timeout(PATIENCE, exchange).await??;
                    io::Result::Ok(Reply {
                        request,
                        due: (due - started).as_secs_f64(),
                        latency: due.elapsed().as_secs_f64(),
                        bytes,
                    })
                });
            }
            let mut all = Vec::with_capacity(self.count);
            while let Some(reply) = replies.join_next().await {
                all.push(reply??);
            }
            Ok(all)
        })
    }
}

async fn exchange(address: SocketAddr, request: &[u8], idle: &Idle) -> io::Result<Vec<u8>> {
    let kept = lock(idle).pop_back();
    let stream = match kept {
        Some(stream) => stream,
        None => {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            stream
        }
    };
    let bytes = client::exchange_whole(&stream, request).await?;
    lock(idle).push_back(stream);
    Ok(bytes)
}

fn lock(idle: &Idle) -> std::sync::MutexGuard<'_, VecDeque<TcpStream>> {
    idle.lock().unwrap_or_else(PoisonError::into_inner)
}
