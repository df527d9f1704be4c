//! What is counted of connections.

use prometheus_client::metrics::{counter::Counter, gauge::Gauge};

use super::{Names, Telemetry};

/// The counters of this file.
#[derive(Debug)]
pub struct Metrics {
    open: Gauge,
    refused: Counter,
    stalled: Counter,
}

impl Metrics {
    pub(super) fn new(all: &mut Names) -> Self {
        Self {
            open: all.add("connections", "Open connections", Gauge::default()),
            refused: all.add(
                "connections_refused",
                "Connections refused because there were `max_connections`",
                Counter::default(),
            ),
            stalled: all.add(
                "connections_stalled",
                "Connections closed because half a request came or an answer was not taken",
                Counter::default(),
            ),
        }
    }
}

/// A connection that is open until this is dropped.
#[derive(Debug)]
pub struct OpenConnection(Gauge);

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl Telemetry {
    /// There is one more connection.
    pub fn connection_opened(&self) -> OpenConnection {
        let open = self.0.connections.open.clone();
        open.inc();
        OpenConnection(open)
    }

    /// A connection was one too many.
    pub fn connection_refused(&self) {
        self.0.connections.refused.inc();
    }

    /// A caller stood still for too long.
    pub fn connection_stalled(&self) {
        self.0.connections.stalled.inc();
    }
}
