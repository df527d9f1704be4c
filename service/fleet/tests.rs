//! The fleet over the real engine, with a fake behind the loader: no file is read, no time passes
//! that a test does not let pass.

mod idle;
mod launch;
mod restart;

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use retort_models::{
    Batch, Catalog, Dtype, Encode, EncoderInfo, Fidelity, GraphSource, Heads, Measured, Output,
    Pooling, Prompts, Tokenizer,
};

use super::{
    Eviction, Fleet, FleetParts, FleetSettings, LaunchSpec, Stage, StartError,
    found::{FoundFiles, Need, Stamps},
    load::{Load, Loaded, LoadedEncoder, Unopened},
    member::Member,
};
use crate::{
    config::{Generation, ModelEntry, location},
    engine::{
        Clock, Engine, EngineLimits, KeepAlive,
        encode::{UntrainedDimensions, WorkerKind},
        request::{EmbedInput, EmbedRequest, ModelInfo},
    },
    error::Result,
    provision::ProvisionConfig,
    telemetry::Telemetry,
};

/// A model of a configuration.
pub fn entry(name: &str) -> ModelEntry {
    ModelEntry {
        device: None,
        name: name.into(),
        aliases: Vec::new(),
        location: location(&format!("/models/{name}"), None).unwrap(),
        revision: None,
        max_tokens: None,
        pooling: None,
        task: None,
        generates: false,
        generation: Generation::default(),
        cutoff_layer: None,
        dtype: retort_models::DtypeChoice::Auto,
        force_dtype: false,
        required: true,
        known: None,
        by_name: false,
        keep_alive: None,
        replicas: 1,
    }
}

/// Loads what it is told about, when it is let.
#[derive(Default)]
pub struct FakeLoader {
    needs: Mutex<HashMap<String, u64>>,
    broken: Mutex<Vec<String>>,
    gates: Gates,
    /// Doors behind the memory check.
    inner_gates: Gates,
    /// Where the files of a model are; without one it has no files that could be the same.
    folders: Mutex<HashMap<String, PathBuf>>,
    finds: AtomicUsize,
    /// Whether each load was one of files that had served.
    served: Mutex<Vec<bool>>,
    loads: AtomicUsize,
    alive: Arc<AtomicUsize>,
    /// How many sessions fit on the GPU that models with this in their name run on.
    gpu: Mutex<Option<(&'static str, usize)>>,
}

/// Doors by model; a load waits before one that is shut.
#[derive(Default)]
struct Gates {
    shut: Mutex<Vec<String>>,
    opened: Condvar,
}

impl Gates {
    fn shut(&self, uid: &str) {
        self.shut.lock().unwrap().push(uid.into());
    }

    fn open(&self, uid: &str) {
        self.shut.lock().unwrap().retain(|shut| shut != uid);
        self.opened.notify_all();
    }

    fn pass(&self, uid: &str) {
        let shut = self.shut.lock().unwrap();
        drop(
            self.opened
                .wait_while(shut, |shut| shut.iter().any(|s| s == uid))
                .unwrap(),
        );
    }
}

impl Load for FakeLoader {
    fn find(&self, member: &Arc<Member>) -> Result<FoundFiles, StartError> {
        self.gates.pass(member.uid());
        self.finds.fetch_add(1, Ordering::SeqCst);
        let need = self.needs.lock().unwrap().get(member.uid()).copied();
        let folder = self.folders.lock().unwrap().get(member.uid()).cloned();
        let dir = folder.unwrap_or_else(|| PathBuf::from("/models").join(member.uid()));
        Ok(FoundFiles {
            stamps: Stamps::of(&dir).ok(),
            served: false,
            measured: None,
            dir,
            origin: "a test".into(),
            revision: None,
            need: need.map(|bytes| Need {
                bytes,
                parts: "all of it weights".into(),
            }),
        })
    }

