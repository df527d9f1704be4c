//! Clients that no library would be: half a request, a reply that is never read, a body without
//! end. Each is dealt with, and none costs the good ones anything.

use std::{
    io::{ErrorKind, Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    time::Duration,
};

use serde_json::json;

use crate::support::{client::Client, eventually, golden, server::Server};

/// Whatever takes longer hangs.
const PATIENCE: Duration = Duration::from_secs(60);

const HALF_HEAD: &str = "POST /v1/embeddings HTTP/1.1\r\nHost: x\r\nContent-Le";
const HALF_BODY: &str =
    "POST /v1/embeddings HTTP/1.1\r\nHost: x\r\nContent-Length: 30\r\n\r\n{\"inp";
const ENDLESS: &str =
    "POST /v1/embeddings HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n";

fn server(more: &[(&str, &str)]) -> Server {
    let tiny = format!("tiny={}", golden("checkpoints/bert-tiny-mean").display());
    let mut flags = vec![("model", tiny.as_str())];
    flags.extend_from_slice(more);
    Server::start(&flags)
}

fn connect(address: SocketAddr, start: impl AsRef<[u8]>) -> TcpStream {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(start.as_ref()).unwrap();
    stream
}

fn post(body: &str) -> String {
    let length = body.len();
    format!("POST /v1/embeddings HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n{body}")
}

/// Whatever comes until the server closes.
fn to_the_end(mut stream: TcpStream) -> String {
    let mut bytes = Vec::new();
    match stream.read_to_end(&mut bytes) {
        Err(error) if [ErrorKind::WouldBlock, ErrorKind::TimedOut].contains(&error.kind()) => {
            panic!("the connection was not closed")
        }
        // A reset is an end, too.
        _ => String::from_utf8_lossy(&bytes).into_owned(),
    }
}

/// One answer of a connection that stays open.
fn answer(stream: &mut TcpStream) -> String {
    let (mut bytes, mut byte) = (Vec::new(), [0]);
    while !bytes.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).unwrap();
        bytes.push(byte[0]);
    }
    let head = String::from_utf8(bytes).unwrap();
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "));
    let mut body = vec![0; length.expect("a length").parse().unwrap()];
    stream.read_exact(&mut body).unwrap();
    head + &String::from_utf8(body).unwrap()
}

fn metric(client: &Client, name: &str) -> u64 {
    let text = client.get("/metrics").body;
    let lines = text.lines().filter(|line| line.starts_with(name));
    let values = lines.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok());
    values.sum()
}

#[test]
fn while_fifty_clients_hang_a_good_one_is_served() {
    let server = server(&[]);
    let whole = post(&json!({"input": "one byte at a time"}).to_string());
    let mut hanging = Vec::new();
    let mut dripping = Vec::new();
    for at in 0..50 {
        let start = [HALF_HEAD, HALF_BODY, ENDLESS, "", "G"][at % 5];
        hanging.push(connect(server.address(), start));
        if at % 5 == 0 {
            dripping.push(connect(server.address(), ""));
        }
    }
    // Answers that nobody takes.
    let many = "GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n".repeat(100);
    hanging.extend((0..5).map(|_| connect(server.address(), &many)));
    let client = server.client();
    for byte in whole.bytes() {
        for stream in &mut dripping {
            stream.write_all(&[byte]).unwrap();
        }
        assert_eq!(client.embed("tiny", &["quick"]).len(), 1);
    }
    for mut stream in dripping {
        assert!(answer(&mut stream).starts_with("HTTP/1.1 200"));
    }
}

