//! The thread that unloads models nobody has asked for; asleep until one may have become idle.

use std::{
    sync::{Arc, TryLockError},
    time::Duration,
};

use super::{Inner, Stage, member::Member};
use crate::engine::{Alarm, Expiry, Usage};

/// A model whose thread is busy is looked at again after this time.
const SOON: Duration = Duration::from_secs(1);

/// Starts the thread. It ends with the fleet.
pub fn start(inner: &Arc<Inner>) {
    let weak = Arc::downgrade(inner);
    let alarm: Arc<Alarm> = inner.engine.alarm();
    let spawned = std::thread::Builder::new()
        .name("keeper".into())
        .spawn(move || {
            while let Some(inner) = weak.upgrade() {
                let next = sweep(&inner);
                drop(inner);
                alarm.wait(next);
            }
        });
    if let Err(error) = spawned {
        tracing::error!(%error, "no thread for idle models: none is unloaded");
    }
}

/// Unloads what is idle, and says when to look again; `None` until something changes.
pub fn sweep(inner: &Inner) -> Option<Duration> {
    let mut next: Option<Duration> = None;
    let mut look_again = |time: Duration| next = Some(next.map_or(time, |next| next.min(time)));
    for model in inner.engine.uses() {
        let Some(usage) = model.usage else { continue };
        match usage.expiry() {
            Expiry::Never | Expiry::OnLeaving => {}
            Expiry::In(time) if !time.is_zero() => look_again(time),
            Expiry::In(_) => {
                let idle = inner.find(&model.name);
                let unloaded = idle.is_ok_and(|member| unload(inner, &member, "nobody asked"));
                if !unloaded {
                    look_again(SOON);
                }
            }
        }
    }
    next
}

/// Takes an idle model out of memory; whether that was done. Blocks until its memory is free.
pub fn unload(inner: &Inner, member: &Member, reason: &'static str) -> bool {
    let _busy = match member.busy.try_lock() {
        Ok(busy) => busy,
        Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
        Err(TryLockError::WouldBlock) => return false,
    };
    let Some(retired) = inner.engine.put_to_sleep(member.uid()) else {
        return false;
    };
    // Nobody is inside and nobody can come in.
    retired.finish(Duration::ZERO);
    member.reach(Stage::Asleep);
    inner.unloaded(member, reason);
    true
}

/// The models that nobody is inside of, the least recently used first, without the one that wants
/// their place.
pub fn idle_longest_first(inner: &Inner, wanting: &Member) -> Vec<Arc<Member>> {
    let mut idle: Vec<(Duration, Arc<Member>)> = inner
        .engine
        .uses()
        .into_iter()
        .filter_map(|model| {
            let idle = model.usage?.idle()?;
            let member = inner.find(&model.name).ok()?;
            (member.id() != wanting.id()).then_some((idle, member))
        })
        .collect();
    idle.sort_by_key(|(idle, _)| std::cmp::Reverse(*idle));
    idle.into_iter().map(|(_, member)| member).collect()
}

/// When a model will be unloaded if nobody asks.
pub fn unloads_in(usage: &Usage) -> Option<Duration> {
    match usage.expiry() {
        Expiry::In(time) => Some(time),
        Expiry::OnLeaving => Some(Duration::ZERO),
        Expiry::Never => None,
    }
}