    fn open(&self, member: &Member, found: &FoundFiles) -> Result<Loaded, Unopened> {
        self.inner_gates.pass(member.uid());
        self.served.lock().unwrap().push(found.served);
        assert_eq!(found.measured.is_some(), found.served);
        if self
            .broken
            .lock()
            .unwrap()
            .iter()
            .any(|b| b == member.uid())
        {
            return Err(Unopened::Failed(StartError {
                message: "no such file".into(),
                hint: None,
            }));
        }
        let gpu = self.gpu.lock().unwrap();
        let gpu = gpu.filter(|(name, _)| member.uid().contains(name));
        if gpu.is_some_and(|(_, room)| self.alive.load(Ordering::SeqCst) >= room) {
            let error = StartError {
                message: "not a byte left".into(),
                hint: None,
            };
            return Err(Unopened::GpuFull { gpu: 0, error });
        }
        self.loads.fetch_add(1, Ordering::SeqCst);
        let golden = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/tests/golden/checkpoints/bert-tiny-mean"
        );
        let sessions = member.spec().replicas;
        let encoder = || {
            self.alive.fetch_add(1, Ordering::SeqCst);
            let fake: Box<dyn Encode> = Box::new(FakeEncoder(self.alive.clone()));
            (WorkerKind::Share, fake)
        };
        Ok(Loaded::Encoder(Box::new(LoadedEncoder {
            info: EncoderInfo {
                device: if gpu.is_some() { "cuda:0" } else { "cpu" }.into(),
                ..info()
            },
            tokenizer: Arc::new(Tokenizer::load(golden.as_ref()).unwrap()),
            late_interaction: None,
            encoders: (0..sessions).map(|_| encoder()).collect(),
            measured: Some(Measured {
                dtype: Dtype::Fp32,
                fidelity: Fidelity::default(),
            }),
        })))
    }
}

/// Counts itself among the living.
struct FakeEncoder(Arc<AtomicUsize>);

impl Drop for FakeEncoder {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Encode for FakeEncoder {
    fn encode(&mut self, batch: &Batch) -> retort_models::Result<Vec<Output>> {
        let output = Output {
            dense: Some(vec![1.0, 0.0]),
            ..Output::default()
        };
        Ok(vec![output; batch.sequences()])
    }
}

fn info() -> EncoderInfo {
    EncoderInfo {
        architecture: "fake".into(),
        heads: Heads::DENSE,
        dimensions: 2,
        token_dimensions: 0,
        labels: 0,
        compares: false,
        label_names: Vec::new(),
        max_tokens: 16,
        pooling: Some(Pooling::Mean),
        vocab_size: 100,
        parameters: 1,
        weights_bytes: 4,
        checkpoint_dtype: "float32".into(),
        dtype: "float32".into(),
        fidelity: Fidelity::default(),
        provider: retort_models::Provider::Cpu,
        device: "cpu".into(),
        device_name: None,
        source: GraphSource::Built,
        matryoshka: retort_models::Matryoshka::default(),
        instruction: None,
        cutoff_layer: None,
        prompts: Prompts::default(),
        tasks: Vec::new(),
        pair_template: None,
        isa: "none",
    }
}

/// A fleet of fakes, and the clock that idle time passes by.
pub struct Yard {
    pub fleet: Fleet,
    pub engine: Engine,
    pub loader: Arc<FakeLoader>,
    now: Arc<Mutex<Instant>>,
    pub folder: Arc<tempfile::TempDir>,
}

impl Yard {
    pub fn new() -> Self {
        Self::with(|_| {})
    }

    /// With settings other than: no limit, no eviction, nothing persists.
    pub fn with(change: impl FnOnce(&mut FleetSettings)) -> Self {
        Self::in_folder(Arc::new(tempfile::tempdir().unwrap()), change)
    }

    /// The next process over the same files.
    pub fn after_restart(&self) -> Self {
        Self::in_folder(self.folder.clone(), |_| {})
    }

    fn in_folder(folder: Arc<tempfile::TempDir>, change: impl FnOnce(&mut FleetSettings)) -> Self {
        let now = Arc::new(Mutex::new(Instant::now()));
        let telling = now.clone();
        let clock = Clock::telling(move || *telling.lock().unwrap());
        let engine = Engine::with_clock(limits(), Telemetry::new(), clock).unwrap();
        let loader = Arc::new(FakeLoader::default());
        let mut settings = settings(folder.path().join("state.json"));
        change(&mut settings);
        let fleet = Fleet::new(parts(&engine, loader.clone(), settings));
        Self {
            fleet,
            engine,
            loader,
            now,
            folder,
        }
    }