#[test]
fn whoever_stands_still_is_cut_off() {
    let server = server(&[("stall-timeout-s", "1"), ("idle-timeout-s", "2")]);
    let address = server.address();
    let client = server.client();
    let half_head = connect(address, HALF_HEAD);
    let half_body = connect(address, HALF_BODY);
    let no_end = connect(address, format!("{ENDLESS}1\r\n{{\r\n"));
    let nothing = connect(address, "");
    let mut used = connect(address, post(r#"{"input":"a"}"#));
    assert!(answer(&mut used).starts_with("HTTP/1.1 200"));
    assert_eq!(to_the_end(half_head), "");
    for stopped in [half_body, no_end] {
        let text = to_the_end(stopped);
        assert!(text.starts_with("HTTP/1.1 408"), "{text}");
        assert!(text.contains(r#""code":"request_timeout""#), "{text}");
    }
    for idle in [nothing, used] {
        assert_eq!(to_the_end(idle), "");
    }
    let before = metric(&client, "retort_connections_stalled_total");
    let many = "GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n".repeat(400);
    let greedy = connect(address, many);
    eventually("an answer that nobody takes is kept for ever", || {
        metric(&client, "retort_connections_stalled_total") > before
    });
    drop(greedy);
    assert_eq!(client.embed("tiny", &["still here"]).len(), 1);
}

#[test]
fn a_client_that_leaves_takes_its_work_along() {
    let server = server(&[("threads", "1")]);
    let client = server.client();
    // Equal texts would be one job.
    let long = "a long text for a small model ".repeat(40);
    let texts: Vec<String> = (0..2048).map(|at| format!("{at} {long}")).collect();
    let whole = post(&json!({"input": texts}).to_string());
    eventually("no job of a client that had left was dropped", || {
        let stream = connect(server.address(), &whole);
        eventually("its jobs never waited", || {
            metric(&client, "retort_queue_tokens{") > 0
        });
        stream.shutdown(Shutdown::Both).unwrap();
        drop(stream);
        eventually("the queue is never worked off", || {
            client.embed("tiny", &["next"]);
            metric(&client, "retort_queue_tokens{") == 0
        });
        metric(&client, "retort_dropped_jobs_total{") > 0
    });
    eventually("the request is inside for ever", || {
        client.get("/load").json()["server_load"] == 0
    });
    assert!(metric(&client, "retort_requests_total{task=\"embed\"") > 0);
}

#[test]
fn a_thousand_idle_connections_leave_room() {
    let server = server(&[]);
    let idle: Vec<TcpStream> = (0..1_000).map(|_| connect(server.address(), "")).collect();
    let client = server.client();
    eventually("they are not all accepted", || {
        metric(&client, "retort_connections ") > 1_000
    });
    for _ in 0..20 {
        assert_eq!(client.embed("tiny", &["quick"]).len(), 1);
    }
    drop(idle);
    eventually("they are not all given up", || {
        metric(&client, "retort_connections ") < 10
    });
}

#[test]
fn one_connection_too_many_is_told_so() {
    let server = server(&[("max-connections", "8")]);
    let client = server.client();
    let held: Vec<TcpStream> = (0..7).map(|_| connect(server.address(), "")).collect();
    // The eighth is the client's own, which stays open between its requests.
    eventually("they are not all accepted", || {
        metric(&client, "retort_connections ") == 8
    });
    let refused = to_the_end(connect(server.address(), ""));
    assert!(refused.starts_with("HTTP/1.1 503"), "{refused}");
    assert!(refused.contains("retry-after: 1"), "{refused}");
    assert_eq!(metric(&client, "retort_connections_refused_total"), 1);
    drop(held);
    eventually("none is given up", || {
        metric(&client, "retort_connections ") == 1
    });
    let mut again = connect(server.address(), post(r#"{"input":"a"}"#));
    assert!(answer(&mut again).starts_with("HTTP/1.1 200"));
}

#[test]
fn a_body_that_is_too_long_is_refused_before_it_has_come() {
    let limit = 1 << 16;
    let server = server(&[
        ("max-body-bytes", &limit.to_string()),
        ("stall-timeout-s", "2"),
    ]);
    let head = |length: u64| {
        format!("POST /v1/embeddings HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n")
    };
    // A little over: whoever sends it all the same can go on with the same connection.
    let mut little = connect(server.address(), head(limit + 1));
    assert!(answer(&mut little).starts_with("HTTP/1.1 413"));
    little.write_all(&vec![b' '; limit as usize + 1]).unwrap();
    little
        .write_all(post(r#"{"input":"a"}"#).as_bytes())
        .unwrap();
    assert!(answer(&mut little).starts_with("HTTP/1.1 200"));
    // Far over: the connection ends.
    let far = to_the_end(connect(server.address(), head(1 << 40)));
    assert!(far.starts_with("HTTP/1.1 413"), "{far}");
    // Nobody knows how long: until the limit is reached.
    let mut stream = connect(server.address(), ENDLESS);
    let chunk = format!("1000\r\n{}\r\n", "x".repeat(0x1000));
    for _ in 0..=limit / 0x1000 {
        stream.write_all(chunk.as_bytes()).unwrap();
    }
    assert!(answer(&mut stream).starts_with("HTTP/1.1 413"));
    // It goes on for ever, so it is cut off at last.
    eventually("a body without end is read for ever", || {
        stream.write_all(chunk.as_bytes()).is_err()
    });
    assert_eq!(server.client().embed("tiny", &["still here"]).len(), 1);
}

#[test]
fn pipelined_requests_are_answered_in_their_order() {
    let server = server(&[]);
    let sizes = [3, 1, 0, 2];
    let bodies = sizes.map(|count| json!({"input": vec!["a"; count]}).to_string());
    let all: String = bodies.iter().map(|body| post(body)).collect();
    let mut stream = connect(server.address(), all);
    for size in sizes {
        let text = answer(&mut stream);
        let status = if size == 0 { 400 } else { 200 };
        assert!(text.starts_with(&format!("HTTP/1.1 {status}")), "{text}");
        assert_eq!(text.matches(r#""object":"embedding""#).count(), size);
    }
}
