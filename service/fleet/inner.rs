//! What the verbs of the fleet are made of: who is present, under which name, and what is told.

use std::sync::{Arc, MutexGuard, PoisonError, atomic::Ordering};

use retort_models::Catalog;

use super::{
    FleetModel, Inner, LaunchSpec, Launched, Members, Stage, job, keeper, member::Member,
    memory::Ledger, resolve, store::Store,
};
use crate::{
    config::ModelEntry,
    engine::{Claim, Usage, request::ModelInfo},
    error::{Error, Result},
};

impl Inner {
    /// Decides on a name and makes the model visible; the member is new and has to be loaded,
    /// unless the model was there before.
    pub(super) fn enlist(&self, spec: LaunchSpec) -> Result<(Launched, Option<Arc<Member>>)> {
        let catalog = self.catalog();
        let mut members = self.members();
        let names = resolve::Names {
            catalog: &catalog,
            present: &members.present,
        };
        let entry = match resolve::resolve(&spec, &names)? {
            resolve::Resolved::Already(member) => {
                member.respec(|old| old.persist |= spec.persist);
                let uid = member.uid().to_owned();
                return Ok((Launched { uid, already: true }, None));
            }
            resolve::Resolved::New(entry) => entry,
        };
        let uid = entry.name.clone();
        // What failed under this name makes room for another try.
        members.present.retain(|member| {
            let stays = member.uid() != uid;
            if !stays {
                drop(self.engine.remove(&uid));
            }
            stays
        });
        let spec = LaunchSpec {
            uid: Some(uid.clone()),
            required: spec.required || entry.required,
            ..spec
        };
        let member = self.member(spec, *entry);
        self.admit(&mut members, member.clone(), Claim::Launch)?;
        Ok((
            Launched {
                uid,
                already: false,
            },
            Some(member),
        ))
    }

    pub(super) fn member(&self, spec: LaunchSpec, entry: ModelEntry) -> Arc<Member> {
        Member::new(self.next_id.fetch_add(1, Ordering::Relaxed), spec, entry)
    }

    pub(super) fn admit(
        &self,
        members: &mut Members,
        member: Arc<Member>,
        claim: Claim,
    ) -> Result<()> {
        let (entry, spec) = (member.entry(), member.spec());
        let mut info = ModelInfo::loading(&entry.name, entry.aliases.clone());
        info.required = spec.required;
        self.engine.claim(info, claim)?;
        self.engine.set_keep_alive(&entry.name, spec.keep_alive);
        members.present.push(member);
        Ok(())
    }

    /// Takes a model's names away and has those inside answered on a thread of its own; whether
    /// it was still there. Says so through `gone` when its memory is free.
    pub(super) fn retire(
        self: Arc<Self>,
        member: &Arc<Member>,
        gone: tokio::sync::oneshot::Sender<()>,
    ) -> bool {
        let mut members = self.members();
        let Some(at) = members.present.iter().position(|m| m.id() == member.id()) else {
            return false;
        };
        members.present.remove(at);
        member.cancel();
        let info = self.engine.model(member.uid());
        let retired = self.engine.remove(member.uid());
        if let (Some(_), Ok(info)) = (&retired, info) {
            members.leaving.push((member.clone(), info));
        }
        drop(members);
        if member.spec().persist {
            self.save();
        }
        let Some(retired) = retired else {
            self.called_off(member, gone);
            return true;
        };
        member.reach(Stage::Terminating);
        let member = member.clone();
        job::on_thread(&format!("unload-{}", member.uid()), move || {
            let answered = retired.finish(self.settings.drain_timeout);
            if !answered {
                tracing::warn!(model = member.uid(), "requests inside were cut off");
            }
            self.unloaded(&member, "it was terminated");
            let is_other = |(other, _): &(Arc<Member>, _)| other.id() != member.id();
            self.members().leaving.retain(is_other);
            self.drop_series();
            // Who asked may have left.
            let _ = gone.send(());
        });
        true
    }

    /// Says so when a model that serves nothing has no memory: at once, or when the thread that
    /// loads it has noticed that nobody wants it.
    fn called_off(self: Arc<Self>, member: &Arc<Member>, gone: tokio::sync::oneshot::Sender<()>) {
        let tell = move |inner: &Self, member: &Member| {
            inner.release(member);
            inner.drop_series();
            // Who asked may have left.
            let _ = gone.send(());
        };
        if member.busy.try_lock().is_ok() {
            return tell(&self, member);
        }
        let member = member.clone();
        job::on_thread(&format!("unload-{}", member.uid()), move || {
            drop(member.busy.lock().unwrap_or_else(PoisonError::into_inner));
            tell(&self, &member);
        });
    }

