//! What is asked of the service during a soak: vectors and scores in turn, of texts of all lengths,
//! while models are launched and terminated, or put to sleep and woken.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{
        atomic::{AtomicBool, AtomicUsize, Ordering},
        mpsc::{self, Receiver, RecvTimeoutError},
    },
    thread,
    time::Duration,
};

use serde_json::json;

use crate::{
    client::{self, Connection},
    measure::Outcome,
    texts::Texts,
};

/// The name of the embedding model.
pub const EMBED: &str = "embed";
/// The name of the reranker.
pub const RERANK: &str = "rerank";
const CLIENTS: u64 = 4;
const TEXTS_MAX: usize = 32;
const QUERY_WORDS_MAX: usize = 32;
/// Between two changes of what is loaded.
const CYCLE_EVERY: Duration = Duration::from_secs(15);
/// What a change needs to become visible in samples, and to be gone from them again.
const SETTLED: Duration = Duration::from_secs(2);

/// What is served.
pub struct Models {
    /// The embedding model's folder.
    pub embed: PathBuf,
    /// The reranker's folder.
    pub rerank: PathBuf,
    /// The longest text that the embedding model takes.
    pub tokens: usize,
}

impl Models {
    /// Loads both and waits until they answer.
    pub fn load_all(&self, manager: &mut Connection) -> Outcome {
        launch(manager, (EMBED, "embedding"), &self.embed)?;
        launch(manager, (RERANK, "rerank"), &self.rerank)
    }
}

/// Terminates both and waits until they are gone.
pub fn unload_all(manager: &mut Connection) -> Outcome {
    terminate(manager, EMBED)?;
    terminate(manager, RERANK)
}

fn launch(manager: &mut Connection, (name, kind): (&str, &str), folder: &Path) -> Outcome {
    let body = json!({
        "model_name": name, "model_uid": name, "model_type": kind, "model_path": folder,
    });
    manager.expect(&client::post("/v1/models", &body)).map(drop)
}

fn terminate(manager: &mut Connection, name: &str) -> Outcome {
    let request = client::delete(&format!("/v1/models/{name}"));
    manager.expect(&request).map(drop)
}

/// What was done so far.
#[derive(Debug, Clone, Copy)]
pub struct Counts {
    /// Requests that were answered.
    pub requests: usize,
    /// Changes of what is loaded.
    pub cycles: usize,
    /// One of them is under way.
    pub cycling: bool,
}

/// Clients that ask, and one that changes what is loaded.
pub struct Traffic {
    address: SocketAddr,
    models: Models,
    stopped: AtomicBool,
    requests: AtomicUsize,
    cycles: AtomicUsize,
    cycling: AtomicBool,
}

impl Traffic {
    /// Traffic that has not begun.
    pub fn new(address: SocketAddr, models: Models) -> Self {
        Self {
            address,
            models,
            stopped: AtomicBool::new(false),
            requests: AtomicUsize::new(0),
            cycles: AtomicUsize::new(0),
            cycling: AtomicBool::new(false),
        }
    }

    /// What was done so far.
    pub fn counts(&self) -> Counts {
        Counts {
            requests: self.requests.load(Ordering::Relaxed),
            cycles: self.cycles.load(Ordering::Relaxed),
            cycling: self.cycling.load(Ordering::Relaxed),
        }
    }

    /// Asks for as long as `watch` takes, which is given a way to see that all still runs. The
    /// first request that fails ends everything.
    pub fn during(&self, watch: impl FnOnce(&dyn Fn() -> bool) -> Outcome) -> Outcome {
        thread::scope(|scope| {
            let (stop, stopped) = mpsc::channel::<()>();
            let mut threads = vec![scope.spawn(move || self.change_models(&stopped))];
            threads.extend((0..CLIENTS).map(|seed| scope.spawn(move || self.ask(seed))));
            let watched = watch(&|| threads.iter().all(|thread| !thread.is_finished()));
            self.stopped.store(true, Ordering::Relaxed);
            drop(stop);
            for thread in threads {
                thread.join().map_err(|_| "a client panicked")??;
            }
            watched
        })
    }

    fn ask(&self, seed: u64) -> Result<(), String> {
        let mut texts = Texts::new(seed);
        let mut connection = Connection::open(self.address).map_err(|error| error.to_string())?;
        while !self.stopped.load(Ordering::Relaxed) {
            for request in [self.embedding(&mut texts), self.ranking(&mut texts)] {
                let answer = connection.expect(&request);
                answer.map_err(|error| error.to_string())?;
                self.requests.fetch_add(1, Ordering::Relaxed);
            }
        }
        Ok(())
    }

    fn embedding(&self, texts: &mut Texts) -> Vec<u8> {
        let count = texts.spread(TEXTS_MAX);
        let input = many(texts, count, self.models.tokens);
        client::post("/v1/embeddings", &json!({"model": EMBED, "input": input}))
    }

    fn ranking(&self, texts: &mut Texts) -> Vec<u8> {
        let count = texts.spread(TEXTS_MAX / 2);
        let query = text(texts, QUERY_WORDS_MAX);
        let documents = many(texts, count, 2 * self.models.tokens);
        let body = json!({"model": RERANK, "query": query, "documents": documents});
        client::post("/v1/rerank", &body)
    }

    /// By turns a model comes and goes, and one that is asked all the time is put to sleep.
    fn change_models(&self, stopped: &Receiver<()>) -> Result<(), String> {
        let wait = |time| stopped.recv_timeout(time) == Err(RecvTimeoutError::Timeout);
        while wait(CYCLE_EVERY) {
            self.cycling.store(true, Ordering::Relaxed);
            let sleeps = self.counts().cycles % 2 == 1;
            let changed = if sleeps { self.sleep() } else { self.pass() };
            changed.map_err(|error| error.to_string())?;
            self.cycles.fetch_add(1, Ordering::Relaxed);
            wait(SETTLED);
            self.cycling.store(false, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Under a name of its own each time.
    fn pass(&self) -> Outcome {
        let name = format!("passing-{}", self.counts().cycles);
        let mut manager = Connection::open(self.address)?;
        launch(&mut manager, (&name, "embedding"), &self.models.embed)?;
        let body = json!({"model": name, "input": ["It", "comes", "and", "goes"]});
        manager.expect(&client::post("/v1/embeddings", &body))?;
        terminate(&mut manager, &name)
    }

    /// Those who ask meanwhile have it loaded again; the last request says that it is to stay.
    fn sleep(&self) -> Outcome {
        let mut manager = Connection::open(self.address)?;
        for keep_alive in [0, -1] {
            let body = json!({"model": EMBED, "input": "good night", "keep_alive": keep_alive});
            manager.expect(&client::post("/api/embed", &body))?;
        }
        Ok(())
    }
}

fn many(texts: &mut Texts, count: usize, words_max: usize) -> Vec<String> {
    (0..count).map(|_| text(texts, words_max)).collect()
}

/// From one word to as many, half of them in no vocabulary.
fn text(texts: &mut Texts, words_max: usize) -> String {
    let words = texts.spread(words_max);
    let parts = [texts.words(words.div_ceil(2)), texts.invented(words / 2)];
    parts.join(" ")
}
