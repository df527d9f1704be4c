//! One load, from the files to the first answer, on a thread of its own.

use std::{
    sync::{Arc, PoisonError},
    time::Instant,
};

use super::{
    Eviction, FoundFiles, Inner, Stage, StartError, keeper,
    load::{Loaded, Unopened},
    member::Member,
    memory::{Fit, Shortage},
};
use crate::{
    config::{Setting, setting},
    devices,
    engine::{encode::Parts, generate},
    memory::mib,
    provision::Watch,
    telemetry::LoadOutcome,
};

const ROOM_IS_NEEDED: &str = "room is needed for another model";

/// Why a model is loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attempt {
    /// It was launched just now: if it fails, it does not return after a restart either.
    First,
    /// It is configured, or was launched before a restart.
    Restored,
    /// It was unloaded for want of requests, and somebody asks.
    Again,
    /// It was launched differently than it runs.
    Anew,
}

/// Has sleeping models loaded when requests ask for them.
pub fn load_on_demand(inner: &Arc<Inner>) {
    let weak = Arc::downgrade(inner);
    inner.engine.on_wake(Box::new(move |name| {
        let Some(inner) = weak.upgrade() else { return };
        match inner.find(name) {
            Ok(member) => spawn(&inner, &member, Attempt::Again),
            // It was terminated at this moment.
            Err(error) => inner.engine.failed(name, error.to_string()),
        }
    }));
}

/// Loads in the background.
pub fn spawn(inner: &Arc<Inner>, member: &Arc<Member>, attempt: Attempt) {
    let (inner, member) = (inner.clone(), member.clone());
    on_thread(&format!("load-{}", member.uid()), move || {
        run(&inner, &member, attempt);
    });
}

/// Runs `work` on a thread of its own; a system that refuses one is told, and the work is done
/// here instead.
pub fn on_thread(name: &str, work: impl FnOnce() + Send + 'static) {
    let work = Arc::new(std::sync::Mutex::new(Some(work)));
    let take = |work: &std::sync::Mutex<Option<_>>| {
        work.lock().unwrap_or_else(PoisonError::into_inner).take()
    };
    let shared = work.clone();
    let spawned = std::thread::Builder::new()
        .name(name.into())
        .spawn(move || {
            if let Some(work) = take(&shared) {
                work();
            }
        });
    if let Err(error) = spawned {
        tracing::error!(name, %error, "the system refuses a thread");
        if let Some(work) = work.lock().unwrap_or_else(PoisonError::into_inner).take() {
            work();
        }
    }
}

/// Loads, and notes what came of it.
pub fn run(inner: &Arc<Inner>, member: &Arc<Member>, attempt: Attempt) {
    let is_first = matches!(attempt, Attempt::First | Attempt::Restored);
    if is_first && !member.take_turn() {
        return;
    }
    // Whoever unloads it at this moment finishes first, so that it is never there twice.
    let _busy = member.busy.lock().unwrap_or_else(PoisonError::into_inner);
    if attempt == Attempt::Again && member.stage() == Stage::Ready {
        // Somebody else has loaded it in the meantime.
        return;
    }
    let started = Instant::now();
    if attempt == Attempt::Anew
        && let Some(retired) = inner.engine.put_aside(member.uid())
    {
        retired.finish(inner.settings.drain_timeout);
        inner.unloaded(member, "it gets another number of replicas");
    }
    member.begin();
    let outcome = bring_up(inner, member);
    let took = started.elapsed();
    match outcome {
        Ok(()) => {
            member.reach(Stage::Ready);
            inner
                .telemetry
                .model_loaded(member.uid(), took, member.memory_bytes());
        }
        Err(_) if member.is_cancelled() => {
            inner.release(member);
            inner
                .telemetry
                .load_ended(member.uid(), took, LoadOutcome::Cancelled);
            inner.drop_series();
        }
        Err(error) => {
            inner.release(member);
            member.look_again();
            inner
                .telemetry
                .load_ended(member.uid(), took, LoadOutcome::Failed(&error));
            inner.engine.failed(member.uid(), error.message.clone());
            let stage = match attempt {
                Attempt::First | Attempt::Restored => Stage::Failed,
                // The next request tries again.
                Attempt::Again | Attempt::Anew => Stage::Asleep,
            };
            member.failed(error, stage);
            if attempt == Attempt::First && member.spec().persist {
                member.respec(|spec| spec.persist = false);
                inner.save();
            }
        }
    }
    inner.count();
}

fn bring_up(inner: &Inner, member: &Arc<Member>) -> Result<(), StartError> {
    wanted(member)?;
    let found = match member.kept() {
        Some(found) => found,
        None => inner.loader.find(member)?,
    };
    wanted(member)?;
    member.found(&found);
    inner
        .engine
        .found(member.uid(), found.origin.clone(), found.revision.clone());
    make_room(inner, member, &found)?;
    member.reach(Stage::Loading);
    let loaded = open(inner, member, &found)?;
    let measured = loaded.measured();
    serve(inner, member, loaded)?;
    member.keep(FoundFiles { measured, ..found });
    Ok(())
}

