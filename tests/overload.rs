//! More work than there is room for: every request is answered once, with its own vectors or with
//! the advice to come back. How fast is measured by `cargo bench -- overload`.

use serde_json::json;

use crate::support::{
    client::{Answer, Client},
    eventually, golden,
    server::Server,
};

const CLIENTS: usize = 48;
const REQUESTS_EACH: usize = 6;
const TEXTS_PER_REQUEST: usize = 4;

/// Texts that differ from each other in most of their words, and are long for a tiny model.
fn texts(request: usize) -> Vec<String> {
    let words = [
        "harbour", "bridge", "train", "apple", "winter", "paper", "river",
    ];
    let text = |of: usize| {
        let seed = request * TEXTS_PER_REQUEST + of;
        let word = |at: usize| words[(seed / 7_usize.pow((at % 5) as u32) + at) % words.len()];
        let body: Vec<&str> = (0..200).map(word).collect();
        format!("{seed} {}", body.join(" "))
    };
    (0..TEXTS_PER_REQUEST).map(text).collect()
}

fn ask(client: &Client, request: usize) -> Answer {
    client.post("/v1/embeddings", &json!({"input": texts(request)}))
}

fn largest_difference(a: &[f64], b: &[f64]) -> f64 {
    let pairs = a.iter().zip(b);
    pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
}

/// The sum of a metric over its series that have this label.
fn metric(client: &Client, name: &str, label: &str) -> u64 {
    let text = client.get("/metrics").body;
    let series = text
        .lines()
        .filter(|line| line.starts_with(name) && line.contains(label));
    series
        .filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok())
        .sum()
}

#[test]
fn every_request_of_an_overload_is_answered_once_and_with_its_own_vectors() {
    let tiny = format!("tiny={}", golden("checkpoints/bert-tiny-cls-h64").display());
    let server = Server::start(&[("model", &tiny), ("max-queue-tokens", "512")]);
    let client = server.client();
    let total = CLIENTS * REQUESTS_EACH;
    let own: Vec<_> = (0..total).map(|at| ask(&client, at).vectors()).collect();
    let apart = largest_difference(&own[0][0], &own[1][0]);
    assert!(apart > 1e-3, "the texts are too much alike: {apart}");
    let series = "retort_requests_total";
    let before = ["200", "429"].map(|code| metric(&client, series, &format!("code=\"{code}\"")));

    let answers: Vec<(usize, Answer)> = std::thread::scope(|scope| {
        let client_of = |from: usize| {
            let client = server.client();
            move || -> Vec<(usize, Answer)> {
                let mine = from * REQUESTS_EACH..(from + 1) * REQUESTS_EACH;
                mine.map(|request| (request, ask(&client, request)))
                    .collect()
            }
        };
        let threads: Vec<_> = (0..CLIENTS)
            .map(|from| scope.spawn(client_of(from)))
            .collect();
        threads
            .into_iter()
            .flat_map(|thread| thread.join().unwrap())
            .collect()
    });

    let (mut served, mut refused) = (0, 0);
    for (request, answer) in &answers {
        if answer.status == 200 {
            for (vector, own) in answer.vectors().iter().zip(&own[*request]) {
                let off = largest_difference(vector, own);
                assert!(off < 1e-5, "request {request} is off by {off}");
            }
            served += 1;
        } else {
            answer.assert_error(429);
            let seconds: u64 = answer.headers["retry-after"]
                .to_str()
                .unwrap()
                .parse()
                .unwrap();
            assert!((1..=300).contains(&seconds), "{seconds}");
            refused += 1;
        }
    }
    assert_eq!(answers.len(), total);
    assert!(
        served > 0 && refused > 0,
        "{served} served, {refused} refused"
    );

    // It has counted the same, and nothing is left behind.
    let after = ["200", "429"].map(|code| metric(&client, series, &format!("code=\"{code}\"")));
    // Reading the metrics is a request that succeeds.
    assert_eq!(after[1] - before[1], refused);
    assert!(after[0] - before[0] >= served);
    assert_eq!(metric(&client, "retort_overloaded_total", "tiny"), refused);
    // The last answers leave before the worker that computed them tells what still waits.
    eventually("nothing is left behind", || {
        metric(&client, "retort_queue_tokens", "tiny") == 0
            && client.get("/load").json()["server_load"].as_u64() == Some(0)
    });
    assert_eq!(client.get("/readyz").status, 200);
    assert_eq!(ask(&client, 0).vectors().len(), TEXTS_PER_REQUEST);
}