    /// Drops a launch under way; its thread notices and leaves nothing behind.
    pub(super) fn forget(&self, member: &Arc<Member>) {
        let mut members = self.members();
        members.present.retain(|other| other.id() != member.id());
        member.cancel();
        drop(self.engine.remove(member.uid()));
        drop(members);
        self.release(member);
        self.drop_series();
        if member.spec().persist {
            self.save();
        }
    }

    /// Gives back what was reserved for a model.
    pub(super) fn release(&self, member: &Member) {
        self.ledger().release(member.id());
        self.count();
    }

    /// A model has left memory.
    pub(super) fn unloaded(&self, member: &Member, reason: &str) {
        retort_models::release_unused_memory();
        self.telemetry.model_unloaded(member.uid(), reason);
        self.release(member);
    }

    /// Has nothing counted any longer under names that are not there any more.
    pub(super) fn drop_series(&self) {
        let members = self.members();
        let leaving = members.leaving.iter().map(|(member, _)| member);
        let all = members.present.iter().chain(leaving);
        self.telemetry
            .keep_models(&all.map(|member| member.uid()).collect());
    }

    pub(super) fn count(&self) {
        let loaded = self
            .engine
            .uses()
            .iter()
            .filter(|m| m.usage.is_some())
            .count();
        self.telemetry.models_loaded(loaded);
    }

    pub(super) fn save(&self) {
        let store = self.store();
        let models: Vec<LaunchSpec> = {
            let members = self.members();
            let specs = members.present.iter().map(|member| member.spec());
            specs.filter(|spec| spec.persist).collect()
        };
        store.write_models(&models);
    }

    /// By name or alias, as requests find it.
    pub(super) fn find(&self, uid: &str) -> Result<Arc<Member>> {
        let name = self.engine.model(uid)?.name;
        let members = self.members();
        let found = members.present.iter().find(|member| member.uid() == name);
        let found = found.cloned();
        drop(members);
        found.ok_or_else(|| self.not_found(uid))
    }

    pub(super) fn not_found(&self, uid: &str) -> Error {
        let members = self.members();
        let names: Vec<&str> = members.present.iter().map(|member| member.uid()).collect();
        Error::ModelNotFound {
            model: uid.to_owned(),
            served: names.join(", "),
        }
    }

    pub(super) fn describe_all(&self) -> Vec<FleetModel> {
        let (present, leaving) = {
            let members = self.members();
            (members.present.clone(), members.leaving.clone())
        };
        let leaving = leaving
            .iter()
            .map(|(member, info)| told(member, info.clone(), None));
        let mut all: Vec<_> = present.iter().filter_map(|m| self.describe(m)).collect();
        all.extend(leaving);
        all
    }

    pub(super) fn describe(&self, member: &Member) -> Option<FleetModel> {
        let info = self.engine.model(member.uid()).ok()?;
        let uses = self.engine.uses();
        let usage = uses.into_iter().find(|other| other.name == member.uid());
        Some(told(
            member,
            info,
            usage.and_then(|model| model.usage).as_deref(),
        ))
    }

    pub(super) fn catalog(&self) -> Arc<Catalog> {
        let catalog = self.catalog.read().unwrap_or_else(PoisonError::into_inner);
        catalog.clone()
    }

    pub(super) fn members(&self) -> MutexGuard<'_, Members> {
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn store(&self) -> MutexGuard<'_, Store> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn told(member: &Member, info: ModelInfo, usage: Option<&Usage>) -> FleetModel {
    let spec = member.spec();
    FleetModel {
        info,
        known: member.entry().known.clone(),
        progress: member.progress(),
        launched: member.launched(),
        directory: member.directory(),
        memory_bytes: member.memory_bytes(),
        in_flight: usage.map_or(0, Usage::inside),
        idle: usage.and_then(Usage::idle),
        keep_alive: usage.map_or(spec.keep_alive, Usage::keep_alive),
        unloads_in: usage.and_then(keeper::unloads_in),
        spec,
    }
}