/// Opens a model, where a GPU is full after idle ones have left it, if that is allowed.
fn open(inner: &Inner, member: &Member, found: &FoundFiles) -> Result<Loaded, StartError> {
    // Each round unloads somebody, so there are no more rounds than models.
    loop {
        let (gpu, error) = match inner.loader.open(member, found) {
            Ok(loaded) => return Ok(loaded),
            Err(Unopened::Failed(error)) => return Err(error),
            Err(Unopened::GpuFull { gpu, error }) => (gpu, error),
        };
        wanted(member)?;
        let idle = evictable(inner, member);
        let mut there = idle.iter().filter(|other| is_on(inner, other, gpu));
        if !there.any(|victim| keeper::unload(inner, victim, ROOM_IS_NEEDED)) {
            member.no_room();
            let hint = error.hint.unwrap_or_default();
            return Err(StartError {
                hint: Some(format!("terminate a model, {}{hint}", or_evict(inner))),
                ..error
            });
        }
    }
}

/// The models that may be unloaded for another, the least recently used first.
fn evictable(inner: &Inner, wanting: &Member) -> Vec<Arc<Member>> {
    match inner.settings.eviction {
        Eviction::Never => Vec::new(),
        Eviction::IdleModels => keeper::idle_longest_first(inner, wanting),
    }
}

/// The way out that eviction would be where it is not allowed, for a list of ways.
fn or_evict(inner: &Inner) -> &'static str {
    match inner.settings.eviction {
        Eviction::Never => "allow idle models to be unloaded for it with `--allow-eviction`, ",
        Eviction::IdleModels => "",
    }
}

/// Whether a model that is loaded runs on a GPU.
fn is_on(inner: &Inner, member: &Member, gpu: usize) -> bool {
    let info = inner.engine.model(member.uid()).ok();
    let encoder = info.and_then(|info| info.encoder);
    encoder.is_some_and(|encoder| devices::numbers_of(&encoder.device).contains(&gpu))
}

fn wanted(member: &Member) -> Result<(), StartError> {
    if member.is_cancelled() {
        return Err(StartError {
            message: "the launch was cancelled".into(),
            hint: None,
        });
    }
    Ok(())
}

fn serve(inner: &Inner, member: &Member, loaded: Loaded) -> Result<(), StartError> {
    let task = member.spec().task;
    match (&loaded, task) {
        (Loaded::Encoder(loaded), Some(task)) => task.check(member.uid(), &loaded.info)?,
        // It is one because that was asked for, or because nothing else was.
        (Loaded::Generator(_), _) | (Loaded::Encoder(_), None) => {}
    }
    member.weighs(match &loaded {
        Loaded::Encoder(loaded) => loaded.info.weights_bytes,
        Loaded::Generator(loaded) => loaded.info.weights_bytes,
    });
    // Under this lock nobody takes the name away, so it is served by no other launch.
    let members = inner.members();
    wanted(member)?;
    match loaded {
        Loaded::Encoder(loaded) => inner.engine.serve_parts(Parts {
            name: member.uid().into(),
            info: loaded.info,
            tokenizer: loaded.tokenizer,
            late_interaction: loaded.late_interaction,
            encoders: loaded.encoders,
            telemetry: inner.telemetry.clone(),
        })?,
        Loaded::Generator(loaded) => inner.engine.serve_generator(generate::Parts {
            name: member.uid().into(),
            info: loaded.info,
            defaults: loaded.defaults,
            tokenizer: loaded.tokenizer,
            chat_template: loaded.chat_template,
            generator: loaded.generator,
            telemetry: inner.telemetry.clone(),
        })?,
    }
    drop(members);
    Ok(())
}

/// Reserves the memory of a model, after idle ones were unloaded where that is allowed.
fn make_room(inner: &Inner, member: &Member, found: &FoundFiles) -> Result<(), StartError> {
    let Some(need) = &found.need else {
        return Ok(());
    };
    // Each round unloads somebody, so there are no more rounds than models.
    loop {
        let idle = evictable(inner, member);
        let ids: Vec<u64> = idle.iter().map(|member| member.id()).collect();
        let fit = inner.ledger().fit(member.id(), need.bytes, &ids);
        let gone = match fit {
            Fit::Reserved => return Ok(()),
            Fit::Never(shortage) => {
                member.no_room();
                return Err(refused(inner, member, &need.parts, &shortage));
            }
            Fit::After(gone) => gone,
        };
        let mut unloaded = false;
        for victim in idle.iter().filter(|victim| gone.contains(&victim.id())) {
            unloaded |= keeper::unload(inner, victim, ROOM_IS_NEEDED);
        }
        if !unloaded {
            // They were idle a moment ago and are used now.
            let held = inner.ledger().held();
            let shortage = Shortage {
                needed: need.bytes,
                held,
                evictable: 0,
                limit: inner.settings.memory_bytes.unwrap_or_default(),
            };
            member.no_room();
            return Err(refused(inner, member, &need.parts, &shortage));
        }
    }
}

fn refused(inner: &Inner, member: &Member, parts: &str, shortage: &Shortage) -> StartError {
    let eviction = or_evict(inner);
    StartError {
        message: format!(
            "model `{}` does not fit into memory: it takes about {} ({parts}), other models hold \
             {} of the {} that are left for models, and unloading idle ones would free {}",
            member.uid(),
            mib(shortage.needed),
            mib(shortage.held),
            mib(shortage.limit),
            mib(shortage.evictable),
        ),
        hint: Some(format!(
            "terminate a model, {eviction}raise the budget with {}, or lower `--workers`, \
             `--max-batch-tokens` or the model's `max_tokens`",
            setting("models.memory_budget_mib")
                .map(Setting::ways)
                .unwrap_or_default()
        )),
    }
}
