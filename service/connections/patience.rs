//! A socket that gives up on whoever stands still: without a request for long, with half a head,
//! or without taking the answer. Bodies are read above HTTP and have their own patience there.

use std::{
    io,
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::{Instant, Sleep},
};

use super::{Activity, ConnectionLimits};
use crate::telemetry::Telemetry;

/// How every HTTP/2 connection begins.
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2";

/// The socket of one connection.
pub struct PatientStream {
    inner: TcpStream,
    limits: ConnectionLimits,
    activity: Arc<Activity>,
    telemetry: Telemetry,
    reading: Reading,
    reader_alarm: Alarm,
    writer_alarm: Alarm,
    /// Whether the last write found the other side's buffers full.
    write_is_blocked: bool,
}

/// What is known of the request to come.
#[derive(Default)]
struct Reading {
    /// [`Activity::begun`] when this was last looked at.
    begun: usize,
    /// Since when nothing has come.
    idle_since: Option<Instant>,
    /// When the first byte of the next head came.
    head_since: Option<Instant>,
    /// Heads of HTTP/2 are not told from its other frames here, so they are not timed.
    protocol: Protocol,
}

#[derive(Clone, Copy, PartialEq, Eq, Default)]
enum Protocol {
    #[default]
    Unknown,
    Http1,
    Http2,
}

impl PatientStream {
    /// Watches over `inner`.
    pub fn new(
        inner: TcpStream,
        limits: ConnectionLimits,
        activity: Arc<Activity>,
        telemetry: Telemetry,
    ) -> Self {
        Self {
            inner,
            limits,
            activity,
            telemetry,
            reading: Reading::default(),
            reader_alarm: Alarm::default(),
            writer_alarm: Alarm::default(),
            write_is_blocked: false,
        }
    }

    /// When reading is given up, if it is to be.
    fn deadline(&mut self) -> Option<Instant> {
        let now = Instant::now();
        self.reading.look(&self.activity);
        if self.activity.running.load(Ordering::Relaxed) > 0 {
            return None;
        }
        if self.write_is_blocked {
            // The answer is still on its way; that has its own alarm.
            return Some(now + self.limits.idle_timeout);
        }
        Some(match self.reading.head_since {
            Some(since) => since + self.limits.stall_timeout,
            None => *self.reading.idle_since.get_or_insert(now) + self.limits.idle_timeout,
        })
    }

    fn wrote(
        &mut self,
        context: &mut Context<'_>,
        result: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        self.write_is_blocked = result.is_pending();
        if result.is_ready() {
            self.writer_alarm.put_off();
            return result;
        }
        ready!(self.writer_alarm.within(self.limits.stall_timeout, context));
        self.telemetry.connection_stalled();
        Poll::Ready(Err(too_slow("nothing of the answer was taken")))
    }
}

impl Reading {
    /// Forgets the head that has become a request.
    fn look(&mut self, activity: &Activity) {
        let begun = activity.begun.load(Ordering::Relaxed);
        if begun != self.begun {
            self.begun = begun;
            self.idle_since = None;
            self.head_since = None;
        }
    }

    fn received(&mut self, bytes: &[u8], activity: &Activity) {
        self.look(activity);
        if self.protocol == Protocol::Unknown {
            let shown = bytes.len().min(HTTP2_PREFACE.len());
            self.protocol = if bytes[..shown] == HTTP2_PREFACE[..shown] {
                Protocol::Http2
            } else {
                Protocol::Http1
            };
        }
        self.idle_since = None;
        let between_requests = activity.running.load(Ordering::Relaxed) == 0;
        if between_requests && self.protocol == Protocol::Http1 {
            self.head_since.get_or_insert_with(Instant::now);
        }
    }
}

impl AsyncRead for PatientStream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        match Pin::new(&mut this.inner).poll_read(context, buffer) {
            Poll::Ready(Ok(())) if buffer.filled().len() > before => {
                let activity = &this.activity;
                this.reading.received(&buffer.filled()[before..], activity);
                Poll::Ready(Ok(()))
            }
            Poll::Pending => {
                let Some(deadline) = this.deadline() else {
                    this.reader_alarm.put_off();
                    return Poll::Pending;
                };
                ready!(this.reader_alarm.at(deadline, context));
                if this.reading.head_since.is_some() {
                    this.telemetry.connection_stalled();
                }
                Poll::Ready(Err(too_slow("no request came")))
            }
            result => result,
        }
    }
}

impl AsyncWrite for PatientStream {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let result = Pin::new(&mut this.inner).poll_write(context, bytes);
        this.wrote(context, result)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let result = Pin::new(&mut this.inner).poll_write_vectored(context, pieces);
        this.wrote(context, result)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_shutdown(context)
    }
}

fn too_slow(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, format!("{what} in time"))
}

/// Wakes a task at a time that may change.
#[derive(Default)]
struct Alarm {
    sleep: Option<Pin<Box<Sleep>>>,
    armed: bool,
}

impl Alarm {
    /// Ready once `deadline` is over.
    fn at(&mut self, deadline: Instant, context: &mut Context<'_>) -> Poll<()> {
        let sleep = self
            .sleep
            .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
        if sleep.deadline() != deadline {
            sleep.as_mut().reset(deadline);
        }
        self.armed = true;
        sleep.as_mut().poll(context)
    }

    /// Ready once `patience` is over, counted from the first call since it was put off.
    fn within(&mut self, patience: Duration, context: &mut Context<'_>) -> Poll<()> {
        let deadline = match &self.sleep {
            Some(sleep) if self.armed => sleep.deadline(),
            _ => Instant::now() + patience,
        };
        self.at(deadline, context)
    }

    /// Nobody waits for it now. The timer itself is kept, as making one costs more than a wrong
    /// wake-up.
    fn put_off(&mut self) {
        self.armed = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_timed_from_its_first_byte_until_it_is_a_request() {
        let activity = Activity::default();
        let mut reading = Reading::default();
        reading.received(b"GE", &activity);
        let first = reading.head_since;
        assert!(first.is_some());
        reading.received(b"T", &activity);
        assert_eq!(reading.head_since, first);
        activity.begun.fetch_add(1, Ordering::Relaxed);
        reading.look(&activity);
        assert!(reading.head_since.is_none());
        activity.running.fetch_add(1, Ordering::Relaxed);
        reading.received(b"the body", &activity);
        assert!(reading.head_since.is_none());
    }

    #[test]
    fn frames_of_http2_are_no_half_heads() {
        let activity = Activity::default();
        let mut reading = Reading::default();
        reading.received(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &activity);
        reading.received(b"a ping", &activity);
        assert!(reading.head_since.is_none());
    }
}