    /// Lets time pass.
    pub fn pass(&self, time: Duration) {
        *self.now.lock().unwrap() += time;
        self.engine.alarm().ring();
    }

    /// Launches and waits.
    pub async fn ready(&self, spec: LaunchSpec) -> String {
        let uid = self.fleet.launch(spec).unwrap().uid;
        self.fleet.wait_ready(&uid).await.unwrap();
        uid
    }

    /// A request.
    pub async fn embed(&self, model: &str) -> Result<usize> {
        let request = EmbedRequest {
            model: Some(model.into()),
            inputs: vec![EmbedInput::Text("hello".into())],
            ..EmbedRequest::default()
        };
        Ok(self.engine.embed(request).await?.embeddings.len())
    }

    /// Waits, yielding, until a model stands where it should; the test fails with a hang else.
    pub async fn until(&self, uid: &str, stage: Stage) {
        while self.fleet.progress(uid).unwrap().stage != stage {
            tokio::task::yield_now().await;
        }
    }

    /// Sessions that exist.
    pub fn alive(&self) -> usize {
        self.loader.alive.load(Ordering::SeqCst)
    }

    /// Loads so far.
    pub fn loads(&self) -> usize {
        self.loader.loads.load(Ordering::SeqCst)
    }
}

impl Fleet {
    /// A fleet that loads fakes into an engine, for tests of what lies above it; a model `broken`
    /// does not load.
    pub fn over(engine: &Engine) -> Self {
        let settings = settings(std::env::temp_dir().join("retort-is-never-written.json"));
        let loader = FakeLoader {
            broken: Mutex::new(vec!["broken".into()]),
            ..FakeLoader::default()
        };
        Self::new(parts(engine, Arc::new(loader), settings))
    }
}

impl Fleet {
    /// Takes in a model that a test put into the engine itself, as it stands now.
    pub fn adopt(&self, name: &str) {
        let info = self.0.engine.model(name).unwrap();
        let spec = LaunchSpec {
            uid: Some(name.into()),
            ..LaunchSpec::of(name)
        };
        let entry = ModelEntry {
            device: None,
            name: name.into(),
            aliases: info.aliases,
            location: crate::config::ModelLocation::Hub(name.into()),
            revision: None,
            max_tokens: None,
            pooling: None,
            task: None,
            generates: false,
            generation: Generation::default(),
            cutoff_layer: None,
            dtype: retort_models::DtypeChoice::Auto,
            force_dtype: false,
            required: false,
            known: None,
            by_name: false,
            keep_alive: None,
            replicas: 1,
        };
        let member = self.0.member(spec, entry);
        member.reach(match info.state {
            crate::engine::request::ModelState::Ready => Stage::Ready,
            _ => Stage::Loading,
        });
        let mut members = self.0.members();
        members.present.retain(|other| other.uid() != name);
        members.present.push(member);
    }
}

fn parts(engine: &Engine, loader: Arc<FakeLoader>, settings: FleetSettings) -> FleetParts {
    FleetParts {
        engine: engine.clone(),
        loader,
        settings,
        catalog: Arc::new(Catalog::compiled().unwrap()),
        provision: ProvisionConfig::from_env(|_| None).unwrap(),
    }
}

fn settings(state_file: PathBuf) -> FleetSettings {
    FleetSettings {
        state_file,
        persist: false,
        keep_alive: KeepAlive::Forever,
        dtype: retort_models::DtypeChoice::Auto,
        generation: Generation::default(),
        memory_bytes: None,
        eviction: Eviction::Never,
        drain_timeout: Duration::from_secs(30),
    }
}

fn limits() -> EngineLimits {
    EngineLimits {
        max_inputs_per_request: 8,
        max_batch_tokens: 64,
        max_gpu_batch_tokens: 64,
        max_queue_tokens: 1_024,
        request_timeout: Duration::from_secs(60),
        untrained_dimensions: UntrainedDimensions::Refused,
        threads: 1,
        workers: 1,
        scheduling: crate::engine::lane::Scheduling::default(),
    }
}

fn registered(name: &str) -> ModelInfo {
    ModelInfo::loading(name, Vec::new())
}
