//! Tells systemd how far the service is, as `sd_notify(3)` defines it, when it was started with
//! `Type=notify`; otherwise tells nobody.

use crate::config::Environment;

/// The socket of whoever started the service, if it wants to be told.
#[derive(Debug, Clone)]
pub struct Notify {
    socket: Option<String>,
}

impl Notify {
    /// The socket that the environment names.
    pub fn new(environment: &Environment) -> Self {
        Self {
            socket: environment.get("NOTIFY_SOCKET").map(String::from),
        }
    }

    /// Sends assignments such as `READY=1`, one a line. That nobody could be told is logged, and
    /// no reason to end: the service serves all the same.
    pub fn tell(&self, state: &str) {
        let Some(socket) = &self.socket else { return };
        if let Err(error) = send(socket, state) {
            tracing::warn!("cannot tell `{socket}` (NOTIFY_SOCKET) `{state}`: {error}");
        }
    }
}

#[cfg(unix)]
fn send(socket: &str, state: &str) -> std::io::Result<()> {
    use std::os::unix::net::UnixDatagram;

    let from = UnixDatagram::unbound()?;
    match socket.strip_prefix('@') {
        Some(name) => send_abstract(&from, name, state),
        None => from.send_to(state.as_bytes(), socket).map(drop),
    }
}

/// A name that is no file, of which only Linux knows.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn send_abstract(
    from: &std::os::unix::net::UnixDatagram,
    name: &str,
    state: &str,
) -> std::io::Result<()> {
    use std::os::linux::net::SocketAddrExt;

    let address = std::os::unix::net::SocketAddr::from_abstract_name(name)?;
    from.send_to_addr(state.as_bytes(), &address).map(drop)
}

#[cfg(all(unix, not(any(target_os = "linux", target_os = "android"))))]
fn send_abstract(_: &std::os::unix::net::UnixDatagram, _: &str, _: &str) -> std::io::Result<()> {
    Err(std::io::ErrorKind::Unsupported.into())
}

#[cfg(not(unix))]
fn send(_: &str, _: &str) -> std::io::Result<()> {
    Err(std::io::ErrorKind::Unsupported.into())
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::{SocketAddr, UnixDatagram};

    use super::*;

    fn heard(by: &UnixDatagram) -> String {
        let mut text = [0; 64];
        let length = by.recv(&mut text).expect("a datagram");
        String::from_utf8_lossy(&text[..length]).into_owned()
    }

    #[test]
    fn a_socket_that_is_a_file_or_a_name_is_told() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("notify");
        let file = UnixDatagram::bind(&path).expect("a socket");
        let notify = |socket: &str| Notify::new(&[("NOTIFY_SOCKET", socket)].into_iter().collect());
        notify(&path.display().to_string()).tell("READY=1\nSTATUS=serving");
        assert_eq!(heard(&file), "READY=1\nSTATUS=serving");

        let name = format!("retort-test-{}", uuid::Uuid::new_v4());
        let address = SocketAddr::from_abstract_name(&name).expect("a name");
        let named = UnixDatagram::bind_addr(&address).expect("a socket");
        notify(&format!("@{name}")).tell("STOPPING=1");
        assert_eq!(heard(&named), "STOPPING=1");
    }

    #[test]
    fn without_a_socket_or_with_a_dead_one_nothing_happens() {
        Notify::new(&Environment::default()).tell("READY=1");
        assert!(send("/nonexistent/socket", "READY=1").is_err());
    }
}
